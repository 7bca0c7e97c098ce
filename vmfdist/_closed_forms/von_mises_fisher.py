r"""The log-partition of the von Mises-Fisher law, its derivatives, divergences and inverses.

For a real dimension :math:`d \ge 1` and a concentration :math:`k \ge 0` everything follows from

.. math:: \Phi(k) = \log \frac{Z(k)}{Z(0)} = \log {}_0F_1(; d/2; k^2/4), \qquad A = \Phi',

where :math:`Z(k)` integrates :math:`\exp(k \langle x, \mu\rangle)` over the unit sphere of
:math:`\mathbb R^d` and :math:`A(k) = I_{d/2}(k) / I_{d/2-1}(k)` is the mean resultant length.

Method: one regime for all dimensions and concentrations. Each quantity is a closed-form leading
term that is exact at both ends (:math:`k \to 0` and :math:`k \to \infty`) and has no cancellation,
plus or times a smooth correction in

.. math:: p = c / \sqrt{k^2 + c^2} \in (0, 1], \qquad c \propto (d + 1) / 2,

which is a Chebyshev series in :math:`2p - 1` ("series" in the formulas below) whose coefficients
are computed once per dimension (0.02 to 0.5 s) from 60-digit values and cached. The leading terms
are Amos's bound of the ratio of Bessel functions and its integral.

Accuracy: docs/accuracy. The units in the last place lost are at most 8 (values), 16 (first
derivatives, the log density at the mode, the Bregman divergence) and 64 (second derivatives, and
the third of the mean resultant length, which changes sign, beside A''/k).

Every function here takes a float32 or float64 tensor and a Python number ``dim``, works element by
element without synchronising with the host, and is differentiable by reverse and forward mode,
under torch.func and torch.compile. Derivatives are quantities of this module again, never the
derivative of an approximation.

References:
    * DLMF, sections 10.25, 10.40 and 10.41, https://dlmf.nist.gov/10.41.
    * D. E. Amos (1974), Computation of modified Bessel functions and their ratios,
      Mathematics of Computation 28, doi:10.1090/S0025-5718-1974-0333287-7 (the bound).
    * K. Hornik and B. Gruen (2014), movMF, Journal of Statistical Software 58(10),
      doi:10.18637/jss.v058.i10 (bounds of the inverse).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from vmfdist._closed_forms.sphere import log_sphere_area, stirling_remainder
from vmfdist._numerics.bessel_in_decimals import log_partition_and_ratio
from vmfdist._numerics.chebyshev import divided_differences
from vmfdist._numerics.constants import as_tensors, cached_constant, pi
from vmfdist._numerics.decimals import working_precision
from vmfdist._numerics.elementwise import (
    log1p,
    minus_log1p,
    refuse_derivative,
    with_derivative,
)
from vmfdist._numerics.gamma_in_decimals import log_gamma, polygamma
from vmfdist._numerics.infinity import finite, slope_to_point_mass, steep
from vmfdist._numerics.series import Series

# --------------------------------------------------------------------------------------------------
# Constants of a dimension
# --------------------------------------------------------------------------------------------------


def _stretch(dim: float) -> float:
    """c / rho, by trial: a tenth more or less makes the series longer (tests/test_tuning.py)."""
    for bound, stretch in ((3, 2.0), (5, 1.8), (8, 1.6), (12, 1.4), (24, 1.3), (100, 1.1)):
        if dim <= bound:
            return stretch
    return 1.0


def _series_length(dim: float) -> int:
    """Chebyshev nodes that leave every series below at rounding; the least even number of them."""
    bounds = ((3, 80), (8, 60), (24, 46), (128, 34))
    return next((length for bound, length in bounds if dim <= bound), 24)


def _leading_curvature(lam: Any, rho: Any, k: Any, s: Any, b: Any) -> Any:
    """The second derivative of Amos's bound k/b, for tensors and decimals alike."""
    ratio = rho / s
    return -(k / s) * (2 * lam / b + ratio * ratio + 2 * ratio * (rho / b)) / b / b


