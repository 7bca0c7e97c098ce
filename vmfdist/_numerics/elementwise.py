"""Elementwise formulas as differentiable functions, with their series and constants."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vmfdist._numerics.autograd import apply, is_recording
from vmfdist._numerics.chebyshev import clenshaw, horner, powers
from vmfdist._numerics.constants import cached_constant, holds_numbers, in_no_mode, once

__all__ = [
    "Formula",
    "as_tensors",
    "evaluate_series",
    "minus_log1p",
    "refuse_derivative",
    "with_derivative",
]

# On the CPU in eager mode a large tensor goes through in blocks that stay in the cache, since a
# series takes dozens of passes over its memory. From half to twice this size times are alike, at an
# eighth or eight times they are up to three times as long (tests/benchmarks/blocks.py).
_BLOCK = 1 << 15

#: (tensors of one shape ..., constant) -> a tensor of that shape. The constant is hashable, not a
#: tensor: a dimension, or a law of which the tensors are the parameters.
Formula = Callable[..., Tensor]


def _in_blocks(function: Formula, tensors: tuple[Tensor, ...], constant: Any) -> Tensor:
    x = tensors[0]
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.numel() <= 2 * _BLOCK:
        return function(*tensors, constant)
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    blocks = zip(*(t.reshape(-1).split(_BLOCK) for t in (*tensors, result)), strict=True)
    for *block, out in blocks:
        out.copy_(function(*block, constant))
    return result


def with_derivative(*partial_derivatives: Formula | None) -> Callable[[Formula], Formula]:
    """Makes an elementwise formula of one to three tensors a differentiable function of them.

    A partial derivative of None is 0, and ends the chain there.

    Dynamo refuses an autograd.Function with a jvp, which torch.func needs: hence two, one of them
    for tracing. Nor does it bind ``*args`` of a forward within a backward: hence y and z, which may
    be None. The rule for vmap is static since the formula works element by element.
    """
    count = len(partial_derivatives)

    def slots(*tensors: Tensor) -> tuple[Any, ...]:  # None where there is no such tensor
        if count > 1:
            tensors = torch.broadcast_tensors(*tensors)
        return (*tensors, *(None,) * (3 - count))

    def decorate(value: Formula) -> Formula:
        class Traced(torch.autograd.Function):
            @staticmethod
            def forward(constant: Any, x: Any, y: Any, z: Any) -> Tensor:
                with torch.no_grad():  # as in eager mode; Dynamo would record what is within
                    return _in_blocks(value, (x, y, z)[:count], constant)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
                # No derivative of what is 0: times an infinite one it would be NaN.
                ctx.set_materialize_grads(False)
                ctx.constant, x, y, z = inputs
                ctx.save_for_backward(*(x, y, z)[:count])
                ctx.save_for_forward(*(x, y, z)[:count])

            @staticmethod
            def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
                grads: list[Tensor | None] = [None, None, None, None]
                if grad is None:
                    return tuple(grads)
                for i, partial in enumerate(partial_derivatives, start=1):
                    if ctx.needs_input_grad[i] and partial is not None:
                        grads[i] = grad * partial(*ctx.saved_tensors, ctx.constant)
                return tuple(grads)

        class Eager(Traced):
            @staticmethod
            def forward(constant: Any, x: Any, y: Any, z: Any) -> Tensor:
                return _in_blocks(value, (x, y, z)[:count], constant)

            @staticmethod
            def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
                terms = [
                    tangent * partial(*ctx.saved_tensors, ctx.constant)
                    for partial, tangent in zip(partial_derivatives, tangents, strict=False)
                    if tangent is not None and partial is not None
                ]
                zero = torch.zeros_like(ctx.saved_tensors[0])
                return functools.reduce(torch.add, terms) if terms else zero

            @staticmethod
            def vmap(
                info: Any, in_dims: tuple[int | None, ...], constant: Any, *tensors: Any
            ) -> tuple[Tensor, int]:
                leading = (
                    tensor.unsqueeze(0) if axis is None else tensor.movedim(axis, 0)
                    for tensor, axis in zip(tensors[:count], in_dims[1:], strict=False)
                )
                return Eager.apply(constant, *slots(*leading)), 0

        @functools.wraps(value)
        def function(*arguments: Any) -> Tensor:
            *tensors, constant = arguments
            x, y, z = slots(*tensors)
            if torch.compiler.is_compiling():
                if torch.is_grad_enabled():
                    return Traced.apply(constant, x, y, z)
            elif is_recording():
                return apply(Eager, constant, x, y, z)
            return _in_blocks(value, (x, y, z)[:count], constant)

        return function

    return decorate


def refuse_derivative(message: str) -> Formula:
    """A partial derivative that is not implemented."""

    def refuse(*_: Any) -> Tensor:
        raise NotImplementedError(message)

    return refuse


@once(maxsize=1024)
@in_no_mode
def _cached_tensors(
    numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    return torch.tensor(numbers, dtype=dtype, device="cpu").to(device).unbind()


def as_tensors(numbers: tuple[float, ...], like: Tensor) -> tuple[Tensor, ...]:
    """Numbers as tensors, which eager operations take in half the time of Python numbers."""
    # torch.compile trips over float64 constants of one number, and a tensor that stands for others
    # takes none of those that are cached.
    if torch.compiler.is_compiling() or not holds_numbers(like):
        return tuple(torch.full((), x, dtype=like.dtype, device=like.device) for x in numbers)
    return _cached_tensors(numbers, like.dtype, like.device)


#: (dim, name, dtype) -> the Chebyshev coefficients of a series.
Series = Callable[[Any, str, torch.dtype], tuple[float, ...]]


@cached_constant(maxsize=2048)
def _power_coefficients(
    series: Series, dim: float, name: str, dtype: torch.dtype
) -> tuple[float, ...]:
    """The same series in powers; empty where these cancel, in low dimensions."""
    return powers(series(dim, name, dtype)) or ()


def evaluate_series(series: Series, dim: float, name: str, x: Tensor) -> Tensor:
    """A Chebyshev series in x, by the cheaper scheme that keeps its digits."""
    coefficients = _power_coefficients(series, dim, name, x.dtype)
    if coefficients:
        return horner(as_tensors(coefficients, x), x)
    return clenshaw(series(dim, name, x.dtype), x)


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
