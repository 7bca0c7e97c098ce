# In Pyro's models and guides: sites, plates, handlers, and every ELBO.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution, constraints
from pyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import kl_divergence

from cases import Case, assert_mean, cases_of_dim, directions
from vmfdist import HypersphericalUniform, VonMisesFisher


@pytest.fixture(autouse=True)
def validation() -> Iterator[None]:
    with pyro.validation_enabled(True):
        yield


# What Pyro's own tests ask of each of its distributions, beside test_contract.py

every_case = pytest.mark.parametrize("case", cases_of_dim(2, 4, 5))
SHAPE_TYPES = [torch.Size, tuple, list]


def assert_same_law(small: dist.TorchDistribution, large: dist.TorchDistribution) -> None:
    """The larger law is the smaller one, repeated."""
    x = small.sample()
    torch.testing.assert_close(
        large.log_prob(x), small.log_prob(x).expand(large.batch_shape), rtol=0, atol=0
    )
    x = large.sample((2,))
    assert x.shape == (2, *large.batch_shape, *small.event_shape)
    torch.testing.assert_close(large.log_prob(x), small.log_prob(x), rtol=0, atol=0)


@every_case
@pytest.mark.parametrize("shape_type", SHAPE_TYPES)
@pytest.mark.parametrize("sample_shape", [(), (2,), (2, 3)])
def test_shapes_of_any_kind(
    case: Case, shape_type: Callable[[Any], Any], sample_shape: tuple[int, ...]
) -> None:
    small = case.build()
    shape = (*sample_shape, *small.batch_shape)
    for large in (
        small.expand_by(shape_type(sample_shape)),
        small.expand(shape_type(shape)),
        TorchDistribution.expand(small, shape_type(shape)),  # Pyro's, for laws without one
    ):
        assert large.batch_shape == shape
        assert_same_law(small, large)


@every_case
@pytest.mark.parametrize("shapes", [[(2, 1), (2, 3)], [(2, 1, 1), (2, 1, 3), (2, 5, 3)]])
def test_expansions_of_expansions(case: Case, shapes: list[tuple[int, ...]]) -> None:
    small = case.build()
    for expand in (type(small).expand, TorchDistribution.expand):
        large = small
        for shape in shapes:
            large = expand(large, (*shape, *small.batch_shape))
            assert large.batch_shape == (*shape, *small.batch_shape)
            assert_same_law(small, large)


