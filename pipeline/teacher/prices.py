"""What models charge, and the purse that a run may not overspend.

Prices are those of the package `genai-prices`, which carries them with it, or those of a file of the user's own.
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
"""What a request costs in OpenAI's Batch API, against a live one."""

_DATE = re.compile(r"-20\d\d-?\d\d-?\d\d$")


class ImageRule(BaseModel):
    """How a provider counts an image: by tiles of 512 pixels, or by patches of 32 pixels.

    The formulas are those of OpenAI's vision guide, for images of high detail.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    base: int = 85
    tile: int = 170
    patch: float | None = None

    def tokens(self, width: int, height: int) -> int:
        """Prompt tokens of an image of that many pixels."""
        if self.patch is not None:
            return math.ceil(_patches(width, height) * self.patch)
        shrink = min(1.0, 2048 / max(width, height))
        shrink = min(shrink, 768 / min(width, height))
        across, down = (math.ceil(round(side * shrink, 6) / 512) for side in (width, height))
        return self.base + self.tile * across * down


def _patches(width: int, height: int, most: int = 1536) -> int:
    """Squares of 32 pixels that cover an image, which is shrunk until `most` do."""
    across, down = width / 32, height / 32
    if math.ceil(across) * math.ceil(down) <= most:
        return math.ceil(across) * math.ceil(down)
    shrink = math.sqrt(most / (across * down))
    # Shrunk a little further, so that one side is a whole number of patches.
    fits = min(math.floor(side * shrink) / (side * shrink) for side in (across, down))
    return min(most, math.ceil(round(across * shrink * fits, 6)) * math.ceil(round(down * shrink * fits, 6)))


class Price(BaseModel):
    """What a model charges, and how it counts.

    Attributes:
        prompt: dollars per million tokens.
        completion: dollars per million tokens.
        thinks: hidden reasoning tokens that an estimate assumes per request, until a store has calls of the model.
        images: how an image is counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)
    thinks: int = Field(default=0, ge=0)
    images: ImageRule = ImageRule()

    def cost(self, prompt_tokens: float, completion_tokens: float, share: float = 1.0) -> float:
        """Dollars for these numbers of tokens."""
        return share * (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


_TABLE = TypeAdapter(dict[str, Price])

_OWN: Mapping[str, Price] = MappingProxyType({"scripted-teacher": Price(prompt=0, completion=0)})
# By the id that the model has in genai-prices, which does not say how a model counts.
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
        prices: by the model's name.
        name: of the table, for messages.
        url: of the endpoint, if models that `prices` does not have are to be looked up in genai-prices.
    """

    def __init__(self, prices: Mapping[str, Price], name: str, url: str | None = None) -> None:
        self._prices = dict(prices)
        self.name, self._url = name, url

    @classmethod
    def load(cls, path: Path | None = None, url: str | None = None) -> Self:
        """The table of a YAML file; without one, the prices of genai-prices.

        A file maps a model to `[prompt, completion]`, or to a mapping with the fields of `Price`.

        Args:
            path: the file.
            url: of the endpoint. Providers charge differently for one model, so it says whose price to take. At a URL
                of no known provider (a proxy, a gateway) only OpenAI's own models have a price.

        Raises:
            ConfigError: the file is unreadable or holds no such table.
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
        """The price of a model, by its name or its name without a date; None where it is unknown."""
        found = self._prices.get(model) or self._prices.get(_DATE.sub("", model))
        return found or (None if self._url is None else _published(model, self._url))

    def cost(self, model: str, outcome: Outcome) -> float | None:
        """Dollars of one exchange; None where the price or the tokens are unknown."""
        price = self.of(model)
        if price is None or outcome.prompt_tokens is None or outcome.completion_tokens is None:
            return None
        return price.cost(outcome.prompt_tokens, outcome.completion_tokens, outcome.price_share)

    def how_to_add(self, model: str) -> str:
        """One line that says how a model's price becomes known."""
        return (
            f"no price of {model!r} in {self.name}: "
            f"add the line `{model}: [PROMPT, COMPLETION]` (dollars per million tokens) to a file of your own "
            "and give it with --prices"
        )


@cache
def _published(model: str, url: str) -> Price | None:
    """The price that genai-prices has of a model today; of prices in tiers, the one of the shortest prompts.

    The package is loaded by the first look-up, as this takes half a second.
    """
    with MissingExtraError.named_for("a price"):
        from genai_prices.data_snapshot import get_snapshot
        from genai_prices.types import TieredPrices
    snapshot = get_snapshot()
    try:
        provider = snapshot.find_provider(None, None, url)
    except LookupError:
        provider = snapshot.find_provider(None, "openai", None)
        if model.lower().startswith("gpt-oss"):  # open weights, which anyone may serve for nothing
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
    return Price(**known, **_COUNTING.get(found.id, {})) if len(known) == 2 else None


def _mapping(entry: object) -> object:
    """An entry of the short form [prompt, completion] as the long one."""
    if isinstance(entry, list):
        prompt, completion = entry
        return {"prompt": prompt, "completion": completion}
    return entry


class Purse:
    """What one run has spent, and may spend.

    Args:
        limit: dollars; None for no limit.
        strict: never overspend, whatever the requests in flight may still cost; for runs that nobody watches.
    """

    def __init__(self, limit: float | None = None, *, strict: bool = False) -> None:
        self.limit, self.strict = limit, strict
        self.spent = 0.0
        self._bound = 0.0

    @property
    def left(self) -> float:
        """Dollars that may still be spent."""
        return math.inf if self.limit is None else self.limit - self.spent

    def admit(self) -> None:
        """Let one more request out.

        Raises:
            BudgetError: the limit is reached. Requests that are in flight then may overspend it.
        """
        if self.is_empty:
            raise self.exhausted()

    def bind(self, dollars: float) -> bool:
        """Set aside what a request can cost at most; False where that is more than there is."""
        if self.left - self._bound < dollars - 1e-9:
            return False
        self._bound += dollars
        return True

    def free(self, dollars: float) -> None:
        """Give back what was set aside for a request that has ended."""
        self._bound -= dollars

    @property
    def is_empty(self) -> bool:
        """Whether nothing may be spent any more."""
        return self.left < 1e-9  # a sum of cents is not exact

    def exhausted(self, most: float | None = None) -> BudgetError:
        """The error of a run that would spend more.

        Args:
            most: dollars that the next request can cost at most, where that is what is too much.
        """
        if most is not None:
            return BudgetError(
                f"--max-cost: ${self.spent:.4f} of ${self.limit or 0:g} are spent in this run, and one more "
                f"request may cost ${most:.4f} (by --max-tokens); all answers are kept, and the same command "
                "goes on from here and may spend as much again"
            )
        return BudgetError(
            f"--max-cost is reached: ${self.spent:.4f} of ${self.limit or 0:g} are spent in this run, and all "
            "answers are kept; the same command goes on from here and may spend as much again"
        )

    def pay(self, dollars: float | None) -> None:
        """Count what an exchange has cost."""
        self.spent += dollars or 0.0
