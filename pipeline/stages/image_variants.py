"""Make image variants: recipes of operations on the images of a problem. No teacher is needed."""

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
"""The `generator_model` of image variants."""

# The order in which operations are applied. Noise and JPEG compression come last, as in a camera.
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
"""Operations that are used together in one recipe: one for the kind `image`, two for `composite`."""


def perturb_images(store: VariantStore, config: GenerateConfig, problems: Sequence[Problem]) -> Counter[str]:
    """Make the image variants of problems that are not in the store yet, and append them as one part.

    Args:
        store: gets the variants.
        config: the image kinds (`image`, `image_text`, `composite`) among its `kinds`, the number of families for each
            problem and kind, and the operations that they may use.
        problems: the problems of a shard.

    Returns:
        Number of new variants by status: `candidate`, or `rejected` if the operations do not suit the problem.
    """
    new = missing_images(store, config, problems)
    store.append(new)
    return Counter(str(variant.status) for variant in new)


def missing_images(store: VariantStore, config: GenerateConfig, problems: Sequence[Problem]) -> list[Variant]:
    """The image variants that `perturb_images` would make."""
    kinds = [kind for kind in config.kinds if kind in IMAGE_KINDS]
    variants = [
        variant for problem in problems for kind in kinds for variant in _variants(problem, kind, config)
    ]
    if not variants:
        return []
    sql = "SELECT variant_id FROM variants WHERE variant_id IN (SELECT unnest(?))"
    there = {found for (found,) in store.query(sql, [[variant.variant_id for variant in variants]])}
    return [variant for variant in variants if variant.variant_id not in there]


def check_recipe(variant: Variant, problem: Problem) -> Finding:
    """The check `recipe` of an image variant. It passes if the operations suit the problem.

    Then the answer is still that of the original, so no model is asked. The text must be exactly the one that the
    recipe produces.
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
    """Yield the variants of one kind: those of the first suitable families, at every strength.

    A family that does not suit the problem gives one rejected variant. There are at most `image_families` suitable
    families.
    """
    suitable = 0
    for family in _families(problem, kind, config) if problem.images else ():
        recipes = [_recipe(problem, family, strength) for strength in IMAGE_STRENGTHS[kind]]
        # A family is used at all strengths or not at all, so that their offsets can be compared. So only the largest
        # strength is tested.
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
    """The families of a kind, in an order that is random for each problem, so that all are used equally often."""
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
    """The seed of a family for a problem.

    It is the same for all strengths, so that a larger strength changes everything that a smaller one changes.
    """
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
