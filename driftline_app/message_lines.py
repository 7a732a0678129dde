"""Format a message from any topic as one line: text for users, or JSON for programs."""

import msgspec

from driftline.broker.port import Message
from driftline.errors import DataError
from driftline.safe_text import json_line, visible, visible_json
from driftline.wire.envelope import (
    dead_letter_origin,
    decode,
    drift_decoder,
    models_decoder,
    outcomes_decoder,
    parts_decoder,
    predictions_decoder,
    retrain_decoder,
    windows_decoder,
)
from driftline.wire.events import (
    ComparisonStarted,
    DriftEvent,
    Freeze,
    Gap,
    Log,
    ModelAnnounced,
    ModelsEvent,
    Outcome,
    OutcomesEvent,
    Prediction,
    PredictionsEvent,
    RejectedRecord,
    RetrainDecision,
    RetrainEvent,
    RetrainRequest,
    RolePointer,
    Watermark,
)
from driftline.wire.partial_aggregates import DataAggregates, PartsEvent
from driftline.wire.topics import Role
from driftline.wire.values import publish_time
from driftline.wire.window_events import (
    DataWindow,
    PerformancePane,
    PerformanceWindow,
    WindowsEvent,
)

# Number of hex digits to print for a digest. `models show` and `trace` accept these short digests.
_DIGEST_DIGITS = 12


def line(role: Role, message: Message) -> str:
    """Return a message as text without line breaks or other control characters."""
    try:
        return visible(_described(role, message))
    except DataError:
        return f"unreadable: {plain(message.value)}"


def plain(value: bytes | None) -> str:
    """Return bytes as one line of text. Non-printable characters are escaped."""
    if value is None:
        return "(deleted)"
    text = value.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short_digest(digest: str | None) -> str:
    """Return the first digits of a digest, enough to distinguish models.

    >>> short_digest("sha256:0123456789abcdef")
    '0123456789ab'
    """
    return "none" if digest is None else digest.removeprefix("sha256:")[:_DIGEST_DIGITS]


def moment(timestamp_ms: int) -> str:
    """Return a publish time as text, in UTC."""
    return publish_time(timestamp_ms).removesuffix("+00:00").replace("T", " ")


def _described(role: Role, message: Message) -> str:
    match role:
        case "features" | "labels":
            return plain(message.value)
        case "predictions":
            return _scored(decode(predictions_decoder, message), "record")
        case "outcomes":
            return _scored(decode(outcomes_decoder, message), "label")
        case "parts":
            return _parts(decode(parts_decoder, message))
        case "windows":
            return _window(decode(windows_decoder, message))
        case "drift":
            return _drift(decode(drift_decoder, message))
        case "retrain":
            return _retrain(decode(retrain_decoder, message))
        case "models":
            return "(deleted)" if message.value is None else _model(decode(models_decoder, message))
        case "deadletters":
            origin = dead_letter_origin(message)
            where = f"{origin.topic}[{origin.partition}]@{origin.offset}"
            return f"{origin.service} rejected {where}: {origin.reason}"


def _scored(event: PredictionsEvent | OutcomesEvent, what: str) -> str:
    match event:
        case Watermark(dead_letter=RejectedRecord(offset=offset)):
            return f"dead letter: the {what} at offset {offset} was rejected"
        case Watermark(gaps=(Gap(start=start, end=end, topic=topic), *_)):
            until = "the end of the old topic" if end is None else f"{end - 1}"
            of = f" of {topic}" if topic else ""
            return f"gap: the records{of} from offset {start} to {until} were deleted unread"
        case Watermark(log=Log(topic_id=topic_id, offset=offset)):
            return f"log: the next records are from topic id {topic_id}, from offset {offset}"
        case Watermark():
            return f"watermark: no more records before {event.position}"
        case Outcome():
            revised = f", revision {event.revision}" if event.revision else ""
            return f"{_where(event)}: predicted {event.prediction}, label {event.label}{revised}"
        case Prediction():
            score = ""
            if event.scores is not None:
                score = f" ({event.scores.get(str(event.prediction), 0):.2f})"
            model = short_digest(event.model)
            return f"{_where(event)}: {event.prediction}{score} by {model}"


