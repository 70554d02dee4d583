"""Recipes: operations on the images of a problem. The store keeps the recipe; the pixels are rendered on use."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diva_grpo.schemas.records import Kind

RENDERER = 1
"""Version of the renderer. It is increased whenever a recipe would give other pixels or texts."""


class OperationName(StrEnum):
    """The operations on an image."""

    ROTATE = "rotate"
    GAUSSIAN_NOISE = "gaussian_noise"
    SALT_PEPPER = "salt_pepper"
    SPECKLE = "speckle"
    BLUR = "blur"
    LOW_RESOLUTION = "low_resolution"
    OCCLUSION = "occlusion"
    JPEG = "jpeg"
    CONTRAST = "contrast"
    QUESTION = "question_in_image"


class Operation(BaseModel):
    """One operation on an image.

    The renderer uses only `parameters`. The selection and the designed offsets use `strength`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: OperationName
    strength: float = Field(ge=0, le=1, description="dose from 0 to 1, comparable within one operation")
    parameters: dict[str, float] = Field(description="what is done, each in the unit of the operation")


class Recipe(BaseModel):
    """Operations on the images of one problem, in order. Rendering always gives the same pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    operations: tuple[Operation, ...] = Field(min_length=1)
    seed: int = Field(ge=0, lt=2**63, description="of all random choices")
    images: tuple[int, ...] = Field(default=(), description="images to change, from 0; empty: all of them")
    renderer: int = Field(default=RENDERER, description="version of the renderer that it was made for")

    @model_validator(mode="after")
    def _each_once(self) -> Recipe:
        if len({operation.name for operation in self.operations}) < len(self.operations):
            raise ValueError("an operation stands in a recipe once")
        if len(set(self.images)) < len(self.images) or min(self.images, default=0) < 0:
            raise ValueError("images are counted from 0, each once")
        return self

    @property
    def names(self) -> tuple[OperationName, ...]:
        """Names of the operations, in order."""
        return tuple(operation.name for operation in self.operations)

    @property
    def strength(self) -> float:
        """Mean strength of the operations."""
        return sum(operation.strength for operation in self.operations) / len(self.operations)

    @property
    def kind(self) -> Kind:
        """The kind: `composite` for several operations, `image_text` for `question_in_image` alone, else `image`."""
        if len(self.operations) > 1:
            return Kind.COMPOSITE
        return Kind.IMAGE_TEXT if self.names == (OperationName.QUESTION,) else Kind.IMAGE
