"""Regression of directions on inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._closed_forms.natural import polar
from vmfdist._numerics.precision import in_float64
from vmfdist._validation import check_samples, require, require_float
from vmfdist.von_mises_fisher import VonMisesFisher


@dataclass(frozen=True, eq=False)
class VonMisesFisherRegression:
    r"""Directions whose natural parameter depends linearly on inputs; ``fit`` makes it.

    A direction :math:`y_i` in :math:`\mathbb R^d` with inputs :math:`x_i` in :math:`\mathbb R^p` is
    von Mises-Fisher with

    .. math:: \kappa_i \mu_i = b_0 + B^T x_i,

    so that both its mean direction and its concentration depend on the inputs: the regression of an
    exponential family in its natural parameter. The log likelihood is concave in the coefficients.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> from vmfdist.estimation import VonMisesFisherRegression
        >>> _ = torch.manual_seed(0)
        >>> inputs = torch.randn(1000, 1)
        >>> truth = torch.tensor([[5.0, 0.0, 0.0], [0.0, 3.0, 0.0]])  # of 1 and of the input
        >>> natural = truth[0] + inputs * truth[1]
        >>> directions = VonMisesFisher.from_natural(natural).sample()
        >>> fit = VonMisesFisherRegression.fit(inputs, directions)
        >>> ((fit.coefficients - truth) / fit.standard_errors).abs().max() < 3
        tensor(True)
        >>> fit.predict(torch.tensor([[2.0]])).loc.shape
        torch.Size([1, 3])

    References:
        * P. McCullagh and J. A. Nelder (1989), Generalized linear models, Chapman and Hall.
        * P. J. Paine, S. P. Preston, M. Tsagris and A. T. A. Wood (2020), Spherical regression
          models with general covariates and anisotropic errors, Statistics and Computing 30,
          153-165, doi:10.1007/s11222-019-09872-2.
    """

    coefficients: Tensor
    """Those of each input in a row, the intercept in the first, of shape (..., q, d)."""

    covariance: Tensor
    """The asymptotic one of ``coefficients.flatten(-2)``, of shape (..., q d, q d)."""

    log_likelihood: Tensor
    """The log likelihood, the sum of log densities, of shape (...)."""

    intercept: bool
    """Whether the first row of the coefficients is an intercept."""

    @classmethod
    def fit(
        cls,
        inputs: Tensor,
        directions: Tensor,
        *,
        intercept: bool = True,
        validate_args: bool | None = None,
    ) -> Self:
        r"""The regression of greatest likelihood, by Newton's method from 0.

        There the Fisher information of the coefficients is exact too: it is the same for observed
        and expected directions. Its inverse is the covariance of the estimates for large n.

        There is a maximum, and only one, unless coefficients can be found for which each direction
        is exactly that of its :math:`b_0 + B^T x_i`, or this is 0. Then the likelihood has no upper
        bound, and an error is raised: so it is if there are no more rows than inputs (with the
        intercept), if all directions are equal, or if an input is nonzero in one row only. Any
        concentration above :math:`2^{40} = 10^{12}` counts as such.

        Shapes:
            ``inputs`` (..., n, p), ``directions`` (..., n, d); the axes to the left broadcast, to
            as many regressions.

        Args:
            inputs: the inputs of each direction, p of them, finite numbers.
            directions: unit vectors along the last dimension.
            intercept: whether there is a constant :math:`b_0`, as R and scikit-learn have it. If
                not, the law is uniform where all inputs are 0.
            validate_args: whether to check inputs and directions; by default as torch does.

        Returns:
            Coefficients, covariance and log likelihood in the dtype of inputs and directions; all
            is computed in float64, without gradients.

        Raises:
            TypeError: if ``inputs`` or ``directions`` is not a float32 or float64 tensor.
            ValueError: if shapes do not fit, or there are too few rows; if inputs depend linearly
                on each other, or on the intercept; if their squares are too large or too small for
                the dtype, as those of 1e-25 are in float32; if the likelihood has no maximum; under
                ``validate_args`` also if inputs are not finite or directions not unit vectors.
        """
        validate = Distribution._validate_args if validate_args is None else validate_args
        require_float("inputs", inputs, unit=False)
        check_samples("directions", directions, validate)
        _check_shapes(inputs, directions, intercept)
        if validate:
            require("inputs must be finite", inputs, math.isfinite)
        dtype = torch.promote_types(inputs.dtype, directions.dtype)
        with torch.no_grad():
            basis = _basis(in_float64(inputs), intercept)
            y = torch.nn.functional.normalize(in_float64(directions), dim=-1)
            coefficients, covariance, log_likelihood = (x.to(dtype) for x in _fitted(basis, y))
        fitted = cls(coefficients, covariance, log_likelihood, intercept)
        errors = fitted.standard_errors
        beyond = errors.isinf() | (errors < torch.finfo(dtype).tiny ** 0.5)
        _require_held(beyond.any(-1), intercept, dtype)
        return fitted

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(coefficients: {self.coefficients.size()}, "
            f"intercept: {self.intercept})"
        )

    @property
    def standard_errors(self) -> Tensor:
        """The asymptotic standard errors of the coefficients, of their shape."""
        variances = self.covariance.diagonal(dim1=-2, dim2=-1)
        return variances.sqrt().view(self.coefficients.shape)

    def predict(self, inputs: Tensor) -> VonMisesFisher:
        """The laws of directions for other inputs, which they are differentiable in.

        Args:
            inputs: of shape (..., p), or (..., m, p) with the axes of several regressions in front.

        Returns:
            A law for each, of batch shape (...) or (..., m).

        Raises:
            TypeError: if ``inputs`` is not a float32 or float64 tensor.
            ValueError: if there are not p inputs in the last dimension, or the axes to the left do
                not broadcast with those of several regressions.
        """
        require_float("inputs", inputs, unit=False)
        count = self.coefficients.shape[-2] - self.intercept
        if inputs.dim() < 1 or inputs.shape[-1] != count:
            raise ValueError(
                f"inputs must have {count} numbers along the last dimension, as those of the fit, "
                f"got shape {tuple(inputs.shape)}"
            )
        dtype = torch.promote_types(inputs.dtype, self.coefficients.dtype)
        design = _design(inputs.to(dtype), self.intercept)
        batch_shape = self.coefficients.shape[:-2]
        try:
            torch.broadcast_shapes(inputs.shape[:-2], batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"inputs of shape {tuple(inputs.shape)} do not fit regressions of shape "
                f"{tuple(batch_shape)}: give inputs of shape (..., m, p) whose axes to the left "
                "broadcast with that"
            ) from error
        return VonMisesFisher.from_natural(design @ self.coefficients.to(dtype))


def _check_shapes(inputs: Tensor, directions: Tensor, intercept: bool) -> None:
    shapes = f"inputs of shape {tuple(inputs.shape)} and directions of {tuple(directions.shape)}"
    n = directions.shape[-2]
    try:
        if inputs.dim() < 2 or inputs.shape[-2] != n:
            raise RuntimeError
        torch.broadcast_shapes(inputs.shape[:-2], directions.shape[:-2])
    except RuntimeError as error:
        raise ValueError(
            f"{shapes} do not fit: give inputs of shape (..., n, p) and directions of shape "
            "(..., n, d) whose axes to the left broadcast"
        ) from error
    q = inputs.shape[-1] + intercept
    if q == 0:
        raise ValueError(f"{shapes} leave nothing to fit: give inputs, or an intercept")
    if n <= q:
        raise ValueError(
            f"{n} rows are too few for {q} coefficients of each component"
            f"{', that of the intercept among them' if intercept else ''}: any directions could be "
            f"fitted perfectly; give at least {q + 1}"
        )


def _design(inputs: Tensor, intercept: bool) -> Tensor:
    return torch.nn.functional.pad(inputs, (1, 0), value=1.0) if intercept else inputs


# --------------------------------------------------------------------------------------------------
# The fit
# --------------------------------------------------------------------------------------------------

# How much of a column must be independent of those before; as in R's lm.
_INDEPENDENT = 1e-7


class _Basis(NamedTuple):
    """A basis of the space of the inputs, in which the information is well conditioned."""

    z: Tensor  # (..., n, q), orthogonal columns of length sqrt(n)
    back: Tensor  # (..., q, q): design @ back = z


def _require_held(beyond: Tensor, intercept: bool, dtype: torch.dtype) -> None:
    """Raises ValueError where the squares of columns, or of their coefficients, are beyond all."""
    if beyond.any():
        column = int(beyond.reshape(-1, beyond.shape[-1]).any(0).nonzero()[-1]) - intercept
        raise ValueError(
            f"the squares of inputs, or of the errors of their coefficients, are beyond what "
            f"{str(dtype).removeprefix('torch.')} numbers hold: give column {column} of inputs in "
            "other units"
        )


def _basis(inputs: Tensor, intercept: bool) -> _Basis:
    """That of inputs seen from their medians, where an intercept takes up the difference.

    Columns that are nearly constant, as years are, keep all their digits so, since a median is one
    of the values and no outlier.
    """
    origin = torch.zeros_like(inputs[..., :1, :])
    if intercept:
        origin = inputs.median(-2, keepdim=True).values
    design = _design(inputs - origin, intercept)
    length = torch.linalg.vector_norm(design, dim=-2)
    is_lost = (length < torch.finfo(length.dtype).tiny ** 0.5) & (design != 0).any(-2)
    _require_held(is_lost | length.isinf(), intercept, length.dtype)
    scale = torch.where(length == 0, 1.0, length)
    q, r = torch.linalg.qr(design / scale.unsqueeze(-2))
    dependent = r.diagonal(dim1=-2, dim2=-1).abs() < _INDEPENDENT
    if dependent.any():
        column = int(dependent.reshape(-1, dependent.shape[-1]).any(0).nonzero()[0])
        others = "the others before it" + (", or of the intercept" if intercept else "")
        raise ValueError(
            f"inputs are collinear: column {column - intercept} of inputs is a linear combination "
            f"of {others}; leave it out"
        )
    n = design.shape[-2]
    identity = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    inverse = torch.linalg.solve_triangular(r, identity, upper=True)
    back = n**0.5 * inverse / scale.unsqueeze(-1)
    if intercept:
        back[..., :1, :] -= origin @ back[..., 1:, :]
    return _Basis(q * n**0.5, back)


# A step that gains less than this is the last one, and one that gains less than the second is
# taken without asking for its gain, which might be rounding.
_LAST_GAIN, _SMALL_GAIN = 1e-14, 1e-6

# From 0 concentrations at most double in a step; what is higher is not told from infinity.
_STEPS, _HALVINGS, _HIGHEST = 200, 40, 2.0**40

# Numbers that are formed of some rows at once.
_BLOCK_NUMBERS = 1 << 20


class _Likelihood(NamedTuple):
    value: Tensor  # (...)
    gradient: Tensor  # (..., q d)
    information: Tensor  # (..., q d, q d)


def _fitted(basis: _Basis, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of the inputs, their covariance and the log likelihood."""
    z, dim = basis.z, y.shape[-1]
    shape = torch.broadcast_shapes(z.shape[:-2], y.shape[:-2])
    c = z.new_zeros(*shape, z.shape[-1], dim)
    for _ in range(_STEPS):
        _require_finite(z @ c)
        now = _likelihood(z, y, c)
        factor, failed = torch.linalg.cholesky_ex(now.information)
        step = torch.cholesky_solve(now.gradient.unsqueeze(-1), factor).squeeze(-1)
        gain = (now.gradient * step).sum(-1)  # twice what the next step should gain
        if failed.any() or not (gain >= 0).all():
            _refuse_perfect_fit(z @ c)
        step, share = step.view(c.shape), torch.ones_like(gain)
        for _ in range(_HALVINGS):
            gained = _log_likelihood(z, y, c + share[..., None, None] * step) - now.value
            enough = (gained >= 1e-4 * share * gain) | (gain <= _SMALL_GAIN)
            if enough.all():
                break
            share = torch.where(enough, share, share / 2)
        c = c + share[..., None, None] * step
        if (gain <= _LAST_GAIN).all():
            break
    else:
        _refuse_perfect_fit(z @ c)
    at_maximum = _likelihood(z, y, c)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(at_maximum.information))
    back = basis.back
    parts = covariance.view(*shape, *c.shape[-2:], *c.shape[-2:])
    parts = torch.einsum("...ij,...jakb,...lk->...ialb", back, parts, back)
    return back @ c, parts.reshape(covariance.shape), at_maximum.value


