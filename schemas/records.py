"""Every record of the store as a frozen model; table names, keys and columns are read from here alone.

Times are UTC without an offset, ids are text. A record is never edited: a later record with the same
key says more, and the views show the latest.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


def utc_now() -> datetime:
    """The present moment in UTC, without an offset, as the store keeps it."""
    return datetime.now(UTC).replace(tzinfo=None)


class Kind(StrEnum):
    """What a variant does to its problem."""

    REWORD = "reword"
    HARDER = "harder"
    THINK_STEP = "think_step"
    IMAGE = "image"
    IMAGE_TEXT = "image_text"
    COMPOSITE = "composite"


class Aspect(StrEnum):
    """What makes a `harder` text harder: three aspects of MQR (arXiv 2601.20614), and irrelevant facts."""

    STORY = "story"
    ABSTRACT = "abstract"
    IRRELEVANT = "irrelevant"
    SUB_QUESTION = "sub_question"


ORIGINAL = "original"
"""Recorded as the variant of slot 0, and of a slot for which no variant was accepted."""


class Status(StrEnum):
    """Where a variant stands; all but `candidate` are terminal."""

    CANDIDATE = "candidate"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FAILED = "failed"


class JsonText:
    """Marks a text column that holds JSON, and is of type JSON in the views."""


Json = Annotated[str, JsonText()]


class Record(BaseModel):
    """Base of all records. Subclasses name their table and the columns of its key."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_enum_values=True)
    table: ClassVar[str]
    key: ClassVar[tuple[str, ...]]


class Image(BaseModel):
    """A picture kept once by the SHA-256 of its bytes."""

    model_config = ConfigDict(frozen=True)
    hash: str
    width: int
    height: int


class Problem(Record):
    """A problem as ingested, with its reference answer."""

    table: ClassVar = "problems"
    key: ClassVar = ("problem_id",)

    problem_id: str = Field(description="source/id, unique in the store")
    source: str = Field(description="name of the data set that the problem came from")
    split: str = Field(description="train, test, ...")
    text: str = Field(description="the question; <image> or <image1> mark where its images stand")
    answer: str = Field(description="reference answer: a number, an expression, or an option's letter")
    options: list[str] = Field(
        default=[], description="texts of the choices A, B, ... (empty: open question)"
    )
    images: list[Image] = Field(default=[], description="images in order, kept under images/ by hash")
    solution_steps: list[str] = Field(default=[], description="worked solution, a step each (may be empty)")
    human_level: float | None = Field(default=None, description="difficulty as the source states it")
    ingested_at: datetime = Field(default_factory=utc_now)


class Reject(Record):
    """A row of a source that could not become a problem."""

    table: ClassVar = "rejects"
    key: ClassVar = ("source", "row_number")

    source: str = Field(description="path or name of the source as given")
    row_number: int = Field(description="line of the file where the row begins, or row of the table, from 1")
    reason: str
    raw: str = Field(description="the row as read, cut at 2,000 characters")
    rejected_at: datetime = Field(default_factory=utc_now)


class Variant(Record):
    """Another prompt with the same answer as its problem."""

    table: ClassVar = "variants"
    key: ClassVar = ("variant_id",)

    variant_id: str
    problem_id: str
    kind: Kind
    text: str | None = Field(default=None, description="the question as the policy sees it, without the hint")
    hint_steps: int | None = Field(default=None, description="think steps given, j")
    hint: list[str] = Field(default=[], description="the j think steps")
    hint_total: int | None = Field(default=None, description="think steps of the whole solution, J")
    solution_answer: str | None = Field(
        default=None, description="final answer that the hint's solution states"
    )
    aspect: Aspect | None = Field(default=None, description="of a harder text: what makes it harder")
    recipe: Json | None = Field(default=None, description="image operations, parameters and seed")
    delta_designed: float | None = Field(default=None, description="difficulty offset by design, in levels")
    status: Status = Status.CANDIDATE
    reason: str | None = Field(default=None, description="why it was not accepted")
    generator_model: str = Field(
        description="the teacher, or `source` for a solution that came with a problem"
    )
    prompt_version: str
    sample: int = Field(default=0, description="which request for this kind of its problem made it, from 0")
    created_at: datetime = Field(default_factory=utc_now)


class Shortage(Record):
    """How a kind of a problem fell short of the accepted variants asked for; later `accepted >= wanted`."""

    table: ClassVar = "shortages"
    key: ClassVar = ("problem_id", "kind")

    problem_id: str
    kind: Kind
    wanted: int = Field(description="accepted variants asked for")
    accepted: int
    tries: int = Field(description="requests that the teacher has had for this kind of the problem")
    reason: str | None = Field(
        description="why others were not accepted, with counts; NULL when none is short"
    )
    generator_model: str
    created_at: datetime = Field(default_factory=utc_now)


