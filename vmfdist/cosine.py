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
towards the nearer end in the direction of :math:`\zeta`, so that nothing is subtracted from 1.
One regime serves all dimensions and concentrations.

Accuracy (float64): 1e-10 in units of :math:`\zeta` and 1e-9 relative in the derivative, for
:math:`|\zeta| \le 8` and concentrations up to 1e12; tests/test_cosine.py.

References:
    * M. Figurnov, S. Mohamed and A. Mnih (2018), Implicit reparameterization gradients,
      arXiv:1805.08498.
    * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 9.3 (tangent-normal
      decomposition).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist import _radial

__all__ = ["CosineDraw", "transport"]

_NODES = 48
_ROWS = 2048  # rows of a block: the nodes of one block are 0.8 MB and stay in the cache


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
    z = zeta.to(torch.float64)
    k = concentration.to(torch.float64)
    z, k = torch.broadcast_tensors(z, k)
    if torch.compiler.is_compiling() or z.numel() <= _ROWS:
        draw = _transport(z, k, dim)
    else:
        blocks = zip(z.reshape(-1).split(_ROWS), k.reshape(-1).split(_ROWS), strict=True)
        draws = [_transport(*block, dim) for block in blocks]
        draw = CosineDraw(*(torch.cat(part).view_as(z) for part in zip(*draws, strict=True)))
    return CosineDraw(draw.one_minus_cosine.to(zeta.dtype), draw.rate.to(zeta.dtype))


@functools.lru_cache(maxsize=8)
def _gauss_legendre(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], as eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    i = torch.arange(1, _NODES, dtype=torch.float64)
    off_diagonal = i / torch.sqrt(4 * i * i - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return ((1 + values) / 2).to(device), vectors[0].square().to(device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _nodes_and_weights(device: torch.device) -> tuple[Tensor, Tensor]:
    return _gauss_legendre(device)


class _Tail(NamedTuple):
    """Integrals over the tail beyond a point, relative to the density of theta at the point."""

    probability: Tensor
    moment: Tensor  # of t' - t


def _tail(z: Tensor, k: Tensor, m: int, near: Tensor, far: Tensor, sign: Tensor) -> _Tail:
    """Integrates from the current point to the end that ``sign`` points to.

    ``near`` and ``far`` are 1 - w and 1 + w, exchanged where the end is w = -1, so that
    near = 2 sin^2(phi/2) and far = 2 cos^2(phi/2) with phi the angle from that end.
    """
    node, weight = _nodes_and_weights(z.device)
    phi = 2 * torch.atan2(near.sqrt(), far.sqrt())
    # Beyond this many standard deviations of theta the rest is below exp(-75/2).
    spread = torch.hypot(k, torch.full_like(k, (m - 1) / 2)).clamp(min=1e-300).rsqrt()
    reach = 1.15 * (torch.sqrt(z * z + 80) - 0.9 * z.abs()) * spread
    length = torch.minimum(phi, 2 * torch.asin((reach / 2).clamp(max=1.0)))
    half_step = length.unsqueeze(-1) * (node / 2)
    half_phi = phi.unsqueeze(-1) / 2 - half_step  # half the angle at the nodes
    sine, cosine = torch.sin(half_phi), torch.cos(half_phi)
    # near' - near = 2 (sin^2(phi'/2) - sin^2(phi/2)), and t' - t is that or its negative.
    rise = -2 * torch.sin(half_step) * torch.sin(half_phi + phi.unsqueeze(-1) / 2)
    change = -sign.unsqueeze(-1) * rise
    v_ratio = (4 * (sine * cosine).square()) / (near * far).unsqueeze(-1)
    density = torch.exp((m - 1) / 2 * torch.log(v_ratio) - k.unsqueeze(-1) * change)
    return _Tail((density @ weight) * length, ((density * change) @ weight) * length)


def _transport(z: Tensor, k: Tensor, dim: int) -> CosineDraw:
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
    log_area = _radial.log_sphere_area(m) if m > 1 else math.log(2)
    log_scale = _radial.log_density_at_mode(k, dim) + log_area
    for _ in range(9 if m == 1 else 7 if m == 2 else 6 if m == 3 else 5):
        t, rest, near, far = place(offset)
        v = t * rest
        log_density = log_scale - k * t + (m - 1) / 2 * torch.log(v)  # of theta
        density = torch.exp(log_density.clamp(min=-600.0))
        tail = _tail(z, k, m, near, far, sign).probability * density
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
    beyond = _tail(z, k, m, near, far, sign)
    # d artanh(w)/dk = -(d F/dk) / p_u, and -dF/dk is the integral of (t' - E t) over a tail.
    excess = t - _radial.one_minus_mean_resultant_length(k, dim)
    rate = sign * (beyond.moment + excess * beyond.probability) / torch.sqrt(t * rest)
    return CosineDraw(t, rate)
