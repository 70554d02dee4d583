"""The testbed `figures`: its task and its store."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.recipe import Recipe
from diva_grpo.schemas.records import Variant
from tests.bench.bed import accepted_variants
from tests.bench.figures.run import held_out
from tests.bench.figures.summary import page
from tests.bench.figures.task import (
    COUNTS,
    FAMILIES,
    KINDS,
    PATCH,
    SIDE,
    SIZES,
    SUITED,
    accuracy_reward,
    build_processor,
    draw,
    fill_store,
)

RESULTS = Path(__file__).parent / "figures" / "results"
IMAGE_VARIANTS = FAMILIES * (3 + 5)
"""Of a problem: two families at three strengths, and two pairs at five."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """The testbed's store."""
    root = tmp_path_factory.mktemp("figures") / "store"
    fill_store(root, seed=1)
    return VariantStore(root)


@pytest.mark.parametrize("count", COUNTS)
def test_a_figure_has_as_many_shapes_as_it_says(count: int) -> None:
    inked = np.asarray(draw(random.Random(count), count)).min(axis=2) < 250
    cells = inked.reshape(SIDE // PATCH, PATCH, SIDE // PATCH, PATCH).sum(axis=(1, 3))
    assert (cells > PATCH * PATCH / 8).sum() == count


def test_only_the_number_is_right() -> None:
    said = ["3", "4", "", "33", [{"role": "assistant", "content": "3"}]]
    assert accuracy_reward(said, ["3"] * len(said)) == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_a_question_is_one_token_and_a_number_another(store: VariantStore) -> None:
    tokenizer = build_processor().tokenizer
    texts = {variant.text for variant in store.read(Variant, "status = 'accepted'")}
    # The image, the question, and the opening, the degrees and the end of the note about a rotation.
    assert max(len(tokenizer.encode(text)) for text in texts) <= 4 + len("31.5")
    assert all(len(tokenizer.encode(str(count))) == 1 for count in COUNTS)


def test_every_problem_has_variants_of_both_kinds_that_the_rules_let_through(store: VariantStore) -> None:
    variants = accepted_variants(store)
    assert len(variants) == sum(SIZES.values())
    for found in variants.values():
        assert len(found) == IMAGE_VARIANTS
        assert {variant.kind for variant in found} == set(KINDS)
    recipes = {variant.recipe or "" for found in variants.values() for variant in found}
    used = {name for recipe in recipes for name in Recipe.model_validate_json(recipe).names}
    assert used == set(SUITED)


def test_the_same_held_out_problems_are_asked_clean_and_perturbed(store: VariantStore) -> None:
    asked = held_out(store)
    assert list(asked) == ["perturbed", "clean"]
    assert [q.problem_id for q in asked["perturbed"]] == [q.problem_id for q in asked["clean"]]
    assert all(q.recipe for q in asked["perturbed"])
    assert not any(q.recipe for q in asked["clean"])
    assert {q.problem_id.split("/")[1] for q in asked["clean"]} == {"test"}


def test_the_page_is_made_of_the_figures() -> None:
    assert (RESULTS / "README.md").read_text("utf-8") == page(RESULTS / "runs.jsonl")
