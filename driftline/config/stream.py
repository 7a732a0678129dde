"""Load a stream file, the TOML file that describes a stream: read it, check it, set its defaults.

Input: a path. Output: a frozen `Stream`. Each of its keys has a description, which `driftline
config` prints. It never connects to a broker and never reads data.
"""

import re
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from driftline.config.stream_checks import Problem, problems, unusable_number
from driftline.config.stream_keys import explain
from driftline.errors import StreamFileError

ROW: Final = "@row"  # the field in which producers number the records
AT: Final = "@at"  # the field with the position at which a label became known
ID: Final = "@id"  # as a key, this means the column with the id

Task = Literal["classification", "regression"]
Kind = Literal["number", "category"]
Axis = Literal["time", "row"]
DriftKind = Literal["data", "prediction", "quality", "performance"]
Metric = Literal["accuracy", "balanced_accuracy", "f1_macro", "mae", "rmse"]
Client = Literal["memory", "kafka-python", "librdkafka"]
Delivery = Literal["at_least_once", "exactly_once"]
Policy = Literal["harm", "drift", "schedule", "always", "never"]

DRIFT_ON: Final[tuple[DriftKind, ...]] = ("data", "performance")

# The characters that Kafka allows in topic names and that are safe in folder names. Kafka hides
# topics that start with two underscores.
_PREFIX: Final = r"^(?!__)([A-Za-z0-9_][A-Za-z0-9._-]*)?\Z"
# A thousand years. Positions in microseconds have 64 bits, and some spans are multiples of others.
_LONGEST_DAYS: Final = 1000 * 366
_LONGEST_US: Final = _LONGEST_DAYS * 86_400_000_000
_UNITS_US = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}


class Span:
    """A length of the stream: a duration in event time, or a number of records.

    >>> Span.parse("30m").us, Span.parse(500).records
    (1800000000, 500)
    """

    __slots__ = ("records", "us")

    def __init__(self, *, us: int | None = None, records: int | None = None) -> None:
        if (us is None) == (records is None):
            raise ValueError("a span is either a duration or a number of records")
        self.us = us
        self.records = records

    @classmethod
    def parse(cls, value: object) -> "Span":
        """Parse `"90s"`, `"30m"`, `"7d"` … or a whole number of records. Raises ValueError."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(records=value)
        if isinstance(value, str) and (
            found := re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", value)
        ):
            amount_us = float(found[1]) * _UNITS_US[found[2]]
            if amount_us <= _LONGEST_US:
                return cls(us=round(amount_us))
            raise ValueError(f"Expected a duration of at most {_LONGEST_DAYS}d, got {value!r}")
        raise ValueError(
            f'Expected a duration such as "90s", "30m", "7d" or a number of records, got {value!r}'
        )

    def __str__(self) -> str:
        if self.us is None:
            return f"{self.records} records"
        for unit in ("w", "d", "h", "m", "s"):
            if self.us and self.us % _UNITS_US[unit] == 0:
                return f"{self.us // _UNITS_US[unit]}{unit}"
        return f"{self.us / 1000:g}ms"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Span):
            return NotImplemented
        return (self.us, self.records) == (other.us, other.records)

    def __hash__(self) -> int:
        return hash((self.us, self.records))


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The id and the key of feature records, and which records are accepted."""

    id: Annotated[
        str, Meta(description='column with the id of the record; "@row" is the row number')
    ] = ROW
    key: Annotated[
        str, Meta(description='column that selects the Kafka partition; "@id" is the id')
    ] = ID
    drop: Annotated[tuple[str, ...], Meta(description="columns that producers do not send")] = ()
    unknown_columns: Annotated[
        Literal["ignore", "refuse"],
        Meta(description="what to do with a column that this file does not declare"),
    ] = "ignore"
    missing: Annotated[
        Literal["dead_letter", "impute"],
        Meta(
            description="what to do if a declared column is absent or null; impute: use the "
            "median, or a category of its own"
        ),
    ] = "dead_letter"
    unseen: Annotated[
        Literal["dead_letter", "score"],
        Meta(
            description="what to do with a category that was not in the training data; score: as "
            "none of the known ones"
        ),
    ] = "score"


