"""All readers of the `models` topic agree on the champion, even after compaction.

Records without a trusted signature change nothing."""

from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.broker.memory import MemoryBroker
from driftline.broker.port import Committed, Message, Outgoing, TopicPartition
from driftline.errors import DataError, UntrustedPackage
from driftline.models.catalog import (
    CHAMPION_KEY,
    FREEZE_KEY,
    MAX_REJECTED,
    Catalog,
    announcement_record,
    freeze_record,
    pointer_record,
    read_catalog,
    record_of,
)
from driftline.models.keys import Signer, new_key
from driftline.models.signed import sign
from driftline.wire.envelope import encode
from driftline.wire.events import Freeze, ModelsEvent, RolePointer
from driftline.wire.topics import Topics, apply
from tests.training import CLASSIFICATION
from tests.world import SIGNER, TRUSTED, announced, pointer, said, signed

TOPICS = Topics(CLASSIFICATION)
AT = "2020-01-01T00:00:00Z"


def read(*messages: Message) -> Catalog:
    catalog = Catalog(TRUSTED)
    for message in messages:
        catalog.apply(message)
    return catalog


def plain(event: ModelsEvent) -> Message:
    """Return a record without a signature, as commit da34ce9 wrote it."""
    return said(record_of(TOPICS, event))


def choose(catalog: Catalog, name: str, by: Literal["trainer", "person"] = "trainer") -> None:
    catalog.apply(signed(TOPICS, catalog.pointer(f"sha256:{name}", by=by, reason="", at=AT)))


def announce(catalog: Catalog, name: str, parent: str | None = None) -> None:
    model = announced(f"sha256:{name}", parent=None if parent is None else f"sha256:{parent}")
    catalog.apply(signed(TOPICS, model))


def names(catalog: Catalog, count: int = 9) -> str:
    return "".join(model.digest[-1] for model in catalog.earlier(count))


def test_models_that_were_rolled_back_manually_may_not_serve_again() -> None:
    catalog = Catalog(TRUSTED)
    for name in "abcd":
        announce(catalog, name)
    for name in "abc":
        choose(catalog, name)
    assert names(catalog) == "ba", "d was never champion"
    assert names(catalog, 1) == "b"
    choose(catalog, "b", by="person")
    assert names(catalog) == "a", "not c"
    choose(catalog, "d")
    assert names(catalog) == "ba", "a trainer's choice changes nothing in that"
    choose(catalog, "c", by="person")
    choose(catalog, "a")
    assert names(catalog) == "cb", "a person wants c again, and not d"
    choose(catalog, "d", by="person")
    assert names(catalog) == "cba", "who promotes a newer one has nothing against the one before"


def test_quarantined_models_are_known_after_compaction_of_older_pointers() -> None:
    catalog, compacted = Catalog(TRUSTED), Catalog(TRUSTED)
    for name in "abc":
        for each in (catalog, compacted):
            announce(each, name, parent="a")
        choose(catalog, name)
    choose(catalog, "a", by="person")
    choose(catalog, "b")
    assert catalog.champion is not None
    compacted.apply(signed(TOPICS, catalog.champion))
    assert names(compacted) == names(catalog) == "a"
    assert compacted.previous() == catalog.previous() == "sha256:a"


def test_a_pointer_lists_the_newest_quarantined_models() -> None:
    catalog = Catalog(TRUSTED)
    for number in range(30):
        announce(catalog, str(number))
    for number in range(1, 30):
        choose(catalog, str(number))
        choose(catalog, "0", by="person")
    assert catalog.champion is not None
    assert catalog.champion.set_aside == tuple(f"sha256:{n}" for n in range(10, 30))


def test_a_rollback_selects_the_model_that_an_earlier_model_replaced() -> None:
    catalog = Catalog(TRUSTED)
    announce(catalog, "a")
    announce(catalog, "b", parent="a")
    for name in "aba":
        choose(catalog, name)
    assert catalog.previous() == "sha256:b"
    choose(catalog, "b", by="person")
    assert catalog.previous() == "sha256:a", "of what a person chose, its parent: no to and fro"
    assert names(catalog) == "", "the older one was rolled back"


def test_a_rollback_after_an_automatic_one_skips_the_worse_model() -> None:
    catalog = Catalog(TRUSTED)
    for name, parent in (("a", None), ("b", "a"), ("c", "b")):
        announce(catalog, name, parent)
        choose(catalog, name)
    rollback = catalog.pointer("sha256:b", by="trainer", reason="", at=AT, rollback=True)
    catalog.apply(signed(TOPICS, rollback))
    assert rollback.is_rollback
    assert (catalog.champion_digest, catalog.previous()) == ("sha256:b", "sha256:a")
    choose(catalog, "a", by="person")
    assert names(catalog) == "", "both were rolled back"


