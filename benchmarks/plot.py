"""Plot the results: `python -m benchmarks.plot RESULTS.json FOLDER` writes PNG files to FOLDER.

It runs in the peers' environment, which has matplotlib, and reads only the results.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt  # type: ignore[import-not-found, unused-ignore]

_OURS, _PEERS = "#1b6f5f", "#9aa5b1"


def main() -> None:
    """Plot each part that is in the results."""
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
    return _pairs(
        part["rows"],
        ("records_per_s", "records a second, {} features"),
        ("cpu_us_per_record", "µs of CPU a record, {} features"),
    )


def _latency(part: dict[str, Any]) -> Any:
    return _pairs(
        part["rows"],
        ("p50_ms", "latency at the median, ms, {} features"),
        ("p99_ms", "latency at the 99th percentile, ms, {} features"),
    )


def _pairs(rows: list[dict[str, Any]], left: tuple[str, str], right: tuple[str, str]) -> Any:
    """Draw two bar charts side by side for each number of features."""
    counts = sorted({row["features"] for row in rows})
    names = list(dict.fromkeys(row["name"] for row in rows))
    figure, grid = plt.subplots(
        len(counts),
        2,
        figsize=(10, (0.3 * len(names) + 0.8) * len(counts)),
        squeeze=False,
        sharey="row",
    )
    for axes, count in zip(grid, counts, strict=True):
        chosen = [row for row in rows if row["features"] == count][::-1]
        for place, (field, title) in zip(axes, (left, right), strict=True):
            _bars(place, chosen, field, title.format(count))
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
    """Draw a bar for the median of each program, with an error bar from least to greatest."""
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
    for place, row in enumerate(rows):
        value, end = row[field]["median"], row[field]["greatest"]
        text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        axes.text(end, place, f"  {text}", va="center", fontsize=8)
    axes.margins(x=0.18)  # room for the numbers
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xticks([])
    axes.tick_params(labelsize=8, length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


if __name__ == "__main__":
    main()
