r"""Quantiles of the cosine of a von Mises-Fisher law, by quadrature in float64.

Of :math:`u = \operatorname{artanh}(-w)`, half the log odds of 1 - w against 1 + w, the density is
:math:`e^{kw} (1 - w^2)^{m/2}`, :math:`m = d - 1`, which is bell-shaped with its mode at
:math:`w_0 = 2k / (m + S)`, :math:`S = \sqrt{m^2 + 4k^2}`. :func:`solve` finds its quantile at
:math:`\Phi(\zeta)`.

Method: the equation is solved for the normal score of the tail probability, a nearly linear
function of u, by Halley's method. Tail probabilities are Gauss-Legendre integrals over
:math:`\theta = \arccos w` from the current point towards the end that :math:`\zeta` points to, so
that nothing is subtracted from 1. One regime serves all dimensions and concentrations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist import _radial
from vmfdist._cache import cached_constant

__all__ = ["COARSE", "FINE", "SINGLE", "Effort", "Quantile", "refine", "solve"]

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


def solve(zeta: Tensor, k: Tensor, dim: int, effort: Effort) -> Quantile:
    """The quantiles at Phi(zeta), for float64 tensors of shape (n,)."""
    m = dim - 1.0
    s = torch.hypot(2.0 * k, torch.full_like(k, m))
    w0, v0 = 2.0 * k / (m + s), 2.0 * m / (m + s)  # cosine at the mode, and 1 - w0^2
    # Cornish-Fisher start from the second and third derivative of the log density at the mode.
    curvature = v0 * s
    skewness = v0 * (2.0 * w0 * s - 2.0 * k * v0) / curvature**1.5
    score = zeta - skewness / 3.0
    bend = skewness / 6.0 * score
    from_mode = score / curvature.sqrt() * (1.0 - bend / (1.0 + bend.abs()))
    u = from_mode + torch.log(v0) / 2.0 - torch.log1p(w0)
    quantile = refine(zeta, k, dim, u, effort)
    for _ in range(_iterations(dim - 1) - 1):
        quantile = refine(zeta, k, dim, quantile.u, effort)
    return quantile


def _iterations(m: int) -> int:
    """Steps of Halley's method from the start to rounding for |zeta| <= 8, measured for each m."""
    bounds = ((1, 9), (2, 7), (3, 6), (4, 5), (8, 4), (63, 3))
    return next((steps for bound, steps in bounds if m <= bound), 2)


def refine(zeta: Tensor, k: Tensor, dim: int, u: Tensor, effort: Effort) -> Quantile:
    """One step of Halley's method from u for the quantile at Phi(zeta), and the rate there.

    ``zeta`` and ``u`` have the shape (n,), ``k`` that or (1,).
    """
    # log density of theta at t = 0 per sin^(m-1): normaliser times the area of the unit tangents.
    log_scale = _radial.log_density_at_mode(k, dim) + _radial.log_sphere_area(dim - 1)
    mean = _radial.one_minus_mean_resultant_length(k, dim)  # of t
    tensors = torch.broadcast_tensors(zeta, u, k, log_scale, mean)
    rows = _BLOCK_BYTES // (effort.nodes * effort.dtype.itemsize)
    rows *= 1 if zeta.device.type == "cpu" else 64  # elsewhere, to bound the memory
    if torch.compiler.is_compiling() or len(zeta) <= rows:
        return _refine(dim, effort, *tensors)
    blocks = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    steps = (_refine(dim, effort, *block) for block in blocks)
    return Quantile(*(torch.cat(parts) for parts in zip(*steps, strict=True)))


