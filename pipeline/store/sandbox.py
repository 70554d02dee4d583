"""Run a user's SELECT in a separate process whose memory the kernel limits, and which can always be killed.

DuckDB does not count the memory of one huge string towards its limit, and does not react to an interrupt while it
creates the string. The separate process has a memory limit, and is killed shortly after its time limit, so that such a
query is stopped too.

This module runs in the process that asks, and `sandboxed` in the separate one. Only that one loads DuckDB and Arrow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diva_grpo.pipeline.store.limits import SQL_MEMORY_MB, SQL_TIMEOUT_S, too_large, too_long
from diva_grpo.schemas.exceptions import ConfigError, MissingExtraError, QueryError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from diva_grpo.pipeline.store.store import VariantStore

_GRACE_S = 5.0
"""Seconds added to the time limit before the process is killed. The process needs them to start, and DuckDB to stop
the query itself."""
REFUSED = 3
"""Exit code for a query that failed with an error message of one line."""

_PROGRAM = "from diva_grpo.pipeline.store.sandboxed import serve; serve()"
_ERRORS = {error.__name__: error for error in (ConfigError, MissingExtraError, QueryError, StoreError)}
"""The errors that the process reports, by the name that it writes before the message."""


class TextResult(NamedTuple):
    """The result of a query as text.

    Attributes:
        rows: number of rows.
        text: the rows, formatted.
        warnings: what the process wrote to standard error, such as a warning about the store.
    """

    rows: int
    text: str
    warnings: str


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
    import pyarrow as pa

    out, _ = _apart(store.place.url, sql, timeout_s, memory_mb, None)
    return pa.ipc.open_stream(pa.py_buffer(out)).read_all()


def text_apart(
    root: str | Path,
    sql: str,
    output_format: str,
    *,
    timeout_s: float = SQL_TIMEOUT_S,
    memory_mb: int = SQL_MEMORY_MB,
) -> TextResult:
    """Like `run_apart`, but return the result as text. The separate process opens the store, and formats the result
    within the same limits.

    Args:
        root: see `VariantStore`.
        sql: see `run_select`.
        output_format: see `render`; not Parquet.
        timeout_s: time limit of the query and the formatting together, in seconds.
        memory_mb: see `run_apart`.

    Raises:
        ConfigError: see `place_of`.
        QueryError: see `run_select`.
        StoreError: see `VariantStore`, or a part file is damaged.
    """
    out, err = _apart(str(root), sql, timeout_s, memory_mb, output_format)
    rows, _, text = out.partition(b"\n")
    return TextResult(int(rows), text.decode(), err.decode(errors="replace"))


def _apart(
    root: str, sql: str, timeout_s: float, memory_mb: int, output_format: str | None
) -> tuple[bytes, bytes]:
    """Return what the process wrote to standard output and standard error."""
    request = {"root": root, "sql": sql, "timeout_s": timeout_s, "memory_mb": memory_mb}
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
        return out, err
    if process.returncode == REFUSED:
        kind, _, message = err.decode().strip().splitlines()[-1].partition(" ")
        raise _ERRORS.get(kind, QueryError)(message)
    if process.returncode < 0 or b"MemoryError" in err or b"bad_alloc" in err:
        raise QueryError(too_large(memory_mb))
    reason = err.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
    raise QueryError(f"the query's process ended early: {reason[0]}")


def _import_path() -> list[str]:
    """Return the folders in which this process finds its modules, for the other process."""
    return [path for path in sys.path if path]
