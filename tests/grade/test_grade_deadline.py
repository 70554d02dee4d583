"""The grader's deadline, which no input may pass, and the worker process that keeps it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diva_grpo.pipeline.grade import Grade, UndecidedError, grade, warm_up
from diva_grpo.pipeline.grade._symbolic import WORKER, SymbolicWorker

TOWER = "9^{9^{9^{9}}}"
ROOT = Path(__file__).parents[2]
# Time for the scheduler of a busy machine, on top of a deadline.
SLACK_S = 1.0


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


# What would compute for ever, or recurse without end, or eat all memory.
ENDLESS = [
    TOWER,
    "10^{999999999}",
    "999999999!",
    r"\binom{1000000000}{500000000}",
    "(" * 900 + "1" + ")" * 900,
]


class TestDeadline:
    @pytest.mark.parametrize("answer", ENDLESS)
    def test_an_endless_expression_ends_as_an_error(self, answer: str) -> None:
        reference = "x^{5}" if "x" in answer else "5"
        start = time.monotonic()
        graded = grade(f"\\boxed{{{answer}}}", reference, deadline_s=0.5)
        assert time.monotonic() - start < 0.5 + SLACK_S
        assert (graded.outcome, graded.how, graded.score) == ("error", "deadline", None)

    def test_the_same_tower_is_correct_without_computing_it(self) -> None:
        assert grade(f"\\boxed{{{TOWER}}}", TOWER, deadline_s=0.5).outcome == "correct"

    @pytest.mark.parametrize(
        "response",
        [
            r"\boxed{5}" + "x " * 5_000_000,
            "x " * 5_000_000 + r"\boxed{5}",
            "<answer>5</answer>" + "y" * 10_000_000,
            "1 " * 5_000_000 + "\nThe answer is 5.",
        ],
    )
    def test_an_answer_in_ten_megabytes_is_found(self, response: str) -> None:
        assert grade(response, "5").outcome == "correct"

    @pytest.mark.parametrize(
        "piece",
        ["{", r"\boxed{", r"\text{", "answer ", "answer to ", "the answer is ", "1,", "1 1/", "9e", "$", "\n", "a.",
         "(", "-", r"\(1", r"\[", "(A) ", "A: ", "#### ", "B is ", "<answer>", "</think>", "**", "1/", "é", "option "],
    )  # fmt: skip
    @pytest.mark.parametrize("options", [(), ("1", "2", "no way", "x", "5")])
    def test_ten_megabytes_of_anything_end_in_time(self, piece: str, options: Sequence[str]) -> None:
        response = piece * (10_000_000 // len(piece))
        # The computing of this thread, which no deadline ends; a busy machine does not add to it.
        start = time.thread_time()
        grade(response, "E" if options else "5", options=options, deadline_s=2.0)
        assert time.thread_time() - start < 2.0 + SLACK_S

    @pytest.mark.parametrize(
        "piece", ["9", "1 ", "(", "1,111", "²", "√", "a ", r"\frac", "1=", ",", "{1,", "-", r"\left("]
    )
    def test_a_long_answer_ends_in_time(self, piece: str) -> None:
        answer = piece * (1_900 // len(piece))
        start = time.monotonic()
        grade(f"<answer>{answer}</answer>", "5", deadline_s=0.5)
        assert time.monotonic() - start < 0.5 + SLACK_S

    def test_endless_and_plain_answers_from_many_threads(self) -> None:
        def one(i: int) -> tuple[str, float]:
            start = time.monotonic()
            answer = TOWER if i % 4 == 0 else rf"\sqrt{{{4 * (i + 100)}}}"
            graded = grade(f"\\boxed{{{answer}}}", rf"2\sqrt{{{i + 100}}}", deadline_s=3.0)
            return graded.outcome, time.monotonic() - start

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(one, range(24)))
        assert [outcome for outcome, _ in results] == [
            "error" if i % 4 == 0 else "correct" for i in range(24)
        ]
        assert max(seconds for _, seconds in results) < 3.0 + SLACK_S

    def test_with_alarms_ignored_and_blocked_by_the_caller(self) -> None:
        """The worker must not inherit what would keep its timer from ending a comparison."""
        previous = signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        worker = SymbolicWorker()
        try:
            worker.start(time.monotonic() + 60)
            with pytest.raises(UndecidedError, match="deadline"):
                worker.decide(("pair", TOWER, "5"), time.monotonic() + 0.5)
            assert _until(lambda: not _children(worker.pid()), 5.0)  # none goes on computing
        finally:
            signal.signal(signal.SIGALRM, previous)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
            worker.close()


class TestWorker:
    def test_a_killed_worker_is_replaced(self) -> None:
        warm_up()
        pid = WORKER.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert grade(r"\boxed{\sqrt{20}}", r"2\sqrt{5}", deadline_s=30.0).outcome == "correct"
        assert WORKER.pid() != pid

    def test_a_deadline_does_not_cost_the_worker(self) -> None:
        warm_up()
        pid = WORKER.pid()
        assert grade(f"\\boxed{{{TOWER}}}", "5", deadline_s=0.3).outcome == "error"
        assert grade(r"\boxed{\sqrt{28}}", r"2\sqrt{7}").outcome == "correct"
        assert WORKER.pid() == pid

    def test_a_decided_comparison_is_remembered_and_an_undecided_one_is_not(self) -> None:
        assert grade(r"\boxed{\sqrt{44}}", r"2\sqrt{11}").outcome == "correct"
        assert grade(r"\boxed{\sqrt{44}}", r"2\sqrt{11}", deadline_s=0.0).outcome == "correct"
        assert grade(r"\boxed{\sqrt{52}}", r"2\sqrt{13}", deadline_s=0.0).outcome == "error"
        assert grade(r"\boxed{\sqrt{52}}", r"2\sqrt{13}").outcome == "correct"

    def test_memory_is_bounded(self) -> None:
        limits = Path(f"/proc/{WORKER.pid()}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max address space"))
        assert int(line.split()[3]) <= 2 << 30

    def test_a_forked_child_shares_it_without_confusion(self) -> None:
        def outcomes(extra: int) -> list[str]:
            answers = [rf"\boxed{{\sqrt{{{4 * i + extra}}}}}" for i in range(60, 70)]
            return [grade(a, rf"2\sqrt{{{i}}}", deadline_s=30.0).outcome for i, a in enumerate(answers, 60)]

        pid = os.fork()
        if pid == 0:
            os._exit(int(outcomes(extra=1) != ["wrong"] * 10))
        assert outcomes(extra=0) == ["correct"] * 10
        assert os.waitpid(pid, 0)[1] == 0

    def test_a_slow_start_is_not_of_the_deadline(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        slow = tmp_path / "python"
        slow.write_text(f'#!/bin/sh\nsleep 1\nexec "{sys.executable}" "$@"\n', "utf-8")
        slow.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(slow))
        worker = SymbolicWorker()
        assert worker.decide(("all", []), time.monotonic() + 1.0)
        worker.close()

    def test_a_worker_that_cannot_start_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(UndecidedError, match="did not start"):
            SymbolicWorker().decide(("pair", "a", "b"), time.monotonic() + 10)

    def test_the_caller_never_loads_sympy_nor_starts_a_worker_for_plain_answers(self) -> None:
        code = (
            "import sys; from diva_grpo.pipeline.grade import grade\n"
            "from diva_grpo.pipeline.grade._symbolic import WORKER\n"
            "assert grade('#### 1,000', '10^3').outcome == 'correct' and WORKER.pid() is None\n"
            "assert grade(r'\\boxed{\\sqrt{12}}', r'2\\sqrt{3}', deadline_s=30).outcome == 'correct'\n"
            "assert not {'sympy', 'math_verify', 'torch'} & set(sys.modules)\n"
            "print(WORKER.pid())"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert _until(lambda: not Path(f"/proc/{int(run.stdout)}").exists(), 5.0)

    @pytest.mark.parametrize("busy", [False, True])
    def test_no_process_outlives_a_killed_caller(self, busy: bool) -> None:
        code = (
            "import threading, time; from diva_grpo.pipeline.grade import grade, warm_up\n"
            "from diva_grpo.pipeline.grade._symbolic import WORKER\n"
            "warm_up()\n"
            f"if {busy}: threading.Thread(target=grade, args=('{TOWER}', '5'), kwargs=dict(deadline_s=2)).start()\n"
            "time.sleep(0.5); print(WORKER.pid(), flush=True); time.sleep(60)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as caller:
            assert caller.stdout is not None
            worker = int(caller.stdout.readline())
            computing = _children(worker)
            assert len(computing) == int(busy)
            caller.kill()
        assert _until(lambda: not Path(f"/proc/{worker}").exists(), 5.0)
        assert _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in computing), 5.0)


# A grammar of LaTeX for generated answers, pieces and leaves set apart by white space; ~ stands for a space.
PIECES = [piece.replace("~", " ") for piece in r"""
    \frac{%s}{%s} \sqrt{%s} \sqrt[3]{%s} %s^{%s} %s_{%s} \left(%s\right) (%s,~%s] [%s,~%s) \{%s,~%s\} |%s| -%s %s!
    %s+%s %s-%s %s~\cdot~%s %s\times~%s %s/%s %s~=~%s %s~\le~%s %s~<~%s \pm~%s %s~\cup~%s %s~\pmod{%s} %s\%%
    \sin(%s) \log_{%s}~%s \binom{%s}{%s} \overline{%s} \text{%s} \mathrm{%s} %s~\text{~or~}~%s
    \int_{0}^{%s}~%s~dx \sum_{k=1}^{%s}~%s \prod_{k=1}^{%s}~%s \lim_{x~\to~%s}~%s
    \begin{pmatrix}~%s~&~%s~\\~1~&~2~\end{pmatrix}
