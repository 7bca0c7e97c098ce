"""An iteration of expectation maximisation (EM): one pass over the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist.mixture._concentrations import Concentrations
from vmfdist.mixture._rows import NO_WEIGHT, Batch, Rows

# Where the rounding of 1 - <x, mu> in float64 puts the log density off by 2^-32.
_CLOSE = 2.0**20


class Mixture(NamedTuple):
    """The parameters of a mixture, in float64."""

    weights: Tensor
    mean_directions: Tensor
    concentrations: Tensor


class Expectation(NamedTuple):
    """Sums over the rows x with the responsibilities r of a mixture, and its log likelihood."""

    log_likelihood: float  # the mean over the rows
    n_rows: float  # the sum of their weights
    weights: Tensor  # sum of r, for each component
    sums: Tensor  # sum of r x
    distances: Tensor  # sum of r (1 - <x, mu>)


def log_joint(mixture: Mixture) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Rows -> log(w f(x)) and 1 - <x, mu>, each of shape (rows, components)."""
    weights, directions, concentrations = mixture
    dim = directions.shape[1]
    peaks = weights.log() + vmf.log_density_at_mode(concentrations, dim)
    (close,) = (concentrations > _CLOSE).nonzero(as_tuple=True)

    def evaluate(batch: Batch) -> tuple[Tensor, Tensor]:
        distances = 1 - batch.cosines(directions)
        if len(close):
            distances[:, close] = batch.half_squared_chords(directions[close])
        return torch.addcmul(peaks, concentrations, distances, value=-1), distances

    return evaluate


def summed(
    rows: Rows, directions: Tensor, respond: Callable[[Batch], tuple[Tensor, Tensor, Tensor]]
) -> Expectation:
    """One pass over the rows: log f(x), r and 1 - <x, mu> of each batch.

    The processes of a group exchange m (d + 2) + 2 numbers, for m directions.
    """
    log_likelihood, n = directions.new_zeros(1), directions.new_zeros(1)
    weights = directions.new_zeros(len(directions))
    sums = torch.zeros_like(directions)
    total_distances = torch.zeros_like(weights)
    for batch in rows.batches(len(directions)):
        log_density, responsibilities, distances = respond(batch)
        if batch.weights is None:
            n += len(batch)
        else:
            n += batch.weights.sum()
            log_density, responsibilities = (
                batch.weights * x for x in (log_density, responsibilities)
            )
        log_likelihood += log_density.sum()
        weights += responsibilities.sum(0)
        batch.add_sums(sums, responsibilities)
        total_distances += responsibilities.mul_(distances).sum(0)
    rows.group.add_up(log_likelihood, n, weights, sums, total_distances)
    total, n_rows = torch.cat((log_likelihood, n)).tolist()
    if not n_rows:
        raise ValueError(NO_WEIGHT)
    return Expectation(total / n_rows, n_rows, weights, sums, total_distances)


def expect(rows: Rows, mixture: Mixture) -> Expectation:
    """The E step, one pass over the rows."""
    evaluate = log_joint(mixture)

    def respond(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        joint, distances = evaluate(batch)
        largest = joint.amax(1, keepdim=True)
        shares = joint.sub_(largest).exp_()  # whose sum is at least 1
        density = shares.sum(1, keepdim=True)
        return largest + density.log(), shares.mul_(density.reciprocal()), distances

    return summed(rows, mixture.mean_directions, respond)


def maximise(expectation: Expectation, mixture: Mixture, concentrations: Concentrations) -> Mixture:
    r"""The M step.

    With the mean m of a component's rows, |m| is its mean resultant length R. Close to 1 that has
    lost 1 - R, which comes from distances to the former direction mu instead: the identity
    1 - |m|^2 = 2 mean(1 - <x, mu>) - |m - mu|^2 has no term of size 1.
    """
    _, _, sizes, sums, distances = expectation
    former = mixture.mean_directions
    weights = sizes / sizes.sum()
    filled = weights >= torch.finfo(weights.dtype).eps
    sizes = torch.where(filled, sizes, 1.0)
    mean = sums / sizes.unsqueeze(1)
    length = torch.linalg.vector_norm(mean, dim=1)
    one_minus_square = 2 * distances / sizes - (mean - former).square().sum(1)
    one_minus_length = (one_minus_square / (1 + length)).clamp(0, 1)
    estimated = concentrations.estimated(
        torch.where(filled, sizes, 0.0),
        torch.where(filled, sizes * one_minus_length, 0.0),
        former.shape[1],
    )
    directed = (length > 0).unsqueeze(1)  # opposite rows may cancel; any direction is one then
    directions = torch.where(directed, mean / length.unsqueeze(1), former)
    return Mixture(
        torch.where(filled, weights, 0.0),
        torch.where(filled.unsqueeze(1), directions, former),
        torch.where(estimated.isnan(), mixture.concentrations, estimated),  # of no rows, no prior
    )


def objective(expectation: Expectation, mixture: Mixture, concentrations: Concentrations) -> float:
    """What EM never lowers: the mean log likelihood, with the prior's share in it."""
    log_prior = concentrations.log_prior(mixture.concentrations, mixture.mean_directions.shape[1])
    return expectation.log_likelihood + log_prior / expectation.n_rows


def merit(
    rows: Rows, expectation: Expectation, mixture: Mixture, concentrations: Concentrations
) -> tuple[bool, float]:
    """Of several mixtures the one with the greatest is the best.

    In a group it is as the first process finds it: by its rounding of the logarithm of the prior,
    processes on unlike machines could go on for different numbers of iterations.
    """
    # The likelihood of a collapsed component says how high the bound is, not how good the fit.
    collapsed = concentrations.collapsed(mixture.concentrations) > 0
    reached = objective(expectation, mixture, concentrations)
    found = torch.tensor([not collapsed, reached], dtype=torch.float64, device=rows.device)
    intact, reached = rows.group.first(found).tolist()
    return bool(intact), reached


def standing(found: tuple[bool, float]) -> tuple[bool, float]:
    """The merit by which runs are compared, of equal ones the first.

    Runs that end in the same maximum differ by rounding, which depends on how sums were formed.
    """
    intact, reached = found
    return intact, round(reached, 8)


def moved(expectation: Expectation, former: Mixture, mixture: Mixture) -> Expectation:
    """The same sums, with distances to the directions of the mixture that they have led to.

    Sum of r (1 - <x, mu>) falls by <s, mu - mu'>, with the sum s of r x. That is |s| |mu - mu'|^2/2
    where mu' has the direction of s, and 0 where mu' = mu.
    """
    turned = (mixture.mean_directions - former.mean_directions).square().sum(1) / 2
    length = torch.linalg.vector_norm(expectation.sums, dim=1)
    distances = (expectation.distances - length * turned).clamp(min=0)
    return expectation._replace(distances=distances)


def blended(old: Expectation, new: Expectation, share: float) -> Expectation:
    """Means over the rows of which that share is of the new ones, times the number of all rows."""
    n_rows = old.n_rows + new.n_rows
    a, b = (1 - share) * n_rows / old.n_rows, share * n_rows / new.n_rows
    sums = (a * x + b * y for x, y in zip(old[2:], new[2:], strict=True))
    return Expectation(new.log_likelihood, n_rows, *sums)
