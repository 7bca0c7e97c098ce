r"""Closed forms of the von Mises-Fisher law as functions of its natural parameter, smooth at 0.

What depends on a vector :math:`\eta` by its length :math:`k = |\eta|` alone, :math:`F(\eta) =
\varphi(k)`, has the gradient :math:`\psi \mu` with :math:`\psi = \varphi'` and :math:`\mu = \eta /
k`. Put :math:`\chi = \psi / k`, and split vectors into their component along :math:`\mu` and the
rest, :math:`g = a \mu + g_\perp`, :math:`h = b \mu + h_\perp`, :math:`l = c \mu + l_\perp`. Then

.. math::

    D^2 F\, (g) &= \psi' a\, \mu + \chi\, g_\perp, \\
    D^3 F\, (g, h) &= \psi'' a b\, \mu
        + \chi'\, (\langle g_\perp, h_\perp\rangle\, \mu + b\, g_\perp + a\, h_\perp), \\
    D^4 F\, (g, h, l) &= \psi''' a b c\, \mu
        + \chi'' \sum (\langle g_\perp, h_\perp\rangle\, c\, \mu + a b\, l_\perp)
        + \frac{\chi'}k \sum \langle g_\perp, h_\perp\rangle\, l_\perp,

with sums over the three ways to single one vector out. Of a smooth F no coefficient is infinite at
0, and there the result does not depend on :math:`\mu`, though k and :math:`\mu` have no derivative;
at high concentration nothing cancels. For the log-partition :math:`\Phi` the gradient is the mean,
with :math:`\psi = A` and :math:`\chi = A/k`; for the divergence from the uniform law, :math:`k A -
\Phi`, they are :math:`k A'` and :math:`A'`; for k itself 1 and 1/k.

The values of a law are those of its ``loc`` and ``concentration``, which keep their digits, and are
given to the functions below as they are; its derivatives, by whatever mode they are asked for, are
these.

References:
    * DLMF 10.29.1 (:math:`A/k` without 0/0), https://dlmf.nist.gov/10.29.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.autograd import Differentiable, fixed_in_program, in_program, is_tracked
from vmfdist._numerics.chebyshev import horner
from vmfdist._numerics.chords import are_crossed, inner_product, widened
from vmfdist._numerics.constants import as_tensors, cached_constant, static
from vmfdist._numerics.elementwise import with_derivative
from vmfdist._numerics.infinity import finite
from vmfdist._numerics.rows import dot

# --------------------------------------------------------------------------------------------------
# A value in one form, its derivatives in another
# --------------------------------------------------------------------------------------------------


@with_derivative(lambda x, rate, _: rate, None)
def _differential(x: Tensor, rate: Tensor, _: None) -> Tensor:
    """Zero, with the differential rate dx."""
    return torch.zeros_like(x)


@with_derivative(None, lambda value, form, _: torch.ones_like(form))
def _exchanged(value: Tensor, form: Tensor, _: None) -> Tensor:
    return value.clone()


def with_derivatives_of(form: Tensor, value: Tensor) -> Tensor:
    """The value, with the derivatives of another form of it, whose own value may lose digits."""
    return _exchanged(value.detach(), form, None)


def attached(value: Tensor, *differentials: tuple[Tensor, Tensor]) -> Tensor:
    """The value, with the differential sum <gradient, dx> over the pairs (x, gradient)."""
    value = value.detach()
    for x, gradient in differentials:
        value = value + _differential(x, gradient, None).sum(-1)
    return value


# --------------------------------------------------------------------------------------------------
# Radial functions
# --------------------------------------------------------------------------------------------------


def _polar(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Direction and length, without overflow or underflow of squares."""
    scale = vector.abs().amax(-1, keepdim=True)
    zero = scale == 0
    axis = torch.zeros_like(vector)
    axis[..., 0] = 1.0
    scaled = torch.where(zero, axis, vector / torch.where(zero, 1.0, scale))
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / norm, (norm * scale).squeeze(-1)


def _inverse(k: Tensor, power: int) -> Tensor:
    """k^-power, where this is finite in the dtype; 0 at 0, where a direction does not turn."""
    limits = torch.finfo(k.dtype)
    inverse = 1 / k.clamp(min=limits.smallest_normal)
    return torch.where(k == 0, 0.0, inverse.pow(power).clamp(max=limits.max))


def _across_slope(k: Tensor, dim: int) -> Tensor:
    """The derivative of A/k."""
    across = vmf.tangent_variance(k, dim)
    rise = k * vmf.mean_resultant_length_derivative(k, dim + 2)
    return -across * (across * (vmf.mean_resultant_length(k, dim + 2) + rise))


