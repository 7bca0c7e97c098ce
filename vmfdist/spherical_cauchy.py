"""The spherical Cauchy law on the unit sphere of R^d."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import constraints
from torch import Tensor

from vmfdist._closed_forms import natural, sphere
from vmfdist._closed_forms import spherical_cauchy as sc
from vmfdist._numerics import moebius
from vmfdist._numerics.rows import expanded
from vmfdist._resultant import directions_and_shares
from vmfdist._validation import (
    check_samples,
    check_vector,
    check_weights,
    require,
    require_broadcast,
    require_vectors,
)
from vmfdist.cosine import SphericalCauchyCosine
from vmfdist.rotational import RotationallySymmetric, as_parameters

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
    float32 at .9999 the last place changes that by 6e-4 of it. :meth:`from_distance` keeps them.

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
        * L. Sablica and K. Hornik (2025), arXiv:2506.21278 (as the posterior of autoencoders).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.sphere,
        "concentration": constraints.unit_interval,
    }
    _cosine = SphericalCauchyCosine

    @classmethod
    def from_distance(
        cls, loc: Tensor, distance: Tensor | float, validate_args: bool | None = None
    ) -> Self:
        r"""The law with a given hyperbolic distance of :math:`\rho\mu` from the centre of the ball.

        It is :math:`k = 2 \operatorname{artanh} \rho = \log \frac{1 + \rho}{1 - \rho}`, from 0 to
        infinity; from a complement c = 1 - :math:`\rho` it is :math:`\log(2/c - 1)`. All that
        the law gives but :attr:`point` and :meth:`moved` has the digits of k, where :math:`\rho`
        may have none left, and is smooth in it: a layer that gives it cannot end at the point mass
        by rounding. Once a parameter is assigned, the law is one of ``loc`` and ``concentration``.

        Args:
            loc: the mean direction, as for the law itself.
            distance: k from 0 to infinity, a tensor or a Python number.
            validate_args: whether to check both, and the law's ``validate_args``.

        Raises:
            TypeError: if ``loc`` is not a float32 or float64 tensor.
            ValueError: as for the law itself; under ``validate_args`` also if the distance is
                negative or NaN.

        Example:
            >>> import torch
            >>> from vmfdist import SphericalCauchy
            >>> law = SphericalCauchy.from_distance(torch.tensor([0.6, 0.0, 0.8]), 20.0)
            >>> law.concentration, law.mass_cone(0.5)
            (tensor(1.), tensor(4.1223e-09))
        """
        validate = cls._validate_args if validate_args is None else validate_args
        loc, k = as_parameters(loc, distance, math.inf, validate, name="distance")
        law = cls(loc, torch.tanh(k / 2), validate_args)
        law._made_of = k
        return law

    _of_strength = from_distance

    @property
    def _strength(self) -> Tensor:
        return self._family.strength(self._given[1]) if self._made_of is None else self._made_of

    @property
    def _given_cosine(self) -> SphericalCauchyCosine:
        cosine = SphericalCauchyCosine(self._given[1], self.dim, validate_args=False)
        cosine._made_of = self._made_of
        return cosine

    @classmethod
    def fit(
        cls,
        samples: Tensor,
        weights: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> Self:
        r"""The law under which samples are most likely, by maximum likelihood.

        Its :attr:`point` is the one whose Moebius map moves unit vectors of the mean 0 to the
        samples (Kent and Tyler 1988 on the circle). It is unique, and robust: no minority of
        the samples moves it far. If half of the weight or more is on one vector, there is no
        maximum, and the law is the point mass there; of two vectors with half of it each, it is
        the least concentrated of the laws that are equally likely. Elsewhere both parameters are
        differentiable in samples and weights, once.

        Sums are taken in float64. Samples that are within 1e-9 of each other count as equal. A step
        of the iteration takes n d^2 + d^3 operations.

        Shapes:
            ``samples`` (..., n, d), ``weights`` (..., n); the axes to the left broadcast to the
            batch shape of the law.

        Args:
            samples: unit vectors along the last dimension.
            weights: nonnegative weights of the samples; equal ones if not given.
            validate_args: whether to check samples and weights, and the law's ``validate_args``.
                Unchecked, weights that are all 0 make the uniform law.

        Returns:
            A law in the dtype of the samples.

        Raises:
            TypeError: if ``samples`` is not a float32 or float64 tensor, or ``weights`` not a
                real one.
            ValueError: if there are no samples or the shapes do not fit; under ``validate_args``
                also if samples are not unit vectors, weights negative, infinite or NaN, or all of
                them 0.

        Example:
            >>> import torch
            >>> from vmfdist import SphericalCauchy
            >>> samples = torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.0, 0.8], [0.8, 0.6, 0.0]])
            >>> law = SphericalCauchy.fit(samples)
            >>> law.loc
            tensor([0.7271, 0.6860, 0.0274])
            >>> law.concentration
            tensor(0.7866)

        References:
            * J. T. Kent and D. E. Tyler (1988), Maximum likelihood estimation for the wrapped
              Cauchy distribution, Journal of Applied Statistics 15(2), 247-254.
        """
        validate = cls._validate_args if validate_args is None else validate_args
        check_samples("samples", samples, validate)
        check_weights(weights, samples, validate)
        x, shares = directions_and_shares(samples, weights)
        direction, length = natural.polar(moebius.conformal_barycentre(x, shares))
        nearest = (x @ direction.detach().unsqueeze(-1)).argmax(-2, keepdim=True)
        vector, share = _vector_and_share(x, shares, nearest)
        furthest = (x @ vector.mT).argmin(-2, keepdim=True)
        _, rest = _vector_and_share(x, shares, furthest)
        half = 0.5 - 1e-9
        is_point = (share > half) & (rest < half) | (length >= moebius.END - 2.0**-40)
        is_point = is_point.unsqueeze(-1)
        direction = torch.where(is_point, vector.squeeze(-2), direction)
        k = torch.log1p(length) - torch.log1p(-length.clamp(max=moebius.END))
        k = torch.where(is_point.squeeze(-1), math.inf, k)
        return cls.from_distance(direction.to(samples.dtype), k.to(samples.dtype), validate_args)

    @property
    def point(self) -> Tensor:
        r"""The point :math:`\rho\mu` of the ball to which the Moebius map moves the centre."""
        loc, rho = self._given
        return expanded(rho.unsqueeze(-1) * loc, self.batch_shape + self.event_shape)

    def moved(self, point: Tensor) -> Self:
        r"""The law of the images of draws under a Moebius map, a spherical Cauchy law too.

        The map of the ball that moves its centre to ``point`` maps the sphere to itself,

        .. math:: x \mapsto (1 - |a|^2) \frac{x + a}{|x + a|^2} + a.

        The uniform law so becomes the one with that :attr:`point`.

        Args:
            point: vectors of length below 1, of a shape that broadcasts with the batch shape.

        Raises:
            ValueError: under ``validate_args``, if a point is not within the ball.
        """
        check_vector("point", point)
        require_vectors("point", point, self.dim)
        require_broadcast("point without its last axis", point.shape[:-1], self.batch_shape)
        if self._validate_args:
            inside = torch.linalg.vector_norm(point, dim=-1)
            require("point must lie within the unit ball", inside, lambda r: r < 1, "length")
        image = moebius.add(*torch.broadcast_tensors(point, self.point))
        direction, length = natural.polar(image)
        # At the point mass, which a map keeps on the sphere, rounding is not to lead beyond.
        return type(self)(direction, length.clamp(max=1), self.__dict__.get("_validate_args"))

    @property
    def log_normalizer(self) -> Tensor:
        r"""log of the integral of :math:`(1 + \rho^2 - 2\rho \langle x, \mu\rangle)^{1-d}`."""
        rest = (self.dim - 1) * sc.minus_log_gap(self._strength)
        return expanded(sphere.log_sphere_area(self.dim) + rest, self.batch_shape)


def _vector_and_share(x: Tensor, weights: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The vector of that index, of shape (..., 1, d), and the weight of all equal ones."""
    x = x.expand(*index.shape[:-2], *x.shape[-2:])
    vector = x.take_along_dim(index, -2)
    return vector, (weights * ((x - vector).square().sum(-1) < 1e-18)).sum(-1)
