# Moebius maps of the ball, and the point amid unit vectors.

from __future__ import annotations

import pytest
import torch

from cases import directions
from vmfdist._numerics import moebius


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_addition_moves_the_ball_by_an_isometry(dim: int) -> None:
    a, b, c = (0.8 * r * x for r, x in zip((0.3, 0.9, 1.1), directions(3, dim), strict=True))
    zero = torch.zeros(dim, dtype=torch.float64)
    torch.testing.assert_close(moebius.add(a, zero), a)
    torch.testing.assert_close(moebius.add(-a, moebius.add(a, b)), b)
    # The distance of two points is a function of |-b + c|, which a map leaves as it is.
    moved = moebius.add(-moebius.add(a, b), moebius.add(a, c))
    torch.testing.assert_close(moved.norm(), moebius.add(-b, c).norm())
    on_sphere = moebius.add(a, directions(20, dim, seed=1))
    torch.testing.assert_close(on_sphere.norm(dim=-1), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_the_barycentre_moves_along(dim: int) -> None:
    x, weights = directions(30, dim), torch.rand(30, dtype=torch.float64)
    weights = weights / weights.sum()
    centre = moebius.conformal_barycentre(x, weights)
    back = moebius.add(-centre, x)
    assert (weights @ back).norm() < 1e-14
    a = 0.95 * directions(dim, seed=2)
    moved = moebius.conformal_barycentre(moebius.add(a, x), weights)
    torch.testing.assert_close(moved, moebius.add(a, centre), rtol=1e-12, atol=1e-12)
    heavy = torch.full((30,), 0.4 / 29, dtype=torch.float64)
    heavy[3] = 0.6
    found = moebius.conformal_barycentre(x, heavy)
    assert 1 - found @ x[3] < 2e-9
