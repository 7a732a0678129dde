"""Records deleted before they were read are detected at the start and while reading."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Committed, Message, NewTopic, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream_sections import Delivery
from driftline.errors import BrokerUnavailable
from driftline.runtime.handler import Handler, LogChange
from driftline.runtime.input_logs import InputLogs
from driftline.runtime.loop import Loop

IN, OUT, GROUP = "in", "out", "copiers"
AT = TopicPartition(IN, 0)
by_delivery = pytest.mark.parametrize("delivery", get_args(Delivery))


class Copier(Handler):
    """Publishes the records that it reads and the changes of logs, in their order."""

    inputs = (IN,)
    broadcast_topics: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.changes: list[LogChange] = []

    def handle(self, messages: Sequence[Message]) -> Sequence[Outgoing]:
        return [Outgoing(OUT, message.value, partition=0) for message in messages]

    def on_log_change(self, change: LogChange) -> Sequence[Outgoing]:
        self.changes.append(change)
        return () if change.unread is None else (Outgoing(OUT, b"gap", partition=0),)

    def reject(self, message: Message, reason: str) -> Sequence[Outgoing]:
        raise NotImplementedError


class Setting:
    """A broker, and loops that run on it one after the other."""

    def __init__(self, delivery: Delivery, commits_file: Path | None = None) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock)
        self.admin = self.broker.admin()
        self.admin.create([NewTopic(IN, 1), NewTopic(OUT, 1)])
        self._delivery = delivery
        self._commits_file = commits_file

    def loop(self) -> tuple[Loop, Copier]:
        handler = Copier()
        loop = Loop(
            handler,
            self.broker,
            group=GROUP,
            delivery=self._delivery,
            clock=self.clock,
            commit_interval_s=0,
            commits_file=self._commits_file,
        )
        return loop, handler

    def put(self, *values: int) -> None:
        producer = self.broker.producer()
        for value in values:
            producer.send(Outgoing(IN, b"%d" % value, partition=0))

    def run(self) -> list[LogChange]:
        """Let a new worker read everything; return the changes that it saw."""
        loop, handler = self.loop()
        drain(loop)
        loop.close()
        return handler.changes

    def create_again(self) -> None:
        self.admin.delete([IN])
        self.admin.create([NewTopic(IN, 1)])

    def forget_commits(self) -> None:
        """Let the broker answer as if the group had committed nothing."""
        self.broker._state.group(GROUP).committed.clear()

    def restore_commits(self, outdated: Mapping[TopicPartition, Committed]) -> None:
        """Let the broker return commits that have been replaced since then."""
        self.broker._state.group(GROUP).committed.update(outdated)

    def got(self) -> list[str]:
        consumer = self.broker.consumer()
        consumer.assign({TopicPartition(OUT, 0): 0})
        found = consumer.poll(max_records=1000, timeout_s=0)
        return [(message.value or b"").decode() for message in found]


def drain(loop: Loop) -> None:
    while loop.step(0):
        pass


@by_delivery
def test_only_the_first_start_reports_the_log_as_new(delivery: Delivery) -> None:
    setting = Setting(delivery)
    setting.put(1, 2)
    assert setting.run() == [LogChange(AT, "memory-1", 0, is_new_topic=True)]
    setting.put(3)
    assert setting.run() == []
    assert setting.got() == ["1", "2", "3"]


@by_delivery
def test_records_deleted_while_no_worker_ran_are_reported_once_as_a_gap(delivery: Delivery) -> None:
    setting = Setting(delivery)
    setting.put(0, 1)
    setting.run()
    setting.put(2, 3, 4)
    setting.broker.truncate(AT, 4)
    assert setting.run() == [LogChange(AT, "memory-1", 4, unread=2)]
    assert setting.run() == []
    assert setting.got() == ["0", "1", "gap", "4"]


@by_delivery
def test_records_deleted_after_they_were_read_are_not_a_gap(delivery: Delivery) -> None:
    setting = Setting(delivery)
    setting.put(0, 1)
    setting.run()
    setting.put(2)
    setting.broker.truncate(AT, 2)
    assert setting.run() == []
    assert setting.got() == ["0", "1", "2"]


@by_delivery
def test_records_deleted_ahead_of_a_running_worker_are_a_gap(delivery: Delivery) -> None:
    setting = Setting(delivery)
    loop, handler = setting.loop()
    setting.put(0, 1)
    drain(loop)
    setting.put(2, 3, 4)
    setting.broker.truncate(AT, 4)
    drain(loop)
    loop.close()
    assert handler.changes[1:] == [LogChange(AT, "memory-1", 4, unread=2)]
    assert setting.got() == ["0", "1", "gap", "4"]


@by_delivery
def test_a_recreated_topic_is_read_from_its_beginning(delivery: Delivery) -> None:
    setting = Setting(delivery)
    loop, handler = setting.loop()
    setting.put(0, 1, 2)
    drain(loop)
    setting.create_again()
    setting.put(10, 11)
    drain(loop)  # the position is now beyond the end
    assert handler.changes[1:] == [LogChange(AT, "memory-3", 0, unread=3, is_new_topic=True)]
    assert setting.got() == ["0", "1", "2", "gap", "10", "11"]
    loop.close()
    assert setting.run() == []


@by_delivery
def test_a_recreated_topic_is_detected_even_if_the_position_exists_in_it(
    delivery: Delivery,
) -> None:
    setting = Setting(delivery)
    loop, handler = setting.loop()
    setting.put(0, 1)
    drain(loop)
    setting.create_again()
    setting.put(10, 11, 12)
    for _ in range(30):
        setting.clock.advance(1)
        drain(loop)
    assert handler.changes[1:] == [LogChange(AT, "memory-3", 0, unread=3, is_new_topic=True)]
    assert setting.got() == ["0", "1", "12", "gap", "10", "11", "12"]
    loop.close()


@by_delivery
@pytest.mark.parametrize("count", [1, 5])
def test_a_broadcast_topic_that_is_created_again_is_read_from_its_beginning(
    delivery: Delivery,
    count: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = Setting(delivery)
    loop, handler = setting.loop()
    broadcast: list[object] = []
    handler.broadcast_topics = ("all",)

    def on_broadcast(messages: Sequence[Message]) -> Sequence[Outgoing]:
        broadcast.extend(message.value for message in messages)
        return ()

    monkeypatch.setattr(handler, "on_broadcast", on_broadcast)
    setting.admin.create([NewTopic("all", 1, 1, {})])
    producer = setting.broker.producer()
    for value in (b"a", b"b"):
        producer.send(Outgoing("all", value, partition=0))
    setting.put(0)
    drain(loop)
    setting.admin.delete(["all"])
    setting.admin.create([NewTopic("all", 1, 1, {})])
    fresh = [str(number).encode() for number in range(count)]
    for value in fresh:
        producer.send(Outgoing("all", value, partition=0))
    for _ in range(30):
        setting.clock.advance(1)
        drain(loop)
    assert broadcast[:2] == [b"a", b"b"]
    assert broadcast[-count:] == fresh
    (change,) = [at for at in handler.changes if at.partition.topic == "all"]
    assert (change.start, change.unread, change.is_new_topic) == (0, None, True)
    assert caplog.text.count("all was recreated: its earlier records are lost") == 1
    assert setting.got() == ["0"]
    loop.close()


@by_delivery
def test_a_commit_for_a_deleted_topic_of_the_same_name_is_recognised(
    delivery: Delivery,
) -> None:
    setting = Setting(delivery)
    setting.put(0, 1)
    setting.run()
    before = setting.admin.group_offsets(GROUP)
    setting.create_again()
    setting.put(10, 11, 12)
    consumer = setting.broker.consumer(GROUP)
    consumer.commit(before)  # as on a broker that keeps the commits of deleted topics
    assert setting.run() == [LogChange(AT, "memory-3", 0, unread=2, is_new_topic=True)]
    assert setting.got() == ["0", "1", "gap", "10", "11", "12"]


@by_delivery
def test_a_commit_of_an_old_version_without_a_topic_id_is_used(delivery: Delivery) -> None:
    setting = Setting(delivery)
    setting.put(0, 1, 2)
    setting.broker.consumer(GROUP).commit({AT: Committed(2, '{"watermark":7}')})
    assert setting.run() == [LogChange(AT, "memory-1", 2, is_new_topic=True)]
    assert setting.got() == ["2"]


@by_delivery
@pytest.mark.parametrize("topic_id", ["", '"topic_id":"memory-1",'])
def test_metadata_that_claims_results_beyond_the_end_of_the_log_is_ignored(
    delivery: Delivery, topic_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting(delivery)
    setting.put(0, 1, 2)
    metadata = f'{{{topic_id}"published":9}}'
    setting.broker.consumer(GROUP).commit({AT: Committed(1, metadata)})
    logs = InputLogs(setting.broker, setting.clock)
    found = setting.broker.consumer(GROUP).committed([AT])
    assert logs.compare([AT], found)[AT].committed == Committed(1)
    assert "the log ends at 3" in caplog.text
    setting.run()
    assert setting.got() == ["1", "2"]


def test_metadata_that_claims_results_up_to_the_end_of_the_log_is_used() -> None:
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    found = {AT: Committed(1, '{"topic_id":"memory-1","published":3}')}
    compared = InputLogs(setting.broker, setting.clock).compare([AT], found)[AT]
    assert compared.committed == Committed(1, '{"published":3}')


def rejoin(setting: Setting, loop: Loop) -> None:
    """Let another consumer join and leave the group, so that the worker is assigned again."""
    other = setting.broker.consumer(GROUP, client_id="z")
    other.subscribe([IN], assigned=lambda _: None, revoked=lambda _: None)
    loop.step(0)
    other.poll(max_records=1, timeout_s=0)
    other.close()
    drain(loop)


@by_delivery
@pytest.mark.parametrize("later", [(), (2,)])
@pytest.mark.parametrize("answer", ["nothing", "outdated"])
def test_a_worker_resumes_at_its_own_commit_if_kafka_has_lost_it(
    delivery: Delivery, later: Sequence[int], answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that has loaded its offsets only in part returns no commit, or an outdated one."""
    setting = Setting(delivery)
    loop, _ = setting.loop()
    setting.put(0)
    drain(loop)
    outdated = setting.admin.group_offsets(GROUP)
    setting.put(1)
    drain(loop)
    setting.forget_commits()
    if answer == "outdated":
        setting.restore_commits(outdated)
    rejoin(setting, loop)
    setting.put(*later)
    drain(loop)
    loop.close()
    assert setting.got() == ["0", "1", "2"][: 2 + len(later)]
    expected = "Kafka returns no committed offsets or outdated ones for 1 partitions, such as in[0]"
    assert expected in caplog.text
    setting.run()  # the next worker finds the commit
    assert setting.got() == ["0", "1", "2"][: 2 + len(later)]


