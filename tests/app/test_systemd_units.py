"""`driftline up --print systemd`: a unit for each service and slot, without secrets."""

import configparser
import shlex
from pathlib import Path

import msgspec
import pytest

from driftline.config.settings import load_settings
from driftline.config.stream import loads
from driftline.errors import SettingsError
from driftline_app.systemd_units import systemd_units
from tests.world import STREAM_FILE

SECRET = "correct horse battery staple"


def units(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Name → text of each unit for two workers of inference, and a trainer."""
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", SECRET)
    settings = load_settings(
        {"DRIFTLINE_HOME": str(tmp_path / "home"), "KAFKA_SASL_PASSWORD": SECRET},
        bootstrap_servers="kafka:9092",
    )
    slots = [("inference", 0), ("inference", 1), ("trainer", 0)]
    text = systemd_units(file, loads(STREAM_FILE), settings, slots)  # type: ignore[arg-type]
    assert SECRET not in text
    assert "KAFKA_SASL_PASSWORD" in text
    found = {}
    for unit in text.split("\n# driftline-")[1:]:
        name, _, rest = unit.partition("\n")
        found[f"driftline-{name}"] = rest
    return found


def read(unit: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    return parser


def test_there_is_a_unit_for_each_service_and_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = units(tmp_path / "s.toml", monkeypatch, tmp_path)

    assert list(found) == [
        "driftline-s-inference-0.service",
        "driftline-s-inference-1.service",
        "driftline-s-trainer-0.service",
    ]
    service = read(found["driftline-s-inference-1.service"])["Service"]
    command = shlex.split(service["ExecStart"])
    assert command[1:] == [
        *("-m", "driftline_app.cli", "inference", "--stream", str(tmp_path / "s.toml")),
        *("--bootstrap-server", "kafka:9092", "--slot", "1"),
    ]
    assert service["Restart"] == "always"
    assert service["Environment"] == f"DRIFTLINE_HOME={tmp_path / 'home'}"
    assert read(found["driftline-s-inference-1.service"])["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("where", ["working folder", "stream file", "home"])
def test_a_path_with_a_line_break_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It would add a line to the unit, for example a command."""
    folder = tmp_path / "a\nExecStartPre=touch evil"
    folder.mkdir()
    file, home = tmp_path / "s.toml", tmp_path
    if where == "working folder":
        monkeypatch.chdir(folder)
    elif where == "stream file":
        file = folder / "s.toml"
    else:
        monkeypatch.chdir(folder)
        home = Path("home")
    settings = msgspec.structs.replace(load_settings({}), home=home)
    with pytest.raises(SettingsError, match="systemd unit"):
        systemd_units(file, loads(STREAM_FILE), settings, [("trainer", 0)])


def test_a_path_with_spaces_percent_signs_and_dollars_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / 'my "50%" $streams' / "s.toml"
    unit = units(file, monkeypatch, tmp_path)["driftline-s-trainer-0.service"]

    (word,) = [w for w in shlex.split(read(unit)["Service"]["ExecStart"]) if w.endswith("s.toml")]
    assert word == str(file).replace("%", "%%").replace("$", "$$")
