"""Progress bars of commands. They appear on terminals only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from driftline_app.cli.options import stderr


@contextmanager
def progress_bar(
    words: str, *, hidden: bool = False
) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Yield two functions: one that sets the total, and one that adds what was done."""
    with _bar(TaskProgressColumn(), hidden) as bar:
        task = bar.add_task(words, total=None)

        def started(total: int) -> None:
            bar.update(task, total=total)

        def passed(count: int) -> None:
            bar.advance(task, count)

        yield started, passed


def counting_bar(*, hidden: bool = False) -> Progress:
    """Return a bar that shows, for each of its tasks, how many of how many are done."""
    return _bar(MofNCompleteColumn(), hidden)


def _bar(amount: ProgressColumn, hidden: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        amount,
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=hidden or not stderr.is_terminal,
    )
