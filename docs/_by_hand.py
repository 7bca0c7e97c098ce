r"""What is written by hand where a von Mises-Fisher law is wanted, as formulas.

They were read off public projects (``audit.py`` names them) and are written anew here, from the
mathematics of each, in the dtype that it is computed in. With d the dimension, k the concentration
and the order nu = d/2 - 1, the density of the law at its mode is

.. math:: \log f = k - \log Z, \qquad
    \log Z = \tfrac d2 \log 2\pi - \nu \log k + \log I_\nu(k),

and the slope of log Z in k, which training sees, is the mean cosine
:math:`A = I_{\nu+1}(k) / I_\nu(k)`. A formula below has both, of an array of concentrations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit, gammaln, i0e, iv, ive

__all__ = ["FORMULAS", "SAMPLERS", "Cosine", "Formula", "Sampler", "power_spherical_divergence"]

Array = np.ndarray
OfLaw = Callable[[int, Array], Array]  # of a dimension and concentrations


class Formula(NamedTuple):
    """A way to the log density at the mode and to the mean cosine."""

    name: str
    log_density: OfLaw
    slope: OfLaw
    used: tuple[int, ...] = ()  # the dimensions that it is used in, where the project names some
    known: Callable[[int], bool] = lambda dim: True  # whether there is one for this dimension


def log_z(dim: int, k: Array, log_bessel: Array) -> Array:
    """Log Z, given log I."""
    return dim / 2 * math.log(2 * math.pi) - (dim / 2 - 1) * np.log(k) + log_bessel


# %%
# SciPy's scaled Bessel function, I e^{-k}, which underflows


def scaled(dim: int, k: Array) -> Array:
    """The logarithm of the scaled Bessel function, all in float32."""
    k = k.astype(np.float32)
    return k - log_z(dim, k, k + np.log(ive(np.float32(dim / 2 - 1), k)))


def scaled_slope(dim: int, k: Array) -> Array:
    """The ratio of two of them."""
    k = k.astype(np.float32)
    return ive(np.float32(dim / 2), k) / ive(np.float32(dim / 2 - 1), k)


GUARD = np.float32(1e-6)


def guarded(dim: int, k: Array) -> Array:
    """The same with a guard under each logarithm."""
    k = k.astype(np.float32)
    return k - log_z(dim, k + GUARD, k + np.log(GUARD + ive(np.float32(dim / 2 - 1), k)))


def guarded_slope(dim: int, k: Array) -> Array:
    """Its derivative, by I_nu' = I_{nu-1} - nu I_nu / k."""
    k, nu = k.astype(np.float32), np.float32(dim / 2 - 1)
    bessel = ive(nu, k)
    derivative = ive(nu - 1, k) - bessel * (nu + k) / k
    return 1 + derivative / (GUARD + bessel) - nu / (GUARD + k)


def half_scaled(dim: int, k: Array) -> Array:
    """The scaled function taken for the unscaled one: the value lacks k."""
    return k - log_z(dim, k, np.log(ive(dim / 2 - 1, k)))


def half_scaled_slope(dim: int, k: Array) -> Array:
    """Given beside the value, in float64: the ratio, which does not mind."""
    return ive(dim / 2, k) / ive(dim / 2 - 1, k)


# %%
# A backward recurrence that starts at a fixed order


def ratios(order: int, k: Array) -> tuple[Array, Array]:
    """The sum of log I_i / I_{i-1} up to an order, and the ratio above it; from twice the order.

    I_{i-1} = 2i/k I_i + I_{i+1} (DLMF 10.29.1), with I = 0 above twice the order.
    """
    ratio, total = np.zeros_like(k), np.zeros_like(k)
    above = np.zeros_like(k)
    for i in range(2 * order, 0, -1):
        ratio = 1 / (2 * i / k + ratio)
        if i == order + 1:
            above = ratio
        if i <= order:
            total += np.log(ratio)
    return total, above


def recurrence(dim: int, k: Array) -> Array:
    """Log I from log I_0; the order is cut down to a whole number."""
    total, _ = ratios(int(dim / 2 - 1), k)
    return k - log_z(dim, k, k + np.log(i0e(k)) + total)


def recurrence_slope(dim: int, k: Array) -> Array:
    """The ratio above the order, at most 1."""
    return np.minimum(ratios(int(dim / 2 - 1), k)[1], 1.0)


# %%
# An approximation beyond a switch

SWITCH = 100.0


def bound(dim: int, k: Array) -> Array:
    """Log Z up to a constant, a - b log(a + b): its slope is k / (a + b)."""
    a, b = np.hypot((dim + 1) / 2, k), (dim - 3) / 2
    return a - b * np.log(a + b)


