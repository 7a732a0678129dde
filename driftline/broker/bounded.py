"""Bounds the time of client calls that may block for ever when the broker goes away."""

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import ParamSpec, TypeVar, cast

_log = logging.getLogger(__name__)

# Long enough to close sockets, short enough not to delay whoever makes a new client.
_LET_GO_S = 1.0

P = ParamSpec("P")
T = TypeVar("T")


def call_within(timeout_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call in a thread of its own and return the result.

    Raises what the call raises, and TimeoutError when it has not returned within `timeout_s`
    seconds. It goes on in the background then: give up the client that it belongs to.

    >>> call_within(1.0, max, 1, 2)
    2
    """
    # What is taken out of a queue is not kept by it: an exception kept by its own frames would keep
    # the client, and its threads, until garbage is collected.
    answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(*args, **kwargs), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            answers.put((None, error))

    # Not of a pool, which would wait for it when the process ends.
    threading.Thread(target=work, name="driftline-call", daemon=True).start()
    try:
        result, failure = answers.get(timeout=timeout_s)
    except Empty:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    if failure is not None:
        try:
            raise failure
        finally:
            del failure
    return cast(T, result)


def let_go(close: Callable[[], object]) -> None:
    """Close a client that is not needed any more, in the background if the broker is away.

    What it raises is of no consequence, and logged at the debug level.
    """
    try:
        call_within(_LET_GO_S, close)
    except Exception as error:  # noqa: BLE001 - nothing depends on the client any more
        _log.debug("a client was given up before it had closed: %r", error)


def end_elsewhere(client: object) -> None:
    """Drop the last reference to a client in a background thread.

    Call it before raising the error of a client that failed. Destroying a client may block while
    the broker is away, even if this only happens because its last reference is dropped.
    """

    def hold(kept: object) -> None:
        time.sleep(_LET_GO_S)

    threading.Thread(target=hold, args=(client,), name="driftline-end", daemon=True).start()
