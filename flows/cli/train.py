"""`diva train`: train a policy."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from diva_grpo.flows.cli.diagnose import EXIT_WITHOUT_GAIN, strict_option
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.schemas.command import diva
from diva_grpo.trainer.arguments import OWN, Argument, check_names, declared, known

if TYPE_CHECKING:
    from diva_grpo.trainer.train import TrainResult

_OFTEN = (
    "model_name_or_path",
    "output_dir",
    "max_steps",
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_generations",
    "max_completion_length",
    "temperature",
    "beta",
    "use_peft",
    "eval_strategy",
    "save_steps",
    "seed",
)
"""Arguments of TRL and transformers that most runs set. `--help` shows them."""

SELDOM = (
    "min_pixels",
    "pool_revisit",
    "dgpo_temperature",
    "advantage_eps",
    "opening_anchor",
    "store_refresh_steps",
    "store_flush_steps",
    "log_rollouts_mb",
)
"""Arguments of this project that few runs set. Only `--help-all` shows them."""


class _TrainCommand(click.Command):
    """A command whose options are fields of dataclasses. The command's function parses them with TRL's parser."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of this project, and those of TRL that most runs set."""
        every = known()
        options = [param for param in self.params if isinstance(param, click.Option)]
        with formatter.section("Options"):
            formatter.write_dl(
                [
                    ("--config FILE", "YAML file with these settings; options win."),
                    *(record for option in options if (record := option.get_help_record(ctx))),
                    ("--help-all", "Show all options, TRL's too (takes seconds)."),
                ]
            )
        for title, (module, name) in zip(("Data and rewards", "Method"), OWN, strict=True):
            often = [argument for argument in declared(module, name) if argument.name not in SELDOM]
            _write(formatter, title, often)
        _write(formatter, "Training (TRL's, the most used)", [every[name] for name in _OFTEN])


def _write(formatter: click.HelpFormatter, title: str, arguments: Iterable[Argument]) -> None:
    with formatter.section(title):
        formatter.write_dl([(f"--{a.name}", f"{_short(a.help)}{_default(a)}") for a in arguments])


def _short(text: str) -> str:
    """The first sentence of a help text."""
    return text.partition(". ")[0].rstrip(".") + "."


def _default(argument: Argument) -> str:
    usual = "" if argument.default in (None, "None", "False", "''") else str(argument.default).strip("'")
    return f"  [default: {usual}]" if usual else ""


@click.command(
    cls=_TrainCommand,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
    options_metavar="[--config FILE] --store DIR [OPTIONS]",
)
@strict_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.pass_context
def train(context: click.Context, strict: bool, arguments: tuple[str, ...]) -> None:
    """Train a policy with DIVA-GRPO.

    Any field of TRL's GRPOConfig and ModelConfig is an option, and a YAML key.

    \b
    example: diva train --config data/train_demo.yaml --store runs/store --max_steps 20
    """
    if {"-h", "--help"} & set(arguments):
        click.echo(context.get_help())
        return
    if "--help-all" in arguments:
        arguments = ("--help",)  # TRL's parser shows all
    check_names(arguments)
    from diva_grpo.trainer.model_path import check_model

    check_model(arguments)
    from diva_grpo.trainer.train import main

    result = main(arguments)
    _conclude(result)
    if strict and result.diagnosis is not None and result.diagnosis.without_gain:
        sys.exit(EXIT_WITHOUT_GAIN)


def _conclude(result: TrainResult) -> None:
    from diva_grpo.pipeline.diagnosis.text import as_json, summary

    text = f"run {result.run_id}: {result.step} steps done, the model is in {result.model_path}"
    figures = {"run": result.run_id, "steps": result.step, "model": result.model_path}
    found, at = result.diagnosis, ("--store", result.store)
    if found is None:
        conclude(text, {**figures, "diagnosis": None}, diva("diagnose", *at, "--run", result.run_id))
        return
    follows = diva("eval", "--model", result.model_path, *at)
    if found.findings:
        follows = diva("diagnose", *at, "--run", result.run_id)
    conclude(f"{text}\n{summary(found)}", {**figures, "diagnosis": as_json(found)}, follows)
