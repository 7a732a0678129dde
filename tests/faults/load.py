"""Feature records and labels, sent to the topics by a client that gives nothing up.

In: a site. Out: each message exactly once, however long the broker is away, so that what is missing
later was lost by the services.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import confluent_kafka as ck

from driftline.topics import Topics
from producers.playback import Playback
from producers.sources import open_source
from tests.faults.site import Site

_POLL_EVERY: Final = 500
_LOOK_EVERY_S: Final = 0.02


class Item(NamedTuple):
    """One message."""

    is_label: bool
    key: bytes
    value: bytes


def items(site: Site) -> tuple[Item, ...]:
    """All that follows the warm-up, in the order of `driftline produce`."""
    data = site.scenario.data
    playback = Playback(site.stream, open_source(data.source), limit=data.rows)
    playback.skip(data.warm_up)
    return tuple(Item(play.kind == "label", play.key, play.value) for play in playback.play())


class Load:
    """Sends in a thread of its own, as much as it is allowed to."""

    def __init__(self, site: Site, messages: Sequence[Item], servers: str) -> None:
        self.records = sum(not item.is_label for item in messages)
        self.labels = len(messages) - self.records
        self._topics = Topics(site.stream)
        self._messages = messages
        self._servers = servers
        self._producer = self._new_producer()
        self._allowed = 0
        self._rate: float | None = None
        self._paced_from = 0, 0.0  # sent at that moment
        self._sent = 0
        self._acknowledged = 0
        self._closed = False
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def allow(self, share: float, rate: float | None = None) -> None:
        """Let it send this share of the messages, and no less than before: at once, or at `rate`
        messages a second."""
        with self._changed:
            self._allowed = max(self._allowed, round(share * len(self._messages)))
            self._rate = rate
            self._paced_from = self._sent, time.monotonic()
            self._changed.notify()

    def pause(self) -> None:
        """Send no more until `allow` is called again."""
        with self._changed:
            self._allowed = self._sent

    @property
    def idle(self) -> bool:
        """Whether all that is allowed was acknowledged. Raises what stopped it."""
        if self._failure is not None:
            raise RuntimeError(f"the load stopped: {self._failure!r}")
        return self._acknowledged >= max(self._allowed, self._sent)

    @property
    def done(self) -> bool:
        """Whether everything was acknowledged. Raises what stopped it."""
        return self.idle and self._allowed == len(self._messages)

    def wait(self, patience_s: float) -> None:
        """Wait until it is idle. Raises RuntimeError."""
        deadline_s = time.monotonic() + patience_s
        while not self.idle:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the load is not acknowledged within {patience_s:g} s")
            time.sleep(_LOOK_EVERY_S)

    def sent(self) -> tuple[int, int]:
        """Records and labels that were allowed so far."""
        part = self._messages[: self._allowed]
        labels = sum(item.is_label for item in part)
        return len(part) - labels, labels

    def delivered(self) -> tuple[int, int]:
        """Records and labels that were acknowledged so far."""
        part = self._messages[: self._acknowledged]
        labels = sum(item.is_label for item in part)
        return len(part) - labels, labels

    def renew(self) -> None:
        """Go on with a new client: the old one knows topics that are gone. Call it when idle."""
        self._producer = self._new_producer()

    def close(self) -> None:
        """Stop, whatever is not sent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._producer.purge()

    def _new_producer(self) -> ck.Producer:
        return ck.Producer(
            {
                "bootstrap.servers": self._servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # never gives a message up
                "queue.buffering.max.messages": 1_000_000,
                "linger.ms": 5,
                "log_level": 0,
            }
        )

    def _run(self) -> None:
        try:
            while not self._closed:
                self._step()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = error

    def _step(self) -> None:
        until = max(self._sent, min(self._allowed, self._sent + _POLL_EVERY, self._due()))
        names = self._topics.features, self._topics.labels
        for item in self._messages[self._sent : until]:
            self._producer.produce(
                names[item.is_label], item.value, item.key, on_delivery=self._delivered
            )
        self._sent = until
        if self._sent < self._allowed:
            self._producer.poll(0 if self._rate is None else 0.01)
        elif self._acknowledged < self._sent:
            self._producer.poll(0.05)
        else:
            with self._changed:
                if not self._closed and self._sent == self._allowed:
                    self._changed.wait(0.5)

    def _due(self) -> int:
        """How many may be sent by now, at this rate."""
        if self._rate is None:
            return self._allowed
        sent, since_s = self._paced_from
        return max(self._sent, sent + int((time.monotonic() - since_s) * self._rate))

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            raise RuntimeError(f"a message of the load was not delivered: {error}")
        self._acknowledged += 1
