"""A search for reward holes: hedged answers, made from templates, of which none may be graded correct.

Each template states the reference together with something that takes it back: another value, a denial, a bound, an
alternative. `{r}` is the reference, `{o}` another value. Both stand at each place, so a grader that reads only the
first value, or only the last one, is found out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from diva_grpo.pipeline.grade import grade, warm_up

# Two values for one answer; both orders are tried.
TWO_VALUES = r"""
    {a} or {b} | {a}, {b} | {a} and {b} | {a}; {b} | {a} / or {b} | either {a} or {b} | {a} or maybe {b}
    {a} \text{ or } {b} | {a}, or {b} | {a} and/or {b} | {a} (or {b}) | {a}, possibly {b} | {a} perhaps {b}
    {a} vs {b} | {a} \text{ and } {b} | {a} \lor {b} | {a} \vee {b} | {a} \land {b} | {a} \quad {b} | {a} \\ {b}
    {a} \& {b} | {a} = {b} | {a} \approx {b} | {a} == {b} | x = {a} = {b} | x = {a}, y = {b}
    x = {a} \text{ or } x = {b} | x={a} \lor x={b} | {a} \to {b} | {a} \implies {b} | {a} \Rightarrow {b}
    {a} \iff {b} | {a} \neq {b} | {a} \ne {b} | {a} < {b} | {a} > {b} | {a} \le {b} | {a} \geq {b} | {a} ≠ {b}
    {a} \ldots {b} | {a} \dots {b} | {a}...{b} | {a}..{b} | \{{a}, {b}\} | ({a}, {b}) | [{a}, {b}] | [{a}, {b})
    \langle {a}, {b} \rangle | \pm {a} \text{ or } {b} | between {a} and {b} | from {a} to {b} | {a} ~ {b}
    {a} {b} {a} | {a} \mid {b} | {a} @ {b} | {a} # {b} | {a} ? {b} | {a} : {b} | {a} {b} | {a} \, {b}
    {a}, not {b} | not {a} but {b} | {a} instead of {b} | {a} rather than {b} | {a}, {a}, {b}
    neither {a} nor {b} | {a} if x else {b} | {a} unless {b} | {a} 或 {b} | {a}或者{b} | {a}和{b} | {a}、{b}
    {a}，{b} | 要么{a}要么{b} | {a}或{b} | 不是{a}而是{b} | {a}到{b} | {a}～{b} | 介于{a}和{b}之间
    可能是{a}也可能是{b} | {a} \sim {b} | {a} \cup {b} | {a} \xrightarrow{} {b} | \text{A: } {a}, \text{B: } {b}
    first {a}, second {b} | {a} with probability 1/2, else {b} | \begin{cases} {a} \\ {b} \end{cases}
    \begin{pmatrix} {a} & {b} \end{pmatrix} | \begin{array}{c} {a} \\ {b} \end{array} | {a} \text{ versus } {b}
    five or {b} or {a} | the answer is {a} or {b} | The value is {a}, alternatively {b} | {a} is wrong, {b}
    {a}? No, {b} | {a} -> {b} | {a} => {b} | {a} → {b}
"""
# One value, denied or bounded. `{a}` is the reference.
ONE_VALUE = r"""
    not {a} | \text{not } {a} | not equal to {a} | is not {a} | isn't {a} | never {a} | no {a}
    anything but {a} | other than {a} | except {a} | all but {a} | everything except {a} | cannot be {a}
    can't be {a} | {a} is wrong | {a} is not the answer | {a} is incorrect | {a} is false | {a} excluded
    without {a} | \neq {a} | \ne {a} | ≠ {a} | != {a} | \not= {a} | \neg {a} | \not {a} | \cancel{{a}}
    \xcancel{{a}} | \sout{{a}} | ~~{a}~~ | x \neq {a} | x \ne {a} | < {a} | > {a} | \le {a} | \ge {a} | \leq {a}
    ≥ {a} | ≤ {a} | x < {a} | x > {a} | x \ge {a} | x \le {a} | more than {a} | less than {a} | fewer than {a}
    greater than {a} | at least {a} | at most {a} | no more than {a} | no less than {a} | no fewer than {a}
    up to {a} | above {a} | below {a} | over {a} | under {a} | beyond {a} | exceeds {a} | {a} or more
    {a} or less | {a} or fewer | {a} and above | {a} and up | {a}+ | {a}- | nearly {a} | almost {a}
    close to {a} | just under {a} | {a} or so | {a}ish | maybe {a} | perhaps {a} | possibly {a} | probably {a}
    {a}? | {a}?? | ?{a} | twice {a} | half of {a} | double {a} | the square root of {a} | \sim {a}
    \lesssim {a} | \gg {a} | a multiple of {a} | a factor of {a} | {a}! + 1 | unlike {a} | \pm {a} | \mp {a}
    ~{a} is out | I doubt {a} | far from {a} | \lnot {a} | the answer is not {a} | The answer cannot be {a}
    不是{a} | 不等于{a} | 并非{a} | 非{a} | 不为{a} | 不可能是{a} | 没有{a} | 除了{a} | 除{a}以外 | 大于{a}
    小于{a} | 至少{a} | 至多{a} | 最多{a} | 最少{a} | 超过{a} | 不超过{a} | 不小于{a} | {a}以上 | {a}以下
    {a}左右 | 多于{a} | 少于{a} | 可能是{a} | 也许{a} | 接近{a} | {a}是错的 | {a}不对 | 答案不是{a} | {a}多
    {a}余
