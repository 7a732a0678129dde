"""What the `models` topic says now: the announced packages, the champion, the freeze.

In: the topic's records in order. Out: the state that inference, trainer and command line agree on.
A record that no trusted key has signed, or that is stale, changes nothing and is in `refused`.
"""

import logging
from typing import Final, Literal

import msgspec

from driftline.broker.port import Broker, Message, Outgoing
from driftline.codec.envelope import decode, models_decoder, rare
from driftline.commit_metadata import metadata_of
from driftline.errors import BrokerError, DataError, UntrustedPackage
from driftline.events import Freeze, ModelAnnounced, ModelsEvent, RolePointer, event_id
from driftline.models.current import Current
from driftline.models.keys import Signature, Trusted
from driftline.models.signed import is_signed
from driftline.scan import ranges, scan
from driftline.topics import Topics

log = logging.getLogger(__name__)

CHAMPION_KEY = "role/champion"
FREEZE_KEY = "freeze"
# Models rolled back that a pointer remembers; those that the trainer looks at are fewer.
MAX_SET_ASIDE = 20
# Ancestors that are tried when a package is missing.
MAX_LINEAGE: Final = 100
# Refused records that are kept and logged: whoever may write to the topic could write any number.
MAX_REFUSED: Final = 100


def announcement_record(topics: Topics, announced: ModelAnnounced) -> Outgoing:
    """A package's announcement as a record of the `models` topic, to be signed."""
    return rare(topics.models, announced, id=announced.digest, key=key_of(announced))


def pointer_record(topics: Topics, pointer: RolePointer) -> Outgoing:
    """The champion's pointer as a record of the `models` topic, to be signed."""
    return rare(topics.models, pointer, id=pointer.id, key=key_of(pointer))


def freeze_record(topics: Topics, freeze: Freeze) -> Outgoing:
    """A freeze, or its end, as a record of the `models` topic, to be signed."""
    return rare(topics.models, freeze, id=freeze.id, key=FREEZE_KEY)


def key_of(event: ModelsEvent) -> str:
    """The key under which an event is published."""
    match event:
        case ModelAnnounced():
            return f"model/{event.digest}"
        case RolePointer():
            return f"role/{event.role}"
        case Freeze():
            return FREEZE_KEY


def record_of(topics: Topics, event: ModelsEvent) -> Outgoing:
    """Any of the three as a record of the `models` topic, to be signed."""
    match event:
        case ModelAnnounced():
            return announcement_record(topics, event)
        case RolePointer():
            return pointer_record(topics, event)
        case Freeze():
            return freeze_record(topics, event)


