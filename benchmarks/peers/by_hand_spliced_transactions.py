"""Benchmark peer: `by_hand_spliced`, but with Kafka transactions of 200 ms."""

from benchmarks.peers.by_hand_spliced import predictions
from benchmarks.peers.common import arguments
from benchmarks.peers.loops import transactions

if __name__ == "__main__":
    given = arguments()
    transactions(given, predictions(given))
