"""Checks of arguments, with errors that say what was given and what is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from vmfdist._numerics.precision import in_float64
from vmfdist._numerics.rows import norm


def require(message: str, x: Tensor, allowed: Callable[[float], bool], noun: str = "value") -> None:
    """Raises ValueError unless all of ``x`` is allowed, as the numbers of an interval are.

    An interval holds all if it holds the smallest and the largest, which are what the error names.
    """
    if not x.numel():
        return
    low, high = (end.item() for end in x.detach().aminmax())
    if allowed(low) and allowed(high):
        return
    if low != low:
        got = "NaN"
    elif low == high:
        got = f"the {noun} {low:.9g}"
    else:
        got = f"{noun}s between {low:.9g} and {high:.9g}"
    raise ValueError(f"{message}, got {got}")


def require_number(name: str, x: Any, kind: str = "a Python number") -> None:
    """Raises TypeError unless ``x`` is a number, which a truth value is not."""
    if not isinstance(x, Real) or isinstance(x, bool):
        raise TypeError(f"{name} must be {kind}, got {type(x).__name__}")


def check_integer(name: str, x: Any, least: int, meaning: str = "") -> int:
    """The integer; raises unless ``x`` is one of at least that."""
    require_number(name, x, "an integer")
    if not least <= x < math.inf or x != int(x):
        raise ValueError(f"{name} must be an integer of at least {least}{meaning}, got {x}")
    return int(x)


def check_dim(dim: int) -> int:
    """Raises unless ``dim`` can be the dimension of an ambient space."""
    return check_integer(
        "dim", dim, 2, ", the dimension of the ambient space (3 for the ordinary sphere)"
    )


def common_shape(p: Any, q: Any, what: str) -> torch.Size:
    """The shape of what two laws have; ValueError unless they have it, pair by pair."""
    if p.dim != q.dim:
        raise ValueError(
            f"the laws must live on the same sphere to have {what}, got dimension {p.dim} "
            f"({type(p).__name__}) and {q.dim} ({type(q).__name__})"
        )
    try:
        return broadcast_shapes(p.batch_shape, q.batch_shape)
    except RuntimeError:
        raise ValueError(
            f"the laws must have batch shapes that broadcast to have {what}, got "
            f"{tuple(p.batch_shape)} ({type(p).__name__}) and {tuple(q.batch_shape)} "
            f"({type(q).__name__}); all pairs have it of shapes (n, 1) and (m,)"
        ) from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def require_dense(name: str, x: Any, kind: str = "a tensor") -> Tensor:
    """The same tensor; raises TypeError unless it is one array of real numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be {kind}, got {type(x).__name__}")
    if x.is_nested:
        raise TypeError(
            f"{name} must be dense, with rows of one length, got a nested tensor: take its parts "
            "one by one, or pad them"
        )
    if x.layout != torch.strided:
        raise TypeError(
            f"{name} must be dense, got layout {x.layout}: convert it with {name}.to_dense()"
        )
    if x.is_complex():
        raise TypeError(f"{name} must be real, got {_name(x.dtype)}")
    return x


def require_number_or_tensor(name: str, x: Any, kind: str) -> None:
    """Raises TypeError unless ``x`` is a number, or a tensor that is one array of real numbers."""
    if isinstance(x, Tensor):
        require_dense(name, x)
    else:
        require_number(name, x, kind)


def require_dtype(name: str, dtype: torch.dtype, advice: str = "") -> None:
    """Raises TypeError unless the dtype is one that all is computed in."""
    if dtype not in (torch.float32, torch.float64):
        got = _name(dtype) + advice.format(name)
        raise TypeError(f"{name} must be float32 or float64, got {got}")


_CONVERT = ": convert it, for instance with {0}.float()"
_NORMALISE = (
    ". A direction in a lower precision is off the sphere: convert first and normalise then, for "
    "instance torch.nn.functional.normalize({0}.float(), dim=-1)"
)


def require_float(name: str, x: Any, *, unit: bool = True) -> None:
    """Raises TypeError unless ``x``, of unit vectors if so told, is dense and of such a dtype."""
    require_dense(name, x)
    rounded = unit and x.is_floating_point()
    require_dtype(name, x.dtype, _NORMALISE if rounded else _CONVERT)


def broadcast_shapes(a: torch.Size, b: torch.Size) -> torch.Size:
    """torch.broadcast_shapes, which takes longer than four small operations, where it must."""
    if (len(a) == len(b) and a == b) or not b:  # to compare their sizes may be to guard on them
        return a
    return torch.broadcast_shapes(a, b) if a else b


def require_broadcast(name: str, shape: torch.Size, batch_shape: torch.Size) -> None:
    """Raises ValueError unless the shape broadcasts with that of a batch of laws."""
    try:
        broadcast_shapes(shape, batch_shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} of shape {tuple(shape)} must broadcast with the batch shape "
            f"{tuple(batch_shape)}"
        ) from error


def expanded_shape(batch_shape: torch.Size, larger: Sequence[int]) -> torch.Size:
    """The larger batch shape; raises where torch's laws do, if a law cannot be expanded to it."""
    shape = torch.Size(larger)
    kept = shape[len(shape) - len(batch_shape) :]
    if (
        len(shape) < len(batch_shape)
        or any(size < 0 for size in shape)
        or any(old not in (1, new) for old, new in zip(batch_shape, kept, strict=True))
    ):
        raise RuntimeError(
            f"a law of batch shape {tuple(batch_shape)} cannot be expanded to {tuple(shape)}: new "
            "axes come in front, and of the old ones only those of size 1 can grow"
        )
    return shape


