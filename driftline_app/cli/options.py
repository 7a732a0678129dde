"""Define the options and arguments that commands share, and the consoles for their output.

All commands follow the same grammar:

- `--stream FILE` (`-s FILE`) selects the stream file. Without this option, a command uses the only
  stream file in the current folder.
- An argument selects what the command works on: DATA, a TOPIC, an ID, a model's DIGEST, a SERVICE.
- `--bootstrap-server` (`-b`) gives the address of the Kafka broker. With `--run`, a command instead
  reads the topics that a run saved.
- With `--json`, a command prints its results to standard output and its errors to standard error,
  both as JSON.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.text import Text

from driftline.safe_text import visible
from driftline_app.cli import completion


class _Console(Console):
    """A console that escapes line breaks in strings, so that a value cannot forge a line of output.

    Strings in tables and trees are escaped as well. To print several lines, use `rich.text.Text`.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


class _Visible(RenderHook):
    """Escape control characters in all printed values, but keep Rich's own styles."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Cleaned(renderable) for renderable in renderables]


class _Cleaned:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=visible(segment.text, keep="\n"))


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False)
    console.push_render_hook(_Visible())
    return console


# Progress and notes go to standard error, results to standard output.
stderr = _console(stderr=True)
stdout = _console(stderr=False)

DATA_HELP = (
    "A CSV, CSV.gz, Parquet or JSON Lines file, or a built-in data set: iris, iris-drift or "
    "river:NAME."
)


def data_argument(more: str = "") -> Any:
    """Return the DATA argument, with `more` appended to its help text."""
    return typer.Argument(
        metavar="DATA",
        help=f"{DATA_HELP} {more}".rstrip(),
        show_default=False,
        autocompletion=completion.data_sets,
    )


Data = Annotated[str, data_argument()]
StreamFile = Annotated[
    Path | None,
    typer.Option(
        "--stream",
        "-s",
        metavar="FILE",
        help="Stream file. Default: the only stream file in the current folder.",
        show_default=False,
        autocompletion=completion.stream_files,
    ),
]
BootstrapServers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-server",
        "-b",
        metavar="HOST:PORT",
        help='Address of the Kafka broker, or "local" for the broker that `driftline broker up` '
        'starts. Default: KAFKA_BOOTSTRAP_SERVERS if it is set, otherwise "local".',
        show_default=False,
    ),
]
Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="NAME",
        help="Read the topics that `driftline run` saved, instead of topics on a broker. NAME is "
        'the run\'s name, its folder, or "last" for the newest run.',
        show_default=False,
        autocompletion=completion.runs,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, one object per line.")]
WarmUpShare = Annotated[
    float,
    typer.Option(
        "--warmup",
        min=0.01,
        max=0.9,
        help="Fraction of the rows, from the start of the data, on which the first model is "
        "trained. The remaining rows are streamed.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Use only the first N rows of the data.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed for label delays and missing labels.")]
