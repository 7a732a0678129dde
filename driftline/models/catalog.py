"""Build the current state of the `models` topic from its records: packages, champion and freeze.

Input: the topic's records in order, which `read_catalog` reads through the broker interface.
Output: the state that inference, the trainer and commands share. A record is rejected if it is
stale, if its signature is not from a trusted key, or if it is unsigned although an earlier record
is signed. A rejected record changes nothing and is listed in `rejected`.
"""

import logging
from typing import Final, Literal

from driftline.broker.port import Broker, Message, Outgoing
from driftline.broker.scan import ranges, scan
from driftline.errors import DataError, UntrustedPackage
from driftline.models.current import Current
from driftline.models.keys import Signature, Trusted
from driftline.models.seen import seen_by_inference
from driftline.models.signed import is_signed
from driftline.wire.envelope import decode, models_decoder, rare
from driftline.wire.events import Freeze, ModelAnnounced, ModelsEvent, RolePointer, event_id
from driftline.wire.topics import Topics

log = logging.getLogger(__name__)

CHAMPION_KEY = "role/champion"
FREEZE_KEY = "freeze"
# The largest number of quarantined models that a pointer lists. This limit exceeds the number of
# earlier models that the trainer compares.
MAX_SET_ASIDE = 20
# The largest number of former champions that a pointer lists, for the same reason.
MAX_FORMER: Final = 20
# The largest number of models (the champion and its ancestors) that inference tries while packages
# are unusable.
MAX_LINEAGE: Final = 100
# The largest number of rejected records that are stored and logged. There is a limit because a
# faulty writer could publish any number of such records.
MAX_REJECTED: Final = 100


def announcement_record(topics: Topics, announced: ModelAnnounced) -> Outgoing:
    """Return a package announcement as an unsigned record for the `models` topic."""
    return rare(topics.models, announced, id=announced.digest, key=key_of(announced))


def pointer_record(topics: Topics, pointer: RolePointer) -> Outgoing:
    """Return the champion's pointer as an unsigned record for the `models` topic."""
    return rare(topics.models, pointer, id=pointer.id, key=key_of(pointer))


def freeze_record(topics: Topics, freeze: Freeze) -> Outgoing:
    """Return the start or end of a freeze as an unsigned record for the `models` topic."""
    return rare(topics.models, freeze, id=freeze.id, key=FREEZE_KEY)


def key_of(event: ModelsEvent) -> str:
    """Return the key under which an event is published."""
    match event:
        case ModelAnnounced():
            return f"model/{event.digest}"
        case RolePointer():
            return f"role/{event.role}"
        case Freeze():
            return FREEZE_KEY


def record_of(topics: Topics, event: ModelsEvent) -> Outgoing:
    """Convert an event of any type to an unsigned record for the `models` topic."""
    match event:
        case ModelAnnounced():
            return announcement_record(topics, event)
        case RolePointer():
            return pointer_record(topics, event)
        case Freeze():
            return freeze_record(topics, event)


