"""`diva generate --preview N`: a few problems for real, shown whole, and kept only in the journal."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from diva_grpo.flows.demo.scripted_teacher import Message, ScriptedTeacher
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Image, Problem
from tests.conftest import Diva
from tests.support.endpoints import Endpoint, Reply, Server, completion, json_reply, serving

JUDGED = ["--checks", "format,leak,numbers,duplicate,answer,judge", "--judge-model", "judge"]


@pytest.fixture
def scripted(word_problems: list[Problem]) -> Iterator[Server]:
    """The scripted teacher behind an endpoint that keeps the requests."""
    teacher = ScriptedTeacher(word_problems, wrong_share=0.3)

    def answer(asked: dict[str, Any]) -> Reply:
        messages = [Message.model_validate(message) for message in asked["messages"]]
        return completion(teacher.answer(messages, int(asked.get("seed", 0))))

    with serving(Server(answer)) as endpoint:
        yield endpoint


def options(endpoint: Endpoint, store: VariantStore, model: str = "gpt-4.1-mini") -> list[object]:
    return ["--store", store.root, "--base-url", endpoint.url, "--model", model]


def files(store: VariantStore) -> dict[str, str]:
    """All files of a store but for its journal, with their contents' hashes."""
    return {
        str(path.relative_to(store.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.root.rglob("*")
        if path.is_file() and not path.name.startswith("journal.")
    }


def sent(endpoint: Endpoint) -> list[str]:
    return [json.dumps(request, sort_keys=True) for request in endpoint.requests]


def test_all_is_shown_and_only_the_answers_are_kept(
    diva: Diva, store: VariantStore, scripted: Server
) -> None:
    before = files(store)
    done = diva("generate", *options(scripted, store), "--preview", 2, *JUDGED)
    assert done.code == 0, done.err
    assert files(store) == before
    problems, costs = done.out.split("\nwritten: ")
    assert re.findall(r"^=+ problem (.*?) =+$", problems, re.MULTILINE) == ["1 of 2: w/0", "2 of 2: w/1"]
    first, second = problems.split("==== problem 2")
    # the messages, once; the raw reply; what was read from it; each check with its verdict; the decision
    assert first.count("You rewrite mathematics problems for a training set.") == 1
    assert "system: as above" in second
    assert "    Tom has 3 apples. He buys 4 more. How many apples has he now?\n    </problem>" in first
    assert '    {"rewordings": ["' in first
    assert "  reply: ok (100 tokens sent, 20 tokens answered, $0.0001, " in first
    assert "solve: sent to gpt-4.1-mini, 3 times" in first
    assert "judge: sent to judge" in first
    assert first.count("✓ reword  delta +0.0  accepted  by gpt-4.1-mini") >= 1
    assert "judge passed (Nothing differs.)" in " ".join(first.split())
    assert re.search(r"✗ reword .* rejected .*\n    because: (answer|judge): ", problems)
    assert "✓ think_step 1/2  delta -2.0  accepted" in problems
    assert costs.startswith("14 candidate\nverified: ")
    assert max(map(len, done.out.partition("\nnext:")[0].splitlines())) <= 80
    assert "\x1b" not in done.out


def test_the_run_sends_none_of_its_requests_again(diva: Diva, store: VariantStore, scripted: Server) -> None:
    typed = options(scripted, store)
    done = diva("generate", *typed, "--preview", 2, "--limit", 4, *JUDGED)
    previewed = sent(scripted)
    assert len(previewed) == len(set(previewed)) > 20
    # the two commands that it names, as they are
    commands = re.findall(r"^  diva (.*)$", done.out.partition("\nnext:")[2], re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["generate", "verify"]
    for command in commands:
        assert diva(*command.split()).code == 0, command
    later = sent(scripted)[len(previewed) :]
    assert later
    assert not set(previewed) & set(later)
    decided = store.query(
        "SELECT DISTINCT status FROM variants WHERE problem_id IN ('w/0', 'w/1') ORDER BY 1"
    )
    assert decided == [("accepted",), ("rejected",)]
    # Nor does a second preview; it goes on with what is left, of which there is nothing here.
    assert (
        "nothing to preview: none of 4 problems" in diva("generate", *typed, "--preview", 2, "--limit", 4).out
    )


def test_the_same_preview_again_shows_the_same_and_costs_nothing(
    diva: Diva, store: VariantStore, scripted: Server
) -> None:
    command = ["generate", *options(scripted, store), "--preview", 1]
    first, requests = diva(*command), len(scripted.requests)
    again = diva(*command)
    assert len(scripted.requests) == requests
    assert f"{requests} of the requests were answered by the journal" in again.out
    assert again.out.count("from the journal)") == requests

    def without_seconds(text: str) -> str:
        return re.sub(r", (?:[\d.]+ s|from the journal)\)", ")", text.partition("\nwritten:")[0])

    assert without_seconds(again.out) == without_seconds(first.out)


def test_the_estimate_is_the_mean_times_the_problems_that_need_variants(
    diva: Diva, store: VariantStore, scripted: Server
) -> None:
    typed = [*options(scripted, store), "--kinds", "think_step"]
    assert diva("generate", *typed, "--limit", 1).code == 0
    done = diva("generate", *typed, "--limit", 4, "--preview", 1)
    rows = dict(
        re.findall(r"^(think_step|1 problem|all 3 problems|still to be paid) +(.*)$", done.out, re.MULTILINE)
    )
    # 100 and 20 tokens a request, at 0.4 and 1.6 dollars per million
    assert rows["1 problem"].split() == ["1", "100", "20", "0.0001"]
    assert rows["all 3 problems"].split() == ["3", "300", "60", "0.0002"]
    assert rows["still to be paid"].split() == ["2", "200", "40", "0.0001"]
    half = diva("generate", *typed, "--limit", 4, "--preview", 1, "--batch").out
    assert re.search(r"^all 3 problems .* 0\.0001$", half, re.MULTILINE)
    assert "The Batch API charges half." in half


def test_until_there_are_enough(diva: Diva, store: VariantStore, scripted: Server) -> None:
    typed = [*options(scripted, store), "--kinds", "reword", "--accepted", 3, "--limit", 4]
    before = files(store)
    done = diva("generate", *typed, "--preview", 2)
    assert done.code == 0
    assert files(store) == before
    previewed = sent(scripted)
    [command] = re.findall(r"^  diva (.*)$", done.out.partition("\nnext:")[2], re.MULTILINE)
    assert diva(*command.split()).code == 0
    assert not set(previewed) & set(sent(scripted)[len(previewed) :])
    assert store.query("SELECT count(*) FROM calls WHERE outcome = 'ok'") == [(len(scripted.requests),)]


def test_images_are_described_and_operations_cost_nothing(
    diva: Diva, store: VariantStore, scripted: Server, tmp_path: Path
) -> None:
    Picture.new("RGB", (64, 32), "white").save(tmp_path / "a.png")
    digest = store.put_image((tmp_path / "a.png").read_bytes(), "PNG")
    shape = Problem(
        problem_id="z/0",
        source="z",
        split="train",
        text="How many corners has the shape?",
        answer="5",
        images=[Image(hash=digest, width=64, height=32)],
    )
    store.append([shape])
    free = diva("generate", "--store", store.root, "--kinds", "image", "--preview", 3)
    assert free.code == 0, free.err
    assert "problem 1 of 1: z/0" in free.out
    assert "checks: recipe passed" in free.out
    assert "No request was sent" in free.out
    both = [*options(scripted, store), "--kinds", "image,harder", "--problem-filter", "source = 'z'"]
    with serving(Endpoint(completion('{"texts": []}'))) as endpoint:
        both[3] = endpoint.url
        shown = diva("generate", *both, "--preview", 1)
    assert re.search(r"\[image/png, 0\.\d kB\]", shown.out)
    assert "base64" not in shown.out
    assert "because: schema: an empty list" in shown.out
    assert "✓ image " in shown.out


def test_a_reply_that_is_sent_back_and_control_characters(diva: Diva, store: VariantStore) -> None:
    bad, good = (
        "\x1b[8mnot\x07 JSON " + "x" * 200,
        json.dumps({"steps": ["Tom has 3.", "3 + 4 = 7"], "answer": "7"}),
    )
    with serving(Endpoint(completion(bad), completion(good))) as endpoint:
        done = diva("generate", *options(endpoint, store), "--preview", 1, "--kinds", "think_step")
    assert done.code == 0
    assert "  reply: parse: Invalid JSON" in done.out
    assert "    ␛[8mnot␇ JSON xxx" in done.out
    assert "  sent back to be corrected\n  reply: ok (" in done.out
    assert not set(done.out) & {"\x1b", "\x07"}
    assert max(map(len, done.out.partition("\nnext:")[0].splitlines())) <= 80


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(drop=True), "all failed, most often by 'network: "),
        (json_reply({"error": {"message": "bad key"}}, 401), "refuses every request (http_401: "),
    ],
)
def test_an_outage_is_shown_and_fails(diva: Diva, store: VariantStore, reply: Reply, words: str) -> None:
    with serving(Endpoint(reply)) as endpoint:
        done = diva("generate", *options(endpoint, store), "--preview", 1, "--max-retries", 0)
    assert done.code == 1
    assert "You rewrite mathematics problems" in done.out
    assert words in done.err
    assert done.err.startswith("diva: ")
    assert done.err.count("\n") == 1
    assert "next:" not in done.out


def test_a_budget_ends_it(diva: Diva, store: VariantStore, scripted: Server) -> None:
    done = diva(
        "generate", *options(scripted, store), "--preview", 4, "--max-cost", 0.00005, "--concurrency", 1
    )
    assert done.code == 1
    assert "--max-cost" in done.err
    assert "reply: none, the preview ended before" in done.out
    assert len(scripted.requests) == 1


def test_secrets_in_urls_are_not_repeated(diva: Diva, store: VariantStore, scripted: Server) -> None:
    typed = options(scripted, store)
    typed[3] = scripted.url.replace("http://", "http://me:hidden@")
    assert "hidden" not in diva("generate", *typed, "--preview", 1).out
