r"""Reference values of the log-partition and the mean resultant length, to 37 digits and more.

These values are what Chebyshev coefficients are fitted to. They are computed once per dimension
with the standard library's :mod:`decimal`, so that the package needs no multiple-precision library
at run time.

For a real dimension :math:`d \ge 1` put :math:`\nu = d/2 - 1`. The two quantities are

.. math::

    \Phi(k) = \log {}_0F_1(; d/2; k^2/4)
            = \log \bigl(\Gamma(\nu + 1) (2/k)^\nu I_\nu(k)\bigr), \qquad
    A(k) = \Phi'(k) = I_{\nu+1}(k) / I_\nu(k).

Method: the uniform (Debye) expansion of :math:`I_N(k)` in :math:`1/N` (DLMF 10.41.3) with 28 terms
at an order :math:`N \ge 64` congruent to :math:`\nu`, then the recurrence
:math:`I_{n-1} = I_{n+1} + (2n/k) I_n` (DLMF 10.29.1) downwards, whose terms are all positive.
Stirling's series for :math:`\Gamma(N + 1)` is the same expansion at :math:`k = 0`, hence no
log-gamma function is needed and :math:`\Phi(0) = 0` exactly.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal
from fractions import Fraction

from vmfdist._numerics.decimals import working_precision

# The fewest terms, and the lowest even order for them, that leave no error above 1.5e-38.
_TERMS = 28
_LOWEST_ORDER = 64


@functools.cache
@working_precision()
def _debye_polynomials() -> tuple[tuple[Decimal, ...], ...]:
    """Coefficients of U_0 .. U_27 in p^2, the factor p^k left out (DLMF 10.41.9)."""
    polynomials = [[Fraction(1)]]
    for k in range(_TERMS):
        following = [Fraction(0)] * (k + 2)
        for j, coefficient in enumerate(polynomials[-1]):
            power = k + 2 * j
            following[j] += coefficient * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            following[j + 1] -= coefficient * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        polynomials.append(following)
    return tuple(
        tuple(Decimal(c.numerator) / Decimal(c.denominator) for c in row) for row in polynomials
    )


@functools.lru_cache(maxsize=256)
def _remainder(order: Decimal, p: Decimal) -> Decimal:
    r"""The series sum_k U_k(p) / order^k of DLMF 10.41.3, p = order / sqrt(k^2 + order^2)."""
    p_squared = p * p
    weight, total = Decimal(1), Decimal(0)
    for coefficients in _debye_polynomials():
        value = Decimal(0)
        for coefficient in reversed(coefficients):
            value = value * p_squared + coefficient
        total += value * weight
        weight *= p / order
    return total


def _log_partition_at_high_order(order: Decimal, k: Decimal) -> Decimal:
    """s - N - N log((N + s) / 2N) + log(sqrt(N/s) U(N/s) / U(1)) with s = sqrt(k^2 + N^2)."""
    s = (k * k + order * order).sqrt()
    series = _remainder(order, order / s) / _remainder(order, Decimal(1))
    return s - order - order * ((order + s) / (2 * order)).ln() + ((order / s).sqrt() * series).ln()


@working_precision()
def log_partition_and_ratio(dim: Decimal, k: Decimal) -> tuple[Decimal, Decimal]:
    """Phi(k) and A(k) for ``dim`` >= 1 and ``k`` > 0."""
    order = dim / 2 - 1
    steps = max(0, math.ceil(_LOWEST_ORDER - order))
    high = order + steps
    log_partition = _log_partition_at_high_order(high, k)
    # I_{N+1}/I_N = k / (2(N+1)) exp(Phi_{N+1} - Phi_N)
    following = _log_partition_at_high_order(high + 1, k)
    ratio = k / (2 * (high + 1)) * (following - log_partition).exp()
    # Downwards: r_{n-1} = 1 / (2n/k + r_n) and Phi_{n-1} = Phi_n + log(1 + r_n k/2n).
    product = Decimal(1)
    for step in range(steps):
        slope = 2 * (high - step) / k
        product *= 1 + ratio / slope
        ratio = 1 / (slope + ratio)
    return log_partition + product.ln(), ratio