class Time(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source of the event time. Without it, records are ordered only by their number."""

    column: Annotated[str | None, Meta(description="column with the event time")] = None
    format: Annotated[
        str | None,
        Meta(
            description='"rfc3339", "unix_s", "unix_ms" or a strptime pattern (without zone: UTC)'
        ),
    ] = None
    start: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="time = start + step × column (default: the row number)"),
    ] = None
    step: Annotated[Span | None, Meta(description="duration of one step")] = None
    sequence: Annotated[
        Literal["@row"] | None, Meta(description="records have no event time, only numbers")
    ] = None


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input of the model."""

    kind: Annotated[Kind, Meta(description="number or category")]
    watch: Annotated[bool, Meta(description="whether to test the column for drift")] = True
    unit: Annotated[
        str | None, Meta(description="unit of the values, for readers of this file")
    ] = None
    min: Annotated[float | None, Meta(description="smaller values are out of range")] = None
    max: Annotated[float | None, Meta(description="larger values are out of range")] = None


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The longest wait for labels."""

    horizon: Annotated[
        Span | None,
        Meta(description="longest time from a record to its label; later labels do not count"),
    ] = None


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The windows that are tested for drift. A pane is a twentieth of a window."""

    records: Annotated[
        Annotated[int, Meta(ge=20)] | None, Meta(description="length of a window in record numbers")
    ] = None
    span: Annotated[Span | None, Meta(description="length of a window in event time")] = None
    slide: Annotated[
        Span | None,
        Meta(
            description="step from one window to the next: half, a quarter, fifth, tenth or "
            "twentieth of a window; default: a whole window, so that windows do not "
            "overlap"
        ),
    ] = None
    lateness: Annotated[
        Span | None,
        Meta(description="how far out of order a record may arrive within its partition"),
    ] = None
    max_ahead: Annotated[
        Span | None,
        Meta(
            description="a record that is further ahead of its partition does not advance time, "
            "until ten in a row agree; default: one window"
        ),
    ] = None
    min_records: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="smallest number of records of a model that is tested"),
    ] = 100
    max_sample: Annotated[
        Annotated[int, Meta(ge=100)],
        Meta(description="largest number of records of a window that its tests use"),
    ] = 10_000
    idle: Annotated[
        Span,
        Meta(description="a partition without records for this long no longer delays windows"),
    ] = Span(us=10_000_000)


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules by which drift events are opened and resolved."""

    false_alarm_rate: Annotated[
        Annotated[float, Meta(gt=0, lt=1)],
        Meta(
            description="accepted rate of drift events per window without drift, for all columns "
            "together"
        ),
    ] = 0.005
    block: Annotated[
        Span | None,
        Meta(
            description="distance at which records are independent, such as a day or a week; "
            "default: estimated"
        ),
    ] = None
    decided_by: Annotated[
        Literal["score", "test"],
        Meta(
            description="what decides whether a column drifted; score: its score, calibrated on "
            "the reference; test: Evidently's test alone, and pairs of columns are not tested"
        ),
    ] = "score"
    number_test: Annotated[
        str,
        Meta(description="Evidently's test for numbers, reported in addition to the score"),
    ] = "ks"
    category_test: Annotated[
        str, Meta(description="Evidently's test for categories, reported in the same way")
    ] = "chisquare"
    effect_size: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(
            description="smallest shift that matters: Wasserstein distance in standard deviations "
            "(numbers), Jensen-Shannon distance (categories), or the named test's own distance"
        ),
    ] = 0.1
    classifier: Annotated[
        bool,
        Meta(
            description="if no column and no pair of columns drifted, test whether decision trees "
            "can distinguish the window from the reference; this takes half a second "
            "per window, 15 seconds per model and window size, and half of "
            "false_alarm_rate"
        ),
    ] = False
    detectors: Annotated[
        tuple[str, ...],
        Meta(
            description="detectors that watch errors: glr, stepd, or River's adwin, page_hinkley, "
            "ddm, hddm_a, hddm_w"
        ),
    ] = ("glr",)
    min_metric_loss: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(description="smallest increase of the error that matters, as a fraction of the error"),
    ] = 0.1
    resolve_after: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="number of windows in a row without drift that resolve an event"),
    ] = 2


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The largest number of retrain requests in any period of the stream."""

    requests: Annotated[Annotated[int, Meta(ge=1)], Meta(description="largest number of requests")]
    per: Annotated[Span, Meta(description="length of the period")]


