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
from driftline.models.keys import Signer, Trusted, ensure_key
from driftline.models.load import ModelLoader
from driftline.models.seen import seen_by_inference
from driftline.models.store import ModelStore
from driftline.wire.topics import Topics
from trainer.collect import BrokerOutcomeLog
from trainer.compare import ComparisonJob, compare
from trainer.publish import Publisher
from trainer.retrain import retrain
from trainer.runner import InlineRunner, Job, ProcessRunner, Result, Runner
from trainer.search import Progress
from trainer.service import LOOK_AGAIN_S, TrainerHandler

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

        def work(job: Job, progress: Progress) -> Result:
            return _work(stream, settings, broker, job, progress)

        runner = InlineRunner(work, _log_progress)
    else:
        runner = ProcessRunner(WorkAlone(stream, settings), _log_progress)
    return TrainerHandler(
        stream,
        runner,
        clock,
        BrokerOutcomeLog(broker, stream).count,
        signer=Signer(settings.keys),
        trusted=Trusted(settings.keys),
        seen=seen_by_inference(broker, Topics(stream)),
        # Counting the outcomes of a run is cheap, and its clock advances by 0.1 s per 100 rows.
        look_again_s=0.1 if synchronous else LOOK_AGAIN_S,
    )


class WorkAlone(msgspec.Struct, frozen=True):
    """The function for a separate process. It opens its own connection to the broker."""

    stream: Stream
    settings: Settings

    def __call__(self, job: Job, progress: Progress) -> Result:
        settings = self.settings
        broker = connect(settings.client, settings.bootstrap_servers, settings.properties)
        return _work(self.stream, settings, broker, job, progress)


def _work(
    stream: Stream, settings: Settings, broker: Broker, job: Job, progress: Progress
) -> Result:
    outcomes, models = BrokerOutcomeLog(broker, stream), ModelLoader.of(settings, stream)
    if isinstance(job, ComparisonJob):
        return compare(job, stream, outcomes, models)
    publisher = Publisher(ModelStore(settings.model_store), settings.keys)
    return retrain(job, stream, outcomes, models, publisher, progress)


def _log_progress(step: str, done: int, total: int) -> None:
    log.info("%s (%d of %d)", step, done, total)
