"""What Prefect's UI is shown of a store: exact content against planted records."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.flows.pages.artifacts import (
    MOST_DECISIONS,
    artifact_key,
    artifacts,
    cost,
    counts,
    decisions,
    difficulty,
    page_link,
    reasons,
    scores,
)
from diva_grpo.flows.pages.plots import LEVELS, bars
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import (
    Attempt,
    Call,
    Decision,
    DifficultyEvent,
    Evaluation,
    Kind,
    Label,
    Run,
    Status,
    Variant,
)

BEGAN = datetime(2026, 5, 1, 12)
SVG = "{http://www.w3.org/2000/svg}"


def _variant(number: int, kind: Kind, status: Status, reason: str | None = None) -> Variant:
    return Variant(
        variant_id=f"w/0:{kind}:{number}", problem_id="w/0", kind=kind, status=status, reason=reason,
        text="t", generator_model="m", prompt_version="1",
    )  # fmt: skip


def _call(number: int, purpose: str, when: datetime, usd: float | None, outcome: str = "ok") -> Call:
    return Call(
        request_hash=str(number), purpose=purpose, endpoint="e", model="m", problem_id="w/0",
        prompt_tokens=100, completion_tokens=20, cost_usd=usd, latency_s=1, attempts=1, outcome=outcome,
        output_mode="text", created_at=when,
    )  # fmt: skip


def _label(subject: str, kind: str, level: float, solver: str = "solver") -> Label:
    return Label(
        subject_id=subject, solver_model=solver, subject_kind=kind, samples=4, correct=2, pass_rate=0.5,
        difficulty=level, difficulty_low=1, difficulty_high=9,
    )  # fmt: skip


def _decision(number: int, wanted: float, nearest: float | None, when: datetime = BEGAN) -> Decision:
    return Decision(
        flow_run_id="f", problem_id=f"w/{number}", wanted_delta=wanted, nearest_delta=nearest,
        kinds=["harder", "image"], requested=3, made=2, accepted=1, created_at=when,
        outcome="enough",
    )  # fmt: skip


def test_counts_by_kind_and_status(store: VariantStore) -> None:
    store.append(
        [
            _variant(0, Kind.REWORD, Status.ACCEPTED),
            _variant(1, Kind.REWORD, Status.ACCEPTED),
            _variant(2, Kind.REWORD, Status.REJECTED, "answer: 3, not 7"),
            _variant(3, Kind.REWORD, Status.FAILED, "timeout"),
            _variant(4, Kind.HARDER, Status.CANDIDATE),
        ]
    )
    assert counts(store).content == [
        {"kind": "harder", "candidate": 1, "accepted": 0, "rejected": 0, "failed": 0, "share accepted": None},
        {"kind": "reword", "candidate": 0, "accepted": 2, "rejected": 1, "failed": 1, "share accepted": "67 %"},
        {"kind": "all", "candidate": 1, "accepted": 2, "rejected": 1, "failed": 1, "share accepted": "67 %"},
    ]  # fmt: skip


def test_reasons_of_a_kind_together_commonest_first(store: VariantStore) -> None:
    store.append(
        [
            _variant(0, Kind.REWORD, Status.REJECTED, "answer: the solver says 3"),
            _variant(1, Kind.REWORD, Status.REJECTED, "answer: the solver says 12" + "0" * 300),
            _variant(2, Kind.REWORD, Status.FAILED, "timeout"),
            _variant(3, Kind.HARDER, Status.REJECTED, "leak: 7"),
            _variant(4, Kind.HARDER, Status.ACCEPTED),
        ]
    )
    long = ("answer: the solver says 12" + "0" * 300)[:160]
    assert reasons(store).content == [
        {"variants": 2, "kind": "reword", "status": "rejected", "by": "answer", "example": long},
        {"variants": 1, "kind": "harder", "status": "rejected", "by": "leak", "example": "leak: 7"},
        {"variants": 1, "kind": "reword", "status": "failed", "by": "timeout", "example": "timeout"},
    ]


def test_cost_of_the_store_and_of_the_run(store: VariantStore) -> None:
    before, now = BEGAN - timedelta(seconds=1), BEGAN
    store.append(
        [
            _call(0, "reword", before, 0.5),
            _call(1, "reword", now, 0.25, "timeout"),
            _call(2, "solve", before, 1.0),
            _call(3, "local", now, None),
        ]
    )
    shown = cost(store, BEGAN)
    assert shown.description.startswith("This run: 2 requests, $0.2500.")
    assert shown.content == [
        {"purpose": "solve", "model": "m", "requests": 1, "failed": 0, "tokens in": 100, "tokens out": 20,
         "median seconds": 1.0, "dollars": 1.0, "this run": None},
        {"purpose": "reword", "model": "m", "requests": 2, "failed": 1, "tokens in": 200, "tokens out": 40,
         "median seconds": 1.0, "dollars": 0.75, "this run": 0.25},
        {"purpose": "local", "model": "m", "requests": 1, "failed": 0, "tokens in": 100, "tokens out": 20,
         "median seconds": 1.0, "dollars": None, "this run": None},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("usd", "said"), [(None, "1 requests, of no known price"), (0.0, "1 requests, $0.0000")]
)
def test_cost_without_a_price_is_not_nothing(store: VariantStore, usd: float | None, said: str) -> None:
    store.append([_call(0, "reword", BEGAN, usd)])
    assert said in cost(store, BEGAN).description
    assert "0 requests, no dollars" in cost(store, BEGAN + timedelta(seconds=1)).description


def test_decisions_furthest_first_and_of_this_run_alone(store: VariantStore) -> None:
    store.append(
        [
            _decision(0, 2.0, 0.25),
            _decision(1, -4.0, None),
            _decision(2, 4.0, -1.0),
            _decision(3, 4.0, -3.0, BEGAN - timedelta(seconds=1)),
        ]
    )
    shown = decisions(store, BEGAN)
    assert shown.description == (
        "3 problems short of variants near the wanted offset: 9 requested, 6 made, 3 accepted."
    )
    rows = [(row["problem"], row["wanted"], row["nearest"]) for row in shown.content if isinstance(row, dict)]
    assert rows == [("w/1", -4.0, None), ("w/2", 4.0, -1.0), ("w/0", 2.0, 0.25)]
    assert shown.content[0] == {  # and all that a row says
        "problem": "w/1", "wanted": -4.0, "nearest": None, "kinds": "harder, image",
        "requested": 3, "made": 2, "accepted": 1, "outcome": "enough",
    }  # fmt: skip


def test_many_decisions_are_cut_and_counted_whole(store: VariantStore) -> None:
    store.append([_decision(number, 2.0, 0.0) for number in range(MOST_DECISIONS + 5)])
    shown = decisions(store, BEGAN)
    assert len(shown.content) == MOST_DECISIONS
    assert shown.description.startswith("105 problems")
    assert "315 requested" in shown.description
    assert shown.description.endswith("The first 100 are below.")


def test_scores_of_the_latest_evaluation_first(store: VariantStore) -> None:
    for run, began in (("eval-1", BEGAN), ("eval-2", BEGAN + timedelta(days=1))):
        store.append([Run(run_id=run, kind="eval", started_at=began)])
    for run, step, corrects in (("eval-1", 0, (4, 0, 2)), ("eval-2", 0, (4,)), ("train", 8, (0, 0))):
        store.append(
            [
                Evaluation(
                    run_id=run, step=step, split="test", problem_id=f"w/{i}", samples=4, correct=correct
                )
                for i, correct in enumerate(corrects)
            ]
        )
    store.append([Evaluation(run_id="eval-1", step=0, split="test", problem_id="w/9", samples=0, correct=0)])
    assert scores(store).content == [
        {
            "run id": "eval-2",
            "step": 0,
            "split": "test",
            "problems": 1,
            "accuracy": 1.0,
            "standard error": None,
        },
        {
            "run id": "eval-1",
            "step": 0,
            "split": "test",
            "problems": 3,
            "accuracy": 0.5,
            "standard error": 0.289,
        },
        {
            "run id": "train",
            "step": 8,
            "split": "test",
            "problems": 2,
            "accuracy": 0.0,
            "standard error": 0.0,
        },
    ]


def test_difficulty_measured_and_live(store: VariantStore) -> None:
    store.put_setting("label_model", "solver")
    store.append(
        [
            _label("w/0", "original", 4.4),
            _label("w/1", "original", 8.6),
            _label("w/2", "original", 3.9, solver="another"),
            _label("w/0:reword:0", "reword", 1.0),
        ]
    )
    unseen = BEGAN + timedelta(days=1)
    store.append([Attempt(run_id="train-unseen", attempt=0, resumed_step=0, started_at=unseen)])
    for run, began in (("train-a|b", BEGAN), ("train-old", BEGAN - timedelta(days=1))):
        store.append([Attempt(run_id=run, attempt=0, resumed_step=0, started_at=began)])
        store.append(
            [
                DifficultyEvent(
                    run_id=run, step=step, problem_id="w/0", old_difficulty=5, new_difficulty=new, accuracy=0.0,
                    rollouts=4, rule="paper", attempt=0,
                )
                for step, new in ((1, 6.0), (2, 7.0))
            ]
        )  # fmt: skip
    markdown = difficulty(store).content
    assert isinstance(markdown, str)
    assert markdown.splitlines()[2:] == [
        "| level | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | all |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| problems, by solver | 0 | 0 | 0 | 1 | 0 | 0 | 0 | 0 | 1 | 2 |",
        "| accepted variants, by solver | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 1 |",
        r"| problems, live in train-a\|b | 0 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | 0 | 1 |",
    ]
    [picture] = re.findall(r"!\[.*\]\(data:image/svg\+xml;base64,(.*)\)", markdown)
    svg = ElementTree.fromstring(base64.b64decode(picture))
    texts = [node.text or "" for node in svg.iter(f"{SVG}text")]
    assert "problems, by solver" in texts
    assert "problems, live in train-a|b" in texts
    assert not {"train-old", "another"} & set(" ".join(texts).split())


@given(
    st.dictionaries(
        st.text(min_size=1),
        st.lists(st.integers(0, 10**9), min_size=len(LEVELS), max_size=len(LEVELS)),
        min_size=1,
        max_size=3,
    )
)
def test_bars_are_a_picture_whatever_the_numbers(series: dict[str, list[int]]) -> None:
    series = {
        re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "", name): n for name, n in series.items()
    }
    svg = ElementTree.fromstring(bars("<title> & more", series))
    rows = [node for node in svg.iter(f"{SVG}rect") if float(node.get("width", 0)) not in (11.0, 720.0)]
    assert len(rows) == len(LEVELS) * len(series)
    heights = [float(node.get("height", -1)) for node in rows]
    shares = [n / max(1, sum(numbers)) for numbers in series.values() for n in numbers]
    largest = max(shares) or 1
    top = 300 - 28 - 64
    assert heights == pytest.approx([top * share / largest for share in shares], abs=0.06)
    for node, height in zip(rows, heights, strict=True):
        assert float(node.get("y", 0)) + height == pytest.approx(300 - 28, abs=0.11)
        assert 48 <= float(node.get("x", 0)) <= 720 - 12


def test_nothing_is_shown_of_an_empty_store(store: VariantStore) -> None:
    assert artifacts(store, BEGAN) == []


def test_what_there_is_is_shown(store: VariantStore) -> None:
    store.append(
        [_variant(0, Kind.REWORD, Status.REJECTED, "leak: 7"), _variant(1, Kind.HARDER, Status.ACCEPTED)]
    )
    store.append([_call(0, "reword", BEGAN, 0.5)])
    store.append([_decision(0, 2.0, 0.25, BEGAN - timedelta(seconds=1))])
    assert [artifact.name for artifact in artifacts(store, BEGAN)] == ["counts", "reasons", "cost"]


@given(st.text(), st.sampled_from(["counts", "progress of top-up"]))
def test_keys_are_what_prefect_takes(store_name: str, name: str) -> None:
    key = artifact_key(store_name, name)
    assert key.endswith(name.replace(" ", "-"))
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", key)


def test_key_has_the_stores_name() -> None:
    assert artifact_key("GSM8K_v2 (é)", "counts") == "gsm8k-v2-counts"


def test_the_page_is_a_link_only_where_a_browser_follows_it(tmp_path: Path) -> None:
    page = tmp_path / "problems.html"
    served = page_link(page, 20, "http://127.0.0.1:8711/")
    assert served.content == (
        "[20 problems beside their variants, with images as the policy sees them]"
        "(http://127.0.0.1:8711/problems.html)"
    )
    here = page_link(page, 20).content
    assert isinstance(here, str)
    assert f"```\n{page.as_uri()}\n```" in here
    assert "](" not in here
