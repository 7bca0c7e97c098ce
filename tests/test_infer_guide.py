# AutoVonMisesFisher: exact posteriors, Pyro's interface of autoguides, plates, and bad input.

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
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
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuide,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_feasible,
    init_to_mean,
    init_to_value,
)
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from cases import assert_mean, directions
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist.infer import AutoVonMisesFisher

UNIFORM = HypersphericalUniform(3, dtype=torch.float64)


def one_direction() -> None:
    pyro.sample("z", UNIFORM)


def train(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    elbo: Any,
    *args: Any,
    steps: int = 400,
    rates: tuple[float, float] = (0.1, 0.0005),
) -> None:
    """Adam, its learning rate falling geometrically from the first to the second."""
    optimizer = pyro.optim.ExponentialLR(
        {
            "optimizer": torch.optim.Adam,
            # gradients shrink by orders of magnitude as a guide closes in: forget the old ones
            "optim_args": {"lr": rates[0], "betas": (0.9, 0.99)},
            "gamma": (rates[1] / rates[0]) ** (1 / steps),
        }
    )
    svi = SVI(model, guide, optimizer, elbo)
    with pyro.validation_enabled(False):  # for speed
        for _ in range(steps):
            svi.step(*args)
            optimizer.step()


def particles(n: int, nesting: int = 1) -> dict[str, Any]:
    return {"num_particles": n, "vectorize_particles": True, "max_plate_nesting": nesting}


def angle(a: Tensor, b: Tensor) -> Tensor:
    """In degrees."""
    return torch.rad2deg(2 * torch.asin((a - b).norm(dim=-1) / 2))


# What Pyro's own guides do


@pytest.mark.parametrize(
    "guide", [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoLaplaceApproximation]
)
def test_pyros_own_guides_refuse_the_sphere(guide: type[AutoGuide]) -> None:
    with pytest.raises(ValueError, match="spherical sample site 'z'"):
        guide(one_direction)()
    assert AutoVonMisesFisher(one_direction)()["z"].shape == (3,)
    assert AutoDelta(one_direction)()["z"].shape == (3,)  # a point estimate has no density


# The posterior of a mean direction is a von Mises-Fisher law whose natural parameter, concentration
# times direction, is the sum of those of the prior and the observations.


class MeanDirection:
    """Observations around a direction with a uniform or von Mises-Fisher prior."""

    def __init__(self, dim: int, concentration: float, informative: bool = False) -> None:
        dtype = torch.float32
        self.prior: TorchDistribution = HypersphericalUniform(dim)
        natural = torch.zeros(dim)
        if informative:
            self.prior = VonMisesFisher(directions(dim, dtype=dtype, seed=5), concentration / 2)
            natural = self.prior.concentration * self.prior.loc
        self.data = VonMisesFisher(directions(dim, dtype=dtype), 2.0 * dim).sample((20,))
        total = self.data.sum(0)
        self.noise = concentration / total.norm()  # leaves the concentration in the posterior
        natural = natural + self.noise * total
        self.posterior = VonMisesFisher(normalize(natural, dim=-1), natural.norm())

    def model(self) -> None:
        z = pyro.sample("z", self.prior)
        with pyro.plate("data", len(self.data)):
            pyro.sample("x", VonMisesFisher(z, self.noise), obs=self.data)


