"""Compute the optional parts of a window. If one of them fails, the window is published without it.

In: a computation. Out: its result, or a fallback and one log line. The same data always gives the
same result, so what is published still depends only on the topics and packages.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from driftline.logs import alike
from driftline.runtime.bad_record_isolation import is_caused_by_data

log = logging.getLogger(__name__)

Found = TypeVar("Found")
Fallback = TypeVar("Fallback")


def optional(
    compute: Callable[[], Found], fallback: Fallback, consequence: str
) -> Found | Fallback:
    """Return the result of `compute`, or `fallback` if the data makes it raise.

    The log line begins with `consequence`. Errors of the disk, the memory, the model store and the
    installation do not depend on the data: they are raised, and the service tries again.

    >>> optional(lambda: 1 / 0, None, "window w-1 has no estimate") is None
    True
    """
    try:
        return compute()
    except ImportError:
        raise
    except Exception as error:
        if not is_caused_by_data(error):
            raise
        log.warning(
            "%s: %s: %s", consequence, type(error).__name__, error, extra=alike(consequence)
        )
        log.debug("the error was raised here", exc_info=error)
        return fallback
