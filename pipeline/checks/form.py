"""The check `format`: a whole text in the original's language, with nothing around it and nothing broken in it."""

from __future__ import annotations

import re

from pipeline.checks.finding import PASSED, PLACEHOLDER, Finding, failed
from pipeline.checks.language import foreign_part
from pipeline.checks.latex import has_math_dollars, imbalance
from schemas.records import Kind, Problem, Variant

_REWORDING = r"(?:re-?word|re-?phras|re-?writ|re-?stat|re-?formulat|paraphras|re-?work)\w*"
_VERSION = r"(?:version|variant|variation|wording|alternative)s?"
_TEXT = r"(?:problem|question|text|task|exercise)"
_PREAMBLE = re.compile(
    rf"""[\s*#>_"'`-]*(?:
      (?:sure|certainly|of\ course|absolutely|okay|ok|great|no\ problem|gladly|definitely|understood|got\ it)
          (?:\ thing)?(?:\s*[,!.:–—]|\s+-\s)
    | (?:here(?:\ is|\ are|['’]s)|below(?:\ is|\ are)|the\ following(?:\ is|\ are)|this\ is|find\ below)
          \b[^.?!\n]{{0,80}}\b(?:{_REWORDING}|{_VERSION}|{_TEXT}\b[^.?!\n:]{{0,40}}:)
    | (?:(?:my|the|a|an|one|another|new|possible)\s+){{0,2}}
          (?:(?:{_REWORDING}|{_VERSION}|harder|revised|modified|new|transformed|updated)(?:\s+{_TEXT})?
            |{_TEXT}\s+\(?{_REWORDING}\)?)\s*\#?\d*\s*[*_]*[:–—]
    | as\ (?:you\ )?(?:requested|asked)\b | (?:i['’]ve|i\ have|i['’]ll|i\ will|let\ me|let['’]s|to)\s+{_REWORDING}
    | (?:i['’]d|i\ would)\ be\ (?:happy|glad)\b | (?:in\ other\ words|put\ differently|put\ another\ way)\s*[,:]
    | (?:\d{{1,2}}[.)]|[-•])\s+(?=[^\W\d_])
    | (?:当然|好的|以下是|这是改写|改写)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_POSTSCRIPT = re.compile(
    rf"(?:let me know\b|i hope this\b|hope this helps|feel free to\b|\(?note:[^\n]*{_REWORDING}"
    rf"|this {_REWORDING}|would you like (?:me|another)\b)[^\n]*\s*\Z",
    re.IGNORECASE,
)


def check_format(variant: Variant, problem: Problem) -> Finding:
    """A text is there, whole, alone and in the original's language.

    In turn: nothing is empty; nothing is said about the text itself ("Here is a rewording:"), unless the original
    opens so; its length is between a quarter and eight times the original's; it has the original's image
    placeholders; LaTeX is balanced where the original's is; every sentence is in a language of the original.
    Think steps come with the original's text: of them only the language and the LaTeX of the steps are looked at.
    """
    text = variant.text or ""
    if not text.strip() or any(not step.strip() for step in variant.hint):
        return failed("empty text")
    if variant.kind == Kind.THINK_STEP:
        return _written("\n".join(variant.hint), problem)
    spoken = _PREAMBLE.match(text)
    if spoken and not _PREAMBLE.match(problem.text):
        return failed(f"preamble: {text.strip()[:40]!r}")
    closing = _POSTSCRIPT.search(text)
    if closing and not _POSTSCRIPT.search(problem.text):
        return failed(f"postscript: {closing.group().strip()[:40]!r}")
    if not len(problem.text) / 4 <= len(text) <= 8 * len(problem.text) + 400:
        return failed(f"length {len(text)} against {len(problem.text)} of the original")
    wanted, found = (sorted(PLACEHOLDER.findall(t)) for t in (problem.text, text))
    if wanted != found:
        return failed(f"image placeholders {found}, the original has {wanted}")
    return _written(text, problem)


def _written(text: str, problem: Problem) -> Finding:
    """LaTeX and language of what was written."""
    dollars = has_math_dollars(problem.text)
    fault = imbalance(text, dollars=dollars)
    if fault and not imbalance(problem.text, dollars=dollars):
        return failed(f"LaTeX: {fault}")
    foreign = foreign_part(text, problem.text)
    if foreign:
        return failed(f"language: {foreign[0]}, unlike the original: {foreign[1][:60]!r}")
    return PASSED
