"""Read chat completions, answers as well as errors, including the deviations of many servers from the format."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from diva_grpo.pipeline.teacher.wire.outcome import Outcome, one_line
from diva_grpo.pipeline.teacher.wire.refusal import error_within

_MOST_TOKENS = 10**9
"""A larger token count is taken as invalid."""


def _text_of(content: object) -> tuple[str | None, bool]:
    """The text of a message's content (None if there is none), and whether the content has parts with thoughts."""
    if content is None or isinstance(content, str):
        return content, False
    if isinstance(content, dict) and not {"type", "text"} & content.keys():
        return json.dumps(content, ensure_ascii=False), False  # the answer as an object
    parts = content if isinstance(content, list) else [content]
    texts, thought = [], False
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and re.search(r"think|reason", str(part.get("type"))):
            thought = True
        elif isinstance(part, dict):
            texts.append(
                next((v for k in ("text", "content", "value") if isinstance(v := part.get(k), str)), "")
            )
    return "".join(texts) if texts or thought else None, thought


_CUT = frozenset(
    "incomplete length max_length max_new_tokens max_output_tokens max_tokens model_length token_limit".split()
)
_BROKEN_OFF = frozenset("abort aborted cancelled canceled error insufficient_system_resource".split())
_FILTERED = frozenset(
    "content_filter content-filter safety sensitive prohibited_content blocklist recitation spii".split()
)
_RESTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
"""Fields of a message in which servers return thoughts."""


def read_completion(body: bytes, *, price_share: float = 1.0) -> Outcome:
    """Read the body of a response with status 200.

    Some servers send errors with this status. They become failures with the status that the body names or implies.

    Args:
        body: the received bytes; they need not be valid.
        price_share: see `Outcome`.
    """
    try:
        # This parser refuses unpaired surrogates, which cannot be written to a file.
        value = from_json(body.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        return _unread(body, f"Invalid JSON: {error}")
    if not isinstance(value, dict):
        return _unread(body, "Input should be an object")
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    told = first.get("error") if isinstance(first, dict) else None
    wrong = not isinstance(first, dict) or told
    if wrong and (failure := error_within({"error": told} if told else value)):
        return failure
    if choices == []:
        made = Outcome(None, "parse", "the answer has no choices")
    elif not isinstance(first, dict) or (message := _message_of(first)) is None:
        return _unread(body, "choices: no message")
    else:
        made = _read_choice(first | {"message": message})
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("completion_tokens_details")
    # A server that reports 0 tokens for a prompt, or for an answer with text, does not count tokens.
    return replace(
        made,
        prompt_tokens=_count(usage.get("prompt_tokens", usage.get("input_tokens")), least=1),
        completion_tokens=_count(
            usage.get("completion_tokens", usage.get("output_tokens")), least=1 if made.content else 0
        ),
        reasoning_tokens=_count(details.get("reasoning_tokens")) if isinstance(details, dict) else None,
        price_share=price_share,
    )


def _unread(body: bytes, why: str) -> Outcome:
    evidence = body[:10_000].decode("utf-8", "replace")
    return Outcome(evidence, "parse", f"no chat completion: {one_line(why)}")


def _message_of(choice: dict[str, Any]) -> dict[str, Any] | None:
    """The message of an entry of `choices`. Some servers send it as `delta`, or only its text."""
    found = choice.get("message") or choice.get("delta")
    if isinstance(found, dict):
        return found
    return {"content": choice["text"]} if isinstance(choice.get("text"), str) else None


def _arguments_of(message: dict[str, Any]) -> str | None:
    """The arguments of the first call of a tool: servers that emulate JSON schemas by tools put the answer there."""
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else None
    function = call.get("function") if isinstance(call, dict) else message.get("function_call")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return arguments if isinstance(arguments, str) else None


def _read_choice(choice: dict[str, Any]) -> Outcome:
    """The outcome of an entry of `choices` that has a message."""
    message, reason = choice["message"], choice.get("finish_reason")
    content, thought = _text_of(message.get("content"))
    thought = thought or any(message.get(name) for name in _RESTS)
    content = content or _arguments_of(message) or content
    refusal = message.get("refusal")
    ended = reason.lower() if isinstance(reason, str) else ""
    if isinstance(refusal, str) and refusal.strip():
        return Outcome(content, "refusal", one_line(refusal))
    if ended in _FILTERED or ended == "refusal":
        return Outcome(content, "refusal", "content filter")
    if ended in _CUT:
        detail = "cut at the longest answer allowed: raise --max-tokens"
        if thought and not content:
            detail = "cut within its thoughts: raise --max-tokens, or lower --reasoning-effort"
        return Outcome(content, "length", detail)
    if ended in _BROKEN_OFF:
        return Outcome(content, "http_503", f"the answer was broken off (finish_reason {ended})")
    if not content and thought:
        return Outcome(content, "no_answer", f"only thoughts came: {_THOUGHTS_ONLY}")
    if content is None:
        return Outcome(None, "parse", "the answer has no content")
    return Outcome(content, "ok")


_THOUGHTS_ONLY = "raise --max-tokens, or lower --reasoning-effort (or switch thinking off at the server)"


def _count(value: object, least: int = 0) -> int | None:
    """The value as a token count; None if it is not a number between `least` and `_MOST_TOKENS`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= _MOST_TOKENS:
        return None
    return int(value)
