"""Compare estimated and realised window metrics on data files, for Driftline and other estimators.

usage: python -m benchmarks.evidence estimates [--data FOLDER] [--nannyml PYTHON] [--json FILE] …

For each labelled set, a model is trained on the first fifth of the rows, as `driftline run` does
by default. Each later window's metric is then estimated without labels. The other estimators are:

- the model's held-out metric, unchanged;
- average thresholded confidence (ATC; Garg et al., Leveraging unlabeled data to predict
  out-of-distribution performance, 2022);
- difference of confidences (DoC; Guillory et al., Predicting with confidence on unseen
  distributions, 2021);
- NannyML's CBPE and DLE with default settings, if `--nannyml` is the path of a Python interpreter
  that has NannyML installed.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.estimate_sets import LABELLED, Followed, LabelledSet, follow
from benchmarks.evidence.options import options
from driftline.config.measure import Metric
from driftline.models.package_reference import Reference
from driftline.wire.window_events import MetricEstimate
from monitor.bottom_k_sample import Sample
from monitor.class_scores import ClassScores, packed
from monitor.estimates.coverage import EstimateComparison, coverage
from monitor.reference.references import estimator_for, held_answers

Estimates = Sequence[
    tuple[float, float, float]
]  # (value, low, high) of each window; NaN if missing


class EstimatorResult(msgspec.Struct, frozen=True):
    """One estimator's result on one data set."""

    name: str
    estimator: str
    tuned_on: bool
    metric: Metric
    windows: int
    window: int
    mean_absolute_error: float
    covered: float | None  # share of intervals containing the realised metric, or None without them
    width: float | None  # mean width of the intervals, or None without intervals


def main(argv: list[str]) -> int:
    """Run the measurement and print a table."""
    parser = options("estimates", __doc__)
    parser.add_argument("--nannyml", type=Path, help="path of a Python with NannyML installed")
    parser.add_argument("--window", type=int, help="records per window; default: as drafted")
    parser.add_argument("--metric", help="classification metric; default: accuracy")
    parser.add_argument(
        "--only", action="append", help="data set to measure; may be repeated; default: all"
    )
    asked = parser.parse_args(argv)
    rows: list[EstimatorResult] = []
    print("| set | metric | windows × records | estimator | mean abs. error | covers | width |")
    print("|---|---|---|---|---|---|---|")
    for chosen in LABELLED:
        if asked.only and chosen.name not in asked.only:
            continue
        metric = chosen.metric if chosen.metric == "mae" else asked.metric or chosen.metric
        followed = follow(chosen, asked.data, metric=metric)
        if asked.window:
            followed = msgspec.structs.replace(followed, window=asked.window)
        for row in measure(chosen, followed, metric, asked.nannyml):
            rows.append(row)
            _print(row)
    if asked.json is not None:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1))
    return 0


def measure(
    chosen: LabelledSet, followed: Followed, metric: Metric, nannyml: Path | None
) -> list[EstimatorResult]:
    """Run all estimators on one data set."""
    realised = [followed.realised(at) for at in followed.windows()]
    found: dict[str, Estimates] = {"driftline": _own(followed)}
    reference = float(_own_reference(followed))
    found["held-out metric"] = [(reference, np.nan, np.nan)] * len(realised)
    if metric == "accuracy":
        found |= _confidences(followed)
    if nannyml is not None:
        found["nannyml"] = _nannyml(followed, metric, nannyml)
    rows = []
    for name, estimates in found.items():
        values = np.array(estimates, dtype=np.float64)
        pairs = [
            EstimateComparison(0, "", MetricEstimate(metric, value, low, high, reference), r, 0, 0)
            for (value, low, high), r in zip(values.tolist(), realised, strict=True)
        ]
        total = coverage(pairs)
        if total is None:
            continue
        has_interval = not np.isnan(values[:, 1]).any()
        rows.append(
            EstimatorResult(
                name=chosen.name,
                estimator=name,
                tuned_on=chosen.tuned_on,
                metric=metric,
                windows=total.windows,
                window=followed.window,
                mean_absolute_error=total.mean_absolute_error,
                covered=total.covered if has_interval else None,
                width=float((values[:, 2] - values[:, 1]).mean()) if has_interval else None,
            )
        )
    return rows


