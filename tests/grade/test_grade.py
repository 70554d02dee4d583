"""The grader's extraction and comparison, and its agreement with real graded answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diva_grpo.pipeline.grade import Grade, UndecidedError, equal_answers, extract_answer, grade, warm_up

TOWER = "9^{9^{9^{9}}}"


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


class TestExtraction:
    @pytest.mark.parametrize(
        ("response", "answer", "how"),
        [
            (r"so \boxed{\frac{\sqrt{2}}{\sqrt{3}}}.", r"\frac{\sqrt{2}}{\sqrt{3}}", "boxed"),
            (r"first \boxed{1}, at last \boxed{2}", "2", "boxed"),
            (r"\boxed{7}\boxed{}", "7", "boxed"),
            (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "boxed"),
            (r"the set { is open, \boxed{4} stands", "4", "boxed"),
            (r"(C) \boxed{.}, so 4", "4", "last_number"),
            ("<think>\\boxed{3}</think><answer>42</answer>", "42", "tag"),
            ("<answer>The answer is 42 apples.</answer>", "42 apples", "tag"),
            ("<answer>7</answer> no: <answer>8</answer>", "8", "tag"),
            ("<answer>42", "42", "tag"),
            ("<think>the answer is 3</think> It is 42.", "42", "last_number"),
            ("<think>\\boxed{3}</think>", "3", "boxed"),
            ("She eats 3.\n#### 18", "18", "hashes"),
            ("#### Step 1: add\n3+4\n#### Step 2\nThe answer is 7.", "7", "stated"),
            ("#### Conclusion\nSo we get 7 apples.", "7", "last_number"),
            ("3 + 4 = 7\nA: 90,000", "90,000", "stated"),
            ("**Answer:** 18", "18", "stated"),
            ("**Final Answer: 18**", "18", "stated"),
            ("Final Answer: The final answer is $18$. I hope it is correct.", "18", "stated"),
            ("The answer is\n\\[\n\\frac{1}{2}\n\\]", r"\frac{1}{2}", "stated"),
            ("The answer is $x=1$ or $x=2$.", "x=1, x=2", "stated"),
            ("The answer to the question is 12 because 3*4 = 12 and 5 is not.", "12", "stated"),
            ("The answer is $7.50.", "$7.50", "stated"),
            ("The answers are 1, 2 and 3.", "1, 2 and 3", "stated"),
            ("The correct option is (C) as shown.", "(C)", "stated"),
            ("The best option is to buy 3 of the 5 cakes.", "5", "last_number"),
            ("The answer is between 4 and 5.", "between 4 and 5", "stated"),
            ("It costs $5 and $6, so he pays $11.", "$11", "last_number"),
            ("So the area is $\\frac{3}{4}$.", r"\frac{3}{4}", "last_formula"),
            ("So the area is 3/4 cm^2 in all", "3/4", "last_number"),
            ("x^2 + 1", "x^2 + 1", "whole"),
        ],
    )
    def test_finds_the_final_answer(self, response: str, answer: str, how: str) -> None:
        graded = grade(response, "a reference that equals nothing")
        assert (graded.answer, graded.how) == (answer, how)
        assert extract_answer(response) == answer

    @pytest.mark.parametrize(
        "response", ["", " \n", r"\boxed{}", "...", "I do not know, and shall never know it."]
    )
    def test_no_answer(self, response: str) -> None:
        graded = grade(response, "5")
        assert (graded.outcome, graded.answer, graded.score) == ("no_answer", None, 0.0)
        assert extract_answer(response) is None


_EQUAL = r"""
# Numbers as people write them.
1,234 == 1234   1{,}234 == 1234   1\,234 == 1,234   11,\!111 == 11111   $1,234.50 == 1234.5
\$1{,}234.50 == 1234.50   € 5 == 5   5 dollars == $5   500 cents == 5 dollars   18.00 == 18
233.00000000000003 == 233   −3 == -3   -0 == 0   .5 == 0.5   twelve == 12   0.1\overline{6} == 1/6
# Percent and scale words: with or without.
25\% == 0.25   25\% == 25   0.25 == 25%   25 percent == 1/4   3 million == 3000000   2 dozen == 24
# Fractions, mixed numbers, scientific notation, ratios.
\frac{1}{2} == 0.5   \frac12 == 1/2   \dfrac{2}{4} == \tfrac{1}{2}   \frac{-3}{-4} == 3/4
1\frac{1}{2} == 3/2   1 1/2 == 1.5   -1\frac12 == -1.5   ½ == 0.5   33 \frac{1}{3} \% == 1/3
1.5e3 == 1500   1.5 \times 10^{3} == 1500   1.5×10³ == 1500   10^{-3} == 0.001   16:10 == 8:5
8:5 == 8/5
# Rounding: see `same_quantity`.
0.3333 == 1/3   2.366 == 2.37   \frac{3+\sqrt{3}}{2} == 2.37   6.2832 == 2\pi
# Units.
5 \text{ cm} == 5   5\,\mathrm{~cm}^{2} == 5   50 mm == 5 cm   1 \text{ hour} == 60 minutes
48 square centimeters == 48 cm^2   12 inches == 1 foot   90 degrees == 90^{\circ}   9.8 m/s^2 == 9.8
5 apples == 5   2600g == 2600   2\sqrt{3}\text{ m} == 2\sqrt{3}   6\pi\ \text{square units} == 6\pi
2 \pi == 2 \pi \mathrm{cm}^{2}
# Sets, tuples, intervals.
\{1,2\} == \{2, 1\}   2, 1 == 1 and 2   (1, 2) == (1,2)   (0,\frac12] == (0, 0.5]   3,4,5 == (3,4,5)
\left\{ \frac{1}{2}, -3 \right\} == \{-3, 1/2\}   \{\sqrt{4},1\} == \{1,2\}   (1,2),(3,4) == (3,4),(1,2)
x=1 \text{ or } x=2 == 1, 2   \pm 2 == 2,-2   [0,\infty) == x \ge 0   1 < x < 3 == (1,3)
x > 3 \text{ or } x < -1 == (-\infty,-1)\cup(3,\infty)
(-\infty,2)\cup(2,3] == (-\infty, 2) \cup (2, 3]   100,200 == 100, 200   x\in\{1,2\} == \{1,2\}
# Algebra.
\sqrt{12} == 2\sqrt{3}   2*sqrt(3) == 2\sqrt{3}   2√3 == 2\sqrt{3}   pi/4 == \frac{\pi}{4}
(x+1)^2 == x^2+2x+1   \sin^2x == 1-\cos^2 x   \frac{1}{x+1} == \frac{x-1}{x^2-1}   \cos 60^\circ == 1/2
\log_2 8 == 3   5! == 120   2^{10} == 1024   3+4i == 4i+3   3x - 2y = 5 == 6x-4y=10
\begin{bmatrix}1\\2\end{bmatrix} == \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\sqrt{2+\sqrt{3}} == \frac{\sqrt{6}+\sqrt{2}}{2}
# Equations, labels, sentences.
x = 5 == 5   5 == x=5   QP = 14 == 14   5\pi \approx 15.7 == 5\pi   \text{(D) }12. == 12
\text{The perimeter is } 24 \text{ cm} == 24   \text{No solution} == no solution   north == \text{North}
$\boxed{\frac{16}{7}}$ == 16/7   \emptyset == \varnothing   B. 5 == B   \text{(B)} == B
"""
_DIFFERENT = r"""
5 != 6   -5 != 5   0.33 != 1/3   3.14 != \pi   \frac{22}{7} != \pi   2.36 != 2.37   4.9 != 5
123456789 != 123456788   12345678901234567890 != 12345678901234567891   0.25\% != 25\%   5 cm != 5 m
5 kg != 5 cm   5x != 5   4 != 4s   5 or 6 != 5   (2,1) != (1,2)   (1, 2] != (1,2)   [3,4] != (3,4)
\{1,2,3\} != \{1,2\}   (x+1)^2 != x^2+2x+2   3\pi != 2 \pi   y=5 != x=5
\begin{pmatrix}1\\3\end{pmatrix} != \begin{pmatrix}1\\2\end{pmatrix}   S=s+Q != s=S+Q
\frac{2\pi}{3} != 120^\circ   Yes != No   no solution != 5   \frac{5}{0} != 5   1e999999999 != 5
1e999999999 != 1e999999998   B != C   B != 4
"""


def _pairs(table: str, sign: str) -> list[tuple[str, str]]:
    """Reads a table of `answer == reference`, set apart by three spaces or a line's end."""
    lines = [line for line in table.strip().splitlines() if not line.startswith("#")]
    pairs = [tuple(case.strip().split(f" {sign} ")) for line in lines for case in line.split("   ")]
    return [(answer, reference) for answer, reference in pairs]


