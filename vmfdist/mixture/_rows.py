"""The rows that a mixture is fitted to, as unit vectors in float64, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from vmfdist._validation import unit_tolerance

# What stands for a point: for float32 rows 1 / eps^2, a spread of the size of their rounding; for
# float64 rows 1 / eps, at which the rounding of a direction, eps^2 in its square, still is nothing.
MAX_CONCENTRATION = {torch.float32: 2.0**46, torch.float64: 2.0**52}

# Of a batch and what is computed of it: a few MB, which stay in a processor's cache.
_BATCH_NUMBERS, _BATCH_NUMBERS_ON_DEVICE = 1 << 19, 1 << 22

# Outside, the square of a norm in float64 over- or underflows.
SHORTEST, LONGEST = 1e-150, 1e150


class Batch(Protocol):
    """Some rows x, and what is computed of all of them at once."""

    @property
    def weights(self) -> Tensor | None:
        """Of shape (rows, 1)."""

    def __len__(self) -> int: ...

    def cosines(self, directions: Tensor) -> Tensor:
        """<x, mu>, of shape (rows, directions)."""

    def half_squared_chords(self, directions: Tensor) -> Tensor:
        """|x - mu|^2 / 2, which is 1 - <x, mu> without its rounding."""

    def add_sums(self, sums: Tensor, factors: Tensor) -> None:
        """Adds sum of r x to the sums, for each column r of factors (rows, directions)."""


class DenseBatch(NamedTuple):
    """A batch of rows that are held in full."""

    x: Tensor
    weights: Tensor | None

    def __len__(self) -> int:
        return len(self.x)

    def cosines(self, directions: Tensor) -> Tensor:
        return self.x @ directions.T

    def half_squared_chords(self, directions: Tensor) -> Tensor:
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(self.x, directions, compute_mode=mode).square_() / 2

    def add_sums(self, sums: Tensor, factors: Tensor) -> None:
        sums.addmm_(factors.T, self.x)


def weights_as_column(weights: Tensor | None) -> Tensor | None:
    """Weights of shape (rows, 1)."""
    return None if weights is None else weights.unsqueeze(1)


class Rows:
    """The rows of an array or tensor as unit vectors in float64, a batch at a time.

    Each row counts as often as its weight says, if there are weights.
    """

    weights: Tensor | None = None  # in float64

    def __init__(self, values: Any) -> None:
        self._values, self._is_tensor = values, isinstance(values, Tensor)
        self.dim: int = values.shape[1]
        if self._is_tensor:
            self.dtype, self.device = values.dtype, values.device
        else:
            self.dtype = torch.float32 if values.dtype == np.float32 else torch.float64
            self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._values)

    @property
    def max_concentration(self) -> float:
        return MAX_CONCENTRATION[self.dtype]

    def like_given(self, result: Tensor) -> Any:
        return result if self._is_tensor else result.numpy()

    def _take(self, rows: slice | np.ndarray) -> Tensor:
        if not self._is_tensor:  # a copy, which may be written to even where the data may not
            return torch.from_numpy(self._values[rows].astype(np.float64))
        if isinstance(rows, slice):
            return self._values[rows].double()
        return self._values[self._index(rows)].double()

    def _index(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self.device)

    def take(self, rows: slice | np.ndarray) -> Tensor:
        """These rows, normalised."""
        x = self._take(rows)
        return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)

    def norms(self, rows: slice | np.ndarray) -> Tensor:
        """The lengths of these rows as they are given."""
        return torch.linalg.vector_norm(self._take(rows), dim=1)

    def _step(self, columns: int) -> int:
        numbers = _BATCH_NUMBERS if self.device.type == "cpu" else _BATCH_NUMBERS_ON_DEVICE
        return max(1, numbers // (self.dim + 3 * columns))

    def _parts(self, columns: int, chosen: np.ndarray | None) -> Iterator[slice | np.ndarray]:
        step = self._step(columns)
        for first in range(0, len(self) if chosen is None else len(chosen), step):
            part = slice(first, first + step)
            yield part if chosen is None else chosen[part]

    def batches(self, columns: int, chosen: np.ndarray | None = None) -> Iterator[Batch]:
        """All rows or the chosen ones, in batches for which so many columns are computed."""
        for part in self._parts(columns, chosen):
            yield DenseBatch(self.take(part), weights_as_column(self.weights_of(part)))

    def weights_of(self, rows: slice | np.ndarray | None) -> Tensor | None:
        """The weights of these rows, or of all."""
        if self.weights is None or rows is None:
            return self.weights
        return self.weights[rows if isinstance(rows, slice) else self._index(rows)]

    def counted(self) -> np.ndarray:
        """The numbers of the rows whose weight is not 0."""
        if self.weights is None:
            return np.arange(len(self))
        return self.weights.nonzero().squeeze(1).cpu().numpy()

    def total_weight(self, chosen: np.ndarray | None = None) -> float:
        """The sum of the weights of all rows or the chosen ones, without weights their number."""
        weights = self.weights_of(chosen)
        if weights is not None:
            return weights.sum().item()
        return len(self) if chosen is None else len(chosen)

    def gather(
        self, function: Callable[[Batch], Tensor], columns: int, chosen: np.ndarray | None = None
    ) -> Tensor:
        """The function of each batch, in one tensor.

        That is allocated first: a list of small parts between large batches would keep the memory
        of each batch from being used again.
        """
        first, n = 0, len(self) if chosen is None else len(chosen)
        for batch in self.batches(columns, chosen):
            part = function(batch)
            if first == 0:
                result = part.new_empty((n, *part.shape[1:]))
            result[first : first + len(part)] = part
            first += len(part)
        return result

    def check(self, *, normalize: bool) -> None:
        """Raises ValueError at the first row that is no direction."""
        tolerance = unit_tolerance(self.dtype, self.dim)
        first = 0
        for part in self._parts(0, None):
            norm = self.norms(part)
            good = (norm >= SHORTEST) & (norm <= LONGEST)
            if not normalize:
                good &= (norm - 1).abs() < tolerance
            if not bool(good.all()):
                bad = int(good.logical_not().nonzero()[0])
                self._refuse(first + bad, norm[bad].item())
            first += len(norm)

    def _refuse(self, row: int, norm: float) -> None:
        if not norm <= LONGEST:
            raise ValueError(
                f"X contains NaN, infinity or a value too large: row {row} has the norm {norm:.9g}"
            )
        if norm < SHORTEST:
            raise ValueError(
                f"row {row} of X has the norm {norm:.9g} and so no direction: leave such rows out"
            )
        raise ValueError(
            f"row {row} of X has the norm {norm:.9g}, but with normalize=False every row must be a "
            "unit vector: normalise the rows, or set normalize=True to use their directions only"
        )
