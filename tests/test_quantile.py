"""Probabilities and quantiles of cosines in all tails, and what the constants behind them do."""

from __future__ import annotations

import math
import random

import mpmath as mp
import pytest
import torch
from torch import Tensor

from reference import cosine_reference
from vmfdist._quantile import COARSE, FINE, SINGLE, Effort, refine
from vmfdist._tilt import POWER_SPHERICAL, VON_MISES_FISHER, Tilt
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
    (2, 333.385, 1.8e-290),
    (3, 95.0, 1e-75),
    (3, 1e3, 1e-188),
    (4, 110.0, 1e-89),
    (4, 332.8, 1.8e-290),
]


@of_each_law
def test_probabilities_and_quantiles_anywhere(law: type[CosineLaw]) -> None:
    points = [*random_points(12, seed=2), (5, 0.0, 1e-280, True), (300, 0.0, 0.7, False)]
    points += [(*point, False) for point in TELLING_POINTS]
    assert sum(check(law, *point) for point in points) > 0.8 * len(points)


@pytest.mark.slow
@of_each_law
def test_probabilities_and_quantiles_at_many_points(law: type[CosineLaw]) -> None:
    points = random_points(1000, seed=3)
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

# Where more or fewer nodes, a longer or a shorter reach or other ways to crowd the nodes do worst,
# of some 1e5 points in 22 dimensions: dimension, concentration, u. In turn, paths that are cut too
# early (by what a lower reach leaves of the integral), long ones with a bend, which take most
# nodes, and those to an end where the density is a power that is no integer.
WORST_POINTS = {
    VON_MISES_FISHER: [
        (2, 8.93, -1.69),
        (2, 10.8, -1.87),
        (2, 14.6, -2.03),
        (2, 16.1, -2.06),
        (2, 8.3e7, -9.7),
        (2, 211.0, 1.5),
        (3, 324.0, 1.54),
        (12, 14.4, -0.845),
        (16, 15.5, -0.736),
        (24, 20.5, -0.663),
        (31, 19.8, -0.542),
    ],
    POWER_SPHERICAL: [
        (2, 1.8e-4, 0.0454),
        (2, 1.74e7, -8.66),
        (16, 27.3, -0.765),
        (20, 33.1, -0.738),
        (31, 14.5, -0.337),
        (31, 15.7, -0.354),
        (31, 28.0, -0.526),
    ],
}


@pytest.mark.parametrize(
    ("tilt", "effort", "limit"),
    [
        pytest.param(VON_MISES_FISHER, FINE, 2e-11, id="fine"),
        pytest.param(VON_MISES_FISHER, COARSE, 2e-7, id="coarse"),
        pytest.param(VON_MISES_FISHER, SINGLE, 5e-7, id="single"),
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
