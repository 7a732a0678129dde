"""The client for applications rejects what inference would reject, and continues the numbers."""

import json
from datetime import UTC, datetime

import pytest

from driftline.broker.memory import MemoryBroker
from driftline.broker.partitioner import partition_for
from driftline.broker.port import Message, Outgoing, TopicPartition
from driftline.config.stream import Stream, loads
from driftline.errors import DataError
from driftline.wire.events import MAX_ROW
from driftline.wire.feature_records import RecordCodec
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import MAX_RECORD_BYTES, Topics
from driftline_app.produce_data import numbered_playback
from producers.client import FeatureProducer
from producers.delivery import Delivery
from producers.numbering import next_row
from producers.playback import Play
from producers.sources import JsonLinesSource


def stream(more: str = "", id: str = "order", windows: str = "records = 100") -> Stream:
    return loads(
        'version = 1\nname = "shop"\ntask = "classification"\ntarget = "returned"\n'
        f'features = {{ price = "number" }}\nrecord = {{ id = "{id}"{more} }}\n'
        f'[time]\ncolumn = "at"\n[windows]\n{windows}\n[kafka]\npartitions = 3\n'
    )


def broker_of(told: Stream) -> MemoryBroker:
    broker = MemoryBroker()
    broker.admin().create(Topics(told).creation())
    return broker


def messages(broker: MemoryBroker, topic: str) -> list[Message]:
    consumer = broker.consumer()
    offsets = broker.admin().offsets(topic)
    consumer.assign({partition: found.start for partition, found in offsets.items()})
    result = consumer.poll(max_records=1000, timeout_s=0.0)
    consumer.close()
    return result


NOW = datetime(2025, 1, 1, tzinfo=UTC)


def test_records_are_numbered_validated_and_partitioned_by_key() -> None:
    told = stream()
    broker = broker_of(told)
    with FeatureProducer(broker, told) as producer:
        ids = [producer.send({"order": i, "price": i / 2, "at": NOW}) for i in range(20)]
        producer.label(ids[3], "yes", at=7)
        producer.label(ids[4], True)
    sent = messages(broker, Topics(told).features)
    batch = RecordCodec(told).decode([message.value for message in sent])
    assert batch.rejected == []
    assert sorted(row for row in batch.rows if row is not None) == list(range(20))
    for message, record_id in zip(sent, batch.ids, strict=True):
        assert message.key == record_id.encode()
        assert message.partition == partition_for(record_id.encode(), 3)
    labels = messages(broker, Topics(told).labels)
    found = [LabelCodec(told).decode(message.value) for message in labels]
    assert {(label.record_id, label.label, label.at) for label in found} == {
        ("3", "yes", 7),
        ("4", "true", None),
    }


def test_a_second_producer_continues_the_numbers_of_the_topic() -> None:
    told = stream(id="@row")
    broker = broker_of(told)
    with FeatureProducer(broker, told) as producer:
        assert [producer.send({"price": 1, "at": NOW}) for _ in range(5)] == list("01234")
    raw = broker.producer()
    raw.send(Outgoing(topic=Topics(told).features, key=b"x", value=b"no JSON"))
    raw.flush()
    assert next_row(broker, told) == 5
    with FeatureProducer(broker, told) as producer:
        assert producer.next_row == 5
        assert producer.send({"price": 1, "at": NOW}) == "5"


@pytest.mark.parametrize("foreign", [2**70, 10**400, -1, MAX_ROW + 1, MAX_ROW, 10**9, 1.5, "7"])
@pytest.mark.parametrize("windows", ["records = 100", 'span = "1h"'])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_an_implausible_number_of_another_program_is_not_continued(
    foreign: object, windows: str, after: int
) -> None:
    told = stream(id="@row", windows=windows)
    broker = broker_of(told)
    sent = 0
    for more in (5, after):
        with FeatureProducer(broker, told) as producer:
            for _ in range(more):
                assert producer.send({"price": 1, "at": NOW}) == str(sent)
                sent += 1
        raw = broker.producer()
        for partition in range(3):
            value = json.dumps({"@row": foreign, "price": 1}).encode()
            raw.send(Outgoing(Topics(told).features, value, partition=partition))
        raw.flush()

    assert next_row(broker, told) == sent


