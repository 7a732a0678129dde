"""Run all plays of a backtest, and compare their results.

In: a stream, data and policies. Out: a `Backtest`; its `result` is what the command prints.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from driftline.config.stream import Metric, Policy, Stream
from driftline.errors import DataError
from driftline_app.backtest.policy_runs import (
    Job,
    Played,
    every_window,
    periodic,
    train_first_model,
    with_policy,
)
from driftline_app.backtest.process_pool import Tell, play_all
from driftline_app.replay.simulation import Alert
from monitor.estimates.coverage import Coverage


class PolicyResult(msgspec.Struct, frozen=True):
    """The result of one policy.

    `gain` is the improvement over never retraining, and `gain_error` its paired standard error over
    blocks. `periodic_gain` is the improvement over as many trainings at regular intervals.
    """

    metric: float | None
    alerts: tuple[Alert, ...]
    retrains: tuple[int, ...]
    train_seconds: float
    gain: float | None
    gain_error: float | None
    periodic: float | None  # the metric with as many trainings at regular intervals
    periodic_retrains: tuple[int, ...]
    periodic_gain: float | None
    periodic_gain_error: float | None
    estimates: Coverage | None  # of the metric, before labels were known


class Baselines(msgspec.Struct, frozen=True, rename={"every_window": "every-window"}):
    """The metrics of the baselines; None where one makes no sense for the data.

    `periodic` has the number of trainings of the first policy.
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
    """All plays: those of the policies by name, and those of the baselines."""

    result: BacktestResult
    policies: dict[str, Played]
    every_window: Played
    shuffled: Played


def backtest_all(
    stream: Stream,
    data: str,
    policies: Sequence[Policy],
    *,
    folder: Path,
    warmup: float,
    limit: int | None,
    seed: int,
    processes: int,
    tell: Tell,
) -> Backtest:
    """Play all policies and baselines, with models in `folder`. Raises DriftlineError."""
    base = Job("first model", stream, data, folder, warmup, limit, seed)
    first = train_first_model(base, lambda step, done, total: tell("first model", done, total))
    base = msgspec.structs.replace(base, first=first)

    def job(name: str, played: Stream) -> Job:
        return msgspec.structs.replace(base, name=name, stream=played)

    shuffled = msgspec.structs.replace(
        job("shuffled", with_policy(stream, "never")),
        first=None,
        shuffled=True,
        folder=folder / "shuffled",
    )
    jobs = [job(name, with_policy(stream, name)) for name in policies]
    *played, every, mixed = play_all(
        [*jobs, job("every window", every_window(stream)), shuffled], processes, tell
    )
    by_name = dict(zip(policies, played, strict=True))
    if not every.compared.rows:
        raise DataError(f"{data}: no record after the warm-up has a label")
    counts = sorted({len(play.retrains) for play in played} - {0})
    evenly = dict(
        zip(
            counts,
            play_all(
                [
                    job(f"periodic, {count} times", periodic(stream, every.records, count))
                    for count in counts
                ],
                processes,
                tell,
            ),
            strict=True,
        )
    )
    results = {
        name: _policy_result(play, evenly.get(len(play.retrains))) for name, play in by_name.items()
    }
    windows = sum(any(group.tested for group in window.groups) for window in mixed.windows)
    return Backtest(
        result=BacktestResult(
            metric=stream.judged_by,
            policies={str(name): result for name, result in results.items()},
            baselines=Baselines(
                never=every.compared.metric("static"),
                every_window=every.metric,
                periodic=results[policies[0]].periodic,
                persistence=persistence(stream, every),
            ),
            false_alarm_rate=len(mixed.alerts) / windows if windows else None,
            shuffled_windows=windows,
            every_window_retrains=len(every.retrains),
            every_window_train_seconds=round(every.train_seconds, 3),
        ),
        policies={str(name): play for name, play in by_name.items()},
        every_window=every,
        shuffled=mixed,
    )


def persistence(stream: Stream, play: Played) -> float | None:
    """Return the metric of predicting the last known label; None if the order means nothing."""
    return play.compared.metric("persistence") if stream.models.split == "time" else None


def _policy_result(play: Played, even: Played | None) -> PolicyResult:
    """Return the result of a play. `even` is the periodic play, None if nothing was trained."""
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
