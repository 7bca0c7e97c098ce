r"""How much two laws have in common: integrals of products of powers of their densities.

They are closed forms for von Mises-Fisher laws and the uniform one, which is that of concentration
0: with the log-partition :math:`\Phi` relative to the uniform law, natural parameters :math:`\eta =
\kappa \mu` and the area :math:`|S|` of the sphere,

.. math:: \log \int f_1^\alpha f_2^\beta = \Phi(|\alpha \eta_1 + \beta \eta_2|)
    - \alpha \Phi(\kappa_1) - \beta \Phi(\kappa_2) + (1 - \alpha - \beta) \log |S|.

Batch shapes broadcast. Of laws with batch shapes (n, 1) and (m,) all pairs are formed by matrix
products, with no array of (n, m, d) numbers. Everything is differentiable in the parameters of both
laws, twice.

The divergences are evaluated in float64, where the device has it, and without cancellation: where
the laws all but coincide they keep their relative accuracy, down to some 1e-32 d.

A point mass (infinite concentration) has as product integral the other's density there, and nothing
in common with any law but itself.

References:
    * T. Jebara, R. Kondor and A. Howard (2004), Probability product kernels, Journal of Machine
      Learning Research 5, 819-844 (the expected likelihood kernel and Bhattacharyya's).
    * F. Nielsen and R. Nock (2011), On Renyi and Tsallis entropies and divergences for exponential
      families, arXiv:1105.3259.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from vmfdist._closed_forms import natural, products
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.chords import inner_product, squared_chord, widened
from vmfdist._numerics.elementwise import nonnegative
from vmfdist._numerics.infinity import standard_deviation, steepened
from vmfdist._numerics.rows import expanded
from vmfdist._validation import common_shape, require_number
from vmfdist.hyperspherical_uniform import HypersphericalUniform
from vmfdist.von_mises_fisher import VonMisesFisher

__all__ = [
    "bhattacharyya_coefficient",
    "hellinger_distance",
    "log_product_integral",
    "renyi_divergence",
]

_Law = VonMisesFisher | HypersphericalUniform


def log_product_integral(p: _Law, q: _Law) -> Tensor:
    r"""The logarithm of :math:`\int p(x) q(x)\, dx`, the expected likelihood kernel.

    It is the log density that a draw of one law has under the other, on average: a similarity of
    uncertain directions (of embeddings, say), and the evidence of
    :meth:`VonMisesFisher.conjugate_update <vmfdist.VonMisesFisher.conjugate_update>`. Two equal
    laws have the more of it the more concentrated they are; see :func:`bhattacharyya_coefficient`
    for a similarity that is 1 for these.

    With one point mass it is the log density of the other law there; of two, infinite or minus
    infinity.

    Args:
        p: a von Mises-Fisher or uniform law.
        q: another on the same sphere, whose batch shape broadcasts with that of ``p``.

    Returns:
        A tensor of the broadcast of both batch shapes.

    Raises:
        TypeError: if a law is neither von Mises-Fisher nor uniform.
        ValueError: if the laws are on spheres of different dimension, or batch shapes do not fit.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> from vmfdist.similarity import log_product_integral
        >>> images = VonMisesFisher(torch.eye(3), torch.tensor([1.0, 10.0, 100.0]))
        >>> texts = VonMisesFisher(torch.eye(3)[:2].unsqueeze(-2), 10.0)
        >>> log_product_integral(images, texts)  # texts in rows
        tensor([[-1.7878, -5.7397, -9.0415],
                [-2.6476, -0.2284, -9.0415]])
    """
    return _log_integral(p, q, 1.0, 1.0)


def bhattacharyya_coefficient(p: _Law, q: _Law) -> Tensor:
    r"""The affinity :math:`\int \sqrt{p(x) q(x)}\, dx`, 1 for equal laws and less for others.

    It underflows to 0 where two laws have next to nothing in common; its logarithm is
    ``-renyi_divergence(p, q, 0.5) / 2``.

    Args:
        p: a von Mises-Fisher or uniform law.
        q: another on the same sphere, whose batch shape broadcasts with that of ``p``.

    Returns:
        A tensor of the broadcast of both batch shapes, from 0 to 1.

    Raises:
        TypeError: if a law is neither von Mises-Fisher nor uniform.
        ValueError: if the laws are on spheres of different dimension, or batch shapes do not fit.

    Example:
        >>> import torch
        >>> from vmfdist import HypersphericalUniform, VonMisesFisher
        >>> from vmfdist.similarity import bhattacharyya_coefficient
        >>> law = VonMisesFisher(torch.tensor([0.6, 0.0, 0.8]), 2.0)
        >>> bhattacharyya_coefficient(law, HypersphericalUniform(3))
        tensor(0.8727)
    """
    return torch.exp(_log_integral(p, q, 0.5, 0.5))


def hellinger_distance(p: _Law, q: _Law) -> Tensor:
    r"""The metric :math:`\sqrt{1 - \int \sqrt{p(x) q(x)}\, dx}`, from 0 to 1.

    It keeps its relative accuracy where the laws all but coincide. Where it is 0, so is its
    gradient.

    Args:
        p: a von Mises-Fisher or uniform law.
        q: another on the same sphere, whose batch shape broadcasts with that of ``p``.

    Returns:
        A tensor of the broadcast of both batch shapes.

    Raises:
        TypeError: if a law is neither von Mises-Fisher nor uniform.
        ValueError: if the laws are on spheres of different dimension, or batch shapes do not fit.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> from vmfdist.similarity import hellinger_distance
        >>> loc = torch.tensor([0.6, 0.0, 0.8])
        >>> hellinger_distance(VonMisesFisher(loc, 1e6), VonMisesFisher(loc, 1e6 + 1))
        tensor(3.5355e-07)
    """
    return standard_deviation(-torch.expm1(_log_integral(p, q, 0.5, 0.5)))


def renyi_divergence(p: _Law, q: _Law, order: float) -> Tensor:
    r"""Renyi's divergence :math:`\frac1{\alpha - 1} \log \int p(x)^\alpha q(x)^{1-\alpha}\, dx`.

    It increases with the order :math:`\alpha > 0`; at order 1 it is the Kullback-Leibler
    divergence, and of order 1/2 it is symmetric. To and from a point mass it is infinite, between
    two equal ones 0.

    Args:
        p: a von Mises-Fisher or uniform law.
        q: another on the same sphere, whose batch shape broadcasts with that of ``p``.
        order: a positive number.

    Returns:
        A tensor of the broadcast of both batch shapes.

    Raises:
        TypeError: if a law is neither von Mises-Fisher nor uniform, or the order no real number.
        ValueError: if the laws are on spheres of different dimension, or the order is not positive
            and finite.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> from vmfdist.similarity import renyi_divergence
        >>> east, north = torch.eye(3)[:2]
        >>> p, q = VonMisesFisher(east, 3.0), VonMisesFisher(north, 4.0)
        >>> [round(renyi_divergence(p, q, order).item(), 3) for order in (0.5, 1, 2)]
        [1.358, 2.729, 4.051]
    """
    require_number("order", order, "a real number")
    order = float(order)
    if not 0 < order < math.inf:
        raise ValueError(f"order must be positive and finite, got {order}")
    if order == 1:
        _common(p, q)
        return kl_divergence(p, q)
    return _log_integral(p, q, order, 1 - order) / (order - 1)


def _common(p: _Law, q: _Law) -> tuple[int, torch.Size]:
    for name, law in (("p", p), ("q", q)):
        if not isinstance(law, VonMisesFisher | HypersphericalUniform):
            raise TypeError(
                f"{name} must be a VonMisesFisher or HypersphericalUniform, which have closed "
                f"forms of products, got {type(law).__name__}"
            )
    return p.dim, common_shape(p, q, "something in common")


def _concentration(law: _Law) -> Tensor:
    return law._given[1] if isinstance(law, VonMisesFisher) else law._like.new_zeros(())


def _separations(p: _Law, q: _Law, k: Tensor) -> tuple[Tensor, Tensor]:
    """1 - <mu_1, mu_2> and 1 + <mu_1, mu_2>; any where a law has no direction."""
    if isinstance(p, HypersphericalUniform) or isinstance(q, HypersphericalUniform):
        return torch.ones_like(k), torch.ones_like(k)
    loc1, loc2 = p._given[0], q._given[0]
    return steepened(squared_chord(loc1, loc2, k)) / 2, squared_chord(loc1, -loc2, k).detach() / 2


def _log_integral(p: _Law, q: _Law, alpha: float, beta: float) -> Tensor:
    dim, shape = _common(p, q)
    k1, k2 = _concentration(p), _concentration(q)
    dtype = torch.promote_types(k1.dtype, k2.dtype)
    near, far = (widened(x) for x in _separations(p, q, k2.to(dtype)))
    k1, k2 = widened(k1), widened(k2)
    of_product = alpha + beta != 1
    form = products.log_product_integral if of_product else products.log_mean_of_powers
    result = form(k1, k2, near, far, (dim, alpha, beta))
    vectors = [law._tracked if isinstance(law, VonMisesFisher) else None for law in (p, q)]
    if any(vector is not None for vector in vectors):
        smooth = _in_natural_parameters(p, q, alpha, beta, dim)
        result = natural.with_derivatives_of(smooth, result)
    one, both = torch.isinf(k1) | torch.isinf(k2), torch.isinf(k1) & torch.isinf(k2)
    highest = torch.full_like(result, math.inf)
    if of_product:
        result = torch.where(both, torch.where(near == 0, highest, -highest), result)
    else:
        apart = highest if alpha > 1 else -highest
        result = torch.where(one, torch.where(both & (near == 0), 0.0, apart), result)
    return expanded(result.to(dtype), shape)


def _in_natural_parameters(p: _Law, q: _Law, alpha: float, beta: float, dim: int) -> Tensor:
    """The same but for a constant, smooth where a natural parameter is 0."""
    etas = []
    for law in (p, q):
        if isinstance(law, VonMisesFisher):
            etas.append(widened(law._natural_parameter()))
        else:
            etas.append(widened(law._like.new_zeros(dim)))
    (eta1, eta2), weights = etas, (alpha, beta)
    square1, square2 = (eta.square().sum(-1) for eta in etas)
    square = alpha**2 * square1 + beta**2 * square2 + 2 * alpha * beta * inner_product(eta1, eta2)
    result = products.log_partition_of_square(nonnegative(square), dim)
    for eta, weight in zip(etas, weights, strict=True):
        zero = vmf.log_partition(eta.new_zeros(eta.shape[:-1]), dim)
        result = result - weight * natural.log_partition(zero, eta)
    return result
