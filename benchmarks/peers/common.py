"""What the peers share: their arguments, the scoring, and librdkafka's settings."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

# As Driftline: offsets are committed so often, what was done since then a crash repeats; and a
# transaction holds so much.
COMMIT_INTERVAL_S = 1.0
TRANSACTION_S = 0.2
# Records taken at once; more bring nothing, as scoring costs little beyond some hundreds.
MAX_BATCH = 5000
# `consume(n, timeout)` waits so long for `n` records.
MAX_WAIT_S = 0.1


class Arguments(argparse.Namespace):
    """What each peer is told on its command line."""

    bootstrap: str
    source: str
    sink: str
    group: str
    model: Path
    digest: str
    features: tuple[str, ...]
    classes: tuple[str, ...]


def arguments() -> Arguments:
    """Read the command line."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "source", "sink", "group", "digest"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--features", type=names, required=True)
    parser.add_argument("--classes", type=names, required=True)
    return parser.parse_args(namespace=Arguments())


class Scorer:
    """The model: a float32 matrix (n, features) in, classes and probabilities out."""

    def __init__(self, given: Arguments) -> None:
        options = onnxruntime.SessionOptions()
        # As in Driftline: for batches of this size a second thread costs more than it brings.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            given.model.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[1].name
        self.classes = given.classes
        self.features = given.features

    def score(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (n, classes), float32."""
        (found,) = self._session.run([self._output], {self._input: matrix})
        return np.asarray(found)

    def answers(self, records: Sequence[dict[str, Any]]) -> list[tuple[str, list[float]]]:
        """The most probable class of each decoded record, and all probabilities."""
        matrix = np.array(
            [[record[name] for name in self.features] for record in records], dtype=np.float32
        )
        found = self.score(matrix)
        classes = self.classes
        places = found.argmax(axis=1).tolist()
        return [(classes[place], row) for place, row in zip(places, found.tolist(), strict=True)]


def consumer_settings(given: Arguments) -> dict[str, Any]:
    """librdkafka's settings of a consumer that commits by itself and catches up quickly."""
    return {
        "bootstrap.servers": given.bootstrap,
        "group.id": given.group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "fetch.queue.backoff.ms": 5,  # default 1000: catching up stops at a fourth of the speed
    }


def producer_settings(given: Arguments) -> dict[str, Any]:
    """librdkafka's settings of a producer that loses nothing."""
    return {
        "bootstrap.servers": given.bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "delivery.report.only.error": True,
        "on_delivery": _stop_on_failure,
        # Room for all that is sent between two commits, so that `produce` never finds it full.
        "queue.buffering.max.messages": 1_000_000,
    }


def _stop_on_failure(error: Any, message: Any) -> None:
    if error is not None:
        raise RuntimeError(f"{message.topic()}: {error}")
