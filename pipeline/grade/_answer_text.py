"""Normalise the text of an answer: remove LaTeX layout and Markdown, replace Unicode symbols by LaTeX commands."""

from __future__ import annotations

import re
from functools import lru_cache

WIDTHS: dict[int, str] = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
        **dict.fromkeys("。｡", "\n"),
        "、": ",",
        "【": "[",
        "】": "]",
        "〔": "[",
        "〕": "]",
        "〈": "(",
        "〉": ")",
        **dict.fromkeys("“”", '"'),
        "\u3000": " ",
    }
)
"""Full-width characters and Chinese punctuation, mapped to one ASCII character each. A Chinese full stop becomes a
line break."""

_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑﹣－", "-"),
        **dict.fromkeys(
            "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " "
        ),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
        "π": r"\pi ",
        "√": " sqrt",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "±": r"\pm ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∅": r"\emptyset ",
        "θ": r"\theta ",
        "°": r"^\circ ",
        "℃": r"^\circ ",
        "∠": r"\angle ",
        **dict.fromkeys("△Δ▲", r"\triangle "),
        "∛": r"\sqrt[3]",
        "∜": r"\sqrt[4]",
        "∈": r"\in ",
        "⟨": "(",
        "⟩": ")",
        "…": r"\ldots ",
        **dict.fromkeys("′’", "'"),
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
    }
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_CJK = "\u4e00-\u9fff"
# "or" and "and" in Chinese, not between two Chinese characters: inside words such as 和为, 和 means "sum".
_CHINESE_OR = re.compile(rf"(?<![{_CJK}])\s*(?:或者?|抑或)\s*|\s*(?:或者?|抑或)\s*(?![{_CJK}])")
_CHINESE_AND = re.compile(rf"(?<![{_CJK}])\s*(?:以及|[和与及])\s*(?![{_CJK}])")
_STRUCK_OUT = re.compile(r"~~(?=\S)")
_EMPTY_SET = re.compile(r"\\\{\s*\\\}|\\lbrace\s*\\rbrace|\\varnothing(?![A-Za-z])")
_ANGLE_BRACKETS = re.compile(r"\\(?:(langle)|(rangle)|(lbrace)|(rbrace)|[lr]?vert)(?![A-Za-z])")
_ROOT_OF_FRACTION = re.compile(r"\\sqrt\s*((?:\[[^\]]*\])?)\s*(?=\\[dtc]?frac(?![A-Za-z]))")
_ANGLE = re.compile(r"\\angle([A-Za-z])([A-Za-z])([A-Za-z])(?![A-Za-z])")
_ROWS = re.compile(r"\\begin\{")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z%$])")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?")
_LAYOUT = re.compile(r"(\\\\)|\\(?:displaystyle|textstyle|limits|q?quad|indent|hfill)(?![A-Za-z])|\\[,;: ]|~")
_BRACKETED_MATRIX = re.compile(r"(\\(?:begin|end)\s*\{)[bB]matrix")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_DELIMITERS = re.compile(r"\\[()\[\]]|(?:\\?\$)+|\\!")
_WRAPPERS = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|cal)|operatorname\*?|mbox|hbox)\s*\{"
)
_ROOT_CALL = re.compile(r"(?<![A-Za-z])\\?sqrt\s*\(")
_ROOT_BARE = re.compile(r"(?<![A-Za-z\\])sqrt\s*(\d+|[A-Za-z](?![A-Za-z])|(?=\{|\\[dtc]?frac))")
_PRODUCT = re.compile(r"\\(?:times|cdot)(?![A-Za-z])")
_ONE_SIGN = re.compile(r"(\^|_|\\sqrt)\s*\{\s*(\w)\s*\}")
_MAX_WRAPPERS = 50
# A single upright letter after a value is a unit. It is spelled out, so that it differs from a variable.
_UPRIGHT_UNITS = {"m": "metre", "g": "gram", "s": "second", "h": "hour", "l": "litre", "L": "litre"}


def closing(text: str, start: int, pair: str = "{}") -> int | None:
    """Return the index of the bracket that closes the one at `start`; None if it is not closed.

    Brackets after a backslash are ignored.
    """
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        depth += (text[i] == pair[0]) - (text[i] == pair[1])
        if depth == 0:
            return i
        i += 1
    return None


