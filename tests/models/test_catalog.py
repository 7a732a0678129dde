"""The catalog: all readers of the `models` topic agree on the champion, compacted or not."""

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.broker.port import Message
from driftline.errors import DataError
from driftline.events import Freeze, RolePointer
from driftline.models.catalog import (
    Catalog,
    announcement_record,
    freeze_record,
    pointer_record,
)
from driftline.topics import Topics
from tests.training import CLASSIFICATION
from tests.world import announced, pointer

TOPICS = Topics(CLASSIFICATION)


def read(pointers: list[RolePointer]) -> Catalog:
    catalog = Catalog()
    for item in pointers:
        catalog.add(item)
    return catalog


def choose(catalog: Catalog, name: str, by: Literal["trainer", "person"] = "trainer") -> None:
    catalog.add(catalog.pointer(f"sha256:{name}", by=by, reason="", at="2020-01-01T00:00:00Z"))


def names(catalog: Catalog, count: int = 9) -> str:
    return "".join(model.digest[-1] for model in catalog.earlier(count))


def test_models_that_may_answer_again_are_those_that_no_person_has_rolled_back() -> None:
    catalog = Catalog()
    for name in "abcd":
        catalog.add(announced(f"sha256:{name}"))
    for name in "abc":
        choose(catalog, name)
    assert names(catalog, 2) == "db"
    choose(catalog, "b", by="person")
    assert names(catalog) == "da", "not c"
    choose(catalog, "d")
    assert names(catalog) == "ba", "a trainer's choice changes nothing in that"
    choose(catalog, "c", by="person")
    choose(catalog, "a")
    assert names(catalog) == "cb", "a person wants c again, and not d"
    choose(catalog, "d", by="person")
    assert names(catalog) == "cba", "who promotes a newer one has nothing against the one before"


def test_what_was_rolled_back_is_known_when_all_but_the_newest_pointer_is_compacted_away() -> None:
    catalog, compacted = Catalog(), Catalog()
    for name in "abc":
        for each in (catalog, compacted):
            each.add(announced(f"sha256:{name}", parent="sha256:a"))
        choose(catalog, name)
    choose(catalog, "a", by="person")
    choose(catalog, "b")
    assert catalog.champion is not None
    compacted.add(catalog.champion)
    assert names(compacted) == names(catalog) == "a"
    assert compacted.previous() == catalog.previous() == "sha256:a"


def test_a_pointer_remembers_the_newest_models_that_were_rolled_back() -> None:
    catalog = Catalog()
    for number in range(30):
        catalog.add(announced(f"sha256:{number}"))
    for number in range(1, 30):
        choose(catalog, str(number))
        choose(catalog, "0", by="person")
    assert catalog.champion is not None
    assert catalog.champion.set_aside == tuple(f"sha256:{n}" for n in range(10, 30))


def test_a_rollback_goes_to_the_model_that_an_earlier_one_has_taken_over_from() -> None:
    catalog = Catalog()
    catalog.add(announced("sha256:a"))
    catalog.add(announced("sha256:b", parent="sha256:a"))
    for name in "aba":
        choose(catalog, name)
    assert catalog.previous() == "sha256:b"
    choose(catalog, "b", by="person")
    assert catalog.previous() == "sha256:a", "of what a person chose, its parent: no to and fro"
    assert names(catalog) == "", "the older one was rolled back"


def test_of_two_pointers_that_replace_the_same_one_the_first_wins() -> None:
    catalog = read([pointer("p1", None), pointer("p2", "p1"), pointer("p3", "p1")])
    assert catalog.champion == pointer("p2", "p1")
    assert catalog.ignored == [pointer("p3", "p1")]


def test_the_previous_champion_is_the_parent() -> None:
    catalog = read([pointer("p1", None, "sha256:b")])
    assert catalog.previous() is None
    catalog.add(announced("sha256:b", parent="sha256:a"))
    assert catalog.previous() == "sha256:a"