def _corrections(dim: float) -> Callable[[Decimal], dict[str, Decimal]]:
    """Of the quantities below, by the name of their series."""
    d = Decimal(dim)
    lam, rho = (d - 1) / 2, (d + 1) / 2
    c = Decimal(_stretch(dim)) * rho

    def corrections(x: Decimal) -> dict[str, Decimal]:
        p = (x + 1) / 2
        k = c * (1 / (p * p) - 1).sqrt()
        s = (k * k + rho * rho).sqrt()
        b = lam + s
        y = k * k / (s + rho)
        log_term = lam * (1 + y / d).ln()
        phi, a = log_partition_and_ratio(d, k)
        # Riccati's equation A' = 1 - A^2 - (d-1) A/k (DLMF 10.29.2) and its derivatives.
        slope = 1 - a * a - (d - 1) * a / k
        across_slope = (slope - a / k) / k  # of A/k
        curvature = -2 * a * slope - (d - 1) * across_slope
        across_curvature = (curvature - 2 * across_slope) / k
        third = -2 * (slope * slope + a * curvature) - (d - 1) * across_curvature
        leading_slope = (lam + rho * rho / s) / (b * b)
        partition = phi - y + log_term
        return {
            "partition": partition / (1 - p),
            "partition alone": partition / (1 - p),  # no larger term stands beside
            "bregman": partition,  # whose divided differences are formed
            "divergence": (k * a - phi - log_term - y / b) / (1 - p),
            "ratio": (a * b / k - 1) / (p * p * (1 - p)),
            "slope": (slope / leading_slope - 1) / p,
            "curvature": (curvature / _leading_curvature(lam, rho, k, s, b) - 1) / p,
            "third": third / (leading_slope * leading_slope) * rho / 6,
        }

    return corrections


_NEWTON_STEPS = 5  # from Amos's bound: 1e-11 is left in dimension 2 by one fewer


def _inverse_correction(dim: float) -> Callable[[Decimal], dict[str, Decimal]]:
    """Of the inverse of A, by Newton's method in decimals at every node."""
    d = Decimal(dim)
    lam, rho = (d - 1) / 2, (d + 1) / 2
    c = Decimal(_stretch(dim)) * rho

    def correction(x: Decimal) -> dict[str, Decimal]:
        p = (x + 1) / 2
        start = c * (1 / (p * p) - 1).sqrt()
        target = start / (lam + (start * start + rho * rho).sqrt())
        k = start
        for _ in range(_NEWTON_STEPS):
            _, a = log_partition_and_ratio(d, k)
            k -= (a - target) / (1 - a * a - (d - 1) * a / k)
        return {"inverse": (k / start - 1) / (p * (1 - p))}

    return correction


def _beside(dim: float, name: str, dtype: torch.dtype) -> float:
    if name == "bregman" and dtype == torch.float64:
        return 0.01 * max(1.0, dim / 4)
    return max(1.0, dim / 4) if name in ("partition", "divergence", "bregman") else 1.0


_SERIES = Series(_corrections, _series_length, _beside)
_INVERSE = Series(_inverse_correction, _series_length)


@cached_constant(maxsize=1024)
def _scales(dim: float) -> tuple[float, ...]:
    """lam, rho, c, d and 1."""
    lam, rho = (dim - 1) / 2, (dim + 1) / 2
    return (lam, rho, _stretch(dim) * rho, float(dim), 1.0)


# --------------------------------------------------------------------------------------------------
# Evaluation
# --------------------------------------------------------------------------------------------------


def _hypotenuse(k: Tensor, c: float) -> Tensor:
    """sqrt(k^2 + c^2), without overflow and without copying c from the host."""
    return torch.hypot(k, torch.full((), c, dtype=k.dtype, device=k.device))