def test_a_jump_in_the_numbers_is_continued_after_ten_records() -> None:
    told = stream(id="@row")
    broker = broker_of(told)
    raw = broker.producer()
    found = []
    for row in (0, 1, *range(10**6, 10**6 + 10)):
        raw.send(Outgoing(Topics(told).features, b'{"@row": %d}' % row, partition=row % 3))
        raw.flush()
        found.append(next_row(broker, told))

    assert found == [1, *[2] * 10, 10**6 + 10]


def test_no_record_is_sent_if_the_numbers_are_used_up() -> None:
    told = stream(id="@row")
    broker = broker_of(told)
    raw = broker.producer()
    raw.send(Outgoing(Topics(told).features, b'{"@row": %d}' % (MAX_ROW - 1), partition=0))
    raw.flush()
    with FeatureProducer(broker, told) as producer:
        producer.send({"price": 1, "at": NOW})
        with pytest.raises(DataError, match=f"'@row': expected 0 to {MAX_ROW}"):
            producer.send({"price": 1, "at": NOW})

    with pytest.raises(DataError, match=r"the numbers .* are used up"):
        FeatureProducer(broker, told)


def test_a_topic_with_unnumbered_records_cannot_be_continued() -> None:
    told = stream()
    broker = broker_of(told)
    raw = broker.producer()
    raw.send(Outgoing(topic=Topics(told).features, key=b"x", value=b'{"order": 1}'))
    raw.flush()
    with pytest.raises(DataError, match="ends in records without '@row'"):
        FeatureProducer(broker, told)


def send(told: Stream, broker: MemoryBroker, count: int) -> None:
    with FeatureProducer(broker, told) as producer:
        for _ in range(count):
            producer.send({"price": 1, "at": NOW})


def empty(broker: MemoryBroker, topic: str, *partitions: int) -> None:
    """Delete the records of these partitions, or of all, as retention does."""
    for partition, span in broker.admin().offsets(topic).items():
        if partition.partition in (partitions or range(3)):
            broker.truncate(partition, span.end)


def predict(told: Stream, broker: MemoryBroker, *, upto: int = 10**9) -> None:
    """Write the predictions of the records with numbers below `upto`, without inference."""
    producer = broker.producer()
    for message in messages(broker, Topics(told).features):
        row = json.loads(message.value or b"")["@row"]
        if row < upto:
            event = {
                "type": "prediction",
                "row": row,
                "source": {
                    "topic": message.topic,
                    "partition": message.partition,
                    "offset": message.offset,
                },
            }
            value = json.dumps(event).encode()
            producer.send(Outgoing(Topics(told).predictions, value, partition=message.partition))
    producer.flush()


WINDOWS = ["records = 100", 'span = "1h"']


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("predicted", [40, 35, 1])
@pytest.mark.parametrize("emptied", [(), (0,), (0, 1)])
def test_numbers_continue_after_retention_has_emptied_the_topic(
    windows: str, predicted: int, emptied: tuple[int, ...]
) -> None:
    told = stream(id="@row", windows=windows)
    broker = broker_of(told)
    send(told, broker, 40)
    predict(told, broker, upto=predicted)
    empty(broker, Topics(told).features, *emptied)

    first = next_row(broker, told)

    # Records without a prediction may have used as many numbers.
    assert 40 <= first <= 40 + (40 - predicted if emptied else 0)


def test_numbers_of_a_partition_that_was_never_predicted_are_not_used_again() -> None:
    told = stream(id="@row")
    broker = broker_of(told)
    raw = broker.producer()
    for row in range(30):
        value = b'{"@row": %d}' % row
        raw.send(Outgoing(Topics(told).features, value, partition=0 if row == 5 else 1))
    raw.flush()
    empty(broker, Topics(told).features, 1)
    assert next_row(broker, told) >= 30


def test_numbers_continue_after_those_of_the_windows_if_predictions_were_deleted_too() -> None:
    told = stream(id="@row")
    broker = broker_of(told)
    send(told, broker, 40)
    predict(told, broker)
    raw = broker.producer()
    for row in (19, 39):
        value = b'{"type":"data_window","row":%d}' % row
        raw.send(Outgoing(Topics(told).windows, value, partition=0))
    raw.flush()
    empty(broker, Topics(told).features)
    empty(broker, Topics(told).predictions)
    assert next_row(broker, told) == 40
    send(told, broker, 1)
    assert next_row(broker, told) == 41