def test_earlier_models_are_known_after_compaction_of_older_pointers() -> None:
    catalog, compacted = Catalog(TRUSTED), Catalog(TRUSTED)
    for name in "abcd":
        for each in (catalog, compacted):
            announce(each, name)
        if name != "c":
            choose(catalog, name)
    assert catalog.champion is not None
    compacted.apply(signed(TOPICS, catalog.champion))
    assert names(compacted) == names(catalog) == "ba", "c lost its comparison"


def test_the_previous_champion_is_the_parent() -> None:
    catalog = read(signed(TOPICS, pointer("p1", None, "sha256:b", sequence=1)))
    assert catalog.previous() is None
    announce(catalog, "b", parent="a")
    assert catalog.previous() == "sha256:a"


def test_the_lineage_contains_all_ancestors_except_quarantined_ones() -> None:
    catalog = Catalog(TRUSTED)
    for name, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", "c")):
        announce(catalog, name, parent)
        choose(catalog, name)
    assert [digest[-1] for digest in catalog.lineage()] == ["d", "c", "b", "a"]
    choose(catalog, "b", by="person")
    assert [digest[-1] for digest in catalog.lineage()] == ["b", "a"]
    choose(catalog, "d")
    assert "d" in catalog.lineage()[0]
    choose(catalog, "e", by="person")
    assert [digest[-1] for digest in catalog.lineage()] == ["e", "c", "b", "a"], "not d"
    announce(catalog, "a", parent="d")
    assert len(catalog.lineage()) == len(set(catalog.lineage())), "a circle ends"


def test_a_later_event_ends_a_freeze() -> None:
    catalog = Catalog(TRUSTED)
    assert not catalog.frozen
    for frozen in (True, False):
        catalog.apply(signed(TOPICS, catalog.freezing(frozen=frozen, reason="audit", at=AT)))
        assert catalog.frozen is frozen


def test_a_model_is_found_by_a_prefix_of_its_digest() -> None:
    catalog = Catalog(TRUSTED)
    for digest in ("ab1", "ab2", "cd"):
        announce(catalog, digest)
    assert [a.digest for a in catalog.find("ab")] == ["sha256:ab1", "sha256:ab2"]
    assert [a.digest for a in catalog.find("sha256:c")] == ["sha256:cd"]
    assert catalog.find("f") == ()


def test_records_of_the_topic_are_decoded_and_other_bytes_are_rejected() -> None:
    freeze = Freeze(id="f", frozen=True, reason="", at=AT, sequence=1)
    events = (announced("sha256:a"), pointer("p1", sequence=1), freeze)
    records = (
        announcement_record(TOPICS, announced("sha256:a")),
        pointer_record(TOPICS, pointer("p1", sequence=1)),
        freeze_record(TOPICS, freeze),
    )
    catalog = Catalog(TRUSTED)
    for offset, (event, record) in enumerate(zip(events, records, strict=True)):
        assert catalog.apply(said(sign(record, SIGNER), offset)) == event
    assert not catalog.rejected
    assert [r.key for r in records] == [b"model/sha256:a", b"role/champion", b"freeze"]
    assert catalog.apply(Message(TOPICS.models, 0, 3, b"model/sha256:a", None)) is None
    with pytest.raises(DataError, match=r"paint.models\[0\]@4"):
        catalog.apply(Message(TOPICS.models, 0, 4, b"?", b"{"))


@pytest.mark.parametrize("field", ["digest", "location", "parent", "key_id", "trained_at"])
def test_an_announcement_with_a_field_that_is_too_long_is_unreadable(field: str) -> None:
    long = msgspec.structs.replace(announced("sha256:a"), **{field: "x" * 5_000})
    with pytest.raises(DataError, match="length"):
        read(signed(TOPICS, long))


# ---- signed --------------------------------------------------------------------------------------


def test_the_first_of_two_signed_pointers_with_the_same_predecessor_counts() -> None:
    catalog = read(
        signed(TOPICS, pointer("p1", None, "sha256:a", sequence=1)),
        signed(TOPICS, pointer("p2", "p1", "sha256:b", sequence=2)),
        signed(TOPICS, pointer("p3", "p1", "sha256:c", sequence=2)),
    )
    assert catalog.champion_digest == "sha256:b"
    assert catalog.rejected[CHAMPION_KEY] == "stale: its sequence is 2, the current one is 2"