@pytest.mark.parametrize(
    "informative",
    [
        pytest.param(False, id="uniform"),
        pytest.param(True, id="von-mises-fisher", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("dim", "concentration"),
    [(3, 10.0), (10, 50.0), (100, 1000.0), (3, 1e4), (10, 1e4), (100, 1e4)],
)
def test_svi_finds_the_posterior(dim: int, concentration: float, informative: bool) -> None:
    problem = MeanDirection(dim, concentration, informative)
    guide = AutoVonMisesFisher(problem.model)
    train(problem.model, guide, TraceMeanField_ELBO(**particles(128)))
    found, exact = guide.get_posterior()["z"], problem.posterior
    # within 1 % in mean resultant length and half a degree in direction
    assert abs(found.mean_resultant_length / exact.mean_resultant_length - 1) < 0.01
    assert angle(found.loc, exact.loc) < 0.5
    assert kl_divergence(found, exact) < 0.05


def test_the_divergence_is_taken_in_closed_form() -> None:
    # Nothing random is left where the model is the prior alone.
    guide = AutoVonMisesFisher(one_direction)
    guide()
    expected = kl_divergence(guide.get_posterior()["z"], UNIFORM).item()
    for _ in range(2):
        assert TraceMeanField_ELBO().loss(one_direction, guide) == pytest.approx(expected)


MANY = particles(10)


@pytest.mark.parametrize(
    "elbo",
    [
        pytest.param(lambda: Trace_ELBO(**MANY), id="trace"),
        pytest.param(lambda: Trace_ELBO(num_particles=2), id="trace-one-by-one"),
        pytest.param(lambda: TraceGraph_ELBO(**MANY), id="graph"),
        pytest.param(lambda: RenyiELBO(alpha=0.5, **MANY), id="renyi"),
        pytest.param(lambda: TraceEnum_ELBO(max_plate_nesting=1), id="enum"),
    ],
)
def test_it_learns_by_every_elbo(elbo: Callable[[], Any]) -> None:
    problem = MeanDirection(3, 50.0)
    guide = AutoVonMisesFisher(problem.model)
    train(problem.model, guide, elbo(), steps=150, rates=(0.1, 0.01))
    assert kl_divergence(guide.get_posterior()["z"], problem.posterior) < 0.1


def test_as_a_module_with_particles_one_by_one() -> None:
    # One graph of several calls of the guide, which scale its vectors meanwhile.
    problem = MeanDirection(3, 1000.0)
    guide = AutoVonMisesFisher(problem.model)
    loss = TraceMeanField_ELBO(num_particles=3)(problem.model, guide)
    loss()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    assert kl_divergence(guide.get_posterior()["z"], problem.posterior) < 0.1


# The parameters


def test_mean_directions_keep_their_length() -> None:
    # Steps along the tangent make a vector longer, and longer vectors turn more slowly.
    problem = MeanDirection(10, 100.0)
    guide = AutoVonMisesFisher(problem.model)
    svi = SVI(problem.model, guide, pyro.optim.Adam({"lr": 0.2}), Trace_ELBO())
    for _ in range(100):
        svi.step()
    vector = guide.locs.z_unconstrained
    assert vector.norm() > math.sqrt(10) * 1.001  # the last step
    loc = guide.get_posterior()["z"].loc
    guide()
    torch.testing.assert_close(vector.norm().item(), math.sqrt(10), rtol=1e-6, atol=0)
    torch.testing.assert_close(guide.get_posterior()["z"].loc, loc)


@pytest.mark.parametrize("dim", [2, 50])
def test_a_step_of_adam_turns_by_its_rate_in_every_dimension(dim: int) -> None:
    loc = directions(dim)

    def model() -> None:
        z = pyro.sample("z", HypersphericalUniform(dim, dtype=torch.float64))
        pyro.factor("likelihood", 1e3 * z.sum())

    guide = AutoVonMisesFisher(model, init_loc_fn=init_to_value(values={"z": loc}))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step()
    turned = math.radians(angle(guide.get_posterior()["z"].loc, loc))
    # the first step is the sign of each coordinate of the gradient; its tangent part counts
    assert 0.03 < turned < 0.11


def test_start(dtype: torch.dtype) -> None:
    law = VonMisesFisher(directions(3, 4, dtype=dtype), 2.0)

    def model() -> None:
        with pyro.plate("rows", 3):
            pyro.sample("z", law)

    guide = AutoVonMisesFisher(model)
    guide()
    first = guide.get_posterior()["z"]
    assert first.loc.dtype == first.concentration.dtype == dtype
    torch.testing.assert_close(first.concentration, torch.full((3,), 4000.0, dtype=dtype))
    assert (first.loc[0] - first.loc[1]).norm() > 0.1  # drawn from the prior, not alike
    pyro.clear_param_store()  # in Pyro, guides of one class share their parameters by name
    given = init_to_value(values={"z": law.loc})
    guide = AutoVonMisesFisher(model, init_loc_fn=given)
    guide()
    torch.testing.assert_close(guide.median()["z"], law.loc)
    for other in (init_to_feasible, init_to_mean):  # e1, and e1 since the mean is not on the sphere
        pyro.clear_param_store()
        guide = AutoVonMisesFisher(model, init_loc_fn=other)
        guide()
        torch.testing.assert_close(guide.median()["z"], torch.eye(4, dtype=dtype)[[0, 0, 0]])


# Sites


@pytest.mark.parametrize(
    "law",
    [
        pytest.param(UNIFORM, id="uniform"),
        pytest.param(VonMisesFisher(directions(3), 2.0), id="von-mises-fisher"),
        pytest.param(PowerSpherical(directions(3), 2.0), id="power-spherical"),
        pytest.param(SphericalCauchy(directions(3), 0.6), id="spherical-cauchy"),
        pytest.param(dist.ProjectedNormal(directions(3)), id="projected-normal"),
        pytest.param(UNIFORM.expand((5,)).to_event(1), id="to-event"),
        pytest.param(UNIFORM.expand((5, 2)).mask(False).to_event(2), id="masked"),
    ],
)
def test_any_law_on_the_sphere(law: Any) -> None:
    guide = AutoVonMisesFisher(lambda: pyro.sample("z", law))
    with pyro.validation_enabled(True):
        trace = poutine.trace(guide).get_trace()
        trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["value"].shape == law.shape()
    assert site["fn"].event_shape == law.event_shape
    assert site["log_prob"].shape == law.batch_shape
    posterior = guide.get_posterior()["z"]
    assert isinstance(posterior, VonMisesFisher)
    assert posterior.loc.shape == law.shape()
    assert not posterior.loc.requires_grad
    assert not posterior.concentration.requires_grad


def test_plates_and_names_with_dots() -> None:
    def model() -> None:
        with pyro.plate("outer", 2, dim=-2), pyro.plate("inner", 4, dim=-1):
            pyro.sample("globe.z", UNIFORM)
            pyro.sample("w", HypersphericalUniform(5).expand((3,)).to_event(1))
        with pyro.plate("outer again", 2, dim=-2):
            pyro.sample("globe.u", UNIFORM)

    guide = AutoVonMisesFisher(model)
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO(**particles(6, nesting=2))):
        with pyro.validation_enabled(True):
            SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo).step()
    draws, laws = guide(), guide.get_posterior()
    assert {name: tuple(draw.shape) for name, draw in draws.items()} == {
        "globe.z": (2, 4, 3),
        "w": (2, 4, 3, 5),
        "globe.u": (2, 1, 3),
    }
    assert {name: tuple(law.batch_shape) for name, law in laws.items()} == {
        "globe.z": (2, 4),
        "w": (2, 4, 3),
        "globe.u": (2, 1),
    }


