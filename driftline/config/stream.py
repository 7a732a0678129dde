"""Load a stream file, the TOML file that describes a stream: parse it, check it, set its defaults.

Input: a path. Output: a frozen `Stream`. Each key has a description, which `driftline config`
prints. This module never connects to a broker and never reads data.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from driftline.config.measure import Measure, Metric, default_measure
from driftline.config.simulate_section import Simulate
from driftline.config.spans import DAY_US, Span, amount
from driftline.config.stream_checks import Problem, problems, unusable_number
from driftline.config.stream_keys import explain
from driftline.config.stream_sections import (
    ROW,
    Axis,
    Drift,
    Feature,
    Kafka,
    Kind,
    Labels,
    Models,
    Record,
    Retrain,
    Task,
    Time,
    Windows,
)
from driftline.errors import StreamFileError

# Candidates besides the linear model. A neural network needs more tuning to be useful.
_DEFAULT_CANDIDATES = (
    "decision_tree",
    "k_nearest_neighbours",
    "random_forest",
    "hist_gradient_boosting",
)
# A stream's name becomes part of file names and topic names.
StreamName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]


class Stream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stream: its records, features, windows, drift rules, models and topics."""

    version: Annotated[Literal[1], Meta(description="version of the stream file format")]
    name: Annotated[
        StreamName,
        Meta(description="name of the stream: lower-case letters, digits and hyphens"),
    ]
    task: Annotated[Task, Meta(description="classification or regression")]
    target: Annotated[str, Meta(description="column to predict")]
    features: Annotated[
        dict[str, Kind | Feature],
        Meta(description="columns that the model uses, each with its kind"),
    ]
    metric: Annotated[
        Metric | Measure | None,
        Meta(
            description="metric for comparing and watching models; default: accuracy, or mae for "
            'regression; with a parameter: metric = { name = "f1", positive = "fraud" }'
        ),
    ] = None
    baseline: Annotated[
        Literal["prior", "previous_label"],
        Meta(
            description="baseline to compare models with: prior (the most frequent label, or the "
            "mean) or previous_label"
        ),
    ] = "prior"
    record: Annotated[Record, Meta(description="record ids, keys and checks")] = Record()
    time: Annotated[Time, Meta(description="event time")] = Time(sequence=ROW)
    derived: Annotated[
        dict[str, str], Meta(description="features computed from columns: name = expression")
    ] = {}
    labels: Annotated[Labels, Meta(description="labels, which arrive later than their records")] = (
        Labels()
    )
    windows: Annotated[Windows, Meta(description="the monitor's windows")] = Windows()
    drift: Annotated[Drift, Meta(description="drift events")] = Drift()
    retrain: Annotated[Retrain, Meta(description="retraining")] = Retrain()
    models: Annotated[Models, Meta(description="candidate models")] = Models()
    kafka: Annotated[Kafka, Meta(description="topics and delivery")] = Kafka()
    simulate: Annotated[Simulate, Meta(description="how `run` and `produce` replay a data set")] = (
        Simulate()
    )

    # `load` fills in the defaults that depend on other keys, such as the metric and most spans.
    # The properties below return the values of such keys, with types that exclude None.

    @property
    def inputs(self) -> dict[str, Feature]:
        """Return the declared features by column name, in the order of the file."""
        return {
            name: spec if isinstance(spec, Feature) else Feature(kind=spec)
            for name, spec in self.features.items()
        }

    @property
    def judged_by(self) -> Measure:
        """Return the metric by which models are compared and watched."""
        if self.metric is None:
            return default_measure(self.task)
        return self.metric if isinstance(self.metric, Measure) else Measure(self.metric)

    @property
    def has_time(self) -> bool:
        """Return whether records have an event time. Otherwise, they have only row numbers."""
        return self.time.sequence is None

    @property
    def axis(self) -> Axis:
        """Return the windows' axis: "time" for event time, or "row" for record numbers."""
        return "row" if self.windows.records is not None else "time"

    @property
    def watermark_offset(self) -> int:
        """Return the number to add to a position to get the watermark: minus the lateness, plus 1
        on the row axis. The next row number is 1 higher; the next event time may be the same."""
        return (1 if self.axis == "row" else 0) - self.lateness

    @property
    def needs_row(self) -> bool:
        """Return whether producers must number the records (field `@row`)."""
        retrain = self.retrain
        spans = (
            self.labels.horizon,
            retrain.cooldown,
            retrain.train_on,
            retrain.every if retrain.policy == "schedule" else None,
            retrain.budget.per if retrain.budget else None,
        )
        return (
            self.axis == "row"
            or ROW in (self.record.id, self.record.key)
            or not self.has_time
            or self.time.column is None
            or any(span is not None and span.records is not None for span in spans)
        )

    @property
    def window_size(self) -> int:
        """Return the length of a window on its axis, in microseconds or records."""
        return amount(self.windows.records or self.windows.span)

    @property
    def overlap(self) -> int:
        """Return the number of windows that contain each record: 1, 2, 4, 5, 10 or 20."""
        return self.window_size // (amount(self.windows.slide) or self.window_size)

    @property
    def horizon(self) -> int:
        """Return the join window: how long a prediction and its label wait for each other.

        The length is measured on the windows' axis, in microseconds or records.
        """
        return self._on_axis(self.labels.horizon)

    @property
    def block(self) -> int | None:
        """Return the distance beyond which records are independent; None if it must be estimated.

        The distance is measured on the windows' axis, in microseconds or records.
        """
        return None if self.drift.block is None else self._on_axis(self.drift.block)

    def _on_axis(self, span: Span | None) -> int:
        step = self.time.step
        if span is not None and span.us is not None and self.axis == "row" and step is not None:
            return span.us // max(1, amount(step))
        return amount(span)

    @property
    def pane_size(self) -> int:
        """Return the length of a pane on the windows' axis: a twentieth of a window, at least 1."""
        return max(1, self.window_size // 20)

    @property
    def lateness(self) -> int:
        """Return how far out of order a partition's records may be, on the windows' axis."""
        return amount(self.windows.lateness or 0)

    @property
    def max_ahead(self) -> int:
        """Return how far one record may advance its partition's largest accepted position.

        The distance is measured on the windows' axis, in microseconds or records.
        """
        return amount(self.windows.max_ahead) or self.window_size


def load(path: str | Path) -> Stream:
    """Read a stream file, check it and fill in its defaults.

    Raises StreamFileError, whose message contains the file, the key and the expected value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StreamFileError(f"{path}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise StreamFileError(
            f"{path}: {error.strerror or error}",
            hint="`driftline init DATA --target COLUMN` writes a stream file",
        ) from error
    return loads(text, name=str(path))


def loads(text: str, *, name: str = "stream file") -> Stream:
    """Load a stream from the text of a stream file. Error messages start with `name`.

    Raises StreamFileError.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StreamFileError(f"{name}: not TOML: {error}") from error
    except ValueError as error:  # raised for a number with thousands of digits
        raise StreamFileError(f"{name}: a number is too long: {error}") from error
    except RecursionError as error:
        raise _too_deep(name) from error
    try:
        _raise_for(unusable_number(raw), name)
        stream = msgspec.convert(raw, Stream, dec_hook=_decode_span)
    except msgspec.ValidationError as error:
        problem = explain(str(error), raw, Stream, _fits)
        raise StreamFileError(f"{name}: {problem}") from error
    except RecursionError as error:  # raised for a key with thousands of dots
        raise _too_deep(name) from error
    stream = _with_defaults(stream)
    _raise_for(next(problems(stream), None), name)
    return stream


def _raise_for(problem: Problem | None, name: str) -> None:
    if problem is not None:
        raise StreamFileError(f"{name}: [{problem.key}] {problem.reason}", hint=problem.hint)


def _too_deep(name: str) -> StreamFileError:
    return StreamFileError(f"{name}: arrays or tables are nested too deeply")


def _decode_span(kind: type, value: object) -> Any:
    if kind is Span:
        return Span.parse(value)
    raise NotImplementedError(f"no decoder for {kind}")


def _fits(kind: Any, value: object) -> bool:
    try:
        msgspec.convert(value, kind, dec_hook=_decode_span)
    except msgspec.ValidationError:
        return False
    return True


def _with_defaults(stream: Stream) -> Stream:
    """Fill in the defaults that depend on other keys, before `problems` checks the values."""
    replace = msgspec.structs.replace
    time, windows, retrain = stream.time, stream.windows, stream.retrain
    if time.sequence is None and time.start is None and time.format is None:
        time = replace(time, format="rfc3339")
    if windows.records is None and windows.span is None:
        windows = replace(windows, records=1000)
    windows = replace(
        windows,
        lateness=windows.lateness or (Span(us=0) if windows.records is None else Span(records=0)),
        max_ahead=windows.max_ahead or _several(windows, 1),
    )
    horizon = stream.labels.horizon or _several(windows, 10)
    reach_us = 0 if retrain.train_on is None else retrain.train_on.us or 0
    enough_us = max(30 * DAY_US, 2 * (horizon.us or 0), 2 * reach_us)
    linear = "logistic_regression" if stream.task == "classification" else "linear_regression"
    candidates = stream.models.candidates or (linear, *_DEFAULT_CANDIDATES)
    return replace(
        stream,
        metric=stream.judged_by,
        features=stream.inputs,
        time=time,
        windows=windows,
        labels=replace(stream.labels, horizon=horizon),
        retrain=replace(
            retrain,
            cooldown=retrain.cooldown or _several(windows, 0.25),
            every=retrain.every or _several(windows, 10),
        ),
        models=replace(stream.models, candidates=candidates),
        kafka=replace(stream.kafka, retention=stream.kafka.retention or Span(us=enough_us)),
    )


def _several(windows: Windows, count: float) -> Span:
    """Return the length of `count` windows, but at least one record on the row axis."""
    if windows.records is not None:
        return Span(records=max(1, int(count * windows.records)))
    return Span(us=int(count * amount(windows.span)))
