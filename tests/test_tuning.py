# The constants that were found by trial: each is the least that does, or its cost is stated.

from __future__ import annotations

from decimal import Decimal
from typing import Any

import mpmath as mp
import pytest
import torch

from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import spherical_cauchy as sc
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics import bessel_in_decimals, chebyshev, elementwise, gamma_in_decimals
from vmfdist._numerics.chebyshev import powers
from vmfdist._numerics.decimals import working_precision
from vmfdist._numerics.series import Series

DTYPES = (torch.float64, torch.float32)
Coefficients = tuple[Decimal, ...]


def difference(a: Coefficients, b: Coefficients) -> float:
    """Of two series, one of which may be longer."""
    longer, shorter = sorted((a, b), key=len, reverse=True)
    padded = (*shorter, *[Decimal(0)] * (len(longer) - len(shorter)))
    return sum(abs(float(p) - float(q)) for p, q in zip(longer, padded, strict=True))


# The values that series are fitted to


def debye_error() -> float:
    """Of the log-partition, at the lowest orders that Debye's expansion is taken at."""
    worst = mp.mpf(0)
    for dim, k in ((2, 3), (2, 40), (2, 100), (64, 20), (130, 60)):
        phi, _ = bessel_in_decimals.log_partition_and_ratio(Decimal(dim), Decimal(k))
        with mp.workdps(90):
            nu = mp.mpf(dim) / 2 - 1
            bessel = mp.besseli(nu, k)
            truth = mp.log(mp.gamma(nu + 1) * (mp.mpf(2) / k) ** nu * bessel)
            worst = max(worst, abs(mp.mpf(str(phi)) - truth))
    return float(worst)


def clear_debye() -> None:
    bessel_in_decimals._debye_polynomials.cache_clear()
    bessel_in_decimals._remainder.cache_clear()


