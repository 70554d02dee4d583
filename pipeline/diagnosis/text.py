"""Format a diagnosis: as text for a terminal, and as JSON values for `--json`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from diva_grpo.pipeline.diagnosis.diagnose import Diagnosis
from diva_grpo.pipeline.diagnosis.facts import Facts, Trend, reward_of, trend
from diva_grpo.pipeline.diagnosis.rules import originals
from diva_grpo.pipeline.store.terminal import visible

_TAIL = 300
"""Maximum number of characters of a completion that are printed: the last ones, because they contain the answer."""


def as_text(diagnosis: Diagnosis, width: int | None = None) -> str:
    """Return a diagnosis as text for a terminal.

    Args:
        diagnosis: the diagnosis of a run.
        width: width of the text in characters; default the terminal's width, but at most 110.
    """
    columns = width or min(110, shutil.get_terminal_size((100, 24)).columns)
    lines = [headline(diagnosis)]
    for number, (finding, examples) in enumerate(
        zip(diagnosis.findings, diagnosis.examples, strict=True), start=1
    ):
        lines += ["", f"{number}. {finding.rule.title} [{finding.rule.cause}]"]
        lines += _wrapped(finding.evidence + ".", columns, "   ")
        lines += _wrapped(f"What to do: {finding.rule.to_do}", columns, "   ")
        for example in examples:
            lines += _example(example, columns)
    if not diagnosis.findings:
        lines += ["", "Nothing was found that keeps this run from learning."]
    return visible("\n".join(lines))


def summary(diagnosis: Diagnosis) -> str:
    """Return the headline and the titles of the findings. They are printed at the end of a run."""
    titles = "; ".join(finding.rule.title for finding in diagnosis.findings)
    if not titles:
        return headline(diagnosis)
    more = " `diva diagnose` shows rollouts, and says what to do." if diagnosis.run_id else ""
    return f"{headline(diagnosis)}\nFound: {titles}.{more}"


def headline(diagnosis: Diagnosis) -> str:
    """Return the main numbers of a run: its size, its share of silent groups, and its trends, each trend on a line."""
    facts = diagnosis.facts
    rollouts, groups = sum(g.rollouts for g in facts.groups), sum(g.groups for g in facts.groups)
    silent = sum(g.silent for g in facts.groups)
    lines = [
        f"{f'Run {diagnosis.run_id}' if diagnosis.run_id else 'The run'}: {facts.step_count():,} steps with "
        f"{rollouts:,} rollouts in {groups:,} groups, {silent / (groups or 1):.0%} of them silent"
    ]
    lines += [f"{name}: {value}" for name, value in _trends(facts).items() if value is not None]
    return "\n".join(lines)


def _trends(facts: Facts) -> dict[str, Trend | None]:
    return {
        "accuracy on originals without hints": originals(facts),
        "reward of all prompts": trend(facts, reward_of("original", "hinted", "other")),
    }


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as a dictionary that can be written as JSON."""
    trends = {
        name.replace(" ", "_"): None if value is None else {"first": value.first, "last": value.last}
        for name, value in _trends(diagnosis.facts).items()
    }
    return {
        "run_id": diagnosis.run_id,
        "steps": diagnosis.facts.step_count(),
        **trends,
        "scores": [asdict(score) for score in diagnosis.facts.scores],
        "findings": [
            {
                "cause": str(finding.rule.cause),
                "title": finding.rule.title,
                "evidence": finding.evidence,
                "to_do": finding.rule.to_do,
                "examples": examples,
            }
            for finding, examples in zip(diagnosis.findings, diagnosis.examples, strict=True)
        ],
    }


def _example(row: dict[str, Any], columns: int) -> Iterator[str]:
    kind = row["kind"] or row["variant_id"]
    hint = f" {row['hint_steps']}/{row['hint_total']}" if row["hint_steps"] is not None else ""
    judged = {1.0: "right", 0.0: "wrong", None: "not judged"}[row["accuracy"]]
    reward = "no reward" if row["reward"] is None else f"reward {row['reward']:g}"
    parts = [judged, reward, f"{row['completion_tokens']} tokens", row["finish"]]
    if row["graded_outcome"]:
        answer = f": {row['graded_answer']}" if row["graded_answer"] else ""
        parts.append(f"graded {row['graded_outcome']} ({row['graded_how']}{answer})")
    yield f"   - step {row['step']}, {row['problem_id']}, {kind}{hint}: {', '.join(filter(None, parts))}"
    text = row["completion"]
    if text is not None:
        shown = text if len(text) <= _TAIL else f"... {text[-_TAIL:]}"
        yield from _wrapped(shown or "(empty)", columns, "     | ")


def _wrapped(text: str, columns: int, indent: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from textwrap.wrap(line, columns, initial_indent=indent, subsequent_indent=indent)
