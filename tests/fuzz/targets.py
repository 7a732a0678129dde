"""List the fuzzed targets: public functions that take bytes from outside, with their contract.

All have the same contract. A target rejects the bytes with a subclass of `DriftlineError`, or reads
them, and what it reads can be written and read again. Any other exception is a crash.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from consumers.inference.idle_partitions import IdlePartitions
from consumers.outcomes.low_watermark import JoinProgress
from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.clock import ManualClock
from driftline.config.stream import loads
from driftline.errors import DriftlineError
from driftline.models.catalog import CHAMPION_KEY, Catalog, key_of
from driftline.models.signed import sign
from driftline.wire import envelope
from driftline.wire.commit_metadata import handled
from driftline.wire.events import Event, Prediction
from driftline.wire.feature_records import RecordCodec
from driftline.wire.labels import LabelCodec
from driftline.wire.predictions import PredictionEncoder
from driftline.wire.topics import Topics
from driftline.wire.values import format_time
from monitor.merged_windows.closed_panes import MergeProgress
from monitor.panes import PartitionWindowState
from tests.fuzz import packages, streams
from tests.world import SIGNER, STREAM, TRUSTED, said, signed

ROOT: Final = Path(__file__).parents[2]
GOLDEN: Final = ROOT / "tests" / "golden"
MODEL: Final = "sha256:" + "a" * 64
_BESIDE_OTHERS: Final = 8  # one of this many records is also read in a batch, which is slow


class Broken(AssertionError):
    """The contract is violated although nothing was raised."""


class Target(msgspec.Struct, frozen=True):
    """A target. `check` returns or raises DriftlineError if the contract holds for its bytes."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    check: Callable[[bytes], None]
    words: Callable[[], Sequence[bytes]] = tuple
    executions: int = 1_000_000  # in a full run; fewer for slow targets


def run(target: Target, value: bytes) -> str | None:
    """Return how the target violates the contract on these bytes, or None."""
    try:
        target.check(value)
    except DriftlineError:
        return None
    except Exception as error:  # noqa: BLE001 - any other exception is a violation
        return f"{type(error).__name__}: {error}"[:500]
    return None


# ---- events -------------------------------------------------------------------------------------

_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "predictions": envelope.predictions_decoder,
    "outcomes": envelope.outcomes_decoder,
    "parts": envelope.parts_decoder,
    "windows": envelope.windows_decoder,
    "drift": envelope.drift_decoder,
    "retrain": envelope.retrain_decoder,
    "models": envelope.models_decoder,
}


def _event(topic: str, value: bytes) -> Event:
    message = Message(topic, 0, 0, None, value)
    event: Event = envelope.decode(_DECODERS[topic], message)
    return event


def _check_event(topic: str) -> Callable[[bytes], None]:
    def check(value: bytes) -> None:
        written = envelope.encode(_event(topic, value))
        try:
            again = envelope.encode(_event(topic, written))
        except DriftlineError as error:
            raise Broken(f"the written event is rejected: {error.message[:200]}") from error
        if again != written:
            raise Broken("reading and writing the event again changes it")

    return check


