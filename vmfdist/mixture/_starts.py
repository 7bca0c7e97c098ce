"""Where expectation maximisation starts."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.utils.random import sample_without_replacement
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist.mixture._expectation_maximisation import Mixture
from vmfdist.mixture._rows import Rows

# The start looks at this many rows, and takes so many steps of k-means.
_START_ROWS, _START_STEPS = 1 << 16, 10


def k_means_start(rows: Rows, n_components: int, random: np.random.RandomState) -> Mixture:
    """Spherical k-means from seeds; then equal weights and the concentration they all share."""
    n = min(len(rows), _START_ROWS)
    chosen = np.sort(sample_without_replacement(len(rows), n, random_state=random))
    directions = _seeds(rows, chosen, n_components, random)
    for _ in range(_START_STEPS):
        directions, distance = _k_means_step(rows, chosen, directions)
    # The mean of 1 - cos is one minus the mean resultant length.
    concentration = vmf.inverse_one_minus_mean_resultant_length(distance.clamp(0, 1), rows.dim)
    concentration = concentration.clamp(max=rows.max_concentration).expand(n_components)
    return Mixture(torch.full_like(concentration, 1 / n_components), directions, concentration)


def _seeds(
    rows: Rows, chosen: np.ndarray, n_components: int, random: np.random.RandomState
) -> Tensor:
    """k-means++: a row is drawn in proportion to its distance 1 - cos from the nearest seed.

    Of 2 + log(n_components) such candidates the one that leaves the smallest sum of distances
    becomes the next seed, as in scikit-learn (Arthur and Vassilvitskii 2007, section 5).
    """
    trials = 2 + int(math.log(n_components))
    seeds = rows.take(chosen[random.randint(len(chosen), size=1)])
    nearest = _distances(rows, chosen, seeds).squeeze(1)
    while len(seeds) < n_components:
        cumulative = nearest.cumsum(0)
        targets = torch.from_numpy(random.uniform(size=trials)).to(rows.device) * cumulative[-1]
        picks = torch.searchsorted(cumulative, targets).clamp(max=len(chosen) - 1)
        candidates = rows.take(chosen[picks.cpu().numpy()])
        distances = torch.minimum(nearest.unsqueeze(1), _distances(rows, chosen, candidates))
        best = distances.sum(0).argmin()
        nearest = distances[:, best].contiguous()
        seeds = torch.cat((seeds, candidates[best].unsqueeze(0)))
    return seeds


def _distances(rows: Rows, chosen: np.ndarray, directions: Tensor) -> Tensor:
    """1 - cos between rows and directions, of shape (rows, directions)."""
    return rows.gather(lambda x: (1 - x @ directions.T).clamp_(min=0), len(directions), chosen)


def _k_means_step(rows: Rows, chosen: np.ndarray, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The directions of the clusters, and the mean distance 1 - cos to the directions before."""
    sums = torch.zeros_like(directions)
    distance = directions.new_zeros(())
    for x in rows.batches(len(directions), chosen):
        largest, cluster = (x @ directions.T).max(1)
        members = torch.nn.functional.one_hot(cluster, len(directions)).to(x.dtype)
        sums.addmm_(members.T, x)
        distance += (1 - largest).sum()
    length = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    return torch.where(length > 0, sums / length, directions), distance / len(chosen)
