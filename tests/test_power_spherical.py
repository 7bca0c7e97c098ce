# What is special to the power spherical law; the rest is in test_contract.py, test_cosine.py and
# test_noise_to_cosine.py.

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import accuracy
from cases import assert_mean, directions, standard_errors_off
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher


def test_density_in_closed_form(dtype: torch.dtype) -> None:
    # d = 3: (1 + w)^k (k + 1) / (2^(k+1) 2 pi)
    loc = torch.tensor([0.0, 0.0, 1.0], dtype=dtype)
    angle = torch.tensor([0.0, 1e-3, 1.0, 2.0, 3.1], dtype=torch.float64)
    x = torch.stack((angle.sin(), torch.zeros_like(angle), angle.cos()), -1).to(dtype)
    eps = torch.finfo(dtype).eps
    for k in (0.0, 0.5, 7.0, 1e5):
        values = PowerSpherical(loc, k).log_prob(x)
        for value, row in zip(values.tolist(), x.double(), strict=True):
            with mp.workdps(40):
                # The half angle, of the rounded vector.
                a, b, c = (mp.mpf(v) for v in row.tolist())
                half = mp.atan2(mp.sqrt(a**2 + b**2), c) / 2
                truth = 2 * k * mp.log(mp.cos(half)) + mp.log((mp.mpf(k) + 1) / (4 * mp.pi))
            # x is rounded: its angle by eps, of which the log density takes k tan(half).
            conditioning = 1 + abs(truth) + k * float(mp.tan(half)) * 2
            assert abs(value - truth) < 8 * eps * conditioning


def test_density_at_the_antipode() -> None:
    loc = directions(4)
    assert PowerSpherical(loc, 2.0).log_prob(-loc) == -math.inf
    k = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    value = PowerSpherical(loc, k).log_prob(-loc)
    assert value.item() == pytest.approx(-math.log(2 * math.pi**2))
    (gradient,) = torch.autograd.grad(value, k)
    assert not gradient.isnan()


