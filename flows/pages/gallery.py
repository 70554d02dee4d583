"""The gallery: one page of problems beside their variants, with images as the policy sees them.

The page is a single file that needs no network and no server: pictures are in it, and what it shows is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from diva_grpo.flows.pages.look import Looked, LookedAt, label_text, verdict_text
from diva_grpo.pipeline.images.encoding import encoded
from diva_grpo.pipeline.images.shown import Shown, bounded_size, shown_images
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import MAX_PIXELS
from diva_grpo.schemas.exceptions import RecipeError
from diva_grpo.schemas.question import question_of
from diva_grpo.schemas.records import Kind, Status

THUMBNAIL_PIXELS = 320 * 240
"""Largest area of a picture in the page."""

_LOSSLESS_BYTES = 24 * 1024


@dataclass(frozen=True, slots=True)
class Card:
    """A question as the page shows it: an original, or a variant.

    Attributes:
        kind: of the variant, or `original`.
        status: of the variant; empty for an original.
        title: heading.
        facts: short lines below the heading.
        reason: why it was not accepted, if so.
        text: the question.
        options: texts of its choices.
        steps: of the hint.
        pictures: data URLs.
        note: in the place of pictures.
        checks: (passed, failed or undecided; the verdict in words).
    """

    kind: str
    status: str
    title: str
    facts: list[str]
    reason: str | None
    text: str
    options: list[str]
    steps: list[str]
    pictures: list[str]
    note: str
    checks: list[tuple[str, str]]


def gallery(store: VariantStore, looked: Sequence[Looked], title: str) -> str:
    """The page as HTML.

    Args:
        store: where the images lie.
        looked: from `flows.pages.look.look`.
        title: of the page.

    Raises:
        StoreError: an image is missing or damaged.
    """
    folder = files("diva_grpo.flows.pages")
    script = (folder / "gallery.js").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((folder / "gallery.html").read_text("utf-8"))
    kinds = {str(at.variant.kind) for one in looked for at in one.variants}
    statuses = {str(at.variant.status) for one in looked for at in one.variants}
    return template.render(
        title=title,
        style=Markup((folder / "gallery.css").read_text("utf-8")),
        script=Markup(script),
        # The page may run this script and load its own pictures, and nothing else.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        kinds=[str(kind) for kind in Kind if kind in kinds],
        statuses=[str(status) for status in Status if status in statuses],
        problems=[(one.problem, _cards(store, one)) for one in looked],
    )


def write_gallery(store: VariantStore, looked: Sequence[Looked], path: Path, title: str) -> None:
    """Write the page to a file, see `gallery`."""
    path.write_text(gallery(store, looked, title), encoding="utf-8")


def _cards(store: VariantStore, looked: Looked) -> list[Card]:
    problem = looked.problem
    level = "" if problem.human_level is None else f"level {problem.human_level:g} of the source"
    facts = [label_text(looked.label)] if looked.label else []
    original = Card(
        kind="original",
        status="",
        title="original",
        facts=[fact for fact in (f"answer {problem.answer}", level, *facts) if fact],
        reason=None,
        text=problem.text,
        options=problem.options,
        steps=[],
        pictures=_pictures(shown_images(question_of(problem), store.image_path, max_pixels=MAX_PIXELS)),
        note="",
        checks=[],
    )
    return [original, *(_variant_card(store, looked, at) for at in looked.variants)]


def _variant_card(store: VariantStore, looked: Looked, at: LookedAt) -> Card:
    variant, pictures, note = at.variant, list[str](), ""
    if variant.recipe is not None:
        question = question_of(looked.problem, variant)
        try:
            pictures = _pictures(shown_images(question, store.image_path, max_pixels=MAX_PIXELS))
        except RecipeError as error:
            note = str(error)
    elif looked.problem.images:
        note = "images as in the original"
    facts = [at.shown_delta, at.operations, label_text(at.label) if at.label else ""]
    return Card(
        kind=str(variant.kind),
        status=str(variant.status),
        title=at.title,
        facts=[fact for fact in (*facts, f"by {variant.generator_model}") if fact],
        reason=variant.reason,
        text=variant.text or "",
        options=looked.problem.options,
        steps=variant.hint,
        pictures=pictures,
        note=note,
        checks=[(verdict_text(verdict).split()[1], verdict_text(verdict)) for verdict in at.verdicts],
    )


def _pictures(shown: Shown) -> list[str]:
    return [_thumbnail(image) for image in shown.open()] if shown else []


def _thumbnail(image: Image.Image) -> str:
    small = image.resize(bounded_size(image.size, None, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    mime, content = encoded(small, _LOSSLESS_BYTES)
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
