"""Requests to a teacher and the replies to them, as text for the terminal (`diva generate --preview`)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import click
from tabulate import tabulate

from diva_grpo.pipeline.session.preview import Asked, Spent
from diva_grpo.pipeline.store.terminal import visible
from diva_grpo.pipeline.teacher.journal import Entry

_INDENT = "    "


def heading(text: str, columns: int, line: str = "=") -> str:
    """A heading between lines; bold on a terminal, since `click.echo` removes the style elsewhere."""
    return click.style(f"{line * 4} {text} ".ljust(columns, line), bold=True)


def exchanges_as_text(asked: Sequence[Asked], columns: int, systems: set[str]) -> str:
    """Format the requests for one problem, with the messages and the replies as they were.

    Consecutive requests with equal messages, which are samples of one question, are shown once. Control characters are
    replaced by visible symbols.

    Args:
        asked: the requests, in order.
        columns: characters per line.
        systems: the system messages that were shown before, which are not repeated; new ones are added.
    """
    lines: list[str] = []
    for (purpose, model, _), group in groupby(asked, key=lambda one: (one.purpose, one.model, one.messages)):
        requests = list(group)
        times = "" if len(requests) == 1 else f", {len(requests)} times"
        lines += [click.style(visible(f"{purpose}: sent to {model}{times}"), bold=True)]
        for message in requests[0].messages:
            lines += _message(message, systems, columns)
        for number, one in enumerate(requests, 1):
            lines += _replies(one, "" if len(requests) == 1 else f" {number}", columns)
        lines.append("")
    return "\n".join(lines)


def _message(message: dict[str, Any], systems: set[str], columns: int) -> Iterator[str]:
    text = _content(message["content"])
    if message["role"] == "system" and text in systems:
        yield "  system: as above"
        return
    if message["role"] == "system":
        systems.add(text)
    yield f"  {message['role']}:"
    yield from wrapped(text, columns)


def _content(content: str | list[dict[str, Any]]) -> str:
    """The content of a message as text, with a short description in place of each image."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] if part["type"] == "text" else _image(part) for part in content)


def _image(part: dict[str, Any]) -> str:
    mime, _, data = part["image_url"]["url"].removeprefix("data:").partition(";base64,")
    return f"[{mime}, {len(data) * 3 / 4 / 1000:.1f} kB]"


def _replies(one: Asked, number: str, columns: int) -> Iterator[str]:
    if not one.replies:
        yield f"  reply{number}: none, the preview ended before"
    for place, reply in enumerate(one.replies):
        if place:
            again = "sent back to be corrected" if one.replies[place - 1].content else "sent in another form"
            yield f"  {again}"
        said = _said(reply, reused=one.reused)
        yield from wrapped(f"reply{number}: {said}", columns, "  ")
        yield from wrapped(reply.content or "", columns)


def _said(reply: Entry, *, reused: bool) -> str:
    outcome = reply.outcome + (f": {reply.detail}" if reply.detail else "")
    counts = [
        f"{count:,} tokens {what}"
        for count, what in ((reply.prompt_tokens, "sent"), (reply.completion_tokens, "answered"))
        if count is not None
    ]
    counts += [] if reply.cost_usd is None else [f"${reply.cost_usd:.4f}"]
    counts.append("from the journal" if reused else f"{reply.latency_s:.1f} s")
    return f"{outcome} ({', '.join(counts)})"


def wrapped(text: str, columns: int, indent: str = _INDENT) -> list[str]:
    """Break a text into lines of `columns` characters. Its own line breaks and spaces stay."""
    width = max(20, columns - len(indent))
    lines: list[str] = []
    for line in visible(text).expandtabs(4).split("\n"):
        lines += textwrap.wrap(line, width, break_on_hyphens=False, replace_whitespace=False) or [""]
    return [f"{indent}{line}".rstrip() for line in lines]


def costs_as_text(rows: Sequence[tuple[str, Spent]]) -> str:
    """Format requests, tokens and dollars as a table with a row for each name."""
    cells = [
        (name, spent.requests, spent.prompt_tokens, spent.completion_tokens, spent.usd)
        for name, spent in rows
    ]
    headers = ("", "requests", "tokens sent", "answered", "usd")
    return tabulate(cells, headers=headers, intfmt=",", floatfmt=".4f", missingval="unknown")
