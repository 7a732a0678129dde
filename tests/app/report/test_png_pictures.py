"""The plots of a report as PNG files, each with its title."""

import functools
import struct
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import resvg_py

from driftline.errors import DriftlineError, MissingExtra
from driftline_app.report.elements import element
from driftline_app.report.line_chart import Series, chart
from driftline_app.report.png_pictures import write_pictures


def page(label: str = "iris: accuracy") -> list[ET.Element]:
    series = (Series("loop", "harm", (0.9, 0.5, 0.8)),)
    drawn = chart(rows=(99, 199, 299), block=100, series=series, marks=(), label=label)
    return [element("p", "words"), element("div", element("div", drawn))]


def write(folder: Path, body: list[ET.Element]) -> list[Path]:
    try:
        return write_pictures(folder, body)
    except DriftlineError as error:
        if "none of their fonts" not in error.message:
            raise
        pytest.skip("no font is installed here")


def test_a_plot_is_named_after_its_title_and_drawn_twice_as_large(tmp_path: Path) -> None:
    body = page()
    (path,) = write(tmp_path, body)
    assert path.name == "iris-accuracy.png"
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    drawn = next(body[1].iter("svg")).get("viewBox", "").split()
    assert width == 2 * int(drawn[2])
    assert height == 2 * (int(drawn[3]) + 30), "the title is above"


def test_plots_with_the_same_name_or_a_long_name_have_separate_files(tmp_path: Path) -> None:
    labels = ["é" * 300, "é" * 300 + "a", "a/b", "a b", "?"]
    found = write(tmp_path, [element for label in labels for element in page(label)])
    assert [path.name for path in found] == [
        f"{'é' * 60}.png",
        f"{'é' * 60}-2.png",
        "a-b.png",
        "a-b-2.png",
        "plot.png",
    ]
    assert all(path.stat().st_size for path in found)


def test_the_title_is_in_the_picture(tmp_path: Path) -> None:
    (one,) = write(tmp_path, page("one"))
    (other,) = write(tmp_path, page("the other"))
    assert one.read_bytes() != other.read_bytes()


def test_writing_pictures_does_not_change_the_page(tmp_path: Path) -> None:
    body = page()
    before = [ET.tostring(part) for part in body]
    write(tmp_path, body)
    assert [ET.tostring(part) for part in body] == before


def test_without_a_font_no_pictures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another family's name is no lack of fonts: where fontconfig has any, it is drawn in that one.
    bare = functools.partial(resvg_py.svg_to_bytes, skip_system_fonts=True)
    monkeypatch.setattr(resvg_py, "svg_to_bytes", bare)
    with pytest.raises(DriftlineError, match="none of their fonts is installed"):
        write_pictures(tmp_path, page())
    assert not list(tmp_path.iterdir())


def test_without_resvg_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingExtra, match="resvg"):
        write_pictures(tmp_path, page())
