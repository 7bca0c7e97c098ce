"""Probabilities and quantiles of cosines in all tails, and what the constants behind them do."""

from __future__ import annotations

import math
import random

import mpmath as mp
import pytest
import torch
from torch import Tensor

from reference import cosine_reference
from vmfdist._families.power_spherical import POWER_SPHERICAL
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._sampling import quadrature
from vmfdist._sampling.quadrature import COARSE, FINE, Effort, refine
from vmfdist._sampling.tilt import Tilt
from vmfdist.cosine import CosineLaw, PowerSphericalCosine, VonMisesFisherCosine

LIMIT = 1e-10  # relative, of all probabilities and of all derivatives
EPS = 2.2e-16

of_each_law = pytest.mark.parametrize("law", [VonMisesFisherCosine, PowerSphericalCosine])


def double(x: float | list[float]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


# --------------------------------------------------------------------------------------------------
# At random points, against integrals in mpmath
# --------------------------------------------------------------------------------------------------


def check(law: type[CosineLaw], dim: int, k: float, p: float, upper: bool) -> bool:
    """Quantile, probabilities and all their derivatives; False if 1 -+ w is not a number there."""
    probability, concentration = double(p).requires_grad_(), double(k).requires_grad_()
    ours = law(concentration, dim)
    quantile = (ours.one_minus_isf if upper else ours.one_minus_icdf)(probability)
    t = quantile.detach().requires_grad_()
    if not 1e-290 < t.item() < 2:
        return False
    found: dict[str, float] = {}
    found["dt/dp"], found["dt/dk"] = (
        x.item() for x in torch.autograd.grad(quantile, (probability, concentration))
    )
    for name in ("cdf", "sf"):
        value = getattr(ours, name)(one_minus_value=t)
        found[name] = value.item()
        found[f"{name}/dt"], found[f"{name}/dk"] = (
            x.item() for x in torch.autograd.grad(value, (t, concentration))
        )
    with mp.workdps(22):
        r = cosine_reference(dim, k, law is PowerSphericalCosine)
        exact = mp.mpf(t.item())
        u = mp.log(exact / (2 - exact)) / 2
        sf, cdf, slope = r.probabilities(u)  # of u, which falls with w
        density_of_u = r.density(u) / r.total
        density = density_of_u / (exact * (2 - exact))
        sign = 1 if upper else -1
        truths = {
            "cdf": cdf,
            "sf": sf,
            "cdf/dt": -density,
            "sf/dt": density,
            "cdf/dk": -slope,
            "sf/dk": slope,
        }
        for name, truth in truths.items():
            if abs(truth) > 1e-290:
                assert abs(found[name] / truth - 1) < LIMIT, name
        # Quantiles beyond the rounding of t, which moves u by at most eps / (2 - t).
        tail = sf if upper else cdf
        change = 2 + abs(r.slope(u)) + density_of_u / tail  # of logarithms, with u
        rounding = EPS / (2 - exact) * change
        assert abs(p / tail - 1) < LIMIT + rounding
        assert abs(found["dt/dp"] * sign * density - 1) < LIMIT + rounding
        assert abs(found["dt/dk"] * density / -slope - 1) < LIMIT + rounding
    return True


def random_points(n: int, seed: int) -> list[tuple[int, float, float, bool]]:
    """Dimensions 2 to 4096, concentrations and probabilities over all scales, either tail.

    Every other one is at a concentration of which the quantile lies beyond a right angle, with
    -log p between k and 2k, or turns to the neighbourhood of the antipode.
    """
    generator = random.Random(seed)
    points = []
    for i in range(n):
        dim = int(2 * 2048.5 ** generator.random())
        p = 10 ** -generator.uniform(0.1, 290 if i % 4 else 8)
        if i % 2:
            points.append((dim, 10 ** generator.uniform(-4, 8), p, generator.random() < 0.5))
        else:
            points.append((dim, -math.log(p) * generator.uniform(0.4, 1.0), p, False))
    return points


# Dimension, concentration and probability, where the path of integration was too short or too long,
# or Halley's method not done.
TELLING_POINTS = [
    (2, 110.0, 1e-80),
    (2, 333.765, 1e-290),
    (3, 95.0, 1e-75),
    (3, 1e3, 1e-188),
    (4, 110.0, 1e-89),
    (3, 333.53, 1e-290),
]


@of_each_law
def test_probabilities_and_quantiles_anywhere(law: type[CosineLaw]) -> None:
    points = [*random_points(12, seed=2), (5, 0.0, 1e-280, True), (300, 0.0, 0.7, False)]
    points += [(*point, False) for point in TELLING_POINTS]
    assert sum(check(law, *point) for point in points) > 0.8 * len(points)


@pytest.mark.slow
@of_each_law
def test_probabilities_and_quantiles_at_many_points(law: type[CosineLaw]) -> None:
    points = random_points(300, seed=3)
    assert sum(check(law, *point) for point in points) > 0.8 * len(points)


# --------------------------------------------------------------------------------------------------
# Closed forms
# --------------------------------------------------------------------------------------------------


def test_dimension_3_in_closed_form() -> None:
    # Beyond a right angle the density of the angle is not log-concave.
    k, t = torch.meshgrid(
        torch.logspace(0, 4, 40, dtype=torch.float64),
        torch.linspace(0.02, 1.999, 133, dtype=torch.float64),
        indexing="ij",
    )
    total = -torch.expm1(-2 * k)
    below = torch.exp(-k * t) * -torch.expm1(-k * (2 - t)) / total
    above = -torch.expm1(-k * t) / total
    slope = below * ((2 - t) / torch.expm1(k * (2 - t)) - t - 2 / torch.expm1(2 * k))
    normal = below > 1e-290
    assert normal.sum() > 3800
    law = VonMisesFisherCosine(k.requires_grad_(), 3)
    for value, expected, sign in (
        (law.cdf(one_minus_value=t), below, 1),
        (law.sf(one_minus_value=t), above, -1),
    ):
        (gradient,) = torch.autograd.grad(value.sum(), k)
        assert (value / expected - 1)[normal].abs().max() < LIMIT
        assert (sign * gradient / slope - 1)[normal].abs().max() < LIMIT


@pytest.mark.parametrize("dim", [2, 3, 5, 30])
def test_power_spherical_is_a_beta_law(dim: int) -> None:
    half = mp.mpf(dim - 1) / 2
    for k in (0.0, 0.02, 4.5, 60.0):
        for r in (1e-30, 1e-3, 0.4, 1.0, 1.5, 2 - 1e-3):
            law = PowerSphericalCosine(double(k), dim)
            w = double(r - 1.0)
            with mp.workdps(40):
                x = (1 + mp.mpf(w.item())) / 2
                below = mp.betainc(half + k, half, 0, x, regularized=True)
                above = mp.betainc(half, half + k, 0, 1 - x, regularized=True)
                if 1e-290 < below < 1:
                    assert abs(law.cdf(w).item() / below - 1) < LIMIT
                if 1e-290 < above < 1:
                    assert abs(law.sf(w).item() / above - 1) < LIMIT


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 40])
def test_probabilities_next_to_1_are_those_of_the_other_tail(
    law: type[CosineLaw], dim: int
) -> None:
    rest = 0.5 ** torch.arange(1, 54, dtype=torch.float64)
    ours = law(double([[0.0], [7.0], [3000.0]]), dim)
    for one, other in (
        (ours.one_minus_icdf, ours.one_minus_isf),
        (ours.one_minus_isf, ours.one_minus_icdf),
    ):
        torch.testing.assert_close(one(1 - rest), other(rest), rtol=1e-10, atol=0)


