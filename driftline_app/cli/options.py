"""Options and arguments that commands share, and the consoles on which they print.

One grammar for all commands:

- The stream file is always the option `--stream FILE` (`-s FILE`). Without it, a command uses the
  only stream file in the current folder.
- Arguments are what the command works on: DATA, a TOPIC, an ID, a model's DIGEST, a SERVICE.
- `--bootstrap-server` (`-b`) names the Kafka. `--run` reads the topics of a run instead.
- `--json` prints results for scripts to standard output, and errors to standard error.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.text import Text

from driftline.safe_text import visible
from driftline_app.cli import completion


class _Console(Console):
    """Print each string in one line: a line break in a value could forge a line of output.

    This applies to strings in tables and trees as well. Use `rich.text.Text` for several lines.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


class _Visible(RenderHook):
    """Escape control characters in everything that is printed. Rich's own styles still work."""

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
    "A CSV, CSV.gz, Parquet or JSON lines file, or a data set by name: iris, iris-drift, "
    "river:NAME."
)


def data_argument(more: str = "") -> Any:
    """Return the argument DATA. `more` is added to its help."""
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
        help='Address of the Kafka broker. "local" is the broker that `driftline broker up` '
        "starts. Default: KAFKA_BOOTSTRAP_SERVERS, else local.",
        show_default=False,
    ),
]
Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="NAME",
        help="Read the topics that `driftline run` saved instead of a broker's. NAME is the "
        'name of a run, its folder, or "last".',
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
        help="Train the first model on this share of the rows, and stream the others.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Use only the first N rows of the data.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(help="Seed for random label delays and missing labels.")]
