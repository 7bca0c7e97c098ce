"""How often tests reject what is true, at the level .05: the tables of the page on fitting.

Each in 20 000 simulations; for the dimensions that are named, or 2, 3 and 10:

    python tests/sizes.py [DIM ...]
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist import HypersphericalUniform, VonMisesFisher
from vmfdist.estimation import (
    TestResult,
    concentration_test,
    goodness_of_fit,
    mean_direction_test,
    rayleigh_test,
    uniformity_test,
)

LEVEL, RUNS, DIMS = 0.05, 20_000, (2, 3, 10)
AT_ONCE = 2000  # that many stay in memory that is at hand

Groups = tuple[tuple[int, float], ...]  # a sample as (size, concentration)


class Case(NamedTuple):
    """A test of samples for which its hypothesis holds."""

    kind: str
    dim: int
    groups: Groups


def _pole(dim: int) -> Tensor:
    return torch.eye(dim, dtype=torch.float64)[0]


def _simulated(x: Tensor, statistic: str) -> TestResult:
    seed = int(torch.randint(1 << 30, ()))
    return uniformity_test(x, statistic, simulations=1999, seed=seed)


#: Tests of samples, of shape (runs, n, d) each.
KINDS: dict[str, Callable[..., TestResult]] = {
    "equal": mean_direction_test,
    "unequal": lambda *x: mean_direction_test(*x, equal_concentration=False),
    "stated": lambda *x: mean_direction_test(*x, loc=_pole(x[0].shape[-1])),
    "concentrations": concentration_test,
    "rayleigh": rayleigh_test,
    "V": lambda x: rayleigh_test(x, loc=_pole(x.shape[-1])),
    "bingham": lambda x: uniformity_test(x, "bingham"),
    "gine": lambda x: _simulated(x, "gine"),
    "projections": lambda x: _simulated(x, "projections"),
}
PARTS = ("cosine", "tangent", "both")  # of the goodness of fit


def rejected(kind: str, dim: int, groups: Groups, runs: int) -> Tensor:
    """Of each of so many simulations, whether the hypothesis is."""
    if all(k == 0 for _, k in groups):
        uniform = HypersphericalUniform(dim, dtype=torch.float64)
        samples = [uniform.sample((runs, n)) for n, _ in groups]
    else:
        samples = [VonMisesFisher(_pole(dim), float(k)).sample((runs, n)) for n, k in groups]
    return (KINDS[kind](*samples).p_value <= LEVEL).double()


def misfits(dim: int, n: int, k: float, runs: int) -> dict[str, Tensor]:
    """The same of the goodness of fit and its parts, as if simulations for p-values were many.

    Each sample has one drawn from its own fit, and these together are what it is compared to (the
    warp-speed bootstrap of Giacomini, Politis and White 2013, Econometric Theory 29, 567-589).
    """
    x = VonMisesFisher(_pole(dim), k).sample((runs, n))
    laws = VonMisesFisher(_pole(dim), VonMisesFisher.fit(x).concentration)
    drawn = laws.sample((n,)).movedim(0, 1)
    found, null = (goodness_of_fit(y, simulations=1) for y in (x, drawn))

    def beyond(level: float) -> list[Tensor]:
        pairs = zip(found, null, strict=True)
        return [a.statistic > b.statistic.quantile(1 - level) for a, b in pairs]

    one, other = beyond(LEVEL / 2)
    return {name: x.double() for name, x in zip(PARTS, (*beyond(LEVEL), one | other), strict=True)}


def size(case: Case) -> float:
    """The share that is rejected."""
    kind, dim, groups = case
    if kind in PARTS:
        ((n, k),) = groups
        return _misfits(dim, n, k)[kind]
    torch.manual_seed(0)
    shares = [rejected(kind, dim, groups, AT_ONCE).mean() for _ in range(RUNS // AT_ONCE)]
    return torch.stack(shares).mean().item()


@functools.cache
def _misfits(dim: int, n: int, k: float) -> dict[str, float]:
    torch.manual_seed(0)
    found = [misfits(dim, n, k, AT_ONCE) for _ in range(RUNS // AT_ONCE)]
    return {part: torch.stack([x[part] for x in found]).mean().item() for part in PARTS}


KS = (1, 3, 10, 100)
DIFFERENT: tuple[Groups, ...] = (
    ((10, 10), (30, 100)),
    ((10, 100), (30, 10)),
    ((20, 1), (20, 100)),
    ((20, 3), (60, 100)),
    ((60, 3), (20, 100)),
    ((50, 10), (20, 100)),
    ((20, 3), (30, 10), (40, 100)),
)


def tables(dim: int) -> Iterator[tuple[str, list[Case]]]:
    """The rows of the tables, each with what it begins with."""
    for kind in ("rayleigh", "V", "bingham", "gine", "projections"):
        yield kind, [Case(kind, dim, ((n, 0),)) for n in (5, 20, 100)]
    for n in (5, 20, 100):
        yield f"stated, {n}", [Case("stated", dim, ((n, k),)) for k in KS]
    for kind in ("equal", "unequal", "concentrations"):
        for sizes in ((20, 20), (20, 50), (20, 20, 20)):
            row = [Case(kind, dim, tuple((n, k) for n in sizes)) for k in KS]
            yield f"{kind}, {sizes}", row
    for groups in DIFFERENT:
        yield f"different, {groups}", [Case(kind, dim, groups) for kind in ("unequal", "equal")]
    for kind in PARTS:
        for n in (20, 100):
            yield f"{kind}, {n}", [Case(kind, dim, ((n, k),)) for k in KS]


def main(dims: tuple[int, ...]) -> None:
    """Print the tables."""
    for dim in dims:
        for name, row in tables(dim):
            print(dim, name, *(f"{size(case):.3f}" for case in row), sep=", ", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or DIMS)