_CALCULATED = r"""
6 + 3 is 9. == 9   6 + 3 equals 9. == 9   So 6 plus 3 makes 9 == 9   6 plus 3 is equal to 9. == 9   Six plus 3 is 9 == 9
20 - 11 is 9 birds. == 9   12 times 3 is 36 pages == 36   5 * 6 gives 30 == 30   20 divided by 4 is 5. == 5
1/2 + 1/4 is 3/4 == 3/4   6 + 3 is $9$. == 9   50% of 18 is 9. == 9   Half of 18 is 9 == 9
Half of the 18 birds is 9 == 9   4 dozen minus 3 is 45 == 45   3 more than 6 is 9 == 9
6 + 3 is 9, and 9 + 1 is 10. == 10
We add the apples of both. 6 plus 3 is equal to 9. == 9   <answer>6 + 3 is 9</answer> == 9
First we count all of them, and then we see what is left of it. 20 minus 11 is equal to 9. == 9
"""
_NOT_CALCULATED = r"""
6 + 3 is 9 or 10 != 9   6 + 3 is 9 or 10 != 10   6 + 3 is not 9 != 9   6 + 3 is between 8 and 9 != 9   6 + 3 is 19. != 9
6 + 3 is more than 9 != 9   6 + 3 is at least 9 != 9   6 + 3 is 9, not 8 != 8   6 + 3 is 10 - 1 != 1   6 + 3 is 9? != 9
8 + 9 is less than 20 != 20   6 + 3 is greater than or equal to 9 != 9   x + 3 is 9 when x is 6 != 9
6 + 3 is about 9 != 9   6 + 3 is 9 and 8 != 8   6 + 3 is 9 plus 1 != 1   5 is 9 minus 4 and 4 is 9 minus 5 != 5
6 + 3 is 9 if it is not 8 != 8   3 more than 6 is 9 or 8 != 8   6 versus 9 != 9
"""
_CHOSEN = r"""
# The letter, in the ways that models write it.
The correct answer is (B). == B   B == B   b == B   **Answer: B** == B   B) 2.5 == B   (B) is correct == B
\boxed{\text{(B)}} == B   \boxed{\textbf{(B)}\ \frac52} == B   I choose (B) == B   <answer>(B) 5/2</answer> == B
So the answer is B: 2.5 == B   The answer is 2.5 cm (B). == B   Option B is the right one. == B
# The value instead of the letter, and a reference that is a value.
\boxed{2.5} == B   \boxed{\frac{10}{4}} == B   \boxed{2\sqrt{25/16}} == B   12 cm == D   \boxed{x=10} == C
\boxed{B} == 5/2   (D) == $12$   \boxed{10} == 10   Therefore we get $\frac{5}{2}$. == B
It must be none of these. == E   The answer is A total of 12 things == D
"""
_NOT_CHOSEN = r"""
The correct answer is (B). != C   \boxed{(C) 10} != B   \boxed{10} != B   \boxed{7} != B   \boxed{F} != B
"""


