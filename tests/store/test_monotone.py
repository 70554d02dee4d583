"""Deltas in a snapshot: of one family of image operations, never smaller for a larger strength."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression

from diva_grpo.pipeline.difficulty.design import designed_delta_of_recipe
from diva_grpo.pipeline.perturb import make_operation
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.recipe import OperationName, Recipe
from diva_grpo.schemas.records import Kind, Label, Problem, Status, Variant

FAMILIES = ((OperationName.BLUR,), (OperationName.ROTATE,), (OperationName.BLUR, OperationName.JPEG))
STRENGTHS = (0.30, 0.35, 0.40, 0.45, 0.50)


def image_variant(problem_id: str, family: tuple[OperationName, ...], strength: float, seed: int) -> Variant:
    # The order of the operations does not make another family.
    names = family if seed % 2 else family[::-1]
    recipe = Recipe(operations=tuple(make_operation(n, strength, seed) for n in names), seed=seed)
    return Variant(
        variant_id=f"{problem_id}:{'-'.join(family)}:{strength}:{seed}",
        problem_id=problem_id,
        kind=recipe.kind,
        text="What?",
        recipe=recipe.model_dump_json(),
        delta_designed=designed_delta_of_recipe(recipe),
        status=Status.ACCEPTED,
        generator_model="perturb",
        prompt_version="1",
    )


def label(subject_id: str, kind: str, correct: int, samples: int = 8) -> Label:
    return Label(
        subject_id=subject_id,
        solver_model="solver",
        subject_kind=kind,
        samples=samples,
        correct=correct,
        pass_rate=correct / samples,
        difficulty=9 - 8 * (correct + 1) / (samples + 2),
        difficulty_low=1,
        difficulty_high=9,
    )


def measured_store(root: Path, problems: int) -> VariantStore:
    """Problems with image variants of three families, most of them with labels that scatter."""
    rng = random.Random(problems)
    store = VariantStore(root, create=True)
    ids = [f"p/{number}" for number in range(problems)]
    store.append([Problem(problem_id=i, source="p", split="train", text="What?", answer="1") for i in ids])
    variants = [
        image_variant(problem_id, family, strength, seed)
        for problem_id in ids
        for family in FAMILIES
        for strength in STRENGTHS
        for seed in range(rng.choice([1, 1, 2]))
    ]
    wordings = [
        Variant(
            variant_id=f"{problem_id}:w",
            problem_id=problem_id,
            kind=Kind.REWORD,
            text="Which?",
            delta_designed=0,
            status=Status.ACCEPTED,
            generator_model="m",
            prompt_version="1",
        )
        for problem_id in ids
    ]
    store.append(variants + wordings)
    labels = [label(problem_id, "original", rng.randint(0, 8)) for problem_id in ids]
    labels += [label(v.variant_id, v.kind, rng.randint(0, 8)) for v in variants if rng.random() < 0.7]
    labels += [label(v.variant_id, v.kind, 3) for v in wordings]
    store.append([one for one in labels if not one.subject_id.startswith("p/1:")])
    store.put_setting("label_model", "solver")
    return store


def test_deltas_are_the_weighted_isotonic_regression(tmp_path: Path) -> None:
    store = measured_store(tmp_path / "store", 12)
    snapshot = store.snapshot()
    ids = [problem.problem_id for problem in store.problems()]
    fitted = {v.variant_id: v.delta for v in snapshot.candidates(ids).rows()}
    rows = store.query(
        "SELECT variant_id, problem_id, recipe, delta, (delta_high - delta_low) / (2 * 1.6448536269514722) "
        "FROM variants"
    )
    families: defaultdict[object, defaultdict[float, list[tuple[str, float, float, bool]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for variant_id, problem_id, recipe, delta, deviation in rows:
        if recipe is None:
            assert fitted[variant_id] == delta
            continue
        made = Recipe.model_validate_json(recipe)
        weight = 0.25 + (1 / deviation**2 if deviation else 0)
        family = families[problem_id, tuple(sorted(made.names))]
        family[made.strength].append((variant_id, delta, weight, deviation is not None))
    moved = 0
    for family in families.values():
        levels = [family[strength] for strength in sorted(family)]
        weights = [sum(weight for _, _, weight, _ in level) for level in levels]
        means = [
            sum(d * w for _, d, w, _ in level) / total for level, total in zip(levels, weights, strict=True)
        ]
        wanted = isotonic_regression(means, weights=weights).x
        found = [[fitted[variant_id] for variant_id, *_ in level] for level in levels]
        if not any(measured for level in levels for *_, measured in level):
            assert found == [[delta for _, delta, *_ in level] for level in levels]
            continue
        flat = [delta for level in found for delta in level]
        assert flat == sorted(flat)
        np.testing.assert_allclose([level[0] for level in found], wanted, atol=1e-9)
        moved += not np.allclose(means, wanted)
    assert len(families) == 36
    assert moved > 20


def test_without_labels_deltas_are_as_designed(tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "store", create=True)
    store.append([Problem(problem_id="p/0", source="p", split="train", text="What?", answer="1")])
    store.append([image_variant("p/0", family, s, 1) for family in FAMILIES for s in STRENGTHS])
    found = store.snapshot().candidates(["p/0"]).rows()
    assert sorted(v.delta for v in found) == sorted([1, 2, 3, 3, 3] * 2 + [4, 5, 6, 7, 8])
