"""Draw column drift as SVG for a report: a heat map over windows, and histograms of two samples.

Input: each column's shift in each window, and arrays of values. Output: `svg` elements without
scripts. The page's CSS sets the colours.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, Final
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline_app.report.elements import element, format_value

_WIDTH: Final = 960
# Effects of at least this size get the full colour: half a standard deviation is a clear shift.
_FULL: Final = 0.5
_LEFT: Final = 180
_ROW: Final = 18
_ROW_LABEL: Final = 70  # width of a row number, including its margin
_BINS: Final = 24
_SMALL_WIDTH: Final = 320
_SMALL_HEIGHT: Final = 168


class Cell(msgspec.Struct, frozen=True):
    """One column's shift in one window."""

    row: int  # last row of the window
    effect: float | None  # None if the column was not tested
    drifted: bool


def heat_map(columns: Sequence[tuple[str, Sequence[Cell]]]) -> ET.Element:
    """Return a heat map with one line per data column and, in each line, one cell per window.

    All columns must have the same windows. Labels below the map show the windows' last rows.
    """
    windows = columns[0][1] if columns else ()
    width = (_WIDTH - _LEFT - 10) / max(1, len(windows))
    every = max(1, ceil(_ROW_LABEL / width))
    labels = (
        _text(f"{windows[place].row:,}", _LEFT + (place + 1) * width, len(columns) * _ROW + 22)
        for place in range(every - 1, len(windows), every)
    )
    return element(
        "svg",
        *(
            shape
            for line, (name, cells) in enumerate(columns)
            for shape in _heat_line(name, cells, 6 + line * _ROW, width)
        ),
        *labels,
        viewBox=f"0 0 {_WIDTH} {len(columns) * _ROW + 30}",
        role="img",
        aria_label="Column shift by window",
    )


def _heat_line(name: str, cells: Sequence[Cell], y: float, width: float) -> Iterator[ET.Element]:
    yield _text(name if len(name) <= 26 else name[:25] + "…", _LEFT - 8, y + 12)
    for place, cell in enumerate(cells):
        effect = cell.effect
        shift = "not tested" if effect is None else f"shift {effect:.3f}"
        yield element(
            "rect",
            element("title", f"{name}, window up to row {cell.row:,}: {shift}"),
            class_="cell drifted" if cell.drifted else "cell",
            x=_LEFT + place * width,
            y=y,
            width=max(0.5, width - 1),
            height=_ROW - 2,
            fill_opacity=0.04 if effect is None else 0.06 + 0.94 * min(1.0, effect / _FULL),
        )


def histogram(name: str, reference: NDArray[Any], window: NDArray[Any]) -> ET.Element:
    """Return overlaid histograms of two samples, each an array of shape (n,).

    Missing values are left out. Numbers (float64) are counted in bins. Categories (object) are
    counted by name, most frequent first.
    """
    count = _by_bins if reference.dtype == np.float64 else _by_name
    labels, shares = count(reference, window)
    high = max(0.01, *(share for pair in shares for share in pair))
    step = (_SMALL_WIDTH - 20) / max(1, len(labels))
    drawn = []
    for kind, x in (("reference", 10), ("window", 110)):
        drawn.append(element("rect", class_=f"bar {kind}", x=x, y=8, width=14, height=11))
        drawn.append(_text(kind, x + 20, 18, "start"))
    for place, (label, pair) in enumerate(zip(labels, shares, strict=True)):
        for kind, share in zip(("reference", "window"), pair, strict=True):
            height = share / high * (_SMALL_HEIGHT - 58)
            drawn.append(
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
    if labels:
        drawn.append(_text(labels[0][:22], 10, _SMALL_HEIGHT - 4, "start"))
        drawn.append(_text(labels[-1][:22], _SMALL_WIDTH - 10, _SMALL_HEIGHT - 4))
    return element(
        "svg",
        *drawn,
        viewBox=f"0 0 {_SMALL_WIDTH} {_SMALL_HEIGHT}",
        role="img",
        aria_label=f"{name}: reference and window",
    )


def _by_bins(
    reference: NDArray[np.float64], window: NDArray[np.float64]
) -> tuple[list[str], list[tuple[float, float]]]:
    both = [values[np.isfinite(values)] for values in (reference, window)]
    everything = np.concatenate(both)
    if not len(everything):
        return [], []
    # Count outliers in the first and last bins. Otherwise, one bin could contain most values.
    low, high = np.quantile(everything, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    counted = [np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0] for v in both]
    shares = [(counts / max(1, counts.sum())).tolist() for counts in counted]
    return [format_value(float(edge)) for edge in edges[:-1]], list(zip(*shares, strict=True))


def _by_name(
    reference: NDArray[np.object_], window: NDArray[np.object_]
) -> tuple[list[str], list[tuple[float, float]]]:
    both = [Counter(v for v in values if v is not None) for values in (reference, window)]
    shares = {
        name: (both[0][name] / max(1, both[0].total()), both[1][name] / max(1, both[1].total()))
        for name in both[0] | both[1]
    }
    names = sorted(shares, key=lambda name: (-max(shares[name]), name))[:_BINS]
    return names, [shares[name] for name in names]


def _text(text: str, x: float, y: float, anchor: str = "end") -> ET.Element:
    return element("text", text, x=x, y=y, text_anchor=anchor)
