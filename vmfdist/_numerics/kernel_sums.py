r"""Sums over kernels of squared chords, with no array of all pairs.

With points x, centres :math:`y_j`, concentrations k of the points and exponents :math:`a_j` these
are

.. math:: s = \log \sum_j \exp(e_j), \qquad e_j = a_j - \frac k2 |x - y_j|^2, \qquad
    p_j = \exp(e_j - s),

and the derivative of s, which the shares :math:`p_j` weight,

.. math:: ds = \sum_j p_j \Big(da_j - \tfrac12 |x - y_j|^2\, dk - k \langle x - y_j,
    dx - dy_j\rangle\Big).

Both are formed a block of pairs at a time, in the dtype of products. For other derivatives than
those by one backward pass, and compiled, there is one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vmfdist._numerics.autograd import apply, in_transform, is_legacy_batched, is_recording
from vmfdist._numerics.chords import SquaredChords, squared_chord, widened

# Pairs in float64, which with what is formed of them stay in a processor's cache; on other devices
# they bound the memory.
_CACHED_PAIRS, _HELD_PAIRS = 1 << 17, 1 << 24


def log_sum(x: Tensor, y: Tensor, k: Tensor, a: Tensor) -> Tensor:
    """The log of the sum over n kernels, for points of shape (..., d): of shape (...).

    Args:
        x: points, in the shape of the result.
        y: centres (..., n, d), whose axes to the left broadcast with those of the result.
        k: finite concentrations (...), likewise.
        a: exponents (..., n) or (..., 1), likewise.
    """
    if not _in_blocks(x):
        return _plain(x.unsqueeze(-2), y, k.unsqueeze(-1), a)
    dtype = torch.promote_types(x.dtype, y.dtype)
    arguments = _grouped(x.to(dtype), y.to(dtype), k, a)
    result = apply(_LogSum, *arguments) if is_recording() else _LogSum.forward(*arguments)
    return result.mT.reshape(x.shape[:-1]).to(dtype)


@torch.no_grad()
def nearest(x: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """The squared chord to the nearest centre whose exponent is not minus infinity, likewise."""
    if not _in_blocks(x):
        squared = squared_chord(x.unsqueeze(-2), y)
        return squared.masked_fill(a == -math.inf, math.inf).amin(-1)
    points, centres, k, exponents = _grouped(x, y.to(x.dtype), x.new_zeros(()), a)
    result = torch.empty_like(k)
    for i, j, squared in _blocks(points, centres, None):
        absent = (exponents[i] == -math.inf).unsqueeze(-2)
        result[i, j] = squared.masked_fill_(absent, math.inf).amin(-1)
    return result.mT.reshape(x.shape[:-1]).to(x.dtype)


@torch.no_grad()
def log_sum_and_mean(x: Tensor, y: Tensor, k: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The log sum, and the mean of the centres weighted by their shares.

    Args:
        x: points (m, d).
        y: centres (n, d).
        k: their concentration, one number.
        a: exponents (n,) or (1,).
    """
    x, y, k, a = _grouped(x, y, k, a)
    result, mean = torch.empty_like(k), torch.empty_like(x)
    for i, j, squared in _blocks(x, y, k):
        exponents = _exponents(squared, k[i, j], a[i])
        result[i, j] = torch.logsumexp(exponents, -1)
        mean[i, j] = exponents.sub_(result[i, j].unsqueeze(-1)).exp_() @ y[i]
    return result[0], mean[0]


def _in_blocks(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and not in_transform()
        and forward_ad._current_level < 0
        and not is_legacy_batched(x)
    )


def _plain(x: Tensor, y: Tensor, k: Tensor, a: Tensor) -> Tensor:
    exponents = torch.addcmul(a, k, squared_chord(x, y, k), value=-0.5)
    return torch.logsumexp(exponents, -1)


