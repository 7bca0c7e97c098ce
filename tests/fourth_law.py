"""A fourth law, in tests only: what adding one takes, and that what is shared takes any.

The law of Bingham and Mardia (1978, A small circle distribution on the sphere), of density
proportional to exp(-k (<x, loc> - 1)^2): its circle has shrunk to a point.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._families.tilted import Tilted
from vmfdist.cosine import CosineLaw
from vmfdist.rotational import RotationallySymmetric

# --------------------------------------------------------------------------------------------------
# The closed forms, here sums over angles, which serve concentrations up to some hundreds
# --------------------------------------------------------------------------------------------------


def _angles(k: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """1 - cos of angles, and the logarithms of their weights in the uniform law."""
    nodes, weights = (torch.from_numpy(x).to(k) for x in leggauss(100))
    theta = (1 + nodes) * (torch.pi / 2)
    log_weights = torch.log(weights) + (dim - 2) * torch.log(torch.sin(theta))
    return 1 - torch.cos(theta), log_weights.log_softmax(0)


def _mean(function: Callable[[Tensor], Tensor], k: Tensor, dim: int) -> Tensor:
    t, log_weights = _angles(k, dim)
    return ((log_weights - k.unsqueeze(-1) * t * t).softmax(-1) * function(t)).sum(-1)


def log_partition(k: Tensor, dim: int) -> Tensor:
    t, log_weights = _angles(k, dim)
    return (log_weights - k.unsqueeze(-1) * t * t).logsumexp(-1)


def mean_statistic(k: Tensor, dim: int) -> Tensor:
    return _mean(lambda t: t * t, k, dim)


def mean_cosine(k: Tensor, dim: int) -> Tensor:
    return _mean(lambda t: 1 - t, k, dim)


def one_minus_mean_cosine(k: Tensor, dim: int) -> Tensor:
    return _mean(lambda t: t, k, dim)


def cosine_variance(k: Tensor, dim: int) -> Tensor:
    return _mean(lambda t: t * t, k, dim) - _mean(lambda t: t, k, dim) ** 2


def tangent_variance(k: Tensor, dim: int) -> Tensor:
    return _mean(lambda t: t * (2 - t), k, dim) / (dim - 1)


def kl_to_uniform(k: Tensor, dim: int) -> Tensor:
    return -k * mean_statistic(k, dim) - log_partition(k, dim)


def kl_from_uniform(k: Tensor, dim: int) -> Tensor:
    return k * mean_statistic(torch.zeros_like(k), dim) + log_partition(k, dim)


# --------------------------------------------------------------------------------------------------
# The family, and its laws
# --------------------------------------------------------------------------------------------------


class _BinghamMardia(Tilted):
    mean_cosine = staticmethod(mean_cosine)
    one_minus_mean_cosine = staticmethod(one_minus_mean_cosine)
    cosine_variance = staticmethod(cosine_variance)
    tangent_variance = staticmethod(tangent_variance)
    kl_to_uniform = staticmethod(kl_to_uniform)
    kl_from_uniform = staticmethod(kl_from_uniform)

    def log_density(self, value: Tensor, loc: Tensor, k: Tensor, dim: int) -> Tensor:
        t = (value - loc).square().sum(-1) / 2
        return self.log_density_at_mode(k, dim) - k * t * t

    def log_density_at_mode(self, k: Tensor, dim: int) -> Tensor:
        return -log_partition(k, dim) - log_sphere_area(dim)

    def mean_statistic(self, k: Tensor, dim: int) -> Tensor:
        return mean_statistic(k, dim)

    def statistic(self, t: Tensor, rest: Tensor) -> Tensor:
        return t * t

    def statistic_slopes(self, t: Tensor, rest: Tensor) -> tuple[Tensor, float]:
        return 2 * t, 2.0


BINGHAM_MARDIA = _BinghamMardia()


class BinghamMardiaCosine(CosineLaw):
    _family = BINGHAM_MARDIA


class BinghamMardia(RotationallySymmetric):
    _cosine = BinghamMardiaCosine
