"""Find the thoughts that reasoning models write into their answers, by the marks that these models use."""

from __future__ import annotations

import re

_NAMES = (
    r"(?:think|thinking|thoughts?|thought_process|reasoning|reflection|scratch_?pad|analysis|(?:inner|internal)_monologue"
    r"|[a-z]+:think(?:ing)?)"
)
_OPENING = (
    rf"(?:<\s*{_NAMES}(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|begin_of_thought\|>"
    r"|<\|START_THINKING\|>|<\|think(?:ing)?\|>|<unused94>)"
)
_CLOSING = (
    rf"(?:</\s*{_NAMES}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|END_THINKING\|>|<\|/think(?:ing)?\|>|<unused95>)"
)
_PAIR = re.compile(rf"{_OPENING}.*?{_CLOSING}", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(_CLOSING, re.IGNORECASE)
_OPENED = re.compile(_OPENING, re.IGNORECASE)
_UNCLOSED = re.compile(rf"{_OPENING}.*", re.DOTALL | re.IGNORECASE)

_CHANNEL = re.compile(r"<\|channel\|?>")
_FINAL = re.compile(
    r"<\|channel\|?>\s*final\b.*?(?:<\|message\|>|\n)(.*?)(?:<\|(?:end|return|start|call|channel)\|?>|\Z)",
    re.DOTALL,
)
_CHANNEL_CLOSED = "<channel|>"
"""End of a channel of Gemma 4; the answer follows it without a mark."""
_WITHOUT_MARKS = re.compile(
    r"\A(?:analysis.*assistantfinal|Here(?: is|'s) my thought process:.*Here(?: is|'s) my response:)",
    re.DOTALL,
)
"""The thoughts of gpt-oss, in the text of a server that has removed the special tokens, and those of Granite."""


def without_thoughts(text: str) -> str:
    """Remove the thoughts from a text. The result is empty if there is nothing else, as in a truncated answer.

    Known marks are tags such as `<think>` and `<thinking>`, `[THINK]`, and channels. Thoughts are all text between an
    opening and a closing mark, before a closing mark without an opening one, and after an opening mark without a
    closing one.
    """
    if _CHANNEL.search(text):
        after_last = text.rpartition(_CHANNEL_CLOSED)[2] if _CHANNEL_CLOSED in text else ""
        answers: list[str] = [after_last, *_FINAL.findall(text)]
        return answers[-1].strip()
    text = _WITHOUT_MARKS.sub("", text)
    text = _PAIR.sub("", text)
    closed = [*_CLOSED.finditer(text)]
    if closed:
        text = text[closed[-1].end() :]
    return _UNCLOSED.sub("", text).strip()


def before_thoughts(text: str) -> int:
    """Position of the first opening mark of thoughts; the length of the text if there is none.

    A JSON object that begins before it is not part of the thoughts, even if the mark is inside the object.
    """
    found = [mark.start() for pattern in (_OPENED, _CHANNEL) if (mark := pattern.search(text))]
    return min(found, default=len(text))
