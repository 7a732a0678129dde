"""Run all replays of a backtest, and compare the policies with each other and with baselines.

Input: a `Job` with the stream and the data set, and the policies. Output: a `Backtest` with the
numbers that `driftline backtest` prints as JSON, and a comparison as text.
"""

from collections.abc import Mapping, Sequence
from math import floor, log10

import msgspec

from driftline.config.measure import Metric
from driftline.config.stream import Stream
from driftline.config.stream_sections import Policy
from driftline.errors import DataError
from driftline_app.backtest.policy_runs import (
    Job,
    Played,
    every_window,
    periodic,
    train_first_model,
    with_policy,
)
from driftline_app.backtest.process_pool import Progress, play_all
from driftline_app.replay.simulation import Alert
from driftline_app.report.elements import format_value
from monitor.estimates.coverage import Coverage


class PolicyResult(msgspec.Struct, frozen=True):
    """The result of one policy.

    `gain` is the improvement over never retraining, and `gain_error` is its standard error,
    computed from the improvement in each block of rows. `periodic_gain` is the improvement over
    retraining the same number of times at regular intervals.
    """

    metric: float | None
    alerts: tuple[Alert, ...]
    retrains: tuple[int, ...]
    train_seconds: float
    gain: float | None
    gain_error: float | None
    periodic: float | None  # metric with the same number of retrainings at regular intervals
    periodic_retrains: tuple[int, ...]
    periodic_gain: float | None
    periodic_gain_error: float | None
    estimates: Coverage | None  # accuracy of the metric estimates made before labels arrived


class Baselines(msgspec.Struct, frozen=True, rename={"every_window": "every-window"}):
    """The baselines' metrics. A metric is None if its baseline does not apply to the data.

    `periodic` is the metric with as many retrainings as under the first policy, at regular
    intervals.
    """

    never: float | None
    every_window: float | None
    periodic: float | None
    persistence: float | None


class BacktestResult(msgspec.Struct, frozen=True):
    """The output of `driftline backtest --json`."""

    metric: Metric
    policies: dict[str, PolicyResult]
    baselines: Baselines
    false_alarm_rate: float | None  # drift events opened per window of the shuffled data
    shuffled_windows: int
    every_window_retrains: int
    every_window_train_seconds: float


class Backtest(msgspec.Struct, frozen=True):
    """A backtest's result, each policy's replay, and the replay that retrains after each window."""

    job: Job  # the stream and the data set that were replayed
    result: BacktestResult
    policies: dict[str, Played]
    every_window: Played


class ComparisonRow(msgspec.Struct, frozen=True):
    """A policy or baseline in the comparison, as text. Fields that do not apply are empty."""

    name: str
    metric: str
    gain: str = ""  # improvement over never retraining
    # Improvement over retraining the same number of times at regular intervals.
    periodic_gain: str = ""
    events: str = ""
    trainings: str = ""
    train_seconds: str = ""


def backtest_all(
    job: Job, policies: Sequence[Policy], processes: int, progress: Progress
) -> Backtest:
    """Replay the job's data with all policies and baselines. Raises DriftlineError."""
    stream = job.stream
    first = train_first_model(job, lambda step, done, total: progress("first model", done, total))

    def with_first_model(name: str, played: Stream) -> Job:
        return msgspec.structs.replace(job, name=name, stream=played, first=first)

    shuffled = msgspec.structs.replace(
        job,
        name="shuffled",
        stream=with_policy(stream, "never"),
        shuffled=True,
        folder=job.folder / "shuffled",
    )
    jobs = [with_first_model(name, with_policy(stream, name)) for name in policies]
    jobs += [with_first_model("every window", every_window(stream)), shuffled]
    *played, every, mixed = play_all(jobs, processes, progress)
    if not every.compared.rows:
        raise DataError(f"{job.data}: no record after the warm-up has a label")
    counts = sorted({len(play.retrains) for play in played} - {0})
    evenly = play_all(
        [
            with_first_model(f"periodic, {count} times", periodic(stream, every.records, count))
            for count in counts
        ],
        processes,
        progress,
    )
    by_name: dict[str, Played] = dict(zip(policies, played, strict=True))
    by_count = dict(zip(counts, evenly, strict=True))
    return Backtest(job, _result(stream, by_name, by_count, every, mixed), by_name, every)


