"""Write an HTML file with Evidently's report on a window that opened a drift event.

Input: a window's sample and its model's reference. Output: the file `<window id>.html` in a folder.
Drawing takes seconds and holds Python's global interpreter lock, so services draw reports in a
separate process, one at a time. While two reports are pending, each further report is skipped,
with a warning in the log.
"""

import logging
import os
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.config.stream import Stream
from driftline.models.package_reference import Reference
from driftline.safe_text import labels
from driftline.wire.columns import Columns
from monitor.bottom_k_sample import Sample
from monitor.safe_report_page import safe_page
from monitor.watched_columns import watched

log = logging.getLogger(__name__)

MAX_WAITING: Final = 2
# Drawing takes longer with more rows, but more rows than this do not visibly change the plots.
MAX_ROWS: Final = 10_000

_Data = dict[str, NDArray[Any]]


class Task(msgspec.Struct, frozen=True):
    """The input of `draw`. All fields can be pickled."""

    path: Path
    reference: _Data  # column name → float64 or object (n,)
    current: _Data
    numbers: tuple[str, ...]
    categories: tuple[str, ...]


class Reports:
    """Writes reports to files in a folder, in the calling thread or in a separate process."""

    def __init__(self, stream: Stream, folder: Path, *, synchronous: bool) -> None:
        self._stream = stream
        self._folder = folder
        self._synchronous = synchronous
        # Name of the report in the most recent call to `draw`.
        self._newest: str | None = None
        # The separate process. `_draw` starts it for the first report, and `close` stops it.
        self._pool: ProcessPoolExecutor | None = None
        # Unfinished reports. `_draw` adds a report, and `poll` removes it once it is finished.
        self._waiting: list[tuple[Path, Future[None]]] = []

    def draw(self, name: str, sample: Sample, reference: Reference) -> None:
        """Draw the report `name`, or submit it to the separate process. If drawing fails, the error
        is logged but not raised, because the drift event must still be published."""
        if name == self._newest:
            return  # a window that opens several events has only one report
        self._newest = name
        try:
            self._draw(self._task(self._folder / name, sample, reference))
        except Exception:  # Evidently's errors have no common base class
            log.exception("report %s could not be drawn", self._folder / name)

    def _draw(self, task: Task) -> None:
        if self._synchronous:
            draw(task)
            return
        self.poll()
        if len(self._waiting) >= MAX_WAITING:
            log.warning(
                "skipping report %s, because %d reports are already pending",
                task.path,
                len(self._waiting),
            )
            return
        if self._pool is None:
            # Use spawn, because a forked process would inherit a broker client's locks, but not
            # its threads.
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            self._waiting.append((task.path, self._pool.submit(draw, task)))
        except BrokenProcessPool:  # the process was killed; the next call starts a new process
            self._pool.shutdown(wait=False)
            self._pool = None
            raise

    def poll(self) -> None:
        """Log reports that failed, and remove all finished reports from the waiting list."""
        for path, future in self._waiting:
            if future.done() and (error := future.exception()) is not None:
                log.error("report %s could not be drawn: %s", path, error)
        self._waiting = [(path, future) for path, future in self._waiting if not future.done()]

    def wait(self) -> None:
        """Block until all submitted reports are finished."""
        wait([future for _, future in self._waiting])
        self.poll()

    def close(self) -> None:
        """Stop the separate process. Cancel the reports that can still be cancelled, and wait for
        all others. It is safe to call this method twice."""
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
    """Write one report. Leave out columns that have no values in the reference or in the current
    data."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # disable telemetry before the import
    import evidently
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    drawable = [
        name
        for name in (*task.numbers, *task.categories)
        if _has_value(task.reference[name]) and _has_value(task.current[name])
    ]
    # Evidently and Plotly interpret markup in column names and values, so remove the markup.
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
        # A constant column's correlations are undefined. Evidently shows them as missing.
        warnings.simplefilter("ignore", RuntimeWarning)
        snapshot = Report([DataDriftPreset(), DataSummaryPreset()]).run(
            dataset(task.current), dataset(task.reference)
        )
    task.path.parent.mkdir(parents=True, exist_ok=True)
    page = safe_page(snapshot.get_html_str(as_iframe=False), Path(evidently.__file__).parent)
    partial = task.path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(task.path)  # readers never see a half-written file


def _has_value(values: NDArray[Any]) -> bool:
    if values.dtype.kind == "f":
        return bool(np.isfinite(values).any())
    return any(value is not None for value in values)
