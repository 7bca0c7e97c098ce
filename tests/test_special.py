"""The public Bessel functions: any order of their domain, limits, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import accuracy
from cases import not_dense, not_dense_kinds
from reference import radial_by_bessel
from vmfdist.special import inverse_iv_ratio, iv_ratio, log_iv, log_ive

DTYPES = [pytest.param(torch.float64, id="float64"), pytest.param(torch.float32, id="float32")]
ORDERS = st.floats(0, 100, allow_subnormal=False)
RATIO_ORDERS = st.one_of(st.just(0.5), st.floats(0.5, 100))
ARGUMENTS = st.floats(-12, 12).map(lambda e: 10.0**e)
KINDS = st.sampled_from([torch.float32, torch.float64])


def log_bessel(v: float, x: float) -> mp.mpf:
    """log(I_v(x) e^-x)."""
    with mp.workdps(60):
        return mp.log(mp.besseli(mp.mpf(v), mp.mpf(x))) - mp.mpf(x)


@given(v=ORDERS, x=ARGUMENTS, dtype=KINDS)
@example(v=0.0, x=1e-12, dtype=torch.float32)
@example(v=0.0, x=1e12, dtype=torch.float32)
@example(v=17.25, x=1e12, dtype=torch.float64)
def test_log_ive(v: float, x: float, dtype: torch.dtype) -> None:
    argument = torch.tensor(x, dtype=dtype)
    truth = log_bessel(v, argument.item())
    error = abs(mp.mpf(log_ive(v, argument).item()) - truth)
    assert error <= 8 * torch.finfo(dtype).eps * max(1, abs(truth))


@given(v=ORDERS, x=ARGUMENTS, dtype=KINDS)
def test_log_iv(v: float, x: float, dtype: torch.dtype) -> None:
    argument = torch.tensor(x, dtype=dtype)
    scaled = log_bessel(v, argument.item())
    with mp.workdps(60):
        truth = scaled + mp.mpf(argument.item())
        error = abs(mp.mpf(log_iv(v, argument).item()) - truth)
    # Near the zero of the logarithm the two terms cancel.
    assert error <= 8 * torch.finfo(dtype).eps * max(1, abs(truth), abs(scaled))


SMALL = [0.0, 1e-300, 1e-154, 1e-50, 1e-37, 1e-20, 1e-17, 1e-12, 1e-9, 1e-6, 1e-3, 0.3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", SMALL)
def test_small_orders_and_arguments(v: float, dtype: torch.dtype) -> None:
    # I_v(x) = (x/2)^v / Gamma(1 + v) 0F1(; 1 + v; x^2/4)
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    x = torch.tensor([*SMALL[1:], 0.9, 1.0, 1.1], dtype=dtype)
    x = x[x >= tiny].requires_grad_()
    if 0 < v < tiny:
        return  # the order is 0 in this type
    plain, scaled = log_iv(v, x), log_ive(v, x)
    slopes = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (plain, scaled)]
    found = (y.tolist() for y in (x, plain, scaled, *slopes))
    with mp.workdps(30):
        for argument, value, below, slope, slope_below in zip(*found, strict=True):
            order, k = mp.mpf(v), mp.mpf(argument)
            with mp.workdps(340):  # of which 1 + v takes 300
                log_gamma = mp.loggamma(1 + order)
            series = sum(
                (k / 2) ** (2 * n) / mp.factorial(n) / mp.rf(1 + order, n) for n in range(1, 25)
            )
            terms = (order * mp.log(k / 2), -log_gamma, mp.log1p(series))
            ratio = k / 2 / (1 + order) * mp.hyp0f1(2 + order, k**2 / 4) / (1 + series)
            scale = sum(map(abs, terms))
            assert abs(value - sum(terms)) <= 8 * eps * scale + tiny
            assert abs(below - (sum(terms) - k)) <= 8 * eps * (scale + k) + tiny
            assert abs(slope - (ratio + order / k)) <= 8 * eps * slope + tiny
            scale = 1 - ratio + order / k
            assert abs(slope_below - (ratio - 1 + order / k)) <= 8 * eps * scale


@given(v=RATIO_ORDERS, x=ARGUMENTS, dtype=KINDS)
@example(v=0.5, x=1e-12, dtype=torch.float32)
@example(v=0.5, x=1e12, dtype=torch.float64)
@example(v=0.5001, x=100.0, dtype=torch.float64)
def test_iv_ratio(v: float, x: float, dtype: torch.dtype) -> None:
    argument = torch.tensor(x, dtype=dtype)
    k = min(argument.item(), 1e4) if v < 1 else argument.item()  # above, 1 - ratio < eps
    truth = radial_by_bessel(2 * v, k).mean
    value = iv_ratio(v, torch.tensor(k, dtype=dtype)).item()
    assert abs(value / truth - 1) <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("v", [0.5 + 2.0**-53, 0.5 + 1e-9, 0.501, 0.54, 0.57, 0.58, 0.7])
def test_derivatives_of_the_ratio_at_orders_near_one_half(v: float) -> None:
    k = torch.tensor([1e-3, 0.5, 1.0, 5.0, 20.0, 100.0], dtype=torch.float64, requires_grad=True)
    found = [iv_ratio(v, k)]
    for _ in range(3):
        found += torch.autograd.grad(found[-1].sum(), k, create_graph=True)
    for x, *values in zip(k.tolist(), *(y.tolist() for y in found), strict=True):
        r = radial_by_bessel(2 * mp.mpf(v), x)
        truths = r.mean, r.variance, r.third_cumulant, r.fourth_cumulant
        for times, (value, truth) in enumerate(zip(values, truths, strict=True)):
            # Where they all but vanish, relative to the ratio over powers of the argument.
            scale = max(abs(truth), r.mean / max(1, x) ** (times + 1))
            assert abs(value - truth) <= 64 * torch.finfo(torch.float64).eps * scale, (x, times)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3, 4, 9, 20, 39, 1000])
def test_inverse_in_eps(dim: int, dtype: torch.dtype) -> None:
    worst = max(accuracy.inverse_errors(dim, dtype))
    assert worst.eps <= 8, worst


@given(v=RATIO_ORDERS, log10_x=st.floats(-8, 2), dtype=KINDS)
@example(v=0.5, log10_x=0.0, dtype=torch.float32)
@example(v=0.5001, log10_x=2.0, dtype=torch.float64)
@example(v=0.99, log10_x=2.0, dtype=torch.float64)
def test_inverse_leads_back(v: float, log10_x: float, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    x = torch.tensor(10**log10_x, dtype=dtype)
    r = iv_ratio(v, x)
    back = inverse_iv_ratio(v, r)
    if back.isinf():  # the ratio rounded to 1
        assert r == 1
        return
    # The ratio is right to 8 eps; through the inverse these cost A / (x A') times as much.
    truth = radial_by_bessel(2 * v, x.item())
    condition = max(1, truth.mean / (x.item() * truth.variance))
    assert abs(back.item() / x.item() - 1) <= min(0.5, 20 * eps * condition)


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits(dtype: torch.dtype) -> None:
    ends = torch.tensor([0.0, math.inf], dtype=dtype)
    assert log_iv(0, ends).tolist() == [0.0, math.inf]
    assert log_ive(0, ends).tolist() == [0.0, -math.inf]
    for v in (0.3, 1, 500):
        assert log_iv(v, ends).tolist() == [-math.inf, math.inf]
        assert log_ive(v, ends).tolist() == [-math.inf, -math.inf]
    for v in (0.5, 0.7, 1, 1.5, 500):
        assert iv_ratio(v, ends).tolist() == [0.0, 1.0]
        unit = torch.tensor([0.0, 1.0], dtype=dtype)
        assert inverse_iv_ratio(v, unit).tolist() == [0.0, math.inf]
        assert inverse_iv_ratio(v, one_minus_r=unit).tolist() == [math.inf, 0.0]


@pytest.mark.parametrize("v", [0.5, 0.7, 1, 1.5, 30])
def test_gradients(v: float) -> None:
    x = torch.tensor([0.1, 1.0, 6.0], dtype=torch.float64, requires_grad=True)
    r = torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    cases: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda x: log_iv(v, x), x),
        (lambda x: log_ive(v, x), x),
        (lambda x: iv_ratio(v, x), x),
        (lambda r: inverse_iv_ratio(v, r), r),
        (lambda r: inverse_iv_ratio(v, one_minus_r=r), r),
    ]
    for function, at in cases:
        assert torch.autograd.gradcheck(function, (at,), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, (at,))


def test_gradients_at_zero_are_the_limits() -> None:
    x = torch.zeros((), requires_grad=True)
    for function, slope in ((iv_ratio, 1 / 3), (inverse_iv_ratio, 3.0)):
        (gradient,) = torch.autograd.grad(function(1.5, x), x)
        assert gradient.item() == pytest.approx(slope)
    (gradient,) = torch.autograd.grad(log_iv(0, x), x)
    assert gradient.item() == 0


def test_transforms() -> None:
    x = torch.linspace(0.1, 5, 7, dtype=torch.float64)
    slope = torch.func.vmap(torch.func.grad(lambda x: iv_ratio(2.5, x)))(x)
    bend = torch.func.vmap(torch.func.grad(torch.func.grad(lambda x: iv_ratio(2.5, x))))(x)
    _, tangent = torch.func.jvp(lambda x: iv_ratio(2.5, x), (x,), (torch.ones_like(x),))
    assert torch.equal(slope, tangent)
    for k, first, second in zip(x.tolist(), slope.tolist(), bend.tolist(), strict=True):
        truth = radial_by_bessel(5, k)
        assert first == pytest.approx(float(truth.variance), rel=1e-14)
        assert second == pytest.approx(float(truth.third_cumulant), rel=1e-13)


def test_outside_the_domain_is_nan() -> None:
    for function in (log_iv, log_ive, iv_ratio):
        assert function(2, torch.tensor([-1.0])).isnan()
    for r in (-0.1, 1.1):
        assert inverse_iv_ratio(2, torch.tensor([r])).isnan()
        assert inverse_iv_ratio(2, one_minus_r=torch.tensor([r])).isnan()


@pytest.mark.parametrize("function", [log_iv, log_ive, iv_ratio, inverse_iv_ratio])
def test_refusals(function: Callable[..., Tensor]) -> None:
    x = torch.tensor(0.5)
    lowest = 0.5 if "ratio" in function.__name__ else 0
    for v in (lowest - 0.25, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"at least {lowest:g}, got"):
            function(v, x)
    with pytest.raises(TypeError, match="the order v must be a Python number, got Tensor"):
        function(torch.tensor(1.0), x)
    with pytest.raises(TypeError, match="must be a tensor, got float"):
        function(1, 0.5)
    for bad in (torch.tensor(1), torch.tensor(0.5, dtype=torch.bfloat16)):
        with pytest.raises(TypeError, match="must be float32 or float64, got"):
            function(1, bad)


@not_dense_kinds
def test_sparse_and_nested_arguments(kind: str) -> None:
    x, words = not_dense(kind, "x")
    with pytest.raises(TypeError, match=words):
        iv_ratio(1, x)


def test_inverse_takes_exactly_one_argument() -> None:
    r = torch.tensor(0.5)
    with pytest.raises(ValueError, match="exactly one of r and one_minus_r"):
        inverse_iv_ratio(1)
    with pytest.raises(ValueError, match="exactly one of r and one_minus_r"):
        inverse_iv_ratio(1, r, one_minus_r=r)


def test_where_scipy_overflows() -> None:
    # scipy.special.ive(500, 1) is 0 and iv(0, 1e4) infinite.
    assert log_iv(500, torch.tensor(1.0)).item() == pytest.approx(float(log_bessel(500, 1) + 1))
    x = torch.tensor(1e4, dtype=torch.float64)
    assert log_iv(0, x).item() == pytest.approx(float(log_bessel(0, 1e4) + 10**4), rel=1e-15)