def _result(
    stream: Stream,
    played: Mapping[str, Played],
    evenly: Mapping[int, Played],
    every: Played,
    shuffled: Played,
) -> BacktestResult:
    """Combine the results of all replays.

    `evenly` maps a number of retrainings to the replay that retrains that many times at regular
    intervals.
    """
    results = {
        name: _policy_result(play, evenly.get(len(play.retrains))) for name, play in played.items()
    }
    windows = sum(any(group.tested for group in window.groups) for window in shuffled.windows)
    return BacktestResult(
        metric=stream.judged_by.name,
        policies=results,
        baselines=Baselines(
            never=every.compared.metric("static"),
            every_window=every.metric,
            periodic=next(iter(results.values())).periodic,
            persistence=persistence(stream, every),
        ),
        false_alarm_rate=len(shuffled.alerts) / windows if windows else None,
        shuffled_windows=windows,
        every_window_retrains=len(every.retrains),
        every_window_train_seconds=round(every.train_seconds, 3),
    )


def comparison(found: Backtest) -> list[ComparisonRow]:
    """Return one row for each policy, then one for each baseline."""
    result, base = found.result, found.result.baselines
    rows = [
        ComparisonRow(
            name,
            format_value(policy.metric),
            format_gain(policy.gain, policy.gain_error),
            format_gain(policy.periodic_gain, policy.periodic_gain_error),
            str(len(policy.alerts)),
            str(len(policy.retrains)),
            f"{policy.train_seconds:.1f}",
        )
        for name, policy in result.policies.items()
    ]
    rows.append(ComparisonRow("never", format_value(base.never), trainings="0"))
    rows.append(
        ComparisonRow(
            "every window",
            format_value(base.every_window),
            format_gain(*found.every_window.compared.gain("loop", "static")),
            trainings=str(result.every_window_retrains),
            train_seconds=f"{result.every_window_train_seconds:.1f}",
        )
    )
    # Policies that retrain the same number of times share one periodic replay.
    periodic_plays = {len(one.periodic_retrains): one.periodic for one in result.policies.values()}
    rows += [
        ComparisonRow(f"periodic, {count}×", format_value(metric), trainings=str(count))
        for count, metric in periodic_plays.items()
        if count
    ]
    rows.append(ComparisonRow("previous label", format_value(base.persistence)))
    return rows


def format_gain(gain: float | None, error: float | None) -> str:
    """Format an improvement and its error, with two significant digits for the error.

    >>> format_gain(0.10436, 0.01794), format_gain(22.3066, 4.2149), format_gain(None, None)
    ('+0.104 ± 0.018', '+22.3 ± 4.2', '–')
    """
    if gain is None or error is None:
        return "–"
    digits = max(0, 1 - floor(log10(error))) if error > 0.0 else 4
    return f"{gain:+.{digits}f} ± {error:.{digits}f}"


def persistence(stream: Stream, play: Played) -> float | None:
    """Return the previous-label baseline's metric, or None if the row order is arbitrary."""
    return play.compared.metric("persistence") if stream.models.split == "time" else None


def _policy_result(play: Played, even: Played | None) -> PolicyResult:
    """Return a policy's result.

    `even` is the replay that retrains the same number of times at regular intervals, or None if the
    policy trained no model.
    """
    gain, error = play.compared.gain("loop", "static")
    if even is None:
        other, other_gain, other_error = play.compared.metric("static"), gain, error
    else:
        beside = play.compared.beside("loop", even.compared, "loop", as_name="periodic")
        other = even.metric
        other_gain, other_error = beside.gain("loop", "periodic")
    return PolicyResult(
        metric=play.metric,
        alerts=play.alerts,
        retrains=play.retrains,
        train_seconds=round(play.train_seconds, 3),
        gain=gain,
        gain_error=error,
        periodic=other,
        periodic_retrains=even.retrains if even is not None else (),
        periodic_gain=other_gain,
        periodic_gain_error=other_error,
        estimates=play.estimates,
    )
