"""The scripted teacher: a real OpenAI-compatible server on loopback that needs no language model.

It answers `/v1/chat/completions` from the problems' own solutions and from wording templates. A set share of its
answers is wrong, so that verification has something to reject. Like any endpoint, it recognises the task and the
problem only from the messages. If a problem has no worked solution, it refuses and says so.

    diva teacher --store DIR --port 8710
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from diva_grpo.flows.demo.wordings import harder_in, rewordings
from diva_grpo.flows.loopback import guarded
from diva_grpo.pipeline.teacher.prompts import NAMES, load_prompt
from diva_grpo.schemas.question import HINT_OPENING, render_question
from diva_grpo.schemas.records import Aspect, Problem

MODEL = "scripted-teacher"
NO_SOLUTION = "the scripted teacher has no solution for this problem"

_NUMBER = re.compile(r"\d+")
_ASKED = re.compile(r"<((?:problem|original|rewritten)(?:-[0-9a-f]{8})?)>\n(.*?)\n</\1>", re.DOTALL)
_COUNT = re.compile(r"Write (\d+)")
_ASPECTS = re.compile(r"in this order: (.*)\.$", re.MULTILINE)
_EXISTING = re.compile(r"<(existing(?:-[0-9a-f]{8})?)>\n(.*)\n</\1>", re.DOTALL)


class _Part(BaseModel):
    type: str
    text: str = ""


class Message(BaseModel):
    """A message of a conversation, in OpenAI's format."""

    role: str
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        """The message's text, without its images."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class _Body(BaseModel):
    """The fields of a request that the server reads."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    seed: int | None = None


class _RefusalError(Exception):
    """The teacher refuses to answer. The error's text becomes the `refusal` of the reply."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the teacher knows about a text that it recognises.

    Attributes:
        problem: the problem that the text belongs to.
        altered: whether a deliberate slip changed a number of the text, so that its answer differs.
    """

    problem: Problem
    altered: bool


def _altered(text: str) -> str:
    """The text with its first number increased by one, so that it asks for something else."""
    return _NUMBER.sub(lambda match: str(int(match.group()) + 1), text, count=1)


def _wrong(answer: str) -> str:
    """A wrong answer, made from the right one."""
    if answer in "ABCDEFGH" and len(answer) == 1:
        return "B" if answer == "A" else "A"
    return _altered(answer) if _NUMBER.search(answer) else f"not {answer}"


def _key(text: str) -> str:
    return " ".join(text.split())


class ScriptedTeacher:
    """The answers of the scripted teacher, without the HTTP protocol.

    Args:
        problems: the problems that it knows, with their solutions.
        wrong_share: probability that an answer has a slip, 0 to 1. A slip makes the answer wrong.
        seed: seed of the slips. The same request gets the same answer.
    """

    def __init__(self, problems: Sequence[Problem], *, wrong_share: float = 0.1, seed: int = 0) -> None:
        self._wrong_share, self._seed = wrong_share, seed
        self._tasks = {load_prompt(name).system: name for name in NAMES}
        self._known: dict[str, _Known] = {}
        texts = [
            (problem, text)
            for problem in problems
            for text in (problem.text, *rewordings(problem.text), *_harder(problem.text, tuple(Aspect)))
        ]
        for problem, text in texts:
            self._learn(text, _Known(problem, altered=False))
        # Altered texts are added last, since the altered text of one problem may be the right text of another.
        for problem, text in texts:
            self._learn(_altered(text), _Known(problem, altered=True))

    def _learn(self, text: str, known: _Known) -> None:
        for options in ((), known.problem.options):
            self._known.setdefault(_key(render_question(text, options=options)), known)

    def answer(self, messages: Sequence[Message], sample: int) -> str:
        """The content of the reply to a conversation.

        Args:
            messages: the conversation.
            sample: number of the answer; another number gives other slips.

        Raises:
            _RefusalError: the task or the problem is unknown, or the problem has no solution.
        """
        system, user = _text_of(messages, "system"), _text_of(messages, "user")
        task = self._tasks.get(system)
        asked = [text for _, text in _ASKED.findall(user)]
        if task is None or not asked:
            raise _RefusalError("the scripted teacher knows only this project's prompts")
        found = [self._known.get(_key(text.split(HINT_OPENING)[0])) for text in asked]
        known = found[0]
        if known is None:
            raise _RefusalError("the scripted teacher does not know this problem")
        digest = hashlib.sha256(f"{self._seed}|{sample}|{system}|{user}".encode()).digest()
        rng = random.Random(digest)
        slip = rng.random() < self._wrong_share
        if task == "judge":
            return self._judge(known, found[-1], slip)
        if task == "solve":
            return self._solve(known, slip)
        if task == "think_step":
            return self._think_steps(known.problem, slip)
        if task == "reword":
            return json.dumps({"rewordings": _slipped(_new_rewordings(known.problem, user), rng, slip)})
        aspects = [Aspect(name) for name in _ASPECTS.findall(user)[0].split(", ")]
        texts = _slipped(_harder(known.problem.text, aspects), rng, slip)
        named = [{"aspect": aspect, "text": text} for aspect, text in zip(aspects, texts, strict=True)]
        return json.dumps({"texts": named})

    def _judge(self, original: _Known, rewritten: _Known | None, slip: bool) -> str:
        same = rewritten is not None and rewritten.problem == original.problem and not rewritten.altered
        reason = "Nothing differs." if same != slip else "Another quantity is asked for."
        return json.dumps({"reason": reason, "same_question": same != slip})

    def _solve(self, known: _Known, slip: bool) -> str:
        if not known.problem.solution_steps:
            raise _RefusalError(NO_SOLUTION)
        answer = _wrong(known.problem.answer) if slip or known.altered else known.problem.answer
        return "\n".join([*known.problem.solution_steps, f"The final answer is \\boxed{{{answer}}}."])

    def _think_steps(self, problem: Problem, slip: bool) -> str:
        steps = list(problem.solution_steps)
        if not steps:
            raise _RefusalError(NO_SOLUTION)
        answer = problem.answer
        if slip:
            answer = _wrong(answer)
            steps[-1] = steps[-1].replace(problem.answer, answer)
        return json.dumps({"steps": steps, "answer": answer})


