"""The checks of a variant, one module per check. A check is a function that returns a `Finding`.

`pipeline.stages.verify` runs them in this order, the cheapest first. A variant passes if:

* `format`: its text is complete, in the language of the original, and contains nothing but the question;
* `leak`: it does not contain the answer;
* `numbers`: it contains the quantities of the original, with their units;
* `duplicate`: it differs from the original, from the other variants and from all other problems;
* `decontamination`: it shares no long run of words with an evaluation set;
* `answer`: solvers reach the reference answer;
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
