# What is special to the power spherical law; the rest is in test_contract.py, test_cosine.py and
# test_noise_to_cosine.py.

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

import accuracy
from cases import assert_mean, directions, standard_errors_off
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist._closed_forms import power_spherical as ps


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


# The fit


def mean_log_likelihood(loc: Tensor, k: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """By the density as it is written in the docstring, relative to the uniform law."""
    lam = (x.shape[-1] - 1) / 2
    partition = (
        torch.lgamma(lam + k) + math.lgamma(2 * lam) - torch.lgamma(2 * lam + k) - math.lgamma(lam)
    )
    return k * (weights * torch.log((1 + x @ loc) / 2)).sum() / weights.sum() - partition


def by_scipy(truth: PowerSpherical, x: Tensor, weights: Tensor) -> tuple[float, Tensor, float]:
    """The greatest mean log likelihood uphill from the true law, its direction and log k."""
    scale = (1 + truth.concentration) ** -0.5

    def law(point: Tensor) -> tuple[Tensor, Tensor]:
        loc = normalize(truth.loc + scale * point[:-1], dim=0)
        return loc, (truth.concentration + 0.1) * point[-1].exp()

    def cost(point: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(point).requires_grad_()
        value = -mean_log_likelihood(*law(leaf), x, weights)
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()

    start = np.zeros(x.shape[-1] + 1)
    found = optimize.minimize(cost, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    loc, k = law(torch.from_numpy(found.x))
    return -found.fun, loc, k.log().item()


@pytest.mark.parametrize(
    ("dim", "n", "k"),
    [
        (2, 3, 5.0),
        (2, 200, 0.5),
        (2, 50, 1e6),
        (3, 5, 1.0),
        (3, 2, 30.0),
        (3, 10_000, 2.0),
        (10, 30, 1e-3),
        (10, 100, 4.0),
        (10, 100, 1e6),
        (60, 2, 1e3),
        (300, 40, 0.0),
        (300, 400, 200.0),
    ],
)
def test_fit_against_an_independent_optimiser(dim: int, n: int, k: float) -> None:
    torch.manual_seed(0)
    truth = PowerSpherical(directions(dim), k)
    x, weights = truth.sample((n,)), torch.rand(n, dtype=torch.float64)
    law = PowerSpherical.fit(x, weights)
    greatest, loc, log_k = by_scipy(truth, x, weights)
    found = mean_log_likelihood(law.loc, law.concentration, x, weights).item()
    rounding = 1e-12 + 1e-14 * law.concentration.item()  # of the logarithms of gamma functions
    assert found >= greatest - rounding
    if k >= 1:
        assert found <= greatest + rounding + 1e-9
        assert law.concentration.log().item() == pytest.approx(log_k, abs=1e-3)
        assert (law.loc - loc).norm() < 1e-3 * (1 + k) ** -0.5
    # Where the gradient of log(1 + w) points out of the ball there is no higher maximum.
    cosine = x @ law.loc
    if k >= 4:
        assert (weights * cosine / (1 + cosine)).sum() > 0


def test_fit_finds_the_highest_arc_of_the_circle() -> None:
    # On either side of the antipode of each of n vectors there is a maximum.
    torch.manual_seed(0)
    x = PowerSpherical(directions(2), 1.0).sample((60,))
    angle = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)
    heights = torch.log1p(x @ torch.stack([angle.cos(), angle.sin()])).mean(0)
    assert torch.log1p(x @ PowerSpherical.fit(x).loc).mean() >= heights.max()


@pytest.mark.parametrize("dim", [2, 3, 7, 400])
def test_inverse_of_the_mean_log(dim: int, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    for k in (0.0, 1e-6, 0.3, 2.0, 50.0, 1e4, 1e9):
        with mp.workdps(40):
            lam = mp.mpf(dim - 1) / 2
            level = torch.tensor(float(mp.psi(0, lam + k) - mp.psi(0, 2 * lam + k)), dtype=dtype)
            rate = mp.psi(1, lam + k) - mp.psi(1, 2 * lam + k)
            conditioning = float(abs(level.item()) / rate) + k
        found = ps.inverse_mean_log(level, dim)
        assert abs(found.item() - k) < 8 * eps * conditioning
    below = ps.mean_log(torch.zeros((), dtype=dtype), dim) - 0.1
    assert ps.inverse_mean_log(below, dim) == 0
    assert ps.inverse_mean_log(torch.zeros((), dtype=dtype), dim) == math.inf


def test_fit_of_draws_in_batches_and_both_dtypes() -> None:
    truth = PowerSpherical(directions(4), torch.tensor([0.5, 8.0, 300.0, 1e5]).double())
    x = truth.sample((2000,)).movedim(0, 1)
    laws = PowerSpherical.fit(x)
    assert laws.batch_shape == (4,)
    # the error of the estimate is k sqrt(2 / (n (d - 1))) at high concentration
    assert ((laws.concentration / truth.concentration - 1).abs() < 0.3).all()
    assert (laws.concentration[1:] / truth.concentration[1:] - 1).abs().max() < 0.1
    one = PowerSpherical.fit(x[1])
    torch.testing.assert_close(laws.loc[1], one.loc)
    torch.testing.assert_close(laws.concentration[1], one.concentration)
    single = PowerSpherical.fit(x.float())
    assert single.loc.dtype == single.concentration.dtype == torch.float32
    torch.testing.assert_close(single.loc.double(), laws.loc, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        single.concentration.double(), laws.concentration, rtol=1e-4, atol=1e-4
    )
    counts = torch.randint(4, (3, 2000))
    weighted = PowerSpherical.fit(x[1], counts)
    repeated = PowerSpherical.fit(x[1].repeat_interleave(counts[2], 0))
    torch.testing.assert_close(weighted.concentration[2], repeated.concentration)
    torch.testing.assert_close(weighted.loc[2], repeated.loc)


def test_fit_about_a_known_direction() -> None:
    loc = directions(5)
    x = PowerSpherical(loc, 6.0).sample((4, 3000))
    law = PowerSpherical.fit(x, loc=loc)
    assert torch.equal(law.loc, loc.expand(4, 5))
    ks = torch.linspace(3, 12, 901, dtype=torch.float64)
    heights = PowerSpherical(loc, ks).log_prob(x[0].unsqueeze(-2)).sum(0)
    assert abs(ks[heights.argmax()] - law.concentration[0]) < 0.01
    assert PowerSpherical.fit(x, loc=-loc).concentration.tolist() == [0] * 4
    assert PowerSpherical.fit(-loc[None], loc=loc).concentration == 0
    assert PowerSpherical.fit(loc.expand(3, 5), loc=loc).concentration == math.inf
    with pytest.raises(ValueError, match="direction on the sphere of the samples, of dimension 5"):
        PowerSpherical.fit(x, loc=directions(3))


def test_fit_of_equal_samples_and_of_resultant_0(dtype: torch.dtype) -> None:
    loc = directions(4, dtype=dtype)
    for n in (1, 7):
        law = PowerSpherical.fit(loc.expand(n, 4).clone().requires_grad_())
        assert law.concentration == math.inf
        torch.testing.assert_close(law.loc, loc)
        assert law.loc.requires_grad
    # About a diagonal of a cross there is more than under the uniform law. The direction is one of
    # its symmetry; two opposite vectors leave all that are across.
    cross = torch.cat([torch.eye(3, dtype=dtype), -torch.eye(3, dtype=dtype)])
    law = PowerSpherical.fit(cross)
    torch.testing.assert_close(law.loc.abs(), torch.full((3,), 3**-0.5, dtype=dtype))
    assert law.concentration.item() == pytest.approx(-2 / math.log(1 / 6) - 1, rel=1e-5)
    law = PowerSpherical.fit(cross[[0, 3]])
    assert abs(law.loc[0]) < 1e-6
    assert law.concentration.item() == pytest.approx(1 / math.log(2) - 1, rel=1e-5)
    # What has no weight rules nothing out.
    weights = torch.tensor([1.0, 1, 1, 0, 0, 0])
    law = PowerSpherical.fit(cross, weights)
    torch.testing.assert_close(law.loc, torch.full((3,), 3**-0.5, dtype=dtype))
    opposite = PowerSpherical.fit(torch.stack([loc, -loc]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(opposite.loc, loc)
    assert opposite.concentration == math.inf


def test_fit_is_differentiable() -> None:
    samples = PowerSpherical(directions(3), 4.0).sample((5,)).requires_grad_()
    weights = torch.rand(5, dtype=torch.float64).requires_grad_()

    def fitted(samples: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        law = PowerSpherical.fit(normalize(samples, dim=-1), weights, validate_args=False)
        return law.loc, law.concentration

    assert torch.autograd.gradcheck(fitted, (samples, weights))
    for loc in (directions(3), -directions(3)):  # infinite and 0
        x = directions(3).expand(4, 3).clone().requires_grad_()
        (grad,) = torch.autograd.grad(PowerSpherical.fit(x, loc=loc).concentration, x)
        assert (grad == 0).all()


def test_fit_of_what_is_no_sample() -> None:
    with pytest.raises(ValueError, match=r"samples must have shape \(..., n, d\)"):
        PowerSpherical.fit(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"samples .* unit vectors"):
        PowerSpherical.fit(2 * torch.eye(3))
    with pytest.raises(ValueError, match="weights must be nonnegative"):
        PowerSpherical.fit(torch.eye(3), torch.tensor([1.0, -1, 1]))