def test_the_debye_expansion(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        assert debye_error() < 1.5e-38
        monkeypatch.setattr(bessel_in_decimals, "_TERMS", bessel_in_decimals._TERMS - 1)
        clear_debye()
        assert debye_error() > 1.5e-38
        monkeypatch.undo()
        clear_debye()
        monkeypatch.setattr(
            bessel_in_decimals, "_LOWEST_ORDER", bessel_in_decimals._LOWEST_ORDER - 2
        )
        assert debye_error() > 1.5e-38
    finally:
        clear_debye()


def gamma_error() -> float:
    worst = mp.mpf(0)
    for z in ("0.5", "2.5", "63.5", "64", "64.5"):
        with mp.workdps(80):
            x = mp.mpf(z)
            pairs = [(gamma_in_decimals.log_gamma(Decimal(z)), mp.loggamma(x))]
            pairs += [(gamma_in_decimals.polygamma(n, Decimal(z)), mp.psi(n, x)) for n in range(3)]
            for found, truth in pairs:
                worst = max(worst, abs(mp.mpf(str(found)) - truth) / max(1, abs(truth)))
    return float(worst)


def test_the_stirling_series(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        assert gamma_error() < 1e-57
        monkeypatch.setattr(gamma_in_decimals, "_TERMS", gamma_in_decimals._TERMS - 1)
        gamma_in_decimals._bernoulli_numbers.cache_clear()
        assert gamma_error() > 1e-57
        monkeypatch.undo()
        gamma_in_decimals._bernoulli_numbers.cache_clear()
        monkeypatch.setattr(gamma_in_decimals, "_LOWEST", gamma_in_decimals._LOWEST - 6)
        assert gamma_error() > 1e-57
    finally:
        gamma_in_decimals._bernoulli_numbers.cache_clear()


def test_newton_steps_of_the_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    with working_precision():
        steps = vmf._NEWTON_STEPS
        found = []
        for count in (steps - 1, steps, steps + 2):
            monkeypatch.setattr(vmf, "_NEWTON_STEPS", count)
            monkeypatch.setattr(vmf._INVERSE, "length", lambda dim: 24)
            found.append(vmf._INVERSE.fitted.__wrapped__(2)["inverse"])
    fewer, enough, more = found
    assert difference(enough, more) < 1e-18 < difference(fewer, more)


# How many nodes, and coefficients

Module = Any


def aliasing(module: Module, dim: int, length: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """The largest difference of a series from that with more nodes."""
    fits = []
    for n in (length, length + 16):
        monkeypatch.setattr(module._SERIES, "length", lambda dim, n=n: n)
        fits.append(module._SERIES.fitted.__wrapped__(dim))
    monkeypatch.undo()
    return max(difference(fits[0][name], fits[1][name]) for name in fits[0])


@pytest.mark.parametrize(
    ("module", "dim"),
    [(vmf, dim) for dim in (2, 4, 9, 25, 129)] + [(ps, dim) for dim in (2, 3)],
)
def test_the_number_of_nodes_is_the_least_even_one(
    module: Module, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the first dimension of each range, which needs the most.
    length = module._SERIES.length(dim)
    assert aliasing(module, dim, length, monkeypatch) <= 1e-17
    assert aliasing(module, dim, length - 2, monkeypatch) > 1e-17


NAMES = ("partition", "divergence", "ratio", "slope", "curvature", "third")


def coefficients(dim: int, stretch: float, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(vmf, "_stretch", lambda dim: stretch)
    series = vmf._SERIES.fitted.__wrapped__(dim)
    monkeypatch.setattr(vmf._SERIES, "fitted", lambda dim: series)
    count = sum(len(vmf._SERIES.coefficients.__wrapped__(dim, n, torch.float64)) for n in NAMES)
    monkeypatch.undo()
    return count


@pytest.mark.parametrize(
    "dim", [16, *(pytest.param(d, marks=pytest.mark.slow) for d in (3, 5, 8, 12, 100, 10_000))]
)
def test_the_stretch_makes_series_short(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stretch = vmf._stretch(dim)
    less, here, more = (coefficients(dim, f * stretch, monkeypatch) for f in (0.9, 1.0, 1.1))
    assert here < less
    assert here < more


# Nothing else tells a tolerance or a range of dimensions from its neighbour. A change of these
# numbers is one of cost, and of accuracy the other way; each number is of both dtypes together.
RADIAL = {
    2: (552, 221),
    3: (470, 201),
    4: (429, 176),
    5: (396, 170),
    6: (378, 149),
    8: (334, 144),
    9: (330, 125),
    12: (287, 119),
    13: (286, 110),
    24: (234, 101),
    25: (239, 101),
    100: (194, 90),
    101: (196, 90),
    1000: (185, 79),
}
BETA = {
    2: (256, 118),
    3: (90, 46),
    4: (206, 79),
    5: (174, 84),
    10: (188, 90),
    16: (191, 93),
    20: (192, 93),
    100: (191, 89),
    1000: (186, 83),
}


CAUCHY = {
    2: (501, 195),
    3: (473, 221),
    4: (516, 220),
    6: (509, 238),
    16: (482, 243),
    1000: (376, 178),
}


def lengths(series: Series, dim: int) -> tuple[int, ...]:
    names = series.fitted(dim)
    return tuple(sum(len(series.coefficients(dim, n, dtype)) for n in names) for dtype in DTYPES)


@pytest.mark.parametrize("dim", RADIAL)
def test_coefficients_of_the_von_mises_fisher_law(dim: int) -> None:
    series = lengths(vmf._SERIES, dim), lengths(vmf._INVERSE, dim)
    assert tuple(map(sum, zip(*series, strict=True))) == RADIAL[dim]


@pytest.mark.parametrize("dim", BETA)
def test_coefficients_of_the_power_spherical_law(dim: int) -> None:
    assert lengths(ps._SERIES, dim) == BETA[dim]


@pytest.mark.parametrize("dim", CAUCHY)
def test_coefficients_of_the_spherical_cauchy_law(dim: int) -> None:
    assert lengths(sc._SERIES, dim) == CAUCHY[dim]


def test_the_limit_of_cancellation_may_be_anything_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    series = [
        series.coefficients(dim, name, dtype)
        for series in (vmf._SERIES, vmf._INVERSE)
        for dim in (2, 3, 4, 5, 12)
        for name in series.fitted(dim)
        if name != "bregman"
        for dtype in DTYPES
    ]
    by_clenshaw = []
    for limit in (10, 16):
        monkeypatch.setattr(chebyshev, "_CANCELLATION", limit)
        by_clenshaw.append([powers(coefficients) is None for coefficients in series])
    assert by_clenshaw[0] == by_clenshaw[1]
    assert True in by_clenshaw[0]
    assert False in by_clenshaw[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_terms_of_the_logarithm(dtype: torch.dtype) -> None:
    def remainder(terms: int) -> float:  # of y - log(1 + y) at y = -1/2
        with mp.workdps(40):
            t = mp.mpf(-1) / 3
            whole = mp.mpf("-0.5") - mp.log(mp.mpf("0.5"))
            series = sum(t ** (2 * j) / (2 * j + 3) for j in range(terms))
            return float(abs(whole - (-t / 2 - 2 * t**3 * series)) / whole)

    terms, tenth = elementwise._TERMS_OF_LOG1P[dtype], torch.finfo(dtype).eps / 10
    assert remainder(terms) <= tenth < remainder(terms - 1)
    y = torch.tensor(-0.499999, dtype=dtype)
    with mp.workdps(40):
        x = mp.mpf(y.item())
        truth = x - mp.log(1 + x)
        found = elementwise.minus_log1p(y, 1 + y).item()
        assert abs(found / truth - 1) < 2 * torch.finfo(dtype).eps