class Catalog:
    """The state of the `models` topic, built record by record.

    The signed pointer with the highest sequence number is current (see `models.current`). Unsigned
    records come from earlier versions of Driftline, and are valid until the first signed record.

    Compaction keeps only the newest record for each key, even if that record is stale.
    `restatements` returns the current records that a writer with a signing key must publish again,
    because they are unsigned or no longer the newest records for their keys.
    """

    def __init__(self, trusted: Trusted) -> None:
        self.announcements: dict[str, ModelAnnounced] = {}
        self.rejected: dict[str, str] = {}  # key → the reason why its newest record was rejected
        self._trusted = trusted
        self._champion: Current[RolePointer] = Current()
        self._freeze: Current[Freeze] = Current()
        self._signed: set[str] = set()  # digests of models whose announcement is signed
        self._any_signed = False
        self._outdated: set[str] = set()  # keys whose newest record is not current
        self._logged: set[tuple[str, str]] = set()

    @property
    def champion(self) -> RolePointer | None:
        """Return the current pointer to the champion, or None."""
        return self._champion.value

    @property
    def freeze(self) -> Freeze | None:
        """Return the current freeze record, or None. The record starts or ends a freeze."""
        return self._freeze.value

    @property
    def frozen(self) -> bool:
        """Return whether automatic promotion is paused."""
        return self.freeze is not None and self.freeze.frozen

    @property
    def champion_digest(self) -> str | None:
        """Return the digest of the model that should serve, or None."""
        return self.champion.digest if self.champion else None

    def apply(self, message: Message) -> ModelsEvent | None:
        """Apply one record of the topic and return its event, or None for a tombstone.

        A rejected event is also returned, but changes nothing. Raises DataError if the record is
        not an event of this topic.
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
            self.rejected.pop(key, None)
            self._outdated.discard(key)
        else:
            self._keep(key)
            self._reject(key, why, message)
        return event

    def add(self, event: ModelsEvent, *, signed: bool) -> str | None:
        """Apply an event whose signature has been checked.

        Return the reason if the event is rejected, otherwise None. Raises UntrustedPackage if the
        event announces a package that no trusted key has signed.
        """
        if signed:
            self._any_signed = True
        elif self._any_signed:
            return "unsigned, although an earlier record of this topic is signed"
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
                pass  # reserved for challengers, which this version does not score
        return None

    def remember(self, sequence: int, digest: str) -> None:
        """Apply a pointer that a reader saw earlier, given its sequence number and digest.

        If the topic contains only older pointers, this pointer was deleted, or compaction removed
        it after an older pointer had been published again. `digest` then remains the champion until
        a newer pointer arrives.
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
            self._reject(CHAMPION_KEY, why, None)

    def restatements(self) -> tuple[ModelsEvent, ...]:
        """Return the events that must be signed and published to survive compaction."""
        found: list[ModelsEvent] = [
            announced
            for digest, announced in self.announcements.items()
            if digest not in self._signed or key_of(announced) in self._outdated
        ]
        pointer = self._champion.again(outdated=CHAMPION_KEY in self._outdated)
        freeze = self._freeze.again(outdated=FREEZE_KEY in self._outdated)
        found += [event for event in (pointer, freeze) if event is not None]
        return tuple(found)

    def outdate(self) -> None:
        """Mark all current records as missing from the topic. `restatements` then returns them all.

        Call this after the topic has been recreated.
        """
        self._outdated |= {key_of(announced) for announced in self.announcements.values()}
        self._outdated |= {CHAMPION_KEY, FREEZE_KEY}

    @property
    def lost(self) -> str | None:
        """Return an error message if the topic has lost the champion's announcement, or None."""
        if self.champion_digest is None or self.champion_digest in self.announcements:
            return None
        return (
            f"the models topic has no announcement of the champion, {self.champion_digest}, "
            "because the topic was recreated; a trainer that was already running publishes the "
            "announcement again, otherwise run `driftline train --promote`"
        )

    def _keep(self, key: str) -> None:
        """Mark a key as outdated, because its newest record is not its current record."""
        known = key in (CHAMPION_KEY, FREEZE_KEY)
        if known or key.removeprefix("model/") in self.announcements:
            self._outdated.add(key)

    def _reject(self, key: str, why: str, message: Message | None) -> None:
        self.rejected.pop(key, None)
        if len(self.rejected) >= MAX_REJECTED:
            del self.rejected[next(iter(self.rejected))]
        self.rejected[key] = why
        if (key, why) not in self._logged and len(self._logged) < MAX_REJECTED:
            self._logged.add((key, why))
            place = "" if message is None else f"{message.place}, "
            log.error("ignoring a record of the models topic (%s%s): %s", place, key[:200], why)

    def previous(self) -> str | None:
        """Return the digest of the model that a rollback promotes, or None.

        If the trainer promoted the champion, this is the model that the champion replaced. If the
        trainer rolled back to the champion, this is the champion's newest ancestor that is not
        quarantined. If an operator promoted the champion, this is the champion's parent.
        """
        if self.champion is None:
            return None
        parent = self._parent(self.champion.digest)
        if self.champion.by == "person" or self.champion.replaced is None:
            return parent
        if not self.champion.is_rollback:
            return self.champion.replaced
        seen = {self.champion.digest}
        while parent in self.champion.set_aside and parent not in seen:
            seen.add(parent)
            parent = self._parent(parent)
        return None if parent in seen else parent

    def _parent(self, digest: str) -> str | None:
        announced = self.announcements.get(digest)
        return announced.parent if announced else None

    def lineage(self) -> tuple[str, ...]:
        """Return the digests of the champion and its ancestors, newest first.

        While the champion's package cannot be used, an ancestor serves instead. Quarantined
        ancestors are omitted.
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
        """Return the `count` newest models that may become champion again, newest first.

        Only models that were champion are returned: those that the pointer lists, and parents of
        other models. The current champion and quarantined models are omitted.
        """
        if self.champion is None:
            return ()
        served = {*self.champion.former, self.champion.replaced}
        served |= {model.parent for model in self.announcements.values()}
        served -= {self.champion.digest, *self.champion.set_aside}
        known = [model for digest, model in self.announcements.items() if digest in served]
        return tuple(reversed(known[-count:]))

    def find(self, digest: str) -> tuple[ModelAnnounced, ...]:
        """Return the announcements whose digest starts with `digest`, which may omit `sha256:`."""
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
        rollback: bool = False,
        chosen_at: int | None = None,
        dependence: int = 1,
    ) -> RolePointer:
        """Return a pointer that makes `digest` the champion.

        The pointer becomes stale if another pointer is published first. A manual pointer, with `by`
        set to `person`, ends the quarantine of `digest`. A rollback quarantines the current
        champion; a manual pointer to an earlier model is a rollback, too. `chosen_at` and
        `dependence` are explained in `RolePointer`.
        """
        sequence = self._champion.next_sequence
        replaces = self.champion.id if self.champion else None
        set_aside = self.champion.set_aside if self.champion else ()
        left = self.champion_digest if rollback else None
        if by == "person":
            set_aside = tuple(one for one in set_aside if one != digest)
            left = self._rolled_back(digest)
        if left is not None:
            set_aside = (*set_aside, left)[-MAX_SET_ASIDE:]
        former = dict.fromkeys(
            (self.champion.digest, *self.champion.former) if self.champion else ()
        )
        former.pop(digest, None)
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
            chosen_at=chosen_at,
            dependence=dependence,
            former=tuple(former)[:MAX_FORMER],
            sequence=sequence,
        )

    def freezing(self, *, frozen: bool, reason: str, at: str) -> Freeze:
        """Return a record that starts or ends a freeze and replaces the current freeze record."""
        return Freeze(
            id=event_id("freeze", frozen, at),
            frozen=frozen,
            reason=reason,
            at=at,
            sequence=self._freeze.next_sequence,
        )

    def _rolled_back(self, to: str) -> str | None:
        """Return the champion's digest if promoting `to` manually is a rollback, otherwise None.

        It is a rollback if `to` is the previous model, or was announced before the champion.
        Promoting a newer model does not quarantine the champion.
        """
        if to == self.previous():
            return self.champion_digest
        for digest in self.announcements:
            if digest == self.champion_digest:
                return None
            if digest == to:
                break
        return self.champion_digest


def read_catalog(broker: Broker, topics: Topics, trusted: Trusted) -> Catalog:
    """Read the `models` topic to its current end. Unreadable records are logged and skipped.

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
