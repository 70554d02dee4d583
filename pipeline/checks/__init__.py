"""Checks of a variant, a module each: every check is a function that gives a verdict with its reason.

In the order of their cost, in which `pipeline.stages.verify` runs them:

* `format`: a whole text in the original's language, with nothing around it;
* `leak`: the answer is not given away;
* `numbers`: the quantities of the original are there, with their units;
* `duplicate`: neither the original's text nor a sibling's nor another problem's, nor nearly so;
* `decontamination`: not in an evaluation set;
* `answer`: who solves it comes to the reference answer;
* `judge`: a second model calls it the same question.
"""

from diva_grpo.pipeline.checks.answer import check_ending, check_solution, majority
from diva_grpo.pipeline.checks.decontamination import (
    EvaluationSets,
    check_decontamination,
    read_evaluation_sets,
)
from diva_grpo.pipeline.checks.duplicate import OtherProblems, check_duplicate, identity
from diva_grpo.pipeline.checks.finding import PASSED, Finding, normalised
from diva_grpo.pipeline.checks.form import check_format
from diva_grpo.pipeline.checks.judge import Judge
from diva_grpo.pipeline.checks.leak import check_leak
from diva_grpo.pipeline.checks.numbers import check_numbers

__all__ = [
    "PASSED",
    "EvaluationSets",
    "Finding",
    "Judge",
    "OtherProblems",
    "check_decontamination",
    "check_duplicate",
    "check_ending",
    "check_format",
    "check_leak",
    "check_numbers",
    "check_solution",
    "identity",
    "majority",
    "normalised",
    "read_evaluation_sets",
]
