"""Run NannyML's CBPE (classification) or DLE (regression) on CSV files.

usage: PYTHON nannyml_estimates.py FOLDER CHUNK METRIC
PYTHON: the interpreter of a separate environment in which NannyML is installed

Input: `reference.csv` and `analysis.csv` in the folder. Their columns are `prediction`, `truth`
(the label, only in the reference), and either `score:CLASS` for each class or the features.
Output: one line of JSON on standard output, with [value, low, high] for each chunk. This script
imports nothing from Driftline, which is not installed in NannyML's environment.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any


def estimate(folder: Path, chunk: int, metric: str) -> None:
    """Estimate the metric for each chunk, and print the estimates."""
    warnings.simplefilter("ignore")
    import nannyml  # type: ignore[import-not-found]
    import pandas as pd

    reference = pd.read_csv(folder / "reference.csv", low_memory=False)
    analysis = pd.read_csv(folder / "analysis.csv", low_memory=False)
    scores = [name for name in reference if name.startswith("score:")]
    estimator: Any
    if not scores:
        inputs = [name for name in analysis if name != "prediction"]
        for name in inputs:  # treat text columns as categories
            if reference[name].dtype == object:
                reference[name] = reference[name].astype("category")
                analysis[name] = analysis[name].astype("category")
        estimator = nannyml.DLE(
            feature_column_names=inputs,
            y_pred="prediction",
            y_true="truth",
            metrics=[metric],
            chunk_size=chunk,
        )
    elif len(scores) == 2:
        positive = scores[1].removeprefix("score:")
        for table, column in (
            (reference, "prediction"),
            (reference, "truth"),
            (analysis, "prediction"),
        ):
            table[column] = (table[column].astype(str) == positive).astype(int)
        estimator = nannyml.CBPE(
            y_pred_proba=scores[1],
            y_pred="prediction",
            y_true="truth",
            problem_type="classification_binary",
            metrics=[metric],
            chunk_size=chunk,
        )
    else:
        for table, column in (
            (reference, "prediction"),
            (reference, "truth"),
            (analysis, "prediction"),
        ):
            table[column] = table[column].astype(str)
        estimator = nannyml.CBPE(
            y_pred_proba={name.removeprefix("score:"): name for name in scores},
            y_pred="prediction",
            y_true="truth",
            problem_type="classification_multiclass",
            metrics=[metric],
            chunk_size=chunk,
        )
    estimator.fit(reference)
    found = estimator.estimate(analysis).filter(period="analysis").to_df()[metric]
    kept = found[["value", "lower_confidence_boundary", "upper_confidence_boundary"]]
    print(json.dumps(kept.to_numpy().tolist()))


if __name__ == "__main__":
    estimate(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