def across_slope_over_k(k: Tensor, dim: int) -> Tensor:
    across = vmf.tangent_variance(k, dim)
    slope = vmf.mean_resultant_length_derivative(k, dim + 2)
    return -across * (across * (vmf.tangent_variance(k, dim + 2) + slope))


def _across_curvature(k: Tensor, dim: int) -> Tensor:
    """The second derivative of A/k."""
    across, bend = vmf.tangent_variance(k, dim), _across_slope(k, dim)
    slope = vmf.mean_resultant_length_derivative(k, dim + 2)
    turn = 2 * slope + k * vmf.mean_resultant_length_second_derivative(k, dim + 2)
    return 2 * bend * (bend / across) - across * (across * turn)


_Coefficients = Callable[[Tensor, int], tuple[Tensor, ...]]


class _Gradient(Differentiable):
    """The gradient of a radial function, or the derivative of that along up to three vectors.

    Called with the natural parameter, the vectors and the dimension. ``coefficients`` are those of
    the formulas above: psi; psi', chi; psi'', chi' and so on.
    """

    def __init__(self, name: str, *coefficients: _Coefficients) -> None:
        super().__init__(f"gradient_of_{name}")
        self._name, self._coefficients = name, coefficients

    def value(self, tensors: Sequence[Tensor], dim: int) -> Tensor:
        eta, *vectors = tensors
        mu, k = _polar(eta)
        k = finite(k)  # a length can overflow where no entry does
        with fixed_in_program():
            coefficients = self._coefficients[len(vectors)](k, dim)
        straight, *bends = (x.unsqueeze(-1) for x in coefficients)
        along = [dot(mu, g).unsqueeze(-1) for g in vectors]
        across = [g - a * mu for g, a in zip(vectors, along, strict=True)]
        result = straight * functools.reduce(torch.mul, along, mu)
        if len(vectors) == 1:
            return result + bends[0] * across[0]
        if len(vectors) == 2:
            (a, b), (g, h) = along, across
            return result + bends[0] * (dot(g, h).unsqueeze(-1) * mu + b * g + a * h)
        if len(vectors) == 3:
            for i, j, single in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
                inner = dot(across[i], across[j]).unsqueeze(-1)
                result = result + bends[0] * (
                    inner * along[single] * mu + along[i] * along[j] * across[single]
                )
                result = result + bends[1] * inner * across[single]
        return result

    def along(self, i: int, change: Tensor, tensors: Sequence[Tensor], dim: int) -> Tensor:
        if i > 0:
            arguments = [*tensors[:i], change, *tensors[i + 1 :]]
        elif len(tensors) < len(self._coefficients):
            arguments = [*tensors, change]
        else:
            raise NotImplementedError(
                f"derivatives of order {len(tensors) + 1} of {self._name} in the natural parameter "
                "are not implemented: differentiate fewer times"
            )
        return self.value(arguments, dim) if in_program() else self(*arguments, dim)


_length_gradient = _Gradient(
    "length",
    lambda k, dim: (torch.ones_like(k),),
    lambda k, dim: (torch.zeros_like(k), _inverse(k, 1)),
    lambda k, dim: (torch.zeros_like(k), -_inverse(k, 2)),
    lambda k, dim: (torch.zeros_like(k), 2 * _inverse(k, 3), -_inverse(k, 3)),
)

_log_partition_gradient = _Gradient(
    "log_partition",
    lambda k, dim: (vmf.mean_resultant_length(k, dim),),
    lambda k, dim: (
        vmf.mean_resultant_length_derivative(k, dim),
        vmf.tangent_variance(k, dim),
    ),
    lambda k, dim: (
        vmf.mean_resultant_length_second_derivative(k, dim),
        _across_slope(k, dim),
    ),
    lambda k, dim: (
        vmf.mean_resultant_length_third_derivative(k, dim),
        _across_curvature(k, dim),
        across_slope_over_k(k, dim),
    ),
)

_kl_to_uniform_gradient = _Gradient(
    "kl_to_uniform",
    lambda k, dim: (k * vmf.mean_resultant_length_derivative(k, dim),),
    lambda k, dim: (
        vmf.mean_resultant_length_derivative(k, dim)
        + k * vmf.mean_resultant_length_second_derivative(k, dim),
        vmf.mean_resultant_length_derivative(k, dim),
    ),
    lambda k, dim: (
        2 * vmf.mean_resultant_length_second_derivative(k, dim)
        + k * vmf.mean_resultant_length_third_derivative(k, dim),
        vmf.mean_resultant_length_second_derivative(k, dim),
    ),
)


