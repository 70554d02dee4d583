"""Verbs on the data that need no Prefect: ingest, generate, verify, label."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diva_grpo.flows.cli.options import (
    config_options,
    limit_option,
    made,
    store_option,
    take,
    teacher_of,
    teacher_options,
)
from diva_grpo.flows.cli.supplying import solver_option, supply_store
from diva_grpo.flows.cli.working import Limits, filter_option, limit_options, rehearsed, watched
from diva_grpo.pipeline.session.progress import progress_bar
from diva_grpo.schemas.config import IMAGE_KINDS, GenerateConfig, LabelConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError, TeacherError
from diva_grpo.schemas.mapping import PRESETS, ColumnMapping
from diva_grpo.schemas.records import Status

if TYPE_CHECKING:
    from diva_grpo.pipeline.store import VariantStore

_COLUMN_FLAGS = ("id", "problem", "answer", "images", "options", "solution", "level")


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "nothing to do"


def _report_variants(store: VariantStore, counts: Counter[str]) -> None:
    """Say what came of a verb.

    Raises:
        TeacherError: not one variant got through, so that a script stops here.
    """
    click.echo(f"variants: {_counted(counts)}")
    if set(counts) == {Status.FAILED}:
        [(reason,)] = store.query("SELECT mode(reason) FROM variants WHERE status = 'failed'")
        unanswered = str(reason).startswith(("network", "timeout", "http_"))
        check = "check --base-url (most end in /v1), the key and --model, and " if unanswered else ""
        raise TeacherError(f"all failed, most often by {reason!r}: {check}try again with --retry-failed")
    if counts[Status.FAILED]:
        click.echo("`diva status` says why some failed; --retry-failed tries them again", err=True)


def _column_options(command: Any) -> Any:
    for name in reversed(_COLUMN_FLAGS):
        command = click.option(f"--{name}-column", metavar="COLUMN", help=f"Column with the {name}.")(command)
    return command


@click.command()
@click.argument("source")
@store_option
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Known columns of a data set.")
@_column_options
@click.option("--source-name", help="Name in the store.  [default: the preset's, or the file's]")
@click.option("--split", help="Split of the rows.  [default: the source's, or train]")
@click.option("--license", "licence", help="Licence of the source, such as mit; `diva export` states it.")
@click.option("--generator-model", help="Who wrote the variants that come with the problems (preset diva).")
@limit_option
def ingest(
    source: str,
    store_dir: Path,
    preset: str | None,
    source_name: str | None,
    split: str | None,
    licence: str | None,
    generator_model: str | None,
    limit: int | None,
    **columns: str | None,
) -> None:
    """Bring problems into a store: a JSONL, JSON, Parquet or CSV file, a saved dataset, or a hub name.

    Bad rows become rejects with their line and reason; what is there already is not added again.

    \b
    examples: diva ingest problems.jsonl --preset gsm8k --store runs/store
              diva ingest openai/gsm8k --preset gsm8k --store runs/store
              diva ingest mine.parquet --id-column id --problem-column q --answer-column a --store runs/store
              diva ingest augmented.parquet --preset diva --generator-model o3 --store runs/store
    """
    from diva_grpo.pipeline.ingest import ingest as run
    from diva_grpo.pipeline.store import VariantStore

    base = PRESETS[preset] if preset else ColumnMapping()
    given = {name: columns[f"{name}_column"] for name in _COLUMN_FLAGS if columns[f"{name}_column"]}
    about = {"license": licence, "generator_model": generator_model}
    mapping = base.model_copy(update=given | {name: value for name, value in about.items() if value})
    store = VariantStore(store_dir, create=True)
    with store.run("ingest", mapping.model_dump_json(), None), progress_bar(0, "rows") as progress:
        report = run(
            store,
            source,
            mapping,
            source_name=source_name,
            split=split,
            limit=limit,
            progress=progress,
        )
    line = f"{report.added} problems added, {report.already_there} there already, {report.rejected} rejected"
    for column in report.absent_columns:
        click.echo(f"no row has a column {column!r}: is its name right?", err=True)
    if report.variants:
        line += f"; {report.variants} variants, to be checked by `diva verify`"
    if report.rejected:
        line += f': diva sql "select row_number, reason from rejects" --store {store_dir}'
    click.echo(line)


@click.command()
@store_option
@teacher_options
@config_options(GenerateConfig)
@config_options(VerifyConfig, "retry_failed")
@solver_option
@filter_option
@limit_option
@limit_options
def generate(
    store_dir: Path,
    problem_filter: str | None,
    limit: int | None,
    solver_config: Path | None,
    **values: Any,
) -> None:
    """Write variants of every problem that has none of these kinds yet.

    A teacher is asked for reword, harder and think_step; image, image_text and composite need none.
    With --accepted it verifies too, and asks again until each problem has so many accepted variants of each kind
    or its --tries are spent; the options of `diva verify` say how.

    \b
    examples: diva generate --store runs/store --base-url http://localhost:8000/v1 --model qwen \\
                  --kinds reword,think_step --limit 50
              diva generate --store runs/store --kinds image,image_text,composite
              diva generate --store runs/store --model gpt-4.1-mini --dry-run
              diva generate --store runs/store --model gpt-4.1-mini --max-cost 5
              diva generate --store runs/store --model gpt-4.1-mini --accepted 5
              diva generate --store runs/store --model gpt-4.1-mini --accepted reword=5,think_step=3
    """
    from diva_grpo.pipeline.stages.generate import generate as run
    from diva_grpo.pipeline.store import VariantStore

    store, config = VariantStore(store_dir), made(GenerateConfig, take(values, GenerateConfig))
    limits = Limits.of(values)
    chosen: Any = {"where": problem_filter, "limit": limit}
    needless = set(config.kinds) <= set(IMAGE_KINDS) and config.accepted is None
    teacher = None if needless else teacher_of(values, retry_failed=config.retry_failed)
    checks = take(values, VerifyConfig)
    if teacher and config.accepted is not None:
        checking = made(VerifyConfig, checks | {"retry_failed": config.retry_failed})
        supply_store(store, teacher, config, checking, limits, chosen, solver_config)
        return
    if solver_config or any(value is not None for value in checks.values()):
        raise click.UsageError(
            "the checks and --solver-config go with --accepted; `diva verify` is the other way"
        )
    if limits.dry_run and teacher:
        with rehearsed(store, teacher, limits, config) as dry:
            run(dry.store, dry.teacher, config, **chosen)
            dry.note("generate")
        return
    if limits.dry_run:
        raise ConfigError("variants of images cost nothing: leave --dry-run out")
    total = len(store.problems(**chosen)) * len(config.kinds)
    meter = limits.meter("requests", total)
    hired = limits.hire(teacher, meter) if teacher else None
    with store.run("generate", config.model_dump_json(), teacher.model if teacher else None) as run_id:
        with watched(store, run_id, "generate", meter):
            counts = run(store, hired, config, **chosen, shard_size=limits.shard_size, progress=meter)
        _report_variants(store, counts)


@click.command()
@store_option
@teacher_options
@config_options(VerifyConfig)
@filter_option
@limit_options
def verify(store_dir: Path, problem_filter: str | None, **values: Any) -> None:
    """Check every candidate; accept it, or reject it with a reason.

    Cheap checks run first; the first that fails ends the matter, and `verdicts` keeps what each said.

    \b
    format           whole, in the original's language, balanced LaTeX, all image placeholders, no preamble
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
    from diva_grpo.pipeline.checks import Judge
    from diva_grpo.pipeline.stages.solve import VERIFICATION, TeacherSolver
    from diva_grpo.pipeline.stages.verify import count_undecided, has_texts
    from diva_grpo.pipeline.stages.verify import verify as run
    from diva_grpo.pipeline.store import VariantStore

    store, config = VariantStore(store_dir), made(VerifyConfig, take(values, VerifyConfig))
    limits = Limits.of(values)
    teacher = teacher_of(values, retry_failed=config.retry_failed) if has_texts(store, config) else None
    total = count_undecided(store, config, problem_filter)
    if limits.dry_run and teacher:
        with rehearsed(store, teacher, limits) as dry:
            solver = TeacherSolver(dry.store, dry.teacher, VERIFICATION)
            judge = Judge.for_verify(dry.store, dry.teacher, config)
            run(dry.store, solver, config, judge=judge, where=problem_filter)
            dry.note("verify")
        return
    if limits.dry_run:
        click.echo("Nothing would be sent: no written variant waits, and those of images cost nothing.")
        return
    meter = limits.meter("variants", total)
    chosen: Any = {"where": problem_filter, "shard_size": limits.shard_size, "progress": meter}
    with store.run("verify", config.model_dump_json(), teacher.model if teacher else None) as run_id:
        with watched(store, run_id, "verify", meter):
            if teacher:
                hired = limits.hire(teacher, meter)
                chosen["judge"] = Judge.for_verify(store, hired, config)
                counts = run(store, TeacherSolver(store, hired, VERIFICATION), config, **chosen)
            else:
                # Of images alone: a text that another process writes meanwhile waits for its solver.
                counts = run(
                    store, None, config.model_copy(update={"checks": ()}), kinds=IMAGE_KINDS, **chosen
                )
        _report_variants(store, counts)