class Verdict(Record):
    """What one check said of one variant."""

    table: ClassVar = "verdicts"
    key: ClassVar = ("variant_id", "check_name", "model", "sample")

    variant_id: str
    check_name: str
    model: str = Field(default="", description="model that judged; empty for a check without one")
    sample: int = 0
    passed: bool | None = Field(description="NULL where the check could not decide")
    detail: str | None = None
    created_at: datetime = Field(default_factory=utc_now)


class Label(Record):
    """A solver's pass rate on a problem or a variant, as a difficulty."""

    table: ClassVar = "labels"
    key: ClassVar = ("subject_id", "solver_model")

    subject_id: str = Field(description="a problem_id or a variant_id")
    solver_model: str
    subject_kind: str = Field(description="original, or the variant's kind")
    samples: int = Field(description="judged answers")
    correct: int
    pass_rate: float = Field(description="correct / samples")
    difficulty: float = Field(description="9 - 8 (correct + 1) / (samples + 2)")
    difficulty_low: float = Field(description="lower end of the 90 % interval")
    difficulty_high: float = Field(description="upper end of the 90 % interval")
    created_at: datetime = Field(default_factory=utc_now)


class Call(Record):
    """One request to an LLM endpoint: the ledger."""

    table: ClassVar = "calls"
    key: ClassVar = ("request_hash",)

    request_hash: str
    purpose: str = Field(description="reword, harder, think_step, solve, ...")
    endpoint: str
    model: str
    problem_id: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = Field(default=None, description="NULL where the price table has no such model")
    latency_s: float
    attempts: int
    outcome: str = Field(description="ok, or the type of the failure")
    output_mode: str = Field(description="json_schema, json_object or text")
    created_at: datetime = Field(default_factory=utc_now)


class Run(Record):
    """One invocation of a verb."""

    table: ClassVar = "runs"
    key: ClassVar = ("run_id",)

    run_id: str
    kind: str = Field(description="the verb")
    model: str | None = None
    config: Json = "{}"
    versions: Json = "{}"
    started_at: datetime = Field(default_factory=utc_now)
    ended_at: datetime | None = None
    outcome: str = Field(default="running", description="running, ok, failed or interrupted")


class Attempt(Record):
    """A start or a resume of a training run; rows beyond the resumed step are superseded by it."""

    table: ClassVar = "attempts"
    key: ClassVar = ("run_id", "attempt")

    run_id: str
    attempt: int
    resumed_step: int
    started_at: datetime = Field(default_factory=utc_now)


class Rollout(Record):
    """One completion of the policy in training."""

    table: ClassVar = "rollouts"
    key: ClassVar = ("run_id", "step", "problem_id", "slot", "sample")

    run_id: str
    step: int = Field(description="TRL's global_step when the rollouts were generated")
    problem_id: str
    slot: int = Field(description="0 the original, 1 to M its variants")
    sample: int
    variant_id: str = Field(description="`original` for slot 0 and where no variant was accepted")
    reward: float | None
    accuracy: float | None = Field(description="1 right, 0 wrong, NULL not judged")
    advantage: float
    completion_tokens: int
    attempt: int


class DifficultyEvent(Record):
    """A change of a problem's live difficulty."""

    table: ClassVar = "difficulty_events"
    key: ClassVar = ("run_id", "step", "problem_id")

    run_id: str
    step: int
    problem_id: str
    old_difficulty: float
    new_difficulty: float
    accuracy: float | None
    rollouts: int = Field(description="judged rollouts that the accuracy is of")
    rule: str
    uncertainty: float | None = Field(default=None, description="standard deviation in levels, where known")
    attempt: int


class Evaluation(Record):
    """A model's score on one held-out problem."""

    table: ClassVar = "evaluations"
    key: ClassVar = ("run_id", "step", "split", "problem_id")

    run_id: str
    step: int
    split: str
    problem_id: str
    samples: int
    correct: int


class Decision(Record):
    """What the top-up flow asked for, for one problem, and what it got."""

    table: ClassVar = "decisions"
    key: ClassVar = ("flow_run_id", "problem_id")

    flow_run_id: str
    problem_id: str
    wanted_delta: float
    nearest_delta: float | None
    kinds: list[str]
    requested: int
    made: int
    accepted: int
    created_at: datetime = Field(default_factory=utc_now)


class Setting(Record):
    """A property of the store itself, such as the solver whose labels drive deltas (`label_model`)."""

    table: ClassVar = "settings"
    key: ClassVar = ("name",)

    name: str
    value: str


RECORDS: tuple[type[Record], ...] = (
    Problem, Reject, Variant, Shortage, Verdict, Label, Call, Run, Attempt, Rollout,
    DifficultyEvent, Evaluation, Decision, Setting,
)  # fmt: skip


def columns(record: type[Record]) -> dict[str, Any]:
    """Name and description of each column of a record's table, in order."""
    return {name: field.description for name, field in record.model_fields.items()}