class Retrain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules for requesting a new model, and the outcomes to train it on."""

    policy: Annotated[
        Policy,
        Meta(
            description="when to request a new model; harm: while drift lowers quality; drift: "
            "while an event of a kind in `on` is open; schedule: at intervals of "
            "`every`; always: after each window of outcomes; never"
        ),
    ] = "harm"
    renew: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(
            description="policies harm and drift: request again when there are this many times as "
            "many outcomes to learn from as at the last request, within train_on; 0: "
            "never"
        ),
    ] = 1.0
    on: Annotated[
        Annotated[tuple[DriftKind, ...], Meta(min_length=1)],
        Meta(description="policy drift: kinds of drift events for which to request a model"),
    ] = DRIFT_ON
    every: Annotated[
        Span | None,
        Meta(description="policy schedule: interval between requests; default: 10 windows"),
    ] = None
    cooldown: Annotated[
        Span | None,
        Meta(
            description="shortest time between two automatic requests; default: a quarter of a "
            "window"
        ),
    ] = None
    budget: Annotated[
        Budget | None,
        Meta(
            description="largest number of automatic requests in a period, such as { requests = 4, "
            'per = "30d" }'
        ),
    ] = None
    train_on: Annotated[
        Span | None, Meta(description="how far back outcomes are used for training")
    ] = None
    min_outcomes: Annotated[
        Annotated[int, Meta(ge=10)],
        Meta(description="smallest number of labelled records for training"),
    ] = 200
    promote: Annotated[
        Literal["auto", "manual"],
        Meta(description="auto: the trainer promotes a better model; manual: an operator does"),
    ] = "auto"


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The candidate models, and how they are compared."""

    candidates: Annotated[
        tuple[str, ...],
        Meta(
            description="logistic_regression, linear_regression, decision_tree, "
            "k_nearest_neighbours, random_forest, hist_gradient_boosting, or a class path"
        ),
    ] = ()
    holdout: Annotated[
        Annotated[float, Meta(gt=0, lt=1)],
        Meta(description="fraction of the records held out to select and judge models"),
    ] = 0.2
    split: Annotated[
        Literal["time", "stratified"],
        Meta(
            description="time: the newest records are held out; stratified: for data whose order "
            "has no meaning"
        ),
    ] = "time"
    tune: Annotated[
        bool, Meta(description="whether to try several parameters of each candidate")
    ] = True
    # NumPy's seeds have 32 bits, and tuning uses the next seed.
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=2**32 - 2)], Meta(description="seed of all random numbers")
    ] = 0


