r"""Resultants of unit vectors, and the concentrations that belong to them.

The weighted mean of n unit vectors is sufficient for a von Mises-Fisher law: its direction is the
maximum-likelihood mean direction, and its length R determines the concentration. At high
concentration that depends on 1 - R, which a rounded length does not hold. Since

.. math:: 1 - R^2 = \frac{\sum_i \omega_i |x_i - \bar x|^2}{\sum_i \omega_i}

for unit vectors with weights :math:`\omega_i`, it is formed from differences, and taken in float64
whatever the data. That the lengths of rounded vectors are off by eps shows in these in its square
only.

References:
    * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 10.3.1.
    * G. Schou (1978), Estimation of the concentration parameter in von Mises-Fisher distributions,
      Biometrika 65(2), 369-377, doi:10.1093/biomet/65.2.369.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._closed_forms.natural import polar
from vmfdist._numerics.chords import are_crossed, inner_product, squared_chord
from vmfdist._numerics.precision import in_float64
from vmfdist._validation import check_vector, require, unit_tolerance

# Samples are converted to float64 in blocks of this many numbers: no copy of large data.
_BLOCK_NUMBERS = 1 << 20


# Concentrations for which chords in float64 have to be accurate: the spread of float32 samples is
# at least of the size of their rounding, about 2^-46, and needs seven digits.
_HIGHEST = {torch.float32: 2.0**24, torch.float64: 2.0**52}


class Resultant(NamedTuple):
    """The mean of weighted unit vectors, in float64."""

    direction: Tensor
    """The direction of the mean; the first axis where the mean is 0."""

    length: Tensor
    """R, the length of the mean."""

    complement: Tensor
    """1 - R, to full relative accuracy; exactly 0 where all vectors are equal."""

    total: Tensor
    """The sum of the weights, n for n vectors."""


def resultant(samples: Tensor, weights: Tensor | None = None) -> Resultant:
    """The resultant of samples of shape (..., n, d) with weights of shape (..., n)."""
    if weights is None:
        weights = samples.new_ones(samples.shape[-2])
    elif weights.dim() > 1 and are_crossed(weights.unsqueeze(-2), samples.mT):
        return _of_many_weightings(samples, in_float64(weights))
    shape = torch.broadcast_shapes(samples.shape[:-1], weights.shape)
    weights = in_float64(weights.expand(shape))
    samples = samples.expand(*shape, samples.shape[-1])

    # Deviations from one of the samples are exactly 0 where all are equal. One of the largest
    # weight is no further from the mean than sqrt(n) deviations: the spread below cannot cancel.
    heaviest = weights.detach().argmax(-1, keepdim=True).unsqueeze(-1)
    origin = samples.detach().take_along_dim(heaviest.expand(*shape[:-1], 1, -1), -2).double()
    first = samples.new_zeros((), dtype=torch.float64)
    second = first
    rows = max(1, _BLOCK_NUMBERS // max(1, math.prod(shape[:-1]) * samples.shape[-1]))
    for x, weight in zip(samples.split(rows, -2), weights.split(rows, -1), strict=True):
        deviation = x.double() - origin
        first = first + torch.einsum("...n,...nd->...d", weight, deviation)
        second = second + (weight * deviation.square().sum(-1)).sum(-1)

    total, empty, divisor = _totals(weights)
    shift = first / divisor.unsqueeze(-1)
    mean = torch.where(empty, 0.0, origin.squeeze(-2) + shift)
    spread = (second / divisor - shift.square().sum(-1)).clamp(min=0)
    return _of_mean_and_spread(mean, spread, total)


def _totals(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of weights, whether it is 0, of shape (..., 1), and what to divide by."""
    total = weights.sum(-1)
    empty = total <= 0  # not where it is NaN, which stays NaN
    return total, empty.unsqueeze(-1), torch.where(empty, 1.0, total)


def _of_mean_and_spread(mean: Tensor, spread: Tensor, total: Tensor) -> Resultant:
    """The spread, 1 - R^2, tells R where it is not small."""
    direction, length = polar(mean)
    short = length < 0.5
    complement = torch.where(short, 1 - length, spread / (1 + length))
    return Resultant(direction, torch.where(short, length, 1 - complement), complement, total)


def _of_many_weightings(samples: Tensor, weights: Tensor) -> Resultant:
    """The same by matrix products, where weightings have axes that the samples do not have.

    About the mean, which is off by rounding, the spread is larger by the square of that.
    """
    total, empty, divisor = _totals(weights)
    mean = inner_product(weights.unsqueeze(-2), samples.mT) / divisor.unsqueeze(-1)
    mean = torch.where(empty, 0.0, mean)
    k = weights.new_full((), _HIGHEST[samples.dtype])
    squared = squared_chord(samples, mean.unsqueeze(-2), k)
    return _of_mean_and_spread(mean, (weights * squared).sum(-1) / divisor, total)