def fitting(name: str, x: Tensor, shape: torch.Size) -> Tensor:
    """The same tensor; raises ValueError unless it can be expanded to the shape."""
    try:
        expanded_shape(x.shape, shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} of shape {tuple(x.shape)} does not fit this law, which has {name} of shape "
            f"{tuple(shape)}"
        ) from error
    return x


def check_concentration(name: str, concentration: Tensor, largest: float) -> None:
    """Raises ValueError where a concentration is negative, NaN or larger than that."""
    most = f" and at most {largest:g}" if largest < math.inf else ""
    require(f"{name} must be nonnegative{most}", concentration, lambda k: 0 <= k <= largest)


def require_held(name: str, x: Tensor | float, dtype: torch.dtype) -> None:
    """Raises ValueError where a finite number is larger than the largest one of the dtype."""
    largest = torch.finfo(dtype).max
    if isinstance(x, Tensor):
        if x.dtype == dtype or not x.is_floating_point():
            return
        x = x.abs().masked_fill(x.isinf(), 0.0).max().item() if x.numel() else 0.0
    if largest < abs(x) < math.inf:
        raise ValueError(
            f"{name} must be at most {largest:.6g}, the largest {_name(dtype)} number, or "
            f"infinite (the point mass), got {x:.6g}; parameters in float64 hold up to 1.8e308"
        )


def unit_tolerance(dtype: torch.dtype, dim: int) -> float:
    """How far from 1 the length of a unit vector may be, as in Pyro's constraint."""
    return constraints.sphere.reltol * torch.finfo(dtype).eps * dim**0.5


def require_unit(message: str, x: Tensor) -> None:
    """Raises ValueError where a row of ``x`` is not a unit vector to the precision of its dtype."""
    tolerance = unit_tolerance(x.dtype, x.shape[-1])
    require(message, norm(x.detach()), lambda length: abs(length - 1) < tolerance, "norm")


def check_on_sphere(name: str, x: Tensor) -> None:
    """The same, with advice."""
    require_unit(
        f"{name} of shape {tuple(x.shape)} must consist of unit vectors along its last dimension, "
        f"as torch.nn.functional.normalize({name}, dim=-1) makes them",
        x,
    )


def check_vector(name: str, x: Any, *, unit: bool = False) -> None:
    """Raises unless ``x`` is a floating-point tensor of vectors with at least two entries."""
    require_float(name, x, unit=unit)
    if x.dim() < 1 or x.shape[-1] < 2:
        raise ValueError(
            f"{name} must hold vectors with at least two entries along its last dimension, got "
            f"shape {tuple(x.shape)}"
        )


def require_vectors(name: str, x: Tensor, dim: int) -> None:
    """Raises ValueError unless ``x`` holds vectors of that dimension."""
    if x.dim() < 1 or x.shape[-1] != dim:
        raise ValueError(
            f"{name} must hold vectors of dimension {dim} along its last dimension, got shape "
            f"{tuple(x.shape)}"
        )


def check_samples(name: str, samples: Any, validate: bool) -> None:
    """Raises unless ``samples`` has shape (..., n, d), n >= 1, and holds unit vectors."""
    check_vector(name, samples, unit=True)
    if samples.dim() < 2 or not samples.shape[-2]:
        raise ValueError(
            f"{name} must have shape (..., n, d), n unit vectors of dimension d with n at least 1, "
            f"got shape {tuple(samples.shape)}"
        )
    if validate:
        check_on_sphere(name, samples)


def check_loc(loc: Any, dim: int, validate: bool) -> None:
    """Raises unless ``loc`` holds directions on the sphere of samples of that dimension."""
    check_vector("loc", loc, unit=True)
    if loc.shape[-1] != dim:
        raise ValueError(
            f"loc must be a direction on the sphere of the samples, of dimension {dim}, got shape "
            f"{tuple(loc.shape)}"
        )
    if validate:
        check_on_sphere("loc", loc)


def check_weights(weights: Any, samples: Tensor, validate: bool) -> None:
    """Raises unless ``weights`` is None, or fits samples, is nonnegative and has a positive sum."""
    if weights is None:
        return
    require_dense("weights", weights)
    try:
        shape = torch.broadcast_shapes(samples.shape[:-1], weights.shape)
    except RuntimeError:
        shape = torch.Size()
    count = samples.shape[-2:-1]
    is_column = weights.dim() > 1 and weights.shape[-1:] != count  # (n, 1), n equal fits
    if shape[-1:] != count or is_column:
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} and samples of shape {tuple(samples.shape)} "
            f"do not fit: weights must broadcast with {tuple(samples.shape[:-1])}, the shape of "
            f"samples without its last dimension, and hold {count[0]} weights along their own last "
            "dimension"
        )
    if validate:
        require("weights must be nonnegative and finite", weights, lambda w: 0 <= w < math.inf)
        require(
            f"weights of shape {tuple(weights.shape)} must have a positive, finite sum along the "
            "last dimension",
            in_float64(weights).sum(-1),
            lambda total: 0 < total < math.inf,
            "sum",
        )


def set_validation(law: TorchDistribution, validate_args: bool | None) -> None:
    """Makes a law check its values or not, or follow torch's default where None is given."""
    if validate_args is not None:
        law._validate_args = validate_args
    elif "_validate_args" in law.__dict__:
        del law._validate_args


def validate_value(value: Tensor, batch_shape: torch.Size, dim: int) -> None:
    """Raises unless ``value`` holds unit vectors of the dimension and fits the batch shape."""
    require_float("value", value)
    require_vectors("value", value, dim)
    try:
        broadcast_shapes(value.shape[:-1], batch_shape)
    except RuntimeError as error:
        raise ValueError(
            f"value of shape {tuple(value.shape)} does not broadcast with the batch shape "
            f"{tuple(batch_shape)} and dimension {dim}"
        ) from error
    check_on_sphere("value", value)
