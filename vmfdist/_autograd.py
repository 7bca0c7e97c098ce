"""What keeps torch.autograd.Function cheap: for a minibatch it costs as much as its formula."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

__all__ = ["apply", "is_recording"]


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
