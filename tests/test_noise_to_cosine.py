"""The maps from a normal variable to the cosine, against integrals in mpmath."""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import mpmath as mp
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from reference import cosine_reference
from vmfdist._families.family import Family
from vmfdist._families.power_spherical import POWER_SPHERICAL
from vmfdist._families.spherical_cauchy import SPHERICAL_CAUCHY
from vmfdist._families.tilted import Tilted
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._numerics import piecewise
from vmfdist._sampling import noise_to_cosine, quadrature
from vmfdist._sampling.noise_to_cosine import _grid, _table
from vmfdist._sampling.tilt import Tilt
from vmfdist.cosine import PowerSphericalCosine, VonMisesFisherCosine

LIMITS = {torch.float32: (1e-6, 1e-5), torch.float64: (1e-10, 1e-8)}  # of score and rate


LAWS = [VON_MISES_FISHER, POWER_SPHERICAL]
of_each_law = pytest.mark.parametrize("family", LAWS)


def check(family: Family, dim: int, k: float, zeta: float, dtype: torch.dtype) -> None:
    z = torch.tensor(zeta, dtype=dtype)
    k = torch.tensor(k, dtype=dtype).item()
    t, rate = (x.item() for x in family.to_cosine(z, torch.tensor(k, dtype=dtype), dim))
    info = torch.finfo(dtype)
    if 2 - t < 8 * info.eps or t < info.tiny:
        return  # the antipode, or less than the least normal number: rounding leaves no digits
    with mp.workdps(22):
        reference = cosine_reference(dim, k, family is POWER_SPHERICAL)
        score, relative, slope = reference.deviations(z.item(), t, rate)
        rounding = info.eps / 2 / (2 - mp.mpf(t))
    limits = LIMITS[dtype]
    if dtype == torch.float32:
        assert score <= max(limits[0], 4 * rounding * slope)
    else:
        assert score <= limits[0] + 2 * rounding * slope
    assert relative <= limits[1] + 2 * rounding


def told_apart(zeta: float, dim: int, dtype: torch.dtype) -> float:
    """A score for which the limits are stated: below 8, in float32 on the circle up to 5.5."""
    return zeta * (5.5 / 8 if dim == 2 and dtype == torch.float32 else 0.999)


DTYPES = [torch.float32, torch.float64]
CONCENTRATIONS = st.one_of(
    st.just(0.0), st.floats(-2, 3).map(lambda e: 10.0**e), st.floats(-12, 12).map(lambda e: 10.0**e)
)


@pytest.mark.parametrize("dim", [2, 3, 4, 8, 65, 1000])
@of_each_law
def test_score_and_rate_on_a_grid(family: Family, dim: int) -> None:
    for k in (0.0, 3.0, 40.0, 1e12):
        for zeta in (-8.0, 0.1, 6.5):
            for dtype in DTYPES:
                check(family, dim, k, told_apart(zeta, dim, dtype), dtype)


@settings(max_examples=40)
@given(
    family=st.sampled_from(LAWS),
    dim=st.one_of(st.integers(2, 12), st.sampled_from((15, 16, 31, 63, 64, 333, 2000))),
    k=CONCENTRATIONS,
    zeta=st.floats(-8, 8),
    dtype=st.sampled_from(DTYPES),
)
@example(family=VON_MISES_FISHER, dim=2, k=0.0, zeta=4.0, dtype=torch.float64)
@example(family=VON_MISES_FISHER, dim=2, k=1e12, zeta=-5.0, dtype=torch.float32)
@example(family=VON_MISES_FISHER, dim=4, k=0.5, zeta=4.0, dtype=torch.float32)
def test_score_and_rate_anywhere(
    family: Family, dim: int, k: float, zeta: float, dtype: torch.dtype
) -> None:
    check(family, dim, k, told_apart(zeta, dim, dtype), dtype)


@pytest.mark.parametrize("dim", [2, 3, 4, 6, 12])
@settings(max_examples=20)
@given(zeta=st.floats(4, 8), shift=st.floats(-6, 6), dtype=st.sampled_from(DTYPES))
def test_where_the_antipode_comes_into_reach(
    dim: int, zeta: float, shift: float, dtype: torch.dtype
) -> None:
    # About zeta^2 = 4k the quantile turns from the neighbourhood of the mode to that of -loc.
    zeta = told_apart(zeta, dim, dtype)
    check(VON_MISES_FISHER, dim, max(0.0, zeta * zeta / 4 + shift), zeta, dtype)


