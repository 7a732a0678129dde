"""Log lines as text or JSON, with repeats collapsed and bounded files."""

import json
import logging
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftline.broker.port import Message
from driftline.logs import (
    MAX_FILE_BYTES,
    OLD_FILES,
    Collapsing,
    JsonFormatter,
    Speaker,
    TextFormatter,
    alike,
    log_command,
    log_service,
)
from driftline.safe_text import visible
from driftline.wire.envelope import decode_or_skip, drift_decoder
from tests.hostile import HOSTILE

SPEAKER = Speaker("elec2", "inference", 1)


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """Restore the root logger after the test."""
    loggers = [logging.getLogger(name) for name in (None, "kafka", "librdkafka", "py.warnings")]
    levels = [logger.level for logger in loggers]
    handlers = list(loggers[0].handlers)
    yield
    for handler in set(loggers[0].handlers) - set(handlers):
        loggers[0].removeHandler(handler)
        handler.close()
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    logging.captureWarnings(False)


def record(
    message: str, *, name: str = "driftline.runtime.loop", created: float = 0.0
) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "loop.py", 1, "%s", (message,), None)
    made.created = created
    return made


class Kept(logging.Handler):
    """A handler that stores its records."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Collapsed:
    """A collapsing handler with a manual clock."""

    def __init__(self) -> None:
        self.kept = Kept()
        self.now_s = 0.0
        self.handler = Collapsing(self.kept, lambda: self.now_s)

    def say(self, message: str, *, at_s: float = 0.0, name: str = "driftline.runtime.loop") -> None:
        self.now_s = at_s
        self.handler.handle(record(message, name=name))


def test_a_text_line_contains_time_in_utc_level_stream_and_service() -> None:
    line = TextFormatter(SPEAKER).format(record("joined", created=1_767_225_600.25))

    assert line == "2026-01-01T00:00:00.250Z WARNING [elec2 inference-1] joined"


def test_a_json_line_contains_the_same_as_fields() -> None:
    line = JsonFormatter(SPEAKER).format(record('a "quoted"\nline', created=1_767_225_600.25))

    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.250Z",
        "level": "warning",
        "logger": "driftline.runtime.loop",
        "message": 'a "quoted"\nline',
        "stream": "elec2",
        "service": "inference",
        "slot": 1,
    }
    assert "\n" not in line


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_exception_is_part_of_the_line(formatter: logging.Formatter) -> None:
    made = record("failed")
    try:
        raise ValueError("no such column")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)

    assert "ValueError: no such column" in formatter.format(made)


@pytest.mark.parametrize("value", [*HOSTILE, "x\n2026-01-01T00:00:00.000Z ERROR forged\r"])
@pytest.mark.parametrize("formatter", [TextFormatter(SPEAKER), JsonFormatter(SPEAKER)])
def test_a_value_cannot_control_the_terminal_or_forge_a_line(
    formatter: logging.Formatter, value: str
) -> None:
    made = record(f"ignoring {value}")
    try:
        raise ValueError(value)
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)

    _, *more = lines = formatter.format(made).split("\n")
    assert visible("".join(lines)) == "".join(lines)
    assert all(line.startswith("  ") for line in more)


@pytest.mark.parametrize("verbose", [True, False])
def test_the_messages_of_a_command_contain_no_control_characters(
    verbose: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    log_command(verbose=verbose)
    logging.getLogger("driftline.test").warning("ignoring %s", "\x1b[2J\nERROR: forged")

    assert "ignoring \\x1b[2J\n  ERROR: forged\n" in capsys.readouterr().err


def test_equal_messages_within_a_minute_are_collapsed_with_their_count() -> None:
    collapsed = Collapsed()
    for second in range(50):
        collapsed.say("no Kafka answers", at_s=second)
    collapsed.say("another", at_s=61)

    assert collapsed.kept.messages == [
        "no Kafka answers",
        "no Kafka answers … repeated 49 times",
        "another",
    ]


def test_a_message_that_keeps_repeating_is_written_once_a_minute() -> None:
    collapsed = Collapsed()
    for second in range(0, 3600, 10):
        collapsed.say("no Kafka answers", at_s=second)

    assert len(collapsed.kept.messages) <= 2 * 60


def test_client_messages_that_differ_only_in_numbers_are_repeats() -> None:
    collapsed = Collapsed()
    for name in ("librdkafka", "kafka.conn", "driftline.runtime.loop"):
        for milliseconds in range(3):
            address = hex(0x7FB5E157F410 + 100 * milliseconds)
            collapsed.say(f"<Task {address}> failed after {milliseconds} ms", name=name)

    said = Counter(message.partition("> ")[2] for message in collapsed.kept.messages)
    assert said == {"failed after 0 ms": 3, "failed after 1 ms": 1, "failed after 2 ms": 1}


def test_the_count_of_repeats_is_written_at_the_end() -> None:
    collapsed = Collapsed()
    for _ in range(2):
        collapsed.say("no Kafka answers")
    collapsed.handler.close()

    assert collapsed.kept.messages == ["no Kafka answers", "no Kafka answers … repeated once more"]


def test_messages_marked_as_alike_are_collapsed_for_each_topic() -> None:
    collapsed = Collapsed()
    for offset in range(50):
        for topic in ("s.outcomes", "s.windows"):
            made = record(f"{topic}[0]@{offset}: expected int, got {offset}")
            vars(made).update(alike(f"{topic}[{offset % 3}] expected int, got {offset}"))
            collapsed.handler.handle(made)
    collapsed.handler.close()

    assert collapsed.kept.messages == [
        "s.outcomes[0]@0: expected int, got 0",
        "s.windows[0]@0: expected int, got 0",
        "s.outcomes[0]@49: expected int, got 49 … repeated 49 times",
        "s.windows[0]@49: expected int, got 49 … repeated 49 times",
    ]


def test_a_command_logs_one_line_for_each_topic_with_unreadable_records(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_command(verbose=False)
    capsys.readouterr()  # discard the output of handlers of earlier tests
    for offset in range(98):
        for topic in ("s.outcomes", "s.windows"):
            value = b'{"type":"%s"}' % (b"x" * (1 + 1000 * offset))
            decode_or_skip(drift_decoder, Message(topic, 0, offset, None, value))
    decode_or_skip(drift_decoder, Message("s.drift", 0, 0, None, b""))
    logging.getLogger().handlers[-1].close()

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("[")[0].split()[-1] for line in lines] == [
        *("s.outcomes", "s.windows", "s.drift")
    ]
    assert [line.endswith("… and 97 more") for line in lines] == [True, True, False]
    assert max(map(len, lines)) < 500


def test_a_remembered_message_does_not_keep_the_error_that_it_shows() -> None:
    class Refused(Exception):
        pass

    collapsed, error = Collapsed(), Refused("refused")
    known = weakref.ref(error)
    for _ in range(2):
        collapsed.handler.handle(
            logging.LogRecord("a", logging.WARNING, "", 1, "failed: %s", (error,), None)
        )
    collapsed.kept.messages.append("the end")
    del error
    assert known() is None
    collapsed.handler.close()
    assert collapsed.kept.messages == [
        "failed: refused",
        "the end",
        "failed: refused … repeated once more",
    ]


def test_different_messages_are_all_written() -> None:
    collapsed = Collapsed()
    messages = [f"record {number} refused" for number in range(1000)]
    for message in messages:
        collapsed.say(message)

    assert collapsed.kept.messages == messages


def test_the_log_file_of_a_service_rotates_and_stays_below_ten_megabytes(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "inference-1.log"
    log_service(SPEAKER, level="info", format="text", file=file)
    line = "x" * 50_000
    for number in range(300):  # 15 MB
        logging.getLogger("driftline.runtime.loop").info("%d %s", number, line)

    sizes = [path.stat().st_size for path in file.parent.iterdir()]
    assert len(sizes) == OLD_FILES + 1
    assert max(sizes) <= MAX_FILE_BYTES
    assert sum(sizes) < 10_000_000
    assert "299 xxx" in file.read_text("utf-8")


def test_a_service_logs_only_warnings_of_its_clients(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_service(SPEAKER, level="info", format="text")
    logging.getLogger("kafka.conn").info("connecting")
    logging.getLogger("kafka.conn").warning("refused")
    logging.getLogger("driftline.runtime.loop").info("joined")
    logging.getLogger("driftline.runtime.loop").debug("position 3")

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] ")[2] for line in lines] == ["refused", "joined"]


def test_a_command_prints_messages_of_its_clients_only_if_verbose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_command(verbose=False)
    for name in ("kafka.conn", "librdkafka"):
        logging.getLogger(name).error("Connection refused")
    logging.getLogger("driftline.runtime.loop").warning("the group has no member")
    quiet = capsys.readouterr().err
    log_command(verbose=True)
    logging.getLogger("librdkafka").error("Connection refused")

    assert quiet == "WARNING: the group has no member\n"
    assert "Connection refused" in capsys.readouterr().err
