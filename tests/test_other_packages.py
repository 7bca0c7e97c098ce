# What users of other packages complain of, one test each.

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pyro.distributions import constraints
from scipy import stats
from torch.distributions import kl_divergence

from cases import BOUND, FAILURE_RATE, assert_mean, directions, standard_errors_off
from reference import radial
from vmfdist import HypersphericalUniform, VonMisesFisher


@pytest.mark.parametrize("dim", [2, 3, 20])
@pytest.mark.parametrize("sign", [1, -1])
def test_loc_is_the_first_axis(dim: int, sign: int, dtype: torch.dtype) -> None:
    # TFP: a gradient of 0 or NaN at loc = e1, by a Householder reflection of e1 onto itself.
    loc = (sign * torch.eye(1, dim, dtype=dtype)[0]).requires_grad_()
    k = torch.tensor(5.0, dtype=dtype, requires_grad=True)
    law = VonMisesFisher(loc, k)
    draws = law.rsample((1000,))
    assert constraints.sphere.check(draws).all()
    assert_mean(draws.detach().double(), law.mean.detach().double())
    terms = draws.sum(), law.log_prob(draws.detach()).sum(), law.log_prob(loc.detach())
    for term in terms:
        for grad in torch.autograd.grad(term, (loc, k), retain_graph=True):
            assert grad.isfinite().all()


@pytest.mark.parametrize("dim", [2, 3, 64])
def test_concentration_zero(dim: int, dtype: torch.dtype) -> None:
    # scipy refuses it; s-vae-pytorch returns NaN.
    k = torch.zeros(3, dtype=dtype, requires_grad=True)
    loc = directions(3, dim, dtype=dtype).requires_grad_()
    law = VonMisesFisher(loc, k)
    draws = law.rsample((500,))
    assert_mean(draws.detach().double(), 0.0)
    uniform = HypersphericalUniform(dim, dtype=dtype)
    of_concentration = (
        law.entropy(),
        law.log_normalizer,
        kl_divergence(law, uniform),
        kl_divergence(uniform, law),
    )
    of_both = (
        draws,
        law.log_prob(draws),
        law.mean,
        law.variance,
        law.stddev,
        kl_divergence(law, law),
    )
    for values, parameters in ((of_concentration, (k,)), (of_both, (loc, k))):
        for value in values:
            assert value.isfinite().all()
            for grad in torch.autograd.grad(value.sum(), parameters, retain_graph=True):
                assert grad.isfinite().all()


@pytest.mark.parametrize("dim", [1000, 4096, 20_000])
def test_concentration_near_the_dimension(dim: int, dtype: torch.dtype) -> None:
    # s-vae-pytorch: NaN in high dimension, where I_{d/2-1}(k) underflows; scipy: infinite.
    for k in (0.5 * dim, dim, 2.0 * dim):
        law = VonMisesFisher(directions(dim, dtype=dtype), k)
        reference = radial(dim, k)
        eps = torch.finfo(dtype).eps
        length = law.mean_resultant_length.item()
        assert length == pytest.approx(float(reference.mean), rel=8 * eps, abs=0)
        scale = float(max(abs(reference.entropy(k)), abs(reference.log_area)))
        assert law.entropy().item() == pytest.approx(
            float(reference.entropy(k)), abs=8 * eps * scale
        )
        draws = law.sample((300,))
        assert law.log_prob(draws).isfinite().all()
        assert_mean((draws @ law.loc).double(), float(reference.mean))


