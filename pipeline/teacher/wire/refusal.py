"""Classify errors of endpoints by their text: what they mean, whether a retry can help, and what the user can do."""

from __future__ import annotations

import json
import re
from typing import Any

from diva_grpo.pipeline.teacher.wire.outcome import Outcome, one_line

_STATUS_OF_WORDS: tuple[tuple[int, str], ...] = (
    (402, r"insufficient.?(?:balance|credit|fund)|payment.required|billing"),
    (429, r"rate.?limit|too.many.requests|throttl|quota|resource.?exhausted|allocation"),
    (401, r"unauthori[sz]ed|authenticat|(?:invalid|incorrect|wrong).{0,10}api.?key"),
    (404, r"model.{0,60}(?:not found|does not exist)|no such model|model_not_found"),
    (403, r"forbidden|permission.?denied"),
    (503, r"overload|unavailable|capacity|try again|timed? ?out"),
    (400, r"invalid.?request|bad.?request|context.?length|validation"),
)


def error_within(value: dict[str, Any]) -> Outcome | None:
    """The error in a body that was sent with status 200; None if there is none.

    Its outcome is `http_<status>`, with a status that the body names or its words imply, else 500.
    """
    errors = value.get("errors")
    error = value.get("error") or (errors[0] if isinstance(errors, list) and errors else None)
    if not error:
        names = [
            n for n in ("message", "msg", "detail", "error_msg", "status_msg", "base_resp") if value.get(n)
        ]
        if not names:
            return None
        error = value.get("base_resp") or value
    said = error if isinstance(error, dict) else {"message": error}
    message = next(
        (said[n] for n in ("message", "msg", "detail", "error_msg", "status_msg") if said.get(n)), said
    )
    codes = [said.get(n, value.get(n)) for n in ("code", "status", "status_code", "error_code", "type")]
    texts = [str(code) for code in codes if not isinstance(code, bool)]
    numbers = [int(text) for text in texts if text.isdigit() and 400 <= int(text) <= 599]
    words = " ".join(map(str, [*codes, message]))
    by_words = (status for status, pattern in _STATUS_OF_WORDS if re.search(pattern, words, re.I))
    status = numbers[0] if numbers else next(by_words, 500)
    detail = one_line(message if isinstance(message, str) else json.dumps(message))
    return Outcome(None, f"http_{status}", f"an error with status 200: {detail}", said=words)


FORM_REFUSED = frozenset({"http_400", "http_404", "http_415", "http_422"})
"""Failures with which endpoints refuse a parameter that they do not support."""

_MAY_BE_USED_UP = frozenset({"http_400", "http_403", "http_412", "http_429"})
"""Failures with which endpoints say that credit or a quota is used up. Others may quote the prompt."""

_USED_UP = re.compile(
    r"insufficient[._ ]?quota|exceeded[_ ](?:your[_ ])?current[_ ]quota|quota.{0,20}(?:exhausted|used up)"
    r"|allocation.?quota|free.?(?:tier|quota|allocation).{0,20}(?:exhausted|only)|arrearage|overdue|余额不足|欠费"
    r"|(?:insufficient|not enough|negative|low).{0,12}(?:balance|credit|fund)|credit balance"
    r"|balance.{0,20}(?:insufficient|not enough|exhausted|too low)|(?:account|organization).{0,40}suspended"
    r"|(?:have any|no more|all available) credits|(?:spending|monthly|hard|key|credit).limit"
    r"|limit of your account has been reached|set_?limit_?exceeded",
    re.IGNORECASE,
)
_DAILY = re.compile(
    r"per[-_ ]?(?:day|month)|(?:by|/ ?)(?:day|month)\b|\b(?:daily|monthly)\b.{0,20}(?:limit|quota|allocation)",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"per[-_ ]?(?:min|second)|\b[RT]PM\b|(?:try again|retry) (?:in|after) \d|retry_?delay", re.IGNORECASE
)
_MODERATED = re.compile(r"moderat|flagged|content.?(?:policy|filter)|safety|guardrail|inappropriate", re.I)
_CREDIT = "add credit or raise the limit at the provider, or name another key or model; then run again"
_WHAT_TO_DO = {
    "http_401": "check the key (--key-env)",
    "http_402": _CREDIT,
    "http_403": "check what the key may use (--key-env, --model)",
    "http_404": "check --base-url (most end in /v1) and --model",
}
_NO_MODEL = re.compile(
    r"model_?not_?found|invalid_model\b|no such model|(?:invalid|unknown) model(?: id| name)?\b(?! out)"
    r"|not a valid model|model.{0,60}(?:not exist|not found|decommissioned|no longer (?:supported|available))",
    re.I,
)
_NO_KEY = re.compile(
    r"api.?key.{0,20}(?:not valid|invalid|expired)|(?:invalid|incorrect|expired) api.?key", re.I
)


