"""The problems of a page: an index that the browser searches, and the details of each problem.

The details of a problem include its variants, accepted ones first, each with its rollouts in training.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from diva_grpo.flows.pages.look import Looked, LookedAt, label_text, look, verdict_text
from diva_grpo.pipeline.images.encoding import encoded
from diva_grpo.pipeline.images.shown import bounded_size, shown_images
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.label_model import BY_LABEL_MODEL
from diva_grpo.schemas.config import MAX_PIXELS
from diva_grpo.schemas.exceptions import RecipeError
from diva_grpo.schemas.question import question_of
from diva_grpo.schemas.records import ORIGINAL, Kind, Problem, Status, Variant

THUMBNAIL_PIXELS = 320 * 240
"""Maximum area of a picture in the page."""

INDEX_CHARACTERS = 240
"""Number of characters of a question that are in the index. The search finds only these."""

COMPLETION_CHARACTERS = 2_000
"""Number of characters of a completion that are in the page. The store has all of it."""

EMBEDDED_BYTES = 1_500_000
"""Maximum bytes of pictures that are embedded in the page. Further pictures are files in a folder beside it."""

_LOSSLESS_BYTES = 24 * 1024
_KINDS, _STATUSES = [str(kind) for kind in Kind], [str(status) for status in Status]
_PLACE_OF_STATUS = {Status.ACCEPTED: 0, Status.CANDIDATE: 1, Status.REJECTED: 2, Status.FAILED: 3}


@dataclass
class Pictures:
    """Make thumbnails of a page's images, as `src` attributes of `<img>`.

    Attributes:
        store: the store that has the images.
        page: the page's file. Thumbnails beyond `EMBEDDED_BYTES` are written to a folder beside it. None: all
            thumbnails are embedded.
        problems: maximum number of problems whose images are rendered; None: no limit.
    """

    store: VariantStore
    page: Path | None = None
    problems: int | None = None
    _embedded: int = 0
    _seen: set[str] = field(default_factory=set)

    def of(self, problem: Problem, variant: Variant | None = None) -> tuple[list[str], str]:
        """The thumbnails of a problem or variant.

        Returns:
            The `src` attributes, in the order of the images; and if there are none, a note that says why. The note is
            empty for a problem without images.

        Raises:
            StoreError: an image is missing or damaged.
        """
        if not problem.images:
            return [], ""
        if variant is not None and variant.recipe is None:
            return [], "images as in the original"
        if self.problems is not None and problem.problem_id not in self._seen:
            if len(self._seen) >= self.problems:
                return [], "images are left out here: diva show --html has them"
            self._seen.add(problem.problem_id)
        try:
            images = shown_images(
                question_of(problem, variant), self.store.image_path, max_pixels=MAX_PIXELS
            ).open()
        except RecipeError as error:
            return [], str(error)
        return [self._source(image) for image in images], ""

    def _source(self, image: Image.Image) -> str:
        small = image.resize(bounded_size(image.size, None, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
        mime, content = encoded(small, _LOSSLESS_BYTES)
        if self.page is None or self._embedded + len(content) <= EMBEDDED_BYTES:
            self._embedded += len(content)
            return f"data:{mime};base64,{base64.b64encode(content).decode()}"
        folder = self.page.with_name(f"{self.page.stem}_images")
        folder.mkdir(exist_ok=True)
        name = f"{hashlib.sha256(content).hexdigest()[:24]}.{mime.removeprefix('image/')}"
        (folder / name).write_bytes(content)
        return f"{folder.name}/{name}"


# --- the index


def index(
    store: VariantStore, runs: Sequence[str], problem_ids: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """One row for each problem, for the index of the page.

    Problems with stored completions come first, then those with other rollouts, then those with variants, then the
    rest. Within each of these, problems are sorted by id.

    Args:
        store: the store.
        runs: ids of the training runs whose rollouts are counted. Changes of difficulty are those of the first run.
        problem_ids: the problems to include; None includes all.
    """
    kind, status = (
        f"list_position({names}, {column}) - 1" for names, column in ((_KINDS, "kind"), (_STATUSES, "status"))
    )
    sql = f"""
        WITH v AS (
            SELECT problem_id, count(*) AS variants, count(*) FILTER (status = 'accepted') AS accepted,
                   bit_or(1::INTEGER << (({kind}) * {len(_STATUSES)} + {status})::INTEGER) AS has
            FROM variants GROUP BY problem_id
        ), r AS (
            SELECT problem_id, count(*) AS rollouts, count(completion) AS logged
            FROM rollouts WHERE run_id IN (SELECT unnest($1)) GROUP BY problem_id
        ), e AS (
            SELECT problem_id, arg_min(old_difficulty, step) AS before, arg_max(new_difficulty, step) AS after
            FROM difficulty_events WHERE run_id = $2 GROUP BY problem_id
        )
        SELECT p.problem_id AS id, p.source, p.split, left(p.text, {INDEX_CHARACTERS}) AS text,
               len(p.images) AS images, round(l.difficulty, 1) AS label, round(before, 1) AS before,
               round(after, 1) AS after, coalesce(variants, 0) AS variants, coalesce(accepted, 0) AS accepted,
               coalesce(has, 0) AS has, coalesce(r.rollouts, 0) AS rollouts, coalesce(logged, 0) AS logged
        FROM problems p LEFT JOIN v USING (problem_id) LEFT JOIN r USING (problem_id) LEFT JOIN e USING (problem_id)
        LEFT JOIN (SELECT subject_id, difficulty FROM labels WHERE {BY_LABEL_MODEL}) l ON l.subject_id = p.problem_id
        WHERE $3 IS NULL OR p.problem_id IN (SELECT unnest($3))
        ORDER BY logged > 0 DESC, rollouts > 0 DESC, variants > 0 DESC, p.problem_id
        """
    given = [[*runs], runs[0] if runs else "", None if problem_ids is None else [*problem_ids]]
    names = "id source split text images label before after variants accepted has rollouts logged".split()
    return [dict(zip(names, row, strict=True)) for row in store.query(sql, given)]


# --- details


def details(
    store: VariantStore, problem_ids: Sequence[str], runs: Sequence[str], pictures: Pictures
) -> list[dict[str, Any]]:
    """The details of problems for the page, in the given order.

    Args:
        store: the store.
        problem_ids: ids of the problems.
        runs: ids of the training runs whose rollouts and difficulty are shown.
        pictures: makes the thumbnails.

    Raises:
        ConfigError: there is no such problem.
        StoreError: an image or a part is missing or damaged.
    """
    narrow = store.of_problems(problem_ids)
    training = _Training(narrow, [*problem_ids], [*runs])
    return [_detail(looked, training, pictures) for looked in look(store, problem_ids)]


def _detail(looked: Looked, training: _Training, pictures: Pictures) -> dict[str, Any]:
    problem = looked.problem
    sources, note = pictures.of(problem)
    facts = [f"answer {problem.answer}"]
    facts += [label_text(looked.label)] if looked.label else []
    facts += [] if problem.human_level is None else [f"level {problem.human_level:g} of the source"]
    variants = sorted(looked.variants, key=lambda at: _PLACE_OF_STATUS[Status(at.variant.status)])
    return {
        "id": problem.problem_id,
        "source": problem.source,
        "split": problem.split,
        "text": problem.text,
        "options": problem.options,
        "solution": problem.solution_steps,
        "images": sources,
        "note": note,
        "facts": facts,
        "difficulty": training.difficulty[problem.problem_id],
        **training.of(problem.problem_id, ORIGINAL),
        "variants": [_variant(at, problem, training, pictures) for at in variants],
    }


def _variant(at: LookedAt, problem: Problem, training: _Training, pictures: Pictures) -> dict[str, Any]:
    variant = at.variant
    sources, note = pictures.of(problem, variant)
    facts = [
        at.shown_delta,
        at.operations,
        label_text(at.label) if at.label else "",
        f"by {variant.generator_model}",
    ]
    return {
        "id": variant.variant_id,
        "kind": str(variant.kind),
        "status": str(variant.status),
        "title": at.title,
        "reason": variant.reason,
        # None where the variant's text is that of the original.
        "text": None if variant.text == problem.text else variant.text,
        "hint": variant.hint,
        "images": sources,
        "note": note,
        "facts": [fact for fact in facts if fact],
        "checks": [[verdict.passed, verdict_text(verdict)] for verdict in at.verdicts],
        **training.of(problem.problem_id, variant.variant_id),
    }


class _Training:
    """The records of training runs about some problems: rollouts, groups, prompts and changes of difficulty.

    For each prompt, only rollouts with stored completions are kept, from the first and the last two steps that have
    any. All groups are kept.
    """

    def __init__(self, store: VariantStore, problem_ids: list[str], runs: list[str]) -> None:
        given = [problem_ids, runs]
        chosen = "WHERE problem_id IN (SELECT unnest(?)) AND run_id IN (SELECT unnest(?))"
        number = {run: place for place, run in enumerate(runs)}
        key = "problem_id, variant_id"
        self._of: defaultdict[tuple[str, str], dict[str, list[Any]]] = defaultdict(dict)
        self.difficulty: defaultdict[str, list[list[Any]]] = defaultdict(list)
        if not runs:
            return
        steps = f"dense_rank() OVER (PARTITION BY run_id, {key} ORDER BY step"
        rollouts = store.query(
            f"SELECT {key}, run_id, step, sample, round(reward, 3), accuracy, round(advantage, 3), completion_tokens, "
            "finish, graded_outcome, graded_answer, graded_how, reward_parts::VARCHAR, "
            f"left(completion, {COMPLETION_CHARACTERS}), length(completion) FROM rollouts {chosen} "
            f"AND completion IS NOT NULL QUALIFY {steps}) = 1 OR {steps} DESC) <= 2 ORDER BY run_id, step, sample",
            given,
        )
        self._keep("rollouts", rollouts, number)
        groups = store.query(
            f"SELECT {key}, run_id, step, slot, round(accuracy, 3), silent_why, rewards FROM groups {chosen} "
            "ORDER BY run_id, step, slot",
            given,
        )
        self._keep("groups", groups, number)
        prompts = store.query(
            f"SELECT {key}, run_id, hint_style, prompt, opening FROM prompts {chosen} ORDER BY ALL", given
        )
        self._keep("prompts", prompts, number)
        events = store.query(
            "SELECT problem_id, run_id, step, round(old_difficulty, 2), round(new_difficulty, 2) "
            f"FROM difficulty_events {chosen} ORDER BY run_id, step",
            given,
        )
        for problem_id, run, step, old, new in events:
            self.difficulty[problem_id].append([number[run], step, old, new])

    def _keep(self, name: str, rows: Iterable[tuple[Any, ...]], number: dict[str, int]) -> None:
        for problem_id, variant_id, run, *values in rows:
            self._of[problem_id, variant_id].setdefault(name, []).append([number[run], *values])

    def of(self, problem_id: str, variant_id: str) -> dict[str, list[Any]]:
        """The records of a prompt by name: `rollouts`, `groups`, `prompts`. Names without records are left out."""
        return self._of.get((problem_id, variant_id), {})
