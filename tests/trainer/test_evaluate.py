"""The policy as a solver, with and without images; scores with their standard errors; `diva eval`."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from diva_grpo.flows.cli import cli, main
from diva_grpo.pipeline.images.shown import Shown
from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import LabelConfig
from diva_grpo.schemas.exceptions import ConfigError, StoreError
from diva_grpo.schemas.mapping import PRESETS
from diva_grpo.schemas.question import Question, place_images
from diva_grpo.schemas.records import Evaluation, Image, Label, Problem, Setting, Variant
from diva_grpo.schemas.replies import Answer
from diva_grpo.trainer.checkpoints import training_step
from diva_grpo.trainer.evaluation.policy import PolicySolver
from diva_grpo.trainer.evaluation.score import (
    accepted_variants,
    chosen_kinds,
    evaluate,
    score,
)
from tests.support.sessions import label
from tests.support.tiny_text_model import planted_store
from tests.support.tiny_vision_model import IMAGE_TOKENS, tiny_vision_model

DATA = Path(__file__).parents[2] / "data"
FIGURES = PRESETS["sharevl"].model_copy(update={"name": None})


@pytest.fixture(scope="module")
def vision_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision_model(tmp_path_factory.mktemp("tiny-vision"))


@pytest.fixture
def figures(tmp_path: Path) -> VariantStore:
    """Four of the project's own figures, as problems for testing."""
    store = VariantStore(tmp_path / "figures", create=True)
    ingest(store, str(DATA / "figures.jsonl"), FIGURES, split="test", limit=4)
    return store


class Scripted:
    """Answers as a table says: to a question, the number of right answers."""

    reads_images = True

    def __init__(self, correct: dict[str, int]) -> None:
        self._correct = correct
        self.asked: list[Question] = []

    def solve(self, questions: Sequence[Question], samples: int, progress: Any = None) -> list[list[Any]]:
        self.asked = list(questions)
        right = [self._correct.get(question.subject_id, 0) for question in questions]
        return [
            [Answer(None, f"\\boxed{{{q.answer}}}")] * n + [Answer(None, "\\boxed{-1}")] * (samples - n)
            for q, n in zip(questions, right, strict=True)
        ]


def run(*arguments: str) -> None:
    cli.main([*arguments], standalone_mode=False)


# --- scores


@given(st.lists(st.integers(0, 4), min_size=2, max_size=20))
def test_score_against_counting_by_hand(correct: list[int]) -> None:
    result = score(correct, 4)
    shares = [c / 4 for c in correct]
    assert result.pass_at_1 == pytest.approx(statistics.mean(shares))
    assert result.standard_error == pytest.approx(statistics.stdev(shares) / len(shares) ** 0.5)
    answers = [[1] * c + [0] * (4 - c) for c in correct]
    pairs = [statistics.mean(max(pair) for pair in itertools.combinations(a, 2)) for a in answers]
    assert result.pass_at_k[2] == pytest.approx(statistics.mean(pairs))
    assert result.pass_at_k_error[2] == pytest.approx(statistics.stdev(pairs) / len(pairs) ** 0.5)
    assert result.pass_at_k[1] == pytest.approx(result.pass_at_1)
    assert list(result.pass_at_k) == [1, 2, 4]


def test_variants_weigh_by_problem_and_are_compared_with_their_own_originals(tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=3)
    problems = store.problems()
    variants = accepted_variants(store, problems, ["reword", "think_step"])[
        :-2
    ]  # the last problem has no hint
    # Originals 0, 2, 4 of 4; rewordings 2 each; hints (4 and 2) and (4 and 4).
    correct = {"sums/001": 2, "sums/002": 4} | {f"sums/00{i}:reword:0": 2 for i in range(3)}
    correct |= {f"sums/00{i}:think_step:{j}": 4 for i in range(2) for j in (1, 2)}
    correct["sums/000:think_step:2"] = 2
    solver: Any = Scripted(correct)
    report = evaluate(store, solver, problems, samples=4, run_id="r", step=3, variants=variants)
    assert report.overall.pass_at_1 == pytest.approx(0.5)
    reworded, hinted = report.by_kind["reword"], report.by_kind["think_step"]
    assert reworded.gain == pytest.approx(0)
    assert reworded.gain_error == pytest.approx(statistics.stdev([0.5, 0, -0.5]) / 3**0.5)
    assert (hinted.variants.problems, hinted.variants.questions) == (2, 4)
    assert hinted.variants.pass_at_1 == pytest.approx((0.75 + 1) / 2)
    assert hinted.originals.pass_at_1 == pytest.approx((0 + 0.5) / 2)
    assert hinted.gain == pytest.approx((0.75 + 0.5) / 2)
    asked = {question.subject_id: question for question in solver.asked}
    assert asked["sums/001:think_step:2"].hint == ("1 + 3 = 4", "4 + 1 = 5")
    assert asked["sums/001:reword:0"].text == "What is 1 + 3 + 1?"
    # Rows are of originals alone.
    rows = {row.problem_id: row.correct for row in store.read(Evaluation)}
    assert rows == {"sums/000": 0, "sums/001": 2, "sums/002": 4}


