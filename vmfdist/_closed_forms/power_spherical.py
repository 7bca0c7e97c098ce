r"""The log-partition of the power spherical law, its derivatives and its divergence.

For a dimension :math:`d \ge 2`, :math:`\lambda = (d - 1)/2`, and a concentration :math:`k \ge 0`

.. math::

    \Psi(k) = \log \mathrm E_0 \Bigl(\frac{1 + w}{2}\Bigr)^k
            = \log \frac{\Gamma(\lambda + k)\, \Gamma(2\lambda)}{\Gamma(2\lambda + k)\,
              \Gamma(\lambda)} \le 0,

where w is the cosine of a uniform unit vector: (1 + w)/2 has the law Beta(lambda, lambda), and
under the power spherical law of concentration k Beta(alpha, lambda), alpha = lambda + k. Its
derivatives are the cumulants of log((1 + w)/2) under that law.

Method: as for the von Mises-Fisher law, a closed-form leading term without cancellation that is
right at both ends, and a Chebyshev series in :math:`2p - 1`, :math:`p = c / (k + c)`,
:math:`c = \max(\lambda, 1)`, for what it leaves. The leading terms come from Stirling's formula.

Accuracy: docs/accuracy. At most 8 eps (values), 16 (first derivatives) and 64 (second).

References:
    * N. De Cao and W. Aziz (2020), The power spherical distribution, arXiv:2006.04437.
    * DLMF, sections 5.4 to 5.12, https://dlmf.nist.gov/5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.constants import as_tensors, cached_constant
from vmfdist._numerics.decimals import working_precision
from vmfdist._numerics.elementwise import (
    log1p,
    minus_log1p,
    refuse_derivative,
    with_derivative,
)
from vmfdist._numerics.gamma_in_decimals import log_gamma, polygamma
from vmfdist._numerics.infinity import finite, slope_to_point_mass, stand_in, steep, with_point_mass
from vmfdist._numerics.series import Series


def _series_length(dim: int) -> int:
    """Chebyshev nodes that leave every series below at rounding; the least even number of them."""
    return 32 if dim == 2 else 28


@functools.lru_cache(maxsize=128)
@working_precision()
def _leading_constants(dim: int) -> tuple[Decimal, Decimal, Decimal]:
    """slope, bend and stretch of two leading terms.

    They are lam log(1 + slope k), with the slope of -Psi at 0, and
    lam log(1 + bend k^2 / (1 + stretch k)), which agrees with the divergence to second order at 0
    and but for what vanishes at infinity.
    """
    lam = Decimal(dim - 1) / 2
    slope = (polygamma(0, 2 * lam) - polygamma(0, lam)) / lam
    bend = (polygamma(1, lam) - polygamma(1, 2 * lam)) / (2 * lam)
    limit = ((log_gamma(lam) - log_gamma(2 * lam)) / lam - 1).exp()
    return slope, bend, bend / limit


@cached_constant(maxsize=1024)
@working_precision()
def _scales(dim: int) -> tuple[float, ...]:
    """lam, c, slope, bend, bend/stretch, 1/stretch and 1."""
    slope, bend, stretch = _leading_constants(dim)
    leading = tuple(map(float, (slope, bend, bend / stretch, 1 / stretch)))
    lam = (dim - 1) / 2
    return (lam, max(lam, 1.0), *leading, 1.0)


def _leading_rise(lam: Any, slope: Any, bend: Any, k: Any) -> Any:
    """Of Psi'(k) - Psi'(0), for tensors and decimals alike: right to first order at 0."""
    return lam * slope * (k / (k + slope / (2 * bend)))


def _corrections(dim: int) -> Callable[[Decimal], dict[str, Decimal]]:
    """Of the quantities below, by the name of their series."""
    lam = Decimal(dim - 1) / 2
    c = max(lam, Decimal(1))
    slope, bend, stretch = _leading_constants(dim)

    def corrections(x: Decimal) -> dict[str, Decimal]:
        p = (x + 1) / 2
        k = c * (1 / p - 1)
        alpha = lam + k
        z = alpha + lam
        log_beta = log_gamma(alpha) + log_gamma(lam) - log_gamma(z)
        psi = log_beta - 2 * log_gamma(lam) + log_gamma(2 * lam)
        at_alpha, at_z = ([polygamma(n, at) for n in range(3)] for at in (alpha, z))
        mean, variance, third = (p - q for p, q in zip(at_alpha, at_z, strict=True))
        leading_divergence = lam * (1 + bend * k * k / (1 + stretch * k)).ln()
        product = alpha * z
        # The entropy of (1 + w)/2, whose law is Beta(alpha, lam), and its derivatives; of w it is
        # log 2 more.
        digammas = (alpha - 1) * at_alpha[0] + (lam - 1) * polygamma(0, lam) - (z - 2) * at_z[0]
        entropy_slope = (z - 2) * at_z[1] - (alpha - 1) * at_alpha[1]
        entropy_curvature = at_z[1] - at_alpha[1] + (z - 2) * at_z[2] - (alpha - 1) * at_alpha[2]
        cosine_variance = 4 * lam * alpha / (z * z * (z + 1))
        return {
            "partition": (-psi - lam * (1 + slope * k).ln()) / (1 - p) ** 2,
            "divergence": (k * mean - psi - leading_divergence) / ((1 - p) ** 2 * p),
            "mean": (-mean / (1 + lam / alpha).ln() - 1) / p,
            "rise": (mean + lam * slope - _leading_rise(lam, slope, bend, k)) / ((1 - p) ** 2 * p),
            "variance": (variance * product / lam - 1) / p,
            "third": (-third * product**2 / (lam * (alpha + z)) - 1) / p,
            "entropy": (4 / cosine_variance).ln() / 2 + log_beta - digammas,
            "entropy slope": entropy_slope * (k + c),
            "entropy curvature": entropy_curvature * (k + c) ** 2,
        }

    return corrections


def _beside(dim: int, name: str, dtype: torch.dtype) -> float:
    return max(1.0, dim / 4) if name in ("partition", "divergence") else 1.0


_SERIES = Series(_corrections, _series_length, _beside)


class _Geometry:
    """What the formulas share, at k and a dimension."""

    def __init__(self, k: Tensor, dim: int) -> None:
        self.given, self.dim = k, dim
        scales = as_tensors(_scales(dim), k)
        self.lam, self.c, self.slope, self.bend, self.limit, self.knee, self.one = scales
        self.k = finite(k)  # unbounded quantities add `excess`
        self.alpha = self.k + self.lam
        self.p, self.q = self.c / (self.k + self.c), self.k / (self.k + self.c)

    @property
    def excess(self) -> Tensor:
        return self.given - self.k  # 0, or infinity

    def log1p_multiple(self, factor: Tensor, x: Tensor) -> Tensor:
        """log1p(factor x), x up to the largest number; in dimension 2 factors are above 1, up to 3.

        There log1p(4 x) = log1p(x) + log1p(3 x / (1 + x)).
        """
        if self.dim > 2:
            return log1p(factor * x)
        x = factor / 4 * x
        return log1p(x) + log1p(3 * (x / (1 + x)))

    def series(self, name: str) -> Tensor:
        return _SERIES.evaluate(self.dim, name, self.p + self.p - self.one)


@with_derivative(
    refuse_derivative(
        "fourth derivatives of the log normalizer of the power spherical law are not implemented: "
        "differentiate fewer times"
    )
)
def _third_cumulant_log(k: Tensor, dim: int) -> Tensor:
    """-lam (alpha + z) / (alpha z)^2 (1 + p series), z = alpha + lam."""
    g = _Geometry(k, dim)
    z = g.alpha + g.lam
    leading = -(g.lam / z / g.alpha) * ((g.alpha / z + g.one) / g.alpha)
    return leading + leading * (g.p * g.series("third"))


@with_derivative(_third_cumulant_log)
def variance_log(k: Tensor, dim: int) -> Tensor:
    """Var log((1 + w)/2) = lam / (alpha (alpha + lam)) (1 + p series)."""
    g = _Geometry(k, dim)
    leading = g.lam / (g.alpha + g.lam) / g.alpha
    return leading + leading * (g.p * g.series("variance"))


@with_derivative(variance_log)
def mean_log(k: Tensor, dim: int) -> Tensor:
    """E log((1 + w)/2), psi(alpha) - psi(alpha + lam) = -log1p(lam/alpha) (1 + p series)."""
    g = _Geometry(k, dim)
    leading = torch.log1p(g.lam / g.alpha)
    return -(leading + leading * (g.p * g.series("mean")))


def _inverse_mean_log_slope(level: Tensor, dim: int) -> Tensor:
    return 1 / variance_log(inverse_mean_log(level, dim), dim)


# Rounding is reached with one less (float64, dimensions 2 to 1e6, k from 0 to 1e12).
_NEWTON_STEPS = 5


@with_derivative(_inverse_mean_log_slope)
def inverse_mean_log(level: Tensor, dim: int) -> Tensor:
    """The k with E log((1 + w)/2) = level; 0 where that is below the mean for uniform vectors.

    Newton's method in -1/level, in which k is all but linear: lam (-1/level - 1) in dimension 3,
    from which it starts.
    """
    rest, lam = -level, (dim - 1) / 2
    k = (lam / rest - lam).clamp(min=0)
    for _ in range(_NEWTON_STEPS):
        found = -mean_log(k, dim)
        variance = variance_log(k, dim).clamp(min=torch.finfo(k.dtype).tiny)
        k = (k + found / rest * ((found - rest) / variance)).clamp(min=0)
    return torch.where(rest == 0, math.inf, k)


@with_derivative(mean_log)
def log_partition(k: Tensor, dim: int) -> Tensor:
    """Psi = -(lam log1p(slope k) + q^2 series)."""
    g = _Geometry(k, dim)
    return -(g.lam * g.log1p_multiple(g.slope, g.k) + g.q * g.q * g.series("partition")) - g.excess


@with_derivative(lambda k, dim: finite(k) * variance_log(k, dim))
def kl_to_uniform(k: Tensor, dim: int) -> Tensor:
    """k Psi' - Psi = lam log1p(bend k^2 / (1 + stretch k)) + p q^2 series."""
    g = _Geometry(k, dim)
    leading = g.lam * g.log1p_multiple(g.limit, g.k * (g.k / (g.k + g.knee)))
    return leading + g.p * g.q * g.q * g.series("divergence") + g.excess


