r"""The laws of the cosine :math:`w = \langle x, \mu\rangle` of a direction x with a mean direction.

They are univariate distributions on [-1, 1], which the laws on the sphere give as their ``cosine``.
What is asked near w = 1 can be asked of 1 - w instead, since at high concentration a cosine that is
rounded says nothing more: in float32 at a concentration of 1e8 it is 1.

Accuracy: probabilities, quantiles and their derivatives to 1e-10 relative (quantiles: in the
probability, beyond their own rounding), in float64, in both tails down to 1e-290, for dimensions
from 2 to 4096 and concentrations from 0 to 1e8, where 1 - w and 1 + w are at least 1e-299 (which in
dimension 2 leaves probabilities from 1e-149 on); tests/test_quantile.py. Smaller ones count as
1e-299 or 1e-300, and smaller probabilities than 2.2e-308 as 2.2e-308.

References:
    * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 9.3 (tangent-normal
      decomposition).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.types import _size

from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import sphere
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.constants import cached_tensor, static
from vmfdist._numerics.elementwise import refuse_derivative, with_derivative
from vmfdist._numerics.infinity import finite, outside, standard_deviation
from vmfdist._numerics.rows import expanded
from vmfdist._sampling import quadrature
from vmfdist._sampling.cosines import CosineDraw, Transport, to_power_spherical, to_von_mises_fisher
from vmfdist._sampling.tilt import POWER_SPHERICAL, VON_MISES_FISHER, Tilt
from vmfdist._validation import (
    broadcast_shapes,
    check_dim,
    check_nonnegative,
    expanded_shape,
    fitting,
    require_float,
    require_held,
    set_validation,
)

__all__ = ["Asked", "CosineLaw", "PowerSphericalCosine", "VonMisesFisherCosine"]

# --------------------------------------------------------------------------------------------------
# Differentiable functions of float64 tensors; t = 1 - w, rest = 1 + w
# --------------------------------------------------------------------------------------------------

_Law = tuple[Tilt, int]  # and the dimension

_refuse = refuse_derivative(
    "second derivatives in the concentration of a probability, quantile or draw of the cosine are "
    "not implemented: differentiate log_prob, or once only"
)

# Quadrature takes squares of concentrations. Beyond this one the law of k t stays as it is.
_HIGH = 1e150


def _capped(k: Tensor) -> tuple[Tensor, Tensor]:
    """A concentration that quadrature takes, and the factor by which its t is larger."""
    return k.clamp(max=_HIGH), (k / _HIGH).clamp(min=1.0)


def _none(t: Tensor, *_: Any) -> Tensor:
    return torch.zeros_like(t)  # the derivative in rest is in that in t


@with_derivative(
    lambda t, rest, k, law: law[0].log_density_slope(t, rest, finite(k), law[1]),
    _none,
    lambda t, rest, k, law: -law[0].statistic(t, rest),
)
def _log_tilt(t: Tensor, rest: Tensor, k: Tensor, law: tuple[Tilt, float]) -> Tensor:
    """-k s + power log(t rest), for a law and a power; at infinity the point mass at t = 0."""
    tilt, power = law
    finite_k = finite(k)
    point = (finite_k - k) * outside(t)  # 0 for a finite k, else infinity of either sign
    result = tilt.log_density(t, rest, finite_k, power)
    return torch.where(point == 0, result, point)


def _log_density(t: Tensor, rest: Tensor, k: Tensor, law: _Law, less: int = 3) -> Tensor:
    """Of w, with the power (d - 3)/2 of 1 - w^2; of the angle less is 2, of artanh(w) 1."""
    tilt, dim = law
    constant = tilt.log_density_at_mode(finite(k), dim) + sphere.log_sphere_area(dim - 1)
    return constant + _log_tilt(t, rest, k, (tilt, (dim - less) / 2))


def _density(t: Tensor, rest: Tensor, k: Tensor, law: _Law) -> Tensor:
    return torch.exp(_log_density(t, rest, k, law))


def _probability(t: Tensor, rest: Tensor, k: Tensor, law: _Law) -> quadrature.Probability:
    tilt, dim = law
    k, factor = _capped(k)
    t = torch.where(t == 0, 0.0, t * factor).clamp(1e-300, 2.0)
    rest = torch.where(factor > 1, 2 - t, rest).clamp(min=1e-300)
    flat = t.reshape(-1), rest.reshape(-1), k.reshape(-1)
    parts = quadrature.probability(*flat, dim=dim, tilt=tilt)
    below, above, slope = (part.reshape(t.shape) for part in parts)
    return quadrature.Probability(below, above, slope / factor)


@with_derivative(_refuse, _refuse, _refuse)
def _slope(t: Tensor, rest: Tensor, k: Tensor, law: _Law) -> Tensor:
    """The derivative of the probability above."""
    return torch.where((t == 0) | (rest == 0), 0.0, _probability(t, rest, k, law).slope)


@with_derivative(lambda t, rest, k, law: -_density(t, rest, k, law), _none, lambda *x: -_slope(*x))
def _below(t: Tensor, rest: Tensor, k: Tensor, law: _Law) -> Tensor:
    """P(cosine < 1 - t)."""
    return torch.where(rest == 0, 0.0, _probability(t, rest, k, law).below)


@with_derivative(_density, _none, lambda *x: _slope(*x))
def _above(t: Tensor, rest: Tensor, k: Tensor, law: _Law) -> Tensor:
    """P(cosine > 1 - t)."""
    return torch.where(t == 0, 0.0, _probability(t, rest, k, law).above)


def _solve(zeta: Tensor, k: Tensor, law: _Law) -> quadrature.Quantile:
    """Of a concentration that quadrature takes."""
    tilt, dim = law
    solution = quadrature.solve(zeta.reshape(-1), k.reshape(-1), dim, tilt, quadrature.FINE)
    return quadrature.Quantile(*(x.reshape(zeta.shape) for x in solution))


def _ends(u: Tensor) -> tuple[Tensor, Tensor]:
    """1 - w and 1 + w at u = artanh(-w): the smaller to relative accuracy, the larger rounded."""
    smaller = 2 * torch.sigmoid(-2 * u.abs())
    return torch.where(u < 0, smaller, 2 - smaller), torch.where(u < 0, 2 - smaller, smaller)


class Asked(Enum):
    """What a quantile is asked for."""

    ODDS = auto()  # artanh(-w), of the capped concentration
    ANGLE = auto()
    COMPLEMENT = auto()  # 1 - w
    COSINE = auto()


class _Question(NamedTuple):
    law: _Law
    asked: Asked
    upper: bool  # whether the probability is that of larger cosines, or smaller angles


def _odds(p: Tensor, k: Tensor, question: _Question) -> quadrature.Quantile:
    info = torch.finfo(p.dtype)
    zeta = torch.special.ndtri(p.clamp(info.tiny, 1 - info.eps / 2))
    return _solve(zeta if question.upper else -zeta, _capped(k)[0], question.law)


def _from_odds(u: Tensor, p: Tensor, k: Tensor, question: _Question) -> tuple[Tensor, Tensor]:
    """1 - w and 1 + w."""
    _, factor = _capped(k)
    t, rest = _ends(u)
    t = t / factor
    rest = torch.where(factor > 1, 2 - t, rest)
    # w = -1 holds the probability 0 below and 1 above.
    lowest, highest = (1, 0) if question.upper else (0, 1)
    t = torch.where(p == lowest, 2.0, torch.where(p == highest, 0.0, t))
    return t, torch.where(p == lowest, 0.0, torch.where(p == highest, 2.0, rest))


def _quantile_density(p: Tensor, k: Tensor, question: _Question) -> Tensor:
    """The derivative in p: 1 over the density, which falls or rises with the probability."""
    law, asked, upper = question
    u = _quantile_of(p, k, question._replace(asked=Asked.ODDS))
    less = {Asked.ODDS: 1, Asked.ANGLE: 2}.get(asked, 3)
    log_density = _log_density(*_from_odds(u, p, k, question), k, law, less)
    return torch.exp(-log_density) * (1.0 if upper == (asked is not Asked.COSINE) else -1.0)


@with_derivative(_refuse, _refuse)
def _quantile_slope(p: Tensor, k: Tensor, question: _Question) -> Tensor:
    u, rate = _odds(p, k, question)
    if question.asked is Asked.ODDS:
        return -rate
    t, rest = _from_odds(u, p, k, question)
    rate = rate / _capped(k)[1]
    if question.asked is Asked.ANGLE:
        return -(t * rest).sqrt() * rate
    return t * rest * rate * (1.0 if question.asked is Asked.COSINE else -1.0)


@with_derivative(_quantile_density, _quantile_slope)
def _quantile_of(p: Tensor, k: Tensor, question: _Question) -> Tensor:
    u = _odds(p, k, question).u
    if question.asked is Asked.ODDS:
        return u
    t, rest = _from_odds(u, p, k, question)
    if question.asked is Asked.ANGLE:
        return 2 * torch.atan2(t.sqrt(), rest.sqrt())
    return t if question.asked is Asked.COMPLEMENT else torch.where(t < 1, 1 - t, rest - 1)


@with_derivative(_refuse, _refuse)
def _draw_slope(zeta: Tensor, k: Tensor, law: tuple[Transport, int]) -> Tensor:
    """The derivative of t in the concentration."""
    transport, dim = law
    t, rate = transport(zeta, k, dim)
    return -rate * t * (2 - t)


@with_derivative(_refuse, _draw_slope)
def _one_minus_draw(zeta: Tensor, k: Tensor, law: tuple[Transport, int]) -> Tensor:
    transport, dim = law
    return transport(zeta, k, dim).one_minus_cosine


# --------------------------------------------------------------------------------------------------
# The mean of log(1 - w^2), for the entropy
# --------------------------------------------------------------------------------------------------


@cached_tensor(maxsize=8)
def _normal_rule() -> Tensor:
    """Nodes and weights of the mean of a smooth function of a standard normal variable, two rows.

    The trapezoidal rule, which converges geometrically for analytic functions that decay at both
    ends (Trefethen and Weideman 2014, doi:10.1137/130932132).
    """
    zeta = torch.linspace(-9, 9, 145, dtype=torch.float64, device="cpu")
    weight = torch.exp(-zeta * zeta / 2)
    return torch.stack([zeta, weight / weight.sum()])


def _mean_over_quantiles(k: Tensor, law: _Law, function: Any) -> Tensor:
    """The mean of a function of (t, rest, du/dk), over the quantiles at normal scores."""
    zeta, weight = _normal_rule(like=k).unbind()
    rows = k.reshape(-1, 1)
    zeta, rows = torch.broadcast_tensors(zeta, rows)
    u, rate = _solve(zeta.contiguous(), rows.contiguous(), law)
    t, rest = _ends(u)
    return (function(t, rest, -rate) * weight).sum(-1).reshape(k.shape)


@with_derivative(_refuse)
def _mean_log_complement_slope(k: Tensor, law: _Law) -> Tensor:
    """d log(1 - w^2) / du = 2w."""
    return _mean_over_quantiles(k, law, lambda t, rest, slope: (rest - t) * slope)


@with_derivative(_mean_log_complement_slope)
def _mean_log_complement(k: Tensor, law: _Law) -> Tensor:
    """E log(1 - w^2)."""
    return _mean_over_quantiles(k, law, lambda t, rest, _: torch.log(t) + torch.log(rest))


# --------------------------------------------------------------------------------------------------
# The laws
# --------------------------------------------------------------------------------------------------


def _check_concentration(concentration: Tensor, validate: bool) -> None:
    require_float("concentration", concentration, unit=False)
    if validate:
        check_nonnegative("concentration", concentration)


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
    _tilt: ClassVar[Tilt]
    _transport: ClassVar[staticmethod[[Tensor, Tensor, int], CosineDraw]]
    _mean: ClassVar[staticmethod[[Tensor, int], Tensor]]
    _dim: int

    def __init__(
        self, concentration: Tensor | float, dim: int, validate_args: bool | None = None
    ) -> None:
        if not isinstance(concentration, Tensor):
            concentration = float(concentration)
            require_held("concentration", concentration, torch.get_default_dtype())
            concentration = torch.tensor(concentration)
        validate = self._validate_args if validate_args is None else validate_args
        _check_concentration(concentration, validate)
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
            require_held("concentration", float(concentration), self._given.dtype)
            concentration = self._given.new_full((), float(concentration))
        _check_concentration(concentration, self._validate_args)
        self._given = fitting("concentration", concentration, self.batch_shape)

    def __repr__(self) -> str:
        k = self.concentration
        shown = f"{k.item():.6g}" if k.numel() == 1 else f"{tuple(k.shape)}"
        return f"{type(self).__name__}(concentration: {shown}, dim: {self.dim})"

    @property
    def dim(self) -> int:
        """The dimension of the ambient space, d."""
        return static(self._dim)

    def expand(self, batch_shape: _size, _instance: Any = None) -> Self:
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(CosineLaw, _instance)
        new._given, new._dim = self._given, self._dim
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
        given = value if one_minus_value is None else one_minus_value
        if not isinstance(given, Tensor):
            raise TypeError(f"the value must be a tensor, got {type(given).__name__}")
        low, high, name = (-1, 1, "value") if one_minus_value is None else (0, 2, "one_minus_value")
        if self._validate_args and not torch._is_all_true((given >= low) & (given <= high)):
            raise ValueError(
                f"{name} must lie in [{low}, {high}], got values between {given.min().item():.9g} "
                f"and {given.max().item():.9g}"
            )
        x = given.to(dtype)
        if one_minus_value is None:
            return (1 - x).clamp(min=0), (1 + x).clamp(min=0)
        return x.clamp(min=0), (2 - x).clamp(min=0)

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
        return self._expanded(_log_density(t, rest, self._given, (self._tilt, self.dim)), t)

    def cdf(self, value: Tensor | None = None, *, one_minus_value: Tensor | None = None) -> Tensor:
        """The probability of a cosine of at most the value, differentiable in both.

        Arguments and errors are those of :meth:`log_prob`.
        """
        return self._apply(_below, value, one_minus_value)

    def sf(self, value: Tensor | None = None, *, one_minus_value: Tensor | None = None) -> Tensor:
        """The survival function 1 - cdf, not formed as this difference.

        Arguments and errors are those of :meth:`log_prob`.
        """
        return self._apply(_above, value, one_minus_value)

    def _apply(self, function: Any, value: Tensor | None, one_minus_value: Tensor | None) -> Tensor:
        t, rest = self._ends(value, one_minus_value, torch.float64)
        k = self._given
        result = function(t, rest, k.double(), (self._tilt, self.dim)).to(k.dtype)
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
        if not isinstance(p, Tensor):
            raise TypeError(f"the probability must be a tensor, got {type(p).__name__}")
        if self._validate_args and not torch._is_all_true((p >= 0) & (p <= 1)):
            raise ValueError(
                f"probabilities must lie in [0, 1], got values between {p.min().item():.9g} and "
                f"{p.max().item():.9g}"
            )
        k, question = self._given, _Question((self._tilt, self.dim), asked, upper)
        return self._expanded(_quantile_of(p.double(), k.double(), question).to(k.dtype), p)

    @property
    def stddev(self) -> Tensor:
        """Standard deviation; where it is 0, so is its gradient."""
        return standard_deviation(self.variance)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws with exact gradients in the concentration, one normal variable for each."""
        return self._draw(sample_shape, self._given)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws without gradients, in forward mode too."""
        with torch.no_grad():
            return self._draw(sample_shape, self._given.detach())

    def _draw(self, sample_shape: _size, k: Tensor) -> Tensor:
        shape = self._extended_shape(sample_shape)
        zeta = torch.randn(shape, dtype=k.dtype, device=k.device)
        return 1 - _one_minus_draw(zeta, k, (self._transport, self.dim))


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

    _tilt = VON_MISES_FISHER
    _transport = staticmethod(to_von_mises_fisher)
    _mean = staticmethod(vmf.mean_resultant_length)

    @property
    def mean(self) -> Tensor:
        """The mean resultant length of the law on the sphere."""
        return expanded(self._mean(self._given, self.dim), self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """The derivative of the mean in the concentration."""
        return vmf.mean_resultant_length_derivative(self._given, self.dim).expand(self.batch_shape)

    def entropy(self) -> Tensor:
        """Differential entropy with respect to length.

        In dimension 3 in closed form, else with a mean of log(1 - w^2) by quadrature.
        """
        given, law = self._given, (self._tilt, self.dim)
        k, factor = _capped(given.double())
        tilt, dim = law
        constant = tilt.log_density_at_mode(k, dim) + sphere.log_sphere_area(dim - 1)
        result = k * tilt.mean(k, dim) - constant - torch.log(factor)
        if dim != 3:
            result = result - (dim - 3) / 2 * _mean_log_complement(k, law)
        return result.to(given.dtype).expand(self.batch_shape)


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

    _tilt = POWER_SPHERICAL
    _transport = staticmethod(to_power_spherical)
    _mean = staticmethod(ps.mean_cosine)

    @property
    def mean(self) -> Tensor:
        r""":math:`\kappa / (d - 1 + \kappa)`."""
        return expanded(self._mean(self._given, self.dim), self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """That of the affine image of a Beta variable."""
        return ps.cosine_variance(self._given, self.dim).expand(self.batch_shape)

    def entropy(self) -> Tensor:
        """Differential entropy with respect to length, differentiable twice."""
        return ps.cosine_entropy(self._given, self.dim).expand(self.batch_shape)
