r"""What an infinite concentration means, in every law: the point mass at the mean direction.

Values are the limits. The density is infinite at ``loc`` (and where a cosine is 1) and 0 elsewhere,
so that log densities are plus and minus infinity; the mean is ``loc``, variances are 0, the
entropy is minus infinity; the divergence from a point mass is 0 to the same one and infinite to any
other law, and so is the divergence to a point mass.

Gradients in a concentration are the limits too, infinite where these are. In directions, and only
there, an infinite gradient is replaced by one of the size of the square root of the largest number:
it points where the limit does, and can still be summed over rows, projected to the sphere and
multiplied by a weight of 0.

Finite concentrations, up to the largest number, are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vmfdist._numerics.autograd import Differentiable, may_look_at


def stand_in(dtype: torch.dtype) -> float:
    """A quarter of the largest number: may be multiplied by 0 or 3, or have a dimension added."""
    return torch.finfo(dtype).max / 4


def finite(x: Tensor) -> Tensor:
    """The stand-in for infinity in its place; all else, NaN included, as it is.

    To rounding the limits at infinity are reached there. The derivative in its place is 0.
    """
    largest = stand_in(x.dtype)
    return torch.nan_to_num(x, nan=math.nan, posinf=largest, neginf=-largest)


def steep(x: Tensor) -> Tensor:
    """The same with the square root of the largest number, for slopes in directions."""
    root = math.sqrt(torch.finfo(x.dtype).max)
    return torch.nan_to_num(x, nan=math.nan, posinf=root, neginf=-root)


class _Steepened(Differentiable):
    def value(self, tensors: Sequence[Tensor], constant: Any) -> Tensor:
        return tensors[0].clone()

    def along(self, i: int, change: Tensor, tensors: Sequence[Tensor], constant: Any) -> Tensor:
        return steep(change)


_steepened = _Steepened("steepened")


def steepened(distance: Tensor) -> Tensor:
    """The distance as it is; an infinite gradient in it is replaced as those in directions are."""
    return _steepened(distance, None)


def is_finite_throughout(k: Tensor) -> bool:
    """Whether a look at concentrations is to be had and shows none that is infinite."""
    return may_look_at(k) and (not k.numel() or k.max().item() < math.inf)


def outside(distance: Tensor) -> Tensor:
    """The distance from the mean, and at the mean less than 0: no infinity times 0."""
    return torch.threshold(distance, 0.0, -torch.finfo(distance.dtype).tiny)


def with_point_mass(log_density: Tensor, k: Tensor, steep_k: Tensor, squared: Tensor) -> Tensor:
    """The log density, to which infinity is added where k is infinite: -inf, or inf at the mean.

    Args:
        log_density: as it is with a stand-in for infinity, ``steep_k``.
        k: concentrations.
        steep_k: ``steep(k)``.
        squared: squared distances from the mean direction. The derivative in k at infinity becomes
            minus half of it, which is that of the von Mises-Fisher law.
    """
    return torch.addcmul(log_density, k - steep_k, outside(squared.detach()), value=-0.5)


def slope_to_point_mass(slope: Tensor, k1: Tensor, k2: Tensor, separation: Tensor) -> Tensor:
    """The derivative in k1 of a divergence, which is infinite where k2 is and k1 is not.

    Its term in k2 is a multiple of separation - 1, with half the squared distance between the mean
    directions: concentrating towards a point mass helps, away from it it costs.
    """
    is_infinite = torch.isinf(k2) & ~torch.isinf(k1) & (separation != 1)
    return torch.where(is_infinite, (separation.detach() - 1) * math.inf, slope)


def standard_deviation(variance: Tensor) -> Tensor:
    """The square root, with the gradient 0 where it is 0 as that of a point mass is.

    So it is where the variance is no normal number: slopes of variances are 0 there, and the square
    of that of the root may be infinite.
    """
    none = variance < torch.finfo(variance.dtype).tiny
    return torch.where(none, variance.detach().sqrt(), torch.where(none, 1.0, variance).sqrt())
