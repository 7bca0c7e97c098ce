"""Functions with derivatives of their own, and what may be done in the mode that is active.

What torch has no public name for is asked here, and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Not by torch 2.6, where one by Dynamo (strict=True) cannot be told from torch.compile.
_EXPORT_IS_TOLD = hasattr(torch.compiler, "is_exporting")


def in_transform() -> bool:
    """Whether a transform of torch.func is active."""
    return torch._C._are_functorch_transforms_active()


def is_legacy_batched(x: Tensor) -> bool:
    """Whether x holds a batch of gradients, of is_grads_batched."""
    return torch._C._functorch.is_legacy_batchedtensor(x)


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """``function.apply(*arguments)``, for all arguments of its forward.

    Where no transform of torch.func is active, Function.apply calls that of its base class too; but
    first, each time, it inspects the signature of the forward for defaults.
    """
    if torch.compiler.is_compiling() or in_transform():
        return function.apply(*arguments)
    base: Any = super(torch.autograd.Function, function)
    return base.apply(*arguments)


def is_recording() -> bool:
    """Whether what is computed now may be differentiated, or mapped over, by whatever means.

    If not, a Function's formula can be called without the Function.
    """
    return torch.is_grad_enabled() or in_transform() or forward_ad._current_level >= 0


def is_tracked(x: Tensor) -> bool:
    """Whether something may be differentiated in ``x``, by whatever means."""
    return (
        x.requires_grad
        or torch.compiler.is_compiling()
        or in_transform()
        or forward_ad._current_level >= 0
    )


def in_program() -> bool:
    """Whether a program is exported, which has the operations of a Function's forward alone.

    So that it has first derivatives, these are written out, as operations on changes that are 0.
    """
    if not torch.compiler.is_compiling():
        return False
    if _EXPORT_IS_TOLD:
        return torch.compiler.is_exporting()
    return not torch.compiler.is_dynamo_compiling()


def fixed_in_program() -> contextlib.AbstractContextManager[Any]:
    """What is computed within of detached tensors gets no derivatives in a program.

    It would keep a torch.no_grad(), of which regions that end up empty cannot be loaded. This here
    leaves no trace in it, and does nothing to plain tensors.
    """
    return torch._C.DisableTorchFunctionSubclass() if in_program() else contextlib.nullcontext()


def zero_of(x: Tensor) -> Tensor:
    """Zero, with the derivative 1 in x where it is finite."""
    x = torch.where(x.isfinite(), x, 0.0)
    return x - x.detach()


def may_look_at(x: Tensor) -> bool:
    """Whether Python may ask for a value of x: it has one, and nothing has to be waited for."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not in_transform()
        and not is_legacy_batched(x)
    )


class Differentiable:
    """A function of one to four tensors, which broadcast, and a constant, with its own derivative.

    Its Jacobian in each tensor is symmetric, so that one rule serves both modes, and it treats
    leading axes alike. The constant is hashable, not a tensor: a dimension, or a law of which the
    tensors are the parameters.
    """

    def __init__(self, name: str) -> None:
        # A node of a graph has the name of its class.
        self._traced: type[torch.autograd.Function] = type(name, (_Traced,), {})
        self._eager: type[torch.autograd.Function] = type(name, (_Eager,), {})

    def value(self, tensors: Sequence[Tensor], constant: Any) -> Tensor:
        """The value at tensors of one shape."""
        raise NotImplementedError

    def along(
        self, i: int, change: Tensor, tensors: Sequence[Tensor], constant: Any
    ) -> Tensor | None:
        """The change of the value with that of the i-th tensor; None where it is 0 for good."""
        raise NotImplementedError

    def __call__(self, *arguments: Any) -> Tensor:
        tensors: Sequence[Any]
        *tensors, constant = arguments
        if len(tensors) > 1 and any(x.shape != tensors[0].shape for x in tensors):
            tensors = torch.broadcast_tensors(*tensors)
        if torch.compiler.is_compiling():
            if torch.is_grad_enabled():
                if in_program():
                    return self._in_program(tensors, constant)
                return self._traced.apply(self, constant, *tensors, *(None,) * (4 - len(tensors)))
        elif is_recording():
            return apply(self._eager, self, constant, *tensors)
        return self.value(tensors, constant)

    def _in_program(self, tensors: Sequence[Tensor], constant: Any) -> Tensor:
        if not torch._C._is_torch_function_enabled():  # within fixed_in_program
            return self.value(tensors, constant)
        fixed = [x.detach() for x in tensors]
        with fixed_in_program():
            result = self.value(fixed, constant)
        for i, x in enumerate(tensors):
            change = self.along(i, zero_of(x), fixed, constant)
            if change is not None:
                result = result + change
        return result


class _Traced(torch.autograd.Function):
    """For Dynamo, which refuses a jvp, and does not bind ``*args`` of a forward in a backward."""

    @staticmethod
    def forward(
        function: Differentiable, constant: Any, x1: Any, x2: Any, x3: Any, x4: Any
    ) -> Tensor:
        tensors = [x for x in (x1, x2, x3, x4) if x is not None]
        with torch.no_grad():  # as in eager mode; Dynamo would record what is within
            return function.value(tensors, constant)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        # No derivative of what is 0: times an infinite one it would be NaN.
        ctx.set_materialize_grads(False)
        ctx.function, ctx.constant, *tensors = inputs
        tensors = [x for x in tensors if x is not None]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if grad is not None:
            tensors = ctx.saved_tensors
            for i in range(len(tensors)):
                if ctx.needs_input_grad[2 + i]:
                    grads[2 + i] = ctx.function.along(i, grad, tensors, ctx.constant)
        return tuple(grads)


class _Eager(_Traced):
    """With what torch.func needs. The rule of vmap is static since leading axes are all alike."""

    @staticmethod
    def forward(function: Differentiable, constant: Any, *tensors: Tensor) -> Tensor:
        return function.value(tensors, constant)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Tensor | None) -> Tensor:
        tensors = ctx.saved_tensors
        changes = [
            ctx.function.along(i, tangent, tensors, ctx.constant)
            for i, tangent in enumerate(tangents)
            if tangent is not None
        ]
        terms = [change for change in changes if change is not None]
        return functools.reduce(torch.add, terms) if terms else torch.zeros_like(tensors[0])

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        function: Differentiable,
        constant: Any,
        *tensors: Tensor,
    ) -> tuple[Tensor, int]:
        leading = (
            x.unsqueeze(0) if axis is None else x.movedim(axis, 0)
            for x, axis in zip(tensors, in_dims[2:], strict=True)
        )
        return function(*leading, constant), 0
