r"""Cosines w = <x, loc> as a map from a normal variable, by tables of a dimension.

:func:`transport` solves

.. math:: P(1 - w \le T(\zeta; k)) = \Phi_N(\zeta)

for the complement :math:`T = 1 - w` (in float32 at a concentration of 1e8 the cosine itself is 1),
together with the exact implicit derivative in the concentration. A standard normal
:math:`\zeta` thus becomes a cosine without rejection and without a random number of its own.

Method: with :math:`u = \operatorname{artanh}(-w)`, both :math:`2u + \log(k + K)` and
:math:`-(k + K)\, du/dk` are smooth and bounded functions of :math:`\zeta` and
:math:`k / (k + K)`, infinite concentrations included. For each law and dimension they are
tabulated once, as piecewise polynomials, from :mod:`vmfdist._sampling.quadrature`; that serves
float32. In float64, and for the von Mises-Fisher law in dimension 2, where the functions are least
smooth, the table is the start of one step of the quadrature (of two for both).

Values of :math:`\zeta` beyond 8.3, which a normal variable exceeds with a probability of 1e-16 and
the length of a vector of noise easily, count as 8.3.

Accuracy for :math:`|\zeta| \le 8` and concentrations up to 1e12, beyond the rounding of the cosine:
1e-6 (float32) and 1e-10 (float64) in units of :math:`\zeta`, 1e-5 and 1e-8 relative in the
derivative; tests/test_noise_to_cosine.py. In float64 beyond d = 4096 the rounding of log densities
of the size of d log k shows.

References:
    * M. Figurnov, S. Mohamed and A. Mnih (2018), Implicit reparameterization gradients,
      arXiv:1805.08498.
    * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 9.3 (tangent-normal
      decomposition).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._numerics import piecewise
from vmfdist._numerics.constants import cached_tensor
from vmfdist._numerics.infinity import finite
from vmfdist._numerics.piecewise import Grid
from vmfdist._numerics.rows import expanded
from vmfdist._sampling.quadrature import COARSE, FINE, SINGLE, refine, solve
from vmfdist._sampling.tilt import Tilt


class CosineDraw(NamedTuple):
    """A cosine w as drawn, and how it moves with the concentration."""

    one_minus_cosine: Tensor
    """t = 1 - w, to full relative accuracy."""

    rate: Tensor
    """d artanh(w) / d concentration = (dw/dk) / (1 - w^2), smooth and bounded."""


#: (zeta, squared, k, dim) -> the cosine and its rate of change with k, from the component of a
#: vector of noise along the mean direction and the squared length of what is across.
Transport = Callable[[Tensor, Tensor, Tensor, int], CosineDraw]


def transport(zeta: Tensor, concentration: Tensor, dim: int, tilt: Tilt) -> CosineDraw:
    """Maps standard normal values to cosines.

    Args:
        zeta: standard normal values, of any shape.
        concentration: the concentration of each; of a shape that broadcasts to that of ``zeta``.
        dim: the dimension of the ambient space, at least 2.
        tilt: the law.

    Returns:
        The cosines in the shape and the dtype of ``zeta``. Larger ``zeta`` means further from the
        mean direction.
    """
    single, shape = zeta.dtype == torch.float32, zeta.shape
    k = concentration if concentration.numel() == 1 else expanded(concentration, shape)
    z = zeta.double().clamp(-_reach(), _reach()).reshape(-1)
    k = finite(k.double()).reshape(-1)
    scale = k + _offset(dim)
    level, pace = _interpolate(z, k / scale, dim, tilt)
    rough = dim < tilt.least_tabulated_dim  # where the table is a start even in float32
    if single and not rough:
        odds, rate = level.exp_().div_(scale), pace.div_(scale)
    else:
        # From where nodes end only the scale changes.
        near, effort = (k.clamp(max=1e37), SINGLE) if single else (k.clamp(max=1e150), FINE)
        near_scale = near + _offset(dim)
        shift = torch.log(near_scale)
        u = (level - shift) / 2.0
        for _ in range(2 if rough and not single else 1):
            u, rate = refine(z, near, dim, tilt, u, effort)
        odds, rate = torch.exp(2.0 * u + shift) / scale, rate * (near_scale / scale)
    t = (odds / (odds + 1.0)).mul_(2.0)
    if single:
        t, rate = t.float(), rate.float()
    return CosineDraw(t.reshape(shape), rate.reshape(shape))


# --------------------------------------------------------------------------------------------------
# The table of a dimension
# --------------------------------------------------------------------------------------------------

# What follows was found by trial: the least that holds errors within half of those stated above, as
# tests/test_noise_to_cosine.py shows.


def _reach() -> float:
    return 8.3  # a normal variable exceeds it with a probability of 1e-16


_START = Grid(13, 13, 4)  # from where one step of the quadrature reaches the table's accuracy


def _grid(dim: int) -> Grid:
    for bound, grid in ((5, Grid(52, 58, 6)), (11, Grid(58, 60, 5)), (63, Grid(64, 68, 4))):
        if dim <= bound:
            return grid
    return Grid(26, 32, 4)


def _offset(dim: int) -> float:
    """K, which spreads the curvature of the functions over y = k / (k + K)."""
    return 8.0 + dim / 2


def _interpolate(zeta: Tensor, y: Tensor, dim: int, tilt: Tilt) -> Tensor:
    """From the table, to the accuracy of float32: 2u + log(k + K) and -du/dk (k + K)."""
    grid = _grid(dim)
    x = zeta * (grid.cells_x / 2 / _reach()) + grid.cells_x / 2
    table = _table(dim, type(tilt), like=zeta)
    return piecewise.evaluate(table, grid, x, y * float(grid.cells_y))


@cached_tensor(maxsize=64)
def _table(dim: int, kind: type[Tilt]) -> Tensor:
    """The coefficients, at most 1 MB, built on the CPU in a fraction of a second.

    The class stands for the tilt, since an object is no constant to Dynamo of torch 2.6.
    """
    grid, tilt = _grid(dim), kind()

    def arguments(x: Tensor, y: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        x, y = x / grid.cells_x, y / grid.cells_y
        k = y * _offset(dim) / (1.0 - y)
        return (2.0 * x - 1.0) * _reach(), k, k + _offset(dim)

    def by_iteration(x: Tensor, y: Tensor) -> tuple[Tensor]:
        zeta, k, scale = arguments(x, y, _START)
        return (2.0 * solve(zeta, k, dim, tilt, COARSE).u + torch.log(scale),)

    def by_one_step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        zeta, k, scale = arguments(x, y, grid)
        x, y = x * (_START.cells_x / grid.cells_x), y * (_START.cells_y / grid.cells_y)
        (level,) = piecewise.evaluate(start, _START, x, y)
        u, rate = refine(zeta, k, dim, tilt, (level - torch.log(scale)) / 2.0, COARSE)
        return 2.0 * u + torch.log(scale), rate * scale

    start = piecewise.fit(by_iteration, _START)
    return piecewise.fit(by_one_step, grid)
