"""The flow `evaluate`, run by Prefect: the same figures and rows as `diva eval`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from diva_grpo.flows.cli import cli
from diva_grpo.flows.runs.evaluate import evaluate
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import EvaluateConfig
from diva_grpo.schemas.records import Evaluation
from tests.support.tiny_text_model import planted_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect")]


def test_figures_and_rows_are_those_of_the_command(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=3)
    config = EvaluateConfig(
        store=store.root, model=str(model_path), split="train", samples=2, max_new_tokens=3, kinds="reword"
    )
    figures = evaluate(config)
    with get_client(sync_client=True) as client:
        assert f"evaluate {model_path} on train of store" in {run.name for run in client.read_flow_runs()}
        [left] = [artifact for artifact in client.read_artifacts() if artifact.key == "store-scores"]
    assert [row["run id"] for row in json.loads(str(left.data))] == [figures["run_id"]]
    rows = store.read(Evaluation)
    assert [(row.problem_id, row.samples) for row in rows] == [(f"sums/00{i}", 2) for i in range(3)]
    assert {row.run_id for row in rows} == {figures["run_id"]}
    output = tmp_path / "figures.json"
    arguments = ["--model", model_path, "--split", "train", "--samples", 2, "--max-new-tokens", 3]
    arguments += ["--kinds", "reword", "--output", output]
    cli.main(["eval", "--store", str(store.root), *map(str, arguments)], standalone_mode=False)
    by_command = json.loads(output.read_text())
    assert by_command.pop("run_id") != figures.pop("run_id")
    assert by_command == figures
    assert store.query("SELECT kind, outcome FROM runs") == [("eval", "ok"), ("eval", "ok")]


def test_mistake_of_a_user_is_one_line(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=1)
    with pytest.raises(ConfigError, match="no split 'dev'"):
        evaluate(EvaluateConfig(store=store.root, model=str(model_path), split="dev"))


def test_source_without_a_benchmark(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--source goes with --benchmark"):
        EvaluateConfig(store=tmp_path, model="m", source="x.jsonl")
