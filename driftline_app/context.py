"""Load what most commands need: the settings, the stream file or a saved run, and the broker."""

from pathlib import Path

import msgspec

from driftline.broker import connect
from driftline.broker.port import Broker
from driftline.client.saved_runs import load_run, run_folder
from driftline.config.settings import Settings, load_settings
from driftline.config.stream import Stream, load
from driftline.errors import SettingsError
from driftline_app.stream_file import find_stream


class Context(msgspec.Struct, frozen=True):
    """The settings, the stream, and a broker with the stream's topics."""

    settings: Settings
    stream: Stream
    broker: Broker


def open_context(
    file: Path | None, bootstrap_servers: str | None = None, run: str | None = None
) -> Context:
    """Return the settings, stream and broker for a command.

    With `run`, the stream and the topics come from that saved run. If `file` is also given, the run
    must belong to that file's stream. Raises StreamFileError, SettingsError.
    """
    settings = load_settings(bootstrap_servers=bootstrap_servers)
    if run is None:
        stream = find_stream(file)
        broker = connect(settings.client, settings.bootstrap_servers, settings.properties)
        return Context(settings, stream, broker)
    asked = None if file is None else load(file).name
    folder = run_folder(settings, run, asked)
    stream, broker = load_run(folder)
    if asked not in (None, stream.name):
        raise SettingsError(
            f"run {folder.name} belongs to stream {stream.name}, not to {asked}",
            hint="omit --stream, or use `--run last` to select the stream's newest run",
        )
    return Context(settings, stream, broker)
