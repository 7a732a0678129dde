"""Send dead letters, even of records that are too large for the dead-letter topic."""

import logging

from driftline.broker.port import Outgoing, Producer
from driftline.errors import MessageTooLarge
from driftline.wire.envelope import without_value

log = logging.getLogger(__name__)


def send_dead_letter(producer: Producer, letter: Outgoing) -> None:
    """Send a dead letter, without its record if its topic does not accept one of this size.

    Raises BrokerError.
    """
    try:
        producer.send(letter)
        return
    except MessageTooLarge as error:
        log.error("%s; the dead letter is written without its record", error.message)
    producer.send(without_value(letter))
