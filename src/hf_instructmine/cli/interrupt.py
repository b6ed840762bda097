"""Ctrl-C stops a verb, whatever a library does with the exception; a second one stops it at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


_SOON, _AT_ONCE = 1.0, 0.02  # seconds


class Interrupt:
    """What Ctrl-C has done so far.

    Python raises `KeyboardInterrupt` in whatever runs. In a `__del__`, or before an `except:` without a name, it is
    gone, and the work goes on. So it is raised again until it is seen to be handled.

    Attributes:
        seen (`bool`): Whether there was one.
    """

    def __init__(self) -> None:
        self.seen = False
        self._alarm: Any = None

    def _first(self, _: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.signal(signal.SIGINT, self._second)
        if hasattr(signal, "setitimer"):  # not on Windows, where it is raised once
            self._alarm = signal.signal(signal.SIGALRM, self._again)
            signal.setitimer(signal.ITIMER_REAL, _SOON, _SOON)
        self._raise(frame)

    def _second(self, *_: object) -> None:
        os.write(2, b"\nstopped at once\n")
        os._exit(130)

    def _again(self, _: int, frame: FrameType | None) -> None:
        if not _is_handled(sys.exc_info()[1]):
            self._raise(frame)

    def _raise(self, frame: FrameType | None) -> None:
        """Not in a `__del__`, which often is what follows a garbage collection, or other long calls without Python."""
        while frame is not None and hasattr(signal, "setitimer"):
            if frame.f_code.co_name == "__del__":
                signal.setitimer(signal.ITIMER_REAL, _AT_ONCE, _SOON)
                return
            frame = frame.f_back
        raise KeyboardInterrupt


def _is_handled(error: BaseException | None) -> bool:
    """Whether an interrupt is on its way out: processes are ended and files closed for it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


@contextmanager
def stoppable() -> Iterator[Interrupt]:
    """Within it Ctrl-C stops the work. Where it is ignored, as in the background of a shell, it stays so."""
    interrupt = Interrupt()
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return
    signal.signal(signal.SIGINT, interrupt._first)
    try:
        yield interrupt
    finally:
        if interrupt.seen and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, interrupt._alarm)
        signal.signal(signal.SIGINT, signal.default_int_handler)