@click.command()
@store_option
@teacher_options
@config_options(LabelConfig)
@click.option("--policy", metavar="PATH", help="Label with this local model instead of an endpoint.")
@click.option(
    "--hint-style",
    type=click.Choice(["prompt", "prefix"]),
    default="prompt",
    show_default=True,
    help="With --policy: where hints stand, as in training.",
)
@click.option(
    "--as-policy",
    is_flag=True,
    help="The endpoint serves the policy: ask it the question alone, as training does.",
)
@click.option("--system-prompt", help="With --policy or --as-policy: system message, as in training.")
@filter_option
@limit_option
@limit_options
def label(
    store_dir: Path,
    problem_filter: str | None,
    limit: int | None,
    policy: str | None,
    hint_style: Any,
    as_policy: bool,
    system_prompt: str | None,
    **values: Any,
) -> None:
    """Measure the difficulty of problems and accepted variants by a solver's pass rate.

    \b
    examples: diva label --store runs/store --base-url http://localhost:8000/v1 --model qwen --samples 4
              diva label --store runs/store --base-url http://localhost:8000/v1 --model POLICY --as-policy \\
                  --samples 8 --max-tokens 1024 --label-model
              diva label --store runs/store --policy data/demo_model --samples 8 --hint-style prefix
    """
    from diva_grpo.pipeline.stages.label import UNJUDGED, count_unlabelled
    from diva_grpo.pipeline.stages.label import label as run
    from diva_grpo.pipeline.stages.solve import Solver, TeacherSolver, policy_prompt
    from diva_grpo.pipeline.store import VariantStore

    if system_prompt is not None and not (policy or as_policy):
        raise click.UsageError("--system-prompt goes with --policy or --as-policy")
    store, config = VariantStore(store_dir), made(LabelConfig, take(values, LabelConfig))
    limits = Limits.of(values)
    chosen: Any = {"where": problem_filter, "limit": limit}
    meter = limits.meter("answers")
    solver: Solver
    if policy and (limits.dry_run or limits.max_cost or limits.batch):
        raise click.UsageError("--policy costs nothing: leave --dry-run, --max-cost and --batch out")
    if policy:
        from diva_grpo.pipeline.images.shown import MAX_PIXELS, MIN_PIXELS
        from diva_grpo.trainer.evaluation.policy import PolicySolver

        max_tokens, temperature = values["max_tokens"] or 512, values["temperature"]
        solver = PolicySolver(
            policy,
            images=store.image_path,
            min_pixels=MIN_PIXELS,
            max_pixels=values["max_pixels"] or MAX_PIXELS,
            hint_style=hint_style,
            system=system_prompt,
            max_new_tokens=max_tokens,
            temperature=1.0 if temperature is None else temperature,
        )
    else:
        teacher = teacher_of(values, retry_failed=config.retry_failed)
        prompt = policy_prompt(system_prompt) if as_policy else None
        if limits.dry_run:
            with rehearsed(store, teacher, limits) as dry:
                run(dry.store, TeacherSolver(dry.store, dry.teacher, prompt=prompt), config, **chosen)
                dry.note("label")
            return
        solver = TeacherSolver(store, limits.hire(teacher, meter), prompt=prompt)
    meter.total = count_unlabelled(store, solver.model, config, **chosen)
    with store.run("label", config.model_dump_json(), solver.model) as run_id:
        with watched(store, run_id, "label", meter):
            counts = run(store, solver, config, **chosen, shard_size=limits.shard_size, progress=meter)
        click.echo(f"labels: {_counted(counts)}")
        if set(counts) == {UNJUDGED}:
            raise TeacherError(
                f"no answer could be judged: `diva status --store {store_dir}` shows the calls"
            )