def test_commits_with_equal_offsets_are_ordered_by_number() -> None:
    """The monitor always commits offset 0 of `windows`, and only the metadata changes."""
    setting = Setting("exactly_once")
    setting.put(0)
    logs = InputLogs(setting.broker, setting.clock)
    commits = []
    found: Mapping[TopicPartition, Committed] = {}
    for published in (1, 2):
        logs.compare([AT], found)
        found = logs.committed({AT: Committed(0, f'{{"token":{published}}}')})
        logs.remember(found)
        commits.append(found)
    point = logs.compare([AT], commits[0])[AT]
    assert (point.committed, point.is_lost) == (Committed(0, '{"token":2}'), True)
    point = logs.compare([AT], commits[1])[AT]
    assert (point.committed, point.is_lost) == (Committed(0, '{"token":2}'), False)


def test_an_outdated_commit_is_not_used_while_the_outcome_of_the_last_one_is_unknown() -> None:
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    logs = InputLogs(setting.broker, setting.clock)
    logs.compare([AT], {})
    outdated = logs.committed({AT: Committed(1)})
    logs.remember(outdated)
    logs.remember(logs.committed({AT: Committed(2)}))
    logs.begin_commit()
    with pytest.raises(BrokerUnavailable, match=r"in\[0\], or an outdated one"):
        logs.compare([AT], outdated)


