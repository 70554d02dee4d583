"""Faults as language models make them, several ways of each, put into sound variants of real problems.

Each function takes a random source, a problem and a sound wording of it, and returns the faulty text, or None where
this problem offers no place for it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from fractions import Fraction

from tests.bench.planted.rules import REWORDS, facts_and_question, number_words
from tests.bench.planted.solver import Step, evaluate, numbers_of

Way = Callable[[random.Random, str, str], str | None]

_PLAIN = re.compile(r"(?<![\w.,/^<-])(?<!image)\d+(?![\w.,/>-]|\.\d)")


def _replaced(text: str, found: re.Match[str], new: str) -> str:
    return text[: found.start()] + new + text[found.end() :]


def _pick(rng: random.Random, pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = list(pattern.finditer(re.sub(r"<image\d*>", lambda m: "#" * len(m.group()), text)))
    return rng.choice(found) if found else None


# --- changed number


def _plus_one(rng: random.Random, original: str, text: str) -> str | None:
    found = _pick(rng, _PLAIN, text)
    return found and _replaced(text, found, str(int(found.group()) + rng.choice([1, 2, 5])))


def _times_ten(rng: random.Random, original: str, text: str) -> str | None:
    found = _pick(rng, _PLAIN, text)
    return found and _replaced(text, found, found.group() + "0")


def _swapped_digits(rng: random.Random, original: str, text: str) -> str | None:
    found = _pick(rng, re.compile(r"(?<![\w.,/^<])([1-9])([1-9])(?![\w.,/>])"), text)
    return _replaced(text, found, found[2] + found[1]) if found and found[1] != found[2] else None


def _other_word(rng: random.Random, original: str, text: str) -> str | None:
    found = _pick(rng, re.compile(r"\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve)\b"), text)
    words = "two three four five six seven eight nine ten twelve".split()
    return found and _replaced(text, found, rng.choice([w for w in words if w != found.group()]))


def _other_part(rng: random.Random, original: str, text: str) -> str | None:
    pairs = {"half": "a third", "twice": "three times", "double": "triple", "1/2": "1/3", "1/3": "1/4", "1/4": "1/5",
             "triple": "double", "a quarter": "half", "one third": "one quarter"}  # fmt: skip
    found = _pick(rng, re.compile(r"(?<![\d/])\b(?:" + "|".join(pairs) + r")\b(?!/)"), text)
    return found and _replaced(text, found, pairs[found.group()])


def _other_percentage(rng: random.Random, original: str, text: str) -> str | None:
    found = _pick(rng, re.compile(r"\d+(?=\s*(?:%|\\%|percent))"), text)
    return found and _replaced(text, found, str(int(found.group()) + rng.choice([5, 10])))


def _left_out(rng: random.Random, original: str, text: str) -> str | None:
    found = _pick(rng, _PLAIN, text)
    return found and _replaced(text, found, rng.choice(["some", "several", "a few"]))


def _moved_point(rng: random.Random, original: str, text: str) -> str | None:
    found = _pick(rng, re.compile(r"(?<![\d.,])\d+\.\d+(?!\d|\.\d)"), text)
    return found and _replaced(text, found, found.group().replace(".", ""))


def _other_unit(rng: random.Random, original: str, text: str) -> str | None:
    units = {"minutes": "hours", "hours": "minutes", "feet": "inches", "inches": "feet", "miles": "kilometers",
             "pounds": "ounces", "ounces": "pounds", "meters": "centimeters", "dollars": "cents", "cents": "dollars",
             "days": "weeks", "weeks": "months",
             "\\mathrm{~cm}": "\\mathrm{~m}", "years": "months", "gallons": "liters"}  # fmt: skip
    found = _pick(rng, re.compile(r"(?<=\d )(?:" + "|".join(map(re.escape, units)) + r")(?![a-z])"), text)
    return found and _replaced(text, found, units[found.group()])


CHANGED_NUMBER: tuple[Way, ...] = (
    _plus_one, _times_ten, _swapped_digits, _other_word, _other_part, _other_percentage, _left_out, _moved_point,
    _other_unit,
)  # fmt: skip


# --- changed question: of problems with a calculation; the fault is told by the problem's steps


def changed_question(rng: random.Random, original: str, steps: tuple[Step, ...]) -> str | None:
    """A rewording that asks for something else, without a number more or less."""
    facts, question = facts_and_question(original)
    asked = rng.choice((_gap, _stated, _twist, _on_the_way))(rng, facts, question, steps)
    return asked and rng.choice(REWORDS)(facts, asked, rng)


def _gap(rng: random.Random, facts: list[str], question: str, steps: tuple[Step, ...]) -> str | None:
    """A result on the way, as a gap in a sentence."""
    middle = [s for s in steps[:-1] if s.result != steps[-1].result and re.search(r"[a-z]{4}", s.line)]
    if not middle or not facts or numbers_of(question):
        return None
    line = rng.choice(middle).line
    before, after = re.split(r"\d", line)[0], re.sub(r"^.*=\s*", "", line)
    stem = re.sub(r"[-+*/=()$%.]|\d[\d,.]*", " ", after)
    gap = " ".join(f"{before} ____ {stem}".split())
    return None if len(gap) < 25 or numbers_of(gap) else f"Which number completes this sentence: {gap}?"


def _stated(rng: random.Random, facts: list[str], question: str, steps: tuple[Step, ...]) -> str | None:
    """A number that the text states."""
    told = " ".join(facts)
    found = [
        (value, match[1].strip())
        for value, _, end in numbers_of(told)
        if (match := re.match(r"\s+([a-z]{3,}(?: [a-z]{4,})?)", told[end:])) and value != steps[-1].result
    ]
    once = [what for _, what in found if sum(w == what for _, w in found) == 1 and told.count(what) == 1]
    if not once or numbers_of(question):
        return None
    return f"{rng.choice(['How many', 'How much'])} {rng.choice(once)} are stated in the text?"


def _twist(rng: random.Random, facts: list[str], question: str, steps: tuple[Step, ...]) -> str | None:
    """Something about the result."""
    twist = rng.choice(
        [
            "What is the last digit of this number?",
            "What is the sum of the digits of this number?",
            "Do not give that number, but the square of that number.",
            "How many digits does that number have?",
            "Which whole number comes directly after that number?",
        ]
    )
    last = steps[-1].result
    if last.denominator != 1:
        return None
    unchanged = (
        (last < 10 and ("last digit" in twist or "sum of" in twist))
        or (last <= 1 and "square" in twist)
        or (last == len(str(last)) and "How many digits" in twist)
    )
    return None if unchanged else f"{question} {twist}"


def _on_the_way(rng: random.Random, facts: list[str], question: str, steps: tuple[Step, ...]) -> str | None:
    """What is known halfway."""
    if len(steps) < 2 or steps[0].result == steps[-1].result:
        return None
    return f"{question} Give what is known after only the first calculation."


# --- lost placeholder


LOST_PLACEHOLDER: tuple[Way, ...] = (
    lambda rng, original, text: re.sub(r"<image\d*>", "", text, count=1),
    lambda rng, original, text: re.sub(r"<image\d*>", "the picture", text, count=1),
    lambda rng, original, text: re.sub(r"<image(\d*)>", r"[image\1]", text, count=1),
    lambda rng, original, text: re.sub(r"<image(\d*)>", r"<img\1>", text, count=1),
    lambda rng, original, text: re.sub(r"<image(\d*)>", r"<Image \1>", text, count=1),
    lambda rng, original, text: re.sub(r"<image1>", "<image2>", text) if "<image2>" not in original else None,
    lambda rng, original, text: re.sub(r"(<image\d*>)", r"\1 \1", text, count=1),
    lambda rng, original, text: re.sub(r"<image(\d*)>", r"(see image \1)", text),
    lambda rng, original, text: text.replace("<image1>", "<image>") if "<image1>" in text else None,
    lambda rng, original, text: re.sub(r"<image\d*>", "![](image.png)", text, count=1),
)


# --- copy of the original


COPY: tuple[Way, ...] = (
    lambda rng, original, text: original,
    lambda rng, original, text: (
        original.upper() if "<image" not in original and "\\" not in original else original + " "
    ),
    lambda rng, original, text: original.lower() if "\\" not in original else f"\n{original}\n",
    lambda rng, original, text: re.sub(r"\s+", "  ", original),
    lambda rng, original, text: re.sub(r"\s+", "\n", original),
    lambda rng, original, text: original.rstrip(".? ") if original[-1] in ".?" else original + ".",
    lambda rng, original, text: f'"{original}"',
    lambda rng, original, text: original.replace(" ", "\u00a0"),
    lambda rng, original, text: original.replace("'", "’").replace(", ", " , "),
    lambda rng, original, text: f"**{original}**",
)


# --- preamble


PREAMBLES = (
    "Sure! {t}", "Sure, here is a reworded version: {t}", "Certainly! Here's the rewritten problem:\n\n{t}",
    "Here is a rewording of the problem: {t}", "Here's another way to phrase it: {t}", "Of course. {t}",
    "**Reworded problem:** {t}", "Reworded: {t}", "Rewritten problem: {t}", "Rephrased question:\n{t}",
    "Absolutely! {t}", "I have rephrased the question as follows: {t}", "I've rewritten it for you: {t}",
    "Let me rephrase that. {t}", "Below is the paraphrased problem:\n{t}",
    "The reworded problem is as follows: {t}", "Variant 1: {t}", "Version 2: {t}", "Variation #3: {t}",
    "1. {t}", "2) {t}", "Great question! {t}", "As requested, {t}", "In other words: {t}",
    "Put differently, {t}", "Okay, {t}", "Here are the rewordings: {t}", "### Paraphrase\n{t}",
    "Alternative wording: {t}", "My rewording: {t}", "Output: {t}", "Answer: {t}",
    "As an AI language model, I can rephrase this. {t}", "Thank you for the problem. {t}",
    "Rewording 1 - {t}", "{t}\n\nLet me know if you need another version!", "{t}\n\nI hope this helps!",
    "{t} (Note: I have reworded the problem.)", "{t}\n\nThis rewording keeps all numbers.",
    "Here you go: {t}", "The problem can be restated like this: {t}", "To rephrase: {t}",
    "Happy to help! {t}", "The following is a rewritten version of your problem. {t}", "Sure thing — {t}",
    "New problem: {t}", "{t}\n\nWould you like me to rephrase another one?", "Got it! {t}", "Sure — {t}",
    "Sure! Here you are.\n\n{t}", "Here is the question in different words:\n{t}",
    "Here's a fresh take on the problem: {t}", "Certainly, I can help with that. {t}", "Yes, of course! {t}",
    "Alright, {t}", "Let's try this version: {t}", "Consider this reworded problem: {t}",
    "Modified question: {t}", "Restated: {t}", "Question (reworded): {t}", "**Problem (rephrased)**\n\n{t}",
    "\"Rephrased\": {t}", "Reformulated problem statement: {t}", "Another version of the problem is: {t}",
    "Below is my attempt at a rewording. {t}", "Here is one possibility. {t}",
    "Here's what I came up with: {t}", "I would rephrase it this way: {t}", "I'd word it like so: {t}",
    "You could also ask: {t}", "A different way to put this: {t}", "Final answer: {t}", "Paraphrase -- {t}",
    "Version A: {t}", "(a) {t}", "Wording no. 2: {t}", "Updated text:\n{t}", "Response: {t}",
    "{t}\n\n(All quantities are unchanged.)", "{t}\n\nDoes this work for you?",
    "{t}\n---\nReworded from the original.", "{t}\n\nPlease let me know if you want changes.",
    "Sure, no problem: {t}", "Here's a rewording that keeps the meaning: {t}",
    "Of course, happy to do so.\n{t}", "Rewritten (same numbers): {t}", "The task, reworded: {t}",
    "Okay! Here we go. {t}", "Hi! {t}", "Hello, here is your reworded question. {t}",
    "This is how I would put it: {t}", "Reworded Question 4: {t}", "Rewrite #1 -> {t}",
    "<rewording>{t}</rewording>", "```\n{t}\n```", "[Reworded] {t}", "{\"rewordings\": [\"{t}\"]}",
    "Problem 2 (paraphrase): {t}", "Same problem, new words: {t}", "Rephrasing as follows. {t}",
    "Certainly - {t}", "Here is the problem again: {t}", "{t}\n\nIf you need more examples, just ask.",
    "{t} [This is a paraphrase.]", "Step 1: Rewrite the problem.\n{t}", "Absolutely, let us begin. {t}",
    "Task: reword. Result: {t}",
)  # fmt: skip

UNSEEN_PREAMBLES = (
    "Reworded version below.\n\n{t}", "I'm glad to help! Here's the text: {t}", "Here's the alternative: {t}",
    "What follows is a rephrasing. {t}", "Okay, so: {t}", "Paraphrased -> {t}", "New question - {t}",
    "Rewrite: {t}", "As an exercise in rewording, {t}", "My version would be: {t}",
    "Sure, I'd be delighted: {t}", "**Rewording**\n\n{t}", "— Variant II —\n{t}",
    "Transformed problem statement follows. {t}", "How about this: {t}",
    "What about the following phrasing: {t}", "{t}\n\nI kept every number as it was.",
    "{t}\n\nFeel free to ask for more.", "{t}\n\nEnd of rewording.",
    "Interesting problem! Here's my take: {t}", "No worries, {t}",
    "Please find the rewritten problem below: {t}", "The question, put another way: {t}", "Done! {t}",
    "Below: {t}",
)  # fmt: skip
"""Written when the check was done, and not looked at again: what it makes of preambles that nobody thought of."""


# --- answer in the hint


def leaking_sentence(rng: random.Random, answer: str, options: list[str]) -> str | None:
    """A sentence for a hint that gives the answer away."""
    if re.fullmatch("[A-E]", answer):
        shown = rng.choice(
            [
                "The answer is {a}.",
                "So option {a} is right.",
                "We choose ({a}).",
                "Hence the correct choice is {a}.",
            ]
        )
        index = ord(answer) - ord("A")
        if index < len(options) and len(options[index]) > 1 and rng.random() < 0.5:
            return f"So it must be {options[index]}."
        return shown.format(a=answer)
    if not re.fullmatch(r"\d+", answer):
        return f"This gives {answer}." if len(answer) > 1 else None
    n = int(answer)
    ways = [
        "So the answer is {a}.", "That leaves {a} in all.", "= {a}", "In total there are {a} of them.",
        "Result: **{a}**",
        "We get $x = {a}$.", "This makes \\boxed{{{a}}}.", "Altogether {a}.0 units.",
        "It will be ${a}.", "Therefore, {a}!",
        "Adding up, one finds {a} (check it).", "{a} is what we look for.",
    ]  # fmt: skip
    if n >= 1000:
        return f"We find {n:,} in the end."
    if 2 <= n < 1000 and rng.random() < 0.3:
        return f"So there are {number_words(n)} in the end."
    return rng.choice(ways).format(a=answer)


# --- near duplicates

_NEAR_SYNONYMS = {
    "buys": "purchases", "bought": "purchased", "many": "numerous", "total": "overall", "children": "kids",
    "big": "large",
    "small": "little", "each": "every", "every": "each", "wants": "wishes", "gets": "receives", "picture": "image",
    "shown": "displayed", "find": "determine", "needs": "requires", "makes": "creates", "finds": "discovers",
    "has": "possesses", "have": "possess", "if": "when", "and": "as well as", "but": "yet", "then": "afterwards",
}  # fmt: skip


def _typo(rng: random.Random, word: str) -> str:
    at = rng.randrange(1, len(word) - 1)
    return rng.choice(
        [
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        ]
    )


def near_duplicate(rng: random.Random, text: str) -> str | None:
    """One small edit for every twelve words, at most three: typos, synonyms, articles, fillers, neighbours swapped."""
    tokens = text.split(" ")
    # Not in numbers and their units: that would be another fault.
    plain = [
        i
        for i, token in enumerate(tokens)
        if re.fullmatch(r"[a-z]{4,}", token)
        and not numbers_of(token)
        and not (i and numbers_of(tokens[i - 1]))
    ]
    edits = max(1, min(3, len(tokens) // 12))
    if len(plain) < edits + 1:
        return None
    for place in rng.sample(plain, rng.randint(1, edits)):
        word = tokens[place]
        way = rng.randrange(6)
        if way == 0 or (way == 1 and word not in _NEAR_SYNONYMS):
            tokens[place] = _typo(rng, word)
        elif way == 1:
            tokens[place] = _NEAR_SYNONYMS[word]
        elif way == 2:
            tokens[place] = f"{rng.choice(['then', 'just', 'now', 'also', 'simply'])} {word}"
        elif way == 3:
            tokens[place] = f"{word} {word}"
        elif way == 4:
            tokens[place] = word.capitalize() + ","
        else:
            tokens[place] = f"the {word}"
    changed = " ".join(tokens)
    return changed if changed != text else None


# --- wrong solutions


def wrong_solution(
    rng: random.Random, lines: list[str], steps: tuple[Step, ...], answer: str, other: tuple[list[str], str]
) -> tuple[list[str], str] | None:
    """Steps and stated answer of a solution that went wrong; `lines` bear GSM8K's annotations.

    A slip that is carried on, a sign read wrongly, a stop too early, another problem's solution, or the right answer
    claimed at the end of a wrong way.
    """
    way = rng.randrange(6)
    clean = [re.sub(r"<<[^<>]*>>", "", line) for line in lines]
    if way == 0:
        return other if other[1] != answer else None
    if way == 1:
        if len(clean) < 3 or len(steps) < 2 or steps[-2].result == Fraction(answer):
            return None
        return clean[:-1], _text(steps[-2].result)
    if way == 2:  # only the last line is wrong, and the right answer is claimed
        ended = re.sub(r"(\d[\d,.]*)(?=\D*$)", lambda m: m[1] + "1", clean[-1])
        return ([*clean[:-1], ended], answer) if ended != clean[-1] and "=" in lines[-1] else None
    at = rng.randrange(len(steps)) if way < 5 else 0
    slip = rng.choice([1, 2, 10])
    carried = _carried(lines, at, slip, swap=way == 4)
    if carried is None:
        return None
    wrong_lines, value = carried
    if value == Fraction(answer):
        return None
    return wrong_lines, (answer if way == 5 else _text(value))


def _carried(lines: list[str], at: int, slip: int, *, swap: bool) -> tuple[list[str], Fraction] | None:
    """The lines with one result off, or one sign changed, and all that follows from it."""
    become: dict[Fraction, Fraction] = {}
    made, number, value = [], 0, Fraction(0)
    for line in lines:
        for expression, result in re.findall(r"<<([^<>=]+)=([^<>]+)>>", line):
            if swap and number == at:
                expression = (
                    expression.replace("-", "+") if "-" in expression else expression.replace("+", "-")
                )
            try:
                value, was = evaluate(expression, become), evaluate(result, {})
            except ValueError:
                return None
            value += slip if number == at and not swap else 0
            if value != was:
                become[was] = value
            number += 1
        plain = re.sub(r"<<[^<>]*>>", "", line)
        made.append(
            re.sub(
                r"(?<![\w.])\d[\d,]*(?:\.\d+)?",
                lambda m: (
                    _text(
                        become.get(
                            Fraction(m.group().rstrip(",").replace(",", "")),
                            Fraction(m.group().rstrip(",").replace(",", "")),
                        )
                    )
                    + ("," if m.group().endswith(",") else "")
                ),
                plain,
            )
        )
    return (made, value) if become and value > 0 else None


def _text(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"
