r"""Read JSON strings as models write them: with one, two or four backslashes before a LaTeX command.

A model that writes `\times` in a JSON string means the command, but by the rules of JSON it is a tab followed by
"imes". The same reply may also contain `\\nu`, `\beta` and real line breaks. So the meaning of backslashes is decided
by the characters after them:

| written | read as |
| --- | --- |
| `\beta`, `\frac`; `\b` or `\f` before a letter | a command, because texts contain no backspace or form feed |
| `\times`, `\nabla`, `\rho` | a command, because "imes" is not a word that could follow a tab or line break |
| `\neq`, `\tan`, `\nu` | a command in mathematics; elsewhere a line break or tab, and a word |
| `\alpha`, `\(`, `\$` | a command, because JSON has no such escape |
| `\\frac` | a command |
| `\\\\frac` | a command, except in an environment with rows (a matrix, ...), where `\\` ends a row |
| `\n`, `\t`, `\"`, `\u00e9` | the escape of JSON |
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from diva_grpo.pipeline.quantities.commands import ALSO_WORDS, COMMANDS
from diva_grpo.pipeline.quantities.latex import is_mathematics

_RUN = re.compile(r"(\\+)(u[0-9a-fA-F]{4}|[A-Za-z]+|[\s\S]|$)")
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LETTERS = {control: letter for letter, control in _CONTROLS.items()}
_PUNCTUATION = r"()[]{}$%#&_,;:!|"
_OPENING = re.compile(r"\\[(\[]|begin\{")
_CLOSING = re.compile(r"\\[)\]]|end\{")
_ROWS = re.compile(r"begin\{(?:array|tabular|cases|[bBpvV]?matrix|smallmatrix|align|gather|split|eqnarray)")
_ROWS_END = re.compile(r"end\{(?:array|tabular|cases|[bBpvV]?matrix|smallmatrix|align|gather|split|eqnarray)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MOST_PASSES = 3
"""Largest number of times that the escapes of a text are resolved."""


@dataclass(slots=True)
class Mended:
    """A text that was read from a JSON string.

    Attributes:
        text: the text.
        otherwise: the parts of the string that were not read by the rules of JSON, such as `\\times`.
    """

    text: str
    otherwise: list[str] = field(default_factory=list)


def read_string(raw: str) -> Mended:
    """Return the text of a JSON string.

    Args:
        raw: the characters between its quotes.
    """
    if "\\" not in raw:
        return Mended(raw)
    mended = Mended(raw)
    for number in range(_MOST_PASSES):
        if number and not is_escaped(mended.text):
            break
        mended.otherwise += [r"\\"] * bool(number)
        mended.text = _once(mended.text, mended.otherwise)
    mended.text = _without_doubled(mended.text, mended.otherwise)
    return mended


def damage(text: str) -> str | None:
    """Describe the first control character that damages a text, in one phrase; None if there is none.

    A tab or a line break is a damage only if it was read in place of the beginning of a LaTeX command.
    """
    found = _CONTROL.search(text)
    if found:
        return f"control character U+{ord(found[0]):04X}"
    mended = restored(text)
    if mended == text:
        return None
    place = next(i for i, (was, is_) in enumerate(zip(text, mended, strict=False)) if was != is_)
    command = re.match(r"\\[A-Za-z]+", mended[place:])
    return f"U+{ord(text[place]):04X} stands for {command[0] if command else 'a LaTeX command'}"


def restored(text: str) -> str:
    """Restore the LaTeX commands of a text in which a control character replaced `\\t`, `\\n` or the like.

    A text without such control characters is returned unchanged.
    """

    def command(found: re.Match[str]) -> str:
        letter = _LETTERS[found[1]]
        return f"\\{letter}{found[2]}" if _is_command(letter + found[2], text, found) else found[0]

    return re.sub(r"([\b\f\n\r\t])([A-Za-z]+)", command, text)


def _once(raw: str, otherwise: list[str]) -> str:
    """Resolve the escapes of a text once.

    Args:
        raw: the text.
        otherwise: parts that are not read by the rules of JSON are appended to it.
    """
    runs = list(_RUN.finditer(raw))
    single = any(len(run[1]) == 1 and not _is_escape(run, raw) for run in runs)
    doubled = any(len(run[1]) == 2 and run[2] in COMMANDS for run in runs)

    def meaning(run: re.Match[str]) -> str:
        count, after = len(run[1]), run[2]
        if count % 2 == 0:
            keeps_all = count == 2 and single and _ends_row(run, raw, alone=not doubled)
            if keeps_all:
                otherwise.append(r"\\")
            return (run[1] if keeps_all else "\\" * (count // 2)) + after
        before = "\\" * (count // 2)
        if count == 3 and (_in_rows(raw, run.start()) or (single and not doubled)) and after != '"':
            before = "\\\\"  # the end of a row, followed by a command or an escape
        if not _is_escape(run, raw):
            otherwise.append(f"\\{after}")
            return f"{before}\\{after}"
        if after[0] == "u":
            return before + chr(int(after[1:], 16))
        return before + _CONTROLS.get(after[0], after[0]) + after[1:]

    return _joined_surrogates(_RUN.sub(meaning, raw))


def _is_escape(run: re.Match[str], raw: str) -> bool:
    """Whether the last backslash of an odd number of backslashes begins a JSON escape.

    Args:
        run: the backslashes and the text after them.
        raw: the whole text.
    """
    after = run[2]
    if after[:1] in ("", '"', "/") or re.fullmatch(r"u[0-9a-fA-F]{4}", after):
        return after != ""
    return after[0] in _CONTROLS and not _is_command(after, raw, run)


def _is_command(name: str, text: str, found: re.Match[str]) -> bool:
    r"""Whether the letters after a backslash are a LaTeX command, and not a JSON escape and the beginning of a word.

    Args:
        name: the letters.
        text: the whole text.
        found: the match of backslash and letters in the text.
    """
    if name[0] in "bf":
        return len(name) > 1
    if name not in COMMANDS:
        return False
    if name not in ALSO_WORDS:
        return True
    before, after = text[: found.start()], text[found.end() :]
    if _in_mathematics(before, after) or after[:1] in ("{", "_", "^", "\\"):
        return True
    # "x \neq y", "a \to 0": an operator between single characters.
    operator = re.match(r" ?(?:\d|\\|-\d|[a-zA-Z]\b)", after) and re.search(r"(?:^|[\W_])[\w)}] ?$", before)
    return bool(operator and before[-1:] != "." and after[:1] in (" ", "\\"))


def _in_mathematics(before: str, after: str) -> bool:
    """Whether a position is inside mathematics, given the text before and after it."""
    if _open(_OPENING, _CLOSING, before):
        return True
    signs = [sign.start() for sign in re.finditer(r"(?<!\\)\$", before)]
    if len(signs) % 2 == 0:
        return len(signs) > 0 and before.count("$$") % 2 == 1
    closing = re.search(r"(?<!\\)\$", after)
    within = before[signs[-1] + 1 :].replace("\\\\", "\\")
    return closing is not None and is_mathematics(f"{within}x{after[: closing.start()]}".strip() or "x")


def _open(opening: re.Pattern[str], closing: re.Pattern[str], before: str) -> bool:
    return len(opening.findall(before)) > len(closing.findall(before))


def _in_rows(text: str, place: int) -> bool:
    """Whether a position is inside an environment with rows, such as a matrix. Its rows end with two backslashes."""
    return _open(_ROWS, _ROWS_END, text[:place])


def _ends_row(run: re.Match[str], raw: str, *, alone: bool) -> bool:
    r"""Whether two backslashes are the end of a row, in a text with single backslashes at other positions.

    Args:
        run: the two backslashes and the text after them.
        raw: the whole text.
        alone: whether no command in the text is written with two backslashes.
    """
    if run[2] in COMMANDS:
        return False
    if alone:
        return run[2][:1] not in tuple(_PUNCTUATION) or _in_rows(raw, run.start())
    return _in_rows(raw, run.start()) and run[2][:1] not in tuple("{}$%#_,;:!")


def is_escaped(text: str) -> bool:
    """Whether the backslashes of a text are those of a JSON string, although it is none or was read already.

    This is the case if its commands still have two backslashes, or if all of its backslashes begin JSON escapes.
    """
    runs = list(_RUN.finditer(text))
    escapes = [run[2][:1] for run in runs if len(run[1]) == 1 and _is_escape(run, text)]
    if runs and len(escapes) == len(runs) and set(escapes) <= {"n", '"'} and "\n" not in text:
        return escapes.count('"') % 2 == 0
    if any(len(run[1]) % 2 and not _is_escape(run, text) for run in runs):
        return False
    even = [run for run in runs if len(run[1]) % 2 == 0]
    if any(len(run[1]) == 2 and len(run[2]) > 1 and run[2] in COMMANDS for run in even):
        return True
    signs = [run[2] for run in even]
    in_pairs = signs.count("(") == signs.count(")") and signs.count("[") == signs.count("]")
    in_rows = any(_in_rows(text, run.start()) for run in even)
    known = set("()[]{}$%#&_") if in_rows else set(_PUNCTUATION)
    return bool(signs) and in_pairs and len(even) == len(runs) and set(signs) <= known


def _without_doubled(text: str, otherwise: list[str]) -> str:
    """Remove one backslash from each command that still has two, while other commands have one.

    Args:
        text: the text.
        otherwise: the changed commands are appended to it.
    """

    def meaning(run: re.Match[str]) -> str:
        if len(run[1]) != 2 or len(run[2]) < 3 or run[2] not in COMMANDS or _in_rows(text, run.start()):
            return run[0]
        otherwise.append(f"\\\\{run[2]}")
        return f"\\{run[2]}"

    return _RUN.sub(meaning, text)


def _joined_surrogates(text: str) -> str:
    """Join the halves of surrogate pairs, which JSON writes as two escapes. A single half is not changed."""
    if not any("\ud800" <= sign <= "\udfff" for sign in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
