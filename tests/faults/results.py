"""Append results of runs to a file of JSON lines, and make a table from such files."""

import statistics
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from driftline.config.stream_sections import Client, Delivery

_ROOT: Final = Path(__file__).parents[2]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one run.

    `lost` and `duplicated` must be 0. A loss by design of the scenario, such as records that were
    deleted unread, is in `deleted`.
    """

    commit: str  # git describe, with -dirty where files differ from it
    at: str  # when it ended, UTC
    scenario: str
    client: Client
    delivery: Delivery
    seed: int
    workers: int
    records: int
    labels: int
    deleted: int
    lost: int  # records and labels without a result
    duplicated: int  # outcomes published twice or revised; predictions too under exactly-once
    redelivered: int  # predictions published again, which at-least-once allows
    restarts: int  # of services that ended by themselves
    recovery_s: float | None  # from the end of the fault until all is read
    run_s: float
    deviations: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Return whether all guarantees held."""
        return not self.deviations

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """Return the fields that identify a run in a file."""
        return self.commit, self.scenario, self.client, self.delivery, self.seed


def commit() -> str:
    """Return the commit under test."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    return subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def append(path: Path, result: Result) -> None:
    """Append a result as one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(result) + b"\n")


def read(path: Path) -> Iterator[Result]:
    """Yield all results; none if the file does not exist."""
    if path.exists():
        decoder = msgspec.json.Decoder(Result)
        yield from map(decoder.decode, path.read_bytes().splitlines())


def markdown(results: Iterable[Result]) -> str:
    """Return the table of `docs/faults.md`: totals, and a row per scenario, client and guarantee.

    >>> print(markdown([]).splitlines()[0])
    0 runs, 0 records and labels, 0 lost, 0 duplicated, 0 with a deviation; commits: none.
    """
    found = list(results)
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in found:
        groups.setdefault((result.scenario, result.client, result.delivery), []).append(result)
    commits = ", ".join(f"`{name}`" for name in dict.fromkeys(r.commit for r in found)) or "none"
    names = (
        *("scenario", "client", "guarantee", "runs", "good", "records", "lost", "duplicated"),
        *("redelivered", "restarts", "recovery s, median", "longest"),
    )
    lines = [
        f"{len(found):,} runs, {_sent(found):,} records and labels, "
        f"{sum(r.lost for r in found):,} lost, {sum(r.duplicated for r in found):,} duplicated, "
        f"{sum(not r.good for r in found):,} with a deviation; commits: {commits}.",
        "",
        f"| {' | '.join(names)} |",
        f"|{'---|' * 3}{'---:|' * (len(names) - 3)}",
    ]
    for group in sorted(groups):
        runs = groups[group]
        times = [r.recovery_s for r in runs if r.recovery_s is not None]
        cells = (
            *(group[0], group[1], group[2].replace("_", "-"), len(runs)),
            *(sum(r.good for r in runs), f"{_sent(runs):,}", sum(r.lost for r in runs)),
            *(sum(r.duplicated for r in runs), f"{sum(r.redelivered for r in runs):,}"),
            sum(r.restarts for r in runs),
            f"{statistics.median(times):.1f}" if times else "never",
            f"{max(times):.1f}" if times else "never",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _sent(results: Iterable[Result]) -> int:
    return sum(result.records + result.labels for result in results)
