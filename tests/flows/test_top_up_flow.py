"""The flow `top_up`, run by Prefect: beside a training run, killed and run again, and by the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import ProcessPoolTaskRunner

from diva_grpo.flows.cli import cli
from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.flows.runs.top_up import top_up
from diva_grpo.pipeline.stages.top_up import plan
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.schemas.config import TeacherConfig, TopUpConfig
from diva_grpo.schemas.exceptions import BudgetError
from diva_grpo.schemas.records import Decision, Problem, Variant
from tests.support.endpoints import Endpoint, Reply, completion, serving
from tests.support.short_store import plant_shortages
from tests.support.tiny_text_model import planted_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect")]
ROOT = Path(__file__).parents[2]
MODEL = "scripted-teacher"


@pytest.fixture
def short(tmp_path: Path) -> VariantStore:
    store = VariantStore(tmp_path / "short", create=True)
    plant_shortages(store, MODEL, load_prompt("think_step").version)
    return store


def _config(store: VariantStore, url: str, **values: Any) -> TopUpConfig:
    teacher = TeacherConfig(model=MODEL, base_url=url, endpoint="test", max_retries=0)
    defaults: dict[str, Any] = {"store": store.root, "teacher": teacher, "label": None}
    return TopUpConfig(**(defaults | values))


def _decided(store: VariantStore) -> list[tuple[Any, ...]]:
    return store.query(
        "SELECT problem_id, kinds, requested, made, accepted, outcome FROM decisions ORDER BY problem_id"
    )


def _made(store: VariantStore) -> list[tuple[Any, ...]]:
    return store.query(
        "SELECT variant_id, status, text, hint FROM variants WHERE prompt_version <> 'planted-1' ORDER BY 1"
    )


def test_in_any_runner_what_was_planned_and_no_more(short: VariantStore, tmp_path: Path) -> None:
    other = VariantStore(tmp_path / "other", create=True)
    expected = plant_shortages(other, MODEL, load_prompt("think_step").version)
    with serve(create_app(ScriptedTeacher(short.problems(), wrong_share=0.0))) as url:
        counts = top_up(_config(short, url, shard_size=3))
        processes: Any = ProcessPoolTaskRunner(max_workers=2)
        apart = top_up.with_options(task_runner=processes)
        assert apart(_config(other, url, shard_size=3, workers=2)) == counts
    assert counts["decided"] == {"enough": len(expected), "nothing": 2}
    decided = {row[0]: row[1] for row in _decided(short)}
    assert {name: kinds for name, kinds in decided.items() if kinds} == expected
    assert {name for name, kinds in decided.items() if not kinds} == {"p/jars", "p/nuts"}
    assert _decided(other) == _decided(short)
    assert _made(other) == _made(short)
    assert short.query("SELECT kind, outcome FROM runs") == [("top_up", "ok")]


def test_budget_holds_at_the_endpoint(short: VariantStore, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(f"{MODEL}: [0, 5000]\n")  # ten cents an answer of twenty tokens
    with serving(Endpoint(completion('{"steps": ["x"], "texts": [], "rewordings": ["x"]}'))) as served:
        config = _config(short, served.url, max_cost=0.5)
        dear = config.teacher.model_copy(update={"prices": prices, "max_tokens": 30})
        with pytest.raises(BudgetError, match="--max-cost"):
            top_up(config.model_copy(update={"teacher": dear}))
    assert 0.1 * len(served.requests) <= 0.5 < 0.1 * len(served.requests) + 0.15
    assert short.query("SELECT outcome FROM runs") == [("failed",)]
    assert not [row for row in _decided(short) if row[-1] == "asked"]


# --- a training run meanwhile


@contextmanager
def _training(store: VariantStore, model: Path, output: Path, refresh: int) -> Iterator[_Steps]:
    arguments = [str(store.root), str(model), str(output), str(refresh)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.train_unsolvable", *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield _Steps(process)
    finally:
        process.kill()
        process.wait()


class _Steps:
    """The steps of a training run as it tells of them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._changed = threading.Condition()
        self._last = 0
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("step"):
                with self._changed:
                    self._last = int(line.split()[1])
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def last(self) -> int:
        return self._last

    def wait_for(self, step: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended or self._last >= step, timeout=200)
            assert self._last >= step, "the run has ended"

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=60) == 0


def test_training_run_in_progress_selects_the_new_variants(tmp_path: Path, model_path: Path) -> None:
    refresh = 6
    store = planted_store(tmp_path / "store", problems=4)
    hints = [v for v in store.read(Variant) if v.kind == "think_step"]
    store.append([v.model_copy(update={"status": "rejected"}) for v in hints])
    with (
        serve(create_app(ScriptedTeacher(store.problems(), wrong_share=0.0))) as url,
        _training(store, model_path, tmp_path / "out", refresh) as steps,
    ):
        steps.wait_for(10)
        config = _config(store, url)
        assert {tuple(need.kinds) for need in plan(store, config).needs} == {("think_step",)}
        begun = steps.last
        counts = top_up(config)
        done = steps.last
        assert counts["decided"] == {"enough": 4, "nothing": 0}
        steps.wait_for(done + refresh + 4)
        steps.end()
    first_seen = dict(
        store.query(
            "SELECT r.problem_id, min(r.step) FROM rollouts r JOIN variants v USING (variant_id) "
            "WHERE v.kind = 'think_step' AND v.status = 'accepted' GROUP BY 1"
        )
    )
    assert len(first_seen) == 4
    # A step has two of the four problems.
    assert begun < min(first_seen.values()) <= done + refresh
    assert max(first_seen.values()) <= done + refresh + 2


