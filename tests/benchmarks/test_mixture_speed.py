# Not in the default run: pytest tests/benchmarks/test_mixture_speed.py
# An iteration of EM on a million float32 rows with 20 components, on two threads, and beside it the
# float32 product of the same rows with the 20 directions, which any such algorithm needs. The
# iteration's "products" in the table of extra information is the ratio of the two.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from vmfdist import VonMisesFisher
from vmfdist.mixture._concentrations import Concentrations
from vmfdist.mixture._expectation_maximisation import Mixture, expect, maximise
from vmfdist.mixture._group import ALONE
from vmfdist.mixture._rows import Rows
from vmfdist.mixture._starts import Given, make_starts

ROWS, DIM, COMPONENTS = 1_000_000, 64, 20


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def laws() -> VonMisesFisher:
    generator = torch.Generator().manual_seed(0)
    locs = torch.nn.functional.normalize(torch.randn(COMPONENTS, DIM, generator=generator), dim=1)
    return VonMisesFisher(locs, torch.linspace(30, 200, COMPONENTS))


@pytest.fixture(scope="module")
def X(laws: VonMisesFisher) -> Tensor:
    return laws.sample((ROWS // COMPONENTS,)).reshape(ROWS, DIM)


def shortest(function: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("stretch", [1.0, 1e8], ids=["usual", "concentrated"])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_an_iteration(
    benchmark: BenchmarkFixture, laws: VonMisesFisher, X: Tensor, kind: str, stretch: float
) -> None:
    rows = Rows(X if kind == "tensor" else X.numpy())
    given = Mixture(
        torch.full((COMPONENTS,), 1 / COMPONENTS, dtype=torch.float64),
        laws.loc.double(),
        stretch * laws.concentration.double(),
    )
    estimated = Concentrations("full", 0.0, 0.0, rows.max_concentration)

    def iteration() -> Mixture:
        return maximise(expect(rows, given), given, estimated)

    benchmark.pedantic(iteration, rounds=5, warmup_rounds=1)
    product = shortest(lambda: X @ laws.loc.T)
    benchmark.extra_info["products"] = round(shortest(iteration) / product, 1)


def test_a_start(benchmark: BenchmarkFixture, X: Tensor) -> None:
    rows = Rows(X)
    rows.join(ALONE)
    estimated = Concentrations("full", 0.0, 0.0, rows.max_concentration)
    random = np.random.RandomState(0)
    benchmark.pedantic(
        lambda: list(make_starts(rows, COMPONENTS, 1, "k-means++", Given(), estimated, random)),
        rounds=3,
        warmup_rounds=1,
    )


def test_the_product_alone(benchmark: BenchmarkFixture, laws: VonMisesFisher, X: Tensor) -> None:
    benchmark.pedantic(lambda: X @ laws.loc.T, rounds=5, warmup_rounds=1)
