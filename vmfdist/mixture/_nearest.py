"""Which of some directions is nearest to a row, by products in the precision that rows have.

For dense float32 rows these take a fraction of the time of products in float64. What they leave in
doubt, by the bound of N. J. Higham (2002), Accuracy and Stability of Numerical Algorithms, section
3.1, is decided by cosines in float64: the result is theirs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vmfdist.mixture._rows import Batch


class Products:
    """Products of rows and directions in the rows' own precision, in memory that is used again.

    One object is for one fit: what is found of the machine's products holds for all its passes.
    """

    def __init__(self) -> None:
        self._are_precise, self._tried = True, 0

    def of(self, directions: Tensor, x: Tensor) -> Tensor:
        """Those before are lost: to get new memory from the system takes as long as they."""
        products = self._memory[: len(directions) * len(x)].view(-1, len(x))
        return torch.mm(directions, x.T, out=products)

    def are_precise_for(self, directions: Tensor, x: Tensor) -> bool:
        """Whether products of so many rows keep all digits of their factors.

        Those in float32 do not where the user has them rounded (as TF32, or by
        torch.set_float32_matmul_precision), or the environment: there is no one place to ask.
        """
        if len(x) > self._tried:
            self._tried = len(x)
            self._memory = x.new_empty(len(directions) * len(x))
            column, last = x[0].abs().argmax(), 1 + torch.finfo(x.dtype).eps
            one = torch.zeros_like(directions)
            one[:, column] = last
            self._are_precise &= bool((self.of(one, x) == last * x[:, column]).all())
        return self._are_precise


class Nearest:
    """The number of the nearest direction of each row, the first of equally near ones.

    One object is for one pass over the rows.
    """

    def __init__(self, directions: Tensor, products: Products | None = None) -> None:
        self._directions = self._rounded = directions
        self._products = products or Products()

    def __call__(self, batch: Batch) -> Tensor:
        return self._settled(self._by_products(batch), batch)

    def changes(self, batch: Batch, labels: Tensor) -> tuple[Tensor, Batch, Tensor]:
        """Rows that contain all whose label changes: their numbers, they, and their labels now.

        Next to them are those few that products leave in doubt.
        """
        found = self._by_products(batch)
        (numbers,) = (found != labels).nonzero(as_tuple=True)
        part = batch.part(numbers)
        return numbers, part, self._settled(found.index_select(0, numbers), part)

    def _settled(self, found: Tensor, batch: Batch) -> Tensor:
        """The same numbers, with those of the rows in doubt."""
        (doubtful,) = (found.abs() >= len(self._directions)).nonzero(as_tuple=True)
        if len(doubtful):
            found[doubtful] = self._by_cosines(batch.part(doubtful))
        return found

    def _by_products(self, batch: Batch) -> Tensor:
        """The number of the nearest direction of each row, one that none has where in doubt."""
        if batch.given is None or not len(batch):
            return self._by_cosines(batch)
        x, lengths = batch.given
        self._rounded = self._rounded.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            if not self._products.are_precise_for(self._rounded, x):
                return self._by_cosines(batch)
            products = self._products.of(self._rounded, x)  # of all of a row its length is a factor
            share, least = _margin(x)
            limits = products.amax(0).sub_(lengths, alpha=share).sub_(least)
            return _the_only(products.ge_(limits))

    def _by_cosines(self, batch: Batch) -> Tensor:
        return first_largest(batch.cosines(self._directions))[1]


def first_largest(cosines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest number of each row, where it comes first, and the rows with 1 there and 0 else.

    The last are in the memory of the given ones.
    """
    largest = cosines.amax(1, keepdim=True)
    members = cosines.ge_(largest)
    found = _the_only(members.T)
    (ties,) = (found >= cosines.shape[1]).nonzero(as_tuple=True)
    if len(ties):
        found[ties] = members[ties].argmax(1)  # which takes long for all
        members.zero_().scatter_(1, found.unsqueeze(1), 1)
    return largest, found, members


def _the_only(flags: Tensor) -> Tensor:
    """In which of m rows a column of zeros and ones has its one.

    That is -m - 1 if it has none, and m + 1 at least if it has more.
    """
    m = len(flags)
    numbers = torch.arange(m + 1, 2 * m + 1, dtype=flags.dtype, device=flags.device)
    return (numbers @ flags).sub_(m + 1).long()


def _margin(x: Tensor) -> tuple[float, float]:
    """By how much the difference of two products may be wrong: this times |x|, and this.

    With the unit roundoff u, d numbers in a row and g(n) = n u / (1 - n u): a product is wrong by
    at most g(d) |x| and what rounding the direction adds, u |x|; the difference of two of them by
    twice as much and its own rounding. All that is below (d + 4) 2 u / (1 - (d + 4) 2 u) times |x|.
    The second is above what underflows, a multiple of the smallest normal number.
    """
    limits = torch.finfo(x.dtype)
    share = (x.shape[1] + 4) * limits.eps
    share = share / (1 - share) if share < 1 else math.inf
    return share, share * limits.tiny / limits.eps**2
