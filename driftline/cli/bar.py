"""A progress bar on a terminal for whoever reads topics; nothing anywhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from driftline.cli.options import stderr


@contextmanager
def progress_bar(
    words: str, *, hidden: bool = False
) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Gives two functions: one to say how much there is, one to say how much more was done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=stderr, transient=True, disable=hidden or not stderr.is_terminal
    ) as bar:
        task = bar.add_task(words, total=None)

        def started(total: int) -> None:
            bar.update(task, total=total)

        def passed(count: int) -> None:
            bar.advance(task, count)

        yield started, passed
