"""The family of power spherical laws: the tilt s = -log(1 - t/2), infinite at the antipode."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._families.tilted import Tilted
from vmfdist._numerics.chords import squared_chord
from vmfdist._numerics.infinity import finite
from vmfdist._sampling.noise_to_cosine import CosineDraw
from vmfdist._sampling.tilt import Mode, Path, Slopes


class _PowerSpherical(Tilted):
    mean_cosine = staticmethod(ps.mean_cosine)
    one_minus_mean_cosine = staticmethod(ps.one_minus_mean_cosine)
    cosine_variance = staticmethod(ps.cosine_variance)
    tangent_variance = staticmethod(ps.tangent_variance)
    kl_to_uniform = staticmethod(ps.kl_to_uniform)
    kl_from_uniform = staticmethod(ps.kl_from_uniform)
    crowding = 4

    def log_density(self, value: Tensor, loc: Tensor, k: Tensor, dim: int) -> Tensor:
        near, far = (squared_chord(value, pole, k) for pole in (loc, -loc))
        return self.log_density_at_mode(finite(k), dim) + ps.log_tilt(near, far, k, dim)

    def log_density_at_mode(self, k: Tensor, dim: int) -> Tensor:
        return -(ps.log_partition(k, dim) + log_sphere_area(dim))

    def mean_statistic(self, k: Tensor, dim: int) -> Tensor:
        return -ps.mean_log(k, dim)

    def cosine_entropy(self, k: Tensor, dim: int) -> Tensor:
        return ps.cosine_entropy(k, dim)

    def statistic(self, t: Tensor, rest: Tensor) -> Tensor:
        # Each branch is kept away from where it is infinite: its derivative would be NaN.
        near = t < 1.0
        by_t = torch.log1p(torch.where(near, t, 0.0) / -2.0)
        return -torch.where(near, by_t, torch.log(torch.where(near, 1.0, rest) / 2.0))

    def log_tilt(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
        # In dimension 2 at w = -1, where k s and the logarithm are infinite, their sum decides.
        half, at_antipode = rest / 2.0, k + power
        log_half = torch.where(t < 1.0, torch.log1p(t / -2.0), torch.log(half))
        by_rest = torch.where(at_antipode == 0, 0.0, at_antipode * log_half)
        return by_rest + power * torch.log(2.0 * t) if power else by_rest

    def log_tilt_slope(self, t: Tensor, rest: Tensor, k: Tensor, power: float) -> Tensor:
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
        t, rest = path.ends
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

    def to_cosine(self, zeta: Tensor, k: Tensor, dim: int, with_rate: bool = True) -> CosineDraw:
        if dim == 3:
            return _to_cosine_in_dimension_3(zeta, k, with_rate)
        return super().to_cosine(zeta, k, dim, with_rate)


def _to_cosine_in_dimension_3(zeta: Tensor, concentration: Tensor, with_rate: bool) -> CosineDraw:
    """(1 + w)/2 has the distribution function x^(k + 1), hence log((1 + w)/2) = log(1 - F)/(k + 1).

    The rate is -log(1 - F) / ((k + 1)^2 t).
    """
    info = torch.finfo(zeta.dtype)
    power = finite(concentration) + 1.0
    scaled = zeta * math.sqrt(0.5)
    below = torch.special.erfc(-scaled).mul_(0.5).clamp_(min=1e-17)  # F
    above = torch.special.erfc(scaled).mul_(0.5).clamp_(min=1e-17)  # 1 - F
    fall = -torch.where(zeta < 0, torch.log1p(-below), torch.log(above)) / power
    t = torch.expm1(-fall).mul_(-2.0)
    if not with_rate:
        return CosineDraw(t, None)
    # fall / t tends to 1/2 where both vanish, as they do before rounding at an infinite k
    ratio = torch.where(fall < info.eps, 0.5, fall / t)
    return CosineDraw(t, ratio / power)


POWER_SPHERICAL = _PowerSpherical()
