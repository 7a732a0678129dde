"""Build the HTML and SVG elements of reports as Python objects, and format their numbers."""

from collections.abc import Iterable
from xml.etree import ElementTree as ET

from driftline.safe_text import visible


def element(tag: str, *children: ET.Element | str, **attributes: str | float) -> ET.Element:
    r"""Return an element.

    `class_` sets the attribute `class`. In other attribute names, underscores become hyphens. Text
    may contain any characters. Markup is escaped when the page is written. Characters that XML
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


def table(names: Iterable[str], rows: Iterable[ET.Element]) -> ET.Element:
    """Return a table with column headings, which scrolls if it is wider than the page."""
    head = element("tr", *(element("th", name) for name in names))
    drawn = element("table", element("thead", head), element("tbody", *rows))
    return element("div", drawn, class_="scroll", tabindex="0")


def format_value(value: float | None) -> str:
    """Return a metric as text. A fraction usually has three digits after the decimal point.

    >>> format_value(0.97), format_value(1.0), format_value(43.274), format_value(1234.5)
    ('0.970', '1.000', '43.27', '1,234')
    """
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) > 1 or 0 < abs(value) < 0.01 else f"{value:.3f}"


def title_of(metric: str) -> str:
    """Return a metric's name, capitalised for the beginning of a heading.

    >>> title_of("roc_auc"), title_of("log_loss"), title_of("rmsle")
    ('ROC AUC', 'Log loss', 'RMSLE')
    """
    words = metric.replace("_", " ")
    acronym = metric in ("f1", "mae", "rmse", "rmsle", "roc_auc")
    return words.upper() if acronym else words.capitalize()
