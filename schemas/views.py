"""Columns and descriptions of the views that are computed from other tables. The form is that of `schemas.records`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class DerivedView(BaseModel):
    """Base of all derived views. Subclasses give the name of their view, and of the tables and views that it reads."""

    model_config = ConfigDict(
        defer_build=True
    )  # only its fields are read, so that no validator is ever built
    view: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]


class LiveDifficulty(DerivedView):
    """The latest difficulty of each problem in each training run."""

    view: ClassVar = "live_difficulty"
    reads: ClassVar = ("difficulty_events",)

    run_id: str = Field(description="the training run")
    problem_id: str = Field(description="the problem")
    difficulty: float = Field(description="after the last step that had the problem, 1 to 9")
    uncertainty: float | None = Field(description="standard deviation in levels, where known")
    step: int = Field(description="that last step")


class Group(DerivedView):
    """One row for the rollouts of one prompt at one step of training."""

    view: ClassVar = "groups"
    reads: ClassVar = ("rollouts",)

    run_id: str = Field(description="the training run")
    step: int = Field(description="TRL's global_step when the rollouts were generated")
    problem_id: str = Field(description="the problem that was answered")
    slot: int = Field(description="0 the original, 1 to M its variants")
    variant_id: str = Field(description="`original` for slot 0 and where no variant was accepted")
    rollouts: int = Field(description="completions of the prompt")
    rewards: list[float] = Field(description="reward of each, in the order of `sample`")
    reward: float | None = Field(description="mean reward")
    accuracy: float | None = Field(description="share of right rollouts of those judged; NULL where none was")
    silent: bool = Field(
        description="whether all rewards are equal, so that nothing is learnt from the group"
    )
    silent_why: str | None = Field(
        description="all right, all wrong, equal rewards, or no reward; of those that are all wrong truncated or no "
        "answer, where that holds for half of the completions; NULL where it is not silent"
    )
    completion_tokens: float = Field(description="mean tokens of a completion")
    unjudged: int = Field(description="completions without an accuracy")
    truncated: int | None = Field(description="truncated completions; NULL where that was not recorded")
    no_answer: int | None = Field(
        description="completions that ended without an answer; NULL where their texts were not logged"
    )


class Ladder(DerivedView):
    """One row for the hint ladder of a problem: the steps that its think-step variants give, and their pass rates."""

    view: ClassVar = "ladders"
    reads: ClassVar = ("variants", "labels", "settings")

    problem_id: str = Field(description="the problem")
    solution_steps: int | None = Field(description="think steps of its longest solution")
    hints: int = Field(description="its think-step variants, whatever their status")
    accepted: int = Field(description="those that are accepted")
    steps: list[int] = Field(description="think steps that each accepted one gives, ascending")
    pass_rates: list[float] = Field(
        description="pass rate of each of these by the label model, in the same order; NULL where not labelled"
    )
    original_pass_rate: float | None = Field(
        description="pass rate of the problem without a hint, by the same"
    )


class Cost(DerivedView):
    """Requests, tokens and dollars of each run. Concurrent runs on one store count each other's calls."""

    view: ClassVar = "costs"
    reads: ClassVar = ("calls", "runs")

    run_id: str = Field(description="a run of any verb but ingest, train and eval, which ask no endpoint")
    kind: str = Field(description="the verb")
    model: str = Field(description="model that was asked")
    purpose: str = Field(description="reword, harder, think_step, solve, ...")
    calls: int = Field(description="requests answered between the begin and the end of the run")
    failures: int = Field(description="those that failed")
    prompt_tokens: int | None = Field(description="tokens sent")
    completion_tokens: int | None = Field(description="tokens answered")
    cost_usd: float | None = Field(description="dollars; NULL where the price table has no such model")


DERIVED: tuple[type[DerivedView], ...] = (LiveDifficulty, Group, Ladder, Cost)
