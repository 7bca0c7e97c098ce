r"""From normal noise to a point on the sphere, and the gradient of that map.

A law on the unit sphere of :math:`\mathbb R^d` that is symmetric about a direction :math:`\mu` is

.. math:: x = w \mu + \sqrt{1 - w^2}\, v,

with :math:`v` uniform on the unit sphere of the tangent space at :math:`\mu` and independent of the
cosine :math:`w` (Mardia and Jupp 2000, section 9.3.1).

One vector of d normal variables serves both parts: its component along :math:`\mu` is a standard
normal independent of the direction of the rest, so it is mapped to the cosine
(:mod:`vmfdist._sampling.noise_to_cosine`), and the rest is normalised to :math:`v`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vmfdist._numerics.autograd import (
    apply,
    fixed_in_program,
    in_program,
    is_recording,
    may_look_at,
    zero_of,
)
from vmfdist._numerics.blocks import go_in_blocks, in_blocks
from vmfdist._numerics.constants import static
from vmfdist._numerics.rows import dot, expanded, norm
from vmfdist._sampling.noise_to_cosine import Transport

# On the CPU in eager mode a look at the rows tells where the cheap way to split the noise serves.
# Up to this dimension it forms the tangent part, which may be about sqrt(eps) as short as zeta.
# Above, it has its squared length from |noise|^2 - zeta^2, which must keep its digits: normal
# variables of 8 dimensions fall short of an eighth in 2 rows of 1e4.
_EXPLICIT_DIM = 7
_LEAST_IMPLICIT = 1 / 8  # of (tangent part / zeta)^2

# On the CPU in eager mode a large draw goes through in blocks that stay in the cache: of rows, for
# what is formed row by row, and of numbers, for what is formed of all coordinates.
_BLOCK_ROWS, _BLOCK_NUMBERS = 1 << 14, 1 << 18


_Rows = tuple[Tensor, ...]  # tensors with a number for each row


def _cached_rows(dim: int) -> int:
    return max(1, static(_BLOCK_NUMBERS) // dim)


def _aligned(x: Tensor, rank: int) -> Tensor:
    return x if x.dim() == rank else x.view((1,) * (rank - x.dim()) + x.shape)


def _lift(
    noise: Tensor, loc: Tensor, concentration: Tensor, transport: Transport, for_gradient: bool
) -> _Rows:
    """The sample, in the memory of the noise; for a gradient also w, 1 - w^2 and the rate."""
    # The detached tensor is another one to autograd; a compiled graph reuses memory by itself.
    x = noise.clone() if torch.compiler.is_compiling() else noise.detach()
    dim, rank = static(x.shape[-1]), x.dim()
    rows = _cached_rows(dim)

    def lift(x: Tensor, loc: Tensor, concentration: Tensor) -> _Rows:
        zeta, across, lean, width, length = in_blocks(_split_off_tangent, rows, x, loc, event_dim=1)
        t, rate = transport(zeta, across, concentration, dim, for_gradient)
        cosine = 1.0 - t
        squared_sine = torch.addcmul(t, cosine, t)
        scale = squared_sine.sqrt().div_(width)
        along = torch.addcmul(cosine, scale, lean, value=-1.0).div_(length)
        in_blocks(_combine, rows, x, scale, along, loc, event_dim=1)
        return () if rate is None else (cosine, squared_sine, rate)

    tensors = x, _aligned(loc, rank), _aligned(concentration, rank - 1)
    return x, *in_blocks(lift, _BLOCK_ROWS, *tensors, event_dim=1)


def _split_off_tangent(x: Tensor, loc: Tensor) -> _Rows:
    """Makes x a sum of lean times loc and a tangent vector of its direction.

    Returns the component zeta that x had along loc, the length of what it had across, lean, the
    length of the tangent vector, and the norm of loc, which is 1 up to rounding.
    """
    length = expanded(norm(loc), x.shape[:-1])
    zeta = dot(x, loc).div_(length)
    dim = x.shape[-1]
    if dim == 2:  # the tangent space is a line: no rounding can tilt it
        perpendicular = torch.stack((-loc[..., 1], loc[..., 0]), dim=-1)
        across = dot(x, perpendicular).div_(length)
        side = torch.copysign(length.reciprocal(), across)
        x.copy_(side.unsqueeze(-1) * perpendicular)
        return zeta, across.abs_(), torch.zeros_like(zeta), torch.ones_like(zeta), length
    if not may_look_at(x):
        lean, width = _project(x, loc, zeta, zeta, length)
        return zeta, width, lean, width, length
    if dim > _EXPLICIT_DIM:
        lean, width = zeta, norm(x).square().addcmul_(zeta, zeta, value=-1.0)
        to_spare, least = _to_spare(width, zeta, _LEAST_IMPLICIT), _lost(x.dtype)
        width.sqrt_()
    else:
        # What is left leans on loc by the rounding of zeta. The square of that is nothing beside
        # the square of a width above sqrt(eps) (1 + zeta^2), which is 2 sqrt(eps) |zeta| at least.
        x.addcmul_((zeta / length).unsqueeze(-1), loc, value=-1.0)
        lean, width, least = dot(x, loc), norm(x), torch.finfo(x.dtype).eps ** 0.5
        to_spare = _to_spare(width, zeta, least)
    if x.numel() and not to_spare.min().item() > least:
        rows = (to_spare <= least).nonzero(as_tuple=True)
        part, *of_rows = x[rows], *(y[rows] for y in (loc.expand_as(x), lean, zeta, length))
        lean_of_rows, width[rows] = _project(part, *of_rows)
        x[rows], lean = part, lean.index_put(rows, lean_of_rows)
    return zeta, width, lean, width, length


def _to_spare(width: Tensor, zeta: Tensor, share: float) -> Tensor:
    """What a length, or the square of one, has beyond a share of zeta^2."""
    return torch.addcmul(width, zeta, zeta, value=-share)


def _least_explicit(dtype: torch.dtype) -> float:
    """Of (tangent part / zeta)^2: beyond, more is left than rounding."""
    return 64.0 * torch.finfo(dtype).eps ** 2


def _lost(dtype: torch.dtype) -> float:
    """A squared length so small has lost its digits, or all, to underflow."""
    info = torch.finfo(dtype)
    return info.tiny / info.eps


def _project(
    x: Tensor, loc: Tensor, along: Tensor, zeta: Tensor, length: Tensor
) -> tuple[Tensor, Tensor]:
    """Splits off the tangent part whatever x is, also where it is parallel to loc, or 0.

    ``along`` is the component that x has along loc, ``zeta`` the one that the noise had. Twice is
    enough (B. N. Parlett 1998, The symmetric eigenvalue problem, section 6.9), unless what is left
    is all rounding. There, one of the first two axes takes its place, that which leans less on loc.
    """
    _add_multiple(x, -along / length, loc)
    _add_multiple(x, -dot(x, loc) / length.square(), loc)
    squared = norm(x).square()
    lost = _to_spare(squared, zeta, _least_explicit(x.dtype)) <= _lost(x.dtype)
    first, second = loc[..., 0] / length, loc[..., 1] / length
    takes_first = first.abs() <= second.abs()
    x.masked_fill_(lost.unsqueeze(-1), 0.0)
    x[..., 0] += lost & takes_first
    x[..., 1] += lost & ~takes_first
    lean = torch.where(lost, torch.where(takes_first, first, second), 0.0)
    return lean, torch.where(lost, 1.0 - lean * lean, squared).sqrt_()


def _combine(x: Tensor, scale: Tensor, along: Tensor, loc: Tensor) -> _Rows:
    x.mul_(scale.unsqueeze(-1))
    _add_multiple(x, along, loc)
    return ()


def _add_multiple(x: Tensor, factor: Tensor, loc: Tensor) -> None:
    if torch.compiler.is_compiling():  # where vmap, within it, knows no addcmul_
        x.add_(factor.unsqueeze(-1) * loc)
    else:
        x.addcmul_(factor.unsqueeze(-1), loc)


def _batch_first(x: Tensor, axis: int | None, rank: int) -> Tensor:
    """Puts the axis that vmap maps in front of an array that broadcasts to ``rank`` axes.

    All operations here go row by row, so that this is all that vmap needs.
    """
    if axis is None:
        return x
    x = x.movedim(axis, 0)
    return x.reshape(x.shape[:1] + (1,) * (rank + 1 - x.dim()) + x.shape[1:])


def _refuse(ctx: Any, *_: Any) -> Any:
    """For all derivatives but the one by backward mode."""
    raise NotImplementedError(
        "rsample can be differentiated once, by backward mode: its gradient in loc follows a "
        "rotation that has no second derivative along a path. For forward mode and for second "
        "derivatives differentiate a closed form (log_prob, entropy, kl_divergence), or detach the "
        "gradient before using it"
    )


class _Draw(torch.autograd.Function):
    """The sample as a function of loc and concentration, with the noise held fixed.

    A deterministic function of noise drawn outside, so that vmap with randomness="different" and
    torch.compile see the draw.
    """

    @staticmethod
    def forward(noise: Tensor, loc: Tensor, concentration: Tensor, transport: Transport) -> _Rows:
        return _lift(noise, loc, concentration, transport, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: _Rows) -> None:
        _, loc, concentration, _ = inputs
        x, *of_rows = output
        ctx.mark_non_differentiable(*of_rows)
        ctx.set_materialize_grads(False)  # none are formed of these
        ctx.save_for_backward(x, *of_rows, loc)
        ctx.concentration_shape = concentration.shape

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, *_: Any
    ) -> tuple[None, Tensor | None, Tensor | None, None]:
        if grad is None:
            return None, None, None, None
        tensors = grad, *ctx.saved_tensors
        if is_recording():  # only then can someone differentiate again
            by_loc, by_concentration = _of_mode(_DrawBackward).apply(*tensors)
        else:
            by_loc, by_concentration = _pull_back(*tensors, of=ctx.needs_input_grad[1:3])
        if by_concentration is not None:
            by_concentration = by_concentration.sum_to_size(ctx.concentration_shape)
        return None, by_loc, by_concentration, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        noise: Tensor,
        loc: Tensor,
        concentration: Tensor,
        transport: Transport,
    ) -> tuple[_Rows, tuple[int, ...]]:
        rank = max(
            x.dim() + missing - (axis is not None)
            for x, axis, missing in zip(
                (noise, loc, concentration), in_dims[:3], (0, 0, 1), strict=True
            )
        )
        if in_dims[0] is None:  # randomness="same": each gets a copy
            noise = noise.expand(info.batch_size, *noise.shape)
        return _of_mode(_Draw).apply(
            _batch_first(noise, in_dims[0] or 0, rank).contiguous(),
            _batch_first(loc, in_dims[1], rank),
            _batch_first(concentration, in_dims[2], rank - 1),
            transport,
        ), (0, 0, 0, 0)


class _DrawBackward(torch.autograd.Function):
    r"""Vector-Jacobian product of the draw, which refuses to be differentiated again.

    With the upstream gradient g:

    * loc: :math:`w g - \langle g, \mu\rangle x`, the derivative under the minimal rotation that
      takes :math:`\mu` to :math:`\mu + d\mu`. It is tangent to the sphere and unbiased; above
      dimension 2 the derivative of the fixed-noise projection has the same mean and more variance.
    * concentration: :math:`q (\langle g, \mu\rangle - w \langle g, x\rangle)` with
      :math:`q = d \operatorname{artanh}(w) / dk`, since :math:`dx = (\mu - w x)\, dw / (1 - w^2)`.
      This is the exact implicit-reparameterisation gradient, without a pole at :math:`w = \pm 1`.
      It is formed as :math:`q ((1 - w^2) \langle g, \mu\rangle - w \langle g_\perp, x\rangle)`,
      with the part :math:`g_\perp` of g across :math:`\mu`: at high concentration the difference
      of a gradient along :math:`\mu` would be all rounding.

    The rotation depends on where it starts, so the derivative of the first is not a second
    derivative of any sampling path.
    """

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, cosine: Tensor, squared_sine: Tensor, rate: Tensor, loc: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        return _pull_back(grad, x, cosine, squared_sine, rate, loc)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    backward = staticmethod(_refuse)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        rank = tensors[0].dim() - (in_dims[0] is not None)
        ranks = (rank, rank, rank - 1, rank - 1, rank - 1, rank)
        grad, *others, loc = map(_batch_first, tensors, in_dims, ranks)
        if in_dims[0] is None:
            grad = grad.expand(info.batch_size, *grad.shape)
        # Each of the batch has a gradient of its own in a loc that they share.
        own = loc.expand(info.batch_size, *_aligned(loc, rank + 1).shape[1:])
        grad_loc, grad_concentration = _of_mode(_DrawBackward).apply(grad, *others, own)
        shape = loc.shape if in_dims[5] is None else loc.shape[1:]
        return (grad_loc.view(info.batch_size, *shape), grad_concentration), (0, 0)


class _EagerDraw(_Draw):
    jvp = staticmethod(_refuse)


class _EagerDrawBackward(_DrawBackward):
    jvp = staticmethod(_refuse)


def _of_mode(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """The same function; in eager mode with a jvp, which Dynamo refuses."""
    if torch.compiler.is_compiling():
        return function
    return _EagerDraw if function is _Draw else _EagerDrawBackward


def _pull_back(
    grad: Tensor,
    x: Tensor,
    cosine: Tensor,
    squared_sine: Tensor,
    rate: Tensor,
    loc: Tensor,
    *,
    of: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients in loc, of its shape, and in the concentration, for each row, as asked for."""
    rank, rows = grad.dim(), _cached_rows(2 * grad.shape[-1])  # of twice as many arrays
    own = loc.shape == grad.shape  # a loc for each row
    of_rows = (_aligned(y, rank - 1) for y in (cosine, squared_sine, rate))
    tensors = [grad, _aligned(x, rank), *of_rows, _aligned(loc, rank)]
    if not go_in_blocks(grad, rows, event_dim=1):
        by_loc, by_concentration = _pull_back_rows(of, *tensors)
        if by_loc is not None and not own:
            by_loc = by_loc.sum_to_size(tensors[-1].shape).view(loc.shape)
        return by_loc, by_concentration
    grad_loc = None
    if of[0]:
        grad_loc = torch.empty_like(loc) if own else torch.zeros_like(loc)
        tensors.append(_aligned(grad_loc, rank))

    def block(*tensors: Tensor) -> _Rows:
        given, out = tensors[:6], tensors[6] if of[0] else None
        by_loc, by_concentration = _pull_back_rows(of, *given, out=out if own else None)
        if out is not None and by_loc is not None and not own:
            out += by_loc.sum_to_size(out.shape)
        return () if by_concentration is None else (by_concentration,)

    found = in_blocks(block, rows, *tensors, event_dim=1)
    return grad_loc, found[0] if found else None