def test_freezing_is_undone_by_a_later_event() -> None:
    catalog = Catalog()
    assert not catalog.frozen
    for frozen in (True, False):
        catalog.add(Freeze(id="f", frozen=frozen, reason="audit", at="2020-01-01T00:00:00Z"))
        assert catalog.frozen is frozen


def test_a_model_is_found_by_the_beginning_of_its_digest() -> None:
    catalog = Catalog()
    for digest in ("sha256:ab1", "sha256:ab2", "sha256:cd"):
        catalog.add(announced(digest))
    assert [a.digest for a in catalog.find("ab")] == ["sha256:ab1", "sha256:ab2"]
    assert [a.digest for a in catalog.find("sha256:c")] == ["sha256:cd"]
    assert catalog.find("f") == ()


def test_records_of_the_topic_are_read_back_and_bytes_that_are_none_are_refused() -> None:
    freeze = Freeze(id="f", frozen=True, reason="", at="2020-01-01T00:00:00Z")
    events = (announced("sha256:a"), pointer("p1", None), freeze)
    records = (
        announcement_record(TOPICS, announced("sha256:a")),
        pointer_record(TOPICS, pointer("p1", None)),
        freeze_record(TOPICS, freeze),
    )
    catalog = Catalog()
    for offset, (event, record) in enumerate(zip(events, records, strict=True)):
        message = Message(record.topic, 0, offset, record.key, record.value)
        assert catalog.apply(message) == event
    assert [r.key for r in records] == [b"model/sha256:a", b"role/champion", b"freeze"]
    assert catalog.apply(Message(TOPICS.models, 0, 3, b"model/sha256:a", None)) is None
    with pytest.raises(DataError, match=r"paint.models\[0\]@4"):
        catalog.apply(Message(TOPICS.models, 0, 4, b"?", b"{"))


class Writers:
    """Writers who each saw some state of the log, and a trainer that restates when it must."""

    def __init__(self) -> None:
        self.log: list[RolePointer] = []
        self.catalog = Catalog()

    def write(self, item: RolePointer) -> None:
        self.log.append(item)
        self.catalog.add(item)

    def settle(self) -> None:
        while (restated := self.catalog.restatement()) is not None:
            self.write(restated)


@st.composite
def histories(draw: st.DrawFn) -> Writers:
    """Pointers of writers who looked at the log up to some point before they wrote."""
    writers = Writers()
    for number in range(draw(st.integers(1, 8))):
        seen = draw(st.integers(max(0, len(writers.log) - 3), len(writers.log)))
        champion = read(writers.log[:seen]).champion
        digest = f"sha256:{number}"
        writers.write(pointer(f"p{number}", champion.id if champion else None, digest))
        if draw(st.booleans()):
            writers.settle()
    writers.settle()
    return writers


@given(histories())
def test_restating_changes_nobody_and_ends(writers: Writers) -> None:
    assert writers.catalog.restatement() is None
    without = [item for item in writers.log if item.id != item.replaces]
    champion = read(without).champion
    assert champion is not None
    assert writers.catalog.champion_digest == champion.digest


@given(histories(), st.data())
def test_compaction_anywhere_leaves_the_same_champion(
    writers: Writers, data: st.DataObject
) -> None:
    """Compaction keeps the newest pointer of the part that it cleaned, and all of the rest."""
    cleaned = data.draw(st.integers(1, len(writers.log)))
    assert read(writers.log[cleaned - 1 :]).champion_digest == writers.catalog.champion_digest


def test_a_pointer_names_the_one_that_it_replaces() -> None:
    catalog = read([pointer("p1", None)])
    made = catalog.pointer("sha256:z", by="person", reason="better", at="2020-01-01T00:00:00Z")
    assert (made.replaces, made.digest) == ("p1", "sha256:z")
    catalog.add(made)
    assert catalog.champion == made
    again = catalog.pointer("sha256:z", by="person", reason="better", at="2020-01-01T00:00:00Z")
    assert again.id != made.id, "an id stands for one place in the history"
    assert msgspec.json.decode(msgspec.json.encode(made), type=RolePointer) == made