@of_each_law
def test_the_least_complements(law: type[CosineLaw]) -> None:
    # Uniform: 1 - w is 2 sin(pi p / 2)^2 on the circle, down to 1e-297, and 2p in dimension 3.
    p = double([1e-149, 1e-100, 1e-20, 0.4])
    expected = 2 * torch.sin(math.pi / 2 * p).square()
    found = law(double(0.0), 2).one_minus_isf(p)
    torch.testing.assert_close(found, expected, rtol=LIMIT, atol=0)
    p = double([1e-298, 1e-200, 0.4])
    found = law(double(0.0), 3).one_minus_isf(p)
    torch.testing.assert_close(found, 2 * p, rtol=LIMIT, atol=0)


@of_each_law
def test_the_least_probabilities(law: type[CosineLaw]) -> None:
    p = double([0.0, 5e-324, 1e-310, 1e-300, 1e-290])
    for dim in (2, 3, 100):
        for k in (0.0, 30.0, 1e5):
            ours = law(double(k), dim)
            w = ours.icdf(p)
            assert w[0] == -1
            assert (w.diff() >= 0).all()
            t = ours.one_minus_isf(p)
            assert t[0] == 0
            assert (t.diff() >= 0).all()
            assert t.isfinite().all()


# --------------------------------------------------------------------------------------------------
# What the quadrature takes
# --------------------------------------------------------------------------------------------------

# Dimension, concentration and u where an error is largest, of 1e5 random points in 22 dimensions:
# with the constants as they are, or one of them a tenth less or more. Too short a reach leaves out
# most on the circle, from the mode on; nodes are fewest for the longest paths, to an end that is 15
# spreads away; and where the density ends in a power that is no integer, nodes must crowd.
WORST_POINTS = {
    VON_MISES_FISHER: [
        (2, 16.11, -2.057),
        (2, 14.6, -2.03),
        (31, 21.17, -0.5689),
        (2, 10.77, -1.867),
        (12, 14.44, -0.8454),
        (2, 9.859, -1.83),
        (2, 8.93, -1.694),
        (10, 13.88, -0.9027),
        (16, 13.33, -0.6607),
        (16, 15.54, -0.7359),
        (2, 211.0, 1.5),
    ],
    POWER_SPHERICAL: [
        (20, 33.07, -0.7382),
        (31, 34.99, -0.5922),
        (31, 27.99, -0.5259),
        (31, 14.53, -0.3372),
        (16, 27.26, -0.7654),
        (2, 1.8e-4, 0.0454),
    ],
}


