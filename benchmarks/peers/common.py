"""Code shared by the benchmark peers: arguments, ONNX scoring and librdkafka settings."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

# `COMMIT_INTERVAL_S` is the time between offset commits, and `TRANSACTION_S` is the duration of a
# transaction. Both are as in Driftline. After a crash, the work since the last commit is repeated.
COMMIT_INTERVAL_S = 1.0
TRANSACTION_S = 0.2
# Maximum number of records per batch. Larger batches would not be faster: in batches of a few
# hundred records or more, scoring is only a small part of the cost per record.
MAX_BATCH = 5000
# The timeout passed to `consume(n, timeout)`, which waits at most this long for `n` records.
MAX_WAIT_S = 0.1


class Arguments(argparse.Namespace):
    """A peer's command-line arguments."""

    bootstrap: str
    source: str
    sink: str
    group: str
    model: Path
    digest: str
    features: tuple[str, ...]
    classes: tuple[str, ...]


def arguments() -> Arguments:
    """Parse the command line."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "source", "sink", "group", "digest"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--features", type=names, required=True)
    parser.add_argument("--classes", type=names, required=True)
    return parser.parse_args(namespace=Arguments())


class OnnxModel:
    """An ONNX model, which maps a float32 matrix (n, features) to class probabilities."""

    def __init__(self, given: Arguments) -> None:
        options = onnxruntime.SessionOptions()
        # As in Driftline, use one thread: for batches of this size, a second thread would cost
        # more time than it saves.
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
        """Return the class probabilities: float32, shape (n, classes)."""
        (found,) = self._session.run([self._output], {self._input: matrix})
        return np.asarray(found)

    def classify(self, records: Sequence[dict[str, Any]]) -> list[tuple[str, list[float]]]:
        """Return each decoded record's most probable class and the probabilities of all classes."""
        matrix = np.array(
            [[record[name] for name in self.features] for record in records], dtype=np.float32
        )
        found = self.score(matrix)
        classes = self.classes
        places = found.argmax(axis=1).tolist()
        return [(classes[place], row) for place, row in zip(places, found.tolist(), strict=True)]


def consumer_settings(given: Arguments) -> dict[str, Any]:
    """Return librdkafka settings for a consumer that commits explicitly and catches up fast."""
    return {
        "bootstrap.servers": given.bootstrap,
        "group.id": given.group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "fetch.queue.backoff.ms": 5,  # with the default, 1000, catching up takes four times as long
    }


def producer_settings(given: Arguments) -> dict[str, Any]:
    """Return librdkafka settings for a producer that loses no records."""
    return {
        "bootstrap.servers": given.bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "delivery.report.only.error": True,
        "on_delivery": _stop_on_failure,
        # Large enough for all records between two commits, so that `produce` never fails because
        # the queue is full.
        "queue.buffering.max.messages": 1_000_000,
    }


def _stop_on_failure(error: Any, message: Any) -> None:
    if error is not None:
        raise RuntimeError(f"{message.topic()}: {error}")
