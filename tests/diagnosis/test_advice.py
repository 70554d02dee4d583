"""Advice by planted spectra: what follows from each, and that what it cites is there."""

from __future__ import annotations

import re

import numpy as np
import pytest

from diva_grpo.pipeline.diagnosis.advice import EVIDENCE, Gap, Labelled, Perplexity, Spectrum, advise
from tests.support.documents import ROOT


def spectrum(*rows: Labelled, rollouts: int = 8, perplexity: Perplexity | None = None) -> Spectrum:
    return Spectrum("policy", rows, rollouts, perplexity)


def actions(of: Spectrum) -> list[str]:
    return [re.split(r"[:,]", one.action)[0] for one in advise(of)]


PLAIN, SOLUTIONS, LADDERS, EASIEST = (
    "plain GRPO first",
    "train on the solutions first",
    "write hint ladders",
    "drop the easiest problems",
)
DIVA = "DIVA with hints"
MIXED = Labelled(8, 4, 80)
HARD = Labelled(
    64, 0, 60, with_solution=60, with_hints=60, one_step_left=60, hints_labelled=60, hints_help=50
)
EASY = Labelled(64, 64, 40)


@pytest.mark.parametrize(
    ("rows", "perplexity", "expected"),
    [
        ([MIXED], None, [PLAIN]),
        ([MIXED, Labelled(64, 0, 15)], None, [PLAIN]),
        ([HARD, EASY], None, [SOLUTIONS, DIVA, EASIEST]),
        ([HARD, EASY], Perplexity(3.0, 2.0, 9), [SOLUTIONS, DIVA, EASIEST]),
        ([HARD, EASY], Perplexity(30.0, 2.0, 9), [DIVA, EASIEST]),
        ([Labelled(64, 0, 60)], None, [LADDERS]),
        ([Labelled(64, 0, 60, with_solution=60, with_hints=60)], None, [SOLUTIONS, LADDERS]),
        ([EASY], None, [EASIEST]),
    ],
)
def test_what_follows(rows: list[Labelled], perplexity: Perplexity | None, expected: list[str]) -> None:
    assert actions(spectrum(*rows, perplexity=perplexity)) == expected


def test_shares_are_those_of_the_posterior() -> None:
    of = spectrum(Labelled(4, 0, 30), Labelled(4, 3, 10), rollouts=4)
    draw = np.random.default_rng(0)
    rate = np.concatenate([draw.beta(1, 5, 300_000), draw.beta(4, 2, 100_000)])
    assert of.below() == pytest.approx((rate < 1 / 4).mean(), abs=0.005)
    assert of.mixed() == pytest.approx((1 - rate**4 - (1 - rate) ** 4).mean(), abs=0.005)


def test_a_gap_has_problems_on_both_sides() -> None:
    assert spectrum(HARD, EASY).gap() == Gap(0.0, 1.0)
    assert spectrum(HARD, Labelled(64, 20, 40), EASY).gap() == Gap(20 / 64, 1.0)
    assert spectrum(HARD, *(Labelled(64, right, 5) for right in range(8, 64, 8)), EASY).gap() is None
    assert spectrum(Labelled(64, 0, 1), EASY).gap() is None
    assert spectrum(Labelled(2, 0, 50), Labelled(2, 2, 50)).gap() is None  # two answers tell no gap


def test_the_histogram_counts_each_problem_once() -> None:
    of = spectrum(*(Labelled(samples, right, 1) for samples in (3, 8, 10) for right in range(samples + 1)))
    histogram = dict(of.histogram())
    assert sum(histogram.values()) == of.problems == 4 + 9 + 11
    assert (histogram["0"], histogram["1"], histogram["to 0.1"], histogram["to 0.4"]) == (3, 3, 1, 3)


@pytest.mark.docs
def test_what_is_cited_is_there() -> None:
    page = (ROOT / EVIDENCE).read_text("utf-8")
    said = [
        one.measured
        for rows in ([MIXED], [HARD, EASY], [Labelled(64, 0, 60)])
        for one in advise(spectrum(*rows))
    ]
    assert all(EVIDENCE in text for text in said)
    for heading in re.findall(rf"{EVIDENCE}, ([A-Z][\w ]+)\)", " ".join(said)):
        assert f"## {heading}\n" in page
    assert "0.07 to 0.11" in page
    assert "The same with `item_response`: 0.99, 0.99 to 1.00." in page
    assert "GRPO stayed at 0.000 on the hard ones, and variants brought them to 0.92" in page.replace(
        "\n", " "
    )
    lock = (ROOT / "tests/bench/lock/results/README.md").read_text("utf-8")
    assert "0: 0.006, 1: 0.018, 2: 0.067, 3: 0.248" in lock
