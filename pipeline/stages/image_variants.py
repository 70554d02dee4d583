"""Candidate variants by perturbed images: recipes, for which no teacher is asked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

from pydantic import ValidationError

from diva_grpo.pipeline.checks import PASSED, Finding
from diva_grpo.pipeline.difficulty.design import IMAGE_STRENGTHS, designed_delta_of_recipe
from diva_grpo.pipeline.perturb import HIDES_WRITING, follow, make_operation, refusal
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import IMAGE_KINDS, GenerateConfig
from diva_grpo.schemas.recipe import RENDERER, OperationName, Recipe
from diva_grpo.schemas.records import Kind, Problem, Status, Variant

GENERATOR = "perturb"
"""Recorded as the model that made these variants."""

# What is drawn first is under what follows; noise and coding come last, as in a camera.
_ORDER = (
    OperationName.QUESTION,
    OperationName.ROTATE,
    OperationName.OCCLUSION,
    OperationName.BLUR,
    OperationName.LOW_RESOLUTION,
    OperationName.CONTRAST,
    OperationName.GAUSSIAN_NOISE,
    OperationName.SPECKLE,
    OperationName.SALT_PEPPER,
    OperationName.JPEG,
)
Family = tuple[OperationName, ...]


def perturb_images(store: VariantStore, config: GenerateConfig, problems: Sequence[Problem]) -> Counter[str]:
    """Write the image variants of problems that the store does not have yet, as one part.

    Args:
        store: where variants go.
        config: its kinds `image`, `image_text` and `composite`, and how many families of operations.
        problems: of a shard.

    Returns:
        New rows by status: `candidate`, or `rejected` where a family of operations does not suit a problem.
    """
    kinds = [kind for kind in config.kinds if kind in IMAGE_KINDS]
    if not kinds:
        return Counter()
    variants = [
        variant for problem in problems for kind in kinds for variant in _variants(problem, kind, config)
    ]
    sql = "SELECT variant_id FROM variants WHERE variant_id IN (SELECT unnest(?))"
    there = {found for (found,) in store.query(sql, [[variant.variant_id for variant in variants]])}
    new = [variant for variant in variants if variant.variant_id not in there]
    store.append(new)
    return Counter(str(variant.status) for variant in new)


def check_recipe(variant: Variant, problem: Problem) -> Finding:
    """An image variant is right by rule: its answer is the original's where the operations suit the problem.

    Its text must be the one that follows from the recipe, and nothing that a teacher might have written.
    """
    try:
        recipe = Recipe.model_validate_json(variant.recipe or "")
    except ValidationError as error:
        return Finding(False, f"not a recipe: {error.errors()[0]['msg']}")
    if reason := refusal(recipe, problem):
        return Finding(False, reason)
    if variant.text != follow(recipe, problem.text, len(problem.images)):
        return Finding(False, "the text does not follow from the recipe")
    return PASSED


def _variants(problem: Problem, kind: Kind, config: GenerateConfig) -> Iterator[Variant]:
    """The variants of one kind: the first suitable families, in the problem's own order, at every strength."""
    suitable = 0
    for family in _families(problem, kind, config) if problem.images else ():
        recipes = [_recipe(problem, family, strength) for strength in IMAGE_STRENGTHS[kind]]
        # The largest dose decides: a family is used whole, so that its deltas can be compared.
        reason = refusal(recipes[-1], problem)
        if reason:
            yield _variant(problem, recipes[-1], Status.REJECTED, f"recipe: {reason}")
            continue
        for recipe in recipes:
            yield _variant(problem, recipe, Status.CANDIDATE)
        suitable += 1
        if suitable == config.image_families:
            return


def _families(problem: Problem, kind: Kind, config: GenerateConfig) -> list[Family]:
    """Families of a kind in an order of the problem's own, so that all are used alike over many problems."""
    if kind == Kind.IMAGE_TEXT:
        return [(OperationName.QUESTION,)]
    names = [name for name in _ORDER if name in config.image_operations]
    size = 1 if kind == Kind.IMAGE else 2
    if kind == Kind.IMAGE:
        names = [name for name in names if name != OperationName.QUESTION]
    families = (
        family
        for family in combinations(names, size)
        if OperationName.QUESTION not in family or HIDES_WRITING.isdisjoint(family)
    )
    return sorted(families, key=lambda family: _seed(problem, family))


def _seed(problem: Problem, family: Family) -> int:
    """The same at all strengths, so that a larger dose holds the smaller."""
    digest = hashlib.sha256("\n".join([problem.problem_id, *family]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _recipe(problem: Problem, family: Family, strength: float) -> Recipe:
    seed = _seed(problem, family)
    return Recipe(operations=tuple(make_operation(name, strength, seed) for name in family), seed=seed)


def _variant(problem: Problem, recipe: Recipe, status: Status, reason: str | None = None) -> Variant:
    content = recipe.model_dump_json()
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return Variant(
        variant_id=f"{problem.problem_id}:{recipe.kind}:{digest}",
        problem_id=problem.problem_id,
        kind=recipe.kind,
        text=follow(recipe, problem.text, len(problem.images)),
        recipe=content,
        delta_designed=designed_delta_of_recipe(recipe),
        status=status,
        reason=reason,
        generator_model=GENERATOR,
        prompt_version=f"renderer-{RENDERER}",
    )
