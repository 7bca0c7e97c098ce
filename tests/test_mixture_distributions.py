# The laws as components of the mixtures that PyTorch and Pyro have.

from __future__ import annotations

import math
from typing import Any

import mpmath as mp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.nn.functional import normalize

from cases import BOUND, assert_mean, directions, standard_errors_off
from reference import log_sphere_area, radial
from vmfdist import HypersphericalUniform, VonMisesFisher

LOGITS = [0.0, 1.0, 0.5]
CONCENTRATIONS = [0.0, 5.0, 50.0]


@pytest.fixture(params=["torch", "pyro"])
def house(request: pytest.FixtureRequest) -> Any:
    """Whose Categorical and MixtureSameFamily."""
    return torch.distributions if request.param == "torch" else dist


def mixture(house: Any, dim: int, dtype: torch.dtype = torch.float64, stretch: float = 1.0) -> Any:
    k = stretch * torch.tensor(CONCENTRATIONS, dtype=dtype)
    return house.MixtureSameFamily(
        house.Categorical(logits=torch.tensor(LOGITS, dtype=dtype)),
        VonMisesFisher(directions(3, dim, dtype=dtype), k),
    )


# MixtureSameFamily


@pytest.mark.parametrize("dim", [2, 3, 64])
def test_log_density(house: Any, dim: int, dtype: torch.dtype) -> None:
    value = torch.cat((directions(3, dim, dtype=dtype), directions(4, dim, dtype=dtype, seed=2)))
    found = mixture(house, dim, dtype).log_prob(value)
    assert found.dtype == dtype
    with mp.workdps(40):
        total = mp.fsum(map(mp.exp, LOGITS))
        locs = directions(3, dim, dtype=dtype).tolist()
        for x, log_density in zip(value.tolist(), found.tolist(), strict=True):
            terms = [
                mp.exp(logit + radial(dim, k).log_density_at_mode(k) - k * half_chord(x, loc))
                for logit, k, loc in zip(LOGITS, CONCENTRATIONS, locs, strict=True)
            ]
            # rounding of k |x - mu|^2 / 2, of which the largest is 100
            assert abs(log_density - mp.log(mp.fsum(terms) / total)) < 1e3 * torch.finfo(dtype).eps


def half_chord(x: list[float], y: list[float]) -> mp.mpf:
    """|x - y|^2 / 2 of the unit vectors that these stand for."""
    norms = [mp.sqrt(mp.fsum(mp.mpf(v) ** 2 for v in z)) for z in (x, y)]
    return mp.fsum((a / norms[0] - b / norms[1]) ** 2 for a, b in zip(x, y, strict=True)) / 2


def test_density_integrates_to_one(house: Any) -> None:
    # Gauss-Legendre in the height, equal steps around; the surface measure is dz dphi
    heights, weights = np.polynomial.legendre.leggauss(100)
    z, phi = torch.meshgrid(
        torch.from_numpy(heights), torch.arange(200).double() * (2 * math.pi / 200), indexing="ij"
    )
    radius = (1 - z * z).sqrt()
    points = torch.stack((radius * phi.cos(), radius * phi.sin(), z), dim=-1)
    around = mixture(house, 3).log_prob(points).exp().sum(1) * (2 * math.pi / 200)
    assert abs(around @ torch.from_numpy(weights) - 1) < 1e-12


@pytest.mark.parametrize("dim", [2, 3, 20])
def test_moments(house: Any, dim: int) -> None:
    law, wrong = mixture(house, dim), mixture(house, dim, stretch=0.8)
    draws = law.sample((50_000,))
    squares = (draws - law.mean) ** 2
    assert_mean(draws, law.mean)
    assert_mean(squares, law.variance)
    # Concentrations that are off by a fifth would be noticed.
    assert standard_errors_off(draws, wrong.mean) > BOUND
    assert standard_errors_off(squares, wrong.variance) > BOUND


def test_draws_follow_the_density(house: Any) -> None:
    law, wrong = mixture(house, 3), mixture(house, 3, stretch=0.8)
    draws = law.sample((50_000,))
    # The integral of f_wrong / f f is 1; of f / f_wrong f it is more.
    ratio = wrong.log_prob(draws) - law.log_prob(draws)
    assert_mean(ratio.exp(), 1.0)
    assert standard_errors_off((-ratio).exp(), 1.0) > BOUND