@lru_cache(maxsize=4_096)  # the same reference is normalised for each rollout
def bare_answer(text: str) -> str:
    r"""Return an answer as plain LaTeX on one line, without commands and characters that only affect the layout.

    All dollar signs are removed, those of currency too. `\text{cm}`, `\mathrm{cm}` and similar commands are replaced
    by their content. `√3` and `sqrt(3)` become `\sqrt{3}`. `1{,}000` becomes `1,000`, and `1\,000` becomes `1 000`.
    """
    if not text.isascii():
        text = text.translate(WIDTHS)
    text = _RAISED.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text).translate(
        _SYMBOLS
    )
    text = _CHINESE_AND.sub(" and ", _CHINESE_OR.sub(" or ", text)) if not text.isascii() else text
    if not _ROWS.search(text):  # inside a matrix a double backslash ends a row
        text = _DOUBLED.sub(r"\\", text)
    text = _STRUCK_OUT.sub(r"\\sout ", text)
    text = _DELIMITERS.sub("", _BRACKETED_MATRIX.sub(r"\1pmatrix", text))
    text = _LAYOUT.sub(r"\1 ", _SIZES.sub("", _FRACTIONS.sub(r"\\frac", text)))
    text = text.replace("{,}", ",").replace(r"\%", "%").replace(r"\degree", r"^\circ")
    text = _unwrap(text).replace("{}", "")
    text = _EMPTY_SET.sub(r"\\emptyset ", _ANGLE_BRACKETS.sub(_plain_bracket, text))
    text = " ".join(_plain_roots(text).split())
    if text.casefold() in ("空集", "empty set", "the empty set"):
        return r"\emptyset"
    return text.strip('*_`" ').rstrip(".,;: ").lstrip("=:, ").strip("*_` ")


@lru_cache(maxsize=4_096)
def key(bare: str) -> str:
    r"""Return the text by which bare answers are compared: answers with the same key are the same text.

    White space is ignored. Case is ignored only in answers that consist of words. `\angle ABC` and `\angle CBA` have
    the same key, because they are the same angle.

    Args:
        bare: an answer as returned by `bare_answer`.
    """
    text = re.sub(r"\s+", "", _PRODUCT.sub("*", _ONE_SIGN.sub(r"\1\2", bare)))
    text = _ANGLE.sub(lambda m: rf"\angle{min(m[1], m[3])}{m[2]}{max(m[1], m[3])}", text)
    return text.casefold() if re.fullmatch(r"[^\W\d_'-]{2,}['-]?\w*|[A-Za-z' ,-]{3,}", bare) else text


def _unwrap(text: str) -> str:
    r"""Replace `\text{...}`, `\boxed{...}` and similar commands by their content."""
    for _ in range(_MAX_WRAPPERS):
        found = _WRAPPERS.search(text)
        if not found:
            break
        end = closing(text, found.end() - 1)
        inside = text[found.end() : end]
        before, after = text[: found.start()], "" if end is None else text[end + 1 :]
        if before.rstrip()[-1:].isalnum() or before.rstrip()[-1:] in ("}", ")"):
            inside = _UPRIGHT_UNITS.get(inside.strip(), inside)
        # Keep a space between words and the characters beside them: 4\text{and}5 becomes "4 and 5".
        gap_before = " " if before[-1:].isalnum() and inside[:1].isalnum() else ""
        gap_after = " " if after[:1].isalnum() and inside[-1:].isalnum() else ""
        text = before + gap_before + inside + gap_after + after
    return text


def _plain_bracket(found: re.Match[str]) -> str:
    return {"langle": "(", "rangle": ")", "lbrace": r"\{", "rbrace": r"\}"}.get(found[0][1:], "|")


def arguments_end(text: str, start: int, count: int) -> int | None:
    r"""Return the index after `count` arguments of a LaTeX command; None if there are fewer arguments.

    An argument is a group in braces, a command such as `\pi`, or one character.
    """
    for _ in range(count):
        while text[start : start + 1] == " ":
            start += 1
        if text[start : start + 1] == "{":
            end = closing(text, start)
            if end is None:
                return None
            start = end + 1
        elif found := re.compile(r"\\[A-Za-z]+|[^\s{}\\]").match(text, start):
            start = found.end()
        else:
            return None
    return start


def _roots_of_fractions(text: str) -> str:
    r"""Put braces around the fraction under a root: `\sqrt\frac12` becomes `\sqrt{\frac12}`."""
    for _ in range(_MAX_WRAPPERS):
        found = _ROOT_OF_FRACTION.search(text)
        end = arguments_end(text, text.index("frac", found.end()) + 4, 2) if found else None
        if not found or end is None:
            break
        text = f"{text[: found.start()]}\\sqrt{found[1]}{{{text[found.end() : end]}}}{text[end:]}"
    return text


def _plain_roots(text: str) -> str:
    for _ in range(_MAX_WRAPPERS):
        found = _ROOT_CALL.search(text)
        end = closing(text, found.end() - 1, "()") if found else None
        if not found or end is None:
            break
        text = f"{text[: found.start()]}\\sqrt{{{text[found.end() : end]}}}{text[end + 1 :]}"
    text = _ROOT_BARE.sub(lambda bare: rf"\sqrt{{{bare.group(1)}}}" if bare.group(1) else r"\sqrt", text)
    return _roots_of_fractions(text)
