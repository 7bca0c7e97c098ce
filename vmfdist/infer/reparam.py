r"""A reparametrisation that lets HMC and NUTS run on the sphere.

A site u on the sphere with the density f becomes the direction of an auxiliary vector
:math:`x = r u`, which keeps close to a shell of radius 1,

.. math:: p(x) = f(u) \exp\left(-\frac{(r - 1)^2}{2 \sigma^2}\right) / Z_d.

In polar coordinates :math:`dx = r^{d-1} dr\, du`: the radius is independent of the direction, with
a density in proportion to :math:`r^{d-1} \exp(-(r - 1)^2 / 2 \sigma^2)`, and the direction has the
law f exactly, before the data and after, since a likelihood sees u alone.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar, Self

import pyro
import torch
from pyro.distributions import Delta, TorchDistribution, constraints
from pyro.distributions.util import sum_rightmost
from pyro.infer.reparam.reparam import Reparam, ReparamMessage, ReparamResult
from pyro.infer.reparam.strategies import Strategy
from pyro.ops.tensor_utils import safe_normalize
from torch import Tensor
from torch.types import _size

from vmfdist.infer._support import is_spherical

__all__ = ["AutoSphereReparam", "SphereReparam"]

# sigma. The thinner the shell, the shorter the steps where a posterior is much wider. In a thicker
# one the radius varies more, and with it the frequency at which a trajectory swings through a
# narrow posterior, sqrt(concentration) / radius: far inside, a step becomes unstable. In dimensions
# 2 and 3, where steps are longest, 0.1 is best for concentrations from 0.5 to 1e6 together.
#
# The potential (r - 1)^2 / (2 sigma^2) bends alike inside and outside. That of a log-normal radius
# bends more sharply inside, so that at the same sigma steps are shorter and yet more trajectories
# diverge where the posterior is wide. test_infer_reparam.py counts them.
_SPREAD = 0.1


class SphereReparam(Reparam):
    """Makes a latent site on the sphere the direction of a vector, for HMC and NUTS.

    The latent variable becomes the site ``{name}_vector``, a vector of the same shape that keeps
    close to a shell around the origin, and the site itself a function of it, its direction. The
    model means the same as before: the direction has the law of the site exactly, whatever the law.
    Any law will do whose support is Pyro's ``constraints.sphere``, in any dimension, in plates and
    with ``to_event``.

    Use it through ``pyro.poutine.reparam``, or use :class:`AutoSphereReparam` for all sites at
    once. Observed sites are left as they are.

    MCMC returns draws of the vector; the draws of the site are its directions,
    ``torch.nn.functional.normalize(samples["z_vector"], dim=-1)``.

    Raises:
        ValueError: when the model runs, if the site is not on the sphere.

    Example:
        >>> import pyro, torch
        >>> from pyro.infer import MCMC, NUTS
        >>> from torch.nn.functional import normalize
        >>> from vmfdist import HypersphericalUniform, VonMisesFisher
        >>> from vmfdist.infer import SphereReparam
        >>> data = torch.eye(3)
        >>> def model(data):
        ...     z = pyro.sample("z", HypersphericalUniform(3))
        ...     with pyro.plate("data", len(data)):
        ...         pyro.sample("x", VonMisesFisher(z, 5.0), obs=data)
        >>> model = pyro.poutine.reparam(model, {"z": SphereReparam()})
        >>> pyro.set_rng_seed(0)
        >>> mcmc = MCMC(NUTS(model), num_samples=100, warmup_steps=100, disable_progbar=True)
        >>> mcmc.run(data)
        >>> z = normalize(mcmc.get_samples()["z_vector"], dim=-1)
        >>> z.shape
        torch.Size([100, 3])

    References:
        * The projected normal of Hernandez-Stumpfhauser, Breidt and van der Woerd (2017), The
          general projected normal distribution of arbitrary dimension, doi:10.1214/15-BA989, has an
          auxiliary vector too, with a normal law. Trajectories of HMC that pass near its origin
          diverge; hence the shell here.
    """

    def apply(self, msg: ReparamMessage) -> ReparamResult:
        """Replaces the site; called by ``pyro.poutine.reparam``.

        Args:
            msg: the name, the law and the value, if any, of the site.

        Returns:
            A deterministic site in its place.
        """
        name, value = msg["name"], msg["value"]
        law: Any = msg["fn"]
        if not is_spherical(law):
            raise ValueError(
                f"SphereReparam is for sites on the sphere, but the site {name!r} has the support "
                f"{law.support}"
            )
        if msg["is_observed"]:
            return {"fn": law, "value": value, "is_observed": True}
        # A value that is no observation is where a sampler starts: a vector on the shell.
        vector = pyro.sample(
            f"{name}_vector", _RandomRadius(law), obs=value, infer={"is_observed": False}
        )
        if value is None:
            value = safe_normalize(vector)
        # what pyro.deterministic makes
        deterministic = Delta(value, event_dim=law.event_dim).mask(False)
        return {"fn": deterministic, "value": value, "is_observed": True}


class AutoSphereReparam(Strategy):
    """Applies :class:`SphereReparam` to every latent site on the sphere, as a strategy of Pyro's.

    Decorate the model, or wrap it: ``AutoSphereReparam()(model)`` is
    ``pyro.poutine.reparam(model, AutoSphereReparam())``. For sites elsewhere, wrap the result in
    another strategy.

    Example:
        >>> import pyro
        >>> from vmfdist import HypersphericalUniform, VonMisesFisher
        >>> from vmfdist.infer import AutoSphereReparam
        >>> @AutoSphereReparam()
        ... def model():
        ...     z = pyro.sample("z", HypersphericalUniform(3))
        ...     with pyro.plate("neighbours", 5):
        ...         return pyro.sample("x", VonMisesFisher(z, 10.0))
        >>> trace = pyro.poutine.trace(model).get_trace()
        >>> trace.stochastic_nodes
        ['z_vector', 'neighbours', 'x_vector']
    """

    def configure(self, msg: dict[str, Any]) -> SphereReparam | None:
        """Chooses the reparametrisation of a site; called by ``pyro.poutine.reparam``.

        Args:
            msg: the site.

        Returns:
            One for a latent site on the sphere, None for any other.
        """
        if msg["is_observed"] or not is_spherical(msg["fn"]):
            return None
        return SphereReparam()


class _RandomRadius(TorchDistribution):
    """The law of a direction times an independent radius; see the top of the module.

    It has no rsample. That of the direction has the right gradient in its parameters, but is no
    change of variables, which is what a sampler would take it for.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    direction: TorchDistribution

    def __init__(self, direction: TorchDistribution) -> None:
        self.direction = direction
        super().__init__(direction.batch_shape, direction.event_shape, validate_args=False)

    @constraints.dependent_property
    def support(self) -> Any:
        return constraints.independent(constraints.real, self.event_dim)

    def expand(self, batch_shape: _size, _instance: Any = None) -> Self:
        new = self._get_checked_instance(_RandomRadius, _instance)
        batch_shape = torch.Size(batch_shape)
        new.direction = self.direction.expand(batch_shape)
        super(_RandomRadius, new).__init__(batch_shape, self.event_shape, validate_args=False)
        return new

    def sample(self, sample_shape: _size = ()) -> Tensor:
        direction = self.direction.sample(sample_shape)
        return direction * _radii(direction)

    def log_prob(self, value: Tensor) -> Tensor:
        radius = torch.linalg.vector_norm(value, dim=-1)
        radial = -(((radius - 1) / _SPREAD) ** 2) / 2 - _log_normalizer(value.shape[-1])
        along = self.direction.log_prob(safe_normalize(value))
        return along + sum_rightmost(radial, self.event_dim - 1)


