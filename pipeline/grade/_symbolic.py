"""Computer algebra with a deadline, callable from any thread or process.

SymPy may never finish a computation, the time-outs of math-verify work only in the main thread, and the process of a
trainer must not be forked. So computer algebra runs in a separate process
(`diva_grpo.pipeline.grade._symbolic_worker`). It is started when it is first needed, by `subprocess`, which executes no
Python between fork and exec. It serves all threads concurrently. Forked children of the caller can use it too, because
each request contains its own pipe for the reply.

This works only on Linux (SOCK_SEQPACKET between processes).
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from diva_grpo.pipeline.grade._symbolic_worker import EQUAL, MAX_PACKET, READY, UNDECIDED

if TYPE_CHECKING:
    from diva_grpo.pipeline.grade._tree import Tree

logger = logging.getLogger(__name__)

# If a comparison ends without a verdict less than this time before its deadline, its timer has stopped it.
_TIMER_SLACK_S = 0.05
# Longest time until the process is ready, on a busy machine. Loading SymPy takes about one second of CPU time.
_START_S = 60.0
_REMEMBERED = 10_000


class UndecidedError(RuntimeError):
    """A comparison was stopped by its deadline, its memory limit or a crash, so its result is unknown."""


class SymbolicWorker:
    """The process for computer algebra. It is started at the first use and replaced if it has died. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ready = False
        self._decided: dict[str, bool] = {}

    def decide(self, tree: Tree, deadline: float) -> bool:
        """Return the verdict of a tree of comparisons.

        Args:
            tree: as returned by `diva_grpo.pipeline.grade._compare.compare`.
            deadline: the `time.monotonic()` by which this returns or raises. The time that the process takes to start
                is added to it; otherwise the first verdict would depend on the load of the machine.

        Raises:
            UndecidedError: the verdict is not known by the deadline, or the comparison failed.
        """
        return tree if isinstance(tree, bool) else self._verdict({"tree": tree}, deadline)

    def math_verify(self, response: str, reference: str, deadline: float) -> bool:
        """Return the verdict of math-verify alone, without our rules. It is used to audit the grader.

        Raises:
            UndecidedError: the verdict is not known by the deadline, or the comparison failed.
        """
        return self._verdict({"texts": [response, reference]}, deadline)

    def _verdict(self, request: dict[str, object], deadline: float) -> bool:
        question = json.dumps(request)
        decided = self._decided.get(question)
        if decided is not None:  # many rollouts of one problem have the same answer
            return decided
        seconds = max(deadline - time.monotonic(), 0.001)
        packet = json.dumps({"seconds": seconds, **request}).encode()
        if len(packet) > MAX_PACKET:
            raise UndecidedError("too long to compare symbolically")
        verdict, deadline = self._ask(packet, deadline)
        if not verdict and self._has_died():
            verdict, deadline = self._ask(packet, deadline)
        if verdict == UNDECIDED:
            raise UndecidedError("too close or too large to tell apart")
        if not verdict:
            late = time.monotonic() > deadline - _TIMER_SLACK_S
            raise UndecidedError("deadline" if late else "the comparison crashed or ran out of memory")
        if len(self._decided) >= _REMEMBERED:
            self._decided.clear()
        self._decided[question] = verdict == EQUAL
        return verdict == EQUAL

    def start(self, deadline: float) -> None:
        """Start the process if it is not running, and wait until it is ready.

        Raises:
            UndecidedError: the process cannot start, or is not ready by the deadline. In the second case it continues
                to start.
        """
        self._acquire(deadline)
        try:
            self._start(deadline)
        finally:
            self._lock.release()

    def pid(self) -> int | None:
        """Return the process id of the worker, or None if it is not running."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """End the process. A later call starts a new one."""
        with self._lock:
            self._close()

    def after_fork(self) -> None:
        """Make this object usable in a forked child.

        At the fork, another thread may have held the lock or may have been starting the process.
        """
        self._lock = threading.Lock()
        if not self._ready:
            self._process, self._channel = None, None

    def _ask(self, packet: bytes, deadline: float) -> tuple[bytes, float]:
        """Send a request and wait for the verdict.

        Returns:
            The verdict (empty if the comparison died), and the deadline plus the time that sending took.
        """
        reading, writing = os.pipe()
        try:
            try:
                asked = time.monotonic()
                self._send(packet, writing)
                deadline += time.monotonic() - asked
            finally:
                os.close(writing)
            if not _readable(reading, deadline):
                raise UndecidedError("deadline")
            return os.read(reading, 16), deadline
        finally:
            os.close(reading)

    def _has_died(self) -> bool:
        """Whether the worker itself has died, and not only its child for one comparison."""
        channel = self._channel
        return channel is None or _readable(channel.fileno(), time.monotonic() + _TIMER_SLACK_S)

    def _send(self, packet: bytes, writing: int) -> None:
        deadline = time.monotonic() + _START_S
        self._acquire(deadline)
        try:
            for attempt in (1, 2):
                channel = self._start(deadline)
                try:
                    socket.send_fds(channel, [packet], [writing], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
                    return
                except BlockingIOError as error:
                    raise UndecidedError("the symbolic worker is overloaded") from error
                except OSError as error:  # it died after its last reply, for example because memory ran out
                    self._close()
                    if attempt == 2:
                        raise UndecidedError(f"the symbolic worker does not answer: {error}") from error
                    logger.warning("the symbolic worker died and is replaced (%s)", error)
        finally:
            self._lock.release()

    def _acquire(self, deadline: float) -> None:
        # The lock is held only while a request is sent or the process starts.
        if not self._lock.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise UndecidedError("the symbolic worker is still starting")

    def _start(self, deadline: float) -> socket.socket:
        """Return the socket to the process, after it is ready. The caller must hold the lock."""
        channel = self._channel or self._spawn()
        if not self._ready:
            if not _readable(channel.fileno(), deadline):
                raise UndecidedError("the symbolic worker is still starting")
            if channel.recv(len(READY)) != READY:
                self._close()
                raise UndecidedError("the symbolic worker did not start; its error output says why")
            self._ready = True
        return channel

    def _spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The worker gets the import path of this process and nothing else (-P), so it finds the same packages.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        try:
            self._process = subprocess.Popen(
                # Without `-m`, which would warn: importing the package already imports this module.
                [
                    sys.executable,
                    "-P",
                    "-c",
                    "from diva_grpo.pipeline.grade._symbolic_worker import main; main()",
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C in the terminal goes to the caller only
            )
        except OSError as error:
            ours.close()
            raise UndecidedError(f"the symbolic worker did not start: {error}") from error
        finally:
            theirs.close()
        self._channel, self._ready = ours, False
        return ours

    def _close(self) -> None:
        if self._channel:
            self._channel.close()
        if self._process:
            try:
                self._process.wait(timeout=1.0)  # the process ends when its socket is closed
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process, self._channel, self._ready = None, None, False


def _readable(descriptor: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0.0) * 1_000))


WORKER = SymbolicWorker()
"""The worker of this process. All callers share it, because it takes a second to start and 70 MB of memory."""

atexit.register(WORKER.close)
os.register_at_fork(after_in_child=WORKER.after_fork)
