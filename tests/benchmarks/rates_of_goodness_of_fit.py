"""How often other laws are told from von Mises-Fisher laws, at the level .05, for the guide.

python tests/benchmarks/rates_of_goodness_of_fit.py
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vmfdist import PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist.estimation import goodness_of_fit

SAMPLES, SIMULATIONS, LEVEL = 200, 199, 0.05
N, DIMS = 50, (2, 3, 10)


def alternatives(dim: int) -> dict[str, Tensor]:
    """Samples whose angles to the mean direction are of the size of half a radian."""
    torch.manual_seed(0)
    shape, (loc, side) = (SAMPLES, N), torch.eye(dim, dtype=torch.float64)[:2]
    k = 5.0 * (dim - 1)
    x = VonMisesFisher(loc, k).sample(shape)
    aside = VonMisesFisher(normalize(loc + side, dim=0), k).sample(shape)
    wide = VonMisesFisher(loc, k / 10).sample(shape)
    few = torch.rand(*shape, 1) < 0.2
    return {
        "mixture of two directions": torch.where(few, aside, x),
        "mixture of two concentrations": torch.where(few, wide, x),
        "spherical Cauchy, 0.7": SphericalCauchy(loc, 0.7).sample(shape),
        "power spherical, κ = d - 1": PowerSpherical(loc, dim - 1.0).sample(shape),
        "elliptical": normalize(x + (x @ side).unsqueeze(-1) * side, dim=-1),
    }


if __name__ == "__main__":
    for dim in DIMS:
        for name, samples in alternatives(dim).items():
            result = goodness_of_fit(samples, simulations=SIMULATIONS)
            parts = (part.p_value <= LEVEL for part in (*result, result))
            shares = (f"{part.double().mean():.2f}" for part in parts)
            print(dim, name, *shares, sep=", ", flush=True)  # noqa: T201