@pytest.mark.parametrize("metadata", ["", "set by an operator", '{"watermark":7}'])
def test_an_operator_may_reset_offsets_while_a_worker_waits_for_kafka(metadata: str) -> None:
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    logs = InputLogs(setting.broker, setting.clock)
    logs.compare([AT], {})
    logs.remember(logs.committed({AT: Committed(2)}))
    assert logs.compare([AT], {AT: Committed(0, metadata)})[AT].committed.offset == 0


def test_a_lost_commit_of_unknown_outcome_is_waited_for() -> None:
    """Kafka may or may not have committed the last transaction, so either offset may be right."""
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    logs = InputLogs(setting.broker, setting.clock)
    logs.compare([AT], {})
    logs.remember(logs.committed({AT: Committed(1)}))
    logs.begin_commit()
    with pytest.raises(BrokerUnavailable, match=r"no committed offset for in\[0\]"):
        logs.compare([AT], {})
    loaded = logs.committed({AT: Committed(2)})
    assert logs.compare([AT], loaded)[AT].committed.offset == 2
    assert logs.compare([AT], {})[AT].committed.offset == 2  # now it is known


def test_a_worker_waits_for_lost_commits_of_partitions_that_others_had() -> None:
    setting = Setting("at_least_once")
    setting.admin.create([NewTopic("wide", 2)])
    ours, theirs = TopicPartition("wide", 0), TopicPartition("wide", 1)
    logs = InputLogs(setting.broker, setting.clock)
    logs.compare([ours], {})
    logs.remember(logs.committed({ours: Committed(0)}))
    with pytest.raises(BrokerUnavailable):
        logs.compare([ours, theirs], {})


