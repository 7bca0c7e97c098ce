"""Spherical k-means: seeds, and steps of Lloyd's algorithm, one pass over the rows each."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.random import sample_without_replacement
from torch import Tensor

from vmfdist.mixture._nearest import Nearest, Products, first_largest
from vmfdist.mixture._rows import Batch, Rows

# A start looks at this many rows.
_START_ROWS = 1 << 16

# A sum is made anew if more than this multiple of it came and went: some bits of it are gone then.
_MOST_TURNOVER = 64


def rows_to_start_from(rows: Rows, least: int, random: np.random.RandomState) -> Rows:
    """A sample of the rows that count, of at least so many."""
    n = min(rows.n_counted, max(_START_ROWS, least))
    numbers = sample_without_replacement(rows.n_counted, n, random_state=random)
    return rows.sample(np.sort(numbers))


def random_rows(rows: Rows, number: int, random: np.random.RandomState) -> Tensor:
    """Different rows of a sample, drawn in proportion to their weights."""
    weights = rows.all_weights()
    shares = None
    if weights is not None:
        least = torch.finfo(weights.dtype).tiny  # one of 0 would never be drawn
        shares = (weights / weights.sum()).clamp(min=least).cpu().numpy()
    return rows.take(random.choice(rows.n_rows, number, replace=False, p=shares))


def k_means_seeds(rows: Rows, n_components: int, random: np.random.RandomState) -> Tensor:
    """k-means++: a row is drawn in proportion to its distance 1 - cos from the nearest seed.

    Of 2 + log(n_components) such candidates the one that leaves the smallest sum of distances
    becomes the next seed, as in scikit-learn (Arthur and Vassilvitskii 2007, section 5).
    """
    trials = 2 + int(math.log(n_components))
    weights, group = rows.weights, rows.group

    def drawn(number: int, distances: Tensor) -> Tensor:
        # One sum goes on from process to process, and a row is where it passes the target.
        cumulative = (distances if weights is None else distances * weights).cumsum(0)
        totals = cumulative.new_zeros(group.size)
        totals[group.rank] = cumulative[-1:].sum()  # of no rows 0
        group.add_up(totals)
        targets = torch.from_numpy(random.uniform(size=number)).to(rows.device) * totals.sum()
        before = totals[: group.rank].sum()
        numbers = torch.searchsorted(before + cumulative, targets, right=True)
        group.add_up(numbers)
        return rows.take(numbers.clamp(max=rows.n_rows - 1).cpu().numpy())

    seeds = drawn(1, torch.ones(len(rows), dtype=torch.float64, device=rows.device))
    nearest = _distances(rows, seeds).squeeze(1)
    while len(seeds) < n_components:
        candidates = drawn(trials, nearest)
        distances = torch.minimum(nearest.unsqueeze(1), _distances(rows, candidates))
        potentials = distances.sum(0) if weights is None else weights @ distances
        group.add_up(potentials)
        best = potentials.argmin()
        nearest = distances[:, best].contiguous()
        seeds = torch.cat((seeds, candidates[best].unsqueeze(0)))
    return seeds


def _distances(rows: Rows, directions: Tensor) -> Tensor:
    """1 - cos between rows and directions, of shape (rows, directions)."""
    return rows.gather(lambda batch: distances_to(batch, directions), len(directions))


def distances_to(batch: Batch, directions: Tensor) -> Tensor:
    """1 - cos, of shape (rows, directions)."""
    return (1 - batch.cosines(directions)).clamp_(min=0)


class Clusters(NamedTuple):
    """What a pass over the rows finds, each of them with the centre that is nearest to it."""

    centers: Tensor
    labels: Tensor  # in the memory of those before
    sizes: Tensor  # the weight of each cluster
    sums: Tensor  # sum of x
    inertia: Tensor  # sum of 1 - <x, c>
    turnover: Tensor  # how much came and went until the sizes and the inertia were these
    products: Products  # for passes after this

    def directions(self) -> Tensor:
        """The directions of the sums, which are the best centres for these clusters."""
        mean = self.sums / self.sizes.unsqueeze(1)  # whose length no unit of weights lets underflow
        length = torch.linalg.vector_norm(mean, dim=1, keepdim=True)
        return torch.where(length > 0, mean / length, self.centers)

    def are_precise(self) -> bool:
        """Whether what is left is not much less than what came and went, and so its rounding."""
        left = torch.cat((self.sizes, self.inertia.unsqueeze(0)))
        return bool((self.turnover <= _MOST_TURNOVER * left).all())


def assign(rows: Rows, centers: Tensor, before: Clusters | None = None) -> Clusters:
    """Each row to the nearest centre, the first of equally near ones.

    After a pass with other centres only rows that come to another cluster change its sum. The
    processes of a group exchange m (d + 2) + 1 numbers at most, for m centres.
    """
    if before is not None:
        clusters = _moved(rows, centers, before)
        if clusters.are_precise() and clusters.inertia <= before.inertia:
            return clusters
    return _afresh(rows, centers)


def _afresh(rows: Rows, centers: Tensor) -> Clusters:
    sizes, sums = centers.new_zeros(len(centers)), torch.zeros_like(centers)
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    inertia, first = centers.new_zeros(()), 0
    for batch in rows.batches(len(centers)):
        largest, found, members = first_largest(batch.cosines(centers))
        distances = (1 - largest).clamp_(min=0)
        if batch.weights is not None:
            members.mul_(batch.weights)
            distances *= batch.weights
        sizes += members.sum(0)
        batch.add_sums(sums, members)
        inertia += distances.sum()
        labels[first : first + len(batch)] = found
        first += len(batch)
    rows.group.add_up(sizes, sums, inertia)
    turnover = torch.cat((sizes, inertia.view(1)))
    return Clusters(centers, labels, sizes, sums, inertia, turnover, Products())


def _moved(rows: Rows, centers: Tensor, before: Clusters) -> Clusters:
    m = len(centers)
    sums, came, gone = torch.zeros_like(centers), centers.new_zeros(m), centers.new_zeros(m)
    nearest, first = Nearest(centers, before.products), 0
    for batch in rows.batches(m, as_given=True):
        labels = before.labels[first : first + len(batch)]
        first += len(batch)
        numbers, part, found = nearest.changes(batch, labels)
        if not len(part):
            continue
        former = labels.index_select(0, numbers)
        labels.scatter_(0, numbers, found)
        weights = (found != former).to(centers.dtype)
        if part.weights is not None:
            weights *= part.weights.squeeze(1)
        factors = centers.new_zeros(m, len(part))
        factors.scatter_(0, former.unsqueeze(0), -weights.unsqueeze(0))
        factors.scatter_(0, found.unsqueeze(0), weights.unsqueeze(0))
        part.add_sums(sums, factors.T)
        came.index_add_(0, found, weights)
        gone.index_add_(0, former, weights)
    rows.group.add_up(came, gone, sums)
    sizes = came - gone
    # As a centre moves from c' to c, the sum of |x - c|^2 / 2 over its n rows changes by
    # <c - c', n (c + c') / 2 - sum of x>, however the lengths of c and c' are rounded. The n rows
    # that then come to c, less those that leave it, add <c, n c / 2 - sum of x>, and half of |x|^2
    # each, which is what the clusters that they leave lose.
    middles = before.sizes.unsqueeze(1) * (before.centers + centers) / 2
    inertia = ((centers - before.centers) * (middles - before.sums)).sum()
    inertia += (centers * (sizes.unsqueeze(1) * centers / 2 - sums)).sum()
    return Clusters(
        centers,
        before.labels,
        before.sizes + sizes,
        before.sums + sums,
        before.inertia + inertia,
        before.turnover + torch.cat((came + gone, came.new_zeros(1))),
        before.products,
    )


def lloyd(rows: Rows, centers: Tensor, max_iter: int, tol: float) -> tuple[Clusters, int]:
    """Lloyd's algorithm, and the number of its iterations.

    It ends where one lowers the inertia by no more than a share ``tol``. None raises it: an empty
    cluster may have any centre, and a row for its centre can but take rows from others.
    """
    clusters = assign(rows, centers)
    n_iter, converged = 0, False
    while n_iter < max_iter and not converged:
        n_iter += 1
        before, clusters = clusters, assign(rows, _filled(rows, clusters), clusters)
        share = tol * bool(clusters.sizes.all())  # what fills an empty cluster is never too little
        converged = bool(before.inertia - clusters.inertia <= share * before.inertia)
    return clusters, n_iter


def _filled(rows: Rows, clusters: Clusters) -> Tensor:
    """The centres of the clusters; the empty ones get the rows that add most to the inertia."""
    centers = clusters.directions()
    (empty,) = (clusters.sizes == 0).nonzero(as_tuple=True)
    if not len(empty):
        return centers
    distances = rows.gather(
        lambda batch: distances_to(batch, clusters.centers).amin(1), len(centers)
    )
    if rows.weights is not None:
        distances *= rows.weights
    largest, far = rows.largest(distances, len(empty))
    centers[empty] = torch.where((largest > 0).unsqueeze(1), far, centers[empty])
    return centers
