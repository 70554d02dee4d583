"""`diva eval`: score a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.settings import made, verb_options
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.schemas.command import diva
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import EvaluateConfig


@click.command("eval", cls=VerbCommand)
@store_option
@verb_options("eval")
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
    if output is not None:
        text = json.dumps(done.figures(), indent=1, ensure_ascii=False)
        output.write_text(text + "\n", encoding="utf-8")
    head = f"{config.samples} answers to each question; recorded as run {report.run_id}, step {report.step}"
    then = diva("report", "--store", store_dir, "--html", "report.html")
    conclude(f"{head}\n\n{report.tables()}", done.figures(), then)
