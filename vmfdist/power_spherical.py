"""The power spherical law on the unit sphere of R^d."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vmfdist import _resultant
from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import sphere
from vmfdist._numerics.infinity import finite
from vmfdist._numerics.logarithmic_mean import highest_direction
from vmfdist._numerics.rows import expanded
from vmfdist._validation import check_loc, check_samples, check_weights
from vmfdist.cosine import PowerSphericalCosine
from vmfdist.rotational import RotationallySymmetric

__all__ = ["PowerSpherical"]


class PowerSpherical(RotationallySymmetric):
    r"""The power spherical law on the unit sphere of :math:`\mathbb R^d`, any :math:`d \ge 2`.

    Its density with respect to the surface measure of the sphere is

    .. math::

        f(x) = \frac{(1 + \langle x, \mu\rangle)^\kappa}{Z_d(\kappa)}, \qquad
        Z_d(\kappa) = 2^{d-1+\kappa} \pi^{(d-1)/2}
        \frac{\Gamma(\frac{d-1}2 + \kappa)}{\Gamma(d - 1 + \kappa)},

    with the mean direction :math:`\mu` (``loc``) and the concentration :math:`\kappa \ge 0`. It
    looks like a von Mises-Fisher law of half the concentration, and is all but that where it is
    concentrated; but its density is 0 opposite to ``loc``, and its entropy needs no Bessel
    function. At concentration 0 it is the uniform law, at infinity the point mass at ``loc``,
    whose log density is infinite there and minus infinity elsewhere. The cosine's
    :math:`(1 + w)/2` has the law
    :math:`\mathrm{Beta}(\frac{d-1}2 + \kappa, \frac{d-1}2)`; draws and their gradients come from
    the quantile of that law, not from gamma variables.

    Shapes:
        As for :class:`VonMisesFisher`: ``loc`` (..., d) and ``concentration`` (...) broadcast,
        ``event_shape`` is (d,).

    Args:
        loc: the mean direction, unit vectors along the last dimension, float32 or float64.
        concentration: :math:`\kappa \ge 0`, a tensor or a Python number.
        validate_args: whether to check the parameters and the values given to :meth:`log_prob`.
            The default is torch's, on unless Python runs with -O.

    Raises:
        TypeError: if ``loc`` is not a float32 or float64 tensor.
        ValueError: if ``loc`` has fewer than two entries or does not broadcast with
            ``concentration``; under ``validate_args`` also if it is not a unit vector, or
            ``concentration`` is negative, NaN or too large for the dtype.

    Example:
        >>> import torch
        >>> from vmfdist import PowerSpherical
        >>> law = PowerSpherical(torch.tensor([0.6, 0.0, 0.8]), 18.0)
        >>> law.sample((5,)).shape
        torch.Size([5, 3])
        >>> law.mean
        tensor([0.5400, 0.0000, 0.7200])
        >>> law.log_prob(torch.tensor([0.0, 0.0, 1.0]))
        tensor(-1.4831)

    References:
        * N. De Cao and W. Aziz (2020), The power spherical distribution, arXiv:2006.04437.
    """

    _cosine = PowerSphericalCosine

    @classmethod
    def fit(
        cls,
        samples: Tensor,
        weights: Tensor | None = None,
        *,
        loc: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> Self:
        r"""The law under which samples are most likely, by maximum likelihood.

        The log likelihood is :math:`\kappa` times that of ``loc`` alone and a function of
        :math:`\kappa`. So ``loc`` maximises, whatever the concentration,

        .. math:: \sum_i \omega_i \log(1 + \langle x_i, \mu\rangle),

        and with it the concentration solves

        .. math:: \psi(d - 1 + \kappa) - \psi(\tfrac{d-1}2 + \kappa) = - \frac{\sum_i \omega_i
            \log \frac{1 + \langle x_i, \mu\rangle}2}{\sum_i \omega_i},

        or is 0 where that would be negative, as it may be about a given ``loc``. (About the best
        one it is not: the mean of the right side over all directions is that of uniform samples.)
        One sample opposite to a direction rules it out: far ones have more of a say than in the fit
        of a von Mises-Fisher law.

        ``loc`` is found by Newton's method, of which every step rises. A maximum at which
        :math:`\sum_i \omega_i \frac{\langle x_i, \mu\rangle}{1 + \langle x_i, \mu\rangle}` is not
        negative is the greatest there is, as it is for many samples of a law of concentration 1 or
        more. Of less concentrated ones there may be several, and the one that is found need not be
        the greatest.

        If all samples are equal, one alone included, the concentration is infinite. Where the
        resultant is 0 the concentration is not, and ``loc`` is a direction away from the antipodes
        of all samples. Elsewhere both are differentiable in samples and weights, once; where the
        concentration is 0 or infinite it has gradient 0.

        Sums are taken in float64. A step of the iteration takes n d^2 + d^3 operations.

        Shapes:
            ``samples`` (..., n, d), ``weights`` (..., n); the axes to the left broadcast to the
            batch shape of the law.

        Args:
            samples: unit vectors along the last dimension.
            weights: nonnegative weights of the samples; equal ones if not given.
            loc: the mean direction where it is known, unit vectors of shape (..., d) whose axes to
                the left broadcast with the others; if not given it is estimated.
            validate_args: whether to check samples, weights and ``loc``, and the law's
                ``validate_args``. Unchecked, weights that are all 0 make the uniform law.

        Returns:
            A law in the dtype of the samples.

        Raises:
            TypeError: if ``samples`` or ``loc`` is not a float32 or float64 tensor, or ``weights``
                not a real one.
            ValueError: if there are no samples or the shapes do not fit; under ``validate_args``
                also if samples or ``loc`` are not unit vectors, weights negative, infinite or NaN,
                or all of them 0.

        Example:
            >>> import torch
            >>> from vmfdist import PowerSpherical
            >>> samples = torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.0, 0.8], [0.8, 0.6, 0.0]])
            >>> law = PowerSpherical.fit(samples)
            >>> law.loc
            tensor([0.7791, 0.5304, 0.3342])
            >>> law.concentration
            tensor(12.1836)
        """
        validate = cls._validate_args if validate_args is None else validate_args
        check_samples("samples", samples, validate)
        check_weights(weights, samples, validate)
        x, shares = _resultant.directions_and_shares(samples, weights)
        if loc is None:
            data = _resultant.resultant(x, shares)
            is_point = data.complement <= 0
            direction = highest_direction(x, shares)
            is_plain = (is_point | (data.total == 0)).unsqueeze(-1)
            direction = torch.where(is_plain, data.direction, direction)
        else:
            check_loc(loc, samples.shape[-1], validate)
            direction = normalize(loc.double(), dim=-1)
            is_point = torch.zeros_like(x[..., 0, 0], dtype=torch.bool)
        k = _concentration(x, shares, direction, is_point)
        loc = direction.to(samples.dtype) if loc is None or loc.dtype != samples.dtype else loc
        return cls(loc, k.to(samples.dtype), validate_args)

    @classmethod
    def from_mean(cls, mean: Tensor, validate_args: bool | None = None) -> Self:
        r"""The law with a given mean: ``loc`` is its direction, the concentration of its length R.

        .. math:: \kappa = (d - 1) \frac{R}{1 - R}.

        With the mean of samples this is the estimate by the method of moments. It depends on 1
        minus the length, of which a mean in float32 holds the first seven decimals: give one in
        float64 where the concentration may be high.

        A mean of 0 has concentration 0 and the first axis as ``loc``; a mean of length 1 has an
        infinite concentration, and so has one that is longer by rounding. There the concentration
        has gradient 0; elsewhere gradients are exact.

        Args:
            mean: vectors of shape (..., d), of length at most 1.
            validate_args: whether to check the length, and the law's ``validate_args``.

        Returns:
            A law in the dtype of the mean, of batch shape (...).

        Raises:
            TypeError: if ``mean`` is not a float32 or float64 tensor.
            ValueError: if it has fewer than two entries; under ``validate_args`` also if it is
                longer than 1, or NaN.

        Example:
            >>> import torch
            >>> from vmfdist import PowerSpherical
            >>> law = PowerSpherical.from_mean(torch.tensor([0.54, 0.0, 0.72]))
            >>> law.loc, law.concentration
            (tensor([0.6000, 0.0000, 0.8000]), tensor(18.0000))
        """
        validate = cls._validate_args if validate_args is None else validate_args
        direction, length = _resultant.of_mean(mean, validate)
        is_point = length >= 1
        rest = torch.where(is_point, 1.0, 1 - length)
        k = torch.where(is_point, math.inf, (mean.shape[-1] - 1) * length / rest)
        return cls(direction.to(mean.dtype), k.to(mean.dtype), validate_args)

    @property
    def log_normalizer(self) -> Tensor:
        r"""log of the integral of :math:`(1 + \langle x, \mu\rangle)^\kappa`, :math:`\log Z_d`."""
        _, given = self._given
        tilted = math.log(2) * given + ps.log_partition(finite(given), self.dim)
        return expanded(sphere.log_sphere_area(self.dim) + tilted, self.batch_shape)


def _concentration(x: Tensor, shares: Tensor, direction: Tensor, is_point: Tensor) -> Tensor:
    """The most likely one, of samples about a direction."""
    dim, pole = x.shape[-1], direction.unsqueeze(-2)
    near, far = ((x - end).square().sum(-1) for end in (pole, -pole))
    level = (shares * ps.log_tilt(near, far, x.new_ones(()), dim)).sum(-1)
    lowest = ps.mean_log(torch.zeros_like(level), dim)
    level = torch.where(shares.sum(-1) == 0, lowest, level)  # no weight, no concentration
    is_point = (level == 0) | is_point
    is_uniform = (level <= lowest) & ~is_point
    solvable = torch.where(is_point | is_uniform, lowest / 2, level)
    k = torch.where(is_uniform, 0.0, ps.inverse_mean_log(solvable, dim))
    return torch.where(is_point, math.inf, k)
