"""Train a run's first model on the warm-up rows, the first rows of its data set."""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from driftline.clock import Clock
from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.wire.events import Value
from producers.playback import Playback
from trainer.first import TrainedModel, train_first


class FirstModel(msgspec.Struct, frozen=True):
    """The model trained on the warm-up rows, which precede the streamed rows."""

    trained: TrainedModel
    prior: Value  # the constant prediction of a model without inputs
    rows: int  # number of warm-up rows


def train_on_warm_up(
    stream: Stream,
    playback: Playback,
    warmup: float,
    settings: Settings,
    clock: Clock,
    progress: Callable[[str, int, int], None],
) -> FirstModel:
    """Train the first model on the first rows of the playback. Raises DriftlineError."""
    warm = playback.warm_up(warmup)  # these rows are not streamed
    return FirstModel(
        trained=train_first(
            stream, warm.records, warm.labels, settings=settings, clock=clock, progress=progress
        ),
        prior=prior_prediction(stream, warm.labels),
        rows=warm.rows,
    )


def prior_prediction(stream: Stream, labels: Sequence[Value]) -> Value:
    """Return the constant prediction of a model without inputs.

    For classification, this is the most frequent class. For regression, it is the median if the
    metric is `mae`, and the mean otherwise.
    """
    if stream.task == "classification":
        counts = Counter(labels)
        return max(sorted(counts, key=str), key=lambda label: counts[label])
    numbers = np.array(labels, dtype=np.float64)
    return float(np.median(numbers) if stream.judged_by == "mae" else np.mean(numbers))
