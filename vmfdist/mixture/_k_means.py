"""Spherical k-means: seeds, and steps of Lloyd's algorithm, one pass over the rows each."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vmfdist.mixture._rows import Rows


def k_means_seeds(
    rows: Rows, chosen: np.ndarray, n_components: int, random: np.random.RandomState
) -> Tensor:
    """k-means++: a row is drawn in proportion to its distance 1 - cos from the nearest seed.

    Of 2 + log(n_components) such candidates the one that leaves the smallest sum of distances
    becomes the next seed, as in scikit-learn (Arthur and Vassilvitskii 2007, section 5).
    """
    trials = 2 + int(math.log(n_components))
    weights = rows.weights_of(chosen)

    def drawn(number: int, distances: Tensor) -> Tensor:
        cumulative = (distances if weights is None else distances * weights).cumsum(0)
        targets = torch.from_numpy(random.uniform(size=number)).to(rows.device) * cumulative[-1]
        picks = torch.searchsorted(cumulative, targets, right=True).clamp(max=len(chosen) - 1)
        return rows.take(chosen[picks.cpu().numpy()])

    seeds = drawn(1, torch.ones(len(chosen), dtype=torch.float64, device=rows.device))
    nearest = _distances(rows, chosen, seeds).squeeze(1)
    while len(seeds) < n_components:
        candidates = drawn(trials, nearest)
        distances = torch.minimum(nearest.unsqueeze(1), _distances(rows, chosen, candidates))
        best = (distances.sum(0) if weights is None else weights @ distances).argmin()
        nearest = distances[:, best].contiguous()
        seeds = torch.cat((seeds, candidates[best].unsqueeze(0)))
    return seeds


def _distances(rows: Rows, chosen: np.ndarray, directions: Tensor) -> Tensor:
    """1 - cos between rows and directions, of shape (rows, directions)."""
    return rows.gather(
        lambda batch: (1 - batch.cosines(directions)).clamp_(min=0), len(directions), chosen
    )


def k_means_step(rows: Rows, chosen: np.ndarray, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The directions of the clusters, and the mean distance 1 - cos to the directions before."""
    sums = torch.zeros_like(directions)
    distance = directions.new_zeros(())
    for batch in rows.batches(len(directions), chosen):
        largest, cluster = batch.cosines(directions).max(1)
        members = torch.nn.functional.one_hot(cluster, len(directions)).double()
        distances = 1 - largest
        if batch.weights is not None:
            members *= batch.weights
            distances *= batch.weights.squeeze(1)
        batch.add_sums(sums, members)
        distance += distances.sum()
    length = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    return torch.where(length > 0, sums / length, directions), distance / rows.total_weight(chosen)
