"""Rows of TRL's dictionaries of tensors: joined, picked, and dealt out anew among other processes.

A *side* is such a dictionary: tensors of as many rows, lists with an item for each row, and scalars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

Side = dict[str, Any]

_LEFT_PADDED = frozenset({"prompt_ids", "prompt_mask"})
_PADDED_WITH_TOKEN = frozenset({"prompt_ids", "completion_ids"})
_OF_PROMPT_AND_COMPLETION = frozenset({"token_type_ids", "mm_token_type_ids"})
_TOOL_MASK, _COUNT, _ADVANTAGES = "tool_mask", "num_items_in_batch", "advantages"


def joined(sides: Sequence[Side], pad_id: int) -> Side:
    """The rows of several sides, one side below the other, all of one width.

    Args:
        sides: one at least. A field that only some have gets its neutral value in the others.
        pad_id: padding token.

    Returns:
        Fields with an item for each row, pixels too: pick from them with `picked`.
    """
    # TRL keeps the pixels of all rows in one tensor of patches, tiles or images: row by row they can be picked.
    split = [split_pixel_values_by_grid(side) for side in sides]
    names = dict.fromkeys(
        name for side in split for name in side
    )  # in order: TRL takes the first for a tensor
    whole: Side = {}
    for name in names:
        if name == _COUNT:
            whole[name] = split[0][name]
            continue
        values = [_with_default(name, side, split) for side in split]
        if isinstance(values[0], list | tuple):
            whole[name] = [item for value in values for item in value]
        elif name in _OF_PROMPT_AND_COMPLETION:
            widths = [side["prompt_ids"].shape[1] for side in split]
            prompts = [value[:, :width] for value, width in zip(values, widths, strict=True)]
            completions = [value[:, width:] for value, width in zip(values, widths, strict=True)]
            whole[name] = torch.cat([_stacked(prompts, 0, left=True), _stacked(completions, 0)], dim=1)
        else:
            value = pad_id if name in _PADDED_WITH_TOKEN else int(name == _TOOL_MASK)
            whole[name] = _stacked(values, value, left=name in _LEFT_PADDED)
    return whole


def picked(whole: Side, rows: torch.Tensor) -> Side:
    """Some rows of `joined`, as TRL has them.

    Args:
        whole: all rows.
        rows: their numbers, in the order wanted.
    """
    side: Side = {}
    for name, value in whole.items():
        if name == _COUNT:
            side[name] = value
        elif isinstance(value, list):
            side[name] = [value[row] for row in rows.tolist()]
        else:
            side[name] = value[rows.to(value.device)]
    return dict(unsplit_pixel_values_by_grid(side))


def dealt(
    buffers: Sequence[Sequence[Side]], slices: int, processes: int, index: int, pad_id: int
) -> list[Side] | None:
    """The slices of a generation of other processes, dealt out among the present ones.

    Rows keep the order in which the loss takes them: where as many rows make a step, each step has the same.

    Args:
        buffers: by process that made them, the slices that it takes one after another.
        slices: that each of the present processes takes.
        processes: present ones.
        index: of this one.
        pad_id: padding token.

    Returns:
        This process's slices; None where the rows do not divide so.
    """
    whole = joined([side for one_time in zip(*buffers, strict=True) for side in one_time], pad_id)
    total = len(whole["prompt_ids"])
    if total % (slices * processes):
        return None
    size = total // (slices * processes)
    starts = [(number * processes + index) * size for number in range(slices)]
    return [picked(whole, torch.arange(start, start + size)) for start in starts]


def _with_default(name: str, side: Side, sides: Sequence[Side]) -> Any:
    """A field of one side, or what it would be where only another side has it."""
    value = side.get(name)
    if name == _ADVANTAGES and any(other[name].dim() > 1 for other in sides) and side[name].dim() == 1:
        return side[name][:, None].expand(side["completion_ids"].shape)
    if value is not None:
        return value
    if name in _OF_PROMPT_AND_COMPLETION:
        return torch.zeros_like(torch.cat([side["prompt_ids"], side["completion_ids"]], dim=1))
    if name == _TOOL_MASK:  # a batch without any opening: all of its tokens count
        return torch.ones_like(side["completion_mask"])
    rows = len(side["prompt_ids"])
    if name in ("num_images", "num_tiles"):  # a batch without any image
        return [0] * rows
    theirs = next(other[name] for other in sides if other.get(name) is not None)
    if isinstance(theirs, list | tuple):
        return [theirs[0][:0]] * rows
    return theirs.new_zeros((rows, *theirs.shape[1:]))


def _stacked(values: Sequence[torch.Tensor], value: int, *, left: bool = False) -> torch.Tensor:
    """Tensors one below the other, padded to one width where they have one."""
    if values[0].dim() > 1:
        wide = max(tensor.shape[1] for tensor in values)
        values = [_padded(tensor, wide, value, left=left) for tensor in values]
    return torch.cat(list(values))


def _padded(tensor: torch.Tensor, width: int, value: int, *, left: bool) -> torch.Tensor:
    missing = width - tensor.shape[1]
    behind = [0, 0] * (tensor.dim() - 2)
    return torch.nn.functional.pad(
        tensor, (*behind, missing, 0) if left else (*behind, 0, missing), value=value
    )
