r"""The law of the cosine w = <x, loc> of a von Mises-Fisher law, as a map from a normal variable.

The cosine has the density proportional to :math:`e^{kw} (1 - w^2)^{(d-3)/2}` on [-1, 1].
:func:`transport` solves

.. math:: P(1 - w \le T(\zeta; k)) = \Phi(\zeta)

for the complement :math:`T = 1 - w` (in float32 at a concentration of 1e8 the cosine itself is 1),
together with the exact implicit derivative in the concentration. A standard normal
:math:`\zeta` thus becomes a cosine without rejection and without a random number of its own.

Method: with :math:`\theta = \arccos w` and :math:`u = \operatorname{artanh}(-w)` the density
:math:`e^{kw} (1 - w^2)^{(d-1)/2}` of :math:`u` is bell-shaped with its mode at
:math:`w_0 = 2k / (m + S)`, :math:`m = d - 1`, :math:`S = \sqrt{m^2 + 4k^2}`. The equation is solved
in :math:`u` for the normal score of the tail probability, a nearly linear function, by Halley's
method. Tail probabilities are Gauss-Legendre integrals over :math:`\theta` from the current point
towards the end that :math:`\zeta` points to, so that nothing is subtracted from 1. One regime
serves all dimensions and concentrations; in dimension 3 the equation has a closed solution.

Accuracy (float64): 1e-10 in units of :math:`\zeta` and 1e-9 relative in the derivative, for
:math:`|\zeta| \le 8` and concentrations up to 1e12; tests/test_cosine.py.

References:
    * M. Figurnov, S. Mohamed and A. Mnih (2018), Implicit reparameterization gradients,
      arXiv:1805.08498.
    * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 9.3 (tangent-normal
      decomposition).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist import _radial
from vmfdist._cache import cached_constant

__all__ = ["CosineDraw", "transport"]

_ROWS = 2048  # rows of a block: the nodes of one block are 0.8 MB and stay in the cache
_SQRT_HALF = math.sqrt(0.5)


class _Effort(NamedTuple):
    """What a dtype asks of the quadrature."""

    nodes: int
    reach: float  # the tail is cut where it has fallen by exp(-reach / 2)


_EFFORT = {torch.float32: _Effort(24, 45.0), torch.float64: _Effort(48, 80.0)}


def _iterations(m: int) -> int:
    """Steps of Halley's method from the start to rounding for |zeta| <= 8, measured for each m."""
    bounds = ((1, 9), (2, 7), (3, 6), (4, 5), (8, 4), (63, 3))
    return next((steps for bound, steps in bounds if m <= bound), 2)


class CosineDraw(NamedTuple):
    """A cosine w as drawn, and how it moves with the concentration."""

    one_minus_cosine: Tensor
    """t = 1 - w, to full relative accuracy."""

    rate: Tensor
    """d artanh(w) / d concentration = (dw/dk) / (1 - w^2), smooth and bounded by 2/(d - 1)."""


def transport(zeta: Tensor, concentration: Tensor, dim: int) -> CosineDraw:
    """Maps standard normal values to cosines of the von Mises-Fisher law.

    Args:
        zeta: standard normal values, of any shape.
        concentration: the concentration of each; the two shapes broadcast.
        dim: the dimension of the ambient space, at least 2.

    Returns:
        The cosines in the broadcast shape and the dtype of ``zeta``. Larger ``zeta`` means
        further from the mean direction.
    """
    k = concentration.to(torch.float64).clamp(max=1e300)  # stands for infinity
    z, k = torch.broadcast_tensors(zeta.to(torch.float64), k)
    effort = _EFFORT[zeta.dtype]

    def solve(z: Tensor, k: Tensor) -> CosineDraw:
        return _transport_in_dimension_3(z, k) if dim == 3 else _transport(z, k, dim, effort)

    if torch.compiler.is_compiling() or z.numel() <= _ROWS:
        draw = solve(z, k)
    else:
        blocks = zip(z.reshape(-1).split(_ROWS), k.reshape(-1).split(_ROWS), strict=True)
        draws = [solve(*block) for block in blocks]
        draw = CosineDraw(*(torch.cat(part).view_as(z) for part in zip(*draws, strict=True)))
    return CosineDraw(draw.one_minus_cosine.to(zeta.dtype), draw.rate.to(zeta.dtype))


def _transport_in_dimension_3(z: Tensor, k: Tensor) -> CosineDraw:
    r"""The complement t has the density k e^(-kt) / (1 - e^(-2k)) on [0, 2].

    With F = Phi(z): exp(-k t) = 1 - F (1 - e^(-2k)), and the rate d artanh(w)/dk is
    int_0^1 u e^(-b u) phi(a u) du / phi(2k), where a = kt, b = k(2 - t), phi(x) = (1 - e^-x)/x. Its
    closed form (t - 2 e^-b (1 - e^-a)/(1 - e^(-2k))) / (k t (2 - t)) cancels for small k.
    """
    k = k.clamp(min=1e-300)  # the limit at 0 without 0/0
    below, above = (
        0.5 * torch.special.erfc(-z * _SQRT_HALF),
        0.5 * torch.special.erfc(z * _SQRT_HALF),
    )
    shrink = torch.expm1(-2 * k)
    survival = above + below * torch.exp(-2 * k)  # P(1 - w > t)
    log_survival = torch.where(survival > 0.5, torch.log1p(below * shrink), torch.log(survival))
    t = (-log_survival / k).clamp(max=2.0)
    a = -log_survival
    # 2 - t without cancellation: exp(k (2 - t)) = 1 + above (e^(2k) - 1).
    rest = torch.log1p(above * torch.expm1(2 * k.clamp(max=300))) / k
    rest = torch.where(t < 1, 2 - t, rest.clamp(max=2.0))
    b = k * rest
    closed = (t + 2 * torch.exp(-b) * torch.expm1(-a) / -shrink) / (k * t * rest)
    node, weight = _nodes_and_weights(_EFFORT[torch.float64].nodes, z.device)
    au = a.unsqueeze(-1) * node
    integrand = node * torch.exp(-b.unsqueeze(-1) * node) * (-torch.expm1(-au) / au)
    series = (integrand @ weight) / (-shrink / (2 * k))
    return CosineDraw(t, torch.where(k < 10, series, closed))


