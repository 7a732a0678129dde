"""Send a playback's records and labels through a Kafka producer, and count confirmed deliveries."""

from typing import Final

import msgspec

from driftline.broker.port import Outgoing, Producer
from driftline.errors import MessageTooLarge
from driftline.wire.topics import Topics
from producers.playback import Play

# Number of messages to send between two waits for confirmation. With a smaller number, batches
# would be half empty. With a much larger number, an interrupted producer would not know how many
# records were delivered.
CONFIRM_EVERY: Final = 10_000


class TooLarge(msgspec.Struct, frozen=True):
    """A record or label that is too large for its topic: its data row and the error message."""

    row: int
    reason: str


class Delivery:
    """Send items and count them in `records` and `labels` once the broker has confirmed them.

    A message that exceeds its topic's size limit is not sent, but listed in `too_large`, so that
    the caller can report it.
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
        """Queue one item, and call `confirm` every `confirm_every` items. Raises BrokerError."""
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
        """Wait until all queued items are confirmed, then count them. Raises DeliveryFailed."""
        self._producer.flush()
        self.records, self.labels = self._sent["record"], self._sent["label"]
        self.row = self._reached
        self._unconfirmed = 0
