# The uniform law: closed forms, its draws, and bad input.

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cases import FAILURE_RATE, assert_mean, directions
from strategies import dtypes
from vmfdist import HypersphericalUniform


@given(dim=st.integers(2, 60) | st.sampled_from((1000, 100_000, 10**6)), dtype=dtypes)
def test_log_prob_is_minus_the_log_area(dim: int, dtype: torch.dtype) -> None:
    with mp.workdps(40):
        half = mp.mpf(dim) / 2
        area = mp.log(2) + half * mp.log(mp.pi) - mp.loggamma(half)
        law = HypersphericalUniform(dim, dtype=dtype)
        value = torch.eye(1, dim, dtype=dtype)
        bound = torch.finfo(dtype).eps * max(abs(area), 1)
        assert abs(mp.mpf(law.log_prob(value).item()) + area) <= bound
        assert abs(mp.mpf(law.entropy().item()) - area) <= bound


@pytest.mark.parametrize("dim", [2, 3, 4, 20])
def test_draws_are_uniform(dim: int) -> None:
    draws = HypersphericalUniform(dim, dtype=torch.float64).sample((5000,))
    # A coordinate y of a uniform direction: (1 + y)/2 is Beta((d-1)/2, (d-1)/2).
    for direction in (directions(dim), torch.eye(1, dim, dtype=torch.float64)[0]):
        law = stats.beta((dim - 1) / 2, (dim - 1) / 2)
        y = (1 + (draws @ direction).numpy()) / 2
        assert stats.kstest(y, law.cdf).pvalue > FAILURE_RATE
        # Power: the law of half as many dimensions more, at least one, is caught.
        wrong = dim + max(1, dim // 2)
        other = stats.beta((wrong - 1) / 2, (wrong - 1) / 2)
        assert stats.kstest(y, other.cdf).pvalue < FAILURE_RATE
    assert_mean(draws[:, :, None] * draws[:, None, :], torch.eye(dim, dtype=torch.float64) / dim)


def test_dim_is_that_of_the_space_and_not_of_the_sphere() -> None:
    law = HypersphericalUniform(3)
    assert law.event_shape == (3,)
    assert law.dim == 3
    torch.testing.assert_close(law.entropy().item(), math.log(4 * math.pi), rtol=1e-6, atol=0)
    assert "AMBIENT" in HypersphericalUniform.__doc__.splitlines()[0]


def test_dtype() -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert HypersphericalUniform(3).sample().dtype == torch.float64
    finally:
        torch.set_default_dtype(before)
    law = HypersphericalUniform(3)
    assert law.sample().dtype == before
    # log_prob follows its value, as a law without tensors must
    assert law.log_prob(directions(3)).dtype == torch.float64


def test_one_draw_of_the_normals_it_needs() -> None:
    torch.manual_seed(5)
    draws = HypersphericalUniform(4).sample((3,))
    torch.manual_seed(5)
    noise = torch.randn(3, 4)
    torch.testing.assert_close(draws, torch.nn.functional.normalize(noise, dim=-1))


@pytest.mark.parametrize("dim", [3.0, np.int64(3), Fraction(3)])
def test_whole_numbers_of_other_types(dim: Any) -> None:
    law = HypersphericalUniform(dim)
    assert law.event_shape == (3,)
    assert type(law.dim) is int


@pytest.mark.parametrize("dim", [1, 0, -3, 2.5, math.nan, math.inf])
def test_bad_dim(dim: float) -> None:
    with pytest.raises(ValueError, match=rf"dim must be an integer of at least 2.*{dim}"):
        HypersphericalUniform(dim)


@pytest.mark.parametrize("dim", ["3", None, [3], True, torch.Size((3,)), 3j])
def test_dim_of_a_wrong_type(dim: Any) -> None:
    with pytest.raises(TypeError, match=rf"dim must be an integer, got {type(dim).__name__}"):
        HypersphericalUniform(dim)


def test_sizes_of_a_batch_are_not_negative() -> None:
    with pytest.raises(ValueError, match=r"batch_shape must hold sizes, got \(2, -1\)"):
        HypersphericalUniform(3, (2, -1))


@pytest.mark.parametrize(
    ("shape", "wrong"), [((2, 4), (2, 2, 1)), ((1, 2, 1), (2, 1)), ((1,), ()), ((2,), (0,))]
)
def test_expansions_that_torch_refuses(shape: tuple[int, ...], wrong: tuple[int, ...]) -> None:
    for law in (HypersphericalUniform(3, shape), torch.distributions.Normal(torch.ones(shape), 1)):
        with pytest.raises(RuntimeError):
            law.expand(wrong)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16, torch.int64])
def test_bad_dtype(half: torch.dtype) -> None:
    name = str(half).removeprefix("torch.")
    with pytest.raises(TypeError, match=rf"dtype must be float32 or float64, got {name}"):
        HypersphericalUniform(3, dtype=half)


def test_options_are_by_keyword() -> None:
    with pytest.raises(TypeError):
        HypersphericalUniform(3, (), torch.float64)  # type: ignore[misc]
