r"""Cosines w = <x, loc> as a map from a normal variable, by tables of a dimension.

:func:`transport` solves

.. math:: P(1 - w \le T(\zeta; k)) = \Phi_N(\zeta)

for the complement :math:`T = 1 - w` (in float32 at a concentration of 1e8 the cosine itself is 1),
together with the exact implicit derivative in the concentration. A standard normal
:math:`\zeta` thus becomes a cosine without rejection and without a random number of its own. On the
circle, where :math:`\zeta` tells the side as well, :math:`P(1 - w \le T) = 2 \Phi_N(|\zeta|) - 1`.

Method: with :math:`u = \operatorname{artanh}(-w)`, both :math:`2u + \log(k + K)` (on the circle
less :math:`2 \log |\zeta|`) and :math:`-(k + K)\, du/dk` are smooth and bounded functions of
:math:`\zeta` and :math:`K / (k + K)`, infinite concentrations included. For each law and dimension
they are tabulated once, as piecewise polynomials, from :mod:`vmfdist._sampling.quadrature`; that
serves float32, in float32 alone: of :math:`K / (k + K)`, not :math:`k / (k + K)`, since the
functions are steep where k is large and the former has its digits there. In float64 the table is
the start of one step of the quadrature.

Values of :math:`\zeta` beyond 8, which a normal variable exceeds with a probability of 1e-15 and
the length of a vector of noise easily, count as 8.

Accuracy for :math:`|\zeta| < 8` and concentrations up to 1e12: in float64 1e-10 in units of
:math:`\zeta`, beyond the rounding of the cosine, and 1e-8 relative in the derivative; in float32
1e-6 or four roundings of :math:`T`, whichever is larger, and 1e-5. On the circle float32 has these
up to 5.5, which a normal variable exceeds four times in 1e8, and 4e-5 and 1e-3 from there to 8.
tests/test_noise_to_cosine.py. In float64 beyond d = 4096 the rounding of log densities of the size
of d log k shows.

References:
    * M. Figurnov, S. Mohamed and A. Mnih (2018), Implicit reparameterization gradients,
      arXiv:1805.08498.
    * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 9.3 (tangent-normal
      decomposition).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._numerics import piecewise
from vmfdist._numerics.constants import as_tensors, cached_tensor
from vmfdist._numerics.piecewise import Grid
from vmfdist._numerics.rows import expanded, reshaped
from vmfdist._sampling.quadrature import COARSE, FINE, refine, solve
from vmfdist._sampling.tilt import Tilt


class CosineDraw(NamedTuple):
    """A cosine w as drawn, and how it moves with the concentration."""

    one_minus_cosine: Tensor
    """t = 1 - w, to full relative accuracy."""

    rate: Tensor | None
    """d artanh(w) / d concentration = (dw/dk) / (1 - w^2), smooth and bounded; None if not asked.

    A draw without gradients has no need of it, and without it costs up to a third less.
    """


#: (zeta, across, k, dim, with_rate) -> the cosine and its rate of change with k, from the
#: component of a vector of noise along the mean direction and the length of what is across.
Transport = Callable[[Tensor, Tensor, Tensor, int, bool], CosineDraw]


def transport(
    zeta: Tensor, concentration: Tensor, dim: int, tilt: Tilt, with_rate: bool = True
) -> CosineDraw:
    """Maps standard normal values to cosines.

    Args:
        zeta: standard normal values, of any shape: components of noise along the mean direction, on
            the circle those across.
        concentration: the concentration of each; of a shape that broadcasts to that of ``zeta``.
        dim: the dimension of the ambient space, at least 2.
        tilt: the law.
        with_rate: whether the rate is asked for.

    Returns:
        The cosines in the shape and the dtype of ``zeta``. Larger ``zeta`` means further from the
        mean direction, on the circle larger ``abs(zeta)``.
    """
    shape = zeta.shape
    k = concentration if concentration.numel() == 1 else expanded(concentration, shape)
    z, k = reshaped(zeta, (zeta.numel(),)), reshaped(k, (k.numel(),))
    z = z.clamp(-_reach(), _reach()) if dim > 2 else z.abs().clamp_(_least(), _reach())
    scale = k + _offset(dim)
    weight, *pace = _interpolate(z, scale, dim, tilt, with_rate)
    if zeta.dtype == torch.float32:
        t = weight / torch.add(scale, weight, alpha=0.5)
        rate = pace[0] / scale if pace else None
    else:
        near = k.clamp(max=1e150)  # from where nodes end only the scale changes
        near_scale = near + _offset(dim)
        shift = torch.log(near_scale)
        u = (torch.log(weight / 2.0) - shift) / 2.0
        u, slope = refine(_score(z, dim), near, dim, tilt, u, FINE)
        rate = slope * (near_scale / scale) if with_rate else None
        odds = torch.exp(2.0 * u + shift) / scale
        t = (odds / (odds + 1.0)).mul_(2.0)
    return CosineDraw(reshaped(t, shape), None if rate is None else reshaped(rate, shape))


def _score(z: Tensor, dim: int) -> Tensor:
    """The normal score of the cosine; on the circle, where z is that of a side, of both."""
    if dim > 2:
        return z
    within, beyond = torch.erf(z * math.sqrt(0.5)), torch.erfc(z * math.sqrt(0.5))
    return torch.where(z < 0.67, torch.special.ndtri(within), -torch.special.ndtri(beyond))


# --------------------------------------------------------------------------------------------------
# The table of a dimension
# --------------------------------------------------------------------------------------------------

# What follows was found by trial: the least that holds errors within half of those stated above, as
# tests/test_noise_to_cosine.py shows.


def _reach() -> float:
    return 7.9999995  # the largest number of float32 below 8


def _least() -> float:
    return 1e-60  # on the circle, where in float64 the square of zeta over k must not be 0


_START = Grid(16, 16, 4, -8)  # from where one step of the quadrature reaches the table's accuracy


def _grid(dim: int) -> Grid:
    cells = 128 if dim <= 12 else 64 if dim <= 56 else 32
    return Grid(cells, cells, 5 if dim <= 5 else 4, 0 if dim == 2 else -(cells // 2))


def _offset(dim: int) -> float:
    """K, which spreads the curvature of the functions over K / (k + K)."""
    return 6.0 + dim / 2


def _per_unit(grid: Grid) -> float:
    """Cells of zeta per unit, a power of two, so that a place in a cell has no rounding."""
    return (grid.cells_x + grid.first_x) / 8


def _offset_in_cells(grid: Grid, dim: int) -> float:
    """K in cells of K / (k + K), and a little less, so that k = 0 is in the last of them."""
    return grid.cells_y * _offset(dim) * (1.0 - 2.0**-14)


def _interpolate(
    zeta: Tensor, scale: Tensor, dim: int, tilt: Tilt, with_rate: bool = True
) -> tuple[Tensor, ...]:
    """From the table, to the accuracy of float32: 2 e^2u (k + K) and, if asked, -du/dk (k + K)."""
    grid = _grid(dim)
    (offset,) = as_tensors((_offset_in_cells(grid, dim),), like=scale)
    table = _table(dim, type(tilt), like=zeta)
    x, y = zeta * _per_unit(grid), offset / scale
    weight, *pace = piecewise.evaluate(table, grid, x, y, functions=1 + with_rate)
    return weight if dim > 2 else weight * zeta * zeta, *pace


@cached_tensor(maxsize=64)
def _table(dim: int, kind: type[Tilt]) -> Tensor:
    """The coefficients, built on the CPU in a fraction of a second.

    They take 3.4 MB at most, from dimension 13 on .6. The class stands for the tilt, since an
    object is no constant to Dynamo of torch 2.6.
    """
    tilt, start_grid, grid = kind(), _START, _grid(dim)
    if dim == 2:
        start_grid = start_grid._replace(first_x=0)

    def arguments(x: Tensor, y: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        scale = _offset_in_cells(grid, dim) / y
        return x / _per_unit(grid), scale - _offset(dim), scale

    def level(u: Tensor, zeta: Tensor, scale: Tensor) -> Tensor:
        return 2.0 * u + torch.log(2.0 * scale if dim > 2 else 2.0 * scale / zeta.square())

    def by_iteration(x: Tensor, y: Tensor) -> tuple[Tensor]:
        zeta, k, scale = arguments(x, y, start_grid)
        u = solve(_score(zeta, dim), k, dim, tilt, COARSE).u
        return (level(u, zeta, scale),)

    def by_steps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        zeta, k, scale = arguments(x, y, grid)
        x = x * (_per_unit(start_grid) / _per_unit(grid))
        (weight,) = piecewise.evaluate(
            start, start_grid, x, y * (start_grid.cells_y / grid.cells_y), functions=1
        )
        u = (torch.log(weight.double()) - level(torch.zeros_like(zeta), zeta, scale)) / 2.0
        score = _score(zeta, dim)
        for _ in range(2 if dim == 2 else 1):  # the circle is where the functions are least smooth
            u, rate = refine(score, k, dim, tilt, u, COARSE)
        return level(u, zeta, scale), rate * scale

    start = piecewise.fit(by_iteration, start_grid)
    return piecewise.fit(by_steps, grid)
