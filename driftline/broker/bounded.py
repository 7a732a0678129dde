"""Bound the time of client calls that may block forever if the broker becomes unreachable."""

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import ParamSpec, TypeVar, cast

_log = logging.getLogger(__name__)

# Long enough to close sockets, short enough not to delay the client that replaces this one.
_LET_GO_S = 1.0

P = ParamSpec("P")
T = TypeVar("T")


def call_within(timeout_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a call in a thread of its own and return the result.

    Raises what the call raises, and TimeoutError if it does not return within `timeout_s` seconds.
    After a timeout the call still runs in the background, so its client must be abandoned.

    >>> call_within(1.0, max, 1, 2)
    2
    """
    # A queue does not keep what was taken out of it. A local variable would keep an exception in a
    # reference cycle with its own frames, and with it the client and its threads.
    answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    is_given_up = threading.Event()  # no caller waits for the result any longer

    def work() -> None:
        try:
            result = call(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            if not is_given_up.is_set():
                answers.put((None, error))
        else:
            answers.put((result, None))

    # A daemon thread, because the process would wait for a thread of a pool when it ends.
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
    """Close a client that is no longer needed. After a second, continue in the background.

    Errors have no consequence and are logged at debug level.
    """
    try:
        call_within(_LET_GO_S, close)
    except Exception as error:  # noqa: BLE001 - nothing depends on the client any more
        _log.debug("a client did not close and was abandoned: %r", error)


def end_elsewhere(client: object) -> None:
    """Drop the last reference to a failed client in a background thread.

    Call this before raising the client's error. Dropping the last reference destroys the client,
    which may block while the broker is unreachable.
    """

    def hold(kept: object) -> None:
        time.sleep(_LET_GO_S)

    threading.Thread(target=hold, args=(client,), name="driftline-end", daemon=True).start()
