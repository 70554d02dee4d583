"""Answers between marks: no escape is needed, and none is lost."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher import delimited
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.pipeline.teacher.structured import ShapeError, read_mended, read_reply
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.records import Aspect
from diva_grpo.schemas.replies import (
    Answer,
    HarderText,
    HarderTexts,
    Judgement,
    Reply,
    Rewordings,
    ThinkSteps,
)
from tests.support.endpoints import Endpoint, completion, serving
from tests.support.sessions import ask
from tests.teacher.test_escapes import problem_texts

LATEX = r"Find $\theta$ with $\frac{\beta}{2} \neq \nu$, " 'and "x" of\n\\begin{cases} 1 \\\\ 2 \\end{cases}'


async def _reword(teacher: Teacher) -> Answer[Rewordings]:
    values: dict[str, object] = {"problem": "What is 2 + 1?", "count": 2, "existing": ""}
    return await teacher.ask(load_prompt("reword"), values, purpose="t", problem_id="p", shape=Rewordings)


def _asked(
    store: VariantStore, *replies: str, **settings: Any
) -> tuple[Answer[Rewordings], list[dict[str, Any]]]:
    with serving(Endpoint(*map(completion, replies))) as endpoint:
        config = TeacherConfig(model="m", base_url=endpoint.url, output_mode="delimited", **settings)
        [answer] = ask(store, config, [partial(_reword)])
    return answer, endpoint.requests


def test_the_form_is_asked_for_in_the_message_and_no_json_is(store: VariantStore) -> None:
    reply = f"Here they are:\n<rewordings>\n{LATEX}\n</rewordings>\n<rewordings>\nSecond\n</rewordings>"
    answer, [request] = _asked(store, reply)
    assert answer.value == Rewordings(rewordings=[LATEX, "Second"])
    assert "response_format" not in request
    content = request["messages"][-1]["content"]
    assert delimited.in_words(Rewordings) in content
    assert "JSON" not in content
    assert store.query("SELECT output_mode, outcome FROM calls") == [("delimited", "ok")]


def test_an_answer_that_cannot_be_read_is_asked_for_once_more_in_the_same_form(store: VariantStore) -> None:
    answer, [_, second] = _asked(store, "<rewordings>\nNot closed", "<rewordings>\nClosed\n</rewordings>")
    assert answer.value == Rewordings(rewordings=["Closed"])
    told = second["messages"][-1]["content"]
    assert "<rewordings> is not closed" in told
    assert delimited.in_words(Rewordings) in told


def test_an_endpoint_that_answers_in_json_is_understood(store: VariantStore) -> None:
    answer, _ = _asked(store, json.dumps({"rewordings": [LATEX]}))
    assert answer.value == Rewordings(rewordings=[LATEX])


SHAPES: dict[str, tuple[str, Reply]] = {
    "blocks within blocks": (
        "<texts>\n<aspect>\nstory\n</aspect>\n<text>\nA\n</text>\n</texts>\n"
        "<texts><aspect>abstract</aspect><text>B {1}</text></texts>",
        HarderTexts(
            texts=[
                HarderText(aspect=Aspect.STORY, text="A"),
                HarderText(aspect=Aspect.ABSTRACT, text="B {1}"),
            ]
        ),
    ),
    "a truth value": (
        "<reason>\nnone\n</reason>\n<same_question>\nTrue\n</same_question>",
        Judgement(reason="none", same_question=True),
    ),
    "after thoughts": (
        "<think>maybe <answer>4</answer></think><steps>a</steps><steps>b</steps><answer>5</answer>",
        ThinkSteps(steps=["a", "b"], answer="5"),
    ),
    "all backslashes doubled": (
        r"<rewordings>\\frac{1}{2} \\times 3</rewordings>",
        Rewordings(rewordings=[r"\frac{1}{2} \times 3"]),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_stands_between_the_marks_is_read(name: str) -> None:
    text, meant = SHAPES[name]
    assert read_reply(text, type(meant)) == meant


REFUSED: dict[str, tuple[str, type[Reply], str, str]] = {
    "a field is missing": (
        "<same_question>true</same_question>",
        Judgement,
        "schema",
        "reason: Field required",
    ),
    "no truth value": (
        "<reason>r</reason><same_question>perhaps</same_question>",
        Judgement,
        "schema",
        "same_question: Input should be a valid boolean",
    ),
    "broken off": (
        "<rewordings>one</rewordings><rewordings>tw",
        Rewordings,
        "parse",
        "<rewordings> is not closed",
    ),
    "no marks": ("I cannot.", Rewordings, "parse", "Invalid JSON"),
}


def test_what_was_read_as_json_is_recorded() -> None:
    told = read_mended(r"<rewordings>\\frac{1}{2}</rewordings>", Rewordings)[1]
    assert told is not None
    assert told.startswith("mended: 1 ")
    assert read_mended(r"<rewordings>\frac{1}{2}</rewordings>", Rewordings)[1] is None


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_refused_with_its_reason(name: str) -> None:
    text, shape, kind, said = REFUSED[name]
    with pytest.raises(ShapeError, match=re.escape(said)) as caught:
        read_reply(text, shape)
    assert caught.value.kind == kind


@given(
    st.lists(
        st.text(st.characters(exclude_characters="<>\\{", exclude_categories=["Cs"])).map(str.strip),
        min_size=1,
    )
)
def test_plain_texts_come_through(texts: list[str]) -> None:
    reply = "".join(f"<rewordings>\n{text}\n</rewordings>\n" for text in texts)
    assert read_mended(reply, Rewordings) == (Rewordings(rewordings=texts), None)


@pytest.mark.parametrize("doubled", [False, True])
def test_1000_real_texts_come_through(real_data: Path, doubled: bool) -> None:
    texts = list(dict.fromkeys(text.strip() for text in problem_texts(real_data)))
    chosen = sorted(texts, key=lambda text: "\\" not in text)[:1_000]
    written = chosen
    if doubled:  # by habit; without a command in the text, doubled backslashes may be meant
        commands = re.compile(r"(?<!\\)\\(?:frac|times|sqrt|angle|circ)\b")
        written = [text.replace("\\", "\\\\") if commands.search(text) else text for text in chosen]
    wrong = [
        (text, found)
        for text, reply in zip(chosen, written, strict=True)
        if (found := read_reply(f"<steps>\n{reply}\n</steps><answer>\n{reply}\n</answer>", ThinkSteps))
        != ThinkSteps(steps=[text], answer=text)
    ]
    assert wrong == []
    assert len(chosen) == 1_000
