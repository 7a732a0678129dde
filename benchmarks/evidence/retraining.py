"""Compare the retrain policy `harm` with periodic and with no retraining, by replaying data files.

Input: labelled data sets, each replayed through the services as in `driftline backtest`. Output for
each data set: each policy's metric and retrain count; its difference from `harm`, with a standard
error from paired blocks; wins and losses; and the drift events on the original and on shuffled
rows. A plot shows the error against the retrain count.
"""

import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import msgspec

from benchmarks.evidence.options import options
from benchmarks.evidence.sets import SETS, DataSet
from driftline.config.measure import default_measure
from driftline.config.stream import Stream, loads
from driftline.learning.metrics import Answers, losses
from driftline_app.backtest.policy_runs import Job, Played, periodic, train_first_model, with_policy
from driftline_app.backtest.process_pool import cores, play_all
from driftline_app.backtest.result import persistence
from driftline_app.replay.compared_metrics import ComparedPredictors
from driftline_app.replay.simulation import Alert
from driftline_app.report.elements import element
from producers.draft import draft
from producers.profile import look
from producers.sources import open_source

# How many times each periodic policy retrains, at even intervals over the streamed rows. The same
# numbers are used for all data sets. They were chosen before the measurement.
GRID: Final = (1, 2, 4, 8, 16)
# A difference of more than this many standard errors counts as a win or a loss.
CLEAR: Final = 2.0
# The labelled data sets, in table order.
NAMES: Final = (
    "sea_abrupt",
    "thu_sine_0123_abrupto",
    "thu_mixed_0101_gradual",
    "elec2",
    "noaa_weather",
    "phishing_sites",
    "california_housing_nml",
    "bike_sharing",
    "car_loan_nml",
    "airlines_delayed_labels",
    "metro_traffic",
)


class PolicyOnSet(msgspec.Struct, frozen=True):
    """One retrain policy's result on one data set.

    harm_gain: by how much `harm` is better than this policy. harm_gain_error: the standard error
    of `harm_gain`.
    """

    name: str
    metric: float | None
    error: float  # mean error: error rate for classification, mean absolute error for regression
    trainings: int
    train_seconds: float
    harm_gain: float | None = None
    harm_gain_error: float | None = None

    @property
    def clearly(self) -> int:
        """1 if `harm` is clearly better than this policy, -1 if clearly worse, else 0."""
        if self.harm_gain is None or self.harm_gain_error is None:
            return 0
        least = CLEAR * self.harm_gain_error
        return (self.harm_gain > least) - (self.harm_gain < -least)


class SetResult(msgspec.Struct, frozen=True):
    """All policies' results on one data set."""

    set: str
    metric: str
    rows: int
    policies: tuple[PolicyOnSet, ...]
    matched: str  # name of the policy that retrains as many times as `harm`
    alerts: tuple[Alert, ...]  # the drift events under `harm`
    shuffled_alerts: int  # number of drift events on the shuffled rows, without retraining
    previous_label: float | None  # the metric of always predicting the previous label
    seconds: float

    def policy(self, name: str) -> PolicyOnSet:
        """Return the policy with this name."""
        return next(policy for policy in self.policies if policy.name == name)


def main(argv: list[str]) -> int:
    """Replay the data sets and print the tables."""
    parser = options("retraining", __doc__)
    parser.add_argument("--sets", nargs="+", choices=NAMES, help="data sets; default: all")
    parser.add_argument("--limit", type=int, help="maximum number of rows per data set")
    parser.add_argument("--processes", type=int, default=cores(), help="replays to run in parallel")
    parser.add_argument("--svg", type=Path, help="file for a plot of error by retrain count")
    chosen = parser.parse_args(argv)
    results: list[SetResult] = []
    for name in NAMES:
        if chosen.sets and name not in chosen.sets:
            continue
        results.append(measure(SETS[name], chosen.data, chosen.limit, chosen.processes))
        print(f"{name}: {results[-1].seconds:.0f} s", file=sys.stderr)
        if chosen.json:
            chosen.json.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    print(table(results))
    if chosen.svg:
        chosen.svg.write_text(ET.tostring(plot(results), encoding="unicode") + "\n")
    return 0


def stream_of(item: DataSet, folder: Path) -> Stream:
    """Return the stream file that `driftline init` drafts for a data set."""
    source = open_source(str(item.file(folder)))
    profile = look(source, item.target, time=item.time, id=item.id, key=None, drop=item.drop)
    return loads(draft(profile, item.name.replace("_", "-")), name=item.name)


