"""Training of vision-language models: what they are shown, and that it trains like text."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from diva_grpo.pipeline.images.shown import Shown, bounded_size
from diva_grpo.pipeline.perturb import render
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import Rollout, Variant
from diva_grpo.trainer.data import training_problems
from diva_grpo.trainer.vision import ShownImage, each_image_once
from tests.support.tiny_training import coin_reward, loss_inputs, make_trainer
from tests.support.tiny_vision_model import IMAGE_TOKENS, recipes, tiny_vision_model, vision_store


@pytest.fixture(scope="module")
def vision_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision_model(tmp_path_factory.mktemp("tiny-vision"))


@pytest.fixture
def seen(tmp_path: Path) -> VariantStore:
    return vision_store(tmp_path / "store")


def spied_images(trainer: Any) -> list[list[list[ShownImage]]]:
    """A list that fills with the images of the rows of each generation."""
    batches: list[list[list[ShownImage]]] = []
    original = trainer._generate

    def spy(prompts: list[Any]) -> Any:
        batches.append(
            [
                [p["image"] for message in prompt for p in message["content"] if p["type"] == "image"]
                for prompt in prompts
            ]
        )
        return original(prompts)

    trainer._generate = spy
    return batches


def test_a_step_changes_every_parameter(vision_path: Path, tmp_path: Path) -> None:
    # Every prompt has an image, or the vision tower would have no gradient in a step without one.
    store = vision_store(tmp_path / "store", text=0, kinds=("image", "image_text", "composite"))
    before = AutoModelForImageTextToText.from_pretrained(vision_path).state_dict()
    trainer = make_trainer(store, vision_path, tmp_path / "out")
    trainer.train()
    unused = {name for name in before if "post_layernorm" in name}  # CLIP's, for its pooled output
    for name, parameter in trainer.model.named_parameters():
        same = torch.equal(parameter.detach(), before[name])
        assert same == (name in unused), name
    assert trainer.state.global_step == 4


def test_variants_show_what_their_recipe_says(vision_path: Path, tmp_path: Path) -> None:
    store = vision_store(tmp_path / "store", one=4, two=0, text=0, kinds=("image", "image_text", "composite"))
    trainer = make_trainer(store, vision_path, tmp_path / "out", selector="uniform")
    batches = spied_images(trainer)
    trainer.train()
    by_id = {variant.variant_id: variant for variant in store.read(Variant)}
    rows = store.query(
        "SELECT step, problem_id, slot, any_value(variant_id) FROM rollouts GROUP BY ALL ORDER BY ALL"
    )
    kinds = set()
    for step, problem_id, slot, variant_id in rows:
        order = [p for s, p in dict.fromkeys((s, p) for s, p, _, _ in rows) if s == step]
        [problem] = store.problems([problem_id])
        candidates = [
            image for row in batches[step] for image in row
            if image.reference[0].paths == (store.image_path(problem.images[0].hash),)
        ]  # fmt: skip
        recipe = None if slot == 0 else by_id[variant_id].recipe
        mine = [image for image in candidates if image.reference[0].recipe == recipe]
        assert len(mine) == 4, "one image for each of the n rollouts"
        assert len(order) == 2
        plain = [PillowImage.open(store.image_path(problem.images[0].hash)).convert("RGB")]
        if recipe is None:
            expected = plain[0]
        else:
            kinds.add(by_id[variant_id].kind)
            expected = render(recipes()[str(by_id[variant_id].kind)], plain, problem.text)[0][0]
        assert np.array_equal(np.asarray(mine[0]), np.asarray(expected))
    assert len(kinds) > 1


def test_pixels_follow_their_rows_into_the_loss(
    seen: VariantStore, vision_path: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(seen, vision_path, tmp_path / "out", max_steps=6)
    inputs = loss_inputs(trainer)
    trainer.train()
    counts = set()
    for batch in inputs:
        tokens = (batch["prompt_ids"] == 2).sum(dim=1).tolist()
        images = batch.get("num_images") or [0] * len(tokens)
        assert tokens == [IMAGE_TOKENS * number for number in images]
        assert sum(images) == (len(batch["pixel_values"]) if "pixel_values" in batch else 0)
        counts |= set(images)
    assert counts == {0, 1, 2}


@pytest.mark.parametrize(
    "options",
    [
        {"hint_style": "prefix"},
        {"refill_rounds": 2},
        {"refill_rounds": 1, "hint_style": "prefix"},
        {"steps_per_generation": 2, "per_device_train_batch_size": 8},
        {"num_variants": 3, "per_device_train_batch_size": 32, "max_steps": 2},
        {"beta": 0.1, "max_steps": 2},
        {"log_completions": True, "max_steps": 1},
    ],
    ids=str,
)
def test_options_train(
    options: dict[str, Any], seen: VariantStore, vision_path: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(seen, vision_path, tmp_path / "out", **options)
    trainer.train()
    assert trainer.state.global_step == options.get("max_steps", 4)
    assert all(np.isfinite(p.detach().numpy()).all() for p in trainer.model.parameters())
    assert {r.problem_id for r in seen.read(Rollout)} <= {p.problem_id for p in seen.problems()}


@pytest.mark.parametrize("logged", [True, False])
def test_the_table_of_completions_has_the_images_of_its_rows(
    logged: bool, vision_path: Path, tmp_path: Path
) -> None:
    """Also where the rows of a batch have no images at all, as half of the batches here."""
    store = vision_store(tmp_path / "store", one=2, two=0, text=2)
    options: dict[str, Any] = {"log_completions": logged, "num_variants": 0, "per_device_train_batch_size": 4}
    trainer: Any = make_trainer(store, vision_path, tmp_path / "out", **options)
    tables: list[list[bool]] = []
    log = trainer.log

    def keep(*args: Any, **kwargs: Any) -> None:
        rows = zip(trainer._logs["prompt"], trainer._logs["images"], strict=logged)
        tables.append(
            [any(part["type"] == "image" for part in prompt[-1]["content"]) == bool(i) for prompt, i in rows]
        )
        log(*args, **kwargs)

    trainer.log = keep
    trainer.train()
    assert trainer.log_multimodal
    assert tables[:4] == [[True] * 4 if logged else []] * 4


def test_refill_keeps_pixels_with_their_rows(vision_path: Path, tmp_path: Path) -> None:
    store = vision_store(tmp_path / "store", one=5, two=3, text=4)
    dead = {f"see/{number:03d}" for number in (0, 2, 5, 8, 9)}

    def coin(completions: list[Any], problem_id: list[str], **columns: Any) -> list[float | None]:
        flips = coin_reward(completions)
        return [0.0 if p in dead else flip for p, flip in zip(problem_id, flips, strict=True)]

    coin.__name__ = "coin_reward"
    trainer = make_trainer(store, vision_path, tmp_path / "out", rewards=coin, refill_rounds=3, max_steps=8)
    inputs = loss_inputs(trainer)
    trainer.train()
    assert store.query("SELECT count(*) FROM rollouts WHERE advantage = 0")[0][0] > 0
    for batch in inputs:
        images = batch.get("num_images") or [0] * 16
        assert (batch["prompt_ids"] == 2).sum(dim=1).tolist() == [IMAGE_TOKENS * n for n in images]
        assert sum(images) == (len(batch["pixel_values"]) if "pixel_values" in batch else 0)


def test_a_batch_opens_each_image_once(
    seen: VariantStore, vision_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Shown] = []
    original = Shown.open

    def spy(self: Shown) -> Any:
        opened.append(self)
        return original(self)

    monkeypatch.setattr(Shown, "open", spy)
    trainer = make_trainer(seen, vision_path, tmp_path / "out", max_steps=1)
    batches = spied_images(trainer)
    trainer.train()
    shown = {image.reference[0] for row in batches[0] for image in row}
    assert len(batches) == 1
    assert len(opened) == len(shown) == len(set(opened)), "for all rollouts, generation and loss together"


def test_a_reference_is_never_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PillowImage.new("RGB", (30, 20), "red").save(path)
    image = ShownImage(Shown((path,)), 0)
    assert copy.deepcopy([image])[0] is image
    assert len(pickle.dumps(image)) < 1000
    assert "a.png" in repr(image)
    assert image._im is None, "nothing so far has asked for its pixels"
    again = pickle.loads(pickle.dumps(image))
    assert again.size == (30, 20)
    assert again.convert("L").getpixel((0, 0)) == 76
    assert np.asarray(image).shape == (20, 30, 3)


def test_what_the_processor_makes_is_the_same(vision_path: Path, tmp_path: Path) -> None:
    from diva_grpo.trainer.loading import load_processor

    paths = []
    for number, size in enumerate(((30, 20), (50, 90), (28, 28))):
        paths.append(tmp_path / f"{number}.png")
        noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        PillowImage.fromarray(noise).save(paths[-1])
    processor = load_processor(str(vision_path))
    rows = [[0], [1, 2], [], [0, 1]]
    text = ["<image>" * len(row) + "a" for row in rows]
    lazy = [[ShownImage(Shown((paths[i],)), 0) for i in row] for row in rows]
    eager = [[PillowImage.open(paths[i]) for i in row] for row in rows]
    expected = processor(text=text, images=eager, padding=True, return_tensors="pt")
    with each_image_once(processor):
        found = processor(text=text, images=lazy, padding=True, return_tensors="pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_problems_with_images_are_left_out_in_one_line(
    seen: VariantStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(training_problems(seen, split="train", reads_images=True)) == 6
    assert [p.images for p in training_problems(seen, split="train")] == [[]]
    [record] = caplog.records
    assert "5 problems with images are left out" in record.getMessage()
    with pytest.raises(ConfigError, match="vision-language model"):
        training_problems(seen, split="train", where="len(images) > 0")


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        ((30, 20), (None, None), (30, 20)),
        ((2000, 1000), (None, 500_000), (1000, 500)),
        ((10, 10), (400, None), (20, 20)),
        ((10_000, 1), (None, 100), (100, 1)),
        ((1, 10_000), (None, 100), (1, 100)),
        ((10, 10), (400, 200), (14, 14)),
    ],
)
def test_the_area_is_bounded(
    size: tuple[int, int], bounds: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    assert bounded_size(size, *bounds) == expected


def test_the_best_model_is_kept_and_not_the_last(vision_path: Path, tmp_path: Path) -> None:
    store = vision_store(tmp_path / "store", one=4, two=0, text=0)
    scores = iter([0.0, 1.0, 0.5])  # of the evaluations after each step
    trainer: Any = make_trainer(
        store, vision_path, tmp_path / "out", max_steps=3, learning_rate=0.05, eval_strategy="steps", eval_steps=1,
        eval_problems=2, per_device_eval_batch_size=4, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="planted",
    )  # fmt: skip
    evaluate = trainer.evaluate

    def planted(*args: Any, **kwargs: Any) -> dict[str, float]:
        return {**evaluate(*args, **kwargs), "eval_planted": next(scores)}

    trainer.evaluate = planted
    trainer.train()
    assert str(trainer.state.best_model_checkpoint).endswith("checkpoint-2")
    trainer.save_model(str(tmp_path / "final"))
    final, best, last = (
        load_file(folder / "model.safetensors")
        for folder in (
            tmp_path / "final",
            tmp_path / "out" / "checkpoint-2",
            tmp_path / "out" / "checkpoint-3",
        )
    )
    assert all(torch.equal(final[name], best[name]) for name in best)
    assert any(not torch.equal(final[name], last[name]) for name in last)
