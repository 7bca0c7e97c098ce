"""The oracle's two methods hold each other; closed forms of dimension 3 hold both."""

from __future__ import annotations

import mpmath as mp
import pytest

from reference import radial_by_bessel, radial_by_quadrature


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
