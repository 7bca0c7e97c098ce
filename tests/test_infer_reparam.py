# HMC and NUTS on the sphere: the law of the auxiliary vector, and posteriors against exact ones.

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution, constraints
from pyro.infer import HMC, MCMC, NUTS, Predictive
from pyro.infer.autoguide.initialization import init_to_value
from pyro.infer.reparam.strategies import MinimalReparam, Strategy
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from scipy import integrate
from torch import Tensor
from torch.distributions import biject_to, transform_to
from torch.nn.functional import normalize

from cases import BOUND, assert_mean, directions, standard_errors_off
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist.infer import AutoSphereReparam, SphereReparam


class Shell:
    """The law of the radius as documented: r^(d - 1) exp(-(r - 1)^2 / (2 SPREAD^2)), normalised."""

    SPREAD = 0.1

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.top = (1 + math.sqrt(1 + 4 * (dim - 1) * self.SPREAD**2)) / 2
        self.low, self.high = max(self.top - 10 * self.SPREAD, 1e-9), self.top + 10 * self.SPREAD
        total = self.moment(0)
        self.log_total = math.log(total) + self.log_density(self.top)
        self.mean, self.mean_square = self.moment(1) / total, self.moment(2) / total

    def log_density(self, r: float) -> float:
        return (self.dim - 1) * math.log(r) - ((r - 1) / self.SPREAD) ** 2 / 2

    def density(self, r: float) -> float:
        """One at the top."""
        return math.exp(self.log_density(r) - self.log_density(self.top))

    def moment(self, power: int) -> float:
        f, options = lambda r: r**power * self.density(r), {"epsabs": 0, "epsrel": 1e-12}
        return integrate.quad(f, self.low, self.high, **options)[0]

    def sample(self, count: int) -> Tensor:
        """Radii, shape (count, 1), by the inverse of the distribution function on a grid."""
        r = np.linspace(self.low, self.high, 4001)
        cdf = np.cumsum([self.density(x) for x in r])
        return torch.from_numpy(np.interp(torch.rand(count, 1).numpy(), cdf / cdf[-1], r))


def model_of(law: Any) -> Callable[[], Tensor]:
    return AutoSphereReparam()(lambda: pyro.sample("z", law))


def vector_site(model: Callable[[], Any]) -> dict[str, Any]:
    return poutine.trace(model).get_trace().nodes["z_vector"]


# The law of the vector


def on_circle(angles: Tensor) -> Tensor:
    return torch.stack([angles[0].cos(), angles[0].sin()])


def on_globe(angles: Tensor) -> Tensor:
    theta, phi = angles
    return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()])


@pytest.mark.parametrize(
    ("point", "angles", "area"),
    [
        pytest.param(on_circle, [0.7], 1.0, id="circle"),
        pytest.param(on_globe, [0.7, -2.1], math.sin(0.7), id="globe"),
    ],
)
@pytest.mark.parametrize("r", [0.4, 1.0, 1.3])
def test_density_is_that_of_a_change_of_variables(
    point: Callable[[Tensor], Tensor], angles: list[float], area: float, r: float
) -> None:
    # p(x) |dx / d(r, angles)| = p(r) f(u) |du / d(angles)|, the Jacobian by autograd
    at = torch.tensor([r, *angles], dtype=torch.float64)
    x = r * point(at[1:])
    jacobian = torch.autograd.functional.jacobian(lambda v: v[0] * point(v[1:]), at)
    law, shell = VonMisesFisher(directions(len(x)), 3.0), Shell(len(x))
    expected = (
        shell.log_density(r)
        - shell.log_total
        + law.log_prob(point(at[1:]))
        + math.log(area)
        - torch.linalg.det(jacobian).abs().log()
    )
    found = vector_site(model_of(law))["fn"].log_prob(x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dim", [4, 100, 2000])
def test_density_in_many_dimensions(dim: int) -> None:
    law, shell = HypersphericalUniform(dim, dtype=torch.float64), Shell(dim)
    x = shell.top * directions(dim)
    expected = shell.log_density(shell.top) - shell.log_total - (dim - 1) * math.log(shell.top)
    found = vector_site(model_of(law))["fn"].log_prob(x)
    assert found.item() == pytest.approx(expected + law.log_prob(x / shell.top).item(), rel=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 50, 300])
