"""Spherical k-means: seeds, and steps of Lloyd's algorithm, one pass over the rows each."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vmfdist.mixture._rows import Rows


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
    return rows.gather(lambda batch: (1 - batch.cosines(directions)).clamp_(min=0), len(directions))


def k_means_step(rows: Rows, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The directions of the clusters, and the mean distance 1 - cos to the directions before."""
    sums = torch.zeros_like(directions)
    distance, n = directions.new_zeros(1), directions.new_zeros(1)
    for batch in rows.batches(len(directions)):
        largest, cluster = batch.cosines(directions).max(1)
        members = torch.nn.functional.one_hot(cluster, len(directions)).double()
        distances = 1 - largest
        if batch.weights is None:
            n += len(batch)
        else:
            n += batch.weights.sum()
            members *= batch.weights
            distances *= batch.weights.squeeze(1)
        batch.add_sums(sums, members)
        distance += distances.sum()
    rows.group.add_up(sums, distance, n)
    length = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    return torch.where(length > 0, sums / length, directions), (distance / n).squeeze(0)
