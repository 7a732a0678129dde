"""Run an optional computation on a window's data, with a logged fallback if the data makes it fail.

Input: a computation. Output: its result, or the fallback and one log line. With the fallback, the
window is published without the computation's result. The same data always leads to the same result,
so published events depend only on topics and packages.
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
    """Return the result of `compute`, or `fallback` if `compute` raises an error that the data
    caused.

    The log line begins with `consequence`. Disk, memory, model store and installation errors do not
    depend on the data, so they are raised again, and the service retries.

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
        log.debug("traceback of the previous warning", exc_info=error)
        return fallback