class TestComparison:
    @pytest.mark.parametrize(("answer", "reference"), _pairs(_EQUAL, "=="))
    def test_equal(self, answer: str, reference: str) -> None:
        assert grade(f"\\boxed{{{answer}}}", reference).outcome == "correct"
        assert equal_answers(answer, reference)

    @pytest.mark.parametrize(("answer", "reference"), _pairs(_DIFFERENT, "!="))
    def test_different(self, answer: str, reference: str) -> None:
        assert grade(f"\\boxed{{{answer}}}", reference).outcome == "wrong"
        assert not equal_answers(answer, reference)

    @given(st.fractions(max_denominator=999), st.integers(0, 5))
    @settings(max_examples=200, deadline=None)
    def test_every_way_to_write_a_fraction_is_that_fraction(self, value: Fraction, way: int) -> None:
        sign, top, low = "-" if value < 0 else "", abs(value.numerator), value.denominator
        ways = [
            f"{value}",
            rf"{sign}\frac{{{top}}}{{{low}}}",
            rf"{sign}\dfrac{{{3 * top}}}{{{3 * low}}}",
            rf"$x = {sign}{top // low} \frac{{{top % low}}}{{{low}}}$",
            f"{sign}{top * 100}/{low} %",
            f"{sign}{top:,}/{low:,} apples",
        ]
        assert equal_answers(ways[way], str(value))
        assert not equal_answers(ways[way], str(value + 1000))  # `100/99 %` is both 100/99 and 1/99

    def test_without_an_exact_answer_the_decision_is_an_error(self) -> None:
        with pytest.raises(UndecidedError, match="deadline"):
            equal_answers(TOWER, "5", deadline_s=0.3)

    def test_an_empty_reference_is_an_error(self) -> None:
        assert grade("5", " ") == Grade("error", None, "the reference is empty")


