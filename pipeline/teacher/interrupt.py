"""Ctrl-C while requests are under way: the first lets them finish, the second does not."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupt:
    """Catches SIGINT while it is open, where it may: in the main thread of a process that heeds it.

    Either way the main thread gets its KeyboardInterrupt: at once where nothing is in flight, else from `drained` or
    the second Ctrl-C.

    Args:
        finish: told of the first Ctrl-C; returns how many requests are still waited for, or None where there is
            nothing to wait for. Who returns a number calls `drained` when they are answered.
    """

    def __init__(self, finish: Callable[[], int | None]) -> None:
        self._finish = finish
        self._pressed = False
        self._before: Any = None

    def catch(self) -> None:
        """Take the signal over; it is left as it is elsewhere than in the main thread, or where it is ignored."""
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._on_signal)

    def release(self) -> bool:
        """Leave the signal to who had it before; returns whether it came."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
        return self._pressed

    def drained(self) -> None:
        """What was in flight is answered and kept: end the work, from whatever thread this is called."""
        ident = threading.main_thread().ident
        if self._before is not None and ident:
            signal.pthread_kill(ident, signal.SIGINT)  # wakes a main thread that waits

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        waited_for = None if self._pressed else self._finish()
        if waited_for is None:
            self.release()  # a third Ctrl-C ends the process, whatever it does
            raise KeyboardInterrupt
        self._pressed = True
        if waited_for:
            answers = (
                "the answer to 1 request" if waited_for == 1 else f"the answers to {waited_for} requests"
            )
            print(
                f"\ninterrupted: waiting for {answers}; Ctrl-C again stops at once",
                file=sys.stderr,
                flush=True,
            )
