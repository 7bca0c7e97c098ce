"""What is computed once: constants of a dimension, a dtype, a device; signatures."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = ["cached_constant", "prompt", "static"]

P = ParamSpec("P")
T = TypeVar("T")


def cached_constant(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A least-recently-used cache whose results are constants to torch.compile.

    Dynamo would otherwise trace through the cache into the function, which may be in decimals.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        cached = functools.lru_cache(maxsize=maxsize)(function)

        @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
        @functools.wraps(function)
        def constant(*args: P.args, **kwargs: P.kwargs) -> T:
            return cached(*args, **kwargs)  # type: ignore[arg-type]

        return constant

    return decorate


_Function = TypeVar("_Function", bound=type[torch.autograd.Function])


def prompt(function: _Function) -> _Function:
    """Spares an autograd.Function the inspection of its forward's signature at every call.

    :func:`inspect.signature` takes what is kept in ``__signature__`` (PEP 362); to find it anew
    takes 40 microseconds, as much as twenty small tensor operations.
    """
    forward: Any = function.forward
    forward.__signature__ = inspect.signature(forward)
    return function


def static(size: int) -> int:
    """The same number, even where torch.compile has made a symbol of a size that changed.

    The graph then holds for this size only, as it must: it contains coefficients of the dimension.
    """
    return len(range(size))
