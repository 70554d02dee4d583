"""Limits of a user's query, and the messages about them. A command that runs a query elsewhere imports nothing else."""

from __future__ import annotations

SQL_TIMEOUT_S, SQL_MEMORY_MB = 60.0, 2_048
"""Default limits: seconds, and MiB of memory."""

MAX_RESULT_BYTES = 2**30
"""Maximum size of a result in memory. A query with a larger result is stopped."""


def too_long(timeout_s: float) -> str:
    """Return the error message for a query that exceeded its time limit."""
    return f"the query took longer than {timeout_s:g} s: narrow it, or raise --timeout"


def too_large(memory_mb: int) -> str:
    """Return the error message for a query that exceeded its memory limit."""
    return f"the query needs more than {memory_mb} MiB of memory: narrow it, or raise --memory"