@every_case
@pytest.mark.parametrize(
    ("first", "second"), [((2, 1), (4, 3)), ((2, 4), (2, 2, 1)), ((1, 2, 1), (2, 1))]
)
def test_expansions_that_lose_something(
    case: Case, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    small = case.build()
    large = small.expand((*first, *small.batch_shape))
    for each in (large, large.to_event(1), large.mask(True)):
        kept = each.batch_shape[len(first) :]
        with pytest.raises((RuntimeError, ValueError)):
            each.expand((*second, *kept))


@every_case
def test_there_is_nothing_to_enumerate(case: Case) -> None:
    law = case.build()
    assert not law.has_enumerate_support
    assert not law.support.is_discrete
    with pytest.raises(NotImplementedError):
        law.enumerate_support()


@every_case
def test_values_of_other_shapes_are_refused(case: Case) -> None:
    law = case.build()
    value = law.sample()
    for wrong in (value.unsqueeze(-1), law.expand((3, *case.batch_shape)).sample()[..., :-1]):
        with pytest.raises(ValueError, match=rf"dimension {case.dim} along its last dimension"):
            law.log_prob(wrong)
    if case.batch_shape:
        wrong = value[:1].expand(case.batch_shape[0] + 1, *value.shape[1:])
        with pytest.raises(ValueError, match="does not broadcast"):
            law.log_prob(wrong)


# Sites and handlers


def test_a_site_of_each_law() -> None:
    def model() -> tuple[Tensor, Tensor]:
        x = pyro.sample("x", HypersphericalUniform(3))
        return x, pyro.sample("y", VonMisesFisher(x, 5.0))

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    x, y = trace.nodes["x"], trace.nodes["y"]
    assert x["value"].shape == y["value"].shape == (3,)
    torch.testing.assert_close(x["log_prob"].item(), -math.log(4 * math.pi))
    torch.testing.assert_close(y["log_prob"], VonMisesFisher(x["value"], 5.0).log_prob(y["value"]))
    # replay: the same values; condition: the given one
    again = poutine.replay(model, trace=trace)()
    assert torch.equal(again[1], y["value"])
    given = torch.tensor([0.0, 0.0, 1.0])
    conditioned = poutine.trace(poutine.condition(model, data={"y": given})).get_trace()
    assert conditioned.nodes["y"]["is_observed"]
    assert torch.equal(conditioned.nodes["y"]["value"], given)
    uncollapsed = poutine.uncondition(poutine.condition(model, data={"y": given}))()
    assert not torch.equal(uncollapsed[1], given)
    blocked = poutine.trace(poutine.block(model, hide=["x"])).get_trace()
    assert "x" not in blocked.nodes


def test_plates() -> None:
    loc = directions(4, 3, dtype=torch.float32)

    def model() -> None:
        with pyro.plate("outer", 2, dim=-2), pyro.plate("inner", 4, dim=-1):
            pyro.sample("x", VonMisesFisher(loc, 5.0))
            pyro.sample("u", HypersphericalUniform(3))
        with pyro.plate("rows", 5):
            pyro.sample("joint", VonMisesFisher(loc, 5.0).expand_by((5,)).to_event(1))

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    for site in ("x", "u"):
        assert trace.nodes[site]["value"].shape == (2, 4, 3)
        assert trace.nodes[site]["log_prob"].shape == (2, 4)
    rows = trace.nodes["u"]["value"].reshape(-1, 3)
    assert rows.unique(dim=0).shape == rows.shape  # each entry of a plate is a draw of its own
    assert trace.nodes["joint"]["value"].shape == (5, 4, 3)
    assert trace.nodes["joint"]["log_prob"].shape == (5,)


def test_subsampling_scales() -> None:
    data = directions(100, 3, dtype=torch.float32)
    loc = directions(3, dtype=torch.float32)

    def model(size: int | None) -> None:
        with pyro.plate("data", 100, subsample_size=size) as index:
            pyro.sample("x", VonMisesFisher(loc, 2.0), obs=data[index])

    full = poutine.trace(model).get_trace(None).log_prob_sum()
    parts = torch.stack([poutine.trace(model).get_trace(10).log_prob_sum() for _ in range(300)])
    assert_mean(parts, full)


def test_masks() -> None:
    loc = directions(4, 3, dtype=torch.float32)
    value = directions(4, 3, dtype=torch.float32, seed=2)
    mask = torch.tensor([True, False, True, False])

    def by_method() -> None:
        with pyro.plate("data", 4):
            pyro.sample("x", VonMisesFisher(loc, 3.0).mask(mask), obs=value)

    def by_handler() -> None:
        with pyro.plate("data", 4), poutine.mask(mask=mask):
            pyro.sample("x", VonMisesFisher(loc, 3.0), obs=value)

    expected = VonMisesFisher(loc, 3.0).log_prob(value)[mask].sum()
    for model in (by_method, by_handler):
        torch.testing.assert_close(poutine.trace(model).get_trace().log_prob_sum(), expected)


def test_scale() -> None:
    value = directions(3, dtype=torch.float32)

    def model() -> None:
        with poutine.scale(scale=0.5):
            pyro.sample("x", HypersphericalUniform(3), obs=value)

    found = poutine.trace(model).get_trace().log_prob_sum()
    torch.testing.assert_close(found.item(), -0.5 * math.log(4 * math.pi))


def test_validation_refuses_an_observation_off_the_sphere() -> None:
    def model() -> None:
        pyro.sample("x", VonMisesFisher(directions(3, dtype=torch.float32), 1.0), obs=torch.ones(3))

    # Pyro adds the name of the site.
    with pytest.raises(ValueError, match=r"(?s)'x'.*unit.*normalize"):
        poutine.trace(model).get_trace().compute_log_prob()
    with pyro.validation_enabled(False):
        poutine.trace(model).get_trace().compute_log_prob()


def test_render_and_format_shapes() -> None:
    def model() -> None:
        with pyro.plate("data", 4):
            pyro.sample("x", VonMisesFisher(directions(3, dtype=torch.float32), 1.0))

    text = poutine.trace(model).get_trace().format_shapes()
    assert "4 | 3" in " ".join(text.split())


# ELBOs. A vMF prior with a vMF likelihood has a vMF posterior: prior and observations with natural
# parameters (concentration times direction) a and b_i give a + b_1 + ... + b_n.

DIM, COUNT, PRIOR, NOISE = 4, 6, 2.0, 3.0


class Problem:
    """Observations, and their exact posterior and evidence."""

    def __init__(self) -> None:
        prior_loc = directions(DIM)
        self.prior = VonMisesFisher(prior_loc, PRIOR)
        self.data = VonMisesFisher(directions(DIM, seed=4), NOISE).sample((COUNT,))
        natural = PRIOR * prior_loc + NOISE * self.data.sum(0)
        concentration = natural.norm()
        self.posterior = VonMisesFisher(natural / concentration, concentration)
        likelihood = VonMisesFisher(prior_loc, NOISE)
        self.evidence = (
            self.posterior.log_normalizer
            - self.prior.log_normalizer
            - COUNT * likelihood.log_normalizer
        )

    def model(self) -> None:
        z = pyro.sample("z", self.prior)
        with pyro.plate("data", COUNT):
            pyro.sample("x", VonMisesFisher(z, NOISE), obs=self.data)

    def exact_guide(self) -> None:
        pyro.sample("z", self.posterior)

    def guide(self) -> None:
        # A parameter is trained in place: without a copy the prior would move with it.
        loc = pyro.param("loc", self.prior.loc.clone(), constraint=constraints.sphere)
        concentration = pyro.param(
            "concentration", torch.tensor(1.0, dtype=torch.float64), constraint=constraints.positive
        )
        pyro.sample("z", VonMisesFisher(loc, concentration))


@pytest.fixture
def problem() -> Problem:
    return Problem()


ELBOS = [
    pytest.param(Trace_ELBO, id="trace"),
    pytest.param(lambda: Trace_ELBO(num_particles=5), id="trace-particles"),
    pytest.param(
        lambda: Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1),
        id="trace-vectorized",
    ),
    pytest.param(TraceGraph_ELBO, id="graph"),
    pytest.param(lambda: RenyiELBO(alpha=0.0, num_particles=5), id="importance-weighted"),
    pytest.param(
        lambda: RenyiELBO(
            alpha=0.0, num_particles=5, vectorize_particles=True, max_plate_nesting=1
        ),
        id="importance-weighted-vectorized",
    ),
]


