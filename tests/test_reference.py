"""The oracle's two methods hold each other; closed forms of dimension 3 hold both."""

from __future__ import annotations

import mpmath as mp
import pytest

from reference import (
    cosine_reference,
    power_spherical,
    radial_by_bessel,
    radial_by_quadrature,
    spherical_cauchy_by_hypergeometric_functions,
    spherical_cauchy_by_quadrature,
    spherical_cauchy_cosine_reference,
)


@pytest.mark.parametrize("k", [1e-12, 0.7, 30.0, 1e4, 1e12])
@pytest.mark.parametrize("dim", [10, 40, 64])
def test_quadrature_and_bessel_functions_agree(dim: int, k: float) -> None:
    by_bessel, by_quadrature = radial_by_bessel(dim, k), radial_by_quadrature(dim, k)
    with mp.workdps(30):
        for a, b in zip(by_bessel, by_quadrature, strict=True):
            assert abs(a - b) <= mp.mpf("1e-22") * abs(a)


@pytest.mark.parametrize("k", [1e-3, 1.0, 100.0])
def test_closed_forms_of_dimension_3(k: float) -> None:
    r = radial_by_bessel(3, k)
    with mp.workdps(50):
        x = mp.mpf(k)
        assert abs(r.mean - (mp.coth(x) - 1 / x)) < mp.mpf("1e-25")
        assert abs(r.log_partition - mp.log(mp.sinh(x) / x)) < mp.mpf("1e-25")
        assert abs(r.variance - (1 / x**2 - mp.csch(x) ** 2)) < mp.mpf("1e-25")


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_entropy_of_a_power_spherical_cosine(dim: int) -> None:
    for k in (0.3, 40.0):
        r = power_spherical(dim, k)
        with mp.workdps(30):
            quadrature = cosine_reference(dim, k, power_spherical=True).entropy()
            assert abs(r.cosine_entropy - quadrature) < mp.mpf("1e-15")
        with mp.workdps(60):
            step = mp.mpf("1e-15")
            below, above = (power_spherical(dim, mp.mpf(k) + sign * step) for sign in (-1, 1))
            slope = (above.cosine_entropy - below.cosine_entropy) / (2 * step)
            curvature = (above.cosine_entropy_slope - below.cosine_entropy_slope) / (2 * step)
            assert abs(r.cosine_entropy_slope - slope) < mp.mpf("1e-25")
            assert abs(r.cosine_entropy_curvature - curvature) < mp.mpf("1e-25")


@pytest.mark.parametrize("k", [0.01, 30.0, 300.0, 1e5])
def test_tails_of_cosines_in_dimension_3(k: float) -> None:
    with mp.workdps(22):
        laws = cosine_reference(3, k), cosine_reference(3, k, power_spherical=True)
    for u in map(mp.mpf, (-20, -3, "0.1", "1.5", 9)):
        with mp.workdps(22):
            found, found_power = (r.probabilities(u) for r in laws)
        with mp.workdps(80):
            t, rest, total = laws[0].t(u), laws[0].t(-u), -mp.expm1(-2 * mp.mpf(k))
            below = mp.exp(-k * t) * -mp.expm1(-k * rest) / total  # P(w < 1 - t)
            slope = below * (rest / mp.expm1(k * rest) - t + 2 - 2 / total)
            for ours, truth in zip(found, (1 - below, below, -slope), strict=True):
                assert abs(ours / truth - 1) < mp.mpf("1e-15")
            below = (rest / 2) ** (k + 1)
            for ours, truth in zip(
                found_power, (1 - below, below, -below * mp.log(rest / 2)), strict=True
            ):
                assert abs(ours / truth - 1) < mp.mpf("1e-15")


@pytest.mark.parametrize(("dim", "k"), [(2, 0.3), (3, 5.0), (20, 28.0)])
def test_cosines_of_the_spherical_cauchy_law_are_moved_uniform_ones(dim: int, k: float) -> None:
    with mp.workdps(22):
        law, uniform = spherical_cauchy_cosine_reference(dim, k), cosine_reference(dim, 0.0)
        for u in map(mp.mpf, (-9, "-0.3", 4)):
            below, above, slope = law.probabilities(u - k)
            score, rate = law.score_and_rate(u - k)
            *expected, _ = uniform.probabilities(u)
            expected_score, _ = uniform.score_and_rate(u)
            density = uniform.density(u) / uniform.total
            truths = (*expected, density, expected_score, 1)
            for found, truth in zip((below, above, slope, score, rate), truths, strict=True):
                assert abs(found / truth - 1) < mp.mpf("1e-15")


@pytest.mark.parametrize(("dim", "k"), [(3, 1e-3), (3, 0.9), (10, 1e-12), (10, 9.0), (64, 2.0)])
def test_two_ways_to_the_spherical_cauchy_law(dim: int, k: float) -> None:
    by_functions = spherical_cauchy_by_hypergeometric_functions(dim, k)
    by_quadrature = spherical_cauchy_by_quadrature(dim, k)
    with mp.workdps(40):
        for a, b in zip(by_functions, by_quadrature, strict=True):
            assert abs(a - b) <= mp.mpf("1e-24") * abs(a)
    circle = spherical_cauchy_by_hypergeometric_functions(2, k)  # the wrapped Cauchy law
    with mp.workdps(40):
        assert abs(circle.mean - mp.tanh(mp.mpf(k) / 2)) < mp.mpf("1e-30")
        assert abs(circle.divergence - 2 * mp.log(mp.cosh(mp.mpf(k) / 2))) < mp.mpf("1e-30")
