"""Evidently's full report (HTML) of a window that opened a drift event, off the hot path.

In: a window's sample and the reference of its model. Out: `<window id>.html` in a folder. Drawing
takes seconds and holds Python's lock, so a service has it done by a process of its own; one report
at a time, a few waiting, any more left out and said.
"""

import logging
import os
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.codec.columns import Columns
from driftline.models.reference import Reference
from driftline.plain import labels
from driftline.stream import Stream
from monitor.report_page import safe_page
from monitor.sample import Sample
from monitor.watched import watched

log = logging.getLogger(__name__)

MAX_WAITING: Final = 2
# Drawing grows with the rows, and a plot of more looks the same.
MAX_ROWS: Final = 10_000

_Data = dict[str, NDArray[Any]]


class Task(msgspec.Struct, frozen=True):
    """All that drawing needs; it can be pickled."""

    path: Path
    reference: _Data  # column name → float64 or object (n,)
    current: _Data
    numbers: tuple[str, ...]
    categories: tuple[str, ...]


class Reports:
    """Draws reports into a folder; in this thread, or in a process of its own."""

    def __init__(self, stream: Stream, folder: Path, *, in_process: bool) -> None:
        self._stream = stream
        self._folder = folder
        self._in_process = in_process
        self._newest: str | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: list[tuple[Path, Future[None]]] = []

    def draw(self, name: str, sample: Sample, reference: Reference) -> None:
        """Draw, or have drawn, the file `name`. A report that cannot be drawn is only logged:
        drift is published all the same."""
        if name == self._newest:
            return  # one window may open events of several kinds
        self._newest = name
        task = self._task(self._folder / name, sample, reference)
        if self._in_process:
            try:
                draw(task)
            except Exception:  # Evidently's own errors have no common base
                log.exception("report %s could not be drawn", task.path)
            return
        self.poll()
        if len(self._waiting) >= MAX_WAITING:
            log.warning("report %s is left out: %d are waiting", task.path, len(self._waiting))
            return
        if self._pool is None:
            # Not forked: a broker client's threads and locks must not be copied.
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._waiting.append((task.path, self._pool.submit(draw, task)))

    def poll(self) -> None:
        """Log what became of the reports that are done."""
        for path, future in self._waiting:
            if future.done() and (error := future.exception()) is not None:
                log.error("report %s could not be drawn: %s", path, error)
        self._waiting = [(path, future) for path, future in self._waiting if not future.done()]

    def wait(self) -> None:
        """Until all that were taken are drawn."""
        wait([future for _, future in self._waiting])
        self.poll()

    def close(self) -> None:
        """Wait for the report being drawn, drop the others. Safe to call twice."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._waiting = []

    def _task(self, path: Path, sample: Sample, reference: Reference) -> Task:
        columns = watched(self._stream)
        prediction = f"{self._stream.target} (predicted)"
        numbers = [column.name for column in columns if column.kind == "number"]
        categories = [column.name for column in columns if column.kind == "category"]
        (categories if self._stream.task == "classification" else numbers).append(prediction)

        def data(of: Columns, predictions: NDArray[Any]) -> _Data:
            found: _Data = {**of.numbers, **of.categories, prediction: predictions}
            return {name: found[name][-MAX_ROWS:] for name in (*numbers, *categories)}

        return Task(
            path=path,
            reference=data(reference.columns, reference.predictions),
            current=data(sample.columns, sample.predictions),
            numbers=tuple(numbers),
            categories=tuple(categories),
        )


def draw(task: Task) -> None:
    """Write one report. Columns without any value in one of the two are left out."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # before the import: Evidently's telemetry is on
    import evidently
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    drawable = [
        name
        for name in (*task.numbers, *task.categories)
        if _has_value(task.reference[name]) and _has_value(task.current[name])
    ]
    # Evidently and Plotly build pages and labels from names and values: no markup may be in them.
    shown = labels(drawable)
    values = labels(
        value
        for name in drawable
        for data in (task.reference, task.current)
        if data[name].dtype.kind != "f"
        for value in data[name]
        if value is not None
    )
    definition = DataDefinition(
        numerical_columns=[shown[name] for name in task.numbers if name in shown],
        categorical_columns=[shown[name] for name in task.categories if name in shown],
    )

    def dataset(data: _Data) -> Any:
        frame = pd.DataFrame(
            {
                shown[name]: data[name]
                if data[name].dtype.kind == "f"
                else pd.Series([values.get(value) for value in data[name]], dtype=object)
                for name in drawable
            }
        )
        return Dataset.from_pandas(frame, data_definition=definition)

    with warnings.catch_warnings():
        # Correlations of constant columns: Evidently shows them as missing.
        warnings.simplefilter("ignore", RuntimeWarning)
        snapshot = Report([DataDriftPreset(), DataSummaryPreset()]).run(
            dataset(task.current), dataset(task.reference)
        )
    task.path.parent.mkdir(parents=True, exist_ok=True)
    page = safe_page(snapshot.get_html_str(as_iframe=False), Path(evidently.__file__).parent)
    partial = task.path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(task.path)  # whoever finds the file finds it whole


def _has_value(values: NDArray[Any]) -> bool:
    if values.dtype.kind == "f":
        return bool(np.isfinite(values).any())
    return any(value is not None for value in values)
