r"""Functions of two variables as piecewise polynomials on a uniform grid of cells.

Where a smooth function costs much and is asked for many times, it is interpolated once in every
cell of a grid, at the Chebyshev nodes of either variable (Mason & Handscomb 2003, section 6.2),
and from then on an evaluation is one gather of coefficients and two Horner schemes, whatever the
function and however many the values: a dozen tensor operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._numerics.chebyshev import horner


class Grid(NamedTuple):
    """The cells along each axis, and the number of coefficients for each variable in each."""

    cells_x: int
    cells_y: int
    terms: int


def _interpolation(terms: int) -> tuple[Tensor, Tensor]:
    """Chebyshev nodes in (0, 1), and the matrix from values there to powers, from 1 on."""
    index = torch.arange(terms, dtype=torch.float64, device="cpu")  # whatever the default device
    angles = torch.pi * (index + 0.5) / terms
    nodes = (1.0 + torch.cos(angles)) / 2.0
    return nodes, torch.linalg.inv(torch.linalg.vander(nodes))


def fit(function: Callable[[Tensor, Tensor], tuple[Tensor, ...]], grid: Grid) -> Tensor:
    """Coefficients of the functions that ``function`` returns, in float32.

    Args:
        function: of x in (0, cells_x) and y in (0, cells_y), float64 tensors of shape (n,).
        grid: the cells and the degree.

    Returns:
        A tensor of shape (terms * terms * functions + functions, cells_x * cells_y). Its first
        rows are powers of y, powers of x, functions, lowest powers first. The last are the values
        at the corner of a cell as far as float32 holds them, and what it does not hold is left to
        the constant terms: so rounding costs little of the change within a cell and nothing more.
    """
    nodes, to_powers = _interpolation(grid.terms)
    x, y = (
        torch.arange(cells, device="cpu").unsqueeze(-1) + nodes
        for cells in (grid.cells_x, grid.cells_y)
    )
    mesh = torch.meshgrid(x.reshape(-1), y.reshape(-1), indexing="ij")
    values = torch.stack(function(*(coordinate.reshape(-1) for coordinate in mesh)))
    values = values.view(-1, grid.cells_x, grid.terms, grid.cells_y, grid.terms)
    powers = torch.einsum("fanbm,in,jm->jifab", values, to_powers, to_powers)
    corner = powers[0, 0].float()
    powers[0, 0] -= corner
    cells = grid.cells_x * grid.cells_y
    return torch.cat([powers.reshape(-1, cells).float(), corner.reshape(-1, cells)])


def evaluate(coefficients: Tensor, grid: Grid, x: Tensor, y: Tensor) -> Tensor:
    """The fitted functions at x of shape (n,) and y of shape (n,) or (1,), as (functions, n).

    x and y count in cells, from 0 to cells_x and cells_y; beyond, the polynomials at the edge are
    extrapolated. They and the result are in float64, the arithmetic within a cell is in float32.
    NaN gives NaN.
    """
    column = x.floor().clamp(0.0, grid.cells_x - 1.0)
    row = y.floor().clamp(0.0, grid.cells_y - 1.0)
    in_x, in_y = (x - column).float(), (y - row).float()
    # The index of a NaN is anything: hence the second clamp.
    if y.shape[0] == 1:  # first the one row of cells, then the cells in it
        by_row = coefficients.view(-1, grid.cells_x, grid.cells_y)
        index = row.long().clamp(0, grid.cells_y - 1)
        coefficients, index = by_row.index_select(2, index).squeeze(-1), column.long()
    else:
        index = torch.add(row, column, alpha=float(grid.cells_y)).long()
    local = coefficients.index_select(1, index.clamp(0, coefficients.shape[1] - 1))
    functions = len(coefficients) // (grid.terms**2 + 1)
    powers, corner = local[:-functions], local[-functions:]
    return _contract(_contract(powers, grid.terms, in_y), grid.terms, in_x).double().add_(corner)


def _contract(coefficients: Tensor, terms: int, x: Tensor) -> Tensor:
    """Sums over the powers that lead the first axis of (terms * others, n)."""
    rows, n = coefficients.shape
    return horner(coefficients.view(terms, rows // terms, n).unbind(), x)