def test_draws_of_the_vector(dim: int) -> None:
    law, shell = VonMisesFisher(directions(dim), 2.0 * dim), Shell(dim)
    x = vector_site(model_of(law))["fn"].sample((20_000,))
    r = x.norm(dim=-1)
    assert_mean(r, shell.mean)
    assert_mean(r**2, shell.mean_square)
    assert_mean(normalize(x, dim=-1), law.mean)


def test_at_the_origin_the_density_is_finite() -> None:
    fn = vector_site(model_of(HypersphericalUniform(3, dtype=torch.float64)))["fn"]
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(fn.log_prob(x), x)
    assert (fn.log_prob(directions(3)) - fn.log_prob(x)).item() == pytest.approx(50)
    assert grad.isfinite().all()


# Sites


def test_the_site_becomes_a_function_of_the_vector(dtype: torch.dtype) -> None:
    law = VonMisesFisher(directions(4, 5, dtype=dtype), 100.0)

    @AutoSphereReparam()
    def model() -> Tensor:
        with pyro.plate("rows", 4):
            return pyro.sample("z", law)

    with pyro.validation_enabled(True):
        trace = poutine.trace(model).get_trace()
        trace.compute_log_prob()
    vector, z = trace.nodes["z_vector"], trace.nodes["z"]
    assert trace.nodes["_RETURN"]["value"] is z["value"]
    assert z["value"].dtype == vector["value"].dtype == dtype
    torch.testing.assert_close(z["value"], normalize(vector["value"], dim=-1))
    assert constraints.sphere.check(z["value"]).all()
    assert z["is_observed"]
    assert not vector["is_observed"]
    assert z["log_prob_sum"] == 0
    assert vector["log_prob"].shape == (4,)


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "vectorized"])
def test_shapes(outer: bool) -> None:
    loc = directions(3, 2, 5)

    @AutoSphereReparam()
    def model() -> None:
        with pyro.plate("rows", 3):
            pyro.sample("z", VonMisesFisher(loc, 2.0).to_event(1))
            pyro.sample("w", HypersphericalUniform(3))

    wrapped = pyro.plate("particles", 7, dim=-2)(model) if outer else model
    with pyro.validation_enabled(True):
        trace = poutine.trace(wrapped).get_trace()
        trace.compute_log_prob()
    batch = (7, 3) if outer else (3,)
    assert (
        trace.nodes["z_vector"]["value"].shape == trace.nodes["z"]["value"].shape == (*batch, 2, 5)
    )
    assert trace.nodes["w"]["value"].shape == (*batch, 3)
    assert trace.nodes["z_vector"]["log_prob"].shape == batch
    # each row and particle draws a radius of its own
    assert trace.nodes["z_vector"]["value"].norm(dim=-1).unique().numel() == math.prod(batch) * 2


def test_a_masked_law_leaves_a_proper_one() -> None:
    mask = torch.tensor([True, False])
    law = VonMisesFisher(directions(2, 3), 5.0)
    fn = vector_site(model_of(law.mask(mask)))["fn"]
    x = directions(2, 3, seed=3) * 1.1
    unmasked = vector_site(model_of(law))["fn"]
    expected = unmasked.log_prob(x) - torch.where(mask, 0.0, law.log_prob(normalize(x, dim=-1)))
    torch.testing.assert_close(fn.log_prob(x), expected)


