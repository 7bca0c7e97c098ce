r"""A reparametrisation that lets HMC and NUTS run on the sphere.

A site u on the sphere becomes the direction of an auxiliary vector :math:`x = r u`, whose radius r
is independent of u and log-normal, :math:`s = \log r \sim N(0, \sigma^2)`. In polar coordinates
:math:`dx = r^{d-1} dr\, du`, so that the density of x is

.. math:: \log p(x) = \log f(u) + \log N(s; 0, \sigma^2) - d s.

That is smooth away from the origin, where it vanishes, and the direction has the law f exactly,
before the data and after: a likelihood sees u alone.
"""

from __future__ import annotations

import math
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

# sigma. A thinner shell needs shorter steps where the posterior is wide; in a thicker one
# trajectories pass by the origin, where a short step turns far. By trial in dimensions 3 to 1000 at
# concentrations from 0 to 1e6: 0.1 never diverges, whereas 0.4 does in dimension 3 from 1e3 on.
_SPREAD = 0.1


class SphereReparam(Reparam):
    """Makes a latent site on the sphere the direction of a vector, for HMC and NUTS.

    The latent variable becomes the site ``{name}_vector``, a vector of the same shape with a radius
    close to 1, and the site itself a function of it, its direction. The model means the same as
    before: the direction has the law of the site exactly, whatever the law. Any law will do whose
    support is Pyro's ``constraints.sphere``, in any dimension, in plates and with ``to_event``.

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
          diverge; hence the narrow radius here.
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
        # A value that is no observation is where a sampler starts: a vector of radius 1.
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
    """The law of a direction times an independent log-normal radius; see the top of the module.

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
        return direction * torch.exp(_SPREAD * torch.randn_like(direction[..., :1]))

    def log_prob(self, value: Tensor) -> Tensor:
        tiny = torch.finfo(value.dtype).tiny  # the origin has no direction, but the density 0
        s = torch.linalg.vector_norm(value, dim=-1).clamp(min=tiny).log()
        normal = -((s / _SPREAD) ** 2) / 2 - math.log(_SPREAD * math.sqrt(2 * math.pi))
        radial = sum_rightmost(normal - self.event_shape[-1] * s, self.event_dim - 1)
        return self.direction.log_prob(safe_normalize(value)) + radial