def measure(item: DataSet, folder: Path, limit: int | None, processes: int) -> SetResult:
    """Replay one data set under all policies."""
    began_s = time.monotonic()
    stream = stream_of(item, folder)
    with tempfile.TemporaryDirectory() as models:
        data = str(item.file(folder))
        base = Job("first", stream, data, Path(models), 0.2, limit, 0)
        base = msgspec.structs.replace(base, first=train_first_model(base, lambda *_: None))

        def play(policies: dict[str, Stream]) -> list[Played]:
            jobs = [
                msgspec.structs.replace(base, name=name, stream=played)
                for name, played in policies.items()
            ]
            return play_all(jobs, processes, lambda *_: None)

        (harm,) = play({"harm": with_policy(stream, "harm")})
        shuffled = msgspec.structs.replace(
            base, name="shuffled", stream=with_policy(stream, "never"), shuffled=True
        )
        (undrifted,) = play_all([shuffled], processes, lambda *_: None)
        counts = sorted({*GRID, len(harm.retrains)} - {0})
        evenly = play(
            {f"periodic {count}": periodic(stream, harm.records, count) for count in counts}
        )
    matched = f"periodic {len(harm.retrains)}" if harm.retrains else "never"
    return SetResult(
        set=item.name,
        metric=stream.judged_by.name,
        rows=harm.records,
        policies=(
            _policy(stream, "harm", harm),
            _never(stream, harm),
            *(_policy(stream, play.name, play, harm) for play in evenly),
        ),
        matched=matched,
        alerts=harm.alerts,
        shuffled_alerts=len(undrifted.alerts),
        previous_label=persistence(stream, harm),
        seconds=round(time.monotonic() - began_s, 1),
    )


def _policy(stream: Stream, name: str, play: Played, harm: Played | None = None) -> PolicyOnSet:
    gain = error = None
    if harm is not None:
        both = harm.compared.beside("loop", play.compared, "loop", as_name="other")
        gain, error = both.gain("loop", "other")
    compared = play.compared
    mean = _mean_error(stream, compared, "loop")
    return PolicyOnSet(
        name, play.metric, mean, len(play.retrains), round(play.train_seconds, 2), gain, error
    )


def _mean_error(stream: Stream, compared: ComparedPredictors, name: str) -> float:
    answers = Answers(compared.predicted[name])
    return float(losses(default_measure(stream.task), compared.labels, answers).mean())


def _never(stream: Stream, harm: Played) -> PolicyOnSet:
    """Return the result without retraining: the first model's result in the `harm` replay."""
    compared = harm.compared
    mean = _mean_error(stream, compared, "static")
    return PolicyOnSet(
        "never", compared.metric("static"), mean, 0, 0.0, *compared.gain("loop", "static")
    )


# ---- tables and plot -----------------------------------------------------------------------------


def table(results: Sequence[SetResult]) -> str:
    """Format the results as Markdown: metrics, drift events, and how `harm` compares."""
    lines = [
        "| set | metric | harm | trainings | seconds | never | harm − never | periodic, as many "
        "trainings | harm − periodic | best of the grid | its trainings | previous label |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        harm, never, even = (result.policy(n) for n in ("harm", "never", result.matched))
        grid = [policy for policy in result.policies if policy.name.startswith("periodic")]
        best = min(grid, key=lambda policy: policy.error)
        lines.append(
            f"| {result.set} | {result.metric} | {_number(harm.metric)} | {harm.trainings} | "
            f"{harm.train_seconds:.1f} | {_number(never.metric)} | {_gain(never)} | "
            f"{_number(even.metric)} ({even.trainings}) | {_gain(even)} | {_number(best.metric)} | "
            f"{best.trainings} | {_number(result.previous_label)} |"
        )
    lines += [
        "",
        "| set | records | drift events, by kind | rows from each known change to the first "
        "event | events opened per 1,000 records | same, shuffled |",
        "|---|---:|---|---|---:|---:|",
    ]
    for result in results:
        kinds = Counter(alert.kind for alert in result.alerts)
        events = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
        lines.append(
            f"| {result.set} | {result.rows:,} | {events} | {delays(result)} "
            f"| {1000 * len(result.alerts) / result.rows:.3f} "
            f"| {1000 * result.shuffled_alerts / result.rows:.3f} |"
        )
    lines += [
        "",
        "This list compares `harm` with each alternative. It says *better* or *worse* if the "
        "difference is more than 2 paired block standard errors. *periodic 4* means retraining "
        "four times at even intervals.",
        "",
    ]
    for result in results:
        others = [policy for policy in result.policies if policy.name != "harm"]
        named = {
            sign: ", ".join(policy.name for policy in others if policy.clearly == sign) or "none"
            for sign in (1, 0, -1)
        }
        lines.append(
            f"- {result.set}: better than {named[1]}; no significant difference from {named[0]}; "
            f"**worse than {named[-1]}**"
            if named[-1] != "none"
            else f"- {result.set}: better than {named[1]}; "
            f"no significant difference from {named[0]}"
        )
    return "\n".join(lines)


def delays(result: SetResult) -> str:
    """Return, for each known change, the number of rows until the first event.

    Only events before the next change are considered. A dash stands for a change without an event.
    """
    found = []
    changes = [change.row for change in SETS[result.set].changes]
    for row, following in pairwise([*changes, math.inf]):
        first = min((a.row for a in result.alerts if row <= a.row < following), default=None)
        found.append("–" if first is None else f"{first - row:,}")
    return ", ".join(found)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _gain(policy: PolicyOnSet) -> str:
    if policy.harm_gain is None or policy.harm_gain_error is None:
        return "–"
    sign = {1: " **better**", 0: "", -1: " **worse**"}[policy.clearly]
    return f"{policy.harm_gain:+.4f} ± {policy.harm_gain_error:.4f}{sign}"


_COLOURS: Final = (
    "#1f66d1", "#c4650a", "#17803d", "#d1293d", "#7a4fd0", "#8b6914",
    "#0e8a8a", "#c2418f", "#5a6472", "#3d8fb0", "#9a3b00",
)  # fmt: skip
_WIDTH: Final = 900
_HEIGHT: Final = 460
_LEFT: Final = 70
_RIGHT: Final = 230


class _Scale:
    """Map results to plot coordinates: x is the retrain count, y is the relative error."""

    def __init__(self, results: Sequence[SetResult]) -> None:
        shares = [self.share(result, policy) for result in results for policy in result.policies]
        self.high, self.low = max(*shares, 1.05), min(*shares, 0.95)
        self.most = max(policy.trainings for result in results for policy in result.policies)

    @staticmethod
    def share(result: SetResult, policy: PolicyOnSet) -> float:
        return policy.error / max(result.policy("never").error, 1e-12)

    def x(self, trainings: int) -> float:
        return _LEFT + math.sqrt(trainings / max(1, self.most)) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, share: float) -> float:
        return 20 + (self.high - share) / (self.high - self.low) * (_HEIGHT - 80)


