"""Compare the estimated harm with the realised harm when a column's meaning changes.

Input: generated records with a temperature and a load, and a model of each candidate kind. Output:
for windows that are like the reference, that report Fahrenheit instead of Celsius, or whose
temperature is frozen: the realised error, the error estimated without labels, and the event's harm.
"""

import sys
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.options import options
from driftline.config.measure import Measure
from driftline.config.stream import loads
from driftline.learning.metrics import Answers, losses
from driftline.models.package_reference import Reference
from driftline.wire.columns import Columns
from monitor.bottom_k_sample import Sample
from monitor.class_scores import ClassScores, packed
from monitor.estimates.harm import harm_of
from monitor.reference.references import estimator_for

Floats = NDArray[np.float64]
Rng = np.random.Generator

ACCURACY: Final = Measure("accuracy")
CLASSES: Final = ("no", "yes")
TRAINING: Final = 4_000
HELD_OUT: Final = 2_000
WINDOW: Final = 1_000
WINDOWS: Final = ("as in training", "in Fahrenheit", "frozen")


class Result(msgspec.Struct, frozen=True):
    """One table row. `harm` is None if it is unknown."""

    model: str
    window: str
    realised: float
    estimated: float
    harm: float | None


def draw(rng: Rng, rows: int) -> tuple[Floats, NDArray[np.object_]]:
    """Return temperature in Celsius and load, (rows, 2), and labels. A fifth of the labels are
    wrong."""
    temperature, load = rng.normal(18.0, 6.0, rows), rng.gamma(4.0, 25.0, rows)
    hot = temperature + 0.02 * (load - 100.0) > 18.0
    names: NDArray[np.object_] = np.array(CLASSES, dtype=object)
    labels = names[(hot ^ (rng.random(rows) < 0.2)).astype(int)]
    return np.column_stack((temperature, load)), labels


def changed(x: Floats, window: str) -> Floats:
    """Return a copy of the records, as a window of this kind reports them."""
    found = x.copy()
    if window == "in Fahrenheit":
        found[:, 0] = found[:, 0] * 1.8 + 32.0
    elif window == "frozen":
        found[:, 0] = found[0, 0]
    return found


def columns(x: Floats) -> Columns:
    return Columns({"temperature": x[:, 0], "load": x[:, 1]}, {})


def models() -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    return {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
        "decision tree": DecisionTreeClassifier(max_depth=5, random_state=0),
    }


def measure(name: str, model: Any, seed: int) -> list[Result]:
    """Return a model's table rows."""
    rng = np.random.default_rng(seed)
    x, y = draw(rng, TRAINING)
    model.fit(x, y)
    held_x, held_y = draw(rng, HELD_OUT)
    predicted = model.predict(held_x).astype(object)
    reference = Reference(
        columns=columns(np.concatenate((x, held_x))),
        positions=np.arange(TRAINING + HELD_OUT),
        predictions=model.predict(np.concatenate((x, held_x))).astype(object),
        held_labels=held_y,
        held_predictions=predicted,
        held_scores=model.predict_proba(held_x),
        errors=losses(ACCURACY, held_y, Answers(predicted)),
        levels={},
        ranges={},
        classes=CLASSES,
        held_columns=columns(held_x),
    )
    stream = loads(
        'version = 1\nname = "evidence"\ntask = "classification"\ntarget = "y"\n'
        '[features]\ntemperature = "number"\nload = "number"\n'
    )
    estimator = estimator_for(stream, reference)
    assert estimator is not None  # there are scores and enough held-out records
    results = []
    for window in WINDOWS:
        x, y = draw(rng, WINDOW)
        seen = changed(x, window)
        said, scores = model.predict(seen).astype(object), model.predict_proba(seen)
        by_class = {kind: packed(scores[:, place]) for place, kind in enumerate(CLASSES)}
        sample = Sample(columns(seen), said, ClassScores(by_class, WINDOW))
        estimate = estimator.estimate(sample, WINDOW)
        assert estimate is not None
        realised = float(losses(ACCURACY, y, Answers(said)).mean())
        results.append(Result(name, window, realised, 1.0 - estimate.value, harm_of(estimate)))
    return results


def main(argv: list[str]) -> int:
    """Run the measurement and print the table."""
    parser = options("unsupported_harm", __doc__, data=False)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    print("| model | window | realised error | estimated error | harm |\n|---|---|---:|---:|---|")
    rows = [row for name, model in models().items() for row in measure(name, model, asked.seed)]
    for row in rows:
        harm = "unknown" if row.harm is None else f"{row.harm:.2f}"
        print(f"| {row.model} | {row.window} | {row.realised:.2f} | {row.estimated:.2f} | {harm} |")
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
