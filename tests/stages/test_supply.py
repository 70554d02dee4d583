"""Enough of each: the loop that generates, verifies and asks again, against real endpoints on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest

from diva_grpo.flows.cli import cli
from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.pipeline.stages.curate import Curated
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import GenerateConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError, TeacherError
from diva_grpo.schemas.records import Kind, Problem, Shortage
from tests.support.endpoints import Endpoint, Reply, completion, serving
from tests.support.planted_variants import WORDING, plant, teacher_of, variants_by
from tests.support.sessions import supply

REWORD = GenerateConfig(kinds=(Kind.REWORD,), accepted=2, tries=3)
FORMAT = VerifyConfig(checks=("format", "duplicate"))
GOOD = [
    "Tom owns 3 apples and buys another 4. How many has he in the end?",
    "After buying 4 apples on top of the 3 that he has, how many apples are Tom's?",
    "How many apples does Tom have once 4 bought ones join the 3 that he had before?",
]
BAD = "Sure! Here is the text: Tom has 3 apples and buys 4 more of them. How many?"


def _wordings(*texts: str) -> Reply:
    return completion(json.dumps({"rewordings": list(texts)}))


def _supply(
    store: VariantStore,
    teacher: TeacherConfig,
    config: GenerateConfig = REWORD,
    checks: VerifyConfig = FORMAT,
    **options: Any,
) -> Curated:
    return supply(store, teacher, config, checks, **({"problem_ids": ["w/0"]} | options))


def _asked(served: Endpoint) -> list[tuple[int, str]]:
    """Sample and number of texts of each request."""
    texts = [request["messages"][1]["content"] for request in served.requests]
    return [(r["seed"], text.split()[1]) for r, text in zip(served.requests, texts, strict=True)]


# --- the loop


def test_asks_again_for_what_is_missing_and_no_more(store: VariantStore) -> None:
    with serving(Endpoint(_wordings(GOOD[0], BAD), _wordings(GOOD[1]))) as served:
        done = _supply(store, teacher_of(served))
    assert (done.generated, done.verified) == ({"candidate": 3}, {"accepted": 2, "rejected": 1})
    assert _asked(served) == [(0, "2"), (1, "1")]
    assert done.shortages == []
    assert done.summary() == "all 1 kinds of problems have the variants asked for"
    assert store.read(Shortage) == []


def test_later_tries_are_told_what_is_there(store: VariantStore) -> None:
    with serving(Endpoint(_wordings(GOOD[0], BAD), _wordings(GOOD[1]))) as served:
        _supply(store, teacher_of(served))
    first, second = (request["messages"][1]["content"] for request in served.requests)
    assert "<existing>\n(none)\n</existing>" in first
    assert f"<existing>\n{GOOD[0]}\n\n{BAD}\n</existing>" in second


def test_later_tries_do_not_take_the_place_of_earlier_variants(store: VariantStore) -> None:
    with serving(Endpoint(_wordings(BAD, BAD), _wordings(*GOOD[:2]))) as served:
        _supply(store, teacher_of(served))
    rows = store.query(
        "SELECT sample, status, count(DISTINCT variant_id) FROM variants GROUP BY ALL ORDER BY 1"
    )
    assert rows == [(0, "rejected", 2), (1, "accepted", 2)]


def test_problem_that_stays_short_is_named_with_the_reasons(store: VariantStore) -> None:
    with serving(Endpoint(_wordings(GOOD[0], BAD), _wordings(GOOD[0]), _wordings(BAD))) as served:
        done = _supply(store, teacher_of(served))
    assert _asked(served) == [(0, "2"), (1, "1"), (2, "1")]
    [shortage] = store.read(Shortage)
    assert (shortage.problem_id, shortage.kind, shortage.wanted) == ("w/0", "reword", 2)
    assert (shortage.accepted, shortage.tries) == (1, 3)
    assert shortage.reason == "2 format, 1 duplicate"
    assert done.shortages[0].reason == shortage.reason
    assert done.summary() == (
        "1 of 1 kinds of problems stayed short, in 1 problem (1 reword; most often: 2 format, 1 duplicate)"
    )


def test_teacher_that_fails_has_its_tries_counted(store: VariantStore) -> None:
    with serving(Endpoint(Reply(b"", 500), _wordings(GOOD[0]), Reply(b"", 500))) as served:
        _supply(store, teacher_of(served))
    [shortage] = store.read(Shortage)
    assert (shortage.accepted, shortage.tries, shortage.reason) == (1, 1, "2 http_500"), "they cost nothing"
    assert len(served.requests) == 3, "and are not repeated in the same run"


def test_teacher_that_writes_too_few_is_the_reason(store: VariantStore) -> None:
    with serving(Endpoint(_wordings(GOOD[0]))) as served:
        _supply(store, teacher_of(served), REWORD.model_copy(update={"tries": 1}))
    assert [shortage.reason for shortage in store.read(Shortage)] == ["too few were written"]


def test_tries_are_counted_over_all_runs(store: VariantStore) -> None:
    with serving(Endpoint(_wordings(BAD), _wordings(BAD), _wordings(*GOOD[:2]))) as served:
        two = REWORD.model_copy(update={"tries": 2})
        assert len(_supply(store, teacher_of(served), two).shortages) == 1
        assert len(_supply(store, teacher_of(served), two).shortages) == 1
        assert len(served.requests) == 2, "its tries are spent"
        assert _supply(store, teacher_of(served)).shortages == []
    assert len(served.requests) == 3
    [later] = store.read(Shortage)
    assert (later.wanted, later.accepted, later.reason) == (2, 2, None)


def test_second_run_adds_nothing(store: VariantStore) -> None:
    with serving(Endpoint(_wordings(GOOD[0], BAD), _wordings(BAD))) as served:
        _supply(store, teacher_of(served))
        before = set(store.root.glob("*/*.parquet"))
        assert len(_supply(store, teacher_of(served)).shortages) == 1
        assert set(store.root.glob("*/*.parquet")) == before


def test_what_generate_has_made_counts(store: VariantStore) -> None:
    plant(store, 0, WORDING, status="accepted")
    plant(store, 1, GOOD[1], status="candidate", generator_model="another")
    with serving(Endpoint()) as served:
        done = _supply(store, teacher_of(served))
    assert (done.generated, done.verified, done.shortages) == ({}, {"accepted": 1}, [])
    assert served.requests == []


def test_variant_without_a_verdict_is_not_replaced(store: VariantStore) -> None:
    checks = VerifyConfig(checks=("format", "answer"), solver_samples=1)
    with serving(Endpoint(_wordings(*GOOD[:2]), Reply(b"", 500))) as served:
        done = _supply(store, teacher_of(served), checks=checks)
        assert [shortage.reason for shortage in done.shortages] == ["2 answer undecided"]
        assert len(served.requests) == 3, "where the solver does not answer, more variants are no help"
        served.replies = [completion("\\boxed{7}")]
        retry = checks.model_copy(update={"retry_failed": True})
        assert _supply(store, teacher_of(served), checks=retry).shortages == []
    assert variants_by(store) == [("accepted", 2)]


def test_failed_requests_are_made_again_on_demand(store: VariantStore) -> None:
    retry = REWORD.model_copy(update={"retry_failed": True, "tries": 1})
    with serving(Endpoint(Reply(b"", 500), Reply(b"", 500), _wordings(*GOOD[:2]))) as served:
        assert len(_supply(store, teacher_of(served), retry).shortages) == 1, "once in a run"
        assert len(_supply(store, teacher_of(served), retry).shortages) == 1
        assert _supply(store, teacher_of(served), retry).shortages == []
    assert [seed for seed, _ in _asked(served)] == [0, 0, 0]
    assert variants_by(store) == [("accepted", 2)]


def test_own_solution_comes_first_and_the_teacher_after(store: VariantStore) -> None:
    steps = completion(json.dumps({"steps": ["He has 3.", "He buys 4.", "3 + 4 = 7"], "answer": "7"}))
    config = GenerateConfig(kinds=(Kind.THINK_STEP,), steps_from="source", accepted=5, tries=1)
    with serving(Endpoint(steps)) as served:
        done = _supply(store, teacher_of(served), config, VerifyConfig(checks=("format", "leak")))
    assert done.shortages == []
    assert variants_by(store, "generator_model, sample, count(*)") == [("m", 0, 3), ("source", 0, 2)]


def test_each_kind_has_its_own_number(store: VariantStore, endpoint: TeacherConfig) -> None:
    config = GenerateConfig.model_validate({"accepted": "reword=3, think_step=2", "kinds": tuple(Kind)[:3]})
    done = _supply(store, endpoint, config, VerifyConfig(), problem_ids=None)
    accepted = store.query(
        "SELECT kind, n, count(*) FROM (SELECT kind, problem_id, count(*) n FROM variants "
        "WHERE status = 'accepted' GROUP BY ALL) GROUP BY ALL ORDER BY ALL"
    )
    assert accepted == [("reword", 3, 4), ("think_step", 2, 4)]
    # w/4 has no solution, so that nothing of it can be verified or solved.
    assert {(s.problem_id, s.kind, s.reason) for s in done.shortages} == {
        ("w/4", "reword", "3 answer undecided"),
        ("w/4", "think_step", "4 refusal"),
    }


@pytest.mark.parametrize(
    ("accepted", "fault"),
    [("many", "valid integer"), ("rewrod=3", "reword"), ("reword=0", "greater than"), (0, "greater than")],
)
def test_impossible_numbers_are_errors(accepted: object, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        GenerateConfig.model_validate({"accepted": accepted})


@pytest.mark.slow
def test_slips_of_the_teacher_are_made_good(
    store: VariantStore, word_problems: list[Problem], endpoint: TeacherConfig
) -> None:
    config = GenerateConfig(
        kinds=(Kind.REWORD, Kind.THINK_STEP), accepted={Kind.REWORD: 5, Kind.THINK_STEP: 2}, tries=12
    )
    solved = [problem.problem_id for problem in word_problems if problem.solution_steps]
    with serve(create_app(ScriptedTeacher(word_problems, wrong_share=0.2, seed=4), error_share=0.1)) as url:
        teacher = endpoint.model_copy(update={"base_url": url, "max_retries": 8})
        done = _supply(store, teacher, config, VerifyConfig(solver_samples=9), problem_ids=solved)
    assert done.verified["rejected"] > 0
    assert done.shortages == []
    assert variants_by(store, "kind, count(*) FILTER (status = 'accepted')") == [
        ("reword", 20),
        ("think_step", 8),
    ]


# --- the command


def _diva(*arguments: object) -> None:
    cli.main(list(map(str, arguments)), standalone_mode=False)


def test_command_says_what_is_there_and_what_is_short(
    store: VariantStore, endpoint: TeacherConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = ["--store", store.root, "--base-url", endpoint.base_url, "--model", endpoint.model]
    _diva("generate", *teacher, "--accepted", "reword=2,think_step=2", "--tries", 2, "--solver-samples", 3)
    lines = capsys.readouterr().out.splitlines()
    # w/4 has no solution, which takes two refusals to see.
    assert lines[0] == "written: 18 candidate, 2 failed"
    assert lines[1] == "verified: 16 accepted, 2 failed"
    assert lines[2] == (
        "2 of 10 kinds of problems stayed short, in 1 problem "
        "(1 reword, 1 think_step; most often: 2 answer undecided, 2 refusal)"
    )
    query = lines[3].split('"')[1]
    assert [row[0] for row in store.query(query)] == ["w/4", "w/4"]
    assert store.query("SELECT kind, config->>'tries', outcome FROM runs") == [("generate", "2", "ok")]


def test_command_verifies_by_another_endpoint(store: VariantStore, tmp_path: Path) -> None:
    with (
        serving(Endpoint(_wordings(*GOOD[:2]))) as served,
        serving(Endpoint(completion("\\boxed{7}"))) as solver,
    ):
        settings = tmp_path / "solver.yaml"
        settings.write_text(f"model: other\nbase_url: {solver.url}\n")
        teacher = ["--store", store.root, "--base-url", served.url, "--model", "m", "--limit", 1]
        _diva("generate", *teacher, "--kinds", "reword", "--accepted", 2, "--solver-config", settings)
        assert {request["model"] for request in solver.requests} == {"other"}
        assert (len(served.requests), len(solver.requests)) == (1, 2 * 3)
    assert store.query("SELECT DISTINCT model FROM verdicts WHERE check_name = 'answer'") == [("other",)]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--accepted", "many"], "--accepted"),
        (["--accepted", "rewrod=3"], "--accepted"),
        (["--accepted", "5", "--tries", "0"], "--tries"),
    ],
)
def test_impossible_options_are_one_line(store: VariantStore, options: list[str], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        _diva("generate", "--store", store.root, "--model", "m", *options)


def test_checks_without_a_number_are_an_error(store: VariantStore) -> None:
    with pytest.raises(click.UsageError, match="go with --accepted"):
        _diva("generate", "--store", store.root, "--model", "m", "--checks", "format")


def test_nothing_written_is_an_error(store: VariantStore) -> None:
    options = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--max-retries", 0, "--tries", 1]
    with pytest.raises(TeacherError, match="all failed, most often by 'network"):
        _diva("generate", "--store", store.root, *options, "--kinds", "reword", "--accepted", 1)


def test_image_kinds_are_wanted_of_problems_with_images(store: VariantStore, endpoint: TeacherConfig) -> None:
    config = GenerateConfig(kinds=(Kind.IMAGE,), accepted=1)
    done = _supply(store, endpoint, config, problem_ids=None)
    assert (done.wanted, done.shortages) == (0, [])


# --- killed and run again


_RUN = """
import sys
from diva_grpo.pipeline.store import VariantStore
from tests.support.sessions import supply
from diva_grpo.schemas.config import GenerateConfig, TeacherConfig, VerifyConfig