"""
# The same in a sentence without a box, from which the answer has to be found first.
SENTENCES = r"""
    The answer is not {r}. | The answer isn't {r}. | It is not {r}. | It isn't {r}. | It can't be {r}.
    So it cannot be {r}. | I don't think the answer is {r}. | I do not believe it is {r}.
    It is false that the answer is {r}. | The answer is never {r}. | The answer is {r} or {o}.
    The answer is {o} or {r}. | The answer is either {o} or {r}. | The answer could be {o} or {r}.
    It is {o} or {r}. | So we get {o} or {r}. | Either {r} or {o}. | Either {o} or {r}.
    The answer is more than {r}. | The answer is at least {r}. | The answer is less than {r}.
    It is more than {r}. | It is at most {r}. | The answer is {r} (or {o}). | The answer is {r}, or {o}.
    The answer is {r} or maybe {o}. | The answer is {r}. Or {o}. | The answer is {r}. Or maybe {o}.
    The answer is between {o} and {r}. | The answer is between {r} and {o}. | The answer is ${r}$ or ${o}$.
    The answer is ${o}$ or ${r}$. | The answer is ${r}$ or maybe ${o}$. | The answer is ${r}$, maybe ${o}$.
    The answer is anything but {r}. | The answer is not ${r}$. | It is not ${r}$.
    The answer is \({r}\) or \({o}\). | **Answer:** not {r} | Answer: {r} or {o} | Answer: {o} or {r}
    Answer: {o}, {r} | A: {r} or {o} | #### not {r} | #### {r} or {o} | #### {o} or {r} | #### {o}, {r}
    <answer>{r} or {o}</answer> | <answer>not {r}</answer> | <answer>{o}, {r}</answer>
    The answer is {r} is wrong. | \boxed{{r}} or \boxed{{o}} | \boxed{{o}} or \boxed{{r}}
    \boxed{{o}}, \boxed{{r}} | \boxed{{o}} and \boxed{{r}} | \boxed{{o}} \boxed{{r}} | \boxed{{r}} \boxed{{o}}
    $\boxed{{o}}$ or $\boxed{{r}}$ | \boxed{{o}}/\boxed{{r}} | \boxed{{r}} or {o} | \boxed{{r}}, or maybe {o}
    The answer is not \boxed{{r}}. | It isn't \boxed{{r}}. | not \boxed{{r}} | more than \boxed{{r}}
    \boxed{{r}} is wrong. | \boxed{{r}} is not the answer. | \boxed{{o}}或\boxed{{r}} | \boxed{{r}}或\boxed{{o}}
    答案不是{r}。 | 答案不是{r} | 答案是{r}或{o}。 | 答案是{o}或{r}。 | 答案：{r}或{o} | 答案：不是{r}
    【答案】{r}或{o} | 【答案】不是{r} | 不是{r}。 | 结果大于{r}。 | 所以答案不等于{r}。 | 答案是大于{r}。
    答案可能是{o}或{r}。 | 因此，面积不是{r}。 | 因此，面积为{o}或{r}。 | 故答案为：{o}或{r}。
    故答案为{o}，{r}。 | 不是\boxed{{r}} | 答案不是\boxed{{r}}。 | <think>The answer is {r}.
    <think>so \boxed{{r}} | <think>{r}</think> not {r} | The final answer is "{r} or {o}". | Not {r}. | Not {r}!
    Surely not {r}.
"""
# Choices: `{r}` is the letter of the reference and `{v}` its value, `{o}` and `{w}` are another's.
CHOICES = r"""
    {r} or {o} | {o} or {r} | {r}, {o} | {o}, {r} | {r} and {o} | {o} and {r} | {r}{o} | {o}{r} | ({r}) ({o})
    ({o}) ({r}) | ({r}), ({o}) | ({r})({o}) | ({r}) or ({o}) | {r}/{o} | {o}/{r} | {r} & {o} | {r}; {o}
    not {r} | Not ({r}) | not ({r}) | neither {r} | neither ({r}) nor ({o}) | anything but {r} | {r} is wrong
    ({r}) is not right | all but {r} | {r}? | except {r} | (A), (B), (C), (D), (E) | A, B, C, D | ABCD | ABCDE
    A B C D | all of A, B, C and D | ({r}) {w} | {r}. {w} | {r}: {w} | {r}) {w} | ({o}) {v} | {o}. {v}
    {o}: {v} | {o}) {v} | {v} or {w} | {w} or {v} | {v}, {w} | not {v} | {v} is wrong | more than {v}
    ({r}) {v} or ({o}) {w} | {r}、{o} | {r}或{o} | {o}或{r} | 不选{r} | 不是{r} | 非{r} | {r}和{o} | 除了{r}
    {w} ({r}) or {v} ({o}) | \text{{r} or {o}} | \text{not {r}} | \textbf{({r})} \textbf{({o})}
    {r} \text{ or } {o} | {r}, not {o}, or {o} | {r}) {o} | \{{r}, {o}\} | option {r} or option {o}