def _log_likelihood(z: Tensor, y: Tensor, c: Tensor) -> Tensor:
    mu, k = polar(z @ c)
    t = (y - mu).square().sum(-1) / 2
    return (vmf.log_density_at_mode(k, y.shape[-1]) - k * t).sum(-1)


def _likelihood(z: Tensor, y: Tensor, c: Tensor) -> _Likelihood:
    """With its gradient and the information, sums over rows in blocks."""
    q, dim = c.shape[-2:]
    gradient = torch.zeros_like(c)
    of_inputs = c.new_zeros(*c.shape[:-2], q, q)
    of_all = c.new_zeros(*c.shape[:-2], q * dim, q * dim)
    rows = max(1, _BLOCK_NUMBERS // max(1, c.numel()))
    for x, seen in zip(z.split(rows, -2), y.split(rows, -2), strict=True):
        mu, k = polar(x @ c)
        apart = seen - mu
        t = apart.square().sum(-1, keepdim=True) / 2
        # y - A mu: across mu, and along it as a difference of small numbers
        rest = vmf.one_minus_mean_resultant_length(k, dim).unsqueeze(-1)
        gradient += x.mT @ ((apart + t * mu) + (rest - t) * mu)
        # The covariance of y is across I - (across - along) mu mu^T.
        across = vmf.tangent_variance(k, dim).unsqueeze(-1)
        less = across - vmf.mean_resultant_length_derivative(k, dim).unsqueeze(-1)
        products = (x.unsqueeze(-1) * mu.unsqueeze(-2)).flatten(-2)
        of_inputs += x.mT @ (across * x)
        of_all -= products.mT @ (less * products)
    identity = torch.eye(dim, dtype=c.dtype, device=c.device)
    in_blocks = torch.einsum("...ij,ab->...iajb", of_inputs, identity).reshape(of_all.shape)
    return _Likelihood(_log_likelihood(z, y, c), gradient.flatten(-2), of_all + in_blocks)


def _require_finite(eta: Tensor) -> None:
    """Raises ValueError where a concentration has grown beyond bounds."""
    if (torch.linalg.vector_norm(eta, dim=-1) > _HIGHEST).any():
        _refuse_perfect_fit(eta)


def _refuse_perfect_fit(eta: Tensor) -> None:
    k = torch.linalg.vector_norm(eta, dim=-1)
    row = int(k.argmax()) % k.shape[-1]
    raise ValueError(
        "the likelihood has no maximum: the law of one row at least, "
        f"directions[..., {row}, :], closes in on its direction. The inputs fit the directions "
        "perfectly, or single out few rows: leave some of them out, or give more rows"
    )
