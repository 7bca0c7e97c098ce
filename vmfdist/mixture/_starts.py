"""Where expectation maximisation (EM) starts.

One start is of the kind that the user names. If there are more, the others are the best of three
times as many short runs, whose kinds and concentrations vary: each kind of start misses maxima that
another finds. Clusters of k-means never overlap, for instance, so that components of one direction
and unequal concentration are not among them.

References:
    * C. Biernacki, G. Celeux and G. Govaert (2003), Choosing starting values for the EM algorithm
      for getting the highest likelihood in multivariate Gaussian mixture models, Computational
      Statistics and Data Analysis 41, 561-575, doi:10.1016/S0167-9473(02)00163-9.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist.mixture._concentrations import Concentrations
from vmfdist.mixture._expectation_maximisation import (
    Mixture,
    expect,
    maximise,
    merit,
    standing,
    summed,
)
from vmfdist.mixture._k_means import assign, k_means_seeds, random_rows, rows_to_start_from
from vmfdist.mixture._rows import Batch, Rows

KINDS = ("k-means++", "random", "random_from_data")

# A start takes so many steps of k-means or of EM.
_START_STEPS = 10

# Each further start is the best of so many short runs.
_SHORT_RUNS = 3

# Concentrations that vary do so by a factor between the exponentials of this and its negative.
_SPREAD = 1.5


class Given(NamedTuple):
    """What the user wants a start to be, as far as it is given."""

    weights: Tensor | None = None
    mean_directions: Tensor | None = None
    concentrations: Tensor | None = None


def make_starts(
    rows: Rows,
    n_components: int,
    n_starts: int,
    kind: str,
    given: Given,
    concentrations: Concentrations,
    random: np.random.RandomState,
) -> Iterator[Mixture]:
    """So many starts, of which the first is of that kind."""
    random = rows.group.first_object(random)
    sample = rows_to_start_from(rows, n_components, random)
    starts = _Starts(sample, n_components, given, concentrations, random)
    first = starts.of_kind(kind, varied=False)
    # Components of random responsibilities differ by little, and their first steps gain next to
    # nothing: a run that ends where the gain is small would end there.
    yield starts.after_a_short_run(first)[1] if kind == "random" else first
    following = KINDS.index(kind) + 1
    runs = []
    for i in range(_SHORT_RUNS * (n_starts - 1)):
        start = starts.of_kind(KINDS[(following + i) % len(KINDS)], varied=True)
        runs.append(starts.after_a_short_run(start))
    runs.sort(key=lambda run: standing(run[0]), reverse=True)
    yield from (mixture for _, mixture in runs[: n_starts - 1])


class _Starts(NamedTuple):
    """What starts look at."""

    rows: Rows
    n_components: int
    given: Given
    concentrations: Concentrations
    random: np.random.RandomState

    def of_kind(self, kind: str, *, varied: bool) -> Mixture:
        """A start with what is given in its place, where that leaves something to find."""
        given = self.given.mean_directions
        if kind == "random" and given is None:
            found = self._of_random_responsibilities()
        else:
            found = self._of_directions(self._directions(kind, varied) if given is None else given)
            if varied:
                free = max(1, self.concentrations.number(self.n_components))
                factors = np.exp(self.random.uniform(-_SPREAD, _SPREAD, free))
                spread = found.concentrations * torch.from_numpy(factors).to(self.rows.device)
                found = found._replace(concentrations=spread)
        weights, directions, concentrations = (
            mine if own is None else own for own, mine in zip(self.given, found, strict=True)
        )
        return Mixture(weights, directions, self.concentrations.admitted(concentrations))

    def after_a_short_run(self, mixture: Mixture) -> tuple[tuple[bool, float], Mixture]:
        """The mixture after some steps of EM, and its merit."""
        expectation = expect(self.rows, mixture)
        for _ in range(_START_STEPS):
            mixture = maximise(expectation, mixture, self.concentrations)
            expectation = expect(self.rows, mixture)
        return merit(self.rows, expectation, mixture, self.concentrations), mixture

    def _of_directions(self, directions: Tensor) -> Mixture:
        """Equal weights, and the one concentration that is most likely for nearest directions."""
        clusters = assign(self.rows, directions)
        # The mean of 1 - cos is one minus the mean resultant length.
        distance = (clusters.inertia / clusters.sizes.sum()).clamp(max=1)
        concentration = vmf.inverse_one_minus_mean_resultant_length(distance, self.rows.dim)
        concentrations = concentration.expand(len(directions))
        weights = torch.full_like(concentrations, 1 / len(directions))
        return Mixture(weights, directions, concentrations)

    def _directions(self, kind: str, varied: bool) -> Tensor:
        if kind == "random_from_data":
            directions = random_rows(self.rows, self.n_components, self.random)
            steps = int(varied)
        else:
            directions = k_means_seeds(self.rows, self.n_components, self.random)
            steps = 0 if varied else _START_STEPS
        clusters = None
        for _ in range(steps):
            clusters = assign(self.rows, directions, clusters)
            directions = clusters.directions()
        return directions

    def _of_random_responsibilities(self) -> Mixture:
        n = self.n_components
        pole = self.rows.take(np.zeros(1, dtype=np.int64)).expand(n, self.rows.dim).contiguous()

        def respond(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
            drawn = torch.from_numpy(self.random.uniform(size=(len(batch), n))).to(pole.device)
            return drawn.new_zeros(1), drawn / drawn.sum(1, keepdim=True), 1 - batch.cosines(pole)

        former = Mixture(pole.new_full((n,), 1 / n), pole, pole.new_zeros(n))
        self._skip(self.rows.first)
        expectation = summed(self.rows, pole, respond)
        self._skip(self.rows.n_rows - self.rows.first - len(self.rows))
        return maximise(expectation, former, self.concentrations)

    def _skip(self, n_rows: int) -> None:
        """Draws what the rows of other processes get."""
        for _ in range(n_rows):
            self.random.uniform(size=self.n_components)
