"""Ctrl-C while requests are in flight: the first one waits for their answers, the second one stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupt:
    """Handles SIGINT between `catch` and `release`. It works only in the main thread, and if SIGINT is not ignored.

    The main thread gets a KeyboardInterrupt: at once if there is nothing to wait for, else when `drained` is called
    or at the second Ctrl-C.

    Args:
        finish: called at the first Ctrl-C. It returns the number of requests in flight, or None if there is nothing to
            wait for. If it returns a number, `drained` must be called when these requests are answered and kept.
    """

    def __init__(self, finish: Callable[[], int | None]) -> None:
        self._finish = finish
        self._pressed = False
        self._before: Any = None

    def catch(self) -> None:
        """Start to handle SIGINT. Does nothing outside of the main thread, or if SIGINT is ignored."""
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._on_signal)

    def release(self) -> bool:
        """Restore the previous handler; returns True if a Ctrl-C came and requests in flight were awaited."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
        return self._pressed

    def drained(self) -> None:
        """Interrupt the main thread, since all requests are answered and kept. Any thread may call it."""
        ident = threading.main_thread().ident
        if self._before is not None and ident:
            signal.pthread_kill(ident, signal.SIGINT)  # wakes a main thread that waits

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        waited_for = None if self._pressed else self._finish()
        if waited_for is None:
            self.release()  # so that a third Ctrl-C goes to the previous handler
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
