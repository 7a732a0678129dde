"""Read the newest pointers that inference workers have seen, from their commit metadata.

Input: the offsets that the inference group has committed. Output: pointers' sequence numbers and
models, for `Catalog.remember`.
"""

import logging

import msgspec

from driftline.broker.port import Broker
from driftline.broker.scan import ranges
from driftline.errors import BrokerError
from driftline.wire.commit_metadata import metadata_of
from driftline.wire.topics import Topics

log = logging.getLogger(__name__)


class Seen(msgspec.Struct, frozen=True):
    """The newest pointer that an inference worker has seen, as stored in its commit metadata."""

    champion: str
    sequence: int = 0


def seen_by_inference(broker: Broker, topics: Topics) -> tuple[Seen, ...]:
    """Return the newest pointers that inference workers have seen. Pass them to `Catalog.remember`.

    Return an empty tuple if the group's committed offsets cannot be fetched.
    """
    # Use a consumer, because librdkafka's admin client crashes while the group's coordinator is
    # unknown.
    consumer = broker.consumer(topics.group("inference"), client_id="driftline-models")
    try:
        committed = consumer.committed(ranges(broker, [topics.features]))
    except BrokerError as error:
        log.warning(
            "could not fetch the champions that inference has seen, so the champion is determined "
            "from the models topic alone: %s",
            error.message,
        )
        return ()
    finally:
        consumer.close()
    # `metadata_of` returns None if an earlier version or another tool committed the offset.
    found = {metadata_of(position, Seen) for position in committed.values()} - {None}
    return tuple(sorted((seen for seen in found if seen), key=lambda seen: seen.sequence))
