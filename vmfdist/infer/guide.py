"""An autoguide that has a von Mises-Fisher factor for each latent site on the sphere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from operator import attrgetter
from typing import Any, NoReturn

import pyro
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide.guides import AutoGuide
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroModule, PyroParam
from pyro.ops.tensor_utils import periodic_repeat
from torch import Tensor

from vmfdist._validation import require_unit
from vmfdist.infer._support import is_spherical
from vmfdist.von_mises_fisher import VonMisesFisher

__all__ = ["AutoVonMisesFisher"]

# Each factor starts with a concentration of so many times the dimension, which is an angle of 0.03
# to its mean direction in every dimension. It is meant to be tight: a concentration that must come
# down does so by the learning rate at each step, whereas one that must rise loses its gradient
# faster than Adam forgets it. By trial for posteriors from 2 sqrt(d) to 1e6.
_INITIAL_CONCENTRATION = 1000.0


class AutoVonMisesFisher(AutoGuide):
    r"""A guide for SVI with an independent von Mises-Fisher factor for each site on the sphere.

    .. math:: q(z_1, \dots, z_n) = \prod_i \mathrm{vMF}(z_i; \mu_i, \kappa_i),

    with a mean direction and a concentration to learn for each site, and in plates for each member.
    It serves any law whose support is Pyro's ``constraints.sphere``, in any dimension. Where the
    posterior is a von Mises-Fisher law, as it is for a uniform or von Mises-Fisher prior and a von
    Mises-Fisher likelihood, the guide can match it exactly. With such priors
    :class:`~pyro.infer.trace_mean_field_elbo.TraceMeanField_ELBO` takes the divergence from the
    prior in closed form.

    The rest of a model goes to other guides, beside this one in a
    ``pyro.infer.autoguide.AutoGuideList``; ``pyro.poutine.block`` shares out the sites.

    **The parameters.** A mean direction is held as a vector of length :math:`\sqrt d`, so that its
    coordinates are of size 1, as optimisers expect: a step of Adam turns it by about the learning
    rate, in any dimension. Steps along the tangent make a vector longer and so slow down; each call
    of the guide scales it back. The concentration is held as its logarithm, and starts at 1000 d.

    Shapes:
        As in every autoguide, those of the first call are kept. A plate that subsamples has
        parameters for all of its members.

    Args:
        model: a Pyro model whose latent sites are all on the sphere.
        init_loc_fn: gives the initial mean direction of each site, see
            ``pyro.infer.autoguide.initialization``. The default is a draw from the prior: a uniform
            prior distinguishes no direction, and members of a plate must not start alike.
        create_plates: returns the plates that subsample, given the arguments of the model; as in
            Pyro's other guides.

    Raises:
        ValueError: at the first call, if a latent site is not on the sphere, or if ``init_loc_fn``
            gives anything but unit vectors of the shape of the site.

    Example:
        >>> import pyro, torch
        >>> from pyro.infer import SVI, TraceMeanField_ELBO
        >>> from vmfdist import HypersphericalUniform, VonMisesFisher
        >>> from vmfdist.infer import AutoVonMisesFisher
        >>> data = torch.eye(3)
        >>> def model(data):
        ...     z = pyro.sample("z", HypersphericalUniform(3))
        ...     with pyro.plate("data", len(data)):
        ...         pyro.sample("x", VonMisesFisher(z, 5.0), obs=data)
        >>> pyro.set_rng_seed(0)
        >>> pyro.clear_param_store()
        >>> guide = AutoVonMisesFisher(model)
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
        >>> losses = [svi.step(data) for _ in range(300)]
        >>> posterior = guide.get_posterior()["z"]  # exact: (1, 1, 1) and 5 sqrt(3)
        >>> torch.allclose(posterior.loc, torch.ones(3) / 3**0.5, atol=0.1)
        True

    References:
        * T. R. Davidson, L. Falorsi, N. De Cao, T. Kipf and J. M. Tomczak (2018), Hyperspherical
          variational auto-encoders, arXiv:1804.00891.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_loc_fn: Callable[[dict[str, Any]], Tensor] = init_to_sample,
        create_plates: Callable[..., Any] | None = None,
    ) -> None:
        def initial(site: dict[str, Any]) -> Tensor:
            value = init_loc_fn(site)
            _check_initial(site, value)
            return value

        super().__init__(InitMessenger(initial)(model), create_plates=create_plates)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.locs = PyroModule()
        self.concentrations = PyroModule()
        for name, site in self._sites():
            loc, event_dim = site["value"].detach(), site["fn"].event_dim
            for frame in site["cond_indep_stack"]:
                full_size = frame.full_size or frame.size
                if full_size != frame.size:  # as in Pyro's guides, the subsample over and over
                    loc = periodic_repeat(loc, full_size, frame.dim - event_dim).contiguous()
            dim = loc.shape[-1]
            concentration = loc.new_full(loc.shape[:-1], _INITIAL_CONCENTRATION * dim)
            # The constraint normalises where the parameter is used.
            deep_setattr(self.locs, name, PyroParam(dim**0.5 * loc, constraints.sphere, event_dim))
            deep_setattr(
                self.concentrations,
                name,
                PyroParam(concentration, constraints.positive, event_dim - 1),
            )

    def _sites(self) -> list[tuple[str, dict[str, Any]]]:
        if self.prototype_trace is None:
            raise RuntimeError(
                "this AutoVonMisesFisher has no parameters yet: it makes them when it is first "
                "called, by SVI.step or as guide(...) with the arguments of the model"
            )
        return list(self.prototype_trace.iter_stochastic_nodes())

    def _undo_growth(self) -> None:
        """Scales the vectors that stand for the mean directions back to their length sqrt(d).

        The law does not depend on that length, so that this needs no place in the graph of the
        gradient; nor may it have one, since another particle's graph may hold the vector.
        """
        for vector in self.locs.parameters():
            norm = torch.linalg.vector_norm(vector.data, dim=-1, keepdim=True)
            vector.data.mul_(vector.shape[-1] ** 0.5 / norm)

    def _factor(self, name: str) -> VonMisesFisher:
        get = attrgetter(name)  # the name of a site may have dots
        return VonMisesFisher(get(self.locs), get(self.concentrations))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws every site from its factor.

        Args:
            args: positional arguments of the model.
            kwargs: keyword arguments of the model.

        Returns:
            The draw of each site.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        self._undo_growth()
        plates = self._create_plates(*args, **kwargs)
        draws = {}
        for name, site in self._sites():
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                law = self._factor(name).to_event(site["fn"].event_dim - 1)
                draws[name] = pyro.sample(name, law)
        return draws

    @torch.no_grad()
    def get_posterior(self, *args: Any, **kwargs: Any) -> dict[str, VonMisesFisher]:
        """The factor of each site as it is now, without gradients.

        Args:
            args: not used; they are there since Pyro's other guides take them.
            kwargs: not used.

        Returns:
            A law for each site, with a batch shape of all but the last dimension of the site.

        Raises:
            RuntimeError: if the guide has not been called yet.
        """
        return {name: self._factor(name) for name, _ in self._sites()}

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The mean direction of each site.

        It is the spherical median, the direction with the least mean angle to a draw.

        Args:
            args: not used; they are there since Pyro's other guides take them.
            kwargs: not used.

        Returns:
            Unit vectors for each site.

        Raises:
            RuntimeError: if the guide has not been called yet.
        """
        return {name: law.loc for name, law in self.get_posterior().items()}

    def quantiles(self, quantiles: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Directions have no order and therefore no quantiles.

        Raises:
            NotImplementedError: always; it says what to take instead.
        """
        raise NotImplementedError(
            "directions have no quantiles: guide.get_posterior()[name].mass_cone(p) is the angle "
            "from the mean direction that holds the probability p. In an AutoGuideList, ask the "
            "other guides for theirs one by one"
        )


def _check_initial(site: dict[str, Any], value: Any) -> None:
    """Raises unless the site is on the sphere and the value is one of its values."""
    name, law = site["name"], site["fn"]
    if not is_spherical(law):
        raise ValueError(
            f"AutoVonMisesFisher is for sites on the sphere, but the site {name!r} has the support "
            f"{law.support}. Put it into another guide in an AutoGuideList, and hide it here: "
            f"AutoVonMisesFisher(pyro.poutine.block(model, hide=[{name!r}]))"
        )
    if not isinstance(value, Tensor) or value.shape != law.shape():
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"init_loc_fn must give the site {name!r} a tensor of shape {tuple(law.shape())}, "
            f"got {got}"
        )
    require_unit(f"init_loc_fn must give the site {name!r} unit vectors", value)
