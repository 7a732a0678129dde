"""Replay the data into the topics up to an allowed share, so that killers control the progress.

In: a site. Out: feature records and labels, as `driftline produce` sends them.
"""

import threading

from driftline.wire.topics import Topics
from producers.delivery import Delivery
from producers.playback import Playback
from producers.sources import open_source
from tests.faults.site import Site


class Feed:
    """Sends in a thread of its own, starting with the first row after the warm-up."""

    def __init__(self, site: Site) -> None:
        data = site.scenario.data
        self.records = data.rows - data.warm_up
        self.labels = 0
        self._skipped = data.warm_up
        self._site = site
        self._allowed = 0
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def allow(self, share: float) -> None:
        """Allow this share of the records to be sent. A smaller share than before has no effect."""
        with self._changed:
            self._allowed = max(self._allowed, min(self.records, round(share * self.records)))
            self._changed.notify()

    @property
    def done(self) -> bool:
        """Return whether all is sent and confirmed. Raises the error that stopped the feed."""
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._send()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = error

    def _send(self) -> None:
        site, data = self._site, self._site.scenario.data
        playback = Playback(site.stream, open_source(data.source), limit=data.rows)
        playback.skip(self._skipped)
        producer = site.broker.producer()
        delivery = Delivery(producer, Topics(site.stream))
        try:
            for play in playback.play():
                if play.row - self._skipped >= self._allowed < self.records:
                    delivery.confirm()
                    self._wait_to_be_let(play.row)
                delivery.send(play)
            delivery.confirm()
            self.labels = delivery.labels
        finally:
            producer.close()

    def _wait_to_be_let(self, row: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: row - self._skipped < self._allowed)