class _Geometry:
    """The closed forms that the leading terms share, at k and a dimension."""

    def __init__(self, k: Tensor, dim: float) -> None:
        self.given, self.dim = k, dim
        scales = as_tensors(_scales(dim), k)
        self.lam, self.rho, c, self.d, self.one = scales
        self.k = finite(k)  # unbounded quantities add `excess`
        self.s = torch.hypot(self.k, self.rho)
        self.b = self.s + self.lam
        root = torch.hypot(self.k, c)
        self.p = c / root
        self.q = self.k * (self.k / (root + c)) / root  # 1 - p

    @property
    def excess(self) -> Tensor:
        return self.given - self.k  # 0, or infinity

    @property
    def h(self) -> Tensor:
        return self.rho * (self.rho / (self.s + self.k))  # s - k

    @property
    def slope(self) -> Tensor:
        """L', the derivative of Amos's bound."""
        return (self.lam / self.b + (self.rho / self.s) * (self.rho / self.b)) / self.b

    @property
    def y(self) -> Tensor:
        return self.k * (self.k / (self.s + self.rho))  # s - rho

    def series(self, name: str) -> Tensor:
        series = _INVERSE if name == "inverse" else _SERIES
        return series.evaluate(self.dim, name, self.p + self.p - self.one)


@with_derivative(
    refuse_derivative(
        "fourth derivatives of the mean resultant length I_v/I_{v-1} (fifth derivatives of log I_v "
        "and of log_prob, third ones of the variance) are not implemented: differentiate fewer "
        "times"
    )
)
def mean_resultant_length_third_derivative(k: Tensor, dim: float) -> Tensor:
    """A''' = 6/rho L'^2 series, which changes sign: no leading term stands beside the series."""
    if dim == 1:
        square = 4 * torch.sigmoid(2 * k) * torch.sigmoid(-2 * k)  # of the hyperbolic secant
        return square * (4 - 6 * square)
    if dim < _lowest_fitted():
        return _FromNext(k, dim).third
    g = _Geometry(k, dim)
    leading = g.slope
    return 6 / g.rho * leading * (leading * g.series("third"))


@with_derivative(mean_resultant_length_third_derivative)
def mean_resultant_length_second_derivative(k: Tensor, dim: float) -> Tensor:
    """A'' = L'' (1 + p series)."""
    if dim == 1:
        return -8 * torch.tanh(k) * torch.sigmoid(2 * k) * torch.sigmoid(-2 * k)
    if dim < _lowest_fitted():
        return _FromNext(k, dim).curvature
    g = _Geometry(k, dim)
    leading = _leading_curvature(g.lam, g.rho, g.k, g.s, g.b)
    return leading + leading * (g.p * g.series("curvature"))


@with_derivative(mean_resultant_length_second_derivative)
def mean_resultant_length_derivative(k: Tensor, dim: float) -> Tensor:
    """A' = L' (1 + p series), L' = (lam s + rho^2) / (s b^2); 1/d at k = 0."""
    if dim == 1:
        return 4 * torch.sigmoid(2 * k) * torch.sigmoid(-2 * k)
    if dim < _lowest_fitted():
        return _FromNext(k, dim).slope
    g = _Geometry(k, dim)
    leading = g.slope
    return leading + leading * (g.p * g.series("slope"))


@with_derivative(mean_resultant_length_derivative)
def mean_resultant_length(k: Tensor, dim: float) -> Tensor:
    """A = L (1 + p^2 q series), where L = k/b is Amos's bound; tanh(k) in dimension 1."""
    if dim == 1:
        return torch.tanh(k)
    g = _Geometry(k, dim)
    bound = g.k / g.b
    return bound + bound * (g.p * g.p * g.q * g.series("ratio"))


@with_derivative(lambda k, dim: -mean_resultant_length_derivative(k, dim))
def one_minus_mean_resultant_length(k: Tensor, dim: float) -> Tensor:
    """1 - A = (lam + h)/b - L p^2 q series."""
    if dim == 1:
        return 2 * torch.sigmoid(-2 * k)
    g = _Geometry(k, dim)
    return (g.lam + g.h) / g.b - g.k / g.b * (g.p * g.p * g.q * g.series("ratio"))


@with_derivative(mean_resultant_length)
def log_partition(k: Tensor, dim: float) -> Tensor:
    """Phi = y - lam log1p(y/d) + q series, with y = s - rho."""
    g = _Geometry(k, dim)
    y = g.y
    return y - g.lam * log1p(y / g.d) + g.q * g.series("partition") + g.excess


def _lowest_fitted() -> float:
    """From there on derivatives of A have series.

    As d -> 1 they fall off like exp(-2k) at first, then like lam/k^2, and what a series has to
    correct grows like 1/lam. No sphere has such a dimension, only Bessel ratios have.
    """
    return 1.15