class Catalog:
    """State of the `models` topic, built record by record.

    Of signed pointers the one with the largest sequence counts (see `models.current`). Unsigned
    records, from before there were signatures, count until the first signed one has been read.

    Compaction keeps only the newest record of each key, whatever it is. So where that is not the
    one that counts, or is unsigned, `restatements` says what a writer with a key publishes again.
    """

    def __init__(self, trusted: Trusted) -> None:
        self.announcements: dict[str, ModelAnnounced] = {}
        self.refused: dict[str, str] = {}  # key → why its newest record does not count
        self._trusted = trusted
        self._champion: Current[RolePointer] = Current()
        self._freeze: Current[Freeze] = Current()
        self._signed: set[str] = set()  # digests whose announcement is a signed record
        self._any_signed = False
        self._outdated: set[str] = set()  # keys whose newest record is not the one that counts
        self._logged: set[tuple[str, str]] = set()

    @property
    def champion(self) -> RolePointer | None:
        """The pointer to the champion that counts."""
        return self._champion.value

    @property
    def freeze(self) -> Freeze | None:
        """The freeze, or its end, that counts."""
        return self._freeze.value

    @property
    def frozen(self) -> bool:
        """Whether automatic promotion is stopped."""
        return self.freeze is not None and self.freeze.frozen

    @property
    def champion_digest(self) -> str | None:
        """The digest of the model that should answer."""
        return self.champion.digest if self.champion else None

    def apply(self, message: Message) -> ModelsEvent | None:
        """Take in one record of the topic; None for a tombstone.

        Raises DataError if it is no event. One that is refused is returned, and changes nothing.
        """
        key = (message.key or b"").decode("utf-8", "replace")
        if message.value is None:
            self._keep(key)
            return None
        try:
            event = decode(models_decoder, message)
        except DataError:
            self._keep(key)
            raise
        try:
            if key != key_of(event):
                raise UntrustedPackage(f"{key_of(event)}: published under another key")
            signed = is_signed(message, self._trusted)
            why = self.add(event, signed=signed)
        except UntrustedPackage as error:
            why = error.message
        if why is None:
            self.refused.pop(key, None)
            self._outdated.discard(key)
        else:
            self._keep(key)
            self._refuse(key, why, message)
        return event

    def add(self, event: ModelsEvent, *, signed: bool) -> str | None:
        """As `apply`, from an event whose signature was checked; returns why it does not count.

        Raises UntrustedPackage for an announcement of a package that no trusted key has signed.
        """
        if signed:
            self._any_signed = True
        elif self._any_signed:
            return "unsigned, although records of this topic are signed by now"
        match event:
            case ModelAnnounced():
                self._trusted.verify(event.digest, Signature(event.signature, event.key_id))
                if signed:
                    self._signed.add(event.digest)
                self.announcements[event.digest] = event
            case Freeze():
                return self._freeze.take(event, signed=signed)
            case RolePointer(role="champion"):
                return self._champion.take(event, signed=signed)
            case RolePointer():
                pass  # challengers are scored beside the champion in a later version
        return None

    def remember(self, sequence: int, digest: str) -> None:
        """A reader has seen the champion's pointer with this sequence before.

        If the topic has none as new, the newest was deleted, or replaced by an old one and then
        compacted away. What was seen counts until a newer one comes.
        """
        seen = RolePointer(
            id=f"role-remembered+{sequence}",
            role="champion",
            digest=digest,
            replaces=None,
            cause=None,
            by="person",
            reason="its pointer was seen earlier and is no longer in the topic",
            at="",
            sequence=sequence,
        )
        if self._champion.remember(seen):
            self._any_signed = self._any_signed or sequence > 0
            why = f"sequence {sequence} was seen earlier and is no longer in the topic"
            self._outdated.add(CHAMPION_KEY)
            self._refuse(CHAMPION_KEY, why, None)

    def restatements(self) -> tuple[ModelsEvent, ...]:
        """Return what to sign and publish, so that compaction keeps what counts, signed."""
        found: list[ModelsEvent] = [
            announced
            for digest, announced in self.announcements.items()
            if digest not in self._signed or key_of(announced) in self._outdated
        ]
        pointer = self._champion.again(outdated=CHAMPION_KEY in self._outdated)
        freeze = self._freeze.again(outdated=FREEZE_KEY in self._outdated)
        found += [event for event in (pointer, freeze) if event is not None]
        return tuple(found)

    def _keep(self, key: str) -> None:
        """The newest record of this key is not the one that counts."""
        known = key in (CHAMPION_KEY, FREEZE_KEY)
        if known or key.removeprefix("model/") in self.announcements:
            self._outdated.add(key)

    def _refuse(self, key: str, why: str, message: Message | None) -> None:
        self.refused.pop(key, None)
        if len(self.refused) >= MAX_REFUSED:
            del self.refused[next(iter(self.refused))]
        self.refused[key] = why
        if (key, why) not in self._logged and len(self._logged) < MAX_REFUSED:
            self._logged.add((key, why))
            place = "" if message is None else f"{message.place}, "
            log.error("ignoring a record of the models topic (%s%s): %s", place, key[:200], why)

    def previous(self) -> str | None:
        """The digest that a rollback goes to: what the trainer compared the champion with. Of one
        that a person chose, such as by a rollback, it is what that was compared with when made."""
        if self.champion is None:
            return None
        if self.champion.by == "trainer" and self.champion.replaced is not None:
            return self.champion.replaced
        announced = self.announcements.get(self.champion.digest)
        return announced.parent if announced else None

    def lineage(self) -> tuple[str, ...]:
        """Return the champion's digest and those of its ancestors, the newest first: who answers
        instead while its package cannot be used. None that a person has rolled back is among them.
        """
        if self.champion is None:
            return ()
        found = {self.champion.digest: None}
        announced = self.announcements.get(self.champion.digest)
        digest = announced.parent if announced else None
        digest = digest or self.champion.replaced
        while digest is not None and digest not in found and len(found) < MAX_LINEAGE:
            found[digest] = None
            announced = self.announcements.get(digest)
            digest = announced.parent if announced else None
        aside = set(self.champion.set_aside) - {self.champion.digest}
        return tuple(one for one in found if one not in aside)

    def earlier(self, count: int) -> tuple[ModelAnnounced, ...]:
        """The newest so many models beside the champion that may answer again, the newest first:
        those that no person has rolled back."""
        aside = {self.champion_digest, *(self.champion.set_aside if self.champion else ())}
        known = [model for model in self.announcements.values() if model.digest not in aside]
        return tuple(reversed(known[-count:]))

    def find(self, digest: str) -> tuple[ModelAnnounced, ...]:
        """The announcements whose digest starts so; `sha256:` may be left out."""
        start = digest if digest.startswith("sha256:") else f"sha256:{digest}"
        return tuple(a for d, a in self.announcements.items() if d.startswith(start))

    def pointer(
        self,
        digest: str,
        *,
        by: Literal["trainer", "person"],
        reason: str,
        at: str,
        cause: str | None = None,
    ) -> RolePointer:
        """A pointer that makes `digest` the champion, if nobody points elsewhere in between."""
        sequence = self._champion.next_sequence
        replaces = self.champion.id if self.champion else None
        set_aside = self.champion.set_aside if self.champion else ()
        if by == "person":
            set_aside = tuple(one for one in set_aside if one != digest)
            if (left := self._rolled_back(digest)) is not None:
                set_aside = (*set_aside, left)[-MAX_SET_ASIDE:]
        return RolePointer(
            id=event_id("role", "champion", digest, replaces, cause, at),
            role="champion",
            digest=digest,
            replaces=replaces,
            cause=cause,
            by=by,
            reason=reason,
            at=at,
            replaced=self.champion_digest,
            set_aside=set_aside,
            sequence=sequence,
        )

    def freezing(self, *, frozen: bool, reason: str, at: str) -> Freeze:
        """A freeze, or its end, that replaces the current one."""
        return Freeze(
            id=event_id("freeze", frozen, at),
            frozen=frozen,
            reason=reason,
            at=at,
            sequence=self._freeze.next_sequence,
        )

    def _rolled_back(self, to: str) -> str | None:
        """The model that answers, if it took over from the one that is to, or is newer: who
        promotes a newer one has nothing against it."""
        if to == self.previous():
            return self.champion_digest
        for digest in self.announcements:
            if digest == self.champion_digest:
                return None
            if digest == to:
                break
        return self.champion_digest


