"""The store: immutable Parquet parts on disk, with DuckDB views over them. All access to the data goes through it.

Each name is imported when it is first used, so that a module which needs neither DuckDB nor Arrow starts without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diva_grpo.pipeline.store.sandbox import run_apart
    from diva_grpo.pipeline.store.snapshot import Snapshot, VariantText
    from diva_grpo.pipeline.store.sql import render, run_select
    from diva_grpo.pipeline.store.store import VariantStore

__all__ = ["Snapshot", "VariantStore", "VariantText", "render", "run_apart", "run_select"]

_MODULES = {
    "Snapshot": "snapshot",
    "VariantStore": "store",
    "VariantText": "snapshot",
    "render": "sql",
    "run_apart": "sandbox",
    "run_select": "sql",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
