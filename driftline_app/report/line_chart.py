"""Draw a report's line chart as SVG: a metric by row, with lanes for events below it.

Input: the metric's values (`Series`), and events (`Mark`). Output: one `svg` element without
scripts; tooltips are SVG titles. The page's CSS sets the colours and the text size, which is larger
on narrow screens.
"""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Literal
from xml.etree import ElementTree as ET

import msgspec

from driftline_app.report.elements import element, format_value

# The page scales the chart to the screen width, by a factor from 0.57 (narrow) to 1.5 (wide).
WIDTH = 640
LEFT = 140  # width of the lane names, at the text size of narrow screens
RIGHT = 28  # half the width of a number on the row axis
LINE = 16  # height of a legend line
PLOT = 165
GAP = 8  # space between the plot and its lanes
LANE = 18
AXIS = 38


class Series(msgspec.Struct, frozen=True):
    """A line of the chart.

    Each entry of `values` belongs to a block, and is None if the block has no value. `label` is a
    name, optionally followed by a colon and an explanation.
    """

    style: Literal["loop", "static", "baseline"]
    label: str
    values: tuple[float | None, ...]


class Mark(msgspec.Struct, frozen=True):
    """An event at row `row`, or from `row` to `until`, drawn in the lane named `lane`.

    If `link` is empty, the mark is not a link.
    """

    row: int
    until: int
    lane: str
    style: str
    text: str
    link: str


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers that cover [low, high].

    >>> ticks(0.31, 0.97, 5)
    [0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low or abs(high) or 1.0
    raw = span / max(1, count - 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def chart(
    *,
    rows: tuple[int, ...],
    block: int,
    series: tuple[Series, ...],
    marks: tuple[Mark, ...],
    label: str,
) -> ET.Element:
    """Return the chart. `rows[i]` is the last row of block i. Later series are drawn on top."""
    lanes = list(dict.fromkeys(mark.lane for mark in marks))
    known = [value for line in series for value in line.values if value is not None]
    heights = ticks(min(known, default=0.0), max(known, default=1.0), 6)
    start = max(0, rows[0] - block + 1) if rows else 0
    end = max([*rows, *(mark.until for mark in marks), start + 1])
    scale = _Scale(start, end, heights[0], heights[-1], top=LINE * len(series) + 12)
    lowest = scale.top + PLOT + GAP + LANE * len(lanes)
    return element(
        "svg",
        *_legend(series),
        *_axes(scale, heights, lowest, block),
        *_blocks(scale, rows, block, series),
        *(
            _line(
                scale.x(mark.row),
                scale.top,
                scale.x(mark.row),
                scale.top + PLOT,
                f"rule {mark.style}",
            )
            for mark in marks
            if mark.style in ("change", "drift", "swap")
        ),
        *(part for line in series for part in _polylines(scale, rows, line)),
        *_lanes(scale, lanes, marks),
        class_="chart",
        viewBox=f"0 0 {WIDTH} {lowest + AXIS}",
        role="group",
        aria_label=label,
    )


class _Scale(msgspec.Struct, frozen=True):
    """Convert rows and values to coordinates."""

    start: int
    end: int
    low: float
    high: float
    top: float

    def x(self, row: float) -> float:
        return LEFT + (row - self.start) / (self.end - self.start) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.top + PLOT * (1 - (value - self.low) / (self.high - self.low))


def _legend(series: tuple[Series, ...]) -> Iterator[ET.Element]:
    """Yield one legend line per series, so that long names fit. The topmost series comes first."""
    for number, line in enumerate(reversed(series)):
        y = LINE * (number + 0.5)
        yield _line(LEFT, y, LEFT + 24, y, f"series {line.style}")
        yield _text(line.label, LEFT + 30, y, "start")


def _axes(scale: _Scale, heights: list[float], lowest: float, block: int) -> Iterator[ET.Element]:
    for value in heights:
        yield _line(LEFT, scale.y(value), WIDTH - RIGHT, scale.y(value), "grid")
        yield _text(f"{value:,.10g}", LEFT - 6, scale.y(value), "end")
    for row in ticks(scale.start, scale.end, 6):
        if scale.start <= row <= scale.end:
            yield _line(scale.x(row), scale.top + PLOT, scale.x(row), lowest + 4, "grid")
            yield _text(f"{row:,.0f}", scale.x(row), lowest + 12, "middle")
    words = f"row in the data set; each point covers {block:,} rows"
    yield _text(words, (LEFT + WIDTH - RIGHT) / 2, lowest + 28, "middle")


def _blocks(
    scale: _Scale, rows: tuple[int, ...], block: int, series: tuple[Series, ...]
) -> Iterator[ET.Element]:
    """Yield a rectangle for each block, with the block's values as a tooltip."""
    for index, row in enumerate(rows):
        first = max(scale.start, row - block + 1)
        values = [
            f"{line.label.split(':')[0]} {format_value(line.values[index])}"
            for line in reversed(series)
        ]
        yield element(
            "rect",
            element("title", "\n".join([f"rows {first:,} to {row:,}", *values])),
            class_="band",
            x=scale.x(first),
            y=scale.top,
            width=max(0.5, scale.x(row) - scale.x(first)),
            height=PLOT,
        )


def _polylines(scale: _Scale, rows: tuple[int, ...], line: Series) -> Iterator[ET.Element]:
    """Yield a series' line, interrupted at missing values. A single point becomes a dot."""
    blocks = zip(rows, line.values, strict=True)
    for _, part in groupby(blocks, key=lambda block: block[1] is None):
        points = [(scale.x(row), scale.y(value)) for row, value in part if value is not None]
        if len(points) == 1:
            ((x, y),) = points
            yield element("circle", cx=x, cy=y, r=2, class_=f"dot {line.style}")
        elif points:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            yield element("polyline", points=path, class_=f"series {line.style}")


def _lanes(scale: _Scale, lanes: list[str], marks: tuple[Mark, ...]) -> Iterator[ET.Element]:
    for number, lane in enumerate(lanes):
        middle = scale.top + PLOT + GAP + LANE * (number + 0.5)
        yield _line(LEFT, middle + LANE / 2, WIDTH - RIGHT, middle + LANE / 2, "grid")
        yield _text(lane, 6, middle, "start")
        for mark in marks:
            if mark.lane == lane:
                yield _mark(mark, scale.x(mark.row), scale.x(mark.until), middle)


def _mark(mark: Mark, x: float, until: float, y: float) -> ET.Element:
    """Return a bar from `x` to `until` for drift, or a dot at `x` for any other mark."""
    title, style = element("title", mark.text), f"mark {mark.style}"
    if mark.style == "drift":
        size = {"x": x, "y": y - 4, "width": max(3.0, until - x), "height": 8, "rx": 2}
        shape = element("rect", title, class_=style, **size)
    else:
        shape = element("circle", title, cx=x, cy=y, r=4.5, class_=style)
    return element("a", shape, href=mark.link) if mark.link else shape


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> ET.Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def _text(text: str, x: float, middle: float, anchor: str) -> ET.Element:
    return element("text", text, x=x, y=middle, dy="0.35em", text_anchor=anchor)
