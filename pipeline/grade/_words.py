r"""Words in answers: which texts are prose, which words change the meaning of a value, and number words up to 100.

Three or more letters in a row are a word (`even`) or a product of variables (`abc`); `is_prose` decides which.
`hedges` finds the words that deny a value, bound it, or add an alternative or an order relation. Both functions read
English and Chinese.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from diva_grpo.pipeline.grade._units import is_unit
from diva_grpo.pipeline.quantities.lexicon import ONES, PARTS, TENS

CJK = "\u4e00-\u9fff"
_CJK_TEXT = re.compile(f"[{CJK}]")

# Names of functions and words that join values. They are mathematics, not prose.
_MATHEMATICS = frozenset(
    "and or sin cos tan cot sec csc log exp sqrt lim max min mod det gcd lcm inf sup arg deg dim ker"
    " arcsin arccos arctan sinh cosh tanh".split()
)
# Short words that are answers or parts of sentences. They are never products of letters.
_ENGLISH = frozenset(
    "yes not none odd even true false left right east west north south one two six ten zero four five nine all any"
    " the for are was has had get its let per day cup car man cat dog red blue pink kite cube cone oval line area"
    " side base only both same then than thus when each with from that this have find sold won days hour half".split()
)
_RUN = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
_TEXT_AROUND = re.compile(r"\\begin\s*\{[A-Za-z]+\*?\}(?:\s*\{[lcr|\s]*\})?|\\end\s*\{[A-Za-z]+\*?\}")
_OPERATOR = re.compile(r"[-+*/^=_]|\\(?:frac|sqrt|cdot|times)|\d")
_MAX_PRODUCT = 4

_ENGLISH_HEDGE = re.compile(
    r"""
    \b(?:
        not | no | non | never | neither | nor | none | cannot | without | except(?:ing)? | exclud\w* | unless | but
      | wrong | incorrect | false | untrue | invalid | impossible | instead | rather | other\s+than | anything | nothing
      | doubt\w* | hardly | unlikely | reject\w* | den(?:y|ies|ied) | disagree\w* | contradict\w* | refut\w* | excludes?
      | than | at\s+(?:least|most|best|worst|(?:the\s+)?(?:very\s+)?(?:least|most))
      | a\s+(?:minimum|maximum)\s+of | up\s+to
      | exceed\w* | surpass\w* | beyond | nearly | almost | close\s+to | near | within
      | just\s+(?:under|over|below|above)
      | or\s+(?:more|less|fewer|so|above|below|greater|higher|lower|larger|smaller)
      | and\s+(?:up|above|below|over|under|more|beyond) | upwards?
      | either | maybe | perhaps | possibly | probably | likely | might | may\s+be | could | alternatively | versus | vs
      | between | guess\w* | unsure | uncertain | whichever | any\s+of | one\s+of | unknown | someth?ing | else
      | otherwise | unlike | far\s+from | different\s+from | (?:is|ruled?|are)\s+out
      | twice | thrice | half\s+of | double | triple | (?:square|cube)d?\s+(?:root|of) | reciprocal | negative | inverse
      | opposite | multiple | factor
    )\b
    | \w+n['’]t\b | \b(?:isnt|arent|wasnt|cant|dont|doesnt|wont)\b | (?<=[\d})])ish\b
    | \b(?:above|below|under|over|plus|minus|around)\s+\$?\s?[-\d\\] | \d\s*(?:squared|cubed|plus|minus)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CHINESE_HEDGE = re.compile(
    r"不|非|没|无|未|否|错|误|除了|除外|大于|小于|多于|少于|高于|低于|至少|至多|最多|最少|超过|以上|以下|以内|以外|左右"
    r"|或|要么|可能|也许|大概|介于|之间|到|接近|将近|多$|余$|几"
)
_SYMBOL_HEDGE = re.compile(
    r"[?<>]|!=|\\(?:not|neg|lnot|sim|cancel|bcancel|xcancel|sout|st|ne|neq|lt|gt|le|leq|ge|geq|leqslant|geqslant|ll|gg"
    r"|lesssim|gtrsim|nless|ngtr|notin|nin|propto|parallel|perp)(?![A-Za-z])"
)
_ORDER = frozenset("< > != \\ne \\neq \\lt \\gt \\le \\leq \\ge \\geq \\leqslant \\geqslant".split())
# A reference that matches this is a range of numbers. The answer may give the range by an order relation.
_RANGE_REFERENCE = re.compile(
    r"\\(?:cup|cap|infty|in|mathbb|setminus)(?![A-Za-z])|[\[(].*,.*[\])]|\\mid|all real"
)

_CHINESE_DIGITS = {digit: i for i, digit in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2}
_CHINESE_NUMBER = re.compile(r"[负]?[〇零一二两三四五六七八九十百]+")


@lru_cache(maxsize=4_096)
def is_prose(bare: str) -> bool:
    """Whether a text contains English or Chinese words other than function names, `and` and `or`."""
    if not bare.isascii() and _CJK_TEXT.search(bare):
        return True
    text = _TEXT_AROUND.sub(" ", bare)
    return any(_is_word(run, text) for run in _RUN.finditer(text))


def _is_word(run: re.Match[str], text: str) -> bool:
    """Whether a run of letters is a word and not a product of variables."""
    word = run[0].casefold()
    if word in _MATHEMATICS:
        return False
    if word in _ENGLISH or (len(word) > 2 and is_unit(word)):
        return True
    if is_product_of_letters(run[0]):
        return False
    others = [other[0] for other in _RUN.finditer(text) if other[0].casefold() not in _MATHEMATICS]
    formula = len(word) <= _MAX_PRODUCT and _OPERATOR.search(text) is not None
    return not (formula and all(len(other) <= _MAX_PRODUCT and other.casefold() not in _ENGLISH for other in others)
                and not re.search(r"\d\s+$", text[: run.start()]))  # fmt: skip


def is_product_of_letters(run: str) -> bool:
    """Whether letters are a product of variables: up to four without a vowel, or in alphabetical sequence (`abc`)."""
    letters = run.casefold()
    consecutive = all(ord(b) - ord(a) == 1 for a, b in pairwise(letters))
    return (not set(letters) & set("aeiou") and len(letters) <= _MAX_PRODUCT) or consecutive


def same_product_of_letters(given: str, wanted: str) -> bool:
    """Whether two products of two to four variables have the same variables, as `bca` and `abc`. False for words."""
    short = re.fullmatch(r"[A-Za-z]{2,4}", given) and re.fullmatch(r"[A-Za-z]{2,4}", wanted)
    words = _ENGLISH | _MATHEMATICS
    known = (
        given.casefold() in words
        or wanted.casefold() in words
        or "no" in (given.casefold(), wanted.casefold())
    )
    return bool(short) and not known and sorted(given) == sorted(wanted)


def hedges(bare: str) -> set[str]:
    """Return the words and symbols of a text that deny or bound its value or leave it open. Empty for a plain value."""
    found = {" ".join(match[0].casefold().split()) for match in _ENGLISH_HEDGE.finditer(bare)}
    found |= set(_SYMBOL_HEDGE.findall(bare))
    if not bare.isascii():
        found |= set(_CHINESE_HEDGE.findall(bare))
    return found


def says_other_than(given: str, wanted: str) -> bool:
    """Whether an answer has words of the kind that `hedges` finds which the reference does not have."""
    extra = hedges(given)
    if not extra:
        return False
    extra -= hedges(wanted)
    if extra & _ORDER and (_ORDER & hedges(wanted) or _RANGE_REFERENCE.search(wanted)):
        extra -= _ORDER
    return bool(extra)


def number_of_words(text: str) -> Fraction | None:
    """Return the value of a number in words (`twenty-one`, `two and a half`, `三分之二`); None for other texts."""
    if not text.isascii():
        return _chinese_number(text)
    words = re.findall(r"[a-z]+", text.casefold())
    if not words or len(words) > 8 or not re.fullmatch(r"[A-Za-z]+(?:[\s-]+[A-Za-z]+)*", text):
        return None
    sign = -1 if words[0] in ("minus", "negative") else 1
    words = words[1:] if sign < 0 else words
    whole, part = _whole(words), _part(words)
    if whole is None and part is None and "and" in words:
        at = words.index("and")
        whole, part = _whole(words[:at]), _part(words[at + 1 :])
        if whole is None or part is None:
            return None
        return sign * (whole + part)
    value = part if whole is None else whole
    return None if value is None else sign * value


def _whole(words: list[str]) -> Fraction | None:
    if words[-1:] == ["hundred"] and len(words) <= 2:
        return Fraction(100) if words[:-1] in ([], ["a"], ["one"]) else None
    if len(words) == 1:
        (word,) = words
        value = ONES.get(word, TENS.get(word))
        return None if value is None else Fraction(value)
    if len(words) == 2 and words[0] in TENS and 0 < ONES.get(words[1], 0) < 10:
        return Fraction(TENS[words[0]] + ONES[words[1]])
    return None


def _part(words: list[str]) -> Fraction | None:
    if not words:
        return None
    singular = {"halves": "half"}.get(words[-1], words[-1].removesuffix("s"))
    low = PARTS.get(singular)
    top = Fraction(1) if words[:-1] in ([], ["a"], ["an"]) else _whole(words[:-1])
    if low is None or top is None or (words[:-1] == [] and singular != "half"):
        return None  # a single `third` is an ordinal and not a fraction
    return top / low


def _chinese_number(text: str) -> Fraction | None:
    low, mark, top = text.partition("分之")
    if mark:
        low_value = Fraction(100) if low == "百" else _chinese_number(low)
        top_value = _chinese_number(top) if not top.isdigit() else Fraction(top)
        return top_value / low_value if low_value and top_value is not None else None
    if not _CHINESE_NUMBER.fullmatch(text) or len(text) > 8:
        return None
    sign, digits = (-1, text[1:]) if text[0] == "负" else (1, text)
    total, current = 0, -1
    for character in digits:
        if character in "十百":
            total += (1 if current < 0 else current) * (10 if character == "十" else 100)
            current = -1
        elif current > 0:
            return None
        else:
            current = _CHINESE_DIGITS[character]
    return Fraction(sign * (total + max(current, 0))) if digits else None
