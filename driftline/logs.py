"""Configure a process's logging, including client libraries, to standard error or a rotating file.

Input: settings. Output: one handler on the root logger. Times are UTC. Repeated messages are
counted instead of written, so that an unreachable broker does not fill the disk.
"""

import copy
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

import msgspec

from driftline.clock import rfc3339
from driftline.config.settings import LogFormat, LogLevel
from driftline.safe_text import json_line, visible_lines

# The Kafka clients' loggers. The clients choose the levels at which they log connection attempts.
# These messages help to find the cause of an error that Driftline itself reports.
CLIENT_LOGGERS: Final = ("kafka", "librdkafka")
# A message that is repeated within this time is counted, not written.
REPEAT_WITHIN_S: Final = 60.0
# With these two limits, a service's log files take up at most 8 MB.
MAX_FILE_BYTES: Final = 2_000_000
OLD_FILES: Final = 3
# Maximum number of messages remembered in order to detect repeats.
_MOST_REMEMBERED: Final = 200
_ALIKE: Final = "driftline_alike"
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\d+")


class Speaker(msgspec.Struct, frozen=True):
    """The process that writes a log line."""

    stream: str
    service: str
    slot: int

    def __str__(self) -> str:
        return f"{self.stream} {self.service}-{self.slot}"


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A log line in JSON format."""

    time: str  # RFC 3339 in UTC, with milliseconds
    level: str
    logger: str
    message: str
    stream: str | None = None
    service: str | None = None
    slot: int | None = None
    exception: str | None = None


def alike(about: str) -> Mapping[str, str]:
    """Return the `extra` argument that makes messages with the same `about` count as repeats.

    Numbers in `about` are ignored, so that the same error in many records is written only once.
    """
    return {_ALIKE: about}


def log_service(
    speaker: Speaker, *, level: LogLevel, format: LogFormat, file: Path | None = None
) -> None:
    """Make a service log to a rotating `file`, or to standard error if `file` is None."""
    handler: logging.Handler = _StandardError()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            file, maxBytes=MAX_FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8"
        )
    handler.setFormatter(JsonFormatter(speaker) if format == "json" else TextFormatter(speaker))
    _install(handler, logging.getLevelNamesMapping()[level.upper()])
    # Also log Python warnings, for example from scikit-learn.
    logging.captureWarnings(True)
    # At "info", kafka-python would log each connection and request.
    _limit_clients(logging.NOTSET if level == "debug" else logging.WARNING)


def log_command(*, verbose: bool) -> None:
    """Configure a command's logging to standard error: warnings only, or everything if `verbose`.

    Without `verbose`, the Kafka clients' messages are omitted, because the command's own error
    message already contains the same information.
    """
    handler = _StandardError()
    handler.setFormatter(
        TextFormatter() if verbose else _BriefFormatter("%(levelname)s: %(message)s")
    )
    _install(handler, logging.DEBUG if verbose else logging.WARNING, gather=not verbose)
    _limit_clients(logging.NOTSET if verbose else logging.CRITICAL + 1)


class TextFormatter(logging.Formatter):
    """Format a record as time, level, process and message. Lines after the first are indented."""

    def __init__(self, speaker: Speaker | None = None) -> None:
        super().__init__()
        self._speaker = "" if speaker is None else f" [{speaker}]"

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname}{self._speaker} {record.getMessage()}"
        trace = _exception(self, record)
        return visible_lines(f"{line}\n{trace}" if trace else line)


class _BriefFormatter(logging.Formatter):
    """Format a record as level and message, for the user of a command."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


class JsonFormatter(logging.Formatter):
    """Format a record as one line of JSON with the fields of `LogLine`."""

    def __init__(self, speaker: Speaker | None = None) -> None:
        super().__init__()
        self._speaker = speaker

    def format(self, record: logging.LogRecord) -> str:
        speaker = self._speaker
        line = LogLine(
            time=_time(record),
            level=record.levelname.lower(),
            logger=record.name,
            message=record.getMessage(),
            stream=speaker.stream if speaker else None,
            service=speaker.service if speaker else None,
            slot=speaker.slot if speaker else None,
            exception=_exception(self, record),
        )
        return json_line(line)


