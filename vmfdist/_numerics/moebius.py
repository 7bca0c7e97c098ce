r"""Moebius maps of the unit ball and sphere, and the point of the ball amid unit vectors.

The map that moves the centre of the ball to a and turns nothing there is Moebius addition,

.. math::

    a \oplus b = \frac{(1 + 2\langle a, b\rangle + |b|^2)\, a + (1 - |a|^2)\, b}
    {1 + 2\langle a, b\rangle + |a|^2 |b|^2}

References:
    * A. A. Ungar (2008), A gyrovector space approach to hyperbolic geometry, section 1.3.
    * A. Douady and C. J. Earle (1986), Conformally natural extension of homeomorphisms of the
      circle, Acta Mathematica 157, 23-48 (the conformal barycentre).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vmfdist._numerics.rows import dot

# Each goes half a unit of length at least where the solution is far, and there are enough to reach
# the end and to double the digits next to the solution.
_STEPS = 50

# Newton's step is cut at this length, at which it goes to the end in ten.
_LONGEST_STEP = 0.8

#: The length of a point at which its search ends. Closer to the sphere than that float64 does not
#: hold the direction from a point to unit vectors next to it.
END = 1 - 2.0**-32


def add(a: Tensor, b: Tensor) -> Tensor:
    """The image of b under the map that moves 0 to a; both in the ball, b on the sphere too."""
    inner = 2 * dot(a, b).unsqueeze(-1)
    a2, b2 = (dot(x, x).unsqueeze(-1) for x in (a, b))
    divisor = (1 + inner + a2 * b2).clamp(min=torch.finfo(a.dtype).tiny)
    return ((1 + inner + b2) * a + (1 - a2) * b) / divisor


def conformal_barycentre(x: Tensor, weights: Tensor) -> Tensor:
    """The centre a of the ball whose map moves unit vectors of the mean 0 to x.

    It maximises the mean of log((1 - |a|^2) / |x - a|^2), a concave function along geodesics, from
    the origin, to where a is moved each time: by Newton's step, or by that of the gradient where
    this is higher. The latter always rises, since no second derivative is larger than that of the
    whole sphere. The centre exists unless half of the weight is on one vector, to which it then
    goes.

    Args:
        x: unit vectors of shape (..., n, d) in float64.
        weights: of sum 1, of shape (..., n).

    Returns:
        Points of shape (..., d), differentiable once in x and weights.
    """
    with torch.no_grad():
        a = x.new_zeros(torch.broadcast_shapes(x.shape[:-2], weights.shape[:-1]) + x.shape[-1:])
        for _ in range(_STEPS):
            newton, gradient = (_confined(add(a, step)) for step in _steps(a, x, weights))
            higher = _height(newton, x, weights) >= _height(gradient, x, weights)
            a = torch.where(higher.unsqueeze(-1), newton, gradient)
    return _confined(add(a, _steps(a, x, weights)[0]))


def _height(a: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """The mean of log((1 - |a|^2) / |x - a|^2)."""
    length = torch.linalg.vector_norm(a, dim=-1)
    squared = (x - a.unsqueeze(-2)).square().sum(-1)
    return torch.log((1 - length) * (1 + length)) - (weights * torch.log(squared)).sum(-1)


def _confined(a: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
    return a * (END / length.clamp(min=END))


def _steps(a: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """With y the vectors moved back, of mean m and second moment S: (1 - S)^-1 m / 2 and m / 2."""
    a = a.unsqueeze(-2)
    way, length = x - a, torch.linalg.vector_norm(a, dim=-1, keepdim=True)
    shrink = (1 - length) * (1 + length) / dot(way, way).unsqueeze(-1)
    y = torch.nn.functional.normalize(shrink * way - a, dim=-1)
    weighted = weights.unsqueeze(-1) * y
    mean, moment = weighted.sum(-2), (weighted.mT @ y).detach()
    # All on one line, 1 - S is singular along it: steps there are cut.
    slack = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) * (1 + 1e-12) - moment
    step = torch.linalg.solve(slack, mean.unsqueeze(-1)).squeeze(-1) / 2
    length = torch.linalg.vector_norm(step.detach(), dim=-1, keepdim=True)
    return step * (_LONGEST_STEP / length.clamp(min=_LONGEST_STEP)), mean / 2
