"""Bounds the time of client calls that may block for ever when the broker goes away."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import ParamSpec, TypeVar

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
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            answer.set_exception(error)

    # Not of a pool, which would wait for it when the process ends.
    threading.Thread(target=work, name="driftline-call", daemon=True).start()
    done, _ = wait([answer], timeout_s)
    if not done:
        raise TimeoutError(f"no answer within {timeout_s:g} s")
    return answer.result()


def let_go(close: Callable[[], object]) -> None:
    """Close a client that is not needed any more, in the background if the broker is away.

    What it raises is of no consequence, and logged at the debug level.
    """
    try:
        call_within(_LET_GO_S, close)
    except Exception as error:  # noqa: BLE001 - nothing depends on the client any more
        _log.debug("a client was given up before it had closed: %r", error)