@pytest.mark.parametrize("elbo", ELBOS)
def test_elbo_at_the_posterior_is_the_evidence(problem: Problem, elbo: Callable[[], Any]) -> None:
    # log p(x, z) - log p(z | x) is log p(x) at every z: no noise at all.
    loss = elbo().loss(problem.model, problem.exact_guide)
    assert loss == pytest.approx(-problem.evidence.item(), rel=1e-12)


MANY = {"num_particles": 10, "vectorize_particles": True, "max_plate_nesting": 1}


@pytest.mark.parametrize(
    "elbo",
    [
        pytest.param(lambda: Trace_ELBO(**MANY), id="trace"),
        pytest.param(lambda: TraceMeanField_ELBO(**MANY), id="mean-field"),
        pytest.param(lambda: TraceGraph_ELBO(**MANY), id="graph"),
        # two: the more particles, the weaker its gradient in the guide (arXiv:1802.04537)
        pytest.param(
            lambda: RenyiELBO(alpha=0.0, **MANY | {"num_particles": 2}), id="importance-weighted"
        ),
    ],
)
def test_svi_finds_the_posterior(problem: Problem, elbo: Callable[[], Any]) -> None:
    settings = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.15}, "gamma": 0.975}
    optimizer = pyro.optim.ExponentialLR(settings)
    svi = SVI(problem.model, problem.guide, optimizer, elbo())
    for _ in range(150):
        svi.step()
        optimizer.step()
    found = VonMisesFisher(pyro.param("loc").detach(), pyro.param("concentration").detach())
    assert kl_divergence(found, problem.posterior) < 0.1
    assert kl_divergence(problem.prior, problem.posterior) > 3  # nats, where it started


def test_elbo_gradients_are_unbiased(problem: Problem) -> None:
    # Away from the posterior: -ELBO = KL(guide, posterior) - evidence, whose gradient is closed.
    loc = directions(DIM, seed=9)

    def gradients(elbo: Any) -> Tensor:
        rows = []
        for _ in range(100):
            k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

            def guide(k: Tensor = k) -> None:
                pyro.sample("z", VonMisesFisher(loc, k))

            loss = elbo.differentiable_loss(problem.model, guide)
            rows.append(torch.autograd.grad(loss, k)[0])
        return torch.stack(rows)

    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    exact = kl_divergence(VonMisesFisher(loc, k), problem.posterior)
    (expected,) = torch.autograd.grad(exact, k)
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        assert_mean(gradients(elbo), expected)


@pytest.mark.parametrize(
    "prior",
    [
        pytest.param(VonMisesFisher(directions(3, seed=3), 4.0), id="von-mises-fisher"),
        pytest.param(HypersphericalUniform(3, dtype=torch.float64), id="uniform"),
    ],
)
def test_mean_field_elbo_takes_the_registered_divergence(prior: dist.TorchDistribution) -> None:
    q = VonMisesFisher(directions(5, 3), torch.arange(5.0, dtype=torch.float64))
    scores = torch.arange(5.0, dtype=torch.float64)

    def model() -> None:
        with pyro.plate("data", 5):
            z = pyro.sample("z", prior)
            # Any likelihood; a factor of a constant would do too.
            pyro.factor("likelihood", scores * z[..., 0] * 0 + scores)

    def guide() -> None:
        with pyro.plate("data", 5):
            pyro.sample("z", q)

    expected = kl_divergence(q, prior).sum() - scores.sum()
    for _ in range(2):
        # nothing random is left; Trace_ELBO, which samples the divergence, is off by more
        loss = TraceMeanField_ELBO().loss(model, guide)
        assert loss == pytest.approx(expected.item(), rel=1e-13)
    assert abs(Trace_ELBO().loss(model, guide) - expected.item()) > 1e-3


