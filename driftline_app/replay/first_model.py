"""Train a run's first model on the warm-up rows, the first rows of its data set."""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from driftline.clock import Clock
from driftline.config.measure import Measure
from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.learning.metrics import Answers, better, evaluate
from driftline.wire.events import Value
from driftline_app.replay.compared_metrics import Answer
from producers.playback import Playback
from trainer.first import TrainedModel, train_first


class FirstModel(msgspec.Struct, frozen=True):
    """The model trained on the warm-up rows, which precede the streamed rows."""

    trained: TrainedModel
    prior: Answer  # the constant answer of a model without inputs
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
        prior=prior_answer(stream, warm.labels),
        rows=warm.rows,
    )


def prior_answer(stream: Stream, labels: Sequence[Value]) -> Answer:
    """Return the constant answer of a model without inputs.

    For classification, the scores are the shares of the classes. The prediction is the most
    frequent class, or the best constant for f1 and cost. For regression, it is the constant with
    the best metric: the mean, the median or the quantile of the labels, or for rmsle the mean of
    log(1 + label), transformed back.
    """
    measure = stream.judged_by
    if stream.task == "classification":
        counts = Counter(map(str, labels))
        classes = sorted(counts)
        shares = {name: counts[name] / len(labels) for name in classes}
        best = max(classes, key=lambda name: counts[name])
        if measure.name in ("f1", "cost"):
            for name in classes:
                if better(measure, *(_constant(measure, labels, c) for c in (name, best))):
                    best = name
        return Answer(best, shares)
    numbers = np.array(labels, dtype=np.float64)
    match measure.name:
        case "mae" | "pinball_loss":
            return Answer(float(np.quantile(numbers, measure.quantile or 0.5)))
        case "rmsle":
            return Answer(float(np.expm1(np.mean(np.log1p(np.maximum(numbers, 0.0))))))
    return Answer(float(np.mean(numbers)))


def _constant(measure: Measure, labels: Sequence[Value], prediction: Value) -> float:
    return evaluate(measure, labels, Answers([prediction] * len(labels)))
