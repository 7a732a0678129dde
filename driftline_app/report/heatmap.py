"""Draw drift of columns as inline SVG: a heat map over windows, and histograms of two samples.

In: numbers. Out: `svg` elements in the style of `chart`, without scripts, coloured by CSS classes.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, Final
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline_app.report.line_chart import WIDTH, element, format_value

# Effects of this size and larger have the full colour: half a standard deviation is a clear shift.
_FULL: Final = 0.5
_LEFT: Final = 180
_ROW: Final = 18
_ROW_LABEL: Final = 70  # width of a row number with its margin
_BINS: Final = 24
_SMALL_WIDTH: Final = 320
_SMALL_HEIGHT: Final = 168


class Cell(msgspec.Struct, frozen=True):
    """One column in one window."""

    row: int  # last row of the window
    effect: float | None  # None: not tested
    drifted: bool


def heat_map(columns: Sequence[tuple[str, Sequence[Cell]]]) -> ET.Element:
    """Return a heat map with a line for each column and a cell for each window.

    All columns have the same windows.
    """
    count = max((len(cells) for _, cells in columns), default=0)
    width = (WIDTH - _LEFT - 10) / max(1, count)
    return element(
        "svg",
        *(
            shape
            for line, (name, cells) in enumerate(columns)
            for shape in _heat_line(name, cells, 6 + line * _ROW, width)
        ),
        *_rows_below(max((cells for _, cells in columns), key=len, default=()), columns, width),
        viewBox=f"0 0 {WIDTH} {len(columns) * _ROW + 30}",
        role="img",
        aria_label="Shift of columns by window",
    )


def _rows_below(
    cells: Sequence[Cell], columns: Sequence[object], width: float
) -> Iterator[ET.Element]:
    """Yield the last row of each window as a label; of every n-th window, if there are many."""
    every = max(1, ceil(_ROW_LABEL / width))
    for place in range(every - 1, len(cells), every):
        yield element(
            "text",
            f"{cells[place].row:,}",
            x=_LEFT + (place + 1) * width,
            y=len(columns) * _ROW + 22,
            text_anchor="end",
        )


def _heat_line(name: str, cells: Sequence[Cell], y: float, width: float) -> Iterator[ET.Element]:
    shown = name if len(name) <= 26 else name[:25] + "…"
    yield element("text", shown, x=_LEFT - 8, y=y + 12, text_anchor="end")
    for place, cell in enumerate(cells):
        effect = cell.effect
        told = "not tested" if effect is None else f"shift {effect:.3f}"
        yield element(
            "rect",
            element("title", f"{name}, window up to row {cell.row:,}: {told}"),
            class_="cell drifted" if cell.drifted else "cell",
            x=_LEFT + place * width,
            y=y,
            width=max(0.5, width - 1),
            height=_ROW - 2,
            fill_opacity=0.04 if effect is None else 0.06 + 0.94 * min(1.0, effect / _FULL),
        )


def histogram(name: str, reference: NDArray[Any], window: NDArray[Any]) -> ET.Element:
    """Return the histograms of two samples, one behind the other, without missing values.

    Numbers (float64) are counted in bins. Categories (object) are counted by name, the most
    frequent first.
    """
    if reference.dtype == np.float64:
        labels, shares = _by_bins(reference, window)
    else:
        labels, shares = _by_name(reference, window)
    high = max(0.01, *(share for pair in shares for share in pair))
    step = (_SMALL_WIDTH - 20) / max(1, len(labels))
    bars = []
    for place, (label, pair) in enumerate(zip(labels, shares, strict=True)):
        for kind, share in zip(("reference", "window"), pair, strict=True):
            height = share / high * (_SMALL_HEIGHT - 58)
            bars.append(
                element(
                    "rect",
                    element("title", f"{label}\nreference {pair[0]:.1%}\nwindow {pair[1]:.1%}"),
                    class_=f"bar {kind}",
                    x=10 + place * step,
                    y=_SMALL_HEIGHT - 18 - height,
                    width=max(0.5, step - 1),
                    height=height,
                )
            )
    ends = (labels[0], labels[-1]) if labels else ("", "")
    return element(
        "svg",
        *_which("reference", 10),
        *_which("window", 110),
        *bars,
        element("text", ends[0][:22], x=10, y=_SMALL_HEIGHT - 4),
        element("text", ends[1][:22], x=_SMALL_WIDTH - 10, y=_SMALL_HEIGHT - 4, text_anchor="end"),
        viewBox=f"0 0 {_SMALL_WIDTH} {_SMALL_HEIGHT}",
        role="img",
        aria_label=f"{name}: reference and window",
    )


def _which(kind: str, x: float) -> Iterator[ET.Element]:
    yield element("rect", class_=f"bar {kind}", x=x, y=8, width=14, height=11)
    yield element("text", kind, x=x + 20, y=18)


def _by_bins(
    reference: NDArray[np.float64], window: NDArray[np.float64]
) -> tuple[list[str], list[tuple[float, float]]]:
    both = [values[np.isfinite(values)] for values in (reference, window)]
    everything = np.concatenate(both)
    if not len(everything):
        return [], []
    # Outliers count in the first and last bin. Otherwise most values would be in a single bin.
    low, high = np.quantile(everything, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    counted = [np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0] for v in both]
    shares = [counts / max(1, counts.sum()) for counts in counted]
    labels = [format_value(float(edge)) for edge in edges[:-1]]
    return labels, list(zip(shares[0].tolist(), shares[1].tolist(), strict=True))


def _by_name(
    reference: NDArray[np.object_], window: NDArray[np.object_]
) -> tuple[list[str], list[tuple[float, float]]]:
    both = [[value for value in values if value is not None] for values in (reference, window)]
    counts = [{name: values.count(name) for name in sorted(set(values))} for values in both]
    names = sorted(
        {*counts[0], *counts[1]},
        key=lambda name: (-max(c.get(name, 0) / max(1, sum(c.values())) for c in counts), name),
    )[:_BINS]
    totals = [max(1, len(values)) for values in both]
    return names, [
        (counts[0].get(name, 0) / totals[0], counts[1].get(name, 0) / totals[1]) for name in names
    ]