def switched(dim: int, k: Array) -> Array:
    """Exact below the switch, by the unscaled function; the approximation, shifted, above."""
    at, exact = np.array(SWITCH), np.minimum(k, SWITCH)
    shift = log_z(dim, at, np.log(iv(dim / 2 - 1, at))) - bound(dim, at)
    below = log_z(dim, exact, np.log(iv(dim / 2 - 1, exact)))
    return k - np.where(k < SWITCH, below, bound(dim, k) + shift)


def switched_slope(dim: int, k: Array) -> Array:
    """The slopes of both."""
    exact = np.minimum(k, SWITCH)
    below = iv(dim / 2, exact) / iv(dim / 2 - 1, exact)
    above = k / (np.hypot((dim + 1) / 2, k) + (dim - 3) / 2)
    return np.where(k < SWITCH, below, above)


# %%
# A fit with three coefficients

POWERS = {4: 1.1, 8: 1.1, 10: 1.1, 16: 1.1, 32: 1.1, 64: 1.1, 512: 1.5, 1024: 1.9}


@cache
def fit(dim: int) -> Array:
    """-log Z as c_0 + c_1 k + c_2 k^p, by least squares at k = 10, 11 .. 50, beyond d = 64 .. 500.

    Where the scaled Bessel function underflows there is nothing to fit. For d up to 64 these are
    the published coefficients to their last digit, beyond it nearly so.
    """
    k, power = np.arange(10.0, 51.0 if dim <= 64 else 501.0), POWERS[dim]
    bessel = ive(dim / 2 - 1, k)
    k, bessel = k[bessel > 0], bessel[bessel > 0]
    target = -log_z(dim, k, k + np.log(bessel))
    return np.linalg.lstsq(np.stack([k**0, k, k**power], -1), target)[0]


def fitted(dim: int, k: Array) -> Array:
    """The fit of this dimension, above 1024 that of 1024."""
    dim = min(dim, 1024)
    constant, linear, other = fit(dim)
    return k + constant + linear * k + other * k ** POWERS[dim]


def fitted_slope(dim: int, k: Array) -> Array:
    """Its slope."""
    dim = min(dim, 1024)
    _, linear, other = fit(dim)
    return -linear - other * POWERS[dim] * k ** (POWERS[dim] - 1)


# %%
# Asymptotics, and log I left out


def without_bessel(dim: int, k: Array) -> Array:
    """K in place of log I, in float32."""
    k = k.astype(np.float32)
    return k - log_z(dim, k, k)


def without_bessel_slope(dim: int, k: Array) -> Array:
    """Its slope, negative below k = nu."""
    k = k.astype(np.float32)
    return 1 - np.float32(dim / 2 - 1) / k


LOW, HIGH = 2, 12  # where the first series ends and the second begins; a straight blend between


def blended(low: Array, high: Array, k: Array) -> Array:
    """One, the other, or between them."""
    share = np.clip((k - LOW) / np.float32(HIGH - LOW), 0, 1)
    return np.where(share == 0, low, np.where(share == 1, high, low + share * (high - low)))


def two_series(dim: int, k: Array) -> Array:
    """Three terms of the power series, three of the expansion for large k, in float32."""
    k, nu = k.astype(np.float32), np.float32(dim / 2 - 1)
    series = 1 + k**2 / (4 * (nu + 1)) + k**4 / (32 * (nu + 1) * (nu + 2))
    low = nu * np.log(k / 2) - gammaln(nu + 1) + np.log(series)
    m = 4 * nu**2
    expansion = 1 - (m - 1) / (8 * k) + (m - 1) * (m - 9) / (2 * (8 * k) ** 2)
    high = k - np.log(2 * np.float32(math.pi) * k) / 2 + np.log(np.maximum(expansion, 1e-12))
    return k - log_z(dim, k, blended(low, high, k))


def two_series_slope(dim: int, k: Array) -> Array:
    """Series for the ratio, to two and three terms, kept between 1e-6 and 1 less that."""
    k, nu = k.astype(np.float32), np.float32(dim / 2 - 1)
    low = k / (2 * nu + 2) * (1 - k**2 / (2 * (2 * nu + 2) * (2 * nu + 4)))
    high = 1 - (2 * nu + 1) / (2 * k) + (4 * nu**2 - 1) / (8 * k**2)
    return np.clip(blended(low, high, k), np.float32(1e-6), np.float32(1 - 1e-6))


FORMULAS = {
    "scaled": Formula("log of the scaled\nBessel function", scaled, scaled_slope),
    "guarded": Formula("log(1e-6 + scaled)", guarded, guarded_slope, (512,)),
    "half scaled": Formula("scaled for unscaled", half_scaled, half_scaled_slope),
    "recurrence": Formula(
        "recurrence from\ntwice the order",
        recurrence,
        recurrence_slope,
        (128, 1024),
        lambda dim: dim >= 4,  # it needs an order of 1
    ),
    "switched": Formula("approximation\nabove 100", switched, switched_slope, (2, 3)),
    "fitted": Formula(
        "three-term fit", fitted, fitted_slope, known=lambda dim: min(dim, 1024) in POWERS
    ),
    "without": Formula("without log I", without_bessel, without_bessel_slope, (100,)),
    "two series": Formula("two series, blended", two_series, two_series_slope),
}

