"""`DivaGRPOTrainer` in the place of TRL's `GRPOTrainer`: its documented behaviour, on datasets without a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from diva_grpo import DivaGRPOConfig, DivaGRPOTrainer
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Run
from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.plain import DatasetVariants, problem_ids_of, with_ids
from diva_grpo.trainer.prompts import PromptBuilder
from tests.support.tiny_text_model import planted_store
from tests.support.tiny_training import SETTINGS, coin_reward, loss_inputs

TEXTS = [{"prompt": f"{i} + 3 = ?\n", "answer": str(i + 3)} for i in range(12)]
CHATS = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in TEXTS]
PLAIN = {name: value for name, value in SETTINGS.items() if name != "accuracy_from"}


def config(folder: Path, **options: Any) -> DivaGRPOConfig:
    settings = {**PLAIN, "max_steps": 2, "per_device_train_batch_size": 8, **options}
    return DivaGRPOConfig(**{"output_dir": str(folder), **settings})


def length_reward(completions: list[Any], **columns: Any) -> list[float]:
    """As in TRL's quick start: no share, and above 1."""
    return [float(len(set(str(completion)))) for completion in completions]


def of(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_list(rows)


def changed(trainer: Any, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


@pytest.mark.parametrize("rows", [TEXTS, CHATS], ids=["text", "conversation"])
@pytest.mark.parametrize("given", ["path", "model"])
def test_a_dataset_of_prompts_is_enough(
    rows: list[dict[str, Any]], given: str, model_path: Path, chat_model_path: Path, tmp_path: Path
) -> None:
    path = model_path if rows is TEXTS else chat_model_path
    model: Any = str(path) if given == "path" else AutoModelForCausalLM.from_pretrained(path)
    data = of(rows).remove_columns("answer")
    trainer = DivaGRPOTrainer(model, length_reward, config(tmp_path), data)
    before = weights(trainer)
    trainer.train()
    assert changed(trainer, before) == set(before)
    logged = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logged) == 2
    assert {"reward", "rewards/length_reward/mean", "completions/mean_length", "diva/difficulty"} <= set(
        logged[0]
    )
    assert data.column_names == ["prompt"], "the caller's dataset is left alone"


def test_arguments_of_grpo_trainer_by_place_and_by_name(model_path: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="left")
    held_out = of(TEXTS[:4])
    steps: list[int] = []

    class Seen(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)

    model = AutoModelForCausalLM.from_pretrained(model_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = DivaGRPOTrainer(
        model, [length_reward], config(tmp_path, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4),
        of(TEXTS), held_out, tokenizer, None, callbacks=[Seen()], optimizers=(optimizer, None),
    )  # fmt: skip
    trainer.train()
    assert steps == [1, 2]
    assert trainer.processing_class is tokenizer
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    evaluated = [log for log in trainer.state.log_history if "eval_reward" in log]
    assert [log["step"] for log in evaluated] == [1, 2]


def test_several_rewards_with_weights_and_columns_of_the_dataset(model_path: Path, tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def right(
        prompts: list[str], completions: list[str], answer: list[str], level: list[int], **other: Any
    ) -> Any:
        seen.append(set(other))
        assert [int(prompt.split()[0]) + 3 for prompt in prompts] == [int(value) for value in answer]
        return [float(a in completion) for a, completion in zip(answer, completions, strict=True)]

    def shape(completions: list[str], **columns: Any) -> list[float | None]:
        return [None if i % 4 == 0 else coin for i, coin in enumerate(coin_reward(completions))]

    data = of([{**row, "level": i} for i, row in enumerate(TEXTS)])
    options = {"reward_weights": [0.25, 2.0]}
    with pytest.raises(ConfigError, match=r"several reward functions \(right, shape\): set accuracy_from"):
        DivaGRPOTrainer(str(model_path), [right, shape], config(tmp_path, **options), data)
    trainer = DivaGRPOTrainer(
        str(model_path), [right, shape], config(tmp_path, accuracy_from="right", **options), data
    )
    trainer.train()
    assert all("problem_id" not in columns for columns in seen)
    assert "trainer_state" in seen[0]
    for log in trainer.state.log_history[:2]:
        parts = [log[f"rewards/{name}/mean"] for name in ("right", "shape")]
        # TRL leaves what was not judged out of a function's mean, and counts it as 0 in the sum.
        assert log["reward"] == pytest.approx(0.25 * parts[0] + 2.0 * parts[1] * 0.75, abs=1e-5)


def test_peft(model_path: Path, tmp_path: Path) -> None:
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    trainer = DivaGRPOTrainer(
        str(model_path), coin_reward, config(tmp_path, beta=0.1), of(TEXTS), peft_config=adapter
    )
    before = weights(trainer)
    trainer.train()
    moved = changed(trainer, before)
    assert moved
    assert all("lora" in name for name in moved)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale_rewards": "batch", "num_iterations": 2},
        {"loss_type": "dr_grpo", "scale_rewards": False, "beta": 0.05},
        {"reward_weights": [0.5, -1.0], "multi_objective_aggregation": "normalize_then_sum"},
    ],
    ids=str,
)
def test_by_default_it_computes_what_grpo_trainer_computes(
    options: dict[str, Any], model_path: Path, tmp_path: Path
) -> None:
    """Two epochs of a plain dataset: rollouts, advantages, weights and the log."""
    shared = {**PLAIN, "max_steps": 12, "per_device_train_batch_size": 8, **options}
    rewards = [coin_reward, length_reward] if "reward_weights" in options else length_reward
    named: dict[str, Any] = {"accuracy_from": "coin_reward"} if "reward_weights" in options else {}
    trainers: dict[str, Any] = {}
    seen, ends = {}, {}
    for name, kind, settings in (
        ("ours", DivaGRPOTrainer, DivaGRPOConfig(**shared, **named, output_dir=str(tmp_path / "ours"))),
        ("theirs", GRPOTrainer, GRPOConfig(**shared, output_dir=str(tmp_path / "theirs"))),
    ):
        trainers[name] = kind(str(model_path), rewards, settings, of(TEXTS))
        seen[name] = loss_inputs(trainers[name])
        trainers[name].train()
        ends[name] = torch.cat([p.detach().flatten() for p in trainers[name].model.parameters()])
    assert len(seen["ours"]) == len(seen["theirs"]) == 12
    assert any(abs(value) > 0.1 for value in seen["theirs"][0]["advantages"].tolist())
    for ours, theirs in zip(seen["ours"], seen["theirs"], strict=True):
        assert torch.equal(ours["completion_ids"], theirs["completion_ids"])
        assert torch.allclose(ours["advantages"], theirs["advantages"], rtol=0, atol=1e-6)
    # Our advantages are computed in float64, TRL's in float32. Adam divides each gradient by its size, so a weight
    # whose gradient is next to nothing may differ by more than rounding; weights move by up to 12 steps of 1e-3 here.
    assert torch.allclose(ends["ours"], ends["theirs"], rtol=0, atol=1e-5)
    ours, theirs = (trainers[name].state.log_history for name in ("ours", "theirs"))
    for mine, other in zip(ours, theirs, strict=True):
        assert set(other) <= set(mine)
        assert mine.get("reward") == pytest.approx(other.get("reward"))


@pytest.mark.parametrize(
    "options",
    [{"advantage": "dgpo"}, {"advantage": "dr_grpo"}, {"advantage": "diva"}, {"refill_rounds": 1}],
    ids=str,
)
def test_what_needs_no_variants_works(options: dict[str, Any], model_path: Path, tmp_path: Path) -> None:
    trainer = DivaGRPOTrainer(str(model_path), coin_reward, config(tmp_path, **options), of(TEXTS))
    before = weights(trainer)
    trainer.train()
    assert changed(trainer, before)
    assert not (trainer.curriculum.live.difficulty == 5).all()
    assert "diva/groups_without_signal/local" in trainer.state.log_history[0]


def _with_variants(rows: list[dict[str, Any]], *, apart: bool = False) -> tuple[Dataset, dict[str, Any]]:
    """Training data whose rows but the first have two variants each, and arguments of the trainer.

    Args:
        rows: rows without variants.
        apart: whether the variants are a dataset of their own; else they are a column.
    """
    chat = not isinstance(rows[0]["prompt"], str)

    def prompt(text: str) -> Any:
        return [{"role": "user", "content": text}] if chat else text

    easier = {"prompt": prompt("Hint: count.\n"), "kind": "think_step", "delta": -4.0}
    other = {"prompt": prompt("Say it in other words.\n"), "kind": "reword", "delta": 0.0}
    if not apart:
        return of([{**row, "variants": [other, easier] if i else []} for i, row in enumerate(rows)]), {}
    named = of([{**row, "problem_id": i} for i, row in enumerate(rows)])
    variants = [{**variant, "problem_id": i} for variant in (other, easier) for i in range(1, len(rows))]
    return named, {"variants_dataset": of(variants)}


@pytest.mark.parametrize("apart", [False, True], ids=["column", "dataset"])
@pytest.mark.parametrize("rows", [TEXTS, CHATS], ids=["text", "conversation"])
def test_variants_of_the_dataset_are_chosen_by_live_difficulty(
    rows: list[dict[str, Any]], apart: bool, model_path: Path, chat_model_path: Path, tmp_path: Path
) -> None:
    asked: list[list[Any]] = []

    def never(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        assert "variants" not in columns
        asked.append([p if isinstance(p, str) else p[0]["content"] for p in prompts])
        return [0.0] * len(prompts)

    data, given = _with_variants(rows, apart=apart)
    trainer = DivaGRPOTrainer(
        str(model_path if rows is TEXTS else chat_model_path), never,
        config(tmp_path, per_device_train_batch_size=16, max_steps=18), data, **given,
    )  # fmt: skip
    assert (trainer.args.num_variants, trainer.args.advantage) == (1, "diva")
    trainer.train()
    first, last = ["\n".join(texts) for texts in asked[:6]], ["\n".join(texts) for texts in asked[-6:]]
    assert "Say it" in "\n".join(first)
    assert "Hint" not in "\n".join(first)
    assert "Hint" in "\n".join(last), "what is never right gets hints"
    for texts in asked:
        originals = [texts[i] for i in range(16) if i // 4 % 2 == 0]
        assert not any("Hint" in text or "Say it" in text for text in originals)
    shortage = [log["diva/variant_shortage"] for log in trainer.state.log_history if "loss" in log]
    assert sum(shortage) == 3, "the first row has none, and comes once an epoch"


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ({"prompt": "x", "kind": "reword"}, "lacks one of prompt, kind, delta"),
        ({"prompt": "x", "kind": "other", "delta": 0.0}, "kind 'other': choose one of reword, harder"),
        ({"prompt": "x", "kind": "reword", "delta": "easy"}, "delta 'easy': give a finite number"),
        ({"prompt": [{"role": "user", "content": "x"}], "kind": "reword", "delta": 0.0}, "both alike"),
    ],
)
def test_variants_that_cannot_be_used(variant: dict[str, Any], words: str) -> None:
    data, _ = with_ids(of([{**row, "variants": [variant]} for row in TEXTS]))
    with pytest.raises(ConfigError, match=words):
        DatasetVariants.of_column(data)


def test_ids_are_of_the_content_and_not_of_the_place() -> None:
    data, hidden = with_ids(of(TEXTS))
    assert hidden == {"problem_id"}
    ids = dict(zip(data["prompt"], problem_ids_of(data), strict=True))
    assert len(set(ids.values())) == len(TEXTS)
    shuffled, _ = with_ids(of([{**row, "answer": "corrected"} for row in TEXTS]).shuffle(seed=1))
    assert dict(zip(shuffled["prompt"], problem_ids_of(shuffled), strict=True)) == ids
    twice = problem_ids_of(with_ids(of([*TEXTS, TEXTS[0]]))[0])
    assert twice[-1] == f"{twice[0]}-2"
    own, none_hidden = with_ids(of([{**row, "problem_id": i} for i, row in enumerate(TEXTS)]))
    assert problem_ids_of(own) == [str(i) for i in range(12)]
    assert not none_hidden


def test_ids_of_images_are_of_their_bytes(tmp_path: Path) -> None:
    from datasets import Image, List
    from PIL import Image as Pillow

    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        for name in ("one.png", "two.png"):
            Pillow.new("RGB", (4, 4), (number, 0, len(name))).save(tmp_path / folder / name)

    def ids(*paths: str) -> list[str]:
        rows = {"prompt": ["What is it?"] * len(paths), "images": [[str(tmp_path / path)] for path in paths]}
        data = Dataset.from_dict(rows).cast_column("images", List(Image()))
        return problem_ids_of(with_ids(data)[0])

    assert len(set(ids("a/one.png", "a/two.png"))) == 2
    assert ids("a/one.png") == ids("b/one.png"), "a file that is not in the dataset counts by its name"


def test_killed_at_a_checkpoint_it_goes_on_as_the_unbroken_run(model_path: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 9, "save_strategy": "steps", "save_steps": 5, "refill_rounds": 1}

    def run(folder: str, data: Dataset, resume: bool = False) -> Any:
        trainer = DivaGRPOTrainer(str(model_path), coin_reward, config(tmp_path / folder, **options), data)
        inputs = loss_inputs(trainer)
        trainer.train(resume_from_checkpoint=resume)
        return trainer, [batch["completion_ids"].tolist() for batch in inputs]

    whole, completions = run("whole", of(TEXTS))
    (tmp_path / "parts").mkdir()
    (tmp_path / "whole" / "checkpoint-5").rename(tmp_path / "parts" / "checkpoint-5")
    resumed, rest = run("parts", of(TEXTS), resume=True)
    assert rest == completions[5:]
    assert torch.equal(*(t.model.lm_head.weight for t in (whole, resumed)))
    assert resumed.curriculum.live.difficulty.tolist() == whole.curriculum.live.difficulty.tolist()
    with pytest.raises(ConfigError, match="other problems"):
        run("parts", of(TEXTS[::-1]), resume=True)


def test_a_store_without_a_run_id_gets_a_run_for_each_training(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=8)
    data = problems_dataset(store.problems(), PromptBuilder(chat=False))
    options = {"per_device_train_batch_size": 16, "max_steps": 3, "save_strategy": "steps", "save_steps": 2}

    def made(folder: str) -> DivaGRPOTrainer:
        return DivaGRPOTrainer(
            str(model_path), coin_reward, config(tmp_path / folder, **options), data, store=store
        )

    made("one").train()
    made("two").train()
    made("two").train(resume_from_checkpoint=str(tmp_path / "two" / "checkpoint-2"))
    runs = store.query("SELECT run_id, kind, outcome FROM runs ORDER BY started_at")
    assert [run[1:] for run in runs] == [("train", "ok")] * 2
    assert len({run_id for run_id, *_ in runs}) == 2
    counts = dict(store.query("SELECT run_id, count(*) FROM rollouts GROUP BY 1"))
    assert counts == dict.fromkeys([run[0] for run in runs], 3 * 16)
    assert store.query("SELECT count(*) FROM train_steps") == [(6,)]
    assert store.query("SELECT attempt, resumed_step FROM attempts ORDER BY ALL") == [(0, 0), (0, 0), (1, 2)]
    assert json.loads(store.read(Run)[0].config)["num_variants"] == 1


def test_a_checkpoint_comes_after_the_records_of_its_steps(model_path: Path, tmp_path: Path) -> None:
    """Killed right after a checkpoint, a run resumes there, and never makes the earlier rollouts again."""
    store = planted_store(tmp_path / "store", problems=8)
    recorded: list[list[Any]] = []

    class Seen(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            recorded.append(store.query("SELECT max(step), count(*) FROM rollouts"))
            recorded.append(store.query("SELECT max(step), count(*) FROM train_steps"))

    options = {"per_device_train_batch_size": 16, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    data = problems_dataset(store.problems(), PromptBuilder(chat=False))
    trainer = DivaGRPOTrainer(
        str(model_path),
        coin_reward,
        config(tmp_path / "out", **options),
        data,
        store=store,
        callbacks=[Seen()],
    )
    assert trainer.args.store_flush_steps > 4
    trainer.train()
    assert recorded == [[(1, 32)], [(1, 2)], [(3, 64)], [(3, 4)]]


def test_a_run_that_fails_says_so(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=8)

    def broken(completions: list[Any], **columns: Any) -> list[float]:
        raise ZeroDivisionError

    data = problems_dataset(store.problems(), PromptBuilder(chat=False))
    trainer = DivaGRPOTrainer(str(model_path), broken, config(tmp_path / "out"), data, store=store)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert store.query("SELECT outcome FROM runs") == [("failed",)]


def test_what_cannot_be_is_said_in_one_line(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=8)
    named = of([{**row, "problem_id": f"sums/{i:03d}"} for i, row in enumerate(TEXTS)])
    streamed: Any = of(TEXTS).to_iterable_dataset()
    numbered, apart = _with_variants(TEXTS, apart=True)
    first = apart["variants_dataset"][0]
    args = config(tmp_path)
    cases: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("args is a GRPOConfig: give a DivaGRPOConfig", GRPOConfig(**PLAIN, output_dir="x"), of(TEXTS), {}),
        ("map-style dataset as train_dataset, not IterableDataset", args, streamed, {}),
        ("map-style dataset as train_dataset", args, None, {}),
        ("no column `prompt`", args, of(TEXTS).rename_column("prompt", "question"), {}),
        ("stands twice in the training data: 1 of them do, such as a; give", args,
         of([{**row, "problem_id": "a"} for row in TEXTS]), {}),
        ("drops their column problem_id", args, of(TEXTS).with_transform(lambda b: {"prompt": b["prompt"]}), {}),
        ("4 of the 12 problems of the training data are not in the store, such as sums/008", args, named,
         {"store": store}),
        ("none of the 12 rows of the training data is in the store", args, of(TEXTS), {"store": store}),
        ("variants come from one source, and here are a column `variants` of the training data and a store", args,
         _with_variants(TEXTS)[0], {"store": store}),
        ("the training data and variants_dataset: leave", args, _with_variants(TEXTS)[0], apart),
        ("22 of the 22 rows of variants_dataset have a problem_id that the training data do not have, such as 1, 2, 3",
         args, named, apart),
        ("no column kind: it needs problem_id, prompt, kind, delta", args, named,
         {"variants_dataset": apart["variants_dataset"].remove_columns("kind")}),
        ("variants_dataset: row 0 has the kind 'x'", args, numbered,
         {"variants_dataset": of([{**first, "kind": "x"}])}),
        ("variants_dataset is a list: give a datasets.Dataset", args, numbered, {"variants_dataset": [first]}),
        ("name problems by problem_id: give the training data this column", args, of(TEXTS), apart),
        ("there are no variants: give the training data a column", config(tmp_path, num_variants=1), of(TEXTS), {}),
    ]  # fmt: skip
    for words, given, data, options in cases:
        with pytest.raises(ConfigError) as error:
            DivaGRPOTrainer(str(model_path), coin_reward, given, data, **options)
        assert words in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["image", "images"])
def test_images_of_the_dataset(column: str, tmp_path: Path) -> None:
    from PIL import Image as Pillow

    from tests.support.tiny_vision_model import tiny_vision_model

    model = tiny_vision_model(tmp_path / "model")
    pictures = [Pillow.new("RGB", (40, 30), (20 * i, 0, 0)) for i in range(8)]
    prompts = [[{"role": "user", "content": "What colour is it?"}]] * 8
    data = Dataset.from_dict(
        {"prompt": prompts, column: [[p] if column == "images" else p for p in pictures]}
    )
    trainer = DivaGRPOTrainer(str(model), coin_reward, config(tmp_path / "out", max_steps=3), data)
    assert len(set(trainer.curriculum.problem_ids)) == 8, "one text, eight pictures"
    seen = loss_inputs(trainer)
    before = weights(trainer)
    trainer.train()
    assert all(batch["pixel_values"].numel() for batch in seen)
    assert any("vision" in name or "visual" in name for name in changed(trainer, before))