@with_derivative(variance_log)
def _mean_log_rise(k: Tensor, dim: int) -> Tensor:
    """Psi'(k) - Psi'(0), by a closed form and p q^2 series."""
    g = _Geometry(k, dim)
    leading = _leading_rise(g.lam, g.slope, g.bend, g.k)
    return leading + g.p * g.q * g.q * g.series("rise")


@with_derivative(_mean_log_rise)
def kl_from_uniform(k: Tensor, dim: int) -> Tensor:
    """Psi - k Psi'(0) = lam (tau - log1p(tau)) - q^2 series, tau = slope k."""
    g = _Geometry(k.clamp(max=stand_in(k.dtype)), dim)  # beyond, tau overflows in dimension 2
    tau = g.slope * g.k
    linear = g.lam * g.slope * (k - g.k)
    return g.lam * minus_log1p(tau, 1 + tau) - g.q * g.q * g.series("partition") + linear


def _kl_slope_in_first(k1: Tensor, k2: Tensor, separation: Tensor, dim: int) -> Tensor:
    """k1 Psi''(k1) - k2 M'(k1) (1 - separation), with the mean M of the cosine."""
    f1, f2 = finite(k1), finite(k2)
    s = _Shares(f1, dim)
    slope = f1 * variance_log(f1, dim) - f2 / s.z * (2 * s.lam) * (1 - separation)
    return slope_to_point_mass(slope, k1, k2, separation)