store = VariantStore(sys.argv[1])
teacher = TeacherConfig(model="m", base_url=sys.argv[2], endpoint="test", max_retries=0, concurrency=4)
config = GenerateConfig(kinds=("reword",), accepted=3, tries=4)
supply(store, teacher, config, VerifyConfig(checks=("format", "answer")))
"""


class _Killing(Endpoint):
    """Writes a wording by the numbers of the request, solves all right, and says when to kill."""

    def __init__(self) -> None:
        super().__init__()
        self.kill_at, self.reached = 0, threading.Event()

    def next(self, request: dict[str, Any], key: str | None) -> Reply:
        super().next(request, key)
        if 0 < self.kill_at <= len(self.requests):  # several arrive at once
            self.reached.set()
        text = request["messages"][1]["content"]
        if "Write" not in text:
            answers = {"Tom": 7, "box": 30, "Ann": 36}
            return completion(f"\\boxed{{{answers[text.split()[1]]}}}")
        who = next(name for name in ("Tom", "box", "Ann") if name in text)
        number = request["seed"]
        good = f"{who} is in this text, in the manner of number {number}, and it is long enough to pass."
        return _wordings(good, f"Sure! {good}")

    def counts(self) -> Counter[str]:
        return Counter(json.dumps(request, sort_keys=True) for request in self.requests)


@pytest.mark.slow
def test_killed_runs_end_as_one_that_was_never_killed(store: VariantStore, tmp_path: Path) -> None:
    problems = ["w/0", "w/1", "w/2"]
    with serving(_Killing()) as served:
        untouched = VariantStore(tmp_path / "untouched", create=True)
        untouched.append(store.problems(problems))
        killed = VariantStore(tmp_path / "killed", create=True)
        killed.append(store.problems(problems))
        command = [sys.executable, "-c", _RUN]
        subprocess.run([*command, str(untouched.root), served.url], check=True)
        sent = served.counts()
        assert max(sent.values()) == 1
        served.requests.clear()
        kills_at = (2, 5, 9, 12, 15)
        for served.kill_at in kills_at:
            served.reached.clear()
            process = subprocess.Popen([*command, str(killed.root), served.url])
            assert served.reached.wait(120)
            process.kill()
            process.wait()
        subprocess.run([*command, str(killed.root), served.url], check=True)
    again = served.counts()
    assert again.keys() == sent.keys()
    # What was in flight when it was killed, four requests at most, was not answered.
    assert sum(again.values()) - len(again) <= 4 * len(kills_at)
    what = "SELECT variant_id, text, status, reason FROM variants ORDER BY variant_id"
    assert killed.query(what) == untouched.query(what)
    assert killed.query("SELECT count(*) FROM variants WHERE status = 'accepted'") == [(9,)]
