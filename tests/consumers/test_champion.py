"""A champion that is loaded beside the scoring: the old one answers until the new one is ready."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.champion import Champion
from driftline.broker.port import Message
from driftline.clock import ManualClock
from driftline.events import ModelAnnounced
from driftline.models.catalog import Catalog, pointer_record
from driftline.models.keys import Trusted, new_key
from driftline.models.load import Models
from driftline.models.score import Model
from driftline.models.store import ModelStore
from driftline.settings import load_settings
from driftline.stream import loads
from driftline.topics import Topics
from trainer.first import TrainedModel, train_first

STREAM = loads(
    """
    version = 1
    name = "s"
    task = "classification"
    target = "y"
    features = { x = "number" }
    models = { candidates = ["logistic_regression"], tune = false }
    """
)
PATIENCE_S = 60.0


class HeldModels(Models):
    """Each load waits until it is let go."""

    let_go: threading.Semaphore

    def load(self, announced: ModelAnnounced | str) -> Model:
        assert self.let_go.acquire(timeout=PATIENCE_S)
        return super().load(announced)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def two(tmp_path: Path, catalog: Catalog) -> list[TrainedModel]:
    new_key(tmp_path / "keys")
    settings = load_settings({"DRIFTLINE_HOME": str(tmp_path)})
    found = []
    for flip in (False, True):
        records = [b'{"@row": %d, "x": %d}' % (i, i % 10) for i in range(100)]
        labels = ["high" if (i % 10 > 4) != flip else "low" for i in range(100)]
        model = train_first(
            STREAM, records, labels, settings=settings, clock=ManualClock(), catalog=catalog
        )
        for message in messages(model):
            catalog.apply(message)
        found.append(model)
    return found


@pytest.fixture
def models(tmp_path: Path) -> HeldModels:
    held = HeldModels(ModelStore(str(tmp_path / "models")), Trusted(tmp_path / "keys"), STREAM)
    held.let_go = threading.Semaphore(0)
    return held


def messages(model: TrainedModel) -> list[Message]:
    return [Message("s.models", 0, i, m.key, m.value) for i, m in enumerate(model.records)]


def until(champion: Champion, holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        champion.swap()


def test_the_old_model_answers_until_the_new_one_is_loaded(
    two: list[TrainedModel], models: HeldModels
) -> None:
    first, second = (model.announcement.digest for model in two)
    champion = Champion(STREAM, models, in_thread=True)
    for message in messages(two[0]):
        champion.apply(message)
    champion.swap()
    assert champion.digest is None
    models.let_go.release()
    until(champion, lambda: champion.digest == first)
    for message in messages(two[1]):
        champion.apply(message)
    for _ in range(100):
        champion.swap()
        assert champion.digest == first
    models.let_go.release()
    until(champion, lambda: champion.digest == second)
    champion.close()


def test_a_rollback_while_a_model_is_loaded_wins(
    two: list[TrainedModel], models: HeldModels, catalog: Catalog
) -> None:
    first, second = (model.announcement.digest for model in two)
    champion = Champion(STREAM, models, in_thread=True)
    for message in messages(two[0]):
        champion.apply(message)
    models.let_go.release()
    until(champion, lambda: champion.digest == first)
    for message in messages(two[1]):
        champion.apply(message)
    champion.swap()  # it is being loaded now
    back = pointer_record(
        Topics(STREAM),
        catalog.pointer(first, by="person", reason="worse", at="2026-01-01T00:00:00Z"),
    )
    champion.apply(Message("s.models", 0, 9, back.key, back.value))
    models.let_go.release()
    until(champion, lambda: champion._loading is None)
    assert champion.digest == first
    assert second not in champion.refused
    champion.close()
