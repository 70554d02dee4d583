"""Find words around a value that change its meaning: a denial, a bound, or a second value.

The answer of a response that says "not 5", "more than 5" or "5 or 6" is not 5. These functions add such words to the
extracted value, so that the comparison takes them into account.
"""

from __future__ import annotations

import re

from diva_grpo.pipeline.grade._words import CJK, hedges

_NEAR = 200
_CLAUSE = 60
_CLAUSE_START = re.compile(
    r"[.!?;:\n](?!\d)|,(?!\d)|\b(?:so|therefore|thus|hence|because|since|(?<!thing )(?<!all )but"
    r"|then|means?|implies|instead|rather)\b|(?:所以|因此|故|因为|而是|但)",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:not|cannot|never|neither|nor|no|doubt|false|wrong|incorrect|untrue|unlikely|isnt|arent|wasnt|cant|dont|doesnt"
    r"|except|other\s+than|(?:anything|everything|all)\s+but|rule\s+out|reject\w*|exclud\w*)\b|\w+n['’]t\b"
    r"|不是|不为|并非|不等于|不选|不会|不可能|不能|不应|不对|没有|绝非|除了|否定|排除",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:\bthan|\bat\s+(?:least|most|the\s+(?:least|most))|\bup\s+to|\b(?:exceed|surpass)\w*|\babove|\bbelow"
    r"|\bbeyond|\bunder|\bnearly|\balmost"
    r"|\bclose\s+to|\beither|\bmaybe|\bperhaps|\bpossibly|\bminus|\bnegative|\btwice|\bhalf\s+of|\broot\s+of"
    r"|大于|小于|多于|少于|高于|低于|至少|至多|最多|最少|超过|接近|可能)"
    r"(?:\s+(?:or\s+)?equal\s+to)?(?:为|是|有)?\s*[$\\(\[*_£€¥]*\s*$",
    re.IGNORECASE,
)
_THAN = re.compile(
    rf"(?:\bthan|大于|小于|多于|少于|超过)(?:为|是)?[ \t]*[$\\(\[*_]*[ \t]*$"
    rf"|(?:{_DENIAL.pattern})(?:[ \t]+[a-z]+){{0,3}}[ \t]*:?[ \t]*[$\\(\[*_]*[ \t]*$",
    re.IGNORECASE,
)
_VALUE = r"[$£€¥]?-?(?:\d+(?:\.\d+)?(?:/\d+)?|\\[a-z]+(?:\{[^{}]*\})*\d*)\s?%?\$?"
_LISTED = re.compile(
    rf"(?:{_VALUE}(?:\s[a-z]+)?\s*,\s*)*{_VALUE}(?:\s[a-z]+)?\s*,?\s*(?:\bor\b|\band\b|或者?|和)\s*(?:maybe\s+)?[$\\(]*$"
)
_LETTERS_BEFORE = re.compile(
    r"(?:(?<![A-Za-z])\(?[A-J]\)?\s*(?:,\s*(?:and|or)\b|,|/|&|\band\b|\bor\b|或者?|和|(?<=\)))\s*)+"
    r"(?:option\s+|choice\s+)?\(?$"
)
_TAKEN_BACK = re.compile(
    r"""
    [\s$)\]}*_"'.,;]*\(?\s*
    (?:(?:\\text\s*\{\s*)?(?:or|and/or|alternatively|maybe|perhaps|possibly|或者?|可能)(?![A-Za-z])
      |(?:is|are|was|were)?\s*(?:not\b|n['’]t\b|never\b|wrong\b|incorrect\b|false\b|impossible\b)|(?:isn|wasn|aren)['’]t\b
      |不是|不对|是错|错误
    )[^\n]{0,120}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_OR_MORE = re.compile(
    r"[\s$)*_]*(?:[a-z]+\s)?(?:or\s+(?:more|less|fewer|so)|and\s+(?:up|above|below))\b|[\s$)]*(?:以上|以下|左右)"
)
_OTHERWISE = re.compile(r"\b(?:else|otherwise|respectively)\b|否则", re.IGNORECASE)
_HARMLESS = re.compile(
    r"[\s$)\]}*_\"'.,;]*\(?\s*or\s+(?:equivalently|simply|just|approximately|about|in other words)\b",
    re.IGNORECASE,
)


def clause_before(text: str, at: int) -> str:
    """Return the part of a clause before a position: the text since the last punctuation or conjunction."""
    near = text[max(at - _NEAR, 0) : at]
    starts = [found.end() for found in _CLAUSE_START.finditer(near)]
    return near[starts[-1] :] if starts else near


def denied_before(text: str, at: int) -> str:
    """Return the clause before a position, from its denial on (`not`, `never`, ...); "" if it has no denial."""
    clause = clause_before(text, at)
    found = _DENIAL.search(clause)
    return clause[found.start() :] if found else ""


def denied_beside(text: str, at: int) -> str:
    """Return the denial or comparison directly before a position; "" if there is none."""
    found = _THAN.search(text[max(at - 60, 0) : at])
    return found[0] if found else ""


def letters_before(text: str, at: int) -> str:
    """Return the letters that are joined to the letter at a position: `A or ` for the B of `A or B`; "" if none."""
    found = _LETTERS_BEFORE.search(text[max(at - _NEAR, 0) : at])
    return found[0] if found else ""


def taken_back_after(text: str, at: int) -> str:
    """Return the text directly after a value that denies it or adds another value; "" if there is none.

    Args:
        text: the response.
        at: the end of the value.
    """
    near = text[at : at + _NEAR]
    found = _TAKEN_BACK.match(near) or _OR_MORE.match(near)
    if found is None:
        sentence = re.split(r"\.(?:\s|$)|\n", near, maxsplit=1)[0]
        return sentence if _OTHERWISE.search(sentence) else ""
    return "" if _HARMLESS.match(near) else found[0]


def widened(text: str, start: int, end: int) -> str:
    """Return a value together with the words around it that deny it, bound it, or join it to another value.

    Args:
        text: the response.
        start: index of the value.
        end: index after the value.
    """
    near = text[max(start - _NEAR, 0) : start]
    before = denied_before(text, start)
    clause = clause_before(text, start)
    if not before and len(clause) < _CLAUSE and hedges(clause):
        before = clause
    for pattern in (_BOUND, _LISTED):
        if not before and (found := pattern.search(near)):
            before = found[0]
    return (before + text[start:end] + taken_back_after(text, end)).strip()


def is_chinese(text: str) -> bool:
    """Whether a text has more than six Chinese characters, so that it is a sentence and not only a unit."""
    return not text.isascii() and len(re.findall(f"[{CJK}]", text)) > 6