def _pull_back_rows(
    of: tuple[bool, bool],
    grad: Tensor,
    x: Tensor,
    cosine: Tensor,
    squared_sine: Tensor,
    rate: Tensor,
    loc: Tensor,
    *,
    out: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of each row, that in loc in the memory of ``out`` where it is given."""
    along = dot(grad, loc)
    column_of_along, column_of_cosine = along.unsqueeze(-1), cosine.unsqueeze(-1)
    if not of[1]:
        by_loc = torch.mul(grad, column_of_cosine, out=out)
        return by_loc.addcmul_(column_of_along, x, value=-1.0), None
    # Of both what is across loc: its product with x is free of the rounding of what is along.
    across = torch.addcmul(grad, column_of_along, loc, value=-1.0, out=out)
    x_across = torch.addcmul(x, column_of_cosine, loc, value=-1.0)
    product = dot(across, x_across)
    by_concentration = (along * squared_sine).addcmul_(cosine, product, value=-1.0).mul_(rate)
    if not of[0]:
        return None, by_concentration
    by_loc = across.mul_(column_of_cosine).addcmul_(column_of_along, x_across, value=-1.0)
    return by_loc, by_concentration


def _in_program(noise: Tensor, loc: Tensor, concentration: Tensor, transport: Transport) -> Tensor:
    """The sample, and the derivatives above as operations on changes that are 0."""
    mu = loc.detach()
    with fixed_in_program():
        x, *of_rows = _lift(noise, mu, concentration.detach(), transport, True)
        cosine, squared_sine, rate = (y.unsqueeze(-1) for y in of_rows)
        forward = squared_sine * mu - cosine * (x - cosine * mu)
    turn, rise = zero_of(loc), zero_of(concentration).unsqueeze(-1)
    turned = cosine * turn - dot(x, turn.expand_as(x)).unsqueeze(-1) * mu
    return x + turned + rate * rise * forward


def draw(noise: Tensor, loc: Tensor, concentration: Tensor, transport: Transport) -> Tensor:
    """Lifts rows of standard normal noise to the sphere; differentiable in loc and concentration.

    Args:
        noise: standard normal values, of shape (..., d), contiguous; their memory becomes that of
            the sample.
        loc: mean directions, unit vectors, of a shape that broadcasts to that of ``noise``.
        concentration: of a shape that broadcasts to ``noise.shape[:-1]``.
        transport: the law of the cosine, see :mod:`vmfdist._sampling.noise_to_cosine`.
    """
    if torch.is_grad_enabled() and in_program():
        return _in_program(noise, loc, concentration, transport)
    if is_recording() or torch.compiler.is_compiling():
        return apply(_of_mode(_Draw), noise, loc, concentration, transport)[0]
    return _lift(noise, loc, concentration, transport, False)[0]


def draw_uniform(noise: Tensor) -> Tensor:
    """Directions of rows of standard normal noise, in its memory; of a row of 0, the first axis."""
    length = norm(noise)
    lost = length < math.sqrt(_lost(noise.dtype))
    if not may_look_at(noise) or lost.any():
        noise[..., 0].masked_fill_(lost, 1.0)
        length = length.masked_fill(lost, 1.0)
    return noise.div_(length.unsqueeze(-1))