def _golden(pattern: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [path.read_bytes().strip() for path in sorted(GOLDEN.glob(pattern))]


def _check_letter(value: bytes) -> None:
    """Read the lines as headers of a dead letter, and make a dead letter from the result."""
    lines = value.split(b"\n")
    names = (
        *("driftline_reason", "driftline_service", "driftline_topic"),
        *("driftline_partition", "driftline_offset"),
    )
    headers = tuple(zip(names, lines, strict=False))
    message = Message("s.deadletters", 0, 0, None, value, headers)
    origin = envelope.dead_letter_origin(message)
    source = Message(origin.topic, origin.partition, origin.offset, None, value, headers)
    envelope.dead_letter("s.deadletters", source, reason=origin.reason, service=origin.service)


def _check_commit(value: bytes) -> None:
    committed = Committed(7, value.decode(errors="replace"))
    handled(committed)
    stream = streams.stream("rows")
    JoinProgress(committed, committed, stream).offsets_to_commit(None, None, None, "")
    progress = MergeProgress(2, committed, "40/20")
    progress.complete("data")
    progress.checkpoint(None)
    state: PartitionWindowState[list[int]] = PartitionWindowState(
        stream, committed, list, unit="pane"
    )
    state.close()
    state.checkpoint()
    idle = IdlePartitions(stream, ManualClock())
    features = Topics(stream).features
    idle.on_assigned({TopicPartition(features, 0): committed})
    idle.ahead(0, [1, 2, 3], [1, 2, 3])
    idle.offsets_to_commit(features)


# ---- records and labels -------------------------------------------------------------------------


def _check_records(name: str) -> Callable[[bytes], None]:
    codec = cache(lambda: RecordCodec(streams.stream(name)))
    encoder = PredictionEncoder(MODEL, ("a", "b"), "s.features")

    def check(value: bytes) -> None:
        batch = codec().decode([value])
        if len(batch.ids) + len(batch.rejected) != 1:
            raise Broken("the record is neither accepted nor rejected, or both")
        for rejected in batch.rejected:
            _letter(value, rejected.reason)
        if batch.ids:
            _check_prediction(encoder, value, batch)
            if zlib.crc32(value) % _BESIDE_OTHERS == 0:
                _check_beside_others(codec(), value, batch)

    return check


def _letter(value: bytes, reason: str) -> None:
    """Check that the dead letter of a record can be made and read."""
    message = Message("s.features", 1, 2, None, value)
    letter = envelope.dead_letter("s.deadletters", message, reason=reason, service="inference")
    envelope.dead_letter_origin(Message("s.deadletters", 1, 3, None, value, letter.headers))


def _check_prediction(encoder: PredictionEncoder, value: bytes, batch: Any) -> None:
    written = encoder.encode([3], [4], [value], batch, ["a"], np.array([[0.25, 0.75]]))[0]
    try:
        event = _event("predictions", written)
    except DriftlineError as error:
        raise Broken(f"its prediction cannot be read: {error.message[:200]}") from error
    if not isinstance(event, Prediction) or event.record_id != batch.ids[0]:
        raise Broken(f"its prediction belongs to another record: {written[:200]!r}")
    time_us = batch.times_us[0]
    if event.time != (None if time_us is None else format_time(time_us)):
        raise Broken("its prediction has another time")
    if event.row != batch.rows[0] or bytes(event.record).strip() != value.strip():
        raise Broken("its prediction has another row or record")
    envelope.encode(event)


def _check_beside_others(codec: RecordCodec, value: bytes, alone: Any) -> None:
    """Check that a record is decoded in a batch as it is alone."""
    both = codec.decode([value, b"{}", value])
    kept = [index for index in both.kept if index != 1]
    places = [both.kept.index(index) for index in kept]
    if len(kept) != 2 or any(both.ids[place] != alone.ids[0] for place in places):
        raise Broken("the record is decoded differently in a batch")
    for name, numbers in alone.columns.numbers.items():
        if not np.array_equal(
            both.columns.numbers[name][places], np.repeat(numbers, 2), equal_nan=True
        ):
            raise Broken(f"column {name!r} is decoded differently in a batch")


def _check_labels(name: str) -> Callable[[bytes], None]:
    codec = cache(lambda: LabelCodec(streams.stream(name)))

    def check(value: bytes) -> None:
        try:
            label = codec().decode(value)
        except DriftlineError as error:
            many = codec().decode_all([value, value])
            if many.items or len(many.rejected) != 2:
                raise Broken("the label is rejected alone and accepted in a batch") from None
            _letter(value, error.message)
            return
        many = codec().decode_all([value, b"{}", value])
        if [item for item in many.items if item.record_id == label.record_id] != [label] * 2:
            raise Broken("the label is decoded differently in a batch")
        written = codec().encode(label.record_id, label.label, at=label.at, key=label.key)
        if codec().decode(written) != label:
            raise Broken(f"the label changes when it is written and read: {written[:200]!r}")
        if streams.stream(name).axis == "time" and label.at is not None:
            format_time(label.at)

    return check


# ---- stream files, pointers, packages -----------------------------------------------------------


def _check_stream_file(value: bytes) -> None:
    stream = loads(value.decode(errors="replace"))
    RecordCodec(stream)
    LabelCodec(stream)
    _ = stream.overlap, stream.horizon, stream.block, stream.pane_size, stream.lateness


def _check_pointers(value: bytes) -> None:
    """Apply one event per line, as in the `models` topic. Three of four are signed."""
    catalog, lines = Catalog(TRUSTED), value.split(b"\n")
    for offset, line in enumerate(lines):
        try:
            catalog.apply(_of_models(line, offset))
        except DriftlineError:
            continue
    champion = catalog.champion_digest
    for again in catalog.restatements():
        catalog.apply(signed(Topics(STREAM), again))
    if catalog.champion_digest != champion:
        raise Broken("a restatement changes the champion")
    catalog.previous()
    catalog.earlier(3)
    catalog.lineage()
    pointer = catalog.pointer(MODEL, by="person", reason="r", at="2024-01-01T00:00:00Z")
    if pointer.sequence >= 2**53:
        return  # only a trusted signer can get there
    catalog.apply(signed(Topics(STREAM), pointer))
    if catalog.champion_digest != MODEL:
        raise Broken("a new pointer does not replace the current one")


def _of_models(line: bytes, offset: int) -> Message:
    try:
        key = key_of(envelope.models_decoder.decode(line))
    except (ValueError, RecursionError):
        key = CHAMPION_KEY
    record = Outgoing("s.models", line or None, key.encode(), 0)
    return said(record if offset % 4 == 3 else sign(record, SIGNER), offset)


def _pointer_seeds() -> Sequence[bytes]:
    role = (GOLDEN / "models.role.json").read_bytes().strip()
    freeze = (GOLDEN / "models.freeze.json").read_bytes().strip()
    model = (GOLDEN / "models.model.json").read_bytes().strip()
    second = role.replace(b'"id":"', b'"id":"x')
    return [role, b"\n".join((model, role, freeze, second, role)), b"\n".join((freeze, model))]


def _stream_seeds() -> Sequence[bytes]:
    return [(ROOT / "examples" / "iris.toml").read_bytes(), *streams.texts()]


TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (
        *(
            Target(f"records.{name}", streams.records(name), _check_records(name))
            for name in streams.NAMES
        ),
        *(
            Target(f"labels.{name}", streams.labels(name), _check_labels(name))
            for name in streams.NAMES
        ),
        *(
            Target(
                f"{topic}.{path.name.split('.', 1)[1].removesuffix('.json')}",
                _golden(path.name),
                _check_event(topic),
            )
            for topic in _DECODERS
            for path in sorted(GOLDEN.glob(f"{topic}.*.json"))
        ),
        Target("deadletters", streams.letters, _check_letter),
        Target("commits", streams.commits, _check_commit),
        Target("stream-file", _stream_seeds, _check_stream_file, streams.words, 100_000),
        Target("pointers", _pointer_seeds, _check_pointers, tuple, 100_000),
        Target("package", packages.seeds, packages.check, tuple, 100_000),
        Target("reference", packages.references, packages.check_reference, tuple, 100_000),
        Target("manifest", packages.manifests, packages.check_manifest, tuple, 100_000),
    )
}