@pytest.mark.parametrize(
    ("tilt", "effort", "limit"),
    [
        pytest.param(VON_MISES_FISHER, FINE, 2e-11, id="fine"),
        pytest.param(VON_MISES_FISHER, COARSE, 2e-7, id="coarse"),
        pytest.param(POWER_SPHERICAL, FINE, 2e-11, id="fine, power spherical"),
        pytest.param(POWER_SPHERICAL, COARSE, 2e-7, id="coarse, power spherical"),
    ],
)
def test_effort(tilt: Tilt, effort: Effort, limit: float) -> None:
    """A step from the exact quantile shows the errors of probability and rate, both relative."""
    for dim, k, u in WORST_POINTS[tilt]:
        with mp.workdps(22):
            r = cosine_reference(dim, k, tilt is POWER_SPHERICAL)
            zeta, rate = r.score_and_rate(mp.mpf(u))
            hazard = r.density(mp.mpf(u)) / r.total / mp.ncdf(-abs(zeta))
        arguments = double([float(zeta)]), double([k]), dim, tilt, double([u]), effort
        found = refine(*arguments)
        assert abs(found.u.item() - u) * hazard < limit
        assert abs(found.rate.item() / rate - 1) < limit


@pytest.mark.parametrize(
    "tilt", [VON_MISES_FISHER, POWER_SPHERICAL], ids=["von Mises-Fisher", "power spherical"]
)
def test_no_path_is_too_short(tilt: Tilt) -> None:
    """At its end, if that is not that of the sphere, the density of theta has fallen as it must."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(2000, generator=generator, dtype=torch.float64) * 3
    t, rest = 2 * torch.sigmoid(2 * u), 2 * torch.sigmoid(-2 * u)
    k = 10 ** (torch.rand(2000, generator=generator, dtype=torch.float64) * 9 - 3)
    for m in (1.0, 2.0, 7.0, 60.0, 4095.0):
        slope = tilt.slopes(t, t * rest, k, m).first
        sign = torch.where(slope <= 0, 1.0, -1.0)
        near, far = torch.where(sign > 0, rest, t), torch.where(sign > 0, t, rest)
        length = quadrature._length(near, far, sign * ((rest - t) / 2 - slope), m, reach=29.0)
        to_go = torch.atan2(near.sqrt(), far.sqrt()) - length / 2  # halves of angles
        passed = torch.atan2(far.sqrt(), near.sqrt()) + length / 2
        near_end, far_end = 2 * to_go.sin().square(), 2 * passed.sin().square()
        ends = torch.where(sign > 0, far_end, near_end), torch.where(sign > 0, near_end, far_end)
        fall = k * (tilt.statistic(*ends) - tilt.statistic(t, rest))
        fall -= (m - 1) / 2 * (torch.log(near_end / near) + torch.log(far_end / far))
        on_the_way = near_end > 1e-9 * near
        assert on_the_way.sum() > 500
        assert fall[on_the_way].min() > 29.0 * (1 - 1e-9)
        assert fall[on_the_way].max() < 29.0 * 5  # and hardly too long


def test_halley_converges_cubically() -> None:
    # The figures on the page on sampling.
    zeta = torch.linspace(-6, 6, 201, dtype=torch.float64)
    k = torch.ones_like(zeta)
    exact = quadrature.solve(zeta, k, 10, VON_MISES_FISHER, FINE).u
    u = quadrature._start(zeta, k, 10, VON_MISES_FISHER)
    for expected in (0.39, 2.3e-4, 1e-13):
        error = (u - exact).abs().max().item()
        assert error == pytest.approx(expected, rel=0.1, abs=1e-13)
        u = refine(zeta, k, 10, VON_MISES_FISHER, u, FINE).u


def test_many_rows_go_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    zeta = torch.linspace(-6, 6, 1000, dtype=torch.float64)
    k = torch.linspace(0, 50, 1000, dtype=torch.float64)
    whole = quadrature.solve(zeta, k, 5, POWER_SPHERICAL, FINE)
    monkeypatch.setattr(quadrature, "_BLOCK_BYTES", 1 << 14)
    for parts, full in zip(quadrature.solve(zeta, k, 5, POWER_SPHERICAL, FINE), whole, strict=True):
        torch.testing.assert_close(parts, full, rtol=1e-13, atol=1e-13)
