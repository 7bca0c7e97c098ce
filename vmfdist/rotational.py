r"""What all rotationally symmetric laws on the sphere share: the tangent-normal decomposition.

A law on the unit sphere of :math:`\mathbb R^d` that is symmetric about a direction :math:`\mu` is

.. math:: x = w \mu + \sqrt{1 - w^2}\, v,

with :math:`v` uniform on the unit sphere of the tangent space at :math:`\mu` and independent of the
cosine :math:`w` (Mardia and Jupp 2000, section 9.3.1). The laws differ in that of :math:`w` only.

One vector of d normal variables serves both parts: its component along :math:`\mu` is a standard
normal independent of the direction of the rest, so it is mapped to the cosine
(:mod:`vmfdist.cosine`), and the rest is normalised to :math:`v`.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.types import _size

from vmfdist._cache import static
from vmfdist.cosine import CosineDraw

__all__ = ["RotationallySymmetric", "draw", "set_validation", "validate_value"]

#: (zeta, concentration, dim) -> the cosine and its rate of change with the concentration.
Transport = Callable[[Tensor, Tensor, int], CosineDraw]

# Up to this dimension the tangent part is formed explicitly. Above, its squared length is
# |noise|^2 - zeta^2: then zeta^2 exceeds 40 times the rest with a probability below 1e-13 only.
_EXPLICIT_DIM = 16


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)  # a matrix product would round to half precision under autocast


def _lift(noise: Tensor, loc: Tensor, concentration: Tensor, transport: Transport) -> Any:
    """The sample, and the cosine and its rate, which the gradient needs."""
    dim = static(noise.shape[-1])
    loc = loc / torch.linalg.vector_norm(loc, dim=-1, keepdim=True)
    zeta = _dot(noise, loc)
    t, rate = transport(zeta, concentration, dim)
    cosine = 1 - t
    sine = torch.sqrt(t * (2 - t))
    if dim > _EXPLICIT_DIM:
        squared = torch.linalg.vector_norm(noise, dim=-1).square()
        scale = sine / torch.addcmul(squared, zeta, zeta, value=-1).sqrt()
        x = noise * scale.unsqueeze(-1)
        return x.addcmul_((cosine - scale * zeta).unsqueeze(-1), loc), cosine, rate
    if dim == 2:  # the tangent space is a line: no rounding can tilt it
        perpendicular = torch.stack((-loc[..., 1], loc[..., 0]), dim=-1)
        side = torch.where(_dot(noise, perpendicular) < 0, -sine, sine)
        return cosine.unsqueeze(-1) * loc + side.unsqueeze(-1) * perpendicular, cosine, rate
    # Project twice: where little is left after once, its rounding tilts the draw off the sphere.
    tangent = noise - zeta.unsqueeze(-1) * loc
    tangent = tangent - _dot(tangent, loc).unsqueeze(-1) * loc
    scale = sine / torch.linalg.vector_norm(tangent, dim=-1)
    return scale.unsqueeze(-1) * tangent + cosine.unsqueeze(-1) * loc, cosine, rate


def _batch_first(x: Tensor, axis: int | None, rank: int) -> Tensor:
    """Puts the axis that vmap maps in front of an array that broadcasts to ``rank`` axes.

    All operations here go row by row, so that this is all that vmap needs.
    """
    if axis is None:
        return x
    x = x.movedim(axis, 0)
    return x.reshape(x.shape[:1] + (1,) * (rank + 1 - x.dim()) + x.shape[1:])


class _Draw(torch.autograd.Function):
    """The sample as a function of loc and concentration, with the noise held fixed.

    A deterministic function of noise drawn outside, so that vmap with randomness="different" and
    torch.compile see the draw.
    """

    @staticmethod
    def forward(
        noise: Tensor, loc: Tensor, concentration: Tensor, transport: Transport
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _lift(noise, loc, concentration, transport)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, loc, concentration, _ = inputs
        x, cosine, rate = output
        ctx.mark_non_differentiable(cosine, rate)
        ctx.save_for_backward(x, cosine, rate, loc)
        ctx.concentration_shape = concentration.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[None, Tensor, Tensor, None]:
        x, cosine, rate, loc = ctx.saved_tensors
        grad_loc, grad_concentration = _DrawBackward.apply(grad, x, cosine, rate, loc)
        return (
            None,
            grad_loc.sum_to_size(loc.shape),
            grad_concentration.sum_to_size(ctx.concentration_shape),
            None,
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        noise: Tensor,
        loc: Tensor,
        concentration: Tensor,
        transport: Transport,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
        rank = max(
            x.dim() + missing - (axis is not None)
            for x, axis, missing in zip(
                (noise, loc, concentration), in_dims[:3], (0, 0, 1), strict=True
            )
        )
        return _Draw.apply(
            _batch_first(noise, in_dims[0], rank),
            _batch_first(loc, in_dims[1], rank),
            _batch_first(concentration, in_dims[2], rank - 1),
            transport,
        ), (0, 0, 0)


class _DrawBackward(torch.autograd.Function):
    r"""Vector-Jacobian product of the draw, which refuses to be differentiated again.

    With the upstream gradient g:

    * loc: :math:`w g - \langle g, \mu\rangle x`, the derivative under the minimal rotation that
      takes :math:`\mu` to :math:`\mu + d\mu`. It is tangent to the sphere and unbiased; the
      derivative of the fixed-noise projection has the same mean and more variance.
    * concentration: :math:`q (\langle g, \mu\rangle - w \langle g, x\rangle)` with
      :math:`q = d \operatorname{artanh}(w) / dk`, since :math:`dx = (\mu - w x)\, dw / (1 - w^2)`.
      This is the exact implicit-reparameterisation gradient, without a pole at :math:`w = \pm 1`.

    The rotation depends on where it starts, so the derivative of the first is not a second
    derivative of any sampling path.
    """

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, cosine: Tensor, rate: Tensor, loc: Tensor
    ) -> tuple[Tensor, Tensor]:
        along = _dot(grad, loc)
        grad_loc = cosine.unsqueeze(-1) * grad - along.unsqueeze(-1) * x
        return grad_loc, rate * (along - cosine * _dot(grad, x))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(
            "rsample can be differentiated once: its gradient in loc follows a rotation that has "
            "no second derivative along a path. For second derivatives differentiate a closed "
            "form (log_prob, entropy, kl_divergence), or detach the gradient before using it"
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        rank = tensors[0].dim() - (in_dims[0] is not None)
        ranks = (rank, rank, rank - 1, rank - 1, rank)
        aligned = map(_batch_first, tensors, in_dims, ranks)
        return _DrawBackward.apply(*aligned), (0, 0)


def draw(noise: Tensor, loc: Tensor, concentration: Tensor, transport: Transport) -> Tensor:
    """Lifts rows of standard normal noise to the sphere; differentiable in loc and concentration.

    Args:
        noise: standard normal values, of shape (..., d).
        loc: mean directions, unit vectors, of a shape that broadcasts to that of ``noise``.
        concentration: of a shape that broadcasts to ``noise.shape[:-1]``.
        transport: the law of the cosine, see :func:`vmfdist.cosine.transport`.
    """
    return _Draw.apply(noise, loc, concentration, transport)[0]


def _require_float(name: str, x: Tensor) -> None:
    if x.dtype in (torch.float32, torch.float64):
        return
    dtype = str(x.dtype).removeprefix("torch.")
    raise TypeError(
        f"{name} must be float32 or float64, got {dtype}. A direction in a lower precision is off "
        f"the sphere: convert first and normalise then, for instance "
        f"torch.nn.functional.normalize({name}.float(), dim=-1)"
    )


def _as_concentration(concentration: Tensor | float, loc: Tensor) -> Tensor:
    """The concentration in the dtype of ``loc``; a number without a copy from the host."""
    if isinstance(concentration, Tensor) and not concentration.is_complex():
        return concentration.to(loc.dtype)
    if isinstance(concentration, Real):
        return torch.full((), float(concentration), dtype=loc.dtype, device=loc.device)
    kind = getattr(concentration, "dtype", type(concentration).__name__)
    raise TypeError(f"concentration must be a real tensor or a Python number, got {kind}")


def _check_on_sphere(name: str, x: Tensor) -> None:
    """Raises ValueError where a row of ``x`` is not a unit vector to the precision of its dtype."""
    if torch._is_all_true(constraints.sphere.check(x)):
        return
    norm = torch.linalg.vector_norm(x, dim=-1)
    if not bool(torch.isfinite(norm).all()):
        found = "it holds NaN or infinite entries"
    else:
        found = f"its norms lie between {norm.min().item():.9g} and {norm.max().item():.9g}"
    raise ValueError(
        f"{name} of shape {tuple(x.shape)} must consist of unit vectors along its last dimension, "
        f"but {found}; normalise it with torch.nn.functional.normalize({name}, dim=-1)"
    )


class RotationallySymmetric(TorchDistribution):
    """A law on the sphere with a mean direction and a concentration; base of the public ones.

    A subclass gives the law of the cosine by :meth:`_transport`, and its closed forms.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.sphere,
        "concentration": constraints.nonnegative,
    }
    support = constraints.sphere
    has_rsample = True

    loc: Tensor
    concentration: Tensor

    def __init__(
        self, loc: Tensor, concentration: Tensor | float, validate_args: bool | None = None
    ) -> None:
        if not isinstance(loc, Tensor):
            raise TypeError(f"loc must be a tensor of unit vectors, got {type(loc).__name__}")
        _require_float("loc", loc)
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(
                "loc must hold unit vectors with at least two entries along its last dimension, "
                f"got shape {tuple(loc.shape)}"
            )
        concentration = _as_concentration(concentration, loc)
        try:
            batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        except RuntimeError as error:
            raise ValueError(
                f"loc of shape {tuple(loc.shape)} and concentration of shape "
                f"{tuple(concentration.shape)} do not broadcast: concentration must fit "
                f"{tuple(loc.shape[:-1])}, the shape of loc without its last dimension"
            ) from error
        self.loc = loc.expand(batch_shape + loc.shape[-1:])
        self.concentration = concentration.expand(batch_shape)
        if self._validate_args if validate_args is None else validate_args:
            _check_on_sphere("loc", loc)
            if not torch._is_all_true(concentration >= 0):
                raise ValueError(
                    "concentration must be nonnegative, got values between "
                    f"{concentration.min().item():.9g} and {concentration.max().item():.9g}"
                )
        # The constraints are checked above, with messages that say what to do.
        super().__init__(batch_shape, loc.shape[-1:], validate_args=False)
        set_validation(self, validate_args)

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
        batch_shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.concentration = self.concentration.expand(batch_shape)
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
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return draw(noise, self.loc, self.concentration, self._transport)

    @staticmethod
    def _transport(zeta: Tensor, concentration: Tensor, dim: int) -> CosineDraw:
        raise NotImplementedError

    def _half_squared_chord(self, value: Tensor) -> Tensor:
        """1 - <value, loc> = |value - loc|^2 / 2, which keeps its digits where the two are near."""
        if self._validate_args:
            self._validate_sample(value)
        return (value - self.loc).square().sum(-1) / 2

    def _validate_sample(self, value: Tensor) -> None:
        validate_value(value, self.batch_shape, self.dim)


def set_validation(law: TorchDistribution, validate_args: bool | None) -> None:
    """Makes a law check its values or not, or follow torch's default where None is given."""
    law.__dict__.pop("_validate_args", None)
    if validate_args is not None:
        law._validate_args = validate_args


def validate_value(value: Tensor, batch_shape: torch.Size, dim: int) -> None:
    """Raises unless ``value`` holds unit vectors of the dimension and fits the batch shape."""
    if not isinstance(value, Tensor):
        raise TypeError(f"value must be a tensor, got {type(value).__name__}")
    _require_float("value", value)
    if value.dim() < 1 or value.shape[-1] != dim:
        raise ValueError(
            f"value must hold vectors of dimension {dim} along its last dimension, got shape "
            f"{tuple(value.shape)}"
        )
    try:
        torch.broadcast_shapes(value.shape[:-1], batch_shape)
    except RuntimeError as error:
        raise ValueError(
            f"value of shape {tuple(value.shape)} does not broadcast with the batch shape "
            f"{tuple(batch_shape)} and dimension {dim}"
        ) from error
    _check_on_sphere("value", value)
