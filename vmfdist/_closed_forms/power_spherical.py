r"""The log-partition of the power spherical law, its derivatives and its divergence.

For a dimension :math:`d \ge 2`, :math:`a = (d - 1)/2`, and a concentration :math:`k \ge 0`

.. math::

    \Phi(k) = \log \mathrm E\Bigl(\frac{1 + w}{2}\Bigr)^k
            = \log \frac{\Gamma(a + k)\, \Gamma(2a)}{\Gamma(2a + k)\, \Gamma(a)} \le 0,

where w is a coordinate of a uniform unit vector: (1 + w)/2 has the law Beta(a, a), and under the
power spherical law of concentration k Beta(a + k, a). Its derivatives are the cumulants of
log((1 + w)/2) under that law.

Method: as for the von Mises-Fisher law, a closed-form leading term without cancellation that is
right at both ends, and a Chebyshev series in :math:`2p - 1`, :math:`p = c / (k + c)`,
:math:`c = \max(a, 1)`, for what it leaves. The leading terms come from Stirling's formula.

Accuracy: docs/accuracy. At most 8 eps (values), 16 (first derivatives) and 64 (second).

References:
    * N. De Cao and W. Aziz (2020), The power spherical distribution, arXiv:2006.04437.
    * DLMF, sections 5.4 to 5.12, https://dlmf.nist.gov/5.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from vmfdist._closed_forms import sphere
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.chebyshev import fit, truncate
from vmfdist._numerics.constants import cached_constant
from vmfdist._numerics.decimals import working_precision
from vmfdist._numerics.elementwise import (
    as_tensors,
    evaluate_series,
    minus_log1p,
    refuse_derivative,
    with_derivative,
)
from vmfdist._numerics.gamma_in_decimals import log_gamma, polygamma
from vmfdist._numerics.infinity import finite, slope_to_point_mass, stand_in, steep, with_point_mass

__all__ = [
    "cosine_entropy",
    "cosine_variance",
    "kl_from_uniform",
    "kl_to_uniform",
    "kl_to_von_mises_fisher",
    "log_partition",
    "log_tilt",
    "mean_cosine",
    "mean_log",
    "one_minus_mean_cosine",
    "tangent_variance",
    "variance_log",
]


def _series_length(dim: int) -> int:
    """Chebyshev nodes that leave every series below at rounding; the least even number of them."""
    return 32 if dim == 2 else 28


@functools.lru_cache(maxsize=128)
@working_precision()
def _leading_constants(dim: int) -> tuple[Decimal, Decimal, Decimal]:
    """g, b and e of the leading terms a log(1 + g k) and a log(1 + b k^2 / (1 + e k)).

    The first has the slope of -Phi at 0. The second agrees with the divergence to second order at 0
    and but for what vanishes at infinity.
    """
    a = Decimal(dim - 1) / 2
    slope = (polygamma(0, 2 * a) - polygamma(0, a)) / a
    bend = (polygamma(1, a) - polygamma(1, 2 * a)) / (2 * a)
    limit = ((log_gamma(a) - log_gamma(2 * a)) / a - 1).exp()
    return slope, bend, bend / limit


@cached_constant(maxsize=1024)
@working_precision()
def _scales(dim: int, dtype: torch.dtype) -> tuple[float, ...]:
    """a, c and the constants of the leading terms: g, b, b/e and 1/e."""
    slope, bend, stretch = _leading_constants(dim)
    leading = tuple(map(float, (slope, bend, bend / stretch, 1 / stretch)))
    a = (dim - 1) / 2
    return (a, max(a, 1.0), *leading, 1.0)


def _leading_rise(a: Any, slope: Any, bend: Any, k: Any) -> Any:
    """Of Phi'(k) - Phi'(0), for tensors and decimals alike: right to first order at 0."""
    return a * slope * (k / (k + slope / (2 * bend)))


@functools.lru_cache(maxsize=128)
@working_precision()
def _fitted_series(dim: int) -> dict[str, tuple[Decimal, ...]]:
    """The corrections of the quantities below, by the name of their series."""
    a = Decimal(dim - 1) / 2
    c = max(a, Decimal(1))
    slope, bend, stretch = _leading_constants(dim)

    @functools.cache
    def corrections(t: Decimal) -> dict[str, Decimal]:
        p = (t + 1) / 2
        k = c * (1 / p - 1)
        x = a + k
        y = x + a
        log_beta = log_gamma(x) + log_gamma(a) - log_gamma(y)
        phi = log_beta - 2 * log_gamma(a) + log_gamma(2 * a)
        at_x, at_y = ([polygamma(n, z) for n in range(3)] for z in (x, y))
        mean, variance, third = (p - q for p, q in zip(at_x, at_y, strict=True))
        leading_divergence = a * (1 + bend * k * k / (1 + stretch * k)).ln()
        product = x * y
        # The entropy of (1 + w)/2, whose law is Beta(x, a), and its derivatives; of w it is log 2
        # more.
        digammas = (x - 1) * at_x[0] + (a - 1) * polygamma(0, a) - (y - 2) * at_y[0]
        entropy_slope = (y - 2) * at_y[1] - (x - 1) * at_x[1]
        entropy_curvature = at_y[1] - at_x[1] + (y - 2) * at_y[2] - (x - 1) * at_x[2]
        cosine_variance = 4 * a * x / (y * y * (y + 1))
        return {
            "partition": (-phi - a * (1 + slope * k).ln()) / (1 - p) ** 2,
            "divergence": (k * mean - phi - leading_divergence) / ((1 - p) ** 2 * p),
            "mean": (-mean / (1 + a / x).ln() - 1) / p,
            "rise": (mean + a * slope - _leading_rise(a, slope, bend, k)) / ((1 - p) ** 2 * p),
            "variance": (variance * product / a - 1) / p,
            "third": (-third * product**2 / (a * (x + y)) - 1) / p,
            "entropy": (4 / cosine_variance).ln() / 2 + log_beta - digammas,
            "entropy slope": entropy_slope * (k + c),
            "entropy curvature": entropy_curvature * (k + c) ** 2,
        }

    names = corrections(Decimal(0)).keys()

    def series(name: str) -> tuple[Decimal, ...]:
        return fit(lambda t: corrections(t)[name], _series_length(dim))

    return {name: series(name) for name in names}


@cached_constant(maxsize=1024)
def _coefficients(dim: int, name: str, dtype: torch.dtype) -> tuple[float, ...]:
    """The series of that name, no longer than the dtype can tell."""
    beside = max(1.0, dim / 4) if name in ("partition", "divergence") else 1.0
    return truncate(_fitted_series(dim)[name], dtype, beside)


class _Geometry:
    """What the formulas share, at k and a dimension."""

    def __init__(self, k: Tensor, dim: int) -> None:
        self.given, self.dim = k, dim
        scales = as_tensors(_scales(dim, k.dtype), k)
        self.a, self.c, self.slope, self.bend, self.limit, self.knee, self.one = scales
        self.k = finite(k)  # unbounded quantities add `excess`
        self.x = self.k + self.a
        self.p, self.q = self.c / (self.k + self.c), self.k / (self.k + self.c)

    @property
    def excess(self) -> Tensor:
        return self.given - self.k  # 0, or infinity

    def log1p_multiple(self, factor: Tensor, x: Tensor) -> Tensor:
        """log1p(factor x), x up to the largest number; in dimension 2 factors are above 1, up to 3.

        There log1p(4y) = log1p(y) + log1p(3y / (1 + y)).
        """
        if self.dim > 2:
            return torch.log1p(factor * x)
        y = factor / 4 * x
        return torch.log1p(y) + torch.log1p(3 * (y / (1 + y)))

    def series(self, name: str) -> Tensor:
        return evaluate_series(_coefficients, self.dim, name, self.p + self.p - self.one)


@with_derivative(lambda k, dim: mean_log(k, dim))
def log_partition(k: Tensor, dim: int) -> Tensor:
    """Phi = -(a log1p(g k) + q^2 e)."""
    g = _Geometry(k, dim)
    return -(g.a * g.log1p_multiple(g.slope, g.k) + g.q * g.q * g.series("partition")) - g.excess


@with_derivative(lambda k, dim: variance_log(k, dim))
def mean_log(k: Tensor, dim: int) -> Tensor:
    """E log((1 + w)/2) = psi(x) - psi(x + a) = -log1p(a/x) (1 + p r), x = a + k."""
    g = _Geometry(k, dim)
    leading = torch.log1p(g.a / g.x)
    return -(leading + leading * (g.p * g.series("mean")))


@with_derivative(lambda k, dim: _third_cumulant_log(k, dim))
def variance_log(k: Tensor, dim: int) -> Tensor:
    """Var log((1 + w)/2) = a / (x (x + a)) (1 + p r)."""
    g = _Geometry(k, dim)
    leading = g.a / (g.x + g.a) / g.x
    return leading + leading * (g.p * g.series("variance"))


@with_derivative(
    refuse_derivative(
        "fourth derivatives of the log normalizer of the power spherical law are not implemented: "
        "differentiate fewer times"
    )
)
def _third_cumulant_log(k: Tensor, dim: int) -> Tensor:
    """-a (2x + a) / (x (x + a))^2 (1 + p r)."""
    g = _Geometry(k, dim)
    y = g.x + g.a
    leading = -(g.a / y / g.x) * ((g.x / y + g.one) / g.x)
    return leading + leading * (g.p * g.series("third"))


@with_derivative(lambda k, dim: finite(k) * variance_log(k, dim))
def kl_to_uniform(k: Tensor, dim: int) -> Tensor:
    """k Phi' - Phi = a log1p(b k^2 / (1 + e k)) + p q^2 f."""
    g = _Geometry(k, dim)
    leading = g.a * g.log1p_multiple(g.limit, g.k * (g.k / (g.k + g.knee)))
    return leading + g.p * g.q * g.q * g.series("divergence") + g.excess


