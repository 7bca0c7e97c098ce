# Not in the default run: pytest tests/benchmarks/test_k_means_speed.py
# An iteration of spherical k-means on float32 rows with 20 clusters, on two threads, and beside it
# one of scikit-learn's KMeans on the same rows from the same seeds. Fits of 2 and of 12 iterations
# are taken in turns, and each turn tells the time of one of the ten between them: in the table of
# extra information are the medians of the turns in milliseconds, "ours" and "theirs", and the ratio
# of the two.

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator
from operator import sub
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from vmfdist import VonMisesFisher
from vmfdist.mixture import SphericalKMeans
from vmfdist.mixture._group import ALONE
from vmfdist.mixture._k_means import k_means_seeds, rows_to_start_from
from vmfdist.mixture._rows import Rows

CLUSTERS, FEW, MANY, ROUNDS = 20, 2, 12, 5


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("n", "dim"), [(1_000_000, 64), (200_000, 64), (100_000, 384)])
def test_an_iteration(benchmark: BenchmarkFixture, n: int, dim: int) -> None:
    torch.manual_seed(0)
    locs = torch.nn.functional.normalize(torch.randn(CLUSTERS, dim), dim=1)
    laws = VonMisesFisher(locs, torch.linspace(5, 30, CLUSTERS) * dim / 64)
    X = laws.sample((n // CLUSTERS,)).reshape(n, dim)
    rows, random = Rows(X), np.random.RandomState(0)
    rows.join(ALONE)
    sample = rows_to_start_from(rows, CLUSTERS, random)
    shared = {"init": k_means_seeds(sample, CLUSTERS, random).numpy(), "n_init": 1, "tol": 0.0}

    def seconds(kind: Any, iterations: int) -> float:
        model = kind(CLUSTERS, max_iter=iterations, **shared)
        start = time.perf_counter()
        model.fit(X.numpy())
        taken = time.perf_counter() - start
        assert model.n_iter_ == iterations
        return taken

    times: dict[tuple[str, int], list[float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(ROUNDS):
            for iterations in (FEW, MANY):
                for name, kind in (("ours", SphericalKMeans), ("theirs", KMeans)):
                    times.setdefault((name, iterations), []).append(seconds(kind, iterations))
    each = {
        name: statistics.median(map(sub, times[name, MANY], times[name, FEW])) / (MANY - FEW)
        for name in ("ours", "theirs")
    }
    benchmark.extra_info |= {name: round(1e3 * taken, 1) for name, taken in each.items()}
    benchmark.extra_info["ratio"] = round(each["ours"] / each["theirs"], 2)
    benchmark.pedantic(lambda: seconds(SphericalKMeans, FEW), rounds=1)
