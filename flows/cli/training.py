"""Training and evaluation: the commands that load torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.options import limit_option, progress_bar, store_option
from schemas.exceptions import ConfigError

if TYPE_CHECKING:
    from pipeline.store import VariantStore
    from trainer.benchmarks import Benchmark


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    """Train a policy with DIVA-GRPO; YAML and flags as in TRL (`diva train --help` lists all).

    \b
    example: diva train --config data/train_demo.yaml --store runs/store --max_steps 20
    """
    from trainer.train import main

    result = main(arguments)
    click.echo(f"run {result.run_id}: {result.step} steps done, the model is in {result.model_path}")


def _read_benchmark(store: VariantStore, benchmark: Benchmark, source: str | None, limit: int | None) -> None:
    """Bring a benchmark into a store, where it is not there yet or a source is named.

    Raises:
        ConfigError: the store has problems of its name that are not for testing.
        SourceError: it cannot be read.
    """
    from pipeline.ingest import ingest
    from trainer.benchmarks import SPLIT

    name, setting = benchmark.name, f"benchmark:{benchmark.name}"
    counts = dict(store.query("SELECT split, count(*) FROM problems WHERE source = ? GROUP BY ALL", [name]))
    others = sorted(counts.keys() - {SPLIT})
    if others:
        raise ConfigError(
            f"the store has {name} as split {', '.join(others)}: evaluate on that with --split, or on the "
            "benchmark in another --store"
        )
    enough = store.setting(setting) is not None or (limit is not None and counts.get(SPLIT, 0) >= limit)
    if source is None and enough:
        return
    added = rejected = 0
    mapping = benchmark.mapping.model_dump_json()
    with store.run("ingest", mapping), progress_bar(None, "rows") as progress:
        for part, columns in benchmark.parts(source):
            report = ingest(store, part, columns, source_name=name, limit=limit, progress=progress)
            added, rejected = added + report.added, rejected + report.rejected
    if limit is None:
        store.put_setting(setting, source or "hub")
    click.echo(
        f"{name}: {added} problems added, {rejected} rejected; as published it has {benchmark.size:,}",
        err=True,
    )


@click.command("eval")
@click.option("--model", "model_path", required=True, help="Model folder, checkpoint or hub name.")
@store_option
@click.option("--split", help="Split of the problems.  [default: test]")
@click.option("--problem-filter", metavar="SQL", help="Condition on `problems`.")
@click.option(
    "--benchmark",
    "benchmark_name",
    metavar="NAME",
    help="mathvista, mathverse, mathvision, olympiadbench, wemath or mmk12; read into the store at first.",
)
@click.option("--source", help="File or hub name to read the benchmark from.  [default: its own on the hub]")
@click.option(
    "--kinds",
    metavar="KINDS",
    default="",
    help="Also on accepted variants of these kinds, such as reword,image, or all.",
)
@click.option("--samples", default=1, show_default=True, type=click.IntRange(min=1), help="Answers to each.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help="0 takes the likeliest token.  [default: 1; 0 for one answer to each of a benchmark]",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Longest answer.  [default: 512; 4096 for a benchmark]",
)
@click.option("--system-prompt", help="System message, as in training.")
@click.option("--instruction", help="Added behind each question.  [default: none; a benchmark's own]")
@click.option(
    "--hint-style",
    type=click.Choice(["prompt", "prefix"]),
    default="prompt",
    show_default=True,
    help="Where think steps stand, as in training.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Answers generated at once.  [default: 256; 16 for a vision-language model]",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    help="Larger images are made smaller, as in training.  [default: the processor's own bound]",
)
@click.option("--seed", default=0, show_default=True, help="Makes the samples.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="JSON file for all figures.")
@limit_option
def evaluate(
    model_path: str,
    store_dir: Path,
    split: str | None,
    problem_filter: str | None,
    benchmark_name: str | None,
    source: str | None,
    kinds: str,
    limit: int | None,
    output: Path | None,
    **given: Any,
) -> None:
    """Score a model on the problems of a split, or on one of the paper's six benchmarks.

    pass@1 and pass@k with standard errors over problems: overall, by difficulty (the label of the store's
    label model, else the source's level), and by kind of variant. Rows go to `evaluations`, under run and
    step of the training where the model is a checkpoint of one.

    \b
    examples: diva eval --model runs/model --store runs/store --split test --samples 4 --kinds all
              diva eval --model Qwen/Qwen2.5-VL-7B-Instruct --store runs/bench --benchmark mathvision
    """
    from pipeline.store import VariantStore
    from trainer.benchmarks import SPLIT, find_benchmark

    benchmark = find_benchmark(benchmark_name) if benchmark_name else None
    if benchmark is None and source:
        raise click.UsageError("--source goes with --benchmark; `diva ingest` reads other problems")
    if benchmark is not None and split not in (None, SPLIT):
        raise click.UsageError(f"--benchmark is kept as split {SPLIT}: leave --split out")
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}")
    store = VariantStore(store_dir, create=benchmark is not None)
    condition = problem_filter
    if benchmark is not None:
        _read_benchmark(store, benchmark, source, limit)
        condition = f"source = '{benchmark.name}' AND ({problem_filter or 'true'})"
    settings = {"model": model_path, "split": split or SPLIT, "benchmark": benchmark_name, "limit": limit}
    settings |= {"problem_filter": condition, "kinds": kinds, **_generation(given, benchmark)}
    _evaluate(store, settings, output)


def _generation(given: dict[str, Any], benchmark: Benchmark | None) -> dict[str, Any]:
    """Settings of the answers, with the defaults of a benchmark where it is one."""
    own: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 512, "instruction": ""}
    if benchmark is not None:
        own = {"max_new_tokens": benchmark.max_new_tokens, "instruction": benchmark.instruction}
        own["temperature"] = 0.0 if given["samples"] == 1 else 1.0
    return {**given, **{name: value for name, value in own.items() if given[name] is None}}


def _evaluate(store: VariantStore, settings: dict[str, Any], output: Path | None) -> None:
    """Select problems, load the model, answer, and show and write the figures."""
    import json

    from trainer.evaluate import (
        accepted_variants,
        chosen_kinds,
        evaluate_fully,
        readable_problems,
        select_problems,
        training_step,
    )
    from trainer.policy import PolicySolver

    kinds, samples = chosen_kinds(settings["kinds"]), settings["samples"]
    found = select_problems(store, split=settings["split"], where=settings["problem_filter"])
    solver = PolicySolver(
        settings["model"],
        hint_style=settings["hint_style"],
        system=settings["system_prompt"],
        instruction=settings["instruction"],
        max_new_tokens=settings["max_new_tokens"],
        temperature=settings["temperature"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        images=store.image_path,
        max_pixels=settings["max_pixels"],
    )
    readable = readable_problems(found, solver)
    problems, left_out = readable[: settings["limit"]], len(found) - len(readable)
    if left_out:
        click.echo(f"{left_out} problems with images are left out: the model reads text alone", err=True)
    variants = accepted_variants(store, problems, kinds)
    if kinds and not variants:
        click.echo(f"these problems have no accepted variant of {', '.join(kinds)}", err=True)
    total = (len(problems) + len(variants)) * samples
    with (
        store.run("eval", json.dumps(settings), settings["model"]) as own_id,
        progress_bar(total, "answers") as progress,
    ):
        run_id, step = training_step(settings["model"]) or (own_id, 0)
        report = evaluate_fully(
            store,
            solver,
            problems,
            samples=samples,
            run_id=run_id,
            step=step,
            variants=variants,
            progress=progress,
        )
    click.echo(f"{samples} answers to each question; recorded as run {run_id}, step {step}\n")
    click.echo(report.tables())
    if report.ungraded:
        click.echo(f"{report.ungraded} answers could not be graded and count as wrong", err=True)
    if output is not None:
        figures = {"settings": settings, "left_out": left_out, **report.figures()}
        output.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