@with_derivative(lambda k, dim: variance_log(k, dim))
def _mean_log_rise(k: Tensor, dim: int) -> Tensor:
    """Phi'(k) - Phi'(0), by a closed form and p q^2 r."""
    g = _Geometry(k, dim)
    leading = _leading_rise(g.a, g.slope, g.bend, g.k)
    return leading + g.p * g.q * g.q * g.series("rise")


@with_derivative(lambda k, dim: _mean_log_rise(k, dim))
def kl_from_uniform(k: Tensor, dim: int) -> Tensor:
    """Phi - k Phi'(0) = a (y - log1p(y)) - q^2 e, y = g k."""
    g = _Geometry(k.clamp(max=stand_in(k.dtype)), dim)  # beyond, g k overflows in dimension 2
    y = g.slope * g.k
    linear = g.a * g.slope * (k - g.k)
    return g.a * minus_log1p(y, 1 + y) - g.q * g.q * g.series("partition") + linear


def _kl_slope_in_first(k1: Tensor, k2: Tensor, separation: Tensor, dim: int) -> Tensor:
    """k1 Phi''(k1) - k2 M'(k1) (1 - separation), with the mean M of the cosine."""
    f1, f2 = finite(k1), finite(k2)
    s = _Shares(f1, dim)
    slope = f1 * variance_log(f1, dim) - f2 / s.y * (2 * s.a) * (1 - separation)
    return slope_to_point_mass(slope, k1, k2, separation)


