"""librdkafka passing bytes through: what the client allows in Python, without any work."""

from collections.abc import Sequence
from typing import Any

from benchmarks.peers.common import arguments
from benchmarks.peers.loops import at_least_once


def work(messages: Sequence[Any]) -> list[bytes]:
    """The values as they came."""
    return [message.value() for message in messages]


if __name__ == "__main__":
    at_least_once(arguments(), work)