def test_unknown_numbers_of_deleted_records_are_an_error_unless_the_first_is_given() -> None:
    told = stream(id="@row")
    broker = broker_of(told)
    send(told, broker, 40)
    empty(broker, Topics(told).features)
    with pytest.raises(DataError, match=r"were deleted[^\0]*--first-row N"):
        FeatureProducer(broker, told)
    source = JsonLinesSource("x", [b'{"price": 1}'])
    playback = numbered_playback(told, broker, source, seed=0, skip=0, limit=None, first_row=40)
    assert playback.next_row == 40
    with FeatureProducer(broker, told, first_row=40) as producer:
        assert producer.send({"price": 1, "at": NOW}) == "40"


def test_numbers_continue_if_the_topic_was_created_again() -> None:
    told = stream(id="@row")
    broker = broker_of(told)
    send(told, broker, 40)
    predict(told, broker)
    topics = Topics(told)
    broker.admin().delete([topics.features])
    broker.admin().create([new for new in topics.creation() if new.name == topics.features])
    assert next_row(broker, told) == 40


@pytest.mark.parametrize("value", [b"no JSON", b'{"@row": "7"}', b'{"@row": -1}', b"{}", None])
def test_many_records_without_a_number_do_not_hide_earlier_numbers(value: bytes | None) -> None:
    told = stream(id="@row")
    broker = broker_of(told)
    send(told, broker, 5)
    raw = broker.producer()
    for place in range(3 * 1200):
        raw.send(Outgoing(Topics(told).features, value, partition=place % 3))
    raw.flush()
    assert next_row(broker, told) == 5


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"order": 1, "price": "high", "at": NOW}, "column 'price': expected a number"),
        ({"order": 1, "at": NOW}, "missing value: column 'price'"),
        ({"price": 1, "at": NOW}, "missing id: column 'order'"),
        ({"order": 1, "price": 1}, "missing time: column 'at'"),
        ({"order": 1, "price": float("inf"), "at": NOW}, "expected a number"),
        ({"order": "\ud800", "price": 1, "at": NOW}, "cannot be written as JSON"),
    ],
)
def test_an_invalid_record_is_rejected_and_uses_no_number(
    record: dict[str, object], problem: str
) -> None:
    told = stream()
    broker = broker_of(told)
    with FeatureProducer(broker, told) as producer:
        with pytest.raises(DataError, match=problem):
            producer.send(record)
        assert producer.next_row == 0
    assert messages(broker, Topics(told).features) == []


def test_a_label_goes_to_the_partition_of_its_record() -> None:
    told = stream(', key = "shop"')
    broker = broker_of(told)
    with FeatureProducer(broker, told) as producer:
        order = producer.send({"order": 1, "price": 1, "at": NOW, "shop": "Malmö"})
        with pytest.raises(DataError, match="needs a key"):
            producer.label(order, "no")
        producer.label(order, "no", key="Malmö")
    record = messages(broker, Topics(told).features)[0]
    label = messages(broker, Topics(told).labels)[0]
    assert (record.key, record.partition) == (label.key, label.partition)
    assert LabelCodec(told).decode(label.value).key == "Malmö"


def test_the_time_of_a_label_must_be_on_the_axis_of_the_windows() -> None:
    by_row, by_time = stream(), stream(windows='span = "1h"')
    rows = FeatureProducer(broker_of(by_row), by_row)
    with pytest.raises(DataError, match="record number"):
        rows.label("1", "no", at=NOW)
    with FeatureProducer(broker_of(by_time), by_time) as producer:
        producer.label("1", "no", at=NOW)
        with pytest.raises(DataError, match="time with a zone"):
            producer.label("1", "no", at=datetime(2025, 1, 1))
        with pytest.raises(DataError, match="time with a zone"):
            producer.label("1", "no", at=5)


def test_delivery_counts_confirmed_messages_and_lists_those_that_are_too_large() -> None:
    told = stream()
    broker = broker_of(told)
    delivery = Delivery(broker.producer(), Topics(told), confirm_every=2)
    small, large = b'{"order":1}', b"x" * (MAX_RECORD_BYTES + 1)
    delivery.send(Play("record", 0, b"1", small, "1", 0))
    assert (delivery.records, delivery.labels) == (0, 0)
    delivery.send(Play("label", 0, b"1", small, "1", 0))
    assert (delivery.records, delivery.labels, delivery.row) == (1, 1, 0)
    delivery.send(Play("record", 1, b"1", large, "2", 1))
    delivery.confirm()
    assert delivery.records == 1
    assert [item.row for item in delivery.too_large] == [1]
    assert broker.admin().offsets(Topics(told).features)[
        TopicPartition("shop.features", partition_for(b"1", 3))
    ] == (0, 1)