def test_observed_sites_and_others_are_left_alone() -> None:
    x = directions(3)

    def model() -> None:
        z = pyro.sample("z", HypersphericalUniform(3, dtype=torch.float64))
        pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", VonMisesFisher(z, 5.0), obs=x)

    every = {"z": SphereReparam(), "x": SphereReparam()}
    for config in (AutoSphereReparam(), every):
        trace = poutine.trace(poutine.reparam(model, config)).get_trace()
        assert "w_vector" not in trace.nodes
        assert "x_vector" not in trace.nodes
        assert "z_vector" in trace.nodes
        assert trace.nodes["x"]["fn"].log_prob(x) < 0
        assert trace.nodes["x"]["value"] is x
    conditioned = AutoSphereReparam()(poutine.condition(model, data={"z": x}))
    assert "z_vector" not in poutine.trace(conditioned).get_trace().nodes


def test_other_sites_are_refused_by_name() -> None:
    model = poutine.reparam(
        lambda: pyro.sample("scale", dist.Gamma(1.0, 1.0)), {"scale": SphereReparam()}
    )
    with pytest.raises(ValueError, match=r"sites on the sphere.*'scale' has the support Greater"):
        model()


def test_initial_values_are_kept() -> None:
    start = directions(3)
    law = HypersphericalUniform(3, dtype=torch.float64)
    kernel = NUTS(model_of(law), init_strategy=init_to_value(values={"z": start}))
    kernel.setup(warmup_steps=0)
    assert torch.equal(kernel.initial_params["z_vector"], start)


def test_prediction_from_draws_of_the_vector() -> None:
    vector = 1.05 * directions(6, 3)

    @AutoSphereReparam()
    def model() -> None:
        z = pyro.sample("z", HypersphericalUniform(3, dtype=torch.float64))
        pyro.sample("x", VonMisesFisher(z, 1e12))

    found = Predictive(model, posterior_samples={"z_vector": vector})()
    torch.testing.assert_close(found["z"], directions(6, 3))
    torch.testing.assert_close(found["x"], directions(6, 3), atol=1e-5, rtol=0)


def test_directions_go_to_arviz_under_names_of_their_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its next version on import
        az = pytest.importorskip("arviz")
    draws = normalize(1.05 * directions(4, 100, 3), dim=-1)  # chains, draws, coordinates
    data = {"posterior": {"mean_direction": draws.numpy()}}
    names = {"coords": {"axis": ["x", "y", "z"]}, "dims": {"mean_direction": ["axis"]}}
    new = int(az.__version__.split(".")[0]) >= 1
    tree = az.from_dict(data, **names) if new else az.from_dict(**data, **names)
    assert list(az.summary(tree).index) == [f"mean_direction[{axis}]" for axis in "xyz"]


# Constraints: a sphere has no bijection to a Euclidean space, and Pyro says so.


def test_no_bijection_is_registered() -> None:
    with pytest.raises(NotImplementedError):
        biject_to(constraints.sphere)
    # an overparametrisation is: what PyroParam uses
    torch.testing.assert_close(transform_to(constraints.sphere)(2 * directions(3)), directions(3))


def test_without_it_samplers_refuse_the_site() -> None:
    kernel = NUTS(lambda: pyro.sample("z", HypersphericalUniform(3)))
    with pytest.raises(NotImplementedError, match=r"Cannot transform _?Sphere"):
        kernel.setup(warmup_steps=0)


# Posteriors
#
# Cheap and strong: a thousand copies of a problem in one plate, started at draws from the exact
# posterior. Steps of HMC must leave their law as it is; a wrong density pulls them away.

Model = Callable[[], Any]


def with_radius(directions: Tensor) -> Tensor:
    count, dim = directions.shape
    return directions * Shell(dim).sample(count)


def after_hmc(model: Model, start: Tensor, step: float) -> Tensor:
    kernel = HMC(
        AutoSphereReparam()(model),
        step_size=step,
        num_steps=12,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    )
    options = {"initial_params": {"z_vector": start}, "disable_progbar": True}
    with pyro.validation_enabled(False):  # for speed
        mcmc = MCMC(kernel, num_samples=12, warmup_steps=0, **options)
        mcmc.run()
    assert not mcmc.diagnostics()["divergences"]["chain 0"]
    return mcmc.get_samples()["z_vector"][-1]


