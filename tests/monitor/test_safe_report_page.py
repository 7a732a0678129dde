"""Any text in Evidently's page is only data in our page and cannot run."""

import json
import re
from pathlib import Path

import pytest

from monitor.safe_report_page import safe_page
from tests.hostile import HOSTILE

ID = "metric_0123456789abcdef0123456789abcdef"


@pytest.fixture
def evidently(tmp_path: Path) -> Path:
    """Return a fake Evidently package with a short script."""
    static = tmp_path / "nbextension" / "static"
    static.mkdir(parents=True)
    (static / "index.js").write_text("window.drawDashboard = (a, b, c) => 0\r\n", newline="")
    (static / "material-ui-icons.woff2").write_bytes(b"font")
    return tmp_path


def theirs(dashboard: str, graphs: str = "{}") -> str:
    return (
        f"<html><script>\n  var {ID} = {dashboard};\n"
        f"  var additional_graphs_{ID} = {graphs};\n</script><body></body></html>"
    )


@pytest.mark.parametrize("text", [*HOSTILE, f";\n var additional_graphs_{ID} = {{}};\n</script>"])
def test_a_hostile_value_is_unchanged_and_does_not_end_its_element(
    evidently: Path, text: str
) -> None:
    data = {text: [text, {"x": 0.5}]}
    page = safe_page(theirs(json.dumps(data), json.dumps({"graph": text})), evidently)
    found = re.findall(r'<script type="application/json" id="data">([^<>&]*)</script>', page)
    assert [json.loads(each) for each in found] == [{"dashboard": data, "graphs": {"graph": text}}]
    assert page.count("<script") == page.count("</script>") == 4
    assert found[0].isascii()


def test_only_the_scripts_of_the_page_may_run(evidently: Path) -> None:
    page = safe_page(theirs("{}"), evidently)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert policy[1].count("'sha256-") == 3
    assert "script-src 'unsafe" not in policy[1]
    assert "\r" not in page


def test_nan_and_infinity_become_missing_values(evidently: Path) -> None:
    page = safe_page(theirs('{"a": NaN, "b": [-Infinity, Infinity]}'), evidently)
    assert '{"a":null,"b":[null,null]}' in page


@pytest.mark.parametrize(
    "page",
    [
        "<html></html>",
        theirs("{}").replace(";\n  var add", ";alert(1);\n  var add"),
        theirs("{}", "{};alert(1)"),
        theirs("{broken"),
    ],
)
def test_a_page_of_another_format_is_rejected(evidently: Path, page: str) -> None:
    with pytest.raises(ValueError):
        safe_page(page, evidently)
