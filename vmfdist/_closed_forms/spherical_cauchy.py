r"""The spherical Cauchy law: moments and divergences as functions of a hyperbolic distance.

The density is proportional to :math:`(1 + \rho^2 - 2\rho w)^{1-d}`. With
:math:`\rho = \tanh(k/2)`, where k is the hyperbolic distance of :math:`\rho\mu` from the centre of
the unit ball, and :math:`w = \tanh(k - u)`, u has the same law at every k, that of a uniform unit
vector (Kato and McCullagh 2020: the law is the image of the uniform one under a Moebius map). In k
all is smooth, 0 is the uniform law and infinity the point mass, and with T = E (1 - w^2) / (d - 1)
and C = Var w

.. math::

    D' = (d - 1) M, \qquad M' = (d - 1) T, \qquad T = 1 - M \coth k,

where M = E w is the mean, and D the divergence to the uniform law, which by symmetry is that from
it, too. The entropy of w is that of a uniform unit vector's less 2 D / (d - 1).

Method: a closed-form leading term that has the limits at both ends, times a Chebyshev series in
:math:`2p - 1`, :math:`p = c / (k + c)`, which is of one sign; derivatives are series of their own.
The series are fitted to values that follow, with :math:`y = \tanh^2 k`, from

.. math::

    G = {}_2F_1(1, \tfrac32; \tfrac d2 + 1; y) = d \cosh^2 k\, T, \qquad
    N = {}_2F_1(1, \tfrac52; \tfrac d2 + 1; y)

by their power series or, where these take long, by recurrence in the dimension (the relations of
Gauss, DLMF 15.5.11 to 15.5.18) from 2 and 3, where both are elementary.

Accuracy: docs/accuracy. At most 8 eps (values), 16 (first derivatives) and 64 (second).

References:
    * S. Kato and P. McCullagh (2020), Some properties of a Cauchy family on the sphere derived from
      the Moebius transformations, Bernoulli 26(4), 3224-3248, doi:10.3150/20-BEJ1222.
    * DLMF, sections 15.2 and 15.5, https://dlmf.nist.gov/15.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vmfdist._numerics.constants import cached_constant
from vmfdist._numerics.decimals import DIGITS, working_precision
from vmfdist._numerics.elementwise import refuse_derivative, with_derivative
from vmfdist._numerics.gamma_in_decimals import log_gamma, polygamma
from vmfdist._numerics.infinity import finite, steep
from vmfdist._numerics.series import Series

# Chebyshev nodes that leave every series below at rounding, and c, by trial, which takes the fewest
# terms: exp(-k) is what a series in p is slow to follow.
_NODES = 96
_SCALE = 4

# From this dimension on the power series are short at y = 1 too.
_HIGH_DIM = 64


class _Functions(NamedTuple):
    g: Decimal
    n: Decimal
    log_mean: Decimal  # E log(1 + tanh(k) w) over uniform unit vectors


def _by_power_series(y: Decimal, dim: int) -> _Functions:
    g = n = term_g = term_n = term_h = Decimal(1)
    h, half, j = Decimal(0), Decimal(dim) / 2, 0
    while term_n > Decimal(10) ** -DIGITS:
        j += 1
        term_h *= y * (2 * j - 1) / (2 * (half + j - 1))
        term_g *= y * (2 * j + 1) / (2 * (half + j))
        term_n *= y * (2 * j + 3) / (2 * (half + j))
        h, g, n = h - term_h / (2 * j), g + term_g, n + term_n
    return _Functions(g, n, h)


def _by_recurrence(k: Decimal, y: Decimal, s: Decimal, dim: int) -> _Functions:
    """From dimension 2 or 3; stable where y = 1 - s^2 is not small."""
    s2 = s * s
    if dim % 2 == 0:
        at, g = 2, 2 / (s * (1 + s))
        n, h = (g + 2) / (3 * s2), ((1 + s) / 2).ln()
    else:
        c = y.sqrt()
        at, g, n = 3, 3 * (k - c) / (c * y), 1 / s2
        more, less = 1 + c, s2 / (1 + c)
        h = (more * more.ln() - less * less.ln()) / (2 * c) - 1
    while at < dim:
        n = 5 * (g - 1) / (3 * y) if at == 3 else (at + 2) * (1 - s2 * n) / ((at - 3) * y)
        g = (at + 2) * (1 - s2 * g) / ((at - 1) * y)
        h += y * g / (at * (at + 2))
        at += 2
    return _Functions(g, n, h)


def _leading_rise(dim: int, power: int, k: Any, y: Any) -> Any:
    """What E (1 - w)^(power/2), over sech^min(d-1, power), rises by, for tensors and decimals."""
    order = dim - 1
    if order < power:
        return 1
    return 1 + k * y if order == power else 1 + y * (power + 1) / (order - power)


def _corrections(dim: int) -> Callable[[Decimal], dict[str, Decimal]]:
    """Of the quantities below, by the name of their series."""
    d = Decimal(dim)

    def corrections(x: Decimal) -> dict[str, Decimal]:
        k = _SCALE * (2 / (x + 1) - 1)
        e2 = (-2 * k).exp()
        s, y = 2 * (-k).exp() / (1 + e2), ((1 - e2) / (1 + e2)) ** 2
        s2 = s * s
        if dim >= _HIGH_DIM or y < Decimal("0.5"):
            g, n, h = _by_power_series(y, dim)
        else:
            g, n, h = _by_recurrence(k, y, s, dim)
        log_cosh = k + ((1 + e2) / 2).ln()
        tangent = s2 * g / d
        variance = s2 * s2 * (3 * n - y * g * g / d - 2 * g) / d
        # r = (1 - 1/g) d / (3y), and 1 - r without cancellation where s is small
        rest = (1 / g - s2) / y if dim == 3 else s2 * (n * (d - 3 * y) - d) / y / (d - 3 * s2 * n)
        r = 1 - rest
        slope = 3 * r - 1
        share = (d - 1) * tangent / variance
        shrinking = share * (3 * rest - 2 * tangent)
        change = 3 * (d * rest / g - 2 * r * s2) - 2 * y * tangent * slope
        lead, lead2 = (
            s ** min(dim - 1, power) * _leading_rise(dim, power, k, y) / d for power in (2, 4)
        )
        return {
            "divergence": (log_cosh + h) * (k + _SCALE) / (k * k),
            "tangent": tangent / lead,
            "tangent slope": slope,
            "tangent curvature": y * slope * slope + s2 * (1 + 3 * r) - 3 * d * rest / g,
            "variance": variance / lead2,
            "variance slope": shrinking,
            "variance curvature": share * change - shrinking * (s2 - y * slope),
        }

    return corrections


_SERIES = Series(_corrections, lambda dim: _NODES)


def _series(name: str, k: Tensor, dim: int) -> Tensor:
    p = _SCALE / (finite(k) + _SCALE)
    return _SERIES.evaluate(dim, name, p + p - 1)


def _leading(k: Tensor, dim: int, power: int) -> Tensor:
    """What E (1 - w^2)^(power/2) is like: sech^min(d-1, power) and what it rises by, over d."""
    k, fall = finite(k), min(dim - 1, power)
    e2, y = torch.exp(-2 * k), torch.tanh(k).square()
    # 3 k would be rounded, by up to k/2 eps of the result; 2 k is not.
    e_fall = e2 * torch.exp(-k) if fall == 3 else torch.exp(-fall * k)
    # A power multiplies the rounding of what it is of, which near 1 is least of 1 - y.
    sech = torch.where(y < 0.2, (1 - y) ** (fall / 2), e_fall * (2 / (1 + e2)) ** fall)
    return sech * _leading_rise(dim, power, k, y) / dim


@with_derivative(
    lambda rho, _: steep(4 * rho / ((1 - rho) * (1 + rho)).square()),
)
def _distance_slope(rho: Tensor, _: None) -> Tensor:
    return steep(2 / ((1 - rho) * (1 + rho)))


@with_derivative(_distance_slope)
def _distance(rho: Tensor, _: None) -> Tensor:
    return 2 * torch.atanh(rho)


def distance(rho: Tensor) -> Tensor:
    """k = 2 artanh(rho) = log((1 + rho) / (1 - rho)), infinite at 1, with a finite slope there."""
    return _distance(rho, None)


_refuse = refuse_derivative(
    "third derivatives of the variances of the spherical Cauchy law are not implemented: "
    "differentiate fewer times"
)


def _across(k: Tensor, dim: int) -> Tensor:
    return _leading(k, dim, 2) * _series("tangent", k, dim)


@with_derivative(_refuse)
def _tangent_variance_curvature(k: Tensor, dim: int) -> Tensor:
    return _across(k, dim) * _series("tangent curvature", k, dim)


@with_derivative(_tangent_variance_curvature)
def _tangent_variance_slope(k: Tensor, dim: int) -> Tensor:
    return -_across(k, dim) * torch.tanh(k) * _series("tangent slope", k, dim)


@with_derivative(_tangent_variance_slope)
def tangent_variance(k: Tensor, dim: int) -> Tensor:
    """T = E (1 - w^2) / (d - 1), the variance across the mean direction."""
    return _across(k, dim)


def _along(k: Tensor, dim: int) -> Tensor:
    return _leading(k, dim, 4) * _series("variance", k, dim)


@with_derivative(_refuse)
def _cosine_variance_curvature(k: Tensor, dim: int) -> Tensor:
    return _along(k, dim) * _series("variance curvature", k, dim)


@with_derivative(_cosine_variance_curvature)
def _cosine_variance_slope(k: Tensor, dim: int) -> Tensor:
    return -_along(k, dim) * torch.tanh(k) * _series("variance slope", k, dim)


@with_derivative(_cosine_variance_slope)
def cosine_variance(k: Tensor, dim: int) -> Tensor:
    """C = Var w."""
    return _along(k, dim)


@with_derivative(lambda k, dim: (dim - 1) * tangent_variance(k, dim))
def mean_cosine(k: Tensor, dim: int) -> Tensor:
    """M = E w = tanh(k) (1 - T)."""
    return torch.tanh(k) * (1 - _across(k, dim))


@with_derivative(lambda k, dim: (1 - dim) * tangent_variance(k, dim))
def one_minus_mean_cosine(k: Tensor, dim: int) -> Tensor:
    """1 - M = 1 - tanh(k) + tanh(k) T."""
    return 2 * torch.sigmoid(-2 * k) + torch.tanh(k) * _across(k, dim)


@with_derivative(lambda k, dim: (dim - 1) * mean_cosine(k, dim))
def kl_to_uniform(k: Tensor, dim: int) -> Tensor:
    """D = (d - 1) E log(cosh(k) + sinh(k) v) = (d - 1) k^2/(k + c) series, v a uniform cosine."""
    f = finite(k)
    return (dim - 1) * (f * (f / (f + _SCALE)) * _series("divergence", k, dim)) + (k - f)


def minus_log_gap(k: Tensor) -> Tensor:
    """-log(1 - rho^2) = 2 log cosh(k/2)."""
    low = torch.tanh(k.clamp(max=2) / 2).square()
    high = k + 2 * (torch.log1p(torch.exp(-k)) - math.log(2))
    return torch.where(k < 2, -torch.log1p(-low), high)


@cached_constant(maxsize=1024)
@working_precision()
def _uniform_cosine_entropy(dim: int) -> float:
    """Of w where (1 + w)/2 has the law Beta(lam, lam), lam = (d - 1)/2."""
    lam = Decimal(dim - 1) / 2
    log_beta = 2 * log_gamma(lam) - log_gamma(2 * lam)
    digammas = polygamma(0, lam) - polygamma(0, 2 * lam)
    return float(Decimal(2).ln() + log_beta - 2 * (lam - 1) * digammas)


def cosine_entropy(k: Tensor, dim: int) -> Tensor:
    """That of the law of w, which is that of u plus E log(1 - w^2)."""
    return _uniform_cosine_entropy(dim) - 2 / (dim - 1) * kl_to_uniform(k, dim)


def log_ratio(near: Tensor, k: Tensor, dim: int) -> Tensor:
    """log of the density over the uniform one, from near = |x - loc|^2 = 2 (1 - w).

    (1 - d) log(cosh k - w sinh k) = (d - 1) (k - log(1 + near (e^2k - 1) / 4)).
    """
    low = k.clamp(max=math.log(torch.finfo(k.dtype).max) / 2 - 7)  # beyond, the 1 is 0 or all
    scaled = near * (torch.expm1(2 * low) / 4)
    return (dim - 1) * (torch.where(near > 0, low + low - k, k) - torch.log1p(scaled))
