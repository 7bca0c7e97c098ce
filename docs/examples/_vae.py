"""What the variational autoencoders share: the law of the code, Pyro's model and guide, bounds.

A script adds what its data need, an encoder and a decoder, by deriving from :class:`VAE`. Which law
the code has is a matter of :func:`make_code`, so that models differ in it and in nothing else.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import RenyiELBO
from pyro.infer.elbo import ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn.functional import normalize, softplus

from _options import MOST_CONCENTRATION, read_whole_number
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist.rotational import RotationallySymmetric

__all__ = [
    "VAE",
    "Code",
    "ImportanceWeightedELBO",
    "Loss",
    "Terms",
    "make_code",
    "parts",
    "read_law",
    "read_product",
    "score",
]

TIMES = " x "  # between a law and its number of spheres

# %%
# The law of the code


class Code(nn.Module):
    """The prior of a code, and its posterior as a linear layer predicts it from features."""

    fewest = 1  # examples that a training step needs

    def __init__(self, features: int, dim: int, spread: int) -> None:
        """Build the layer.

        Args:
            features: the width of what the encoder returns.
            dim: the number of coordinates of a code.
            spread: the number of outputs that the width of the posterior needs.
        """
        super().__init__()
        self.dim = dim
        self.head = nn.Linear(features, dim + spread)

    def prior(self) -> dist.TorchDistribution:
        """The law of a code before its example is seen."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The posterior of each example, batch shape that of its features, event shape (dim,)."""
        raise NotImplementedError

    def spread_out(self, z: Tensor) -> Tensor:
        """The code as decoders take it: its coordinates have size one under the prior."""
        return z

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The location, shape (..., dim), and raw outputs for the spread, shape (..., spread)."""
        location, raw = self.head(features).tensor_split([self.dim], dim=-1)
        return location, raw


class GaussianCode(Code):
    """Standard normal prior, diagonal normal posterior."""

    def __init__(self, features: int, dim: int) -> None:
        """Build the layer: a location and a scale for each coordinate."""
        super().__init__(features, dim, spread=dim)

    def prior(self) -> dist.TorchDistribution:
        """The standard normal law."""
        zero = self.head.weight.new_zeros(self.dim)
        return dist.Normal(zero, zero + 1).to_event(1)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The normal law of each example."""
        location, raw = self.split(features)
        return dist.Normal(location, softplus(raw) + 1e-3).to_event(1)


class BatchNormGaussianCode(GaussianCode):
    r"""A normal posterior whose mean KL over a batch is held above zero (Zhu et al. 2020).

    Locations and scales are normalised over the batch without an affine map, then scaled by
    :math:`\sqrt{\tau + (1 - \tau) s}` and :math:`\sqrt{(1 - \tau) (1 - s)}` with a learned
    :math:`s = \operatorname{sigmoid}(\theta)` for each coordinate. Over a batch the mean squares
    of a location and of its scale then add up to 1, so that what is left of a coordinate's mean KL
    is the mean of :math:`-\log \sigma`, at least :math:`-\tfrac12 \log (1 - \tau)` by Jensen's
    inequality: .35 nat for tau = 1/2.

    References:
        Zhu, Bi, Liu, Ma, Li and Wu (2020), A Batch Normalized Inference Network Keeps the KL
        Vanishing Away, ACL, arXiv:2004.12585; the form with both scales is Su's (2020),
        https://spaces.ac.cn/archives/7381.
    """

    fewest = 2  # one has no spread

    def __init__(self, features: int, dim: int, least: float = 0.5) -> None:
        """Build the layer; `least` is tau, the least mean square of a location."""
        super().__init__(features, dim)
        self.least = least
        self.share = nn.Parameter(torch.zeros(dim))  # theta
        self.location_norm = nn.BatchNorm1d(dim, affine=False)
        self.scale_norm = nn.BatchNorm1d(dim, affine=False)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The normal law of each example; in training mode it depends on the whole batch."""
        location, raw = self.split(features)
        share = self.share.sigmoid()
        location = self.location_norm(location) * (self.least + (1 - self.least) * share).sqrt()
        scale = self.scale_norm(raw) * ((1 - self.least) * (1 - share)).sqrt()
        # Su's scale may take any sign, which a normal law does not see
        return dist.Normal(location, scale.abs() + 1e-3).to_event(1)


class SphericalCode(Code):
    """Uniform prior on the unit sphere; a posterior with a mean direction and a concentration."""

    def __init__(
        self,
        law: Callable[..., RotationallySymmetric],
        features: int,
        dim: int,
        concentration: float | None = None,
    ) -> None:
        """Build the layer.

        Args:
            law: of the posterior, by its mean direction and concentration.
            features: the width of what the encoder returns.
            dim: the number of coordinates of a code, one more than the dimension of its sphere.
            concentration: of every posterior; None to learn one for each example.
        """
        super().__init__(features, dim, spread=1 if concentration is None else 0)
        self.law = law
        self.concentration = concentration

    def prior(self) -> dist.TorchDistribution:
        """The uniform law; its argument is the ambient dimension."""
        weight = self.head.weight
        return HypersphericalUniform(self.dim, dtype=weight.dtype, device=weight.device)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The law of each example; a learned concentration is at least 1."""
        location, raw = self.split(features)
        learned = self.concentration is None
        concentration = softplus(raw.squeeze(-1)) + 1 if learned else self.concentration
        return self.law(normalize(location, dim=-1), concentration)

    def spread_out(self, z: Tensor) -> Tensor:
        """A unit vector has coordinates of size 1 / sqrt(dim)."""
        return z * math.sqrt(self.dim)


