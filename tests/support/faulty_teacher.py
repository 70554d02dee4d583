"""A teacher and solver that plants faults and keeps book of them: the oracle of what may be accepted.

It writes rewordings, harder texts and solutions, a set share of them with a fault, and notes for each text what its
true answer is; as a solver it answers what the text says, with slips of its own. None of it looks at the checks.
Some requests end in HTTP errors, cut bodies or garbage instead.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diva_grpo.flows.demo.wordings import harder_in, rewordings
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.schemas.question import HINT_OPENING, render_question
from diva_grpo.schemas.records import Aspect, Problem, Variant
from tests.support.endpoints import Endpoint, Reply, completion, json_reply

SOUND = "sound"

_TAILS = (
    "Give the result.",
    "Say how you found it.",
    "Explain each step.",
    "Take your time.",
    "Work carefully.",
    "Check what you find.",
    "Write it down neatly.",
    "Think before you answer.",
    "Argue in full sentences.",
    "Be brief.",
)
_PREAMBLES = ("Sure! Here is a rewording: ", "Here is the rewritten problem:\n", "Certainly, as asked: ")


@dataclass(frozen=True, slots=True)
class Planted:
    """What is known of a text or a solution that was written.

    Attributes:
        fault: `sound`, or the fault's name.
        answer: the true answer of the text; where the solution really ends.
    """

    fault: str
    answer: str


def other_answer(problem: Problem, rng: random.Random) -> str:
    """An answer that differs from the reference."""
    answer = problem.answer
    if re.fullmatch("[A-H]", answer):
        return rng.choice([letter for letter in "ABCDE" if letter != answer])
    if re.fullmatch(r"-?\d+", answer):
        return str(int(answer) + rng.choice([-20, -7, -2, -1, 1, 2, 3, 10, 25, 100]))
    return str(rng.randrange(9_001, 9_999))


def _key(text: str) -> str:
    """A text as a solver recognises it: images are parts of their own beside it."""
    return " ".join(re.sub(r"<image\d*>", " ", text).split())


# --- faults of texts: (text, its true answer), or None where the text does not allow it

Fault = Callable[[Problem, str, random.Random], tuple[str, str] | None]


def _wrong_number(problem: Problem, text: str, rng: random.Random) -> tuple[str, str] | None:
    numbers = list(re.finditer(r"(?<![\w<])\d+(?![\w>])", text))
    if not numbers:
        return None
    found = rng.choice(numbers)
    changed = str(int(found.group()) + rng.choice([1, 2, 5, 10]))
    return text[: found.start()] + changed + text[found.end() :], other_answer(problem, rng)


def _changed_question(problem: Problem, text: str, rng: random.Random) -> tuple[str, str] | None:
    asked = rng.choice(
        [
            "What is three times that, plus one?",
            "And by how much does it exceed its own half, less one?",
            "Now suppose that everything is doubled and one more is added: what is it then?",
            "Give the next larger value instead.",
        ]
    )
    if re.fullmatch("[A-H]", problem.answer):
        asked = "Choose the option that would be right if all was the other way round."
    return f"{text} {asked}", other_answer(problem, rng)


def _copy(problem: Problem, text: str, rng: random.Random) -> tuple[str, str]:
    return rng.choice([problem.text, problem.text.upper(), f"  {problem.text}\n"]), problem.answer


def _leak(problem: Problem, text: str, rng: random.Random) -> tuple[str, str]:
    return f"{text} The answer is {problem.answer}.", problem.answer


def _preamble(problem: Problem, text: str, rng: random.Random) -> tuple[str, str]:
    return rng.choice(_PREAMBLES) + text, problem.answer


def _lost_image(problem: Problem, text: str, rng: random.Random) -> tuple[str, str] | None:
    without = re.sub(r"<image\d*>", "", text)
    return (without, problem.answer) if without != text else None


TEXT_FAULTS: dict[str, Fault] = {
    "wrong number": _wrong_number,
    "changed question": _changed_question,
    "copy": _copy,
    "leak": _leak,
    "preamble": _preamble,
    "lost image": _lost_image,
}

SOLUTION_FAULTS = ("wrong solution", "wrong ending", "early answer")


class FaultyTeacher(Endpoint):
    """The endpoint.

    Args:
        problems: what it is asked about.
        fault_share: chance of a fault in each text and each solution.
        slip_share: chance that an answer of the solver is wrong.
        error_share: chance that a request ends in a 429, a 5xx, a cut body or garbage.
        seed: makes all of it; the same request gets the same answer.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        fault_share: float = 0.5,
        slip_share: float = 0.05,
        error_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._fault_share, self._slip_share, self._error_share = fault_share, slip_share, error_share
        self._seed, self._guard = seed, threading.Lock()
        self._luck = random.Random(seed)
        self._tasks = {load_prompt(n).system: n for n in ("reword", "harder", "think_step", "solve")}
        self._problems: dict[str, Problem] = {}
        self._texts: dict[str, tuple[Problem, Planted]] = {}
        self._written: dict[str, Planted] = {}
        self._solutions: dict[tuple[str, int, tuple[str, ...]], Planted] = {}
        self.answered = 0
        for problem in problems:
            self._learn(problem, problem.text, Planted(SOUND, problem.answer))

    # --- the oracle

    def planted(self, variant: Variant) -> Planted:
        """What was planted in a variant. KeyError: this teacher has not written it."""
        if variant.hint:
            return self._solutions[variant.problem_id, variant.sample, tuple(variant.hint)]
        return self._written[variant.text or ""]

    def written(self) -> Counter[str]:
        """Texts and solutions by fault."""
        solutions = {id(planted): planted for planted in self._solutions.values()}
        return Counter(planted.fault for planted in [*self._written.values(), *solutions.values()])

    # --- the endpoint

    def next(self, request: dict[str, Any], key: str | None) -> Reply:
        with self._guard:
            self.answered += 1
            error = self._error() if self._luck.random() < self._error_share else None
            return error or completion(self._answer(request))

    def _error(self) -> Reply:
        [error] = self._luck.choices([reply for reply, _ in _ERRORS], [weight for _, weight in _ERRORS])
        return error

    def done(self) -> None:
        """Requests at once are not counted."""

    def _answer(self, request: dict[str, Any]) -> str:
        system, first, *_ = request["messages"]  # more, where it is to repair an answer
        content = first["content"]
        user = content if isinstance(content, str) else " ".join(p.get("text", "") for p in content)
        task = self._tasks[system["content"]]
        [shown] = re.findall(r"<problem>\n(.*)\n</problem>", user, re.DOTALL)
        question, _, _ = shown.partition(HINT_OPENING)
        problem, planted = self._texts[_key(question)]
        seed = f"{self._seed}|{request['seed']}|{task}|{user}"
        rng = random.Random(hashlib.sha256(seed.encode()).digest())
        if task == "solve":
            wrong = Problem.model_copy(problem, update={"answer": planted.answer})
            answer = other_answer(wrong, rng) if rng.random() < self._slip_share else planted.answer
            return f"After some thought, it is \\boxed{{{answer}}}."
        if task == "think_step":
            return self._solution(problem, request["seed"], rng)
        [count] = re.findall(r"Write (\d+)", user)
        if task == "reword":
            texts = rewordings(problem.text)
            start = rng.randrange(len(texts))
            sources = [texts[(start + i) % len(texts)] for i in range(int(count))]
            return json.dumps({"rewordings": [self._text(problem, text, rng) for text in sources]})
        [named] = re.findall(r"in this order: (.*)\.$", user, re.MULTILINE)
        aspects = [Aspect(name) for name in named.split(", ")]
        return json.dumps(
            {
                "texts": [
                    {"aspect": a, "text": self._text(problem, harder_in(problem.text, a), rng)}
                    for a in aspects
                ]
            }
        )

    def _learn(self, problem: Problem, text: str, planted: Planted) -> None:
        entry = (problem, planted)
        for options in ((), problem.options):
            self._texts.setdefault(_key(render_question(text, options=options)), entry)

    def _text(self, problem: Problem, source: str, rng: random.Random) -> str:
        """One text, sound or with a fault, and its entry in the book."""
        text, planted = f"{source} {rng.choice(_TAILS)}", Planted(SOUND, problem.answer)
        if rng.random() < self._fault_share:
            name = rng.choice(list(TEXT_FAULTS))
            made = TEXT_FAULTS[name](problem, text, rng)
            if made:
                text, planted = made[0], Planted(name, made[1])
        planted = self._written.setdefault(text.strip(), planted)
        self._learn(problem, text, planted)
        return text

    def _solution(self, problem: Problem, sample: int, rng: random.Random) -> str:
        steps = list(problem.solution_steps)[:4] or ["Look at the picture.", "Write down what is known."]
        fault = rng.choice(SOLUTION_FAULTS) if rng.random() < self._fault_share else SOUND
        wrong = other_answer(problem, rng)
        ends_at = wrong if fault in ("wrong solution", "wrong ending") else problem.answer
        stated = wrong if fault == "wrong solution" else problem.answer
        if problem.solution_steps:
            steps = steps[: max(1, len(steps) - 1)]
        if fault == "early answer":
            steps[-1] += f" So it will be {problem.answer}."
        steps.append(f"Put together, {rng.choice(['the answer is', 'we get', 'this makes'])} {ends_at}.")
        steps = [f"Step {number}: {step}" for number, step in enumerate(steps, 1)]
        planted = Planted(fault, ends_at)
        for given in range(1, len(steps) + 1):
            self._solutions[problem.problem_id, sample, tuple(steps[:given])] = planted
        return json.dumps({"steps": steps, "answer": stated})


_AT_ONCE = {"retry-after-ms": "1"}
_ERRORS: list[tuple[Reply, int]] = [
    # Few: a client that takes them for a rate limit slows down, and these come from nothing but chance.
    (json_reply({"error": {"message": "slow down"}}, 429, **_AT_ONCE), 1),
    (json_reply({"error": {"message": "broken"}}, 500, **_AT_ONCE), 20),
    (json_reply({"error": {"message": "come back"}}, 503, **_AT_ONCE), 20),
    (Reply(b"<html>Bad gateway</html>", 502, _AT_ONCE), 20),
    (completion('{"rewordings": ["half of a'), 10),
    (completion("I am sorry, what was the question?"), 10),
    (Reply(b"not a completion at all"), 10),
    (Reply(drop=True), 5),
    (Reply(b'{"choices": [', cut=True), 5),
]
