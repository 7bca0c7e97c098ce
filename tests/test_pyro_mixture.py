# A mixture of von Mises-Fisher laws in Pyro, its assignments enumerated, against EM.

from __future__ import annotations

import math
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate, infer_discrete
from scipy.optimize import brentq
from torch import Tensor
from torch.nn.functional import normalize

from cases import directions
from vmfdist import VonMisesFisher
from vmfdist.mixture import VonMisesFisherMixture

TRUE_WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TRUE_LOCS = directions(3, 3)
TRUE_CONCENTRATIONS = torch.tensor([60.0, 20.0, 5.0], dtype=torch.float64)


class Parameters(NamedTuple):
    weights: Tensor
    locs: Tensor
    concentrations: Tensor


def em(data: Tensor, start: Parameters) -> tuple[float, Parameters]:
    """The largest mean log likelihood that EM finds in space, where A(k) = coth k - 1/k."""

    def concentration(length: float) -> float:
        return brentq(lambda k: 1 / math.tanh(k) - 1 / k - length, 1e-3, 300)

    weights, locs, concentrations = start
    for _ in range(200):
        log_sinh = concentrations + torch.log(-torch.expm1(-2 * concentrations) / 2)
        log_c = torch.log(concentrations / (4 * torch.pi)) - log_sinh
        joint = weights.log() + log_c + data @ locs.mT * concentrations
        score = joint.logsumexp(-1)
        share = torch.exp(joint - score[:, None])
        total = share.mT @ data
        weights = share.mean(0)
        lengths = total.norm(dim=-1) / share.sum(0)
        locs = normalize(total, dim=-1)
        concentrations = torch.tensor([concentration(r) for r in lengths.tolist()]).double()
    return score.mean().item(), Parameters(weights, locs, concentrations)


class Mixture:
    def __init__(self) -> None:
        component = dist.Categorical(TRUE_WEIGHTS).sample((400,))
        self.data = VonMisesFisher(TRUE_LOCS[component], TRUE_CONCENTRATIONS[component]).sample()
        self.component = component
        self.start = Parameters(
            torch.full((3,), 1 / 3, dtype=torch.float64),
            normalize(TRUE_LOCS + 0.3 * directions(3, 3, seed=2), dim=-1),
            torch.full((3,), 10.0, dtype=torch.float64),
        )

    @config_enumerate
    def model(self) -> None:
        weights = pyro.param("weights", self.start.weights, constraint=constraints.simplex)
        locs = pyro.param("locs", self.start.locs.clone(), constraint=constraints.sphere)
        concentrations = pyro.param(
            "concentrations", self.start.concentrations, constraint=constraints.positive
        )
        with pyro.plate("data", len(self.data)):
            j = pyro.sample("component", dist.Categorical(weights))
            pyro.sample("x", VonMisesFisher(locs[j], concentrations[j]), obs=self.data)


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    torch.manual_seed(3)
    return Mixture()


def trained(mixture: Mixture, steps: int) -> float:
    """The mean log likelihood after so many steps."""
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(mixture.model, lambda: None, pyro.optim.Adam({"lr": 0.05}), elbo)
    with pyro.validation_enabled(False):
        for _ in range(steps):
            svi.step()
    return -svi.evaluate_loss() / len(mixture.data)


def test_it_reaches_the_likelihood_of_em(mixture: Mixture) -> None:
    # without a guide the ELBO is the likelihood, its assignments summed out
    best, parameters = em(mixture.data, mixture.start)
    found = trained(mixture, 300)
    assert found == pytest.approx(best, abs=1e-5)
    torch.testing.assert_close(pyro.param("weights"), parameters.weights, atol=0.01, rtol=0)
    torch.testing.assert_close(pyro.param("locs"), parameters.locs, atol=0.01, rtol=0)
    torch.testing.assert_close(
        pyro.param("concentrations"), parameters.concentrations, atol=0, rtol=0.05
    )
    # the estimator, from starts of its own
    estimator = VonMisesFisherMixture(n_components=3, n_init=3, tol=1e-9, max_iter=500)
    estimator.fit(mixture.data)
    assert found == pytest.approx(estimator.lower_bound_, abs=1e-5)


def test_assignments_can_be_drawn(mixture: Mixture) -> None:
    trained(mixture, 100)
    drawn = infer_discrete(mixture.model, first_available_dim=-2, temperature=0)
    trace = pyro.poutine.trace(drawn).get_trace()
    agreement = (trace.nodes["component"]["value"] == mixture.component).double().mean()
    assert agreement > 0.9
