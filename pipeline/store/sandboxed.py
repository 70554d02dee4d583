"""The separate process of `pipeline.store.sandbox`, in which a user's SELECT runs."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import IO, NoReturn

import pyarrow as pa

from diva_grpo.pipeline.store.limits import MAX_RESULT_BYTES, too_long
from diva_grpo.pipeline.store.sandbox import REFUSED
from diva_grpo.pipeline.store.sql import as_text, run_select
from diva_grpo.pipeline.store.store import VariantStore
from diva_grpo.schemas.exceptions import DivaError, MissingExtraError, QueryError

_OWN_BYTES = 2**29
"""Memory in bytes that the process may use in addition to that of DuckDB and the result."""


def serve() -> None:
    """Main function of the separate process.

    It reads a request as JSON from standard input, runs the query and writes the result to standard output: an Arrow
    stream, or the number of rows and the text. An error is one line on standard error and exit code `REFUSED`.
    """
    request = json.load(sys.stdin)
    timeout_s, output_format = request["timeout_s"], request["format"]
    deadline = time.monotonic() + timeout_s
    _limit_memory((request["memory_mb"] << 20) + MAX_RESULT_BYTES + _OWN_BYTES)
    try:
        with MissingExtraError.named_for("diva sql"):
            store = VariantStore(request["root"])
        table = run_select(store, request["sql"], timeout_s=timeout_s, memory_mb=request["memory_mb"])
        text = _text_by(deadline, timeout_s, table, output_format) if output_format else None
    except DivaError as error:
        print(type(error).__name__, str(error), file=sys.stderr)
        sys.exit(REFUSED)
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