def test_a_worker_does_not_use_its_old_commit_of_a_partition_that_moved_away_and_back() -> None:
    setting = Setting("at_least_once")
    setting.admin.create([NewTopic("wide", 2)])
    first, second = TopicPartition("wide", 0), TopicPartition("wide", 1)
    logs = InputLogs(setting.broker, setting.clock)
    logs.compare([first, second], {})
    commits = logs.committed({first: Committed(0), second: Committed(0)})
    logs.remember(commits)
    logs.compare([first], {first: commits[first]})  # another worker has the second one
    with pytest.raises(BrokerUnavailable):
        logs.compare([first, second], {})


def test_a_new_process_knows_the_commits_of_the_previous_one_in_its_slot(tmp_path: Path) -> None:
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    logs = InputLogs(setting.broker, setting.clock, tmp_path / "copiers-0.commits")
    logs.compare([AT], {})
    outdated = logs.committed({AT: Committed(1, '{"token":1}')})
    logs.remember(outdated)
    logs.begin_commit()
    newest = logs.committed({AT: Committed(2, '{"token":2}')})
    logs.remember(newest)
    logs.close()
    for found in ({}, outdated, newest):
        logs = InputLogs(setting.broker, setting.clock, tmp_path / "copiers-0.commits")
        assert logs.compare([AT], found)[AT].committed == Committed(2, '{"token":2}')
        logs.close()


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_process_waits_for_the_commits_of_a_killed_one(tmp_path: Path, is_lost: bool) -> None:
    """A killed process may have made one more commit than its file contains."""
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    file = tmp_path / "copiers-0.commits"
    logs = InputLogs(setting.broker, setting.clock, file)
    logs.compare([AT], {})
    outdated = logs.committed({AT: Committed(1)})
    logs.remember(outdated)
    newest = logs.committed({AT: Committed(2)})
    logs.remember(newest)
    for _ in range(2):  # waiting changes nothing in the file
        logs = InputLogs(setting.broker, setting.clock, file)
        with pytest.raises(BrokerUnavailable) as caught:
            logs.compare([AT], {} if is_lost else outdated)
        assert f"delete {file}," in caught.value.hint
        logs.close()
    assert (
        InputLogs(setting.broker, setting.clock, file).compare([AT], newest)[AT].committed.offset
        == 2
    )


def test_offsets_that_were_reset_are_used_by_all_slots(tmp_path: Path) -> None:
    """The first slot's file still contains a commit from before the reset."""
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    logs = InputLogs(setting.broker, setting.clock, tmp_path / "copiers-0.commits")
    logs.compare([AT], {})
    for offset in (1, 2, 3):
        setting.clock.advance(1)
        logs.remember(logs.committed({AT: Committed(offset)}))
    logs.close()
    setting.clock.advance(1)
    second = InputLogs(setting.broker, setting.clock, tmp_path / "copiers-1.commits")
    assert second.compare([AT], {AT: Committed(0)})[AT].committed.offset == 0
    newest = second.committed({AT: Committed(1)})
    logs = InputLogs(setting.broker, setting.clock, tmp_path / "copiers-0.commits")
    assert logs.compare([AT], newest)[AT].committed.offset == 1


