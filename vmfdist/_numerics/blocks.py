"""Evaluation in blocks of rows: on the CPU they stay in the cache, elsewhere they bound memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat

import torch
from torch import Tensor

from vmfdist._numerics.autograd import is_legacy_batched


def go_in_blocks(x: Tensor, rows: int, event_dim: int = 0, *, everywhere: bool = False) -> bool:
    """Whether x has more than so many rows and they are taken apart: on the CPU, or everywhere."""
    return (
        not torch.compiler.is_compiling()  # where the number of rows is not known
        and (everywhere or x.device.type == "cpu")
        and x.shape[: x.dim() - event_dim].numel() > rows
        and not is_legacy_batched(x)
    )


def in_blocks(
    function: Callable[..., tuple[Tensor, ...]],
    rows: int,
    *tensors: Tensor,
    event_dim: int = 0,
    everywhere: bool = False,
) -> tuple[Tensor, ...]:
    """What a function gives for each row of tensors, in blocks where these go so.

    For the tensors see :func:`blocks`.
    """
    if not go_in_blocks(tensors[0], rows, event_dim, everywhere=everywhere):
        return function(*tensors)
    shape = tensors[0].shape[: tensors[0].dim() - event_dim]
    parts = [function(*block) for block in blocks(rows, *tensors, event_dim=event_dim)]
    return tuple(
        torch.cat([x.reshape(-1) for x in xs]).view(shape) for xs in zip(*parts, strict=True)
    )


def blocks(rows: int, *tensors: Tensor, event_dim: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Views of at most so many rows of tensors whose leading axes broadcast.

    The first tensor has the full shape, of which the last ``event_dim`` axes belong to a row; the
    others have size 1 along axes that they share.
    """
    full = tensors[0]
    size = full.shape[: full.dim() - event_dim].numel()
    if size <= rows:
        yield tensors
    elif len(full) == 1:
        yield from blocks(rows, *(tensor[0] for tensor in tensors), event_dim=event_dim)
    else:
        step = max(1, rows * len(full) // size)
        parts = (tensor.split(step) if len(tensor) > 1 else repeat(tensor) for tensor in tensors)
        for part in zip(*parts, strict=False):
            yield from blocks(rows, *part, event_dim=event_dim)
