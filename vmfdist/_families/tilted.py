"""Families that are exponential tilts of the uniform law: their cosines by quadrature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._families.family import Family
from vmfdist._numerics.constants import cached_tensor
from vmfdist._numerics.elementwise import refuse_derivative, with_derivative
from vmfdist._numerics.infinity import finite, outside
from vmfdist._numerics.precision import in_float64
from vmfdist._sampling import noise_to_cosine, quadrature
from vmfdist._sampling.noise_to_cosine import CosineDraw
from vmfdist._sampling.quadrature import FINE, Probability, Quantile
from vmfdist._sampling.tilt import Tilt, cosine_ends

refuse_second_derivative = refuse_derivative(
    "second derivatives in the concentration of a probability, quantile or draw of the cosine are "
    "not implemented: differentiate log_prob, or once only"
)

# Quadrature takes squares of concentrations. Beyond this one the law of k t stays as it is.
_HIGH = 1e150


def _capped(k: Tensor) -> tuple[Tensor, Tensor]:
    """A concentration that quadrature takes, and the factor by which its t is larger."""
    return k.clamp(max=_HIGH), (k / _HIGH).clamp(min=1.0)


class Tilted(Tilt, Family):
    """A tilt of the uniform law; what it gives are closed forms and the methods of the tilt."""

    def cosine_log_density(
        self, t: Tensor, rest: Tensor, k: Tensor, dim: int, less: int = 3
    ) -> Tensor:
        constant = self.log_density_at_mode(finite(k), dim) + log_sphere_area(dim - 1)
        return constant + _log_tilt(t, rest, k, (self, (dim - less) / 2))

    def cosine_entropy(self, k: Tensor, dim: int) -> Tensor:
        """In dimension 3 in closed form, else with a mean of log(1 - w^2) by quadrature."""
        steep, factor = _capped(in_float64(k))
        constant = self.log_density_at_mode(steep, dim) + log_sphere_area(dim - 1)
        result = steep * self.mean_statistic(steep, dim) - constant - torch.log(factor)
        if dim != 3:
            result = result - (dim - 3) / 2 * _mean_log_complement(steep, (self, dim))
        return result.to(k.dtype)

    def probability(self, t: Tensor, rest: Tensor, k: Tensor, dim: int) -> Probability:
        k, factor = _capped(k)
        high = torch.where(t == 0, 0.0, t * factor).clamp(1e-300, 2.0)
        rest = torch.where(factor > 1, 2 - high, rest).clamp(min=1e-300)
        flat = high.reshape(-1), rest.reshape(-1), k.reshape(-1)
        parts = quadrature.probability(*flat, dim=dim, tilt=self)
        below, above, slope = (part.reshape(t.shape) for part in parts)
        return Probability(below, above, slope / factor)

    def quantile(self, zeta: Tensor, k: Tensor, dim: int) -> Quantile:
        k, factor = _capped(k)
        u, rate = quadrature.solve(zeta.reshape(-1), k.reshape(-1), dim, self, FINE)
        return Quantile(
            u.reshape(zeta.shape) - torch.log(factor) / 2, rate.reshape(zeta.shape) / factor
        )

    def to_cosine(self, zeta: Tensor, k: Tensor, dim: int, with_rate: bool = True) -> CosineDraw:
        return noise_to_cosine.transport(zeta, k, dim, self, with_rate)

    def of_noise(
        self, zeta: Tensor, across: Tensor, k: Tensor, dim: int, with_rate: bool = True
    ) -> CosineDraw:
        return self.to_cosine(zeta if dim > 2 else across, k, dim, with_rate)


@with_derivative(
    lambda t, rest, k, law: law[0].log_tilt_slope(t, rest, finite(k), law[1]),
    None,  # the derivative in rest is in that in t
    lambda t, rest, k, law: -law[0].statistic(t, rest),
)
def _log_tilt(t: Tensor, rest: Tensor, k: Tensor, law: tuple[Tilt, float]) -> Tensor:
    """-k s + power log(t rest), for a tilt and a power; at infinity the point mass at t = 0."""
    tilt, power = law
    finite_k = finite(k)
    point = (finite_k - k) * outside(t)  # 0 for a finite k, else infinity of either sign
    result = tilt.log_tilt(t, rest, finite_k, power)
    return torch.where(point == 0, result, point)


# --------------------------------------------------------------------------------------------------
# The mean of log(1 - w^2), for the entropy
# --------------------------------------------------------------------------------------------------


@cached_tensor(maxsize=8)
def _normal_rule() -> Tensor:
    """Nodes and weights of the mean of a smooth function of a standard normal variable, two rows.

    The trapezoidal rule, which converges geometrically for analytic functions that decay at both
    ends (Trefethen and Weideman 2014, doi:10.1137/130932132).
    """
    zeta = torch.linspace(-9, 9, 145, dtype=torch.float64, device="cpu")
    weight = torch.exp(-zeta * zeta / 2)
    return torch.stack([zeta, weight / weight.sum()])


def _mean_over_quantiles(k: Tensor, law: tuple[Tilted, int], function: Any) -> Tensor:
    """The mean of a function of (t, rest, du/dk), over the quantiles at normal scores."""
    family, dim = law
    zeta, weight = _normal_rule(like=k).unbind()
    zeta, rows = (x.contiguous() for x in torch.broadcast_tensors(zeta, k.reshape(-1, 1)))
    u, rate = family.quantile(zeta, rows, dim)
    return (function(*cosine_ends(u), -rate) * weight).sum(-1).reshape(k.shape)


@with_derivative(refuse_second_derivative)
def _mean_log_complement_slope(k: Tensor, law: tuple[Tilted, int]) -> Tensor:
    """d log(1 - w^2) / du = 2w."""
    return _mean_over_quantiles(k, law, lambda t, rest, slope: (rest - t) * slope)


@with_derivative(_mean_log_complement_slope)
def _mean_log_complement(k: Tensor, law: tuple[Tilted, int]) -> Tensor:
    """E log(1 - w^2)."""
    return _mean_over_quantiles(k, law, lambda t, rest, _: torch.log(t) + torch.log(rest))
