"""Kills of services at random times of a run on a real Kafka neither lose nor repeat results.

For more times, set DRIFTLINE_FAULT_SEEDS="1 2 3", or use the long runs of `scripts/faults kill`.
"""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from driftline.config.stream_sections import Client
from driftline.wire.topics import SERVICES
from tests.faults.killers import moments
from tests.faults.run import run
from tests.faults.scenario import Data, Scenario, sea

RECORDS = 12_000
SEEDS = [int(seed) for seed in os.environ.get("DRIFTLINE_FAULT_SEEDS", "1").split()]


@pytest.mark.kafka
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("client", "overlap"), [("librdkafka", 4), ("kafka-python", 1)])
def test_kills_of_all_services_neither_lose_nor_repeat_results(
    client: Client,
    overlap: int,
    seed: int,
    kafka_bootstrap: str,
    topic_name: Callable[[], str],
    tmp_path: Path,
) -> None:
    verdict, _, _ = run(
        Scenario(
            data=sea(tmp_path, RECORDS),
            client=client,
            seed=seed,
            overlap=overlap,
            kills=dict.fromkeys(SERVICES, 1),
        ),
        kafka_bootstrap,
        tmp_path / "run",
        prefix=f"{topic_name()}-",
        say=print,
    )

    assert not verdict.deviations, verdict
    assert verdict.killed >= len(SERVICES)
    assert verdict.drift > 0


def test_the_times_of_kills_depend_on_the_seed_and_are_spread_over_the_run() -> None:
    data = Data("", "s", (), 0, 1000)
    one = Scenario(data=data, client="librdkafka", seed=1, kills=dict.fromkeys(SERVICES, 25))
    other = Scenario(data=data, client="librdkafka", seed=2, kills=dict.fromkeys(SERVICES, 25))

    drawn = moments(one)

    assert drawn == moments(one) != moments(other)
    for service in SERVICES:
        at = [moment.at for moment in drawn[service]]
        assert len(at) == 25
        assert at == sorted(at)
        assert max(b - a for a, b in pairwise(at)) < 2 * 0.94 / 25
    ways = {moment.way for service in SERVICES for moment in drawn[service]}
    assert ways == {"output", "work", "start", "rebalance"}
