"""What is timed: vmfdist and, for the same job, PyTorch's own operations and other packages.

Each function returns callables by name, for n rows of one dimension in float32. The first of them
is what the others are measured against.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, Normal, VonMises, kl_divergence
from torch.nn.functional import normalize

from vmfdist import HypersphericalUniform, PowerSpherical, VonMisesFisher

Rivals = dict[str, Callable[[], object]]
Job = Callable[[int, int], Rivals]

# Rows and dimensions that are timed: of draws, of log densities, and of what has no vectors.
SAMPLES = [(128, 20), (100_000, 2), (100_000, 3), (100_000, 5), (100_000, 10)]
SAMPLES += [(100_000, 64), (20_000, 512), (1000, 4096)]
DENSITIES = [(128, 20), (100_000, 20), (100_000, 64), (20_000, 512)]
DIVERGENCES = [(128, 20), (100_000, 20), (100_000, 64), (100_000, 1024)]

OURS, OURS_SHARED = "vmfdist", "vmfdist, shared"
OURS_POWER = "vmfdist, power spherical"
NORMAL, NORMALISED = "Normal", "randn, normalised"


def _parameters(n: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Locations, scales of a normal law, concentrations from 0 to 100; all need gradients."""
    torch.manual_seed(0)
    loc, scale = normalize(torch.randn(n, dim), dim=-1), torch.rand(n, dim) + 0.1
    concentration = 100 * torch.rand(n)
    return loc.requires_grad_(), scale.requires_grad_(), concentration.requires_grad_()


def _laws(n: int, dim: int) -> dict[str, tuple[Distribution, tuple[Tensor, ...]]]:
    """Laws with a draw that has gradients, and their parameters."""
    loc, scale, concentration = _parameters(n, dim)
    shared = torch.tensor(50.0, requires_grad=True)
    laws = {
        NORMAL: (Normal(loc, scale, validate_args=False), (loc, scale)),
        OURS: (VonMisesFisher(loc, concentration, validate_args=False), (loc, concentration)),
        OURS_SHARED: (VonMisesFisher(loc, shared, validate_args=False), (loc, shared)),
        OURS_POWER: (PowerSpherical(loc, concentration, validate_args=False), (loc, concentration)),
    }
    if importlib.util.find_spec("power_spherical"):
        from power_spherical import PowerSpherical as Theirs

        law = Theirs(loc, concentration, validate_args=False)
        laws["power_spherical"] = law, (loc, concentration)
    return laws


def draws(n: int, dim: int) -> Rivals:
    """Draws without gradients."""
    laws = {name: law.sample for name, (law, _) in _laws(n, dim).items()}
    rivals: Rivals = {
        NORMALISED: lambda: normalize(torch.randn(n, dim), dim=-1),
        OURS: laws.pop(OURS),
        OURS_SHARED: laws.pop(OURS_SHARED),
        "randn": lambda: torch.randn(n, dim),
        **laws,
    }
    if dim == 2:
        angles = VonMises(torch.rand(n), 100 * torch.rand(n), validate_args=False)
        rivals["torch's VonMises"] = angles.sample
    if dim <= 64:  # beyond, minutes; float64
        law = stats.vonmises_fisher(np.eye(dim)[0], 50.0)  # of one location and concentration
        generator = np.random.default_rng(0)
        rivals["scipy, one law"] = lambda: law.rvs(n, random_state=generator)
    return rivals


def draws_with_gradients(n: int, dim: int) -> Rivals:
    """Draws, and the pull-back of a gradient to the parameters."""
    upstream = torch.randn(n, dim)

    def run(law: Distribution, parameters: tuple[Tensor, ...]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(law.rsample(), parameters, upstream)

    return {name: run(*law) for name, law in _laws(n, dim).items()}


def log_densities(n: int, dim: int) -> Rivals:
    """Log densities and their gradients in the parameters."""
    value, upstream = normalize(torch.randn(n, dim), dim=-1), torch.randn(n)

    def run(law: Distribution, parameters: tuple[Tensor, ...]) -> Callable[[], object]:
        def step() -> object:
            log_density = law.log_prob(value)
            log_density = log_density if log_density.dim() == 1 else log_density.sum(-1)
            return torch.autograd.grad(log_density, parameters, upstream)

        return step

    return {name: run(*law) for name, law in _laws(n, dim).items()}


def divergences(n: int, dim: int) -> Rivals:
    """Divergences from the uniform law and their gradients, beside one Bessel function."""
    concentration = (100 * torch.rand(n)).requires_grad_()
    upstream = torch.randn(n)
    law = VonMisesFisher(normalize(torch.ones(dim), dim=-1), concentration, validate_args=False)
    uniform = HypersphericalUniform(dim, validate_args=False)

    def run(function: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(), concentration, upstream)

    return {
        "torch.special.i0e": run(lambda: torch.special.i0e(concentration)),
        OURS: run(lambda: kl_divergence(law, uniform)),
    }
