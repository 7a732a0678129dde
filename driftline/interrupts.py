"""Make Ctrl-C end a command, whatever it is doing at that moment.

Python raises KeyboardInterrupt wherever the main thread is. In a destructor or in a callback of a
library it drops the exception, and the command continues. Here a dropped interrupt is raised again
a moment later, loops call `check`, and a second Ctrl-C ends the process at once.

It imports almost nothing, so that it works while everything else is imported, even `typing`.
"""

import os
import signal
import sys

EXIT_CODE = 130  # exit code of a command that Ctrl-C has ended: 128 + SIGINT
# Pause before the interrupt is raised again. In this time, the destructor or callback ends.
_AGAIN_AFTER_S = 0.05

_report_unraisable = sys.unraisablehook
_pressed = False


def catch() -> None:
    """Handle Ctrl-C from now on, unless the process ignores it or handles it itself.

    Call it in the main thread.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGALRM, _interrupt_again)
        sys.unraisablehook = _note_dropped


def pressed() -> bool:
    """Return whether Ctrl-C was pressed."""
    return _pressed


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed. Long loops call it in each iteration.

    If an iteration begins after Ctrl-C, a library has suppressed the exception.
    """
    if _pressed:
        raise KeyboardInterrupt


def _interrupt(signal_number: int, frame: object) -> None:
    global _pressed  # a process has one handler of a signal
    if _pressed:
        _end_at_once()
    _pressed = True
    raise KeyboardInterrupt


def _interrupt_again(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _note_dropped(dropped: "sys.UnraisableHookArgs") -> None:
    """Schedule the interrupt again if Python has dropped it.

    Python calls this instead of printing the traceback of a dropped exception.
    """
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER_S)
    else:
        _report_unraisable(dropped)


def _end_at_once() -> None:
    """End the process without cleaning up, and kill its child processes.

    Processes of a backtest ignore Ctrl-C, so they would continue to run.
    """
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.kill()
    os.write(2, b"interrupted again: ended without cleaning up\n")
    os._exit(EXIT_CODE)