@cached_constant(maxsize=8)
def _nodes_and_weights(nodes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], as eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    i = torch.arange(1, nodes, dtype=torch.float64)
    off_diagonal = i / torch.sqrt(4 * i * i - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return ((1 + values) / 2).to(device), vectors[0].square().to(device)


class _Tail(NamedTuple):
    """Integrals over the tail beyond a point, relative to the density of theta at the point."""

    probability: Tensor
    moment: Tensor  # of t' - t


def _tail(
    z: Tensor, k: Tensor, m: int, near: Tensor, far: Tensor, sign: Tensor, effort: _Effort
) -> _Tail:
    """Integrates over theta from the current point to the end that ``sign`` points to.

    ``near`` and ``far`` are 1 - w and 1 + w, exchanged where the end is w = -1. With theta' =
    theta + sign delta all is formed from sin(theta) and cos(theta), which are exact at both ends:
    sin(theta') / sin(theta) = cos(delta) + sign cot(theta) sin(delta) and
    t' - t = cos(theta) (1 - cos(delta)) + sign sin(theta) sin(delta).
    """
    node, weight = _nodes_and_weights(effort.nodes, z.device)
    to_end = 2 * torch.atan2(near.sqrt(), far.sqrt())
    spread = torch.hypot(k, torch.full_like(k, (m - 1) / 2)).clamp(min=1e-300).rsqrt()
    reach = 1.15 * (torch.sqrt(z * z + effort.reach) - 0.9 * z.abs()) * spread
    length = torch.minimum(to_end, 2 * torch.asin((reach / 2).clamp(max=1.0)))
    half_step = length.unsqueeze(-1) * (node / 2)
    a, b = torch.sin(half_step), torch.cos(half_step)
    sine = (near * far).sqrt().unsqueeze(-1)
    signed = sign.unsqueeze(-1)
    cosine = signed * (near - far).unsqueeze(-1) / 2
    change = 2 * a * (cosine * a + signed * sine * b)
    sine_ratio = 1 + 2 * a * (signed * (cosine / sine) * b - a)
    density = torch.exp((m - 1) * torch.log(sine_ratio) - k.unsqueeze(-1) * change)
    return _Tail((density @ weight) * length, ((density * change) @ weight) * length)


def _transport(z: Tensor, k: Tensor, dim: int, effort: _Effort) -> CosineDraw:
    m = dim - 1
    s = torch.hypot(2 * k, torch.full_like(k, m))
    w0 = 2 * k / (m + s)
    t0 = m * (1 + m / (s + 2 * k)) / (m + s)  # 1 - w0
    v0 = 2 * m / (m + s)  # 1 - w0^2
    sign = torch.where(z < 0, -1.0, 1.0).to(z)

    # Cornish-Fisher start from the second and third derivative of the log density of u at its mode.
    curvature = v0 * s
    skewness = v0 * (2 * w0 * s - 2 * k * v0) / curvature**1.5
    score = z - skewness / 3
    bend = skewness / 6 * score
    offset = score / curvature.sqrt() * (1 - bend / (1 + bend.abs()))  # of u from the mode

    def place(offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        odds = torch.exp(2 * offset)
        total = (2 - t0) + t0 * odds
        t, rest = 2 * t0 * odds / total, 2 * (2 - t0) / total  # 1 - w and 1 + w
        near, far = torch.where(sign < 0, t, rest), torch.where(sign < 0, rest, t)
        return t, rest, near, far

    # log density of theta at t = 0 per sin^(m-1): normaliser times the area of the unit tangents.
    log_scale = _radial.log_density_at_mode(k, dim) + _radial.log_sphere_area(m)
    for _ in range(_iterations(m)):
        t, rest, near, far = place(offset)
        v = t * rest
        log_density = log_scale - k * t + (m - 1) / 2 * torch.log(v)  # of theta
        density = torch.exp(log_density.clamp(min=-600.0))
        tail = _tail(z, k, m, near, far, sign, effort).probability * density
        reached = -sign * torch.special.ndtri(tail.clamp(1e-300, 1 - 1e-12))
        # f(u) = reached - z; f' = p_u / phi(reached); f''/f' = (log p_u)' + reached f'.
        f = reached - z
        slope = density * v.sqrt() * torch.exp(reached * reached / 2) * math.sqrt(2 * math.pi)
        curve = (m * (1 - t) - k * v) + reached * slope
        newton = f / slope
        step = newton / (1 - 0.5 * newton * curve).clamp(0.5, 2.0)
        limit = 2.5 if m > 3 else 8.0
        offset = offset - step.clamp(-limit, limit)

    t, rest, near, far = place(offset)
    beyond = _tail(z, k, m, near, far, sign, effort)
    # d artanh(w)/dk = -(d F/dk) / p_u, and -dF/dk is the integral of (t' - E t) over a tail.
    excess = t - _radial.one_minus_mean_resultant_length(k, dim)
    rate = sign * (beyond.moment + excess * beyond.probability) / torch.sqrt(t * rest)
    return CosineDraw(t, rate)
