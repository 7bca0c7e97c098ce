"""Sparse rows, of a SciPy array in CSR format, which are never made dense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from vmfdist.mixture._rows import Batch, Rows

# Of a batch: its sums are dense, (components, d), and adding them should not take the most time.
_BATCH_NUMBERS = 1 << 22

# Entries are split into multiples of this power of 1/2 and a rest.
_BITS = 24


class SparseRows(Rows):
    """The rows of a SciPy array in CSR format as unit vectors in float64, a batch at a time."""

    def __init__(self, values: Any, *, is_tensor: bool = False) -> None:
        super().__init__(values)
        self._is_tensor = is_tensor
        if not values.has_canonical_format:  # entries that are given twice add up
            self._values = values.copy()
            self._values.sum_duplicates()

        # A pass over the entries once, instead of in every iteration.
        squares = self._values.astype(np.float64)
        squares.data *= squares.data
        self.norms = torch.from_numpy(np.sqrt(np.asarray(squares.sum(axis=1)).reshape(-1)))

    def at(self, rows: np.ndarray) -> Any:
        return self._values[rows]

    def of(self, values: list[Any]) -> Rows:
        return SparseRows(sparse.vstack(values, format="csr"), is_tensor=self._is_tensor)

    def _picked(self, rows: np.ndarray) -> Rows:
        return self.of([self.at(rows)])

    def _unit(self, rows: slice | np.ndarray) -> Any:
        x = self._values[rows]
        data = x.data / np.repeat(self.norms.numpy()[rows], np.diff(x.indptr))
        return sparse.csr_array((data, x.indices, x.indptr), shape=x.shape)

    def unit(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self._unit(rows).toarray())

    def _step(self, columns: int, as_given: bool) -> int:
        entries_of_a_row = self._values.nnz // max(1, len(self)) + 1
        return max(1, _BATCH_NUMBERS // (entries_of_a_row + 3 * columns))

    def batches(self, columns: int, *, as_given: bool = False) -> Iterator[Batch]:
        for part in self._parts(columns):
            yield SparseBatch(self._unit(part), self._weights_of(part))


class SparseBatch(NamedTuple):
    """A batch of rows of which only the entries are held."""

    x: Any
    weights: Tensor | None
    given: None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def part(self, numbers: Tensor) -> SparseBatch:
        weights = None if self.weights is None else self.weights.index_select(0, numbers)
        return SparseBatch(self.x[numbers.numpy()], weights)

    def cosines(self, directions: Tensor) -> Tensor:
        return torch.from_numpy(_times(self.x, directions.numpy()))

    def half_squared_chords(self, directions: Tensor) -> Tensor:
        """Chords that are sums of exact parts and small ones.

        With x = h + r, where h holds multiples of 2^-24: |h - h'|^2 is a sum of multiples of 2^-48,
        exact in any order, and the rest |x|^2 - |h|^2 = <x + h, r>, <h, r'> + <r, mu> is small.
        """
        mu = directions.numpy()
        coarse = self.x.copy()
        coarse.data = np.round(self.x.data * 2.0**_BITS) * 2.0**-_BITS
        coarse_mu = np.round(mu * 2.0**_BITS) * 2.0**-_BITS
        fine, fine_mu = self.x - coarse, mu - coarse_mu
        squares = np.asarray(coarse.multiply(coarse).sum(axis=1)).reshape(-1, 1)
        exact = squares + (coarse_mu**2).sum(1) - 2 * _times(coarse, coarse_mu)
        rests = np.asarray(fine.multiply(self.x + coarse).sum(axis=1)).reshape(-1, 1)
        rest = rests + (fine_mu * (mu + coarse_mu)).sum(1)
        rest -= 2 * (_times(coarse, fine_mu) + _times(fine, mu))
        return torch.from_numpy((exact + rest).clip(min=0) / 2)

    def add_sums(self, sums: Tensor, factors: Tensor) -> None:
        sums += torch.from_numpy(self.x.T @ factors.numpy()).T


def _times(x: Any, directions: np.ndarray) -> np.ndarray:
    return x @ np.ascontiguousarray(directions.T)
