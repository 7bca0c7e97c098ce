"""The family of von Mises-Fisher laws: the tilt s = t, whose cosine is closed in dimension 3."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._families.tilted import Tilted
from vmfdist._numerics.chords import squared_chord
from vmfdist._numerics.infinity import finite, is_finite_throughout, steep, with_point_mass
from vmfdist._sampling.noise_to_cosine import CosineDraw
from vmfdist._sampling.tilt import Mode, Path


class _VonMisesFisher(Tilted):
    mean_cosine = staticmethod(vmf.mean_resultant_length)
    one_minus_mean_cosine = staticmethod(vmf.one_minus_mean_resultant_length)
    cosine_variance = staticmethod(vmf.mean_resultant_length_derivative)
    tangent_variance = staticmethod(vmf.tangent_variance)
    kl_to_uniform = staticmethod(vmf.kl_to_uniform)
    kl_from_uniform = staticmethod(vmf.log_partition)

    def log_density(self, value: Tensor, loc: Tensor, k: Tensor, dim: int) -> Tensor:
        squared = squared_chord(value, loc, k)
        is_finite = is_finite_throughout(k)
        steep_k = k if is_finite else steep(k)
        top = vmf.log_density_at_mode(steep_k, dim)
        result = torch.addcmul(top, steep_k, squared, value=-0.5)
        return result if is_finite else with_point_mass(result, k, steep_k, squared)

    def log_density_at_mode(self, k: Tensor, dim: int) -> Tensor:
        return vmf.log_density_at_mode(k, dim)

    def mean_statistic(self, k: Tensor, dim: int) -> Tensor:
        return vmf.one_minus_mean_resultant_length(k, dim)

    def statistic(self, t: Tensor, rest: Tensor) -> Tensor:
        return t

    def statistic_slopes(self, t: Tensor, rest: Tensor) -> tuple[float, float]:
        return 1.0, 0.0

    def rise(self, path: Path, step: Tensor) -> Tensor:
        return step

    def mode(self, k: Tensor, m: float) -> Mode:
        s = torch.hypot(2.0 * k, torch.full_like(k, m))
        w, v = 2.0 * k / (m + s), 2.0 * m / (m + s)
        curvature = v * s
        return Mode(w, v, curvature, v * (2.0 * w * s - 2.0 * k * v) / curvature**1.5)

    def to_cosine(self, zeta: Tensor, k: Tensor, dim: int, with_rate: bool = True) -> CosineDraw:
        if dim == 3:
            return _to_cosine_in_dimension_3(zeta, k, with_rate)
        return super().to_cosine(zeta, k, dim, with_rate)


def _to_cosine_in_dimension_3(zeta: Tensor, concentration: Tensor, with_rate: bool) -> CosineDraw:
    r"""The complement t has the density k e^(-kt) / (1 - e^(-2k)) on [0, 2].

    With F = Phi_N(zeta), a = kt and b = k(2 - t): e^-a = 1 - F + F e^-2k, which gives e^a - 1 and
    e^b - 1 without cancellation, the first for t < 1 and the second beyond. The rate is
    ((1 - F)/b - e^-2k F/a) / e^-a; for small k, where that cancels, its Taylor series.
    """
    info = torch.finfo(zeta.dtype)
    k = finite(concentration).clamp(min=info.eps**2)  # the limits at 0 and infinity without 0/0
    scaled = zeta * math.sqrt(0.5)
    below = torch.special.erfc(-scaled).mul_(0.5).clamp_(min=1e-17)  # F
    above = torch.special.erfc(scaled).mul_(0.5).clamp_(min=1e-17)  # 1 - F
    # Beyond, the antipode is out of reach, and subnormal numbers are slow.
    capped = k.clamp(max=-0.45 * math.log(info.tiny))  # 39 or 319
    root = torch.exp(-capped)
    square = root * root
    shrink = torch.tanh(capped).mul_(square + 1.0)  # 1 - e^-2k, in half the time of expm1
    survival = torch.addcmul(above, below, square)  # P(1 - w > t) up to the normaliser
    beyond = survival < root  # t > 1
    growth = torch.where(beyond, above / square, below / survival).mul_(shrink)
    end = torch.log1p(growth)  # a, or b where t > 1
    t = end / k
    t = torch.where(beyond, 2.0 - t, t)
    if not with_rate:
        return CosineDraw(t, None)
    other = k * 2.0 - end
    a, b = torch.where(beyond, other, end), torch.where(beyond, end, other)
    rate = torch.addcdiv(above / b, square * below, a, value=-1.0) / survival
    product = a * b  # k^2 - h^2 with h = a - k, in which the series is one
    cubic = torch.addcmul(1 / 6 - product / 120.0, k, k, value=-1 / 90)
    series = torch.addcmul(0.5 - product / 24.0, a - k, cubic)
    return CosineDraw(t, torch.where(k < 3 * info.eps**0.2, series, rate))


VON_MISES_FISHER = _VonMisesFisher()