def _harder(text: str, aspects: Sequence[Aspect]) -> list[str]:
    return [harder_in(text, aspect) for aspect in aspects]


def _new_rewordings(problem: Problem, user: str) -> list[str]:
    """As many rewordings as the message requests. Those that it lists as existing are used only if no others remain."""
    [(_, existing)], [count] = _EXISTING.findall(user), _COUNT.findall(user)
    return sorted(rewordings(problem.text), key=lambda text: text in existing)[: int(count)]


def _slipped(texts: list[str], rng: random.Random, slip: bool) -> list[str]:
    """The texts; if `slip`, a random one of them is altered."""
    place = rng.randrange(len(texts)) if slip else -1
    return [_altered(text) if i == place else text for i, text in enumerate(texts)]


def _text_of(messages: Sequence[Message], role: str) -> str:
    """The text of the last message with a role; empty if there is none."""
    return next((message.text for message in reversed(messages) if message.role == role), "")


def _tokens(text: str) -> int:
    """The approximate number of tokens of a text, with four characters per token."""
    return max(1, len(text) // 4)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": None}}, status, headers)


def create_app(teacher: ScriptedTeacher, *, error_share: float = 0.0, seed: int = 0) -> FastAPI:
    """Create the HTTP application of a scripted teacher.

    Args:
        teacher: gives the answers.
        error_share: probability that a request gets status 429 or 503 instead of an answer, to test a client's retries.
        seed: seed of these errors.
    """
    app = FastAPI(title=MODEL, docs_url=None, redoc_url=None, openapi_url=None)
    luck = random.Random(seed)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "diva-grpo"}]}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(request: Request) -> JSONResponse:
        try:
            body = _Body.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            return _error(400, f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}")
        if luck.random() < error_share:
            limited = luck.random() < 0.5
            return _error(429, "slow down", {"Retry-After": "0"}) if limited else _error(503, "try again")
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        try:
            message["content"] = teacher.answer(body.messages, body.seed or 0)
        except _RefusalError as refusal:
            message["refusal"] = str(refusal)
        prompt_tokens = sum(_tokens(m.text) for m in body.messages)
        completion_tokens = _tokens(message["content"] or message["refusal"])
        reply = {
            "id": f"chatcmpl-{hashlib.sha256(body.model_dump_json().encode()).hexdigest()[:24]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }
        return JSONResponse(reply)

    return app


@contextmanager
def serve(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Serve an application on loopback in a thread while the context is open, and yield its base URL.

    Requests from web pages of another origin are refused.

    Args:
        app: the application, from `create_app`.
        port: the port to listen on; 0 chooses a free port.

    Raises:
        OSError: the port is taken.
    """
    listener = socket.create_server(("127.0.0.1", port))
    # asyncio sets this option only for sockets that name their protocol. Without it each answer is delayed by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(
        uvicorn.Config(guarded(app), log_level="warning", lifespan="off", access_log=False)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