def test_the_check_can_fail() -> None:
    # A concentration that is wrong by 1e-8 is caught.
    reference = cosine_reference(5, 10.0)
    arguments = torch.tensor([1.0, 10.0 * (1 + 1e-8)], dtype=torch.float64)
    t, rate = (x.item() for x in VON_MISES_FISHER.to_cosine(*arguments, 5))
    with mp.workdps(22):
        score, true_rate = reference.score_and_rate(mp.log(mp.mpf(t) / (2 - mp.mpf(t))) / 2)
    assert abs(score - 1) > 1e-9
    assert abs(rate / true_rate - 1) > 1e-9


@pytest.mark.parametrize("dim", [2, 3, 4, 20])
@of_each_law
def test_ends(family: Family, dim: int) -> None:
    # three quantiles; those of the circle's angle with its sign
    z = torch.tensor([0.001691, 0.67449, 3.205155] if dim == 2 else [-3.0, 0.0, 3.0])
    t, rate = family.to_cosine(z, torch.tensor(0.0), dim)
    assert t[1] == pytest.approx(1.0, abs=1e-6)
    assert t[0] + t[2] == pytest.approx(2.0, abs=1e-6)  # the uniform law is symmetric
    if family is VON_MISES_FISHER:
        assert rate.tolist() == pytest.approx([1 / (dim - 1)] * 3, rel=1e-5)
    t, rate = family.to_cosine(z, torch.tensor(1e30), dim)
    assert (t < 1e-28).all()
    assert rate.isfinite().all()


def test_dimension_3_in_closed_form() -> None:
    # 1 - w is exponential, cut at 2.
    z = torch.linspace(-5, 5, 21, dtype=torch.float64)
    for k in (0.1, 2.0, 30.0):
        t, _ = VON_MISES_FISHER.to_cosine(z, torch.tensor(k, dtype=torch.float64), 3)
        for value, zeta in zip(t.tolist(), z.tolist(), strict=True):
            with mp.workdps(40):
                p = mp.ncdf(mp.mpf(zeta))
                truth = -mp.log(1 - p * (1 - mp.exp(-2 * mp.mpf(k)))) / k
            assert value == pytest.approx(float(truth), rel=1e-13)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2.3e-6), (torch.float64, 2.1e-13)])
def test_the_rate_in_dimension_3_where_its_series_ends(dtype: torch.dtype, limit: float) -> None:
    # The formula cancels for small k, the series is cut: the errors of both meet at 3 eps^(1/5).
    end = 3 * torch.finfo(dtype).eps ** 0.2
    k = torch.cat([torch.logspace(-9, -4, 6), end * torch.linspace(0.6, 1.5, 28)]).to(dtype)
    zeta = torch.tensor([-4.0, 0.1, 1.0, 5.0], dtype=dtype).unsqueeze(-1)
    t, rate = VON_MISES_FISHER.to_cosine(zeta.expand(4, len(k)).contiguous(), k, 3)
    with mp.workdps(40):
        for i, score in enumerate(zeta.flatten().tolist()):
            p = mp.ncdf(mp.mpf(score))

            def quantile(k: mp.mpf, p: mp.mpf = p) -> mp.mpf:
                return -mp.log(1 - p * (1 - mp.exp(-2 * k))) / k

            for j, concentration in enumerate(k.tolist()):
                true = quantile(mp.mpf(concentration))
                slope = -mp.diff(quantile, mp.mpf(concentration)) / (true * (2 - true))
                assert abs(mp.mpf(t[i, j].item()) / true - 1) < 8 * torch.finfo(dtype).eps
                assert abs(mp.mpf(rate[i, j].item()) / slope - 1) < limit


@of_each_law
def test_monotone_and_broadcast(family: Family) -> None:
    k = torch.tensor([0.0, 1.0, 100.0]).unsqueeze(-1)
    for dim in (2, 3, 8, 100):
        z = torch.linspace(-5 if dim > 2 else 0, 5, 501).expand(3, 501)
        t, rate = family.to_cosine(z, k, dim)
        assert t.shape == rate.shape == (3, 501)
        rounding = 2 * torch.finfo(t.dtype).eps * t[:, 1:]  # four of them
        assert (t.diff(dim=-1) >= -rounding).all()
        assert (rate > 0).all()
        if family is VON_MISES_FISHER:
            assert (rate <= 2 / (dim - 1) + 1e-6).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3, 7])
