r"""The cosine laws of rotationally symmetric laws, as exponential tilts of the uniform one.

With :math:`t = 1 - w`, V = 1 - w^2 = t (2 - t) and m = d - 1, the cosine of a uniform unit vector
has the density proportional to :math:`V^{m/2-1}` of w, which is :math:`V^{m/2}` of
:math:`u = \operatorname{artanh}(-w)` and :math:`V^{(m-1)/2}` of :math:`\theta = \arccos w`. A tilt
multiplies it by :math:`e^{-k s(t)}`, s(0) = 0:

=================  =======================================  ==============================
law                tilt                                     s
=================  =======================================  ==============================
von Mises-Fisher   :math:`e^{k (w - 1)}`                    :math:`t`
power spherical    :math:`((1 + w)/2)^k`                    :math:`-\log(1 - t/2)`
=================  =======================================  ==============================

All that :mod:`vmfdist._sampling.quadrature` needs to know of a law is here.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import sphere
from vmfdist._closed_forms import von_mises_fisher as vmf

__all__ = ["POWER_SPHERICAL", "VON_MISES_FISHER", "Mode", "Path", "Slopes", "Tilt"]


class Mode(NamedTuple):
    """Of the density of u: where it is, and the expansion of its logarithm there."""

    cosine: Tensor
    v: Tensor
    curvature: Tensor
    skewness: Tensor


class Slopes(NamedTuple):
    """Derivatives with respect to u: of s, and the first two of the log density of u."""

    statistic: Tensor
    first: Tensor
    second: Tensor


class Path(NamedTuple):
    """A way along theta, from a point towards an end: a number for each row but ``fraction``."""

    fraction: Tensor  # of the way, at the nodes
    remaining_fraction: Tensor  # 1 - fraction
    half_length: Tensor  # of the way, which may stop before the end
    half_remainder: Tensor  # from there to the end
    half_passed: Tensor  # from the other end to the point
    near: Tensor  # 1 -+ w at the point, for the end w = +-1
    far: Tensor  # 1 +- w
    sign: Tensor  # 1 towards w = -1


class Tilt(Protocol):
    """What tells one law from another; k, t and so on are float64 tensors that broadcast.

    s is a convex function of t.
    """

    #: Nodes are crowded at the end of a path by 1 - (1 - x)^power: the integrand is analytic there
    #: (1), or a power that is no integer, with a logarithm (4).
    crowding: int

    def log_density_at_mode(self, k: Tensor, dim: int) -> Tensor:
        """Of the law on the sphere, at its mean direction."""

    def mean(self, k: Tensor, dim: int) -> Tensor:
        """The mean of s."""

    def statistic(self, t: Tensor, rest: Tensor) -> Tensor:
        """s at t, rest = 2 - t."""

    def log_density(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
        """-k s + power log(t rest), where these are infinite too; k is not."""

    def log_density_slope(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
        """Its derivative with respect to t, rest moving along."""

    def slopes(self, t: Tensor, v: Tensor, k: Tensor, m: float) -> Slopes:
        """Derivatives with respect to u."""

    def mode(self, k: Tensor, m: float) -> Mode:
        """The mode of u."""

    def antipode(self, k: Tensor, m: float) -> tuple[Tensor, Tensor]:
        """p and c with a density of theta about exp(c) x^(p-1) of that at t = 0, x = pi - theta."""

    def along(self, path: Path, k: Tensor, m: float) -> tuple[Tensor, Tensor]:
        """log density of theta over that at the start, and s less that at the start."""


class _VonMisesFisher:
    crowding = 1

    def log_density_at_mode(self, k: Tensor, dim: int) -> Tensor:
        return vmf.log_density_at_mode(k, dim)

    def mean(self, k: Tensor, dim: int) -> Tensor:
        return vmf.one_minus_mean_resultant_length(k, dim)

    def statistic(self, t: Tensor, rest: Tensor) -> Tensor:
        return t

    def log_density(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
        if not power:
            return -k * t
        v = t * rest
        logarithm = power * torch.log(v)
        return torch.where(v == 0, logarithm, logarithm - k * t)

    def log_density_slope(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
        return (power / t - power / rest if power else 0.0) - k

    def slopes(self, t: Tensor, v: Tensor, k: Tensor, m: float) -> Slopes:
        w = 1.0 - t
        return Slopes(v, m * w - k * v, -v * (m + 2.0 * k * w))

    def mode(self, k: Tensor, m: float) -> Mode:
        s = torch.hypot(2.0 * k, torch.full_like(k, m))
        w, v = 2.0 * k / (m + s), 2.0 * m / (m + s)
        curvature = v * s
        return Mode(w, v, curvature, v * (2.0 * w * s - 2.0 * k * v) / curvature**1.5)

    def antipode(self, k: Tensor, m: float) -> tuple[Tensor, Tensor]:
        return torch.full_like(k, m), -2.0 * k

    def along(self, path: Path, k: Tensor, m: float) -> tuple[Tensor, Tensor]:
        """From sin and cos of theta, which are exact at both ends.

        With theta' = theta + sign delta: t' - t = cos(theta) (1 - cos(delta)) + sign sin(theta)
        sin(delta) and sin(theta') / sin(theta) = cos(delta) + sign cot(theta) sin(delta).
        """
        sine, cosine = (path.near * path.far).sqrt(), path.sign * (path.near - path.far) / 2.0
        across = path.sign * sine
        half_step = path.half_length * path.fraction
        a, b = torch.sin(half_step), torch.cos(half_step)
        a2 = a * 2.0
        change = torch.addcmul(cosine * a, across, b).mul_(a2)
        exponent = -k * change
        if m > 1:
            sine_ratio = torch.addcmul(-a, cosine / across, b).mul_(a2)
            exponent.add_(torch.log1p(sine_ratio), alpha=m - 1.0)
        return exponent, change


class _PowerSpherical:
    crowding = 4

    def log_density_at_mode(self, k: Tensor, dim: int) -> Tensor:
        return -(ps.log_partition(k, dim) + sphere.log_sphere_area(dim))

    def mean(self, k: Tensor, dim: int) -> Tensor:
        return -ps.mean_log(k, dim)

    def statistic(self, t: Tensor, rest: Tensor) -> Tensor:
        # Each branch is kept away from where it is infinite: its derivative would be NaN.
        near = t < 1.0
        by_t = torch.log1p(torch.where(near, t, 0.0) / -2.0)
        return -torch.where(near, by_t, torch.log(torch.where(near, 1.0, rest) / 2.0))

    def log_density(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
        # In dimension 2 at w = -1, where k s and the logarithm are infinite, their sum decides.
        half, at_antipode = rest / 2.0, k + power
        log_half = torch.where(t < 1.0, torch.log1p(t / -2.0), torch.log(half))
        by_rest = torch.where(at_antipode == 0, 0.0, at_antipode * log_half)
        return by_rest + power * torch.log(2.0 * t) if power else by_rest

    def log_density_slope(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
        at_antipode = k + power
        by_rest = torch.where(at_antipode == 0, 0.0, at_antipode / rest)
        return (power / t if power else 0.0) - by_rest

    def slopes(self, t: Tensor, v: Tensor, k: Tensor, m: float) -> Slopes:
        return Slopes(t, m * (1.0 - t) - k * t, -v * (m + k))

    def mode(self, k: Tensor, m: float) -> Mode:
        w = k / (m + k)
        v = m / (m + k) * (1.0 + w)
        curvature = v * (m + k)
        return Mode(w, v, curvature, 2.0 * w / curvature.sqrt())

    def antipode(self, k: Tensor, m: float) -> tuple[Tensor, Tensor]:
        return 2.0 * k + m, -math.log(4) * k

    def along(self, path: Path, k: Tensor, m: float) -> tuple[Tensor, Tensor]:
        """From the half-angles to both ends, since near w = -1 all is a power of that distance."""
        half_step = path.half_length * path.fraction
        to_go = path.half_remainder + path.half_length * path.remaining_fraction
        to_antipode = path.sign > 0
        t = torch.where(to_antipode, path.far, path.near)
        rest = torch.where(to_antipode, path.near, path.far)
        # t' - t, relative to 2 - t, by the sine of half the step and of what is midway
        midway = torch.minimum(  # they sum to pi
            path.half_remainder + path.half_length + to_go, path.half_passed * 2.0 + half_step
        )
        change = torch.sin(midway).mul_(torch.sin(half_step).mul_(2.0 * path.sign / rest))
        near_antipode = torch.log(torch.sin(to_go) / (rest / 2.0).sqrt()).mul_(-2.0)
        # Half way either has its digits.
        rise = torch.where(change < 0.5, -torch.log1p(-change), near_antipode)
        exponent = -k * rise
        if m > 1:
            half_angle = torch.where(to_antipode, path.half_passed + half_step, to_go)
            level = torch.sin(half_angle) / (t / 2.0).sqrt()
            exponent.add_(torch.log(level).mul_(2.0).sub_(rise), alpha=(m - 1.0) / 2.0)
        return exponent, rise


VON_MISES_FISHER: Tilt = _VonMisesFisher()
POWER_SPHERICAL: Tilt = _PowerSpherical()