"""
CHOICE_SENTENCES = r"""
    The answer is {r} or {o}. | The answer is {o} or {r}. | The answer is ({r}) or ({o}).
    The answer is not {r}. | The answer isn't ({r}). | It is not ({r}). | Not ({r}) | The answer is ({o}) {v}.
    The correct answer is {r} or {o}. | {r} or {o} is correct. | {o} or {r} is correct. | {r} is not correct.
    {r} isn't correct. | It is false that {r} is correct. | I don't think {r} is correct.
    So it is ({o}) or ({r}). | The answer is either ({o}) or ({r}). | Either ({o}) or ({r}). | C) {r} square
    {o}) {r} square | The answer is not {v}. | It is either {w} or {v}. | 故选{r}或{o}。 | 不选{r}。
    答案不是{r}。 | 【答案】{r}或{o} | 答案：不选{r} | 故选{o}或{r} | 答案：{r}、{o} | 选{r}或者{o}。
"""
VALUES = [
    ("5", "6"),
    ("12", "7"),
    (r"\frac{1}{2}", "3"),
    (r"2\sqrt{3}", "4"),
    ("0.25", "8"),
    ("x+1", "x+2"),
    ("-3", "8"),
    (r"\pi", "2"),
]
WRAPPERS = [
    "\\boxed{%s}",
    "The answer is %s.",
    "#### %s",
    "<answer>%s</answer>",
    "%s",
    "**Answer:** $%s$",
    "答案：%s",
]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


def _templates(table: str) -> list[str]:
    """Templates are set apart by ` | ` or a line's end."""
    return [
        template.strip()
        for line in table.strip().splitlines()
        for template in line.split(" | ")
        if template.strip()
    ]


def _hedged(reference: str, other: str) -> Iterator[str]:
    for template in _templates(TWO_VALUES):
        for a, b in ((reference, other), (other, reference)):
            for wrapper in WRAPPERS:
                yield wrapper % template.replace("{a}", a).replace("{b}", b)
    for template in _templates(ONE_VALUE):
        for wrapper in WRAPPERS:
            yield wrapper % template.replace("{a}", reference)
    for template in _templates(SENTENCES):
        yield template.replace("{r}", reference).replace("{o}", other)


def _choices(letter: str, other: str, options: list[str]) -> Iterator[str]:
    values = options["ABCDE".index(letter)], options["ABCDE".index(other)]
    for template in _templates(CHOICES):
        for wrapper in WRAPPERS:
            yield wrapper % _filled(template, letter, other, values)
    for template in _templates(CHOICE_SENTENCES):
        yield _filled(template, letter, other, values)


def _filled(template: str, letter: str, other: str, values: tuple[str, str]) -> str:
    for name, value in zip(("{r}", "{o}", "{v}", "{w}"), (letter, other, *values), strict=True):
        template = template.replace(name, value)
    return template


def _rewarded(responses: Iterator[str], reference: str, options: list[str]) -> list[tuple[str, str]]:
    return [
        (response, str(graded.answer))
        for response in responses
        if (graded := grade(response, reference, options=options)).outcome == "correct"
    ]


@pytest.mark.parametrize(("reference", "other"), VALUES)
def test_no_hedged_value_is_rewarded(reference: str, other: str) -> None:
    assert _rewarded(_hedged(reference, other), reference, []) == []


@pytest.mark.parametrize(("letter", "other"), [*itertools.permutations("ABD", 2)])
@pytest.mark.parametrize("with_options", [True, False])
def test_no_hedged_choice_is_rewarded(letter: str, other: str, with_options: bool) -> None:
    options = ["10", "12", "14", "16", "18"]
    responses = (
        r for r in _choices(letter, other, options) if with_options or not any(v in r for v in options)
    )
    assert _rewarded(responses, letter, options if with_options else []) == []


def test_a_reference_that_hedges_itself_is_met_by_the_same_form_only() -> None:
    for form in (
        "at least 5",
        "5 or 6",
        "x \\ne 5",
        "not prime",
        "more than 5",
        "至少5",
        "x > 5",
        "no solution",
        "A or B",
    ):
        assert grade(f"\\boxed{{{form}}}", form).outcome == "correct", form
        assert grade("\\boxed{5}", form).outcome == "wrong", form