class _FromNext:
    """Derivatives of A by those two dimensions above, with A/k = 1 / (d + k A_{d+2}).

    With the rise (k A_{d+2})' and the rest d - k^2 A_{d+2}', whose derivative is -k times that of
    the rise, and which is d but for rounding: A' = (A/k)^2 rest is right to an error of some eps
    (A/k)^2.
    """

    def __init__(self, k: Tensor, dim: float) -> None:
        self.k, self.across = finite(k), tangent_variance(k, dim)
        a, slope = mean_resultant_length(k, dim + 2), mean_resultant_length_derivative(k, dim + 2)
        curvature = mean_resultant_length_second_derivative(k, dim + 2)
        third = mean_resultant_length_third_derivative(k, dim + 2)
        self.rise = a + self.k * slope
        self.bend, self.turn = 2 * slope + self.k * curvature, 3 * curvature + self.k * third
        self.rest = dim - self.k * (self.k * slope)

    @property
    def slope(self) -> Tensor:
        return self.across * self.across * self.rest

    @property
    def curvature(self) -> Tensor:
        across = self.across
        return -across * across * (2 * across * self.rise * self.rest + self.k * self.bend)

    @property
    def third(self) -> Tensor:
        k, across = self.k, self.across
        inner = 3 * across * self.rise * self.rise * self.rest - self.bend * (
            self.rest - 2 * k * self.rise
        )
        return across * across * (2 * across * inner - self.bend - k * self.turn)


def _tangent_variance_slope(k: Tensor, dim: float) -> Tensor:
    """Minus the square of A/k times the derivative of k A_{d+2}; no terms cancel."""
    variance = tangent_variance(k, dim)
    above = mean_resultant_length(k, dim + 2)
    rise = above + finite(k) * mean_resultant_length_derivative(k, dim + 2)
    return -variance * (variance * rise)


@with_derivative(_tangent_variance_slope)
def tangent_variance(k: Tensor, dim: float) -> Tensor:
    """A/k = 1 / (d + k A_{d+2}), the variance across the mean direction (DLMF 10.29.1)."""
    return 1 / (dim + k * mean_resultant_length(k, dim + 2))


def _kl_slope(k: Tensor, dim: float) -> Tensor:
    """k A'."""
    return finite(k) * mean_resultant_length_derivative(k, dim)


@with_derivative(_kl_slope)
def kl_to_uniform(k: Tensor, dim: float) -> Tensor:
    """k A - Phi = lam log1p(y/d) + y/b + q series, all terms positive."""
    g = _Geometry(k, dim)
    y = g.y
    leading = torch.addcmul(y / g.b, g.lam, log1p(y / g.d))
    return leading.addcmul_(g.q, g.series("divergence")) + g.excess


@with_derivative(one_minus_mean_resultant_length)
def log_density_at_mode(k: Tensor, dim: float) -> Tensor:
    """k - Phi - log|S|; for k > d/2 without its terms of size k and d, which cancel.

    lam log(b / 2 pi) - h - q series + 1/2 - log(2)/2 + delta(d/2), delta Stirling's remainder.
    """
    g = _Geometry(k, dim)
    y = g.y
    correction = g.q * g.series("partition alone")
    phi = torch.addcmul(y + correction, g.lam, log1p(y / g.d), value=-1.0)
    constant = 0.5 - 0.5 * math.log(2) + stirling_remainder(dim)
    above = torch.addcmul(constant - (g.h + correction), g.lam, torch.log(g.b / (2 * pi())))
    return torch.where(g.k < dim / 2, (g.k - phi) - log_sphere_area(dim), above) + g.excess


# The next functions are given the order: the dimension 2 nu + 2 keeps nothing of a small one.


@cached_constant(maxsize=1024)
@working_precision()
def _log_gamma_one_plus(order: float) -> float:
    """log Gamma(1 + nu), from its Taylor series where 1 + nu would be 1."""
    nu = Decimal(order)
    if order < 1e-20:
        return float(nu * (polygamma(0, Decimal(1)) + nu / 2 * polygamma(1, Decimal(1))))
    return float(log_gamma(1 + nu))


