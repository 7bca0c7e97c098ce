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
SC, uniform; uniform, SC   :math:`(d - 1)\, \mathrm E \log(\cosh k + w \sinh k)`
any, vMF                   :math:`\mathrm{KL}(p \,\|\, \mathrm{uniform}) + \Phi(\kappa_2) -
                           \kappa_2 M \langle\mu_1, \mu_2\rangle`
PS, vMF                    :math:`\mathrm{KL}(\mathrm{PS} \,\|\, \mathrm{uniform}) +
                           \Phi(\kappa_2) - \kappa_2 M(\kappa_1) \langle\mu_1, \mu_2\rangle`
any, PS                    :math:`\mathrm{KL}(p \,\|\, \mathrm{uniform}) + \Psi(\kappa_2) -
                           \kappa_2 \mathrm E_p \log((1 + \langle x, \mu_2\rangle)/2)`
=========================  ======================================================================

PS is the power spherical law, :math:`\Psi(\kappa) = \log \mathrm E ((1 + w)/2)^\kappa` for a
coordinate w of a uniform unit vector, and :math:`M` the mean resultant length. SC is the spherical
Cauchy law, :math:`k = 2 \operatorname{artanh} \rho`. The last mean is an integral
(:mod:`vmfdist._families.mean_log`), all else is in closed form.

The first three terms of the divergence between two von Mises-Fisher laws are the Bregman divergence
of :math:`\Phi`, which :mod:`vmfdist._closed_forms.von_mises_fisher` forms without cancellation.

References:
    * A. Banerjee, I. Dhillon, J. Ghosh and S. Sra (2005), Clustering on the unit hypersphere using
      von Mises-Fisher distributions, JMLR 6, 1345-1382 (exponential family of the law).
    * A. Banerjee, S. Merugu, I. Dhillon and J. Ghosh (2005), Clustering with Bregman divergences,
      JMLR 6, 1705-1749.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import register_kl

from vmfdist._closed_forms import natural
from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._families.mean_log import mean_log
from vmfdist._numerics.chords import inner_product, squared_chord
from vmfdist._numerics.elementwise import refuse_derivative, with_derivative
from vmfdist._numerics.infinity import finite, steepened
from vmfdist._numerics.precision import in_float64
from vmfdist._numerics.rows import expanded
from vmfdist._validation import common_shape
from vmfdist.hyperspherical_uniform import HypersphericalUniform
from vmfdist.power_spherical import PowerSpherical
from vmfdist.rotational import RotationallySymmetric
from vmfdist.von_mises_fisher import VonMisesFisher

__all__: list[str] = []

_Law = RotationallySymmetric | HypersphericalUniform


def _common(p: _Law, q: _Law) -> tuple[int, torch.Size]:
    """The dimension that both laws have, and the shape of their divergences."""
    return p.dim, common_shape(p, q, "a divergence")


def _given(p: RotationallySymmetric, q: RotationallySymmetric) -> tuple[Tensor, Tensor, Tensor]:
    """Both strengths and 1 - <mu_1, mu_2>, in one dtype."""
    (loc1, _), (loc2, k2), k1 = p._given, q._given, p._strength
    dtype = torch.promote_types(k1.dtype, k2.dtype)
    return k1.to(dtype), k2.to(dtype), squared_chord(loc1, loc2, k2) / 2


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
    dim, shape = _common(p, q)
    result = vmf.kl_to_another(*_given(p, q), dim)
    if p._tracked is not None or q._tracked is not None:
        eta1, eta2 = (law._natural_parameter().to(result.dtype) for law in (p, q))
        result = natural.kl_to_another(result, eta1, eta2)
    return expanded(result, shape)


@register_kl(PowerSpherical, VonMisesFisher)
def _kl_power_spherical_von_mises_fisher(p: PowerSpherical, q: VonMisesFisher) -> Tensor:
    dim, shape = _common(p, q)
    result = ps.kl_to_von_mises_fisher(*_given(p, q), dim)
    return expanded(_with_natural_derivatives(result, p, q), shape)


@register_kl(RotationallySymmetric, VonMisesFisher)
def _kl_to_von_mises_fisher(p: RotationallySymmetric, q: VonMisesFisher) -> Tensor:
    dim, shape = _common(p, q)
    k1, k2, separation = _given(p, q)
    means = p._family.mean_cosine(k1, dim), p._family.one_minus_mean_cosine(k1, dim)
    cross = vmf.mean_log_ratio(k2, *means, separation, dim)
    result = _with_cross_term(cross, p, k1, k2, separation)
    return expanded(_with_natural_derivatives(result, p, q), shape)


def _with_cross_term(
    cross: Tensor, p: RotationallySymmetric, k1: Tensor, k2: Tensor, separation: Tensor
) -> Tensor:
    """From p, with the mean of the log density of the uniform law over the other, or the limit."""
    result = (p._family.kl_to_uniform(k1, p.dim) + cross).clamp(min=0)  # of terms that cancel
    to_point = torch.where(torch.isinf(k1) & (separation == 0), 0.0, math.inf)
    return torch.where(torch.isinf(k2), to_point, result)


@register_kl(RotationallySymmetric, PowerSpherical)
def _kl_to_power_spherical(p: RotationallySymmetric, q: PowerSpherical) -> Tensor:
    dim, shape = _common(p, q)
    (loc1, _), (loc2, k2), k1 = p._given, q._given, p._strength
    dtype = torch.promote_types(k1.dtype, k2.dtype)
    chords = (squared_chord(loc1, pole, k2) for pole in (loc2, -loc2))
    near, far = (in_float64(steepened(chord)) / 2 for chord in chords)
    k1, k2 = in_float64(k1), in_float64(k2)
    level = mean_log(k1, near, far, p._family, dim)
    cross = ps.log_partition(finite(k2), dim) - finite(k2) * level
    result = _with_cross_term(cross, p, k1, k2, near).to(dtype)
    if isinstance(p, VonMisesFisher) and p._tracked is not None:
        # At the natural parameter 0, which has no direction, Cov(x, log((1 + <x, mu_2>)/2)) of the
        # uniform law is mu_2 / (d - 1).
        vector = p._tracked.to(dtype)
        along = inner_product(vector - vector.detach(), loc2.detach().to(dtype))
        is_zero = (vector == 0).all(-1)
        result = (
            result - torch.where(is_zero, finite(k2.detach()).to(dtype) / (dim - 1), 0.0) * along
        )
    return expanded(_once(result, None), shape)


@with_derivative(
    refuse_derivative(
        "second derivatives of the divergence to a power spherical law are not implemented: "
        "differentiate once only"
    )
)
def _one(x: Tensor, _: None) -> Tensor:
    return torch.ones_like(x)


@with_derivative(lambda x, _: _one(x, None))
def _once(x: Tensor, _: None) -> Tensor:
    """x, to be differentiated once."""
    return x.clone()


def _with_natural_derivatives(
    result: Tensor, p: RotationallySymmetric, q: VonMisesFisher
) -> Tensor:
    """The same divergence, with its derivatives in the natural parameter that q was made of."""
    if q._tracked is None:
        return result
    vector = q._tracked.to(result.dtype)
    partition = natural.log_partition(torch.zeros_like(vector[..., 0]), vector)
    form = p._kl_to_uniform() + partition - inner_product(p._mean(), vector)
    return natural.with_derivatives_of(form, result)
