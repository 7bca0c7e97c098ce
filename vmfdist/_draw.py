r"""From normal noise to a point on the sphere, and the gradient of that map.

A law on the unit sphere of :math:`\mathbb R^d` that is symmetric about a direction :math:`\mu` is

.. math:: x = w \mu + \sqrt{1 - w^2}\, v,

with :math:`v` uniform on the unit sphere of the tangent space at :math:`\mu` and independent of the
cosine :math:`w` (Mardia and Jupp 2000, section 9.3.1).

One vector of d normal variables serves both parts: its component along :math:`\mu` is a standard
normal independent of the direction of the rest, so it is mapped to the cosine
(:mod:`vmfdist._transport`), and the rest is normalised to :math:`v`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from vmfdist._autograd import apply, is_recording
from vmfdist._cache import static
from vmfdist._rows import dot, norm
from vmfdist._transport import Transport

__all__ = ["draw"]

# Up to this dimension the tangent part is formed explicitly. Above, its squared length is
# |noise|^2 - zeta^2: then zeta^2 exceeds 40 times the rest with a probability below 1e-13 only.
_EXPLICIT_DIM = 16

# On the CPU in eager mode a large draw goes through in blocks that stay in the cache: of rows, for
# what is formed row by row, and of numbers, for what is formed of all coordinates.
_BLOCK_ROWS, _BLOCK_NUMBERS = 1 << 14, 1 << 18


_Rows = tuple[Tensor, ...]  # tensors with a number for each row


def _in_blocks(function: Callable[..., _Rows], rows: int, *tensors: Tensor) -> _Rows:
    """The function of tensors whose leading axes broadcast, in blocks of at most so many rows.

    The first tensor has the full shape (..., d), the others have size 1 along axes that they share.
    """
    shape = tensors[0].shape[:-1]
    if shape.numel() <= rows or torch.compiler.is_compiling() or tensors[0].device.type != "cpu":
        return function(*tensors)
    parts = [function(*block) for block in _blocks(rows, tensors)]
    return tuple(
        torch.cat([x.reshape(-1) for x in xs]).view(shape) for xs in zip(*parts, strict=True)
    )


def _blocks(rows: int, tensors: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    full = tensors[0]
    size = full.shape[:-1].numel()
    if size <= rows:
        yield tensors
    elif len(full) == 1:
        yield from _blocks(rows, tuple(tensor[0] for tensor in tensors))
    else:
        step = max(1, rows * len(full) // size)
        parts = (tensor.split(step) if len(tensor) > 1 else repeat(tensor) for tensor in tensors)
        for part in zip(*parts, strict=False):
            yield from _blocks(rows, part)


def _cached_rows(dim: int) -> int:
    return max(1, _BLOCK_NUMBERS // dim)


def _aligned(x: Tensor, rank: int) -> Tensor:
    return x if x.dim() == rank else x.view((1,) * (rank - x.dim()) + x.shape)


def _lift(
    noise: Tensor, loc: Tensor, concentration: Tensor, transport: Transport
) -> tuple[Tensor, Tensor, Tensor]:
    """The sample, in the memory of the noise, and the cosine and its rate for the gradient."""
    # The detached tensor is another one to autograd; a compiled graph reuses memory by itself.
    x = noise.clone() if torch.compiler.is_compiling() else noise.detach()
    dim, rank = static(x.shape[-1]), x.dim()
    rows = _cached_rows(dim)

    def lift(x: Tensor, loc: Tensor, concentration: Tensor) -> _Rows:
        zeta, lean, squared, length = _in_blocks(_split_off_tangent, rows, x, loc)
        t, rate = transport(zeta, concentration, dim)
        cosine = 1.0 - t
        scale = (cosine + 1.0).mul_(t).div_(squared).sqrt_()  # 1 + w = 2 - t is exact
        along = torch.addcmul(cosine, scale, lean, value=-1.0).div_(length)
        _in_blocks(_combine, rows, x, scale, along, loc)
        return cosine, rate

    tensors = x, _aligned(loc, rank), _aligned(concentration, rank - 1)
    cosine, rate = _in_blocks(lift, _BLOCK_ROWS, *tensors)
    return x, cosine, rate


def _split_off_tangent(x: Tensor, loc: Tensor) -> _Rows:
    """Makes x a sum of lean times loc and a tangent vector of its direction.

    Returns the component zeta that x had along loc, lean, the squared length of the tangent vector,
    and the norm of loc, which is 1 up to rounding.
    """
    length = norm(loc).expand(x.shape[:-1])
    zeta = dot(x, loc).div_(length)
    dim = x.shape[-1]
    if dim == 2:  # the tangent space is a line: no rounding can tilt it
        perpendicular = torch.stack((-loc[..., 1], loc[..., 0]), dim=-1)
        side = torch.where(dot(x, perpendicular) < 0, -1.0, 1.0) / length
        x.copy_(side.unsqueeze(-1) * perpendicular)
        return zeta, torch.zeros_like(zeta), torch.ones_like(zeta), length
    if dim > _EXPLICIT_DIM:
        squared = norm(x).square_()
        return zeta, zeta, squared.addcmul_(zeta, zeta, value=-1.0), length
    # Where little is left beside loc, its rounding is not small: it has a component along loc too.
    x.addcmul_((zeta / length).unsqueeze(-1), loc, value=-1.0)
    return zeta, dot(x, loc).div_(length), norm(x).square_(), length


def _combine(x: Tensor, scale: Tensor, along: Tensor, loc: Tensor) -> _Rows:
    x.mul_(scale.unsqueeze(-1)).addcmul_(along.unsqueeze(-1), loc)
    return ()


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
        # Only where the backward pass is itself recorded can someone differentiate again.
        pull_back = _DrawBackward.apply if is_recording() else _pull_back
        grad_loc, grad_concentration = pull_back(grad, x, cosine, rate, loc)
        return None, grad_loc, grad_concentration.sum_to_size(ctx.concentration_shape), None

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
        if in_dims[0] is None:  # randomness="same": each gets a copy
            noise = noise.expand(info.batch_size, *noise.shape)
        return _Draw.apply(
            _batch_first(noise, in_dims[0] or 0, rank).contiguous(),
            _batch_first(loc, in_dims[1], rank),
            _batch_first(concentration, in_dims[2], rank - 1),
            transport,
        ), (0, 0, 0)


class _DrawBackward(torch.autograd.Function):
    r"""Vector-Jacobian product of the draw, which refuses to be differentiated again.

    With the upstream gradient g:

    * loc: :math:`w g - \langle g, \mu\rangle x`, the derivative under the minimal rotation that
      takes :math:`\mu` to :math:`\mu + d\mu`. It is tangent to the sphere and unbiased; above
      dimension 2 the derivative of the fixed-noise projection has the same mean and more variance.
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
        return _pull_back(grad, x, cosine, rate, loc)

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
        grad, *others, loc = map(_batch_first, tensors, in_dims, ranks)
        if in_dims[0] is None:
            grad = grad.expand(info.batch_size, *grad.shape)
        # Each of the batch has a gradient of its own in a loc that they share.
        own = loc.expand(info.batch_size, *_aligned(loc, rank + 1).shape[1:])
        grad_loc, grad_concentration = _DrawBackward.apply(grad, *others, own)
        shape = loc.shape if in_dims[4] is None else loc.shape[1:]
        return (grad_loc.view(info.batch_size, *shape), grad_concentration), (0, 0)


