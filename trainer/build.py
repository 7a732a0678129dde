"""Build the trainer's handler, with a runner that trains on outcomes read from a broker.

Input: the stream, the settings and a broker. Output: a `TrainerHandler`.
"""

import logging

import msgspec

from driftline.broker import connect
from driftline.broker.port import Broker
from driftline.clock import Clock
from driftline.config.settings import Settings
from driftline.config.stream import Stream
from driftline.models.catalog import seen_by_inference
from driftline.models.keys import Signer, Trusted, ensure_key
from driftline.models.load import ModelLoader
from driftline.models.store import ModelStore
from driftline.wire.topics import Topics
from trainer.collect import BrokerOutcomeLog
from trainer.publish import Publisher
from trainer.retrain import TrainingJob, TrainingResult, retrain
from trainer.runner import InlineRunner, ProcessRunner, Runner
from trainer.search import Progress
from trainer.service import TrainerHandler

log = logging.getLogger(__name__)


def build_trainer(
    stream: Stream, settings: Settings, broker: Broker, clock: Clock, *, synchronous: bool
) -> TrainerHandler:
    """Return the trainer's handler. Create a signing key if none exists.

    If `synchronous` is True, the handler trains in the calling thread and uses `broker`. Otherwise,
    it trains in a separate process, which opens its own connection to the broker.
    """
    ensure_key(settings.keys)
    runner: Runner
    if synchronous:

        def train(job: TrainingJob, progress: Progress) -> TrainingResult:
            return _train(stream, settings, broker, job, progress)

        runner = InlineRunner(train, _log_progress)
    else:
        runner = ProcessRunner(TrainAlone(stream, settings), _log_progress)
    return TrainerHandler(
        stream,
        runner,
        clock,
        BrokerOutcomeLog(broker, stream).count,
        signer=Signer(settings.keys),
        trusted=Trusted(settings.keys),
        seen=seen_by_inference(broker, Topics(stream)),
    )


class TrainAlone(msgspec.Struct, frozen=True):
    """The training function for a separate process. It opens its own connection to the broker."""

    stream: Stream
    settings: Settings

    def __call__(self, job: TrainingJob, progress: Progress) -> TrainingResult:
        settings = self.settings
        broker = connect(settings.client, settings.bootstrap_servers, settings.properties)
        return _train(self.stream, settings, broker, job, progress)


def _train(
    stream: Stream, settings: Settings, broker: Broker, job: TrainingJob, progress: Progress
) -> TrainingResult:
    return retrain(
        job,
        stream,
        BrokerOutcomeLog(broker, stream),
        ModelLoader.of(settings, stream),
        Publisher(ModelStore(settings.model_store), settings.keys),
        progress,
    )


def _log_progress(step: str, done: int, total: int) -> None:
    log.info("%s (%d of %d)", step, done, total)
