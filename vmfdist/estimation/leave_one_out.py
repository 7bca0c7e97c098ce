r"""The concentration of a kernel density under which each datum is likeliest, given the others.

With :math:`t_{ij} = 1 - \langle x_i, x_j\rangle` and weights :math:`\omega_j` of sum 1 the leave-
one-out likelihood is, up to a constant,

.. math:: L(k) = \log f_0(k) + \sum_i \omega_i \log \sum_{j \ne i} \omega_j e^{-k t_{ij}}, \qquad
    L'(k) = 1 - A(k) - T(k),

where :math:`f_0` is the density of a kernel at its centre, and T the mean of :math:`t_{ij}` over
the others weighted by their kernels at :math:`x_i`, averaged over i. T falls from the mean of all
distances at k = 0 to that of distances to the nearest neighbours at infinity. So each maximum lies
between the concentrations that have these as :math:`1 - A(k)`: the first is that which a von Mises-
Fisher law of pairs would have, and 0 if that mean is 1 or more. For two data they are the same.

In between there can be several maxima. The likelihood is looked at in steps of a factor of 4, for
kernels half as wide each, and next to the best of them :math:`\log(1 - A) = \log T`, whose sides
are nearly linear in log k, is solved by Newton's method, kept between slopes of either sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._numerics.chords import SquaredChords

# Pairs in float64, which with what is formed of them stay in a processor's cache.
_BLOCK_PAIRS = 1 << 17

# Exponents k t of kernels are formed to 1e-7.
_EXCUSED = 2.0**24

# By which concentrations are tried; it is a fourth power of kernels.
_FACTOR = 4

# Newton's last step leaves the square of that; the number is enough for bisections alone.
_LAST_STEP, _NEWTON_STEPS = 1e-5, 60


@torch.no_grad()
def concentration(data: Tensor, log_weights: Tensor) -> Tensor:
    """The k that maximises L, of shape (batch,) in float64.

    Args:
        data: unit vectors of shape (batch, n, d).
        log_weights: of shape (batch, n) in float64, with sum 1, two at least above -inf.
    """
    if not len(data):
        return log_weights.new_empty(0)
    pairs = _Pairs(data, log_weights)
    mean, nearest = pairs.mean_distance(), pairs.nearest_distance()
    equal = nearest <= 0
    lowest, highest = (
        vmf.inverse_one_minus_mean_resultant_length(t.clamp(max=1), pairs.dim)
        for t in (mean, torch.where(equal, 1.0, nearest))
    )
    pairs.prepare(highest)
    # Below the latter a kernel is all but uniform.
    first = torch.where(lowest > 0, lowest, highest.clamp(max=pairs.dim / 64))
    ratio = (highest / torch.where(first > 0, first, 1.0)).max().clamp(min=_FACTOR)
    powers = math.ceil(math.log(ratio.item(), _FACTOR))
    tried = first.unsqueeze(-1) * _FACTOR ** torch.arange(powers + 1, device=first.device).to(first)
    value, best = pairs.likelihoods(tried).max(-1, keepdim=True)
    uniform = (lowest <= 0) & (value.squeeze(-1) <= pairs.likelihood_at_zero())
    low, k, high = (tried.gather(-1, (best + i).clamp(0, powers)).squeeze(-1) for i in (-1, 0, 1))
    k = pairs.solution(low, k, high, equal | uniform)
    return torch.where(equal, math.inf, torch.where(uniform, 0.0, k))


class _Pairs:
    """Sums over all pairs of data."""

    def __init__(self, data: Tensor, log_weights: Tensor) -> None:
        self._data, self._log_weights = data, log_weights
        self._weights, self.dim = log_weights.exp(), data.shape[-1]
        self._rows = max(1, _BLOCK_PAIRS // self._weights.numel())
        self._squared_chords = SquaredChords(data)
        absent = (self._weights == 0).unsqueeze(-2)
        self._others, self._distances, self._nearest = (
            torch.empty_like(self._weights) for _ in range(3)
        )
        for rows, t, itself in self._blocks():
            # One less the own weight has no digits where that is nearly all.
            others = self._weights.unsqueeze(-2).masked_fill(itself, 0.0)
            self._others[:, rows] = others.sum(-1)
            self._distances[:, rows] = others.mul_(t).sum(-1) / self._others[:, rows]
            self._nearest[:, rows] = t.masked_fill_(absent | itself, math.inf).amin(-1)

    def prepare(self, k: Tensor) -> None:
        """For concentrations up to k, of which the distances need no more digits."""
        self._squared_chords = SquaredChords(self._data, k / _EXCUSED)

    def _blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows i, all t_ij of these, and where j is i."""
        n, axis = self._data.shape[-2], torch.arange(self._data.shape[-2], device=self._data.device)
        for first in range(0, n, self._rows):
            rows = slice(first, first + self._rows)
            t = self._squared_chords.of(self._data[:, rows]).mul_(0.5)
            yield rows, t, axis[rows].unsqueeze(-1) == axis

    def _mean(self, x: Tensor) -> Tensor:
        """Over rows, of which those without weight can have any value."""
        return torch.where(self._weights > 0, self._weights * x, 0.0).sum(-1)

    def mean_distance(self) -> Tensor:
        """T at k = 0."""
        return self._mean(self._distances)

    def nearest_distance(self) -> Tensor:
        """T at infinity."""
        return self._mean(self._nearest)

    def likelihood_at_zero(self) -> Tensor:
        """L at k = 0."""
        return self._mean(self._others.log()) - log_sphere_area(self.dim)

    def likelihoods(self, k: Tensor) -> Tensor:
        """L at k of shape (batch, m), each of them _FACTOR times the one before."""
        column = self._weights.unsqueeze(-1)
        each = k.new_empty(*k.shape, self._weights.shape[-1])  # of all k and rows
        for rows, t, itself in self._blocks():
            # What has no weight may be nearer.
            nearest = self._nearest[:, rows].unsqueeze(-1)
            kernels = t.sub_(nearest).clamp_(min=0).mul_(-k[:, :1, None]).exp_()
            kernels.masked_fill_(itself, 0.0)
            for i in range(k.shape[-1]):
                if i > 0:
                    kernels.square_().square_()
                each[:, i, rows] = (kernels @ column).squeeze(-1).log()
        each -= k.unsqueeze(-1) * self._nearest.unsqueeze(-2)
        likelihood = torch.where(column.mT > 0, column.mT * each, 0.0).sum(-1)
        return likelihood + vmf.log_density_at_mode(k, self.dim)

    def _moments(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """T, and the mean over i of variances of t_ij, which is minus its derivative."""
        first, second = torch.empty_like(self._weights), torch.empty_like(self._weights)
        for rows, t, itself in self._blocks():
            exponents = torch.addcmul(
                self._log_weights.unsqueeze(-2), k[:, None, None], t, value=-1
            )
            shares = exponents.masked_fill_(itself, -math.inf).softmax(-1)
            first[:, rows] = shares.mul_(t).sum(-1)
            second[:, rows] = shares.mul_(t).sum(-1)
        return self._mean(first), self._mean(second - first.square())

    def solution(self, low: Tensor, k: Tensor, high: Tensor, done: Tensor) -> Tensor:
        """Where L' is 0 between two ends, from k; anything where it is done already."""
        for _ in range(_NEWTON_STEPS):
            if done.all():
                break
            mean, variance = self._moments(k)
            rest = vmf.one_minus_mean_resultant_length(k, self.dim)
            excess = (rest / mean).log()
            rate = k * (variance / mean - vmf.mean_resultant_length_derivative(k, self.dim) / rest)
            low, high = torch.where(excess > 0, k, low), torch.where(excess > 0, high, k)
            newton = k * torch.exp(-excess / rate)
            taken = (rate < 0) & (low <= newton) & (newton <= high)
            following = torch.where(taken, newton, (low * high).sqrt())
            finished = done | ((following / k - 1).abs() <= _LAST_STEP)
            k, done = torch.where(done, k, following), finished
        return k
