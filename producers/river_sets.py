"""Open River's bundled data sets and drift generators as data sources.

Input: `river:NAME`, with a generator's parameters. Output: a `RowSource` whose target column is
called `target`. This module downloads nothing.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from driftline.errors import DataError
from producers.rows import Change, Row, RowSource

TARGET: Final = "target"
# Generators are infinite. This many rows are enough for a few drifts, and are quick to generate.
DEFAULT_ROWS: Final = 10_000


class RiverSource:
    """A River data set's rows: features and `target`. Each call to `rows` starts over."""

    textual: Final = False

    def __init__(
        self, name: str, make: Callable[[], Any], rows: int, changes: tuple[Change, ...] = ()
    ) -> None:
        self.name = name
        self.changes = changes
        self._make = make
        self._rows = rows

    def count(self) -> int:
        return self._rows

    def rows(self) -> Iterator[Row]:
        for features, target in islice(self._make(), self._rows):
            yield {**{str(name): value for name, value in features.items()}, TARGET: target}


def open_river(name: str) -> RowSource:
    """Open one of River's data sets or generators by name.

    - A bundled set: `river:Phishing`.
    - A generator: `river:SEA:variant=2,seed=1,n=20000`. `n` is the number of rows. `seed` (default
      0) is the generator's seed. All other parameters are passed to River.
    - Two generators joined by `/`, drifting from the first to the second (`ConceptDriftStream`):
      `river:SEA:variant=0/SEA:variant=3,at=5000,width=1000,n=10000`. The drift is a sigmoid
      centred on row `at` (default: the middle row) and about `width` rows wide (default: 1). A
      `width` that is too small for River is increased.

    Raises DataError.

    >>> source = open_river("river:SEA:seed=1,n=2")
    >>> [sorted(row) for row in source.rows()]
    [['0', '1', '2', 'target'], ['0', '1', '2', 'target']]
    """
    parts = [_parse(part, name) for part in name.removeprefix("river:").split("/")]
    if len(parts) > 2:
        raise DataError(f"{name}: at most two generators can be joined")
    found = _bundled(name, *parts[0]) if len(parts) == 1 else None
    return found or _generated(name, parts)


def _bundled(name: str, class_name: str, parameters: dict[str, Any]) -> RowSource | None:
    """Open the bundled data set with this name, or return None if there is no such data set."""
    from river import datasets
    from river.datasets import base

    found: Any = getattr(datasets, class_name, None)
    if inspect.isclass(found) and issubclass(found, base.RemoteDataset):
        raise DataError(
            f"{name}: this set is not bundled with River; it would have to be downloaded",
            hint=f"bundled: {', '.join(bundled())}",
        )
    if class_name not in bundled():
        return None
    if parameters:
        raise DataError(f"{name}: a bundled set takes no parameters")
    return RiverSource(name, found, found().n_samples)


def _generated(name: str, parts: Sequence[tuple[str, dict[str, Any]]]) -> RowSource:
    """Open one generator, or two generators joined by a drift."""
    from river.datasets import synth

    rows, at, width = DEFAULT_ROWS, None, 1
    makers = []
    for class_name, parameters in parts:
        generator = getattr(synth, class_name, None)
        if not inspect.isclass(generator):
            known = [n for n in dir(synth) if n[0].isupper() and n != "ConceptDriftStream"]
            raise DataError(
                f"{name}: River has no data set or generator {class_name!r}",
                hint=f"data sets: {', '.join(bundled())}; generators: {', '.join(known)}",
            )
        rows = _whole(parameters.pop("n", rows), "n", name)
        at = parameters.pop("at", at)
        width = _whole(parameters.pop("width", width), "width", name)
        makers.append(_maker(generator, parameters, name))
    if len(makers) == 1:
        return RiverSource(name, makers[0], rows)
    position = rows // 2 if at is None else _whole(at, "at", name)
    # River computes exp(4 × distance / width), which overflows above exp(709).
    width = max(width, -(-4 * max(position, rows - position) // 700))

    def joined() -> Any:
        return synth.ConceptDriftStream(
            stream=makers[0](), drift_stream=makers[1](), position=position, width=width, seed=0
        )

    return RiverSource(name, joined, rows, (Change(position, "the generator changed"),))


def bundled() -> tuple[str, ...]:
    """Return the names of River's bundled data sets that have a single target."""
    from river import datasets
    from river.datasets import base

    sets: dict[str, Any] = vars(datasets)
    return tuple(
        name
        for name, found in sets.items()
        if isinstance(found, type)
        and issubclass(found, base.FileDataset)
        and not issubclass(found, base.RemoteDataset)
        and not str(found().task).startswith("Multi-output")
    )


def _parse(part: str, name: str) -> tuple[str, dict[str, Any]]:
    class_name, _, text = part.partition(":")
    parameters: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise DataError(f"{name}: expected key=value, got {item!r}")
        parameters[key] = _value(value)
    return class_name, parameters


def _value(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _whole(value: object, key: str, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise DataError(f"{name}: expected a positive whole number for {key}, got {value!r}")


def _maker(generator: Any, parameters: dict[str, Any], name: str) -> Callable[[], Any]:
    allowed = [p for p in inspect.signature(generator).parameters if p != "self"]
    # A River generator has one seed parameter (`seed`) or several, such as `seed_model`.
    seeds = {p: parameters.get("seed", 0) for p in allowed if p.startswith("seed")}
    given = {key: value for key, value in parameters.items() if key != "seed"}
    if wrong := set(given) - set(allowed):
        raise DataError(
            f"{name}: {generator.__name__} has no parameter {sorted(wrong)[0]!r}",
            hint=f"parameters: {', '.join(('n', *allowed))}",
        )

    def make() -> Any:
        return generator(**{**seeds, **given})

    try:
        next(iter(make()))
    except Exception as error:  # River's own message explains an invalid value best
        raise DataError(f"{name}: {error}") from error
    return make
