"""Read labelled data files, train Driftline's model on each set's first fifth, and score the rest.

Input: a folder of data sets (`name/data.csv.gz`, with rows in stream order). Output: the model's
reference, its predictions for all later records, and these records' labels.
"""

import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
from numpy.typing import NDArray

from benchmarks.evidence.sets import SETS, DataSet
from driftline.clock import ManualClock
from driftline.config.measure import Metric
from driftline.config.settings import load_settings
from driftline.config.stream import Stream, loads
from driftline.learning.metrics import answers_of, evaluate
from driftline.models.load import ModelLoader
from driftline.models.package_reference import Reference
from driftline.models.score import Scores
from driftline.wire.columns import Columns
from driftline.wire.feature_records import RecordCodec
from producers.draft import window_records
from trainer.first import train_first

# The share of the rows that `driftline run` trains on by default.
WARM_UP: Final = 0.2


class LabelledSet(msgspec.Struct, frozen=True):
    """A data set and the metric to estimate.

    also_drop: additional columns to leave out. tuned_on: whether the set was used to choose the
    estimator; the other sets were used only for the measurement.
    """

    data: DataSet
    metric: Metric = "accuracy"
    also_drop: tuple[str, ...] = ()
    tuned_on: bool = False

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.data.name


LABELLED: Final = (
    LabelledSet(SETS["elec2"], tuned_on=True),
    LabelledSet(SETS["car_loan_nml"], tuned_on=True),
    LabelledSet(SETS["thu_sine_0123_abrupto"], tuned_on=True),
    LabelledSet(SETS["bike_sharing"], metric="mae", tuned_on=True),
    LabelledSet(SETS["noaa_weather"]),
    LabelledSet(SETS["sea_abrupt"]),
    LabelledSet(SETS["thu_mixed_0101_gradual"]),
    LabelledSet(SETS["airlines_delayed_labels"]),
    LabelledSet(SETS["california_housing_nml"]),
    LabelledSet(SETS["phishing_sites"]),
    # `weather_description` repeats `weather_main` in more detail.
    LabelledSet(SETS["metro_traffic"], metric="mae", also_drop=("weather_description",)),
)


class Followed(msgspec.Struct, frozen=True):
    """A model, and all records after its training data, with their predictions and labels."""

    stream: Stream
    reference: Reference
    window: int  # number of records in a window
    columns: Columns
    scores: Scores
    labels: NDArray[Any]

    def windows(self) -> list[slice]:
        """Return the slices of records that form complete windows, in order."""
        return [
            slice(start, start + self.window)
            for start in range(0, len(self.labels) - self.window + 1, self.window)
        ]

    def realised(self, at: slice) -> float:
        """Return the metric of the records in the slice `at`, computed from their labels."""
        measure, scores = self.stream.judged_by, self.scores
        classes, probabilities = self.reference.classes, scores.probabilities
        answers = answers_of(measure, self.labels, scores.predictions, probabilities, classes)
        return evaluate(measure, self.labels[at], answers.take(at))


def follow(chosen: LabelledSet, folder: Path, *, metric: Metric | None = None) -> Followed:
    """Train a model on a set's first fifth as Driftline does, and score all later rows.

    Rows without a label are left out. metric: overrides the set's metric.
    """
    import pandas as pd

    target = chosen.data.target
    table = pd.read_csv(chosen.data.file(folder), low_memory=False)
    table = table[table[target].notna()]
    table = table.drop(columns=[*chosen.data.no_features, *chosen.also_drop])
    is_number = chosen.metric in ("mae", "rmse")
    labels = table.pop(target)
    labels = labels.astype(float) if is_number else labels.astype(str)
    kinds = {
        str(name): "number" if values.dtype.kind in "iuf" else "category"
        for name, values in table.items()
    }
    for name, kind in kinds.items():
        if kind == "category":
            table[name] = table[name].where(table[name].isna(), table[name].astype(str))
    table["@row"] = range(len(table))
    records = [
        msgspec.json.encode({k: None if v != v else v for k, v in row.items()})
        for row in table.to_dict("records")
    ]
    stream = _stream(chosen, kinds, metric or chosen.metric)
    warm = int(len(records) * WARM_UP)
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings({"DRIFTLINE_HOME": home, "DRIFTLINE_CLIENT": "memory"})
        trained = train_first(
            stream,
            records[:warm],
            labels[:warm].tolist(),
            settings=settings,
            clock=ManualClock(0.0),
        )
        models = ModelLoader.of(settings, stream)
        model = models.load(trained.announcement)
        reference = models.reference(trained.digest)
    columns = RecordCodec(stream).decode(records[warm:]).columns
    truth: NDArray[Any] = labels[warm:].to_numpy(dtype=float if is_number else object)
    window = window_records(len(records))
    return Followed(stream, reference, window, columns, model.predict(columns), truth)


def _stream(chosen: LabelledSet, kinds: dict[str, str], metric: Metric) -> Stream:
    number = metric in ("mae", "rmse")
    features = "\n".join(f'{msgspec.json.encode(n).decode()} = "{k}"' for n, k in kinds.items())
    return loads(
        f'version = 1\nname = "{chosen.name.replace("_", "-")}"\n'
        f'task = "{"regression" if number else "classification"}"\n'
        f'target = "{chosen.data.target}"\nmetric = "{metric}"\n'
        f'[record]\nid = "@row"\nmissing = "impute"\n[features]\n{features}\n'
    )
