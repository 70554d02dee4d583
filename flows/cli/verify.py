"""`diva verify`: check every candidate, and accept or reject it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.dry_run import nothing_sent, rehearse
from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import filter_option, store_option
from diva_grpo.flows.cli.progress import watched
from diva_grpo.flows.cli.results import conclude_variants, then
from diva_grpo.flows.cli.settings import made, spending_of, spending_options, take, teacher_of, verb_options
from diva_grpo.schemas.config import VerifyConfig


@click.command(cls=VerbCommand)
@store_option
@verb_options("verify")
@filter_option
@spending_options
def verify(store_dir: Path, problem_filter: str | None, dry_run: bool, **values: Any) -> None:
    """Check every candidate; accept it, or reject it with a reason.

    Cheap checks run first; the first that fails ends the matter, and `verdicts` keeps what each said.

    \b
    format           complete, in the original's language, balanced LaTeX, all image placeholders, no preamble
    leak             no hint but the full solution holds the answer, and no text states it
    numbers          every number of the original is there, with its unit, in digits or in words
    duplicate        nearly neither the original nor a sibling, nor a text of another problem
    decontamination  no 13 words in a row from --evaluation-sets
    answer           the majority of --solver-samples solutions has the reference answer; of think steps,
                     their own solution has it, without a false equation on the way
    judge            a second model calls it the same question; off unless named in --checks
    recipe           of perturbed images, always and without a model: the operations keep the answer

    \b
    examples: diva verify --store runs/store --base-url http://localhost:8000/v1 --model qwen
              diva verify --store runs/store --model gpt-4.1-mini --dry-run
              diva verify --store runs/store --model qwen --solver-samples 3 --evaluation-sets data/test.jsonl
              diva verify --store runs/store --model qwen --judge-model gpt-4.1 \\
                  --checks format,leak,numbers,duplicate,answer,judge
    """
    from diva_grpo.pipeline.stages.curate import Stages, curate
    from diva_grpo.pipeline.stages.verify import count_undecided, has_texts
    from diva_grpo.pipeline.store import VariantStore

    store, config = VariantStore(store_dir), made(VerifyConfig, take(values, VerifyConfig))
    spending, stages = spending_of(values), Stages(verify=config)
    teacher = teacher_of(values, retry_failed=config.retry_failed) if has_texts(store, config) else None
    total = count_undecided(store, config, problem_filter)
    if dry_run and teacher:
        rehearse(store, stages, teacher, batch=spending.batch, where=problem_filter)
        return
    if dry_run:
        nothing_sent("No written variant waits, and those of images cost nothing.")
        return
    meter = spending.meter("variants", "verified", total)
    session = spending.session(store, meter, teacher)
    with store.run("verify", config.model_dump_json(), teacher.model if teacher else None) as run_id:
        with watched(store, run_id, "verify", meter), session:
            done = curate(session, stages, where=problem_filter)
        conclude_variants(store, done.verified, meter, then("label", store_dir, teacher), written=True)