def _kl_slope_in_second(k1: Tensor, k2: Tensor, separation: Tensor, dim: int) -> Tensor:
    """A(k2) - M(k1) (1 - separation), from the complements where these are the smaller."""
    near = one_minus_mean_cosine(k1, dim) - vmf.one_minus_mean_resultant_length(k2, dim)
    mean = mean_cosine(k1, dim)
    change = torch.where(k2 < dim, vmf.mean_resultant_length(k2, dim) - mean, near)
    return change + mean * separation


def _kl_slope_in_separation(k1: Tensor, k2: Tensor, separation: Tensor, dim: int) -> Tensor:
    return steep(k2) * mean_cosine(k1, dim)


@with_derivative(_kl_slope_in_first, _kl_slope_in_second, _kl_slope_in_separation)
def kl_to_von_mises_fisher(k1: Tensor, k2: Tensor, separation: Tensor, dim: int) -> Tensor:
    """From the power spherical law of k1 to the von Mises-Fisher law of k2.

    KL to uniform + Phi(k2) - k2 M(k1) (1 - separation), of which the last is half the squared
    distance between the mean directions; above k2 = d/2 without the two terms of size k2.
    """
    means = mean_cosine(k1, dim), one_minus_mean_cosine(k1, dim)
    result = kl_to_uniform(k1, dim) + vmf.mean_log_ratio(k2, *means, separation, dim)
    same = torch.isinf(k1) & (separation == 0)
    at_infinity = torch.where(same, 0.0, torch.full_like(k1, math.inf))
    return torch.where(torch.isinf(k2), at_infinity, result.clamp(min=0))  # of equal terms


