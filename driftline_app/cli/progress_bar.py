"""Progress bars for commands, shown on standard error if it is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from driftline_app.cli.options import stderr


@contextmanager
def progress_bar(
    words: str, *, hidden: bool = False
) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Yield two functions: one sets the total, the other advances the bar by a number of items."""
    with _bar(TaskProgressColumn(), hidden) as bar:
        task = bar.add_task(words, total=None)
        yield (
            lambda total: bar.update(task, total=total),
            lambda count: bar.advance(task, count),
        )


@contextmanager
def step_bar(*, hidden: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield a function that shows the current step, the number of items done and the total."""
    with _bar(MofNCompleteColumn(), hidden) as bar:
        task = bar.add_task("", total=None)
        yield lambda step, done, total: bar.update(
            task, description=step, completed=done, total=total
        )


@contextmanager
def parallel_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows each step in its own bar, with the items done and the total."""
    with _bar(MofNCompleteColumn(), False) as bar:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step)
            bar.update(tasks[step], completed=done, total=total)

        yield show


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
