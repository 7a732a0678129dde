"""Draw a line chart as inline SVG: a metric by row, with lanes for events below it.

In: values and marks. Out: one `svg` element, coloured by the CSS classes of the page. There is no
script: tooltips are SVG titles. Plotly would add 4 MB to each report for a few lines.
"""

import math
from collections.abc import Iterator
from typing import Literal
from xml.etree import ElementTree as ET

import msgspec

from driftline.safe_text import visible

WIDTH = 960
LEFT = 126  # width for the names of lanes
RIGHT = 18
TOP = 34  # height of the legend
PLOT = 270
GAP = 10  # between the plot and its lanes
LANE = 24
AXIS = 40
LETTER = 6.2  # width of one, about


class Series(msgspec.Struct, frozen=True):
    """A line of the chart.

    `values` has one value for each block, or None. `label` is a name, with an explanation after a
    colon.
    """

    style: Literal["loop", "static", "baseline"]
    label: str
    values: tuple[float | None, ...]

    @property
    def name(self) -> str:
        """Return the label without its explanation."""
        return self.label.split(":")[0]


class Mark(msgspec.Struct, frozen=True):
    """An event at `row`, or from `row` until `until`, drawn in its lane.

    A mark with an empty `link` is not a link.
    """

    row: int
    until: int
    lane: str
    style: str
    text: str
    link: str