class Collapsing(logging.Handler):
    """Log each message at most once a minute. When the minute is up, log the number of repeats.

    A message repeats another one if both have the same logger and level, and the same text or the
    same value of `alike`. For the Kafka clients' loggers, numbers in the text are ignored (ports,
    milliseconds, object addresses). Commands set `gather`, so messages logged with `alike` are
    not written immediately. Instead, one line with their count is written when the minute or the
    process ends.
    """

    def __init__(
        self,
        inner: logging.Handler,
        now_s: Callable[[], float] = time.monotonic,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._now_s = now_s
        self._gather = gather
        # Message → time at which it was written, number of repeats since then, last log record. An
        # entry is removed a minute after its message was written.
        self._seen: dict[tuple[str, int, str], tuple[float, int, logging.LogRecord]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write the log record, or count it as a repeat."""
        now_s = self._now_s()
        self._tell_repeats(before_s=now_s - REPEAT_WITHIN_S)
        key = (record.name, record.levelno, _text(record))
        if key in self._seen:
            written_s, count, _ = self._seen[key]
            self._seen[key] = (written_s, count + 1, _without_arguments(record))
            return
        if len(self._seen) < _MOST_REMEMBERED:
            is_gathered = self._gather and hasattr(record, _ALIKE)
            self._seen[key] = (now_s, int(is_gathered), _without_arguments(record))
            if is_gathered:
                return
        self._inner.handle(record)

    def close(self) -> None:
        """Log how many times each message was repeated, and close the handler."""
        with self.lock or nullcontext():
            self._tell_repeats(before_s=float("inf"))
        self._inner.close()
        super().close()

    def _tell_repeats(self, *, before_s: float) -> None:
        for key, (written_s, count, last) in tuple(self._seen.items()):
            if written_s > before_s:
                break  # entries are ordered by time, so all later entries are newer
            del self._seen[key]
            if count and self._gather and hasattr(last, _ALIKE):
                self._inner.handle(last if count == 1 else _more(last, count - 1))
            elif count:
                self._inner.handle(_repeated(last, count))


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Write to the current `sys.stderr`, which tests and progress bars replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        return sys.stderr


def _install(handler: logging.Handler, level: int, *, gather: bool = False) -> None:
    """Add `handler` to the root logger, replacing any handler that this function added before."""
    root = logging.getLogger()
    for old in tuple(root.handlers):
        if old.name == __name__:
            root.removeHandler(old)
            old.close()
    collapsing = Collapsing(handler, gather=gather)
    collapsing.name = __name__
    root.addHandler(collapsing)
    root.setLevel(level)


def _limit_clients(level: int) -> None:
    for name in CLIENT_LOGGERS:
        logging.getLogger(name).setLevel(level)
    # At "debug", kafka-python would log its configuration and the bytes that it sends. Both contain
    # the password.
    logging.getLogger("kafka").setLevel(max(level, logging.INFO))


def _text(record: logging.LogRecord) -> str:
    about: str | None = getattr(record, _ALIKE, None)
    is_client = record.name.split(".")[0] in CLIENT_LOGGERS
    message = record.getMessage() if about is None else f"{record.msg} {about}"
    return message if about is None and not is_client else _NUMBER.sub("#", message)


def _without_arguments(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy of the record with its formatted message and no arguments. Otherwise, an
    exception among the arguments would keep its traceback's frames and a failed client's threads
    alive."""
    kept = copy.copy(record)
    kept.msg, kept.args, kept.exc_info = record.getMessage(), None, None
    return kept


def _repeated(record: logging.LogRecord, count: int) -> logging.LogRecord:
    return _ending(record, "… repeated once more" if count == 1 else f"… repeated {count} times")


def _more(record: logging.LogRecord, count: int) -> logging.LogRecord:
    return _ending(record, f"… and {count:,} more")


def _ending(record: logging.LogRecord, end: str) -> logging.LogRecord:
    return logging.LogRecord(
        record.name,
        record.levelno,
        record.pathname,
        record.lineno,
        "%s %s",
        (record.getMessage(), end),
        None,
    )


def _time(record: logging.LogRecord) -> str:
    return rfc3339(record.created, "milliseconds")


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    return formatter.formatException(record.exc_info) if record.exc_info else None
