"""Draws what was measured: `python -m benchmarks.plot RESULTS.json FOLDER` writes PNG files there.

It runs in the peers' environment, which has matplotlib, and reads nothing but the results.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt  # type: ignore[import-not-found, unused-ignore]

_OURS, _PEERS = "#1b6f5f", "#9aa5b1"


def main() -> None:
    """Draw each part that the results have."""
    results = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    folder = Path(sys.argv[2])
    for part, draw in (("throughput", _throughput), ("latency", _latency), ("memory", _memory)):
        if results.get(part):
            figure = draw(results[part])
            figure.tight_layout()
            path = folder / f"{part}.png"
            figure.savefig(path, dpi=150)
            print(path)


def _throughput(part: dict[str, Any]) -> Any:
    rows = part["rows"]
    counts = sorted({row["features"] for row in rows})
    longest = max(len([row for row in rows if row["features"] == count]) for count in counts)
    figure, grid = plt.subplots(
        len(counts), 2, figsize=(10, (0.36 * longest + 1.2) * len(counts)), squeeze=False
    )
    for axes, count in zip(grid, counts, strict=True):
        chosen = [row for row in rows if row["features"] == count][::-1]
        _bars(axes[0], chosen, "records_per_s", f"records a second, {count} features")
        _bars(axes[1], chosen, "cpu_us_per_record", f"µs of CPU a record, {count} features")
    return figure


def _latency(part: dict[str, Any]) -> Any:
    rows = part["rows"]
    counts = sorted({row["features"] for row in rows})
    longest = max(len([row for row in rows if row["features"] == count]) for count in counts)
    figure, grid = plt.subplots(
        len(counts), 2, figsize=(10, (0.36 * longest + 1.2) * len(counts)), squeeze=False
    )
    for axes, count in zip(grid, counts, strict=True):
        chosen = [row for row in rows if row["features"] == count][::-1]
        _bars(axes[0], chosen, "p50_ms", f"latency at the median, ms, {count} features")
        _bars(axes[1], chosen, "p99_ms", f"latency at the 99th percentile, ms, {count} features")
    return figure


def _memory(part: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(8, 4))
    for curve in part["curves"]:
        points = curve["points"]
        axes.plot(
            [point["records"] / 1e6 for point in points],
            [point["mb"] for point in points],
            label=curve["service"],
        )
    axes.set_xlabel("million records")
    axes.set_title("memory (RSS), MB", loc="left", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _bars(axes: Any, rows: list[dict[str, Any]], field: str, title: str) -> None:
    """One bar for each program at its median, with a whisker over the rounds."""
    medians = [row[field]["median"] for row in rows]
    axes.barh(
        [row["name"] for row in rows],
        medians,
        xerr=[
            [row[field]["median"] - row[field]["least"] for row in rows],
            [row[field]["greatest"] - row[field]["median"] for row in rows],
        ],
        color=[_OURS if row["name"].startswith("driftline") else _PEERS for row in rows],
        error_kw={"elinewidth": 1, "ecolor": "#333333"},
    )
    for place, value in enumerate(medians):
        text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        axes.text(0, place, f" {text}", va="center", fontsize=8)
    axes.set_title(title, loc="left", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
