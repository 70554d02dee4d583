"""The check `format`: the text is complete, undamaged, in the language of the original, and only the question."""

from __future__ import annotations

import re

from diva_grpo.pipeline.checks.finding import PASSED, Finding, failed
from diva_grpo.pipeline.checks.language import foreign_part
from diva_grpo.pipeline.quantities.escapes import damage
from diva_grpo.pipeline.quantities.latex import has_math_dollars, imbalance
from diva_grpo.schemas.question import PLACEHOLDER
from diva_grpo.schemas.records import Kind, Problem, Variant

# Words about a text itself, not about its content.
_OF_TEXTS = (
    r"(?:\w*phras(?:e|es|ed|ing|ings)|re-?(?:word|writ|stat|formulat|cast|fram|work)(?:e|ed|ing|ings|es|s|ten)?"
    r"|wordings?|worded|versions?|variants?|variations?|alternatives?"
    r"|(?:put|say|ask|word|state|express|frame|write)\ (?:this|it|that)\b|came\ up\ with"
    r"|(?:different|another|other)\ ways?)"
)
_PREAMBLE = re.compile(
    rf"""[\s*#>_"'“`-]*(?:
      (?:sure|certainly|of\ course|absolutely|okay|ok|great|no\ problem|gladly|definitely|understood|got\ it|yes|alright
          |all\ right|right|well|perfect|done)(?:\ thing)?(?:\s*[,!.:–—]|\s+-\s)
    | [^.?!\n:–—]{{0,90}}?\b{_OF_TEXTS}\b [^.?!\n:]{{0,60}}(?:[:.!\]>]|\n|\s[-–—]+\s)
    | [^.?!\n:]{{0,40}}\bnew\ words\b[^.?!\n:]{{0,20}}: | (?:hi|hello|hey)\b[^.?!\n]{{0,20}}[,!.]
    | step\ 1\b | ```|~~~|\{{\s*"|<(?!image|/?[bi]>)/?[a-z]\w*>
    | (?:here(?:\ is|\ are|['’]s)|below(?:\ is|\ are)|the\ following(?:\ is|\ are)|this\ is|find\ below)
          \b[^.?!\n]{{0,80}}\b(?:problem|question|text|task|exercise|possibility|result|attempt)\b[^.?!\n:]{{0,40}}[:.]
    | (?:(?:my|the|a|an|one|another|new|final|possible)\s+){{0,2}}
          (?:output|answer|response|result|solution|(?:harder|revised|modified|new|transformed|updated|adapted)
            (?:\s+(?:problem|question|text|task|exercise))?)\s*\#?\d*\s*[*_]*[:–—]
    | here\ you\ (?:go|are)\b | (?:many\ )?thank(?:s|\ you)\b | as\ an?\ (?:ai|assistant|language\ model)\b
    | (?:great|good|nice|interesting)\ (?:question|problem)\b | (?:i['’]m\ |i\ am\ )?(?:happy|glad)\ to\b
    | as\ (?:you\ )?(?:requested|asked)\b | in\ other\ words\s*[,:] | put\ (?:differently|another\ way|simply)\s*[,:]
    | you\ (?:could|can|might)\ (?:also\ )?ask\b
    | (?:i['’]d|i\ would|i['’]ve|i['’]ll|i\ have|i\ will)\ (?:be|word|ask|try|changed|made|kept)\b
    | \(?(?:\d{{1,2}}|[a-e])[.)]\s+(?=["'“‘(]?[^\W\d_]) | [-•]\s+(?=["'“‘(]?[^\W\d_])
    | (?:当然|好的|以下是|这是改写|改写)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_POSTSCRIPT = re.compile(
    rf"""(?:^|(?<=[.?!)*_"”])\s) [\s*#>_"'“`(\[-]* (?:
      (?:please\ )?let\ me\ know | (?:please\ )?feel\ free | (?:i\ )?hope\ (?:this|that|it)\b | would\ you\ like\b
    | if\ you\ (?:need|want|would|have|wish)\b[^\n]*\b(?:ask|know|tell|happy|help) | (?:task|step)\b[^.\n]*{_OF_TEXTS}
    | (?:does|is)\ (?:this|that)\ (?:work|help|ok|okay|fine|better|what\ you)
    | (?:note|remark|p\.?s\.?)\b [^\n]*{_OF_TEXTS}
    | this\ (?:is\ )?(?:an?\ |the\ )?{_OF_TEXTS} | {_OF_TEXTS}\ (?:from|by|of|so)\b
    | (?:all|the)\ (?:\w+\ ){{0,2}}(?:quantities|numbers|values|meaning|answer)\b [^.\n]{{0,30}}
          \b(?:are|were|is|stay|remain|have\ been)\ (?:the\ same|unchanged|kept|preserved)\b[^\n]{{0,20}}\Z
    ) [^\n]* \s*\Z""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


def check_format(variant: Variant, problem: Problem) -> Finding:
    """Check that the text is complete, contains only the question, and is in the language of the original.

    It checks, in this order:

    - no text is empty;
    - no text has a control character (a wrong JSON escape turns the beginning of a LaTeX command into one);
    - the text does not talk about itself ("Here is a rewording:"), unless the original does;
    - its length is between a quarter of that of the original, and eight times that plus 400 characters;
    - it has the same image placeholders as the original;
    - its LaTeX is balanced, if that of the original is;
    - every sentence is in a language of the original.

    A think-step variant has the text of the original, so its steps are checked instead: that they are not empty, their
    control characters, their LaTeX and their language.
    """
    text = variant.text or ""
    if not text.strip() or any(not step.strip() for step in variant.hint):
        return failed("empty text")
    if fault := next(filter(None, map(damage, _texts(variant))), None):
        return failed(f"damaged text: {fault}")
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
    wanted, found = (sorted(m.group() for m in PLACEHOLDER.finditer(t)) for t in (problem.text, text))
    if wanted != found:
        return failed(f"image placeholders {found}, the original has {wanted}")
    return _written(text, problem)


def _texts(variant: Variant) -> tuple[str, ...]:
    """Return the texts that the teacher wrote for a variant."""
    if variant.kind == Kind.THINK_STEP:
        return (*variant.hint, variant.solution_answer or "")
    return (variant.text or "",)


def _written(text: str, problem: Problem) -> Finding:
    """Check the LaTeX and the language of a text that the teacher wrote."""
    dollars = has_math_dollars(problem.text)
    fault = imbalance(text, dollars=dollars)
    if fault and not imbalance(problem.text, dollars=dollars):
        return failed(f"LaTeX: {fault}")
    foreign = foreign_part(text, problem.text)
    if foreign:
        return failed(f"language: {foreign[0]}, unlike the original: {foreign[1][:60]!r}")
    return PASSED
