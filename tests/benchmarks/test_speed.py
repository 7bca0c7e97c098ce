# Not in the default run: pytest tests/benchmarks --benchmark-group-by=param:job,param:n,param:dim
# docs/performance.py times the same callables in turns, which is fairer on a noisy machine.

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet
from pytest_benchmark.fixture import BenchmarkFixture

import rivals

JOBS = [
    (rivals.draws, rivals.SAMPLES),
    (rivals.draws_with_gradients, rivals.SAMPLES),
    (rivals.log_densities, rivals.DENSITIES),
    (rivals.all_pairs, rivals.PAIRS),
    (rivals.all_pairs_with_gradients, rivals.PAIRS),
    (rivals.mixtures, rivals.MIXTURES),
    (rivals.divergences, rivals.DIVERGENCES),
]


def timed() -> Iterator[ParameterSet]:
    for job, sizes in JOBS:
        for n, dim in sizes:
            for name in job(2, dim):
                yield pytest.param(job, n, dim, name, id=f"{job.__name__}-{n}x{dim}-{name}")


@pytest.mark.parametrize(("job", "n", "dim", "name"), list(timed()))
def test_speed(benchmark: BenchmarkFixture, job: rivals.Job, n: int, dim: int, name: str) -> None:
    benchmark(job(n, dim)[name])
