# Closed forms of the spherical Cauchy law against mpmath, in units of eps.

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch

import accuracy
from vmfdist._closed_forms import spherical_cauchy as sc


@pytest.mark.parametrize("dim", [2, 3, 4, 5, 6, 7, 12, 33, 64, 1000, 1_000_000])
def test_closed_forms_in_eps(dim: int, dtype: torch.dtype) -> None:
    for quantity in accuracy.CAUCHY_QUANTITIES:
        worst = max(accuracy.errors(quantity, dim, dtype, accuracy.STRENGTHS[dim % 2 :: 2]))
        assert worst.eps <= quantity.limit, (quantity.name, worst)


@pytest.mark.parametrize("quantity", accuracy.CAUCHY_QUANTITIES, ids=lambda quantity: quantity.name)
def test_closed_forms_in_eps_where_a_search_found_the_worst(
    quantity: accuracy.Quantity, dtype: torch.dtype
) -> None:
    for dim, k in accuracy.WORST[quantity.name]:
        strengths = torch.tensor([k], dtype=torch.float32).tolist()
        (error,) = accuracy.errors(quantity, dim, dtype, strengths)
        assert error.eps <= quantity.limit, error


@pytest.mark.slow
@pytest.mark.parametrize("dim", [*accuracy.ALL_SMALL_DIMS, *accuracy.LARGE_DIMS])
def test_closed_forms_in_eps_everywhere(dim: int, dtype: torch.dtype) -> None:
    for quantity in accuracy.CAUCHY_QUANTITIES:
        worst = max(accuracy.errors(quantity, dim, dtype))
        assert worst.eps <= quantity.limit, (quantity.name, worst)


@pytest.mark.parametrize("dim", [2, 3, 64, 1_000_000])
def test_draws_in_eps(dim: int, dtype: torch.dtype) -> None:
    errors = list(accuracy.draw_errors(dim, dtype))
    assert max(errors).eps <= 8, max(errors)
    assert len(errors) > 300


def test_distance_in_eps(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    numbers = [0.0, 1e-12, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 2.0**-20, 1 - eps, 1 - 2.0**-40]
    rho = torch.tensor(numbers, dtype=dtype, requires_grad=True)
    k = sc.distance(rho)
    (slope,) = torch.autograd.grad(k.sum(), rho)
    for x, found, found_slope in zip(rho.tolist(), k.tolist(), slope.tolist(), strict=True):
        with mp.workdps(60):
            r = mp.mpf(x)
            if x == 1:  # 1 - 2^-40 in float32
                assert found == math.inf
                continue
            assert abs(found - 2 * mp.atanh(r)) <= 4 * eps * 2 * mp.atanh(r)
            assert abs(found_slope - 2 / (1 - r**2)) <= 4 * eps * 2 / (1 - r**2)


@pytest.mark.parametrize("dim", [2, 3, 6, 40])
def test_derivatives_are_those_of_the_values(dim: int) -> None:
    k = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    for function in (sc.kl_to_uniform, sc.mean_cosine, sc.one_minus_mean_cosine, sc.cosine_entropy):
        assert torch.autograd.gradcheck(lambda x, f=function: f(x, dim), k)
        assert torch.autograd.gradgradcheck(lambda x, f=function: f(x, dim), k)
    for function in (sc.tangent_variance, sc.cosine_variance):
        value = function(k, dim)
        (slope,) = torch.autograd.grad(value.sum(), k, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), k, create_graph=True)
        with pytest.raises(NotImplementedError, match="differentiate fewer times"):
            torch.autograd.grad(bend.sum(), k)
    rho = torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(sc.distance, rho + 0.01)


@pytest.mark.parametrize("dim", [2, 3, 4, 5, 9])
def test_the_limits_at_both_ends(dim: int, dtype: torch.dtype) -> None:
    k = torch.tensor([0.0, torch.finfo(dtype).max, math.inf], dtype=dtype, requires_grad=True)
    values = {
        sc.mean_cosine: [0.0, 1.0, 1.0],
        sc.one_minus_mean_cosine: [1.0, 0.0, 0.0],
        sc.tangent_variance: [1 / dim, 0.0, 0.0],
        sc.cosine_variance: [1 / dim, 0.0, 0.0],
    }
    for function, limits in values.items():
        found = function(k, dim)
        torch.testing.assert_close(found.detach(), torch.tensor(limits, dtype=dtype))
        (slope,) = torch.autograd.grad(found.sum(), k)
        assert slope.isfinite().all()
    divergence = sc.kl_to_uniform(k, dim)
    assert divergence[0] == 0
    assert divergence[2] == math.inf
    assert torch.autograd.grad(divergence.sum(), k)[0].tolist() == [0.0, dim - 1, dim - 1]