def test_shapes(house: Any) -> None:
    components = VonMisesFisher(directions(2, 3, 4), torch.tensor([1.0, 5.0, 9.0]))
    law = house.MixtureSameFamily(house.Categorical(torch.ones(2, 3)), components)
    assert law.batch_shape == (2,)
    assert law.event_shape == (4,)
    x = law.sample((5,))
    assert x.shape == (5, 2, 4)
    assert law.log_prob(x).shape == (5, 2)
    assert law.mean.shape == law.variance.shape == (2, 4)
    wide = law.expand((7, 2))
    assert wide.log_prob(wide.sample()).shape == (7, 2)
    torch.testing.assert_close(wide.mean, law.mean.expand(7, 2, 4))


def test_values_off_the_sphere_are_refused(house: Any) -> None:
    with pytest.raises(ValueError, match="support"):
        mixture(house, 3).log_prob(1.1 * directions(3))


def test_gradients(house: Any) -> None:
    raw, value = 1.3 * directions(3, 4), directions(5, 4, seed=2)
    k, logits = torch.tensor([0.0, 5.0, 50.0]).double(), torch.tensor(LOGITS).double()

    def log_prob(raw: Tensor, k: Tensor, logits: Tensor) -> Tensor:
        components = VonMisesFisher(normalize(raw, dim=-1), k, validate_args=False)
        return house.MixtureSameFamily(house.Categorical(logits=logits), components).log_prob(value)

    parameters = tuple(x.requires_grad_() for x in (raw, k, logits))
    assert torch.autograd.gradcheck(log_prob, parameters)
    assert torch.autograd.gradgradcheck(log_prob, parameters)


def test_in_a_model() -> None:
    law = mixture(dist, 3)
    data = law.sample((10,))

    def model(data: Tensor | None) -> Tensor:
        with pyro.plate("rows", 10):
            return pyro.sample("x", law, obs=data)

    assert model(None).shape == (10, 3)
    trace = poutine.trace(model).get_trace(data)
    torch.testing.assert_close(trace.log_prob_sum(), law.log_prob(data).sum())


# MaskedMixture

MASK = torch.tensor([True, False, True])  # where the second component is taken


def components(dim: int = 3) -> dict[str, Any]:
    return {
        "wide": VonMisesFisher(directions(3, dim), torch.tensor([0.5, 1.0, 0.0])),
        "narrow": VonMisesFisher(directions(3, dim, seed=2), 20.0),
        "uniform": HypersphericalUniform(dim, (3,), dtype=torch.float64),
    }


PAIRS = [("wide", "narrow"), ("wide", "uniform"), ("uniform", "narrow")]


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_masked_mixture(names: tuple[str, str]) -> None:
    first, second = (components()[name] for name in names)
    law = dist.MaskedMixture(MASK, first, second)
    draws = law.sample((20_000,))
    assert draws.shape == (20_000, 3, 3)
    mean, log_prob = (
        torch.where(mask, b, a)
        for mask, a, b in (
            (MASK[:, None], first.mean, second.mean),
            (MASK, first.log_prob(draws), second.log_prob(draws)),
        )
    )
    torch.testing.assert_close(law.mean, mean)
    torch.testing.assert_close(law.log_prob(draws), log_prob)
    assert_mean(draws, law.mean)
    assert_mean((draws - law.mean) ** 2, law.variance)
    # The components the other way round would be noticed.
    other = dist.MaskedMixture(~MASK, first, second)
    assert standard_errors_off(draws, other.mean) > BOUND
    assert standard_errors_off((draws - law.mean) ** 2, other.variance) > BOUND


def test_masked_mixture_with_the_uniform_law_in_mpmath() -> None:
    law = dist.MaskedMixture(MASK, components()["narrow"], components()["uniform"])
    value = directions(3, seed=4)
    with mp.workdps(30):
        loc = components()["narrow"].loc[1].tolist()
        near = radial(3, 20).log_density_at_mode(20) - 20 * half_chord(value.tolist(), loc)
        expected = [-log_sphere_area(3), near, -log_sphere_area(3)]
        for found, exact in zip(law.log_prob(value).tolist(), expected, strict=True):
            assert abs(found - exact) < 1e-13


def test_masked_mixture_shapes_and_gradients() -> None:
    k = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    near = VonMisesFisher(directions(3, 4), k)
    law = dist.MaskedMixture(MASK, HypersphericalUniform(4, (3,), dtype=torch.float64), near)
    assert law.has_rsample
    assert law.expand((2, 3)).rsample((5,)).shape == (5, 2, 3, 4)
    (directions(3, 4) * law.rsample()).sum().backward()
    assert k.grad is not None
    assert k.grad > 0  # draws come closer to loc
    with pyro.plate("rows", 3):
        assert pyro.sample("x", law).shape == (3, 4)
