"""LaTeX in JSON, however a model writes its backslashes: nothing damaged, no true line break lost."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.pipeline.checks import check_format
from diva_grpo.pipeline.quantities.commands import ALSO_WORDS, COMMANDS
from diva_grpo.pipeline.quantities.escapes import damage, read_string, restored
from diva_grpo.pipeline.teacher.structured import read_mended, read_reply
from diva_grpo.schemas.records import Kind, Problem, Variant
from diva_grpo.schemas.replies import HarderTexts, Rewordings, ThinkSteps

Writer = Callable[[str], str]
"""Writes a text between the quotes of a JSON string."""


def _doubled(text: str) -> str:
    """As JSON wants it."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _single(text: str) -> str:
    """Backslashes as they are; quotes and line breaks as JSON wants them."""
    return text.replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")


def _single_with_raw_breaks(text: str) -> str:
    return text.replace('"', '\\"')


def _mixed(text: str) -> str:
    """Each backslash of a command as it comes, single or doubled; the ends of rows doubled."""
    chosen = random.Random(text)
    doubled = _doubled(text)
    return re.sub(
        r"(?<!\\)\\\\(?=[A-Za-z(){}\[\]$%])", lambda m: m[0] if chosen.random() < 0.5 else "\\", doubled
    )


def _over_doubled(text: str) -> str:
    return _doubled(text.replace("\\", "\\\\"))


def _twice(text: str) -> str:
    """JSON within JSON: line breaks are escaped twice too."""
    return _doubled(_doubled(text))


WRITERS: dict[str, Writer] = {
    "single": _single,
    "single, raw line breaks": _single_with_raw_breaks,
    "doubled": _doubled,
    "mixed": _mixed,
    "over-doubled": _over_doubled,
    "twice": _twice,
}
AROUND = {
    "json_schema": "{}",
    "json_object": "\n{}\n",
    "text": "Sure, here it is:\n{}\nAnything else?",
    "fenced": "```json\n{}\n```",
    "after thoughts": "<think>$\\frac{1}{2}$ or {1}?</think>{}",
}


def _replies(written: str) -> dict[str, str]:
    """Each reply that holds texts, as a model would write it."""
    return {
        "Rewordings": f'{{"rewordings": ["{written}", "{written}"]}}',
        "HarderTexts": f'{{"texts": [{{"aspect": "story", "text": "{written}"}}]}}',
        "ThinkSteps": f'{{"steps": ["Step 1: {written}"], "answer": "{written}"}}',
    }


def _texts_of(name: str, reply: str) -> list[str]:
    if name == "Rewordings":
        return read_reply(reply, Rewordings).rewordings
    if name == "HarderTexts":
        return [harder.text for harder in read_reply(reply, HarderTexts).texts]
    steps = read_reply(reply, ThinkSteps)
    return [steps.steps[0].removeprefix("Step 1: "), steps.answer]


def problem_texts(folder: Path) -> Iterator[str]:
    for source in ("mathvision", "gsm8k"):
        with (folder / source / "problems.jsonl").open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                for name in ("question", "solution", "answer"):
                    if isinstance(row.get(name), str):
                        yield row[name]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("around", AROUND)
def test_1000_real_texts_come_through(real_data: Path, writer: str, around: str) -> None:
    # A text that itself holds the two characters of an escape, as some of the source do, says nothing of ours.
    texts = [t for t in dict.fromkeys(problem_texts(real_data)) if not re.search(r"(?<!\\)\\n(?![a-z])", t)]
    chosen = sorted(texts, key=lambda text: "\\" not in text)[:1_000]
    assert len(chosen) == 1_000
    wrong = [
        (name, text)
        for text in chosen
        for name, reply in _replies(WRITERS[writer](text)).items()
        if set(
            _texts_of(name, AROUND[around].replace("{}", reply, 1) if "{}" in around else _put(around, reply))
        )
        != {text}
    ]
    assert wrong == []


def _put(around: str, reply: str) -> str:
    before, _, after = AROUND[around].rpartition("{}")
    return before + reply + after


