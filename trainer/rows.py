"""Functions that join the rows of TRL's batches, select some of them, and distribute them among processes.

A *side* is a batch of TRL: a dictionary of tensors and lists with an item for each row, and of scalars.
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
    """Concatenate the rows of several sides, padded to the same width.

    Args:
        sides: at least one side. If only some sides have a field, the others get a neutral value for it.
        pad_id: id of the padding token.

    Returns:
        A dictionary whose fields have an item for each row, including pixels. Use `picked` to make a side from it.
    """
    # TRL keeps the pixels of all rows in one tensor of patches, tiles or images; split them, one item per row.
    split = [split_pixel_values_by_grid(side) for side in sides]
    names = dict.fromkeys(
        name for side in split for name in side
    )  # keep the order: TRL expects a tensor in the first field
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
    """Return a side with some rows of a result of `joined`.

    Args:
        whole: result of `joined`.
        rows: numbers of the rows, in the order of the result.
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
    """Distribute the rows of a generation, which another number of processes made, among the present processes.

    Rows keep the order in which the loss uses them. So if the number of rows per step is the same as before, each step
    has the same rows as before.

    Args:
        buffers: for each process that made the generation, its slices in the order of their use.
        slices: number of slices for each of the present processes.
        processes: number of present processes.
        index: number of this process, from 0.
        pad_id: id of the padding token.

    Returns:
        The slices of this process; None if the rows cannot be divided equally.
    """
    whole = joined([side for one_time in zip(*buffers, strict=True) for side in one_time], pad_id)
    total = len(whole["prompt_ids"])
    if total % (slices * processes):
        return None
    size = total // (slices * processes)
    starts = [(number * processes + index) * size for number in range(slices)]
    return [picked(whole, torch.arange(start, start + size)) for start in starts]


def _with_default(name: str, side: Side, sides: Sequence[Side]) -> Any:
    """Return a field of a side. If only other sides have the field, return its neutral value."""
    value = side.get(name)
    if name == _ADVANTAGES and any(other[name].dim() > 1 for other in sides) and side[name].dim() == 1:
        return side[name][:, None].expand(side["completion_ids"].shape)
    if value is not None:
        return value
    if name in _OF_PROMPT_AND_COMPLETION:
        return torch.zeros_like(torch.cat([side["prompt_ids"], side["completion_ids"]], dim=1))
    if name == _TOOL_MASK:  # a side without openings: all tokens are trained on
        return torch.ones_like(side["completion_mask"])
    rows = len(side["prompt_ids"])
    if name in ("num_images", "num_tiles"):  # a side without images
        return [0] * rows
    theirs = next(other[name] for other in sides if other.get(name) is not None)
    if isinstance(theirs, list | tuple):
        return [theirs[0][:0]] * rows
    return theirs.new_zeros((rows, *theirs.shape[1:]))


def _stacked(values: Sequence[torch.Tensor], value: int, *, left: bool = False) -> torch.Tensor:
    """Concatenate tensors along the rows; those with more than one axis are padded to the same width."""
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
