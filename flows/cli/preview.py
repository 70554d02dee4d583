"""`--preview N`: run the stages on N problems, and show what was sent, answered and decided."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Unpack

import click
from click.core import ParameterSource

from diva_grpo.flows.cli.progress import watched
from diva_grpo.flows.cli.results import raise_if_most_failed, spent, stages_text
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.flows.cli.verify import verify
from diva_grpo.schemas.command import diva
from diva_grpo.schemas.config import GenerateConfig, TeacherConfig, VerifyConfig, without_secrets

if TYPE_CHECKING:
    from diva_grpo.flows.pages.look import Looked
    from diva_grpo.pipeline.session.preview import Asked
    from diva_grpo.pipeline.session.spending import Spending
    from diva_grpo.pipeline.stages.curate import Chosen, Curated, Stages
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.schemas.records import Variant

preview_option = click.option(
    "--preview",
    metavar="N",
    type=click.IntRange(min=1),
    help="Generate and verify for N problems, and show prompts, replies, verdicts, and the estimated cost of all. "
    "Nothing is kept but the answers, which the run then reuses.",
)


def preview(
    store: VariantStore,
    stages: Stages,
    teacher: TeacherConfig | None,
    solver: TeacherConfig | None,
    *,
    count: int,
    spending: Spending,
    **chosen: Unpack[Chosen],
) -> None:
    """Run stages on the first problems for which they have something to do, and print all that happens.

    Args:
        store: the store. Only its journal is written.
        stages: generate and verify.
        teacher: the endpoint that writes variants; None if only image variants are made.
        solver: the endpoint that verifies; default the teacher.
        count: number of problems.
        spending: the budget of the preview. The Batch API is not used, but its price is estimated.
        **chosen: the problems of the run that is previewed.

    Raises:
        TeacherError: no variant could be written, or requests failed because of credit, key, model or network.
        DivaError: see `Endpoint.ask`.
    """
    from diva_grpo.pipeline.session.preview import Preview
    from diva_grpo.pipeline.session.rehearsal import copied
    from diva_grpo.pipeline.stages.curate import curate, unfinished

    meter = replace(spending, batch=False).meter("requests", "verified")
    with copied(store, with_journal=False) as copy:
        session = Preview(copy, store, teacher, solver, meter)
        matching = copy.problem_ids(where=chosen.get("where"), limit=chosen.get("limit"))
        left = unfinished(session, replace(stages, verify=None), matching)
        waiting = [name for name in matching if name in left]
        ids = waiting[:count]
        if not ids:
            text = f"nothing to preview: none of {len(matching):,} problems needs a variant of these kinds"
            conclude(text, {"problems": ids, "waiting": 0})
            return
        done: Curated | None = None
        with ExitStack() as stack:
            # Also if the run ends early: what was sent until then is paid for, and says why.
            stack.callback(lambda: _show(store, copy, ids, session.asked(), ended=done is not None))
            with watched(copy, "preview", "preview", meter), session:
                done = curate(session, stages, problem_ids=ids)
        counts = {"written": done.generated, "verified": done.verified}
        figures = {"problems": ids, "waiting": len(waiting), **counts, **spent(meter)}
        conclude(stages_text(counts), figures)
        _show_costs(session.asked(), ids, len(waiting), spending, reused=meter.reused)
        raise_if_most_failed(done.generated, meter)
        raise_if_most_failed(done.verified, meter)
        meter.raise_for_outages()
        click.echo("next:")
        for command in _following(supplies=stages.supplies):
            click.echo(f"  {command}")


def _show(
    store: VariantStore, copy: VariantStore, ids: Sequence[str], asked: Sequence[Asked], *, ended: bool
) -> None:
    from diva_grpo.flows.pages.exchanges import exchanges_as_text, heading
    from diva_grpo.flows.pages.look import as_text, look
    from diva_grpo.pipeline.store.terminal import visible

    columns = min(110, shutil.get_terminal_size((80, 24)).columns)
    of_problem: defaultdict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        of_problem[one.problem_id].append(one)
    before = {(variant.variant_id, str(variant.status)) for variant in _variants(store, ids)}
    systems: set[str] = set()
    for number, looked in enumerate(look(copy, ids), 1):
        name = looked.problem.problem_id
        click.echo(heading(f"problem {number} of {len(ids)}: {visible(name)}", columns))
        if of_problem[name]:
            click.echo(exchanges_as_text(of_problem[name], columns, systems))
        if ended:
            click.echo(heading("what became of it", columns, "-"))
            click.echo(f"{as_text(_without(looked, before), columns)}\n")


def _variants(store: VariantStore, ids: Sequence[str]) -> list[Variant]:
    from diva_grpo.schemas.records import Variant

    return store.of_problems(ids).read(Variant, "problem_id IN (SELECT unnest(?))", [list(ids)])


def _without(looked: Looked, before: set[tuple[str, str]]) -> Looked:
    """A problem with only those variants that the preview has written or decided."""
    new = [at for at in looked.variants if (at.variant.variant_id, str(at.variant.status)) not in before]
    return replace(looked, variants=new)


def _show_costs(
    asked: Sequence[Asked], ids: Sequence[str], waiting: int, spending: Spending, *, reused: int
) -> None:
    from diva_grpo.flows.pages.exchanges import costs_as_text
    from diva_grpo.pipeline.session.preview import Spent, by_purpose
    from diva_grpo.pipeline.teacher.prices import BATCH_SHARE

    if not asked:
        click.echo("No request was sent: these variants cost nothing.")
        return
    here = Spent.of(asked)
    share = BATCH_SHARE if spending.batch else 1.0
    rows = [*by_purpose(asked).items(), (_problems(len(ids)), here)]
    rows.append((f"all {_problems(waiting)}", here.times(waiting / len(ids), share)))
    if waiting > len(ids):
        rows.append(("still to be paid", here.times(waiting / len(ids) - 1, share)))
    click.echo(f"\n{costs_as_text(rows)}\n")
    click.echo(
        f"All are the {_problems(waiting)} that match and need variants, estimated from these {len(ids):,}.\n"
        f"Labels are not included.{' The Batch API charges half.' if spending.batch else ''}"
    )
    if reused:
        click.echo(f"{reused:,} of the requests were answered by the journal and cost nothing now.")


def _problems(count: int) -> str:
    return f"{count:,} problem{'s' * (count != 1)}"


def _following(*, supplies: bool) -> list[str]:
    """The commands that do what was previewed, with the options of the current command.

    Args:
        supplies: whether `diva generate` verifies too. If not, `diva verify` follows.
    """
    typed = _typed()
    if supplies:
        return [_command("generate", typed)]
    of_verify = {option.name for option in verify.params}
    checked = {name: words for name, words in typed.items() if name in of_verify}
    if solver := typed.get("solver_config"):
        checked = {name: words for name, words in checked.items() if name not in TeacherConfig.model_fields}
        checked["teacher_config"] = ["--teacher-config", *solver[1:]]
    only_verifying = {*VerifyConfig.model_fields, "solver_config"} - {*GenerateConfig.model_fields}
    written = {name: words for name, words in typed.items() if name not in only_verifying}
    return [_command("generate", written), _command("verify", checked)]


def _command(verb: str, options: Mapping[str, Sequence[str]]) -> str:
    return diva(verb, *chain.from_iterable(options.values()))


def _typed() -> dict[str, list[str]]:
    """The options that the user gave to the current command but for --preview, by name, as words of a command line."""
    context = click.get_current_context()
    typed = {}
    for option in context.command.params:
        name, value = str(option.name), context.params.get(str(option.name))
        if (
            name != "preview"
            and name in context.params
            and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ):
            shown = without_secrets(str(value)) if name.endswith("base_url") else str(value)
            typed[name] = [option.opts[0]] if value is True else [option.opts[0], shown]
    return typed
