"""Many small parts: reading a key by the store itself and through a DuckLake, and what a sync costs.

    python tests/bench/bench_lake.py --python ENVIRONMENT/bin/python --parts 1000 --catalog file,sqlite

DuckDB of the other environment reads the parts in both ways, so that its release plays no part; the store's own
way is timed beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.lake.catalogue import sync_lake
from tests.support.lake_reader import ask_lake
from tests.support.store_records import variant

_KEY = "SELECT count(*) FROM variants WHERE problem_id = 'w/7'"


def _timed(what: str, started: float) -> None:
    print(f"  {what:42s} {time.perf_counter() - started:8.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", required=True, help="interpreter whose DuckDB has the extension ducklake")
    parser.add_argument("--parts", type=int, default=1000)
    parser.add_argument("--catalog", default="file,sqlite", help="kinds: file, sqlite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = VariantStore(f"{folder}/store", create=True)
        for number in range(given.parts):
            store.append([variant(number, f"w/{number % 100}")])
        print(f"{given.parts} parts of one row")
        started = time.perf_counter()
        fresh = VariantStore(f"{folder}/store")
        print(f"  rows of the key: {fresh.query(_KEY)[0][0]}")
        _timed("store: open and count by key", started)
        started = time.perf_counter()
        fresh.query(_KEY)
        _timed("store: again", started)
        for kind in given.catalog.split(","):
            catalog = f"ducklake:{'sqlite:' if kind == 'sqlite' else ''}{folder}/{kind}.lake"
            started = time.perf_counter()
            done = sync_lake(store, catalog, python=given.python)
            _timed(f"{kind}: first sync, {done.added} parts", started)
            started = time.perf_counter()
            sync_lake(store, catalog, python=given.python)
            _timed(f"{kind}: sync of nothing", started)
            store.append([variant(given.parts, "w/0")])
            started = time.perf_counter()
            sync_lake(store, catalog, python=given.python)
            _timed(f"{kind}: sync of one part", started)
            attached, again = ask_lake(given.python, catalog, _KEY, _KEY)
            for what, answer in (("attach and count by key", attached), ("again", again)):
                print(f"  {f'{kind}: {what}':42s} {answer.seconds:8.2f} s", flush=True)
        started = time.perf_counter()
        store.compact()
        _timed("store: compact", started)
        started = time.perf_counter()
        VariantStore(f"{folder}/store").query(_KEY)
        _timed("store: open and count by key, compacted", started)
        for kind in given.catalog.split(",")[:1]:
            started = time.perf_counter()
            done = sync_lake(
                store, f"ducklake:{folder}/{kind}.lake" if kind == "file" else catalog, python=given.python
            )
            _timed(f"{kind}: sync that leaves {done.removed} out", started)


if __name__ == "__main__":
    main()
