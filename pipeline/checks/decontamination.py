"""The check `decontamination`: a variant shares no long run of words with the user's evaluation sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from diva_grpo.pipeline.checks.finding import PASSED, Finding, failed, words
from diva_grpo.pipeline.ingest.readers import Row
from diva_grpo.pipeline.ingest.sources import open_source
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.question import PLACEHOLDER
from diva_grpo.schemas.records import Problem, Variant

GRAM = 13
"""A text that shares this many consecutive words with a question is contaminated (arXiv 2005.14165, appendix C)."""
_SHORTEST_WITHIN = 8
QUESTION_COLUMNS = ("problem", "question", "text", "prompt", "query", "instruction", "input")

Runs = tuple[str, ...]


class EvaluationSets:
    """The questions of evaluation sets, which training texts must not contain.

    A text contains a question of 13 or more words if it has 13 consecutive words of it. It contains a question of 8 to
    12 words if it has all of them in a row. A shorter question could be part of any text, so the whole text must be
    equal to it.

    Args:
        questions: pairs of the name of a set and the text of a question.
    """

    def __init__(self, questions: Iterable[tuple[str, str]]) -> None:
        self._runs: dict[Runs, str] = {}
        self._whole: dict[Runs, str] = {}
        self._size = 0
        lengths: defaultdict[int, int] = defaultdict(int)
        for name, text in questions:
            tokens = tuple(_words(text))
            self._size += 1
            if len(tokens) < _SHORTEST_WITHIN:
                self._whole.setdefault(tokens, name)
                continue
            length = min(GRAM, len(tokens))
            lengths[length] += 1
            for run in _runs(tokens, length):
                self._runs.setdefault(run, name)
        self._lengths = sorted(lengths, reverse=True)

    def __len__(self) -> int:
        return self._size

    def shared(self, text: str) -> tuple[str, str] | None:
        """Return (name of the set, shared words) if a text contains a question of a set, else None."""
        tokens = tuple(_words(text))
        if tokens in self._whole:
            return self._whole[tokens], " ".join(tokens)
        for length in self._lengths:
            for run in _runs(tokens, length):
                if run in self._runs:
                    return self._runs[run], " ".join(run)
        return None


def check_decontamination(variant: Variant, problem: Problem, sets: EvaluationSets) -> Finding:
    """Check that neither the variant nor its original contains a question of an evaluation set.

    The original is checked too, because a hint for a test question would also contaminate.
    """
    for text, of in ((variant.text or "", "text"), (problem.text, "original")):
        shared = sets.shared(text)
        if shared:
            return failed(f"the {of} shares with {shared[0]}: {shared[1]!r}")
    return PASSED


def read_evaluation_sets(sources: Sequence[str]) -> EvaluationSets:
    """Read the questions of evaluation sets.

    Args:
        sources: stores of this project, or anything that `diva ingest` reads: JSONL, JSON, CSV or Parquet files,
            folders, hub names. The question of a row is read from the first column in `QUESTION_COLUMNS` that is not
            empty.

    Raises:
        SourceError: there is no such source, or it cannot be read.
        ConfigError: a source has no row with a question.
    """
    return EvaluationSets((source, text) for source in sources for text in _questions(source))


def _questions(source: str) -> Iterator[str]:
    if (Path(source) / Problem.table).is_dir():
        yield from (text for (text,) in VariantStore(source).query("SELECT text FROM problems"))
        return
    found = False
    for part in open_source(source, ColumnMapping()):
        for row in part.rows:
            column = next((c for c in QUESTION_COLUMNS if isinstance(row, Row) and row.values.get(c)), None)
            if isinstance(row, Row) and column:
                found = True
                yield str(row.values[column])
    if not found:
        raise ConfigError(f"{source}: no row has a question in a column {', '.join(QUESTION_COLUMNS)}")


def _words(text: str) -> list[str]:
    return words(PLACEHOLDER.sub(" ", text))


def _runs(tokens: Runs, length: int) -> Iterator[Runs]:
    return (tokens[i : i + length] for i in range(len(tokens) - length + 1))
