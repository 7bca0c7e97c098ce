r"""The direction of greatest mean of log(1 + <x, mu>), for unit vectors x.

Seen from a direction :math:`\mu`, in the stereographic projection from its antipode, vectors are at
:math:`y = x_\perp / (1 + \langle x, \mu\rangle)` of the tangent space, :math:`x_\perp` their part
across. The mean has the gradient :math:`\overline y` along the sphere and the second derivative
:math:`-(\overline{y y^T} + c)`, :math:`c = \overline{w / (1 + w)}` with the cosine w.

In the ball the mean is concave. So where c is not negative a maximum is the greatest: its gradient
there, :math:`c \mu`, points out of the ball. Else there may be others, as at low concentration: the
mean is minus infinity at the antipode of every vector. To pass between these, :math:`\rho` rises
from 0 to 1 in the mean of :math:`\log(1 + \rho \langle x, \mu\rangle)`: first its maximum is the
direction of the mean, and there is no other, and the poles sharpen bit by bit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vmfdist._numerics.infinity import finite
from vmfdist._numerics.rows import dot

# 1 - rho is halved this many times, down to where what is left of poles is narrower than what lies
# between those of many vectors; then come steps at rho = 1, which at the maximum double the digits.
_HALVINGS, _STEPS = 12, 12
_SHARPNESS = (*(1 - 0.5**j for j in range(1, _HALVINGS + 1)), *(1.0,) * _STEPS)

_TINY = 1e-300  # in place of 0, whose logarithm and inverse are infinite


def highest_direction(x: Tensor, weights: Tensor) -> Tensor:
    """A direction at which the mean of log(1 + <x, mu>) has a maximum.

    Args:
        x: unit vectors of shape (..., n, d) in float64.
        weights: of sum 1, of shape (..., n).

    Returns:
        Unit vectors of shape (..., d), differentiable once in x and weights.
    """
    with torch.no_grad():
        mu = _start((weights.unsqueeze(-1) * x).sum(-2))
        for rho in _SHARPNESS:
            mu = _risen(_View(mu, x, weights, rho))
    return normalize(mu + _View(mu, x, weights).newton(), dim=-1)


def _start(mean: Tensor) -> Tensor:
    """The direction of the mean; where that is 0, one that is as good as any, and no axis."""
    any_one = torch.arange(1, mean.shape[-1] + 1, dtype=mean.dtype, device=mean.device).cos()
    lost = torch.linalg.vector_norm(mean, dim=-1, keepdim=True) < 1e-12
    return normalize(torch.where(lost, any_one, mean), dim=-1)


class _View:
    """The vectors as they are seen from mu, with the mean's derivatives."""

    def __init__(self, mu: Tensor, x: Tensor, weights: Tensor, rho: float = 1.0) -> None:
        pole = mu.unsqueeze(-2)
        self.mu, self.x, self.weights, self.rho = mu, x, weights, rho
        self.cosine = dot(x, pole)
        far = (x + pole).square().sum(-1) / 2  # 1 + w
        self.far = (1 - rho + rho * far).clamp(min=_TINY)
        y = rho * (x - self.cosine.unsqueeze(-1) * pole) / self.far.unsqueeze(-1)
        weighted = weights.unsqueeze(-1) * y
        self.gradient = weighted.sum(-2)
        self.moment = (weighted.mT @ y).detach()
        self.level = (weights * (rho * self.cosine / self.far)).sum(-1).detach()

    def newton(self) -> Tensor:
        return self._solved(torch.where(self.level.abs() < _TINY, _TINY, self.level))

    def uphill(self) -> Tensor:
        """A step that rises whatever the second derivative, if it is short enough."""
        return self._solved(self.level.abs() + 2.0**-6)

    def _solved(self, level: Tensor) -> Tensor:
        matrix = self.moment + torch.diag_embed(level.unsqueeze(-1).expand_as(self.mu))
        step, _ = torch.linalg.solve_ex(matrix, self.gradient.unsqueeze(-1))
        return finite(step.squeeze(-1)).nan_to_num(0.0)

    def rises(self, across: Tensor, angles: Tensor) -> Tensor:
        """Of the mean, on turning by angles (..., m) towards a direction across, for each."""
        towards = dot(self.x, across.unsqueeze(-2)).unsqueeze(-2)
        half = angles.unsqueeze(-1) / 2
        change = 2 * half.sin() * (half.cos() * towards - half.sin() * self.cosine.unsqueeze(-2))
        share = (self.rho * change / self.far.unsqueeze(-2)).clamp(min=-1 + 2.0**-53)
        return (self.weights.unsqueeze(-2) * torch.log1p(share)).sum(-1)


def _risen(view: _View) -> Tensor:
    """The highest of directions along two steps, of a radian at most; or where it was, if none."""
    best, rise = view.mu, torch.zeros_like(view.level)
    lengths = 0.5 ** torch.arange(-2, 10, dtype=best.dtype, device=best.device)
    for step in (view.newton(), view.uphill()):
        size = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
        across = step / size.clamp(min=_TINY)
        angles = (size * lengths).clamp(max=1.0)
        gain, which = view.rises(across, angles).max(-1)
        angle = angles.take_along_dim(which.unsqueeze(-1), -1)
        turned = normalize(angle.cos() * view.mu + angle.sin() * across, dim=-1)
        best = torch.where((gain > rise).unsqueeze(-1), turned, best)
        rise = torch.maximum(rise, gain)
    return best
