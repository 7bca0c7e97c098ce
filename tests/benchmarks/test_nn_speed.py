# Layers beside what they stand for; in extra_info both times in seconds, taken in turns, and their
# ratio. The limits hold on a machine that does nothing else.

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import Linear
from torch.nn.functional import normalize, softplus

from vmfdist import VonMisesFisher
from vmfdist.nn import SphericalClassifier, SphericalHead


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def compare(
    benchmark: BenchmarkFixture, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int
) -> float:
    """The ratio of the medians."""
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for function, times in zip((ours, theirs), spent, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    benchmark.pedantic(ours, rounds=5)
    medians = [statistics.median(times[rounds // 10 :]) for times in spent]
    ratio = medians[0] / medians[1]
    benchmark.extra_info.update(
        ours=f"{medians[0]:.3g}", theirs=f"{medians[1]:.3g}", ratio=round(ratio, 2)
    )
    return ratio


@pytest.mark.parametrize("backward", [False, True])
def test_a_head_beside_the_recipe_by_hand(benchmark: BenchmarkFixture, backward: bool) -> None:
    features, dim = torch.randn(128, 128), 20
    head, layer = SphericalHead(128, dim), Linear(128, dim + 1)

    def by_hand() -> VonMisesFisher:
        vector, raw = layer(features).split([dim, 1], dim=-1)
        return VonMisesFisher(normalize(vector, dim=-1), softplus(raw.squeeze(-1) + dim) + 1)

    def step(law: Callable[[], VonMisesFisher]) -> Callable[[], None]:
        def run() -> None:
            found = law()
            if backward:
                (found.loc.sum() + found.concentration.sum()).backward()

        return run

    assert compare(benchmark, step(lambda: head(features)), step(by_hand), 2000) < 1.15


def test_a_classifier_beside_a_linear_layer(benchmark: BenchmarkFixture) -> None:
    rows, classes, dim = 256, 1000, 512
    embeddings, slope = torch.randn(rows, dim, requires_grad=True), torch.randn(rows, classes)
    layer, classifier = Linear(dim, classes), SphericalClassifier(dim, classes, "per-class")

    def step(module: torch.nn.Module) -> Callable[[], None]:
        return lambda: module(embeddings).backward(slope)

    assert compare(benchmark, step(classifier), step(layer), 30) < 2.5
