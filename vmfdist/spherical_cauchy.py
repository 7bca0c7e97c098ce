"""The spherical Cauchy law on the unit sphere of R^d."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from vmfdist._closed_forms import sphere
from vmfdist._numerics.rows import expanded
from vmfdist.cosine import SphericalCauchyCosine
from vmfdist.rotational import RotationallySymmetric

__all__ = ["SphericalCauchy"]


class SphericalCauchy(RotationallySymmetric):
    r"""The spherical Cauchy law on the unit sphere of :math:`\mathbb R^d`, any :math:`d \ge 2`.

    Its density with respect to the surface measure of the sphere is

    .. math::

        f(x) = \frac{\Gamma(d/2)}{2 \pi^{d/2}}
        \Bigl(\frac{1 - \rho^2}{1 + \rho^2 - 2 \rho \langle x, \mu\rangle}\Bigr)^{d-1},

    with the mean direction :math:`\mu` (``loc``) and the concentration :math:`0 \le \rho \le 1`. At
    0 it is the uniform law, at 1 the point mass at ``loc``, whose log density is infinite there and
    minus infinity elsewhere. It is the image of the uniform law under the Moebius map of the ball
    that moves its centre to :math:`\rho \mu`, in dimension 2 the wrapped Cauchy law. Its tails
    are heavy: seen from ``loc`` through the stereographic projection, it is a multivariate t with
    d - 1 degrees of freedom and the spread :math:`(1 - \rho) / (1 + \rho)`.

    A concentration next to 1 has lost digits of its distance from 1, which is what counts: in
    float32 at .9999 the last place changes that by 6e-4 of it.

    Shapes:
        As for :class:`VonMisesFisher`: ``loc`` (..., d) and ``concentration`` (...) broadcast,
        ``event_shape`` is (d,).

    Args:
        loc: the mean direction, unit vectors along the last dimension, float32 or float64.
        concentration: :math:`\rho` from 0 to 1, a tensor or a Python number.
        validate_args: whether to check the parameters and the values given to :meth:`log_prob`.
            The default is torch's, on unless Python runs with -O.

    Raises:
        TypeError: if ``loc`` is not a float32 or float64 tensor.
        ValueError: if ``loc`` has fewer than two entries or does not broadcast with
            ``concentration``; under ``validate_args`` also if it is not a unit vector, or
            ``concentration`` is NaN or outside [0, 1].

    Example:
        >>> import torch
        >>> from vmfdist import SphericalCauchy
        >>> law = SphericalCauchy(torch.tensor([0.6, 0.0, 0.8]), 0.75)
        >>> law.sample((5,)).shape
        torch.Size([5, 3])
        >>> law.log_prob(torch.tensor([0.0, 0.0, 1.0]))
        tensor(-2.1549)
        >>> law.mass_cone(0.5)
        tensor(0.2838)

    References:
        * S. Kato and P. McCullagh (2020), Some properties of a Cauchy family on the sphere derived
          from the Moebius transformations, Bernoulli 26(4), 3224-3248, doi:10.3150/20-BEJ1222.
        * L. Sablica and K. Hornik (2025), The spherical Cauchy law in variational autoencoders,
          arXiv:2506.21278.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.sphere,
        "concentration": constraints.unit_interval,
    }
    _cosine = SphericalCauchyCosine

    @property
    def log_normalizer(self) -> Tensor:
        r"""log of the integral of :math:`(1 + \rho^2 - 2\rho \langle x, \mu\rangle)^{1-d}`."""
        rho = self._given[1]
        log_gap = torch.log1p(-rho) + torch.log1p(rho)  # of 1 - rho^2
        area = sphere.log_sphere_area(self.dim)
        return expanded(area + (1 - self.dim) * log_gap, self.batch_shape)
