"""What is exported is read and scored as veRL, EasyR1 and TRL do it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage
from trl import SFTConfig, SFTTrainer
from trl.rewards import accuracy_reward

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.export import export
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import ExportConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Image, Kind, Label, Problem, Setting, Variant
from tests.support.source_files import png


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """30 solved problems of GSM8K with labels from 0 to 1, one with an image and options of another source."""
    store = VariantStore(tmp_path_factory.mktemp("trainers") / "store", create=True)
    picture = Image(hash=store.put_image(png(40, 30), "PNG"), width=40, height=30)
    store.append(
        [
            Problem(
                problem_id=f"gsm8k/{i}",
                source="gsm8k",
                split="train",
                text=f"What is {i} + 1?",
                answer=str(i + 1),
                solution_steps=[f"{i} + 1 = {i + 1}"],
            )
            for i in range(30)
        ]
        + [
            Problem(
                problem_id="mine/0",
                source="mine",
                split="train",
                text="<image>Which?",
                answer="B",
                options=["3", "4"],
                images=[picture],
            )
        ]
    )
    made: dict[str, Any] = {"status": "accepted", "generator_model": "t", "prompt_version": "p"}
    store.append(
        [
            Variant(
                variant_id="gsm8k/0:reword:0",
                problem_id="gsm8k/0",
                kind=Kind.REWORD,
                text="0 + 1 is?",
                **made,
            ),
            Variant(
                variant_id="gsm8k/0:harder:0",
                problem_id="gsm8k/0",
                kind=Kind.HARDER,
                text="0 + 1 + 0?",
                **made,
            ),
        ]
    )
    store.append([_label(i) for i in range(21)])
    store.append([Setting(name="label_model", value="p")])
    return store


def _label(i: int) -> Label:
    return Label(
        subject_id=f"gsm8k/{i}",
        solver_model="p",
        subject_kind="original",
        samples=20,
        correct=i,
        pass_rate=i / 20,
        difficulty=5.0,
        difficulty_low=4.0,
        difficulty_high=6.0,
    )


def exported(store: VariantStore, out: Path, **config: Any) -> list[dict[str, Any]]:
    export(store, out, ExportConfig.model_validate(config))
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


# --- veRL


def test_verl_knows_the_names_of_known_sets(store: VariantStore, tmp_path: Path) -> None:
    out = tmp_path / "w.parquet"
    rows = exported(store, out, preset="verl", where="source = 'gsm8k'")
    assert {row["data_source"] for row in rows} == {"openai/gsm8k"}
    assert list(tmp_path.iterdir()) == [out]  # veRL has a rule of its own
    named = exported(store, tmp_path / "n.parquet", preset="verl", data_source="lighteval/MATH")
    assert {row["data_source"] for row in named} == {"lighteval/MATH"}


def test_other_sets_have_a_reward_file(store: VariantStore, tmp_path: Path) -> None:
    out = tmp_path / "w.parquet"
    arguments = [
        "export",
        str(out),
        "--store",
        str(store.root),
        "--preset",
        "verl",
        "--where",
        "source = 'mine'",
    ]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    path = tmp_path / "w.parquet.reward.py"
    prefix = "reward.custom_reward_function"
    line = f"{prefix}.path={path} {prefix}.name=compute_score"
    assert line in result.stderr
    assert line in path.read_text("utf-8")
    specification = importlib.util.spec_from_file_location("reward", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    (row,) = pq.read_table(out).to_pylist()
    for said, score in (
        ("It is \\boxed{B}.", 1.0),
        ("It is \\boxed{4}.", 1.0),
        ("It is \\boxed{A}.", 0.0),
        ("", 0.0),
    ):
        truth = row["reward_model"]["ground_truth"]
        assert module.compute_score(row["data_source"], said, truth, extra_info=row["extra_info"]) == score


# --- verifiers


def test_verifiers_gets_a_package_whose_rows_are_inside_its_module(
    store: VariantStore, tmp_path: Path
) -> None:
    report = export(store, tmp_path / "Word-sums", ExportConfig(preset="verifiers"))
    assert report.notes == (f"install it beside verifiers: pip install {tmp_path / 'Word-sums'}",)
    folder = tmp_path / "Word-sums"
    rows = pq.read_table(folder / "word_sums" / "data" / "train-00000-of-00001.parquet").to_pylist()
    assert rows[-1]["prompt"] == "<image>Which?\n(A) 3\n(B) 4"
    assert rows[-1]["options"] == ["3", "4"]
    assert len(rows[-1]["images"]) == 1
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["name"] == "word-sums"
    assert project["tool"]["setuptools"]["packages"] == ["word_sums"]
    exported = ast.parse((folder / "word_sums" / "__init__.py").read_text("utf-8"))
    assert any(isinstance(node, ast.ClassDef) and node.name == "Taskset" for node in ast.walk(exported))
    card = (folder / "README.md").read_text("utf-8")
    assert "vf-eval word-sums" in card
    assert "kinds to load: `harder`, `original`, `reword`" in card
    assert datasets.load_dataset(str(folder))["train"].num_rows == len(rows)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("math", "math is taken"),
        ("verifiers", "verifiers is taken"),
        ("2nd", "must begin with a letter"),
        ("rows.parquet", "writes a package: name a folder"),
    ],
)
def test_a_package_needs_a_folder_with_a_free_name(
    store: VariantStore, tmp_path: Path, out: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(store, tmp_path / out, ExportConfig(preset="verifiers"))
    assert not any(tmp_path.iterdir())


# --- EasyR1


def test_a_folder_for_easyr1_is_read_by_any_of_its_files(
    store: VariantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `RLHFDataset.__init__` of EasyR1 (verl/utils/dataset.py) does it: the first file names the format."""
    out = tmp_path / "out"
    export(store, out, ExportConfig(preset="easyr1", shard_rows=20))
    assert len(os.listdir(out)) == 2
    for name in os.listdir(out):
        file_type = os.path.splitext(name)[-1][1:].replace("jsonl", "json")
        rows = datasets.load_dataset(
            file_type, data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(rows) == 33
        assert [row["images"][0].size for row in rows if row["images"]] == [(40, 30)]
    assert "license" in (tmp_path / "out.README.md").read_text("utf-8")


@pytest.mark.parametrize("preset", ["verl", "easyr1", None])
def test_images_of_json_lines_open_from_anywhere(
    store: VariantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str | None
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    rows = exported(store, Path("t.jsonl"), preset=preset)
    monkeypatch.chdir(tmp_path / "elsewhere")
    (path,) = [image for row in rows for image in row["images"]]
    assert PillowImage.open(path).size == (40, 30)


# --- TRL


def test_trl_scores_own_answers(store: VariantStore, tmp_path: Path) -> None:
    rows = exported(store, tmp_path / "w.parquet", preset="trl", what="problems", where="source = 'gsm8k'")
    solutions = [row["solution"] for row in rows]
    for offset, score in ((0, 1.0), (1, 0.0)):
        said = [f"So it is $\\boxed{{{int(row['answer']) + offset}}}$." for row in rows]
        completions = [[{"role": "assistant", "content": text}] for text in said]
        assert accuracy_reward(completions, solution=solutions) == [score] * 30


def test_sft_rows_are_what_the_solution_solves(store: VariantStore, tmp_path: Path) -> None:
    rows = exported(store, tmp_path / "w.parquet", preset="sft")
    assert {row["kind"] for row in rows} == {"original", "reword"}
    assert len(rows) == 31
    first = next(row for row in rows if row["kind"] == "reword")
    assert first["prompt"] == [{"role": "user", "content": "0 + 1 is?"}]
    said = "0 + 1 = 1\n\nThe answer is $\\boxed{1}$."
    assert first["completion"] == [{"role": "assistant", "content": said}]
    text = exported(store, tmp_path / "t.parquet", preset="sft", prompt="text")
    assert text[0]["completion"].endswith("}$.")


def test_sft_rows_train(store: VariantStore, tmp_path: Path, chat_model_path: Path) -> None:
    export(store, tmp_path / "out", ExportConfig(preset="sft"))
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    config = SFTConfig(
        output_dir=str(tmp_path / "trained"),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to="none",
        save_strategy="no",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SFTTrainer(str(chat_model_path), args=config, train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[-1]["train_loss"] > 0


# --- which rows


def test_rows_by_pass_rate_and_as_many_at_random(store: VariantStore, tmp_path: Path) -> None:
    config = ExportConfig(preset="trl", pass_rate="0.1:0.8", control=True)
    report = export(store, tmp_path / "w.parquet", config)
    rows = pq.read_table(tmp_path / "w.parquet").to_pylist()
    assert {row["problem_id"] for row in rows} == {f"gsm8k/{i}" for i in range(2, 17)}
    assert report.control is not None
    assert report.control.rows == report.rows == {"train": 15}
    drawn = {row["problem_id"] for row in pq.read_table(tmp_path / "w.control.parquet").to_pylist()}
    assert drawn <= {f"gsm8k/{i}" for i in range(21)}
    assert drawn & {f"gsm8k/{i}" for i in (0, 1, 17, 18, 19, 20)}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"control": True}, "--control goes with --pass-rate"),
        ({"pass_rate": "0.8:0.1"}, "the lower rate comes first"),
        ({"pass_rate": "0.93:0.94"}, "by the labels of `diva label`"),
        ({"pass_rate": "0:1", "what": "labels"}, "--pass-rate goes with --what"),
        ({"data_source": "x", "preset": "trl"}, "--data-source goes with --preset verl"),
    ],
)
def test_mistakes(store: VariantStore, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(store, tmp_path / "w.parquet", ExportConfig.model_validate(config))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "is_file"), [("w.parquet", True), ("w.jsonl", True), ("w", False)])
def test_the_ending_says_the_format(store: VariantStore, tmp_path: Path, name: str, is_file: bool) -> None:
    out = tmp_path / "out" / name
    result = CliRunner().invoke(cli, ["export", str(out), "--store", str(store.root)], catch_exceptions=False)
    assert result.exit_code == 0
    assert out.is_file() == is_file
