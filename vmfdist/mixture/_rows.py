"""The rows that a mixture is fitted to, as unit vectors in float64, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vmfdist._validation import unit_tolerance
from vmfdist.mixture._group import ALONE, Group

# What stands for a point: for float32 rows 1 / eps^2, a spread of the size of their rounding; for
# float64 rows 1 / eps, at which the rounding of a direction, eps^2 in its square, still is nothing.
MAX_CONCENTRATION = {torch.float32: 2.0**46, torch.float64: 2.0**52}

# Of a batch and what is computed of it: a few MB, which stay in a processor's cache.
_BATCH_NUMBERS, _BATCH_NUMBERS_ON_DEVICE = 1 << 19, 1 << 22

# Outside, the square of a norm in float64 over- or underflows. No weight is above either.
SHORTEST, LONGEST = 1e-150, 1e150

# In scikit-learn's words.
NO_WEIGHT = (
    "sample_weight is 0 throughout: Sample weights must contain at least one non-zero number."
)


class Batch(Protocol):
    """Some rows x, and what is computed of all of them at once."""

    @property
    def weights(self) -> Tensor | None:
        """Of shape (rows, 1)."""

    @property
    def given(self) -> tuple[Tensor, Tensor] | None:
        """The rows as they are given and, as precise as they, their lengths; if they are dense."""

    def __len__(self) -> int: ...

    def part(self, numbers: Tensor) -> Batch:
        """The rows with these numbers."""

    def cosines(self, directions: Tensor) -> Tensor:
        """<x, mu>, of shape (rows, directions)."""

    def half_squared_chords(self, directions: Tensor) -> Tensor:
        """|x - mu|^2 / 2, which is 1 - <x, mu> without its rounding."""

    def add_sums(self, sums: Tensor, factors: Tensor) -> None:
        """Adds sum of r x to the sums, for each column r of factors (rows, directions)."""


class DenseBatch:
    """A batch of rows that are held in full."""

    def __init__(
        self,
        values: Tensor,
        norms: Tensor,
        weights: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> None:
        self._values, self._norms, self.weights = values, norms, weights
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._values)

    @property
    def given(self) -> tuple[Tensor, Tensor]:
        if self._lengths is None:
            self._lengths = self._norms.to(self._values.dtype)
        return self._values, self._lengths

    @cached_property
    def x(self) -> Tensor:
        """Unit vectors in float64, which not all that is computed needs."""
        x = self._values.to(torch.float64, copy=True)
        return x.mul_(self._norms.reciprocal().unsqueeze(1))

    def part(self, numbers: Tensor) -> DenseBatch:
        values, norms = (part.index_select(0, numbers) for part in (self._values, self._norms))
        weights = None if self.weights is None else self.weights.index_select(0, numbers)
        return DenseBatch(values, norms, weights)

    def cosines(self, directions: Tensor) -> Tensor:
        # In this layout the largest of each row is found in a third of the time.
        return (directions @ self.x.T).T

    def half_squared_chords(self, directions: Tensor) -> Tensor:
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(self.x, directions, compute_mode=mode).square_() / 2

    def add_sums(self, sums: Tensor, factors: Tensor) -> None:
        sums.addmm_(factors.T, self.x)


class Rows:
    """The rows of an array or tensor as unit vectors in float64, a batch at a time.

    Each row counts as often as its weight says, if there are weights. The rows may be one process's
    share of all: where these are numbered, it is in the order of the processes.
    """

    weights: Tensor | None = None  # in float64
    group: Group = ALONE

    def __init__(self, values: Any, picks: np.ndarray | None = None) -> None:
        """Of the values those rows that are picked, or all."""
        self._values, self._picks = values, picks
        self._is_tensor = isinstance(values, Tensor)
        self.dim: int = values.shape[1]
        if self._is_tensor:
            self.dtype, self.device = values.dtype, values.device
        else:
            self.dtype = torch.float32 if values.dtype == np.float32 else torch.float64
            self.device = torch.device("cpu")

    def __len__(self) -> int:
        return self._values.shape[0] if self._picks is None else len(self._picks)

    @property
    def max_concentration(self) -> float:
        return MAX_CONCENTRATION[self.dtype]

    def like_given(self, result: Tensor) -> Any:
        return result if self._is_tensor else result.numpy()

    @property
    def kind(self) -> str:
        """In words, what rows have in common that can be put together."""
        return f"{type(self._values).__name__} of {self.dtype} on {self.device}"

    def at(self, rows: np.ndarray) -> Any:
        """A copy of the values of these rows, as they are given."""
        if self._picks is not None:
            rows = self._picks[rows]
        return self._values[self._index(rows) if self._is_tensor else rows]

    def of(self, values: list[Any]) -> Rows:
        """Such values, put together."""
        return Rows(torch.cat(values) if self._is_tensor else np.concatenate(values))

    # All rows, of which these are a share

    def join(self, group: Group) -> None:
        """Makes these rows the share of this process."""
        self.group = group
        self._counted = len(self) if self.weights is None else int(self.weights.count_nonzero())
        shares = group.gather_objects((len(self), self._counted, self.dim, self.dtype))
        numbers, counts, *kinds = zip(*shares, strict=True)
        for what, kind in zip(("number of features", "dtype"), kinds, strict=True):
            if len(set(kind)) > 1:
                raise ValueError(
                    f"X must have one {what} in all processes of the group, got "
                    + ", ".join(map(str, kind))
                )
        self.n_rows, self.n_counted = sum(numbers), sum(counts)
        self.first = sum(counts[: group.rank])

    def _own(self, numbers: np.ndarray) -> np.ndarray:
        """Which of these numbers of counted rows are those of rows here."""
        own = numbers - self.first
        return (own >= 0) & (own < self._counted)

    def sample(self, numbers: np.ndarray) -> Rows:
        """Of the rows whose weight is not 0 those with these numbers, in their order."""
        own = numbers[self._own(numbers)] - self.first
        if self.weights is None:
            weights = None
        else:
            own = self.weights.nonzero().squeeze(1).cpu().numpy()[own]
            weights = self.weights[self._index(own)]
        sample = self._picked(own)
        sample.weights = weights
        sample.join(self.group)
        return sample

    def take(self, numbers: np.ndarray) -> Tensor:
        """Of a sample the rows with these numbers, normalised."""
        own = self._own(numbers)
        x = torch.zeros((len(numbers), self.dim), dtype=torch.float64, device=self.device)
        x[self._index(own)] = self.unit(numbers[own] - self.first)
        self.group.add_up(x)
        return x

    def largest(self, values: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Of the nonnegative values of all rows the largest, and their rows, normalised."""
        own, at = values.topk(min(number, len(self)))
        every = values.new_zeros(self.group.size, number)
        x = every.new_zeros(self.group.size, number, self.dim)
        every[self.group.rank, : len(own)] = own
        x[self.group.rank, : len(own)] = self.unit(at.cpu().numpy())
        self.group.add_up(every, x)
        found, at = every.flatten().topk(number)
        return found, x.flatten(0, 1)[at]

    def all_weights(self) -> Tensor | None:
        """Of a sample the weights of all rows."""
        if self.weights is None:
            return None
        weights = self.weights.new_zeros(self.n_rows)
        weights[self.first :][: len(self)] = self.weights
        self.group.add_up(weights)
        return weights

    # Batches of these rows

    def _picked(self, rows: np.ndarray) -> Rows:
        return Rows(self._values, rows)

    def _index(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self.device)

    @cached_property
    def _are_at_hand(self) -> bool:
        """Whether a batch of the rows is read where they are, and not copied first."""
        return self._picks is None and (
            self._is_tensor or np.may_share_memory(self._given(slice(2)), self._values)
        )

    def _given(self, rows: slice | np.ndarray) -> Tensor:
        """These rows in float32 or float64, without a copy where that is possible."""
        if self._picks is not None:
            rows = self._picks[rows]
        if self._is_tensor:
            return self._values[rows if isinstance(rows, slice) else self._index(rows)]
        kind = np.float32 if self.dtype == torch.float32 else np.float64
        # PyTorch takes no strides below 0, which a single row may have in NumPy's rows one after
        # the other ("C"), and warns of memory that it could not write to.
        values = np.require(self._values[rows], kind, ["C", "W"])
        return torch.from_numpy(values.reshape(-1)).view(values.shape)

    def unit(self, rows: np.ndarray) -> Tensor:
        """These rows, dense and normalised."""
        return DenseBatch(self._given(rows), self.norms[self._index(rows)]).x

    @cached_property
    def norms(self) -> Tensor:
        """The lengths of the rows as they are given, found in one pass instead of in every one."""
        norms = torch.empty(len(self), dtype=torch.float64, device=self.device)
        for part in self._parts(0):
            torch.linalg.vector_norm(self._given(part).double(), dim=1, out=norms[part])
        return norms

    @cached_property
    def _lengths(self) -> Tensor:
        """The norms in the precision of the rows."""
        return self.norms.to(self.dtype)

    def _step(self, columns: int, as_given: bool) -> int:
        numbers = _BATCH_NUMBERS if self.device.type == "cpu" else _BATCH_NUMBERS_ON_DEVICE
        if as_given:
            numbers *= 64 if self._are_at_hand else 16
            return max(1, numbers // self.dtype.itemsize // (self.dim + columns))
        return max(1, numbers // (self.dim + 3 * columns))

    def _parts(self, columns: int, as_given: bool = False) -> Iterator[slice]:
        """Of no rows there is one part, without rows."""
        step = self._step(columns, as_given)
        for first in range(0, max(1, len(self)), step):
            yield slice(first, first + step)

    def batches(self, columns: int, *, as_given: bool = False) -> Iterator[Batch]:
        """All rows, in batches for which so many columns are computed.

        They have more rows if these are used as they are given, but for a few.
        """
        for part in self._parts(columns, as_given):
            lengths = self._lengths[part] if as_given else None
            yield DenseBatch(self._given(part), self.norms[part], self._weights_of(part), lengths)

    def _weights_of(self, rows: slice) -> Tensor | None:
        """The weights of these rows, of shape (rows, 1)."""
        return None if self.weights is None else self.weights[rows].unsqueeze(1)

    def gather(self, function: Callable[[Batch], Tensor], columns: int) -> Tensor:
        """The function of each batch, in one tensor.

        That is allocated first: a list of small parts between large batches would keep the memory
        of each batch from being used again.
        """
        first = 0
        for batch in self.batches(columns):
            part = function(batch)
            if first == 0:
                result = part.new_empty((len(self), *part.shape[1:]))
            result[first : first + len(part)] = part
            first += len(part)
        return result

    def check(self, *, normalize: bool, first: int = 0) -> None:
        """Raises ValueError at the first row that is no direction; they are numbered from first."""
        norms = self.norms
        good = (norms >= SHORTEST) & (norms <= LONGEST)
        if not normalize:
            good &= (norms - 1).abs() < unit_tolerance(self.dtype, self.dim)
        if not bool(good.all()):
            bad = int(good.logical_not().nonzero()[0])
            self._refuse(first + bad, norms[bad].item())

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