def element(tag: str, *children: ET.Element | str, **attributes: str | float) -> ET.Element:
    r"""Return an element. `class_` is the attribute `class`; other underscores become hyphens.

    Text may contain anything. Markup is escaped when the page is written. Characters that XML
    does not allow, or that change the text around them, are written as escapes.

    >>> ET.tostring(element("p", "a < b ", element("b", "\x07"), class_="x"), encoding="unicode")
    '<p class="x">a &lt; b <b>\\x07</b></p>'
    """
    made = ET.Element(
        tag,
        {
            name.rstrip("_").replace("_", "-"): f"{value:.6g}"
            if isinstance(value, float)
            else visible(str(value))
            for name, value in attributes.items()
        },
    )
    for child in children:
        if isinstance(child, ET.Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + visible(child, keep="\n")
        else:
            made.text = (made.text or "") + visible(child, keep="\n")
    return made


def format_value(value: float | None) -> str:
    """Return a metric as text. A fraction has three digits after the point.

    >>> format_value(0.97), format_value(43.274), format_value(1234.5), format_value(None)
    ('0.970', '43.27', '1,234', '–')
    """
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1 or 0 < abs(value) < 0.01 else f"{value:.3f}"


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
    scale = _Scale(
        start=start,
        end=max([*rows, *(mark.until for mark in marks), start + 1]),
        low=heights[0],
        high=heights[-1],
    )
    lowest = TOP + PLOT + GAP + LANE * len(lanes)
    return element(
        "svg",
        *_legend(series),
        *_axes(scale, heights, lowest, block),
        *_blocks(scale, rows, block, series),
        *_rules(scale, marks),
        *(
            shape
            for line in series
            for shape in _polylines(
                line.style,
                [
                    None if value is None else (scale.x(row), scale.y(value))
                    for row, value in zip(rows, line.values, strict=True)
                ],
            )
        ),
        *_lanes(scale, lanes, marks),
        viewBox=f"0 0 {WIDTH} {lowest + AXIS}",
        role="img",
        aria_label=label,
    )


class _Scale(msgspec.Struct, frozen=True):
    """Convert rows and values to coordinates."""

    start: int
    end: int
    low: float
    high: float

    def x(self, row: float) -> float:
        return LEFT + (row - self.start) / (self.end - self.start) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + PLOT * (1 - (value - self.low) / (self.high - self.low))


def _legend(series: tuple[Series, ...]) -> Iterator[ET.Element]:
    """Yield the legend above the plot. The top line comes first."""
    x = float(LEFT)
    for line in reversed(series):
        yield _line(x, TOP - 18, x + 24, TOP - 18, f"series {line.style}")
        yield _text(line.label, x + 30, TOP - 14, "start")
        x += 50 + LETTER * len(line.label)


def _axes(scale: _Scale, heights: list[float], lowest: float, block: int) -> Iterator[ET.Element]:
    for value in heights:
        yield _line(LEFT, scale.y(value), WIDTH - RIGHT, scale.y(value), "grid")
        yield _text(f"{value:,.10g}", LEFT - 8, scale.y(value) + 4, "end")
    for row in ticks(scale.start, scale.end, 8):
        if scale.start <= row <= scale.end:
            yield _line(scale.x(row), TOP + PLOT, scale.x(row), lowest + 5, "grid")
            yield _text(f"{row:,.0f}", scale.x(row), lowest + 19, "middle")
    words = f"row of the data; each point is the mean of {block:,} rows"
    yield _text(words, (LEFT + WIDTH - RIGHT) / 2, lowest + 35, "middle")


def _blocks(
    scale: _Scale, rows: tuple[int, ...], block: int, series: tuple[Series, ...]
) -> Iterator[ET.Element]:
    """Yield an area for each block, with its values as a tooltip."""
    for index, row in enumerate(rows):
        first = max(scale.start, row - block + 1)
        values = "\n".join(
            f"{line.name} {format_value(line.values[index])}" for line in reversed(series)
        )
        yield element(
            "rect",
            element("title", f"rows {first:,} to {row:,}\n{values}"),
            class_="band",
            x=scale.x(first),
            y=TOP,
            width=max(0.5, scale.x(row) - scale.x(first)),
            height=PLOT,
        )


def _rules(scale: _Scale, marks: tuple[Mark, ...]) -> Iterator[ET.Element]:
    for mark in marks:
        if mark.style in ("change", "drift", "swap"):
            x = scale.x(mark.row)
            rule = _line(x, TOP, x, TOP + PLOT, f"rule {mark.style}")
            rule.set("pointer-events", "none")
            yield rule


def _lanes(scale: _Scale, lanes: list[str], marks: tuple[Mark, ...]) -> Iterator[ET.Element]:
    for number, lane in enumerate(lanes):
        middle = TOP + PLOT + GAP + LANE * (number + 0.5)
        yield _line(LEFT, middle + LANE / 2, WIDTH - RIGHT, middle + LANE / 2, "grid")
        yield _text(lane, LEFT - 8, middle + 4, "end")
        for mark in marks:
            if mark.lane == lane:
                yield _mark(mark, scale.x(mark.row), scale.x(mark.until), middle)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> ET.Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def _text(text: str, x: float, y: float, anchor: str) -> ET.Element:
    return element("text", text, x=x, y=y, text_anchor=anchor)


def _polylines(style: str, points: list[tuple[float, float] | None]) -> list[ET.Element]:
    """Yield the parts of a line with gaps for missing values. A single point is a dot."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            pieces.append([])
        else:
            pieces[-1].append(point)
    drawn = []
    for piece in pieces:
        if len(piece) == 1:
            ((x, y),) = piece
            drawn.append(element("circle", cx=x, cy=y, r=2.5, class_=f"dot {style}"))
        elif piece:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            drawn.append(element("polyline", points=path, class_=f"series {style}"))
    for shape in drawn:
        shape.set("pointer-events", "none")  # the block behind it has the tooltip
    return drawn


def _mark(mark: Mark, x: float, until: float, middle: float) -> ET.Element:
    """Return a bar from `x` to `until`, or the symbol of a mark that has no duration."""
    title = element("title", mark.text)
    style = f"mark {mark.style}"
    if mark.style == "drift":
        width = max(4.0, until - x)
        shape = element(
            "rect", title, x=x, y=middle - 6, width=width, height=12, rx=3, class_=style
        )
    elif mark.style == "swap":
        shape = element("circle", title, cx=x, cy=middle, r=6, class_=style)
    else:
        corners = (
            f"{x:.1f},{middle - 7} {x + 7:.1f},{middle} {x:.1f},{middle + 7} {x - 7:.1f},{middle}"
        )
        shape = element("polygon", title, points=corners, class_=style)
    return element("a", shape, href=mark.link) if mark.link else shape