def _kl_slope_in_second(k1: Tensor, k2: Tensor, separation: Tensor, dim: int) -> Tensor:
    """A(k2) - M(k1) (1 - separation), from the complements where these are the smaller."""
    near = one_minus_mean_cosine(k1, dim) - vmf.one_minus_mean_resultant_length(k2, dim)
    mean = mean_cosine(k1, dim)
    change = torch.where(k2 < dim, vmf.mean_resultant_length(k2, dim) - mean, near)
    return change + mean * separation


@with_derivative(
    _kl_slope_in_first,
    _kl_slope_in_second,
    lambda k1, k2, separation, dim: steep(k2) * mean_cosine(k1, dim),
)
def kl_to_von_mises_fisher(k1: Tensor, k2: Tensor, separation: Tensor, dim: int) -> Tensor:
    """From the power spherical law of k1 to the von Mises-Fisher law of k2.

    KL to uniform + Phi_vMF(k2) - k2 M(k1) (1 - separation), of which the last is half the squared
    distance between the mean directions; above k2 = d/2 without the two terms of size k2.
    """
    f2, mean = finite(k2), mean_cosine(k1, dim)
    spread = f2 * one_minus_mean_cosine(k1, dim)
    log_mode = vmf.log_density_at_mode(f2, dim) + sphere.log_sphere_area(dim)
    rest = torch.where(k2 < dim / 2, vmf.log_partition(f2, dim) - f2 * mean, spread - log_mode)
    result = kl_to_uniform(k1, dim) + rest + f2 * mean * separation
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
    """a and k as shares of y = 2a + k: powers of these stay in range; 2a/y + k/y = 1."""

    def __init__(self, k: Tensor, dim: int) -> None:
        k = finite(k)
        self.y = k + (dim - 1)
        self.a, self.k = (dim - 1) / 2 / self.y, k / self.y


