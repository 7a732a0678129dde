"""What commands share: arguments with their help, finding the stream file, opening a broker."""

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult

from driftline.broker import Broker, connect
from driftline.errors import SettingsError, StreamFileError
from driftline.plain import visible
from driftline.settings import Settings, load_settings
from driftline.stream import Stream, load

# Where a run keeps its topics, in its folder.
TOPICS = "topics"


class _Visible(RenderHook):
    """Shows what a terminal would act on, wherever it comes from; Rich's own styles stay."""

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
    console = Console(stderr=stderr)
    console.push_render_hook(_Visible())
    return console


# People read standard error (progress, notes); standard output is for results.
stderr = _console(stderr=True)
stdout = _console(stderr=False)

StreamFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="Stream file; may be left out when the folder has just one.",
        show_default=False,
    ),
]
StreamOption = Annotated[
    Path | None,
    typer.Option(
        "--stream",
        "-s",
        metavar="FILE",
        help="Stream file; may be left out when the folder has just one.",
        show_default=False,
    ),
]
BootstrapServers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-server",
        "-b",
        metavar="HOST:PORT",
        help='Kafka to talk to; "local" is the one of `driftline broker up`. '
        "Default: KAFKA_BOOTSTRAP_SERVERS, else local.",
        show_default=False,
    ),
]
Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="NAME",
        help='Read the topics that `driftline run` kept: a run\'s name, its folder, or "last".',
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON line per item, for programs.")]


def find_stream(file: Path | None) -> Stream:
    """Load the given stream file, or the only one in this folder.

    Raises StreamFileError when there is none, or more than one.
    """
    return load(find_stream_file(file))


def find_stream_file(file: Path | None) -> Path:
    """The given path, or that of the only stream file in this folder."""
    if file is not None:
        return file
    found = [path for path in sorted(Path().glob("*.toml")) if _is_stream_file(path)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path) for path in found)
    raise StreamFileError(
        f"several stream files here: {names}" if found else "no stream file in this folder",
        hint="name one" if found else "`driftline init DATA --target COLUMN` writes one",
    )


def _is_stream_file(path: Path) -> bool:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # somebody else's file; a stream file with a mistake must be named
    return "version" in content and "task" in content


def run_folder(settings: Settings, name: str, stream: str | None = None) -> Path:
    """The folder of a run by name, by path, or "last": the newest, of that stream if one is named.

    Raises SettingsError.
    """
    if name == "last":
        runs = sorted(settings.runs.glob("*/stream.toml"), key=lambda path: path.parent.name)
        for path in reversed(runs):
            # One that was played on a Kafka, or that was killed, has no topics here.
            if not has_topics(path.parent):
                continue
            if stream is None or load(path).name == stream:
                return path.parent
        of = "" if stream is None else f" of stream {stream}"
        raise SettingsError(
            f"no run{of} in {settings.runs}", hint="`driftline run FILE DATA` makes one"
        )
    # A plain name is a run's; whatever has a slash in it is a path.
    plain = name not in ("", ".", "..") and Path(name).name == name
    for folder in (settings.runs / name, Path(name)) if plain else (Path(name),):
        try:
            if name and (folder / "stream.toml").is_file():
                if not has_topics(folder):
                    raise SettingsError(
                        f"run {folder.name} has kept no topics",
                        hint="it was played on a Kafka, where its topics are, or it was killed",
                    )
                return folder
        except (OSError, ValueError) as error:  # too long, or no name of a file
            raise SettingsError(f"no run {name[:40]!r}…: {error.args[-1]}") from error
    raise SettingsError(f"no run {name!r} in {settings.runs}", hint="`--run last` is the newest")


def has_topics(folder: Path) -> bool:
    """Whether a run has kept its topics, all of them."""
    return (folder / TOPICS).is_dir()


class Context(msgspec.Struct, frozen=True):
    """What most commands need: settings, the stream, and a broker that holds its topics."""

    settings: Settings
    stream: Stream
    broker: Broker


def open_context(
    file: Path | None, bootstrap_servers: str | None = None, run: str | None = None
) -> Context:
    """Settings, stream and broker of a command; with `run`, those that the run kept, which is one
    of the stream of `file`.

    Raises StreamFileError, SettingsError.
    """
    settings = load_settings(bootstrap_servers=bootstrap_servers)
    if run is not None:
        from driftline.broker.memory import MemoryBroker

        asked = None if file is None else load(file).name
        folder = run_folder(settings, run, asked)
        stream = load(folder / "stream.toml")
        if asked not in (None, stream.name):
            raise SettingsError(
                f"run {folder.name} is of stream {stream.name}, not of {asked}",
                hint="`--run last` is the newest of the stream; a run needs no stream file",
            )
        return Context(settings, stream, MemoryBroker.load(folder / TOPICS))
    stream = find_stream(file)
    broker = connect(settings.client, settings.bootstrap_servers, settings.properties)
    return Context(settings, stream, broker)
