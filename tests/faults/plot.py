"""Draw the curves of a soak as one SVG: lag, memory of each service, size of each log."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

Points = Sequence[tuple[float, float]]

_WIDTH: Final = 900
_LEFT: Final = 70
_PANEL: Final = 180
_GAP: Final = 46
_COLOURS: Final = ("#1b6f5f", "#c2571a", "#4457a6", "#8a2f6d", "#6b7280")


def svg(panels: Mapping[str, Mapping[str, Points]], marks: Sequence[tuple[float, str]]) -> str:
    """Draw a panel for each title, with a curve for each name.

    Points are (minutes, value). `marks` are vertical lines in all panels, with their text as a
    tooltip.
    """
    last = max(
        (at for curves in panels.values() for points in curves.values() for at, _ in points),
        default=1.0,
    )
    height = (_PANEL + _GAP) * len(panels) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]

    def across(at: float) -> float:
        return _LEFT + at / (last or 1.0) * (_WIDTH - _LEFT - 20)

    for number, (title, curves) in enumerate(panels.items()):
        top = 24 + number * (_PANEL + _GAP)
        most = max((value for points in curves.values() for _, value in points), default=1.0) or 1.0
        parts.append(f'<text x="{_LEFT}" y="{top - 8}" font-weight="bold">{escape(title)}</text>')
        for share in (0.0, 0.5, 1.0):
            y = top + _PANEL * (1 - share)
            parts.append(
                f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - 20}" stroke="#e5e7eb"/>'
                f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                f"{most * share:,.4g}</text>"
            )
        for at, words in marks:
            parts.append(
                f'<path d="M{across(at):.1f} {top}v{_PANEL}" stroke="#d1d5db" stroke-dasharray="3">'
                f"<title>{escape(words)}</title></path>"
            )
        for place, (name, points) in enumerate(curves.items()):
            colour = _COLOURS[place % len(_COLOURS)]
            line = " ".join(
                f"{across(at):.1f},{top + _PANEL * (1 - value / most):.1f}" for at, value in points
            )
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
            x = _LEFT + 160 + 130 * place
            parts.append(f'<text x="{x}" y="{top - 8}" fill="{colour}">{escape(name)}</text>')
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            parts.append(
                f'<text x="{across(last * share):.1f}" y="{top + _PANEL + 15}" '
                f'text-anchor="middle">{last * share:.0f} min</text>'
            )
    return "\n".join([*parts, "</svg>\n"])