def test_commit_numbers_increase_after_a_reset_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    file = tmp_path / "copiers-0.commits"
    logs = InputLogs(setting.broker, ManualClock(1000.0), file)
    logs.compare([AT], {})
    logs.remember(logs.committed({AT: Committed(2)}))
    logs = InputLogs(setting.broker, ManualClock(5.0), file)
    assert logs.compare([AT], {AT: Committed(0)})[AT].committed.offset == 0
    newest = logs.committed({AT: Committed(1)})  # killed before it is written to the file
    logs = InputLogs(setting.broker, ManualClock(5.0), file)
    assert logs.compare([AT], newest)[AT].committed.offset == 1


def test_a_worker_does_not_resume_beyond_the_end_of_a_restored_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The operator has restored the topic and the committed offsets from an older copy."""
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    logs = InputLogs(setting.broker, setting.clock)
    logs.compare([AT], {})
    copied = logs.committed({AT: Committed(2)})
    logs.remember(copied)
    for later in (Committed(9), Committed(0, '{"published":9}')):
        logs.remember(logs.committed({AT: later}))
        caplog.clear()
        assert logs.compare([AT], copied)[AT].committed.offset == 2
        assert caplog.messages == [
            "in[0] ends at offset 3, but was already read up to 9: Kafka has lost records; "
            "resuming at offset 2"
        ]


def test_commit_numbers_increase_even_if_the_clock_goes_back() -> None:
    setting = Setting("exactly_once")
    setting.put(0, 1)
    logs = InputLogs(setting.broker, ManualClock(1000.0), None)
    logs.compare([AT], {})
    before = logs.committed({AT: Committed(1)})
    late = InputLogs(setting.broker, ManualClock(5.0), None)
    late.compare([AT], before)
    late.remember(late.committed({AT: Committed(2)}))
    point = late.compare([AT], before)[AT]
    assert (point.committed.offset, point.is_lost) == (2, True)


def test_the_commits_of_a_recreated_topic_are_not_waited_for(tmp_path: Path) -> None:
    setting = Setting("exactly_once")
    setting.put(0, 1, 2)
    logs = InputLogs(setting.broker, setting.clock, tmp_path / "copiers-0.commits")
    logs.compare([AT], {})
    logs.remember(logs.committed({AT: Committed(2)}))
    setting.create_again()
    logs = InputLogs(setting.broker, setting.clock, tmp_path / "copiers-0.commits")
    assert logs.compare([AT], {})[AT].committed.offset == 0


@pytest.mark.parametrize("content", [b"", b"{", b'{"is_final":1}', b"\xff", b'{"is_final":true}'])
def test_a_damaged_file_of_commits_is_ignored(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting("exactly_once")
    setting.put(0)
    file = tmp_path / "copiers-0.commits"
    file.write_bytes(content)
    assert (
        InputLogs(setting.broker, setting.clock, file).compare([AT], {})[AT].committed.offset == 0
    )
    assert f"ignoring the commits in {file}" in caplog.text


def test_a_file_of_commits_that_cannot_be_written_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting("exactly_once")
    setting.put(0)
    (tmp_path / "folder").write_bytes(b"a file, not a folder")
    logs = InputLogs(setting.broker, setting.clock, tmp_path / "folder" / "copiers-0.commits")
    logs.compare([AT], {})
    for offset in (0, 1):
        logs.remember(logs.committed({AT: Committed(offset)}))
    assert caplog.text.count("continuing without it") == 1


@by_delivery
def test_a_worker_that_starts_while_kafka_returns_outdated_commits_publishes_nothing_twice(
    delivery: Delivery, tmp_path: Path
) -> None:
    setting = Setting(delivery, commits_file=tmp_path / "copiers-0.commits")
    setting.put(0)
    setting.run()
    outdated = setting.admin.group_offsets(GROUP)
    setting.put(1)
    setting.run()
    setting.restore_commits(outdated)
    setting.put(2)
    setting.run()
    assert setting.got() == ["0", "1", "2"]
