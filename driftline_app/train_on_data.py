"""Train a stream's model on a data set's labelled rows, and publish it to the `models` topic."""

from collections.abc import Callable
from contextlib import closing

import msgspec

from driftline.clock import SystemClock
from driftline.config.measure import Metric
from driftline.config.simulate_section import Simulate
from driftline.config.stream import Stream
from driftline.errors import DataError
from driftline.models.package import Scoring
from driftline.wire.events import Removed, Trial, Value
from driftline.wire.labels import LabelCodec
from driftline.wire.topics import Topics, require
from driftline_app.champion_change import catalog_of
from driftline_app.context import Context
from producers.playback import Playback
from producers.sources import open_source
from trainer.first import train_first


class TrainResult(msgspec.Struct, frozen=True):
    """The output of `driftline train --json`."""

    digest: str
    candidate: str
    parameters: dict[str, str | int | float | bool | None]
    scoring: Scoring
    scoring_reason: str
    metric: Metric
    value: float
    rows: int
    promoted: bool
    removed: tuple[Removed, ...]
    trials: tuple[Trial, ...]


def train_on_data(
    context: Context,
    data: str,
    *,
    limit: int | None,
    promote: bool,
    progress: Callable[[str, int, int | None], None],
) -> TrainResult:
    """Train a model and publish it. If the stream has no champion, the model becomes the champion.

    `limit` is the maximum number of rows to read. With `promote`, the model replaces the champion.
    Raises DriftlineError.
    """
    stream, topics = context.stream, Topics(context.stream)
    with closing(context.broker.admin()) as admin:
        require(admin, topics)  # fail before training, not after it
    catalog = catalog_of(context)
    promote = promote or catalog.champion is None
    progress("reading", 0, None)
    records, labels = labelled_records(stream, data, limit)
    trained = train_first(
        stream,
        records,
        labels,
        settings=context.settings,
        clock=SystemClock(),
        catalog=catalog,
        promote=promote,
        progress=progress,
    )
    with closing(context.broker.producer(client_id="driftline-train")) as producer:
        for record in trained.records:
            producer.send(record)
        producer.flush()
    manifest = trained.manifest
    return TrainResult(
        digest=trained.digest,
        candidate=manifest.candidate,
        parameters=manifest.parameters,
        scoring=manifest.scoring,
        scoring_reason=manifest.scoring_reason,
        metric=manifest.metric,
        value=manifest.value,
        rows=manifest.rows,
        promoted=promote,
        removed=manifest.removed,
        trials=manifest.trials,
    )


def labelled_records(
    stream: Stream, data: str, limit: int | None = None
) -> tuple[list[bytes], list[Value]]:
    """Return a data set's labelled records, encoded as in the features topic, and their labels.

    `limit` is the maximum number of rows to read. Raises DataError if no row has a label.
    """
    own = stream.simulate.delay is None
    playback = Playback(
        msgspec.structs.replace(stream, simulate=Simulate(label_delay="data" if own else 0)),
        open_source(data),
        limit=limit,
    )
    codec = LabelCodec(stream)
    waiting: dict[str, bytes] = {}
    records: list[bytes] = []
    labels: list[Value] = []
    for play in playback.play():
        if play.record_id is None:
            continue  # the row is not a valid record, so the codec would reject it
        if play.kind == "record":
            waiting[play.record_id] = play.value
        elif (record := waiting.pop(play.record_id, None)) is not None:
            try:
                label = codec.decode(play.value).label
            except DataError:
                continue  # the outcomes service would reject the label, so skip the record
            records.append(record)
            labels.append(label)
    if not records:
        playback.require_columns()
        raise DataError(
            f"{data}: no row has a label in column {stream.target!r}",
            hint="the data must have the stream file's `target` column",
        )
    return records, labels