def directions_and_shares(samples: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The samples in float64, of length 1 to its rounding, and their weights over the sum.

    Weights of sum 0 stay as they are.
    """
    x = torch.nn.functional.normalize(in_float64(samples), dim=-1)
    if weights is None:
        return x, x.new_full(x.shape[-2:-1], 1 / x.shape[-2])
    weights = in_float64(one_each(weights, samples))
    _, _, divisor = _totals(weights)
    return x, weights / divisor.unsqueeze(-1)


def one_each(weights: Tensor, samples: Tensor) -> Tensor:
    """The weights along a last axis of their own, also where one is given for all samples."""
    return weights.expand(*weights.shape[:-1], samples.shape[-2])


def of_mean(mean: Tensor, validate: bool) -> tuple[Tensor, Tensor]:
    """Direction and length of a mean that is given, in float64; raises where it can be none."""
    check_vector("mean", mean)
    direction, length = polar(in_float64(mean))
    if validate:
        longest = 1 + unit_tolerance(mean.dtype, mean.shape[-1])  # what rounding excuses
        require(
            f"mean of shape {tuple(mean.shape)} must have a length of at most 1, as every mean of "
            "unit vectors has",
            length,
            lambda number: number <= longest,
            "length",
        )
    return direction, length


def along(data: Resultant, loc: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cosine with a direction, 0 where it is negative, and its complement.

    The latter is (1 - R) + R |direction - loc|^2 / 2: nothing cancels.
    """
    lost = data.length * ((data.direction - loc).square().sum(-1) / 2)
    return (data.length - lost).clamp(min=0), (data.complement + lost).clamp(max=1)


def concentration(length: Tensor, complement: Tensor, dim: int) -> Tensor:
    """The k with A(k) = R from R and 1 - R, of which the better conditioned is used.

    Infinite where the complement is not positive, with gradient 0 there.
    """
    short, point = length < 0.5, complement <= 0
    from_length = vmf.inverse_mean_resultant_length(torch.where(short, length, 0.25), dim)
    from_complement = vmf.inverse_one_minus_mean_resultant_length(
        torch.where(short | point, 0.75, complement), dim
    )
    return torch.where(point, math.inf, torch.where(short, from_length, from_complement))


# Newton's method below starts within a small factor of the solution, and converges quadratically.
_NEWTON_STEPS = 12


def marginal_concentration(dim: int, *samples: Resultant) -> Tensor:
    r"""Schou's estimate of a concentration that samples with different directions share.

    It maximises the likelihood of the resultant lengths :math:`S_j`, whose logarithm is
    :math:`\sum_j \Phi(k S_j) - n \Phi(k)` and a constant: the k that solves

    .. math:: n A(k) = \sum_j S_j A(k S_j), \qquad n = \sum_j n_j,

    and 0 where :math:`\sum_j S_j^2 \le n`. It is the fixed point k > 0 of :math:`G(k) =
    A^{-1}(\sum_j S_j A(k S_j) / n)`, an increasing and concave function with G(0) = 0 and
    :math:`G'(0) = \sum_j S_j^2 / n`, bounded by the maximum-likelihood estimate. Newton's method
    for G(k) - k from above therefore decreases to it.
    """
    totals = torch.stack(torch.broadcast_tensors(*(x.total for x in samples)), -1)
    lengths = torch.stack(torch.broadcast_tensors(*(x.length for x in samples)), -1)
    complements = torch.stack(torch.broadcast_tensors(*(x.complement for x in samples)), -1)
    sums, n = totals * lengths, totals.sum(-1)
    point = (complements <= 0).all(-1)
    uniform = sums.square().sum(-1) <= n
    # There take some numbers that can be solved for, so that gradients are finite; NaN stays NaN.
    solvable = (uniform | point).logical_not().unsqueeze(-1)
    totals = torch.where(solvable, totals, 4.0)
    sums, lost = torch.where(solvable, sums, 3.0), torch.where(solvable, totals * complements, 1.0)
    n = totals.sum(-1)

    def excess(k: Tensor) -> tuple[Tensor, Tensor]:
        """G(k) - k and G(k)."""
        ks = k.unsqueeze(-1) * sums
        r = (sums * vmf.mean_resultant_length(ks, dim)).sum(-1) / n
        # n - sum S A = sum (n_j - S_j) + sum S (1 - A), terms that are all positive
        rest = lost + sums * vmf.one_minus_mean_resultant_length(ks, dim)
        image = concentration(r, rest.sum(-1) / n, dim)
        return image - k, image

    def decrease(k: Tensor, image: Tensor) -> Tensor:
        """1 - G'(k), positive from the solution on."""
        ks = k.unsqueeze(-1) * sums
        slope = sums.square() * vmf.mean_resultant_length_derivative(ks, dim)
        rise = slope.sum(-1) / n / vmf.mean_resultant_length_derivative(image, dim)
        return (1 - rise).clamp(min=torch.finfo(k.dtype).eps)

    with torch.no_grad():
        largest = concentration(sums.sum(-1) / n, lost.sum(-1) / n, dim)
        # As sum S^2 -> n the solution is of the order of sqrt(1 - n / sum S^2).
        k = largest * (3 * (1 - n / sums.square().sum(-1)).sqrt()).clamp(max=1.0)
        for _ in range(_NEWTON_STEPS):
            value, image = excess(k)
            k = torch.minimum((k + value / decrease(k, image)).clamp(min=0), largest)
        divisor = decrease(k, excess(k)[1])
    # Each further step adds an order to the derivatives that are right; fourth ones are refused.
    for _ in range(3):
        k = k + excess(k)[0] / divisor
    return torch.where(uniform, 0.0, torch.where(point, math.inf, k))
