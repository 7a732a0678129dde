"""Features that only the in-memory broker has: it is saved and loaded, and has its own clock."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.broker.memory import MemoryBroker
from driftline.broker.memory_log import Member, assign_ranges
from driftline.broker.port import Committed, NewTopic, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.errors import BrokerError, TransactionAborted

T0 = TopicPartition("t", 0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def broker(clock: ManualClock) -> MemoryBroker:
    broker = MemoryBroker(clock)
    broker.admin().create([NewTopic("t", 2, config={"retention.ms": "1000"})])
    return broker


def read_all(broker: MemoryBroker, topic: str = "t") -> list[tuple[int, int, bytes | None]]:
    consumer = broker.consumer()
    consumer.assign(dict.fromkeys(broker.admin().offsets(topic), 0))
    records = []
    while batch := consumer.poll(max_records=7, timeout_s=0):
        records += [(r.partition, r.offset, r.value) for r in batch]
    return sorted(records)


class TestTime:
    def test_stamps_records_with_its_clock(self, broker: MemoryBroker, clock: ManualClock) -> None:
        producer, consumer = broker.producer(), broker.consumer()
        consumer.assign({T0: 0})
        producer.send(Outgoing("t", b"", partition=0))
        clock.advance(1.5)
        producer.send(Outgoing("t", b"", partition=0))
        stamps = [r.timestamp_ms for r in consumer.poll(max_records=2, timeout_s=0)]
        assert stamps == [1_700_000_000_000, 1_700_000_001_500]

    def test_does_not_wait_for_records_on_a_manual_clock(self, broker: MemoryBroker) -> None:
        consumer = broker.consumer()
        consumer.assign({T0: 0})
        assert not consumer.poll(max_records=1, timeout_s=1e9)

    def test_aborts_a_transaction_that_takes_too_long(
        self, broker: MemoryBroker, clock: ManualClock
    ) -> None:
        slow = broker.producer("slow", transaction_timeout_s=10)
        slow.begin()
        slow.send(Outgoing("t", b"slow", partition=0))
        broker.producer().send(Outgoing("t", b"behind", partition=0))
        assert read_all(broker) == []
        clock.advance(10.1)
        assert read_all(broker) == [(0, 1, b"behind")]
        with pytest.raises(TransactionAborted, match="slow"):
            slow.commit()


class TestSaving:
    def test_keeps_topics_records_holes_and_groups(
        self, broker: MemoryBroker, tmp_path: Path
    ) -> None:
        producer = broker.producer("x")
        for number in range(5):
            producer.begin()
            record = Outgoing("t", b"%d" % number, b"k", 0, (("h", b"\x00"),))
            producer.send(record)
            producer.abort() if number == 2 else producer.commit()
        broker.producer().send(Outgoing("t", None, b"gone", 1))
        broker.consumer("g").commit({T0: Committed(3, "so far")})
        before = read_all(broker)

        broker.save(tmp_path / "topics")
        loaded = MemoryBroker.load(tmp_path / "topics")

        assert read_all(loaded) == before
        assert loaded.admin().offsets("t") == broker.admin().offsets("t")
        assert loaded.admin().describe() == broker.admin().describe()
        assert loaded.admin().group_offsets("g") == {T0: Committed(3, "so far")}
        reader = loaded.consumer()
        reader.assign({T0: 0})
        assert reader.poll(max_records=1, timeout_s=0)[0].headers == (("h", b"\x00"),)

    def test_gives_a_topic_created_after_loading_a_new_id(
        self, broker: MemoryBroker, tmp_path: Path
    ) -> None:
        admin = broker.admin()
        admin.create([NewTopic("late", 1)])
        admin.delete(["t"])
        broker.save(tmp_path)
        loaded = MemoryBroker.load(tmp_path).admin()
        loaded.create([NewTopic("t", 1)])
        assert len(set(loaded.topic_ids(loaded.describe()).values())) == len(loaded.describe())

    def test_saves_an_open_transaction_as_aborted(
        self, broker: MemoryBroker, tmp_path: Path
    ) -> None:
        producer = broker.producer("x")
        producer.begin()
        producer.send(Outgoing("t", b"open", partition=0))
        broker.producer().send(Outgoing("t", b"kept", partition=0))
        broker.save(tmp_path)
        assert read_all(MemoryBroker.load(tmp_path)) == [(0, 1, b"kept")]

    @settings(max_examples=20)
    @given(
        records=st.lists(
            st.tuples(st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=9))
        )
    )
    def test_the_same_content_is_saved_as_the_same_bytes(
        self,
        records: list[tuple[bytes | None, bytes | None]],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        saved = []
        for _ in range(2):
            broker = MemoryBroker(ManualClock(5.0))
            broker.admin().create([NewTopic("t", 3), NewTopic("u", 1)])
            producer = broker.producer()
            for key, value in records:
                producer.send(Outgoing("t", value, key))
            folder = tmp_path_factory.mktemp("saved")
            broker.save(folder)
            again = tmp_path_factory.mktemp("again")
            MemoryBroker.load(folder).save(again)
            for place in (folder, again):
                saved.append({file.name: file.read_bytes() for file in place.iterdir()})
        assert saved[0] == saved[1] == saved[2] == saved[3]
        assert set(saved[0]) == {"index.json", "t-0.log", "t-1.log", "t-2.log", "u-0.log"}

    def test_an_error_names_a_folder_without_topics(self, tmp_path: Path) -> None:
        with pytest.raises(BrokerError, match=str(tmp_path)):
            MemoryBroker.load(tmp_path)

    @pytest.mark.parametrize("name", ["../t", "/t", "..", "", "a/b", "t\n"])
    def test_a_saved_topic_whose_name_is_a_path_outside_the_folder_is_rejected(
        self, broker: MemoryBroker, tmp_path: Path, name: str
    ) -> None:
        folder = tmp_path / "topics"
        broker.save(folder)
        index = folder / "index.json"
        index.write_bytes(index.read_bytes().replace(b'"t"', msgspec.json.encode(name)))
        with pytest.raises(BrokerError, match="does not contain saved topics"):
            MemoryBroker.load(folder)

    def test_a_truncated_file_is_rejected(self, broker: MemoryBroker, tmp_path: Path) -> None:
        broker.producer().send(Outgoing("t", b"value", partition=0))
        broker.save(tmp_path)
        file = tmp_path / "t-0.log"
        file.write_bytes(file.read_bytes()[:-3])
        with pytest.raises(BrokerError):
            MemoryBroker.load(tmp_path)


class TestGroup:
    def test_range_assignment_gives_the_first_members_the_remaining_partitions(self) -> None:
        members = [Member(name, ("t",)) for name in ("b", "a", "c")]
        shares = assign_ranges(members, {"t": 7})
        assert {name: [p.partition for p in share] for name, share in shares.items()} == {
            "a": [0, 1, 2],
            "b": [3, 4],
            "c": [5, 6],
        }

    def test_a_consumer_outside_the_current_generation_cannot_commit(
        self, broker: MemoryBroker
    ) -> None:
        first, second = broker.consumer("g"), broker.consumer("g")
        for consumer in (first, second):
            consumer.subscribe(["t"], assigned=lambda _: None, revoked=lambda _: None)
            consumer.poll(max_records=1, timeout_s=0)
        with pytest.raises(BrokerError, match="rebalanced"):
            second.commit({T0: Committed(1)})
        with pytest.raises(BrokerError, match="members"):
            broker.consumer("g").commit({T0: Committed(1)})


class TestDeviations:
    """Features that this broker lacks. If a test passes, the broker's docstring is outdated."""

    @pytest.mark.xfail(strict=True, reason="members that stop polling are not evicted")
    def test_evicts_a_member_that_stops_polling(
        self, broker: MemoryBroker, clock: ManualClock
    ) -> None:
        dead, alive = broker.consumer("g"), broker.consumer("g")
        dead.subscribe(["t"], assigned=lambda _: None, revoked=lambda _: None)
        dead.poll(max_records=1, timeout_s=0)
        clock.advance(3600)
        alive.subscribe(["t"], assigned=lambda _: None, revoked=lambda _: None)
        alive.poll(max_records=1, timeout_s=0)
        assert len(alive.assignment()) == 2

    @pytest.mark.xfail(strict=True, reason="retention is not enforced")
    def test_deletes_records_older_than_the_retention(
        self, broker: MemoryBroker, clock: ManualClock
    ) -> None:
        broker.producer().send(Outgoing("t", b"old", partition=0))
        clock.advance(3600)
        assert read_all(broker) == []

    @pytest.mark.xfail(strict=True, reason="compaction is not done")
    def test_compacts_topics(self, broker: MemoryBroker, clock: ManualClock) -> None:
        broker.admin().create([NewTopic("c", 1, config={"cleanup.policy": "compact"})])
        for value in (b"old", b"new"):
            broker.producer().send(Outgoing("c", value, b"key"))
        clock.advance(86400)
        assert [value for _, _, value in read_all(broker, "c")] == [b"new"]
