"""Send a data set's rows to a stream's topics, continuing the row numbers in the features topic."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from driftline.broker.port import Broker
from driftline.clock import SystemClock
from driftline.config.stream import Stream
from driftline.interrupts import check
from driftline.wire.topics import Topics, require
from producers.delivery import Delivery
from producers.numbering import next_row
from producers.pacing import paced
from producers.playback import Playback
from producers.rows import RowSource

# Number of rows between calls to `progress`. A call costs more CPU time than sending a record.
_PROGRESS_EVERY: Final = 500


def numbered_playback(
    stream: Stream,
    broker: Broker,
    source: RowSource,
    *,
    seed: int,
    skip: int,
    limit: int | None,
    first_row: int | None,
) -> Playback:
    """Return a playback that continues the row numbers in the features topic.

    If `first_row` is given, numbering starts at this number instead. Raises TopicMismatch if the
    topics are missing or differ from the plan.
    """
    with closing(broker.admin()) as admin:
        require(admin, Topics(stream), role="producers")
    if first_row is None:
        first_row = next_row(broker, stream) if stream.needs_row else 0
    playback = Playback(stream, source, seed=seed, limit=None if limit is None else skip + limit)
    playback.skip(skip)
    # If the topic is empty, each row keeps its number in the data set. Otherwise, the numbers
    # continue after the topic's highest number.
    playback.number_from(first_row)
    return playback


def send_rows(
    playback: Playback,
    delivery: Delivery,
    *,
    rate: float | None,
    labels: bool,
    progress: Callable[[int], None],
) -> None:
    """Send all rows, and their labels if `labels` is set.

    `rate` is the maximum number of feature records per second. `progress` is called with the number
    of rows sent so far. Raises BrokerError.
    """
    plays = (play for play in playback.play() if labels or play.kind == "record")
    step = 1 if rate else _PROGRESS_EVERY
    shown = -step
    for play in paced(plays, rate, clock=SystemClock(), sleep=time.sleep):
        check()
        delivery.send(play)
        if play.row - shown >= step:
            shown = play.row
            progress(play.row + 1)
