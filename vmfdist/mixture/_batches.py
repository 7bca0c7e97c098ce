"""Rows that come in batches, of an iterable that is gone through once in every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from vmfdist.mixture._rows import Batch, Rows


def in_batches(X: Any) -> bool:
    """Whether this is an iterable of matrices, rather than rows or what an array can be made of."""
    if isinstance(X, Tensor | Mapping) or sparse.issparse(X) or hasattr(X, "__array__"):
        return False
    if isinstance(X, Sequence):
        return len(X) > 0 and getattr(X[0], "ndim", 0) == 2
    return isinstance(X, Iterable)


class RowsInBatches(Rows):
    """The rows of all batches one after the other, of which only one batch is held.

    What a start looks at is held as well.
    """

    def __init__(self, X: Iterable[Any], read: Callable[[Any, bool, int], Rows]) -> None:
        """Of batches that are read and checked: told are whether one is the first, and its row."""
        if iter(X) is X:
            raise TypeError(
                "X can be gone through only once, as a generator, and a fit goes through its "
                "batches again and again: give a list of them, or an object whose __iter__ starts "
                f"anew, got {type(X).__name__}"
            )
        self._X, self._read = X, read
        for batch in X:
            first = self._checked(batch, True, 0)
            break
        else:
            raise ValueError("X has no batches")
        # Of the kind of the batches, but without their memory.
        self._like = first.of([first.at(np.arange(0))])
        self.dim, self.dtype, self.device = first.dim, first.dtype, first.device
        self._number: int | None = None

    def _checked(self, batch: Any, is_first: bool, number: int) -> Rows:
        if not hasattr(batch, "shape"):
            raise TypeError(
                "each batch of X must be an array, tensor or sparse array of shape (rows, d), as a "
                f"DataLoader of a tensor gives them, got {type(batch).__name__}"
            )
        return self._read(batch, is_first, number)

    def _pass(self) -> Iterator[Rows]:
        n = 0
        for batch in self._X:
            rows = self._checked(batch, False, n)
            if rows.kind != self._like.kind:
                raise ValueError(
                    "the batches of X must be of one kind, dtype and device, got "
                    f"{rows.kind} after {self._like.kind}"
                )
            if self.weights is not None:
                rows.weights = self.weights[n : n + len(rows)]
            n += len(rows)
            if self._number is not None and n > self._number:
                self._refuse_number(f"more than {self._number}")
            yield rows
        if self._number is None:
            self._number = n
        elif n != self._number:
            self._refuse_number(f"{n}")

    def _refuse_number(self, got: str) -> NoReturn:
        raise ValueError(
            f"the batches of X must be the same in every pass, got {got} rows after "
            f"{self._number} in the pass before"
        )

    def __len__(self) -> int:
        if self._number is None:
            self._number = sum(map(len, self._pass()))
        return self._number

    def like_given(self, result: Tensor) -> Any:
        return self._like.like_given(result)

    def batches(self, columns: int, *, as_given: bool = False) -> Iterator[Batch]:
        for rows in self._pass():
            yield from rows.batches(columns, as_given=as_given)

    def gather(self, function: Callable[[Batch], Tensor], columns: int) -> Tensor:
        return torch.cat([rows.gather(function, columns) for rows in self._pass()])

    def _picked(self, rows: np.ndarray) -> Rows:
        """A copy of these rows, whose numbers rise."""
        parts, first = [], 0
        for batch in self._pass():
            here = slice(*np.searchsorted(rows, (first, first + len(batch))))
            parts.append(batch.at(rows[here] - first))
            first += len(batch)
        return self._like.of(parts)

    def unit(self, rows: np.ndarray) -> Tensor:
        order = np.argsort(rows)
        x = self._picked(rows[order]).unit(np.arange(len(rows)))
        return x[self._index(np.argsort(order))]