def test_a_later_conflicting_pointer_never_counts_after_a_restatement_of_the_first() -> None:
    """This holds even if the first one is compacted away and someone has written it again."""
    first = signed(TOPICS, pointer("p1", None, "sha256:a", sequence=1))
    second = signed(TOPICS, pointer("p2", None, "sha256:b", sequence=1))
    catalog = read(first, second, first)
    (restated,) = catalog.restatements()
    assert read(second, first, signed(TOPICS, restated)).champion_digest == "sha256:a"


def test_a_pointer_contains_the_id_of_the_pointer_that_it_replaces() -> None:
    catalog = read(signed(TOPICS, pointer("p1", sequence=1)))
    made = catalog.pointer("sha256:z", by="person", reason="better", at=AT)
    assert (made.replaces, made.digest, made.sequence) == ("p1", "sha256:z", 2)
    catalog.apply(signed(TOPICS, made))
    assert catalog.champion == made
    again = catalog.pointer("sha256:z", by="person", reason="better", at=AT)
    assert again.id != made.id, "an id stands for one place in the history"
    assert msgspec.json.decode(msgspec.json.encode(made), type=RolePointer) == made


OTHER_TOPICS = Topics(msgspec.structs.replace(CLASSIFICATION, name="other"))
NEWER = pointer("p9", "p1", "sha256:evil", sequence=9)


def forgeries(keys: Path) -> dict[str, Message]:
    """Return forged records that someone without a trusted key can write over the pointer."""
    stranger = Signer(keys)
    genuine = signed(TOPICS, pointer("p1", None, "sha256:a", sequence=1))
    value = encode(NEWER)
    return {
        "unsigned": plain(NEWER),
        "unsigned, as da34ce9 wrote it": plain(pointer("p9", "p1", "sha256:evil")),
        "signed by a stranger": said(sign(record_of(TOPICS, NEWER), stranger)),
        "another value under a genuine signature": msgspec.structs.replace(genuine, value=value),
        "of another stream": msgspec.structs.replace(
            signed(OTHER_TOPICS, NEWER), topic=TOPICS.models
        ),
        "of another role": msgspec.structs.replace(
            signed(TOPICS, msgspec.structs.replace(NEWER, role="challenger")),
            key=CHAMPION_KEY.encode(),
        ),
        "a freeze under its key": msgspec.structs.replace(
            signed(TOPICS, Freeze(id="f", frozen=True, reason="", at=AT, sequence=9)),
            key=CHAMPION_KEY.encode(),
        ),
        "an empty signature": msgspec.structs.replace(
            plain(NEWER), headers=(("driftline_signature", b""), ("driftline_key", b""))
        ),
        "half a signature": msgspec.structs.replace(
            plain(NEWER), headers=(("driftline_key", SIGNER.key_id.encode()),)
        ),
    }


