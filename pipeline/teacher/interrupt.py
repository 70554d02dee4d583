"""Ctrl-C while requests are under way: the first lets them finish, the second does not."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable


class Interrupt:
    """Catches SIGINT while an event loop works, where it may: in the main thread of a process that heeds it.

    Args:
        finish: told of the first Ctrl-C; returns how many requests are still waited for.
    """

    def __init__(self, finish: Callable[[], int]) -> None:
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self.pressed = False
        self._caught = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN and self._catch()

    def _catch(self) -> bool:
        try:
            self._loop.add_signal_handler(signal.SIGINT, self._on_signal)
        except (RuntimeError, ValueError, NotImplementedError):
            # Signals are for the main thread alone, and not for an event loop of Windows: Ctrl-C is as ever there.
            return False
        return True

    def release(self) -> None:
        """Leave the signal to Python again."""
        if self._caught:
            self._loop.remove_signal_handler(signal.SIGINT)
            self._caught = False

    def stop(self) -> None:
        """End the work at once: what runs in the task that made this is cancelled."""
        self.release()  # a third Ctrl-C ends the process, whatever it does
        if self._task:
            self._task.cancel()

    def _on_signal(self) -> None:
        if self.pressed:
            self.stop()
            return
        self.pressed = True
        waited_for = self._finish()
        if waited_for:
            answers = (
                "the answer to 1 request" if waited_for == 1 else f"the answers to {waited_for} requests"
            )
            print(
                f"\ninterrupted: waiting for {answers}; Ctrl-C again stops at once",
                file=sys.stderr,
                flush=True,
            )
