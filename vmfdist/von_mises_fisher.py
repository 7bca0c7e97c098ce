"""The von Mises-Fisher law on the unit sphere of R^d."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from vmfdist import _resultant
from vmfdist._closed_forms import natural, sphere
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.autograd import is_tracked
from vmfdist._numerics.chords import squared_chord
from vmfdist._numerics.infinity import finite
from vmfdist._numerics.precision import in_float64
from vmfdist._numerics.rows import expanded
from vmfdist._sampling.draw import draw
from vmfdist._validation import (
    check_loc,
    check_samples,
    check_vector,
    check_weights,
    common_shape,
    require,
)
from vmfdist.cosine import VonMisesFisherCosine
from vmfdist.rotational import CovarianceEigenvalues, RotationallySymmetric

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
    normal of the tangent space. An infinite concentration is that point mass, whose log density is
    infinite at ``loc`` and minus infinity elsewhere. In dimension 2 it is the von Mises law of a
    direction on the circle, in dimension 3 Fisher's.

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
            ``concentration`` is negative, NaN or too large for the dtype.

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

    _cosine = VonMisesFisherCosine

    @classmethod
    def fit(
        cls,
        samples: Tensor,
        weights: Tensor | None = None,
        *,
        loc: Tensor | None = None,
        bias_corrected: bool = False,
        validate_args: bool | None = None,
    ) -> Self:
        r"""The law under which samples are most likely, by maximum likelihood.

        ``loc`` is the direction of the mean of the samples, and the concentration solves

        .. math:: A(\kappa) = R, \qquad
            R = \Big| \sum_i \omega_i x_i \Big| \Big/ \sum_i \omega_i .

        Sums are taken in float64, and 1 - R is formed from differences of the samples: the
        concentration keeps its digits at 1e7 in float32 too.

        The concentration is too high on average: samples lie closer to their own mean direction
        than to the true one. ``bias_corrected=True`` maximises the likelihood of the resultant
        length :math:`S = n R` alone, in which the unknown ``loc`` has no part (Schou 1978): it
        solves

        .. math:: n A(\kappa) = S A(\kappa S), \qquad n = \sum_i \omega_i,

        and is 0 where :math:`S^2 \le n`. Weights then are counts. At high concentration it is
        smaller than the other by the factor (n - 1)/n, and its inverse is unbiased.

        Where the mean direction :math:`\mu` is known, give it as ``loc``. The concentration then
        solves :math:`A(\kappa) = \langle \bar x, \mu\rangle` with the mean :math:`\bar x` of the
        samples, and is 0 where that is not positive. At high concentration its inverse is unbiased
        as it is. Its standard error is that of :func:`vmfdist.estimation.standard_errors`.

        If all samples are equal, one alone included, the concentration is infinite (the point
        mass; of one sample the bias-corrected concentration is 0). If the resultant is 0, so is
        the concentration, and ``loc`` is the first axis. Elsewhere both are differentiable in
        samples and weights, twice; in these degenerate cases the concentration has gradient 0.

        Shapes:
            ``samples`` (..., n, d), ``weights`` (..., n); the axes to the left broadcast to the
            batch shape of the law. Responsibilities of shape (K, n) make K laws of one sample. The
            last axis of an array of weights is not broadcast: (n, 1) is refused.

        Args:
            samples: unit vectors along the last dimension.
            weights: nonnegative weights of the samples; equal ones if not given.
            loc: the mean direction where it is known, unit vectors of shape (..., d) whose axes to
                the left broadcast with the others; if not given it is estimated.
            bias_corrected: whether to correct the concentration for its bias, which is that of an
                estimated mean direction.
            validate_args: whether to check samples and weights, and the law's ``validate_args``.
                Unchecked, samples whose weights are all 0 are those with resultant 0.

        Returns:
            A law in the dtype of the samples.

        Raises:
            TypeError: if ``samples`` or ``loc`` is not a float32 or float64 tensor, or ``weights``
                not a real one.
            ValueError: if there are no samples or the shapes do not fit, or ``bias_corrected`` is
                asked for with ``loc``; under ``validate_args`` also if samples or ``loc`` are not
                unit vectors, weights negative, infinite or NaN, or all of them 0.

        Example:
            >>> import torch
            >>> from vmfdist import VonMisesFisher
            >>> samples = torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.0, 0.8], [0.8, 0.6, 0.0]])
            >>> law = VonMisesFisher.fit(samples)
            >>> law.loc
            tensor([0.7785, 0.5449, 0.3114])
            >>> law.concentration
            tensor(6.9612)
            >>> VonMisesFisher.fit(samples, bias_corrected=True).concentration
            tensor(4.6348)
            >>> VonMisesFisher.fit(samples, loc=torch.tensor([0.6, 0.8, 0.0])).concentration
            tensor(4.4060)

        References:
            * K. V. Mardia and P. E. Jupp (2000), Directional statistics, section 10.3.1.
            * G. Schou (1978), Estimation of the concentration parameter in von Mises-Fisher
              distributions, Biometrika 65(2), 369-377, doi:10.1093/biomet/65.2.369.
        """
        validate = cls._validate_args if validate_args is None else validate_args
        check_samples("samples", samples, validate)
        check_weights(weights, samples, validate)
        data, dim = _resultant.resultant(samples, weights), samples.shape[-1]
        if loc is not None:
            if bias_corrected:
                raise ValueError(
                    "bias_corrected=True is for an estimated mean direction: with loc given there "
                    "is no such bias to correct"
                )
            check_loc(loc, dim, validate)
            direction, _ = natural.polar(in_float64(loc))
            k = _resultant.concentration(*_resultant.along(data, direction), dim)
            loc = loc if loc.dtype == samples.dtype else direction.to(samples.dtype)
            return cls(loc, k.to(samples.dtype), validate_args)
        if bias_corrected:
            k = _resultant.marginal_concentration(dim, data)
        else:
            k = _resultant.concentration(data.length, data.complement, dim)
        return cls(data.direction.to(samples.dtype), k.to(samples.dtype), validate_args)

    @classmethod
    def from_mean(cls, mean: Tensor, validate_args: bool | None = None) -> Self:
        r"""The law with a given mean: ``loc`` is its direction, and :math:`A(\kappa)` its length.

        The mean of samples is all that :meth:`fit` takes from them. So data that lie on many
        machines are fitted from a sum and a count of each: add these up, divide, and call this.
        Give a mean in float64 where the concentration may be high: it depends on 1 minus the
        length, of which a mean in float32 holds the first seven decimals.

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
            >>> from vmfdist import VonMisesFisher
            >>> law = VonMisesFisher.from_mean(torch.tensor([0.54, 0.0, 0.72]))
            >>> law.loc, law.concentration
            (tensor([0.6000, 0.0000, 0.8000]), tensor(10.0000))
        """
        validate = cls._validate_args if validate_args is None else validate_args
        direction, length = _resultant.of_mean(mean, validate)
        k = _resultant.concentration(length, 1 - length, mean.shape[-1])
        return cls(direction.to(mean.dtype), k.to(mean.dtype), validate_args)

    @classmethod
    def from_natural(cls, vector: Tensor, validate_args: bool | None = None) -> Self:
        r"""The law with a given natural parameter, the vector :math:`\eta = \kappa \mu`.

        Its density is proportional to :math:`\exp \langle x, \mathtt{vector} \rangle`. The vector
        0 is the uniform law, with the first axis as ``loc``.

        In the vector densities, entropies, divergences and moments are smooth, and have their true
        derivatives at 0 and next to it as everywhere: a layer that gives the vector may start at 0.
        So do draws, whose gradients at 0 are those of :math:`dx = (d\eta - \langle x, d\eta\rangle
        x) / (d - 1)`. ``loc`` and ``concentration`` alone are not smooth at 0; there their
        gradients are 0. Once one of them is assigned, the law is one of these two parameters.

        Args:
            vector: ``concentration`` times ``loc``, of shape (..., d): vectors of finite length.
            validate_args: whether to check that they are finite, and the law's ``validate_args``.

        Returns:
            A law in the dtype of the vector, of batch shape (...).

        Raises:
            TypeError: if ``vector`` is not a float32 or float64 tensor.
            ValueError: if it has fewer than two entries; under ``validate_args`` also if it is not
                finite, or its length is not.

        Example:
            >>> import torch
            >>> from vmfdist import VonMisesFisher
            >>> law = VonMisesFisher.from_natural(torch.tensor([6.0, 0.0, 8.0]))
            >>> law.loc, law.concentration
            (tensor([0.6000, 0.0000, 0.8000]), tensor(10.))
        """
        check_vector("vector", vector)
        validate = cls._validate_args if validate_args is None else validate_args
        loc, length = natural.polar(vector)
        if validate:
            message = f"vector of shape {tuple(vector.shape)} must have a finite length"
            require(message, length, math.isfinite, "length")
        law = cls(loc, length, validate_args)
        law._made_of = vector
        return law

    @property
    def _tracked(self) -> Tensor | None:
        """The natural parameter, where the law is one of it and may be differentiated in it."""
        vector = self._made_of
        return vector if vector is not None and is_tracked(vector) else None

    def _natural_parameter(self) -> Tensor:
        if self._made_of is not None:
            return self._made_of
        loc, k = self._given
        return finite(k).unsqueeze(-1) * loc

    def _draw(self, noise: Tensor) -> Tensor:
        vector = self._tracked
        if vector is None:
            return super()._draw(noise)
        x = draw(noise, *natural.turned(vector), self._family.of_noise)
        return natural.carried(x, vector)

    def _log_density(self, value: Tensor) -> Tensor:
        log_density, vector = super()._log_density(value), self._tracked
        return log_density if vector is None else natural.log_density(log_density, value, vector)

    def _kl_to_uniform(self) -> Tensor:
        value, vector = super()._kl_to_uniform(), self._tracked
        return value if vector is None else natural.kl_to_uniform(value, vector)

    @property
    def log_normalizer(self) -> Tensor:
        r"""log of the integral of :math:`\exp(\kappa \langle x, \mu\rangle)`, or -log C.

        The log density is :math:`\kappa \langle x, \mu\rangle` minus this; it increases from the
        log area of the sphere at concentration 0.
        """
        area = sphere.log_sphere_area(self.dim)
        return expanded(area + self._kl_from_uniform(), self.batch_shape)

    def _kl_from_uniform(self) -> Tensor:
        value, vector = super()._kl_from_uniform(), self._tracked
        return value if vector is None else natural.log_partition(value, vector)

    @property
    def mean_resultant_length(self) -> Tensor:
        r"""Length of the mean, :math:`A = I_{d/2}(\kappa) / I_{d/2-1}(\kappa)`, from 0 to 1."""
        return expanded(self._mean_cosine(), self.batch_shape)

    @property
    def covariance_eigenvalues(self) -> CovarianceEigenvalues:
        r"""The variances along ``loc``, :math:`A'(\kappa)`, and across, :math:`A(\kappa)/\kappa`.

        At concentration 0 both are 1/d.
        """
        return CovarianceEigenvalues(*(expanded(x, self.batch_shape) for x in self._eigenvalues()))

    def _eigenvalues(self) -> CovarianceEigenvalues:
        along, across = super()._eigenvalues()
        return CovarianceEigenvalues(
            self._exchanged(along, natural.mean_resultant_length_derivative),
            self._exchanged(across, natural.tangent_variance),
        )

    def _mean(self) -> Tensor:
        return self._exchanged(super()._mean(), natural.mean)

    def _variance(self) -> Tensor:
        return self._exchanged(super()._variance(), natural.variance)

    def _covariance_matrix(self) -> Tensor:
        return self._exchanged(super()._covariance_matrix(), natural.covariance_matrix)

    def _exchanged(self, value: Tensor, form: Callable[[Tensor], Tensor]) -> Tensor:
        """The value, with derivatives in the natural parameter if the law is one of it."""
        vector = self._tracked
        return value if vector is None else natural.with_derivatives_of(form(vector), value)

    def conjugate_update(self, other: VonMisesFisher) -> tuple[Self, Tensor]:
        r"""The normalised product of two von Mises-Fisher densities on one sphere.

        It is a von Mises-Fisher density again, and the natural parameters add:
        :math:`\kappa_{12} \mu_{12} = \kappa_1 \mu_1 + \kappa_2 \mu_2`. So a law as prior of a mean
        direction, times the likelihood of an observation x with a known concentration (which in
        the mean direction is the density with ``loc`` x), makes the posterior.

        The logarithm of the integral of the product is

        .. math:: \log f_1(\mu_1) + \log f_2(\mu_2) - \log f_{12}(\mu_{12})
            - (\kappa_1 + \kappa_2 - \kappa_{12}),

        of which the last term is formed as :math:`\kappa_1 \kappa_2 |\mu_1 - \mu_2|^2 /
        (\kappa_1 + \kappa_2 + \kappa_{12})`: nothing of the size of the concentrations cancels.
        Opposite factors of equal concentration have the uniform law as product, with the first
        axis as ``loc``; derivatives are right there too, the product is a law of its natural
        parameter. A point mass (infinite concentration) stays one, and the integral is the other
        density there; of two, it is infinite or 0.

        Args:
            other: a law on the same sphere, whose batch shape broadcasts with that of this one.

        Returns:
            The updated law, and the logarithm of the integral, ``log_normalizer``:
            ``self.log_prob(x) + other.log_prob(x) == updated.log_prob(x) + log_normalizer``.

        Raises:
            TypeError: if ``other`` is not a von Mises-Fisher law.
            ValueError: if the laws are on spheres of different dimension, or batch shapes do not
                fit.

        Example:
            >>> import torch
            >>> from vmfdist import VonMisesFisher
            >>> east, north = torch.eye(3)[:2]
            >>> prior, likelihood = VonMisesFisher(east, 3.0), VonMisesFisher(north, 4.0)
            >>> posterior, log_evidence = prior.conjugate_update(likelihood)
            >>> posterior.loc, posterior.concentration
            (tensor([0.6000, 0.8000, 0.0000]), tensor(5.))
            >>> log_evidence
            tensor(-2.9596)
        """
        if not isinstance(other, VonMisesFisher):
            raise TypeError(
                f"a VonMisesFisher can be updated by a VonMisesFisher only, got "
                f"{type(other).__name__}"
            )
        shape = common_shape(self, other, "a product")
        dtype = torch.promote_types(self._given[0].dtype, other._given[0].dtype)
        loc1, given1 = (x.to(dtype) for x in self._given)
        loc2, given2 = (x.to(dtype) for x in other._given)
        k1, k2 = finite(given1), finite(given2)
        loc, concentration, log_normalizer = _product(
            loc1.detach(), k1.detach(), loc2.detach(), k2.detach(), self.dim
        )
        eta1, eta2 = (law._natural_parameter().to(dtype) for law in (self, other))
        largest = torch.finfo(dtype).max
        vector = (eta1 + eta2).clamp(-largest, largest)
        if any(is_tracked(x) for x in (loc1, given1, loc2, given2)):
            # Those are the values; the derivatives are those in the natural parameters.
            factors = (
                (loc1, k1) if self._made_of is None else (eta1,),
                (loc2, k2) if other._made_of is None else (eta2,),
            )
            log_normalizer = natural.log_normalizer_of_product(log_normalizer, vector, *factors)
            direction, length = natural.polar(vector)
            loc = natural.with_derivatives_of(direction, loc)
            concentration = natural.with_derivatives_of(length, concentration)
        infinite1, infinite2 = torch.isinf(given1), torch.isinf(given2)
        concentration = torch.where(infinite1 | infinite2, math.inf, concentration)
        point = torch.full_like(log_normalizer, math.inf)
        of_two_points = torch.where((loc1 == loc2).all(-1), point, -point)
        log_normalizer = torch.where(infinite1 & infinite2, of_two_points, log_normalizer)
        updated = type(self)(loc, concentration, self.__dict__.get("_validate_args"))
        updated._made_of = vector
        return updated.expand(shape), log_normalizer.expand(shape)


def _product(
    loc1: Tensor, k1: Tensor, loc2: Tensor, k2: Tensor, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Direction and concentration of a product of densities, and the log of its integral."""
    scale = torch.maximum(k1, k2)  # so that nothing over- or underflows
    scale = torch.where(scale > 0, scale, 1.0)
    share1, share2 = k1 / scale, k2 / scale
    loc, share12 = natural.polar(share1.unsqueeze(-1) * loc1 + share2.unsqueeze(-1) * loc2)
    k12 = (scale * share12).clamp(max=torch.finfo(scale.dtype).max)
    total = share1 + share2 + share12
    turned = scale * share1 * share2 * squared_chord(loc1, loc2, scale)
    loss = torch.where(total > 0, turned / torch.where(total > 0, total, 1.0), 0.0)
    top1, top2, top12 = (vmf.log_density_at_mode(k, dim) for k in (k1, k2, k12))
    return loc, k12, top1 + top2 - top12 - loss
