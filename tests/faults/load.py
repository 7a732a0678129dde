"""Send feature records and labels with a client that never gives a message up.

In: a site. Out: each message exactly once in its topic, however long the broker is down. If results
are missing later, the services lost them.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import confluent_kafka as ck

from driftline.wire.topics import Topics
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
    """Return all messages after the warm-up, in the order of `driftline produce`."""
    data = site.scenario.data
    playback = Playback(site.stream, open_source(data.source), limit=data.rows)
    playback.skip(data.warm_up)
    return tuple(Item(play.kind == "label", play.key, play.value) for play in playback.play())


class Load:
    """Sends in a thread of its own, up to the allowed share of the messages."""

    def __init__(self, site: Site, messages: Sequence[Item], servers: str) -> None:
        self.records = sum(not item.is_label for item in messages)
        self.labels = len(messages) - self.records
        self._topics = Topics(site.stream)
        self._messages = messages
        self._servers = servers
        self._producer = self._new_producer()
        self._allowed = 0
        self._rate: float | None = None
        self._paced_from = 0, 0.0  # messages sent, and when, at the last `allow`
        self._sent = 0
        self._acknowledged = 0
        self._closed = False
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def allow(self, share: float, rate: float | None = None) -> None:
        """Allow this share of the messages to be sent, at once or at `rate` messages a second.

        A smaller share than before has no effect.
        """
        with self._changed:
            self._allowed = max(self._allowed, round(share * len(self._messages)))
            self._rate = rate
            self._paced_from = self._sent, time.monotonic()
            self._changed.notify()

    def pause(self) -> None:
        """Stop sending until `allow` is called again."""
        with self._changed:
            self._allowed = self._sent

    @property
    def idle(self) -> bool:
        """Return whether all allowed messages are acknowledged. Raises RuntimeError."""
        if self._failure is not None:
            raise RuntimeError(f"the load stopped: {self._failure!r}")
        return self._acknowledged >= max(self._allowed, self._sent)

    @property
    def done(self) -> bool:
        """Return whether all messages are acknowledged. Raises RuntimeError."""
        return self.idle and self._allowed == len(self._messages)

    def wait(self, patience_s: float) -> None:
        """Wait until all allowed messages are acknowledged. Raises RuntimeError."""
        deadline_s = time.monotonic() + patience_s
        while not self.idle:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the load was not acknowledged within {patience_s:g} s")
            time.sleep(_LOOK_EVERY_S)

    def sent(self) -> tuple[int, int]:
        """Return how many records and labels have been allowed."""
        part = self._messages[: self._allowed]
        labels = sum(item.is_label for item in part)
        return len(part) - labels, labels

    def delivered(self) -> tuple[int, int]:
        """Return how many records and labels have been acknowledged."""
        part = self._messages[: self._acknowledged]
        labels = sum(item.is_label for item in part)
        return len(part) - labels, labels

    def renew(self) -> None:
        """Replace the client, which caches deleted topics. Call it only when idle."""
        self._producer = self._new_producer()

    def close(self) -> None:
        """Stop at once and drop the messages that are not sent."""
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
                "message.timeout.ms": 0,  # never give a message up
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
        """Return how many messages the rate allows up to now."""
        if self._rate is None:
            return self._allowed
        sent, since_s = self._paced_from
        return max(self._sent, sent + int((time.monotonic() - since_s) * self._rate))

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            raise RuntimeError(f"a message of the load was not delivered: {error}")
        self._acknowledged += 1
