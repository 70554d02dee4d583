"""Configuration of the pipeline's verbs. Field descriptions are the help that a user sees."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_serializer, model_validator
from pydantic_core import PydanticCustomError

from diva_grpo.schemas.address import address
from diva_grpo.schemas.nearest import unknown
from diva_grpo.schemas.recipe import OperationName
from diva_grpo.schemas.records import Aspect, Kind

TEXT_KINDS = (Kind.REWORD, Kind.HARDER, Kind.THINK_STEP)
"""Kinds that a teacher writes."""

IMAGE_KINDS = (Kind.IMAGE, Kind.IMAGE_TEXT, Kind.COMPOSITE)
"""Kinds that are recipes: operations on a problem's images, which are applied when the images are used."""

MAX_PIXELS = 1280 * 28 * 28
"""Default maximum area of an image, in pixels: 1,280 visual tokens of Qwen2.5-VL."""

BATCH_SIZE = 25_000
"""Default maximum number of requests that wait for the Batch API at once. They are in memory, with their images."""

StorePath = Annotated[
    Path, BeforeValidator(lambda value: str(address(value)) if isinstance(value, str) else value)
]
"""The address of a store."""

CheckName = Literal["format", "leak", "numbers", "duplicate", "decontamination", "answer", "judge"]
"""Checks in the order in which they run, the cheapest first."""


def without_secrets(url: str) -> str:
    """Remove user, password and query from a URL.

    >>> without_secrets("https://me:secret@host/v1?key=secret")
    'https://host/v1'
    """
    return re.sub(r"(?<=://)[^/?#]*@|[?#].*", "", url)


class Config(BaseModel):
    """Base of configurations. They are immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        """For a misspelt field, suggest the nearest names. The message omits the value, which may be a secret."""
        for name in values if isinstance(values, dict) else ():
            if name not in cls.model_fields:
                message = unknown("setting", str(name), cls.model_fields)
                raise PydanticCustomError("extra_forbidden", "{message}", {"message": message})
        return values

    @field_serializer("base_url", "judge_base_url", when_used="json", check_fields=False)
    def _without_secrets(self, url: str | None) -> str | None:
        """Remove user, password and query from a URL before it is stored, as in the configuration of a run."""
        return url and without_secrets(url)


OutputMode = Literal["auto", "json_schema", "json_object", "text"]


class Route(Config):
    """One of several URLs or keys of an endpoint."""

    base_url: str = Field(description="URL ending in /v1.")
    key_env: str = Field(
        default="OPENAI_API_KEY", description="Name of the environment variable with the key."
    )
    weight: float = Field(default=1.0, gt=0, description="Share of the requests, relative to the others'.")


def json_object(value: object) -> object:
    """Parse JSON that a command line gives as text. Values that are not text are returned unchanged.

    Raises:
        ValueError: the text is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"no JSON object: {error}") from error