def _mean_cosine_slope(k: Tensor, dim: int) -> Tensor:
    """M' = 2a / y^2."""
    s = _Shares(k, dim)
    return 2 * s.a / s.y


@with_derivative(_mean_cosine_slope)
def mean_cosine(k: Tensor, dim: int) -> Tensor:
    """E w = k / y, y = d - 1 + k, which is M."""
    return _Shares(k, dim).k


def one_minus_mean_cosine(k: Tensor, dim: int) -> Tensor:
    """1 - E w = (d - 1) / (d - 1 + k)."""
    return (dim - 1) / (k + (dim - 1))


def _cosine_variance_curvature(k: Tensor, dim: int) -> Tensor:
    """8a (k (3 y (y + 1) + 1) - a (2y + 1)) / (y^4 (y + 1)^3)."""
    s = _Shares(k, dim)
    rest = 1 / s.y
    change = s.k * (3 + rest * (3 + rest)) - s.a * rest * (2 + rest)
    return 8 * s.a / (s.y + 1) * (change / (s.y + 1)) / (s.y + 1)


@with_derivative(_cosine_variance_curvature)
def _cosine_variance_slope(k: Tensor, dim: int) -> Tensor:
    """-4a (y (a + 2k) + k) / (y^3 (y + 1)^2)."""
    s = _Shares(k, dim)
    return -4 * s.a / (s.y + 1) * ((s.a + s.k * (2 + 1 / s.y)) / (s.y + 1))


@with_derivative(_cosine_variance_slope)
def cosine_variance(k: Tensor, dim: int) -> Tensor:
    """Var w = 4 a x / (y^2 (y + 1)), x = a + k, y = 2a + k."""
    s = _Shares(k, dim)
    return 4 * s.a * ((s.a + s.k) / (s.y + 1))


def _tangent_variance_curvature(k: Tensor, dim: int) -> Tensor:
    """4 (y^3 - a (3 y (y + 1) + 1)) / (y (y + 1))^3."""
    s = _Shares(k, dim)
    rest = 1 / s.y
    change = s.k - s.a * (1 + rest * (3 + rest))
    return 4 / (s.y + 1) * (change / (s.y + 1)) / (s.y + 1)


@with_derivative(_tangent_variance_curvature)
def _tangent_variance_slope(k: Tensor, dim: int) -> Tensor:
    """2 (a - k y) / (y (y + 1))^2."""
    s = _Shares(k, dim)
    return 2 / (s.y + 1) * ((s.a / s.y - s.k) / (s.y + 1))


@with_derivative(_tangent_variance_slope)
def tangent_variance(k: Tensor, dim: int) -> Tensor:
    """E (1 - w^2) / (d - 1) = 2 x / (y (y + 1)), the variance across the mean direction."""
    s = _Shares(k, dim)
    return torch.where(torch.isinf(k), 0.0, 2 * ((s.a + s.k) / (s.y + 1)))


@with_derivative(
    refuse_derivative(
        "third derivatives of the entropy of the power spherical law's cosine are not implemented: "
        "differentiate fewer times"
    )
)
def _cosine_entropy_curvature(k: Tensor, dim: int) -> Tensor:
    """(p/c)^2 r, p/c = 1/(k + c)."""
    g = _Geometry(k, dim)
    return g.p / g.c * (g.p / g.c * g.series("entropy curvature"))


@with_derivative(_cosine_entropy_curvature)
def _cosine_entropy_slope(k: Tensor, dim: int) -> Tensor:
    """p/c r, which changes sign in dimension 2."""
    g = _Geometry(k, dim)
    return g.p / g.c * g.series("entropy slope")


@with_derivative(_cosine_entropy_slope)
def cosine_entropy(k: Tensor, dim: int) -> Tensor:
    """That of the law of w: log(Var w)/2 + r, and r = log(2 pi e)/2 where w is normal."""
    g, s = _Geometry(k, dim), _Shares(k, dim)
    log_variance = torch.log(4 * s.a * (s.a + s.k)) - torch.log(s.y + 1)
    return log_variance / 2 + g.series("entropy") - g.excess
