"""Training and evaluation: the commands that load torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flows.cli.options import limit_option, progress_bar, store_option


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


@click.command("eval")
@click.option("--model", "model_path", required=True, help="Model folder or hub name.")
@store_option
@click.option("--split", default="test", show_default=True, help="Split of the problems.")
@click.option("--problem-filter", metavar="SQL", help="Condition on `problems`.")
@click.option("--samples", default=1, show_default=True, type=click.IntRange(min=1), help="Answers to each.")
@click.option("--temperature", default=1.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--max-new-tokens", default=512, show_default=True, help="Longest answer.")
@limit_option
def evaluate(
    model_path: str,
    store_dir: Path,
    split: str,
    problem_filter: str | None,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    limit: int | None,
) -> None:
    """Score a model on the problems of a split; rows go to `evaluations`.

    \b
    example: diva eval --model runs/model --store runs/store --split test --samples 4
    """
    import json

    from pipeline.store import VariantStore
    from trainer.data import training_problems
    from trainer.evaluate import evaluate as run
    from trainer.policy import PolicySolver

    store = VariantStore(store_dir)
    problems = training_problems(store, split=split, where=problem_filter, limit=limit)
    settings: dict[str, Any] = {"split": split, "samples": samples, "temperature": temperature}
    solver = PolicySolver(model_path, max_new_tokens=max_new_tokens, temperature=temperature)
    with (
        store.run("eval", json.dumps(settings), model_path) as run_id,
        progress_bar(len(problems) * samples, "answers") as progress,
    ):
        score = run(store, solver, problems, samples=samples, run_id=run_id, step=0, progress=progress)
    click.echo(f"pass@1 {score.pass_at_1:.3f} ± {score.standard_error:.3f} on {score.problems} problems")
    for k, value in score.pass_at_k.items():
        if k > 1:
            click.echo(f"pass@{k} {value:.3f}")
