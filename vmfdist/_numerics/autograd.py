"""What keeps torch.autograd.Function cheap, and what may be done in the mode that is active."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["apply", "is_recording", "is_tracked", "may_look_at"]


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """``function.apply(*arguments)``, for all arguments of its forward.

    Where no transform of torch.func is active, Function.apply calls that of its base class too; but
    first, each time, it inspects the signature of the forward for defaults.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    base: Any = super(torch.autograd.Function, function)
    return base.apply(*arguments)


def is_recording() -> bool:
    """Whether what is computed now may be differentiated, or mapped over, by whatever means.

    If not, a Function's formula can be called without the Function.
    """
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def is_tracked(x: Tensor) -> bool:
    """Whether something may be differentiated in ``x``, by whatever means."""
    return (
        x.requires_grad
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def may_look_at(x: Tensor) -> bool:
    """Whether Python may ask for a value of x: it has one, and nothing has to be waited for."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # of is_grads_batched
    )