""".split()]  # fmt: skip
LEAVES = [leaf.replace("~", " ") for leaf in r"""
    0 1 2 3 7 12 0.5 3.14 1{,}000 -4 99999999 10^{9} x y n a e i \pi \theta \alpha \infty \emptyset
    5~\text{~cm} 90^\circ north
""".split()]  # fmt: skip
DRESSES: list[Callable[[str], str]] = [
    lambda text: text.replace(r"\frac", r"\dfrac"),
    lambda text: text.replace(" ", r"\, "),
    lambda text: f"${text}$",
    lambda text: rf"\( {text} \)",
    lambda text: text.replace(r"\left", "").replace(r"\right", ""),
    lambda text: text.replace(r"\cdot", r"\times"),
    lambda text: rf"\displaystyle {text}.",
    lambda text: text.replace("+", " + ").replace("-", "−"),
]


def _expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.25:
        return rng.choice(LEAVES)
    piece = rng.choice(PIECES)
    holes = piece.replace("%%", "").count("%s")
    return piece % tuple(_expression(rng, depth - 1) for _ in range(holes))


def _mutated(rng: random.Random, text: str) -> str:
    """A text with up to four cuts, repetitions, insertions or rotations."""
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(text) + 1)
        j = min(len(text), i + rng.randint(1, 6))
        text = rng.choice(
            [
                text[:i] + text[j:],
                text[:i] + text[i:j] * rng.randint(2, 30) + text[j:],
                text[:i] + rng.choice("{}()[]\\^_$,&%!#~'\"|<>=+-*/ \n") + text[i:],
                text[:i] + rng.choice([*LEAVES, r"\frac", "^{", TOWER, r"\left", r"\boxed{"]) + text[i:],
                text[j:] + text[:i],
            ]
        )
    return text


def test_what_only_changes_looks_changes_no_grade() -> None:
    for seed in range(400):
        rng = random.Random(seed)
        expression = _expression(rng, 2)
        response = f"\\boxed{{{rng.choice(DRESSES)(expression)}}}"
        assert grade(response, expression).outcome == "correct", (response, expression)


@pytest.mark.slow
@pytest.mark.timeout(5_400)
def test_ten_thousand_generated_and_mutated_answers_end_by_their_deadline() -> None:
    """Half of the answers are generated, half mutated too; three in ten are graded against themselves."""
    deadline_s = 1.0

    def one(seed: int) -> tuple[float, Grade]:
        rng = random.Random(seed)
        expression = _expression(rng, rng.randint(1, 4))
        reference = expression if rng.random() < 0.3 else _expression(rng, 2)
        answer = _mutated(rng, expression) if seed % 2 else expression
        start = time.monotonic()
        graded = grade(f"\\boxed{{{answer}}}", reference, deadline_s=deadline_s)
        seconds = time.monotonic() - start
        assert answer != reference or seed % 2 or graded.outcome == "correct", (answer, graded)
        return seconds, graded

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(one, range(10_000)))
    outcomes = Counter(g.how if g.outcome == "error" else g.outcome for _, g in results)
    slowest = max(seconds for seconds, _ in results)
    print(f"slowest {slowest:.3f} s, {dict(outcomes)}")
    assert slowest < deadline_s + 0.1
    assert set(outcomes) <= {
        "correct",
        "wrong",
        "no_answer",
        "deadline",
        "too close or too large to tell apart",
    }, outcomes  # no crash
    assert outcomes["deadline"] < 1_000, outcomes


def _children(pid: int | None) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
