"""The flow `curate`, run by Prefect itself."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from diva_grpo.flows.cli import cli
from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.flows.runs import curate as module
from diva_grpo.flows.runs.curate import curate
from diva_grpo.pipeline.stages.generate import write_candidates
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import CurateConfig, GenerateConfig, LabelConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError, TeacherError
from diva_grpo.schemas.records import Kind, Problem

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect")]


@pytest.fixture
def config(store: VariantStore, endpoint: TeacherConfig) -> CurateConfig:
    """Five problems in shards of three."""
    return CurateConfig(
        store=store.root,
        teacher=endpoint,
        generate=GenerateConfig(rewordings=2),
        label=LabelConfig(samples=2),
        shard_size=3,
    )


def _records(store: VariantStore) -> set[str]:
    """Every part of every table but `runs`."""
    return {str(path) for path in store.root.glob("*/*.parquet") if path.parent.name != "runs"}


def test_all_stages_of_every_shard(store: VariantStore, config: CurateConfig) -> None:
    counts = curate(config)
    # Of w/4, which has no solution, neither wordings nor the original can be judged.
    assert counts == {
        "generated": {"candidate": 5 * 2 + 4 * 2, "failed": 1},
        "verified": {"accepted": 4 * 2 + 4 * 2, "failed": 2},
        "labelled": {"original": 4, "reword": 8, "think_step": 8, "unjudged": 1},
    }
    assert store.query("SELECT count(*) FROM variants WHERE status = 'candidate'") == [(0,)]
    assert store.setting("label_model") == config.teacher.model


def test_run_is_recorded_with_its_configuration(store: VariantStore, config: CurateConfig) -> None:
    curate(config)
    rows = store.query("SELECT kind, model, outcome, config->>'shard_size', ended_at >= started_at FROM runs")
    assert rows == [("curate", config.teacher.model, "ok", "3", True)]


def test_second_run_adds_nothing(store: VariantStore, config: CurateConfig) -> None:
    problems = config.model_copy(update={"problem_filter": "len(solution_steps) > 0"})
    curate(problems)
    before = _records(store)
    assert curate(problems) == {"generated": {}, "verified": {}, "labelled": {}}
    assert _records(store) == before


def test_shards_are_tasks(config: CurateConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        curate(config)
    lines = [record.getMessage() for record in caplog.records if "problems done" in record.getMessage()]
    # Shards overlap, so the smaller second one may be done first.
    assert sorted(lines) == ["shard 1 of 2: 3 problems done", "shard 2 of 2: 2 problems done"]


def test_filter_limit_and_no_labels(store: VariantStore, config: CurateConfig) -> None:
    some = config.model_copy(update={"problem_filter": "problem_id > 'w/1'", "limit": 1, "label": None})
    assert curate(some)["labelled"] == {}
    assert store.query("SELECT DISTINCT problem_id FROM variants") == [("w/2",)]
    assert store.query("SELECT count(*) FROM labels") == [(0,)]


def test_faults_of_the_teacher_are_caught(store: VariantStore, word_problems: list[Problem]) -> None:
    kinds = (Kind.REWORD, Kind.HARDER, Kind.THINK_STEP)
    with serve(create_app(ScriptedTeacher(word_problems, wrong_share=0.5, seed=2), error_share=0.1)) as url:
        config = CurateConfig(
            store=store.root,
            teacher=TeacherConfig(model="scripted-teacher", base_url=url, endpoint="test"),
            generate=GenerateConfig(kinds=kinds),
            verify=VerifyConfig(solver_samples=1),
            label=None,
        )
        counts = curate(config)
    assert counts["verified"]["rejected"] > 5
    assert counts["verified"]["accepted"] > 5
    reasons = {
        reason
        for (reason,) in store.query(
            "SELECT split_part(reason, ':', 1) FROM variants WHERE status = 'rejected'"
        )
    }
    assert "answer" in reasons


def test_asks_again_until_enough_are_accepted(store: VariantStore, word_problems: list[Problem]) -> None:
    with serve(create_app(ScriptedTeacher(word_problems, wrong_share=0.15, seed=3))) as url:
        config = CurateConfig(
            store=store.root,
            teacher=TeacherConfig(model="scripted-teacher", base_url=url, endpoint="test"),
            generate=GenerateConfig(kinds=(Kind.REWORD,), accepted=4, tries=8),
            verify=VerifyConfig(solver_samples=5),
            label=None,
            shard_size=3,
        )
        counts = curate(config)
        again = curate(config)
    accepted = store.query(
        "SELECT problem_id, count(*) FROM variants WHERE status = 'accepted' GROUP BY 1 ORDER BY 1"
    )
    assert accepted == [(f"w/{i}", 4) for i in range(4)]
    assert counts["short"] == again["short"] == {"reword": 1}, "w/4 has no solution"
    assert (again["generated"], again["verified"]) == ({}, {})


def test_setting_that_cannot_work_is_not_tried_again(
    store: VariantStore, config: CurateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.curate_shard, "retry_delay_seconds", [3600, 3600])  # more than a test may take
    wrong = config.model_copy(update={"teacher": TeacherConfig(model="m")})
    with pytest.raises(ConfigError, match="no endpoint"):
        curate(wrong)
    assert store.query("SELECT outcome FROM runs") == [("failed",)]


def test_endpoint_that_comes_back_is_tried_again(
    store: VariantStore, config: CurateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.curate_shard, "retry_delay_seconds", [0, 0])
    failures = [TeacherError("down"), TeacherError("still down")]

    def flaky(*arguments: Any, **options: Any) -> Counter[str]:
        if failures:
            raise failures.pop()
        return write_candidates(*arguments, **options)

    monkeypatch.setattr("diva_grpo.pipeline.stages.curate.write_candidates", flaky)
    assert curate(config)["generated"] == {"candidate": 18, "failed": 1}
    assert failures == []


def test_command_runs_the_flow(
    store: VariantStore, endpoint: TeacherConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--store",
        str(store.root),
        "--base-url",
        endpoint.base_url or "",
        "--model",
        "scripted-teacher",
    ]
    options = ["--rewordings", "2", "--samples", "2", "--shard-size", "3", "--limit", "4"]
    cli.main(["curate", *arguments, *options], standalone_mode=False)
    assert capsys.readouterr().out == (
        "generated: 16 candidate\nverified: 16 accepted\nlabelled: 4 original, 8 reword, 8 think_step\n"
    )


def test_command_fails_where_nothing_was_written(store: VariantStore) -> None:
    arguments = [
        "--store",
        str(store.root),
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--model",
        "m",
        "--no-labels",
    ]
    with pytest.raises(TeacherError, match=r"5 requests failed \(5 network\): run the same command again"):
        cli.main(["curate", *arguments, "--max-retries", "0", "--kinds", "reword"], standalone_mode=False)


def test_works_without_any_server_set_up(
    store: VariantStore, endpoint: TeacherConfig, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment["PREFECT_HOME"] = str(tmp_path / "prefect")
    command = [str(Path(sys.executable).parent / "diva"), "curate", "--store", str(store.root), "--no-labels"]
    command += ["--base-url", endpoint.base_url or "", "--model", "scripted-teacher", "--limit", "2"]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "generated: 14 candidate\nverified: 14 accepted\nlabelled: nothing to do\n"
    assert "View at" not in process.stderr, "the server of a run has no UI"
    assert "leaked" not in process.stderr, "nothing that DuckDB would miss at the end"


def test_url_where_nobody_listens_is_told_once_and_at_once(store: VariantStore, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment["PREFECT_HOME"] = str(tmp_path / "prefect")
    command = [str(Path(sys.executable).parent / "diva"), "curate", "--store", str(store.root)]
    command += ["--base-url", "http://127.0.0.1:9/v1", "--model", "m"]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "Retry" not in process.stderr, "Prefect would wait for 70 seconds"
    last = process.stderr.splitlines()[-1]
    assert last.startswith("diva: http://127.0.0.1:9/v1 refuses every request (network: "), process.stderr
    assert "check --base-url" in last


def _connections() -> list[duckdb.DuckDBPyConnection]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is duckdb.DuckDBPyConnection]


def test_a_failed_flow_keeps_no_connection(config: CurateConfig) -> None:
    # Prefect keeps the error until the process ends, where DuckDB reports what is left as leaked.
    before = (
        _connections()
    )  # of other tests: kept here, or one that ends meanwhile would hide one that is left
    with pytest.raises(ConfigError, match="nowhere"):
        curate(config.model_copy(update={"problem_filter": "nowhere = 1"}))
    assert [each for each in _connections() if not any(each is other for other in before)] == []