class Local:
    """A direction for each of 12 rows, seen once with noise; conjugate."""

    def __init__(self) -> None:
        self.data = directions(12, 3)
        self.noise = torch.linspace(200.0, 2000.0, 12, dtype=torch.float64)

    def model(self, size: int | None = None) -> None:
        with pyro.plate("rows", 12, subsample_size=size) as i:
            z = pyro.sample("z", UNIFORM)
            pyro.sample("x", VonMisesFisher(z, self.noise[i]), obs=self.data[i])


def test_subsampled_plates_learn_every_row() -> None:
    problem = Local()
    guide = AutoVonMisesFisher(problem.model)
    train(problem.model, guide, TraceMeanField_ELBO(**MANY), 4, steps=300, rates=(0.3, 0.003))
    posterior = guide.get_posterior()["z"]
    assert posterior.batch_shape == (12,)
    exact = VonMisesFisher(problem.data, problem.noise)
    assert kl_divergence(posterior, exact).max() < 0.1


def test_create_plates_shares_a_subsample() -> None:
    problem, seen = Local(), []

    def create_plates() -> pyro.plate:
        seen.append(torch.randperm(12)[:4])
        return pyro.plate("rows", 12, subsample=seen[-1])

    guide = AutoVonMisesFisher(lambda: problem.model(4), create_plates=create_plates)
    trace = poutine.trace(guide).get_trace()
    assert torch.equal(trace.nodes["rows"]["value"], seen[-1])
    torch.testing.assert_close(trace.nodes["z"]["fn"].loc, guide.median()["z"][seen[-1]])


# Beside other guides


