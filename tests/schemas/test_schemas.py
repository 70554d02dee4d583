"""Schemas: the files' columns pinned, the views of the contract, and strict configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.views import view_names
from diva_grpo.schemas.arrow import arrow_schema
from diva_grpo.schemas.config import (
    Config,
    CurateConfig,
    GenerateConfig,
    LabelConfig,
    Route,
    TeacherConfig,
    VerifyConfig,
)
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.records import RECORDS, Problem, Record, Setting
from diva_grpo.schemas.replies import ThinkSteps

# The columns of every part file. A change here changes what lies on users' disks: older parts must still read.
ARROW = {
    "problems": """
        problem_id: string
        source: string
        split: string
        text: string
        answer: string
        options: list<item: string>
        images: list<item: struct<hash: string, width: int64, height: int64>>
        solution_steps: list<item: string>
        human_level: double
        ingested_at: timestamp[us]
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "rejects": """
        source: string
        row_number: int64
        reason: string
        raw: string
        rejected_at: timestamp[us]
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "variants": """
        variant_id: string
        problem_id: string
        kind: string
        text: string
        hint_steps: int64
        hint: list<item: string>
        hint_total: int64
        solution_answer: string
        aspect: string
        recipe: string
        delta_designed: double
        status: string
        reason: string
        generator_model: string
        prompt_version: string
        sample: int64
        created_at: timestamp[us]
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "shortages": """
        problem_id: string
        kind: string
        wanted: int64
        accepted: int64
        tries: int64
        reason: string
        generator_model: string
        created_at: timestamp[us]
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "verdicts": """
        variant_id: string
        check_name: string
        model: string
        sample: int64
        passed: bool
        detail: string
        created_at: timestamp[us]
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "labels": """
        subject_id: string
        solver_model: string
        subject_kind: string
        samples: int64
        correct: int64
        pass_rate: double
        difficulty: double
        difficulty_low: double
        difficulty_high: double
        created_at: timestamp[us]
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "calls": """
        request_hash: string
        purpose: string
        endpoint: string
        model: string
        problem_id: string
        prompt_tokens: int64
        completion_tokens: int64
        reasoning_tokens: int64
        cost_usd: double
        latency_s: double
        attempts: int64
        outcome: string
        output_mode: string
        created_at: timestamp[us]
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "runs": """
        run_id: string
        kind: string
        model: string
        config: string
        versions: string
        started_at: timestamp[us]
        ended_at: timestamp[us]
        outcome: string
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "attempts": """
        run_id: string
        attempt: int64
        resumed_step: int64
        started_at: timestamp[us]
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "rollouts": """
        run_id: string
        step: int64
        problem_id: string
        slot: int64
        sample: int64
        variant_id: string
        reward: double
        accuracy: double
        advantage: double
        completion_tokens: int64
        attempt: int64
        completion: string
        reward_parts: string
        finish: string
        graded_outcome: string
        graded_answer: string
        graded_how: string
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "prompts": """
        run_id: string
        problem_id: string
        variant_id: string
        hint_style: string
        prompt: string
        opening: string
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "difficulty_events": """
        run_id: string
        step: int64
        problem_id: string
        old_difficulty: double
        new_difficulty: double
        accuracy: double
        rollouts: int64
        rule: string
        uncertainty: double
        chosen: string
        attempt: int64
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "train_steps": """
        run_id: string
        step: int64
        seconds: double
        cpu_seconds: double
        rollouts: int64
        groups: int64
        silent_groups: int64
        problems: int64
        silent_problems: int64
        completion_tokens: int64
        loss: double
        grad_norm: double
        grad_noise: double
        entropy: double
        attempt: int64
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "evaluations": """
        run_id: string
        step: int64
        split: string
        problem_id: string
        samples: int64
        correct: int64
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "decisions": """
        flow_run_id: string
        problem_id: string
        wanted_delta: double
        nearest_delta: double
        kinds: list<item: string>
        requested: int64
        made: int64
        accepted: int64
        created_at: timestamp[us]
        training_run: string
        outcome: string
        recorded_at: timestamp[us]
        record_no: int32
    """,
    "settings": """
        name: string
        value: string
        recorded_at: timestamp[us]
        record_no: int32
    """,
}

# Views with the columns that are the project's public interface, and the columns of each key.
CONTRACT = {
    "problems": "problem_id source split text answer options images solution_steps human_level ingested_at",
    "rejects": "source row_number reason raw rejected_at",
    "variants": "variant_id problem_id kind text hint_steps hint recipe delta_designed delta_measured delta_low "
    "delta_high delta status reason generator_model prompt_version created_at",
    "shortages": "problem_id kind",
    "verdicts": "variant_id check_name model sample passed detail created_at",
    "labels": "subject_id solver_model subject_kind samples correct pass_rate difficulty difficulty_low "
    "difficulty_high created_at",
    "calls": "request_hash purpose endpoint model problem_id prompt_tokens completion_tokens reasoning_tokens cost_usd "
    "latency_s attempts outcome output_mode created_at",
    "runs": "run_id kind model config versions started_at ended_at outcome seconds scored_step accuracy",
    "costs": "run_id kind model purpose calls failures prompt_tokens completion_tokens cost_usd",
    "ladders": "problem_id solution_steps hints accepted steps pass_rates original_pass_rate",
    "groups": "run_id step problem_id slot variant_id rollouts rewards reward accuracy silent silent_why "
    "completion_tokens unjudged truncated no_answer",
    "rollouts": "run_id step problem_id slot sample variant_id reward accuracy advantage completion_tokens attempt "
    "completion reward_parts finish graded_outcome graded_answer graded_how",
    "prompts": "run_id problem_id variant_id hint_style prompt opening",
    "difficulty_events": "run_id step problem_id old_difficulty new_difficulty accuracy rollouts rule attempt",
    "live_difficulty": "run_id problem_id difficulty uncertainty step",
    "train_steps": "run_id step seconds cpu_seconds rollouts groups silent_groups silent_problems completion_tokens "
    "loss grad_norm grad_noise entropy attempt",
    "evaluations": "run_id step split problem_id samples correct",
    "decisions": "flow_run_id problem_id wanted_delta nearest_delta kinds requested made accepted created_at "
    "training_run outcome",
}
KEYS = {
    "problems": "problem_id",
    "rejects": "source row_number",
    "variants": "variant_id",
    "shortages": "problem_id kind",
    "verdicts": "variant_id check_name model sample",
    "labels": "subject_id solver_model",
    "calls": "request_hash",
    "runs": "run_id",
    "attempts": "run_id attempt",
    "rollouts": "run_id step problem_id slot sample",
    "prompts": "run_id problem_id variant_id hint_style",
    "difficulty_events": "run_id step problem_id",
    "train_steps": "run_id step",
    "evaluations": "run_id step split problem_id",
    "decisions": "flow_run_id problem_id",
    "settings": "name",
}
TYPES = {
    ("problems", "options"): "VARCHAR[]",
    ("problems", "images"): "STRUCT(hash VARCHAR, width BIGINT, height BIGINT)[]",
    ("problems", "solution_steps"): "VARCHAR[]",
    ("problems", "human_level"): "DOUBLE",
    ("problems", "ingested_at"): "TIMESTAMP",
    ("variants", "hint_steps"): "INTEGER",
    ("variants", "hint"): "VARCHAR[]",
    ("variants", "recipe"): "JSON",
    ("variants", "delta"): "DOUBLE",
    ("verdicts", "passed"): "BOOLEAN",
    ("runs", "config"): "JSON",
    ("runs", "versions"): "JSON",
    ("decisions", "kinds"): "VARCHAR[]",
    ("groups", "rewards"): "DOUBLE[]",
    ("groups", "silent"): "BOOLEAN",
    ("ladders", "steps"): "INTEGER[]",
    ("ladders", "pass_rates"): "DOUBLE[]",
}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.table)
def test_arrow_schema_is_pinned(record: type[Record]) -> None:
    columns = [f"{field.name}: {field.type}" for field in arrow_schema(record)]
    assert columns == [line.strip() for line in ARROW[record.table].strip().splitlines()]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.table)
def test_key_columns(record: type[Record]) -> None:
    assert " ".join(record.key) == KEYS[record.table]
    assert set(record.key) <= set(record.model_fields)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    return VariantStore(tmp_path_factory.mktemp("empty") / "store", create=True)


@pytest.mark.parametrize("view", CONTRACT)
def test_every_view_of_the_contract_answers_on_an_empty_store(empty_store: VariantStore, view: str) -> None:
    columns = ", ".join(CONTRACT[view].split())
    assert empty_store.query(f"SELECT {columns} FROM {view}") == []


def test_all_views_are_listed(empty_store: VariantStore) -> None:
    with empty_store.connect() as connection:
        found = {name for (name,) in connection.execute("SHOW TABLES").fetchall()}
    assert found == set(view_names()) == {*ARROW, *CONTRACT}


def test_types_of_the_views(empty_store: VariantStore) -> None:
    with empty_store.connect() as connection:
        rows = connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns()"
        ).fetchall()
    found = {(table, column): kind for table, column, kind in rows}
    assert {place: found[place] for place in TYPES} == TYPES


def test_every_column_of_a_record_is_in_its_view(empty_store: VariantStore) -> None:
    with empty_store.connect() as connection:
        for record in RECORDS:
            view = connection.sql(f"FROM {record.table}").columns
            assert set(record.model_fields) <= set(view), record.table


@pytest.mark.parametrize("config", [TeacherConfig, GenerateConfig, VerifyConfig, LabelConfig, CurateConfig])
def test_misspelt_setting_is_an_error(config: type[Config]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        config.model_validate({"modle": "x"})
    with pytest.raises(ValidationError, match=r"there is no setting '\{x\}' \["):
        config.model_validate({"{x}": "x"})


def test_misspelt_column_of_a_record_is_an_error() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Setting.model_validate({"name": "a", "value": "b", "valeu": "c"})


def test_misspelt_column_of_a_mapping_is_an_error() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ColumnMapping.model_validate({"anwser": "a"})


def test_additional_field_of_a_reply_is_left_out() -> None:
    read = ThinkSteps.model_validate({"steps": [], "answer": "1", "note": "hm"})
    assert read == ThinkSteps(steps=[], answer="1")


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (TeacherConfig, {"model": "m", "concurrency": 0}),
        (TeacherConfig, {"model": "m", "timeout_s": 0}),
        (TeacherConfig, {"model": "m", "output_mode": "xml"}),
        (GenerateConfig, {"kinds": ["rewrod"]}),
        (VerifyConfig, {"checks": ["spelling"]}),
        (LabelConfig, {"samples": 0}),
    ],
)
def test_impossible_values_are_errors(config: type[Config], values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config.model_validate(values)


def test_every_setting_is_described() -> None:
    for config in (TeacherConfig, GenerateConfig, VerifyConfig, LabelConfig):
        assert all(field.description for field in config.model_fields.values()), config


def test_configuration_survives_json() -> None:
    config = CurateConfig(store=Path("runs/store"), teacher=TeacherConfig(model="m"), limit=3)
    assert CurateConfig.model_validate_json(config.model_dump_json()) == config


def test_what_is_kept_of_a_configuration_has_no_secret() -> None:
    url = "https://user:hunter2@host:8000/v1?key=hunter2"
    config = CurateConfig(
        store=Path("s"),
        teacher=TeacherConfig(model="m", base_url=url, endpoint="e", routes=(Route(base_url=url),)),
        verify=VerifyConfig(judge_base_url=url),
    )
    kept = config.model_dump_json()
    assert "hunter2" not in kept
    assert kept.count('"https://host:8000/v1"') == 3
    assert config.teacher.base_url == url
    assert '"base_url":"https://host/v1@2"' in Route(base_url="https://host/v1@2").model_dump_json()


def test_records_cannot_be_edited() -> None:
    problem = Problem(problem_id="a/1", source="a", split="train", text="?", answer="1")
    with pytest.raises(ValidationError, match="frozen"):
        problem.answer = "2"