def moderated(status: int, words: str) -> bool:
    """Whether the content of the prompt was refused (moderation), and not the user's access."""
    return "content_filter" in words or (status == 403 and _MODERATED.search(words) is not None)


def used_up(words: str, *, comes_back: bool = False) -> bool:
    """Whether the text of a refusal means that credit or a quota is used up, so that waiting for minutes does not help.

    Args:
        words: message, code and type of the error.
        comes_back: whether the endpoint named a short time to wait.
    """
    if _DAILY.search(words):
        return not comes_back
    return _PASSING.search(words) is None and _USED_UP.search(words) is not None


def cannot_pass(outcome: Outcome, *, comes_back: bool = False) -> str | None:
    """What the user must do about a failure that every further request would have; None if others may succeed.

    Such failures are a wrong key, missing credit, an unknown model or URL, and a quota that is used up.
    """
    words = f"{outcome.detail} {outcome.said}"
    of_form = outcome.outcome in FORM_REFUSED
    if of_form and (names_mode(outcome.detail or "") or (outcome.parameter and outcome.parameter != "model")):
        return None  # only the form of this request was refused
    if outcome.outcome in _MAY_BE_USED_UP and used_up(words, comes_back=comes_back):
        return _CREDIT
    if outcome.outcome == "http_400" and _NO_KEY.search(words):
        return _WHAT_TO_DO["http_401"]
    if outcome.outcome == "http_400" and _NO_MODEL.search(words):
        return "check --model"
    return _WHAT_TO_DO.get(outcome.outcome)


_MODE = re.compile(
    r"response[ _]?format|json[ _]?(?:schema|object|mode)|structured.?output|output_(?:config|format)|grammar|guided"
    r"|invalid schema|xgrammar|outlines|requested parameters",
    re.IGNORECASE,
)


def names_mode(words: str) -> bool:
    """Whether the text of a refusal mentions the output mode, the way in which a structured answer was asked for."""
    return _MODE.search(words) is not None


_ROLE = re.compile(
    r"system.{0,20}(?:role|message|instruction|prompt).{0,40}(?:not (?:supported|allowed|enabled)|unsupported)"
    r"|(?:developer|system) instruction is not enabled|roles must alternate|only user and assistant roles"
    r"|(?:not|un)support(?:ed)?.{0,30}system.{0,5}(?:role|message|prompt)"
    r"|(?:invalid|unknown|unexpected).{0,20}role.{0,20}system|role.{0,20}not support.{0,5}system"
    r"|should be 'user' or 'assistant'|first message must be.{0,10}user",
    re.IGNORECASE,
)


def names_role(words: str) -> bool:
    """Whether the text of a refusal says that system messages are not supported."""
    return _ROLE.search(words) is not None


_TOO_LONG = re.compile(
    r"context.?(?:length|window|size|limit)|maximum context|exceeds? (?:the )?(?:available )?context"
    r"|prompt is too long|too many (?:input )?tokens|input.{0,20}too long|max_model_len|n_ctx"
    r"|token count.{0,20}exceeds|range of input length"
    r"|max_(?:completion_|new_)?tokens`?.{0,5}(?:is too large|must be <=)",
    re.IGNORECASE,
)
_CONTEXT_SIZE = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"(\d[\d,]+\d)(?: tokens)? maximum",  # "210000 tokens > 200000 maximum"
        r"> ?(\d[\d,]+\d)",  # "199000 + 2048 > 200000"
        r"(?:context (?:length|window|size)|max_model_len|n_ctx)\D{0,40}?(\d[\d,]+\d)",
        r"(?:maximum|at most|cannot exceed|<=|allowed|\[1,)\D{0,40}?(\d[\d,]+\d)",
    )
)


def too_long(words: str) -> str | None:
    """A message that the request does not fit into the model's context, if the text of an error means that; else None.

    The message contains the size of the context if the server named it.
    """
    if not _TOO_LONG.search(words):
        return None
    limit = next(filter(None, (pattern.search(words) for pattern in _CONTEXT_SIZE)), None)
    size = f" of {limit[1]} tokens" if limit else ""
    return f"prompt and --max-tokens do not fit into the model's context{size}: lower --max-tokens"


_DURATION = r"\d+(?:\.\d+)? ?(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)(?=\d|\b)"
_WAIT = re.compile(rf"(?:try again|retry|wait)\b.{{0,25}}?\b((?:{_DURATION} ?)+)", re.IGNORECASE)
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def said_wait_s(words: str) -> float | None:
    """Seconds that the text of an error asks to wait, such as "try again in 5m45s"; None if it does not say."""
    found = _WAIT.search(words)
    if found is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?) ?([a-z]+)", found[1].lower())
    return sum(float(n) * (1e-3 if unit.startswith(("ms", "mil")) else _UNIT_S[unit[0]]) for n, unit in parts)
