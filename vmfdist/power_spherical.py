"""The power spherical law on the unit sphere of R^d."""

from __future__ import annotations

import math

from torch import Tensor

from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import sphere
from vmfdist._numerics.infinity import finite
from vmfdist._numerics.rows import expanded
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

    @property
    def log_normalizer(self) -> Tensor:
        r"""log of the integral of :math:`(1 + \langle x, \mu\rangle)^\kappa`, :math:`\log Z_d`."""
        _, given = self._given
        tilted = math.log(2) * given + ps.log_partition(finite(given), self.dim)
        return expanded(sphere.log_sphere_area(self.dim) + tilted, self.batch_shape)
