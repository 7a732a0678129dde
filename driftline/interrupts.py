"""Make Ctrl-C end a command at any time, even where Python would drop the KeyboardInterrupt.

Python raises KeyboardInterrupt in whatever code the main thread is running. If that code is a
destructor or a library's callback, Python drops the exception, and the command continues. This
module therefore raises a dropped interrupt again a moment later, and loops call `check`. A second
Ctrl-C ends the process at once.

The module imports almost nothing, not even `typing`, so that Ctrl-C already works during imports.
"""

import os
import signal
import sys

EXIT_CODE = 130  # exit code of a command interrupted by Ctrl-C: 128 + SIGINT
# Pause before the interrupt is raised again, so that the destructor or callback can return.
_AGAIN_AFTER_S = 0.05

_report_unraisable = sys.unraisablehook
_pressed = False


def catch() -> None:
    """Handle Ctrl-C from now on, unless the process ignores Ctrl-C or has its own handler.

    Call this function in the main thread.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGALRM, _interrupt_again)
        sys.unraisablehook = _note_dropped


def pressed() -> bool:
    """Return whether Ctrl-C was pressed."""
    return _pressed


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed. Call this in each iteration of a long loop.

    If an iteration starts after Ctrl-C, a library must have suppressed the exception.
    """
    if _pressed:
        raise KeyboardInterrupt


def _interrupt(signal_number: int, frame: object) -> None:
    global _pressed  # a process has only one handler per signal
    if _pressed:
        _end_at_once()
    _pressed = True
    raise KeyboardInterrupt


def _interrupt_again(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _note_dropped(dropped: "sys.UnraisableHookArgs") -> None:
    """Schedule another interrupt if the dropped exception is a KeyboardInterrupt.

    Python calls this function instead of printing the dropped exception's traceback.
    """
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER_S)
    else:
        _report_unraisable(dropped)


def _end_at_once() -> None:
    """End the process without cleaning up, and kill its child processes.

    A backtest's child processes ignore Ctrl-C, so they would otherwise keep running.
    """
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.kill()
    os.write(2, b"interrupted again: ended without cleaning up\n")
    os._exit(EXIT_CODE)
