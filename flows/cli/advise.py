"""`diva advise`: recommend a training method and problems, before a run costs anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diva_grpo.flows.cli.label import local_policy
from diva_grpo.flows.cli.options import filter_option, store_option
from diva_grpo.flows.cli.summary import conclude

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diva_grpo.pipeline.diagnosis.advice import Perplexity
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.schemas.records import Problem
    from diva_grpo.trainer.evaluation.policy import PolicySolver

_PROBED = 32
_ROLLOUTS = 8


@click.command()
@store_option
@click.option(
    "--rollouts",
    type=click.IntRange(min=2),
    default=_ROLLOUTS,
    show_default=True,
    help="Rollouts of each prompt in training (num_generations).",
)
@click.option(
    "--policy",
    metavar="PATH",
    help="Label problems with this local model first, and measure whether it can imitate the solutions.",
)
@filter_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=_PROBED,
    show_default=True,
    help="With --policy: only the first problems, by id.",
)
def advise(
    store_dir: Path, rollouts: int, policy: str | None, problem_filter: str | None, limit: int
) -> None:
    """Say from the labels how hard the problems are for the policy, and what follows.

    Shows the spectrum of pass rates and its gap, the share of problems below 1/N, and whether hints reach one step
    left. Recommends plain GRPO, supervised training first, DIVA, or other problems, with what was measured of each
    (docs/when-it-pays.md), and says where nothing was measured yet.

    \b
    examples: diva advise --store runs/store --rollouts 16
              diva advise --store runs/store --policy data/demo_model --limit 64
    """
    from diva_grpo.pipeline.diagnosis import spectrum
    from diva_grpo.pipeline.diagnosis.advice import advise as recommend
    from diva_grpo.pipeline.store import VariantStore

    if problem_filter and not policy:
        raise click.UsageError("--problem-filter goes with --policy: it chooses what is labelled")
    store, solver, perplexity = VariantStore(store_dir), None, None
    if policy:
        solver, perplexity = _probe(store, policy, rollouts, problem_filter, limit)
    found = spectrum.read_spectrum(store, rollouts, solver, perplexity)
    follows = recommend(found)
    conclude(spectrum.as_text(found, follows), spectrum.as_json(found, follows))


def _probe(
    store: VariantStore, path: str, samples: int, where: str | None, limit: int
) -> tuple[str, Perplexity | None]:
    """Label the first problems with a local policy. Returns the solver's name, and the perplexity of `_perplexity`."""
    from diva_grpo.pipeline.session.session import Session
    from diva_grpo.pipeline.stages.curate import label
    from diva_grpo.schemas.config import LabelConfig

    solver = local_policy(store, path, {})
    config = LabelConfig(samples=samples)
    with store.run("label", config.model_dump_json(), solver.model), Session(store) as session:
        label(session, config, solver, where=where, limit=limit)
    return solver.model, _perplexity(solver, store.problems(where=where, limit=limit))


def _perplexity(solver: PolicySolver, problems: Sequence[Problem]) -> Perplexity | None:
    """The policy's perplexity on worked solutions and on its own answers to the same problems.

    Only problems without images are used. Returns None if no problem has both texts.
    """
    from diva_grpo.pipeline.diagnosis.advice import Perplexity
    from diva_grpo.schemas.question import question_of

    solved = [problem for problem in problems if problem.solution_steps and not problem.images]
    questions = [question_of(problem) for problem in solved]
    own = [answers[0].text for answers in solver.solve(questions, 1)]
    written = ["\n".join(problem.solution_steps) for problem in solved]
    both = [triple for triple in zip(questions, written, own, strict=True) if all(triple[1:])]
    if not both:
        return None
    asked, written, own = (list(column) for column in zip(*both, strict=True))
    of_solutions, of_own = solver.perplexity(asked, written), solver.perplexity(asked, own)
    return None if of_solutions is None or of_own is None else Perplexity(of_solutions, of_own, len(both))
