"""Immutable data models of all records of the store. They alone define the names, keys and columns of the tables.

Times are UTC, as naive datetimes. Ids are text. A record is never changed: a later record with the same key replaces
it, and the views show the latest record of each key.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


def utc_now() -> datetime:
    """The current time in UTC as a naive datetime, as the store keeps times."""
    return datetime.now(UTC).replace(tzinfo=None)


class Kind(StrEnum):
    """The kind of a variant: what was changed in the problem (see `docs/concepts.md`)."""

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
"""The variant id that is recorded for slot 0, and for a slot without an accepted variant."""


class Status(StrEnum):
    """The status of a variant (see `docs/concepts.md`). `accepted` and `rejected` are final."""

    CANDIDATE = "candidate"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FAILED = "failed"


class JsonText:
    """Mark a text column that contains JSON. Its type in the views is JSON."""


Json = Annotated[str, JsonText()]


class Record(BaseModel):
    """Base of all records. Subclasses name their table and the columns of its key."""

    # Validators are built when a record of their type is first made: most commands make records of one type or none.
    model_config = ConfigDict(frozen=True, extra="forbid", use_enum_values=True, defer_build=True)
    table: ClassVar[str]
    key: ClassVar[tuple[str, ...]]
    holds: ClassVar[str] = ""
    """SQL condition. Records that meet it take precedence over others of the same key, even over later ones."""


class Image(BaseModel):
    """An image. Its file is stored once, named by the SHA-256 of its bytes."""

    model_config = ConfigDict(frozen=True, defer_build=True)
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
    ingested_at: datetime = Field(default_factory=utc_now, description="when it was first read, UTC")


class Reject(Record):
    """A row of a source that could not become a problem."""

    table: ClassVar = "rejects"
    key: ClassVar = ("source", "row_number")

    source: str = Field(description="path or name of the source as given")
    row_number: int = Field(description="line of the file where the row begins, or row of the table, from 1")
    reason: str = Field(description="why the row is not a problem")
    raw: str = Field(description="the row as read, cut at 2,000 characters")
    rejected_at: datetime = Field(default_factory=utc_now, description="when it was rejected, UTC")


class Variant(Record):
    """Another prompt with the same answer as its problem."""

    table: ClassVar = "variants"
    key: ClassVar = ("variant_id",)

    variant_id: str = Field(description="problem_id:kind:maker:number, the same on every run")
    problem_id: str = Field(description="the problem that it has the answer of")
    kind: Kind = Field(description="reword, harder, think_step, image, image_text or composite")
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
    status: Status = Field(default=Status.CANDIDATE, description="candidate, accepted, rejected or failed")
    reason: str | None = Field(default=None, description="why it was not accepted")
    generator_model: str = Field(
        description="the teacher, or `source` for a solution that came with a problem"
    )
    prompt_version: str = Field(description="version of the prompt that it was asked with")
    sample: int = Field(default=0, description="which request for this kind of its problem made it, from 0")
    created_at: datetime = Field(default_factory=utc_now, description="when this record of it was made, UTC")


class Shortage(Record):
    """A kind of which a problem has, or has had, fewer accepted variants than requested."""

    table: ClassVar = "shortages"
    key: ClassVar = ("problem_id", "kind")

    problem_id: str = Field(description="the problem")
    kind: Kind = Field(description="kind of the variants")
    wanted: int = Field(description="accepted variants asked for")
    accepted: int = Field(description="accepted variants in the store")
    tries: int = Field(description="requests sent to the teacher for this kind of the problem")
    reason: str | None = Field(
        description="why others were not accepted, with counts; NULL when there are enough"
    )
    generator_model: str = Field(description="teacher of the requests")
    created_at: datetime = Field(default_factory=utc_now, description="when this record of it was made, UTC")


class Verdict(Record):
    """The verdict of one check on one variant."""

    table: ClassVar = "verdicts"
    key: ClassVar = ("variant_id", "check_name", "model", "sample")

    variant_id: str = Field(description="the variant that was checked")
    check_name: str = Field(description="format, leak, duplicate, answer, ...")
    model: str = Field(default="", description="model that judged; empty for a check without one")
    sample: int = Field(default=0, description="number of the solution that a solver gave, from 0")
    passed: bool | None = Field(description="NULL if the check could not decide")
    detail: str | None = Field(default=None, description="what the check found, such as the solver's answer")
    created_at: datetime = Field(default_factory=utc_now, description="when it was checked, UTC")


class Label(Record):
    """A solver's pass rate on a problem or a variant, and the difficulty that follows from it."""

    table: ClassVar = "labels"
    key: ClassVar = ("subject_id", "solver_model")

    subject_id: str = Field(description="a problem_id or a variant_id")
    solver_model: str = Field(description="model that answered")
    subject_kind: str = Field(description="original, or the variant's kind")
    samples: int = Field(description="judged answers")
    correct: int = Field(description="judged answers that were right")
    pass_rate: float = Field(description="correct / samples")
    difficulty: float = Field(description="9 - 8 (correct + 1) / (samples + 2)")
    difficulty_low: float = Field(description="lower end of the 90 % interval")
    difficulty_high: float = Field(description="upper end of the 90 % interval")
    created_at: datetime = Field(default_factory=utc_now, description="when it was measured, UTC")


