"""Checks of a variant, one module each. A check is a function that returns a verdict with its reason.

`pipeline.stages.verify` runs them in this order, the cheapest first:

* `format`: the text is complete, in the language of the original, and has nothing around it;
* `leak`: the text does not give the answer away;
* `numbers`: the quantities of the original are there, with their units;
* `duplicate`: the text differs from the original, from the other variants and from all other problems;
* `decontamination`: the text is not in an evaluation set;
* `answer`: solvers arrive at the reference answer;
* `judge`: a second model says that it is the same question.
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
from diva_grpo.pipeline.checks.leak import check_leak
from diva_grpo.pipeline.checks.numbers import check_numbers

__all__ = [
    "PASSED",
    "EvaluationSets",
    "Finding",
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
