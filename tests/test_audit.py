# The formulas of docs/_by_hand.py: right where the mathematics behind them is, so that the audit
# shows what they are and not how they were copied; and slopes that belong to their values.

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from reference import power_spherical, radial

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from _by_hand import FORMULAS, SAMPLERS, accepted, fit, power_spherical_divergence

GOOD = [  # dimension and concentration, and how far value (in nats) and slope are from the truth
    ("scaled", 10, 50.0, 1e-5, 1e-6),
    ("guarded", 10, 50.0, 1e-4, 1e-5),
    ("recurrence", 128, 100.0, 1e-10, 1e-10),
    ("switched", 3, 50.0, 1e-12, 1e-12),
    ("fitted", 10, 30.0, 0.03, 0.01),
    ("fitted", 512, 50.0, 0.4, 0.1),
    ("two series", 10, 1.0, 1e-4, 1e-3),
    ("two series", 4, 200.0, 1e-4, 1e-5),
]


@pytest.mark.parametrize(("name", "dim", "k", "limit", "of_slope"), GOOD)
def test_formulas_where_they_are_good(
    name: str, dim: int, k: float, limit: float, of_slope: float
) -> None:
    formula, truth = FORMULAS[name], radial(dim, k)
    (found,), (slope,) = (f(dim, np.array([k])) for f in (formula.log_density, formula.slope))
    assert found == pytest.approx(float(truth.log_density_at_mode(k)), abs=limit)
    assert slope == pytest.approx(float(truth.mean), abs=of_slope)


def test_what_is_left_out() -> None:
    k = np.array([100.0])
    exact = float(radial(300, 100.0).log_density_at_mode(100.0))
    assert FORMULAS["half scaled"].log_density(300, k)[0] == pytest.approx(exact + 100, abs=1e-9)
    assert FORMULAS["half scaled"].slope(300, k)[0] == pytest.approx(float(radial(300, 100.0).mean))
    assert FORMULAS["without"].slope(100, np.array([49.0]))[0] == 0


@pytest.mark.parametrize("name", ["guarded", "switched", "fitted", "without"])
@pytest.mark.parametrize("k", [20.0, 300.0])
def test_slopes_are_those_of_the_values(name: str, k: float) -> None:
    # the others give a slope of their own
    formula, step = FORMULAS[name], 1.0  # float32 in two of them
    below, above = formula.log_density(10, np.array([k - step, k + step]))
    slope = 1 - (above - below) / (2 * step)
    assert formula.slope(10, np.array([k]))[0] == pytest.approx(slope, rel=2e-3)


def test_the_fit_has_the_published_form() -> None:
    # -log Z = c_0 + c_1 k + c_2 k^1.1: the linear and the other term nearly cancel
    constant, linear, other = fit(10)
    assert linear > 0 > other
    assert -1.28 < constant < -1.26


@pytest.mark.parametrize(("dim", "k"), [(2, 5.0), (4, 10.0), (10, 10.0), (64, 8.0)])
def test_samplers_where_their_law_is_right(dim: int, k: float) -> None:
    truth = radial(dim, k)
    for sampler in SAMPLERS.values():
        mean, derivative = sampler.cosine(dim, k)
        assert mean == pytest.approx(float(truth.mean), abs=1e-6)
        assert derivative < float(truth.variance)  # without the part for what is rejected


def test_a_sampler_by_drawing() -> None:
    # the same by drawing beta variables and accepting them, above the switch, where the law is off
    dim, k = 64, 20.0
    m, b = dim - 1, (dim - 1) / (4 * k)
    c = np.hypot(2 * k, m)
    a = (m + 2 * k + c) / 4
    d = 4 * a * b / (1 + b) - m * np.log(m)
    generator = np.random.default_rng(0)
    e, u = generator.beta(m / 2, m / 2, 200_000), generator.random(200_000)
    below = 1 - (1 - b) * e
    t = 2 * a * b / below
    taken = m * np.log(t) - t + d > np.log(u)
    w = 1 - 2 * b * e[taken] / below[taken]
    error = w.std() / np.sqrt(len(w))
    assert SAMPLERS["blended"].cosine(dim, k).mean == pytest.approx(w.mean(), abs=5 * error)
    assert accepted(dim, a, b, d)[0] == pytest.approx(taken.mean(), abs=0.005)
    assert abs(w.mean() - float(radial(dim, k).mean)) > 100 * error


def test_divergence_of_a_power_spherical_law() -> None:
    for dim, k in ((3, 2.0), (16, 100.0)):
        truth = float(power_spherical(dim, k).kl_to_uniform(k))
        assert power_spherical_divergence(dim, k) == pytest.approx(truth, abs=1e-4)
