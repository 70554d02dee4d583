"""Sound rewordings and harder texts by rules, independent of the project's own templates.

A text is made in two moves: its surface changes (numbers in words or digits, units, synonyms, LaTeX delimiters), and
its structure (a list, a dialogue, a letter, the question first, a story around it). Neither touches what is asked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
_SYNONYMS = {
    "buys": "purchases", "bought": "purchased", "gives": "hands",
    "children": "kids", "kids": "children", "needs": "requires", "makes": "produces",
    "wants": "would like", "every": "each", "begins": "starts", "starts": "begins", "picks": "chooses",
    "big": "large", "small": "little", "house": "home", "also": "in addition", "about": "roughly",
    "shown": "depicted", "below": "underneath", "picture": "drawing", "diagram": "sketch", "obtain": "get",
    "receives": "gets", "sells": "is selling", "uses": "makes use of", "eats": "consumes", "money": "cash",
}  # fmt: skip
_BOUNDARY = re.compile(r"(?<=[.?!])[\"'”’)]*\s+(?=[A-Z\"'“<$])|\s*\n\s*")


def number_words(n: int) -> str:
    """A number below a million in English words."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10] + (f"-{_ONES[n % 10]}" if n % 10 else "")
    size, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    head, rest = divmod(n, size)
    joint = " and " if rest < 100 and size == 100 else " "
    return f"{number_words(head)} {name}" + (f"{joint}{number_words(rest)}" if rest else "")


def sentences(text: str) -> list[str]:
    """The sentences of a text; an image stays with the sentence before it."""
    parts = [part.strip() for part in _BOUNDARY.split(text) if part.strip()]
    merged: list[str] = []
    for part in parts:
        if merged and (
            re.fullmatch(r"(?:<image\d*>\s*)+", part)
            or re.search(r"\b(?:Mr|Mrs|Ms|Dr|St|vs|[A-Z])\.$", merged[-1])
        ):
            merged[-1] += " " + part
        else:
            merged.append(part)
    return merged


def facts_and_question(text: str) -> tuple[list[str], str]:
    """What is told, and the last sentence with a question mark (else the last sentence)."""
    parts = sentences(text)
    asking = [i for i, part in enumerate(parts) if "?" in part] or [len(parts) - 1]
    return parts[: asking[-1]] + parts[asking[-1] + 1 :], parts[asking[-1]]


# --- surface


def digits_to_words(text: str, rng: random.Random) -> str:
    """Integers below a thousand in prose as words; those beside signs or letters, or in a list, stay."""

    def worded(found: re.Match[str]) -> str:
        return number_words(int(found.group())) if rng.random() < 0.8 else found.group()

    prose = (
        r"(?<![\w.,$:/^<>{\\=+*-])(?<![-+*/=(×:] )(?<!and )(?!0)\d{1,3}"
        r"(?![\w.,:%/^}$]| and \d|[-.,]\d|\s*[-+*/=×:%$\\)!]|-)"
    )
    return re.sub(prose, worded, text) if "$" not in text or "\\" not in text else text


def words_to_digits(text: str, rng: random.Random) -> str:
    """Number words from two to twelve as digits, where they stand alone."""
    found = re.compile(
        r"(?<![-\w])(" + "|".join(_ONES[2:13]) + r")(?![-\w]|\s+(?:hundred|thousand|million|dozen)| and a)"
    )
    return found.sub(lambda m: str(_ONES.index(m[1])), text)


def money_in_words(text: str, rng: random.Random) -> str:
    """`$12.50` as `12.50 dollars`, in texts without mathematics between dollars."""
    if (
        "\\" in text
        or re.search(r"\$[^$\d]", text)
        or re.search(r"\$[\d.,]+(?:-| (?:million|billion|bill))", text)
    ):
        return text
    return re.sub(r"\$(\d+(?:,\d{3})*(?:\.\d+)?)(?![\d$])", r"\1 dollars", text)


def percent_in_words(text: str, rng: random.Random) -> str:
    """`20%` as `20 percent`; halves and quarters in the other notation."""
    text = re.sub(r"(?<=\d)%", " percent", text) if "\\%" not in text else text
    for words, digits in (
        (r"\b1/2\b", "one half"),
        (r"\b1/3\b", "one third"),
        (r"\b1/4\b", "one quarter"),
        (r"\b3/4\b", "three quarters"),
    ):
        text = re.sub(rf"(?<![\d/.] )(?<![\d/.]){words}(?![/\d])", digits, text)
    return text


def other_words(text: str, rng: random.Random) -> str:
    """Synonyms for common words."""
    return re.sub(r"[a-z]+", lambda m: _SYNONYMS.get(m.group(), m.group()), text)


def other_delimiters(text: str, rng: random.Random) -> str:
    r"""`$x$` as `\(x\)` in texts of mathematics."""
    return re.sub(r"\$([^$]+)\$", r"\\(\1\\)", text) if "\\" in text and text.count("$") % 2 == 0 else text


def spelt_units(text: str, rng: random.Random) -> str:
    """Units in full."""
    for short, full in (
        ("cm", "centimetres"),
        ("km", "kilometres"),
        ("mm", "millimetres"),
        ("kg", "kilograms"),
        ("oz", "ounces"),
        ("ft", "feet"),
    ):
        text = re.sub(rf"(?<=\d )\b{short}\b(?!\^)|(?<=\d){short}\b", full, text)
    return re.sub(r"(?<=\d)(centimetres|kilometres|millimetres|kilograms|ounces|feet)", r" \1", text)