KINDS = (
    "unsigned",
    "unsigned, as da34ce9 wrote it",
    "signed by a stranger",
    "another value under a genuine signature",
    "of another stream",
    "of another role",
    "a freeze under its key",
    "an empty signature",
    "half a signature",
)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    new_key(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_pointer_changes_nothing_and_is_reported(stranger: Path, kind: str) -> None:
    genuine = signed(TOPICS, pointer("p1", None, "sha256:a", sequence=1))
    forged = forgeries(stranger)[kind]
    catalog = read(genuine, forged)
    assert catalog.champion_digest == "sha256:a"
    assert not catalog.frozen
    assert list(catalog.rejected) == [CHAMPION_KEY]
    (restated,) = catalog.restatements()
    assert isinstance(restated, RolePointer)
    assert (restated.digest, restated.sequence) == ("sha256:a", 2)
    catalog.apply(signed(TOPICS, restated))
    assert not catalog.rejected
    assert catalog.restatements() == ()
    compacted = read(forged, signed(TOPICS, restated))
    assert compacted.champion_digest == "sha256:a"


def test_an_old_pointer_cannot_be_replayed() -> None:
    old = signed(TOPICS, pointer("p1", None, "sha256:a", sequence=1))
    catalog = read(old, signed(TOPICS, pointer("p2", "p1", "sha256:b", sequence=2)), old)
    assert catalog.champion_digest == "sha256:b"
    assert "stale" in catalog.rejected[CHAMPION_KEY]


def test_an_old_freeze_cannot_be_replayed() -> None:
    catalog = Catalog(TRUSTED)
    off = signed(TOPICS, catalog.freezing(frozen=False, reason="", at=AT))
    catalog.apply(off)
    catalog.apply(signed(TOPICS, catalog.freezing(frozen=True, reason="audit", at=AT)))
    catalog.apply(off)
    assert catalog.frozen
    assert "stale" in catalog.rejected[FREEZE_KEY]
    (restated,) = catalog.restatements()
    assert read(off, signed(TOPICS, restated)).frozen, "compacted, and restated"


def test_a_deleted_pointer_is_published_again() -> None:
    catalog = read(
        signed(TOPICS, pointer("p1", None, "sha256:a", sequence=1)),
        Message(TOPICS.models, 0, 1, CHAMPION_KEY.encode(), None),
    )
    assert catalog.champion_digest == "sha256:a"
    (restated,) = catalog.restatements()
    assert read(signed(TOPICS, restated)).champion_digest == "sha256:a"


@pytest.mark.parametrize("forged_first", [False, True])
@pytest.mark.parametrize("change", ["signature", "parent", "unsigned", "deleted", "no JSON"])
def test_a_forged_announcement_never_replaces_a_valid_one(
    stranger: Path, change: str, forged_first: bool
) -> None:
    good = announced("sha256:b", parent="sha256:a")
    message = signed(TOPICS, good)
    forged = {
        "signature": signed(TOPICS, msgspec.structs.replace(good, signature="00" * 64)),
        "parent": said(sign(record_of(TOPICS, announced("sha256:b")), Signer(stranger))),
        "unsigned": plain(announced("sha256:b")),
        "deleted": msgspec.structs.replace(message, value=None, headers=()),
        "no JSON": msgspec.structs.replace(message, value=b"{", headers=()),
    }[change]
    catalog = Catalog(TRUSTED)
    for each in (forged, message) if forged_first else (message, forged):
        try:
            catalog.apply(each)
        except DataError:
            assert change == "no JSON"
    assert catalog.announcements == {"sha256:b": good}
    assert catalog.restatements() == (() if forged_first else (good,))


def test_the_list_of_rejected_records_is_bounded() -> None:
    catalog = Catalog(TRUSTED)
    for number in range(3 * MAX_REJECTED):
        catalog.apply(plain(pointer(f"p{number}", sequence=9)))
        bad = msgspec.structs.replace(announced(f"sha256:{number}"), signature="")
        catalog.apply(plain(bad))
    assert len(catalog.rejected) <= MAX_REJECTED
    assert catalog.announcements == {}


def test_a_pointer_seen_earlier_counts_if_the_topic_has_only_an_older_one() -> None:
    """Compaction has removed the newest pointer, after someone had replayed an old one."""
    catalog = read(signed(TOPICS, pointer("p1", None, "sha256:a", sequence=1)))
    catalog.remember(1, "sha256:a")
    assert not catalog.rejected
    catalog.remember(3, "sha256:c")
    assert catalog.champion_digest == "sha256:c"
    assert "sequence 3 was seen earlier" in catalog.rejected[CHAMPION_KEY]
    (restated,) = catalog.restatements()
    assert isinstance(restated, RolePointer)
    assert (restated.digest, restated.sequence) == ("sha256:c", 4)


def test_readers_get_the_pointer_seen_earlier_from_the_commits_of_inference() -> None:
    broker = MemoryBroker()
    apply(broker.admin(), TOPICS)
    for metadata in ('{"watermark":7}', "moved by hand", '{"sequence":2,"champion":"sha256:b"}'):
        offsets = {TopicPartition(TOPICS.features, len(metadata) % 6): Committed(0, metadata)}
        broker.consumer(TOPICS.group("inference")).commit(offsets)
    old = record_of(TOPICS, pointer("p1", None, "sha256:a", sequence=1))
    broker.producer().send(sign(old, SIGNER))
    assert read_catalog(broker, TOPICS, TRUSTED).champion_digest == "sha256:b"


class Writers:
    """Writers that each saw a state of the log, an attacker without a key, and a trainer."""

    def __init__(self) -> None:
        self.log: list[Message] = []
        self.catalog = Catalog(TRUSTED)

    def write(self, *messages: Message) -> None:
        for message in messages:
            self.log.append(message)
            self.catalog.apply(message)

    def settle(self) -> None:
        while restated := self.catalog.restatements():
            self.write(*(signed(TOPICS, event) for event in restated))


@st.composite
def histories(draw: st.DrawFn) -> Writers:
    """Draw pointers of writers that had read the log up to some point before they wrote.

    In between, an attacker without a key replays, forges or deletes records.
    """
    writers = Writers()
    for number in range(draw(st.integers(1, 8))):
        seen = draw(st.integers(max(0, len(writers.log) - 3), len(writers.log)))
        catalog = read(*writers.log[:seen])
        made = catalog.pointer(f"sha256:{number}", by="person", reason="", at=AT)
        writers.write(signed(TOPICS, made))
        before = writers.catalog.champion_digest
        match draw(st.sampled_from(["", "replay", "forge", "delete"])):
            case "replay":
                writers.write(draw(st.sampled_from(writers.log)))
            case "forge":
                writers.write(plain(NEWER))
            case "delete":
                writers.write(Message(TOPICS.models, 0, 0, CHAMPION_KEY.encode(), None))
        assert writers.catalog.champion_digest == before
        if draw(st.booleans()):
            writers.settle()
    writers.settle()
    return writers


@given(histories())
def test_restatements_do_not_change_the_champion_and_come_to_an_end(writers: Writers) -> None:
    assert writers.catalog.restatements() == ()
    assert read(*writers.log).champion_digest == writers.catalog.champion_digest


@given(histories(), st.data())
def test_compaction_anywhere_leaves_the_same_champion(
    writers: Writers, data: st.DataObject
) -> None:
    """Compaction keeps the newest pointer of the part that it cleans, and all later records."""
    cleaned = data.draw(st.integers(1, len(writers.log)))
    compacted = read(*writers.log[cleaned - 1 :])
    assert compacted.champion_digest == writers.catalog.champion_digest


# ---- unsigned, as commit da34ce9 wrote them ------------------------------------------------------


def test_unsigned_records_count_until_the_first_signed_one() -> None:
    freeze = Freeze(id="f", frozen=True, reason="audit", at=AT)
    events = (announced("sha256:a"), pointer("p1", None, "sha256:a"), freeze)
    old = [plain(event) for event in events]
    catalog = read(*old)
    assert (catalog.champion_digest, catalog.frozen) == ("sha256:a", True)
    assert list(catalog.announcements) == ["sha256:a"]
    adopted = catalog.restatements()
    assert [type(event) for event in adopted] == [type(event) for event in events]
    migrated = [signed(TOPICS, event) for event in adopted]
    late = [
        plain(pointer("p2", "p1", "sha256:evil")),
        plain(Freeze(id="g", frozen=False, reason="", at=AT)),
        plain(announced("sha256:evil")),
    ]
    for log in (old + migrated + late, old + migrated + old, migrated + late):
        after = read(*log)
        assert (after.champion_digest, after.frozen) == ("sha256:a", True)
        assert list(after.announcements) == ["sha256:a"]


def test_an_unsigned_announcement_of_an_unsigned_package_is_rejected() -> None:
    bad = msgspec.structs.replace(announced("sha256:a"), signature="00" * 64)
    assert read(plain(bad)).announcements == {}
    with pytest.raises(UntrustedPackage):
        Catalog(TRUSTED).add(bad, signed=False)


def test_the_first_of_two_unsigned_pointers_with_the_same_predecessor_counts() -> None:
    chain = [pointer("p1", None, "sha256:a"), pointer("p2", "p1", "sha256:b")]
    catalog = read(*map(plain, (*chain, pointer("p3", "p1", "sha256:c"))))
    assert catalog.champion == chain[1]
    assert catalog.rejected[CHAMPION_KEY] == "it replaces p1, which is not the current pointer"


def test_an_unsigned_pointer_counts_if_compaction_removed_its_predecessor() -> None:
    restated = pointer("p2", "p2", "sha256:b")
    assert read(plain(pointer("p3", "p1", "sha256:c"))).champion_digest == "sha256:c"
    compacted = read(plain(pointer("p3", "p1", "sha256:c")), plain(restated))
    assert compacted.champion_digest == "sha256:b"
    assert read(plain(pointer("p1", "p0", "sha256:a")), plain(restated)).champion == restated


def test_a_signed_pointer_replaces_an_unsigned_one() -> None:
    catalog = read(plain(pointer("p1", None, "sha256:a")))
    choose(catalog, "b")
    assert catalog.champion is not None
    assert (catalog.champion.digest, catalog.champion.sequence) == ("sha256:b", 1)
    assert catalog.champion.replaces == "p1"


def test_a_record_that_is_signed_twice_has_one_signature() -> None:
    once: Outgoing = sign(record_of(TOPICS, announced("sha256:a")), SIGNER)
    assert sign(once, SIGNER) == once
