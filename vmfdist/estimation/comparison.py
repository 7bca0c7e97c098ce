"""Tests of mean directions and of concentrations: of several samples, or one and what is stated."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._closed_forms.natural import polar
from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._numerics.precision import in_float64
from vmfdist._resultant import Resultant, marginal_concentration, resultant
from vmfdist._validation import check_loc, check_samples
from vmfdist.estimation.f_law import chi_squared_survival, f_survival, f_survival_from
from vmfdist.estimation.result import TestResult


@torch.no_grad()
def mean_direction_test(
    *samples: Tensor, loc: Tensor | None = None, equal_concentration: bool = True
) -> TestResult:
    r"""Test whether samples have the same mean direction, or the one that is stated.

    With the resultants :math:`X_j` of r samples, their lengths :math:`S_j`, n vectors in all, and
    the estimate k of the concentration that they share, the statistic is

    .. math:: F = \frac{2 k\, (\sum_j S_j - |\sum_j X_j|)}{(r - 1)(d - 1)}
        \sim F_{(r-1)(d-1),\,(n-r)(d-1)}.

    For high concentration it is that of Watson and Williams (1956), for two samples
    :math:`F = (n-2) (S_1 + S_2 - S) / (n - S_1 - S_2)`; the estimate of k (Schou's, from all
    lengths) makes it hold at low concentration too, where theirs rejects nearly always in high
    dimension.

    ``equal_concentration=False`` allows each sample a concentration :math:`k_j` of its own, whose
    estimate is that of :meth:`vmfdist.VonMisesFisher.fit` with ``bias_corrected=True``. With
    :math:`w_j = k_j S_j` the statistic then is Watson's G over its mean,

    .. math:: G = 2 \Big(\sum_j w_j - \Big|\sum_j \frac{w_j}{S_j} X_j\Big|\Big),

    and follows an F law whose second degrees of freedom allow for the estimates, as those of
    Welch's test of means do; :doc:`/theory/estimation` derives them.

    With ``loc`` the hypothesis is that all samples, or the only one, have this mean direction:
    :math:`|\sum_j X_j|` gives way to the component of :math:`\sum_j X_j` along it, and r - 1 to r.

    The page on fitting tells how often each rejects what is true. Where no sample tells a direction
    (k = 0), and where all mean directions agree, the statistic is 0 and the p-value 1. Where
    samples have no spread but directions of their own they are infinite and 0.

    Args:
        samples: at least two samples (one with ``loc``), each of unit vectors of shape
            (..., n_j, d); the axes to the left broadcast.
        loc: the mean direction that is stated, unit vectors of shape (..., d); none if not given.
        equal_concentration: whether the samples have one concentration in common.

    Returns:
        Statistic and p-value, of shape (...).

    Raises:
        TypeError: if a sample or ``loc`` is not a float32 or float64 tensor.
        ValueError: if there are too few samples; if one has not the shape (..., n, d) or does not
            hold unit vectors; if the dimensions differ; if there are not more vectors than samples
            in all, or, with concentrations that differ, less than two in one of them.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> from vmfdist.estimation import mean_direction_test
        >>> _ = torch.manual_seed(0)
        >>> a = VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), 50.0).sample((20,))
        >>> b = VonMisesFisher(torch.tensor([0.0, 0.8, 0.6]), 50.0).sample((30,))
        >>> mean_direction_test(a, b).p_value < 1e-6
        tensor(True)
        >>> mean_direction_test(a, loc=torch.tensor([0.0, 0.6, 0.8])).p_value > 0.01
        tensor(True)

    References:
        * G. S. Watson and E. J. Williams (1956), On the construction of significance tests on the
          circle and the sphere, Biometrika 43(3-4), 344-352.
        * G. S. Watson (1983), Statistics on spheres, Wiley (G).
        * B. L. Welch (1951), On the comparison of several mean values: an alternative approach,
          Biometrika 38(3-4), 330-336, doi:10.1093/biomet/38.3-4.330.
        * G. Schou (1978), as above.
        * K. V. Mardia and P. E. Jupp (2000), Directional statistics, chapter 10.
    """
    if not samples or (len(samples) == 1 and loc is None):
        raise ValueError(
            "give at least two samples to compare, or one and loc, the mean direction that is "
            f"stated; got {len(samples)}"
        )
    taken = _taken(samples)
    dtype = taken.dtype
    if loc is not None:
        check_loc(loc, taken.dim, Distribution._validate_args)
        dtype, loc = torch.promote_types(dtype, loc.dtype), polar(in_float64(loc))[0]
    compare = _with_one_concentration if equal_concentration else _with_concentrations
    statistic, p_value = compare(taken, loc)
    return TestResult(statistic.to(dtype), p_value.to(dtype))


@torch.no_grad()
def concentration_test(*samples: Tensor) -> TestResult:
    r"""Test whether samples, each with a mean direction of its own, have the same concentration.

    The statistic is the likelihood ratio of the lengths :math:`S_j` of r resultants,

    .. math:: T = \frac 2 C \Big( \sum_j \ell_j(k_j) - \sum_j \ell_j(k) \Big), \qquad
        \ell_j(k) = \Phi(k S_j) - n_j \Phi(k),

    with the concentrations that maximise it, those of
    :meth:`vmfdist.VonMisesFisher.fit` with ``bias_corrected=True``. It is compared to the chi
    squared law with r - 1 degrees of freedom. C is Bartlett's factor: at high concentration
    :math:`2 k (n_j - S_j)` follows the chi squared law with :math:`f_j = (n_j - 1)(d - 1)` degrees
    of freedom, f in all, and T is Bartlett's test of variances,

    .. math:: C = 1 + \frac 1 {3 (r - 1)} \Big( \sum_j \frac 1 {f_j} - \frac 1 f \Big).

    The page on fitting tells how often it rejects equal concentrations. Where samples have no
    spread they have an infinite concentration: beside others with a finite one the statistic is
    infinite and the p-value 0; if all are so, 0 and 1.

    Args:
        samples: two or more samples, each of at least two unit vectors, of shape (..., n_j, d); the
            axes to the left broadcast.

    Returns:
        Statistic and p-value, of shape (...).

    Raises:
        TypeError: if a sample is not a float32 or float64 tensor.
        ValueError: if there are less than two samples or less than two vectors in one; if one has
            not the shape (..., n, d) or does not hold unit vectors; if the dimensions differ.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> from vmfdist.estimation import concentration_test
        >>> _ = torch.manual_seed(0)
        >>> east, north = torch.eye(3)[:2]
        >>> a = VonMisesFisher(east, 5.0).sample((40,))
        >>> b = VonMisesFisher(north, 30.0).sample((40,))
        >>> concentration_test(a, b).p_value < 1e-6
        tensor(True)

    References:
        * G. Schou (1978), as above.
        * M. S. Bartlett (1937), Properties of sufficiency and statistical tests, Proceedings of the
          Royal Society A 160(901), 268-282, doi:10.1098/rspa.1937.0109.
        * K. V. Mardia and P. E. Jupp (2000), Directional statistics, chapter 10.
    """
    if len(samples) < 2:
        raise ValueError(f"give at least two samples to compare, got {len(samples)}")
    taken = _taken(samples)
    _require_two_each(taken)
    data, sizes, dim, dtype = taken
    common = marginal_concentration(dim, *data)
    own = [marginal_concentration(dim, one) for one in data]
    gains = [
        _marginal_likelihood(k, one, dim) - _marginal_likelihood(common, one, dim)
        for k, one in zip(own, data, strict=True)
    ]
    is_point = torch.stack(torch.broadcast_tensors(*(k.isinf() for k in own)))
    # Beside a sample with some spread a point is infinitely unlikely.
    ratio = 2 * functools.reduce(torch.add, gains).clamp(min=0)
    ratio = torch.where(is_point.any(0), math.inf, ratio)
    ratio = torch.where(is_point.all(0), 0.0, ratio)
    degrees = [(size - 1) * (dim - 1) for size in sizes]
    spread = sum(1 / f for f in degrees) - 1 / sum(degrees)
    statistic = ratio / (1 + spread / (3 * (len(data) - 1)))
    p_value = chi_squared_survival(statistic, len(data) - 1)
    return TestResult(statistic.to(dtype), p_value.to(dtype))


class _Samples(NamedTuple):
    """What the tests take from samples."""

    resultants: list[Resultant]
    sizes: list[int]
    dim: int
    dtype: torch.dtype


def _taken(samples: tuple[Tensor, ...]) -> _Samples:
    for i, sample in enumerate(samples):
        check_samples(f"samples[{i}]", sample, Distribution._validate_args)
    dims = [sample.shape[-1] for sample in samples]
    if len(set(dims)) > 1:
        found = " and ".join(f"{dim} (samples[{i}])" for i, dim in enumerate(dims))
        raise ValueError(
            f"the samples must lie on the same sphere to be compared, got dimension {found}"
        )
    try:
        torch.broadcast_shapes(*(sample.shape[:-2] for sample in samples))
    except RuntimeError as error:
        found = " and ".join(f"{tuple(x.shape)} (samples[{i}])" for i, x in enumerate(samples))
        raise ValueError(
            f"the axes to the left of the samples must broadcast, got shapes {found}"
        ) from error
    return _Samples(
        [resultant(sample) for sample in samples],
        [sample.shape[-2] for sample in samples],
        dims[0],
        functools.reduce(torch.promote_types, (sample.dtype for sample in samples)),
    )


def _require_two_each(taken: _Samples) -> None:
    """Raises ValueError where a sample is too small to have a concentration of its own."""
    if min(taken.sizes) < 2:
        raise ValueError(
            f"samples[{taken.sizes.index(1)}] must hold at least two vectors to have a "
            "concentration of its own, got 1"
        )


# --------------------------------------------------------------------------------------------------
# Mean directions
# --------------------------------------------------------------------------------------------------


def _with_one_concentration(taken: _Samples, loc: Tensor | None) -> TestResult:
    data, sizes, dim, _ = taken
    n, r = sum(sizes), len(sizes)
    if n == r:
        raise ValueError(
            "the samples must hold more vectors in all than there are samples, got "
            f"{n} {'vectors' if n > 1 else 'vector'} in {r}"
        )
    k = marginal_concentration(dim, *data)
    lost = _length_lost([x.total * x.length for x in data], data, loc)
    a, b = (r - (loc is None)) * (dim - 1), (n - r) * (dim - 1)
    f = torch.where(lost <= 0, 0.0, 2 * k * lost / a)  # no infinity times 0
    return TestResult(f, f_survival(f, a, b))


def _with_concentrations(taken: _Samples, loc: Tensor | None) -> TestResult:
    _require_two_each(taken)
    data, sizes, dim, _ = taken
    p, r = dim - 1, len(sizes)
    weights = torch.broadcast_tensors(
        *(marginal_concentration(dim, x) * (x.total * x.length) for x in data)
    )
    lost = 2 * _length_lost(weights, data, loc)
    # Of a stated direction nothing is estimated, and no sample has a share.
    shares = _shares(torch.stack(weights)) if loc is None else lost.new_zeros(r)
    blur = torch.zeros_like(lost)
    for share, size in zip(shares, sizes, strict=True):
        blur = blur + (1 - share).square() / ((size - 1) * p)
    a = (r - (loc is None)) * p
    mean = a + 2 * p * blur * (1 - (p + 2) / (a + 2))
    b = a * (a + 2) / (blur * p * (p + 2))
    f = torch.where(lost <= 0, 0.0, lost / mean)
    return TestResult(f, f_survival_from(f, a, b.clamp(min=a)))


def _shares(weights: Tensor) -> Tensor:
    """Of each in the sum, over the first axis; the infinite ones have equal shares of all."""
    infinite = weights.isinf()
    weights = torch.where(infinite.any(0), infinite.to(weights.dtype), weights)
    total = weights.sum(0)
    return weights / torch.where(total == 0, 1.0, total)


def _length_lost(weights: Sequence[Tensor], data: list[Resultant], loc: Tensor | None) -> Tensor:
    r"""sum w_j - |sum w_j mu_j|, without cancellation.

    With :math:`W = \sum w_j` and :math:`L = |\sum w_j \mu_j|` it is

    .. math:: \frac{W^2 - L^2}{W + L} = \frac{\sum_{i<j} w_i w_j |\mu_i - \mu_j|^2}{W + L},

    and with ``loc`` in place of the direction of the sum :math:`\sum_j w_j |\mu_j - loc|^2 / 2`.
    """
    if loc is not None:
        chords = [(x.direction - loc).square().sum(-1) for x in data]
        terms = [_product(w, c / 2) for w, c in zip(weights, chords, strict=True)]
        return functools.reduce(torch.add, terms)
    # Beside an infinite weight all finite ones are as nothing.
    shares = _shares(torch.stack(torch.broadcast_tensors(*weights)))
    directions = [x.direction for x in data]
    pairs = [s.unsqueeze(-1) * x for s, x in zip(shares, directions, strict=True)]
    length = polar(functools.reduce(torch.add, pairs))[1]
    lost = torch.zeros_like(length)
    for i, j in itertools.combinations(range(len(data)), 2):
        chord = (directions[i] - directions[j]).square().sum(-1)
        share = torch.maximum(shares[i], shares[j]) / (1 + length)
        lost = lost + _product(torch.minimum(weights[i], weights[j]), share * chord)
    return lost


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """Their product, 0 where x is, also where the weight is infinite."""
    return torch.where(x == 0, 0.0, weight * x)


# --------------------------------------------------------------------------------------------------
# Concentrations
# --------------------------------------------------------------------------------------------------


def _marginal_likelihood(k: Tensor, data: Resultant, dim: int) -> Tensor:
    """Log likelihood of the length S: Phi(k S) - n Phi(k), without its terms of the size of k."""
    area = log_sphere_area(dim)
    of_sum = vmf.log_density_at_mode(k * (data.total * data.length), dim) + area
    of_each = vmf.log_density_at_mode(k, dim) + area
    return data.total * (of_each - k * data.complement) - of_sum
