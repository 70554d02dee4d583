"""Image variants: made without a teacher, accepted by rule, and never easier with more strength."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from diva_grpo.flows.cli import main
from diva_grpo.pipeline.difficulty.design import IMAGE_STRENGTHS
from diva_grpo.pipeline.images.sources import open_rgb
from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.perturb import make_operation, render
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages import verify as stage_verify
from diva_grpo.pipeline.stages.curate import Stages, curate, unfinished
from diva_grpo.pipeline.stages.image_variants import GENERATOR
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import IMAGE_KINDS, GenerateConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.mapping import PRESETS
from diva_grpo.schemas.question import Question
from diva_grpo.schemas.recipe import OperationName, Recipe
from diva_grpo.schemas.records import Image as ImageRecord
from diva_grpo.schemas.records import Kind, Problem, Variant
from diva_grpo.schemas.replies import Answer, Reply
from tests.conftest import Diva
from tests.support.sessions import generate, supply, verify

IMAGES = GenerateConfig(kinds=IMAGE_KINDS)
TEXTS = [
    "<image>\nWhat is the area of the triangle?",
    "How many <image> are to the left of the red <image>?",
    "Without any picture: what is 3 + 4?",
]


class NoSolver:
    """A solver that must not be asked."""

    model = "none"

    def solve(
        self, questions: Sequence[Question], samples: int, progress: object = None
    ) -> list[list[Answer[Reply]]]:
        assert not questions
        return []


@pytest.fixture
def pictures(store: VariantStore) -> VariantStore:
    """The word problems, and three problems of which two have images."""
    problems = []
    for number, text in enumerate(TEXTS):
        images = []
        for colour in range(text.count("<image>")):
            buffer = io.BytesIO()
            picture = Image.new("RGB", (400, 320), (90 * colour, 200, 200))
            picture.paste((250, 250, 30), (50, 60, 200, 220))
            picture.save(buffer, "PNG")
            digest = store.put_image(buffer.getvalue(), "PNG")
            images.append(ImageRecord(hash=digest, width=400, height=320))
        problems.append(
            Problem(
                problem_id=f"pic/{number}", source="pic", split="train", text=text, answer="7", images=images
            )
        )
    store.append(problems)
    return store


def test_variants_are_made_once_and_without_a_teacher(pictures: VariantStore) -> None:
    counts = generate(pictures, None, IMAGES)
    assert counts["candidate"] > 20
    assert generate(pictures, None, IMAGES) == Counter()
    variants = pictures.read(Variant)
    assert {v.problem_id for v in variants} == {"pic/0", "pic/1"}
    assert {v.generator_model for v in variants} == {GENERATOR}
    plain = Counter(v.kind for v in variants if v.problem_id == "pic/0" and v.status == "candidate")
    assert plain == {Kind.IMAGE: 6, Kind.IMAGE_TEXT: 1, Kind.COMPOSITE: 10}
    deltas = {(v.kind, v.delta_designed) for v in variants if v.status == "candidate"}
    assert deltas == {("image", d) for d in (1, 2, 3)} | {("image_text", 2)} | {
        ("composite", d) for d in (4, 5, 6, 7, 8)
    }


def test_a_store_made_twice_has_the_same_recipes(pictures: VariantStore, tmp_path: Path) -> None:
    generate(pictures, None, IMAGES)
    other = VariantStore(tmp_path / "other", create=True)
    other.append(pictures.problems())
    generate(other, None, IMAGES, limit=6)
    generate(other, None, IMAGES)
    columns = "SELECT variant_id, recipe, text, status, reason FROM variants ORDER BY variant_id"
    assert other.query(columns) == pictures.query(columns)


def test_what_does_not_suit_is_kept_with_its_reason(pictures: VariantStore) -> None:
    generate(pictures, None, GenerateConfig(kinds=IMAGE_KINDS, image_families=9))
    rows = pictures.query("SELECT reason FROM variants WHERE status = 'rejected' AND kind = 'image'")
    reasons = {reason.split(": ")[1]: reason for (reason,) in rows}
    assert set(reasons) == {"rotate", "occlusion", "gaussian_noise", "speckle", "salt_pepper", "contrast"}
    assert reasons["rotate"] == "recipe: rotate: the question depends on the orientation ('left')"
    accepted = pictures.query(
        "SELECT recipe->>'$.operations[0].name' FROM variants WHERE status = 'candidate'"
    )
    assert len(accepted) > 50


def test_images_are_left_until_they_are_made(pictures: VariantStore) -> None:
    ids, few, more = (
        pictures.problem_ids(),
        *(Stages(GenerateConfig(kinds=IMAGE_KINDS, image_families=n)) for n in (1, 2)),
    )
    with Session(pictures) as session:
        assert unfinished(session, few, ids) == {"pic/0", "pic/1"}
        curate(session, few)
        assert unfinished(session, few, ids) == set()
        assert unfinished(session, more, ids) == {"pic/0", "pic/1"}


def test_operations_may_be_chosen(pictures: VariantStore) -> None:
    config = GenerateConfig.model_validate({"kinds": IMAGE_KINDS, "image_operations": ("blur", "jpeg")})
    generate(pictures, None, config)
    found = {Recipe.model_validate_json(v.recipe or "").names for v in pictures.read(Variant)}
    assert found == {("blur",), ("jpeg",), ("question_in_image",), ("blur", "jpeg")}


def test_recipes_of_the_store_render(pictures: VariantStore) -> None:
    generate(pictures, None, IMAGES)
    problems = {p.problem_id: p for p in pictures.problems()}
    for variant in pictures.read(Variant, "status = 'candidate'"):
        problem = problems[variant.problem_id]
        images = [open_rgb(pictures.image_path(image.hash)) for image in problem.images]
        made, text = render(Recipe.model_validate_json(variant.recipe or ""), images, problem.text)
        assert text == variant.text
        assert len(made) == len(images)
        assert any(new.tobytes() != old.tobytes() for new, old in zip(made, images, strict=True))


def test_a_larger_dose_of_a_family_has_the_seed_of_the_smaller(pictures: VariantStore) -> None:
    generate(pictures, None, IMAGES)
    recipes = [Recipe.model_validate_json(v.recipe or "") for v in pictures.read(Variant, "kind = 'image'")]
    by_seed = {
        seed: [recipe for recipe in recipes if recipe.seed == seed]
        for seed in {recipe.seed for recipe in recipes}
    }
    whole = [family for family in by_seed.values() if len(family) > 1]
    assert whole
    for family in whole:
        assert len({recipe.names for recipe in family}) == 1
        assert sorted(recipe.strength for recipe in family) == list(IMAGE_STRENGTHS[Kind.IMAGE])


def test_they_are_accepted_without_a_solver(pictures: VariantStore) -> None:
    made = generate(pictures, None, IMAGES)
    counts = verify(pictures, NoSolver(), VerifyConfig())
    assert counts == {"accepted": made["candidate"]}
    verdicts = pictures.query("SELECT DISTINCT check_name, passed, detail FROM verdicts")
    assert verdicts == [("recipe", True, None)]
    assert verify(pictures, NoSolver(), VerifyConfig()) == Counter()


def test_a_recipe_from_elsewhere_is_checked(pictures: VariantStore) -> None:
    good = Recipe(operations=(make_operation(OperationName.BLUR, 0.4, 1),), seed=1)
    turned = Recipe(operations=(make_operation(OperationName.ROTATE, 0.4, 1),), seed=1)
    text = TEXTS[1]
    planted = {
        "no recipe": (None, text, "not a recipe"),
        "no json": ('{"operations": []}', text, "not a recipe"),
        "unsuited": (turned.model_dump_json(), text, "depends on the orientation"),
        "other text": (good.model_dump_json(), "What is 3 + 4?", "does not follow"),
        "old": (good.model_copy(update={"renderer": 0}).model_dump_json(), text, "made for renderer 0"),
    }
    pictures.append(
        [
            Variant(
                variant_id=name,
                problem_id="pic/1",
                kind=Kind.IMAGE,
                text=words,
                recipe=recipe,
                delta_designed=3,
                generator_model="someone",
                prompt_version="1",
            )
            for name, (recipe, words, _) in planted.items()
        ]
    )
    assert verify(pictures, NoSolver(), VerifyConfig()) == {"rejected": len(planted)}
    for name, (_, _, reason) in planted.items():
        [(found,)] = pictures.query("SELECT reason FROM variants WHERE variant_id = ?", [name])
        assert found.startswith("recipe: ")
        assert reason in found


def test_text_kinds_still_need_a_teacher(pictures: VariantStore) -> None:
    with pytest.raises(ConfigError, match="written by a teacher"):
        generate(pictures, None, GenerateConfig(kinds=(Kind.IMAGE, Kind.REWORD)))


def test_enough_of_each_kind_counts_images_too(pictures: VariantStore, endpoint: TeacherConfig) -> None:
    config = GenerateConfig.model_validate({"kinds": ("image", "image_text"), "accepted": 2})
    done = supply(pictures, endpoint, config, VerifyConfig(), NoSolver())
    assert done.wanted == 4
    assert {(s.problem_id, s.kind, s.accepted) for s in done.shortages} == {
        (f"pic/{i}", Kind.IMAGE_TEXT, 1) for i in (0, 1)
    }


def test_the_commands_need_no_endpoint(
    pictures: VariantStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def diva(verb: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["diva", verb, "--store", str(pictures.root), *options])
        main()
        return capsys.readouterr().out

    out = diva("generate", "--kinds", "image,image_text,composite", "--image-families", "1")
    found = re.search(r"(\d+) candidate", out)
    assert found, out
    made = int(found[1])
    assert f"{made} accepted" in diva("verify")
    assert pictures.query("SELECT kind, model, outcome FROM runs ORDER BY started_at") == [
        ("generate", None, "ok"),
        ("verify", None, "ok"),
    ]


def test_text_that_is_written_meanwhile_waits_for_its_solver(
    pictures: VariantStore, monkeypatch: pytest.MonkeyPatch, diva: Diva
) -> None:
    """`diva verify` without an endpoint, for images alone, beside a `diva generate` of texts."""
    generate(pictures, None, GenerateConfig(kinds=(Kind.IMAGE_TEXT,)))
    has_texts = stage_verify.has_texts

    def written_behind(store: VariantStore, config: VerifyConfig) -> bool:
        found = has_texts(store, config)
        late = Variant(
            variant_id="late",
            problem_id="pic/2",
            kind=Kind.REWORD,
            text="The answer is 7.",
            delta_designed=0,
            generator_model="someone",
            prompt_version="1",
        )
        store.append([late])
        return found

    monkeypatch.setattr(stage_verify, "has_texts", written_behind)
    diva("verify", "--store", pictures.root)
    by_kind = "SELECT DISTINCT kind, status FROM variants ORDER BY kind"
    assert pictures.query(by_kind) == [("image_text", "accepted"), ("reword", "candidate")]


def test_real_problems(real_data: Path, tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "real", create=True)
    ingest(store, str(real_data / "mathvision" / "problems.jsonl"), PRESETS["mathvision"])
    generate(store, None, IMAGES)
    rows = store.query(
        "SELECT kind, count(DISTINCT problem_id), count(*) FROM variants WHERE status = 'candidate' GROUP BY ALL"
    )
    found = {kind: (problems, variants) for kind, problems, variants in rows}
    assert found == {"image": (200, 1200), "image_text": (200, 200), "composite": (200, 2000)}
    operations = store.query(
        "SELECT unnest(recipe->>'$.operations[*].name') o, count(*) FROM variants "
        "WHERE status = 'candidate' AND kind = 'image' GROUP BY o"
    )
    assert len(operations) == 9
    assert min(count for _, count in operations) >= 30
