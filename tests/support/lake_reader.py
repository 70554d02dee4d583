"""A reader of a DuckLake that has no more than DuckDB: the interpreter may be of another environment.

Run as a program, it reads a catalogue's address and SQL statements from standard input, and writes the rows and the
seconds of each statement to standard output, both as JSON. `ask_lake` runs it.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

WORKER = Path(__file__).parents[2] / "pipeline" / "store" / "lake" / "worker.py"


class Answer(NamedTuple):
    """What a statement returned, as JSON has it, and the seconds that it took."""

    rows: list[list[Any]]
    seconds: float


def ask_lake(python: str, catalog: str, *statements: str) -> list[Answer]:
    """Run statements on a catalogue in a process of another interpreter. The first one's seconds include ATTACH."""
    out = subprocess.run(
        [python, __file__], input=json.dumps([catalog, statements]), capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    return [Answer(*answer) for answer in json.loads(out.stdout)]


def main() -> None:
    """Run the statements of standard input."""
    import duckdb

    load_extension = runpy.run_path(str(WORKER))["load_extension"]
    catalog, statements = json.load(sys.stdin)
    answers = []
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        load_extension(connection, "ducklake")
        for kind, extension in {"sqlite:": "sqlite_scanner", "postgres:": "postgres_scanner"}.items():
            if kind in catalog:
                load_extension(connection, extension)
        started = time.perf_counter()
        connection.execute(f"ATTACH '{catalog}' AS other; USE other")
        for statement in statements:
            rows = connection.execute(statement).fetchall()
            answers.append((rows, time.perf_counter() - started))
            started = time.perf_counter()
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