def _grouped(x: Tensor, y: Tensor, k: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As (shared, rows, d), (shared, n, d), (shared, rows) and (shared, n).

    The axes of the centres and their exponents are shared, those to the left of them rows.
    """
    count = max(y.dim() - 2, a.dim() - 1)
    axes, n = x.shape[x.dim() - 1 - count : -1], y.shape[-2]
    shape = (x.shape[: x.dim() - 1 - count].numel(), axes.numel())
    k = k.expand(x.shape[:-1]).reshape(shape).mT
    x = x.reshape(*shape, x.shape[-1]).transpose(0, 1)
    y = y.expand(*axes, *y.shape[-2:]).reshape(-1, *y.shape[-2:])
    return x, y, widened(k), widened(a).expand(*axes, n).reshape(-1, n)


def _blocks(x: Tensor, y: Tensor, k: Tensor | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Slices of the first two axes of all pairs, and the squared chords of these."""
    (shared, rows, _), columns = x.shape, y.shape[1]
    pairs = _CACHED_PAIRS if x.device.type == "cpu" else _HELD_PAIRS
    many, few = max(1, pairs // max(1, rows * columns)), max(1, pairs // columns)
    for first in range(0, shared, many):
        i = slice(first, first + many)
        chords = SquaredChords(y[i], None if k is None else k[i])
        for row in range(0, rows, few):
            j = slice(row, row + few)
            yield i, j, chords.of(x[i, j])


def _exponents(squared: Tensor, k: Tensor, a: Tensor) -> Tensor:
    return torch.addcmul(a.unsqueeze(-2), k.unsqueeze(-1), squared, value=-0.5)


class _LogSum(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, k: Tensor, a: Tensor) -> Tensor:
        with torch.no_grad():
            result = torch.empty(k.shape, dtype=k.dtype, device=k.device)
            for i, j, squared in _blocks(x, y, k):
                result[i, j] = torch.logsumexp(_exponents(squared, k[i, j], a[i]), -1)
            return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, result = ctx.saved_tensors
        if torch.is_grad_enabled() or not _in_blocks(grad):
            return _pulled_back_as_recorded(inputs, grad, ctx.needs_input_grad)
        return _pulled_back_in_blocks(inputs, result, grad, ctx.needs_input_grad)


def _pulled_back_as_recorded(
    inputs: list[Tensor], grad: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        x, y, k, a = inputs
        result = _plain(x.unsqueeze(-2), y.unsqueeze(-3), k.unsqueeze(-1), a.unsqueeze(-2))
        wanted = [x for x, is_needed in zip(inputs, needed, strict=True) if is_needed]
        found = iter(torch.autograd.grad(result, wanted, grad, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)


def _pulled_back_in_blocks(
    inputs: list[Tensor], result: Tensor, grad: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    x, y, k, a = inputs
    grads = [
        torch.zeros(z.shape, dtype=k.dtype, device=k.device) if is_needed else None
        for z, is_needed in zip(inputs, needed, strict=True)
    ]
    in_x, in_y, in_k, in_a = grads
    centres = widened(y)
    for i, j, squared in _blocks(x, y, k):
        shares = _exponents(squared, k[i, j], a[i]).sub_(result[i, j].unsqueeze(-1)).exp_()
        shares.mul_(grad[i, j].unsqueeze(-1))
        if in_a is not None:
            in_a[i] += shares.sum(-2)
        if in_k is not None:
            in_k[i, j] = (squared.mul_(shares)).sum(-1) * -0.5
        if in_x is None and in_y is None:
            continue
        pulls, points = shares.mul_(k[i, j].unsqueeze(-1)), widened(x[i, j])
        if in_x is not None:
            in_x[i, j] = pulls @ centres[i] - pulls.sum(-1, keepdim=True) * points
        if in_y is not None:
            in_y[i] += pulls.mT @ points - pulls.sum(-2).unsqueeze(-1) * centres[i]
    return tuple(None if g is None else g.to(z.dtype) for g, z in zip(grads, inputs, strict=True))
