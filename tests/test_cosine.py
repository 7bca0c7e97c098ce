"""The map from a normal variable to the cosine, against integrals in mpmath."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from reference import cosine_reference
from vmfdist.cosine import transport


def check(dim: int, k: float, zeta: float, dtype: torch.dtype) -> None:
    z = torch.tensor(zeta, dtype=dtype)
    k = torch.tensor(k, dtype=dtype).item()
    t, rate = (x.item() for x in transport(z, torch.tensor(k, dtype=dtype), dim))
    single = dtype == torch.float32
    if 2 - t < 8 * torch.finfo(dtype).eps:
        return  # the antipode: rounding of t leaves nothing of 1 + w to compare
    with mp.workdps(22):
        errors = cosine_reference(dim, k).errors(z.item(), t, rate, torch.finfo(dtype).eps)
    assert errors[0] <= (1e-6 if single else 1e-10)
    assert errors[1] <= (1e-4 if single else 1e-8)


CONCENTRATIONS = st.one_of(
    st.just(0.0), st.floats(-2, 3).map(lambda e: 10.0**e), st.floats(-12, 12).map(lambda e: 10.0**e)
)


@pytest.mark.parametrize("dim", [2, 3, 4, 5, 8, 20, 65, 1000])
def test_score_and_rate_on_a_grid(dim: int) -> None:
    for k in (0.0, 3.0, 40.0, 1e6, 1e12):
        for zeta in (-7.5, 0.1, 3.0, 6.5):
            check(dim, k, zeta, torch.float64)


@given(
    dim=st.one_of(st.integers(2, 12), st.integers(2, 2000)),
    k=CONCENTRATIONS,
    zeta=st.floats(-5, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@example(dim=2, k=0.0, zeta=4.0, dtype=torch.float64)
@example(dim=2, k=1e12, zeta=-5.0, dtype=torch.float32)
@example(dim=4, k=0.5, zeta=4.0, dtype=torch.float32)
def test_score_and_rate_anywhere(dim: int, k: float, zeta: float, dtype: torch.dtype) -> None:
    check(dim, k, zeta, dtype)


def test_the_check_can_fail() -> None:
    # A concentration that is wrong by 1e-8 is caught.
    reference = cosine_reference(5, 10.0)
    arguments = torch.tensor([1.0, 10.0 * (1 + 1e-8)], dtype=torch.float64)
    t, rate = (x.item() for x in transport(*arguments, 5))
    with mp.workdps(22):
        score, true_rate = reference.score_and_rate(mp.log(mp.mpf(t) / (2 - mp.mpf(t))) / 2)
    assert abs(score - 1) > 1e-9
    assert abs(rate / true_rate - 1) > 1e-9


@pytest.mark.parametrize("dim", [2, 3, 4, 20])
def test_ends(dim: int) -> None:
    z = torch.tensor([-3.0, 0.0, 3.0])
    t, rate = transport(z, torch.tensor(0.0), dim)
    assert t[1] == pytest.approx(1.0, abs=1e-6)
    assert t[0] + t[2] == pytest.approx(2.0, abs=1e-6)  # the uniform law is symmetric
    assert rate.tolist() == pytest.approx([1 / (dim - 1)] * 3, rel=1e-5)
    t, rate = transport(z, torch.tensor(1e30), dim)
    assert (t < 1e-28).all()
    assert rate.isfinite().all()


def test_dimension_3_in_closed_form() -> None:
    # 1 - w is exponential, cut at 2.
    z = torch.linspace(-5, 5, 21, dtype=torch.float64)
    for k in (0.1, 2.0, 30.0):
        t, _ = transport(z, torch.tensor(k, dtype=torch.float64), 3)
        for value, zeta in zip(t.tolist(), z.tolist(), strict=True):
            with mp.workdps(40):
                p = mp.ncdf(mp.mpf(zeta))
                truth = -mp.log(1 - p * (1 - mp.exp(-2 * mp.mpf(k)))) / k
            assert value == pytest.approx(float(truth), rel=1e-13)


def test_monotone_and_broadcast() -> None:
    z = torch.linspace(-5, 5, 501)
    k = torch.tensor([0.0, 1.0, 100.0]).unsqueeze(-1)
    for dim in (2, 3, 8, 100):
        t, rate = transport(z, k, dim)
        assert t.shape == rate.shape == (3, 501)
        assert (t.diff(dim=-1) >= 0).all()
        assert (rate > 0).all()
        assert (rate <= 2 / (dim - 1) + 1e-6).all()


def test_many_rows_agree_with_few() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5000, generator=generator)
    k = torch.rand(5000, generator=generator) * 50
    whole = transport(z, k, 7)
    for part, full in zip(transport(z[:50], k[:50], 7), whole, strict=True):
        torch.testing.assert_close(part, full[:50], rtol=1e-6, atol=0)
    assert math.isfinite(whole.rate.sum().item())