def _own(followed: Followed) -> Estimates:
    estimator = estimator_for(followed.stream, followed.reference)
    found = []
    for at in followed.windows():
        sample = _sample(followed, at)
        estimate = None if estimator is None else estimator.estimate(sample, len(sample))
        if estimate is None:
            found.append((np.nan, np.nan, np.nan))
        else:
            found.append((estimate.value, estimate.low, estimate.high))
    return found


def _own_reference(followed: Followed) -> float:
    from driftline.learning.metrics import evaluate

    measure, reference = followed.stream.judged_by, followed.reference
    return evaluate(measure, reference.held_labels, held_answers(measure, reference))


def _sample(followed: Followed, at: slice) -> Sample:
    predicted = followed.scores.predictions[at]
    probabilities = followed.scores.probabilities
    predictions: NDArray[Any] = np.empty(len(predicted), dtype=object)
    predictions[:] = predicted
    if probabilities is None:
        return Sample(followed.columns.take(at), predictions.astype(np.float64))
    classes = followed.reference.classes
    by_class = {name: packed(probabilities[at, place]) for place, name in enumerate(classes)}
    return Sample(followed.columns.take(at), predictions, ClassScores(by_class, len(predicted)))


def _confidences(followed: Followed) -> dict[str, Estimates]:
    """Estimate accuracy with ATC and DoC, from each record's largest score."""
    reference, probabilities = followed.reference, followed.scores.probabilities
    if reference.held_scores is None or probabilities is None:
        return {}
    before = reference.held_scores.max(axis=1)
    accuracy = float(1.0 - reference.errors.mean())
    threshold = np.quantile(before, 1.0 - accuracy)
    now = probabilities.max(axis=1)

    def each(estimate: Callable[[NDArray[np.float64]], float]) -> Estimates:
        return [(estimate(now[at]), np.nan, np.nan) for at in followed.windows()]

    return {
        "ATC": each(lambda scores: float((scores >= threshold).mean())),
        "DoC": each(lambda scores: float(accuracy + scores.mean() - before.mean())),
    }


def _nannyml(followed: Followed, metric: Metric, python: Path) -> Estimates:
    import pandas as pd

    reference, windows = followed.reference, followed.windows()
    probabilities, known = followed.scores.probabilities, reference.held_scores
    before: dict[str, Any] = {
        "prediction": reference.held_predictions,
        "truth": reference.held_labels,
    }
    now: dict[str, Any] = {"prediction": followed.scores.predictions}
    if probabilities is not None and known is not None:
        for place, name in enumerate(reference.classes):
            before[f"score:{name}"], now[f"score:{name}"] = known[:, place], probabilities[:, place]
    else:
        before |= _columns(reference)
        now |= {**followed.columns.numbers, **followed.columns.categories}
    with tempfile.TemporaryDirectory() as folder:
        pd.DataFrame(before).to_csv(Path(folder) / "reference.csv", index=False)
        whole = pd.DataFrame(now).iloc[: windows[-1].stop]
        whole.to_csv(Path(folder) / "analysis.csv", index=False)
        script = Path(__file__).with_name("nannyml_estimates.py")
        asked = {"accuracy": "accuracy", "f1_macro": "f1"}.get(metric, metric)
        done = subprocess.run(
            [str(python), str(script), folder, str(followed.window), asked],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        print(f"nannyml: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return [(np.nan, np.nan, np.nan)] * len(windows)
    return [tuple(values) for values in json.loads(done.stdout.splitlines()[-1])]


def _columns(reference: Reference) -> dict[str, Any]:
    held = reference.held_columns
    return {} if held is None else {**held.numbers, **held.categories}


def _print(row: EstimatorResult) -> None:
    covered = "" if row.covered is None else f"{row.covered:.0%}"
    width = "" if row.width is None else f"{row.width:.4g}"
    name = f"{row.name} (tuned on)" if row.tuned_on else row.name
    print(
        f"| {name} | {row.metric} | {row.windows} × {row.window} | {row.estimator} "
        f"| {row.mean_absolute_error:.4g} | {covered} | {width} |",
        flush=True,
    )