def _pull_back(
    grad: Tensor, x: Tensor, cosine: Tensor, rate: Tensor, loc: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients in loc, of its shape, and in the concentration, for each row."""
    rank, own = grad.dim(), loc.shape == grad.shape  # a loc for each row
    grad_loc = torch.empty_like(loc) if own else torch.zeros_like(loc)
    x, cosine, rate = _aligned(x, rank), _aligned(cosine, rank - 1), _aligned(rate, rank - 1)
    tensors = grad, x, cosine, rate, _aligned(loc, rank), _aligned(grad_loc, rank)
    pull_back = _pull_back_to_own if own else _pull_back_to_shared
    (grad_concentration,) = _in_blocks(pull_back, _cached_rows(grad.shape[-1]), *tensors)
    return grad_loc, grad_concentration


def _pull_back_to_own(
    grad: Tensor, x: Tensor, cosine: Tensor, rate: Tensor, loc: Tensor, grad_loc: Tensor
) -> _Rows:
    """Writes the gradient in loc, returns that in the concentration."""
    along = dot(grad, loc)
    torch.mul(grad, cosine.unsqueeze(-1), out=grad_loc)
    grad_loc.addcmul_(along.unsqueeze(-1), x, value=-1.0)
    return (torch.addcmul(along, cosine, dot(grad, x), value=-1.0).mul_(rate),)


def _pull_back_to_shared(
    grad: Tensor, x: Tensor, cosine: Tensor, rate: Tensor, loc: Tensor, grad_loc: Tensor
) -> _Rows:
    """Adds to the gradient in loc, returns that in the concentration."""
    rows = torch.empty_like(grad)
    result = _pull_back_to_own(grad, x, cosine, rate, loc, rows)
    grad_loc += rows.sum_to_size(grad_loc.shape)
    return result


def draw(noise: Tensor, loc: Tensor, concentration: Tensor, transport: Transport) -> Tensor:
    """Lifts rows of standard normal noise to the sphere; differentiable in loc and concentration.

    Args:
        noise: standard normal values, of shape (..., d), contiguous; their memory becomes that of
            the sample.
        loc: mean directions, unit vectors, of a shape that broadcasts to that of ``noise``.
        concentration: of a shape that broadcasts to ``noise.shape[:-1]``.
        transport: the law of the cosine, see :mod:`vmfdist._transport`.
    """
    if is_recording() or torch.compiler.is_compiling():
        return apply(_Draw, noise, loc, concentration, transport)[0]
    return _lift(noise, loc, concentration, transport)[0]
