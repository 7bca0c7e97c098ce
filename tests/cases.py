"""Every distribution once, with several parameter sets, and how draws are judged.

A law joins all generic tests (test_contract.py) with one entry of ``CASES``; one with a mean
direction and a concentration with one call of ``_rotational``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from pyro.distributions import TorchDistribution
from scipy import stats
from torch import Tensor

from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher

# --------------------------------------------------------------------------------------------------
# The laws
# --------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A law with a set of parameters, and the shapes it must have."""

    law: type[TorchDistribution]
    arguments: Callable[[torch.dtype], dict[str, Any]]
    batch_shape: tuple[int, ...]
    dim: int

    def build(self, dtype: torch.dtype = torch.float64, **options: Any) -> TorchDistribution:
        return self.law(**self.arguments(dtype), **options)


def directions(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 7) -> Tensor:
    """Unit vectors along the last dimension, the same at every call and in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1).to(dtype)


class _Parameters(NamedTuple):
    name: str
    loc_shape: tuple[int, ...]
    concentration: float | list[float]
    batch_shape: tuple[int, ...] = ()


# At least one of each: Python number and tensor; 0, small and large; broadcast both ways.
_ROTATIONAL = [
    _Parameters("circle-batch", (3, 2), [0.0, 0.5, 1e4], (3,)),
    _Parameters("d3-zero", (3,), 0),
    _Parameters("d3-batch", (3,), [1e-3, 2.0, 1e4], (3,)),
    _Parameters("d4-broadcast", (2, 1, 4), [0.0, 1.0, 10.0, 100.0], (2, 4)),
    _Parameters("d5-number", (5,), 10),
    _Parameters("d20-batch", (3, 20), [1e-3, 20.0, 1e4], (3,)),
    _Parameters("d100-loc-batch", (2, 100), 50.0, (2,)),
]


def _to_unit_interval(k: float) -> float:
    """From 0 to 0.95 in place of from 0 to 1e4."""
    return math.log1p(k) / (math.log1p(k) + 0.5)


def _rotational(
    law: type[TorchDistribution], scale: Callable[[float], float] = lambda k: k
) -> list[Any]:
    def arguments(p: _Parameters, dtype: torch.dtype) -> dict[str, Any]:
        given = p.concentration
        k = [scale(x) for x in given] if isinstance(given, list) else scale(given)
        return {
            "loc": directions(*p.loc_shape, dtype=dtype),
            "concentration": torch.tensor(k, dtype=dtype) if isinstance(k, list) else k,
        }

    return [
        pytest.param(
            Case(law, lambda dtype, p=p: arguments(p, dtype), p.batch_shape, p.loc_shape[-1]),
            id=f"{law.__name__}-{p.name}",
        )
        for p in _ROTATIONAL
    ]


def _uniform(law: type[TorchDistribution]) -> list[Any]:
    shapes = [(2, ()), (3, (3,)), (5, (2, 4)), (100, ())]
    return [
        pytest.param(
            Case(
                law,
                lambda dtype, dim=dim, shape=shape: {
                    "dim": dim,
                    "batch_shape": shape,
                    "dtype": dtype,
                },
                shape,
                dim,
            ),
            id=f"{law.__name__}-d{dim}" + "-batch" * bool(shape),
        )
        for dim, shape in shapes
    ]


CASES = [
    *_rotational(VonMisesFisher),
    *_rotational(PowerSpherical),
    *_rotational(SphericalCauchy, _to_unit_interval),
    *_uniform(HypersphericalUniform),
]


def cases_of_dim(*dims: int) -> list[Any]:
    return [param for param in CASES if param.values[0].dim in dims]


def _nested(**options: Any) -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(4)], **options)


_NOT_DENSE: dict[str, tuple[Callable[[], Tensor], str]] = {
    "coo": (lambda: torch.eye(4).to_sparse(), r"layout torch.sparse_coo.*{}\.to_dense\(\)"),
    "csr": (lambda: torch.eye(4).to_sparse_csr(), r"layout torch.sparse_csr.*{}\.to_dense\(\)"),
    "bsr": (lambda: torch.eye(4).to_sparse_bsr(2), r"layout torch.sparse_bsr.*{}\.to_dense\(\)"),
    "nested": (_nested, "rows of one length, got a nested tensor"),
    "jagged": (lambda: _nested(layout=torch.jagged), "rows of one length, got a nested tensor"),
}
not_dense_kinds = pytest.mark.parametrize("kind", _NOT_DENSE)


def not_dense(kind: str, name: str) -> tuple[Tensor, str]:
    """A tensor that is no array, and what the error about an argument of that name must say."""
    build, words = _NOT_DENSE[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, that these are young
        return build(), rf"^{name} must be dense, .*{words.format(name)}"


# --------------------------------------------------------------------------------------------------
# How draws are judged
# --------------------------------------------------------------------------------------------------

#: How often a statistical test may fail on a right law, over all seeds: 4.5 standard errors.
FAILURE_RATE = 6.8e-6


def standard_errors_off(draws: Tensor, expected: Tensor | float) -> float:
    """The largest distance of a mean over the first axis from what it should be, as a normal score.

    The score of the largest of many counts as that of a single one with the same probability, so
    that one bound serves any number of them.
    """
    n = draws.shape[0]
    difference = draws.mean(0) - expected
    spread = draws.std(0) / n**0.5
    # A constant has no spread: rounding must not count against it.
    rounding = 50 * torch.finfo(draws.dtype).eps * (1 + difference.abs() + draws.abs().amax(0))
    scores = ((difference.abs() - rounding).clamp(min=0) / spread.clamp(min=1e-300)).flatten()
    tail = min(1.0, 2 * scores.numel() * float(stats.norm.sf(scores.max().item())))
    return float(stats.norm.isf(tail / 2))


BOUND = float(stats.norm.isf(FAILURE_RATE / 2))


def assert_mean(draws: Tensor, expected: Tensor | float) -> None:
    """Means over the first axis agree with what is expected, up to FAILURE_RATE."""
    assert standard_errors_off(draws, expected) < BOUND
