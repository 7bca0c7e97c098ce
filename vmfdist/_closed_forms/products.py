r"""Integrals of products of powers of two von Mises-Fisher densities.

A product of powers, :math:`f_1^\alpha f_2^\beta`, is proportional to the density of natural
parameter :math:`\eta = \alpha \eta_1 + \beta \eta_2`, of length k and direction :math:`\mu`. With
the log-partition :math:`\Phi`, relative to the uniform law, the logarithm of its mean over the
sphere, in units of the uniform density to the power :math:`\alpha + \beta`, is

.. math:: L = \Phi(k) - \alpha \Phi(k_1) - \beta \Phi(k_2).

For :math:`\alpha + \beta = 1` the terms that are linear in the natural parameters cancel in

.. math:: -L = \alpha\, \mathrm{KL}(\eta \,\|\, \eta_1) + \beta\, \mathrm{KL}(\eta \,\|\, \eta_2),

and divergences keep their digits. Its derivatives, A being the mean resultant length and
:math:`s_i = 1 - \langle\mu, \mu_i\rangle`, are

.. math::

    \frac{\partial L}{\partial k_1} = \alpha\, (A(k) - A(k_1) - A(k)\, s_1), \qquad
    \frac{\partial L}{\partial (1 - \langle\mu_1, \mu_2\rangle)}
        = -\alpha \beta\, k_1 k_2\, \frac{A(k)}k.

Separations are given from both ends, near = 1 - <mu1, mu2> and far = 2 - near, each with its
digits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._closed_forms.natural import across_slope_over_k
from vmfdist._numerics.elementwise import refuse_derivative, with_derivative
from vmfdist._numerics.infinity import finite, steep

_Constant = tuple[int, float, float]  # the dimension, alpha and beta


class _Combined(NamedTuple):
    """The law of alpha eta1 + beta eta2."""

    k: Tensor
    separation1: Tensor  # 1 - <mu, mu1>
    separation2: Tensor
    lost: Tensor  # alpha k1 + beta k2 - k


def _combined(
    k1: Tensor, k2: Tensor, near: Tensor, far: Tensor, alpha: float, beta: float
) -> _Combined:
    """All in units of the larger concentration, so that nothing over- or underflows.

    The square of the length is (u + v)^2 - 2 u v near = (u - v)^2 + 2 u v far.
    """
    far = far.detach() + (near.detach() - near)  # which has the derivative of 2 - near
    k1, k2 = finite(k1), finite(k2)
    scale = torch.maximum(k1, k2)
    scale = torch.where(scale > 0, scale, 1.0)
    u, v = alpha * (k1 / scale), beta * (k2 / scale)
    product, sum_ = u * v, u + v
    is_near = near < 1
    square = torch.where(
        is_near | (product < 0),
        sum_ * sum_ - 2 * product * near,
        (u - v) * (u - v) + 2 * product * far,
    )
    zero = square <= 0
    length = torch.where(zero, 1.0, square).sqrt()
    cosine, sine_squared = torch.where(is_near, 1 - near, far - 1), near * far

    def separation(own: Tensor, other: Tensor) -> Tensor:
        along = own + other * cosine
        ahead = along > 0
        denominator = length * (length + torch.where(ahead, along, 0.0))
        return torch.where(ahead, other * other * sine_squared / denominator, 1 - along / length)

    separations = separation(u, v), separation(v, u)
    length = torch.where(zero, 0.0, length)
    denominator = sum_ + length
    lost = 2 * product * near / torch.where(denominator > 0, denominator, 1.0)
    k = (scale * length).clamp(max=torch.finfo(length.dtype).max)
    return _Combined(k, *separations, scale * lost)


def _in_first(k1: Tensor, k2: Tensor, near: Tensor, far: Tensor, constant: _Constant) -> Tensor:
    dim, alpha, beta = constant
    law = _combined(k1, k2, near, far, alpha, beta)
    rise = vmf.mean_resultant_length_difference(k1, law.k, dim)
    return alpha * (rise - vmf.mean_resultant_length(law.k, dim) * law.separation1)


def _in_second(k1: Tensor, k2: Tensor, near: Tensor, far: Tensor, constant: _Constant) -> Tensor:
    dim, alpha, beta = constant
    return _in_first(k2, k1, near, far, (dim, beta, alpha))


def _in_near(k1: Tensor, k2: Tensor, near: Tensor, far: Tensor, constant: _Constant) -> Tensor:
    dim, alpha, beta = constant
    k = _combined(k1, k2, near, far, alpha, beta).k
    return -alpha * beta * steep(finite(k1) * (finite(k2) * vmf.tangent_variance(k, dim)))


@with_derivative(_in_first, _in_second, _in_near, None)
def log_mean_of_powers(
    k1: Tensor, k2: Tensor, near: Tensor, far: Tensor, constant: _Constant
) -> Tensor:
    """L for alpha + beta = 1, to full relative accuracy where both are positive."""
    dim, alpha, beta = constant
    law = _combined(k1, k2, near, far, alpha, beta)
    first = vmf.kl_to_another(law.k, finite(k1), law.separation1, dim)
    second = vmf.kl_to_another(law.k, finite(k2), law.separation2, dim)
    return -(alpha * first + beta * second)


@with_derivative(_in_first, _in_second, _in_near, None)
def log_product_integral(
    k1: Tensor, k2: Tensor, near: Tensor, far: Tensor, constant: _Constant
) -> Tensor:
    """L less the log area of the sphere, for alpha = beta = 1; no terms of size k cancel."""
    dim, alpha, beta = constant
    law = _combined(k1, k2, near, far, alpha, beta)
    top1, top2, top = (vmf.log_density_at_mode(k, dim) for k in (finite(k1), finite(k2), law.k))
    return top1 + top2 - top - law.lost


@with_derivative(refuse_derivative("third derivatives in a natural parameter are not implemented"))
def _half_tangent_variance_slope(square: Tensor, dim: int) -> Tensor:
    return across_slope_over_k(square.sqrt(), dim) / 4


@with_derivative(_half_tangent_variance_slope)
def _half_tangent_variance(square: Tensor, dim: int) -> Tensor:
    return vmf.tangent_variance(square.sqrt(), dim) / 2


@with_derivative(_half_tangent_variance)
def log_partition_of_square(square: Tensor, dim: int) -> Tensor:
    """Phi as a function of the squared length of a natural parameter, smooth at 0."""
    return vmf.log_partition(square.sqrt(), dim)