def plot(results: Sequence[SetResult]) -> ET.Element:
    """Plot each policy's error, relative to the error without retraining, against retrain count.

    Each data set has its own colour. A line connects the results without retraining and with
    periodic retraining, and a ring marks `harm`. Lower error and fewer retrainings are better.
    """
    scale = _Scale(results)
    drawn = [
        element("rect", x=0, y=0, width=_WIDTH, height=_HEIGHT, fill="#ffffff"),
        *_axes(scale),
        *(part for number, result in enumerate(results) for part in _set(scale, number, result)),
    ]
    note, at = "ring: harm; line: never, then periodic", 40 + 20 * len(results)
    drawn.append(element("text", note, x=_WIDTH - _RIGHT + 14, y=at, fill="#60646c"))
    return element(
        "svg",
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        font_family="sans-serif",
        font_size="12",
        role="img",
    )


def _axes(scale: _Scale) -> Iterator[ET.Element]:
    yield element("text", "error relative to the error without retraining", x=_LEFT, y=14)
    yield element("text", "trainings", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 12)
    for share in (index / 10 for index in range(31)):
        if scale.low <= share <= scale.high:
            yield _rule(_LEFT, scale.y(share), _WIDTH - _RIGHT, scale.y(share))
            yield element("text", f"{share:.1f}", x=_LEFT - 32, y=scale.y(share) + 4)
    for trainings in sorted({0, *GRID, scale.most}):
        yield element("text", str(trainings), x=scale.x(trainings) - 4, y=_HEIGHT - 36)


def _set(scale: _Scale, number: int, result: SetResult) -> Iterator[ET.Element]:
    """Draw one set's line, ring and legend entry."""
    colour = _COLOURS[number % len(_COLOURS)]
    policies = [policy for policy in result.policies if policy.name != "harm"]
    path = " ".join(
        f"{scale.x(policy.trainings):.1f},{scale.y(scale.share(result, policy)):.1f}"
        for policy in sorted(policies, key=lambda policy: policy.trainings)
    )
    yield element("polyline", points=path, fill="none", stroke=colour, stroke_width=1.5)
    harm = result.policy("harm")
    yield element(
        "circle",
        element("title", f"{result.set}, harm: {harm.trainings} trainings"),
        cx=scale.x(harm.trainings),
        cy=scale.y(scale.share(result, harm)),
        r=6,
        fill="#ffffff",
        stroke=colour,
        stroke_width=3,
    )
    at = 30 + 20 * number
    yield _rule(_WIDTH - _RIGHT + 14, at - 4, _WIDTH - _RIGHT + 34, at - 4, colour)
    yield element("text", result.set, x=_WIDTH - _RIGHT + 40, y=at)


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str = "#e1e3e6") -> ET.Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
