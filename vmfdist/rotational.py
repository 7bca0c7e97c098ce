r"""What all rotationally symmetric laws on the sphere share: the tangent-normal decomposition.

A law on the unit sphere of :math:`\mathbb R^d` that is symmetric about a direction :math:`\mu` is

.. math:: x = w \mu + \sqrt{1 - w^2}\, v,

with :math:`v` uniform on the unit sphere of the tangent space at :math:`\mu` and independent of the
cosine :math:`w` (Mardia and Jupp 2000, section 9.3.1). The laws differ in that of :math:`w` only;
:mod:`vmfdist._sampling.draw` puts the two parts together.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.types import _size

from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._families.family import Family
from vmfdist._numerics.constants import static
from vmfdist._numerics.infinity import standard_deviation
from vmfdist._numerics.rows import expanded
from vmfdist._sampling.draw import draw
from vmfdist._validation import (
    broadcast_shapes,
    check_concentration,
    check_on_sphere,
    check_vector,
    expanded_shape,
    fitting,
    require_dense,
    require_held,
    set_validation,
    validate_value,
)
from vmfdist.cosine import CosineLaw, mass_cone

__all__ = [
    "CovarianceEigenvalues",
    "RotationallySymmetric",
]


def _as_concentration(
    name: str, concentration: Tensor | float, loc: Tensor, validate: bool
) -> Tensor:
    """The concentration in the dtype of ``loc``; a number without a copy from the host."""
    if not isinstance(concentration, Tensor) and isinstance(concentration, Real):
        require_held(name, float(concentration), loc.dtype)
        return torch.full((), float(concentration), dtype=loc.dtype, device=loc.device)
    k = require_dense(name, concentration, "a real tensor or a Python number")
    if validate:
        require_held(name, k, loc.dtype)
    return k.to(loc.dtype)


def as_parameters(
    loc: Tensor,
    concentration: Tensor | float,
    largest: float,
    validate: bool,
    name: str = "concentration",
) -> tuple[Tensor, Tensor]:
    """Both parameters as tensors of one dtype, checked each on its own."""
    check_vector("loc", loc, unit=True)
    concentration = _as_concentration(name, concentration, loc, validate)
    if validate:
        check_on_sphere("loc", loc)
        check_concentration(name, concentration, largest)
    return loc, concentration


class CovarianceEigenvalues(NamedTuple):
    """The two different eigenvalues of a covariance matrix, of the batch shape of the law."""

    along: Tensor
    """Along the mean direction."""

    across: Tensor
    """Perpendicular to it, of multiplicity d - 1."""


class RotationallySymmetric(TorchDistribution):
    """A law on the sphere with a mean direction and a concentration; base of the public ones.

    A subclass names the law of the cosine, and by it the family.
    """

    _cosine: ClassVar[type[CosineLaw]]

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.sphere,
        "concentration": constraints.nonnegative,
    }
    support = constraints.sphere
    has_rsample = True

    _given: tuple[Tensor, Tensor]  # loc and concentration before they are expanded
    _made_of: Tensor | None = None  # another parameter, until one of these is assigned

    def __init__(
        self, loc: Tensor, concentration: Tensor | float, validate_args: bool | None = None
    ) -> None:
        validate = self._validate_args if validate_args is None else validate_args
        self._given = loc, concentration = self._checked(loc, concentration, validate)
        try:
            batch_shape = broadcast_shapes(loc.shape[:-1], concentration.shape)
        except RuntimeError as error:
            raise ValueError(
                f"loc of shape {tuple(loc.shape)} and concentration of shape "
                f"{tuple(concentration.shape)} do not broadcast: concentration must fit "
                f"{tuple(loc.shape[:-1])}, the shape of loc without its last dimension"
            ) from error
        # The constraints are checked above, with messages that say what to do.
        super().__init__(batch_shape, loc.shape[-1:], validate_args=False)
        set_validation(self, validate_args)

    @classmethod
    def _of_strength(
        cls, loc: Tensor, strength: Tensor | float, /, validate_args: bool | None = None
    ) -> Self:
        """The law by the strength of its family, where this is not the concentration."""
        return cls(loc, strength, validate_args)

    def _checked(
        self, loc: Tensor, concentration: Tensor | float, validate: bool
    ) -> tuple[Tensor, Tensor]:
        return as_parameters(loc, concentration, self._family.point_mass, validate)

    @property
    def loc(self) -> Tensor:
        """The mean direction. One that is assigned is checked, and all else follows it."""
        return self._given[0].expand(self.batch_shape + self.event_shape)

    @loc.setter
    def loc(self, loc: Tensor) -> None:
        loc, concentration = self._checked(loc, self._given[1], self._validate_args)
        fitting("loc", loc, self.batch_shape + self.event_shape)
        self._take(loc, concentration)

    @property
    def concentration(self) -> Tensor:
        """The concentration. One that is assigned is checked, and all else follows it."""
        return self._given[1].expand(self.batch_shape)

    @concentration.setter
    def concentration(self, concentration: Tensor | float) -> None:
        loc, concentration = self._checked(self._given[0], concentration, self._validate_args)
        fitting("concentration", concentration, self.batch_shape)
        self._take(loc, concentration)

    def _take(self, loc: Tensor, concentration: Tensor) -> None:
        self._given, self._made_of = (loc, concentration), None

    def __repr__(self) -> str:
        # torch looks for the parameters among the attributes of the instance.
        shown = (
            f"{name}: {x if x.numel() == 1 else x.size()}"
            for name, x in (("loc", self.loc), ("concentration", self.concentration))
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    @staticmethod
    def infer_shapes(  # type: ignore[override]  # static, as Pyro's own are
        loc: _size, concentration: _size = ()
    ) -> tuple[torch.Size, torch.Size]:
        """Batch and event shape of a law whose parameters have these shapes."""
        batch_shape = torch.broadcast_shapes(tuple(loc[:-1]), tuple(concentration))
        return batch_shape, torch.Size(loc[-1:])

    def expand(self, batch_shape: _size, _instance: Any = None) -> Self:
        """The same law with a larger batch shape, sharing memory with this one."""
        new = self._get_checked_instance(RotationallySymmetric, _instance)
        new._given, new._made_of = self._given, self._made_of
        batch_shape = expanded_shape(self.batch_shape, batch_shape)
        super(RotationallySymmetric, new).__init__(
            batch_shape, self.event_shape, validate_args=False
        )
        set_validation(new, self.__dict__.get("_validate_args"))
        return new

    @property
    def dim(self) -> int:
        """The dimension of the ambient space, d."""
        return static(self._event_shape[0])

    @property
    def _family(self) -> Family:
        return self._cosine._family

    @property
    def _strength(self) -> Tensor:
        return self._family.strength(self._given[1])

    @property
    def mode(self) -> Tensor:
        """The direction of highest density, ``loc`` (any direction is one at concentration 0)."""
        return self.loc

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws with gradients in ``loc`` and ``concentration``, exact sample by sample.

        One vector of d normal variables makes a draw: no rejection, no loop, no waiting for the
        device. The gradient in ``concentration`` is the implicit-reparameterisation gradient; that
        in ``loc`` follows the smallest rotation that moves ``loc``, is tangent to the sphere and
        unbiased. Second derivatives are refused with a NotImplementedError.

        Args:
            sample_shape: the shape of independent draws in front of the batch shape.

        Returns:
            Unit vectors of shape ``sample_shape + batch_shape + (d,)``.
        """
        return self._draw(self._noise(sample_shape))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws without gradients, in forward mode too."""
        with torch.no_grad():
            loc, k = self._given[0].detach(), self._strength.detach()
            return draw(self._noise(sample_shape), loc, k, self._family.of_noise)

    def _noise(self, sample_shape: _size) -> Tensor:
        loc, _ = self._given
        shape = (*sample_shape, *self._batch_shape, *self._event_shape)
        return torch.randn(shape, dtype=loc.dtype, device=loc.device)

    def _draw(self, noise: Tensor) -> Tensor:
        return draw(noise, self._given[0], self._strength, self._family.of_noise)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Log density with respect to the surface measure of the sphere.

        Formed of squared distances, :math:`|x - \mu|^2` in place of :math:`\langle x, \mu\rangle`,
        which loses nothing near ``loc`` at high concentration. Gradients in ``value`` and ``loc``
        are those of this form; along the sphere they are those of any other.

        Args:
            value: unit vectors of shape (..., d) that broadcast with the batch shape.

        Returns:
            A tensor of the broadcast of ``value.shape[:-1]`` and the batch shape.

        Raises:
            ValueError: under ``validate_args``, if ``value`` is not on the sphere or of another
                dimension.
        """
        if self._validate_args:
            self._validate_sample(value)
        shape = broadcast_shapes(value.shape[:-1], self.batch_shape)
        return expanded(self._log_density(value), shape)

    def entropy(self) -> Tensor:
        """Differential entropy with respect to the surface measure."""
        return expanded(log_sphere_area(self.dim) - self._kl_to_uniform(), self.batch_shape)

    @property
    def cosine(self) -> CosineLaw:
        """The law of the cosine <x, loc>, a univariate distribution on [-1, 1]."""
        law = self._given_cosine
        law = law if law.batch_shape == self.batch_shape else law.expand(self.batch_shape)
        set_validation(law, self.__dict__.get("_validate_args"))
        return law

    @property
    def _given_cosine(self) -> CosineLaw:
        """That of the concentration before it is expanded: moments are formed of it once."""
        return self._cosine(self._given[1], self.dim, validate_args=False)

    def mass_cone(self, p: Tensor | float) -> Tensor:
        r"""Half-angle, in radians, of the cone around ``loc`` that holds the mass ``p``.

        It is the ``p``-quantile of the angle :math:`\arccos\langle x, \mu\rangle`, and keeps its
        digits however high the concentration. (The cone that an estimated mean direction may be
        off by is another one, :func:`vmfdist.estimation.confidence_cone`.)

        Args:
            p: probabilities, a tensor that broadcasts with the batch shape or a number.

        Raises:
            ValueError: under ``validate_args``, if a probability is outside [0, 1].
        """
        return mass_cone(self._given_cosine, p, self.batch_shape, self._validate_args)

    @property
    def mean_resultant_length(self) -> Tensor:
        """Length of the mean, the mean of the cosine, from 0 to 1."""
        return expanded(self._mean_cosine(), self.batch_shape)

    @property
    def one_minus_mean_resultant_length(self) -> Tensor:
        """The spherical variance, 1 less the mean resultant length, with its digits near 0.

        It is half the mean squared distance of a draw from ``loc``.
        """
        value = self._family.one_minus_mean_cosine(self._strength, self.dim)
        return expanded(value, self.batch_shape)

    @property
    def mean(self) -> Tensor:
        """The mean in the ambient space, ``loc`` times the mean resultant length."""
        return expanded(self._mean(), self.batch_shape + self.event_shape)

    @property
    def covariance_eigenvalues(self) -> CovarianceEigenvalues:
        """The variance along ``loc``, and that along every direction perpendicular to it.

        At concentration 0 both are 1/d.
        """
        return CovarianceEigenvalues(*(expanded(x, self.batch_shape) for x in self._eigenvalues()))

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, the diagonal of :attr:`covariance_matrix`."""
        return expanded(self._variance(), self.batch_shape + self.event_shape)

    @property
    def stddev(self) -> Tensor:
        """Standard deviation of each coordinate; where it is 0, so is its gradient."""
        return standard_deviation(self.variance)

    @property
    def covariance_matrix(self) -> Tensor:
        r"""The covariance in the ambient space, of shape ``batch_shape + (d, d)``.

        With the :attr:`covariance_eigenvalues` it is :math:`\mathrm{along}\, \mu\mu^T +
        \mathrm{across}\, (1 - \mu\mu^T)`; in high dimension these two numbers say as much.
        """
        return self._covariance_matrix().expand(self.batch_shape + self.event_shape * 2)

    # The same of the parameters before they are expanded.

    def _log_density(self, value: Tensor) -> Tensor:
        return self._family.log_density(value, self._given[0], self._strength, self.dim)

    def _kl_to_uniform(self) -> Tensor:
        return self._family.kl_to_uniform(self._strength, self.dim)

    def _kl_from_uniform(self) -> Tensor:
        return self._family.kl_from_uniform(self._strength, self.dim)

    def _eigenvalues(self) -> CovarianceEigenvalues:
        family, k = self._family, self._strength
        return CovarianceEigenvalues(
            family.cosine_variance(k, self.dim), family.tangent_variance(k, self.dim)
        )

    def _mean_cosine(self) -> Tensor:
        return self._family.mean_cosine(self._strength, self.dim)

    def _mean(self) -> Tensor:
        loc, _ = self._given
        return loc * self._mean_cosine().unsqueeze(-1)

    def _variance(self) -> Tensor:
        loc, _ = self._given
        along, across = (x.unsqueeze(-1) for x in self._eigenvalues())
        return along * loc.square() + across * ((1 - loc) * (1 + loc))

    def _covariance_matrix(self) -> Tensor:
        loc, _ = self._given
        along, across = self._eigenvalues()
        outer = loc.unsqueeze(-1) * loc.unsqueeze(-2)
        matrix = (along - across).unsqueeze(-1).unsqueeze(-1) * outer
        # The diagonal without the difference, of which nothing may be left.
        return matrix.diagonal_scatter(self._variance(), dim1=-2, dim2=-1)

    def _validate_sample(self, value: Tensor) -> None:
        validate_value(value, self.batch_shape, self.dim)
