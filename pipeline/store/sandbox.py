"""Run a user's SELECT in a separate process, which the kernel limits and which can always be killed.

DuckDB does not count the memory of one huge string towards its limit, and does not react to an interrupt while it
creates the string. A process with a memory limit, which is killed shortly after its time limit, also stops this.
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
"""Seconds added to the limit, for the start of the process and for the engine to end the query by itself."""
_OWN_BYTES = 2**29
"""Memory of the process in addition to that of the engine and the result."""
_REFUSED = 3
"""Exit code of a query that failed with one line."""

_PROGRAM = "from diva_grpo.pipeline.store.sandbox import serve; serve()"


def run_apart(
    store: VariantStore, sql: str, *, timeout_s: float = SQL_TIMEOUT_S, memory_mb: int = SQL_MEMORY_MB
) -> pa.Table:
    """Run one SELECT over the store's views in a process of its own; costs about half a second.

    Args:
        store: the store.
        sql: see `run_select`.
        timeout_s: seconds after which the query is ended in any case.
        memory_mb: MiB that the engine may use. The process as a whole may use that, the largest result and
            half a GiB (on Linux; elsewhere only the engine's own limit holds).

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
    """As `run_apart`, with the result as text, which is made within the same limits.

    Args:
        store: the store.
        sql: see `run_select`.
        output_format: see `render`; not Parquet.
        timeout_s: seconds for query and text.
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
    # Safe path: no module of the user's working folder stands in for one of ours.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(_import_path()), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the caller, who ends the process below
    )
    # No thread keeps the time: one that Ctrl-C came before the `try` of would outlive the query, and the command.
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
    """Where this process finds its modules, which the other shall find there too."""
    return [path for path in sys.path if path]


def serve() -> None:
    """The other process: a request on standard input, the result on standard output as an Arrow stream."""
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
    """A result as text, by a deadline of the monotonic clock."""

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

        # Data, not address space: what the allocator only reserves does not count.
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _send(table: pa.Table, out: IO[bytes]) -> None:
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
