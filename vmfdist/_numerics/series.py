"""Series that correct closed forms: fitted once a dimension, cut off for each dtype."""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from vmfdist._numerics.chebyshev import clenshaw, fit, horner, powers, truncate
from vmfdist._numerics.constants import as_tensors, cached_constant
from vmfdist._numerics.decimals import working_precision

#: dim -> a function of Chebyshev's x in [-1, 1] that gives the corrections by name.
Corrections = Callable[[Any], Callable[[Decimal], dict[str, Decimal]]]


class Series:
    """The corrections of a law's quantities as Chebyshev series, by dimension and name.

    Args:
        corrections: their values, in decimals.
        length: the number of Chebyshev nodes for a dimension.
        beside: the size of what stands beside a series of that name, of which its error is a share.
    """

    def __init__(
        self,
        corrections: Corrections,
        length: Callable[[Any], int],
        beside: Callable[[Any, str, torch.dtype], float] = lambda *_: 1.0,
    ) -> None:
        @functools.lru_cache(maxsize=128)
        @working_precision()
        def fitted(dim: Any) -> dict[str, tuple[Decimal, ...]]:
            at = functools.cache(corrections(dim))

            def series(name: str) -> tuple[Decimal, ...]:
                return fit(lambda x: at(x)[name], self.length(dim))

            return {name: series(name) for name in at(Decimal(0))}

        @cached_constant(maxsize=1024)
        def coefficients(dim: Any, name: str, dtype: torch.dtype) -> tuple[float, ...]:
            return truncate(self.fitted(dim)[name], dtype, beside(dim, name, dtype))

        @cached_constant(maxsize=1024)
        def in_powers(dim: Any, name: str, dtype: torch.dtype) -> tuple[float, ...]:
            return powers(coefficients(dim, name, dtype)) or ()

        self.length, self.fitted = length, fitted
        self.coefficients, self._in_powers = coefficients, in_powers

    def evaluate(self, dim: float, name: str, x: Tensor) -> Tensor:
        """The series in x, by powers where these do not cancel, else by Clenshaw's recurrence."""
        if coefficients := self._in_powers(dim, name, x.dtype):
            return horner(as_tensors(coefficients, x), x)
        return clenshaw(self.coefficients(dim, name, x.dtype), x)
