"""Measure the time from a retrain request to the new model's first prediction, through Kafka.

Records arrive at a steady rate during the whole measurement. The first model is trained under a
rule that differs from the stream's, so the new model is better. Inference, outcomes and the trainer
are started with their commands, as a user would start them. The retrain request is written to the
`retrain` topic.
"""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.arrivals import Ends, values, watch
from benchmarks.data import Plan
from benchmarks.latency import Paced, warm_up
from benchmarks.process import BenchmarkError
from benchmarks.report import Report
from benchmarks.world import World
from driftline.wire.events import RetrainRequest, event_id
from driftline.wire.topics import Topics

CANDIDATES = ("logistic_regression", "decision_tree", "k_nearest_neighbours")
FEATURES = 4
_USUAL_S = 23  # seconds before the request, the first three of which are not counted
_WARM_UP_S = 3
_AFTER_S = 5.0
_AROUND_S = 0.5  # records sent within this time of the swap count as sent "at the swap"
_TIMEOUT_S = 300
_MODEL = re.compile(rb'"model":"(sha256:[0-9a-f]{64})"')


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """The records' latencies before, during and after one model change.

    seconds: time from the request to the new model's first prediction.
    usual_…: latencies before the request. `usual_longest_ms` is the longest latency of a typical
    second: the median, over all seconds before the request, of each second's longest latency.
    training_…: latencies from the request until just before the swap.
    at_swap_max_ms: the longest latency in the second around the swap.
    """

    candidate: str
    rows: int
    round: int
    seconds: float
    usual_p50_ms: float
    usual_p99_ms: float
    usual_longest_ms: float
    usual_max_ms: float
    training_p99_ms: float
    at_swap_max_ms: float


def measure(
    world: World, *, rows: int, per_s: int, repeats: int, partitions: int, report: Report
) -> Iterator[Swap]:
    """In each round, measure one swap per kind of model, each on a separate stream."""
    for number in range(1, repeats + 1):
        for candidate in CANDIDATES:
            plan = Plan(
                name=f"swap-{candidate.replace('_', '-')}-{number}",
                features=FEATURES,
                partitions=partitions,
                candidate=candidate,
                train_on=rows,
                tune=True,
                rule=1,
            )
            try:
                found = _one(world, plan, rows, per_s, number)
            except BenchmarkError as error:
                report.fail(f"swap of {candidate}: {error}")
                continue
            report.say(
                f"round {number} of {repeats}: {candidate:<22} {found.seconds:5.1f} s  "
                f"longest latency: {found.at_swap_max_ms:.1f} ms at the swap; per second before "
                f"the request: median {found.usual_longest_ms:.1f}, max {found.usual_max_ms:.1f} ms"
            )
            yield found


def _one(world: World, plan: Plan, rows: int, per_s: int, number: int) -> Swap:
    file = world.stream(plan, trained_on_rule=0)
    topics = world.topics(file)
    warm_up(world, plan, topics.features)
    world.renew(file, topics.features)
    world.fill_features(plan, topics, rows)
    world.fill_labels(plan, topics, rows)
    programs = [world.service("inference", file), world.service("outcomes", file)]
    ends = Ends(world, topics.outcomes, plan.partitions)
    paced = None
    try:
        watch(ends.total, programs[1], rows)
        programs.append(world.service("trainer", file))
        paced = Paced(
            world,
            plan,
            topics.features,
            topics.predictions,
            first=rows,
            count=_TIMEOUT_S * per_s,
            per_s=per_s,
        )
        asked_ns, swapped_ns = _until_swapped(world, paced, topics, plan, rows)
        for program in programs:
            program.check()
        times = paced.times()
    finally:
        if paced is not None:
            paced.close()
        for program in programs:
            program.stop()
        ends.close()
        world.delete(topics.features, topics.predictions, topics.outcomes, topics.labels)
    sent_ns = times.came_ns - (times.latency_ms * 1e6).astype(np.int64)
    usual = times.latency_ms[_WARM_UP_S * per_s :][sent_ns[_WARM_UP_S * per_s :] < asked_ns]
    around_ns = int(_AROUND_S * 1e9)
    training = times.latency_ms[(sent_ns >= asked_ns) & (sent_ns < swapped_ns - around_ns)]
    at_swap = times.latency_ms[np.abs(sent_ns - swapped_ns) <= around_ns]
    return Swap(
        candidate=plan.candidate,
        rows=rows,
        round=number,
        seconds=(swapped_ns - asked_ns) / 1e9,
        usual_p50_ms=_percentile(usual, 50),
        usual_p99_ms=_percentile(usual, 99),
        usual_longest_ms=_percentile(_longest(usual, per_s), 50),
        usual_max_ms=_percentile(usual, 100),
        training_p99_ms=_percentile(training, 99),
        at_swap_max_ms=_percentile(at_swap, 100),
    )


def _until_swapped(
    world: World, paced: Paced, topics: Topics, plan: Plan, rows: int
) -> tuple[int, int]:
    """Send the request after 23 s, wait for the new model's first prediction, and stop 5 s later.

    Returns two times in ns: when the request was sent, and when that prediction arrived.
    """
    began_ns = asked_ns = swapped_ns = 0
    old: bytes | None = None
    stopped = False
    for at_ns, value in paced.read():
        began_ns = began_ns or at_ns
        found = _MODEL.search(value)
        model = found[1] if found else None
        old = old or model
        if not asked_ns and at_ns - began_ns > _USUAL_S * 1e9:
            asked_ns = time.monotonic_ns()
            _ask(world, topics, rows)
        if asked_ns and not swapped_ns and model != old:
            swapped_ns = at_ns
        if swapped_ns and not stopped and at_ns - swapped_ns > _AFTER_S * 1e9:
            paced.stop()
            stopped = True
    if not swapped_ns:
        requests = [value.decode() for value in values(world, topics.retrain, 1)]
        raise BenchmarkError(f"no new model serves; {topics.retrain} contains {requests}")
    return asked_ns, swapped_ns


def _ask(world: World, topics: Topics, position: int) -> None:
    now = datetime.now(UTC).isoformat()
    request = RetrainRequest(
        id=event_id("retrain", "benchmark", now),
        cause="manual",
        caused_by=(),
        reason="benchmark",
        position=position,
        since=None,
    )
    producer = world.producer({"linger.ms": 0})
    producer.produce(topics.retrain, msgspec.json.encode(request), request.id.encode())
    producer.flush(10)


def _longest(latency_ms: NDArray[np.float64], per_s: int) -> NDArray[np.float64]:
    """Return the longest latency within each whole second."""
    seconds = len(latency_ms) // per_s
    found: NDArray[np.float64] = latency_ms[: seconds * per_s].reshape(seconds, per_s).max(axis=1)
    return found


def _percentile(latency_ms: NDArray[np.float64], percent: int) -> float:
    return float(np.percentile(latency_ms, percent)) if len(latency_ms) else float("nan")
