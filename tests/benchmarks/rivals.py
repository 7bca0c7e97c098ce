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
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    Normal,
    VonMises,
    kl_divergence,
)
from torch.nn.functional import normalize

from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher

Rivals = dict[str, Callable[[], object]]
Job = Callable[[int, int], Rivals]

# Rows and dimensions that are timed: of draws, of log densities, and of what has no vectors.
SAMPLES = [(128, 20), (100_000, 2), (100_000, 3), (100_000, 5), (100_000, 10)]
SAMPLES += [(100_000, 64), (20_000, 512), (1000, 4096)]
DENSITIES = [(128, 20), (100_000, 20), (100_000, 64), (20_000, 512)]
PAIRS = [(256, 512), (4096, 128), (3000, 3)]  # under that many laws:
LAWS = 1000
MIXTURES = [(100_000, 64)]
DIVERGENCES = [(128, 20), (100_000, 20), (100_000, 64), (100_000, 1024)]

OURS, OURS_SHARED = "vmfdist", "vmfdist, shared"
OURS_POWER = "vmfdist, power spherical"
OURS_CAUCHY = "vmfdist, spherical Cauchy"
PRODUCT = "product by hand"
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
    rho = torch.rand(n).requires_grad_()
    laws = {
        NORMAL: (Normal(loc, scale, validate_args=False), (loc, scale)),
        OURS: (VonMisesFisher(loc, concentration, validate_args=False), (loc, concentration)),
        OURS_SHARED: (VonMisesFisher(loc, shared, validate_args=False), (loc, shared)),
        OURS_POWER: (PowerSpherical(loc, concentration, validate_args=False), (loc, concentration)),
        OURS_CAUCHY: (SphericalCauchy(loc, rho, validate_args=False), (loc, rho)),
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


def _crossed(n: int, dim: int, laws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values, and mean directions and concentrations of laws; all need gradients."""
    loc, _, concentration = _parameters(laws, dim)
    return normalize(torch.randn(n, dim), dim=-1).requires_grad_(), loc, concentration


def _by_hand(value: Tensor, loc: Tensor, concentration: Tensor) -> Tensor:
    """What is written by hand, k <x, mu> less the log normaliser; rounded by k eps."""
    return value @ loc.mT * concentration - _log_normalizer(loc, concentration)


def _log_normalizer(loc: Tensor, concentration: Tensor) -> Tensor:
    return VonMisesFisher(loc, concentration, validate_args=False).log_normalizer


def _all_pairs(n: int, dim: int) -> tuple[dict[str, Callable[[], Tensor]], tuple[Tensor, ...]]:
    value, loc, concentration = parameters = _crossed(n, dim, LAWS)
    pairs: dict[str, Callable[[], Tensor]] = {PRODUCT: lambda: _by_hand(value, loc, concentration)}
    for name, law in ((OURS, VonMisesFisher), (OURS_POWER, PowerSpherical)):
        pairs[name] = lambda law=law: law(loc, concentration, validate_args=False).log_prob(
            value.unsqueeze(-2)
        )
    if n * LAWS * dim > 1 << 28:
        return pairs, parameters  # what follows would need gigabytes
    if importlib.util.find_spec("power_spherical"):
        from power_spherical import PowerSpherical as Theirs

        pairs["power_spherical"] = lambda: Theirs(loc, concentration, validate_args=False).log_prob(
            value.unsqueeze(-2)
        )
    pairs["array of differences"] = lambda: (
        concentration * (1 - (value.unsqueeze(-2) - loc).square().sum(-1) / 2)
        - _log_normalizer(loc, concentration)
    )
    return pairs, parameters


def all_pairs(n: int, dim: int) -> Rivals:
    """Log densities of n values under a thousand laws."""
    pairs, _ = _all_pairs(n, dim)
    return {name: torch.no_grad()(pair) for name, pair in pairs.items()}


def all_pairs_with_gradients(n: int, dim: int) -> Rivals:
    """The same, and the pull-back of a gradient to values and parameters."""
    pairs, parameters = _all_pairs(n, dim)
    upstream = torch.randn(n, LAWS)

    def run(pair: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(pair(), parameters, upstream)

    return {name: run(pair) for name, pair in pairs.items()}


def mixtures(n: int, dim: int) -> Rivals:
    """Log densities under a mixture of 20 laws, with gradients in its parameters."""
    value, loc, concentration = _crossed(n, dim, 20)
    logits = torch.randn(20, requires_grad=True)
    value = value.detach()

    def by_hand() -> Tensor:
        each = _by_hand(value, loc, concentration)
        return (each + logits.log_softmax(-1)).logsumexp(-1)

    def ours() -> Tensor:
        law = VonMisesFisher(loc, concentration, validate_args=False)
        weights = Categorical(logits=logits, validate_args=False)
        return MixtureSameFamily(weights, law, validate_args=False).log_prob(value)

    def run(function: Callable[[], Tensor]) -> Callable[[], object]:
        parameters = loc, concentration, logits
        return lambda: torch.autograd.grad(function().sum(), parameters)

    return {PRODUCT: run(by_hand), "MixtureSameFamily": run(ours)}


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
