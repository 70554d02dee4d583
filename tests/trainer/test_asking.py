"""Training, `diva eval` and `diva label` ask the policy alike, or say where they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaForCausalLM

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import PolicyConfig, PolicyOptions
from diva_grpo.schemas.question import question_of
from diva_grpo.schemas.records import Problem, Variant
from diva_grpo.trainer.asking import known_policy
from diva_grpo.trainer.evaluation.policy import PolicySolver
from diva_grpo.trainer.train import TrainResult
from diva_grpo.trainer.train import main as train
from tests.support.endpoints import Endpoint, completion, serving
from tests.support.tiny_text_model import CHAT_TEMPLATE, add_labels, planted_store, tiny_model

OWN = {"do_sample": True, "repetition_penalty": 1.3, "min_p": 0.2, "top_p": 0.5, "no_repeat_ngram_size": 2}
"""What the models here say of sampling themselves."""

ASKED: dict[str, Any] = {
    "temperature": 0.9,
    "top_k": 7,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "generation_kwargs": '{"min_new_tokens": 2}',
    "max_completion_length": 4,
    "system_prompt": "Be brief.",
    "instruction": "\nFor $1, box it.",
    "chat_template_kwargs": '{"enable_thinking": false}',
    "hint_style": "prefix",
    "num_variants": 1,
    "hint_opening": "<think>",
    "difficulty_init": "labels",
}


@pytest.fixture(scope="module")
def thinking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model whose template has an argument, and which has a generation_config of its own."""
    path = tiny_model(tmp_path_factory.mktemp("thinking"), chat=True)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "<assistant>",
        "<assistant>{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
    )
    tokenizer.save_pretrained(path)
    _set_generation(path, OWN)
    return path


def _set_generation(path: Path, own: dict[str, Any]) -> None:
    file = path / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **own}))


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, thinking_model: Path
) -> tuple[VariantStore, Path, TrainResult, list[tuple[str, dict[str, Any]]]]:
    """A store, a folder, a run of one step, and each prompt with the sampling that `generate` applied to it."""
    root = tmp_path_factory.mktemp("trained")
    store = planted_store(root / "store")
    add_labels(store, 8.5)  # hard ones get think steps
    with pytest.MonkeyPatch.context() as patch:
        seen = _watch(patch, thinking_model)
        result = _train(store, thinking_model, root / "out", **ASKED)
    return store, root / "out", result, seen


def _train(store: VariantStore, model: Path, folder: Path, **settings: Any) -> TrainResult:
    words = (
        "per_device_train_batch_size=16 num_generations=4 bf16=false use_cpu=true save_steps=1 max_steps=1"
    )
    words += " gradient_checkpointing=false report_to=none dtype=float32 disable_tqdm=true"
    flags = [part for setting in words.split() for part in f"--{setting}".split("=")]
    flags += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    paths = ["--store", str(store.root), "--model_name_or_path", str(model), "--output_dir", str(folder)]
    return train([*paths, *flags])


def _watch(patch: pytest.MonkeyPatch, path: Path) -> list[tuple[str, dict[str, Any]]]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    seen: list[tuple[str, dict[str, Any]]] = []
    generate = LlamaForCausalLM.generate

    def watched(self: Any, *args: Any, **given: Any) -> Any:
        applied, _ = self._prepare_generation_config(given["generation_config"])
        sampled = {
            k: v for k, v in applied.to_dict().items() if k not in ("transformers_version", "use_cache")
        }
        for ids in given["input_ids"]:
            text = str(tokenizer.decode(ids[ids != tokenizer.pad_token_id]))
            seen.append((text, sampled))
        return generate(self, *args, **given)

    patch.setattr(LlamaForCausalLM, "generate", watched)
    return seen


