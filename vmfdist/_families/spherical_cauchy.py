r"""The family of spherical Cauchy laws: no tilt, but the uniform law with all cosines moved.

With :math:`w = \tanh(k - u)`, u has the law of a uniform unit vector at every strength k, which is
the hyperbolic distance 2 artanh(rho) for the concentration rho. So the probabilities, quantiles and
draws are the uniform law's, which the von Mises-Fisher family has at 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vmfdist._closed_forms import spherical_cauchy as sc
from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._families.family import Family
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._numerics.chords import squared_chord
from vmfdist._numerics.constants import pi
from vmfdist._numerics.infinity import finite
from vmfdist._sampling.noise_to_cosine import CosineDraw
from vmfdist._sampling.quadrature import Probability, Quantile


class _SphericalCauchy(Family):
    point_mass = 1.0
    mean_cosine = staticmethod(sc.mean_cosine)
    one_minus_mean_cosine = staticmethod(sc.one_minus_mean_cosine)
    cosine_variance = staticmethod(sc.cosine_variance)
    tangent_variance = staticmethod(sc.tangent_variance)
    kl_to_uniform = staticmethod(sc.kl_to_uniform)
    kl_from_uniform = staticmethod(sc.kl_to_uniform)  # they are the same

    def strength(self, concentration: Tensor) -> Tensor:
        return sc.distance(concentration)

    def log_density(self, value: Tensor, loc: Tensor, k: Tensor, dim: int) -> Tensor:
        # The squared chord is multiplied by e^2k, and by the dimension where that is small.
        near = squared_chord(value, loc, dim * torch.exp(2 * k.detach()))
        return sc.log_ratio(near, k, dim) - log_sphere_area(dim)

    def cosine_log_density(
        self, t: Tensor, rest: Tensor, k: Tensor, dim: int, less: int = 3
    ) -> Tensor:
        constant = log_sphere_area(dim - 1) - log_sphere_area(dim)
        result, power = sc.log_ratio(2 * t, k, dim) + constant, (dim - less) / 2
        if power:
            t, rest = (torch.where(torch.isinf(k), 1.0, x) for x in (t, rest))  # the point mass
            result = result + power * (torch.log(t) + torch.log(rest))
        return result

    def cosine_entropy(self, k: Tensor, dim: int) -> Tensor:
        return sc.cosine_entropy(k, dim)

    def probability(self, t: Tensor, rest: Tensor, k: Tensor, dim: int) -> Probability:
        t = t.clamp(min=1e-300)
        shrunk = rest * torch.exp(-2 * k)
        t, rest = 2 * t / (t + shrunk), 2 * shrunk / (t + shrunk)
        below, above, _ = VON_MISES_FISHER.probability(t, rest, torch.zeros_like(t), dim)
        density = self.cosine_log_density(t, rest, torch.zeros_like(t), dim, less=1)
        below, above = torch.where(rest == 0, 0.0, below), torch.where(rest == 0, 1.0, above)
        return Probability(below, above, torch.exp(density))

    def quantile(self, zeta: Tensor, k: Tensor, dim: int) -> Quantile:
        u, _ = VON_MISES_FISHER.quantile(zeta, torch.zeros_like(zeta), dim)
        return Quantile(u - k, torch.ones_like(u))

    def to_cosine(self, zeta: Tensor, k: Tensor, dim: int, with_rate: bool = True) -> CosineDraw:
        """From the end that is nearer, where the uniform cosine has its digits.

        Draws far from a concentrated law's mean direction come of those next to the antipode.
        """
        if dim == 2:  # half the angle has the distribution function of a normal variable's size
            scaled = zeta.abs() * math.sqrt(0.5)
            halves = torch.erf(scaled), torch.erfc(scaled)
            near, far = (torch.sin(half * (pi() / 2)).square() * 2 for half in halves)
        else:
            uniform = VON_MISES_FISHER.to_cosine(
                -zeta.abs(), zeta.new_zeros(()), dim, with_rate=False
            )
            near = uniform.one_minus_cosine
            far = 2 - near
            towards = zeta < 0
            near, far = torch.where(towards, near, far), torch.where(towards, far, near)
        shrunk = near * torch.exp(-2 * finite(k))
        t = 2 * shrunk / (shrunk + far.clamp_(min=torch.finfo(far.dtype).tiny))
        return CosineDraw(t, torch.ones_like(t) if with_rate else None)

    def of_noise(
        self, zeta: Tensor, across: Tensor, k: Tensor, dim: int, with_rate: bool = True
    ) -> CosineDraw:
        """The noise's own direction is uniform: its u is asinh(zeta over the length across).

        By a logarithm, which takes a fraction of the time, the absolute error being that of u - k.
        """
        across = across.clamp(min=torch.finfo(zeta.dtype).tiny ** 0.5)
        length = torch.addcmul(across.square(), zeta, zeta).sqrt_()
        larger = length.add_(zeta.abs()).div_(across)
        u = torch.copysign(larger.log_(), zeta).sub_(k)
        t = u.mul_(2).sigmoid_().mul_(2)
        return CosineDraw(t, torch.ones_like(t) if with_rate else None)


SPHERICAL_CAUCHY = _SphericalCauchy()