def _log_bessel_near_zero(g: _Geometry, order: float, correction: Tensor) -> Tensor:
    """log I_nu(k), all but 0 for small k and nu: Phi + nu log(k/2) - log Gamma(1 + nu)."""
    y = g.y
    phi = y - g.lam * log1p(y / g.d) + correction
    if order == 0:  # at k = 0 the limit is 0 times infinity
        return phi
    return phi + (order * torch.log(g.k / 2) - _log_gamma_one_plus(order))


def _log_bessel_scaled(g: _Geometry, order: float, correction: Tensor) -> Tensor:
    """log(I_nu(k) e^-k), without a term of size k or log-gamma.

    h - nu log1p((lam + h)/k) - log(b/2)/2 + q series - 1/2 - log(2 pi)/2 - delta(d/2).
    """
    h = g.h
    constant = 0.5 + 0.5 * math.log(2 * pi()) + stirling_remainder(g.dim)
    logs = 0.5 * torch.log(g.b / 2)
    if order > 0:
        logs = logs + order * log1p((g.lam + h) / g.k)
    return h - logs + (correction - constant)


def _log_bessel_slope(k: Tensor, order: float) -> Tensor:
    slope = mean_resultant_length(k, 2 * order + 2)
    return slope if order == 0 else slope + order / k


@with_derivative(_log_bessel_slope)
def log_bessel(k: Tensor, order: float) -> Tensor:
    """log I_nu(k)."""
    g = _Geometry(k, 2 * order + 2)
    correction = g.q * g.series("partition alone")
    result = g.k + _log_bessel_scaled(g, order, correction)
    if order < 1:
        result = torch.where(g.k < 1, _log_bessel_near_zero(g, order, correction), result)
    return result + g.excess


def _log_bessel_scaled_slope(k: Tensor, order: float) -> Tensor:
    slope = -one_minus_mean_resultant_length(k, 2 * order + 2)
    return slope if order == 0 else slope + order / k


@with_derivative(_log_bessel_scaled_slope)
def log_bessel_scaled(k: Tensor, order: float) -> Tensor:
    """log(I_nu(k) e^-k)."""
    g = _Geometry(k, 2 * order + 2)
    correction = g.q * g.series("partition alone")
    result = _log_bessel_scaled(g, order, correction)
    if order < 1:
        result = torch.where(g.k < 1, _log_bessel_near_zero(g, order, correction) - g.k, result)
    return result - g.excess


def _inverse(r: Tensor, one_minus_r: Tensor, dim: float) -> Tensor:
    """k0 (1 + p0 q0 series), with k0 the solution of L(k0) = r for Amos's bound L."""
    if dim < 2:
        return _inverse_below_dimension_two(r, one_minus_r, dim)
    lam = (dim - 1) / 2
    product = one_minus_r * (1 + r)
    start = r * (lam + torch.sqrt(lam * lam + dim * product)) / product
    g = _Geometry(start, dim)
    return g.k + g.k * (g.p * g.q * g.series("inverse")) + g.excess


def _inverse_below_dimension_two(r: Tensor, one_minus_r: Tensor, dim: float) -> Tensor:
    """Newton's method in atanh(A), a concave function of k, from below.

    As d -> 1 the inverse passes from atanh(r) to (d - 1) r / (1 - r^2) over a range that no one
    series spans; both are lower bounds. No sphere has such a dimension, only Bessel ratios have.
    """
    lam = (dim - 1) / 2
    target = 0.5 * log1p(2 * r / one_minus_r)  # atanh(r)
    k = torch.maximum(target, 2 * lam * r / (one_minus_r * (1 + r)))
    for _ in range(8 if dim > 1 else 0):
        a, one_minus_a = mean_resultant_length(k, dim), one_minus_mean_resultant_length(k, dim)
        value = 0.5 * log1p(2 * a / one_minus_a)
        # Riccati's equation: d atanh(A)/dk = A' / (1 - A^2) = 1 - 2 lam A / (k (1 - A^2)).
        slope = 1 - 2 * lam * a / (k * (one_minus_a * (1 + a)))
        k = k + (target - value) / torch.maximum(slope, 0.5 / (1 + k))
    k = torch.where(r == 0, 0.0, k)
    return torch.where(one_minus_r == 0, math.inf, k)


