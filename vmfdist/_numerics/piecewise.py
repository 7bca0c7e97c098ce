r"""Functions of two variables as piecewise polynomials on a uniform grid of cells.

Where smooth functions cost much and are asked for many times, they are interpolated once in every
cell of a grid, at the Chebyshev nodes of either variable (Mason & Handscomb 2003, section 6.2),
and from then on an evaluation is one gather of coefficients and two Horner schemes, whatever the
functions and however many the values: a dozen tensor operations.

The first of the functions is positive, and the polynomial is of its logarithm. Its value in the
middle of a cell stands beside as a factor, so that the polynomial is small and float32 serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._numerics.autograd import in_transform
from vmfdist._numerics.chebyshev import horner


class Grid(NamedTuple):
    """The cells along each axis, powers of two, and the coefficients for each variable in each."""

    cells_x: int
    cells_y: int
    terms: int
    first_x: int = 0
    """Where the cells of x begin; those of y begin at 0."""


def _interpolation(terms: int) -> tuple[Tensor, Tensor]:
    """Chebyshev nodes in (0, 1), and the matrix from values there to powers, from 1 on."""
    index = torch.arange(terms, dtype=torch.float64, device="cpu")  # whatever the default device
    angles = torch.pi * (index + 0.5) / terms
    nodes = (1.0 + torch.cos(angles)) / 2.0
    return nodes, torch.linalg.inv(torch.linalg.vander(nodes))


def fit(function: Callable[[Tensor, Tensor], tuple[Tensor, ...]], grid: Grid) -> Tensor:
    """Coefficients of the functions that ``function`` returns, in float32.

    Args:
        function: of x in (first_x, first_x + cells_x) and y in (0, cells_y), float64 tensors of
            shape (n,). It returns the logarithm of the first.
        grid: the cells and the degree.

    Returns:
        A tensor of shape (1 + functions * terms * terms, cells_x * cells_y), where columns of cells
        are counted modulo cells_x. Its first row is the first function in the middle of a cell as
        far as float32 holds it, and what it does not hold is left to the constant terms: so
        rounding costs little of the change within a cell and nothing more. The others are
        functions, powers of y, powers of x, lowest powers first.
    """
    nodes, to_powers = _interpolation(grid.terms)
    x, y = (
        torch.arange(cells, device="cpu").unsqueeze(-1) + nodes
        for cells in (grid.cells_x, grid.cells_y)
    )
    mesh = torch.meshgrid((x + grid.first_x).reshape(-1), y.reshape(-1), indexing="ij")
    values = torch.stack(function(*(coordinate.reshape(-1) for coordinate in mesh)))
    values = values.view(-1, grid.cells_x, grid.terms, grid.cells_y, grid.terms)
    values = values.roll(grid.first_x, dims=1)
    powers = torch.einsum("fanbm,in,jm->fjiab", values, to_powers, to_powers)
    halves = 0.5 ** torch.arange(grid.terms, dtype=torch.float64, device="cpu")
    middle = torch.einsum("jiab,j,i->ab", powers[0], halves, halves).exp().float()
    powers[0, 0, 0] -= middle.double().log()
    cells = grid.cells_x * grid.cells_y
    return torch.cat([middle.reshape(1, cells), powers.reshape(-1, cells).float()])


def evaluate(
    coefficients: Tensor, grid: Grid, x: Tensor, y: Tensor, functions: int
) -> tuple[Tensor, ...]:
    """So many of the functions at x of shape (n,) and y of shape (n,) or (1,), each of shape (n,).

    x and y count in cells, x from first_x to less than first_x + cells_x, y from 0 to less than
    cells_y. Their places in a cell are formed in their dtype, all else in that of the coefficients.
    NaN gives NaN.
    """
    column, row = x.floor(), y.floor()
    in_x, in_y = x - column, y - row
    if x.dtype != coefficients.dtype:
        in_x, in_y = in_x.to(coefficients.dtype), in_y.to(coefficients.dtype)
    coefficients = coefficients[: 1 + functions * grid.terms**2]
    # The last bits count modulo a power of two. Of whatever NaN becomes they are an index too.
    if y.shape[0] == 1:  # first the one row of cells, then the cells in it
        by_row = coefficients.view(-1, grid.cells_x, grid.cells_y)
        index = row.long().bitwise_and_(grid.cells_y - 1)
        coefficients, index = by_row.index_select(2, index).squeeze(-1), column.long()
    else:
        index = torch.add(row, column, alpha=float(grid.cells_y)).long()
    local = coefficients.index_select(1, index.bitwise_and_(coefficients.shape[1] - 1))
    powers = local[1:].view(functions, grid.terms, grid.terms, -1)
    logarithm, *others = _contract(_contract(powers, in_y), in_x).unbind()
    return logarithm.exp_().mul_(local[0]), *others


def _contract(coefficients: Tensor, x: Tensor) -> Tensor:
    """Sums over the powers that are the second axis, in the memory of the coefficients."""
    if torch.compiler.is_compiling() or in_transform():
        # A compiled graph reuses memory by itself, and vmap has no rule for addcmul_.
        return horner(coefficients.unbind(1), x)
    *lower, result = coefficients.unbind(1)
    for coefficient in reversed(lower):
        result = coefficient.addcmul_(result, x)
    return result