def test_float32_at_a_concentration_of_1e8() -> None:
    # Wood's acceptance test fails in float32 there: 1 - x0 has no digits.
    k, n = 1e8, 4000
    loc = torch.eye(1, 3)[0]
    law = VonMisesFisher(loc, k)
    draws = law.sample((n,))
    # k (1 - w) is a standard exponential variable; near e1 it is k times half the squared tangent.
    energy = k * draws[:, 1:].double().square().sum(-1).numpy() / 2
    assert stats.kstest(energy, "expon").pvalue > FAILURE_RATE
    assert stats.kstest(energy * 1.2, "expon").pvalue < FAILURE_RATE
    # and the density sees it: log f = log(k / 2 pi) - k (1 - w)
    expected = math.log(k / (2 * math.pi)) - energy
    found = law.log_prob(draws).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_gradient_in_the_concentration_is_not_biased() -> None:
    # s-vae-pytorch: -32 % at d = 10, k = 10. 8 of them are for want of the correction of its
    # rejection sampler, the others for the formula that it begins to blend in just there.
    dim = 10
    loc = directions(dim)
    k = torch.full((5000,), 10.0, dtype=torch.float64, requires_grad=True)
    cosine = VonMisesFisher(loc, k).rsample() @ loc
    (grad,) = torch.autograd.grad(cosine.sum(), k)
    exact = float(radial(dim, 10.0).variance)
    assert_mean(grad, exact)
    assert standard_errors_off(grad, 0.68 * exact) > BOUND


def test_law_above_a_concentration_of_ten() -> None:
    # s-vae-pytorch: d = 64, k = 20 gives a mean cosine of .117 instead of .287.
    loc = directions(64)
    law = VonMisesFisher(loc, 20.0)
    assert law.mean_resultant_length.item() == pytest.approx(0.287, abs=5e-4)
    cosine = law.sample((5000,)) @ loc
    assert_mean(cosine, law.mean_resultant_length)
    assert standard_errors_off(cosine, 0.117) > BOUND


def test_stddev_is_a_standard_deviation() -> None:
    # s-vae-pytorch returns the concentration.
    law = VonMisesFisher(directions(3), 10.0)
    assert law.stddev.shape == (3,)
    draws = law.sample((4000,))
    assert_mean((draws - law.mean).square(), law.stddev.square())


def test_expand() -> None:
    # s-vae-pytorch has none, so Pyro's plates fail.
    law = VonMisesFisher(directions(3), 10.0).expand((7, 2))
    assert type(law) is VonMisesFisher
    assert law.rsample().shape == (7, 2, 3)


def test_gradient_of_the_entropy_at_concentration_zero() -> None:
    # TFP: NaN.
    k = torch.zeros((), requires_grad=True)
    (grad,) = torch.autograd.grad(
        VonMisesFisher(directions(3, dtype=torch.float32), k).entropy(), k
    )
    assert grad == 0


@pytest.mark.parametrize("dim", [2, 4, 5, 50])
def test_gradient_in_the_concentration_in_every_dimension(dim: int) -> None:
    # TFP: none on JAX unless d = 3; without its part for the rejections on TensorFlow.
    k = torch.tensor(3.0, requires_grad=True)
    draws = VonMisesFisher(directions(dim, dtype=torch.float32), k).rsample((10,))
    (grad,) = torch.autograd.grad((draws @ directions(dim, dtype=torch.float32)).sum(), k)
    assert grad > 0


@pytest.mark.parametrize(("dim", "k"), [(2000, 1.0), (2000, 1e5), (100_000, 10.0)])
def test_high_order(dim: int, k: float) -> None:
    # scipy: infinite or NaN, by log(ive(...)) of what underflows.
    law = VonMisesFisher(directions(dim), k)
    expected = float(radial(dim, k).log_normalizer)
    scale = float(radial(dim, k).log_area)
    found = law.log_normalizer.item()
    assert abs(found - expected) <= 8 * 2.3e-16 * max(abs(expected), abs(scale))


def test_a_concentration_of_its_own_for_every_row() -> None:
    # scipy: one at a time.
    ks = torch.tensor([0.0, 1.0, 10.0, 1e6], dtype=torch.float64)
    laws = VonMisesFisher(directions(3), ks)
    for j, k in enumerate(ks):
        alone = VonMisesFisher(directions(3), k)
        torch.testing.assert_close(laws.entropy()[j], alone.entropy(), rtol=1e-14, atol=0)


def test_dim_is_that_of_the_space() -> None:
    # s-vae-pytorch: HypersphericalUniform(dim) lives in dim + 1 dimensions.
    assert HypersphericalUniform(3).sample().shape == (3,)


def test_a_concentration_without_a_trailing_one() -> None:
    # s-vae-pytorch wants (B, 1); here (B,) is what goes with (B, d).
    law = VonMisesFisher(directions(6, 3), torch.ones(6))
    assert law.batch_shape == (6,)
