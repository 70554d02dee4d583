"""Prices of models, and the budget of a run.

Prices come from the data of the package `genai-prices`, or from a file of the user.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from diva_grpo.pipeline.teacher.wire.outcome import Outcome, fault, one_line
from diva_grpo.schemas.exceptions import BudgetError, ConfigError, MissingExtraError

BATCH_SHARE = 0.5
"""Price of a request in OpenAI's Batch API, as a fraction of the price of a live request."""

_DATE = re.compile(r"-20\d\d-?\d\d-?\d\d$")


class ImageRule(BaseModel):
    """How a provider computes the tokens of an image: by tiles of 512 pixels, or by patches of 32 pixels.

    The formulas are those of OpenAI's vision guide, for images of high detail.

    Attributes:
        base: tokens of an image, apart from its tiles.
        tile: tokens of a tile.
        patch: tokens of a patch; None to count by tiles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    base: int = 85
    tile: int = 170
    patch: float | None = None

    def tokens(self, width: int, height: int) -> int:
        """Prompt tokens of an image of this size in pixels."""
        if self.patch is not None:
            return math.ceil(_patches(width, height) * self.patch)
        shrink = min(1.0, 2048 / max(width, height))
        shrink = min(shrink, 768 / min(width, height))
        across, down = (math.ceil(round(side * shrink, 6) / 512) for side in (width, height))
        return self.base + self.tile * across * down


def _patches(width: int, height: int, most: int = 1536) -> int:
    """Number of squares of 32 pixels that cover an image, after shrinking it so that at most `most` are needed."""
    across, down = width / 32, height / 32
    if math.ceil(across) * math.ceil(down) <= most:
        return math.ceil(across) * math.ceil(down)
    shrink = math.sqrt(most / (across * down))
    # It is shrunk a little further, so that one side is a whole number of patches.
    fits = min(math.floor(side * shrink) / (side * shrink) for side in (across, down))
    return min(most, math.ceil(round(across * shrink * fits, 6)) * math.ceil(round(down * shrink * fits, 6)))


class Price(BaseModel):
    """The price of a model, and how it counts tokens.

    Attributes:
        prompt: dollars per million prompt tokens.
        completion: dollars per million completion tokens.
        thinks: hidden reasoning tokens per request that an estimate assumes, until the store has enough calls of the
            model to measure the length of answers.
        images: how the tokens of an image are computed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)
    thinks: int = Field(default=0, ge=0)
    images: ImageRule = ImageRule()

    def cost(self, prompt_tokens: float, completion_tokens: float, share: float = 1.0) -> float:
        """Dollars for these numbers of tokens, at a fraction (`share`) of the price."""
        return share * (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


_TABLE = TypeAdapter(dict[str, Price])

_OWN: Mapping[str, Price] = MappingProxyType({"scripted-teacher": Price(prompt=0, completion=0)})
# By the model's id in genai-prices, which does not tell how a model counts images and hidden reasoning.
_COUNTING: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "gpt-4o-mini": {"images": ImageRule(base=2833, tile=5667)},
        "gpt-4.1-mini": {"images": ImageRule(patch=1.62)},
        "o3": {"thinks": 1000, "images": ImageRule(base=75, tile=150)},
        "o4-mini": {"thinks": 1000, "images": ImageRule(patch=1.72)},
    }
)


class PriceTable:
    """Prices by model.

    Args:
        prices: prices by the name of the model.
        name: name of the table, used in messages.
        url: URL of the endpoint. If it is given, models that are not in `prices` are looked up in genai-prices.
    """

    def __init__(self, prices: Mapping[str, Price], name: str, url: str | None = None) -> None:
        self._prices = dict(prices)
        self.name, self._url = name, url

    @classmethod
    def load(cls, path: Path | None = None, url: str | None = None) -> Self:
        """Load a price table from a YAML file; without a file, use the prices of genai-prices.

        A file maps a model to `[prompt, completion]`, or to a mapping with the fields of `Price`.

        Args:
            path: the file.
            url: URL of the endpoint, used without a file. It selects the provider, because the price of a model differs
                between providers. At an unknown URL (a proxy, a gateway) only OpenAI's own models have a price.

        Raises:
            ConfigError: the file cannot be read or is not such a table.
        """
        if path is None:
            return cls(_OWN, "genai-prices", url or "")
        try:
            entries = yaml.safe_load(path.read_text("utf-8")).items()
            return cls(
                _TABLE.validate_python({str(name): _mapping(entry) for name, entry in entries}), str(path)
            )
        except ValidationError as error:
            raise ConfigError(f"price table {path}: {fault(error)[1]}") from error
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise ConfigError(f"price table {path}: {one_line(error)}") from error

    def of(self, model: str) -> Price | None:
        """The price of a model, looked up with and without the date in its name; None if it is unknown."""
        found = self._prices.get(model) or self._prices.get(_DATE.sub("", model))
        return found or (None if self._url is None else _published(model, self._url))

    def cost(self, model: str, outcome: Outcome) -> float | None:
        """Dollars of one exchange; None if the price or the tokens are unknown."""
        price = self.of(model)
        if price is None or outcome.prompt_tokens is None or outcome.completion_tokens is None:
            return None
        return price.cost(outcome.prompt_tokens, outcome.completion_tokens, outcome.price_share)

    def how_to_add(self, model: str) -> str:
        """One line that says how to add the price of a model."""
        return (
            f"no price of {model!r} in {self.name}: "
            f"add the line `{model}: [PROMPT, COMPLETION]` (dollars per million tokens) to a file of your own "
            "and give it with --prices"
        )


