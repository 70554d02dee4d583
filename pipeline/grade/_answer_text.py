"""Answer text without its dress: LaTeX layout, Markdown, and typographic signs written in plain ASCII LaTeX."""

from __future__ import annotations

import re

_SIGNS = str.maketrans(
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
        "％": "%",
        "，": ",",
        "：": ":",
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
    }
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
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
_ROOT_BARE = re.compile(r"(?<![A-Za-z\\])sqrt\s*(\d+|[A-Za-z](?![A-Za-z])|(?=\{))")
_PRODUCT = re.compile(r"\\(?:times|cdot)(?![A-Za-z])")
_ONE_SIGN = re.compile(r"(\^|_|\\sqrt)\s*\{\s*(\w)\s*\}")
_MAX_WRAPPERS = 50
# Upright single letters after a value are units; spelt out, they stay apart from variables of the same letter.
_UPRIGHT_UNITS = {"m": "metre", "g": "gram", "s": "second", "h": "hour", "l": "litre", "L": "litre"}


def closing(text: str, start: int, pair: str = "{}") -> int | None:
    """Index of the bracket that closes the one at `start`, or None. An escaped bracket does not count."""
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


def undress(text: str) -> str:
    r"""An answer as plain LaTeX on one line, with what only concerns its looks removed.

    Dollar signs go in any case, as delimiter or as currency. `\text{cm}`, `\mathrm{cm}` and the like become
    their content; `√3` and `sqrt(3)` become `\sqrt{3}`; thousands in `1{,}000` and `1\,000` become `1,000` and
    `1 000`.
    """
    text = _RAISED.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text).translate(_SIGNS)
    if not _ROWS.search(text):  # inside a matrix a double backslash ends a row
        text = _DOUBLED.sub(r"\\", text)
    text = _DELIMITERS.sub("", _BRACKETED_MATRIX.sub(r"\1pmatrix", text))
    text = _LAYOUT.sub(r"\1 ", _SIZES.sub("", _FRACTIONS.sub(r"\\frac", text)))
    text = text.replace("{,}", ",").replace(r"\%", "%").replace(r"\varnothing", r"\emptyset")
    text = _unwrap(text).replace("{}", "")
    text = " ".join(_plain_roots(text).split())
    return text.strip('*_`" ').rstrip(".,;: ").lstrip("=:, ").strip("*_` ")


def key(undressed: str) -> str:
    """Two undressed answers with the same key are the same text; case counts unless they are mere words."""
    text = re.sub(r"\s+", "", _PRODUCT.sub("*", _ONE_SIGN.sub(r"\1\2", undressed)))
    return text.casefold() if re.fullmatch(r"[^\W\d_'-]{2,}['-]?\w*|[A-Za-z' ,-]{3,}", undressed) else text


def _unwrap(text: str) -> str:
    r"""Replaces `\text{...}` and its kin by what they hold."""
    for _ in range(_MAX_WRAPPERS):
        found = _WRAPPERS.search(text)
        if not found:
            break
        end = closing(text, found.end() - 1)
        inside = text[found.end() : end]
        before, after = text[: found.start()], "" if end is None else text[end + 1 :]
        if before.rstrip()[-1:].isalnum() or before.rstrip()[-1:] in ("}", ")"):
            inside = _UPRIGHT_UNITS.get(inside.strip(), inside)
        # Words must not grow together with their neighbours: 4\text{and}5.
        gap_before = " " if before[-1:].isalnum() and inside[:1].isalnum() else ""
        gap_after = " " if after[:1].isalnum() and inside[-1:].isalnum() else ""
        text = before + gap_before + inside + gap_after + after
    return text


def _plain_roots(text: str) -> str:
    for _ in range(_MAX_WRAPPERS):
        found = _ROOT_CALL.search(text)
        end = closing(text, found.end() - 1, "()") if found else None
        if not found or end is None:
            break
        text = f"{text[: found.start()]}\\sqrt{{{text[found.end() : end]}}}{text[end + 1 :]}"
    return _ROOT_BARE.sub(lambda bare: rf"\sqrt{{{bare.group(1)}}}" if bare.group(1) else r"\sqrt", text)
