"""Top-up: what is short, what helps, what is made of it; without Prefect."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.flows.demo.wordings import harder_in
from diva_grpo.pipeline.difficulty.design import designed_deltas
from diva_grpo.pipeline.difficulty.target import nearest_delta, wanted_delta
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import Stages
from diva_grpo.pipeline.stages.shortage import training_run
from diva_grpo.pipeline.stages.supply import Curated
from diva_grpo.pipeline.stages.top_up import (
    ASKED,
    Journey,
    complete_killed,
    fill,
    plan,
    record_idle,
)
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import Budget
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.schemas.config import LabelConfig, TeacherConfig, TopUpConfig, VerifyConfig
from diva_grpo.schemas.exceptions import BudgetError, ConfigError
from diva_grpo.schemas.records import Aspect, Attempt, Decision, Kind, Label, Status, Variant, Verdict
from diva_grpo.trainer.method.selection import Draw
from tests.conftest import Diva
from tests.support.endpoints import Endpoint, Reply, completion, serving
from tests.support.scalar_selectors import Candidate, select_one
from tests.support.short_store import LAST_STEP, RUN, event, plant_shortages, planted, problem

MODEL = "scripted-teacher"


@pytest.fixture
def short(tmp_path: Path) -> VariantStore:
    store = VariantStore(tmp_path / "short", create=True)
    plant_shortages(store, MODEL, load_prompt("think_step").version)
    return store


def _config(store: VariantStore, url: str = "http://127.0.0.1:9/v1", **values: Any) -> TopUpConfig:
    teacher = TeacherConfig(model=MODEL, base_url=url, endpoint="test", max_retries=0)
    defaults: dict[str, Any] = {"store": store.root, "teacher": teacher}
    return TopUpConfig(**(defaults | values))


def _fill(
    store: VariantStore, config: TopUpConfig, run_id: str = "top-1", budget: Budget | None = None
) -> tuple[Curated, Counter[str]]:
    """Decide and make, as the flow does, in one shard."""
    found = plan(store, config)
    began_ns = time.time_ns()
    meter = Meter("problems", budget=budget)
    with Session(store, config.teacher, meter=meter, began_ns=began_ns) as session:
        journey = Journey(run_id, found.shortages.run_id, began_ns)
        return fill(session, Stages.of(config), found.needs, journey)


def _asked(store: VariantStore, **values: Any) -> dict[str, list[str]]:
    return {need.problem_id: need.kinds for need in plan(store, _config(store, **values)).needs}


# --- what is short


@given(data=st.data(), wanted=st.lists(st.floats(-8, 8), min_size=1, max_size=6))
@settings(deadline=None)
def test_nearest_is_what_selection_would_take(data: st.DataObject, wanted: list[float]) -> None:
    lists = [data.draw(st.lists(st.integers(-32, 32).map(lambda n: n / 4), max_size=5)) for _ in wanted]
    owners = [place for place, deltas in enumerate(lists) for _ in deltas]
    flat = [delta for deltas in lists for delta in deltas]
    nearest_P, distance_P = nearest_delta(np.array(owners, np.intp), np.array(flat, np.float64), wanted)
    for place, deltas in enumerate(lists):
        if not deltas:
            assert np.isnan(nearest_P[place])
            assert np.isinf(distance_P[place])
        else:
            assert distance_P[place] == min(abs(delta - wanted[place]) for delta in deltas)
            assert nearest_P[place] in deltas
            assert abs(nearest_P[place] - wanted[place]) == distance_P[place]


@given(difficulty=st.floats(1, 9), deltas=st.lists(st.integers(-8, 8).map(float), min_size=1, max_size=6))
@settings(deadline=None)
def test_what_is_not_short_is_served_by_the_trainer(difficulty: float, deltas: list[float]) -> None:
    candidates = [Candidate(f"v{n}", "reword", delta) for n, delta in enumerate(deltas)]
    [chosen] = select_one("paper", difficulty, candidates, 1, Draw(0, 0, "p"))
    _, [distance] = nearest_delta(
        np.zeros(len(deltas), np.intp), np.array(deltas), [wanted_delta(difficulty)]
    )
    assert abs(chosen.delta - wanted_delta(difficulty)) == pytest.approx(distance, abs=1e-9)


def test_exactly_the_planted_shortages_are_asked_for(tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "short", create=True)
    expected = plant_shortages(store, MODEL, load_prompt("think_step").version)
    found = plan(store, _config(store))
    assert {need.problem_id: need.kinds for need in found.needs} == expected
    idle = {why: [need.problem_id for need in needs] for why, needs in found.idle.items()}
    assert idle == {
        "nothing to ask: tries spent for think_step": ["p/nuts"],
        "nothing to ask: no kind comes nearer": ["p/jars"],
    }
    assert (found.shortages.seen, found.left) == (13, 0)
    forks = next(need for need in found.needs if need.problem_id == "p/forks")
    assert forks.accepted == ((Kind.THINK_STEP, 2),), "one more than there is, whose measured delta misses"
    assert found.summary() == (
        f"run {RUN}: 10 of 13 problems are short; 8 are asked for (1 composite, 4 harder, 1 reword, "
        "3 think_step); nothing to ask: tries spent for think_step (1); nothing to ask: no kind comes nearer (1)"
    )


def test_worst_come_first_within_the_budget(short: VariantStore) -> None:
    whole = plan(short, _config(short)).needs
    distances = [np.inf if n.nearest_delta is None else abs(n.nearest_delta - n.wanted_delta) for n in whole]
    assert distances == sorted(distances, reverse=True)
    few = plan(short, _config(short, max_problems=3))
    assert (few.needs, few.left) == (whole[:3], 5)
    some = plan(short, _config(short, max_variants=2))
    assert some.needs == whole[:1], "the second asks for two"
    assert sum(n.requested for n in plan(short, _config(short, max_variants=5, variants=2)).needs) <= 5


def test_only_kinds_that_are_allowed(short: VariantStore) -> None:
    only = _config(short).generate.model_copy(update={"kinds": (Kind.THINK_STEP,)})
    assert _asked(short, generate=only) == {
        "p/apples": ["think_step"],
        "p/forks": ["think_step"],
        "p/inks": ["think_step"],
    }


def test_window_tolerance_and_filter(short: VariantStore) -> None:
    assert "p/hats" in _asked(short, window_steps=201)
    strict = plan(short, _config(short, tolerance=0.5))
    assert {"p/boxes", "p/goats"} <= set(strict.shortages.problem_ids)
    assert "p/boxes" not in {need.problem_id for need in strict.needs}, "no design is nearer"
    assert set(_asked(short, problem_filter="problem_id < 'p/d'")) == {"p/apples", "p/coins"}
    with pytest.raises(ConfigError, match="problem filter"):
        _asked(short, problem_filter="nonsense")


def test_own_solution_is_left_where_the_tries_are_spent(short: VariantStore) -> None:
    from_source = _config(short).generate.model_copy(update={"steps_from": "source"})
    assert _asked(short, generate=from_source)["p/nuts"] == ["think_step"]


def test_candidate_that_waits_is_decided_although_the_tries_are_spent(short: VariantStore) -> None:
    short.append([planted("p/nuts", "think_step", -4.0, 9, status="candidate")])
    assert _asked(short)["p/nuts"] == ["think_step"]


def test_designs_of_the_kinds() -> None:
    assert {str(kind): designed_deltas(kind) for kind in Kind} == {
        "reword": (0.0,),
        "harder": (2.0,),
        "think_step": (-8.0, -6.0, -4.0, -2.0),
        "image": (1.0, 2.0, 3.0),
        "image_text": (2.0,),
        "composite": (4.0, 5.0, 6.0, 7.0, 8.0),
    }


def test_run_is_the_last_one_unless_it_is_named(short: VariantStore) -> None:
    assert training_run(short) == RUN
    short.append([Attempt(run_id="another", attempt=0, resumed_step=0)])
    assert training_run(short) == "another"
    assert _asked(short) == {"p/boxes": ["harder"]}
    short.append([Attempt(run_id=RUN, attempt=1, resumed_step=LAST_STEP)])
    assert training_run(short) == RUN, "it was resumed"
    assert training_run(short, "another") == "another"
    with pytest.raises(ConfigError, match="no training run 'none' in this store; the last ones: train-1"):
        training_run(short, "none")


def test_store_without_a_training_run(store: VariantStore) -> None:
    with pytest.raises(ConfigError, match="no training run of this store"):
        training_run(store)


def test_run_that_is_not_short(tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "fine", create=True)
    store.append([problem(0)])
    store.append([planted("p/apples", "reword", 0.0)])
    store.append([Attempt(run_id=RUN, attempt=0, resumed_step=0)])
    store.append([event("p/apples", 6.0)])
    assert (
        plan(store, _config(store)).summary()
        == "run train-1: 0 of 1 problems are short; nothing is asked for"
    )


# --- what is made of it


def _served(store: VariantStore) -> Any:
    return serve(create_app(ScriptedTeacher(store.problems(), wrong_share=0.0)))


def test_just_these_are_made_verified_and_recorded(short: VariantStore) -> None:
    before = {v.variant_id for v in short.read(Variant)}
    with _served(short) as url:
        config = _config(short, url, label=None)
        expected = _asked(short)
        done, decided = _fill(short, config)
    made = [v for v in short.read(Variant) if v.variant_id not in before]
    assert {(v.problem_id, v.kind) for v in made} | {("p/inks", "think_step")} == {
        (problem_id, kind) for problem_id, kinds in expected.items() for kind in kinds
    }
    assert Counter(v.status for v in made) == {Status.ACCEPTED: len(made)}
    decisions = {d.problem_id: d for d in short.read(Decision)}
    assert {name: d.kinds for name, d in decisions.items()} == expected
    assert {d.outcome for d in decisions.values()} == {"enough"}
    assert {d.training_run for d in decisions.values()} == {RUN}
    of_problem = Counter(v.problem_id for v in made)
    assert {name: d.made for name, d in decisions.items()} == of_problem
    assert {name: d.accepted for name, d in decisions.items()} == of_problem
    assert (decisions["p/eggs"].requested, decisions["p/eggs"].nearest_delta) == (2, None)
    assert decided == {"enough": len(expected)}
    assert done.labelled == {}


def test_second_time_what_is_still_short_alone(short: VariantStore) -> None:
    with _served(short) as url:
        _fill(short, _config(short, url, label=None))
        # A solution of two steps has hints of -2 and -8: one of more steps would come nearer to -5.
        assert _asked(short) == {name: ["think_step"] for name in ("p/apples", "p/forks", "p/inks")}


def test_what_waits_for_a_verdict_is_decided_and_not_written_anew(short: VariantStore) -> None:
    text = harder_in(problem(11).text, Aspect.STORY)
    short.append([planted("p/lamps", "harder", 2.0, status="candidate", text=text)])
    with _served(short) as url:
        _fill(short, _config(short, url, label=None, problem_filter="problem_id = 'p/lamps'"))
    purposes = dict(short.query("SELECT purpose, count(*) FROM calls GROUP BY 1"))
    assert purposes == {"solve": 3}
    [decision] = short.read(Decision)
    assert (decision.made, decision.accepted, decision.outcome) == (0, 1, "enough")


def test_labels_of_the_new_alone_and_by_the_label_model(short: VariantStore) -> None:
    only = {"problem_filter": "problem_id IN ('p/apples', 'p/drums')", "label": LabelConfig(samples=1)}
    with _served(short) as url:
        assert _fill(short, _config(short, url, **only))[0].labelled == {}, "policy is the label model"
        short.put_setting("label_model", MODEL)
        short.append([planted("p/apples", "think_step", -2.0, 0, status="rejected")])
        short.append([event("p/apples", 1.0, LAST_STEP + 1), event("p/drums", 1.0, LAST_STEP + 1)])
        labelled = _fill(short, _config(short, url, **only))[0].labelled
    assert labelled == {"original": 1, "harder": 1}
    assert {label.subject_id for label in short.read(Label, "solver_model = ?", [MODEL])} == {
        "p/apples",
        *(v.variant_id for v in short.read(Variant, "problem_id = 'p/apples' AND kind = 'harder'")),
    }


def test_tries_that_are_spent_are_said_and_not_asked_again(short: VariantStore) -> None:
    refusing = completion('{"steps": ["Nothing."], "answer": "0"}')
    only = {"problem_filter": "problem_id = 'p/apples'", "label": None}
    with serving(Endpoint(refusing)) as served:
        config = _config(short, served.url, **only)
        assert _fill(short, config)[1] == {"short": 1}
        assert len(served.requests) == config.generate.tries
        [decision] = short.read(Decision)
        assert decision.outcome == "short of think_step: 4 answer (4 tries)"
        assert (decision.requested, decision.made, decision.accepted) == (1, 4, 0)
        again = plan(short, config)
        assert again.needs == []
        assert list(again.idle) == ["nothing to ask: tries spent for think_step"]
        for number in (2, 3):
            journey = Journey(f"top-{number}", RUN, time.time_ns())
            record_idle(short, journey, again)
        assert len(served.requests) == config.generate.tries
    rows = short.query("SELECT flow_run_id, outcome, requested FROM decisions ORDER BY 1")
    assert rows[1:] == [("top-2", "nothing to ask: tries spent for think_step", 0)], "once is enough"


def test_killed_run_has_its_decisions_completed_by_the_next(short: VariantStore) -> None:
    config = _config(short, label=None)
    needs = plan(short, config).needs
    with short.run("top_up", "{}") as run_id:
        journey = Journey(run_id, RUN, time.time_ns())
        short.append([journey.decision(need, ASKED) for need in needs])
        short.append([planted("p/apples", "think_step", -4.0, 1), planted("p/apples", "reword", 0.0, 1)])
        short.append([planted("p/drums", "harder", 2.0, 1, status="rejected")])
        assert complete_killed(short) == 0, "it is at work"
    assert complete_killed(short) == len(needs)
    counts = {d.problem_id: (d.made, d.accepted) for d in short.read(Decision) if d.made}
    assert counts == {"p/apples": (1, 1), "p/drums": (1, 0)}
    assert {d.outcome for d in short.read(Decision)} == {"cut short: the run was killed or failed"}
    assert complete_killed(short) == 0


def test_candidate_of_an_earlier_killed_run_counts_where_it_was_accepted(short: VariantStore) -> None:
    apples = [need for need in plan(short, _config(short)).needs if need.problem_id == "p/apples"]
    for run in ("writes", "accepts"):
        with short.run("top_up", "{}", run_id=run):
            journey = Journey(run, RUN, time.time_ns())
            short.append([journey.decision(need, ASKED) for need in apples])
            if run == "writes":
                waiting = planted("p/apples", "think_step", -4.0, 1, status="candidate")
                short.append([waiting])
            else:
                short.append([Verdict(variant_id=waiting.variant_id, check_name="answer", passed=True)])
                short.append([waiting.model_copy(update={"status": Status.ACCEPTED})])
        assert complete_killed(short) == 1
    counts = short.query("SELECT flow_run_id, made, accepted FROM decisions ORDER BY created_at")
    assert counts == [("writes", 1, 0), ("accepts", 0, 1)]


# --- the budget


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(("limit", "requests"), [(0.35, 3), (0.9, 8)])
def test_budget_is_never_overspent(
    short: VariantStore, tmp_path: Path, limit: float, requests: int, concurrency: int
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(f"{MODEL}: [0, 5000]\n")  # ten cents an answer of twenty tokens
    with serving(Endpoint(completion('{"steps": ["x"], "texts": [], "rewordings": ["x"]}'))) as served:
        teacher = TeacherConfig(
            model=MODEL,
            base_url=served.url,
            endpoint="t",
            prices=prices,
            concurrency=concurrency,
            max_tokens=30,
        )
        config = _config(short, label=None).model_copy(update={"teacher": teacher})
        with pytest.raises(BudgetError, match=r"one more request may cost \$0.1500"):
            _fill(short, config, budget=Budget(limit, strict=True))
        # What an answer may cost at most is fifteen cents, and one that came cost ten.
        assert len(served.requests) == requests
    outcomes = {d.outcome for d in short.read(Decision)}
    assert any(outcome.endswith("the budget is spent") for outcome in outcomes)
    assert ASKED not in outcomes


def test_request_that_costs_more_than_all_is_not_sent(short: VariantStore, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(f"{MODEL}: [0, 5000]\n")
    with serving(Endpoint(Reply(b"", 500))) as served:
        teacher = TeacherConfig(model=MODEL, base_url=served.url, endpoint="t", prices=prices, max_tokens=30)
        config = _config(short, label=None).model_copy(update={"teacher": teacher})
        with pytest.raises(BudgetError, match=r"\$0.0000 of \$0.14 are spent"):
            _fill(short, config, budget=Budget(0.14, strict=True))
    assert served.requests == []


def test_number_of_variants_is_said_once(short: VariantStore) -> None:
    with pytest.raises(ValueError, match="variants says how many"):
        _config(short, generate=_config(short).generate.model_copy(update={"accepted": 3}).model_dump())


# --- the command, without its flow


@pytest.mark.parametrize("labelling", [(), ("--label-model",)], ids=["labels of another", "its labels"])
def test_dry_run_sends_nothing_and_counts(
    short: VariantStore, diva: Diva, labelling: tuple[str, ...]
) -> None:
    with serving(Endpoint()) as served:
        teacher = ["--store", short.root, "--base-url", served.url, "--model", MODEL]
        outcome = diva("top-up", *teacher, "--dry-run", "--max-problems", 1, *labelling)
    assert (outcome.code, served.requests) == (0, [])
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"run {RUN}: 10 of 13 problems are short; 1 are asked for (1 harder)")
    assert "Nothing was sent." in outcome.out
    words = [line.split() for line in lines if line.startswith("write and verify")]
    assert {of_line[4]: of_line[5] for of_line in words} == {"harder": "1", "solve": "3"}
    assert any(line.startswith("label ") for line in lines) == bool(labelling)
    assert short.read(Decision) == []


def test_wrong_run_is_one_line(short: VariantStore, diva: Diva) -> None:
    outcome = diva("top-up", "--store", short.root, "--base-url", "http://x/v1", "--model", "m", "--run", "r")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith("diva: no training run 'r' in this store")


def test_checks_are_those_of_the_verb(short: VariantStore) -> None:
    with serving(
        Endpoint(completion('{"steps": ["At first there are 10.", "10 + 4 = 14"], "answer": "14"}'))
    ) as served:
        config = _config(short, served.url, label=None, verify=VerifyConfig(checks=("format",)))
        _fill(short, config.model_copy(update={"problem_filter": "problem_id = 'p/apples'"}))
    assert short.query("SELECT DISTINCT check_name FROM verdicts") == [("format",)]