# %%
# The divergence of a power spherical law


def power_spherical_divergence(dim: int, k: float) -> float:
    """From the uniform law, as minus the entropy plus the log area, in float32.

    Differences of logarithms of gamma functions, which are large where k is.
    """
    k, b = torch.tensor(k), (dim - 1) / 2
    a, pi = k + b, math.log(math.pi)
    log_density = -(a + b) * math.log(2) - b * pi - torch.lgamma(a) + torch.lgamma(a + b)
    minus_entropy = log_density + k * (math.log(2) + torch.digamma(a) - torch.digamma(a + b))
    return (minus_entropy + math.log(2) + dim / 2 * pi - math.lgamma(dim / 2)).item()


# %%
# Samplers
# --------
# Wood (1994): a beta variable e gives the cosine w = (1 - (1 + b) e) / (1 - (1 - b) e), which is
# accepted with a probability that makes its law that of the cosine if b is right. The law that
# comes out, and the derivative of its mean along the accepted proposals, are integrals over e.


class Cosine(NamedTuple):
    """The mean cosine of what is drawn, and the derivative of draws in k, averaged."""

    mean: float
    derivative: float


class Sampler(NamedTuple):
    """A way to draw cosines."""

    name: str
    cosine: Callable[[int, float], Cosine]


def accepted(dim: int, a: float, b: float, d: float) -> tuple[float, float, float]:
    """The probability to accept, and the means of 1 - w and of its derivative in b if so.

    By the trapezoidal rule in the logit of e.
    """
    m = dim - 1
    if not b > 0:
        return 0.0, math.nan, math.nan
    reach = 100 / m + 30 / math.sqrt(m)
    x = np.linspace(-reach, reach, 20_001)
    e, rest = expit(x), expit(-x)
    density = np.exp(m / 2 * (np.log(4 * e) + np.log(rest)))
    below = rest + b * e  # 1 - (1 - b) e
    t = 2 * a * b / below
    weight = density * np.exp(np.minimum(0, m * np.log(t) - t + d))
    total = weight.sum()
    one_minus_w, slope = 2 * b * e / below, 2 * e * rest / below**2
    return (
        total / density.sum(),
        (weight * one_minus_w).sum() / total,
        (weight * slope).sum() / total,
    )


def wood_blended(dim: int, k: float) -> Cosine:
    """B by its expansion for large k above 11, by its formula below 10, between them between.

    In dimension 3, by inversion. All in float64, though it runs in float32.
    """
    if dim == 3:
        decay = math.exp(-2 * k)
        rest = -math.expm1(-2 * k)
        return Cosine((1 + decay) / rest - 1 / k, 1 / k**2 - 4 * decay / rest**2)
    m = dim - 1
    c = math.hypot(2 * k, m)
    b, b_slope = m / (2 * k + c), -m * (2 + 4 * k / c) / (2 * k + c) ** 2
    share, expansion = min(max(k - 10, 0.0), 1.0), m / (4 * k)
    rises = 10 < k < 11
    b_slope = share * -expansion / k + (1 - share) * b_slope + (expansion - b if rises else 0.0)
    b += share * (expansion - b)
    a = (m + 2 * k + c) / 4
    d = 4 * a * b / (1 + b) - m * math.log(m)
    _, one_minus_mean, slope = accepted(dim, a, b, d)
    return Cosine(1 - one_minus_mean, -slope * b_slope)


PROPOSALS = 100


def wood_float32(dim: int, k: float) -> Cosine:
    """A, b and d in float32; w = 0 where a hundred proposals have been rejected."""
    k, m = np.float32(k), np.float32(dim - 1)
    c = np.sqrt(4 * k**2 + m**2)
    b, b_slope = (-2 * k + c) / m, (-2 + 4 * k / c) / m
    a = (m + 2 * k + c) / 4
    d = 4 * a * b / (1 + b) - m * np.log(m)
    chance, one_minus_mean, slope = accepted(dim, float(a), float(b), float(d))
    found = -math.expm1(PROPOSALS * math.log1p(-chance)) if chance < 1 else 1.0
    if not found:
        return Cosine(0.0, 0.0)
    return Cosine(found * (1 - one_minus_mean), -found * slope * float(b_slope))


SAMPLERS = {
    "blended": Sampler("b by its expansion\nabove 10", wood_blended),
    "float32": Sampler("b in float32, at most\n100 proposals", wood_float32),
}
