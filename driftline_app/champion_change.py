"""Change the champion, or pause promotion, by publishing signed records to the `models` topic.

Input: the `models` topic and the signing key. Output: signed records in the `models` topic. Each
change is read back to check that services will accept it.
"""

import time
from contextlib import closing

import msgspec

from driftline.clock import rfc3339
from driftline.errors import SettingsError
from driftline.models.catalog import CHAMPION_KEY, FREEZE_KEY, Catalog, read_catalog, record_of
from driftline.models.keys import Signer, Trusted
from driftline.models.signed import sign
from driftline.wire.events import ModelAnnounced, ModelsEvent, RolePointer
from driftline.wire.topics import Topics
from driftline_app.context import Context


class ChampionChange(msgspec.Struct, frozen=True):
    """The output of `models promote --json` and `models rollback --json`."""

    champion: ModelAnnounced
    before: ModelAnnounced | None  # the previous champion; None if there was none
    changed: bool  # False if the model was already the champion


def catalog_of(context: Context) -> Catalog:
    """Read the stream's `models` topic. Raises BrokerError."""
    return read_catalog(context.broker, Topics(context.stream), Trusted(context.settings.keys))


def make_champion(
    context: Context, catalog: Catalog, announced: ModelAnnounced, reason: str
) -> ChampionChange:
    """Make a model the champion.

    Raises BrokerError, and SettingsError if services will ignore the change.
    """
    if announced.digest == catalog.champion_digest:
        return ChampionChange(announced, announced, changed=False)
    signer = Signer(context.settings.keys)
    pointer: RolePointer = catalog.pointer(announced.digest, by="person", reason=reason, at=_now())
    _send(context, signer, pointer)
    now = catalog_of(context)
    if now.champion is None or now.champion.id != pointer.id:
        # The record just sent is now the latest for its key, so compaction may delete the pointer
        # that is still in effect. To keep that pointer, publish it again.
        _send(context, signer, *now.restatements())
        raise _ignored(context, CHAMPION_KEY)
    before = catalog.announcements.get(catalog.champion_digest or "")
    return ChampionChange(announced, before, changed=True)


def set_freeze(context: Context, *, frozen: bool, reason: str) -> None:
    """Pause or resume automatic promotion. Raises the same errors as `make_champion`."""
    signer = Signer(context.settings.keys)
    event = catalog_of(context).freezing(frozen=frozen, reason=reason, at=_now())
    _send(context, signer, event)
    if catalog_of(context).freeze != event:
        raise _ignored(context, FREEZE_KEY)


def sign_unsigned(context: Context) -> tuple[ModelsEvent, ...]:
    """Sign and republish each event that is in effect but unsigned or not the newest for its key.

    Return the republished events.
    """
    signer = Signer(context.settings.keys)
    events = catalog_of(context).restatements()
    _send(context, signer, *events)
    return events


def _ignored(context: Context, key: str) -> SettingsError:
    why = catalog_of(context).rejected.get(key)
    if why is None:
        return SettingsError(
            f"{key}: another change was made at the same time, so this change has no effect",
            hint="check `driftline models list` and try again",
        )
    return SettingsError(
        f"{key}: services will ignore this change: {why}",
        hint="run `driftline keys trust signing.pub` on each machine that runs the services",
    )


def _send(context: Context, signer: Signer, *events: ModelsEvent) -> None:
    with closing(context.broker.producer(client_id="driftline-models")) as producer:
        for event in events:
            producer.send(sign(record_of(Topics(context.stream), event), signer))
        producer.flush()


def _now() -> str:
    return rfc3339(time.time(), "microseconds")