def read_catalog(broker: Broker, topics: Topics, trusted: Trusted) -> Catalog:
    """The catalog as the `models` topic has it now; an unreadable record is logged and passed by.

    Raises BrokerError.
    """
    catalog = Catalog(trusted)
    for messages in scan(broker, ranges(broker, [topics.models])):
        for message in messages:
            try:
                catalog.apply(message)
            except DataError as error:
                log.warning("%s", error.message)
    for seen in seen_by_inference(broker, topics):
        catalog.remember(seen.sequence, seen.champion)
    return catalog


class Seen(msgspec.Struct, frozen=True):
    """The newest pointer that a worker of inference has seen; part of what it commits."""

    champion: str
    sequence: int = 0


def seen_by_inference(broker: Broker, topics: Topics) -> tuple[Seen, ...]:
    """Return the newest pointers that inference has seen, for `Catalog.remember`.

    None if its group cannot be asked for: what the topic has counts then.
    """
    # Not by the admin client: librdkafka's crashes where the group's coordinator is not known yet.
    consumer = broker.consumer(topics.group("inference"), client_id="driftline-models")
    try:
        committed = consumer.committed(ranges(broker, [topics.features]))
    except BrokerError as error:
        log.warning("cannot read which champion inference has seen: %s", error.message)
        return ()
    finally:
        consumer.close()
    # Of an earlier version, or moved by a tool: then it says nothing.
    found = {metadata_of(position, Seen) for position in committed.values()} - {None}
    return tuple(sorted((seen for seen in found if seen), key=lambda seen: seen.sequence))