def _refine(
    dim: int, effort: Effort, zeta: Tensor, u: Tensor, k: Tensor, log_scale: Tensor, mean: Tensor
) -> Quantile:
    m = dim - 1.0
    sign = torch.where(zeta < 0, -1.0, 1.0).to(zeta)
    odds = torch.exp(2.0 * u)
    t, rest = 2.0 * odds / (1.0 + odds), 2.0 / (1.0 + odds)  # 1 - w and 1 + w
    v = t * rest
    near, far = torch.where(sign < 0, t, rest), torch.where(sign < 0, rest, t)
    tail = _tail(zeta, k, m, near, far, sign, effort)
    density = torch.exp((log_scale - k * t + (m - 1.0) / 2.0 * torch.log(v)).clamp(min=-600.0))
    probability = tail.probability * density
    reached = -sign * torch.special.ndtri(probability.clamp(1e-300, 1 - 1e-12))
    # f(u) = reached - zeta; f' = p_u / phi(reached); f''/f' = (log p_u)' + reached f'.
    slope = density * v.sqrt() * torch.exp(reached * reached / 2.0) * math.sqrt(2 * math.pi)
    log_density_slope = m * (1.0 - t) - k * v  # of u
    newton = (reached - zeta) / slope
    halley = newton / (1.0 - 0.5 * newton * (log_density_slope + reached * slope)).clamp(0.5, 2.0)
    limit = 2.5 if m > 3 else 8.0
    step = -halley.clamp(-limit, limit)
    # q = -du/dk is the integral of (t' - E t) over a tail per p_u, hence
    # q' = -(t - E t) - q (log p_u)' and so on: its Taylor series over the step.
    excess = t - mean
    q = sign * (tail.moment + excess * tail.probability) / v.sqrt()
    q1 = -excess - q * log_density_slope
    q2 = -v - q1 * log_density_slope + q * v * (m + 2.0 * k * (1.0 - t))
    return Quantile(u + step, q + step * (q1 + step / 2.0 * q2))


@cached_constant(maxsize=8)
def _nodes_and_weights(
    nodes: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], as eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    i = torch.arange(1, nodes, dtype=torch.float64, device="cpu")
    off_diagonal = i / torch.sqrt(4 * i * i - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return ((1 + values) / 2).to(device, dtype), vectors[0].square().to(device, dtype)


class _Tail(NamedTuple):
    """Integrals over the tail beyond a point, relative to the density of theta at the point."""

    probability: Tensor
    moment: Tensor  # of t' - t


def _tail(
    zeta: Tensor, k: Tensor, m: float, near: Tensor, far: Tensor, sign: Tensor, effort: Effort
) -> _Tail:
    """Integrates over theta from the current point to the end that ``sign`` points to.

    ``near`` and ``far`` are 1 - w and 1 + w, exchanged where the end is w = -1. With theta' =
    theta + sign delta all is formed from sin(theta) and cos(theta), which are exact at both ends:
    sin(theta') / sin(theta) = cos(delta) + sign cot(theta) sin(delta) and
    t' - t = cos(theta) (1 - cos(delta)) + sign sin(theta) sin(delta).
    """
    node, weight = _nodes_and_weights(effort.nodes, effort.dtype, zeta.device)
    to_end = 2.0 * torch.atan2(near.sqrt(), far.sqrt())
    spread = torch.hypot(k, torch.full_like(k, (m - 1.0) / 2.0)).clamp(min=1e-300).rsqrt()
    reach = 1.15 * (torch.sqrt(zeta * zeta + effort.reach) - 0.9 * zeta.abs()) * spread
    length = torch.minimum(to_end, 2.0 * torch.asin((reach / 2.0).clamp(max=1.0)))
    sine, cosine = (near * far).sqrt(), sign * (near - far) / 2.0
    # For each row and node from here on.
    half_length, k, along, across = (
        row.to(effort.dtype).unsqueeze(-1) for row in (length / 2.0, k, cosine, sign * sine)
    )
    half_step = half_length * node
    a, b = torch.sin(half_step), torch.cos(half_step)
    a2 = a * 2.0
    change = torch.addcmul(along * a, across, b).mul_(a2)
    exponent = -k * change
    if m > 1:
        sine_ratio = torch.addcmul(-a, along / across, b).mul_(a2)
        exponent.add_(torch.log1p(sine_ratio), alpha=m - 1.0)
    density = exponent.exp_().mul_(weight)
    moment = (density * change).sum(-1)
    return _Tail(density.sum(-1).double().mul_(length), moment.double().mul_(length))
