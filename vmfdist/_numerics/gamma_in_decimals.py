r"""The logarithm of the gamma function and its derivatives in decimals, to 57 digits.

They are the values that Chebyshev coefficients are fitted to, once per dimension. Method:
Stirling's series (DLMF 5.11.1, 5.11.2 and its derivatives) at an argument of at least 64, reached
by the recurrences :math:`\Gamma(z + 1) = z \Gamma(z)` (DLMF 5.5.1, 5.5.2).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from vmfdist._numerics.decimals import PI, working_precision

# The fewest terms, at that argument, whose error is below that of rounding.
_TERMS = 19
_LOWEST = 64


@functools.cache
@working_precision()
def _bernoulli_numbers() -> tuple[Decimal, ...]:
    """B_2, B_4, ..., by sum_j binomial(n + 1, j) B_j = 0 (DLMF 24.5.3)."""
    numbers = [Fraction(1)]
    for n in range(1, 2 * _TERMS + 1):
        total = sum((math.comb(n + 1, j) * b for j, b in enumerate(numbers)), Fraction(0))
        numbers.append(-total / (n + 1))
    return tuple(Decimal(b.numerator) / Decimal(b.denominator) for b in numbers[2::2])


def _shifted(z: Decimal) -> tuple[Decimal, list[Decimal]]:
    """z + n with the least n that makes it large enough, and z, z + 1, ..., z + n - 1."""
    steps = max(0, math.ceil(_LOWEST - z))
    return z + steps, [z + step for step in range(steps)]


def _series(z: Decimal) -> Iterator[tuple[int, Decimal]]:
    """(2j, B_2j / z^2j) for j = 1, 2, ..."""
    power = z * z
    for j, number in enumerate(_bernoulli_numbers(), start=1):
        yield 2 * j, number / power
        power *= z * z


@working_precision()
def log_gamma(z: Decimal) -> Decimal:
    """log Gamma(z) for z > 0."""
    high, passed = _shifted(z)
    stirling = (high - Decimal("0.5")) * high.ln() - high + (2 * PI).ln() / 2
    tail = sum((term * high / (n * (n - 1)) for n, term in _series(high)), Decimal(0))
    return stirling + tail - math.prod(passed, start=Decimal(1)).ln()


@working_precision()
def polygamma(order: int, z: Decimal) -> Decimal:
    """The derivative of log Gamma of order 1 + ``order``, 0 to 2, at z > 0."""
    high, passed = _shifted(z)
    if order == 0:
        tail = sum((term / n for n, term in _series(high)), Decimal(0))
        return high.ln() - 1 / (2 * high) - tail - sum((1 / x for x in passed), Decimal(0))
    if order == 1:
        tail = sum((term / high for _, term in _series(high)), Decimal(0))
        result = 1 / high + 1 / (2 * high * high) + tail
        return result + sum((1 / x**2 for x in passed), Decimal(0))
    tail = sum(((n + 1) * term / high**2 for n, term in _series(high)), Decimal(0))
    result = -1 / high**2 - 1 / high**3 - tail
    return result - sum((2 / x**3 for x in passed), Decimal(0))