class Call(Record):
    """One request to an LLM endpoint. The table is the ledger."""

    table: ClassVar = "calls"
    key: ClassVar = ("request_hash",)
    holds: ClassVar = "outcome = 'ok'"

    request_hash: str = Field(description="SHA-256 of all that determines the answer")
    purpose: str = Field(description="reword, harder, think_step, solve, ...")
    endpoint: str = Field(description="name or URL of the endpoint")
    model: str = Field(description="model that was asked")
    problem_id: str = Field(description="problem of the request")
    prompt_tokens: int | None = Field(default=None, description="tokens sent, as the endpoint counts them")
    completion_tokens: int | None = Field(
        default=None, description="tokens answered, as the endpoint counts them"
    )
    reasoning_tokens: int | None = Field(
        default=None,
        description="tokens of thoughts among those answered; NULL if the endpoint does not tell",
    )
    cost_usd: float | None = Field(
        default=None, description="dollars; NULL if the price of the model is unknown"
    )
    latency_s: float = Field(description="seconds from the request to its answer, retries included")
    attempts: int = Field(description="requests that were sent, retries included")
    outcome: str = Field(description="ok, or the type of the failure")
    output_mode: str = Field(description="json_schema, json_object, text or delimited")
    created_at: datetime = Field(default_factory=utc_now, description="when the answer came, UTC")


class Run(Record):
    """One execution of a command."""

    table: ClassVar = "runs"
    key: ClassVar = ("run_id",)

    run_id: str = Field(description="verb, time and a random part")
    kind: str = Field(description="the verb")
    model: str | None = Field(default=None, description="teacher, solver or policy of the run, if any")
    config: Json = Field(default="{}", description="settings of the run")
    versions: Json = Field(default="{}", description="versions of Python and of the packages that matter")
    started_at: datetime = Field(default_factory=utc_now, description="when it began, UTC")
    ended_at: datetime | None = Field(
        default=None, description="when it ended, UTC; NULL while it runs and after it was killed"
    )
    outcome: str = Field(default="running", description="running, ok, failed, interrupted or killed")


class Attempt(Record):
    """A start or resume of a training run. It replaces rows of earlier attempts from `resumed_step` on."""

    table: ClassVar = "attempts"
    key: ClassVar = ("run_id", "attempt")

    run_id: str = Field(description="the training run")
    attempt: int = Field(description="0 the first start, then 1, 2, ... for each resume")
    resumed_step: int = Field(description="step from which rows of earlier attempts are superseded")
    started_at: datetime = Field(default_factory=utc_now, description="when it began, UTC")


