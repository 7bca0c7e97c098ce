r"""Probabilities and quantiles of cosine laws, by quadrature in float64.

The law of a cosine w is a tilt of the uniform one, see :mod:`vmfdist._tilt`. Of
:math:`u = \operatorname{artanh}(-w)`, half the log odds of 1 - w against 1 + w, the density is
bell-shaped. :func:`probability` integrates it, :func:`solve` finds its quantile at
:math:`\Phi(\zeta)`.

Method: tail probabilities are Gauss-Legendre integrals over :math:`\theta = \arccos w` from a
point towards an end, so that nothing is subtracted from 1. The quantile is the solution of an
equation for the normal score of the tail probability, a nearly linear function of u, by Halley's
method. One regime serves all dimensions and concentrations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist import _radial
from vmfdist._cache import cached_constant
from vmfdist._tilt import Path, Tilt

__all__ = [
    "COARSE",
    "FINE",
    "SINGLE",
    "Effort",
    "Probability",
    "Quantile",
    "log_density",
    "probability",
    "refine",
    "solve",
]

_BLOCK_BYTES = 1_600_000  # of a number at each node of a block of rows: these stay in the cache


class Effort(NamedTuple):
    """What an accuracy asks of the quadrature."""

    nodes: int
    reach: float  # the tail is cut where it has fallen by exp(-reach / 2)
    dtype: torch.dtype = torch.float64  # of what is formed for each node


SINGLE = Effort(20, 80.0, torch.float32)  # 1e-6 in the score
COARSE = Effort(24, 45.0)  # 1e-8, in dimension 2 at the antipode 4e-5
FINE = Effort(48, 80.0)  # 1e-11


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


# Of Halley's method, to rounding: measured for all dimensions, for scores up to 37.
_STEPS = 5


def solve(zeta: Tensor, k: Tensor, dim: int, tilt: Tilt, effort: Effort) -> Quantile:
    """The quantiles at Phi(zeta), for float64 tensors of shape (n,)."""
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
    end = (math.log(2) - log_angle).clamp(max=345.0)
    is_near_end = log_angle + 0.5 * torch.log(k + m) < -0.7
    return torch.where(is_near_end, torch.where(beyond, end, -end), u)


def refine(zeta: Tensor, k: Tensor, dim: int, tilt: Tilt, u: Tensor, effort: Effort) -> Quantile:
    """One step of Halley's method from u for the quantile at Phi(zeta), and the rate there.

    ``zeta`` and ``u`` have the shape (n,), ``k`` that or (1,).
    """
    tensors = torch.broadcast_tensors(zeta, u, k, _log_scale(k, dim, tilt), tilt.mean(k, dim))
    steps = _in_blocks(lambda *block: _refine(dim, tilt, effort, *block), effort, tensors)
    return Quantile(*steps)


def probability(t: Tensor, rest: Tensor, k: Tensor, dim: int, tilt: Tilt) -> Probability:
    """P(cosine < 1 - t), P(cosine > 1 - t) and the derivative of the latter in k.

    For float64 tensors of shape (n,), t and rest = 2 - t at least 1e-300.
    """
    tensors = t, rest, k, _log_scale(k, dim, tilt), tilt.mean(k, dim)
    return Probability(*_in_blocks(lambda *block: _probability(dim, tilt, *block), FINE, tensors))


def log_density(t: Tensor, rest: Tensor, k: Tensor, dim: int, tilt: Tilt) -> Tensor:
    """log density of u."""
    log_v = torch.log(t) + torch.log(rest)
    return _log_scale(k, dim, tilt) - k * tilt.statistic(t, rest) + (dim - 1.0) / 2.0 * log_v


def _log_scale(k: Tensor, dim: int, tilt: Tilt) -> Tensor:
    """log density of theta at t = 0 per sin^(m-1): times the area of the unit tangents."""
    return tilt.log_density_at_mode(k, dim) + _radial.log_sphere_area(dim - 1)


def _in_blocks(
    function: Callable[..., tuple[Tensor, ...]], effort: Effort, tensors: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    rows = _BLOCK_BYTES // (effort.nodes * effort.dtype.itemsize)
    rows *= 1 if tensors[0].device.type == "cpu" else 64  # elsewhere, to bound the memory
    if torch.compiler.is_compiling() or len(tensors[0]) <= rows:
        return function(*tensors)
    blocks = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    parts = zip(*(function(*block) for block in blocks), strict=True)
    return tuple(torch.cat(part) for part in parts)


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
    m = dim - 1.0
    sign = torch.where(zeta < 0, -1.0, 1.0).to(zeta)
    odds = torch.exp(2.0 * u)
    t, rest = 2.0 * odds / (1.0 + odds), 2.0 / (1.0 + odds)  # 1 - w and 1 + w
    v = t * rest
    statistic = tilt.statistic(t, rest)
    slopes = tilt.slopes(t, v, k, m)
    tail = _tail(zeta, k, m, tilt, t, rest, sign, slopes.first, effort)
    exponent = log_scale - k * statistic + (m - 1.0) / 2.0 * torch.log(v)
    density = torch.exp(exponent.clamp(min=-700.0))
    probability = tail.probability * density
    reached = -sign * torch.special.ndtri(probability.clamp(1e-300, 1 - 1e-12))
    # f(u) = reached - zeta; f' = p_u / phi(reached); f''/f' = (log p_u)' + reached f'.
    slope = density * v.sqrt() * torch.exp(reached * reached / 2.0) * math.sqrt(2 * math.pi)
    newton = (reached - zeta) / slope
    halley = newton / (1.0 - 0.5 * newton * (slopes.first + reached * slope)).clamp(0.5, 2.0)
    limit = 2.5 if m > 3 else 8.0
    step = -halley.clamp(-limit, limit)
    # q = -du/dk is the integral of (s' - E s) over a tail per p_u, hence
    # q' = -(s - E s) - q (log p_u)' and so on: its Taylor series over the step.
    excess = statistic - mean
    q = sign * (tail.moment + excess * tail.probability) / v.sqrt()
    q1 = -excess - q * slopes.first
    q2 = -slopes.statistic - q1 * slopes.first - q * slopes.second
    return Quantile((u + step).clamp(-345.0, 345.0), q + step * (q1 + step / 2.0 * q2))


def _probability(
    dim: int, tilt: Tilt, t: Tensor, rest: Tensor, k: Tensor, log_scale: Tensor, mean: Tensor
) -> Probability:
    m = dim - 1.0
    v = t * rest
    statistic = tilt.statistic(t, rest)
    mode = tilt.mode(k, m)
    mode_t = mode.v / (1.0 + mode.cosine)
    sign = torch.where(t < mode_t, -1.0, 1.0).to(t)
    # The score, roughly, is the signed root of twice the fall of the log density from its mode.
    mode_statistic = tilt.statistic(mode_t, 1.0 + mode.cosine)
    fall = k * (statistic - mode_statistic) - m / 2.0 * torch.log(v / mode.v)
    zeta = sign * (2.0 * fall).clamp(min=0.0).sqrt()
    tail = _tail(zeta, k, m, tilt, t, rest, sign, tilt.slopes(t, v, k, m).first, FINE)
    density = torch.exp(log_scale - k * statistic + (m - 1.0) / 2.0 * torch.log(v))
    within = (tail.probability * density).clamp(max=1.0)
    below = torch.where(sign > 0, within, 1.0 - within)
    above = torch.where(sign > 0, 1.0 - within, within)
    # d/dk of the probability of a tail is minus the integral of (s' - E s) over it.
    slope = sign * density * (tail.moment + (statistic - mean) * tail.probability)
    return Probability(below, above, slope)


@cached_constant(maxsize=16)
def _nodes_and_weights(
    nodes: int, crowding: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes x on [0, 1], 1 - x and weights.

    Those of Gauss and Legendre are eigenvalues of the Jacobi matrix (Golub & Welsch 1969);
    1 - (1 - x)^crowding brings them closer to 1.
    """
    i = torch.arange(1, nodes, dtype=torch.float64, device="cpu")
    off_diagonal = i / torch.sqrt(4 * i * i - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    rest, weights = (1 - values) / 2, vectors[0].square()
    weights = weights * crowding * rest ** (crowding - 1)
    rest = rest**crowding
    x, rest, weights = (a.to(device, dtype) for a in (1 - rest, rest, weights))
    return x, rest, weights


class _Tail(NamedTuple):
    """Integrals over the tail beyond a point, relative to the density of theta at the point."""

    probability: Tensor
    moment: Tensor  # of s less that at the point


def _tail(
    zeta: Tensor,
    k: Tensor,
    m: float,
    tilt: Tilt,
    t: Tensor,
    rest: Tensor,
    sign: Tensor,
    log_density_slope: Tensor,
    effort: Effort,
) -> _Tail:
    """Integrates over theta from the current point to the end that ``sign`` points to.

    The way is cut short where the integrand has become small: where a normal law of the spread at
    the mode would be, and where it is at the rate at which it falls from the start. (The density
    of theta is log-concave, but for exp(k cos(theta)) beyond pi/2; that falls half as much at
    least.)
    """
    nodes = effort.nodes if tilt.crowding == 1 else effort.nodes * 5 // 3  # sparse at the start
    node, node_rest, weight = _nodes_and_weights(nodes, tilt.crowding, effort.dtype, zeta.device)
    near, far = torch.where(sign < 0, t, rest), torch.where(sign < 0, rest, t)
    to_end = 2.0 * torch.atan2(near.sqrt(), far.sqrt())
    pull = tilt.pull(k)
    spread = torch.hypot(pull, torch.full_like(pull, (m - 1.0) / 2.0)).clamp(min=1e-300).rsqrt()
    reach = 1.15 * (torch.sqrt(zeta * zeta + effort.reach) - 0.9 * zeta.abs()) * spread
    length = torch.minimum(to_end, 2.0 * torch.asin((reach / 2.0).clamp(max=1.0)))
    rate = (rest - t) / 2.0 - log_density_slope  # of theta, times sqrt(V)
    fall = (rate * sign).clamp(min=1e-300) / (t * rest).sqrt()
    length = torch.minimum(length, effort.reach / fall)
    # For each row and node from here on.
    half_passed = torch.atan2(far.sqrt(), near.sqrt())
    rows = (length / 2.0, (to_end - length) / 2.0, half_passed, near, far, sign, k)
    *columns, k = (row.to(effort.dtype).unsqueeze(-1) for row in rows)
    exponent, change = tilt.along(Path(node, node_rest, *columns), k, m)
    density = exponent.exp_().mul_(weight)
    moment = (density * change).sum(-1)
    return _Tail(density.sum(-1).double().mul_(length), moment.double().mul_(length))