def test_mean_field_elbo_with_a_likelihood_that_depends_on_the_draw(problem: Problem) -> None:
    q = VonMisesFisher(directions(DIM, seed=9), 3.0)

    def guide() -> None:
        pyro.sample("z", q)

    torch.manual_seed(11)
    loss = TraceMeanField_ELBO().loss(problem.model, guide)
    torch.manual_seed(11)
    z = q.rsample()
    reconstruction = VonMisesFisher(z, NOISE).log_prob(problem.data).sum()
    divergence = kl_divergence(q, problem.prior)
    assert loss == pytest.approx((divergence - reconstruction).item(), rel=1e-13)


def test_mean_field_elbo_passes_on_that_dimensions_differ() -> None:
    def model() -> None:
        pyro.sample("z", HypersphericalUniform(4))

    def guide() -> None:
        pyro.sample("z", VonMisesFisher(directions(3, dtype=torch.float32), 1.0))

    with pyro.validation_enabled(False), pytest.raises(ValueError, match="dimension 3"):
        TraceMeanField_ELBO().loss(model, guide)


def test_subsampled_plates_scale_the_divergence() -> None:
    q = VonMisesFisher(directions(3, dtype=torch.float32), 3.0)

    def model() -> None:
        with pyro.plate("data", 100, subsample_size=10):
            pyro.sample("z", HypersphericalUniform(3))

    def guide() -> None:
        with pyro.plate("data", 100, subsample_size=10):
            pyro.sample("z", q)

    loss = TraceMeanField_ELBO().loss(model, guide)
    expected = 100 * kl_divergence(q, HypersphericalUniform(3)).item()
    assert loss == pytest.approx(expected, rel=1e-5)


# Enumeration beside a draw


def test_a_mixture_with_an_enumerated_component() -> None:
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    locs = directions(3, 4)
    concentrations = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
    data = directions(7, 4, seed=3)

    @config_enumerate
    def model() -> None:
        with pyro.plate("data", 7):
            j = pyro.sample("component", dist.Categorical(weights))
            pyro.sample("x", VonMisesFisher(locs[j], concentrations[j]), obs=data)

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)
    log_prob = VonMisesFisher(locs, concentrations).log_prob(data.unsqueeze(1))
    expected = torch.logsumexp(log_prob + weights.log(), -1).sum()
    assert loss == pytest.approx(-expected.item(), rel=1e-12)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(weights), VonMisesFisher(locs, concentrations)
    )
    torch.testing.assert_close(mixture.log_prob(data).sum(), expected)
    assert mixture.sample((5,)).shape == (5, 4)


# ELBOs as modules


class Guide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.loc = PyroParam(directions(DIM, seed=6), constraints.sphere)
        self.concentration = PyroParam(torch.tensor(1.0, dtype=torch.float64), constraints.positive)

    def forward(self) -> None:
        pyro.sample("z", VonMisesFisher(self.loc, self.concentration))


class Model(PyroModule):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem

    def forward(self) -> None:
        self.problem.model()


# RenyiELBO and TraceGraph_ELBO have no differentiable_loss in Pyro, so they are no modules there.
@pytest.mark.parametrize(
    "elbo",
    [
        pytest.param(lambda: Trace_ELBO(**MANY), id="trace"),
        pytest.param(lambda: TraceMeanField_ELBO(**MANY), id="mean-field"),
    ],
)
def test_elbo_as_a_module(problem: Problem, elbo: Callable[[], Any]) -> None:
    guide = Guide()
    loss = elbo()(Model(problem), guide)
    assert isinstance(loss, torch.nn.Module)
    loss()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.15)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.975)
    for _ in range(150):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    found = VonMisesFisher(guide.loc.detach(), guide.concentration.detach())
    assert kl_divergence(found, problem.posterior) < 0.1


# Prediction


def test_predictive(problem: Problem) -> None:
    def model() -> Tensor:
        z = pyro.sample("z", problem.prior)
        with pyro.plate("new", 2):
            return pyro.sample("x", VonMisesFisher(z, NOISE))

    # E x = A(noise) E z
    shrink = VonMisesFisher(problem.prior.loc, NOISE).mean_resultant_length
    draws = Predictive(model, guide=problem.exact_guide, num_samples=200)()["x"]
    assert draws.shape == (200, 2, DIM)
    assert_mean(draws, (shrink * problem.posterior.mean).expand(2, DIM))
    draws = Predictive(model, num_samples=200, parallel=True)()["x"]
    assert draws.shape == (200, 2, DIM)
    assert_mean(draws, (shrink * problem.prior.mean).expand(2, DIM))