def _inverse_slope(r: Tensor, dim: float) -> Tensor:
    return 1 / mean_resultant_length_derivative(inverse_mean_resultant_length(r, dim), dim)


@with_derivative(_inverse_slope)
def inverse_mean_resultant_length(r: Tensor, dim: float) -> Tensor:
    """The k with A(k) = r, for r in [0, 1]; infinite at r = 1."""
    return _inverse(r, 1 - r, dim)


def _inverse_slope_in_complement(rest: Tensor, dim: float) -> Tensor:
    k = inverse_one_minus_mean_resultant_length(rest, dim)
    return -1 / mean_resultant_length_derivative(k, dim)


@with_derivative(_inverse_slope_in_complement)
def inverse_one_minus_mean_resultant_length(rest: Tensor, dim: float) -> Tensor:
    """The k with 1 - A(k) = rest, for rest in [0, 1]: accurate where A is all but 1."""
    return _inverse(1 - rest, rest, dim)


# --------------------------------------------------------------------------------------------------
# The divergence between two laws
# --------------------------------------------------------------------------------------------------


class _Pair:
    """Differences between two concentrations that do not cancel, at a scale c.

    With s_i = sqrt(k_i^2 + c^2), every factor a ratio that stays in range up to the largest number:
    rise = s_2 - s_1, gap = s_1 s_2 - k_1 k_2 - c^2.
    """

    def __init__(self, k1: Tensor, k2: Tensor, c: float) -> None:
        self.delta, self.c = k2 - k1, c
        self.s1, self.s2 = _hypotenuse(k1, c), _hypotenuse(k2, c)
        self.sine1, self.sine2 = k1 / self.s1, k2 / self.s2
        self.p1, self.p2 = c / self.s1, c / self.s2
        self.step1, self.step2 = self.delta / self.s1, self.delta / self.s2
        self._cosine_sum = 1 + self.sine1 * self.sine2 + self.p1 * self.p2
        self._mean = self.s1 / 2 + self.s2 / 2
        self.rise = self.delta * ((k1 / 2 + k2 / 2) / self._mean)

    def gap_over(self, first: Tensor, second: float | Tensor = 1.0) -> Tensor:
        """The gap, c^2 delta^2 / (s1 s2 + k1 k2 + c^2), divided by both."""
        parts = self.c * (self.step1 / first), self.c * (self.step2 / second)
        return parts[0] * parts[1] / self._cosine_sum

    @property
    def inner(self) -> Tensor:
        """s1 (s1 + s2) - k1 (k1 + k2) = 2 c^2 + gap, over s1 + s2."""
        return self.c * (self.c / self._mean) + self.gap_over(self._mean) / 2


class _CorrectionPair(_Pair):
    """The correction of the log-partition, as one series E in x = 2p - 1, at two places."""

    def __init__(self, k1: Tensor, k2: Tensor, dim: float) -> None:
        super().__init__(k1, k2, _stretch(dim) * (dim + 1) / 2)
        coefficients = _SERIES.coefficients(dim, "bregman", k1.dtype)
        x1, x2 = 2 * self.p1 - 1, 2 * self.p2 - 1
        self._swapped = coefficients, x2, x1
        self.dx = -2 * self.p1 * (self.rise / self.s2)  # x2 - x1
        first, self.second112 = divided_differences(coefficients, x1, x2)
        self.slope1 = first - self.dx * self.second112  # E'(x1)

    def second122(self) -> Tensor:
        return divided_differences(*self._swapped)[1]


def _kl_slope_in_first(k1: Tensor, k2: Tensor, separation: Tensor, dim: float) -> Tensor:
    """A'(k1) (k1 - k2 (1 - separation))."""
    f1, f2 = finite(k1), finite(k2)
    variance = mean_resultant_length_derivative(k1, dim)
    slope = variance * (f1 - f2) + variance * f2 * separation
    return slope_to_point_mass(slope, k1, k2, separation)


