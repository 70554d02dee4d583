"""For which problems a stage has something left to do: what is found is what the stages then do."""

from __future__ import annotations

import pytest

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import Stages, curate, in_shards, unfinished
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import GenerateConfig, LabelConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.records import Kind
from tests.support.planted_variants import WORDING, plant

GENERATE, LABEL = GenerateConfig(kinds=(Kind.REWORD, Kind.THINK_STEP)), LabelConfig(samples=2)
ALL = Stages(GENERATE, VerifyConfig(), LABEL)
UNJUDGED = "w/4"
"""To this problem the teacher gives no answer that can be judged, so it never has a label."""
SUPPLIED = Stages(GENERATE.model_copy(update={"accepted": 1}), VerifyConfig(), LABEL)


def _left(store: VariantStore, endpoint: TeacherConfig | None, stages: Stages) -> set[str]:
    with Session(store, endpoint) as session:
        return unfinished(session, stages, store.problem_ids()) - {UNJUDGED}


@pytest.mark.parametrize("stages", [ALL, SUPPLIED])
def test_nothing_is_left_after_a_run(store: VariantStore, endpoint: TeacherConfig, stages: Stages) -> None:
    ids = store.problem_ids()
    with Session(store, endpoint) as session:
        assert unfinished(session, stages, ids) == set(ids)
        curate(session, stages, problem_ids=ids[:2])
        assert unfinished(session, stages, ids) == set(ids[2:])
        curate(session, stages)
        assert unfinished(session, stages, ids) == {UNJUDGED}
        sent = session.meter.sent
        curate(session, stages)
        assert session.meter.sent == sent


@pytest.mark.parametrize(
    ("status", "left"),
    [
        ("candidate", {"generate": False, "verify": True, "label": False}),
        ("accepted", {"generate": False, "verify": False, "label": True}),
        ("rejected", {"generate": False, "verify": False, "label": False}),
    ],
)
def test_each_stage_finds_its_own(
    store: VariantStore, endpoint: TeacherConfig, status: str, left: dict[str, bool]
) -> None:
    with Session(store, endpoint) as session:
        curate(session, ALL)
    plant(store, 0, WORDING, status=status)
    asked = GenerateConfig(kinds=(Kind.REWORD,))
    found = {
        name: _left(store, endpoint, alone) for name, alone in Stages(asked, VerifyConfig(), LABEL).apart()
    }
    assert found == {name: {"w/0"} if there else set() for name, there in left.items()}


def test_more_samples_leave_all_to_be_labelled(store: VariantStore, endpoint: TeacherConfig) -> None:
    with Session(store, endpoint) as session:
        curate(session, ALL)
    assert _left(store, endpoint, Stages(label=LabelConfig(samples=3))) == set(store.problem_ids()) - {
        UNJUDGED
    }
    assert _left(store, endpoint, Stages(label=LabelConfig(samples=1))) == set()


def test_no_text_is_left_to_a_run_without_a_solver(store: VariantStore) -> None:
    plant(store, 0, WORDING, status="candidate")
    assert _left(store, None, Stages(verify=VerifyConfig())) == set()


def test_what_is_left_comes_first_and_in_order(store: VariantStore, endpoint: TeacherConfig) -> None:
    ids = store.problem_ids()
    with Session(store, endpoint) as session:
        curate(session, ALL, problem_ids=ids[1:3])
        shards = [list(shard) for shard in in_shards(session, ALL, ids, 2)]
    assert shards == [[ids[0], ids[3]], [ids[4]], ids[1:3]]