class Rollout(Record):
    """One completion of the policy in training."""

    table: ClassVar = "rollouts"
    key: ClassVar = ("run_id", "step", "problem_id", "slot", "sample")

    run_id: str = Field(description="the training run")
    step: int = Field(description="TRL's global_step when the rollouts were generated")
    problem_id: str = Field(description="the problem that was answered")
    slot: int = Field(description="0 the original, 1 to M its variants")
    sample: int = Field(description="number of the completion of this prompt, from 0")
    variant_id: str = Field(description="`original` for slot 0 and where no variant was accepted")
    reward: float | None = Field(description="weighted sum of the rewards; NULL where none was given")
    accuracy: float | None = Field(description="1 right, 0 wrong, NULL not judged")
    advantage: float | None = Field(
        description="advantage that its own tokens were trained with; NULL where another trainer computed it (veRL)",
    )
    completion_tokens: int = Field(description="tokens of the completion")
    attempt: int = Field(description="start or resume of the run that made it")
    completion: str | None = Field(
        default=None,
        description="text that the policy wrote, without an opening that was given (see `prompts`); NULL where not "
        "logged (`--log_rollouts`)",
    )
    reward_parts: Json | None = Field(
        default=None, description="reward by function, null where it did not judge"
    )
    finish: str | None = Field(default=None, description="ended, or truncated at the longest completion")
    graded_outcome: str | None = Field(
        default=None,
        description="correct, wrong, no_answer or error; NULL where not logged, or judged by other rewards than ours",
    )
    graded_answer: str | None = Field(
        default=None, description="the answer as it stands in the completion; NULL where none was found"
    )
    graded_how: str | None = Field(
        default=None,
        description="how it was found (boxed, tag, stated, ...), or why it was not, or not decided",
    )


class Prompt(Record):
    """A prompt of the policy in training, stored once for all of its logged rollouts."""

    table: ClassVar = "prompts"
    key: ClassVar = ("run_id", "problem_id", "variant_id", "hint_style")

    run_id: str = Field(description="the training run")
    problem_id: str = Field(description="the problem")
    variant_id: str = Field(description="`original` for the problem's own prompt, as in `rollouts`")
    hint_style: str = Field(
        description="prompt (think steps in the question) or prefix (they open the answer)"
    )
    prompt: str = Field(
        description="text that the policy was given, with its chat template; images are placeholders"
    )
    opening: str = Field(default="", description="given text that opens the answer (hint_style prefix)")


class DifficultyEvent(Record):
    """A change of a problem's live difficulty."""

    table: ClassVar = "difficulty_events"
    key: ClassVar = ("run_id", "step", "problem_id")

    run_id: str = Field(description="the training run")
    step: int = Field(description="TRL's global_step when the rollouts were generated")
    problem_id: str = Field(description="the problem")
    old_difficulty: float = Field(description="before the step, 1 to 9")
    new_difficulty: float = Field(description="after the step, 1 to 9")
    accuracy: float | None = Field(description="share of right rollouts; NULL where none was judged")
    rollouts: int = Field(description="judged rollouts that the accuracy is of")
    rule: str = Field(description="paper, bands or posterior")
    uncertainty: float | None = Field(default=None, description="standard deviation in levels, where known")
    chosen: str | None = Field(
        default=None,
        description="how the problem was chosen: epoch, signal, open, revisit, filled, or refill (see problem_sampler)",
    )
    attempt: int = Field(description="start or resume of the run that made it")


