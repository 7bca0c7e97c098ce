"""Elementwise formulas as differentiable functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import torch
from torch import Tensor

from vmfdist._numerics.autograd import Differentiable, fixed_in_program, in_program
from vmfdist._numerics.blocks import blocks, go_in_blocks

P = ParamSpec("P")

# On the CPU in eager mode a large tensor goes through in blocks that stay in the cache, since a
# series takes dozens of passes over its memory. From half to twice this size times are alike, at an
# eighth or eight times they are up to three times as long (tests/benchmarks/blocks.py).
_BLOCK = 1 << 15

#: (tensors of one shape ..., constant) -> a tensor of that shape. The constant is hashable, not a
#: tensor: a dimension, or a law of which the tensors are the parameters.
Formula = Callable[..., Tensor]


class _Refusal:
    def __init__(self, message: str) -> None:
        self._message = message

    def __call__(self, *_: Any) -> Tensor:
        raise NotImplementedError(self._message)


class _Formula(Differentiable):
    """An elementwise formula; a partial derivative of None is 0."""

    def __init__(
        self, partial_derivatives: tuple[Formula | None, ...], formula: Callable[..., Tensor]
    ) -> None:
        super().__init__(formula.__name__)
        self._formula, self._partial_derivatives = formula, partial_derivatives
        # An exported program may be without those that nobody asks it for.
        self._to_be_had = tuple(None if isinstance(x, _Refusal) else x for x in partial_derivatives)

    def value(self, tensors: Sequence[Tensor], constant: Any) -> Tensor:
        if not go_in_blocks(tensors[0], 2 * _BLOCK):
            return self._formula(*tensors, constant)
        result = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
        for *block, out in blocks(_BLOCK, *tensors, result):
            out.copy_(self._formula(*block, constant))
        return result

    def along(
        self, i: int, change: Tensor, tensors: Sequence[Tensor], constant: Any
    ) -> Tensor | None:
        if not in_program():
            partial = self._partial_derivatives[i]
            return None if partial is None else change * partial(*tensors, constant)
        partial = self._to_be_had[i]
        if partial is None:
            return None
        with fixed_in_program():
            slope = partial(*tensors, constant)
        return change * torch.nan_to_num(slope, nan=math.nan)  # no infinity times 0


def with_derivative(
    *partial_derivatives: Formula | None,
) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Makes an elementwise formula of one to four tensors a differentiable function of them.

    A partial derivative of None is 0, and ends the chain there.
    """

    def decorate(formula: Callable[..., Tensor]) -> Any:  # with the signature of the formula
        differentiable = _Formula(partial_derivatives, formula)

        @functools.wraps(formula)
        def call(*arguments: Any) -> Tensor:  # a function, which Dynamo traces in every release
            return differentiable(*arguments)

        return call

    return decorate


def refuse_derivative(message: str) -> Formula:
    """A partial derivative that is not implemented."""
    return _Refusal(message)


def _log1p(x: Tensor) -> Tensor:
    return torch.where(x < 1e30, torch.log1p(x), torch.log(x))


#: log(1 + x), for which torch.log1p of torch 2.6 has infinity near the largest number on the CPU,
#: in both dtypes and with AVX2 and AVX-512 alike; that of torch 2.10 is right.
log1p = torch.log1p if torch.__version__ >= "2.10" else _log1p


# The fewest whose remainder is below eps/10 of y - log(1 + y) at y = -1/2, where t^2 = 1/9.
_TERMS_OF_LOG1P = {torch.float64: 16, torch.float32: 7}


def minus_log1p(y: Tensor, one_plus_y: Tensor) -> Tensor:
    """y - log(1 + y) without cancellation, from y and 1 + y, each to full relative accuracy.

    For |y| < 1/2 with t = y / (2 + y): log(1 + y) = 2 atanh(t) (DLMF 4.6.1 and 4.37.24), hence
    y t - 2 t^3 (1/3 + t^2/5 + t^4/7 + ...).
    """
    small = y.abs() < 0.5
    y_small = torch.where(small, y, 0.0)
    t = y_small / (2 + y_small)
    t_squared = t * t
    series = torch.zeros_like(y)
    for j in reversed(range(_TERMS_OF_LOG1P[y.dtype])):
        series = series * t_squared + 1 / (2 * j + 3)
    return torch.where(small, y_small * t - 2 * t * t_squared * series, y - torch.log(one_plus_y))


def nonnegative(x: Tensor) -> Tensor:
    """x, or 0 where it is less; at 0 its derivative is 1, as that of clamp is before torch 2.14."""
    return torch.where(x < 0, 0.0, x)