@of_each_law
def test_many_rows_agree_with_few(family: Family, dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5000, generator=generator, dtype=dtype)
    k = torch.rand(5000, generator=generator, dtype=dtype) * 50
    whole = family.to_cosine(z, k, dim)
    for part, full in zip(family.to_cosine(z[:50], k[:50], dim), whole, strict=True):
        # exp and log differ in the last place between vector and scalar instructions
        torch.testing.assert_close(part, full[:50], rtol=8 * torch.finfo(dtype).eps, atol=0)
    assert math.isfinite(whole.rate.sum().item())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3, 7, 100])
@pytest.mark.parametrize("family", [*LAWS, SPHERICAL_CAUCHY])
def test_a_rate_that_is_not_asked_for(family: Family, dim: int, dtype: torch.dtype) -> None:
    z, k = torch.linspace(-5, 5, 101, dtype=dtype), torch.linspace(0, 40, 101, dtype=dtype)
    for concentration in (k, k[1]):
        t, rate = family.to_cosine(z, concentration, dim, with_rate=False)
        assert torch.equal(t, family.to_cosine(z, concentration, dim).one_minus_cosine)
        assert rate is None
        assert family.of_noise(z, z.abs(), concentration, dim, False).rate is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3, 7, 100])
@of_each_law
def test_one_concentration_for_all_rows(family: Family, dim: int, dtype: torch.dtype) -> None:
    z = torch.linspace(-5, 5, 101, dtype=dtype)
    for k in (0.0, 7.0, 1e5, math.inf):
        shared = family.to_cosine(z, torch.tensor(k, dtype=dtype), dim)
        by_row = family.to_cosine(z, torch.full_like(z, k), dim)
        for one, many in zip(shared, by_row, strict=True):
            torch.testing.assert_close(one, many, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dim", [2, 3, 7, 100])
@of_each_law
def test_nan_stays_where_it_is(family: Family, dim: int) -> None:
    z = torch.tensor([math.nan, 0.5, 0.5])
    k = torch.tensor([1.0, math.nan, 1.0])
    for result in family.to_cosine(z, k, dim):
        assert result.isnan().tolist() == [True, True, False]


@functools.cache
def quantiles(dim: int, tilt: Tilt) -> tuple[Tensor, ...]:
    """Scores and concentrations, the odds and rates by quadrature, and du to the score's change."""
    generator = torch.Generator().manual_seed(dim)
    n = 20_000
    uniform = torch.rand(3, n, generator=generator, dtype=torch.float64)
    zeta = (16 * uniform[0] - 8 if dim > 2 else 8 * uniform[0]) * 0.999
    ranges = (
        10 ** (6 * uniform[1] - 2),
        (zeta * zeta / 4 + 12 * uniform[1] - 6).clamp(min=0),  # where the antipode comes in reach
        10 ** (24 * uniform[1] - 12),
    )
    k = torch.where(
        uniform[2] < 0.5, ranges[0], torch.where(uniform[2] < 0.75, ranges[1], ranges[2])
    )
    zeta, k = zeta.float().double(), k.float().double()
    score = noise_to_cosine._score(zeta, dim)
    u, rate = quadrature.solve(score, k, dim, tilt, quadrature.FINE)
    odds = torch.exp(2 * u)
    t, rest = 2 * odds / (1 + odds), 2 / (1 + odds)
    log_normal = -zeta * zeta / 2 - math.log(2 * math.pi) / 2 + (math.log(2) if dim == 2 else 0)
    law = VonMisesFisherCosine if tilt is VON_MISES_FISHER else PowerSphericalCosine
    log_density = law(k, dim).log_prob(one_minus_value=t) + torch.log(t * rest)  # of u
    change = torch.exp(log_density - log_normal)
    told = rest > 8 * torch.finfo(torch.float32).eps  # at the antipode rounding leaves no digits
    return tuple(x[told] for x in (zeta, k, u, rate, change))


# What rounding costs in float32


def float32_errors(dim: int, family: Tilted) -> tuple[Tensor, Tensor]:
    """Of scores, over 1e-6 or four roundings of 1 - w, whichever is larger, and of rates."""
    zeta, k, u, rate, change = quantiles(dim, family)
    draw = family.to_cosine(zeta.float(), k.float(), dim)
    t, rest = (2 * torch.sigmoid(x) for x in (2 * u, -2 * u))
    found = draw.one_minus_cosine.double()
    score = (torch.log(found / t) - torch.log((2 - found) / rest)).abs() / 2 * change
    rounding = torch.finfo(torch.float32).eps / 2 / rest * change
    told = zeta.abs() <= (5.5 if dim == 2 else 8)
    score = score / (4 * rounding).clamp(min=LIMITS[torch.float32][0])
    return score[told], (draw.rate.double() / rate - 1).abs()[told]


@pytest.mark.parametrize(
    ("dim", "family"),
    [(dim, VON_MISES_FISHER) for dim in (2, 4, 5, 6, 12, 13, 20, 56, 57, 512, 4096)]
    + [(dim, POWER_SPHERICAL) for dim in (2, 4, 64)],
)
def test_float32_loses_four_roundings(dim: int, family: Tilted) -> None:
    score, rate = float32_errors(dim, family)
    assert score.max().item() <= 1
    assert rate.max().item() <= LIMITS[torch.float32][1]
    # what is lost is rounding: as a rule much less
    assert score.square().mean().sqrt().item() < 0.3


@of_each_law
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [0.0, 1.0, 1e30, 1e150, torch.inf])
def test_noise_along_loc_on_the_circle(family: Family, dtype: torch.dtype, k: float) -> None:
    zeta = torch.tensor([0.0, 1e-300, 1e-100, 1e-30], dtype=dtype)
    t, rate = family.to_cosine(zeta, torch.tensor(k, dtype=dtype), 2)
    assert ((t >= 0) & (t < 1e-29)).all()
    assert rate.isfinite().all()