class TrainStep(Record):
    """One optimizer step of a training run: its time, completions, loss and gradient."""

    table: ClassVar = "train_steps"
    key: ClassVar = ("run_id", "step")

    run_id: str = Field(description="the training run")
    step: int = Field(description="TRL's global_step when the step began")
    seconds: float = Field(description="wall time of the step, without evaluations and checkpoints")
    cpu_seconds: float = Field(description="time of the main process on the CPU, all of its threads")
    rollouts: int = Field(description="completions generated in this step, with refills")
    groups: int = Field(description="prompts of these completions, each with a group of completions")
    silent_groups: int = Field(description="groups whose judged completions are all right or all wrong")
    problems: int = Field(
        description="problems of these completions; the group of a variant counts for its problem"
    )
    silent_problems: int = Field(description="problems whose completions are all right or all wrong")
    completion_tokens: int = Field(description="tokens of all completions, without given openings")
    loss: float = Field(description="loss of the step")
    grad_norm: float = Field(description="norm of the gradient before clipping")
    grad_noise: float | None = Field(
        default=None,
        description="variance of the gradient over its squared norm, from the two halves of the rollouts: "
        "|g1 - g2|^2 / |g1 + g2|^2; NULL where not measured",
    )
    entropy: float | None = Field(
        default=None,
        description="mean entropy of the policy at the tokens of the completions, in nats; NULL where TRL gives none",
    )
    attempt: int = Field(description="start or resume of the run that made it")


class Evaluation(Record):
    """A model's score on one held-out problem."""

    table: ClassVar = "evaluations"
    key: ClassVar = ("run_id", "step", "split", "problem_id")

    run_id: str = Field(description="run of `diva eval`, or the training run of a checkpoint")
    step: int = Field(description="training step of the checkpoint, 0 for a model without one")
    split: str = Field(description="split of the problem")
    problem_id: str = Field(description="the problem")
    samples: int = Field(description="judged answers")
    correct: int = Field(description="judged answers that were right")


class Decision(Record):
    """The variants that a top-up requested for one problem, and the variants that it received."""

    table: ClassVar = "decisions"
    key: ClassVar = ("flow_run_id", "problem_id")

    flow_run_id: str = Field(description="run of the top-up, in `runs`")
    problem_id: str = Field(description="the problem with a shortage")
    wanted_delta: float = Field(description="offset that the selection wanted")
    nearest_delta: float | None = Field(
        description="offset of its nearest accepted variant; NULL without one"
    )
    kinds: list[str] = Field(description="requested kinds")
    requested: int = Field(description="accepted variants requested, in addition to the existing ones")
    made: int = Field(description="variants received; one solution gives several think steps")
    accepted: int = Field(description="variants of these kinds that passed the checks")
    created_at: datetime = Field(default_factory=utc_now, description="when it was decided, UTC")
    training_run: str = Field(default="", description="training run whose live difficulty was used")
    outcome: str = Field(
        default="",
        description="enough, short and why, nothing to ask and why, cut short, or asked (at work)",
    )


LICENSE_SETTING = "license:"
"""Prefix of the setting that holds the licence of a source."""


REMOVED_SETTING = "removed:"
"""Prefix of the setting that says whether a training run is removed. The run's id follows; the value is `yes` if so."""


class Setting(Record):
    """A property of the store, such as the solver whose labels give the deltas (`label_model`)."""

    table: ClassVar = "settings"
    key: ClassVar = ("name",)

    name: str = Field(description="label_model, license:<source> or removed:<run_id>")
    value: str = Field(description="its value")


RECORDS: tuple[type[Record], ...] = (
    Problem, Reject, Variant, Shortage, Verdict, Label, Call, Run, Attempt, Rollout,
    Prompt, DifficultyEvent, TrainStep, Evaluation, Decision, Setting,
)  # fmt: skip


OF_RUNS: tuple[type[Record], ...] = tuple(
    record for record in RECORDS if "run_id" in record.model_fields and record not in (Run, Attempt)
)
"""The tables with rows of a training run or evaluation, without `Run` and `Attempt`, which describe the run itself."""


def columns(record: type[BaseModel]) -> dict[str, Any]:
    """The description of each column of a table or derived view, by name, in order."""
    return {name: field.description for name, field in record.model_fields.items()}