class TestCalculations:
    """A last sentence that works out the answer: the numbers that it works with are no answers."""

    @pytest.mark.parametrize(("response", "reference"), _pairs(_CALCULATED, "=="))
    def test_the_result_is_the_answer(self, response: str, reference: str) -> None:
        assert grade(response, reference).outcome == "correct"

    @pytest.mark.parametrize(("response", "reference"), _pairs(_NOT_CALCULATED, "!="))
    def test_what_is_denied_bounded_or_left_open_is_none(self, response: str, reference: str) -> None:
        assert grade(response, reference).outcome == "wrong"

    @given(
        st.integers(0, 999),
        st.sampled_from(
            ["+", "-", "*", "×", "/", "plus", "minus", "times", "divided by", "more than", "% of"]
        ),
        st.integers(1, 999),
        st.sampled_from(["is", "equals", "makes", "gives", "is equal to"]),
        st.integers(0, 999),
    )
    @settings(max_examples=200, deadline=None)
    def test_no_number_but_the_result_counts(self, a: int, sign: str, b: int, verb: str, result: int) -> None:
        said = f"{a} {sign} {b} {verb} {result}."
        for number in {a, b, result}:
            assert (grade(said, str(number)).outcome == "correct") == (number == result)


class TestChoices:
    OPTIONS = ("$2$", r"$\frac{5}{2}$", "$10$", "12", "none of these")

    @pytest.mark.parametrize(("response", "reference"), _pairs(_CHOSEN, "=="))
    def test_letter_or_value(self, response: str, reference: str) -> None:
        assert grade(response, reference, options=self.OPTIONS).outcome == "correct"

    @pytest.mark.parametrize(("response", "reference"), _pairs(_NOT_CHOSEN, "!="))
    def test_another_letter_or_value(self, response: str, reference: str) -> None:
        assert grade(response, reference, options=self.OPTIONS).outcome == "wrong"

    def test_a_list_of_choices_is_no_statement(self) -> None:
        response = "A: 2\nB: 5/2\nC: 10\nSo B is the correct answer."
        assert grade(response, "B", options=self.OPTIONS).outcome == "correct"

    @pytest.mark.parametrize(
        ("response", "reference", "options", "outcome"),
        [
            ("The sixth tree should be planted in region A.", "A", list("ABCDE"), "correct"),
            ("It is D.\n17 = 15 + 2 = 3 * 5 + 2", "D", list("ABCDE"), "correct"),
            (r"\boxed{c}", "C", list("abcde"), "correct"),
            (r"\boxed{II}", "C", ["I", "II", "III", "IV"], "wrong"),
            ("Therefore we get A and C.", "B", ["A and B", "A and C"], "correct"),
            ("So we get 3 and 8.", "B", ["2 and 0", "3 and 8"], "correct"),
            ("The spinner points northwest.", "B", ["north", "northwest"], "correct"),
            (r"\boxed{Q=\sqrt{Ss}}", "A", [r"$Q=\sqrt{S \cdot s}$", r"$Q=\frac{S+s}{2}$"], "correct"),
        ],
    )
    def test_options_of_other_kinds(
        self, response: str, reference: str, options: Sequence[str], outcome: str
    ) -> None:
        assert grade(response, reference, options=options).outcome == outcome


