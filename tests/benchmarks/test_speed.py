# Not in the default run: pytest tests/benchmarks --benchmark-group-by=param:job,param:n,param:dim
# docs/performance.py times the same callables in turns, which is fairer on a noisy machine.

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from _pytest.mark import ParameterSet
from pytest_benchmark.fixture import BenchmarkFixture

import rivals

JOBS = [
    (job, size) for job in (rivals.draws, rivals.draws_with_gradients) for size in rivals.SAMPLES
]
JOBS += [
    (job, size) for job in (rivals.log_densities, rivals.divergences) for size in rivals.FUNCTIONS
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def timed() -> Iterator[ParameterSet]:
    for job, sizes in JOBS:
        for n, dim in sizes:
            for name in job(2, dim):
                yield pytest.param(job, n, dim, name, id=f"{job.__name__}-{n}x{dim}-{name}")


@pytest.mark.parametrize(("job", "n", "dim", "name"), list(timed()))
def test_speed(benchmark: BenchmarkFixture, job: rivals.Job, n: int, dim: int, name: str) -> None:
    benchmark(job(n, dim)[name])
