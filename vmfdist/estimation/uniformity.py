"""Tests of uniformity."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vmfdist._numerics.precision import in_float64
from vmfdist._resultant import resultant
from vmfdist._validation import check_loc, check_samples, check_weights
from vmfdist.estimation.f_law import chi_squared_survival
from vmfdist.estimation.result import TestResult


@torch.no_grad()
def rayleigh_test(
    samples: Tensor, *, loc: Tensor | None = None, weights: Tensor | None = None
) -> TestResult:
    r"""Rayleigh's test of uniformity, against laws with a mean direction.

    The statistic is :math:`d\, n R^2` with the length R of the mean of n samples. Under the
    uniform law it follows the chi squared law with d degrees of freedom, up to O(1/n). In
    simulations with d = 2, 3 and 10 the test at level 0.05 rejected uniform samples in 0.034 to
    0.046 of all cases with n = 5, 0.045 to 0.048 with n = 20, and 0.049 to 0.052 with n = 100.

    Where the mean direction of the alternative is stated, by ``loc``, this is the V test, which is
    more powerful for it: the statistic is :math:`\sqrt{d n}\, \langle \bar x, \mu\rangle` with the
    mean :math:`\bar x`, which is large where samples lean towards ``loc``, and follows the standard
    normal law.

    Args:
        samples: unit vectors of shape (..., n, d).
        loc: the mean direction of the alternative, unit vectors of shape (..., d); any if not
            given.
        weights: how often each sample was observed, of shape (..., n); once if not given. They are
            counts, and n in the formula is their sum: weights that sum to 1 are one observation.

    Returns:
        Statistic and p-value, of shape (...).

    Raises:
        TypeError: if ``samples`` or ``loc`` is not a float32 or float64 tensor, or ``weights`` not
            a real one.
        ValueError: if ``samples`` has not the shape (..., n, d) or does not hold unit vectors,
            ``loc`` is no direction of dimension d, or ``weights`` do not fit, are negative,
            infinite or NaN, or all 0.

    Example:
        >>> import torch
        >>> from vmfdist.estimation import rayleigh_test
        >>> rayleigh_test(torch.eye(3))  # d n R^2 = 3
        TestResult(statistic=tensor(3.), p_value=tensor(0.3916))
        >>> rayleigh_test(torch.eye(3), loc=torch.tensor([0.6, 0.8, 0.0]))
        TestResult(statistic=tensor(1.4000), p_value=tensor(0.0808))

    References:
        * K. V. Mardia and P. E. Jupp (2000), Directional statistics, sections 6.3.1 and 10.4.1.
    """
    check_samples("samples", samples, Distribution._validate_args)
    validate, dim, dtype = Distribution._validate_args, samples.shape[-1], samples.dtype
    if loc is not None:
        check_loc(loc, dim, validate)
        dtype = torch.promote_types(dtype, loc.dtype)
    check_weights(weights, samples, validate)
    data = resultant(samples, weights)
    if loc is None:
        statistic = dim * data.total * data.length.square()
        p_value = chi_squared_survival(statistic, dim)
    else:
        mean_cosine = data.length * (data.direction * loc).sum(-1)
        statistic = (dim * data.total).sqrt() * mean_cosine
        p_value = torch.special.erfc(statistic / math.sqrt(2)) / 2
    return TestResult(statistic.to(dtype), p_value.to(dtype))


def uniformity_test(
    samples: Tensor, statistic: str = "gine", *, simulations: int = 999, seed: int = 0
) -> TestResult:
    r"""Test of uniformity against laws of all kinds, with or without a mean direction.

    ``statistic`` says what the samples are asked for:

    * ``"bingham"``: their second moments, of which the mean under the uniform law is 1/d,

      .. math:: \frac{n d (d + 2)}2 \Big| \frac 1n \sum_i x_i x_i^T - \frac 1d I \Big|^2,

      which follows the chi squared law with (d - 1)(d + 2)/2 degrees of freedom, up to O(1/n). In
      20 000 simulations each with d = 2, 3 and 10 the test at level 0.05 rejected uniform samples
      in 0.035 to 0.045 of all cases with n = 5, 0.046 to 0.049 with n = 20, and 0.047 to 0.052 with
      n = 100. It sees axes and girdles, and no mean direction.
    * ``"gine"``: the angles :math:`\theta_{ij}` of all pairs, as Giné's F, which is consistent
      against every other law,

      .. math:: \frac{3n}2 - \frac 4{n\pi} \sum_{i<j} \theta_{ij} - \frac{d-1}{2n}
          \Big(\frac{\Gamma(\frac{d-1}2)}{\Gamma(\frac d2)}\Big)^2 \sum_{i<j} \sin \theta_{ij}.
    * ``"projections"``: the components along 50 directions drawn at random, whose Cramér-von Mises
      statistics for the exact law of a component are averaged.

    P-values of the latter two come from simulated uniform samples of the same size,
    :math:`(1 + b)/(1 + m)` if b of m have a statistic at least as large. So they are exact: at a
    level that is a multiple of 1/(1 + m) the test rejects uniform samples just so often. As an
    estimate of the p-value p without limit of m they have a standard error of
    :math:`\sqrt{p (1 - p)/m}`, and cannot fall below 1/(1 + m).

    The statistic is differentiable in the samples, the p-value is not. Giné's takes time
    proportional to :math:`n^2 d`, in blocks of bounded memory unless gradients are recorded.

    Args:
        samples: unit vectors of shape (..., n, d).
        statistic: ``"bingham"``, ``"gine"`` or ``"projections"``.
        simulations: how many samples to simulate for the p-value, m.
        seed: of these and of the directions of projections. Global random numbers are not touched.

    Returns:
        Statistic and p-value, of shape (...).

    Raises:
        TypeError: if ``samples`` is not a float32 or float64 tensor, or ``simulations`` or ``seed``
            no integer.
        ValueError: if it has not the shape (..., n, d) or does not hold unit vectors,
            ``statistic`` is none of these, or ``simulations`` is not positive.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> from vmfdist.estimation import rayleigh_test, uniformity_test
        >>> _ = torch.manual_seed(0)
        >>> along = VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), 5.0).sample((40,))
        >>> axial = along * torch.tensor([1.0, -1.0]).repeat(20).unsqueeze(-1)
        >>> rayleigh_test(axial).p_value > 0.05  # no mean direction
        tensor(True)
        >>> uniformity_test(axial).p_value < 0.05, uniformity_test(axial, "bingham").p_value < 1e-3
        (tensor(True), tensor(True))

    References:
        * C. Bingham (1974), An antipodally symmetric distribution on the sphere, Annals of
          Statistics 2(6), 1201-1225, doi:10.1214/aos/1176342874.
        * E. Giné (1975), Invariant tests for uniformity on compact Riemannian manifolds based on
          Sobolev norms, Annals of Statistics 3(6), 1243-1266, doi:10.1214/aos/1176343283.
        * M. J. Prentice (1978), On invariant tests of uniformity for directions and orientations,
          Annals of Statistics 6(1), 169-176, doi:10.1214/aos/1176344075 (any dimension).
        * E. García-Portugués, P. Navarro-Esteban and J. A. Cuesta-Albertos (2023), On a
          projection-based class of uniformity tests on the hypersphere, Bernoulli 29(1), 181-204,
          doi:10.3150/21-BEJ1454.
    """
    check_samples("samples", samples, Distribution._validate_args)
    if statistic not in list(_STATISTICS):  # what is asked for may have no hash
        raise ValueError(f"statistic must be one of {', '.join(_STATISTICS)}, got {statistic!r}")
    check_simulation(simulations, seed)
    n, dim = samples.shape[-2:]
    function = _STATISTICS[statistic](dim, seed)
    # A length that is rounded in float32 would turn a sample from itself by the root of that.
    found = function(torch.nn.functional.normalize(in_float64(samples), dim=-1))
    with torch.no_grad():
        if statistic == "bingham":
            p_value = chi_squared_survival(found.detach(), (dim - 1) * (dim + 2) // 2)
        else:
            null = _simulated(function, n, dim, simulations, seed).to(found.device)
            p_value = simulated_p_value(found.detach(), null)
    return TestResult(found.to(samples.dtype), p_value.to(samples.dtype))


_Statistic = Callable[[Tensor], Tensor]  # of samples (..., n, d) in float64

#: Angles of this many pairs, or components of samples, are formed at once.
BLOCK_NUMBERS = 1 << 20
_DIRECTIONS = 50


def check_simulation(simulations: Any, seed: Any) -> None:
    """Raises unless p-values can be simulated so."""
    for name, number in (("simulations", simulations), ("seed", seed)):
        if not isinstance(number, Integral) or isinstance(number, bool):
            raise TypeError(f"{name} must be an integer, got {type(number).__name__}")
    if simulations < 1:
        raise ValueError(f"simulations must be positive, got {simulations}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2^63 - 1, got {seed}")


def simulated_p_value(found: Tensor, null: Tensor) -> Tensor:
    """The share of simulated statistics, the one found among them, that are at least as large.

    These lie along the last axis, for all that are found or, with the same axes before, for each.
    """
    slack = 1e-12 * (1 + found.abs())  # equal ones may be rounded differently
    below, total = torch.searchsorted(null.sort().values, found - slack), null.shape[-1] + 1
    # Divided once, so that 5 of 100 are not more than .05.
    return torch.where(found.isnan(), found, (total - below).to(found.dtype) / total)


def _simulated(function: _Statistic, n: int, dim: int, simulations: int, seed: int) -> Tensor:
    """The statistic of samples of uniform directions."""
    generator = torch.Generator().manual_seed(int(seed))
    step = max(1, BLOCK_NUMBERS // (n * max(n, dim, _DIRECTIONS)))
    parts = []
    for first in range(0, simulations, step):
        shape = (min(step, simulations - first), n, dim)
        x = torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")
        parts.append(function(torch.nn.functional.normalize(x, dim=-1)))
    return torch.cat(parts)


def _bingham(dim: int, seed: int) -> _Statistic:
    def statistic(x: Tensor) -> Tensor:
        n = x.shape[-2]
        excess = x.mT @ x / n - torch.eye(dim, dtype=x.dtype, device=x.device) / dim
        return n * dim * (dim + 2) / 2 * excess.square().sum((-2, -1))

    return statistic


def _gine(dim: int, seed: int) -> _Statistic:
    ratio = math.exp(math.lgamma((dim - 1) / 2) - math.lgamma(dim / 2))
    of_sine = (dim - 1) / 2 * ratio**2

    def statistic(x: Tensor) -> Tensor:
        n = x.shape[-2]
        rows = max(1, BLOCK_NUMBERS // max(1, x.shape[:-1].numel()))
        total = x.new_zeros(x.shape[:-2])
        for block in x.split(rows, -2):
            half = (1 - block @ x.mT) / 2  # the squared sine of half the angle
            # Equal and opposite points, up to rounding; their angles have no gradient.
            inside = ((half <= 1e-14) | (half >= 1 - 1e-14)).logical_not()  # NaN stays NaN
            ends = torch.where(half < 0.5, 0.0, 1.0)
            sine = torch.where(inside, torch.where(inside, half, 0.5).sqrt(), ends.to(half))
            angle = 2 * torch.asin(sine)
            pairs = 4 / math.pi * angle + of_sine * torch.sin(angle)
            total = total + pairs.sum((-2, -1)) / 2
        return 1.5 * n - total / n

    return statistic


def component_cdf(w: Tensor, dim: int) -> Tensor:
    r"""P(component of a uniform direction <= w), to a few eps.

    With the power m = (d - 3)/2 of :math:`1 - w^2` in the density and its integral
    :math:`c_m`, integration by parts raises m by 1:

    .. math:: F_m = F_{m-1} + \frac{w (1 - w^2)^m}{(2m + 1)\, c_m}, \qquad
        c_m = \frac{2m}{2m + 1}\, c_{m-1}.
    """
    if dim % 2:
        m, integral, result = 0.0, 2.0, (1 + w) / 2
    else:
        m, integral, result = -0.5, math.pi, 0.5 + torch.asin(w) / math.pi
    rest = (1 - w) * (1 + w)
    while m < (dim - 3) / 2:
        m += 1
        integral *= 2 * m / (2 * m + 1)
        result = result + w * rest**m / ((2 * m + 1) * integral)
    return result


def _projections(dim: int, seed: int) -> _Statistic:
    generator = torch.Generator().manual_seed(int(seed))
    shape, dtype = (_DIRECTIONS, dim), torch.float64
    directions = torch.randn(shape, dtype=dtype, generator=generator, device="cpu")
    directions = torch.nn.functional.normalize(directions, dim=-1)

    def statistic(x: Tensor) -> Tensor:
        n = x.shape[-2]
        component = (directions.to(x.device) @ x.mT).clamp(-1, 1).sort(-1).values
        middle = (torch.arange(n, dtype=x.dtype, device=x.device) + 0.5) / n
        off = (component_cdf(component, dim) - middle).square().sum(-1)
        return 1 / (12 * n) + off.mean(-1)

    return statistic


_STATISTICS: dict[str, Callable[[int, int], _Statistic]] = {
    "bingham": _bingham,
    "gine": _gine,
    "projections": _projections,
}
