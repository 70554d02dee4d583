"""Answers of teachers and solvers; the JSON schemas of the structured ones go to the endpoint."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from diva_grpo.schemas.records import Aspect


class Reply(BaseModel):
    """Base of structured answers. Their schemas forbid other fields, as strict mode requires. Readers ignore them.

    A docstring is part of the schema, and so of the journal's keys: another wording asks for all answers again.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", json_schema_extra={"additionalProperties": False})


class Rewordings(Reply):
    """Other wordings of one question."""

    rewordings: list[str] = Field(description="distinct wordings, each a complete question")


class HarderText(Reply):
    """A harder reading of a question with the same answer."""

    aspect: Aspect = Field(description="what makes it harder, as asked for")
    text: str = Field(description="a complete question")


class HarderTexts(Reply):
    """Harder readings of one question with the same answer."""

    texts: list[HarderText] = Field(description="distinct texts, one for each aspect asked for")


class ThinkSteps(Reply):
    """A worked solution."""

    steps: list[str] = Field(description="the solution in order: three to five labelled steps, a line each")
    answer: str = Field(description="the final answer alone")


class Judgement(Reply):
    """Whether two texts are the same question."""

    reason: str = Field(description="one sentence: what differs, or that nothing does")
    same_question: bool = Field(description="whether the texts are the same question with the same answer")


COST_NOTHING = r"^(?:\w+: )?(?:network|timeout|http_\d+)\b"
"""Failures (and reasons that begin with one) of requests that cost nothing: the next run asks them again."""

T = TypeVar("T", bound=Reply)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The result of one request to a teacher or one question to a solver.

    Attributes:
        value: the parsed answer; None for a plain-text request and for a failure.
        text: the answer's text.
        failure: None, or "<type>: <what it said>".
    """

    value: T | None
    text: str
    failure: str | None = None
