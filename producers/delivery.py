"""Sends a playback to the topics and counts what the broker has confirmed."""

from typing import Final

import msgspec

from driftline.broker.port import Outgoing, Producer
from driftline.errors import MessageTooLarge
from driftline.topics import Topics
from producers.playback import Play

# Messages between two waits for confirmation: rare enough to keep batches full, often enough that
# an interrupted producer can say how far it came.
CONFIRM_EVERY: Final = 10_000


class TooLarge(msgspec.Struct, frozen=True):
    """A record or label that no topic takes: its data row and the broker's words."""

    row: int
    reason: str


class Delivery:
    """Sends items; `records` and `labels` count those that are confirmed.

    A message above the topic's limit is left out and kept in `too_large`, for the caller to say.
    """

    def __init__(
        self, producer: Producer, topics: Topics, *, confirm_every: int = CONFIRM_EVERY
    ) -> None:
        self.records = 0
        self.labels = 0
        self.row: int | None = None
        self.too_large: list[TooLarge] = []
        self._topics = {"record": topics.features, "label": topics.labels}
        self._producer = producer
        self._confirm_every = confirm_every
        self._sent = {"record": 0, "label": 0}
        self._unconfirmed = 0
        self._reached: int | None = None

    def send(self, play: Play) -> None:
        """Queue one item, and wait for confirmations now and then. Raises BrokerError."""
        try:
            self._producer.send(
                Outgoing(topic=self._topics[play.kind], key=play.key, value=play.value)
            )
        except MessageTooLarge as error:
            self.too_large.append(TooLarge(play.row, error.message))
            return
        self._sent[play.kind] += 1
        self._reached = play.row
        self._unconfirmed += 1
        if self._unconfirmed >= self._confirm_every:
            self.confirm()

    def confirm(self) -> None:
        """Wait until all that was sent is confirmed, then count it. Raises DeliveryFailed."""
        self._producer.flush()
        self.records, self.labels = self._sent["record"], self._sent["label"]
        self.row = self._reached
        self._unconfirmed = 0