def polar(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Direction and length of vectors, without overflow or underflow of squares.

    Where a vector is 0 its direction is the first axis; both then have gradient 0.
    """
    if not is_tracked(vector):
        return _polar(vector)
    direction, (_, length) = _length_gradient(vector, 0), _polar(vector.detach())
    slope = torch.where(length.unsqueeze(-1) == 0, 0.0, direction)
    return direction, attached(length, (vector, slope))


# --------------------------------------------------------------------------------------------------
# Closed forms
# --------------------------------------------------------------------------------------------------


def _parts(eta: Tensor) -> tuple[Tensor, Tensor, int]:
    """Direction and length as constants, and the dimension."""
    return *_polar(eta.detach()), static(eta.shape[-1])


def mean(eta: Tensor) -> Tensor:
    """A mu, the gradient of the log-partition."""
    return _log_partition_gradient(eta, static(eta.shape[-1]))


def log_partition(value: Tensor, eta: Tensor) -> Tensor:
    """Phi, the log of the mean of exp<x, eta> over the sphere."""
    return attached(value, (eta, mean(eta)))


def _log_partition(eta: Tensor) -> Tensor:
    """Its derivatives, of shape (..., 1)."""
    return log_partition(eta.new_zeros(eta.shape[:-1]), eta).unsqueeze(-1)


def mean_difference(eta1: Tensor, eta2: Tensor) -> Tensor:
    """The mean at eta2 minus that at eta1, as (A2 - A1) mu2 + A1 (mu2 - mu1)."""
    (mu1, k1, dim), (mu2, k2, _) = _parts(eta1), _parts(eta2)
    rise = vmf.mean_resultant_length_difference(k1, k2, dim).unsqueeze(-1)
    length = vmf.mean_resultant_length(k1, dim).unsqueeze(-1)
    return with_derivatives_of(mean(eta2) - mean(eta1), rise * mu2 + length * (mu2 - mu1))


def kl_to_uniform(value: Tensor, eta: Tensor) -> Tensor:
    """k A - Phi."""
    return attached(value, (eta, _kl_to_uniform_gradient(eta, static(eta.shape[-1]))))


def kl_to_another(value: Tensor, eta1: Tensor, eta2: Tensor) -> Tensor:
    """From the law of eta1 to that of eta2, Phi2 - Phi1 - <mean1, eta2 - eta1>."""
    if are_crossed(eta1, eta2):
        eta1, eta2 = widened(eta1), widened(eta2)
        phi1, phi2, mean1 = _log_partition(eta1), _log_partition(eta2), mean(eta1)
        constant = dot(mean1, eta1).unsqueeze(-1) - phi1
        first = torch.cat([-mean1, constant, torch.ones_like(phi1)], -1)
        second = torch.cat([eta2, torch.ones_like(phi2), phi2], -1)
        return with_derivatives_of(inner_product(first, second).to(value.dtype), value)
    in_eta1 = _log_partition_gradient(eta1, eta1 - eta2, static(eta1.shape[-1]))
    return attached(value, (eta1, in_eta1), (eta2, mean_difference(eta1, eta2)))


def log_density(value: Tensor, x: Tensor, eta: Tensor) -> Tensor:
    """<x, eta> - Phi and a constant.

    The gradient in eta is (x - mu) + (1 - A) mu, that in x is taken along the sphere, k (mu - x).
    """
    mu, k, dim = _parts(eta)
    if are_crossed(x, eta):  # <x, eta> - k |x|^2 / 2 - Phi, which has these gradients
        x, eta = widened(x), widened(eta)
        half = x.square().sum(-1, keepdim=True) / 2
        first = torch.cat([x, -half, -torch.ones_like(half)], -1)
        second = torch.cat([eta, widened(k).unsqueeze(-1), _log_partition(eta)], -1)
        return with_derivatives_of(inner_product(first, second).to(value.dtype), value)
    rest, k = vmf.one_minus_mean_resultant_length(k, dim).unsqueeze(-1), k.unsqueeze(-1)
    in_eta = with_derivatives_of(x - mean(eta), (x - mu) + rest * mu)
    in_x = with_derivatives_of(eta - k * x, k * (mu - x))
    return attached(value, (eta, in_eta), (x, in_x))


_Factor = tuple[Tensor] | tuple[Tensor, Tensor]  # a natural parameter, or direction and length


def log_normalizer_of_product(value: Tensor, eta: Tensor, *factors: _Factor) -> Tensor:
    """Phi of the sum eta minus those of its terms, and a constant."""
    mu, k, dim = _parts(eta)
    average, length = mean(eta), vmf.mean_resultant_length(k, dim)
    differentials = []
    for factor in factors:
        if len(factor) == 1:
            differentials.append((*factor, mean_difference(*factor, eta)))
            continue
        loc, k1 = factor
        half_squared_chord = (mu - loc).square().sum(-1) / 2
        rise = vmf.mean_resultant_length_difference(k1, k, dim)
        in_k1 = with_derivatives_of(
            dot(average, loc) - vmf.mean_resultant_length(k1, dim),
            rise - length * half_squared_chord,
        )
        # along the sphere, as above
        pull, k1 = (k1.detach() * length).unsqueeze(-1), k1.unsqueeze(-1)
        in_loc = with_derivatives_of(k1 * average - pull * loc, pull * (mu - loc))
        differentials += [(k1, in_k1.unsqueeze(-1)), (loc, in_loc)]
    return attached(value, *differentials)


def tangent_variance(eta: Tensor) -> Tensor:
    """A/k, in the form 1 / (d + <eta, mean of dimension d + 2>)."""
    _, k, dim = _parts(eta)
    above = _log_partition_gradient(eta, dim + 2)
    return with_derivatives_of(1 / (dim + dot(eta, above)), vmf.tangent_variance(k, dim))


def _tangent_variance_gradient(eta: Tensor) -> Tensor:
    above, square = static(eta.shape[-1]) + 2, tangent_variance(eta).square()
    rise = _log_partition_gradient(eta, above) + _log_partition_gradient(eta, eta, above)
    return -square.unsqueeze(-1) * rise


def mean_resultant_length_derivative(eta: Tensor) -> Tensor:
    """A', in the form A/k + k (A/k)'."""
    return tangent_variance(eta) + dot(_tangent_variance_gradient(eta), eta)


def variance(eta: Tensor) -> Tensor:
    """The diagonal of the covariance matrix, in the form A/k + (A/k)'/k eta eta."""
    return tangent_variance(eta).unsqueeze(-1) + _tangent_variance_gradient(eta) * eta


def covariance_matrix(eta: Tensor) -> Tensor:
    """The second derivative of the log-partition, row by row."""
    dim = static(eta.shape[-1])
    identity = torch.eye(dim, dtype=eta.dtype, device=eta.device)
    return _log_partition_gradient(eta.unsqueeze(-2), identity, dim)


# --------------------------------------------------------------------------------------------------
# Draws
# --------------------------------------------------------------------------------------------------


def _turn(k: Tensor, dim: int) -> Tensor:
    """The smaller of 1/k and 4 k / d^2; they meet at k = d/2."""
    return torch.minimum(1 / k, k * (2 / dim) ** 2)


@cached_constant(maxsize=256)
def _power_series(dim: int, dtype: torch.dtype) -> tuple[float, ...]:
    """1F1(1; d; -x d/2) in powers of x, for x from -1 to 1."""
    terms = [1.0]
    while abs(terms[-1]) > torch.finfo(dtype).eps:
        terms.append(-terms[-1] * dim / 2 / (dim + len(terms) - 1))
    return tuple(terms)


def turned(eta: Tensor) -> tuple[Tensor, Tensor]:
    r"""Direction and length of eta, for a draw to follow.

    A change of eta across itself can be followed by a rotation of the draw, by the angle
    :math:`|d\eta| / k`, or by

    .. math:: dx = \beta(w)\, (d\eta - \langle x, d\eta\rangle\, x), \qquad
        \beta(w) = \int_0^1 s^{d-2} e^{-k w (1 - s)}\, ds
        = \frac{{}_1F_1(1; d; -k w)}{d - 1}, \quad w = \langle x, \mu\rangle.

    Both move the points of a von Mises-Fisher law to those of the next: the second, since
    :math:`w \beta' + (d - 1 + k w) \beta = 1`, by the equation of continuity. The angle has a pole
    at 0, and :math:`\beta` grows without bound at high concentration; hence a mixture of the two,
    with the weight :math:`1 - (2 k/d)^2` of the second up to k = d/2, and 0 above. A draw follows
    the share that is rotated through this direction, and the rest by :func:`carried`.
    """
    mu, k, dim = _parts(eta)
    direction = mu + _differential(_rejected(eta, mu), _turn(k, dim).unsqueeze(-1), None)
    return direction, attached(k, (eta, mu))


def carried(x: Tensor, eta: Tensor) -> Tensor:
    """The draw x with the share of its derivative in eta that is no rotation."""
    mu, k, dim = _parts(eta)
    fixed = x.detach()
    ratio = (k * (2 / dim)).clamp(max=1.0) * dot(fixed, mu.expand_as(fixed))
    series = horner(as_tensors(_power_series(dim, x.dtype), ratio), ratio)
    weight = (1 - (k * (2 / dim)).square()).clamp(min=0)  # not 1 - k turn, which is rounded
    share = weight / (dim - 1) * series
    across = _rejected(_rejected(eta, mu), fixed)
    return x + _differential(across, share.unsqueeze(-1), None)


def _rejected(x: Tensor, unit: Tensor) -> Tensor:
    """What is left of x without its component along a unit vector."""
    x, unit = torch.broadcast_tensors(x, unit)
    return x - dot(x, unit).unsqueeze(-1) * unit
