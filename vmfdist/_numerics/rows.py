"""Products and shapes of tensors, at the price that small ones can pay."""

from __future__ import annotations

import torch
from torch import Tensor


def _is_narrow(x: Tensor) -> bool:
    """Whether products of columns cost less than a reduction along so short an axis.

    A compiled graph makes its own reductions, and must not depend on the number of rows.
    """
    return x.shape[-1] <= 4 and not torch.compiler.is_compiling() and x.numel() >= 1 << 13


def norm(x: Tensor) -> Tensor:
    return dot(x, x).sqrt_() if _is_narrow(x) else torch.linalg.vector_norm(x, dim=-1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products of rows, by no matrix product: autocast and TF32 would round it."""
    if not _is_narrow(a):
        return (a * b).sum(-1)
    (first_a, *other_a), (first_b, *other_b) = a.unbind(-1), b.unbind(-1)
    result = first_a * first_b
    for column_a, column_b in zip(other_a, other_b, strict=True):
        result.addcmul_(column_a, column_b)
    return result


def expanded(x: Tensor, shape: torch.Size) -> Tensor:
    """x in a larger shape; an expansion that changes nothing costs as much as a small operation."""
    return x if x.shape == shape else x.expand(shape)


def reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x in another shape; a view that changes nothing costs as much too."""
    return x if x.shape == shape else x.reshape(shape)
