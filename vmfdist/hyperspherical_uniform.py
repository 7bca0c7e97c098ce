"""The uniform law on the unit sphere of R^d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.types import _size

from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._numerics.constants import static
from vmfdist._sampling.draw import draw_uniform
from vmfdist._validation import (
    broadcast_shapes,
    check_dim,
    expanded_shape,
    require_dtype,
    set_validation,
    validate_value,
)
from vmfdist.cosine import VonMisesFisherCosine, mass_cone
from vmfdist.rotational import CovarianceEigenvalues

__all__ = ["HypersphericalUniform"]


class HypersphericalUniform(TorchDistribution):
    r"""The uniform law on the unit sphere of :math:`\mathbb R^d`; ``dim`` is the AMBIENT d.

    (Packages that count the sphere's own dimension write d - 1 here: the ordinary sphere is
    ``HypersphericalUniform(3)``.) Its density with respect to the surface measure is constant,

    .. math:: f(x) = \frac{\Gamma(d/2)}{2 \pi^{d/2}}.

    Args:
        dim: the dimension of the ambient space, at least 2.
        batch_shape: the shape of independent copies.
        dtype: of draws and moments, float32 or float64; torch's default where not given.
        device: of draws and moments; torch's default where not given. :meth:`log_prob` follows its
            value instead.
        validate_args: whether to check the values given to :meth:`log_prob`. The default is
            torch's, on unless Python runs with -O.

    Raises:
        TypeError: if ``dim`` is not a number, or ``dtype`` not float32 or float64.
        ValueError: if ``dim`` is below 2 or fractional, or a size of ``batch_shape`` negative.

    Example:
        >>> import torch
        >>> from vmfdist import HypersphericalUniform
        >>> law = HypersphericalUniform(3)
        >>> law.sample((5,)).shape
        torch.Size([5, 3])
        >>> law.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # -log(4 pi)
        tensor(-2.5310)

    References:
        * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 9.3.1.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.sphere
    has_rsample = True

    _like: Tensor  # empty; remembers dtype and device, and moves with pickling and deepcopy

    def __init__(
        self,
        dim: int,
        batch_shape: Sequence[int] = (),
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        dim = check_dim(dim)
        like = torch.empty(0, dtype=dtype, device=device)
        require_dtype("dtype", like.dtype)
        batch_shape = torch.Size(batch_shape)
        if any(size < 0 for size in batch_shape):
            raise ValueError(f"batch_shape must hold sizes, got {tuple(batch_shape)}")
        self._like = like
        super().__init__(batch_shape, torch.Size((dim,)), validate_args=validate_args)

    def __repr__(self) -> str:
        batch = f", batch_shape: {tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"{type(self).__name__}(dim: {self.dim}{batch})"

    @property
    def dim(self) -> int:
        """The dimension of the ambient space, d."""
        return static(self._event_shape[0])

    def expand(self, batch_shape: _size, _instance: Any = None) -> Self:
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(HypersphericalUniform, _instance)
        new._like = self._like
        batch_shape = expanded_shape(self.batch_shape, batch_shape)
        super(HypersphericalUniform, new).__init__(
            batch_shape, self.event_shape, validate_args=False
        )
        set_validation(new, self.__dict__.get("_validate_args"))
        return new

    def _full(self, shape: torch.Size, value: float) -> Tensor:
        return self._like.new_full(shape, value)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws unit vectors of shape ``sample_shape + batch_shape + (d,)``."""
        shape = (*sample_shape, *self._batch_shape, *self._event_shape)
        return draw_uniform(torch.randn(shape, dtype=self._like.dtype, device=self._like.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the log area of the sphere, in the dtype and on the device of ``value``."""
        if self._validate_args:
            self._validate_sample(value)
        shape = broadcast_shapes(value.shape[:-1], self.batch_shape)
        return value.new_full(shape, -log_sphere_area(self.dim))

    def _validate_sample(self, value: Tensor) -> None:
        validate_value(value, self.batch_shape, self.dim)

    def entropy(self) -> Tensor:
        """The log area of the sphere, the largest entropy that a law on it can have."""
        return self._full(self.batch_shape, log_sphere_area(self.dim))

    @property
    def mean_resultant_length(self) -> Tensor:
        """Length of the mean, 0."""
        return self._full(self.batch_shape, 0.0)

    @property
    def one_minus_mean_resultant_length(self) -> Tensor:
        """The spherical variance, 1."""
        return self._full(self.batch_shape, 1.0)

    @property
    def mean(self) -> Tensor:
        """The mean in the ambient space, the origin."""
        return self._full(self.batch_shape + self.event_shape, 0.0)

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, 1/d."""
        return self._full(self.batch_shape + self.event_shape, 1 / self.dim)

    @property
    def covariance_eigenvalues(self) -> CovarianceEigenvalues:
        """The variances along any direction and across it, both 1/d."""
        variance = self._full(self.batch_shape, 1 / self.dim)
        return CovarianceEigenvalues(variance, variance)

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance in the ambient space, the identity over d."""
        identity = torch.eye(self.dim, dtype=self._like.dtype, device=self._like.device)
        return (identity / self.dim).expand(self.batch_shape + identity.shape)

    @property
    def cosine(self) -> VonMisesFisherCosine:
        """The law of the cosine with any fixed direction, that of a coordinate."""
        law = self._given_cosine.expand(self.batch_shape)
        set_validation(law, self.__dict__.get("_validate_args"))
        return law

    @property
    def _given_cosine(self) -> VonMisesFisherCosine:
        return VonMisesFisherCosine(self._like.new_zeros(()), self.dim, validate_args=False)

    def mass_cone(self, p: Tensor | float) -> Tensor:
        """Half-angle, in radians, of a cone around any direction that holds the mass ``p``.

        Args:
            p: probabilities, a tensor that broadcasts with the batch shape or a number.

        Raises:
            ValueError: under ``validate_args``, if a probability is outside [0, 1].
        """
        return mass_cone(self._given_cosine, p, self.batch_shape, self._validate_args)