def test_bands_are_of_the_label_else_of_the_sources_level(tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    common: dict[str, Any] = {"source": "s", "split": "test", "text": "?", "answer": "1"}
    levels = {"a": 3.0, "b": 3.0, "c": 10.0, "d": None, "e": None, "f": None, "g": 3.0}
    store.append([Problem(problem_id=name, human_level=level, **common) for name, level in levels.items()])
    measured = {"e": 3.9, "f": 4.0, "g": 6.1}
    figures: dict[str, Any] = {"subject_kind": "original", "samples": 1, "correct": 0, "pass_rate": 0.0}
    intervals: dict[str, Any] = {"difficulty_low": 1.0, "difficulty_high": 9.0}
    store.append(
        [
            Label(subject_id=name, solver_model=model, difficulty=difficulty, **figures, **intervals)
            for model, labels in (("mine", measured), ("another", {"d": 5.0}))
            for name, difficulty in labels.items()
        ]
    )
    store.append([Setting(name="label_model", value="mine")])
    solver: Any = Scripted({"a": 2, "c": 1, "g": 1})
    report = evaluate(store, solver, store.problems(), samples=2, run_id="r", step=0)
    found = {band: (of.problems, of.pass_at_1) for band, of in report.by_difficulty.items()}
    assert list(found.items()) == [
        ("easy (below 4)", (1, 0.0)),
        ("medium (4 to 6)", (1, 0.0)),
        ("hard (above 6)", (1, 0.5)),
        ("level 3", (2, 0.5)),
        ("level 10", (1, 0.5)),
    ]
    lines = report.tables().splitlines()
    assert lines[0].split() == ["problems", "pass@1", "pass@2"]
    assert lines[2].split() == ["all", "7", "0.286", "±", "0.149", "0.429", "±", "0.202"]
    assert len({len(line.rstrip()) for line in lines[:2]}) == 1, "columns are aligned"
    figures_of_c = json.loads(json.dumps(report.figures(), allow_nan=False))["by_difficulty"]["level 10"]
    assert (figures_of_c["standard_error"], figures_of_c["pass_at_k"]) == (None, {"1": 0.5, "2": 1.0})


def test_answers_that_could_not_be_made_are_counted(tmp_path: Path, model_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=1)
    picture = Image(hash="ab" * 32, width=1, height=1)
    problem = store.problems()[0].model_copy(update={"images": [picture]})
    solver = PolicySolver(str(model_path), max_new_tokens=2)
    report = evaluate(store, solver, [problem], samples=3, run_id="r", step=0)
    assert (report.ungraded, report.overall.pass_at_1) == (3, 0.0)
    assert math.isnan(report.overall.standard_error)


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        ("", []),
        ("think_step, reword,think_step", ["think_step", "reword"]),
        ("all", ["reword", "harder", "think_step", "image", "image_text", "composite"]),
    ],
)
def test_kinds_by_name(names: str, kinds: list[str]) -> None:
    assert chosen_kinds(names) == kinds


# --- a policy of text


def test_answers_are_in_order_whatever_their_length(model_path: Path) -> None:
    solver = PolicySolver(str(model_path), hint_style="prefix", max_new_tokens=4, batch_size=3)
    questions = [
        Question(str(i), str(i), "x" * (7 * (5 - i) % 11 + 1), "1", hint=(f"step {i}",)) for i in range(5)
    ]
    answers = solver.solve(questions, 2)
    assert [len(given) for given in answers] == [2] * 5
    for i, given_answers in enumerate(answers):
        assert all(answer.text.startswith(f"step {i}\n") for answer in given_answers)
    assert answers == solver.solve(questions, 2), "the same seed, the same answers"