# --- killed and run again


class _Killing(Endpoint):
    """Answers as a teacher and a solver would; kills who asks at a set number of its requests."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__()
        self._answers = {problem.problem_id.partition("/")[2]: problem for problem in problems}
        self.kill_at, self.victim = 0, 0
        self.answered: Counter[str] = Counter()
        self._guard = threading.Lock()

    def next(self, request: dict[str, Any], key: str | None) -> Reply:
        super().next(request, key)
        with self._guard:
            if self.victim and len(self.requests) >= self.kill_at:
                os.kill(self.victim, signal.SIGKILL)
                self.victim = 0
                return Reply(drop=True)
            self.answered[json.dumps(request, sort_keys=True)] += 1
        text = request["messages"][1]["content"]
        thing = next(name for name in self._answers if name in text)
        if "worked solution" in request["messages"][0]["content"]:
            problem = self._answers[thing]
            steps = [f"This is about {thing}, all in one place.", *problem.solution_steps]
            return completion(json.dumps({"steps": steps, "answer": problem.answer}))
        if "<existing>" not in text:
            return completion(f"\\boxed{{{self._answers[thing].answer}}}")
        number = request["seed"]
        return completion(json.dumps(_texts(self._answers[thing].text, number, text)))


def _texts(text: str, number: int, asked: str) -> dict[str, Any]:
    wordings = [f"{opening} {text}" for opening in ("On a long and rainy morning in the old town this happens:",
                "Nobody in the whole street expected what a clerk tells us here about his day:")]  # fmt: skip
    if "in this order" in asked:
        return {"texts": [{"aspect": "story", "text": wordings[number % 2]}]}
    return {"rewordings": [wordings[(number + 1) % 2]]}


def _top_up(store: VariantStore, served: Endpoint, home: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        "from diva_grpo.flows.cli import main; main()",
        "top-up",
        "--store",
        str(store.root),
    ]
    command += ["--base-url", served.url, "--model", MODEL, "--endpoint", "test", "--no-labels"]
    command += ["--concurrency", "1", "--shard-size", "2", "--max-retries", "0", "--solver-samples", "1"]
    environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_HOME": str(home)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_twice_it_pays_nothing_twice_and_decides_rightly(short: VariantStore, tmp_path: Path) -> None:
    expected = {need.problem_id for need in plan(short, _config(short, "http://x/v1")).needs}
    before = {v.variant_id for v in short.read(Variant, "status = 'accepted'")}
    with serving(_Killing(short.problems())) as served:
        for kill_at in (4, 9):
            served.kill_at = kill_at
            process = _top_up(short, served, tmp_path / "prefect")
            served.victim = process.pid
            process.communicate(timeout=120)
            assert process.returncode == -signal.SIGKILL
        process = _top_up(short, served, tmp_path / "prefect")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert max(served.answered.values()) == 1, "no answer was paid for twice"
    assert short.query("SELECT outcome FROM runs ORDER BY started_at") == [("killed",), ("killed",), ("ok",)]
    decisions = short.read(Decision)
    assert "asked" not in {decision.outcome for decision in decisions}
    assert {d.problem_id for d in decisions if d.kinds} == expected
    new = [v for v in short.read(Variant, "status = 'accepted'") if v.variant_id not in before]
    of_problem = Counter(v.problem_id for v in new)
    said = Counter[str]()
    for decision in decisions:
        said[decision.problem_id] += decision.accepted
    assert +said == of_problem
    cut = [d for d in decisions if d.outcome.startswith("cut short")]
    assert len({d.flow_run_id for d in cut}) == 2, "each of the killed runs has left its mark"


def test_command_says_what_was_asked_for_and_what_came(
    short: VariantStore, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(create_app(ScriptedTeacher(short.problems(), wrong_share=0.0))) as url:
        arguments = ["--store", str(short.root), "--base-url", url, "--model", MODEL, "--no-labels"]
        cli.main(["top-up", *arguments, "--max-problems", "2"], standalone_mode=False)
    assert capsys.readouterr().out.splitlines() == [
        "run train-1: 10 of 13 problems are short; 2 are asked for (2 harder, 1 reword); nothing to ask: tries "
        "spent for think_step (1); nothing to ask: no kind comes nearer (1); 6 wait for a later run",
        "decided: 2 enough, 2 nothing",
        "generated: 3 candidate",
        "verified: 3 accepted",
        "labelled: nothing to do",
    ]
