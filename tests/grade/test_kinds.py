"""Kinds of answers that graders get wrong: exact numbers, formulas, matrices, hedges, Chinese, choices, rounding."""

from __future__ import annotations

import pytest

from diva_grpo.pipeline.grade import grade, warm_up

# Read as in test_grade.py: pairs are set apart by three spaces or a line's end.
EQUAL = r"""
\frac{3^{1008}-1}{3^{1009}} == \frac13 - \frac{1}{3^{1009}}   2^{64} == 18446744073709551616
\sqrt{5+2\sqrt{6}} == \sqrt{2}+\sqrt{3}   \frac{1}{\sqrt{3}-\sqrt{2}} == \sqrt{3}+\sqrt{2}
\cos\frac{\pi}{7}\cos\frac{2\pi}{7}\cos\frac{4\pi}{7} == -\frac18   \arctan 1 == \frac{\pi}{4}
\ln 8 == 3\ln 2   e^{i\pi}+1 == 0   e^{i\pi/2} == i   abcd == dcba
\frac{1}{2}abc\sin C == \frac{abc \sin C}{2}   4\pi abc/3 == \frac{4}{3}\pi abc   pqr == prq   ABCD == ABDC
V=\frac{1}{3}Sh == \frac{Sh}{3}
\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix} == \begin{pmatrix} 1 & 0 \\ 0 & 1\end{pmatrix}
\begin{pmatrix} x^2-1 \\ \sqrt{8} \end{pmatrix} == \begin{pmatrix} (x-1)(x+1) \\ 2\sqrt2\end{pmatrix}
\left(\begin{array}{cc}1&2\\3&4\end{array}\right) == \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix}^T == \begin{pmatrix}1\\2\end{pmatrix}
A=\begin{pmatrix}1&2\\3&4\end{pmatrix} == \begin{pmatrix}1&2\\3&4\end{pmatrix}
\frac12\begin{pmatrix}2&4\\6&8\end{pmatrix} == \begin{pmatrix}1&2\\3&4\end{pmatrix}
[[1,2],[3,4]] == \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{cases} x & x > 0 \\ -x & x \le 0 \end{cases} == \begin{cases} -x, & \text{if } x \le 0 \\ x, & x>0 \end{cases}
\begin{cases} x = 1 \\ y = 2 \end{cases} == x=1, y=2   x=1, y=2 == (1,2)   (x,y)=(1,2) == (1,2)
\left\langle 1, 2, 3 \right\rangle == (1,2,3)   \langle 1,2\rangle == \begin{pmatrix}1\\2\end{pmatrix}
\{\} == \emptyset   ∅ == \varnothing   \sqrt{\frac{3}{4}} == \frac{\sqrt{3}}{2}
\sqrt\frac34 == \frac{\sqrt{3}}{2}   √(3/4) == \frac{\sqrt{3}}{2}   \frac{\sqrt 3}2 == \frac{\sqrt{3}}{2}
\sqrt[3]{\frac{1}{8}} == 0.5   \angle CBA == \angle ABC   \angle A = 60^\circ == 60
m\angle ABC = 60^\circ == 60^\circ   60^\circ 30' == 60.5^\circ   60° == 60   ninety-nine == 99
forty two == 42   one hundred == 100   a hundred == 100   two thirds == \frac23   three quarters == 0.75
two and a half == 2.5   minus five == -5   negative five == -5   twenty-one apples == 21   二十一 == 21
十 == 10   一百 == 100   三分之二 == \frac{2}{3}   1２ == 12   （１，２） == (1,2)   3万 == 30000
3万元 == 30000元   5平方米 == 5m^2   50厘米 == 0.5米   12个 == 12   12人 == 12   5千米/小时 == 5
无解 == 无解   空集 == \emptyset   x＞5 == x>5   x≥5 == x\ge 5   －5 == -5   5％ == 0.05   [1，2） == [1,2)
12。 == 12   面积为12平方厘米 == 12   答案是12 == 12   3或4 == 3, 4   3和4 == 4,3   3、4 == 3,4
1/2 or 0.5 == \frac12   5 = x == 5   x=3+2=5 == 5   2^3 = 8 == 8
\sqrt{12} = 2\sqrt{3} \approx 3.46 == 2\sqrt{3}   \pi \approx 3.14 == \pi   \approx 3.14 == 3.14
(x+1)^2 = x^2+2x+1 == x^2+2x+1   y' = 2x == 2x   a_n = 2n+1 == 2n+1   AB = 5 == 5   AB = CD = 5 == 5
\frac{a}{b}=\frac{1}{2} == \frac12   f(x)=x^2+1 == f(x) = 1+x^2   y = x+1 == y-x-1=0   x^2+y^2=1 == y^2+x^2=1
1010_2 == 1010_{2}   1010_{two} == 1010_2   (-\infty,3)\cup(3,\infty) == x \ne 3
x \ne 3 == (-\infty,3)\cup(3,\infty)   x<1 \text{ or } x>2 == x > 2 \text{ or } x < 1
\mathbb{R} == (-\infty,\infty)   1 \pm \sqrt{2} == 1+\sqrt2, 1-\sqrt2   x = 1 \pm \sqrt{2} == 1 \pm \sqrt{2}
-\frac{b}{2a} == \frac{-b}{2a}   The perimeter is 24 cm == 24   \text{The area is } 2\sqrt{3} == 2\sqrt{3}
There are 24 students == 24   24 \text{ students in total} == 24   5 \pmod{7} == 5   |\sqrt{3}-2| == 2-\sqrt3
\frac{x^2-1}{x-1} == x+1   x^{1/2} == \sqrt{x}   \log_{10} 100 == 2   n! == (n)!
\binom{n}{2} == \frac{n(n-1)}{2}   2^{n+1} == 2\cdot 2^n   \sin 2x == 2\sin x\cos x
\tan x == \frac{\sin x}{\cos x}   \frac{100}{3} == 33.3   \frac23 == 0.67   \sqrt2 == 1.41   12.504 == 12.50
\frac{1}{3} == 0.333333   0.1+0.2 == 0.3   1.5x+2 == \frac{3}{2}x+2   x = -2, 3 == -2, 3   5\text{ or }5 == 5
$5$ == 5   6.02\times10^{23} == 6.02 \cdot 10^{23}   zyx == xyz   -3abc+a^3 == a^3-3abc
\frac{1}{2}mv^2+mgh == mgh+\frac{mv^2}{2}   2 \cdot abc == 2abc   \frac{abc}{4R} == \frac{acb}{4R}
\begin{vmatrix}1&2\\3&4\end{vmatrix} == -2   60度 == 60^\circ   12 == 12厘米   10元 == 10   五 == 5
x=1或x=2 == 1,2   one half == \frac12   e^{i\pi} == -1   The function is even == even
\frac34 == We add to get $\boxed{\frac{3}{4}}$.
"""
DIFFERENT = r"""
2^{100}-1 != 2^{100}   1-\frac{1}{2^{100}} != 1   \frac{1}{3^{100}} != 0
\frac{3^{1008}-1}{3^{1009}} != \frac13   \sqrt{10^{40}+1} != 10^{20}   \sqrt{2}+\frac{1}{3^{100}} != \sqrt{2}
\pi+10^{-50} != \pi   0.00000001 != 0   1.00000000000000000000000000001 != 1   x+\frac{1}{3^{100}} != x
\left\{\frac{1}{3^{100}},1\right\} != \{0,1\}   (\frac{1}{3^{100}}, 1) != (0,1)
[\frac{1}{3^{100}}, \infty) != [0,\infty)   x > \frac{1}{3^{100}} != x > 0
\sqrt[3]{2+\sqrt{5}}+\sqrt[3]{2-\sqrt{5}} != 1   2xyz != 2xyw   abc != abd   north != thorn   even != odd
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} != \begin{pmatrix} 1 & 0 \\ 0 & 1\end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix} != \begin{pmatrix}1\\2\end{pmatrix}
\begin{cases} x & x > 0 \\ x & x \le 0 \end{cases} != \begin{cases} x & x > 0 \\ -x & x \le 0 \end{cases}
\{1,2\} != (1,2)   (1,2) != \{1,2\}   \angle BAC != \angle ABC   是 != 否   5 \approx 5.1 != 5
x^2+2x+2 = x^2+2x+1 != x^2+2x+1   7=2x != 2x   1010_2 != 10   5_2 != 5   9_8 != 9   12_5 != 12_6   \pm 2 != 2
\sqrt{x^2} != x   \ln x^2 != 2\ln x   \frac{4}{9} != 0.5   0.46 != 0.5   2.54 != 2.5   1e-8 != 0
10^{-50} != 10^{-51}   \frac{10^{50}+1}{10^{50}} != 1   3^{50}-1 != 3^{50}   100!-1 != 100!
5^{30} != 5^{30}+1   (\frac12)^{200} != (\frac12)^{199}   4=5 != 5   3 \approx 7 != 7   not 5 != 5
no less than 5 != 5   more than 5 != 5
"""
LETTERS = ("1", "2", "3", "4")
RESPONSES: list[tuple[str, str, tuple[str, ...], str]] = [
    # A box without braces, a thought that is not finished, several boxes.
    (r"\boxed 5", "5", (), "correct"),
    (r"so $\boxed5$.", "5", (), "correct"),
    (r"\boxed 12", "12", (), "correct"),
    (r"\boxed\frac12", "0.5", (), "correct"),
    (r"\boxed{\{\}}", r"\emptyset", (), "correct"),
    (r"<think>so \boxed{5}", "5", (), "no_answer"),
    (r"\boxed{1} and \boxed{2}", "1,2", (), "correct"),
    (r"We need at least \boxed{13} socks.", "13", (), "correct"),
    ("#### 18\n\nQuestion: A man has 3 cows.\nAnswer: 7\n#### 7", "18", (), "correct"),
    # A reference that is a worked solution.
    (r"\boxed{7}", "so 3+4\n#### 7", (), "correct"),
    # Denials and alternatives in sentences.
    ("The answer isn't 5.", "5", (), "wrong"),
    ("The answer is neither A nor B, so it is C.", "C", (), "correct"),
    ("The answer is 5 or equivalently 5.0.", "5", (), "correct"),
    ("The roots are 1 and 2.", "1,2", (), "correct"),
    ("There are not enough eggs, so she buys 6 more.", "6", (), "correct"),
    (r"\boxed{The function is not even}", "even", (), "wrong"),
    # Chinese.
    ("答案：12", "12", (), "correct"),
    ("**答案**：12", "12", (), "correct"),
    ("**答案：12**", "12", (), "correct"),
    ("所以答案为$\\frac{1}{2}$。", "0.5", (), "correct"),
    ("因此，面积为12平方厘米。", "12", (), "correct"),
    ("答：一共有12个苹果。", "12", (), "correct"),
    ("综上，x＝5。", "5", (), "correct"),
    ("答案：12（平方厘米）", "12", (), "correct"),
    ("故选B．", "B", LETTERS, "correct"),
    ("故选（B）。", "B", LETTERS, "correct"),
    ("因此选择B。", "B", LETTERS, "correct"),
    ("【答案】B", "B", LETTERS, "correct"),
    ("故选ＡＣ", "AC", LETTERS, "correct"),
    ("故选A、C", "AC", LETTERS, "correct"),
    # Several choices, and choices that contradict themselves.
    (r"\boxed{A, C}", "AC", LETTERS, "correct"),
    (r"\boxed{A and C}", "AC", (), "correct"),
    (r"\boxed{(A)(C)}", "A,C", LETTERS, "correct"),
    (r"\boxed{A}", "AC", LETTERS, "wrong"),
    (r"\boxed{ACD}", "AC", (), "wrong"),
    (r"\boxed{(A) (B)}", "A", LETTERS, "wrong"),
    (r"\boxed{(A) 2}", "B", LETTERS, "wrong"),
    (r"\boxed{(A) 2}", "A", LETTERS, "wrong"),
    (r"\boxed{(B) 2}", "B", LETTERS, "correct"),
    ("Not (B)", "B", LETTERS, "wrong"),
    ("E) A square", "A", (*LETTERS, "5"), "wrong"),
    ("It's B, not A.", "B", LETTERS, "correct"),
]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


def _pairs(table: str, sign: str) -> list[tuple[str, str]]:
    cases = [case.split(f" {sign} ") for line in table.strip().splitlines() for case in line.split("   ")]
    return [(answer, reference) for answer, reference in cases]


@pytest.mark.parametrize(("answer", "reference"), _pairs(EQUAL, "=="))
def test_equal(answer: str, reference: str) -> None:
    assert grade(f"\\boxed{{{answer}}}", reference).outcome == "correct"


@pytest.mark.parametrize(("answer", "reference"), _pairs(DIFFERENT, "!="))
def test_different(answer: str, reference: str) -> None:
    assert grade(f"\\boxed{{{answer}}}", reference).outcome == "wrong"


@pytest.mark.parametrize(("response", "reference", "options", "outcome"), RESPONSES)
def test_responses(response: str, reference: str, options: tuple[str, ...], outcome: str) -> None:
    assert grade(response, reference, options=options).outcome == outcome