# --------------------------------------------------------------------------------------------------
# The density
# --------------------------------------------------------------------------------------------------


def _log_half(near: Tensor, far: Tensor) -> Tensor:
    """log((1 + w)/2), from the smaller of the squared distances."""
    return torch.where(near < 2, torch.log1p(near / -4), torch.log(far / 4))


def _log_tilt_slope(far: Tensor, k: Tensor) -> Tensor:
    """k / far; 0 at the antipode, where no side is that of the gradient."""
    return torch.where(far == 0, 0.0, steep(steep(k) / far))


@with_derivative(
    lambda near, far, k, dim: torch.where(near < 2, -_log_tilt_slope(far, k), 0.0),
    lambda near, far, k, dim: torch.where(near < 2, 0.0, _log_tilt_slope(far, k)),
    lambda near, far, k, dim: _log_half(near, far),
)
def log_tilt(near: Tensor, far: Tensor, k: Tensor, dim: int) -> Tensor:
    """k log((1 + w)/2), from the squared distances 2 (1 - w) and 2 (1 + w) of the two poles."""
    level, steep_k = _log_half(near, far), steep(k)
    # 0 times infinity, of either, is NaN in the second product alone.
    result = torch.fmin(steep_k * steep(level), k * level)
    return with_point_mass(result, k, steep_k, near)


# --------------------------------------------------------------------------------------------------
# Moments of the cosine, rational functions of k, and its entropy
# --------------------------------------------------------------------------------------------------


class _Shares:
    """lam and k as shares of z = 2 lam + k: powers of these stay in range; 2 lam/z + k/z = 1."""

    def __init__(self, k: Tensor, dim: int) -> None:
        k = finite(k)
        self.z = k + (dim - 1)
        self.lam, self.k = (dim - 1) / 2 / self.z, k / self.z


def _mean_cosine_slope(k: Tensor, dim: int) -> Tensor:
    """M' = 2 lam / z^2."""
    s = _Shares(k, dim)
    return 2 * s.lam / s.z


