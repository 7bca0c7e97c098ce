# Tests of uniformity beyond Rayleigh's (which is in test_estimation.py).

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize

from cases import BOUND, assert_mean, directions, standard_errors_off
from vmfdist import HypersphericalUniform, VonMisesFisher
from vmfdist.estimation import uniformity, uniformity_test

STATISTICS = ("bingham", "gine", "projections")


def uniform(*shape: int, dim: int = 3) -> Tensor:
    return HypersphericalUniform(dim, dtype=torch.float64).sample(shape)


@pytest.mark.parametrize("dim", [2, 3, 4, 7, 40])
def test_a_component_has_a_beta_law(dim: int) -> None:
    w = torch.linspace(-1, 1, 41, dtype=torch.float64)
    expected = stats.beta.cdf((1 + w.numpy()) / 2, (dim - 1) / 2, (dim - 1) / 2)
    found = uniformity.component_cdf(w, dim)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_statistics_by_their_definitions(dim: int, dtype: torch.dtype) -> None:
    n, x = 9, normalize(directions(9, dim).to(dtype).double(), dim=-1)
    found = {s: uniformity_test(x.to(dtype), s, simulations=1).statistic for s in STATISTICS}
    assert {value.dtype for value in found.values()} == {dtype}
    moments = sum(torch.outer(row, row) for row in x) / n
    bingham = n * dim * (dim + 2) / 2 * (moments.square().sum() - 1 / dim)
    angles = [math.acos(float(x[i] @ x[j])) for i in range(n) for j in range(i)]
    ajne = n / 4 - math.fsum(angles) / (n * math.pi)
    ratio = math.gamma((dim - 1) / 2) / math.gamma(dim / 2)
    gine = n / 2 - (dim - 1) / (2 * n) * ratio**2 * math.fsum(map(math.sin, angles))
    generator = torch.Generator().manual_seed(0)
    axes = normalize(torch.randn(50, dim, dtype=torch.float64, generator=generator), dim=-1)
    law = stats.beta((dim - 1) / 2, (dim - 1) / 2, loc=-1, scale=2)
    projections = [stats.cramervonmises((x @ axis).numpy(), law.cdf).statistic for axis in axes]
    expected = (bingham.item(), 4 * ajne + gine, sum(projections) / 50)
    for value, right in zip(found.values(), expected, strict=True):
        assert abs(value.item() - right) < 20 * torch.finfo(dtype).eps * (1 + abs(right))


def test_uniform_samples_are_rejected_as_often_as_they_should() -> None:
    samples = uniform(2000, 20)
    for statistic in STATISTICS:
        # those that are simulated are compared with the same samples: no more than these vary
        result = uniformity_test(samples, statistic, simulations=1999)
        rejected = (result.p_value <= 0.1).double()
        assert_mean(rejected, 0.1)
        assert standard_errors_off(rejected, 0.15) > BOUND


def test_what_each_statistic_sees() -> None:
    loc = directions(3)
    along = VonMisesFisher(loc, 5.0).sample((100, 40))
    axial = along * torch.tensor([1.0, -1.0]).repeat(20).unsqueeze(-1)
    girdle = normalize(along - (along @ loc).unsqueeze(-1) * loc * 0.95, dim=-1)
    girdle = girdle * torch.tensor([1.0, -1.0]).repeat(20).unsqueeze(-1)
    cases = (
        (along, (0.9, 0.99, 0.99)),
        (axial, (0.9, 0.8, 0.3)),
        (girdle, (0.9, 0.8, 0.3)),
    )
    for samples, powers in cases:
        for statistic, power in zip(STATISTICS, powers, strict=True):
            result = uniformity_test(samples, statistic, simulations=199)
            assert (result.p_value < 0.05).double().mean() >= power, (statistic, power)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_statistics_are_differentiable(statistic: str) -> None:
    raw = directions(6, 3).requires_grad_()

    def function(raw: Tensor) -> Tensor:
        return uniformity_test(normalize(raw, dim=-1), statistic, simulations=1).statistic

    assert torch.autograd.gradcheck(function, (raw,))
    equal = directions(3).expand(4, 3).clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(equal), equal)
    assert grad.isfinite().all()


@pytest.mark.parametrize("statistic", STATISTICS)
def test_blocks_and_batches_change_nothing(statistic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = directions(2, 3, 8, 4)
    whole = uniformity_test(samples, statistic, simulations=50, seed=3)
    assert whole.statistic.shape == whole.p_value.shape == (2, 3)
    state = torch.get_rng_state()
    monkeypatch.setattr(uniformity, "BLOCK_NUMBERS", 100)
    torch.testing.assert_close(uniformity_test(samples, statistic, simulations=50, seed=3), whole)
    numpys = uniformity_test(samples, statistic, simulations=np.int64(50), seed=np.int32(3))
    torch.testing.assert_close(numpys, whole)
    single = uniformity_test(samples[1, 2], statistic, simulations=50, seed=3)
    torch.testing.assert_close(single.p_value, whole.p_value[1, 2])
    assert torch.equal(torch.get_rng_state(), state)


def test_simulated_p_values_are_fractions() -> None:
    null = torch.arange(99, dtype=torch.float64)
    p_value = uniformity.simulated_p_value(null, null)  # each is among those that are as large
    assert p_value.tolist() == [b / 100 for b in range(100, 1, -1)]
    each = uniformity.simulated_p_value(null[:2, None], torch.stack([null, null + 1]))
    assert each.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_degenerate_samples(statistic: str, dtype: torch.dtype) -> None:
    x = directions(3, dtype=dtype)
    result = uniformity_test(x.expand(30, 3), statistic, simulations=99)
    assert result.p_value <= 0.01 + 1e-6
    assert uniformity_test(x[None], statistic, simulations=99).p_value > 0
    if statistic == "gine":  # one direction is like another
        assert uniformity_test(x[None], statistic, simulations=99).p_value == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"statistic": "kuiper"}, ValueError, "one of bingham, gine, projections, got 'kuiper'"),
        ({"simulations": 0}, ValueError, "simulations must be positive, got 0"),
        ({"simulations": 9.5}, TypeError, "simulations must be an integer, got float"),
        ({"seed": "a"}, TypeError, "seed must be an integer, got str"),
        ({"seed": 2**70}, ValueError, "seed must be from 0 to"),
        ({"statistic": ["gine"]}, ValueError, "statistic must be one of"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        uniformity_test(torch.eye(3), **options)
    with pytest.raises(ValueError, match=r"samples .* unit vectors"):
        uniformity_test(2 * torch.eye(3))


def test_unchecked_data_that_are_no_numbers_make_nan() -> None:
    torch.distributions.Distribution.set_default_validate_args(False)
    samples = directions(2, 5, 3)
    samples[1, 0, 0] = math.nan
    for statistic in STATISTICS:
        for x in uniformity_test(samples, statistic, simulations=9):
            assert x.isnan().tolist() == [False, True]
