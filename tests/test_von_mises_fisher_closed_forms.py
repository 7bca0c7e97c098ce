"""The radial quantities: accuracy over dimensions and concentrations, limits, transforms."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import accuracy
from reference import radial
from vmfdist._closed_forms import sphere
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.elementwise import Formula

DTYPES = [pytest.param(torch.float64, id="float64"), pytest.param(torch.float32, id="float32")]
FUNCTIONS = [
    pytest.param(f, id=f.__name__)
    for f in (
        vmf.log_partition,
        vmf.mean_resultant_length,
        vmf.one_minus_mean_resultant_length,
        vmf.mean_resultant_length_derivative,
        vmf.kl_to_uniform,
        vmf.log_density_at_mode,
        vmf.tangent_variance,
    )
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [*accuracy.ALL_SMALL_DIMS, 65, 1000, 100_000, 1_000_000])
def test_error_in_eps(dim: int, dtype: torch.dtype) -> None:
    for quantity in accuracy.QUANTITIES:
        worst = max(accuracy.errors(quantity, dim, dtype))
        assert worst.eps <= quantity.limit, f"{quantity.name}: {worst}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantity", accuracy.QUANTITIES, ids=lambda quantity: quantity.name)
def test_error_in_eps_where_a_search_found_the_worst(
    quantity: accuracy.Quantity, dtype: torch.dtype
) -> None:
    for dim, k in accuracy.WORST[quantity.name]:
        concentrations = torch.tensor([k], dtype=torch.float32).tolist()
        (error,) = accuracy.errors(quantity, dim, dtype, concentrations)
        assert error.eps <= quantity.limit, error


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3, 7, 20, 40, 1000])
def test_divergence_of_two_laws_in_eps(dim: int, dtype: torch.dtype) -> None:
    worst = max(accuracy.pair_errors(dim, dtype, stride=3))
    assert worst.eps <= 16, worst


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [*accuracy.ALL_SMALL_DIMS, *accuracy.LARGE_DIMS])
def test_all_pairs_and_inverses_in_eps(dim: int, dtype: torch.dtype) -> None:
    assert max(accuracy.pair_errors(dim, dtype)).eps <= 16
    assert max(accuracy.inverse_errors(dim, dtype)).eps <= 8


@given(
    dim=st.integers(2, 1_000_000),
    log10_k=st.floats(-12, 12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_error_in_eps_at_any_dimension(dim: int, log10_k: float, dtype: torch.dtype) -> None:
    k = torch.tensor(10**log10_k, dtype=dtype)
    eps = torch.finfo(dtype).eps
    truth = radial(dim, k.item())
    with mp.workdps(40):
        assert abs(vmf.log_partition(k, dim).item() / truth.log_partition - 1) < 8 * eps
        assert abs(vmf.mean_resultant_length(k, dim).item() / truth.mean - 1) < 8 * eps
        kl = truth.kl_to_uniform(k.item())
        assert abs(vmf.kl_to_uniform(k, dim).item() / kl - 1) < 8 * eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3, 20, 1000, 1_000_000])
def test_limits_at_zero_and_infinity(dim: int, dtype: torch.dtype) -> None:
    k = torch.tensor([0.0, math.inf], dtype=dtype)
    area = sphere.log_sphere_area(dim)
    expected = {
        vmf.log_partition: (0.0, math.inf),
        vmf.mean_resultant_length: (0.0, 1.0),
        vmf.one_minus_mean_resultant_length: (1.0, 0.0),
        vmf.mean_resultant_length_derivative: (1 / dim, 0.0),
        vmf.kl_to_uniform: (0.0, math.inf),
        vmf.log_density_at_mode: (-area, math.inf),
        vmf.tangent_variance: (1 / dim, 0.0),
    }
    for function, (at_zero, at_infinity) in expected.items():
        low, high = function(k, dim).tolist()
        assert low == pytest.approx(at_zero, rel=4 * torch.finfo(dtype).eps), function
        assert high == pytest.approx(at_infinity, abs=1e-30), function


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("k", [1e19, 1e25, 1e38])
def test_no_overflow_in_float32(function: Formula, k: float) -> None:
    single = function(torch.tensor(k), 20).item()
    double = function(torch.tensor(k, dtype=torch.float64), 20).item()
    assert single == pytest.approx(double, rel=1e-6, abs=1e-37)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_stays_nan(function: Formula) -> None:
    assert function(torch.tensor([math.nan]), 5).isnan().all()


@pytest.mark.parametrize("dim", [2, 3, 10, 1000])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradcheck(function: Formula, dim: int) -> None:
    k = torch.tensor([0.0, 0.3, 4.0, 50.0], dtype=torch.float64, requires_grad=True)
    k = (k + 0.01).detach().requires_grad_()  # finite differences need room on both sides

    def at(k: torch.Tensor) -> torch.Tensor:
        return function(k, dim)

    assert torch.autograd.gradcheck(at, (k,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(at, (k,))


def test_gradcheck_in_dimension_one() -> None:  # closed forms, of which special.iv_ratio is one
    k = torch.tensor([0.01, 0.3, 4.0], dtype=torch.float64, requires_grad=True)
    for function in (
        vmf.mean_resultant_length,
        vmf.one_minus_mean_resultant_length,
        vmf.mean_resultant_length_derivative,
        vmf.mean_resultant_length_second_derivative,
    ):
        assert torch.autograd.gradcheck(lambda k: function(k, 1), (k,))  # noqa: B023


def test_fourth_derivative_of_the_ratio_is_refused() -> None:
    k = torch.tensor(2.0, requires_grad=True)
    y = vmf.mean_resultant_length(k, 4)
    for _ in range(3):
        (y,) = torch.autograd.grad(y, k, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiate fewer times"):
        torch.autograd.grad(y, k)


@pytest.mark.parametrize("dim", [2, 5, 100])
def test_gradcheck_of_two_arguments(dim: int) -> None:
    k1 = torch.tensor([0.5, 2.0, 7.0, 30.0], dtype=torch.float64, requires_grad=True)
    k2 = torch.tensor([0.7, 2.0, 1.0, 31.0], dtype=torch.float64, requires_grad=True)
    separation = torch.tensor([0.0, 0.3, 1.0, 1.9], dtype=torch.float64)

    def difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return vmf.mean_resultant_length_difference(a, b, dim)

    def divergence(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return vmf.kl_to_another(a, b, separation, dim)

    for function in (difference, divergence):
        assert torch.autograd.gradcheck(function, (k1, k2), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, (k1, k2))


def test_gradients_of_the_divergence_at_two_zeros() -> None:
    k1, k2 = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    divergence = vmf.kl_to_another(k1, k2, torch.zeros_like(k1), 6)
    first = torch.autograd.grad(divergence, (k1, k2), create_graph=True)
    assert [g.item() for g in first] == [0.0, 0.0]
    # The second derivatives are plus and minus the Fisher information A'(0) = 1/d.
    (second,) = torch.autograd.grad(first[1], k2, retain_graph=True)
    assert second.item() == pytest.approx(1 / 6)


def test_blocks_agree_with_the_whole() -> None:
    k = torch.logspace(-3, 3, 100_003, dtype=torch.float64)
    whole = vmf.kl_to_uniform(k, 10)
    parts = torch.cat([vmf.kl_to_uniform(part, 10) for part in k.split(5_000)])
    torch.testing.assert_close(whole, parts, rtol=1e-15, atol=0)  # vector and scalar instructions


def test_noncontiguous_and_expanded_arguments() -> None:
    k = torch.logspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    expected = vmf.kl_to_uniform(k, 10).t()
    assert torch.equal(vmf.kl_to_uniform(k.t(), 10), expected)
    assert vmf.kl_to_uniform(torch.tensor(2.0).expand(5), 10).shape == (5,)


def test_log_sphere_area_to_an_ulp() -> None:
    with mp.workdps(40):
        for dim in [*range(1, 60), 100, 1001, 10**6]:
            d = mp.mpf(dim)
            truth = mp.log(2) + d / 2 * mp.log(mp.pi) - mp.loggamma(d / 2)
            assert abs(sphere.log_sphere_area(dim) / truth - 1) < 2.3e-16, dim
