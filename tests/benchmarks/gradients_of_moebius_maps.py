"""Variance of two gradients of a spherical Cauchy draw in its mean direction, one over the other.

A draw is the image of a uniform direction u under the Moebius map that moves 0 to rho loc. With u
held fixed the draw follows loc along that map; the package turns it with loc instead. The table on
the page on cosines has the ratio of their variances, of <x, a> with a at half a right angle to loc:

    python tests/benchmarks/gradients_of_moebius_maps.py
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

DIMS, RHOS, DRAWS = (2, 3, 10, 50), (0.1, 0.5, 0.7, 0.9, 0.99), 400_000


def image(u: Tensor, a: Tensor) -> Tensor:
    """(1 - |a|^2) (u + a) / |u + a|^2 + a."""
    square = a.square().sum(-1, keepdim=True)
    return (1 - square) * (u + a) / (u + a).square().sum(-1, keepdim=True) + a


def ratio(dim: int, rho: float) -> float:
    torch.manual_seed(0)
    loc = torch.eye(dim, dtype=torch.float64)[0].expand(DRAWS, dim).clone().requires_grad_()
    toward = normalize(torch.eye(dim, dtype=torch.float64)[:2].sum(0), dim=0)
    u = normalize(torch.randn(DRAWS, dim, dtype=torch.float64), dim=-1)
    x = image(u, rho * normalize(loc, dim=-1))
    (by_map,) = torch.autograd.grad((x @ toward).sum(), loc)
    x, mu = x.detach(), loc.detach()
    cosine, along = (x * mu).sum(-1, keepdim=True), mu @ toward
    by_turn = cosine * toward - along.unsqueeze(-1) * x
    # the component along which the mean of <x, a> changes
    return (by_map[:, 1].var() / by_turn[:, 1].var()).item()


if __name__ == "__main__":
    for dim in DIMS:
        print(dim, *(f"{ratio(dim, rho):.2g}" for rho in RHOS))  # noqa: T201