def _radii(directions: Tensor) -> Tensor:
    """A random radius for each direction, shape (..., 1), by rejection.

    The log density (d - 1) log r - (r - 1)^2 / (2 sigma^2) has its mode at m, where
    (d - 1) / m = (m - 1) / sigma^2. Less that of a normal law around m with deviation sigma, it is
    (d - 1) (log(r / m) - (r / m - 1)), up to a constant, and so at most 0. In every dimension more
    than 0.7 of the proposals pass.
    """
    power = directions.shape[-1] - 1
    mode = (1 + math.sqrt(1 + 4 * power * _SPREAD**2)) / 2
    radius = torch.zeros_like(directions[..., :1])
    pending = radius == 0
    while pending.any():
        proposal = mode + _SPREAD * torch.randn_like(radius)
        ratio = proposal.clamp(min=0) / mode
        passed = torch.rand_like(ratio).log() < power * (ratio.log() - (ratio - 1))
        radius = torch.where(pending & passed, proposal, radius)
        pending &= ~passed
    return radius


@cache
def _log_normalizer(dim: int) -> float:
    """The log of Z_d, the integral of r^(d - 1) exp(-(r - 1)^2 / (2 sigma^2)) over r > 0.

    With r^n in place of r^(d - 1), by parts, I_n = I_{n-1} + (n - 1) sigma^2 I_{n-2} for n > 1. The
    loop has the ratio of two successive ones, which cannot overflow.
    """
    variance = _SPREAD**2
    first = _SPREAD * math.sqrt(math.pi / 2) * math.erfc(-1 / (_SPREAD * math.sqrt(2)))
    ratio = 1 + variance * math.exp(-1 / (2 * variance)) / first  # I_1 / I_0
    total = math.log(first) + math.log(ratio)
    for n in range(2, dim):
        ratio = 1 + (n - 1) * variance / ratio
        total += math.log(ratio)
    return total