class Everything:
    """A direction with a concentration of its own, a local direction for each row, and a class."""

    def __init__(self) -> None:
        self.data = VonMisesFisher(directions(3), 20.0).sample((30,))

    def model(self) -> None:
        z = pyro.sample("z", UNIFORM)
        k = pyro.sample("k", dist.Gamma(2.0, torch.tensor(0.1, dtype=torch.float64)))
        with pyro.plate("data", 30):
            noisy = pyro.sample("noisy", dist.Bernoulli(torch.tensor(0.1, dtype=torch.float64)))
            noise = torch.where(noisy == 1, 0.0, k)
            pyro.sample("x", VonMisesFisher(z, noise), obs=self.data)


def test_in_a_list_with_a_normal_guide_and_enumeration() -> None:
    problem = Everything()
    model = config_enumerate(problem.model)
    guide = AutoGuideList(poutine.block(model, hide=["noisy"]))
    guide.append(AutoVonMisesFisher(poutine.block(model, expose=["z"])))
    guide.append(AutoNormal(poutine.block(model, expose=["k"])))
    train(model, guide, TraceEnum_ELBO(max_plate_nesting=1), steps=150, rates=(0.1, 0.01))
    median = guide.median()
    assert angle(median["z"], normalize(problem.data.sum(0), dim=-1)) < 2
    fitted = VonMisesFisher(normalize(problem.data.sum(0), dim=-1), median["k"])
    assert abs(fitted.mean_resultant_length / problem.data.mean(0).norm() - 1) < 0.02
    assert 200 < guide[0].get_posterior()["z"].concentration < 2000  # 30 times about 20
    with pytest.raises(NotImplementedError, match="mass_cone"):
        guide.quantiles([0.5])
    assert guide[1].quantiles([0.1, 0.9])["k"].shape == (2,)


@pytest.mark.parametrize(
    "other", [AutoNormal, AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal]
)
def test_in_a_list_with_any_guide_over_a_subsampled_plate(other: type[AutoGuide]) -> None:
    problem = Local()

    def model(size: int) -> None:
        scale = dist.Gamma(100.0, torch.tensor(100.0, dtype=torch.float64))
        problem.noise = 200 * pyro.sample("scale", scale).expand(12)
        problem.model(size)

    guide = AutoGuideList(model)
    guide.append(AutoVonMisesFisher(poutine.block(model, expose=["z"])))
    guide.append(other(poutine.block(model, expose=["scale"])))
    train(model, guide, Trace_ELBO(), 4, steps=400, rates=(0.2, 0.001))
    median = guide.median(4)
    assert median["scale"].shape == ()
    assert angle(median["z"], problem.data).max() < 5  # all the rows


@pytest.mark.parametrize("size", [None, 6], ids=["function", "list"])
def test_beside_an_amortised_guide(size: int | None) -> None:
    problem = Local()
    encoder = torch.nn.Linear(3, 3).double()

    def model() -> None:
        pyro.sample("common", UNIFORM)
        problem.model(size)

    common = AutoVonMisesFisher(poutine.block(model, expose=["common"]))

    def rows(plate: pyro.plate) -> None:
        pyro.module("encoder", encoder)
        with plate as i:
            pyro.sample("z", VonMisesFisher(normalize(encoder(problem.data[i]), dim=-1), 20.0))

    if size is None:

        def guide() -> None:
            common()
            rows(pyro.plate("rows", 12))

    else:  # the list makes the plates, which share their subsample
        guide = AutoGuideList(model)
        guide.append(common)
        guide.append(lambda: rows(guide.plates["rows"]))

    train(model, guide, TraceMeanField_ELBO(**MANY), steps=150, rates=(0.2, 0.002))
    with torch.no_grad():
        assert angle(normalize(encoder(problem.data), dim=-1), problem.data).mean() < 5
    # the direction without data goes back towards its prior, from 7 nats
    assert kl_divergence(common.get_posterior()["common"], UNIFORM) < 2


def test_prediction() -> None:
    problem = MeanDirection(3, 50.0)
    guide = AutoVonMisesFisher(problem.model, init_loc_fn=lambda _: problem.posterior.loc)
    guide()
    law = guide.get_posterior()["z"]
    draws = Predictive(problem.model, guide=guide, num_samples=200)()["z"]
    assert_mean(draws, law.mean)


# The interface