def test_evaluation_asks_as_training_did(
    trained: tuple[VariantStore, Path, TrainResult, list[tuple[str, dict[str, Any]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, folder, _, in_training = trained
    seen = _watch(monkeypatch, folder)
    solver = PolicySolver(str(folder / "checkpoint-1"))
    problems = {problem.problem_id: problem for problem in store.read(Problem)}
    questions = [question_of(problem) for problem in problems.values()]
    questions += [question_of(problems[variant.problem_id], variant) for variant in store.read(Variant)]
    solver.solve(questions, 1)
    prompts = {text for text, _ in in_training}
    assert prompts <= {text for text, _ in seen}
    assert any("<think></think><think>" in text for text in prompts), (
        "the template's argument, and an opened answer"
    )
    assert all("<system>Be brief." in text and "For $1, box it." in text for text in prompts)
    assert seen[0][1] == in_training[0][1]
    assert in_training[0][1]["repetition_penalty"] == 1.1
    assert in_training[0][1]["min_p"] is None
    assert in_training[0][1]["no_repeat_ngram_size"] == 0
    assert in_training[0][1]["min_new_tokens"] == 2


def test_how_it_is_asked_is_kept_with_the_run(
    trained: tuple[VariantStore, Path, TrainResult, list[Any]],
) -> None:
    store, folder, result, _ = trained
    policy = known_policy(str(folder))
    assert policy is not None
    assert policy == known_policy(str(folder / "checkpoint-1"))
    assert (policy.repetition_penalty, policy.max_new_tokens, policy.hint_opening) == (1.1, 4, "<think>")
    [(kept,)] = store.query("SELECT config->'policy' FROM runs WHERE run_id = ?", [result.run_id])
    assert PolicyConfig.from_kept(json.loads(kept)) == policy
    assert PolicyConfig.from_kept({**json.loads(kept), "of_a_later_version": 1}) == policy


def test_the_models_own_settings_are_saved_with_it(
    trained: tuple[VariantStore, Path, TrainResult, list[Any]],
) -> None:
    for folder in (trained[1], trained[1] / "checkpoint-1"):
        saved = json.loads((folder / "generation_config.json").read_text())
        assert {name: saved.get(name) for name in OWN} == OWN


def test_eval_says_what_it_asks_otherwise(
    trained: tuple[VariantStore, Path, TrainResult, list[Any]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    store, folder, _, _ = trained
    common = ["eval", "--store", str(store.root), "--split", "train", "--limit", "1"]
    asked = [*common, "--model", str(folder), "--output", str(tmp_path / "figures.json")]
    cli.main(asked, standalone_mode=False)
    said = capsys.readouterr().err
    assert "otherwise" not in said
    assert (
        "generation_config is not applied, as in training: it has top_p 0.5, min_p 0.2, repetition_penalty 1.3"
        in said
    )
    settings = json.loads((tmp_path / "figures.json").read_text())["settings"]
    assert (settings["temperature"], settings["top_k"], settings["max_new_tokens"]) == (0.9, 7, 4)
    cli.main([*asked, "--temperature", "0", "--instruction", "Box it."], standalone_mode=False)
    said = capsys.readouterr().err
    assert "asked otherwise than in training" in said
    assert "temperature 0.0 instead of 0.9" in said
    assert 'instruction "Box it." instead of' in said


def test_another_chat_template_is_said(
    trained: tuple[VariantStore, Path, TrainResult, list[Any]], tmp_path: Path
) -> None:
    other = shutil.copytree(trained[1] / "checkpoint-1", tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(other)
    [said, _] = PolicySolver(str(other)).remarks()
    assert "chat_template" in said


def test_answers_do_not_depend_on_the_models_generation_config(model_path: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model_path, tmp_path / "other")
    _set_generation(other, OWN)
    questions = [question_of(Problem(problem_id="a", source="s", split="t", text="2 + 2", answer="4"))]
    answers = [PolicySolver(str(path), max_new_tokens=24).solve(questions, 4) for path in (model_path, other)]
    assert answers[0] == answers[1]
    greedy = PolicySolver(str(other), max_new_tokens=48, temperature=0).solve(questions, 1)
    penalized = PolicySolver(str(other), max_new_tokens=48, temperature=0, repetition_penalty=1.3)
    assert penalized.solve(questions, 1) != greedy


def test_an_endpoint_is_asked_as_a_run_was(
    trained: tuple[VariantStore, Path, TrainResult, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, _, result, _ = trained
    with serving(Endpoint(completion("4"))) as served:
        common = [
            "label",
            "--store",
            str(store.root),
            "--base-url",
            served.url,
            "--model",
            "p",
            "--as-policy",
        ]
        common += ["--samples", "1", "--limit", "1"]
        cli.main([*common, "--as-run", result.run_id, "--temperature", "0.5"], standalone_mode=False)
        request = served.requests[0]
        expected = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "0 + 3 + 1 = ?\nFor $1, box it."},
        ]
        assert expected in [asked["messages"] for asked in served.requests]
        wanted = {
            "temperature": 0.5,
            "max_tokens": 4,
            "top_k": 7,
            "top_p": 0.95,
            "repetition_penalty": 1.1,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        assert {name: request.get(name) for name in wanted} == wanted
        said = capsys.readouterr().err
        assert "temperature 0.5 instead of 0.9" in said
        assert "think steps stand in the question" in said
        with pytest.raises(ConfigError, match="--as-run nothing: the store has no training run"):
            cli.main([*common, "--as-run", "nothing"], standalone_mode=False)


def test_label_asks_a_local_policy_as_in_training(
    trained: tuple[VariantStore, Path, TrainResult, list[tuple[str, dict[str, Any]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, folder, _, in_training = trained
    seen = _watch(monkeypatch, folder)
    arguments = ["label", "--store", str(store.root), "--policy", str(folder), "--samples", "1"]
    cli.main(arguments, standalone_mode=False)
    assert {text for text, _ in in_training} <= {text for text, _ in seen}
    assert seen[0][1] == in_training[0][1]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("system_prompt", "Be brief.", "no chat template, so a system prompt would have no effect"),
        ("chat_template_kwargs", '{"enable_thinking": false}', "no chat template, so chat_template_kwargs"),
    ],
)
def test_what_needs_a_chat_template_is_refused_without_one(
    option: str, value: str, words: str, model_path: Path, tmp_path: Path
) -> None:
    store = planted_store(tmp_path / "store")
    flag = f"--{option.replace('_', '-')}"
    with pytest.raises(ConfigError, match=words):
        _train(store, model_path, tmp_path / "out", **{option: value})
    for command in (
        ["eval", "--model", str(model_path), "--split", "train"],
        ["label", "--policy", str(model_path)],
    ):
        with pytest.raises(ConfigError, match=words):
            cli.main([*command, "--store", str(store.root), flag, value], standalone_mode=False)
    assert store.query("SELECT count(*) FROM runs WHERE outcome = 'ok'") == [(0,)]


def test_options_are_of_what_is_kept() -> None:
    assert PolicyOptions.model_fields.keys() <= PolicyConfig.model_fields.keys()
    every = {"temperature": 0.0, "chat_template_kwargs": '{"a": 1}', "hint_style": "prefix"}
    asked = PolicyConfig(temperature=1.0).asked_with(PolicyOptions.model_validate(every))
    assert (asked.temperature, asked.chat_template_kwargs, asked.hint_style) == (0.0, {"a": 1}, "prefix")
