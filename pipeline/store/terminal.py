"""Text of a store made safe for a terminal."""

from __future__ import annotations

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_CONTROLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_CONTROLS |= dict.fromkeys(
    [*range(0x2028, 0x202F), *range(0x2066, 0x206A)], 0xFFFD
)  # breaks of lines, turned text


def visible(text: str) -> str:
    """Replace control characters by visible symbols, except tab and line break; also those that turn the text around.

    In a terminal, control characters from a data set could hide or fake output.

    >>> visible("1\\x1b[8m2")
    '1␛[8m2'
    """
    return text.translate(_CONTROLS)
