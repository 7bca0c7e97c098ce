"""Checks of arguments, with errors that say what was given and what is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from vmfdist._numerics.rows import norm

__all__ = [
    "broadcast_shapes",
    "check_dim",
    "check_nonnegative",
    "check_on_sphere",
    "expanded_shape",
    "fitting",
    "require_dense",
    "require_float",
    "require_held",
    "set_validation",
    "validate_value",
]


def check_dim(dim: int) -> int:
    """Raises unless ``dim`` can be the dimension of an ambient space."""
    if not isinstance(dim, Real) or isinstance(dim, bool):
        raise TypeError(f"dim must be an integer, got {type(dim).__name__}")
    if not 2 <= dim < math.inf or dim != int(dim):
        raise ValueError(
            f"dim must be an integer of at least 2, the dimension of the ambient space (3 for "
            f"the ordinary sphere), got {dim}"
        )
    return int(dim)


def require_dense(name: str, x: Tensor) -> None:
    """Raises unless ``x`` is one array of numbers, neither sparse nor nested."""
    if x.is_nested:
        raise TypeError(
            f"{name} must be dense, with rows of one length, got a nested tensor: take its parts "
            "one by one, or pad them"
        )
    if x.layout != torch.strided:
        raise TypeError(
            f"{name} must be dense, got layout {x.layout}: convert it with {name}.to_dense()"
        )


def require_float(name: str, x: Tensor, *, unit: bool = True) -> None:
    """Raises unless ``x``, of unit vectors if so told, is dense and float32 or float64."""
    require_dense(name, x)
    if x.dtype in (torch.float32, torch.float64):
        return
    dtype = str(x.dtype).removeprefix("torch.")
    if x.is_complex():
        raise TypeError(f"{name} must be real, float32 or float64, got {dtype}")
    if not (unit and x.is_floating_point()):
        raise TypeError(
            f"{name} must be float32 or float64, got {dtype}: convert it, for instance with "
            f"{name}.float()"
        )
    raise TypeError(
        f"{name} must be float32 or float64, got {dtype}. A direction in a lower precision is off "
        f"the sphere: convert first and normalise then, for instance "
        f"torch.nn.functional.normalize({name}.float(), dim=-1)"
    )


def broadcast_shapes(a: torch.Size, b: torch.Size) -> torch.Size:
    """torch.broadcast_shapes, which takes longer than four small operations, where it must."""
    if a == b or not b:
        return a
    return torch.broadcast_shapes(a, b) if a else b


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


def check_nonnegative(name: str, x: Tensor) -> None:
    """Raises ValueError where ``x`` is negative or NaN."""
    if not torch._is_all_true(x >= 0):
        raise ValueError(
            f"{name} must be nonnegative, got values between {x.min().item():.9g} and "
            f"{x.max().item():.9g}"
        )


def require_held(name: str, x: Tensor | float, dtype: torch.dtype) -> None:
    """Raises ValueError where a finite number is larger than the largest one of the dtype."""
    largest = torch.finfo(dtype).max
    if isinstance(x, Tensor):
        if x.dtype == dtype or not x.is_floating_point():
            return
        found = x.abs().masked_fill(x.isinf(), 0.0)
        if torch._is_all_true(~(found > largest)):
            return
        x = found.max().item()
    if largest < abs(x) < math.inf:
        number = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} must be at most {largest:.6g}, the largest {number} number, or infinite (the "
            f"point mass), got {x:.6g}; parameters in float64 hold up to 1.8e308"
        )


def check_on_sphere(name: str, x: Tensor) -> None:
    """Raises ValueError where a row of ``x`` is not a unit vector to the precision of its dtype."""
    if not x.numel():
        return
    norms = norm(x.detach())
    # The tolerance of Pyro's constraint.
    tolerance = constraints.sphere.reltol * torch.finfo(x.dtype).eps * x.shape[-1] ** 0.5
    if (norms - 1.0).abs_().max().item() < tolerance:
        return
    if not bool(torch.isfinite(norms).all()):
        found = "it holds NaN or infinite entries"
    else:
        found = f"its norms lie between {norms.min().item():.9g} and {norms.max().item():.9g}"
    raise ValueError(
        f"{name} of shape {tuple(x.shape)} must consist of unit vectors along its last dimension, "
        f"but {found}; normalise it with torch.nn.functional.normalize({name}, dim=-1)"
    )


def set_validation(law: TorchDistribution, validate_args: bool | None) -> None:
    """Makes a law check its values or not, or follow torch's default where None is given."""
    law.__dict__.pop("_validate_args", None)
    if validate_args is not None:
        law._validate_args = validate_args


def validate_value(value: Tensor, batch_shape: torch.Size, dim: int) -> None:
    """Raises unless ``value`` holds unit vectors of the dimension and fits the batch shape."""
    if not isinstance(value, Tensor):
        raise TypeError(f"value must be a tensor, got {type(value).__name__}")
    require_float("value", value)
    if value.dim() < 1 or value.shape[-1] != dim:
        raise ValueError(
            f"value must hold vectors of dimension {dim} along its last dimension, got shape "
            f"{tuple(value.shape)}"
        )
    try:
        broadcast_shapes(value.shape[:-1], batch_shape)
    except RuntimeError as error:
        raise ValueError(
            f"value of shape {tuple(value.shape)} does not broadcast with the batch shape "
            f"{tuple(batch_shape)} and dimension {dim}"
        ) from error
    check_on_sphere("value", value)
