"""Constants that are computed once: of a dimension, a dtype, a device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["cached_constant", "static"]

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


def static(size: int) -> int:
    """The same number, even where torch.compile has made a symbol of a size that changed.

    The graph then holds for this size only, as it must: it contains coefficients of the dimension.
    """
    return len(range(size))
