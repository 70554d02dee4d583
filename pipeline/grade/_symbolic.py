"""Computer algebra under a deadline, from any thread or process.

SymPy can compute for ever, math-verify's own time-outs need the main thread's signals, and a trainer's process
must not be forked. So the algebra runs in a process of its own (`diva_grpo.pipeline.grade._symbolic_worker`), started
at the first need by `subprocess`, which executes no Python between fork and exec. It serves all threads at once, and
forked children of the caller too, since each request brings its own pipe for the reply.

Linux only (SOCK_SEQPACKET between processes).
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
    from diva_grpo.pipeline.grade._compare import Tree

logger = logging.getLogger(__name__)

# A comparison that ends without a verdict within this time before its deadline was ended by its timer.
_TIMER_SLACK_S = 0.05
# Within which the process is ready on the busiest machine. Loading the algebra is a second of computing.
_START_S = 60.0
_REMEMBERED = 10_000


class UndecidedError(RuntimeError):
    """A comparison was stopped by its deadline, its memory limit or a crash, so its result is unknown."""


class SymbolicWorker:
    """The process that compares by algebra; started when first used, replaced when it has died. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ready = False
        self._decided: dict[str, bool] = {}

    def decide(self, tree: Tree, deadline: float) -> bool:
        """The verdict of a tree of comparisons.

        Args:
            tree: as `diva_grpo.pipeline.grade._compare` leaves it.
            deadline: the `time.monotonic()` by which this returns or raises. It moves by what the process takes to
                start: else the first verdict would depend on what else the machine does.

        Raises:
            UndecidedError: when that is not known by the deadline, or the comparison failed.
        """
        return tree if isinstance(tree, bool) else self._verdict({"tree": tree}, deadline)

    def math_verify(self, response: str, reference: str, deadline: float) -> bool:
        """The verdict of only math-verify, for a comparison with ours.

        Raises:
            UndecidedError: when that is not known by the deadline, or the comparison failed.
        """
        return self._verdict({"texts": [response, reference]}, deadline)

    def _verdict(self, request: dict[str, object], deadline: float) -> bool:
        question = json.dumps(request)
        decided = self._decided.get(question)
        if decided is not None:  # the rollouts of one problem repeat each other's answers
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
        """Starts the process, if it is not running, and waits until it can serve.

        Raises:
            UndecidedError: when it is not ready by the deadline (it goes on starting), or cannot start.
        """
        self._acquire(deadline)
        try:
            self._start(deadline)
        finally:
            self._lock.release()

    def pid(self) -> int | None:
        """Process id of the running worker, or None."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """Ends the process; a later call starts another."""
        with self._lock:
            self._close()

    def after_fork(self) -> None:
        """Makes this usable in a forked child: another thread may have held the lock, or be starting the process."""
        self._lock = threading.Lock()
        if not self._ready:
            self._process, self._channel = None, None

    def _ask(self, packet: bytes, deadline: float) -> tuple[bytes, float]:
        """Sends a request and waits for the verdict, empty when the comparison died. Also gives the moved deadline."""
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
        """Whether the process itself is gone, and not only the child that compared."""
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
                except OSError as error:  # it died since its last reply, say under memory pressure
                    self._close()
                    if attempt == 2:
                        raise UndecidedError(f"the symbolic worker does not answer: {error}") from error
                    logger.warning("the symbolic worker died and is replaced (%s)", error)
        finally:
            self._lock.release()

    def _acquire(self, deadline: float) -> None:
        # The lock is held for as long as a send takes, or a start.
        if not self._lock.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise UndecidedError("the symbolic worker is still starting")

    def _start(self, deadline: float) -> socket.socket:
        """The channel to a ready process. The lock is held."""
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
        # The child finds the same packages as this process, however that came by them, and nothing else (-P).
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        try:
            self._process = subprocess.Popen(
                # Not by `-m`: the package, which is loaded first, has this module already.
                [
                    sys.executable,
                    "-P",
                    "-c",
                    "from diva_grpo.pipeline.grade._symbolic_worker import main; main()",
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # an interrupt of the terminal is for the caller to handle
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
                self._process.wait(timeout=1.0)  # it ends with its channel
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process, self._channel, self._ready = None, None, False


def _readable(descriptor: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0.0) * 1_000))


WORKER = SymbolicWorker()
"""The one worker of this process: starting it costs a second and 70 MB, so all callers share it."""

atexit.register(WORKER.close)
os.register_at_fork(after_in_child=WORKER.after_fork)
