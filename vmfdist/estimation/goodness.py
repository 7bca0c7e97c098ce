"""Whether samples are of a von Mises-Fisher law at all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import normalize

from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._numerics.precision import in_float64
from vmfdist._resultant import concentration, resultant
from vmfdist._sampling.draw import draw
from vmfdist._validation import check_samples
from vmfdist.estimation.result import TestResult
from vmfdist.estimation.uniformity import BLOCK_NUMBERS, check_simulation, simulated_p_value


class GoodnessOfFit(NamedTuple):
    """What a test of a law finds, of its two parts."""

    cosine: TestResult
    """Of the angles to the fitted mean direction."""

    tangent: TestResult
    """Of the directions, seen from there, in which samples lie."""

    @property
    def p_value(self) -> Tensor:
        """That of both together, twice the smaller one (Bonferroni), 1 at most."""
        return (2 * torch.minimum(self.cosine.p_value, self.tangent.p_value)).clamp(max=1)


@torch.no_grad()
def goodness_of_fit(samples: Tensor, *, simulations: int = 999, seed: int = 0) -> GoodnessOfFit:
    r"""Test whether samples follow a von Mises-Fisher law, of any direction and concentration.

    A law is fitted by maximum likelihood. With the cosines :math:`w_i` of the samples to its mean
    direction, the directions :math:`v_i` of their parts across, and p = d - 1, there are two
    questions.

    * Do the **cosines** follow the law that they should have, with the distribution function F? The
      statistic is that of Anderson and Darling, which minds the tails,

      .. math:: - n - \frac 1n \sum_i (2i - 1) \log\big(F(w_{(i)})\, (1 - F(w_{(n + 1 - i)}))\big).

      It sees heavy tails, a background, and clusters on all sides.
    * Are the **tangents** uniform? The statistic asks for their first two moments, as those of
      Rayleigh and Bingham do together,

      .. math:: n p\, |\bar v|^2 + \frac{n p (p + 2)}2 \Big| \frac 1n \sum_i v_i v_i^T
          - \frac 1p P \Big|^2,

      where P projects to the tangent space. It sees elliptical laws and such that lean to one side:
      the samples' own mean has no part across, but that of directions counts all alike.

    The fit brings the law closer to its samples, so that tables for laws that are given do not
    hold. P-values come from a parametric bootstrap instead: samples of the same size are drawn from
    the fitted law and fitted again, m times, and if b of them have a statistic at least as large,
    the p-value is :math:`(1 + b)/(1 + m)`. As an estimate of that without limit of m it has a
    standard error of :math:`\sqrt{p (1 - p)/m}`, and it cannot fall below 1/(1 + m). The page on
    fitting has sizes and powers.

    Where all samples are equal, one alone included, nothing speaks against the law: both statistics
    are 0 and the p-values 1. Where the resultant is 0 the direction is the first axis, as that of
    the fit is.

    Args:
        samples: unit vectors of shape (..., n, d).
        simulations: how many samples to draw for the p-values, m.
        seed: of these. Global random numbers are not touched.

    Returns:
        A statistic and a p-value of each part, of shape (...), and as ``p_value`` one of both.

    Raises:
        TypeError: if ``samples`` is not a float32 or float64 tensor, or ``simulations`` or ``seed``
            no integer.
        ValueError: if it has not the shape (..., n, d) or does not hold unit vectors, or
            ``simulations`` is not positive.

    Example:
        >>> import torch
        >>> from vmfdist import SphericalCauchy, VonMisesFisher
        >>> from vmfdist.estimation import goodness_of_fit
        >>> _ = torch.manual_seed(0)
        >>> loc = torch.tensor([0.0, 0.6, 0.8])
        >>> goodness_of_fit(VonMisesFisher(loc, 20.0).sample((100,))).p_value > 0.05
        tensor(True)
        >>> result = goodness_of_fit(SphericalCauchy(loc, 0.8).sample((100,)))
        >>> result.cosine.p_value < 0.01, result.tangent.p_value > 0.05
        (tensor(True), tensor(True))

    References:
        * T. W. Anderson and D. A. Darling (1954), A test of goodness of fit, Journal of the
          American Statistical Association 49, 765-769, doi:10.1080/01621459.1954.10501232.
        * P. E. Jupp (2008), Data-driven Sobolev tests of uniformity on compact Riemannian
          manifolds, Annals of Statistics 36(3), 1246-1260, doi:10.1214/009053607000000541 (sums of
          statistics of moments).
        * W. Stute, W. Gonzalez Manteiga and M. Presedo Quindimil (1993), Bootstrap based
          goodness-of-fit-tests, Metrika 40, 243-256, doi:10.1007/BF02613687.
        * N. I. Fisher and D. J. Best (1984), Goodness-of-fit tests for Fisher's distribution on the
          sphere, Australian Journal of Statistics 26(2), 142-150.
    """
    check_samples("samples", samples, Distribution._validate_args)
    check_simulation(simulations, seed)
    # A length that is rounded in float32 would count in the angles of concentrated samples.
    found = _fitted(normalize(in_float64(samples), dim=-1))
    n, dim = samples.shape[-2:]
    null = _simulated(found.concentration, n, dim, simulations, seed)
    parts = []
    for statistic, drawn in ((found.cosine, null.cosine), (found.tangent, null.tangent)):
        p_value = simulated_p_value(statistic.unsqueeze(-1), drawn).squeeze(-1)
        p_value = torch.where(found.concentration.isinf(), 1.0, p_value)
        parts.append(TestResult(statistic.to(samples.dtype), p_value.to(samples.dtype)))
    return GoodnessOfFit(*parts)


class _Fitted(NamedTuple):
    """The concentration that is fitted to samples, and their statistics about its law."""

    concentration: Tensor
    cosine: Tensor
    tangent: Tensor


def _fitted(x: Tensor) -> _Fitted:
    n, dim = x.shape[-2:]
    data = resultant(x)
    k = concentration(data.length, data.complement, dim)
    loc = data.direction.unsqueeze(-2)
    near, far = ((x - pole).square().sum(-1) / 2 for pole in (loc, -loc))  # 1 - w and 1 + w
    rows = k.unsqueeze(-1).expand(near.shape).contiguous()
    chance = VON_MISES_FISHER.probability(near, far, rows, dim)
    logs = sum(torch.log(u.clamp(min=1e-300).sort(-1).values) for u in (chance.below, chance.above))
    odd = torch.arange(1, 2 * n, 2, dtype=x.dtype, device=x.device)
    cosine = -n - (odd * logs).sum(-1) / n
    # x - w loc = (x - loc) + (1 - w) loc, whose digits are those of the differences.
    tangents = normalize(x - loc + near.unsqueeze(-1) * loc, dim=-1)
    tangent = _moments(tangents, loc)
    point = k.isinf()
    return _Fitted(k, torch.where(point, 0.0, cosine), torch.where(point, 0.0, tangent))


def _moments(tangents: Tensor, loc: Tensor) -> Tensor:
    n, dim = tangents.shape[-2:]
    p = dim - 1
    first = n * p * tangents.mean(-2).square().sum(-1)
    projection = torch.eye(dim, dtype=loc.dtype, device=loc.device) - loc.mT @ loc
    excess = tangents.mT @ tangents / n - projection / p
    return first + n * p * (p + 2) / 2 * excess.square().sum((-2, -1))


def _simulated(k: Tensor, n: int, dim: int, simulations: int, seed: int) -> _Fitted:
    """The same of samples that are drawn, of shape (..., simulations) for concentrations (...).

    What turns samples turns nothing else: a direction serves for all. Rows have the same noise, so
    that each has the p-values that it has alone.
    """
    generator = torch.Generator().manual_seed(int(seed))
    k = torch.where(k.isinf(), 1.0, k)  # any will do
    pole = torch.eye(dim, dtype=k.dtype, device=k.device)[0]
    step = max(1, BLOCK_NUMBERS // max(1, k.numel() * dim * max(n, dim)))
    parts = []
    for first in range(0, simulations, step):
        shape = (min(step, simulations - first), n, dim)
        noise = torch.randn(shape, dtype=k.dtype, generator=generator, device="cpu")
        noise = noise.to(k.device).expand(*k.shape, *shape).contiguous()
        rows = k[..., None, None].expand(noise.shape[:-1])
        parts.append(_fitted(draw(noise, pole, rows, VON_MISES_FISHER.of_noise)))
    return _Fitted(*(torch.cat(list(part), -1) for part in zip(*parts, strict=True)))
