"""Training and evaluation: the commands that load torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.options import config_options, made, store_option
from diva_grpo.schemas.config import EvaluateConfig
from diva_grpo.schemas.exceptions import ConfigError


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
    from diva_grpo.trainer.train import main

    result = main(arguments)
    click.echo(f"run {result.run_id}: {result.step} steps done, the model is in {result.model_path}")


@click.command("eval")
@store_option
@config_options(EvaluateConfig, "store")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="JSON file for all figures.")
def evaluate(store_dir: Path, output: Path | None, **values: Any) -> None:
    """Score a model on the problems of a split, or on one of the paper's six benchmarks.

    pass@1 and pass@k with standard errors over problems: overall, by difficulty (the label of the store's
    label model, else the source's level), and by kind of variant. Rows go to `evaluations`, under run and
    step of the training where the model is a checkpoint of one.

    \b
    examples: diva eval --model runs/model --store runs/store --split test --samples 4 --kinds all
              diva eval --model Qwen/Qwen2.5-VL-7B-Instruct --store runs/bench --benchmark mathvision
    """
    import json

    config = made(EvaluateConfig, {"store": store_dir, **values})
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}")
    from diva_grpo.trainer.evaluation.run import run_evaluation

    done = run_evaluation(config, lambda line: click.echo(line, err=True))
    report = done.report
    click.echo(
        f"{config.samples} answers to each question; recorded as run {report.run_id}, step {report.step}\n"
    )
    click.echo(report.tables())
    if output is not None:
        text = json.dumps(done.figures(), indent=1, ensure_ascii=False)
        output.write_text(text + "\n", encoding="utf-8")