class ProductCode(SphericalCode):
    """Codes on several spheres, each independent of the others and with a concentration of its own.

    A code has the event shape (spheres, dim).

    References:
        Davidson, Tomczak and Gavves (2019), Increasing Expressivity of a Hyperspherical VAE,
        arXiv:1910.02912.
    """

    def __init__(
        self,
        law: Callable[..., RotationallySymmetric],
        features: int,
        dim: int,
        concentration: float | None,
        spheres: int,
    ) -> None:
        """Build the layer, with what a sphere needs for each of them; `dim` is of one."""
        super().__init__(law, features, dim, concentration)
        self.head = nn.Linear(features, spheres * self.head.out_features)
        self.spheres = spheres

    def prior(self) -> dist.TorchDistribution:
        """The uniform law on each sphere."""
        return super().prior().expand([self.spheres]).to_event(1)

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The same for each sphere: shapes (..., spheres, dim) and (..., spheres, spread)."""
        outputs = self.head(features).unflatten(-1, (self.spheres, -1))
        location, raw = outputs.tensor_split([self.dim], dim=-1)
        return location, raw

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The product of the laws on the spheres."""
        return super().forward(features).to_event(1)

    def spread_out(self, z: Tensor) -> Tensor:
        """All coordinates in a row."""
        return super().spread_out(z).flatten(-2)


CODES = {"gaussian": GaussianCode, "batch-norm": BatchNormGaussianCode}
SPHERICAL: dict[str, Callable[..., RotationallySymmetric]] = {
    "vmf": VonMisesFisher,  # Davidson et al. 2018; fixed: Xu and Durrett 2018
    "power-spherical": PowerSpherical,  # De Cao and Aziz 2020
    # Sablica and Hornik 2025. Its concentration has no digits next to 1, its distance does.
    "spherical-cauchy": SphericalCauchy.from_distance,
}
LAWS = f"{', '.join([*CODES, *SPHERICAL])}, or one of the last three with :CONCENTRATION"


class Law(NamedTuple):
    """What the text of a law says."""

    name: str
    concentration: float | None  # None where it is learned, or there is none
    spheres: int  # 0 of a Gaussian


def parts(law: str) -> Law:
    """The parts of a law that :func:`read_law` or :func:`read_product` accepts."""
    one, _, spheres = law.partition(TIMES)
    name, _, number = one.partition(":")
    return Law(name, float(number) if number else None, int(spheres or name in SPHERICAL))


def read_law(text: str) -> str:
    """Read the name of a law, for argparse: "gaussian", "vmf", "vmf:80" and so on.

    A law has one name: "vmf:80.0" is "vmf:80".
    """
    name, colon, number = text.partition(":")
    try:
        concentration = float(number) if colon else 0.0
    except ValueError:
        concentration = math.nan
    known = name in SPHERICAL or (name in CODES and not colon)
    if not known or not 0 <= concentration < math.inf:
        raise argparse.ArgumentTypeError(f"expected {LAWS}, a number >= 0; got {text!r}")
    if concentration > MOST_CONCENTRATION:
        most = f"a concentration of at most {MOST_CONCENTRATION:g}"
        raise argparse.ArgumentTypeError(f"expected {most}, got {text!r}")
    return f"{name}:{abs(concentration)!r}".removesuffix(".0") if colon else name


def read_product(text: str) -> str:
    """Read the name of a law that may be on several spheres, for argparse: "vmf x 5" too."""
    one, times, count = text.partition(TIMES)
    law = read_law(one)
    if not times:
        return law
    if not parts(law).spheres:
        spherical = ", ".join(SPHERICAL)
        raise argparse.ArgumentTypeError(f"only {spherical} have several spheres, got {text!r}")
    spheres = read_whole_number(1)(count)
    return f"{law}{TIMES}{spheres}" if spheres > 1 else law


