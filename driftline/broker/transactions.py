"""Raise the transaction and delivery errors shared by the producers of all broker adapters."""

from driftline.errors import BrokerError, DeliveryFailed

# The coordinator aborts a transaction after 10 s, so it is pointless to wait much longer.
TRANSACTION_ANSWER_TIMEOUT_S = 15.0


def check_can_begin(transactional_id: str | None, *, is_open: bool) -> None:
    """Raise BrokerError if the producer has no transactional id or a transaction is open."""
    if transactional_id is None:
        raise BrokerError("this producer has no transactional id")
    if is_open:
        raise BrokerError(f"{transactional_id!r} already has an open transaction")


def raise_failed(failed: list[str]) -> None:
    """Raise DeliveryFailed if `failed` lists any unacknowledged records, and clear the list."""
    if not failed:
        return
    count, first = len(failed), failed[0]
    failed.clear()
    raise DeliveryFailed(
        f"{count} records were not acknowledged; first error: {first}",
        hint="records after the last committed offset may be lost; read them again",
    )
