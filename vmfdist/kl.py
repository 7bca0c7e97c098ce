r"""Kullback-Leibler divergences, registered for :func:`torch.distributions.kl_divergence`.

With :math:`\Phi(\kappa) = \log Z(\kappa)/Z(0)` and the mean resultant length :math:`A = \Phi'`:

=========================  ======================================================================
from, to                   divergence
=========================  ======================================================================
vMF, uniform               :math:`\kappa A(\kappa) - \Phi(\kappa)`
uniform, vMF               :math:`\Phi(\kappa)`
vMF, vMF                   :math:`\Phi(\kappa_2) - \Phi(\kappa_1) - A(\kappa_1)(\kappa_2-\kappa_1)
                           + \kappa_2 A(\kappa_1) |\mu_1 - \mu_2|^2 / 2`
uniform, uniform           0
PS, uniform                :math:`\kappa \Psi'(\kappa) - \Psi(\kappa)`
uniform, PS                :math:`\Psi(\kappa) - \kappa \Psi'(0)`
PS, vMF                    :math:`\mathrm{KL}(\mathrm{PS} \,\|\, \mathrm{uniform}) +
                           \Phi(\kappa_2) - \kappa_2 M(\kappa_1) \langle\mu_1, \mu_2\rangle`
=========================  ======================================================================

PS is the power spherical law, :math:`\Psi(\kappa) = \log \mathrm E ((1 + w)/2)^\kappa` for a
coordinate w of a uniform unit vector, and :math:`M` the mean resultant length.

The first three terms of the divergence between two von Mises-Fisher laws are the Bregman divergence
of :math:`\Phi`, which :mod:`vmfdist._closed_forms.von_mises_fisher` forms without cancellation.

References:
    * A. Banerjee, I. Dhillon, J. Ghosh and S. Sra (2005), Clustering on the unit hypersphere using
      von Mises-Fisher distributions, JMLR 6, 1345-1382 (exponential family of the law).
    * A. Banerjee, S. Merugu, I. Dhillon and J. Ghosh (2005), Clustering with Bregman divergences,
      JMLR 6, 1705-1749.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import register_kl

from vmfdist._closed_forms import natural
from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.rows import expanded
from vmfdist._validation import broadcast_shapes, check_same_sphere
from vmfdist.hyperspherical_uniform import HypersphericalUniform
from vmfdist.power_spherical import PowerSpherical
from vmfdist.rotational import RotationallySymmetric
from vmfdist.von_mises_fisher import VonMisesFisher

__all__: list[str] = []

_Law = RotationallySymmetric | HypersphericalUniform


def _common(p: _Law, q: _Law) -> tuple[int, torch.Size]:
    """The dimension that both laws have, and the shape of their divergences."""
    check_same_sphere(p, q, "divergence")
    return p.dim, broadcast_shapes(p.batch_shape, q.batch_shape)


def _separation(p: VonMisesFisher | PowerSpherical, q: VonMisesFisher) -> Tensor:
    """1 - <mu_1, mu_2>, without cancellation."""
    return (p.loc - q.loc).square().sum(-1) / 2


@register_kl(RotationallySymmetric, HypersphericalUniform)
def _kl_to_uniform(p: RotationallySymmetric, q: HypersphericalUniform) -> Tensor:
    _, shape = _common(p, q)
    return expanded(p._kl_to_uniform(), shape)


@register_kl(HypersphericalUniform, RotationallySymmetric)
def _kl_from_uniform(p: HypersphericalUniform, q: RotationallySymmetric) -> Tensor:
    _, shape = _common(p, q)
    return expanded(q._kl_from_uniform(), shape)


@register_kl(HypersphericalUniform, HypersphericalUniform)
def _kl_uniform_uniform(p: HypersphericalUniform, q: HypersphericalUniform) -> Tensor:
    _, shape = _common(p, q)
    return p.entropy().new_zeros(shape)


@register_kl(VonMisesFisher, VonMisesFisher)
def _kl_von_mises_fisher_von_mises_fisher(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    dim, _ = _common(p, q)
    dtype = torch.promote_types(p.concentration.dtype, q.concentration.dtype)
    k1, k2 = p.concentration.to(dtype), q.concentration.to(dtype)
    result = vmf.kl_to_another(k1, k2, _separation(p, q), dim)
    if p._tracked is None and q._tracked is None:
        return result
    v1, v2 = p._natural_parameter().to(dtype), q._natural_parameter().to(dtype)
    return natural.kl_to_another(result, v1, v2)


@register_kl(PowerSpherical, VonMisesFisher)
def _kl_power_spherical_von_mises_fisher(p: PowerSpherical, q: VonMisesFisher) -> Tensor:
    dim, _ = _common(p, q)
    dtype = torch.promote_types(p.concentration.dtype, q.concentration.dtype)
    k1, k2 = p.concentration.to(dtype), q.concentration.to(dtype)
    result, vector = ps.kl_to_von_mises_fisher(k1, k2, _separation(p, q), dim), q._tracked
    if vector is None:
        return result
    vector = vector.to(dtype)
    partition = natural.log_partition(torch.zeros_like(k2), vector)  # its derivatives
    form = ps.kl_to_uniform(k1, dim) + partition - (p.mean * vector).sum(-1)
    return natural.with_derivatives_of(form, result)