def test_a_chat_policy_answers(chat_model_path: Path) -> None:
    [[answer]] = PolicySolver(str(chat_model_path), max_new_tokens=3).solve(
        [Question("a", "a", "2 + 2", "4")], 1
    )
    assert answer.failure is None
    assert answer.text


def test_the_instruction_stands_behind_the_question(
    chat_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = PolicySolver(
        str(chat_model_path), system_prompt="Be brief.", instruction="\nBox it.", max_new_tokens=1
    )
    seen: list[str] = []
    generate = solver._model.generate

    def watched(**inputs: Any) -> Any:
        seen.extend(solver._reader.tokenizer.batch_decode(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(solver._model, "generate", watched)
    solver.solve([Question("a", "a", "2 + 2", "4", options=("3", "4"))], 1)
    assert seen == ["<system>Be brief.</s><user>2 + 2\n(A) 3\n(B) 4\nBox it.</s><assistant>"]


def test_evaluations_and_labels_of_a_policy(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=3)
    solver = PolicySolver(str(model_path), max_new_tokens=3, name="policy")
    report = evaluate(store, solver, store.problems(), samples=2, run_id="r", step=7)
    rows = store.query("SELECT run_id, step, split, count(*), sum(samples) FROM evaluations GROUP BY ALL")
    assert rows == [("r", 7, "train", 3, 6)]
    assert report.overall.problems == 3
    counts = label(store, solver, LabelConfig(samples=2))
    assert counts == {"original": 3, "reword": 3, "think_step": 6}
    assert {row.solver_model for row in store.read(Label)} == {"policy"}
    assert store.setting("label_model") == "policy"


def test_a_lora_adapter_is_a_policy(model_path: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = PolicySolver(str(model_path), max_new_tokens=6, temperature=0)
    model = peft.get_peft_model(
        base._model, peft.LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "adapter")
    base._reader.tokenizer.save_pretrained(tmp_path / "adapter")
    questions = [Question(str(i), str(i), f"{i} + 1 =", "4") for i in range(4)]
    adapted = PolicySolver(str(tmp_path / "adapter"), max_new_tokens=6, temperature=0)
    plain = PolicySolver(str(model_path), max_new_tokens=6, temperature=0)
    assert adapted.solve(questions, 1) != plain.solve(questions, 1)


# --- a policy that sees


@pytest.mark.parametrize(
    ("text", "images", "shown", "order"),
    [
        ("What?", 0, "What?", []),
        ("What?", 2, "##What?", [0, 1]),
        ("<image>\nWhat?", 1, "#\nWhat?", [0]),
        ("Is <image2> in <image1>?", 2, "Is # in #?", [1, 0]),
        ("<image> or <image2>, <image>", 3, "# or #, #", [0, 1, 2]),
        ("<image1>: is <image1> round?", 1, "#: is [image1] round?", [0]),
        ("<image3> <image>", 1, "[image3] #", [0]),
        ("<image><image>", 1, "#[image]", [0]),
        ("Of <image2>.", 3, "##Of #.", [0, 2, 1]),
    ],
)
def test_where_images_stand(text: str, images: int, shown: str, order: list[int]) -> None:
    parts, places = place_images(text, images)
    assert "".join("#" if part["type"] == "image" else part["text"] for part in parts) == shown
    assert places == order


@given(
    st.lists(st.sampled_from(["<image>", "<image1>", "<image2>", "<image9>", "a", " "])), st.integers(0, 3)
)
def test_every_image_is_shown_once(pieces: list[str], images: int) -> None:
    parts, places = place_images("".join(pieces), images)
    assert sorted(places) == list(range(images))
    assert sum(part["type"] == "image" for part in parts) == images
    assert not any("<image" in part.get("text", "") for part in parts)


def test_a_vision_policy_is_scored_on_our_figures(
    vision_path: Path, figures: VariantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = PolicySolver(str(vision_path), max_new_tokens=4, images=figures.image_path)
    seen = []
    generate = solver._model.generate

    def watched(**inputs: Any) -> Any:
        seen.append((inputs["pixel_values"].shape, int((inputs["input_ids"] == 2).sum())))
        return generate(**inputs)

    monkeypatch.setattr(solver._model, "generate", watched)
    report = evaluate(figures, solver, figures.problems(), samples=2, run_id="r", step=1)
    assert seen == [((8, 3, 28, 28), 8 * IMAGE_TOKENS)]
    assert (report.overall.problems, report.ungraded) == (4, 0)
    assert [(row.samples, row.split) for row in figures.read(Evaluation)] == [(2, "test")] * 4


def test_what_is_seen_changes_what_is_said(vision_path: Path, tmp_path: Path) -> None:
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        PillowImage.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")

    def texts(**settings: Any) -> list[str]:
        solver = PolicySolver(
            str(vision_path),
            max_new_tokens=8,
            temperature=0,
            images=lambda name: tmp_path / f"{name}.png",
            **settings,
        )
        asked = [("?", ["red"]), ("?", ["blue"]), ("?", []), ("A longer question?", ["red"])]
        asked += [("<image1> or <image2>?", ["red", "blue"]), ("<image2> or <image1>?", ["red", "blue"])]
        asked += [("<image1> or <image2>?", ["blue", "red"])]
        questions = [Question(str(i), "p", t, "1", image_hashes=tuple(h)) for i, (t, h) in enumerate(asked)]
        return [answer.text for [answer] in solver.solve(questions, 1)]

    said = texts()
    assert len(set(said[:3])) == 3, "the same words about red, blue or nothing"
    assert said[4] != said[5] == said[6], "placeholders name their images"
    assert texts(batch_size=1) == said, "padding and company change nothing"


def test_images_are_opened_a_batch_at_a_time(
    vision_path: Path, figures: VariantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Shown] = []
    original = Shown.open

    def spy(self: Shown) -> Any:
        opened.append(self)
        return original(self)

    monkeypatch.setattr(Shown, "open", spy)
    solver = PolicySolver(str(vision_path), max_new_tokens=1, batch_size=2, images=figures.image_path)
    held: list[int] = []
    hashes = [problem.images[0].hash for problem in figures.problems()]
    questions = [Question(h, h, "?", "1", image_hashes=(h,)) for h in hashes]
    solver.solve(questions, 2, lambda done: held.append(len(opened)))
    assert held == [1, 2, 3, 4], "an image for both of its samples, and no more"


def test_a_vision_policy_in_half_precision_with_a_hint(tmp_path: Path, figures: VariantStore) -> None:
    path = tiny_vision_model(tmp_path / "half", dtype=torch.bfloat16)
    solver = PolicySolver(str(path), hint_style="prefix", max_new_tokens=2, images=figures.image_path)
    digest = figures.problems()[0].images[0].hash
    [[answer]] = solver.solve([Question("a", "a", "?", "1", hint=("First.",), image_hashes=(digest,))], 1)
    assert answer.text.startswith("First.\n")


def test_without_a_place_of_images_none_is_guessed_at(vision_path: Path, figures: VariantStore) -> None:
    solver = PolicySolver(str(vision_path), max_new_tokens=2, name="blind")
    assert not solver.reads_images
    assert label(figures, solver, LabelConfig(samples=2)) == {"unjudged": 4}
    assert figures.read(Label) == []


def test_a_lost_image_is_one_line(vision_path: Path, figures: VariantStore) -> None:
    problems = figures.problems()
    figures.image_path(problems[1].images[0].hash).unlink()
    solver = PolicySolver(str(vision_path), max_new_tokens=2, images=figures.image_path)
    with pytest.raises(StoreError, match=r"is missing from .*: ingest its source again"):
        evaluate(figures, solver, problems, samples=1, run_id="r", step=0)


def test_a_processor_without_a_chat_template_is_refused(vision_path: Path, tmp_path: Path) -> None:
    for file in vision_path.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="has no chat template"):
        PolicySolver(str(tmp_path))


# --- the command


def test_eval_prints_tables_and_writes_all_figures(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = planted_store(tmp_path / "store", problems=3)
    store.append(
        [Problem(problem_id="s/x", source="s", split="train", text="?", answer="1", human_level=2.0)]
    )
    output = tmp_path / "figures.json"
    arguments = ["--store", str(store.root), "--split", "train", "--samples", "2", "--max-new-tokens", "3"]
    run("eval", "--model", str(model_path), *arguments, "--kinds", "all", "--output", str(output))
    shown = capsys.readouterr().out
    figures = json.loads(output.read_text())
    [(run_id, kind, outcome)] = store.query("SELECT run_id, kind, outcome FROM runs")
    assert (kind, outcome) == ("eval", "ok")
    assert f"run {run_id}, step 0" in shown
    assert {row.run_id for row in store.read(Evaluation)} == {run_id} == {figures["run_id"]}
    assert (figures["overall"]["problems"], figures["step"], figures["left_out"]) == (4, 0, 0)
    assert (figures["settings"]["samples"], figures["settings"]["temperature"]) == (2, 1.0)
    assert list(figures["by_difficulty"]) == ["level 2"]
    assert {kind: of["variants"]["questions"] for kind, of in figures["by_kind"].items()} == {
        "reword": 3,
        "think_step": 6,
    }
    assert figures["by_kind"]["reword"]["originals"]["problems"] == 3
    for words in ("problems", "pass@1", "pass@2", "level 2", "kind", "variants", "think_step", "gain", "±"):
        assert words in shown
    assert len(store.read(Evaluation)) == 4
    run("eval", "--model", str(model_path), *arguments, "--limit", "2")
    assert len(store.read(Evaluation)) == 6


def test_a_model_of_text_leaves_problems_with_images_out(
    model_path: Path, figures: VariantStore, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(model_path), "--store", str(figures.root), "--max-new-tokens", "2"]
    with pytest.raises(ConfigError, match="all 4 problems have images, and the model reads text alone"):
        run("eval", *common)
    figures.append([Problem(problem_id="z/1", source="z", split="test", text="1 + 1 = ?", answer="2")])
    run("eval", *common, "--limit", "1")
    assert "4 problems with images are left out" in capsys.readouterr().err
    assert [row.problem_id for row in figures.read(Evaluation)] == ["z/1"]


def test_a_checkpoint_is_recorded_under_its_own_run_and_step(model_path: Path, tmp_path: Path) -> None:
    from diva_grpo.trainer.train import main as train

    store = planted_store(tmp_path / "store", problems=4)
    settings = (
        "per_device_train_batch_size=16 num_generations=4 max_completion_length=4 bf16=false use_cpu=true"
    )
    settings += " gradient_checkpointing=false report_to=none dtype=float32 disable_tqdm=true max_steps=2"
    flags = [part for setting in f"{settings} save_steps=1".split() for part in f"--{setting}".split("=")]
    common = ["--store", str(store.root), "--model_name_or_path", str(model_path)]
    result = train([*common, "--output_dir", str(tmp_path / "out"), *flags])
    checkpoint = tmp_path / "out" / "checkpoint-1"
    assert training_step(str(checkpoint)) == (result.run_id, 1)
    assert training_step(str(tmp_path / "out")) is None, "a model, but no checkpoint"
    arguments = ["--store", str(store.root), "--split", "train", "--max-new-tokens", "2"]
    run("eval", "--model", str(checkpoint), *arguments)
    rows = store.query("SELECT run_id, step, count(*) FROM evaluations GROUP BY ALL")
    assert rows == [(result.run_id, 1, 4)]
    assert [kind for (kind,) in store.query("SELECT kind FROM runs ORDER BY started_at")] == ["train", "eval"]
    # Another's trainer_state.json says nothing of a run of ours.
    (checkpoint / "diva_state.pt").unlink()
    assert training_step(str(checkpoint)) is None


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--benchmark", "mathvisions"], "mathvista, mathverse, mathvision, olympiadbench, wemath, mmk12"),
        (["--split", "dev"], "no split 'dev': the store has train"),
        (["--split", "train", "--model", "no/such/model"], "no/such/model"),
        (["--split", "train", "--problem-filter", "colour = 1"], "colour"),
        (["--split", "train", "--problem-filter", "source = 'x'"], "no problem of split 'train' fits"),
        (["--split", "train", "--kinds", "sketch"], "no kind 'sketch' to evaluate on: choose reword, harder"),
        (["--split", "train", "--source", "x.jsonl"], "--source goes with --benchmark"),
        (["--benchmark", "mathvision", "--split", "train"], "kept as split test"),
        (["--split", "train", "--output", "nowhere/x.json"], "there is no folder nowhere"),
        (["--benchmark", "mathvision", "--source", "nothing.jsonl"], "no file or folder nothing.jsonl"),
    ],
)
def test_mistakes_end_in_one_line(
    extra: list[str],
    words: str,
    model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = planted_store(tmp_path / "store", problems=1)
    command = ["diva", "eval", "--model", str(model_path), "--store", str(store.root), *extra]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code in (1, 2)
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert store.read(Evaluation) == []
    assert len([line for line in message.splitlines() if line.startswith(("diva:", "Error:"))]) == 1
    assert len(store.read(Variant)) == 3
