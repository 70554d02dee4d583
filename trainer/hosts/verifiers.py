"""Environments of `verifiers` 0.4 (prime-rl): tasks from an exported store, scored by our grader.

`diva export OUT --preset verifiers` writes a package that subclasses these classes. This module needs `verifiers`
and the base of `diva_grpo`. The package contains:

    class Taskset(StoreTaskset):
        folder = Path(__file__).parent / "data"
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import verifiers.v1 as vf
from openai import AsyncOpenAI
from pydantic import Field

from diva_grpo.pipeline.grade import grade
from diva_grpo.trainer.hosts.exported import Row, rows


class StoreData(vf.TaskData):
    """The data of a task. Its `id` is the problem_id for an original, and the variant_id for a variant.

    Attributes:
        answer: reference answer.
        options: texts of the choices A, B, ...
        problem_id: id of the problem to which the original or variant belongs.
        kind: `original`, or the kind of the variant.
        hint_steps: number of steps of a solution in the question; 0 without a hint.
        delta: difficulty offset from the original, in levels.
        difficulty: measured difficulty from 1 to 9; None if it was not measured.
    """

    answer: str
    options: list[str] = Field(default_factory=list)
    problem_id: str
    kind: str
    hint_steps: int = 0
    delta: float | None = None
    difficulty: float | None = None


class StoreTask(vf.Task[StoreData]):
    """A question that the model answers with one reply."""

    @property
    def key(self) -> str:
        """The id in the store, which is the same in every export, or else a hash."""
        return str(self.data.id or self.hash)

    @vf.reward(weight=1.0)  # type: ignore[untyped-decorator]  # verifiers is not in the environment of mypy
    async def accuracy(self, trace: vf.Trace) -> float:
        """Return 1 if the last reply is right, 0 if it is wrong.

        Raises:
            TaskError: the grader could not decide. The rollout then counts as failed, not as wrong.
        """
        return await self._accuracy(trace.last_reply)

    async def validate(self, runtime: vf.Runtime) -> bool:
        """Return whether the grader accepts the reference answer as right."""
        return bool(await self._accuracy(f"\\boxed{{{self.data.answer}}}"))

    async def _accuracy(self, reply: str) -> float:
        data = self.data
        found = await asyncio.to_thread(grade, reply, data.answer, options=data.options)
        if found.score is None:
            raise vf.TaskError(f"the grader could not decide: {found.how}")
        return found.score


class StoreTasksetConfig(vf.TasksetConfig):
    """Options that select the rows of the export to load (`--env.taskset.*`)."""

    split: str = "train"
    """Split of the problems."""
    kinds: list[str] = Field(default_factory=list)
    """Kinds to load, such as `original` and `think_step`. Empty loads all."""
    hint_steps: list[int] = Field(default_factory=list)
    """Numbers of hint steps. Of the variants with a hint, only those with one of these are loaded. Empty loads all."""


class StoreTaskset(vf.Taskset[StoreTask, StoreTasksetConfig]):
    """The rows of an export as tasks, ordered by problem and variant.

    Attributes:
        folder: folder of the Parquet files, whose names begin with the split.
    """

    folder: ClassVar[Path]

    def load(self) -> Iterator[StoreTask]:
        """Yield a task for each row that the configuration selects.

        Raises:
            ConfigError: there is no such split, no row fits the configuration, or a row has not one image for each
                `<image>`.
        """
        config = self.config
        for row in rows(self.folder, config.split, config.kinds, config.hint_steps):
            yield StoreTask(_data(row), config.task)


def _data(row: Row) -> StoreData:
    prompt = (
        row.content
        if isinstance(row.content, str)
        else [vf.UserMessage.model_validate({"content": row.content})]
    )
    return StoreData(id=row.id, prompt=prompt, answer=row.answer, **row.facts)


class StoreHarness(vf.Harness[vf.HarnessConfig]):
    """Sends the question to the model once, from this process. It uses no tools and no container."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Request one completion. `verifiers` records it in the trace."""
        system, prompt = self.resolve_prompt(data)
        asked = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else prompt or []
        said = [vf.SystemMessage(content=system), *asked] if system else asked
        messages: Any = [message.model_dump(exclude_none=True) for message in said]
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None) as client:
            await client.chat.completions.create(model=ctx.model, messages=messages)
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


class StoreEnvConfig(vf.EnvConfig):
    """The options of `StoreEnv`. The agent runs in this process: a question with one reply needs no container."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class StoreEnv(vf.Env[StoreEnvConfig]):
    """An environment in which one agent answers the question of the task."""

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Run one episode: the agent answers the task."""
        await agents.agent.run(task)
