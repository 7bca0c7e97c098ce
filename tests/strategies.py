"""Hypothesis strategies: concentrations, dimensions, unit vectors, batch shapes."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

#: The ends of the range of concentrations, and 0: explicit examples of every property.
SMALLEST, LARGEST = 1e-12, 1e12
ENDS = (0.0, SMALLEST, LARGEST)

dtypes = st.sampled_from((torch.float32, torch.float64))

#: Few enough that the tables of a dimension are computed once and serve many examples.
dims = st.sampled_from((2, 3, 4, 5, 7, 10, 20, 40, 64, 100, 512))


def concentrations() -> st.SearchStrategy[float]:
    """0, and log-uniformly from one end to the other."""
    return st.just(0.0) | st.floats(-12, 12).map(lambda x: 10.0**x)


def in_dtype(x: float, dtype: torch.dtype) -> float:
    """The number that a tensor of this dtype holds when given ``x``."""
    return torch.tensor(x, dtype=dtype).item()


@st.composite
def unit_vectors(draw: st.DrawFn, dim: int, dtype: torch.dtype) -> Tensor:
    """Uniform directions, axes, and directions next to an axis."""
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(dim, generator=generator, dtype=torch.float64)
    axis = draw(st.none() | st.integers(0, min(dim, 8) - 1))
    if axis is not None:
        x *= draw(st.sampled_from((0.0, 1e-12, 1e-6, 1e-3)))
        x[axis] = draw(st.sampled_from((-1.0, 1.0)))
    return torch.nn.functional.normalize(x, dim=-1).to(dtype)


@st.composite
def nearby(draw: st.DrawFn, loc: Tensor) -> Tensor:
    """Unit vectors at a log-uniform distance from ``loc``, on either side of the sphere."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    step = torch.randn(loc.shape, generator=generator, dtype=torch.float64)
    distance = 10.0 ** draw(st.floats(-10, -0.5))
    side = draw(st.sampled_from((1.0, 1.0, -1.0)))
    x = side * loc.double() + distance * torch.nn.functional.normalize(step, dim=-1)
    return torch.nn.functional.normalize(x, dim=-1).to(loc.dtype)


#: (shape of loc without its last dimension, shape of the concentration): pairs that broadcast.
batch_shapes = st.sampled_from(
    (((), ()), ((3,), ()), ((), (3,)), ((2, 1), (4,)), ((1, 3), (2, 1)), ((0,), ()), ((2, 3), (3,)))
)
