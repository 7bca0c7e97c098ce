"""A law that the package does not know has all that is shared, from its family alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from cases import assert_mean, directions
from fourth_law import BINGHAM_MARDIA, BinghamMardia, BinghamMardiaCosine
from vmfdist import HypersphericalUniform


def _integral(
    function: Callable[[mp.mpf, mp.mpf], mp.mpf], k: float, dim: int, up_to: mp.mpf = mp.pi
) -> mp.mpf:
    """Of a function of t = 1 - cos(theta) and sin(theta), times e^(-k t^2) sin(theta)^(dim - 2)."""

    def integrand(theta: mp.mpf) -> mp.mpf:
        t, sine = 1 - mp.cos(theta), mp.sin(theta)
        return function(t, sine) * mp.exp(-k * t * t) * sine ** (dim - 2)

    return mp.quad(integrand, mp.linspace(0, up_to, 9))


def _whole(k: float, dim: int) -> mp.mpf:
    return _integral(lambda t, _: 1, k, dim)


def _mean(function: Callable[[mp.mpf, mp.mpf], mp.mpf], k: float, dim: int) -> float:
    return float(_integral(function, k, dim) / _whole(k, dim))


def _area(dim: int) -> mp.mpf:
    return 2 * mp.pi ** (mp.mpf(dim) / 2) / mp.gamma(mp.mpf(dim) / 2)


CASES = [(2, 0.7), (3, 0.3), (3, 40.0), (5, 9.0), (20, 60.0)]


@pytest.mark.parametrize(("dim", "k"), CASES)
def test_densities_moments_entropies_and_divergences(dim: int, k: float) -> None:
    loc = directions(dim)
    law, uniform = BinghamMardia(loc, k), HypersphericalUniform(dim, dtype=torch.float64)
    x = directions(4, dim, seed=1)
    log_normalizer = float(mp.log(_area(dim - 1) * _whole(k, dim)))
    t = 1 - x @ loc
    torch.testing.assert_close(law.log_prob(x), -k * t * t - log_normalizer)
    mean, mean_s = 1 - _mean(lambda t, _: t, k, dim), _mean(lambda t, _: t * t, k, dim)
    entropy = log_normalizer + k * mean_s
    assert law.entropy().item() == pytest.approx(entropy)
    assert law.mean_resultant_length.item() == pytest.approx(mean)
    torch.testing.assert_close(law.mean, mean * loc)
    along, across = law.covariance_eigenvalues
    assert along.item() == pytest.approx(mean_s - (1 - mean) ** 2)
    assert across.item() == pytest.approx(_mean(lambda _, sine: sine**2, k, dim) / (dim - 1))
    assert law.covariance_matrix.trace().item() == pytest.approx(1 - mean**2)
    area = float(mp.log(_area(dim)))
    assert kl_divergence(law, uniform).item() == pytest.approx(area - entropy)
    to_law = log_normalizer + k * _mean(lambda t, _: t * t, 0.0, dim) - area
    assert kl_divergence(uniform, law).item() == pytest.approx(to_law)


@pytest.mark.parametrize(("dim", "k"), CASES)
def test_probabilities_quantiles_and_the_entropy_of_the_cosine(dim: int, k: float) -> None:
    law = BinghamMardiaCosine(torch.tensor(k, dtype=torch.float64), dim)

    whole = _whole(k, dim)
    for t in (0.01, 0.4, 1.3, 1.9):
        above = float(_integral(lambda t, _: 1, k, dim, mp.acos(1 - mp.mpf(t))) / whole)
        found = law.sf(one_minus_value=torch.tensor(t, dtype=torch.float64))
        assert found.item() == pytest.approx(above, rel=1e-9)
        p = torch.tensor(above, dtype=torch.float64)
        if above < 1 - 1e-6:
            assert law.one_minus_isf(p).item() == pytest.approx(t, rel=1e-6)

    def surprise(t: mp.mpf, sine: mp.mpf) -> mp.mpf:
        return k * t * t - (dim - 3) * mp.log(sine)

    entropy = _mean(surprise, k, dim) + float(mp.log(whole))
    assert law.entropy().item() == pytest.approx(entropy, rel=1e-7)
    assert law.mean.item() == pytest.approx(1 - _mean(lambda t, _: t, k, dim))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dim", "k"), CASES)
def test_draws_and_their_gradients(dim: int, k: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    n = 5000
    concentration = torch.full((n,), k, dtype=dtype, requires_grad=True)
    law = BinghamMardia(directions(dim, dtype=dtype), concentration)
    x = law.rsample()
    t = (x - law.loc).square().sum(-1) / 2
    cosine = BinghamMardiaCosine(torch.tensor(k, dtype=torch.float64), dim)
    known = cosine.sf(one_minus_value=t.detach().double())
    assert stats.kstest(known.numpy(), "uniform").pvalue > 1e-4
    # the derivative of the mean in the concentration, and that of each draw: -F_k / f
    (slope,) = torch.autograd.grad(t.sum(), concentration)
    k64 = torch.tensor(k, dtype=torch.float64, requires_grad=True)
    mean = 1 - BINGHAM_MARDIA.mean_cosine(k64, dim)
    assert_mean(slope.double(), torch.autograd.grad(mean, k64)[0].item())
    at = t[:50].detach().double()
    wide = k64.expand(50).detach().requires_grad_()
    above = BinghamMardiaCosine(wide, dim).sf(one_minus_value=at)
    density = BinghamMardiaCosine(k64, dim).log_prob(one_minus_value=at).exp()
    exact = -torch.autograd.grad(above.sum(), wide)[0] / density.detach()
    tolerance = {torch.float32: 2e-4, torch.float64: 1e-7}[dtype]
    torch.testing.assert_close(slope[:50].double(), exact, rtol=tolerance, atol=tolerance)


def test_draws_know_no_noise_of_their_own() -> None:
    # A cone holds its share, and the same seed gives the same draws.
    law = BinghamMardia(directions(3, dtype=torch.float32), 12.0)
    angle = law.mass_cone(0.9)
    torch.manual_seed(3)
    x = law.sample((10_000,))
    torch.manual_seed(3)
    assert torch.equal(x, law.rsample((10_000,)))
    within = (x @ law.loc > math.cos(angle.item())).double()
    assert_mean(within, 0.9)
