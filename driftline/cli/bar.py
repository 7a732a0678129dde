"""Progress bars of commands, on a terminal; nothing anywhere else."""

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

from driftline.cli.options import stderr


@contextmanager
def progress_bar(
    words: str, *, hidden: bool = False
) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Gives two functions: one to say how much there is, one to say how much more was done."""
    with _bar(TaskProgressColumn(), hidden) as bar:
        task = bar.add_task(words, total=None)

        def started(total: int) -> None:
            bar.update(task, total=total)

        def passed(count: int) -> None:
            bar.advance(task, count)

        yield started, passed


def counting_bar(*, hidden: bool = False) -> Progress:
    """A bar that says how many of how many are done, for each of its tasks."""
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
