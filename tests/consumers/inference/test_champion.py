"""A champion is loaded in the background; the old one serves until the new one is ready."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.inference.champion import FIRST_RETRY_S, LONGEST_RETRY_S, Champion
from driftline.broker.port import Message
from driftline.clock import ManualClock
from driftline.config.settings import load_settings
from driftline.config.stream import loads
from driftline.errors import StoreUnavailable
from driftline.models.catalog import Catalog, pointer_record
from driftline.models.keys import Signer, Trusted, new_key
from driftline.models.load import ModelLoader
from driftline.models.score import Model
from driftline.models.signed import sign
from driftline.models.store import ModelStore
from driftline.wire.events import ModelAnnounced
from driftline.wire.topics import Topics
from tests.world import said
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


class HeldModels(ModelLoader):
    """Each load waits until the test releases it."""

    let_go: threading.Semaphore

    def load(self, announced: ModelAnnounced | str) -> Model:
        assert self.let_go.acquire(timeout=PATIENCE_S)
        return super().load(announced)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(Trusted(tmp_path / "keys"))


@pytest.fixture
def three(tmp_path: Path, catalog: Catalog) -> list[TrainedModel]:
    """Return three models, each of which replaced the one before as champion."""
    new_key(tmp_path / "keys")
    settings = load_settings({"DRIFTLINE_HOME": str(tmp_path)})
    found = []
    for above in (4, 5, 6):
        records = [b'{"@row": %d, "x": %d}' % (i, i % 10) for i in range(100)]
        labels = ["high" if i % 10 > above else "low" for i in range(100)]
        model = train_first(
            STREAM, records, labels, settings=settings, clock=ManualClock(), catalog=catalog
        )
        for message in messages(model):
            catalog.apply(message)
        found.append(model)
    return found


@pytest.fixture
def two(three: list[TrainedModel]) -> list[TrainedModel]:
    return three[:2]


@pytest.fixture
def models(tmp_path: Path) -> HeldModels:
    held = HeldModels(ModelStore(str(tmp_path / "models")), Trusted(tmp_path / "keys"), STREAM)
    held.let_go = threading.Semaphore(0)
    return held


def messages(model: TrainedModel) -> list[Message]:
    return [said(record, offset) for offset, record in enumerate(model.records)]


def until(champion: Champion, holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        champion.swap()


def test_the_old_model_serves_until_the_new_one_is_loaded(
    two: list[TrainedModel], models: HeldModels
) -> None:
    first, second = (model.announcement.digest for model in two)
    champion = Champion(STREAM, models, ManualClock(), background=True)
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


def test_a_rollback_while_a_model_is_loading_takes_effect(
    two: list[TrainedModel], models: HeldModels, tmp_path: Path
) -> None:
    catalog = Catalog(models.trusted)
    for message in messages(two[0]) + messages(two[1]):
        catalog.apply(message)
    first, second = (model.announcement.digest for model in two)
    champion = Champion(STREAM, models, ManualClock(), background=True)
    for message in messages(two[0]):
        champion.apply(message)
    models.let_go.release()
    until(champion, lambda: champion.digest == first)
    for message in messages(two[1]):
        champion.apply(message)
    champion.swap()  # the second model is loading now
    back = pointer_record(
        Topics(STREAM),
        catalog.pointer(first, by="person", reason="worse", at="2026-01-01T00:00:00Z"),
    )
    champion.apply(said(sign(back, Signer(tmp_path / "keys"))))
    models.let_go.release()
    until(champion, lambda: champion._loading is None)
    assert champion.digest == first
    assert second not in champion.rejected
    champion.close()


# ---- packages that cannot be used ----------------------------------------------------------------


class Restarted:
    """A champion that has just read the topic, with a manual clock."""

    def __init__(self, folder: Path, trained: list[TrainedModel]) -> None:
        self.clock = ManualClock()
        self.folder = folder / "models"
        self.loads: list[str] = []
        models = ModelLoader(ModelStore(str(self.folder)), Trusted(folder / "keys"), STREAM)
        load = models.load

        def counted(announced: ModelAnnounced | str) -> Model:
            self.loads.append(announced if isinstance(announced, str) else announced.digest)
            return load(announced)

        models.load = counted  # type: ignore[method-assign]
        self.champion = Champion(STREAM, models, self.clock, background=False)
        for model in trained:
            for message in messages(model):
                self.champion.apply(message)

    def path(self, model: TrainedModel) -> Path:
        return self.folder / f"{model.digest.removeprefix('sha256:')}.zip"

    def away(self, *models: TrainedModel) -> None:
        for model in models:
            self.path(model).rename(self.path(model).with_suffix(".away"))

    def back(self, *models: TrainedModel) -> None:
        for model in models:
            self.path(model).with_suffix(".away").rename(self.path(model))

    def after(self, seconds: float) -> str | None:
        self.clock.advance(seconds)
        self.champion.swap()
        return self.champion.digest


def test_the_newest_ancestor_with_a_package_serves_until_a_newer_package_exists(
    three: list[TrainedModel], tmp_path: Path
) -> None:
    first, second, third = three
    service = Restarted(tmp_path, three)
    service.away(second, third)
    assert service.after(0) == first.digest
    assert list(service.champion.rejected) == [third.digest, second.digest]
    assert all("does not hold" in why for why in service.champion.rejected.values())
    service.back(second)
    assert service.after(FIRST_RETRY_S) == second.digest
    assert list(service.champion.rejected) == [third.digest]
    service.back(third)
    assert service.after(2 * FIRST_RETRY_S) == third.digest
    assert not service.champion.rejected
    service.away(third)
    assert service.after(LONGEST_RETRY_S) == third.digest, "what is loaded serves on"


def test_a_damaged_package_is_loaded_after_its_repair(
    three: list[TrainedModel], tmp_path: Path
) -> None:
    service = Restarted(tmp_path, three)
    good = service.path(three[2]).read_bytes()
    service.path(three[2]).write_bytes(good[:-7])
    assert service.after(0) == three[1].digest
    assert "digest" in service.champion.rejected[three[2].digest]
    service.path(three[2]).write_bytes(good)
    assert service.after(FIRST_RETRY_S) == three[2].digest


def test_a_missing_package_is_retried_at_growing_intervals(
    three: list[TrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Restarted(tmp_path, three[:1])
    service.away(three[0])
    for _ in range(100_000):
        assert service.after(0.1) is None
    assert len(service.loads) == 9 + 10_000 // LONGEST_RETRY_S - 1
    assert len([r for r in caplog.records if "rejecting" in r.message]) == 1
    service.back(three[0])
    assert service.after(LONGEST_RETRY_S) == three[0].digest


def test_inference_waits_for_an_unreachable_store(
    three: list[TrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ancestors are not loaded. The champion serves as soon as the store is reachable again."""
    service = Restarted(tmp_path, three)
    monkeypatch.setattr(ModelStore, "get", unreachable)
    assert service.after(0) is None
    assert service.after(FIRST_RETRY_S) is None
    assert set(service.loads) == {three[2].digest}
    assert "no route" in service.champion.rejected[three[2].digest]
    monkeypatch.undo()
    assert service.after(2 * FIRST_RETRY_S) == three[2].digest


def test_the_current_model_continues_to_serve_while_the_store_is_unreachable(
    three: list[TrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Restarted(tmp_path, three[:1])
    assert service.after(0) == three[0].digest
    monkeypatch.setattr(ModelStore, "get", unreachable)
    for message in messages(three[1]):
        service.champion.apply(message)
    assert service.after(0) == three[0].digest
    monkeypatch.undo()
    assert service.after(FIRST_RETRY_S) == three[1].digest


def test_a_signed_pointer_is_enough_without_an_announcement(
    three: list[TrainedModel], tmp_path: Path
) -> None:
    service = Restarted(tmp_path, [])
    service.champion.apply(messages(three[1])[1])
    assert service.after(0) == three[1].digest


def unreachable(_store: ModelStore, _digest: str) -> bytes:
    raise StoreUnavailable("no route to the store")
