"""Define the tables of a stream file, such as [windows] and [drift], as frozen structs.

Each key has a default and a description, which `driftline config` prints.
"""

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from driftline.config.spans import Span

ROW: Final = "@row"  # field of a feature record: its record number, which producers set
AT: Final = "@at"  # field of a label: the position at which the label became known
ID: Final = "@id"  # value of `[record] key`: use the record id as the key

Task = Literal["classification", "regression"]
Kind = Literal["number", "category"]
Axis = Literal["time", "row"]
DriftKind = Literal["data", "prediction", "quality", "performance"]
Client = Literal["memory", "kafka-python", "librdkafka"]
Delivery = Literal["at_least_once", "exactly_once"]
Policy = Literal["harm", "drift", "schedule", "always", "never"]

DRIFT_ON: Final[tuple[DriftKind, ...]] = ("data", "performance")

# Allow only characters that Kafka allows in topic names and that are safe in folder names. Kafka
# hides topics whose names start with two underscores.
_PREFIX: Final = r"^(?!__)([A-Za-z0-9_][A-Za-z0-9._-]*)?\Z"


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ids and keys of feature records, and the rules for accepting records."""

    id: Annotated[
        str, Meta(description='column with the record id; "@row": the row number is the id')
    ] = ROW
    key: Annotated[
        str, Meta(description='column that selects the Kafka partition; "@id": the id column')
    ] = ID
    drop: Annotated[tuple[str, ...], Meta(description="columns that producers do not send")] = ()
    unknown_columns: Annotated[
        Literal["ignore", "refuse"],
        Meta(description="what to do with a column that this file does not declare"),
    ] = "ignore"
    missing: Annotated[
        Literal["dead_letter", "impute"],
        Meta(
            description="what to do if a declared column is absent or null; impute: replace a "
            "missing number with the median, and treat missing categories as a separate category"
        ),
    ] = "dead_letter"
    unseen: Annotated[
        Literal["dead_letter", "score"],
        Meta(
            description="what to do with a category that was not in the training data; score: "
            "score the record as if it had none of the trained categories"
        ),
    ] = "score"


class Time(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source of the event time. Without event times, only row numbers order the records."""

    column: Annotated[str | None, Meta(description="column with the event time")] = None
    format: Annotated[
        str | None,
        Meta(
            description='"rfc3339", "unix_s", "unix_ms" or a strptime pattern (without zone: UTC)'
        ),
    ] = None
    start: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="event time = start + step × column (default: × row number)"),
    ] = None
    step: Annotated[Span | None, Meta(description="duration of one step")] = None
    sequence: Annotated[
        Literal["@row"] | None, Meta(description="records have no event time, only row numbers")
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
    """The longest delay after which a label is still joined with its prediction."""

    horizon: Annotated[
        Span | None,
        Meta(
            description="longest time from a record to its label; later labels are not joined with "
            "predictions; default: 10 windows"
        ),
    ] = None


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The windows that are tested for drift. A pane is a twentieth of a window."""

    records: Annotated[
        Annotated[int, Meta(ge=20)] | None, Meta(description="length of a window in records")
    ] = None
    span: Annotated[Span | None, Meta(description="length of a window in event time")] = None
    slide: Annotated[
        Span | None,
        Meta(
            description="distance between the starts of consecutive windows: a whole window, or a "
            "half, quarter, fifth, tenth or twentieth of a window; default: a whole window, so "
            "that windows do not overlap"
        ),
    ] = None
    lateness: Annotated[
        Span | None,
        Meta(description="how far out of order a record may arrive within its partition"),
    ] = None
    max_ahead: Annotated[
        Span | None,
        Meta(
            description="how far one record may advance its partition's clock; a larger jump needs "
            "ten consecutive records that are ahead; default: one window"
        ),
    ] = None
    min_records: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(
            description="a window is tested if it contains at least this many of a model's records"
        ),
    ] = 100
    max_sample: Annotated[
        Annotated[int, Meta(ge=100)],
        Meta(description="largest number of records per window that the tests use"),
    ] = 10_000
    idle: Annotated[
        Span,
        Meta(description="time without records after which a partition stops delaying windows"),
    ] = Span(us=10_000_000)


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules for opening and resolving drift events."""

    false_alarm_rate: Annotated[
        Annotated[float, Meta(gt=0, lt=1)],
        Meta(
            description="accepted rate of false drift events per window, for all columns together"
        ),
    ] = 0.005
    block: Annotated[
        Span | None,
        Meta(
            description="distance at which records are independent, such as a day or a week; "
            "a model's errors are compared at the same phase of it, beginning with the model's "
            "second block; default: estimated, without phases"
        ),
    ] = None
    decided_by: Annotated[
        Literal["score", "test"],
        Meta(
            description="what decides whether a column drifted; score: the column's score, "
            "calibrated on the reference; test: Evidently's test alone, without tests of column "
            "pairs"
        ),
    ] = "score"
    number_test: Annotated[
        str,
        Meta(description="Evidently's test for numbers; its result is reported with the score"),
    ] = "ks"
    category_test: Annotated[
        str,
        Meta(description="Evidently's test for categories; its result is reported with the score"),
    ] = "chisquare"
    effect_size: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(
            description="smallest shift that matters: Wasserstein distance in standard deviations "
            "for numbers, Jensen-Shannon distance for categories, or the configured test's own "
            "distance"
        ),
    ] = 0.1
    classifier: Annotated[
        bool,
        Meta(
            description="for windows without drifted columns or column pairs: whether to test if "
            "decision trees can distinguish the window from the reference; the test costs half a "
            "second per window, 15 seconds per model and window size, and half of false_alarm_rate"
        ),
    ] = False
    detectors: Annotated[
        tuple[str, ...],
        Meta(
            description="detectors of increases in a model's error: glr, stepd, or River's adwin, "
            "page_hinkley, ddm, hddm_a, hddm_w"
        ),
    ] = ("glr",)
    min_metric_loss: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(
            description="smallest increase of the error that matters, as a fraction of the earlier "
            "error"
        ),
    ] = 0.1
    resolve_after: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="number of consecutive windows without drift that resolve an event"),
    ] = 2


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The largest number of automatic retrain requests in any period of length `per`."""

    requests: Annotated[Annotated[int, Meta(ge=1)], Meta(description="largest number of requests")]
    per: Annotated[Span, Meta(description="length of the period")]


class Retrain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules for requesting, training and promoting a new model."""

    policy: Annotated[
        Policy,
        Meta(
            description="when to request a new model; harm: while drift lowers the model's "
            "quality, as labels show or, before they arrive, as estimates show; drift: while an "
            "event of a kind in `on` is open; schedule: at intervals of `every`; always: after "
            "each window of outcomes; never: only on manual request"
        ),
    ] = "harm"
    renew: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(
            description="policies harm and drift: repeat a request when there are this many times "
            "as many new outcomes as the last request could train on, until train_on, if set, has "
            "passed since the original request; 0: never"
        ),
    ] = 1.0
    on: Annotated[
        Annotated[tuple[DriftKind, ...], Meta(min_length=1)],
        Meta(description="policy drift: kinds of drift events that cause a request"),
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
        Span | None,
        Meta(description="how far back training data may go; default: to the first training"),
    ] = None
    min_outcomes: Annotated[
        Annotated[int, Meta(ge=10)],
        Meta(description="smallest number of outcomes needed for training"),
    ] = 200
    promote: Annotated[
        Literal["auto", "manual"],
        Meta(description="who promotes a better model; auto: the trainer; manual: an operator"),
    ] = "auto"


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The candidate models, and how they are compared."""

    candidates: Annotated[
        tuple[str, ...],
        Meta(
            description="models to train: logistic_regression, linear_regression, decision_tree, "
            "k_nearest_neighbours, random_forest, hist_gradient_boosting, neural_network, or a "
            "class path; default: all of these that fit the task, except neural_network"
        ),
    ] = ()
    budget: Annotated[
        Annotated[int, Meta(ge=200_000)],
        Meta(
            description="how much work a training may do to compare and tune the candidates; one "
            "unit is the work of fitting a decision tree on one row, some 8 µs"
        ),
    ] = 500_000
    keep_training_records: Annotated[
        bool,
        Meta(
            description="whether the model store keeps the records and labels of a model that is "
            "trained on a data set, so that later models can be trained on them, too"
        ),
    ] = True
    holdout: Annotated[
        Annotated[float, Meta(gt=0, lt=1)],
        Meta(description="fraction of the records held out to select and judge models"),
    ] = 0.2
    split: Annotated[
        Literal["time", "stratified"],
        Meta(
            description="which records to hold out; time: the newest; stratified: the same share "
            "of each class, for data without a meaningful order"
        ),
    ] = "time"
    tune: Annotated[
        bool, Meta(description="whether to try several parameter values for each candidate")
    ] = True
    # NumPy seeds have 32 bits, and tuning uses `seed` + 1.
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=2**32 - 2)], Meta(description="seed for all random numbers")
    ] = 0


class Kafka(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the Kafka topics and of record delivery."""

    topic_prefix: Annotated[
        Annotated[str, Meta(pattern=_PREFIX)],
        Meta(
            description="prefix of all topic and group names: letters, digits, '.', '_' and '-', "
            "beginning with a letter, a digit or one '_'"
        ),
    ] = ""
    partitions: Annotated[
        Annotated[int, Meta(ge=1, le=1000)],
        Meta(
            description="number of partitions of features, labels, predictions and outcomes; it "
            "cannot be changed later"
        ),
    ] = 6
    replication_factor: Annotated[
        Annotated[int, Meta(ge=1, le=32_767)], Meta(description="replication factor of all topics")
    ] = 1
    retention: Annotated[
        Span | None,
        Meta(
            description="how long topics keep records; default: 30d, twice labels.horizon or twice "
            "retrain.train_on, whichever is longest"
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
        Meta(description="longest wait for records, in milliseconds, before periodic work runs"),
    ] = 50
    max_batch: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="largest number of records that a service handles at once"),
    ] = 2000