class TeacherConfig(Config):
    """An OpenAI-compatible endpoint and how to call it.

    Example:
        >>> teacher = TeacherConfig(model="gpt-4.1-mini", concurrency=16)
    """

    model: str = Field(description="Model name, as the endpoint knows it.")
    base_url: str | None = Field(
        default=None, description="URL ending in /v1; default: OPENAI_BASE_URL, then OpenAI's own."
    )
    endpoint: str | None = Field(
        default=None,
        description="Name of the endpoint in the journal; equal URLs may share one. Default: the URL.",
    )
    key_env: str = Field(
        default="OPENAI_API_KEY", description="Name of the environment variable with the API key."
    )
    api_version: str | None = Field(
        default=None, description="API version of an Azure OpenAI resource, whose URL is --base-url."
    )
    routes: tuple[Route, ...] = Field(
        default=(),
        description="Several URLs or keys with weights, instead of base_url; needs a name in endpoint.",
    )
    concurrency: int = Field(
        default=16, ge=1, description="Most requests in flight at once; fewer after 429s."
    )
    requests_per_minute: float | None = Field(default=None, gt=0, description="Most requests per minute.")
    tokens_per_minute: float | None = Field(
        default=None, gt=0, description="Most tokens per minute, of prompts and answers."
    )
    timeout_s: float = Field(default=120.0, gt=0, description="Seconds a request may take.")
    max_retries: int = Field(
        default=6, ge=0, description="Retries of 408, 409, 5xx, timeouts and lost connections."
    )
    patience_s: float = Field(
        default=600.0, ge=0, description="Seconds with only 429s after which a request fails."
    )
    output_mode: OutputMode = Field(
        default="auto",
        description="How structured answers are requested; auto: the strictest mode that the endpoint supports.",
    )
    fresh: bool = Field(
        default=False,
        description="Send requests again that the journal answers; the new answer replaces the old one.",
    )
    retry_failed: bool = Field(
        default=False, description="Send requests again whose answer in the journal is not usable."
    )
    temperature: float = Field(default=1.0, ge=0, description="Sampling temperature.")
    max_tokens: int = Field(default=2048, ge=1, description="Longest answer, in tokens.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        default=None, description="Reasoning effort of a reasoning model; default: the endpoint's own."
    )
    request_fields: Annotated[dict[str, Any], BeforeValidator(json_object)] = Field(
        default={},
        description="Further fields of each request, as JSON, such as "
        """'{"chat_template_kwargs": {"enable_thinking": false}}' or '{"thinking_budget": 1024}'.""",
    )
    max_pixels: int = Field(
        default=MAX_PIXELS,
        ge=784,
        description="Largest area of an image in pixels; larger images are shrunk.",
    )
    prices: Path | None = Field(
        default=None,
        description="YAML file of dollars per million tokens by model; default: the prices of genai-prices.",
    )


def _counts(value: object) -> object:
    """Parse `reword=5,harder=2` from a command line. Other values, such as `5`, are returned for pydantic to parse."""
    if not isinstance(value, str) or "=" not in value:
        return value
    return {kind.strip(): count for kind, _, count in (part.partition("=") for part in value.split(","))}


Count = Annotated[int, Field(ge=1)]


class GenerateConfig(Config):
    """Which variants to generate.

    Example:
        >>> GenerateConfig(kinds=("reword", "harder"), rewordings=3).harder
        2
    """

    kinds: tuple[Kind, ...] = Field(default=(Kind.REWORD, Kind.THINK_STEP), description="Kinds to make.")
    rewordings: int = Field(default=5, ge=1, description="Rewordings per problem (the paper: 5).")
    harder: int = Field(default=2, ge=1, description="Harder texts per problem.")
    aspects: tuple[Aspect, ...] = Field(
        default=tuple(Aspect),
        min_length=1,
        description="Aspects that make harder texts harder, used in turn.",
    )
    steps_from: Literal["teacher", "source"] = Field(
        default="teacher",
        description="Author of think steps; source: the worked solution of the problem, if it has one.",
    )
    accepted: Annotated[Count | dict[Kind, Count] | None, BeforeValidator(_counts)] = Field(
        default=None,
        description="Verify too, and request more until each problem has N accepted variants of each kind: 5, or "
        "reword=5,think_step=3.",
    )
    tries: int = Field(default=4, ge=1, description="Requests for a kind of a problem, with `accepted`.")
    image_families: int = Field(
        default=2, ge=1, description="Operations (or pairs, for composite) on a problem's images."
    )
    image_operations: tuple[OperationName, ...] = Field(
        default=tuple(OperationName), description="Operations that image and composite may use."
    )
    retry_failed: bool = Field(default=False, description="Send requests again that failed before.")

    def wanted(self, kind: Kind) -> int:
        """The number of accepted variants of a kind that `accepted` requires; 0 for a kind without a requirement."""
        if self.accepted is None or kind not in self.kinds:
            return 0
        return self.accepted if isinstance(self.accepted, int) else self.accepted.get(kind, 0)


