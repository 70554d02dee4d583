"""`ingest`: turn each row of a source into a problem in the store, or into a reject with a reason (see `intake`)."""

from diva_grpo.pipeline.ingest.answers import check_own_answer, split_gsm8k, split_solution
from diva_grpo.pipeline.ingest.cells import RowError
from diva_grpo.pipeline.ingest.intake import IngestReport, ingest
from diva_grpo.pipeline.ingest.options import split_options
from diva_grpo.pipeline.ingest.preview import preview
from diva_grpo.pipeline.ingest.rows import content_id

__all__ = [
    "IngestReport",
    "RowError",
    "check_own_answer",
    "content_id",
    "ingest",
    "preview",
    "split_gsm8k",
    "split_options",
    "split_solution",
]