@cache
def _published(model: str, url: str) -> Price | None:
    """Today's price of a model in genai-prices; None if it is unknown.

    If the price depends on the length of the prompt, it is the price for the shortest prompts. The first call loads
    the package, which takes half a second.
    """
    with MissingExtraError.named_for("a price"):
        from genai_prices.data_snapshot import get_snapshot
        from genai_prices.types import TieredPrices
    snapshot = get_snapshot()
    try:
        provider = snapshot.find_provider(None, None, url)
    except LookupError:
        provider = snapshot.find_provider(None, "openai", None)
        if model.lower().startswith("gpt-oss"):  # open weights, which anyone may serve for free
            return None
    try:
        _, found = snapshot.find_provider_model(model, provider, None, None)
    except LookupError:
        return None
    now = found.get_prices(datetime.now(UTC))
    known = {
        name: price.base if isinstance(price, TieredPrices) else price
        for name, price in (("prompt", now.input_mtok), ("completion", now.output_mtok))
        if price is not None
    }
    return Price.model_validate(known | _COUNTING.get(found.id, {})) if len(known) == 2 else None


def _mapping(entry: object) -> object:
    """Convert an entry of the form [prompt, completion] to a mapping; return any other entry unchanged."""
    if isinstance(entry, list):
        prompt, completion = entry
        return {"prompt": prompt, "completion": completion}
    return entry


class Budget:
    """The budget of one run: what it has spent and may still spend.

    Args:
        limit: dollars; None for no limit.
        strict: whether the cost of requests in flight, too, must stay within the limit. Meant for scheduled runs.
    """

    def __init__(self, limit: float | None = None, *, strict: bool = False) -> None:
        self.limit, self.strict = limit, strict
        self.spent = 0.0
        self._bound = 0.0

    @property
    def left(self) -> float:
        """Dollars that may still be spent, reserved ones included; infinite without a limit."""
        return math.inf if self.limit is None else self.limit - self.spent

    def admit(self) -> None:
        """Check that one more request may be sent. It reserves nothing, so requests in flight may exceed the limit.

        Raises:
            BudgetError: the limit is reached.
        """
        if self.is_empty:
            raise self.exhausted()

    def bind(self, dollars: float) -> bool:
        """Reserve the largest possible cost of a request; returns False if the budget does not suffice."""
        if self.left - self._bound < dollars - 1e-9:
            return False
        self._bound += dollars
        return True

    def free(self, dollars: float) -> None:
        """Release the reserved cost of a request that has ended."""
        self._bound -= dollars

    @property
    def is_empty(self) -> bool:
        """Whether the budget is used up."""
        return self.left < 1e-9  # not 0, because of rounding errors in the sum

    def exhausted(self, most: float | None = None) -> BudgetError:
        """The error of a run that would exceed its budget.

        Args:
            most: largest possible cost of the next request, if this is more than what is left. None if the limit is
                reached.
        """
        if most is not None:
            return BudgetError(
                f"--max-cost: ${self.spent:.4f} of ${self.limit or 0:g} are spent in this run, and one more "
                f"request may cost ${most:.4f} (by --max-tokens); all answers are kept, and the same command "
                "continues from here and may spend as much again"
            )
        return BudgetError(
            f"--max-cost is reached: ${self.spent:.4f} of ${self.limit or 0:g} are spent in this run, and all "
            "answers are kept; the same command continues from here and may spend as much again"
        )

    def pay(self, dollars: float | None) -> None:
        """Add the cost of an exchange; None (unknown) counts as 0."""
        self.spent += dollars or 0.0
