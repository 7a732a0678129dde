"""The structure of the code: allowed imports, light inference, and nothing unfinished."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from driftline import errors

ROOT = Path(__file__).parents[1]
SERVICES = ("producers", "consumers", "monitor", "trainer")
PACKAGES = ("driftline", "driftline_app", *SERVICES)
# The parts of a package, lowest first. A module imports from its own part and from lower ones.
LAYERS = {
    "driftline": (
        *("interrupts", "files", "errors", "clock", "safe_text", "config", "logs", "broker"),
        *("wire", "learning", "models", "runtime", "audit", "ops", "client"),
    ),
    "driftline_app": (
        *("stream_file", "context", "message_lines", "estimate_errors"),
        *("service_troubles", "service_observer", "assembly", "service_process"),
        *("systemd_units", "background_services", "champion_change"),
        *("train_on_data", "produce_data", "report", "replay", "backtest", "cli"),
    ),
}
# Packages that take seconds and hundreds of megabytes, which a process that scores must not load.
NOT_IN_INFERENCE = {
    "evidently",
    "matplotlib",
    "onnx",
    "pandas",
    "plotly",
    "pyarrow",
    "rich",
    "river",
    "scipy",
    "skl2onnx",
    "sklearn",
    "typer",
}


def sources(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere in its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def module_of(path: Path) -> str:
    """Return the dotted name of a module or of a package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """Return those of the `known` modules that a file imports anywhere in its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & known) or {node.module}
    return found & known


@pytest.mark.parametrize("package", LAYERS)
def test_imports_inside_a_package_point_down(package: str) -> None:
    modules = {module_of(path): path for path in sources(package)}
    layer = {module: module.split(".")[1] for module in modules if module != package}
    missing = set(layer.values()) - set(LAYERS[package])
    assert not missing, "place these in LAYERS"
    upward = {
        (module, other)
        for module in layer
        for other in imported_modules(modules[module], set(layer))
        if LAYERS[package].index(layer[other]) > LAYERS[package].index(layer[module])
    }
    assert not upward


def test_a_name_is_imported_from_the_module_that_defines_it() -> None:
    """Only applications import from another one: `driftline`, which has the public names."""
    trees = {
        module_of(path): ast.parse(path.read_text(encoding="utf-8"))
        for path in sources(*PACKAGES, "benchmarks", "tests")
    }
    used = {
        (node.module, alias.name)
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    imported = {
        (module, alias.asname or alias.name)
        for module, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module in trees
        for alias in node.names
        if f"{node.module}.{alias.name}" not in trees  # a module of a package
    }
    assert not used & imported


def test_only_the_public_names_of_driftline_import_a_service() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(imported_packages(path) & set(SERVICES))
        for path in sources("driftline")
        if imported_packages(path) & set(SERVICES)
    }
    # They are imported when a program uses them.
    assert wrong == {"driftline/__init__.py": ["producers"]}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_service(service: str) -> None:
    others = set(SERVICES) - {service}
    wrong = {
        str(path.relative_to(ROOT)): sorted(imported_packages(path) & others)
        for path in sources(service)
        if imported_packages(path) & others
    }
    assert not wrong


def test_no_other_package_names_the_application() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in sources("driftline", *SERVICES)
        if "driftline_app" in path.read_text(encoding="utf-8")
    ]
    assert not wrong


def test_importing_inference_loads_no_heavy_package() -> None:
    code = (
        "import sys, consumers.inference.handler as _;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = set(run.stdout.split())
    assert "msgspec" in loaded
    assert not loaded & NOT_IN_INFERENCE


@pytest.mark.parametrize("path", list(sources(*PACKAGES)), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


SHORT = list(sources(*PACKAGES, "benchmarks"))


@pytest.mark.parametrize("path", SHORT, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= 60
    ] == []


def test_every_public_class_has_a_name_of_its_own() -> None:
    homes = Counter(
        node.name
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in homes.items() if count > 1] == []


def test_no_code_is_marked_as_unfinished() -> None:
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError(\(\))?\s*$")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources(*PACKAGES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if unfinished.search(line)
    ]
    assert not found


def test_no_exception_is_swallowed() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
    ]
    assert not found


def test_the_docstring_of_errors_lists_every_error_under_its_base() -> None:
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DriftlineError)
    }
    listed: dict[str, int] = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^((?:│   |    |├── |└── )*)([A-Z]\w+)", line):
            listed[found[2]] = len(found[1]) // 4
    del listed["Define"]
    depths = {
        name: len([base for base in kind.__mro__ if base in classes.values()]) - 1
        for name, kind in classes.items()
    }
    assert listed == depths


def test_no_code_raises_a_bare_exception() -> None:
    """Errors for users are DriftlineErrors."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in ("Exception", "BaseException")
    ]
    assert not bare


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_that_a_package_exports_exists(name: str) -> None:
    package = import_module(name)
    for exported in getattr(package, "__all__", ()):
        assert hasattr(package, exported), f"{name}.__all__ names {exported!r}"


def test_the_wheel_contains_exactly_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packed) == set(PACKAGES)
    assert set(packed) == set(project["tool"]["mypy"]["packages"])