@dataclass(frozen=True)
class Ruling:
    """A line of graded_responses.jsonl where grader and label differ, and why the label is wrong."""

    line: int
    problem_id: str
    answer: str
    reason: str


# Each of these labels says "wrong". The response gives the reference's letter or the value of that option.
RULINGS = [
    Ruling(9, "129", "(E) MATH", "the reference is E, option E is MATH"),
    Ruling(101, "1332", "(A)", "the reference is A, and the statement goes on with option A, 10 x 10"),
    Ruling(129, "1763", r"48 \mathrm{~cm}^{2}", "the value of option B, the reference"),
    Ruling(138, "1956", r"18 \text { cm}", "the value of option C, the reference"),
    Ruling(188, "2670", r"\text{east}", "the value of option B, the reference"),
    Ruling(221, "270", r"2160^{\circ} / 2 = 1080^{\circ}", "the value of option B, the reference"),
    Ruling(273, "900", "D", "the reference is D, and the response says that the number is D"),
]


class TestRealAnswers:
    def test_agrees_with_the_labels_but_for_wrong_labels(self, real_data: Path) -> None:
        rows = _read(real_data / "graded_responses.jsonl")
        assert (len(rows), sum(row["correct"] for row in rows)) == (900, 242)
        graded = [grade(row["response"], row["reference"], options=row["options"]) for row in rows]
        assert Counter(g.outcome for g in graded)["error"] == 0
        differing = {
            i: (row["problem_id"], g.answer)
            for i, (row, g) in enumerate(zip(rows, graded, strict=True))
            if (g.outcome == "correct") != row["correct"]
        }
        assert differing == {ruling.line: (ruling.problem_id, ruling.answer) for ruling in RULINGS}
        assert all(graded[i].outcome == "correct" for i in differing)  # no right answer is scored wrong
        assert 1 - len(differing) / len(rows) >= 0.99

    def test_every_answer_of_gsm8k_is_correct_as_its_own_response(self, real_data: Path) -> None:
        rows = _read(real_data / "gsm8k" / "problems.jsonl")
        answers = [row["answer"].split("####")[1].strip() for row in rows]
        assert len(answers) == 500
        failures = [
            (response, g)
            for row, answer in zip(rows, answers, strict=True)
            for response in (answer, row["answer"], f"The answer is {answer}.", f"\\boxed{{{answer}}}")
            if (g := grade(response, answer)).outcome != "correct"
        ]
        assert failures == []

    def test_every_answer_of_mathvision_is_correct_as_its_own_response(self, real_data: Path) -> None:
        rows = _read(real_data / "mathvision" / "problems.jsonl")
        assert len(rows) == 200
        failures = []
        for row in rows:
            answer, options = row["answer"], row["options"]
            forms = [answer, *([options["ABCDE".index(answer)]] if options else [])]
            for reference in forms:
                for form in forms:
                    for template in ("{}", "\\boxed{{{}}}", "The answer is {}.", "Therefore we get {}."):
                        g = grade(template.format(form), reference, options=options)
                        if g.outcome != "correct":
                            failures.append((row["id"], template.format(form), reference, g))
        assert failures == []


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