class Kafka(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Topics and delivery."""

    topic_prefix: Annotated[
        Annotated[str, Meta(pattern=_PREFIX)],
        Meta(
            description="prefix of all topics and groups: letters, digits, '.', '_' and '-', "
            "beginning with a letter, a digit or one '_'"
        ),
    ] = ""
    partitions: Annotated[
        Annotated[int, Meta(ge=1, le=1000)],
        Meta(
            description="number of partitions of features, labels, predictions and outcomes; it "
            "cannot change later"
        ),
    ] = 6
    replication_factor: Annotated[
        Annotated[int, Meta(ge=1, le=32_767)], Meta(description="replication factor of all topics")
    ] = 1
    retention: Annotated[
        Span | None,
        Meta(
            description="how long topics keep records; default: 30d, or twice horizon or train_on "
            "if that is longer"
        ),
    ] = None
    inference_delivery: Annotated[
        Delivery,
        Meta(
            description="delivery guarantee of predictions: at_least_once (faster) or exactly_once"
        ),
    ] = "at_least_once"
    max_wait_ms: Annotated[
        Annotated[int, Meta(ge=0, le=10_000)],
        Meta(description="longest wait for records before periodic work runs"),
    ] = 50
    max_batch: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="largest number of records that are handled at once"),
    ] = 2000


class LabelDelay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A random delay: an exponential distribution by its mean, or a uniform one by its bounds."""

    distribution: Annotated[Literal["exponential", "uniform"], Meta(description="its family")]
    mean: Annotated[Span | None, Meta(description="exponential: the mean delay")] = None
    low: Annotated[Span | None, Meta(description="uniform: the smallest delay")] = None
    high: Annotated[Span | None, Meta(description="uniform: the largest delay")] = None


class Simulate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The way to play a finished data set as a stream. Only `run` and `produce` use it."""

    label_delay: Annotated[
        str | int | LabelDelay,
        Meta(
            description='delay of labels: a span, a distribution, "data" (a later row with the '
            'same id has the label) or "@at" (the column `@at` has the time of the '
            "label)"
        ),
    ] = 0
    label_missing: Annotated[
        Annotated[float, Meta(ge=0, le=1)], Meta(description="fraction of labels that never arrive")
    ] = 0.0

    @property
    def delay(self) -> Span | LabelDelay | None:
        """Return the delay of labels.

        It is None if later rows have the labels, and zero if the column `@at` has their times.
        Raises ValueError if `label_delay` is not valid.
        """
        if isinstance(self.label_delay, LabelDelay):
            return self.label_delay
        if self.label_delay == AT:
            return Span(records=0)
        return None if self.label_delay == "data" else Span.parse(self.label_delay)


# Names become parts of file names and topic names.
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
        dict[str, Kind | Feature], Meta(description="columns that the model reads, with their kind")
    ]
    metric: Annotated[
        Metric | None,
        Meta(description="metric that judges models; default: accuracy, or mae for regression"),
    ] = None
    baseline: Annotated[
        Literal["prior", "previous_label"],
        Meta(
            description="baseline to compare with: prior (most frequent label, or mean) or "
            "previous_label"
        ),
    ] = "prior"
    record: Annotated[Record, Meta(description="identity and policies of a record")] = Record()
    time: Annotated[Time, Meta(description="event time")] = Time(sequence=ROW)
    derived: Annotated[
        dict[str, str], Meta(description="features computed from columns: name = expression")
    ] = {}
    labels: Annotated[Labels, Meta(description="labels, which arrive later than their records")] = (
        Labels()
    )
    windows: Annotated[Windows, Meta(description="windows of the monitor")] = Windows()
    drift: Annotated[Drift, Meta(description="drift events")] = Drift()
    retrain: Annotated[Retrain, Meta(description="retraining")] = Retrain()
    models: Annotated[Models, Meta(description="candidates")] = Models()
    kafka: Annotated[Kafka, Meta(description="topics and delivery")] = Kafka()
    simulate: Annotated[Simulate, Meta(description="how `run` and `produce` play a data set")] = (
        Simulate()
    )

    # `load` fills in the defaults that depend on other keys, such as the metric and most spans.
    # These properties return them with types that exclude None.

    @property
    def inputs(self) -> dict[str, Feature]:
        """Return the declared features by column name, in the order of the file."""
        return {
            name: spec if isinstance(spec, Feature) else Feature(kind=spec)
            for name, spec in self.features.items()
        }

    @property
    def judged_by(self) -> Metric:
        """Return the metric by which models are compared."""
        return self.metric or ("accuracy" if self.task == "classification" else "mae")

    @property
    def has_time(self) -> bool:
        """Return whether records have an event time. Otherwise they have only numbers."""
        return self.time.sequence is None

    @property
    def axis(self) -> Axis:
        """Return the axis of the windows: event time, or record numbers."""
        return "row" if self.windows.records is not None else "time"

    @property
    def watermark_offset(self) -> int:
        """Return what is added to a position for the watermark: minus the lateness. On the
        row axis also one: row 5,000 comes after row 4,999, but two records may have one time."""
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
        return _amount(self.windows.records or self.windows.span)

    @property
    def overlap(self) -> int:
        """Return how many windows each record is in: 1, 2, 4, 5, 10 or 20."""
        return self.window_size // (_amount(self.windows.slide) or self.window_size)

    @property
    def horizon(self) -> int:
        """Return the join window, how long a prediction and its label wait for each other.

        It is on the axis of the windows, in microseconds or records.
        """
        return self._on_axis(self.labels.horizon)

    @property
    def block(self) -> int | None:
        """Return the distance at which records are independent, or None if it is estimated.

        It is on the axis of the windows, in microseconds or records.
        """
        return None if self.drift.block is None else self._on_axis(self.drift.block)

    def _on_axis(self, span: Span | None) -> int:
        step = self.time.step
        if span is not None and span.us is not None and self.axis == "row" and step is not None:
            return span.us // max(1, _amount(step))
        return _amount(span)

    @property
    def pane_size(self) -> int:
        """Return the length of a pane, a twentieth of a window on the same axis, at least 1."""
        return max(1, self.window_size // 20)

    @property
    def lateness(self) -> int:
        """Return how far out of order records of a partition may be, on the axis of the windows."""
        return _amount(self.windows.lateness or 0)

    @property
    def max_ahead(self) -> int:
        """Return how far one record may advance the time of its partition.

        It is on the axis of the windows, in microseconds or records.
        """
        return _amount(self.windows.max_ahead) or self.window_size


def _amount(value: "Span | int | None") -> int:
    if isinstance(value, Span):
        return value.us if value.us is not None else value.records or 0
    return value or 0


def load(path: str | Path) -> Stream:
    """Read a stream file, check it and fill in its defaults.

    Raises StreamFileError with the file, the key and what was expected.
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
    """Load a stream from the text of a stream file. Errors start with `name`.

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
        _refuse(unusable_number(raw), name)
        stream = msgspec.convert(raw, Stream, dec_hook=_decode_span)
    except msgspec.ValidationError as error:
        problem = explain(str(error), raw, Stream, _fits)
        raise StreamFileError(f"{name}: {problem}") from error
    except RecursionError as error:  # raised for a key with thousands of dots
        raise _too_deep(name) from error
    stream = _with_defaults(stream)
    _refuse(next(problems(stream), None), name)
    return stream


def _refuse(problem: Problem | None, name: str) -> None:
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
    """Fill in the defaults that depend on other keys. Values may not fit together yet."""
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
    train_on = retrain.train_on or _several(windows, 10)
    enough_us = max(30 * _UNITS_US["d"], 2 * (horizon.us or 0), 2 * (train_on.us or 0))
    linear = "logistic_regression" if stream.task == "classification" else "linear_regression"
    candidates = stream.models.candidates or (linear, "decision_tree", "k_nearest_neighbours")
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
            train_on=train_on,
            every=retrain.every or _several(windows, 10),
        ),
        models=replace(stream.models, candidates=candidates),
        kafka=replace(stream.kafka, retention=stream.kafka.retention or Span(us=enough_us)),
    )


def _several(windows: Windows, count: float) -> Span:
    """Return the length of this many windows, and at least one record if windows have records."""
    if windows.records is not None:
        return Span(records=max(1, int(count * windows.records)))
    return Span(us=int(count * _amount(windows.span)))
