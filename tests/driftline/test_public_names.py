"""`from driftline import …`: light, complete, typed, and documented."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import driftline
from tests.test_docs import python_blocks

ROOT = Path(__file__).parents[2]
# Modules that an application should not wait for when it imports the names.
HEAVY = {"confluent_kafka", "evidently", "kafka", "pandas", "pyarrow", "river", "scipy", "sklearn"}


def modules_after(code: str) -> set[str]:
    """Return the modules that this code loads in a new Python."""
    code = f"import sys; before = set(sys.modules); {code}; print(*set(sys.modules) - before)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(run.stdout.split())


def test_importing_driftline_loads_no_other_module() -> None:
    assert modules_after("import driftline") == {"driftline"}


def test_the_public_names_load_no_heavy_package_and_no_client() -> None:
    loaded = {name.split(".")[0] for name in modules_after("from driftline import *")}
    assert "producers" in loaded
    assert not loaded & {*HEAVY, "consumers", "monitor", "trainer", "driftline_app"}


@pytest.mark.parametrize("name", driftline.__all__)
def test_each_public_name_can_be_imported(name: str) -> None:
    assert getattr(driftline, name).__doc__
    assert name in dir(driftline)


@pytest.mark.parametrize("name", driftline.__all__)
def test_each_public_name_is_documented(name: str) -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert re.search(rf"^\|.*`{name}`.*\|.*\|$", text, flags=re.M)


def test_an_unknown_name_is_an_error_that_lists_the_public_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predict'; its public names are Broker"):
        _ = driftline.predict  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'predict'"):
        exec("from driftline import predict")


def test_a_type_checker_accepts_the_examples_and_rejects_other_names(tmp_path: Path) -> None:
    for number, block in enumerate(python_blocks()):
        (tmp_path / f"block_{number}.py").write_text(block, encoding="utf-8")
    for example in (ROOT / "examples").glob("*.py"):
        (tmp_path / example.name).write_bytes(example.read_bytes())
    (tmp_path / "wrong.py").write_text(
        "from driftline import FeatureProducer, predict\n"
        "FeatureProducer('h:1', 2)\n"
        "reveal_type(FeatureProducer.send)\n",
        encoding="utf-8",
    )
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = true\nfollow_imports = silent\nmypy_path = {ROOT}\n", encoding="utf-8"
    )
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "."],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 4, run.stdout + run.stderr
    assert lines[0].startswith('wrong.py:1: error: Module "driftline" has no attribute "predict"')
    assert 'has incompatible type "int"; expected "Stream | str | Path"' in lines[1]
    assert re.search(r"Mapping\[.*str.*\) -> str", lines[2])
    assert lines[3].startswith("Found 2 errors in 1 file")
