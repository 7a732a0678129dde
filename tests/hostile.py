"""Names and values that run as code or markup wherever they are not escaped.

Each one that runs in a browser increments `window.ran`.
"""

from typing import Final

RUN: Final = "window.ran=(window.ran||0)+1"
HOSTILE: Final = (
    f"</script><script>{RUN}</script>",
    f"<!--<script>{RUN}</script>-->",
    f'<img src=x onerror="{RUN}">',
    f"<svg onload='{RUN}'><style>*{{display:none}}</style>",
    f'<a href="javascript:{RUN}">link</a>',
    f"[link](javascript:{RUN}) ![image](http://127.0.0.1:9/image)",
    f"&lt;img src=x onerror={RUN}&gt; &#60;script&#62;",
    f'"\';{RUN};//\\"',
    f"`${{{RUN}}}`",
    f"\u2028{RUN}\u2029",
    f"]]></script></title></style></svg><script>{RUN}</script>",
    "__proto__",
    "%{x}<extra></extra> $\\href{javascript:1}{x}$",
    "\x00\x08\x1b[2J\x9b31m\u202e\U000e0041",
    "[red]markup[/] [/nothing] [link=http://127.0.0.1:9]x[/link]",
)
