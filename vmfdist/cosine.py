r"""The laws of the cosine :math:`w = \langle x, \mu\rangle` of a direction x with a mean direction.

They are univariate distributions on [-1, 1], which the laws on the sphere give as their ``cosine``.
What is asked near w = 1 can be asked of 1 - w instead, since at high concentration a cosine that is
rounded says nothing more: in float32 at a concentration of 1e8 it is 1.

Accuracy: probabilities, quantiles and their derivatives to 1e-10 relative (quantiles: in the
probability, beyond their own rounding), in float64, in both tails down to 1e-290, for dimensions
from 2 to 4096 and concentrations from 0 to 1e8, where 1 - w and 1 + w are at least 1e-299 (which in
dimension 2 leaves probabilities from 1e-149 on); tests/test_quadrature.py. Smaller ones count as
1e-299 or 1e-300, and smaller probabilities than 2.2e-308 as 2.2e-308.

References:
    * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 9.3 (tangent-normal
      decomposition).
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.types import _size

from vmfdist._families import probabilities
from vmfdist._families.family import Family
from vmfdist._families.power_spherical import POWER_SPHERICAL
from vmfdist._families.probabilities import Asked, Question
from vmfdist._families.spherical_cauchy import SPHERICAL_CAUCHY
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._numerics.constants import static
from vmfdist._numerics.elementwise import nonnegative
from vmfdist._numerics.infinity import standard_deviation
from vmfdist._numerics.precision import in_float64
from vmfdist._numerics.rows import expanded
from vmfdist._validation import (
    broadcast_shapes,
    check_concentration,
    check_dim,
    expanded_shape,
    fitting,
    require,
    require_broadcast,
    require_dense,
    require_float,
    require_held,
    require_number,
    require_number_or_tensor,
    set_validation,
    unit_tolerance,
)

__all__ = [
    "CosineLaw",
    "PowerSphericalCosine",
    "SphericalCauchyCosine",
    "VonMisesFisherCosine",
    "mass_cone",
]


def _held(concentration: float, dtype: torch.dtype) -> float:
    """The number; raises unless it is one that the dtype holds."""
    require_number("concentration", concentration, "a tensor or a Python number")
    require_held("concentration", float(concentration), dtype)
    return float(concentration)


def _check_concentration(concentration: Tensor, largest: float, validate: bool) -> None:
    require_float("concentration", concentration, unit=False)
    if validate:
        check_concentration("concentration", concentration, largest)


class CosineLaw(TorchDistribution):
    r"""What the laws of the cosine share: a concentration, a dimension, and all their methods.

    A value w can be given as 1 - w instead, which keeps its digits where the law sits next to
    w = 1: ``law.cdf(one_minus_value=t)``.

    At the ends of the support values and gradients are limits, infinite where these are: in
    dimension 2 the density is infinite at w = 1, in dimensions above 3 it is 0. At an infinite
    concentration, in every dimension, the law is the point mass at w = 1, of infinite density
    there.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"concentration": constraints.nonnegative}
    support = constraints.interval(-1.0, 1.0)
    has_rsample = True

    _given: Tensor  # the concentration before it is expanded
    _made_of: Tensor | None = None  # another parameter, until that is assigned
    _family: ClassVar[Family]
    _dim: int

    def __init__(
        self, concentration: Tensor | float, dim: int, validate_args: bool | None = None
    ) -> None:
        if not isinstance(concentration, Tensor):
            concentration = torch.tensor(_held(concentration, torch.get_default_dtype()))
        validate = self._validate_args if validate_args is None else validate_args
        _check_concentration(concentration, self._family.point_mass, validate)
        self._given = concentration
        self._dim = check_dim(dim)
        super().__init__(concentration.shape, validate_args=False)
        set_validation(self, validate_args)

    @property
    def concentration(self) -> Tensor:
        """The concentration. One that is assigned is checked, and all else follows it."""
        return self._given.expand(self.batch_shape)

    @concentration.setter
    def concentration(self, concentration: Tensor | float) -> None:
        if not isinstance(concentration, Tensor):
            concentration = self._given.new_full((), _held(concentration, self._given.dtype))
        _check_concentration(concentration, self._family.point_mass, self._validate_args)
        self._given = fitting("concentration", concentration, self.batch_shape)
        self._made_of = None

    def __repr__(self) -> str:
        k = self.concentration
        shown = f"{k.item():.6g}" if k.numel() == 1 else f"{tuple(k.shape)}"
        return f"{type(self).__name__}(concentration: {shown}, dim: {self.dim})"

    @property
    def dim(self) -> int:
        """The dimension of the ambient space, d."""
        return static(self._dim)

    @property
    def _strength(self) -> Tensor:
        return self._family.strength(self._given)

    def expand(self, batch_shape: _size, _instance: Any = None) -> Self:
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(CosineLaw, _instance)
        new._given, new._made_of, new._dim = self._given, self._made_of, self._dim
        batch_shape = expanded_shape(self.batch_shape, batch_shape)
        super(CosineLaw, new).__init__(batch_shape, validate_args=False)
        set_validation(new, self.__dict__.get("_validate_args"))
        return new

    def _ends(
        self, value: Tensor | None, one_minus_value: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """1 - w and 1 + w in the dtype, each to full relative accuracy."""
        if (value is None) == (one_minus_value is None):
            raise ValueError("give exactly one of value and one_minus_value")
        low, high, name = (-1, 1, "value") if one_minus_value is None else (0, 2, "one_minus_value")
        given = require_dense(name, value if one_minus_value is None else one_minus_value)
        if self._validate_args:
            require_broadcast(name, given.shape, self.batch_shape)
            # of two unit vectors that are rounded
            excused = 2 * unit_tolerance(torch.promote_types(given.dtype, torch.float32), self.dim)
            require(
                f"{name} must lie in [{low}, {high}]",
                given,
                lambda w: low - excused <= w <= high + excused,
            )
        x = given.to(dtype)
        if one_minus_value is None:
            return nonnegative(1 - x), nonnegative(1 + x)
        return nonnegative(x), nonnegative(2 - x)

    def log_prob(
        self, value: Tensor | None = None, *, one_minus_value: Tensor | None = None
    ) -> Tensor:
        """Log density of the cosine with respect to length.

        Args:
            value: cosines, of a shape that broadcasts with the batch shape.
            one_minus_value: their complements 1 - w, in place of ``value``.

        Raises:
            ValueError: if not exactly one is given; under ``validate_args``, if it is outside
                the support.
        """
        t, rest = self._ends(value, one_minus_value, self._given.dtype)
        log_density = self._family.cosine_log_density(t, rest, self._strength, self.dim)
        return self._expanded(log_density, t)

    def cdf(self, value: Tensor | None = None, *, one_minus_value: Tensor | None = None) -> Tensor:
        """The probability of a cosine of at most the value, differentiable in both.

        Arguments and errors are those of :meth:`log_prob`.
        """
        return self._apply(probabilities.below, value, one_minus_value)

    def sf(self, value: Tensor | None = None, *, one_minus_value: Tensor | None = None) -> Tensor:
        """The survival function 1 - cdf, not formed as this difference.

        Arguments and errors are those of :meth:`log_prob`.
        """
        return self._apply(probabilities.above, value, one_minus_value)

    def _apply(self, function: Any, value: Tensor | None, one_minus_value: Tensor | None) -> Tensor:
        k = in_float64(self._strength)
        t, rest = self._ends(value, one_minus_value, torch.float64)
        result = function(t, rest, k, (self._family, self.dim)).to(self._given.dtype)
        return self._expanded(result, t)

    def _expanded(self, result: Tensor, value: Tensor) -> Tensor:
        """What was computed with the concentration as given, in the shape that it should have."""
        return expanded(result, broadcast_shapes(value.shape, self.batch_shape))

    def icdf(self, value: Tensor) -> Tensor:
        """The cosine w with P(cosine <= w) = ``value``, differentiable in both parameters.

        Args:
            value: probabilities, of a shape that broadcasts with the batch shape; small ones keep
                their digits.

        Raises:
            ValueError: under ``validate_args``, if a probability is outside [0, 1].
        """
        return self._quantile(value, Asked.COSINE, upper=False)

    def isf(self, value: Tensor) -> Tensor:
        """The cosine w with P(cosine > w) = ``value``, the inverse of :meth:`sf`."""
        return self._quantile(value, Asked.COSINE, upper=True)

    def one_minus_icdf(self, value: Tensor) -> Tensor:
        """1 - ``icdf(value)``, not formed as this difference."""
        return self._quantile(value, Asked.COMPLEMENT, upper=False)

    def one_minus_isf(self, value: Tensor) -> Tensor:
        """1 - ``isf(value)``, not formed as this difference."""
        return self._quantile(value, Asked.COMPLEMENT, upper=True)

    def _quantile(self, p: Tensor, asked: Asked, *, upper: bool) -> Tensor:
        require_dense("probabilities", p)
        if self._validate_args:
            require_broadcast("probabilities", p.shape, self.batch_shape)
            require("probabilities must lie in [0, 1]", p, lambda number: 0 <= number <= 1)
        k, question = self._strength, Question((self._family, self.dim), asked, upper)
        quantile = probabilities.quantile(in_float64(p), in_float64(k), question)
        return self._expanded(quantile.to(k.dtype), p)

    @property
    def mean(self) -> Tensor:
        """The mean cosine, which is the mean resultant length of the law on the sphere."""
        return expanded(self._family.mean_cosine(self._strength, self.dim), self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """The variance along the mean direction of the law on the sphere."""
        return expanded(self._family.cosine_variance(self._strength, self.dim), self.batch_shape)

    @property
    def stddev(self) -> Tensor:
        """Standard deviation; where it is 0, so is its gradient."""
        return standard_deviation(self.variance)

    def entropy(self) -> Tensor:
        """Differential entropy with respect to length."""
        return expanded(self._family.cosine_entropy(self._strength, self.dim), self.batch_shape)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws with exact gradients in the concentration, one normal variable for each."""
        return self._draw(sample_shape, self._strength)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws without gradients, in forward mode too."""
        with torch.no_grad():
            return self._draw(sample_shape, self._strength.detach())

    def _draw(self, sample_shape: _size, k: Tensor) -> Tensor:
        shape = (*sample_shape, *self._batch_shape)
        zeta = torch.randn(shape, dtype=k.dtype, device=k.device)
        return 1 - probabilities.one_minus_draw(zeta, k, (self._family, self.dim))


class VonMisesFisherCosine(CosineLaw):
    r"""The law of :math:`w = \langle x, \mu\rangle` for x of a von Mises-Fisher law.

    Its density on [-1, 1] is

    .. math::

        f(w) = \frac{(\kappa/2)^{d/2-1}}{\sqrt\pi\,\Gamma(\frac{d-1}2)\, I_{d/2-1}(\kappa)}\,
        e^{\kappa w} (1 - w^2)^{(d-3)/2},

    at concentration 0 that of a coordinate of a uniform unit vector.

    Args:
        concentration: :math:`\kappa \ge 0`, a tensor or a Python number.
        dim: the dimension d of the ambient space, at least 2.
        validate_args: whether to check the concentration and the values given to the methods.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> law = VonMisesFisher(torch.tensor([0.6, 0.0, 0.8]), 10.0).cosine
        >>> law
        VonMisesFisherCosine(concentration: 10, dim: 3)
        >>> law.cdf(torch.tensor(0.5))
        tensor(0.0067)
        >>> law.sf(one_minus_value=torch.tensor(1e-4))  # P(1 - w < 1e-4)
        tensor(0.0010)
        >>> law.mean, law.variance
        (tensor(0.9000), tensor(0.0100))

    References:
        * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 9.3.2.
    """

    _family = VON_MISES_FISHER


class PowerSphericalCosine(CosineLaw):
    r"""The law of :math:`w = \langle x, \mu\rangle` for x of a power spherical law.

    :math:`(1 + w)/2` has the law :math:`\mathrm{Beta}(\frac{d-1}2 + \kappa, \frac{d-1}2)`.

    Args:
        concentration: :math:`\kappa \ge 0`, a tensor or a Python number.
        dim: the dimension d of the ambient space, at least 2.
        validate_args: whether to check the concentration and the values given to the methods.

    Example:
        >>> import torch
        >>> from vmfdist.cosine import PowerSphericalCosine
        >>> law = PowerSphericalCosine(2.0, 3)
        >>> law.cdf(torch.tensor(0.0))  # 1/2^3
        tensor(0.1250)
        >>> law.icdf(torch.tensor(0.125)).abs() < 1e-6
        tensor(True)

    References:
        * N. De Cao and W. Aziz (2020), The power spherical distribution, arXiv:2006.04437.
    """

    _family = POWER_SPHERICAL


class SphericalCauchyCosine(CosineLaw):
    r"""The law of :math:`w = \langle x, \mu\rangle` for x of a spherical Cauchy law.

    With :math:`k = \log\frac{1+\rho}{1-\rho}`, :math:`\operatorname{artanh}(w) - k` has the law of
    the artanh of a coordinate of a uniform unit vector.

    Args:
        concentration: :math:`\rho` from 0 to 1, a tensor or a Python number.
        dim: the dimension d of the ambient space, at least 2.
        validate_args: whether to check the concentration and the values given to the methods.

    Example:
        >>> import torch
        >>> from vmfdist.cosine import SphericalCauchyCosine
        >>> law = SphericalCauchyCosine(0.5, 2)
        >>> law.mean
        tensor(0.5000)
        >>> law.cdf(torch.tensor(0.8))  # half of it: the median angle is 2 arctan(1/3)
        tensor(0.5000)

    References:
        * S. Kato and P. McCullagh (2020), Some properties of a Cauchy family on the sphere derived
          from the Moebius transformations, Bernoulli 26(4), 3224-3248, doi:10.3150/20-BEJ1222.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"concentration": constraints.unit_interval}
    _family = SPHERICAL_CAUCHY

    @property
    def _strength(self) -> Tensor:
        return self._family.strength(self._given) if self._made_of is None else self._made_of


def mass_cone(
    cosine: CosineLaw, p: Tensor | float, batch_shape: torch.Size, validate_args: bool
) -> Tensor:
    """The half-angle of the cone that holds the mass p, for laws of that batch shape."""
    k = cosine.concentration
    require_number_or_tensor("p", p, "a tensor or a Python number")
    if not isinstance(p, Tensor):
        p = torch.full((), float(p), dtype=k.dtype, device=k.device)
    if validate_args:
        require_broadcast("p", p.shape, batch_shape)
        require("p must lie in [0, 1]", p, lambda number: 0 <= number <= 1)
    angle = cosine._quantile(p, Asked.ANGLE, upper=True)
    return angle.expand(broadcast_shapes(angle.shape, batch_shape))