COMMAND = st.sampled_from(sorted(COMMANDS - ALSO_WORDS))
PLAIN = st.text(
    st.characters(exclude_characters="\\$\r", exclude_categories=["Cs", "Cc"]) | st.just("\n"),
    max_size=20,
)


@given(st.lists(st.tuples(PLAIN, COMMAND), min_size=1, max_size=5), st.sampled_from(sorted(WRITERS)))
def test_every_command_among_any_words_comes_through(parts: list[tuple[str, str]], writer: str) -> None:
    text = "".join(f"{plain}$\\{command} 7$\n" for plain, command in parts)
    assert read_string(WRITERS[writer](text)).text == text


@given(st.sampled_from(sorted(COMMANDS)), st.sampled_from(sorted(WRITERS)))
def test_every_command_within_mathematics_comes_through(command: str, writer: str) -> None:
    text = f"Let $x \\{command} 7$.\nThen $\\alpha = 2$."
    assert read_string(WRITERS[writer](text)).text == text


@given(st.text(st.characters(exclude_characters="\\", codec="utf-8"), max_size=60))
def test_text_without_latex_is_what_json_says(text: str) -> None:
    written = _doubled(text)
    expected = read_string(written).text
    if damage(text) is None:  # a tab before "imes" is none
        assert expected == text


ORDINARY = [
    "First line.\nNow find 2 plus 3.",
    "Find\nu if v = 3.",
    "There are 5.\nnot one is red, it costs $5.\nnear the $6 shop",
    "a\nless than b\n\ttan\n\tto go\n\tan hour",
    "x\ne. g. 3\ni) one\nii) two",
    'He said "no".\r\nThen: 5/6, C:/temp',
]


@pytest.mark.parametrize("text", ORDINARY)
def test_line_breaks_and_tabs_before_words_stay(text: str) -> None:
    assert read_string(_doubled(text)).text == text
    assert restored(text) == text


ROWS = r"$\begin{array}{c|c} 1 & 2 \\ \hline 3 & 4 \\[2pt] x & y \\ 5 & \frac{1}{2} \end{array}$"


@pytest.mark.parametrize("writer", WRITERS)
def test_ends_of_rows_stay(writer: str) -> None:
    assert read_string(WRITERS[writer](ROWS)).text == ROWS


NORMS = [
    r"$\|v\|$",
    r"$a\,b\;c\:d\!e$",
    r"$\negthinspace x \nicefrac{1}{2}$",
    r"\resizebox{1cm}{!}{\tabularnewline}",
]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("text", NORMS)
def test_signs_and_rarer_commands_come_through(text: str, writer: str) -> None:
    assert read_string(WRITERS[writer](text)).text == text


def test_what_was_mended_is_told() -> None:
    _, told = read_mended(r'{"rewordings": ["$\beta \times 3$"]}', Rewordings)
    assert told == r"mended: 2 backslashes read as LaTeX (\beta \times)"
    assert read_mended(r'{"rewordings": ["$\\beta$\n"]}', Rewordings)[1] is None


DAMAGED = {
    "\x08eta": "control character U+0008",
    "$\x0crac{3}{4}$": "control character U+000C",
    "$3 \times 4$": r"U+0009 stands for \times",
    "$a \neq b$": r"U+000A stands for \neq",
    "$\rho$": r"U+000D stands for \rho",
    "bell \x07": "control character U+0007",
    "next\x85line": "control character U+0085",
}


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_text_is_known_and_refused(text: str) -> None:
    assert damage(text) == DAMAGED[text]
    problem = Problem(problem_id="p", source="s", split="train", text="What is $3$ now?", answer="1")
    of: dict[str, Any] = {"variant_id": "v", "problem_id": "p", "generator_model": "m", "prompt_version": "1"}
    step = of | {"kind": Kind.THINK_STEP, "text": problem.text}
    variants = [
        Variant(kind=Kind.REWORD, text=f"What is {text}?", **of),
        Variant(hint=["One.", text], **step),
        Variant(hint=["One."], solution_answer=text, **step),
    ]
    for variant in variants:
        finding = check_format(variant, problem)
        assert (finding.passed, finding.detail) == (False, f"damaged text: {DAMAGED[text]}")
