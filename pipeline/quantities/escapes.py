r"""Strings of JSON as models write them: LaTeX with its backslashes single, doubled, or doubled twice.

A model that writes `\times` into JSON means the command, but JSON says: a tab, then "imes". The same reply may hold
`\\nu` and `\beta`, and true line breaks beside them. Each run of backslashes is therefore read by what follows it:

| written | read as |
| --- | --- |
| `\beta`, `\frac`, `\b` or `\f` before any two letters | the command: no text holds a backspace or a form feed |
| `\times`, `\nabla`, `\rho` | the command: a tab or a line break before "imes" is none |
| `\neq`, `\tan`, `\nu` | the command within mathematics, else a line break or a tab and a word |
| `\alpha`, `\(`, `\$` | the command: JSON has no such escape |
| `\\frac` | the command |
| `\\\\frac` | the command, unless rows end there |
| `\n`, `\t`, `\"`, `\u00e9` | as JSON says |
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
"""How often one text may be escaped over again."""


@dataclass(slots=True)
class Mended:
    """A text, and what in it was read otherwise than JSON says."""

    text: str
    otherwise: list[str] = field(default_factory=list)


def read_string(raw: str) -> Mended:
    """The text of a JSON string.

    Args:
        raw: what stands between its quotes.
    """
    if "\\" not in raw:
        return Mended(raw)
    mended = Mended(raw)
    for number in range(_MOST_PASSES):
        if number and not _is_escaped_again(mended.text):
            break
        mended.otherwise += [r"\\"] * bool(number)
        mended.text = _once(mended.text, mended.otherwise)
    mended.text = _without_doubled(mended.text, mended.otherwise)
    return mended


def damage(text: str) -> str | None:
    """What control characters have made of a text: one phrase, or None.

    Tabs and line breaks are none, unless a LaTeX command began with what stands for them.
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
    """A text in which control characters stand for LaTeX commands, with the commands; any other as it is."""

    def command(found: re.Match[str]) -> str:
        letter = _LETTERS[found[1]]
        return f"\\{letter}{found[2]}" if _is_command(letter + found[2], text, found) else found[0]

    return re.sub(r"([\b\f\n\r\t])([A-Za-z]+)", command, text)


def _once(raw: str, otherwise: list[str]) -> str:
    """One level of escapes taken away."""
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
            before = "\\\\"  # the end of a row, and what follows it
        if not _is_escape(run, raw):
            otherwise.append(f"\\{after}")
            return f"{before}\\{after}"
        if after[0] == "u":
            return before + chr(int(after[1:], 16))
        return before + _CONTROLS.get(after[0], after[0]) + after[1:]

    return _joined_surrogates(_RUN.sub(meaning, raw))


def _is_escape(run: re.Match[str], raw: str) -> bool:
    """Whether the last of an odd run of backslashes begins an escape of JSON."""
    after = run[2]
    if after[:1] in ("", '"', "/") or re.fullmatch(r"u[0-9a-fA-F]{4}", after):
        return after != ""
    return after[0] in _CONTROLS and not _is_command(after, raw, run)


def _is_command(name: str, text: str, found: re.Match[str]) -> bool:
    r"""Whether letters after a backslash are a command rather than an escape and the beginning of a word."""
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
    """Whether a place is between the marks of mathematics."""
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
    """Whether rows are set at a place, which end with two backslashes."""
    return _open(_ROWS, _ROWS_END, text[:place])


def _ends_row(run: re.Match[str], raw: str, *, alone: bool) -> bool:
    r"""Whether two backslashes are the end of a row, in a text that has single ones elsewhere.

    Args:
        run: the backslashes, and what follows.
        raw: the text.
        alone: whether it has no command with two.
    """
    if run[2] in COMMANDS:
        return False
    if alone:
        return run[2][:1] not in tuple(_PUNCTUATION) or _in_rows(raw, run.start())
    return _in_rows(raw, run.start()) and run[2][:1] not in tuple("{}$%#_,;:!")


def _is_escaped_again(text: str) -> bool:
    """Whether a text that was read has two backslashes before all of its commands, or escapes alone in it."""
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
    return bool(signs) and in_pairs and len(even) == len(runs) and set(signs) <= set("()[]{}$%#&_")


def _without_doubled(text: str, otherwise: list[str]) -> str:
    """Single commands with one backslash too many, beside others that are right."""

    def meaning(run: re.Match[str]) -> str:
        if len(run[1]) != 2 or len(run[2]) < 3 or run[2] not in COMMANDS or _in_rows(text, run.start()):
            return run[0]
        otherwise.append(f"\\\\{run[2]}")
        return f"\\{run[2]}"

    return _RUN.sub(meaning, text)


def _joined_surrogates(text: str) -> str:
    """Halves of a surrogate pair, as two escapes make them, joined; one alone stays."""
    if not any("\ud800" <= sign <= "\udfff" for sign in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
