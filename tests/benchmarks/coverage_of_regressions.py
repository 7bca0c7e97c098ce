"""How often intervals of 95 % cover coefficients of a regression: the table on the page on fitting.

python tests/benchmarks/coverage_of_regressions.py
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from vmfdist import VonMisesFisher
from vmfdist.estimation import VonMisesFisherRegression

SIMULATIONS, QUANTILE = 4000, 1.959964


def coverage(n: int, dim: int, k: float) -> float:
    """Over all coefficients: an intercept of that length, and a slope of half of it across."""
    torch.manual_seed(0)
    inputs = torch.randn(n, 1, dtype=torch.float64)
    true = torch.zeros(2, dim, dtype=torch.float64)
    true[0, 0], true[1, 1] = k, k / 2
    law = VonMisesFisher.from_natural(pad(inputs, (1, 0), value=1.0) @ true)
    fit = VonMisesFisherRegression.fit(inputs, law.sample((SIMULATIONS,)))
    within = (fit.coefficients - true).abs() < QUANTILE * fit.standard_errors
    return within.double().mean().item()


if __name__ == "__main__":
    for n in (20, 50, 200):
        for dim in (2, 3, 10):
            shares = (coverage(n, dim, k) for k in (1.0, 10.0, 100.0))
            print(n, dim, *(f"{share:.3f}" for share in shares))  # noqa: T201
