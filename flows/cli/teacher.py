"""`diva teacher`: serve the scripted teacher."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.schemas.command import diva


def _share_option(name: str, default: float, text: str) -> Callable[[Any], Any]:
    return click.option(name, default=default, show_default=True, type=click.FloatRange(0, 1), help=text)


@click.command()
@store_option
@click.option("--port", default=8710, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@_share_option("--wrong-share", 0.1, "Share of wrong answers.")
@_share_option("--error-share", 0.0, "Share of 429s and 503s.")
@click.option("--seed", default=0, show_default=True, help="Makes the slips.")
def teacher(store_dir: Path, port: int, wrong_share: float, error_share: float, seed: int) -> None:
    """Serve the scripted teacher: an OpenAI-compatible endpoint that needs no model.

    It answers from the solutions of the store's problems and from wording templates, and is wrong a set
    share of the time. Ends with Ctrl-C.

    \b
    example: diva teacher --store runs/store --port 8710
             diva generate --store runs/store --base-url http://127.0.0.1:8710/v1 --model scripted-teacher
    """
    from diva_grpo.flows.demo.scripted_teacher import MODEL, ScriptedTeacher, create_app, serve
    from diva_grpo.pipeline.store import VariantStore

    problems = VariantStore(store_dir).problems()
    unsolved = sum(not problem.solution_steps for problem in problems)
    script = ScriptedTeacher(problems, wrong_share=wrong_share, seed=seed)
    try:
        with serve(create_app(script, error_share=error_share, seed=seed), port) as url:
            text = f"scripted teacher for {len(problems)} problems at {url} (Ctrl-C ends it)"
            if unsolved:
                text += f"\nit refuses to solve {unsolved} of them, which have no worked solution"
            then = diva("generate", "--store", store_dir, "--base-url", url, "--model", MODEL)
            figures = {"url": url, "model": MODEL, "problems": len(problems), "without_solution": unsolved}
            conclude(text, figures, then)
            threading.Event().wait()
    except OSError as error:
        raise click.ClickException(f"port {port}: {error.strerror}; choose another with --port") from error