@pytest.mark.parametrize("family", [VON_MISES_FISHER, POWER_SPHERICAL])
def test_the_circle_beyond_its_limits(family: Tilted) -> None:
    zeta, k, u, rate, change = (x[quantiles(2, family)[0] > 5.5] for x in quantiles(2, family))
    draw = family.to_cosine(zeta.float(), k.float(), 2)
    t = draw.one_minus_cosine.double()
    rounding = 4 * torch.finfo(torch.float32).eps / 2 / (2 - t) * change
    score = (torch.log(t / (2 - t)) / 2 - u).abs() * change
    assert (score - rounding).max().item() <= 4e-5
    assert (draw.rate.double() / rate - 1).abs().max().item() <= 1e-3


# The constants of the tables, in the dimensions that ask most of them


MOST_DEMANDING = {
    2: [(2, VON_MISES_FISHER)],
    5: [(4, VON_MISES_FISHER)],
    12: [(6, VON_MISES_FISHER)],
    56: [(13, VON_MISES_FISHER)],
    None: [(57, VON_MISES_FISHER)],
}


def table_error(bound: int | None) -> float:
    """The worst error of scores and of rates, over half of what is stated for float32."""
    worst = 0.0
    for dim, tilt in MOST_DEMANDING[bound]:
        zeta, k, u, rate, change = quantiles(dim, tilt)
        scale = k + noise_to_cosine._offset(dim)
        table = noise_to_cosine._table.__wrapped__(dim, type(tilt)).double()  # type: ignore[attr-defined]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(noise_to_cosine, "_table", lambda *_, table=table, **__: table)
            weight, pace = noise_to_cosine._interpolate(zeta, scale, dim, tilt)
        told = zeta.abs() <= (5.5 if dim == 2 else 8)
        score = ((torch.log(weight / (2 * scale)) / 2 - u).abs() * change)[told]
        relative = (pace / scale / rate - 1).abs()[told]
        limits = LIMITS[torch.float32]
        worst = max(worst, (score.max() / limits[0]).item(), (relative.max() / limits[1]).item())
    return 2 * worst


