"""Write a report page's plots as PNG files, for chats, tickets and papers.

Input: a page's elements, in which each `svg` is a plot. Output: a file for each plot, named after
the plot's title. The plots look the same as on the page, but have a white background.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from driftline.errors import DriftlineError, MissingExtra
from driftline_app.report.elements import element
from driftline_app.report.page import STYLE

# The first installed font is used. If none is installed, another font may be substituted.
FONTS: Final = (
    "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans", "Noto Sans",
)  # fmt: skip
_SCALE: Final = 2.0  # pixels per unit of the drawing, for high-resolution screens
_TITLE: Final = 30  # height of the title
# Maximum length of a file name, in characters of up to 4 bytes. Most file systems allow 255 bytes.
_MAX_NAME: Final = 60


def write_pictures(folder: Path, body: Iterable[ET.Element]) -> list[Path]:
    """Write a page's plots to an existing folder. Return the paths of the files.

    Raises MissingExtra if resvg is not installed, DriftlineError if no font is found, and OSError.
    """
    if _drawn([_title("M")], 20, 20) == _drawn([], 20, 20):
        raise DriftlineError(
            "pictures would have no text, because none of their fonts is installed",
            hint=f"install one of {', '.join(FONTS)} (Debian: apt-get install fonts-dejavu-core)",
        )
    paths: list[Path] = []
    for svg in (found for part in body for found in part.iter("svg")):
        label = svg.get("aria-label", "")
        width, height = (float(size) for size in svg.get("viewBox", "").split()[2:])
        plot = element("g", *svg, transform=f"translate(0,{_TITLE})")
        path = _new_path(folder, label, paths)
        # Draw the title above the plot, because a picture has no heading of its own.
        path.write_bytes(_drawn([_title(label), plot], width, height + _TITLE))
        paths.append(path)
    return paths


def _title(text: str) -> ET.Element:
    return element("text", text, x=6, y=18, class_="title")


def _drawn(shapes: Iterable[ET.Element], width: float, height: float) -> bytes:
    """Draw shapes, and return the picture as PNG bytes."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise MissingExtra("resvg", "png") from error
    svg = element(
        "svg",
        *shapes,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
    )
    text = ET.tostring(svg, encoding="unicode")
    return bytes(
        svg_to_bytes(svg_string=text, style_sheet=_style(), background="#fff", zoom=_SCALE)
    )


def _new_path(folder: Path, label: str, taken: Sequence[Path]) -> Path:
    name = re.sub(r"\W+", "-", label).strip("-").lower()[:_MAX_NAME] or "plot"
    path, number = folder / f"{name}.png", 2
    while path in taken:
        path, number = folder / f"{name}-{number}.png", number + 1
    return path


def _style() -> str:
    """Return the page's CSS rules for plots, in the colours of the light theme."""
    page = STYLE.read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): ([^;]+);", page.partition("@media")[0]))
    rules = [line for line in page.splitlines() if line.startswith("svg ")]
    names = ", ".join(f"'{font}'" for font in FONTS)
    return re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], "\n".join(rules)) + (
        f"\nsvg {{ font-size: 12px; font-family: {names}; }}"
        f"\nsvg .title {{ font-size: 15px; fill: {colours['ink']}; }}"
    )