def _kl_slope_in_second(k1: Tensor, k2: Tensor, separation: Tensor, dim: float) -> Tensor:
    """A(k2) - A(k1) (1 - separation)."""
    change = mean_resultant_length_difference(k1, k2, dim)
    return change + mean_resultant_length(k1, dim) * separation


@with_derivative(
    _kl_slope_in_first,
    _kl_slope_in_second,
    lambda k1, k2, separation, dim: steep(k2) * mean_resultant_length(k1, dim),
)
def kl_to_another(k1: Tensor, k2: Tensor, separation: Tensor, dim: float) -> Tensor:
    """From the law of k1 to that of k2, to full relative accuracy.

    The Bregman divergence Phi(k2) - Phi(k1) - A(k1) (k2 - k1) and k2 A(k1) separation, which is
    half the squared distance between the mean directions.

    Leading part of the first, s at the scale rho: lam (tau - log1p(tau)) + gap / b1 with
    tau = (s2 - s1) / b1.
    Correction: E(x2) - E(x1) - E'(x1) x'(k1) (k2 - k1) by divided differences.
    """
    f1, f2 = finite(k1), finite(k2)
    lam, rho = (dim - 1) / 2, (dim + 1) / 2
    pair = _Pair(f1, f2, rho)
    b1, b2 = lam + pair.s1, lam + pair.s2
    leading = lam * minus_log1p(pair.rise / b1, b2 / b1) + pair.gap_over(b1)
    e = _CorrectionPair(f1, f2, dim)
    # p2 - p1 - p'(k1) (k2 - k1) = c (k1 delta rise - s1 gap) / (s1^3 s2)
    bend = e.p1 * (e.sine1 * e.step2 * (e.rise / e.s1) - e.gap_over(e.s1, e.s2))
    correction = 2 * e.slope1 * bend + e.dx * e.dx * e.second112
    turned = f2 * mean_resultant_length(f1, dim) * separation
    same = (k1 == k2) & (separation == 0)
    return leading + correction + turned + torch.where(same, 0.0, (k1 - f1) + (k2 - f2))


@with_derivative(
    lambda k1, k2, dim: -mean_resultant_length_derivative(k1, dim),
    lambda k1, k2, dim: mean_resultant_length_derivative(k2, dim),
)
def mean_resultant_length_difference(k1: Tensor, k2: Tensor, dim: float) -> Tensor:
    """A(k2) - A(k1), to full relative accuracy.

    Leading part k2/b2 - k1/b1 = delta (lam + (2 rho^2 + gap)/(s1 + s2)) / (b1 b2); correction
    E'(x2) x'(k2) - E'(x1) x'(k1) with x'(k) = -2 c k / s^3.
    """
    k1, k2 = finite(k1), finite(k2)
    lam, rho = (dim - 1) / 2, (dim + 1) / 2
    pair = _Pair(k1, k2, rho)
    leading = pair.delta / (lam + pair.s1) * ((lam + pair.inner) / (lam + pair.s2))
    e = _CorrectionPair(k1, k2, dim)
    slope_change = e.dx * (e.second112 + e.second122())
    x_prime2 = -2 * e.p2 * e.sine2 / e.s2
    # 1/s2^2 - 1/s1^2 = -delta (k1 + k2) / (s1 s2)^2
    turn = e.step1 * (e.inner / e.s2)
    fall = e.sine1 * (e.step1 / e.s2) * (e.p2 * (e.sine1 + k2 / e.s1))
    x_prime_change = -2 * (e.p2 * turn / e.s2 - fall)
    return leading + slope_change * x_prime2 + e.slope1 * x_prime_change


def mean_log_ratio(
    k: Tensor, mean: Tensor, one_minus_mean: Tensor, separation: Tensor, dim: int
) -> Tensor:
    """E log(uniform density / density) = Phi - k M (1 - separation), under another law.

    That has the mean resultant length M, in a direction with the cosine 1 - separation to this
    law's. Above k = d/2 without the two terms of size k.
    """
    f = finite(k)
    log_mode = log_density_at_mode(f, dim) + log_sphere_area(dim)
    rest = torch.where(k < dim / 2, log_partition(f, dim) - f * mean, f * one_minus_mean - log_mode)
    return rest + f * mean * separation
