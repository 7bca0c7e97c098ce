r"""Squared chords and scalar products between all pairs of two sets of vectors, as matrix products.

Where values and laws vary along different axes, as ``value.unsqueeze(-2)`` and C mean directions
do, the differences of all pairs would be an array of (values, laws, dim) numbers. Instead

.. math:: |x - y|^2 = |x|^2 + |y|^2 - 2 \langle x, y\rangle

is formed by matrix products in float64, and so are its derivatives. Along axes that both have, and
where there are few pairs, the differences themselves are taken.

The terms cancel where x is near y. So the vectors are split into slices (Ozaki et al.), x = h + m +
r with multiples h of :math:`2^{-24}` and m of :math:`2^{-47}`. Sums of products of multiples are
exact in any order as long as they fit into 53 bits, so the first of

.. math:: \langle h, h'\rangle + (\langle h, m'\rangle + \langle m, h'\rangle)
    + (\langle h, r'\rangle + \langle m, m' + r'\rangle + \langle r, y\rangle)

is exact for unit vectors, the second is in dimensions up to 1024 and all but exact above, and the
last is small: with the squared norms formed likewise, each bracket of the chord is as small as its
terms allow. With h and m held constant this expression has the derivatives of :math:`\langle x,
y\rangle`, of every order.

Accuracy: with n slices, which take n (n + 1)/2 products, squared chords of unit vectors are off by
:math:`2^{-48}`, :math:`2^{-72}` and :math:`2^{-89}` at most, beside a few eps of their own size;
what is smaller is 0. There are as many as keep half the concentration times this below 8 eps. Where
Python may not look at the concentration (on other devices than the CPU, compiled, under vmap) there
is one slice of float32 vectors and two of float64 ones, enough for concentrations up to 5e8 and
1e7. Gradients are off by some 1e-16 in the mean of x - y, whatever the dtype. A device without
float64 (MPS) takes float32 products of two slices, which leave squared chords off by
:math:`2^{-30}`.

References:
    * K. Ozaki, T. Ogita, S. Oishi and S. M. Rump (2012), Error-free transformations of matrix
      multiplication by using fast routines of matrix multiplication, Numerical Algorithms 59,
      doi:10.1007/s11075-011-9478-1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vmfdist._numerics.autograd import apply, is_recording, is_tracked, may_look_at
from vmfdist._numerics.precision import has_float64
from vmfdist._numerics.rows import dot

# Slices but the last are multiples of these powers of 1/2.
_BITS = {torch.float64: (24, 47), torch.float32: (10,)}

# What the squared chord of unit vectors is off by at most, for one slice, two and three.
_ERRORS = {torch.float64: (2.0**-48, 2.0**-72, 2.0**-89), torch.float32: (2.0**-19, 2.0**-30)}

# A block of pairs in float64, which with its temporaries stays in a processor's cache.
_BLOCK = 1 << 17

# Of fewer numbers (pairs times dimension), values or laws the differences cost less.
_FEWEST_NUMBERS, _FEWEST = 1 << 17, 3


def squared_chord(x: Tensor, y: Tensor, k: Tensor | None = None) -> Tensor:
    """|x - y|^2 of vectors that broadcast, to full relative accuracy where these are not crossed.

    Args:
        x: vectors along the last dimension.
        y: the same.
        k: concentrations that the result is to be multiplied by, for which it has to be accurate.
    """
    crossing = _crossing(x, y)
    if crossing is None:
        return (x - y).square().sum(-1)
    slices = _slices_needed(torch.promote_types(x.dtype, y.dtype), x.device, k)
    return crossing.of_pairs(squares=True, slices=slices)


def are_crossed(x: Tensor, y: Tensor) -> bool:
    """Whether the functions here form products of all pairs, where others need a formula too."""
    return _crossing(x, y) is not None


def widened(x: Tensor) -> Tensor:
    """x in the dtype of the products."""
    return x.to(_wide(x.device))


class SquaredChords:
    """|x - y|^2 for vectors y and blocks of x, one after the other: values for sums over pairs.

    What is made of y is made once. The result has the dtype of the products.
    """

    def __init__(self, y: Tensor, k: Tensor | None = None) -> None:
        """For y of shape (batch, columns, dim), and k as above."""
        self._slices = _slices_needed(y.dtype, y.device, k)
        self._factors = _factors(widened(y), self._slices)

    def of(self, x: Tensor) -> Tensor:
        """To x of shape (batch, rows, dim), of shape (batch, rows, columns)."""
        return _chords(_factors(widened(x), self._slices), self._factors)


def inner_product(x: Tensor, y: Tensor) -> Tensor:
    """<x, y> of vectors that broadcast."""
    crossing = _crossing(x, y)
    return dot(x, y) if crossing is None else crossing.of_pairs(squares=False, slices=1)


# --------------------------------------------------------------------------------------------------
# Which axes are whose
# --------------------------------------------------------------------------------------------------


class _Crossing(NamedTuple):
    """Two sets of vectors whose pairs are asked for."""

    x: Tensor  # (shared, rows, dim)
    y: Tensor  # (shared, columns, dim)
    order: tuple[int, ...]  # the axes of the result, as axes of the shared, rows and columns
    sizes: tuple[int, ...]  # of the shared, rows and columns
    shape: tuple[int, ...]  # of the result

    def of_pairs(self, *, squares: bool, slices: int) -> Tensor:
        if _is_plain(self.x, self.y):
            pairs = _pairs(self.x, self.y, squares, slices)
        else:
            dtype = torch.promote_types(self.x.dtype, self.y.dtype)
            arguments = self.x, self.y.double(), dtype, squares, slices
            pairs = apply(_Pairs, *arguments) if is_recording() else _Pairs.forward(*arguments)
        return pairs.reshape(self.sizes).permute(self.order).expand(self.shape)


def _without_copies(x: Tensor, dims: int) -> Tensor:
    """x with so many dimensions, and one of the copies that an expanded axis holds.

    Each copy has a gradient of its own, so that of an expanded tensor is as large as it seems.
    """
    if x.dim() < dims:
        x = x[(None,) * (dims - x.dim())]
    if 0 in x.stride() and not is_tracked(x):
        for axis in range(dims - 1):
            if x.shape[axis] > 1 and x.stride(axis) == 0:
                x = x.narrow(axis, 0, 1)
    return x


def _crossing(x: Tensor, y: Tensor) -> _Crossing | None:
    """The same vectors in three groups of axes, where it pays to form all pairs."""
    compiling = torch.compiler.is_compiling()
    if x.dim() < 2 or y.dim() < 2:
        return None
    if not compiling and x.shape == y.shape and 0 not in x.stride():  # no guard on equal sizes
        return None
    dims = max(x.dim(), y.dim())
    given = x.shape, y.shape
    x, y = _without_copies(x, dims), _without_copies(y, dims)
    axes = range(dims - 1)
    rows = [i for i in axes if y.shape[i] == 1 and x.shape[i] != 1]
    columns = [i for i in axes if x.shape[i] == 1 and y.shape[i] != 1]
    if not rows or not columns:
        return None
    shape = torch.broadcast_shapes(*given)
    shared = [i for i in axes if i not in rows and i not in columns]
    row_sizes, column_sizes = [x.shape[i] for i in rows], [y.shape[i] for i in columns]
    shared_sizes = [x.shape[i] for i in shared]
    r, c, s = (math.prod(sizes) for sizes in (row_sizes, column_sizes, shared_sizes))
    if not compiling and (min(r, c) < _FEWEST or s * r * c * shape[-1] < _FEWEST_NUMBERS):
        return None
    last = dims - 1
    grouped = [*shared, *rows, *columns]
    return _Crossing(
        x.permute(*shared, *columns, *rows, last).reshape(s, r, x.shape[-1]),
        y.permute(*shared, *rows, *columns, last).reshape(s, c, y.shape[-1]),
        tuple(grouped.index(i) for i in axes),
        (*shared_sizes, *row_sizes, *column_sizes),
        tuple(shape[:-1]),
    )


# --------------------------------------------------------------------------------------------------
# All pairs
# --------------------------------------------------------------------------------------------------


def _wide(device: torch.device) -> torch.dtype:
    """Of the products: neither autocast nor TF32 rounds those in float64."""
    return torch.float64 if has_float64(device) else torch.float32


def _slices_needed(dtype: torch.dtype, device: torch.device, k: Tensor | None) -> int:
    errors = _ERRORS[_wide(device)]
    if k is None or not may_look_at(k) or not k.numel():
        return 1 if dtype == torch.float32 and len(errors) > 2 else 2
    allowed = 16 * torch.finfo(dtype).eps
    largest = max(k.detach().max().item(), 1.0)
    return next((n for n, error in enumerate(errors, 1) if largest * error <= allowed), len(errors))


class _Factors(NamedTuple):
    """What one set of vectors gives to a bracket: factors of products with another set."""

    first: Tensor
    second: Tensor
    norm: Tensor  # the product of both, row by row

    def of_block(self, i: slice) -> _Factors:
        return _Factors(*(x[i] for x in self))


def _factors(x: Tensor, slices: int) -> list[_Factors]:
    if slices == 1:
        return [_Factors(x, x, torch.linalg.vector_norm(x, dim=-1, keepdim=True).square())]
    parts, rests = [], [x]  # rests[i] = parts[i] + parts[i + 1] + ...
    for bits in _BITS[x.dtype][: slices - 1]:
        parts.append(torch.round(rests[-1].detach() * 2.0**bits) * 2.0**-bits)
        rests.append(rests[-1] - parts[-1])
    parts.append(rests[-1])
    brackets = [(parts[: n + 1], parts[n::-1]) for n in range(slices - 1)]
    brackets.append((parts, rests[::-1]))
    joined = ([torch.cat(side, -1) for side in bracket] for bracket in brackets)
    return [_Factors(a, b, (a * b).sum(-1, keepdim=True)) for a, b in joined]


def _chords(rows: list[_Factors], columns: list[_Factors]) -> Tensor:
    """|x - y|^2 of all pairs, in the dtype of the factors."""
    add = torch.add if is_recording() else Tensor.add_
    brackets = (
        add(torch.baddbmm(b.norm.mT, a.first, b.second.mT, alpha=-2), a.norm)
        for a, b in zip(rows, columns, strict=True)
    )
    result = functools.reduce(add, brackets)
    error = _ERRORS[result.dtype][len(rows) - 1]
    if not is_recording():
        return torch.threshold_(result, error, 0.0)
    value = result.detach()
    return result - torch.where(value < error, value, 0.0)  # which keeps the second derivatives


def _pairs(x: Tensor, y: Tensor, squares: bool, slices: int) -> Tensor:
    """|x - y|^2 or <x, y>, of shape (shared, rows, columns), in the dtype of the vectors."""

    def of(x: Tensor, y: Tensor) -> Tensor:
        return _chords(_factors(x, slices), _factors(y, slices)) if squares else x @ y.mT

    dtype, wide = torch.promote_types(x.dtype, y.dtype), _wide(x.device)
    if wide == torch.float64:
        return of(x.double(), y.double()).to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        return of(x, y)


def _pulled_back(grad: Tensor, x: Tensor, y: Tensor, squares: bool) -> Tensor:
    """The gradient in x."""
    if not squares:
        return grad @ y
    return torch.baddbmm(grad.sum(-1, keepdim=True) * x, grad, y, beta=2, alpha=-2)


def _blocks(shape: torch.Size) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes of all pairs, such that each block stays in the cache."""
    shared, rows, columns = shape
    many, few = max(1, _BLOCK // (rows * columns)), max(256, _BLOCK // columns)
    for i in range(0, shared, many):
        for j in range(0, rows, few):
            yield slice(i, i + many), slice(j, j + few)


class _Pairs(torch.autograd.Function):
    """The same in eager mode on the CPU, where an array of pairs in float64 is never held.

    Of y in float64, which is small beside x as a rule and used in every block.
    """

    @staticmethod
    def forward(x: Tensor, y: Tensor, dtype: torch.dtype, squares: bool, slices: int) -> Tensor:
        result = x.new_empty(x.shape[0], x.shape[1], y.shape[1], dtype=dtype)
        with torch.no_grad():
            columns = _factors(y, slices) if squares else []
            for i, j in _blocks(result.shape):
                block = x[i, j].double()
                if squares:
                    rows = _factors(block, slices)
                    result[i, j] = _chords(rows, [factors.of_block(i) for factors in columns])
                else:
                    result[i, j] = block @ y[i].mT
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, _, ctx.squares, _ = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        in_x, in_y, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled() or not may_look_at(grad):
            grad, wide_x = grad.double(), x.double()
            grad_x = _pulled_back(grad, wide_x, y, ctx.squares).to(x.dtype) if in_x else None
            grad_y = _pulled_back(grad.mT, y, wide_x, ctx.squares) if in_y else None
        else:
            grad_x, grad_y = _pulled_back_in_blocks(grad, x, y, ctx.squares, in_x, in_y)
        return grad_x, grad_y, None, None, None


def _pulled_back_in_blocks(
    grad: Tensor, x: Tensor, y: Tensor, squares: bool, in_x: bool, in_y: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients in x and y, each in its dtype."""
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if in_x else None
    grad_y = torch.empty_like(y) if in_y else None
    weights = y.new_zeros(*y.shape[:-1], 1)
    for i, j in _blocks(grad.shape):
        block, wide_x = grad[i, j].double(), x[i, j].double()
        if grad_x is not None:
            grad_x[i, j] = _pulled_back(block, wide_x, y[i], squares)
        if grad_y is not None:
            so_far, weight = 0 if j.start == 0 else 1, -2 if squares else 1
            grad_y[i].baddbmm_(block.mT, wide_x, beta=so_far, alpha=weight)
            weights[i] += block.sum(-2).unsqueeze(-1)
    if grad_y is not None and squares:
        grad_y.addcmul_(weights, y, value=2)
    return grad_x, grad_y


def _is_plain(x: Tensor, y: Tensor) -> bool:
    """Whether derivatives of all kinds are to be had, for which torch's own operations serve."""
    return not (may_look_at(x) and may_look_at(y)) or forward_ad._current_level >= 0
