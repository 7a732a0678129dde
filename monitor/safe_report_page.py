"""Rewrite an Evidently HTML report so that browsers cannot execute any of its data.

Input: an Evidently report's HTML, whose scripts contain unescaped data. Output: a page with the
same content, in which all data is inert text. Only scripts whose hashes are listed in the page can
run, and the page loads nothing from the network.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

# Browsers do not execute a script element of this type. Its data cannot close the element, because
# `_inert` escapes every "<".
_DATA: Final = '<script type="application/json" id="data">{}</script>'
_ASSETS: Final = Path("nbextension", "static")
_GLOBAL: Final = "var global = globalThis"
_DRAW: Final = """
const data = JSON.parse(document.getElementById("data").textContent);
window.drawDashboard(data.dashboard, new Map(Object.entries(data.graphs)), "root");
"""
# The policy forbids scripts whose hashes it does not list, inline event handlers, network requests,
# forms and frames. It allows inline styles, which React and Plotly use, and the images that Plotly
# creates from plots.
_POLICY: Final = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)
_STYLE: Final = """
@font-face {{ font-family: "Material Icons"; src: url(data:font/woff2;base64,{font}); }}
.center-align {{ text-align: center; }}
.material-icons {{
  font: normal normal 24px/1 "Material Icons"; letter-spacing: normal; text-transform: none;
  display: inline-block; white-space: nowrap; word-wrap: normal; direction: ltr;
  text-rendering: optimizeLegibility; -webkit-font-smoothing: antialiased;
}}
"""
_BEGIN: Final = re.compile(r"<script>\s*var (metric_[0-9a-f]{32}) = ")
_BETWEEN: Final = r";\s*var additional_graphs_{} = "
_END: Final = re.compile(r";\s*</script>")


def safe_page(page: str, evidently: Path) -> str:
    """Return a safe version of a page from Evidently. `evidently` is the folder of the installed
    Evidently package. Raises ValueError if the page has an unexpected structure."""
    scripts = (
        _GLOBAL,
        _text(evidently / _ASSETS / "index.js"),
        _DRAW,
    )
    font = base64.b64encode((evidently / _ASSETS / "material-ui-icons.woff2").read_bytes())
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<title>Drift report</title>",
            f"<style>{_STYLE.format(font=font.decode())}</style>",
            '</head>\n<body>\n<div id="root"></div>',
            _DATA.format(_inert(_data(page))),
            *(f"<script>{script}</script>" for script in scripts),
            "</body>\n</html>\n",
        )
    )


def _data(page: str) -> dict[str, Any]:
    """Return the data in Evidently's page. Parsing starts at the first script that defines a metric
    and consumes complete JSON values, so no value can be mistaken for page structure."""
    begin = _BEGIN.search(page)
    if begin is None:
        raise ValueError("unsupported Evidently release: its report contains no known data")
    dashboard, end = _json(page, begin.end())
    between = re.compile(_BETWEEN.format(begin[1])).match(page, end)
    if between is None:
        raise ValueError("unsupported Evidently release: its report contains no known graphs")
    graphs, end = _json(page, between.end())
    if _END.match(page, end) is None:
        raise ValueError("unsupported Evidently release: its report has an unknown ending")
    return {"dashboard": dashboard, "graphs": graphs}


def _json(page: str, start: int) -> tuple[Any, int]:
    # NaN is not valid JSON. Replace it with null, which the report displays in the same way.
    return json.JSONDecoder(parse_constant=lambda _: None).raw_decode(page, start)


def _inert(data: dict[str, Any]) -> str:
    """Return `data` as ASCII JSON, with "<", ">" and "&" escaped."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: tuple[str, ...]) -> str:
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    return _POLICY.format(scripts=" ".join(f"'sha256-{digest}'" for digest in digests))


def _text(path: Path) -> str:
    """Read a script. Normalise its line breaks as browsers do, because its hash depends on them."""
    return path.read_text(encoding="utf-8").replace("\r\n", "\n").replace("\r", "\n")