SURFACES: tuple[Callable[[str, random.Random], str], ...] = (
    digits_to_words,
    words_to_digits,
    money_in_words,
    percent_in_words,
    other_words,
    other_delimiters,
    spelt_units,
)


# --- structure


def _lower(sentence: str) -> str:
    """A question as part of a sentence."""
    return re.sub(r"^(How|What|Which|Where|When|Who|If|In|At)\b", lambda m: m[1].lower(), sentence)


def as_list(facts: list[str], question: str, rng: random.Random) -> str:
    bullet = rng.choice(["- ", "* ", "• "])
    opening = rng.choice(["What we know:", "The following facts are given.", "Consider these statements."])
    return "\n".join(
        [opening, *(bullet + fact for fact in facts), "", f"With this in mind: {_lower(question)}"]
    )


def question_first(facts: list[str], question: str, rng: random.Random) -> str:
    opening = rng.choice(
        ["We are looking for an answer to this:", "Try to find out the following.", "A puzzle asks:"]
    )
    middle = rng.choice(
        ["This is what happened.", "The circumstances are these.", "All that is known comes next."]
    )
    return " ".join([opening, question, middle, *facts])


def as_dialogue(facts: list[str], question: str, rng: random.Random) -> str:
    a, b = rng.sample(["Mira", "Jonas", "Leila", "Pavel", "Ines"], 2)
    told = " ".join(facts) or "Look at this."
    return f"“{told}” {a} looks up from the notebook. “Now tell me,” says {b}, “{_lower(question)}”"


def as_letter(facts: list[str], question: str, rng: random.Random) -> str:
    name = rng.choice(["Grandma", "Professor", "Aunt Rosa", "neighbour"])
    return f"Dear {name}, I am stuck on my homework. {' '.join(facts)} Could you explain to me {_lower(question)}"


def as_task(facts: list[str], question: str, rng: random.Random) -> str:
    end = rng.choice(["Show how you get there.", "Give reasons.", "State the result clearly."])
    start = f"Think about this situation carefully before answering. {' '.join(facts)}"
    return f"{start} Determine the following: {_lower(question)} {end}"


def joined(facts: list[str], question: str, rng: random.Random) -> str:
    told = "; moreover, ".join(fact.rstrip(".") for fact in facts)
    return (
        f"Suppose that all of this is true: {told}. Then {_lower(question)}"
        if told
        else f"Please answer this short question, and explain why: {_lower(question)}"
    )


def by_scenes(facts: list[str], question: str, rng: random.Random) -> str:
    links = ["To begin with,", "Furthermore,", "It should be added that", "Next,", "Besides,", "Finally,"]
    told = " ".join(f"{links[min(i, 5)]} {fact}" for i, fact in enumerate(facts))
    return (
        f"{told} Given all that, {_lower(question)}"
        if facts
        else f"Here comes a quick one for a rainy afternoon: {question}"
    )


REWORDS = (as_list, question_first, as_dialogue, as_letter, as_task, joined, by_scenes)


# --- harder texts


def story(facts: list[str], question: str, rng: random.Random) -> str:
    frame = rng.choice(
        [
            "The night train to Bergen was late again, and the passengers in the last carriage had run out of things "
            "to talk about, until the conductor told them this. {text} Nobody had found it before the next stop.",
            "On the wall of an old mill hangs a board with faded letters. Whoever stops to read it finds a riddle "
            "that the miller's daughter left behind: {text} Some say she never told anyone the solution.",
            "The archive keeps a folder of unsolved questions from village schools. Page after page was eaten by "
            "mice, but one entry can still be read in full. {text} The margin beside it is empty.",
        ]
    )
    return frame.format(text=" ".join([*facts, question]))


def irrelevant(facts: list[str], question: str, rng: random.Random) -> str:
    extra = rng.choice(
        [
            "A poster on the door announces the summer festival of 2019.",
            "The nearest bus stop is 350 metres away, and the bus runs every 25 minutes.",
            "Outside it is raining, as it did on 17 days of the month before.",
            "On the shelf stand 48 old books that nobody has opened for years.",
        ]
    )
    place = rng.randrange(len(facts) + 1)
    return " ".join([*facts[:place], extra, *facts[place:], question])


def sub_question(facts: list[str], question: str, rng: random.Random) -> str:
    way = rng.choice(
        [
            "Before you answer, work out every quantity that is needed on the way.",
            "First write down what each of the facts contributes; what you find is needed in the end.",
            "Set up the intermediate results, check them, and only then turn to the last matter.",
        ]
    )
    return " ".join([*facts, way, f"In the end, {_lower(question)}"])


def abstract(facts: list[str], question: str, rng: random.Random) -> str:
    opening = rng.choice(
        [
            "Let the following data define a system of quantities.",
            "The conditions below determine one unknown.",
        ]
    )
    return f"{opening} {' '.join(facts)} The unknown in question is defined by: {question}"


HARDER = (story, irrelevant, sub_question, abstract)


def reworded(text: str, rng: random.Random, *, harder: bool = False) -> str:
    """One sound text: some changes of surface, one of structure."""
    for change in SURFACES:
        if rng.random() < 0.5:
            text = change(text, rng)
    facts, question = facts_and_question(text)
    return rng.choice(HARDER if harder else REWORDS)(facts, question, rng)
