"""Print which records and labels of a data set were not sent because they are too large."""

from collections.abc import Sequence
from typing import Final

from driftline_app.cli.options import stderr
from producers.delivery import TooLarge

_SHOWN: Final = 5


def report_unsent(items: Sequence[TooLarge]) -> None:
    """Print the row and the reason for each of the first five items, then how many items remain."""
    for item in items[:_SHOWN]:
        stderr.print(f"not sent: data row {item.row}: {item.reason}", style="red", soft_wrap=True)
    if (more := len(items) - _SHOWN) > 0:
        stderr.print(f"not sent: {more} more", style="red")
