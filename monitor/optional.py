"""Run an optional computation on window data, with a fallback in case the data makes it fail.

Input: a function. Output: the function's result, or the fallback and one log line. When the
fallback is used, the window is published without the function's result. The same data always gives
the same result, so published events depend only on the topics and the model packages.
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
    """Return the result of `compute`, or `fallback` if `compute` raises an error caused by the
    data.

    When the fallback is returned, a warning that begins with `consequence` is logged. Disk, memory,
    model store and installation errors do not depend on the data, so they are re-raised and the
    service retries.

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