class VerifyConfig(Config):
    """Which checks a variant must pass to be accepted.

    Example:
        >>> VerifyConfig(checks=("format", "numbers", "answer"), solver_samples=5).solver_samples
        5
    """

    checks: tuple[CheckName, ...] = Field(
        default=("format", "leak", "numbers", "duplicate", "decontamination", "answer"),
        description="Checks to pass. The cheapest run first; the first failed check rejects the variant.",
    )
    solver_samples: int = Field(
        default=3,
        ge=1,
        description="Independent solutions, whose majority decides. A single one may be right by accident.",
    )
    evaluation_sets: tuple[str, ...] = Field(
        default=(),
        description="Held-out sets (a store, or any source that `diva ingest` reads). A variant that shares 13 "
        "consecutive words with one is rejected.",
    )
    judge_model: str | None = Field(
        default=None, description="Model of the check `judge`.  [default: the solver's]"
    )
    judge_base_url: str | None = Field(
        default=None, description="Its URL ending in /v1.  [default: the solver's]"
    )
    retry_failed: bool = Field(default=False, description="Verify again if no verdict was reached before.")


class LabelConfig(Config):
    """How the difficulty of problems and variants is measured.

    Example:
        >>> LabelConfig(samples=8).samples
        8
    """

    samples: int = Field(default=4, ge=1, description="Answers of the solver to each question.")
    retry_failed: bool = Field(default=False, description="Send requests again whose answer was not usable.")
    label_model: bool = Field(
        default=False,
        description="Make this solver the label model, whose labels give the deltas; by default the first solver is.",
    )


class ExportConfig(Config):
    """The rows and the form of an export.

    Example:
        >>> ExportConfig(format="parquet", preset="trl").what
        'training'
    """

    format: Literal["parquet", "jsonl", "hf"] | None = Field(
        default=None,
        description="One file, or a Hugging Face dataset folder with a card (hf).  [default: by the ending of OUT]",
    )
    what: str = Field(
        default="training",
        description="problems (the originals), variants (the accepted ones), training (both), or any view.",
    )
    preset: Literal["trl", "verl", "easyr1", "verifiers", "sft"] | None = Field(
        default=None,
        description="Columns as this trainer reads them (verifiers: an environment as a package, for prime-rl; sft: "
        "prompts with worked solutions, for TRL's SFTTrainer); default: all columns.",
    )
    prompt: Literal["chat", "text"] = Field(
        default="chat",
        description="With trl and sft: a conversation, or text for a model without a chat template.",
    )
    data_source: str | None = Field(
        default=None,
        description="With verl: data_source of all rows.  [default: veRL's name of a known set, else the source's]",
    )
    instruction: str = Field(default="", description="Text to add after each question.")
    where: str | None = Field(
        default=None, description="SQL condition on the rows, such as source = 'gsm8k' and delta < 0."
    )
    pass_rate: str | None = Field(
        default=None,
        pattern=r"^(0?\.\d+|[01](\.0*)?):(0?\.\d+|[01](\.0*)?)$",
        description="Only rows whose pass rate, measured by `diva label`, is in this range, such as 0.1:0.8.",
    )
    control: bool = Field(
        default=False,
        description="With pass_rate: also write as many random labelled rows, to OUT with .control in its name.",
    )
    shard_rows: int = Field(default=100_000, ge=1, description="Rows per file, with hf.")


class FlowConfig(Config):
    """Settings that all flows over the problems of a store share."""

    strict_budget: ClassVar[bool] = False
    """Whether `max_cost` is never exceeded, not even by requests in flight."""

    store: StorePath = Field(description="Folder of the store.")
    teacher: TeacherConfig = Field(description="Endpoint of the teacher.")
    problem_filter: str | None = Field(
        default=None, description="SQL condition on `problems`, such as source = 'gsm8k'."
    )
    shard_size: int = Field(default=200, ge=1, description="Problems per task.")
    shard_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which a task is tried again; in threads not before the requests in flight have "
        "ended.  [default: six hours on Ray, none in threads]",
    )
    workers: int = Field(
        default=1,
        ge=1,
        description="Tasks at once; they share the concurrency and rates of the endpoint.",
    )
    runner: str = Field(
        default="threads",
        pattern=r"^(threads|ray|ray://.+)$",
        description="Where several tasks run: threads, ray (processes here), or ray://HOST:10001 (a cluster).",
    )
    max_cost: float | None = Field(
        default=None,
        gt=0,
        description="Stop when this run has spent this many dollars. All answers are kept.",
    )
    batch: bool = Field(
        default=False,
        description="Use OpenAI's Batch API: half the price, answers within a day; shards of 10,000 problems.",
    )
    batch_size: int = Field(
        default=BATCH_SIZE, ge=1, le=50_000, description="With batch: requests that wait in memory at once."
    )
    pages_url: str | None = Field(
        default=None,
        description="URL of the store's folder `pages`, for a link to its pages in Prefect's UI.",
    )

    @model_validator(mode="after")
    def _one_batch_at_a_time(self) -> Self:
        if self.batch and self.workers > 1:
            raise ValueError("one task at a time uses batches: leave workers out")
        return self

    @model_validator(mode="after")
    def _runner_has_workers(self) -> Self:
        if self.runner != "threads" and self.workers == 1:
            raise ValueError(f"{self.runner} runs several tasks at once: give workers, 2 or more")
        return self

    @property
    def timeout_s(self) -> float | None:
        """Maximum seconds of a task; None: no limit.

        The default for threads is None: Prefect cannot interrupt threads, and would log a warning for each task.
        """
        if self.shard_timeout_s is None and self.runner != "threads":
            return 6 * 3600.0
        return self.shard_timeout_s