def test_concentrated_it_is_a_von_mises_fisher_law_of_half_the_concentration() -> None:
    loc = directions(5)
    power, law = PowerSpherical(loc, 2e6), VonMisesFisher(loc, 1e6)
    assert kl_divergence(power, law).item() < 1e-4
    torch.testing.assert_close(power.mean, law.mean)
    torch.testing.assert_close(power.entropy(), law.entropy(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("k", [0.0, 1.0, 40.0, math.inf])
def test_the_ends_have_no_nan(k: float, dtype: torch.dtype) -> None:
    for dim in (2, 3, 20):
        loc = directions(dim, dtype=dtype).requires_grad_()
        concentration = torch.tensor(k, dtype=dtype, requires_grad=True)
        law = PowerSpherical(loc, concentration)
        uniform = HypersphericalUniform(dim, dtype=dtype)
        values = [
            law.entropy(),
            law.log_normalizer,
            law.mean.sum(),
            law.variance.sum(),
            kl_divergence(law, uniform),
            kl_divergence(uniform, law),
            law.rsample((3,)).sum(),
        ]
        for value in values:
            assert not value.isnan()
            (gradient,) = torch.autograd.grad(value, concentration)
            assert gradient.isfinite()


@pytest.mark.parametrize("dim", [2, 3, 6, 40])
def test_gradient_of_expectations_through_draws(dim: int) -> None:
    # E <x, a> = M(k) <mu, a>: the gradients of a Monte Carlo mean against those of the closed form.
    loc = directions(dim).requires_grad_()
    a = directions(dim, seed=3)
    k = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    a = a + 2 * loc.detach()  # so that the gradient in k is not small beside its spread
    expected = torch.autograd.grad(PowerSpherical(loc, k).mean @ a, (loc, k))
    n = 4000
    rows, ks = (x.detach().expand(n, *x.shape).clone().requires_grad_() for x in (loc, k))
    draws = PowerSpherical(rows, ks).rsample()
    by_loc, by_k = torch.autograd.grad((draws @ a).sum(), (rows, ks))
    assert_mean(by_k, expected[1])
    tangent = expected[0] - (expected[0] @ loc) * loc
    assert_mean(by_loc, tangent.detach())
    assert standard_errors_off(by_k, expected[1] * 1.2) > 5  # a fifth more is seen


def test_gradient_of_every_sample_is_implicit() -> None:
    # dw/dk = -dF/dk / f, from the cosine's own probabilities.
    loc = directions(6)
    k = torch.full((50,), 3.0, dtype=torch.float64, requires_grad=True)
    law = PowerSpherical(loc, k)
    w = law.rsample() @ loc
    (gradient,) = torch.autograd.grad(w.sum(), k)
    p = law.cosine.cdf(w.detach())
    (slope,) = torch.autograd.grad(p.sum(), k)
    torch.testing.assert_close(gradient, -slope / law.cosine.log_prob(w.detach()).exp())


# Divergences


@pytest.mark.parametrize("dim", [2, 3, 14, 40, 1000])
def test_to_von_mises_fisher_in_eps(dim: int, dtype: torch.dtype) -> None:
    worst = max(accuracy.power_to_von_mises_fisher_errors(dim, dtype))
    assert worst.eps <= 8, worst


@pytest.mark.parametrize("k", [0.0, 0.3, 8.0, 1e4])
@pytest.mark.parametrize("dim", [2, 3, 12])
def test_divergences_are_means_of_log_ratios(dim: int, k: float) -> None:
    p, q = PowerSpherical(directions(dim), k), VonMisesFisher(directions(dim, seed=2), 0.7 * k + 1)
    uniform = HypersphericalUniform(dim, dtype=torch.float64)
    x = p.sample((4000,))
    assert_mean(p.log_prob(x) - q.log_prob(x), kl_divergence(p, q))
    assert_mean(p.log_prob(x) - uniform.log_prob(x), kl_divergence(p, uniform))
    y = uniform.sample((4000,))
    assert_mean(uniform.log_prob(y) - p.log_prob(y), kl_divergence(uniform, p))
    wrong = kl_divergence(p, VonMisesFisher(q.loc, q.concentration * 1.3))
    assert standard_errors_off(p.log_prob(x) - q.log_prob(x), wrong) > 5


@pytest.mark.parametrize("dim", [2, 5, 50])
def test_gradients_of_divergences(dim: int) -> None:
    loc1, loc2 = directions(dim), directions(dim, seed=2)
    k1 = torch.tensor([0.4, 3.0, 60.0], dtype=torch.float64, requires_grad=True)
    k2 = torch.tensor([0.7, 1.0, 90.0], dtype=torch.float64, requires_grad=True)
    uniform = HypersphericalUniform(dim, dtype=torch.float64)

    def between(loc1: Tensor, k1: Tensor, loc2: Tensor, k2: Tensor) -> Tensor:
        options = {"validate_args": False}
        return kl_divergence(
            PowerSpherical(loc1, k1, **options), VonMisesFisher(loc2, k2, **options)
        )

    inputs = (loc1.requires_grad_(), k1, loc2.requires_grad_(), k2)
    assert torch.autograd.gradcheck(between, inputs)
    for pair in (
        lambda k: kl_divergence(PowerSpherical(loc1.detach(), k), uniform),
        lambda k: kl_divergence(uniform, PowerSpherical(loc1.detach(), k)),
        lambda k: PowerSpherical(loc1.detach(), k).log_normalizer,
        lambda k: PowerSpherical(loc1.detach(), k).variance,
    ):
        assert torch.autograd.gradcheck(pair, k1)
        assert torch.autograd.gradgradcheck(pair, k1)


def test_point_mass() -> None:
    loc = directions(4)
    law = PowerSpherical(loc, math.inf)
    assert (law.variance == 0).all()
    assert law.entropy() == -math.inf
    torch.testing.assert_close(law.mean, loc)
    torch.testing.assert_close(law.sample((3,)), loc.expand(3, 4))


def test_divergences_at_the_ends() -> None:
    loc = directions(4)
    point, law = PowerSpherical(loc, math.inf), VonMisesFisher(loc, 3.0)
    assert kl_divergence(point, law) == math.inf
    assert kl_divergence(PowerSpherical(loc, 3.0), VonMisesFisher(loc, math.inf)) == math.inf
    assert kl_divergence(point, VonMisesFisher(loc, math.inf)) == 0
    uniform = PowerSpherical(loc, 0.0)
    torch.testing.assert_close(
        kl_divergence(uniform, law),
        kl_divergence(HypersphericalUniform(4, dtype=torch.float64), law),
    )


def test_dimensions_must_agree_and_other_pairs_are_not_implemented() -> None:
    power = PowerSpherical(directions(4), 2.0)
    with pytest.raises(ValueError, match=r"dimension 4 \(PowerSpherical\) and 3"):
        kl_divergence(power, HypersphericalUniform(3))
    with pytest.raises(NotImplementedError):
        kl_divergence(power, SphericalCauchy(directions(4), 0.5))


def test_draws_refuse_a_second_derivative() -> None:
    k = torch.tensor(2.0, requires_grad=True)
    x = PowerSpherical(directions(3, dtype=torch.float32), k).rsample()
    (gradient,) = torch.autograd.grad(x[0], k, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiated once"):
        torch.autograd.grad(gradient, k)


@pytest.mark.parametrize("dim", [2, 3, 20])
def test_from_mean(dim: int, dtype: torch.dtype) -> None:
    law = PowerSpherical(
        directions(5, dim, dtype=dtype), torch.tensor([0, 0.3, 5, 80, 1e3]).to(dtype)
    )
    found = PowerSpherical.from_mean(law.mean)
    assert found.loc.dtype == found.concentration.dtype == dtype
    torch.testing.assert_close(found.loc[1:], law.loc[1:])
    rounding = 4 * torch.finfo(dtype).eps * (1 + 1e3 / (dim - 1))  # of 1 - R
    torch.testing.assert_close(found.concentration, law.concentration, rtol=rounding, atol=1e-6)


def test_from_mean_at_the_ends_and_its_gradient(dtype: torch.dtype) -> None:
    loc = torch.tensor([1.0, 0.0, 0.0], dtype=dtype)
    mean = torch.stack([0 * loc, loc, (1 + torch.finfo(dtype).eps) * loc]).requires_grad_()
    law = PowerSpherical.from_mean(mean)
    assert law.concentration.tolist() == [0, math.inf, math.inf]
    (grad,) = torch.autograd.grad(law.concentration.sum(), mean)
    assert (grad == 0).all()
    inner = (0.7 * directions(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: PowerSpherical.from_mean(x).concentration, (inner,))
    with pytest.raises(ValueError, match=r"mean .* length of at most 1"):
        PowerSpherical.from_mean(2 * loc)
    with pytest.raises(TypeError, match="mean must be a tensor, got list"):
        PowerSpherical.from_mean([0.5, 0.0])  # type: ignore[arg-type]
