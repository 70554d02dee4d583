"""Run a user's SELECT in a separate process whose memory the kernel limits, and which can always be killed.

DuckDB does not count the memory of one huge string towards its limit, and does not react to an interrupt while it
creates the string. The separate process has a memory limit, and is killed shortly after its time limit, so that such a
query is stopped too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import IO, NoReturn

import pyarrow as pa

from diva_grpo.pipeline.store.sql import (
    MAX_RESULT_BYTES,
    as_text,
    run_select,
    too_large,
    too_long,
)
from diva_grpo.pipeline.store.store import VariantStore
from diva_grpo.schemas.config import SQL_MEMORY_MB, SQL_TIMEOUT_S
from diva_grpo.schemas.exceptions import DivaError, QueryError, StoreError

_GRACE_S = 5.0
"""Seconds added to the time limit before the process is killed. The process needs them to start, and DuckDB to stop
the query itself."""
_OWN_BYTES = 2**29
"""Memory in bytes that the process may use in addition to that of DuckDB and the result."""
_REFUSED = 3
"""Exit code for a query that failed with an error message of one line."""

_PROGRAM = "from diva_grpo.pipeline.store.sandbox import serve; serve()"


def run_apart(
    store: VariantStore, sql: str, *, timeout_s: float = SQL_TIMEOUT_S, memory_mb: int = SQL_MEMORY_MB
) -> pa.Table:
    """Run one SELECT over the store's views in a separate process. Starting it takes about half a second.

    Args:
        store: the store.
        sql: see `run_select`.
        timeout_s: time limit of the query, in seconds. The process is killed `_GRACE_S` seconds later.
        memory_mb: memory limit of DuckDB, in MiB. On Linux, the process may use this limit plus
            `MAX_RESULT_BYTES` plus half a GiB in total. On other systems, only DuckDB's own limit applies.

    Returns:
        See `run_select`.

    Raises:
        QueryError: see `run_select`.
        StoreError: a part file is damaged.
    """
    out = _apart(store, sql, timeout_s, memory_mb, None)
    return pa.ipc.open_stream(pa.py_buffer(out)).read_all()


def text_apart(
    store: VariantStore,
    sql: str,
    output_format: str,
    *,
    timeout_s: float = SQL_TIMEOUT_S,
    memory_mb: int = SQL_MEMORY_MB,
) -> tuple[int, str]:
    """Like `run_apart`, but return the result as text. The separate process formats it within the same limits.

    Args:
        store: the store.
        sql: see `run_select`.
        output_format: see `render`; not Parquet.
        timeout_s: time limit of the query and the formatting together, in seconds.
        memory_mb: see `run_apart`.

    Returns:
        The number of rows, and the text.

    Raises:
        QueryError: see `run_select`.
        StoreError: a part file is damaged.
    """
    rows, _, text = _apart(store, sql, timeout_s, memory_mb, output_format).partition(b"\n")
    return int(rows), text.decode()


def _apart(
    store: VariantStore, sql: str, timeout_s: float, memory_mb: int, output_format: str | None
) -> bytes:
    request = {"root": store.place.url, "sql": sql, "timeout_s": timeout_s, "memory_mb": memory_mb}
    request["format"] = output_format
    # With a safe path, a module in the user's working folder cannot replace a module of this program.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(_import_path()), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # so Ctrl-C reaches only this process, which kills the other one below
    )
    # `communicate` measures the time. A timer thread could outlive the query and the command, if Ctrl-C came after its
    # start and before its `try`.
    try:
        out, err = process.communicate(json.dumps(request).encode(), timeout_s + _GRACE_S)
    except subprocess.TimeoutExpired:
        raise QueryError(too_long(timeout_s)) from None
    finally:
        process.kill()
        process.wait()
    if process.returncode == 0:
        text: bytes = out
        return text
    if process.returncode == _REFUSED:
        kind, _, message = err.decode().strip().splitlines()[-1].partition(" ")
        raise {"StoreError": StoreError}.get(kind, QueryError)(message)
    if process.returncode < 0 or b"MemoryError" in err or b"bad_alloc" in err:
        raise QueryError(too_large(memory_mb))
    reason = err.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
    raise QueryError(f"the query's process ended early: {reason[0]}")


def _import_path() -> list[str]:
    """Return the folders in which this process finds its modules, for the other process."""
    return [path for path in sys.path if path]


def serve() -> None:
    """Main function of the separate process.

    It reads a request as JSON from standard input, runs the query and writes the result to standard output: an Arrow
    stream, or the number of rows and the text. An error is one line on standard error and exit code `_REFUSED`.
    """
    request = json.load(sys.stdin)
    timeout_s, output_format = request["timeout_s"], request["format"]
    deadline = time.monotonic() + timeout_s
    _limit_memory((request["memory_mb"] << 20) + MAX_RESULT_BYTES + _OWN_BYTES)
    try:
        store = VariantStore(request["root"])
        table = run_select(store, request["sql"], timeout_s=timeout_s, memory_mb=request["memory_mb"])
        text = _text_by(deadline, timeout_s, table, output_format) if output_format else None
    except DivaError as error:
        print(type(error).__name__, str(error), file=sys.stderr)
        sys.exit(_REFUSED)
    if text is None:
        _send(table, sys.stdout.buffer)
    else:
        sys.stdout.buffer.write(b"%d\n%b" % (table.num_rows, text.encode()))


def _text_by(deadline: float, timeout_s: float, table: pa.Table, output_format: str) -> str:
    """Return a result as text.

    Args:
        deadline: time of the monotonic clock at which formatting is stopped, in seconds.
        timeout_s: the time limit that the error message states.
        table: the result.
        output_format: see `as_text`.

    Raises:
        QueryError: the deadline has passed.
    """

    def stop(*_: object) -> NoReturn:
        raise QueryError(too_long(timeout_s))

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.001))
    text = as_text(table, output_format)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return text


def _limit_memory(limit_bytes: int) -> None:
    if sys.platform == "linux":
        import resource

        # The limit is on data and not on address space, so that memory which is only reserved does not count.
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _send(table: pa.Table, out: IO[bytes]) -> None:
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