def test_median_and_angles() -> None:
    guide = AutoVonMisesFisher(one_direction)
    guide()
    law = guide.get_posterior()["z"]
    median = guide.median()["z"]
    assert torch.equal(median, law.loc)
    # no direction has a smaller mean angle to draws
    draws = law.sample((2000,))
    around = VonMisesFisher(median, 1000.0).sample((50,))
    assert angle(draws, median).mean() <= angle(draws, around[:, None]).mean(1).min()
    inside = angle(draws, median) < torch.rad2deg(law.mass_cone(0.8))
    assert_mean(inside.double(), 0.8)


def test_copies() -> None:
    guide = AutoVonMisesFisher(one_direction)
    guide()
    expected = guide.median()["z"]
    pyro.clear_param_store()
    other = AutoVonMisesFisher(one_direction)
    other()
    assert not torch.equal(other.median()["z"], expected)
    other.load_state_dict(guide.state_dict())
    torch.testing.assert_close(other.median()["z"], expected)
    torch.testing.assert_close(copy.deepcopy(guide).median()["z"], expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(guide)).median()["z"], expected)


# Bad input


@pytest.mark.parametrize("method", ["median", "get_posterior"])
def test_before_the_first_call(method: str) -> None:
    guide = AutoVonMisesFisher(one_direction)
    with pytest.raises(RuntimeError, match=r"no parameters yet: it makes them when it is first"):
        getattr(guide, method)()


def test_quantiles_are_refused() -> None:
    guide = AutoVonMisesFisher(one_direction)
    guide()
    with pytest.raises(NotImplementedError, match=r"directions have no quantiles.*mass_cone\(p\)"):
        guide.quantiles([0.5])


@pytest.mark.parametrize(
    "law",
    [
        pytest.param(dist.Gamma(1.0, 1.0), id="positive"),
        pytest.param(dist.Normal(torch.zeros(3), 1.0).to_event(1), id="vector"),
        pytest.param(dist.Categorical(torch.ones(3)), id="discrete"),
    ],
)
def test_other_sites_are_refused_by_name(law: Any) -> None:
    def model() -> None:
        one_direction()
        pyro.sample("other", law)

    guide = AutoVonMisesFisher(model)
    for _ in range(2):  # the second time too
        with pytest.raises(ValueError, match=r"'other' has the support .*hide=\['other'\]\)"):
            guide()
    advice = AutoVonMisesFisher(poutine.block(model, hide=["other"]))
    assert set(advice()) == {"z"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (directions(4), r"'z' a tensor of shape \(3,\), got \(4,\)"),
        (directions(2, 3), r"'z' a tensor of shape \(3,\), got \(2, 3\)"),
        (2 * directions(3), r"'z' unit vectors, got the norm 2"),
        (torch.full((3,), math.nan), r"'z' unit vectors, got NaN"),
        ([1.0, 0.0, 0.0], r"'z' a tensor of shape \(3,\), got list"),
    ],
)
def test_bad_initial_directions_are_refused_by_name(value: Any, words: str) -> None:
    guide = AutoVonMisesFisher(one_direction, init_loc_fn=lambda _: value)
    with pytest.raises(ValueError, match=words):
        guide()


def test_a_model_that_changes_its_dimension_is_refused() -> None:
    def model(dim: int) -> None:
        pyro.sample("z", HypersphericalUniform(dim))

    guide = AutoVonMisesFisher(model)
    guide(3)
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        with pytest.raises(ValueError, match=r"shapes disagree at site 'z'"):
            elbo.loss(model, guide, 4)


# Parameters on the sphere


def test_parameters_stay_on_the_sphere(dtype: torch.dtype) -> None:
    class Module(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.axis = PyroParam(directions(2, 5, dtype=dtype), constraints.sphere)

    target, module = directions(5, dtype=dtype, seed=3), Module()

    def model() -> None:
        axis = pyro.param("axis", directions(2, 5, dtype=dtype), constraint=constraints.sphere)
        pyro.factor("fit", (axis @ target).sum() + (module.axis @ target).sum())

    svi = SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(100):
        svi.step()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (-(module.axis @ target).sum()).backward()
        optimizer.step()
    for axis in (pyro.param("axis"), module.axis):
        assert axis.dtype == dtype
        assert constraints.sphere.check(axis).all()
        torch.testing.assert_close(axis, target.expand(2, 5), atol=0.05, rtol=0)
