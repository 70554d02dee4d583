"""Format `diva` commands for messages, quoted so that a user can paste them into a shell."""

from __future__ import annotations

import re
import shlex

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def diva(*words: object) -> str:
    """Format a `diva` command line from its words, each quoted by `word`.

    >>> diva("doctor", "--store", "my runs/$1")
    "diva doctor --store 'my runs/$1'"
    """
    return " ".join(["diva", *map(word, words)])


def word(value: object) -> str:
    r"""Quote a value as one word of a command line.

    The result has no line breaks. Text with single quotes, such as SQL, is put in double quotes where possible, which
    keeps it readable.

    >>> word("source = 'a'"), word("two\nlines")
    ('"source = \'a\'"', "$'two\\nlines'")
    """
    text = str(value)
    if _CONTROL.search(text):
        escaped = text.replace("\\", "\\\\").replace("'", "\\'")
        return "$'" + _CONTROL.sub(lambda found: _escape(found[0]), escaped) + "'"
    if "'" in text and not set(text) & set('"$`\\!'):
        return f'"{text}"'
    return shlex.quote(text)


def _escape(control: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(control) or "".join(
        f"\\x{byte:02x}" for byte in control.encode()
    )
