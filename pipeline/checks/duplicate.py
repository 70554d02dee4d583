"""The check `duplicate`: a variant differs from its original, from its siblings and from all other problems."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable

from rapidfuzz.distance import Levenshtein
from rensa import RMinHash, RMinHashLSH

from diva_grpo.pipeline.checks.finding import PASSED, Finding, failed, normalised, words
from diva_grpo.pipeline.quantities.texts import quantities
from diva_grpo.schemas.records import Kind, Problem, Variant

_WORDS_A_CHANGE = 10
_MAX_CHANGED_WORDS = 3
_CHARACTERS_A_CHANGE = 20
_MAX_CHANGED_CHARACTERS = 15

_PERMUTATIONS = 64
_BANDS = 16
_LIKE = 0.8
_SHINGLE = 3


def check_duplicate(
    variant: Variant, problem: Problem, siblings: Collection[Variant], others: OtherProblems | None = None
) -> Finding:
    """Check that the text is not a near duplicate of the original, of a sibling or of another problem.

    A think-step variant has the text of the original, so it fails only if a sibling has the same text and hint.

    Args:
        variant: the variant.
        problem: its original.
        siblings: variants of the same problem that were accepted before.
        others: texts of other problems; None skips this comparison.
    """
    hint = [sibling for sibling in siblings if sibling.hint or variant.hint]
    if any(identity(sibling) == identity(variant) for sibling in (hint if variant.hint else siblings)):
        return failed("copy of a sibling")
    if variant.kind == Kind.THINK_STEP:
        return PASSED
    text = variant.text or ""
    if normalised(text) == normalised(problem.text):
        return failed("copy of the original")
    if nearly_equal(text, problem.text):
        return failed("nearly the original")
    if any(nearly_equal(text, sibling.text or "") for sibling in siblings if sibling.kind != Kind.THINK_STEP):
        return failed("nearly a sibling")
    other = others.like(text, problem) if others else None
    return failed(f"nearly a text of problem {other}") if other else PASSED


def identity(variant: Variant) -> str:
    """Return the normalised text and hint of a variant. Two siblings with the same value are copies."""
    return normalised(variant.text or "") + "\n" + "\n".join(map(normalised, variant.hint))


def nearly_equal(text: str, other: str) -> bool:
    """Whether two texts differ only by a few small edits (insertions, deletions, replacements).

    At most one edited word per ten words, and not more than three, is small; so is at most one edited character per
    twenty characters, and not more than fifteen. With larger edits, such as an additional sentence, the texts are
    different. In a question of fewer than ten words, one edited word is not small, because it may be the whole
    rewording.
    """
    mine, theirs = words(text), words(other)
    limit = min(_MAX_CHANGED_WORDS, max(len(mine), len(theirs)) // _WORDS_A_CHANGE)
    if Levenshtein.distance(mine, theirs, score_cutoff=limit) <= limit:
        return True
    a, b = " ".join(mine), " ".join(theirs)
    limit = min(_MAX_CHANGED_CHARACTERS, max(len(a), len(b)) // _CHARACTERS_A_CHANGE)
    return bool(Levenshtein.distance(a, b, score_cutoff=limit) <= limit)


class OtherProblems:
    """An index of the texts of many problems. It finds near duplicates by MinHash (64 permutations in 16 bands).

    It compares runs of three words. Each run is combined with the numbers, images and answer of its problem, so two
    problems that differ in a number or an image have no run in common, even if all their words are the same. The
    candidates that MinHash finds are then compared exactly: texts with a Jaccard similarity of at least 0.8 are near
    duplicates.

    Args:
        below: an index that several instances share. It is searched too, but nothing is added to it.
    """

    def __init__(self, below: OtherProblems | None = None) -> None:
        self._below = below
        self._index = RMinHashLSH(threshold=_LIKE, num_perm=_PERMUTATIONS, num_bands=_BANDS)
        self._texts: list[tuple[str, str, bytes]] = []

    def __len__(self) -> int:
        return len(self._texts) + (len(self._below) if self._below else 0)

    def add(self, texts: Iterable[tuple[Problem, str]]) -> None:
        """Add texts to the index. Each is given with its problem."""
        for problem, text in texts:
            key = _key(text, problem)
            self._index.insert(len(self._texts), _signature(_shingles(text), key))
            self._texts.append((problem.problem_id, text, key))

    def like(self, text: str, problem: Problem) -> str | None:
        """Return the id of another problem with a similar text and the same numbers, images and answer, or None."""
        if self._below and (found := self._below.like(text, problem)):
            return found
        key, shingles = _key(text, problem), _shingles(text)
        # The index has no order. Sorting makes the reported problem the same in every run.
        for number in sorted(map(int, self._index.query(_signature(shingles, key)))):
            problem_id, other, other_key = self._texts[number]
            if problem_id != problem.problem_id and other_key == key:
                theirs = _shingles(other)
                if len(shingles & theirs) / len(shingles | theirs) >= _LIKE:
                    return problem_id
        return None


def _key(text: str, problem: Problem) -> bytes:
    """Return a hash of the numbers, images and answer of a problem. Duplicates must have the same hash."""
    ordinals = re.findall(r"\d+(?=st\b|nd\b|rd\b|th\b)", text)
    numbers = sorted([*ordinals, *(str(q.value) for q in quantities(text) if q.firm)])
    images = [image.hash for image in problem.images]
    return hashlib.blake2b(
        repr((numbers, images, normalised(problem.answer))).encode(), digest_size=8
    ).digest()


def _shingles(text: str) -> set[str]:
    tokens = words(text)
    return {" ".join(tokens[i : i + _SHINGLE]) for i in range(max(1, len(tokens) - _SHINGLE + 1))}


def _signature(shingles: Collection[str], key: bytes) -> RMinHash:
    salt = key.hex()
    signature = RMinHash(num_perm=_PERMUTATIONS, seed=1)
    signature.update([f"{salt} {shingle}" for shingle in shingles])
    return signature
