"""`diva train`: train a policy."""

from __future__ import annotations

import click


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
