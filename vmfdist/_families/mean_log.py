r"""The mean of log((1 + <x, nu>)/2) under a law about another direction, for divergences.

With :math:`w = \cos\theta` the cosine of a draw with its mean direction, and :math:`\cos\varphi`
that of nu, the mean over draws of one w is

.. math::

    h(w) = \log\tfrac12|\cos\theta + \cos\varphi| + \mathrm E \log(\cosh y + v \sinh y), \qquad
    e^y = \Bigl|\frac{\cos\frac12(\theta - \varphi)}{\cos\frac12(\theta + \varphi)}\Bigr|,

with a coordinate v of a uniform direction among those across, in dimension d - 1. The second term
is the divergence of the spherical Cauchy law of distance y there, over d - 2; in dimension 2, where
v is 1 or -1, it is 0.

Method: h is smooth but where :math:`\theta + \varphi = \pi`, the antipode of nu. On either side of
it the trapezoidal rule in the normal score :math:`\zeta` of the cosine, after the substitution

.. math:: \pm (\zeta - \zeta_0) = \log(1 + \exp(x - e^{-x})),

which crowds the nodes at that of the antipode doubly exponentially (Takahasi and Mori 1974) and
leaves them equidistant elsewhere. The derivative in the concentration is the covariance of h with
that of the log density, and that in the direction the mean of that of h. In dimension 2 the latter
has no mean, and the density is moved in place of nu.

References:
    * H. Takahasi and M. Mori (1974), Double exponential formulas for numerical integration,
      doi:10.2977/prims/1195192451.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vmfdist._closed_forms import spherical_cauchy as sc
from vmfdist._families.family import Family
from vmfdist._numerics.constants import cached_tensor
from vmfdist._numerics.infinity import finite, stand_in
from vmfdist._sampling.tilt import cosine_ends

_REACH = 8.3  # of the map from a score to a cosine

# By trial: they leave 1e-12 of the mean in all dimensions.
_NODES, _MARGIN = 176, 3.4

# Of 1 -+ cosines where it is divided by their product.
_LEAST = 1e-300


def mean_log(k: Tensor, near: Tensor, far: Tensor, family: Family, dim: int) -> Tensor:
    """E log((1 + <x, nu>)/2) under the law of k about mu, to be differentiated once.

    Args:
        k: the strength of the law.
        near: 1 - <mu, nu>, float64 as are the others, with which it broadcasts.
        far: 1 + <mu, nu>.
        family: the law's.
        dim: the dimension.
    """
    k, near, far = torch.broadcast_tensors(finite(k), near, far)
    # What changes with near or far, whichever has its digits, by 0 as it is.
    change = torch.where(near < far, near - near.detach(), far.detach() - far)
    fixed, whole = k.detach(), (near + far).detach() / 2  # 1 but for rounding
    near, far = near.detach() / whole, far.detach() / whole
    zeta, weight = _scores(fixed, near, far, family, dim)
    rows, near, far = (x.unsqueeze(-1) for x in (fixed, near, far))
    t, rest = _ends(zeta, rows.expand(zeta.shape).contiguous(), family, dim)
    at = _Circle(t, rest, near, far)
    h = at.log_gap()
    if dim > 2:
        h = h + sc.kl_to_uniform(at.y, dim - 1) / (dim - 2)

    def log_density(t: Tensor, k: Tensor) -> Tensor:
        # Only its derivatives count, which at a concentration that is larger vanish.
        k = k.clamp(max=stand_in(k.dtype) / dim)
        return family.cosine_log_density(t, rest, k, dim, less=dim)

    value = (weight * h).sum(-1)
    by_density = (weight * (h - value.unsqueeze(-1)) * log_density(t, k.unsqueeze(-1))).sum(-1)
    result = value + (by_density - by_density.detach())
    if dim > 2:
        result = result + (weight * at.slope(dim)).sum(-1) * change
    else:
        moved = log_density(t + change.unsqueeze(-1), rows)
        by_turn = (weight * at.y * at.sines * moved).sum(-1)
        result = result + (by_turn - by_turn.detach())
    return result


def _scores(
    k: Tensor, near: Tensor, far: Tensor, family: Family, dim: int
) -> tuple[Tensor, Tensor]:
    """Normal scores of the nodes and their weights, along a new axis."""
    below, above, _ = family.probability(far, near, k, dim)  # of cosines on either side
    least = torch.finfo(torch.float64).tiny
    towards, away = (torch.special.ndtri(x.clamp(least, 1.0)) for x in (above, below))
    split = torch.where(above < below, towards, -away).clamp(-_REACH, _REACH).unsqueeze(-1)
    beyond = _REACH + _MARGIN
    y = torch.lerp(-beyond - split, beyond - split, _fractions(like=k))
    x = y.abs() - _MARGIN
    crowding = torch.exp(-x)
    argument = x - crowding
    zeta = split + torch.copysign(torch.nn.functional.softplus(argument), y)
    weight = torch.sigmoid(argument) * (1 + crowding) * torch.exp(-zeta.square() / 2)
    return zeta, weight / weight.sum(-1, keepdim=True)


@cached_tensor(maxsize=8)
def _fractions() -> Tensor:
    return torch.linspace(0, 1, _NODES, dtype=torch.float64, device="cpu")


def _ends(zeta: Tensor, k: Tensor, family: Family, dim: int) -> tuple[Tensor, Tensor]:
    """1 -+ the cosine at normal scores."""
    if dim == 2:  # where draws are so near the antipode that 1 + w has to have its digits
        return cosine_ends(family.quantile(zeta, k, dim).u)
    t = family.to_cosine(zeta, k, dim, with_rate=False).one_minus_cosine
    return t, (2 - t).clamp(min=_LEAST)


class _Circle:
    """Draws at 1 -+ cos(theta), and the direction nu at 1 -+ cos(phi)."""

    def __init__(self, t: Tensor, rest: Tensor, near: Tensor, far: Tensor) -> None:
        self.sum_of_t = t + near
        # The slopes at phi = 0 and pi are limits.
        near, far = near.clamp(min=_LEAST), far.clamp(min=_LEAST)
        cosines = (rest / 2).sqrt() * (far / 2).sqrt()  # of half the angles
        sines = (t / 2).sqrt() * (near / 2).sqrt()
        difference = cosines - sines
        smaller = torch.minimum(cosines, sines)
        # No nearer than rounding lets it be.
        gap = torch.maximum(difference.abs(), (cosines + sines) * 2.0**-55)
        self.gap, self.total = torch.copysign(gap, difference), gap + 2 * smaller
        self.y = torch.log1p(2 * smaller / gap)
        self.sines = (t * rest).sqrt() / (near * far).sqrt()
        """sin(theta) / sin(phi)."""

    def log_gap(self) -> Tensor:
        """log(|cos theta + cos phi|/2)."""
        by_t = torch.log1p(self.sum_of_t.clamp(max=1.0) / -2)
        by_product = torch.log(self.gap.abs()) + torch.log(self.total)
        return torch.where(self.sum_of_t < 1, by_t, by_product)

    def slope(self, dim: int) -> Tensor:
        """The derivative of h in near, (M(y) sin(theta)/sin(phi) - 1) / (cos theta + cos phi)."""
        return (sc.mean_cosine(self.y, dim - 1) * self.sines - 1) / (2 * self.gap * self.total)