@pytest.mark.parametrize("bound", MOST_DEMANDING)
def test_the_cells_of_a_table(bound: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = _grid(MOST_DEMANDING[bound][0][0])
    assert table_error(bound) < 1
    for less in (
        grid._replace(cells_x=grid.cells_x // 2, first_x=grid.first_x // 2),
        grid._replace(cells_y=grid.cells_y // 2),
        grid._replace(terms=grid.terms - 1),
    ):
        monkeypatch.setattr(noise_to_cosine, "_grid", lambda _, less=less: less)
        assert table_error(bound) > 1


def test_where_the_grid_of_a_table_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    # A dimension less has not enough with the grid of the next range.
    grids = [_grid(dim) for dim in (5, 6, 12, 13, 56, 57)]
    assert grids[0] != grids[1] == grids[2] != grids[3] == grids[4] != grids[5]
    for dim, coarser in ((5, grids[1]), (12, grids[3]), (56, grids[5])):
        monkeypatch.setattr(noise_to_cosine, "_grid", lambda _, coarser=coarser: coarser)
        monkeypatch.setitem(MOST_DEMANDING, 0, [(dim, VON_MISES_FISHER)])
        assert table_error(0) > 1


def test_the_offset_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    # With less of it the functions are too steep; with more, a small concentration has no digits.
    offset = noise_to_cosine._offset
    monkeypatch.setattr(noise_to_cosine, "_offset", lambda dim: 0.8 * offset(dim))
    assert table_error(12) > 1
    monkeypatch.setattr(noise_to_cosine, "_offset", lambda dim: 1.4 * offset(dim))
    table = _table.__wrapped__(2, type(POWER_SPHERICAL))  # type: ignore[attr-defined]
    monkeypatch.setattr(noise_to_cosine, "_table", lambda *_, **__: table)
    assert float32_errors(2, POWER_SPHERICAL)[0].max().item() > 1


def test_the_start_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    start = noise_to_cosine._START
    for less in (
        start._replace(cells_x=start.cells_x // 2, first_x=start.first_x // 2),
        start._replace(cells_y=start.cells_y // 2),
        start._replace(terms=start.terms - 1),
    ):
        monkeypatch.setattr(noise_to_cosine, "_START", less)
        assert table_error(5) > 1


@pytest.mark.parametrize(
    ("dim", "family"),
    [(dim, VON_MISES_FISHER) for dim in (2, 4, 6, 12, 64)] + [(2, POWER_SPHERICAL)],
)
def test_the_steps_from_a_table(dim: int, family: Tilted) -> None:
    # They reach in float64 what many steps do.
    zeta, k, u, rate, change = quantiles(dim, family)
    draw = family.to_cosine(zeta, k, dim)
    t = draw.one_minus_cosine
    score = (torch.log(t / (2 - t)) / 2 - u).abs() * change
    rounding = torch.finfo(torch.float64).eps / (2 - t) * change  # of t, at the antipode
    limits = LIMITS[torch.float64]
    assert ((score - rounding).max() / limits[0]).item() < 0.5
    assert ((draw.rate / rate - 1).abs().max() / limits[1]).item() < 0.5


def test_the_reach_of_a_table() -> None:
    assert 2 * stats.norm.sf(noise_to_cosine._reach()) == pytest.approx(1e-15, rel=0.3)
    # what lies beyond counts as what lies there
    k = torch.tensor([0.0, 3.0, 1e4], dtype=torch.float64)
    for family in LAWS:
        for dim in (2, 5, 30):
            at = family.to_cosine(torch.full_like(k, -noise_to_cosine._reach()), k, dim)
            beyond = family.to_cosine(torch.full_like(k, -40.0), k, dim)
            for one, other in zip(at, beyond, strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("dim", [2, 4, 5, 6, 12, 13, 56, 57, 100_000])
@pytest.mark.parametrize("tilt", [VON_MISES_FISHER, POWER_SPHERICAL])
def test_the_memory_of_a_table(tilt: Tilt, dim: int) -> None:
    table = _table(dim, type(tilt), like=torch.empty(0))
    assert table.numel() * table.element_size() <= (3.4e6 if dim <= 12 else 0.6e6)


def test_a_table_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, fit, together = [], piecewise.fit, Barrier(4)

    def counted(function: Any, grid: piecewise.Grid) -> Tensor:
        fitted.append(grid)
        return fit(function, grid)

    def build(_: int) -> Tensor:
        together.wait(timeout=60)
        return _table(27, type(VON_MISES_FISHER), like=torch.empty(0))

    monkeypatch.setattr(piecewise, "fit", counted)
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(build, range(4)))
    assert all(table is tables[0] for table in tables)
    assert len(fitted) == 2  # the start and the table


def test_power_spherical_in_dimension_3_in_closed_form() -> None:
    # (1 + w)/2 is a power of a uniform variable.
    z = torch.linspace(-5, 5, 21, dtype=torch.float64)
    for k in (0.1, 2.0, 30.0):
        t, _ = POWER_SPHERICAL.to_cosine(z, torch.tensor(k, dtype=torch.float64), 3)
        for value, zeta in zip(t.tolist(), z.tolist(), strict=True):
            with mp.workdps(40):
                truth = -2 * mp.expm1(mp.log(mp.ncdf(-mp.mpf(zeta))) / (1 + mp.mpf(k)))
            assert value == pytest.approx(float(truth), rel=1e-10)
