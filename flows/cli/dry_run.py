"""`--dry-run`: run the stages on a copy of the store, with sending disabled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from diva_grpo.flows.cli.summary import conclude

if TYPE_CHECKING:
    from diva_grpo.pipeline.stages.curate import Chosen, Stages
    from diva_grpo.pipeline.stages.top_up import Need
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.schemas.config import TeacherConfig


def rehearse(
    store: VariantStore,
    stages: Stages,
    teacher: TeacherConfig,
    solver: TeacherConfig | None = None,
    *,
    batch: bool,
    needs: Sequence[Need] = (),
    head: str = "",
    **chosen: Unpack[Chosen],
) -> None:
    """Conclude with the requests, tokens and cost of stages, assuming that each variant is accepted at the first try.

    Args:
        store: the store, which is not changed.
        stages: the stages to rehearse.
        teacher: the endpoint that writes variants.
        solver: the endpoint that verifies and labels; default the teacher.
        batch: whether the Batch API is to be used.
        needs: the variants that a top-up requests. They replace `chosen`.
        head: text before the estimate.
        **chosen: which problems to work on.
    """
    from diva_grpo.pipeline.session.rehearsal import Rehearsal, copied
    from diva_grpo.pipeline.stages.curate import curate
    from diva_grpo.pipeline.stages.top_up import stages_for

    if stages.generate and stages.verify:
        # The texts that a dry run makes up would fail the checks of texts. Only checks that send requests are run.
        asking = tuple(name for name in stages.verify.checks if name in ("answer", "judge"))
        stages = replace(
            stages,
            generate=stages.generate.model_copy(update={"tries": 1}),
            verify=stages.verify.model_copy(update={"checks": asking}),
        )
    asked = stages.generate
    lengths = {"Rewordings": asked.rewordings, "HarderTexts": asked.harder} if asked else {}
    with copied(store) as copy, Rehearsal(copy, teacher, solver, lengths=lengths, batch=batch) as session:
        if needs:
            stages = stages_for(session, stages, needs)
            chosen["problem_ids"] = [need.problem_id for need in needs]
        for name, part in stages.apart():
            curate(session, part, **chosen)
            session.note(name)
        text = f"{head}\n{session.render()}".removeprefix("\n")
    if stages.generate and stages.verify:
        text += "\nAssumed: each variant is written and accepted at the first try, as long as its original."
    conclude(text, {"dry_run": session.lines, "requests": session.requests, "usd": session.usd})


def nothing_sent(why: str) -> None:
    """Conclude a dry run that would send no request."""
    conclude(f"{why}\nNothing would be sent.", {"dry_run": [], "requests": 0, "usd": 0.0})