def _where(event: Prediction | Outcome) -> str:
    """Return the record's id with its time or, if it has no time, its row number.

    The row number is left out if it equals the id.
    """
    if event.time is not None:
        return f"{event.record_id} at {event.time}"
    if event.row is not None and str(event.row) != event.record_id:
        return f"{event.record_id} (row {event.row})"
    return event.record_id


def _parts(event: PartsEvent) -> str:
    if isinstance(event, DataAggregates):
        what, cells = "slices", {part.index for part in event.slices}
        records = sum(group.records for part in event.slices for group in part.groups)
    else:
        what, cells = "panes", {part.index for part in event.panes}
        records = sum(model.records for part in event.panes for model in part.models)
    more = "incomplete" if event.passed is None else f"{what} before {event.passed} are closed"
    return f"partition {event.partition}: {records} records in {len(cells)} {what}, {more}"


def _window(event: WindowsEvent) -> str:
    span = f"{event.start} to {event.end}, {event.records} records"
    match event:
        case DataWindow():
            columns = dict.fromkeys(
                result.column
                for group in event.groups
                for result in (*group.columns, *([group.prediction] if group.prediction else []))
                if result.drifted
            )
            drifted = f"drifted: {', '.join(columns)}" if columns else "no drift"
            return f"data window {event.index}: {span}, {drifted}{_late(event.late)}"
        case PerformanceWindow():
            value = "none" if event.value is None else f"{event.value:.4f}"
            text = f"performance window {event.index}: {span}, {event.metric} {value}"
            lost = f", {event.lost} deleted unread" if event.lost else ""
            letters = f", {event.dead_letters} dead letters" if event.dead_letters else ""
            return text + _late(event.late) + letters + lost
        case PerformancePane():
            mean = sum(event.errors) / len(event.errors) if event.errors else 0.0
            return f"pane {event.index}: {span}, mean error {mean:.4f}"


def _late(count: int) -> str:
    return f", {count} late" if count else ""


def _drift(event: DriftEvent) -> str:
    return f"{event.id} {event.kind} {event.action} at {event.position}: {event.message}"


def _retrain(event: RetrainEvent) -> str:
    match event:
        case RetrainRequest():
            return f"{event.id} requested ({event.cause}): {event.reason}"
        case ComparisonStarted():
            challenger = short_digest(event.challenger)
            return f"{event.request} compares {challenger} with the champion: {event.reason}"
        case RetrainDecision():
            what = "promoted" if event.promoted else "published" if event.published else "no model"
            return f"{event.request} decided: {what}: {event.reason}"


def _model(event: ModelsEvent) -> str:
    match event:
        case ModelAnnounced():
            value = f"{event.metric} {event.value:.4f}"
            return f"{short_digest(event.digest)} announced: {event.candidate}, {value}"
        case RolePointer():
            by = "operator" if event.by == "person" else event.by
            return f"{short_digest(event.digest)} is {event.role}, by {by}: {event.reason}"
        case Freeze():
            return f"{'frozen' if event.frozen else 'no longer frozen'}: {event.reason}"


def printed(message: Message, role: Role) -> str:
    """Return a message as one line of JSON.

    The line is the message's value. A dead letter, or a value that is not JSON, is wrapped in an
    object with the message's topic, partition and offset.
    """
    value = message.value or b"null"
    if role != "deadletters":
        try:
            return visible_json(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # a feature record may contain any bytes, which are printed as text
    envelope: dict[str, object] = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "value": plain(message.value),
    }
    if role == "deadletters":
        envelope["headers"] = {name: plain(text) for name, text in message.headers}
    return json_line(envelope)