@with_derivative(_mean_cosine_slope)
def mean_cosine(k: Tensor, dim: int) -> Tensor:
    """M = E w = k / z, z = d - 1 + k."""
    return _Shares(k, dim).k


def one_minus_mean_cosine(k: Tensor, dim: int) -> Tensor:
    """1 - E w = (d - 1) / (d - 1 + k)."""
    return (dim - 1) / (k + (dim - 1))


def _cosine_variance_curvature(k: Tensor, dim: int) -> Tensor:
    """8 lam (k (3 z (z + 1) + 1) - lam (2 z + 1)) / (z^4 (z + 1)^3)."""
    s = _Shares(k, dim)
    rest = 1 / s.z
    change = s.k * (3 + rest * (3 + rest)) - s.lam * rest * (2 + rest)
    return 8 * s.lam / (s.z + 1) * (change / (s.z + 1)) / (s.z + 1)


@with_derivative(_cosine_variance_curvature)
def _cosine_variance_slope(k: Tensor, dim: int) -> Tensor:
    """-4 lam (z (lam + 2 k) + k) / (z^3 (z + 1)^2)."""
    s = _Shares(k, dim)
    return -4 * s.lam / (s.z + 1) * ((s.lam + s.k * (2 + 1 / s.z)) / (s.z + 1))


@with_derivative(_cosine_variance_slope)
def cosine_variance(k: Tensor, dim: int) -> Tensor:
    """Var w = 4 lam alpha / (z^2 (z + 1)), alpha = lam + k, z = 2 lam + k."""
    s = _Shares(k, dim)
    return 4 * s.lam * ((s.lam + s.k) / (s.z + 1))


def _tangent_variance_curvature(k: Tensor, dim: int) -> Tensor:
    """4 (z^3 - lam (3 z (z + 1) + 1)) / (z (z + 1))^3."""
    s = _Shares(k, dim)
    rest = 1 / s.z
    change = s.k - s.lam * (1 + rest * (3 + rest))
    return 4 / (s.z + 1) * (change / (s.z + 1)) / (s.z + 1)


@with_derivative(_tangent_variance_curvature)
def _tangent_variance_slope(k: Tensor, dim: int) -> Tensor:
    """2 (lam - k z) / (z (z + 1))^2."""
    s = _Shares(k, dim)
    return 2 / (s.z + 1) * ((s.lam / s.z - s.k) / (s.z + 1))


@with_derivative(_tangent_variance_slope)
def tangent_variance(k: Tensor, dim: int) -> Tensor:
    """E (1 - w^2) / (d - 1) = 2 alpha / (z (z + 1)), the variance across the mean direction."""
    s = _Shares(k, dim)
    return torch.where(torch.isinf(k), 0.0, 2 * ((s.lam + s.k) / (s.z + 1)))


@with_derivative(
    refuse_derivative(
        "third derivatives of the entropy of the power spherical law's cosine are not implemented: "
        "differentiate fewer times"
    )
)
def _cosine_entropy_curvature(k: Tensor, dim: int) -> Tensor:
    """(p/c)^2 series, p/c = 1/(k + c)."""
    g = _Geometry(k, dim)
    return g.p / g.c * (g.p / g.c * g.series("entropy curvature"))


@with_derivative(_cosine_entropy_curvature)
def _cosine_entropy_slope(k: Tensor, dim: int) -> Tensor:
    """p/c series, which changes sign in dimension 2."""
    g = _Geometry(k, dim)
    return g.p / g.c * g.series("entropy slope")


@with_derivative(_cosine_entropy_slope)
def cosine_entropy(k: Tensor, dim: int) -> Tensor:
    """That of the law of w: log(Var w)/2 + series, which is log(2 pi e)/2 where w is normal."""
    g, s = _Geometry(k, dim), _Shares(k, dim)
    log_variance = torch.log(4 * s.lam * (s.lam + s.k)) - torch.log(s.z + 1)
    return log_variance / 2 + g.series("entropy") - g.excess