def make_code(law: str, features: int, dim: int) -> Code:
    """Build the code of a law as its text says.

    Args:
        law: as :func:`read_law` or :func:`read_product` accepts it: "vmf:80" has the concentration
            80, "vmf x 5" five spheres.
        features: the width of what the encoder returns.
        dim: the number of coordinates of a code; several spheres have equal shares of it.
    """
    name, concentration, spheres = parts(law)
    if spheres == 0:
        return CODES[name](features, dim)
    if spheres == 1:
        return SphericalCode(SPHERICAL[name], features, dim, concentration)
    return ProductCode(SPHERICAL[name], features, dim // spheres, concentration, spheres)


# %%
# Model and guide


class VAE(nn.Module):
    """A variational autoencoder for Pyro; scripts derive from it to say what encodes and decodes.

    A batch is anything with a length that the two methods of the script understand.
    """

    def __init__(self, code: Code) -> None:
        """Keep the law of the code."""
        super().__init__()
        self.code = code

    def features(self, batch: Any) -> Tensor:
        """What the encoder makes of each example, shape (n, features)."""
        raise NotImplementedError

    def log_likelihood(self, batch: Any, z: Tensor) -> Tensor:
        """The log probability of each example given its code, z (..., n, dim), result (..., n)."""
        raise NotImplementedError

    def posterior(self, batch: Any) -> dist.TorchDistribution:
        """The law of the code of each example, batch shape (n,)."""
        return self.code(self.features(batch))

    def model(self, batch: Any, kl_weight: float = 1.0) -> None:
        """Draw a code from the prior, and from it the example."""
        with pyro.plate("examples", len(batch), dim=-1):
            with pyro.poutine.scale(scale=kl_weight):
                z = pyro.sample("z", self.code.prior())
            pyro.factor("x", self.log_likelihood(batch, z))

    def guide(self, batch: Any, kl_weight: float = 1.0) -> None:
        """Draw the code from the posterior that the encoder predicts."""
        with (
            pyro.plate("examples", len(batch), dim=-1),
            pyro.poutine.scale(scale=kl_weight),
        ):
            pyro.sample("z", self.posterior(batch))


class Loss(nn.Module):
    """An ELBO of Pyro as a module, for torch's optimisers and for ``DistributedDataParallel``."""

    def __init__(self, vae: VAE, elbo: ELBO) -> None:
        """Join the two."""
        super().__init__()
        self.vae, self.elbo = vae, elbo

    def forward(self, batch: Any, kl_weight: float = 1.0) -> Tensor:
        """Minus the bound, summed over the batch."""
        return self.elbo.differentiable_loss(self.vae.model, self.vae.guide, batch, kl_weight)


class ImportanceWeightedELBO(RenyiELBO):
    r"""The importance-weighted bound of each example, to be differentiated (Burda et al. 2016).

    .. math:: \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)},
        \qquad z_k \sim q(z \mid x),

    which is the ELBO at :math:`K = 1` and grows with :math:`K` towards :math:`\log p(x)`. Pyro's
    ``RenyiELBO(alpha=0)`` computes it too but has no differentiable loss, so that no module can be
    made of it, and none can train on several machines. Every site has to be in the plate of the
    examples, and the draws have to be reparametrised.
    """

    def __init__(self, num_particles: int) -> None:
        """Take `num_particles` draws, K, side by side."""
        super().__init__(
            alpha=0, num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True
        )

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the plate."""
        ((model_trace, guide_trace),) = self._get_traces(model, guide, args, kwargs)
        joint, posterior = (
            sum(site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample")
            for trace in (model_trace, guide_trace)
        )
        log_weight = (joint - posterior).reshape(self.num_particles, -1)
        return -(log_weight.logsumexp(0) - math.log(self.num_particles)).sum()


# %%
# Scores


class Terms(NamedTuple):
    """What a model gives for each example, in nats, shape (n,)."""

    reconstruction: Tensor  # mean log likelihood given a code from the posterior
    kl: Tensor  # in closed form
    log_likelihood: Tensor  # the importance-weighted bound

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound."""
        return self.reconstruction - self.kl


@torch.no_grad()
def score(vae: VAE, batches: Iterable[Any], draws: int, at_once: int = 10) -> Terms:
    """Score a model, dropout and batch statistics off, in float64.

    Args:
        vae: the model.
        batches: the examples.
        draws: of the code of each example; the log likelihood is that of so many draws.
        at_once: how many of them to decode at a time.
    """
    was_training, terms = vae.training, []
    vae.eval()
    prior = vae.code.prior()
    for batch in batches:
        posterior = vae.posterior(batch)
        reconstruction, log_weight = [], []
        for start in range(0, draws, at_once):
            z = posterior.sample((min(at_once, draws - start),))
            reconstruction.append(vae.log_likelihood(batch, z))
            log_weight.append(reconstruction[-1] + prior.log_prob(z) - posterior.log_prob(z))
        bound = torch.cat(log_weight).double().logsumexp(0) - math.log(draws)
        mean = torch.cat(reconstruction).double().mean(0)
        terms.append((mean, kl_divergence(posterior, prior).double(), bound))
    vae.train(was_training)
    return Terms(*(torch.cat(column).cpu() for column in zip(*terms, strict=True)))
