r"""Probabilities and quantiles of cosine laws, by quadrature in float64.

The law of a cosine w is a tilt of the uniform one, see :mod:`vmfdist._sampling.tilt`. Of
:math:`u = \operatorname{artanh}(-w)`, half the log odds of 1 - w against 1 + w, the density is
bell-shaped. :func:`probability` integrates it, :func:`solve` finds its quantile at
:math:`\Phi_N(\zeta)`, the normal distribution function.

Method: tail probabilities are Gauss-Legendre integrals over :math:`\theta = \arccos w` from a
point away from the mode, so that nothing is subtracted from 1, as far as a bound of the density
says that it matters. The quantile is the solution of an equation for the normal score of the tail
probability, a nearly linear function of u, by Halley's method. One regime serves all dimensions and
concentrations. tests/test_quadrature.py shows what the constants do.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._closed_forms import sphere
from vmfdist._numerics.blocks import in_blocks
from vmfdist._numerics.constants import cached_tensor, pi, static
from vmfdist._sampling.tilt import Path, Tilt

_BLOCK_BYTES = 1_600_000  # of a number at each node of a block of rows: these stay in the cache


class Effort(NamedTuple):
    """What an accuracy asks of the quadrature."""

    nodes: int
    reach: int  # the path ends where the density has fallen by exp(-reach) or more


# By trial: the fewest nodes for the accuracy, and the reach that suits them.
COARSE = Effort(16, 20)  # 2e-7
FINE = Effort(24, 29)  # 2e-11


class Quantile(NamedTuple):
    """A quantile, and how it moves with the concentration."""

    u: Tensor
    """artanh(-w), half the log odds of 1 - w against 1 + w."""

    rate: Tensor
    """-du/dk."""


class Probability(NamedTuple):
    """Of cosines on either side of a point, and how the second moves with the concentration."""

    below: Tensor
    above: Tensor
    slope: Tensor


# Of Halley's method, to rounding: by trial for all dimensions and scores up to 37.
_STEPS = 7


def _far() -> float:
    return 345.0  # u where 1 -+ w is about the least number, 1e-299


def solve(zeta: Tensor, k: Tensor, dim: int, tilt: Tilt, effort: Effort) -> Quantile:
    """The quantiles at Phi_N(zeta), for float64 tensors of shape (n,)."""
    quantile = Quantile(_start(zeta, k, dim, tilt), zeta)
    for _ in range(_STEPS):
        quantile = refine(zeta, k, dim, tilt, quantile.u, effort)
    return quantile


def _start(zeta: Tensor, k: Tensor, dim: int, tilt: Tilt) -> Tensor:
    m = dim - 1.0
    # Cornish-Fisher from the second and third derivative of the log density at the mode ...
    w, v, curvature, skewness = tilt.mode(k, m)
    score = zeta - skewness / 3.0
    bend = skewness / 6.0 * score
    from_mode = score / curvature.sqrt() * (1.0 - bend / (1.0 + bend.abs()))
    u = from_mode + torch.log(v) / 2.0 - torch.log1p(w)
    # ... but next to an end the density of theta is a power, and so is the probability.
    beyond = zeta > 0
    antipode_power, antipode_factor = tilt.antipode(k, m)
    power = torch.where(beyond, antipode_power, m)
    factor = torch.where(beyond, antipode_factor, 0.0) + _log_scale(k, dim, tilt)
    log_angle = (torch.special.log_ndtr(-zeta.abs()) + torch.log(power) - factor) / power
    end = (math.log(2) - log_angle).clamp(max=_far())
    is_near_end = log_angle + 0.5 * torch.log(k + m) < 0  # within a spread of the angle
    return torch.where(is_near_end, torch.where(beyond, end, -end), u)


def refine(zeta: Tensor, k: Tensor, dim: int, tilt: Tilt, u: Tensor, effort: Effort) -> Quantile:
    """One step of Halley's method from u for the quantile at Phi_N(zeta), and the rate there.

    ``zeta`` and ``u`` have the shape (n,), ``k`` that or (1,).
    """
    mean = tilt.mean_statistic(k, dim)
    tensors = torch.broadcast_tensors(zeta, u, k, _log_scale(k, dim, tilt), mean)
    step, rows = functools.partial(_refine, dim, tilt, effort), _rows(effort, zeta)
    return Quantile(*in_blocks(step, rows, *tensors, everywhere=True))


def probability(t: Tensor, rest: Tensor, k: Tensor, dim: int, tilt: Tilt) -> Probability:
    """P(cosine < 1 - t), P(cosine > 1 - t) and the derivative of the latter in k.

    For float64 tensors of shape (n,), t and rest = 2 - t at least 1e-300.
    """
    tensors = t, rest, k, _log_scale(k, dim, tilt), tilt.mean_statistic(k, dim)
    tails, rows = functools.partial(_probability, dim, tilt), _rows(FINE, t)
    return Probability(*in_blocks(tails, rows, *tensors, everywhere=True))


def _log_scale(k: Tensor, dim: int, tilt: Tilt) -> Tensor:
    """log density of theta at t = 0 per sin^(m-1): times the area of the unit tangents."""
    return tilt.log_density_at_mode(k, dim) + sphere.log_sphere_area(dim - 1)


def _rows(effort: Effort, like: Tensor) -> int:
    rows = _BLOCK_BYTES // (effort.nodes * 8)
    return rows * (1 if like.device.type == "cpu" else 64)  # elsewhere, to bound the memory


def _refine(
    dim: int,
    tilt: Tilt,
    effort: Effort,
    zeta: Tensor,
    u: Tensor,
    k: Tensor,
    log_scale: Tensor,
    mean: Tensor,
) -> Quantile:
    odds = torch.exp(2.0 * u)
    t, rest = 2.0 * odds / (1.0 + odds), 2.0 / (1.0 + odds)  # 1 - w and 1 + w
    v = t * rest
    slopes = tilt.slopes(t, v, k, dim - 1.0)
    tail = _tail(dim, tilt, effort, t, rest, slopes.first, k, log_scale, mean)
    score = _score(tail)
    # f(u) = reached - zeta; f' = p_u / phi(reached); f''/f' = (log p_u)' + reached f'.
    reached = tail.sign * score
    mills_ratio = torch.special.erfcx(score * math.sqrt(0.5)) * math.sqrt(0.5 * pi())
    slope = mills_ratio * v.sqrt() / tail.mass  # d theta = sqrt(V) du
    newton = (reached - zeta) / slope
    step = -newton / (1.0 - 0.5 * newton * (slopes.first + reached * slope))
    # q = -du/dk is the integral of (s' - E s) over a tail per p_u, hence
    # q' = -(s - E s) - q (log p_u)' and so on: its Taylor series over the step.
    q = tail.sign * tail.excess / v.sqrt()
    q1 = mean - tilt.statistic(t, rest) - q * slopes.first
    q2 = -slopes.statistic - q1 * slopes.first - q * slopes.second
    return Quantile((u + step).clamp(-_far(), _far()), q + step * (q1 + step / 2.0 * q2))


def _score(tail: _Tail) -> Tensor:
    """x with Phi_N(-x) = the probability p; sqrt(-2 log p) where p is less than the least number.

    There only steps come by, and that leads them back.
    """
    least = torch.finfo(tail.mass.dtype).tiny
    p = tail.mass * torch.exp(tail.log_density)
    log_p = tail.log_density + torch.log(tail.mass)
    deep = (-2.0 * log_p.clamp(max=math.log(least))).sqrt()
    return torch.where(p < least, deep, -torch.special.ndtri(p.clamp(min=least)))


def _probability(
    dim: int, tilt: Tilt, t: Tensor, rest: Tensor, k: Tensor, log_scale: Tensor, mean: Tensor
) -> Probability:
    slope = tilt.slopes(t, t * rest, k, dim - 1.0).first
    tail = _tail(dim, tilt, FINE, t, rest, slope, k, log_scale, mean)
    density = torch.exp(tail.log_density)
    within = tail.mass * density
    below = torch.where(tail.sign > 0, within, 1.0 - within)
    above = torch.where(tail.sign > 0, 1.0 - within, within)
    # d/dk of the probability of a tail is minus the integral of (s' - E s) over it.
    return Probability(below, above, tail.sign * density * tail.excess)


@cached_tensor(maxsize=16)
def _nodes_and_weights(nodes: int, crowding: int) -> Tensor:
    """Nodes x on [0, 1], 1 - x and weights, three rows.

    Those of Gauss and Legendre are eigenvalues of the Jacobi matrix (Golub & Welsch 1969);
    1 - (1 - x)^crowding brings them closer to 1.
    """
    i = torch.arange(1, nodes, dtype=torch.float64, device="cpu")
    off_diagonal = i / torch.sqrt(4 * i * i - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    rest, weights = (1 - values) / 2, vectors[0].square()
    weights = weights * crowding * rest ** (crowding - 1)
    rest = rest**crowding
    return torch.stack([1 - rest, rest, weights])


class _Tail(NamedTuple):
    """What lies beyond a point, away from the mode of u."""

    sign: Tensor  # 1 towards w = -1, and -1
    log_density: Tensor  # of theta, at the point
    mass: Tensor  # the probability of the tail over that density
    excess: Tensor  # the integral of s - E s over the tail, likewise


def _tail(
    dim: int,
    tilt: Tilt,
    effort: Effort,
    t: Tensor,
    rest: Tensor,
    slope: Tensor,
    k: Tensor,
    log_scale: Tensor,
    mean: Tensor,
) -> _Tail:
    """The tail from (t, rest) on, where the log density of u has the slope ``slope``."""
    m = dim - 1.0
    nodes = effort.nodes if tilt.crowding == 1 else effort.nodes * 2  # sparse at the start
    rule = _nodes_and_weights(nodes, tilt.crowding, like=t)
    node, node_rest, weight = rule.unbind()
    upwards = slope <= 0
    sign = torch.where(upwards, 1.0, -1.0).to(t)
    near, far = torch.where(upwards, rest, t), torch.where(upwards, t, rest)
    to_end = 2.0 * torch.atan2(near.sqrt(), far.sqrt())
    length = _length(near, far, sign * ((rest - t) / 2.0 - slope), m, static(effort.reach))
    # For each row and node from here on.
    half_passed = torch.atan2(far.sqrt(), near.sqrt())
    rows = (length / 2.0, (to_end - length) / 2.0, half_passed, near, far, sign, k)
    *columns, k_column = (row.unsqueeze(-1) for row in rows)
    exponent, change = tilt.along(Path(node, node_rest, *columns), k_column, m)
    density = exponent.exp_().mul_(weight)
    mass = density.sum(-1).double().mul_(length)
    moment = (density * change).sum(-1).double().mul_(length)
    statistic = tilt.statistic(t, rest)
    log_density = log_scale - k * statistic + (m - 1.0) / 2.0 * torch.log(t * rest)
    return _Tail(sign, log_density, mass, moment + (statistic - mean) * mass)


def _length(near: Tensor, far: Tensor, rate: Tensor, m: float, reach: float) -> Tensor:
    """The angle up to where the density of theta has fallen by exp(-reach) or more, or to the end.

    ``near`` and ``far`` are 1 -+ w at the start, for the end w = +-1, ``rate`` is that at which the
    density begins to fall. Its logarithm falls, as ``near`` shrinks by h, by

        H(h) = (a convex function) - nu log(1 - h / near) - nu log(1 + h / far),  nu = (m - 1)/2.

    With log(1 - z) <= -z - z^2 / (2 (1 - 2z/3)), log(1 + z) <= z - z^2 / (2 (1 + 2z/3)) and
    p^2/P + q^2/Q >= (p^2 + q^2)^2 / (p^2 P + q^2 Q) it is at least

        g r + nu r^2 / (2 (1 + c r)),  c = (2/3) (c_near^3 - c_far^3),

    of r = h hypot(near, far) / (near far), c_near = near / hypot(near, far) and c_far likewise,
    g = H'(0) h / r. The root of the quadratic equation that makes this ``reach`` is never too
    short. All this holds for tilts whose s is a convex function of 1 - w.
    """
    scale = torch.hypot(near, far)
    c_near, c_far = near / scale, far / scale
    g, nu = rate / scale, (m - 1.0) / 2.0
    bend = 2.0 / 3.0 * reach * (c_near**3 - c_far**3)
    root = ((g + bend).square() + 2.0 * nu * reach).sqrt()
    r = 2.0 * reach / (g - bend + root).clamp(min=1e-300)  # negative: no root, up to the end
    h = torch.minimum(near, r * c_near * far)
    near_root, far_root = near.sqrt(), far.sqrt()
    near_end, far_end = (near - h).sqrt(), (far + h).sqrt()
    # Half of it: the tangent of a difference of angles, its numerator from that of their squares.
    sine = 2.0 * h / (near_root * far_end + near_end * far_root)
    return 2.0 * torch.atan2(sine, near_root * near_end + far_root * far_end)
