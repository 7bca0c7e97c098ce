r"""Mean shift on the sphere: from a start to a maximum of a kernel density.

With von Mises-Fisher kernels a step goes from x to the direction of the mean of the data, weighted
by their kernels at x (Kobayashi and Otsu 2010). It never lowers the density: it is a step of
expectation maximisation for the mean direction of a mixture. Near a mode the distance falls by the
same factor in each step, which is close to 1 where kernels are narrow and data many. So three steps
make a cycle (Varadhan and Roland's SQUAREM, scheme S3): with the first two, r and r + v, the next
point is :math:`x + 2 s r + s^2 v`, :math:`s = |r| / |v|`, which is the limit of a geometric
sequence, and one more step from there, unless the density is lower there than after the first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._closed_forms.natural import polar
from vmfdist._numerics.kernel_sums import log_sum_and_mean

# In widths of a kernel: where starts are moved, what is left at the end, and which modes are one.
_SHAKEN, _LEFT, _MERGED = 1e-3, 1e-7, 1e-2

_CYCLES = 1000

# A kernel of that concentration has the width of the rounding of unit vectors.
_HIGHEST = 2.0**52


class Modes(NamedTuple):
    """The maxima of a density, and which of them starts lead to."""

    directions: Tensor
    """Unit vectors of shape (number of modes, d)."""

    log_densities: Tensor
    """The log densities there, in falling order."""

    labels: Tensor
    """For each start the number of its mode."""


class Kernels:
    """Kernels of one concentration about data of shape (n, d), with log weights (n,) or (1,)."""

    def __init__(self, data: Tensor, log_weights: Tensor, k: Tensor) -> None:
        self._data, self._log_weights, self._k = data, log_weights, k.clamp(max=_HIGHEST)
        self.width = torch.rsqrt(1 + self._k)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The next points, and at these ones the log density less that of a kernel at its mode."""
        heights, mean = log_sum_and_mean(x, self._data, self._k, self._log_weights)
        return polar(mean)[0], heights


@torch.no_grad()
def climbed(kernels: Kernels, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Where starts of shape (m, d) lead to, and the heights there."""
    # Where symmetry holds a start in a saddle, this does not.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(starts.shape, generator=generator, dtype=starts.dtype, device="cpu")
    noise = noise.to(starts.device)
    x = polar(starts + _SHAKEN * kernels.width * noise / starts.shape[-1] ** 0.5)[0]
    ends, moving = x.clone(), torch.arange(len(x), device=x.device)
    eps = torch.finfo(x.dtype).eps
    for _ in range(_CYCLES):
        once, _ = kernels.step(x)
        twice, lowest = kernels.step(once)
        r = once - x
        v = twice - once - r
        length, bend = (torch.linalg.vector_norm(y, dim=-1, keepdim=True) for y in (r, v))
        factor = length / bend.clamp(min=eps**2)
        at_end = (length <= 4 * eps) | (length * factor <= _LEFT * kernels.width)
        # No further than a kernel reaches, into what may be another's range.
        factor = torch.minimum(factor, kernels.width / length.clamp(min=eps**2)).clamp(min=1)
        ahead = polar(x + factor * (2 * r + factor * v))[0]
        following, height = kernels.step(ahead)
        x = torch.where((height >= lowest).unsqueeze(-1), following, twice)
        ends[moving] = x
        going_on = at_end.squeeze(-1).logical_not()
        x, moving = x[going_on], moving[going_on]
        if not len(moving):
            break
    return ends, kernels.step(ends)[1]


def merged(kernels: Kernels, ends: Tensor, heights: Tensor) -> Modes:
    """The modes among the ends, with heights for log densities."""
    labels = torch.empty(len(ends), dtype=torch.long, device=ends.device)
    left, found = heights.argsort(descending=True), list[Tensor]()
    while len(left):
        top = left[0]
        distance = torch.linalg.vector_norm(ends[left] - ends[top], dim=-1)
        near = distance <= _MERGED * kernels.width
        near[0] = True
        labels[left[near]] = len(found)
        found.append(top)
        left = left[near.logical_not()]
    first = torch.stack(found)
    return Modes(ends[first], heights[first], labels)
