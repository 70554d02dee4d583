"""The price table, and the purse that a run may not overspend."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from diva_grpo.pipeline.teacher.wire.outcome import Outcome, fault, one_line
from diva_grpo.schemas.exceptions import BudgetError, ConfigError

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
        prompt: dollars a million tokens.
        completion: dollars a million tokens.
        thinks: hidden tokens of reasoning assumed a request.
        images: how an image is counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)
    thinks: int = Field(default=0, ge=0)
    images: ImageRule = ImageRule()

    def cost(self, prompt_tokens: float, completion_tokens: float, share: float = 1.0) -> float:
        """Dollars for so many tokens."""
        return share * (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


_TABLE = TypeAdapter(dict[str, Price])


class PriceTable:
    """Prices by model.

    Args:
        prices: by the model's name.
        name: of the table, for messages.
    """

    def __init__(self, prices: Mapping[str, Price], name: str) -> None:
        self._prices = dict(prices)
        self.name = name

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """The table of a YAML file, by default the shipped one.

        Raises:
            ConfigError: it is unreadable or no such table.
        """
        try:
            text = (
                path.read_text("utf-8")
                if path
                else (files("diva_grpo.pipeline.teacher") / "prices.yaml").read_text("utf-8")
            )
            table = {str(name): _mapping(entry) for name, entry in yaml.safe_load(text).items()}
            return cls(_TABLE.validate_python(table), str(path) if path else "the shipped table")
        except ValidationError as error:
            raise ConfigError(f"price table {path}: {fault(error)[1]}") from error
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise ConfigError(f"price table {path}: {one_line(error)}") from error

    def of(self, model: str) -> Price | None:
        """The price of a model, by its name or its name without a date; None where it is unknown."""
        return self._prices.get(model) or self._prices.get(_DATE.sub("", model))

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
            f"add the line `{model}: [PROMPT, COMPLETION]` (dollars a million tokens) to a file of your own "
            "and give it with --prices"
        )


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
