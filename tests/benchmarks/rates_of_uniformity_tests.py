"""How often tests of uniformity reject, at the level .05: the table on the page on fitting.

python tests/benchmarks/rates_of_uniformity_tests.py
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vmfdist import VonMisesFisher
from vmfdist.estimation import rayleigh_test, uniformity_test

SAMPLES, N, SIMULATIONS, LEVEL = 2000, 50, 1999, 0.05
CONCENTRATIONS = {2: (0.5, 1.5), 3: (0.7, 2.0), 10: (2.0, 6.0)}  # of a direction, and of an axis


def alternatives(dim: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    one, other = CONCENTRATIONS[dim]
    shape, pole = (SAMPLES, N), torch.eye(dim)[0]
    noise = torch.randn(*shape, dim)
    flat = noise * torch.cat([torch.tensor([0.5]), torch.ones(dim - 1)])
    side = torch.randint(2, (*shape, 1)) * 2.0 - 1
    return {
        "uniform": normalize(noise, dim=-1),
        f"mean direction, {one}": VonMisesFisher(pole, one).sample(shape),
        f"axis, {other}": side * VonMisesFisher(pole, other).sample(shape),
        "girdle": normalize(flat, dim=-1),
    }


def rates(samples: Tensor) -> list[float]:
    results = [rayleigh_test(samples)]
    for statistic in ("bingham", "gine", "projections"):
        results.append(uniformity_test(samples, statistic, simulations=SIMULATIONS))
    return [(result.p_value < LEVEL).double().mean().item() for result in results]


if __name__ == "__main__":
    for dim in CONCENTRATIONS:
        for name, samples in alternatives(dim).items():
            print(dim, name, *(f"{rate:.3f}" for rate in rates(samples)))  # noqa: T201
