"""The von Mises-Fisher law on the unit sphere of R^d."""

from __future__ import annotations

import torch
from torch import Tensor

from vmfdist import _radial, cosine
from vmfdist.rotational import RotationallySymmetric

__all__ = ["VonMisesFisher"]


class VonMisesFisher(RotationallySymmetric):
    r"""The von Mises-Fisher law on the unit sphere of :math:`\mathbb R^d`, any :math:`d \ge 2`.

    Its density with respect to the surface measure of the sphere is

    .. math::

        f(x) = C_d(\kappa) \exp(\kappa \langle x, \mu \rangle), \qquad
        C_d(\kappa) = \frac{\kappa^{d/2-1}}{(2\pi)^{d/2} I_{d/2-1}(\kappa)},

    with the mean direction :math:`\mu` (``loc``) and the concentration :math:`\kappa \ge 0`.
    At concentration 0 it is the uniform law, with finite values and gradients throughout; towards
    infinity it tends to the point mass at ``loc``, and :math:`\sqrt\kappa (x - \mu)` to a standard
    normal of the tangent space. In dimension 2 it is the von Mises law of a direction on the
    circle, in dimension 3 Fisher's.

    Everything is computed in the dtype of ``loc``, float32 or float64 alike, for every dimension
    and concentration without special cases; see the accuracy page for the errors in units of the
    last place. Lower precisions are refused: a bfloat16 direction is not a unit vector. What comes
    out of a network under autocast is converted first and normalised then,
    ``torch.nn.functional.normalize(x.float(), dim=-1)``.

    Shapes:
        ``loc`` has shape (..., d), ``concentration`` (...); they broadcast like the parameters of
        every torch distribution. ``batch_shape`` is the broadcast of ``loc.shape[:-1]`` and
        ``concentration.shape``, ``event_shape`` is (d,). Mind the habit of other packages to keep a
        trailing 1 in the concentration: (B, 1) beside a loc of (B, d) means a batch of (B, B).

    Args:
        loc: the mean direction, unit vectors along the last dimension.
        concentration: :math:`\kappa \ge 0`, a tensor or a Python number.
        validate_args: whether to check the parameters and the values given to :meth:`log_prob`.
            The default is torch's, on unless Python runs with -O.

    Raises:
        TypeError: if ``loc`` is not a float32 or float64 tensor.
        ValueError: if ``loc`` has fewer than two entries or does not broadcast with
            ``concentration``; under ``validate_args`` also if it is not a unit vector, or
            ``concentration`` is negative or NaN.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> law = VonMisesFisher(torch.tensor([0.6, 0.0, 0.8]), 10.0)
        >>> law.sample((5,)).shape
        torch.Size([5, 3])
        >>> law.mean
        tensor([0.5400, 0.0000, 0.7200])
        >>> law.log_prob(torch.tensor([0.0, 0.0, 1.0]))
        tensor(-1.5353)
        >>> law.entropy()
        tensor(0.5353)

    References:
        * R. A. Fisher (1953), Dispersion on a sphere, doi:10.1098/rspa.1953.0064.
        * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 9.3.2.
    """

    _transport = staticmethod(cosine.transport)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Log density with respect to the surface measure of the sphere.

        Formed as :math:`\log f(\mu) - \kappa |x - \mu|^2 / 2`, which loses nothing near ``loc``
        at high concentration, where :math:`\kappa \langle x, \mu\rangle` and :math:`\kappa` cancel.
        Gradients in ``value`` and ``loc`` are those of this form; along the sphere they are those
        of the other.

        Args:
            value: unit vectors of shape (..., d) that broadcast with the batch shape.

        Returns:
            A tensor of the broadcast of ``value.shape[:-1]`` and the batch shape.

        Raises:
            ValueError: under ``validate_args``, if ``value`` is not on the sphere or of another
                dimension.
        """
        chord = self._half_squared_chord(value)
        # The largest finite number stands for an infinite concentration: no infinity times 0.
        _, k = self._given
        k = k.clamp(max=torch.finfo(k.dtype).max)
        return _radial.log_density_at_mode(k, self.dim) - k * chord

    def entropy(self) -> Tensor:
        """Differential entropy with respect to the surface measure."""
        area = _radial.log_sphere_area(self.dim)
        return (area - _radial.kl_to_uniform(self._given[1], self.dim)).expand(self.batch_shape)

    @property
    def log_normalizer(self) -> Tensor:
        r"""log of the integral of :math:`\exp(\kappa \langle x, \mu\rangle)`, or -log C.

        The log density is :math:`\kappa \langle x, \mu\rangle` minus this; it increases from the
        log area of the sphere at concentration 0.
        """
        area = _radial.log_sphere_area(self.dim)
        return (area + _radial.log_partition(self._given[1], self.dim)).expand(self.batch_shape)

    @property
    def mean_resultant_length(self) -> Tensor:
        r"""Length of the mean, :math:`A = I_{d/2}(\kappa) / I_{d/2-1}(\kappa)`, from 0 to 1."""
        return _radial.mean_resultant_length(self.concentration, self.dim)

    @property
    def mean(self) -> Tensor:
        """The mean in the ambient space, ``loc`` times the mean resultant length."""
        return self.loc * self.mean_resultant_length.unsqueeze(-1)

    @property
    def variance(self) -> Tensor:
        r"""Variance of each coordinate, :math:`A' \mu_i^2 + (A / \kappa) (1 - \mu_i^2)`.

        The covariance is :math:`A' \mu\mu^T + (A/\kappa) (1 - \mu\mu^T)`; at concentration 0 every
        coordinate has the variance 1/d.
        """
        k, dim = self.concentration, self.dim
        # A/k = 1 / (d + k A_{d+2}): the recurrence DLMF 10.29.1, without 0/0.
        across = 1 / (dim + k * _radial.mean_resultant_length(k, dim + 2))
        along = _radial.mean_resultant_length_derivative(k, dim)
        squared = self.loc.square()
        return along.unsqueeze(-1) * squared + across.unsqueeze(-1) * (1 - squared)
