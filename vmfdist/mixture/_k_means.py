"""Spherical k-means: seeds, and steps of Lloyd's algorithm, one pass over the rows each."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.random import sample_without_replacement
from torch import Tensor

from vmfdist.mixture._rows import Batch, Rows

# A start looks at this many rows.
_START_ROWS = 1 << 16


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


def nearest(batch: Batch, directions: Tensor) -> Tensor:
    """The number of the nearest direction, the first of equally near ones."""
    return batch.cosines(directions).argmax(1)


class Clusters(NamedTuple):
    """What a pass over the rows finds, each of them with the centre that is nearest to it."""

    centers: Tensor
    sizes: Tensor  # the weight of each cluster
    sums: Tensor  # sum of x
    inertia: Tensor  # sum of 1 - <x, c>

    def directions(self) -> Tensor:
        """The directions of the sums, which are the best centres for these clusters."""
        mean = self.sums / self.sizes.unsqueeze(1)  # whose length no unit of weights lets underflow
        length = torch.linalg.vector_norm(mean, dim=1, keepdim=True)
        return torch.where(length > 0, mean / length, self.centers)


def assign(rows: Rows, centers: Tensor) -> Clusters:
    """Each row to the nearest centre, the first of equally near ones.

    The processes of a group exchange m (d + 1) + 1 numbers, for m centres.
    """
    sizes, sums = centers.new_zeros(len(centers)), torch.zeros_like(centers)
    inertia = centers.new_zeros(1)
    for batch in rows.batches(len(centers)):
        cosines = batch.cosines(centers)
        largest = cosines.amax(1, keepdim=True)
        members = cosines.ge_(largest)  # 0 and 1, in the same memory
        counts = members.sum(0)
        if counts.sum() > len(batch):  # which is rare, and argmax takes long
            first = members.argmax(1, keepdim=True)
            counts = members.zero_().scatter_(1, first, 1).sum(0)
        distances = (1 - largest).clamp_(min=0)
        if batch.weights is not None:
            counts = members.mul_(batch.weights).sum(0)
            distances *= batch.weights
        sizes += counts
        batch.add_sums(sums, members)
        inertia += distances.sum()
    rows.group.add_up(sizes, sums, inertia)
    return Clusters(centers, sizes, sums, inertia.squeeze(0))


def lloyd(rows: Rows, centers: Tensor, max_iter: int, tol: float) -> tuple[Clusters, int]:
    """Lloyd's algorithm, and the number of its iterations.

    It ends where one lowers the inertia by no more than a share ``tol``. None raises it: an empty
    cluster may have any centre, and a row for its centre can but take rows from others.
    """
    clusters = assign(rows, centers)
    n_iter, converged = 0, False
    while n_iter < max_iter and not converged:
        n_iter += 1
        before, clusters = clusters, assign(rows, _filled(rows, clusters))
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
