"""Recognise the layout of a source by its columns: a preset, or plain columns with usual names.

    layout = recognised(rows)
    layout.name, layout.mapping.answer      # "verl", "reward_model.ground_truth"

The CLI prints the layout as the equivalent flags, so that a user can change them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diva_grpo.pipeline.images.sources import is_image
from diva_grpo.pipeline.ingest.cells import RowError, cell_of, conversation_of, has
from diva_grpo.schemas.mapping import FLAGS, PRESETS, AnswerFormat, ColumnMapping

SAMPLE_ROWS = 20
"""Number of rows that are read to recognise a layout."""

Rows = Sequence[Mapping[str, object]]

# Usual column names for each field, in order of precedence. Case is ignored.
_PLAIN: Mapping[str, tuple[str, ...]] = {
    "problem": ("problem", "question", "query", "prompt", "instruction", "input", "problem_text"),
    "answer": tuple(
        "answer final_answer expected_answer correct_answer ground_truth gt_answer gold_answer answerkey target".split()
    ),
    "options": ("options", "choices"),
    "images": ("images", "image"),
    "solution": ("solution", "solutions", "rationale", "explanation"),
    "level": ("level",),
}


@dataclass(frozen=True)
class Layout:
    """The layout of a source.

    Attributes:
        name: name of the preset; `plain` for columns that were recognised by their names.
        mapping: its columns.
    """

    name: str
    mapping: ColumnMapping

    def line(self) -> str:
        """Return the layout as one line with the equivalent flags."""
        named = [(field, getattr(self.mapping, field)) for field in FLAGS]
        flags = " ".join(f"--{field}-column {column}" for field, column in named if column)
        preset = f"--preset {self.name} " if self.name in PRESETS else ""
        return f"read as {self.name}: {preset}{flags}"


def recognised(rows: Rows) -> Layout:
    """Recognise the layout of a source from its first rows."""
    for name, fits in _LAYOUTS.items():
        if fits(rows):
            found = _of_rows(PRESETS[name], rows)
            return Layout(name, _ours(found, rows))
    return Layout("plain", _ours(_plain(rows), rows))


def _have(rows: Rows, *columns: str) -> bool:
    """Whether each of these columns has a value in at least one row."""
    return all(any(cell_of(row, column) not in (None, "", [], {}) for row in rows) for column in columns)


def _chats(rows: Rows, column: str) -> bool:
    """Whether a column contains a conversation with a reply in at least one row."""

    def is_chat(row: Mapping[str, object]) -> bool:
        try:
            found = conversation_of(cell_of(row, column), column)
        except RowError:
            return True
        return found is not None and found.reply != ""

    return any(map(is_chat, rows))


def _with(rows: Rows, column: str, mark: str) -> bool:
    return any(mark in str(cell_of(row, column)) for row in rows)


_LAYOUTS: Mapping[str, Callable[[Rows], bool]] = {
    "export": lambda rows: _have(rows, "problem_id", "variant_id", "kind", "text", "answer"),
    "verl": lambda rows: _have(rows, "prompt", "reward_model.ground_truth"),
    "sharegpt": lambda rows: _chats(rows, "conversations"),
    "trl": lambda rows: _have(rows, "prompt", "answer") or _have(rows, "prompt", "solution"),
    "sft": lambda rows: _have(rows, "prompt", "completion"),
    "diva": lambda rows: (
        _have(rows, "problem", "answer")
        and any(_have(rows, name) for name in ("variants", "think_steps", "step2"))
    ),
    "mathvision": lambda rows: _have(rows, "question", "answer", "decoded_image"),
    "gsm8k": lambda rows: _have(rows, "question", "answer") and _with(rows, "answer", "\n####"),
    "math": lambda rows: (
        _have(rows, "problem", "solution") and not _have(rows, "answer") and _with(rows, "solution", "boxed")
    ),
    "messages": lambda rows: _chats(rows, "messages") and not _have(rows, "answer"),
}
"""The condition for each preset, in the order in which the presets are tried."""


def _of_rows(preset: ColumnMapping, rows: Rows) -> ColumnMapping:
    """Adapt a preset to the rows of another data set: columns that the rows do not have are removed."""
    changes: dict[str, Any] = dict.fromkeys(("name", "license", "hub", "hub_config", "hub_split"))
    for field in ("id", "options", "solution", "level", "split"):
        column = getattr(preset, field)
        if column is not None and not any(has(row, column) for row in rows):
            changes[field] = None
    pictured = (preset.images, preset.images_fallback, "images", "image")
    changes["images"] = next((name for name in pictured if name and _pictures(rows, name)), None)
    if not _have(rows, preset.answer) and _have(rows, "solution"):
        changes["answer"] = "solution"  # TRL's own reward function reads this column
    if preset.problem == "prompt" and _have(rows, "extra_info.question"):
        changes["problem"] = "extra_info.question"  # the question without the prompt's instruction
    return preset.model_copy(update=changes)


def _pictures(rows: Rows, column: str) -> bool:
    return any(is_image(cell_of(row, column)) for row in rows)


def _plain(rows: Rows) -> ColumnMapping:
    columns = {name.casefold(): name for row in reversed(rows) for name in row}
    found: dict[str, Any] = {}
    for field, names in _PLAIN.items():
        known = (columns[name] for name in names if name in columns)
        fits = (name for name in known if _have(rows, name) and (field != "images" or _pictures(rows, name)))
        if column := next(fits, None):
            found[field] = column
    if "answer" not in found and "solution" in found and _with(rows, found["solution"], "boxed"):
        found |= {"answer": found.pop("solution"), "answer_format": AnswerFormat.SOLUTION}
    return ColumnMapping(**found)


def _ours(mapping: ColumnMapping, rows: Rows) -> ColumnMapping:
    """Add the columns of id and kind to the mapping if the rows were written by `diva export`."""
    for place in ("", "extra_info."):
        if _have(rows, f"{place}problem_id", f"{place}variant_id", f"{place}kind"):
            return mapping.model_copy(update={"id": f"{place}problem_id", "kind": f"{place}kind"})
    return mapping