class Conjugate:
    """Copies of one direction with a von Mises-Fisher prior and datum, and their posterior."""

    def __init__(self, dim: int, noise: float) -> None:
        self.copies = min(1000, 20_000 // dim)  # the more coordinates, the shorter a step must be
        self.prior = VonMisesFisher(directions(dim), 1.0)
        self.datum, self.noise = directions(dim, seed=3), noise
        natural = self.prior.loc + noise * self.datum
        self.posterior = VonMisesFisher(normalize(natural, dim=-1), natural.norm())
        self.step = 0.25 * min(Shell.SPREAD, 1 / math.sqrt(max(noise, dim)))

    def model(self) -> None:
        with pyro.plate("copies", self.copies):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", VonMisesFisher(z, self.noise), obs=self.datum.expand(z.shape))

    def run(self) -> tuple[Tensor, Tensor]:
        start = with_radius(self.posterior.sample((self.copies,)))
        return start, after_hmc(self.model, start, self.step)


@pytest.mark.parametrize(
    ("dim", "noise"), [(2, 2.0), (3, 0.0), (3, 5.0), (3, 1e4), (10, 10.0), (100, 1e4)]
)
def test_hmc_leaves_the_posterior_as_it_is(dim: int, noise: float) -> None:
    problem = Conjugate(dim, noise)
    start, end = problem.run()
    z, r, posterior = normalize(end, dim=-1), end.norm(dim=-1), problem.posterior
    assert_mean((z - posterior.loc).square().sum(-1) / 2, 1 - posterior.mean_resultant_length)
    assert_mean(z, posterior.mean)
    assert_mean(r, Shell(dim).mean)
    assert_mean(r**2, Shell(dim).mean_square)
    # and forgets where it started, or there would be nothing to see
    moved = (z - normalize(start, dim=-1)).square().sum(-1).mean()
    assert moved > (z - posterior.loc).square().sum(-1).mean() / 2


def test_that_would_find_a_wrong_density() -> None:
    problem = Conjugate(3, 5.0)
    problem.noise *= 1.3  # not that of the posterior
    _, end = problem.run()
    z, posterior = normalize(end, dim=-1), problem.posterior
    gap = (z - posterior.loc).square().sum(-1) / 2
    assert standard_errors_off(gap, 1 - posterior.mean_resultant_length) > BOUND


@pytest.mark.parametrize(
    "law",
    [
        pytest.param(HypersphericalUniform(5, dtype=torch.float64), id="uniform"),
        pytest.param(PowerSpherical(directions(3), 3.0), id="power-spherical"),
        pytest.param(PowerSpherical(directions(20), 40.0), id="power-spherical-20"),
        pytest.param(SphericalCauchy(directions(3), 0.6), id="spherical-cauchy"),
        pytest.param(dist.ProjectedNormal(2 * directions(4)), id="projected-normal"),
    ],
)
def test_hmc_leaves_any_law_on_the_sphere_as_it_is(law: TorchDistribution) -> None:
    def model() -> None:
        with pyro.plate("copies", 1000):
            pyro.sample("z", law)

    start, fresh = law.sample((2, 1000))
    z = normalize(after_hmc(model, with_radius(start), 0.02), dim=-1)
    assert (z - start).norm(dim=-1).median() > 0.1
    axis = directions(law.event_shape[0])
    for power in (1, 2, 3):
        assert_mean((z @ axis) ** power - (fresh @ axis) ** power, 0.0)


class UnknownConcentration:
    """Directions around an unknown one with an unknown concentration, in space.

    Without the direction, p(data | k) = C(k)^n / C(k R), where C(k) = k / (4 pi sinh k) and R is
    the length of the sum of the data.
    """

    def __init__(self) -> None:
        self.data = VonMisesFisher(directions(3), 8.0).sample((12,))
        self.prior = dist.Gamma(2.0, torch.tensor(0.1, dtype=torch.float64))

    def model(self) -> None:
        z = pyro.sample("z", HypersphericalUniform(3, dtype=torch.float64))
        k = pyro.sample("k", self.prior)
        with pyro.plate("data", len(self.data)):
            pyro.sample("x", VonMisesFisher(z, k), obs=self.data)

    def moments(self) -> tuple[float, float, float]:
        """Posterior means of k, of k^2, and of the cosine between z and the sum of the data."""
        length, n = self.data.sum(0).norm().item(), len(self.data)

        def log_c(k: float) -> float:
            return math.log(k / (2 * math.pi)) - k - math.log(-math.expm1(-2 * k))

        def weight(k: float) -> float:
            log_prior = math.log(k) - 0.1 * k
            return math.exp(log_prior + n * log_c(k) - log_c(k * length))

        def mean(f: Callable[[float], float]) -> float:
            return integrate.quad(lambda k: f(k) * weight(k), 1e-6, 200, limit=500)[0]

        total = mean(lambda _: 1.0)
        return (
            mean(lambda k: k) / total,
            mean(lambda k: k * k) / total,
            mean(lambda k: 1 / math.tanh(k * length) - 1 / (k * length)) / total,
        )


def assert_chain_mean(draws: Tensor, expected: float) -> None:
    """The mean of a chain agrees with what is expected, up to FAILURE_RATE."""
    size = effective_sample_size(draws[None], chain_dim=0, sample_dim=1).clamp(max=len(draws))
    assert abs(draws.mean() - expected) < BOUND * draws.std() / size.sqrt()


def test_nuts_from_a_cold_start_against_quadrature() -> None:
    problem = UnknownConcentration()
    kernel = NUTS(AutoSphereReparam()(problem.model))
    mcmc = MCMC(kernel, num_samples=200, warmup_steps=100, disable_progbar=True)
    with pyro.validation_enabled(False):  # for speed
        mcmc.run()
    assert not mcmc.diagnostics()["divergences"]["chain 0"]
    draws = mcmc.get_samples()
    along = normalize(draws["z_vector"], dim=-1) @ normalize(problem.data.sum(0), dim=-1)
    k, k_squared, cosine = problem.moments()
    assert_chain_mean(draws["k"], k)
    assert_chain_mean(draws["k"] ** 2, k_squared)
    assert_chain_mean(1 - along, 1 - cosine)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_compiled_potential_gives_the_same_chain() -> None:
    model, chains = AutoSphereReparam()(UnknownConcentration().model), []
    for jit in (False, True):
        pyro.set_rng_seed(1)
        kernel = NUTS(model, jit_compile=jit, ignore_jit_warnings=True, step_size=0.1)
        mcmc = MCMC(kernel, num_samples=3, warmup_steps=0, disable_progbar=True)
        mcmc.run()
        chains.append(mcmc.get_samples()["z_vector"])
    torch.testing.assert_close(*chains)
    assert (chains[0][0] - chains[0][-1]).norm() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("dim", [2, 3, 10, 100])
def test_chains_mix(dim: int, noise: float) -> None:
    law = VonMisesFisher(directions(dim), noise)
    count = 2000 if dim == 2 else 1000  # the circle mixes slowest

    def model() -> None:
        z = pyro.sample("z", HypersphericalUniform(dim, dtype=torch.float64))
        pyro.sample("x", VonMisesFisher(z, noise), obs=law.loc)

    chains = []
    with pyro.validation_enabled(False):
        for _ in range(2):
            kernel = NUTS(AutoSphereReparam()(model))
            mcmc = MCMC(kernel, num_samples=count, warmup_steps=300, disable_progbar=True)
            mcmc.run()
            assert not mcmc.diagnostics()["divergences"]["chain 0"]
            chains.append(normalize(mcmc.get_samples()["z_vector"], dim=-1))
    z = torch.stack(chains)
    gap = (z - law.loc).square().sum(-1) / 2
    watched = torch.cat([z, gap[..., None]], dim=-1)
    assert split_gelman_rubin(watched, chain_dim=0, sample_dim=1).max() < 1.01
    size = effective_sample_size(watched, chain_dim=0, sample_dim=1).min() / gap.numel()
    assert size > (0.08 if dim == 2 else 0.25)
    for draws in gap:
        assert_chain_mean(draws, 1 - law.mean_resultant_length.item())


class Trajectories:
    """Many trajectories of HMC at once, each with an energy of its own.

    The metric is diagonal, as NUTS adapts it; in units of it a trajectory takes a time up to 2.5.
    """

    def __init__(self, law: TorchDistribution) -> None:
        self.fn = vector_site(model_of(law))["fn"]
        self.x = self.fn.sample((2000,))
        self.scale = self.x.std(0)

    def potential(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The potential energy and its gradient."""
        x = x.detach().requires_grad_()
        energy = -self.fn.log_prob(x)
        return energy.detach(), torch.autograd.grad(energy.sum(), x)[0]

    def run(self, step: float) -> tuple[float, float]:
        """Goes on from where it is; the mean acceptance of the leaps, and the share diverged."""
        x, momentum = self.x, torch.randn_like(self.x) / self.scale
        lengths = torch.randint(1, math.ceil(2.5 / step) + 1, (len(x),))
        potential, gradient = self.potential(x)
        start = potential + (momentum * self.scale).square().sum(-1) / 2
        end, end_error, diverged, acceptances = x, torch.zeros(len(x)), lengths < 0, []
        for leap in range(1, int(lengths.max()) + 1):
            momentum = momentum - step / 2 * gradient
            x = x + step * self.scale**2 * momentum
            potential, gradient = self.potential(x)
            momentum = momentum - step / 2 * gradient
            energy = potential + (momentum * self.scale).square().sum(-1) / 2
            error = (energy - start).nan_to_num(nan=math.inf)
            running = (leap <= lengths) & ~diverged
            acceptances.append(torch.exp(-error[running].clamp(min=0)))
            diverged |= running & (error > 1000)  # as Pyro defines it
            last = lengths == leap
            end, end_error = torch.where(last[:, None], x, end), torch.where(last, error, end_error)
        accepted = ~diverged & (torch.rand(len(x)) < torch.exp(-end_error.clamp(min=0)))
        self.x = torch.where(accepted[:, None], end, self.x)
        return torch.cat(acceptances).mean().item(), diverged.double().mean().item()

    def divergent(self, acceptance: float) -> float:
        """The share of 60,000 that diverge, at the step that gives this mean acceptance."""
        shortest, longest = 0.02, 3.0
        for _ in range(9):
            step = math.sqrt(shortest * longest)
            shortest, longest = (
                (step, longest) if self.run(step)[0] > acceptance else (shortest, step)
            )
        return sum(self.run(shortest)[1] for _ in range(30)) / 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "concentration"),
    [(2, 0.5), (2, 5.0), (2, 1e4), (3, 0.5), (3, 5.0), (3, 1e4), (10, 0.5), (10, 1e4)],
)
def test_next_to_no_trajectory_diverges(dim: int, concentration: float) -> None:
    trajectories = Trajectories(VonMisesFisher(directions(dim), concentration))
    assert trajectories.divergent(0.9) < 1e-4
    # where steps are longest, those that NUTS takes by default are not all stable
    longest = (dim, concentration) == (2, 5.0)
    assert trajectories.divergent(0.8) < (5e-3 if longest else 1e-3)


@pytest.mark.slow
def test_where_the_projected_normal_diverges_nothing_does() -> None:
    # why the radius is kept near 1
    datum = directions(3)

    def model(prior: TorchDistribution) -> None:
        z = pyro.sample("z", prior)
        pyro.sample("x", VonMisesFisher(z, 1e4), obs=datum)

    def divergences(strategy: Strategy, prior: TorchDistribution) -> int:
        mcmc = MCMC(NUTS(strategy(model)), num_samples=1000, disable_progbar=True)
        mcmc.run(prior)
        return len(mcmc.diagnostics()["divergences"]["chain 0"])

    normal = dist.ProjectedNormal(torch.zeros(3, dtype=torch.float64))
    assert divergences(MinimalReparam(), normal) > 0
    assert divergences(AutoSphereReparam(), HypersphericalUniform(3, dtype=torch.float64)) == 0
