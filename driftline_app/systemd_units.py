"""Format a systemd unit for each service and slot, for `driftline up --print systemd`.

Input: a stream file, settings and slots. Output: text without secrets. The units read client
properties from an environment file that the operator writes.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.errors import SettingsError
from driftline.ops.processes import folder_of
from driftline.safe_text import visible
from driftline.wire.topics import Service
from driftline_app.service_process import service_command

_UNIT = """\
# {name}
[Unit]
Description=Driftline {stream}: {service}, slot {slot}
Wants=network-online.target
After=network-online.target
# Never give up: a broker may be down for a long time.
StartLimitIntervalSec=0

[Service]
ExecStart={command}
WorkingDirectory={folder}
Environment={home}
EnvironmentFile=-{secrets}
Restart=always
RestartSec=1
# Increase the restart delay from 1 s to a minute in six steps; systemd before 254 ignores this.
RestartSteps=6
RestartMaxDelaySec=60
# After SIGTERM, the service needs time to commit and to leave its consumer group.
TimeoutStopSec=40
KillMode=mixed

[Install]
WantedBy=default.target
"""


def systemd_units(
    file: Path, stream: Stream, settings: Settings, slots: Sequence[tuple[Service, int]]
) -> str:
    """Return all units, each preceded by a comment with its file name.

    Raises SettingsError if a path contains a line break or another unprintable character.
    """
    base = folder_of(settings, stream).name
    secrets = str((settings.home / f"{base}.env").absolute())
    secrets_file = _percent(secrets)
    names = sorted(
        name
        for name in os.environ
        if name.startswith(("KAFKA_", "DRIFTLINE_"))
        and name not in ("DRIFTLINE_HOME", "KAFKA_BOOTSTRAP_SERVERS")
    )
    lines = [
        "# Save each unit under its file name in ~/.config/systemd/user, then run:",
        "# systemctl --user daemon-reload; systemctl --user enable --now NAME...",
        f"# Write client properties and other settings to {secrets}, one NAME=value per line.",
    ]
    if names:
        shown = visible(", ".join(names))
        lines.append(f"# Copy these variables from this shell to that file if needed: {shown}.")
    units = [
        _UNIT.format(
            name=f"driftline-{base}-{service}-{slot}.service",
            stream=stream.name,
            service=service,
            slot=slot,
            command=" ".join(
                _quoted(word.replace("$", "$$"))
                for word in service_command(service, slot, file, settings.bootstrap_servers)
            ),
            folder=_percent(str(Path.cwd())),
            home=_quoted(f"DRIFTLINE_HOME={settings.home.absolute()}"),
            secrets=secrets_file,
        )
        for service, slot in slots
    ]
    return "\n".join(["\n".join(lines), "", *units])


def _quoted(word: str) -> str:
    """Quote a word for systemd: write each percent sign twice, and escape special characters."""
    escaped = _percent(word).replace("\\", "\\\\").replace('"', '\\"')
    plain = all(character.isalnum() or character in "/._-:=,%+@$" for character in escaped)
    return escaped if plain else f'"{escaped}"'


def _percent(text: str) -> str:
    """Replace `%` with `%%`. Raises SettingsError for text that could add a line to the unit."""
    if not text.isprintable():
        raise SettingsError(
            f"{text!r} contains characters that cannot be written to a systemd unit",
            hint="rename the folder or file",
        )
    return text.replace("%", "%%")
