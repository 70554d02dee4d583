"""The store: immutable Parquet parts on disk, with DuckDB views over them. All access to the data goes through it."""

from diva_grpo.pipeline.store.sandbox import run_apart
from diva_grpo.pipeline.store.snapshot import Snapshot, VariantText
from diva_grpo.pipeline.store.sql import render, run_select
from diva_grpo.pipeline.store.store import VariantStore

__all__ = ["Snapshot", "VariantStore", "VariantText", "render", "run_apart", "run_select"]
