"""Benchmark peer: copy values between Kafka topics.

It measures the highest throughput that librdkafka can reach in Python.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.peers.common import arguments
from benchmarks.peers.loops import at_least_once


def work(messages: Sequence[Any]) -> list[bytes]:
    """Return the messages' values unchanged."""
    return [message.value() for message in messages]


if __name__ == "__main__":
    at_least_once(arguments(), work)
