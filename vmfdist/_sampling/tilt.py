r"""Tilts of the uniform law: the cosine laws that quadrature can handle.

With :math:`t = 1 - w`, V = 1 - w^2 = t (2 - t) and m = d - 1, the cosine of a uniform unit vector
has the density proportional to :math:`V^{m/2-1}` of w, which is :math:`V^{m/2}` of
:math:`u = \operatorname{artanh}(-w)` and :math:`V^{(m-1)/2}` of :math:`\theta = \arccos w`. A tilt
multiplies it by :math:`e^{-k s(t)}`, with a convex function s, s(0) = 0:

=================  =======================================  ==============================
law                tilt                                     s
=================  =======================================  ==============================
von Mises-Fisher   :math:`e^{k (w - 1)}`                    :math:`t`
power spherical    :math:`((1 + w)/2)^k`                    :math:`-\log(1 - t/2)`
=================  =======================================  ==============================

All that :mod:`vmfdist._sampling.quadrature` needs to know of a law is the class :class:`Tilt`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


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

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """t and 2 - t at the point."""
        up = self.sign > 0
        return torch.where(up, self.far, self.near), torch.where(up, self.near, self.far)


def cosine_ends(u: Tensor) -> tuple[Tensor, Tensor]:
    """1 - w and 1 + w at u = artanh(-w): the smaller to relative accuracy, the larger rounded."""
    smaller = 2 * torch.sigmoid(-2 * u.abs())
    return torch.where(u < 0, smaller, 2 - smaller), torch.where(u < 0, 2 - smaller, smaller)


class Tilt(ABC):
    """What tells one tilt from another; k, t and so on are float64 tensors that broadcast.

    A tilt gives the first four methods. The others follow from them where s and its derivatives are
    finite. One whose s is infinite at w = -1 gives those that meet it there, in place of the
    fourth.
    """

    #: Nodes are crowded at the end of a path by 1 - (1 - x)^power: the integrand is analytic there
    #: (1), or a power that is no integer, with a logarithm (4).
    crowding: ClassVar[int] = 1

    @abstractmethod
    def log_density_at_mode(self, k: Tensor, dim: int) -> Tensor:
        """Of the law on the sphere, at its mean direction."""

    @abstractmethod
    def mean_statistic(self, k: Tensor, dim: int) -> Tensor:
        """The mean of s."""

    @abstractmethod
    def statistic(self, t: Tensor, rest: Tensor) -> Tensor:
        """s at t, rest = 2 - t."""

    def statistic_slopes(self, t: Tensor, rest: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """The first two derivatives of s with respect to t."""
        raise NotImplementedError

    def log_tilt(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
        """-k s + power log(t rest), where these are infinite too; k is not."""
        tilted = -k * self.statistic(t, rest)
        if not power:
            return tilted
        v = t * rest
        logarithm = power * torch.log(v)
        return torch.where(v == 0, logarithm, logarithm + tilted)

    def log_tilt_slope(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
        """Its derivative with respect to t, rest moving along."""
        uniform = power / t - power / rest if power else 0.0
        return uniform - k * self.statistic_slopes(t, rest)[0]

    def slopes(self, t: Tensor, v: Tensor, k: Tensor, m: float) -> Slopes:
        """Derivatives with respect to u, in which t has the derivative V."""
        w = 1.0 - t
        first, second = self.statistic_slopes(t, 2.0 - t)
        statistic = v * first
        bend = v * (v * second + 2.0 * w * first)
        return Slopes(statistic, m * w - k * statistic, -m * v - k * bend)

    def mode(self, k: Tensor, m: float) -> Mode:
        """The mode of u, whose log density is concave; by bisection, without its skewness."""
        low, high = torch.full_like(k, -350.0), torch.full_like(k, 350.0)
        for _ in range(60):
            u = (low + high) / 2.0
            t, rest = cosine_ends(u)
            rises = self.slopes(t, t * rest, k, m).first > 0
            low, high = torch.where(rises, u, low), torch.where(rises, high, u)
        v = t * rest
        return Mode(1.0 - t, v, -self.slopes(t, v, k, m).second, torch.zeros_like(k))

    def antipode(self, k: Tensor, m: float) -> tuple[Tensor, Tensor]:
        """p and c with a density of theta about exp(c) x^(p-1) of that at t = 0, x = pi - theta."""
        return torch.full_like(k, m), -k * self.statistic(k.new_tensor(2.0), k.new_tensor(0.0))

    def rise(self, path: Path, step: Tensor) -> Tensor:
        """s less that at the start, where t is larger by the step."""
        t, rest = path.ends
        return self.statistic(t + step, rest - step) - self.statistic(t, rest)

    def along(self, path: Path, k: Tensor, m: float) -> tuple[Tensor, Tensor]:
        """log density of theta over that at the start, and s less that at the start.

        From sin and cos of theta, which are exact at both ends. With theta' = theta + sign delta:
        t' - t = cos(theta) (1 - cos(delta)) + sign sin(theta) sin(delta) and sin(theta') /
        sin(theta) = cos(delta) + sign cot(theta) sin(delta).
        """
        sine, cosine = (path.near * path.far).sqrt(), path.sign * (path.near - path.far) / 2.0
        across = path.sign * sine
        half_step = path.half_length * path.fraction
        a, b = torch.sin(half_step), torch.cos(half_step)
        a2 = a * 2.0
        change = self.rise(path, torch.addcmul(cosine * a, across, b).mul_(a2))
        exponent = -k * change
        if m > 1:
            sine_ratio = torch.addcmul(-a, cosine / across, b).mul_(a2)
            exponent.add_(torch.log1p(sine_ratio), alpha=m - 1.0)
        return exponent, change
