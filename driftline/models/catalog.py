"""What the `models` topic says now: the announced packages, the champion, the freeze.

In: the topic's events in order. Out: the state that inference, trainer and command line agree on.
"""

import logging
from typing import Literal

import msgspec

from driftline.broker.port import Broker, Message, Outgoing
from driftline.codec.envelope import decode, models_decoder, rare
from driftline.errors import DataError
from driftline.events import Freeze, ModelAnnounced, ModelsEvent, RolePointer, event_id
from driftline.scan import ranges, scan
from driftline.topics import Topics

log = logging.getLogger(__name__)

CHAMPION_KEY = "role/champion"
FREEZE_KEY = "freeze"
# Models rolled back that a pointer remembers; those that the trainer looks at are fewer.
MAX_SET_ASIDE = 20


def announcement_record(topics: Topics, announced: ModelAnnounced) -> Outgoing:
    """A package's announcement as a record of the `models` topic."""
    key = f"model/{announced.digest}"
    return rare(topics.models, announced, id=announced.digest, key=key)


def pointer_record(topics: Topics, pointer: RolePointer) -> Outgoing:
    """The champion's pointer as a record of the `models` topic."""
    return rare(topics.models, pointer, id=pointer.id, key=CHAMPION_KEY)


def freeze_record(topics: Topics, freeze: Freeze) -> Outgoing:
    """A freeze, or its end, as a record of the `models` topic."""
    return rare(topics.models, freeze, id=freeze.id, key=FREEZE_KEY)


class Catalog:
    """State of the `models` topic, built event by event.

    A pointer counts only if it replaces the pointer that is current when it is read: of two writers
    who both saw the same champion, the first in the log wins, for every reader alike.

    Compaction keeps the newest pointer even if it was ignored, and takes those that would tell. So
    a pointer that was overtaken is answered by a restatement, a copy of the champion's that
    replaces itself; and the first pointer read is unconfirmed until one replaces it, or restates:
    it yields to any pointer whose predecessor cannot be seen.
    """

    def __init__(self) -> None:
        self.announcements: dict[str, ModelAnnounced] = {}
        self.champion: RolePointer | None = None
        self.ignored: list[RolePointer] = []  # pointers that came too late, newest last
        self.freeze: Freeze | None = None
        self._unconfirmed = False  # the champion's predecessor may be compacted away
        self._overtaken = False  # the newest pointer in the topic is not the champion's

    @property
    def frozen(self) -> bool:
        """Whether automatic promotion is stopped."""
        return self.freeze is not None and self.freeze.frozen

    @property
    def champion_digest(self) -> str | None:
        """The digest of the model that should answer."""
        return self.champion.digest if self.champion else None

    def apply(self, message: Message) -> ModelsEvent | None:
        """Take in one record of the topic; None for a tombstone. Raises DataError."""
        if message.value is None:
            return None
        event = decode(models_decoder, message)
        self.add(event)
        return event

    def add(self, event: ModelsEvent) -> None:
        """As `apply`, from a decoded event."""
        match event:
            case ModelAnnounced():
                self.announcements[event.digest] = event
            case Freeze():
                self.freeze = event
            case RolePointer(role="champion"):
                self._point(event)
            case RolePointer():
                pass  # challengers are scored beside the champion in a later version

    def _point(self, event: RolePointer) -> None:
        current = self.champion.id if self.champion else None
        restates = event.replaces == event.id
        confirmed = current is not None and event.replaces == current
        if event.id == current:
            self._overtaken = False  # a redelivery, or a restatement
            self._unconfirmed = self._unconfirmed and not restates
        elif confirmed or current is None or (self._unconfirmed and event.replaces is not None):
            self.champion = event
            self._overtaken = False
            self._unconfirmed = not (confirmed or restates)
        else:
            self._overtaken = True
            self.ignored = [*self.ignored[-99:], event]

    def restatement(self) -> RolePointer | None:
        """What to publish so that compaction keeps the champion; None when nothing is needed."""
        if self.champion is None or not self._overtaken:
            return None
        return msgspec.structs.replace(self.champion, replaces=self.champion.id)

    def previous(self) -> str | None:
        """The digest that a rollback goes to: what the trainer compared the champion with. Of one
        that a person chose, such as by a rollback, it is what that was compared with when made."""
        if self.champion is None:
            return None
        if self.champion.by == "trainer" and self.champion.replaced is not None:
            return self.champion.replaced
        announced = self.announcements.get(self.champion.digest)
        return announced.parent if announced else None

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


def read_catalog(broker: Broker, topics: Topics) -> Catalog:
    """The catalog as the `models` topic has it now; an unreadable record is logged and passed by.

    Raises BrokerError.
    """
    catalog = Catalog()
    for messages in scan(broker, ranges(broker, [topics.models])):
        for message in messages:
            try:
                catalog.apply(message)
            except DataError as error:
                log.warning("%s", error.message)
    return catalog
