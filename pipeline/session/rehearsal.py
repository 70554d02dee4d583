"""Estimate the cost of a run (`--dry-run`): execute it on a copy of the store, without sending any request.

The code of a real run renders and hashes the requests and looks them up in the journal. Only the exchange is replaced,
by one that counts tokens and makes up an answer.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tabulate import tabulate

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.liveness import FOLDER as RUNNING
from diva_grpo.pipeline.store.files.sqlite import fault_of, reading
from diva_grpo.pipeline.teacher.journal import Journal, unusable
from diva_grpo.pipeline.teacher.prices import BATCH_SHARE, ImageRule, Price, PriceTable
from diva_grpo.pipeline.teacher.tokens import TokenCounter
from diva_grpo.pipeline.teacher.wire.outcome import Exchange, Outcome
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import Status, Variant

SOLUTION_TOKENS = 300
"""Assumed length of a worked solution, until the store has enough calls to measure it."""

STEP_TOKENS = 40
"""Assumed length of a think step."""

STEPS = 4
"""Assumed number of think steps (the paper: three to five)."""

_ENOUGH_CALLS = 10
"""Number of calls for one purpose from which their mean length is used instead of an assumed one."""


class DryExchange:
    """An exchange that sends nothing: it counts the tokens of a request and makes up an answer of the requested shape.

    Args:
        config: settings of the endpoint.
        price: price of its model; None if unknown.
        lengths: number of entries of each list in a made-up answer, by the title of its JSON schema. The default of
            a schema is `STEPS`.
    """

    def __init__(self, config: TeacherConfig, price: Price | None, lengths: Mapping[str, int]) -> None:
        self._config, self._lengths = config, lengths
        self._thinks = price.thinks if price else 0
        self._images = price.images if price else ImageRule()
        self.counter = TokenCounter(config.model)

    @property
    def concurrency(self) -> int:
        """The configured concurrency, although requests are counted one after the other."""
        return self._config.concurrency

    async def send(self, parameters: dict[str, Any], key: str) -> Outcome:
        """Count the tokens of a request and return a made-up answer."""
        shape = _shape(parameters)
        question = _question(parameters)
        content = json.dumps(_made_up(shape, shape, question, self._lengths)) if shape else "\\boxed{0}"
        answer = SOLUTION_TOKENS if shape is None else self._length(shape, content)
        prompt = self.counter.request(parameters, self._images)
        return Outcome(content, "ok", None, prompt, answer + self._thinks)

    def _length(self, shape: Mapping[str, Any], content: str) -> int:
        if "steps" in shape.get("properties", {}):
            return self._lengths.get(shape.get("title", ""), STEPS) * STEP_TOKENS
        return self.counter.text(content)

    def forget(self, receipt: str) -> None:
        """Do nothing: this exchange keeps no outcomes."""

    def finish(self) -> int:
        """Return 0: no request is ever in flight."""
        return 0

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def _shape(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON schema that a request asks for; None if it asks for plain text.

    The schema is in `response_format`, or else on the last line of the last message.
    """
    asked = parameters.get("response_format", {}).get("json_schema")
    if asked:
        return dict(asked["schema"])
    try:
        schema = json.loads(_text(parameters).splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return schema if isinstance(schema, dict) and "properties" in schema else None


def _text(parameters: Mapping[str, Any]) -> str:
    content = parameters["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)


def _question(parameters: Mapping[str, Any]) -> str:
    """The problem text within the prompt, or the whole prompt if it has no `<problem>` marks.

    A rewording is assumed to be as long as this text.
    """
    text = _text(parameters)
    inner = text.partition("<problem>")[2].partition("</problem>")[0].strip()
    return inner or text


def _made_up(part: Any, schema: Mapping[str, Any], text: str, lengths: Mapping[str, int]) -> Any:
    """A value that fits a JSON schema, with `text` for every string.

    Args:
        part: the part of the schema that the value must fit.
        schema: the whole schema, which has the definitions and the title.
        text: used for every string.
        lengths: see `DryExchange`.
    """
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rsplit("/", 1)[-1]]
    if "anyOf" in part:
        part = part["anyOf"][0]
    if "enum" in part or "const" in part:
        return part.get("const", part.get("enum", [None])[0])
    if part.get("type") == "object":
        inner = part.get("properties", {})
        return {name: _made_up(value, schema, text, lengths) for name, value in inner.items()}
    if part.get("type") == "array":
        count = lengths.get(schema.get("title", ""), STEPS)
        return [_made_up(part["items"], schema, f"{text} ({i})", lengths) for i in range(count)]
    return {"string": text, "boolean": True, "integer": 1, "number": 1.0, "null": None}[
        part.get("type", "string")
    ]


@contextmanager
def copied(store: VariantStore, *, with_journal: bool = True) -> Iterator[VariantStore]:
    """A temporary copy of a store that may be written to. It is deleted when the context ends.

    Parts and images are symbolic links to the originals. The journal is copied, if `with_journal`.

    Raises:
        StoreError: the journal is damaged.
    """
    with TemporaryDirectory(prefix="diva-dry-run-") as folder:
        copy = Path(folder)
        for entry in store.root.iterdir():
            if entry.name == "images":
                (copy / entry.name).symlink_to(entry)
            elif entry.is_dir() and entry.name != RUNNING:
                (copy / entry.name).mkdir()
                for part in entry.glob("*.parquet"):
                    (copy / entry.name / part.name).symlink_to(part)
        journal = store.root / "journal.sqlite"
        if with_journal and journal.exists():
            if fault := fault_of(journal, "entries"):
                raise StoreError(unusable(journal, fault))
            with reading(journal) as source, closing(sqlite3.connect(copy / journal.name)) as to:
                source.backup(to)
        yield VariantStore(copy)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the estimate: the requests that a stage would send to one model for one purpose.

    Attributes:
        stage: name of the stage.
        model: the model that the requests go to.
        purpose: purpose of the requests, as in the ledger.
        requests: number of requests.
        prompt_tokens: prompt tokens of all requests.
        completion_tokens: completion tokens of all answers.
        usd: cost of all requests in dollars; None if the price is unknown.
    """

    stage: str
    model: str
    purpose: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


class Rehearsal(Session):
    """A session that sends nothing and counts what its stages would send. It marks every variant as accepted.

    Args:
        store: a copy of the store, see `copied`. The mean lengths of answers are read from its ledger.
        teacher: see `Session`.
        solver: see `Session`.
        lengths: see `DryExchange`.
        batch: whether the real run would use the Batch API, at half the price.

    Attributes:
        lines: the estimate so far, see `note`.
    """

    def __init__(
        self,
        store: VariantStore,
        teacher: TeacherConfig,
        solver: TeacherConfig | None = None,
        *,
        lengths: Mapping[str, int] | None = None,
        batch: bool = False,
    ) -> None:
        super().__init__(store, teacher, solver=solver, connect=self._dry)
        self._share = BATCH_SHARE if batch else 1.0
        self.prices = PriceTable.load(teacher.prices, teacher.base_url)
        self._lengths = lengths or {}
        self._exchanges: dict[str, DryExchange] = {}
        self._means: dict[tuple[str, str], float] = {
            (model, purpose): mean
            for model, purpose, mean in store.query(
                "SELECT model, purpose, avg(completion_tokens) FROM calls WHERE outcome = 'ok' "
                "AND completion_tokens IS NOT NULL GROUP BY ALL HAVING count(*) >= ?",
                [_ENOUGH_CALLS],
            )
        }
        self.lines: list[Line] = []
        with Journal.of_store(store) as journal:
            self._noted = journal.last_id()

    def _dry(self, config: TeacherConfig, store: VariantStore) -> Exchange:
        if config.model not in self._exchanges:
            self._exchanges[config.model] = DryExchange(config, self.prices.of(config.model), self._lengths)
        return self._exchanges[config.model]

    def decided(self, variants: list[Variant]) -> list[Variant]:
        """The variants, all marked as accepted: their answers are made up, so the checks say nothing."""
        return [v.model_copy(update={"status": Status.ACCEPTED.value, "reason": None}) for v in variants]

    @property
    def requests(self) -> int:
        """Number of requests that would be sent."""
        return sum(line.requests for line in self.lines)

    @property
    def usd(self) -> float | None:
        """Cost of all requests in dollars; None if the price of one of the models is unknown."""
        known = [line.usd for line in self.lines if line.usd is not None]
        return sum(known) if len(known) == len(self.lines) else None

    def note(self, stage: str) -> None:
        """Add the requests since the last call of this method to `lines`, under the name of a stage."""
        with Journal.of_store(self.store) as journal:
            sums = journal.sums_since(self._noted)
            self._noted = journal.last_id()
        for model, purpose, requests, prompt, made_up in sums:
            mean, price = self._means.get((model, purpose)), self.prices.of(model)
            completion = made_up if mean is None else round(mean * requests)
            usd = price.cost(prompt, completion, self._share) if price else None
            self.lines.append(Line(stage, model, purpose, requests, prompt, completion, usd))

    def render(self) -> str:
        """The estimate as text: a table, and below it how the numbers were estimated."""
        rows: list[tuple[object, ...]] = [
            (li.stage, li.model, li.purpose, li.requests, li.prompt_tokens, li.completion_tokens, li.usd)
            for li in self.lines
        ]
        prompt = sum(line.prompt_tokens for line in self.lines)
        completion = sum(line.completion_tokens for line in self.lines)
        rows.append(("total", "", "", self.requests, prompt, completion, self.usd))
        headers = ("stage", "model", "purpose", "requests", "prompt tokens", "completion tokens", "usd")
        table = tabulate(rows, headers=headers, intfmt=",", floatfmt=".4f", missingval="unknown")
        return "\n".join([table, "", *self._rests_on()])

    def _rests_on(self) -> Iterator[str]:
        reused = self.meter.reused
        kept = f" {reused:,} requests more are in the journal already and cost nothing." if reused else ""
        yield f"Nothing was sent.{kept}"
        for model, exchange in self._exchanges.items():
            yield f"Prompt tokens of {model} by {exchange.counter.name}; images by the price table's formula."
        asked = {(line.model, line.purpose) for line in self.lines}
        if measured := sorted({purpose for model, purpose in asked & self._means.keys()}):
            yield f"Completion tokens of {', '.join(measured)}: the mean of this store's calls of the model."
        if assumed := sorted({purpose for model, purpose in asked - self._means.keys()}):
            yield (
                f"Completion tokens of {', '.join(assumed)} are assumed: {SOLUTION_TOKENS} a solution, "
                f"{STEPS} think steps of {STEP_TOKENS}, wordings as long as the original; "
                f"{_ENOUGH_CALLS} answers of a purpose in the store make them measured. Second tries are not foreseen."
            )
        for model in self._exchanges:
            if self.prices.of(model) is None:
                yield self.prices.how_to_add(model)
        if self._share != 1:
            yield "Dollars at half the price, as the Batch API charges."