class ProblemsConfig(FlowConfig):
    """Settings of a flow over all problems of a store, or over the first N."""

    limit: int | None = Field(default=None, ge=1, description="Only the first N problems, by id.")


class CurateConfig(ProblemsConfig):
    """Settings of the flow `curate`: generate, verify and label."""

    generate: GenerateConfig = Field(default=GenerateConfig(), description="What is written.")
    verify: VerifyConfig = Field(default=VerifyConfig(), description="What a variant must pass.")
    label: LabelConfig | None = Field(
        default=LabelConfig(), description="How difficulty is measured; None: not in this run."
    )


class GenerateFlowConfig(ProblemsConfig):
    """Settings of the flow `generate`. With `accepted`, the flow also verifies."""

    generate: GenerateConfig = Field(default=GenerateConfig(), description="What is written.")
    verify: VerifyConfig = Field(
        default=VerifyConfig(), description="With `accepted`: what a variant must pass."
    )


class VerifyFlowConfig(ProblemsConfig):
    """Settings of the flow `verify`."""

    verify: VerifyConfig = Field(default=VerifyConfig(), description="What a variant must pass.")


class LabelFlowConfig(ProblemsConfig):
    """Settings of the flow `label`."""

    label: LabelConfig = Field(default=LabelConfig(), description="How difficulty is measured.")


class TopUpConfig(FlowConfig):
    """Settings of the flow `top_up`: it requests variants for problems with a shortage in a training run."""

    strict_budget: ClassVar[bool] = True  # scheduled runs have no user who watches the costs

    run: str | None = Field(
        default=None,
        description="Training run, by its run_id.  [default: the one that was started or resumed last]",
    )
    generate: GenerateConfig = Field(
        default=GenerateConfig(kinds=tuple(Kind)),
        description="Kinds that may be requested, and how; `variants` gives their number.",
    )
    verify: VerifyConfig = Field(default=VerifyConfig(), description="What a variant must pass.")
    label: LabelConfig | None = Field(
        default=LabelConfig(),
        description="How new variants are labelled, if the solver is the store's label model; None: not at all.",
    )
    solver: TeacherConfig | None = Field(
        default=None, description="Endpoint that verifies and labels.  [default: the teacher]"
    )
    variants: int = Field(
        default=1, ge=1, description="Additional accepted variants to request per problem and kind."
    )
    max_problems: int = Field(
        default=1_000, ge=1, description="Most problems of a run, those with the largest gap first."
    )
    max_variants: int = Field(default=2_000, ge=1, description="Most variants that a run requests.")
    window_steps: int = Field(
        default=200, ge=1, description="Number of last training steps in which a problem must have occurred."
    )
    tolerance: float = Field(
        default=1.5, gt=0, description="Largest distance of the nearest delta from the wanted one, in levels."
    )
    shard_size: int = Field(
        default=50, ge=1, description="Problems per task, those with the largest gap first."
    )

    @model_validator(mode="after")
    def _says_how_many_once(self) -> Self:
        if self.generate.accepted is not None:
            raise ValueError("leave accepted out: variants says how many")
        return self
