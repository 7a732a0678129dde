"""Put time limits on Kafka client calls, which may block forever if the broker is unreachable.

Input: a call and a timeout. Output: the call's result, or TimeoutError.
"""

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import ParamSpec, TypeVar, cast

_log = logging.getLogger(__name__)

# Long enough to close sockets, and short enough not to delay the replacement client.
_LET_GO_S = 1.0

P = ParamSpec("P")
T = TypeVar("T")


def call_within(timeout_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a call in a separate thread and return its result.

    Raises whatever the call raises, or TimeoutError if the call does not return within `timeout_s`
    seconds. After a timeout, the call keeps running in the background, so the caller must abandon
    the client.

    >>> call_within(1.0, max, 1, 2)
    2
    """
    # Pass the result through a queue, which drops each item when it is read. A local variable
    # that holds an exception would form a reference cycle with the exception's traceback, and the
    # cycle would keep the client and the client's threads alive.
    answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    is_given_up = threading.Event()  # set when the caller stops waiting for the result

    def work() -> None:
        try:
            result = call(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            if not is_given_up.is_set():
                answers.put((None, error))
        else:
            answers.put((result, None))

    # Use a daemon thread, because Python waits for the threads of a thread pool when it exits.
    threading.Thread(target=work, name="driftline-call", daemon=True).start()
    try:
        result, failure = answers.get(timeout=timeout_s)
    except Empty:
        is_given_up.set()
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    if failure is not None:
        try:
            raise failure
        finally:
            del failure
    return cast(T, result)


def let_go(close: Callable[[], object]) -> None:
    """Close a client that is no longer needed.

    If closing takes more than a second, it continues in the background. Errors are only logged, at
    debug level, because nothing depends on the client any more.
    """
    try:
        call_within(_LET_GO_S, close)
    except Exception as error:  # noqa: BLE001 - nothing depends on the client any more
        _log.debug("a client did not close and was abandoned: %r", error)


def end_elsewhere(client: object, *, after_s: float = _LET_GO_S) -> None:
    """Hand a client that is no longer needed to a thread, which drops the last reference to it.

    Dropping the last reference destroys the client, and the destructor may block while the broker
    is unreachable. If the client has failed, call this before raising its error. The thread waits
    `after_s` seconds, until the error's traceback no longer references the client.
    """

    def hold(kept: object) -> None:
        time.sleep(after_s)

    threading.Thread(target=hold, args=(client,), name="driftline-end", daemon=True).start()
