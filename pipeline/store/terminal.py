"""Text of a store made safe for a terminal."""

from __future__ import annotations

import shutil
import textwrap

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_CONTROLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# Breaks of lines, and characters that turn the text around.
_CONTROLS |= dict.fromkeys([*range(0x2028, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


def visible(text: str) -> str:
    """Replace control characters by visible symbols, except tab and line break; also those that turn the text around.

    In a terminal, control characters from a data set could hide or fake output.

    >>> visible("1\\x1b[8m2")
    '1␛[8m2'
    """
    return text.translate(_CONTROLS)


def columns_of(width: int | None) -> int:
    """Return the characters of a line: `width`, or by default the width of the terminal, but at most 110."""
    return width or min(110, shutil.get_terminal_size((100, 24)).columns)


def wrapped(text: str, columns: int, indent: str) -> list[str]:
    """Break each line of a text into lines of at most `columns` characters, which begin with `indent`."""
    return [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(paragraph, columns, initial_indent=indent, subsequent_indent=indent)
    ]
