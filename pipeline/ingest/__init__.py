"""`ingest`: rows of a source become problems of the store, or rejects with their reasons (`intake`)."""

from diva_grpo.pipeline.ingest.intake import IngestReport, ingest
from diva_grpo.pipeline.ingest.rows import RowError, check_own_answer, content_id, split_gsm8k, split_options

__all__ = [
    "IngestReport",
    "RowError",
    "check_own_answer",
    "content_id",
    "ingest",
    "split_gsm8k",
    "split_options",
]
