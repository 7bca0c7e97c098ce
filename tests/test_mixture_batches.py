# Rows that are not in memory: mapped files, and batches that are made anew in every pass.

from __future__ import annotations

import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, distributed

import shares
from vmfdist.mixture import SphericalKMeans, VonMisesFisherMixture, _k_means

KINDS = {
    "tensor": shares.rows(),
    "float32": shares.rows().float(),
    "array": shares.rows().numpy(),
    "float16": shares.rows().numpy().astype(np.float16),
    "sparse": sparse.csr_array(shares.counts()),
}
ESTIMATORS = {
    "mixture": VonMisesFisherMixture(3, random_state=0),
    "several-starts": VonMisesFisherMixture(
        3, random_state=0, n_init=3, init_params="random_from_data"
    ),
    "k-means": SphericalKMeans(3, random_state=0, tol=0),
}


class Batches:
    """Rows in parts, and how often somebody has gone through them."""

    def __init__(self, X: Any, size: int) -> None:
        self.X, self.size, self.passes = X, size, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        for first in range(0, self.X.shape[0], self.size):
            yield self.X[first : first + self.size]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_are_rows(kind: str, estimator: Any, weighted: bool) -> None:
    X = KINDS[kind]
    weights = np.arange(X.shape[0]) % 3 if weighted else None
    expected = estimator.fit(X, sample_weight=weights)
    names = [name for name in vars(expected) if name.endswith("_")]
    wanted = {name: getattr(expected, name) for name in names}
    methods = [
        name for name in ("predict", "predict_proba", "transform") if hasattr(expected, name)
    ]
    wanted |= {name: getattr(expected, name)(X) for name in methods}
    wanted["score"] = expected.score(X, sample_weight=weights)
    batches = Batches(X, 70)
    found = estimator.fit(batches, sample_weight=weights)
    passes = batches.passes
    got = {name: getattr(found, name) for name in names}
    got |= {name: getattr(found, name)(Batches(X, 110)) for name in methods}
    got["score"] = found.score(list(batches), sample_weight=weights)
    for name, value in wanted.items():
        assert type(got[name]) is type(value)
        np.testing.assert_allclose(got[name], value, rtol=1e-6, atol=1e-10, err_msg=name)
    if estimator is ESTIMATORS["mixture"]:
        # the first batch alone, for its kind; a count; what the start looks at; one for the start
        assert passes == 4 + found.n_iter_


def test_an_empty_cluster_gets_a_row_of_batches() -> None:
    X, init = shares.rows(), -torch.eye(3)
    expected = SphericalKMeans(3, init=init, max_iter=1).fit(X)
    found = SphericalKMeans(3, init=init, max_iter=1).fit(Batches(X, 70))
    torch.testing.assert_close(found.cluster_centers_, expected.cluster_centers_)


def test_loaders_give_batches() -> None:
    X = shares.rows()
    loader = torch.utils.data.DataLoader(X, batch_size=70, shuffle=True)
    found = VonMisesFisherMixture(3, means_init=torch.eye(3)).fit(loader)
    expected = VonMisesFisherMixture(3, means_init=torch.eye(3)).fit(X)
    torch.testing.assert_close(found.mean_directions_, expected.mean_directions_)


def test_batches_of_a_group(group: distributed.ProcessGroup) -> None:
    X = shares.rows()
    expected = VonMisesFisherMixture(3, random_state=0).fit(X)
    found = VonMisesFisherMixture(3, random_state=0).fit(Batches(X, 70), group=group)
    torch.testing.assert_close(found.mean_directions_, expected.mean_directions_)


class Consumed(Batches):
    """Goes on where the pass before has ended."""

    def __init__(self, X: Any, size: int) -> None:
        self.parts = Batches.__iter__(Batches(X, size))

    def __iter__(self) -> Iterator[Any]:
        return self.parts


class Growing(Batches):
    """Has the rows once more in every pass, and so more than labels."""

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.passes + 1):
            yield from Batches(self.X, self.size)
        self.passes += 1


def with_zero(X: Tensor) -> Tensor:
    X = X.clone()
    X[7] = 0
    return X


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda X: (x for x in X.split(70)), TypeError, "only once, .* got generator"),
        (lambda X: iter(X.split(70)), TypeError, "__iter__ starts anew, got tuple_iterator"),
        (lambda X: Consumed(X, 70), ValueError, "the same in every pass, got 0 rows after 230"),
        (lambda X: [X[:9], X[:9, :2]], ValueError, "X has 2 features, but .* is expecting 3"),
        (lambda X: [X[:9], X.float()], ValueError, "one kind, .*float32 on cpu after Tensor of"),
        (lambda X: [X[:9], X[:9].numpy()], ValueError, "one kind, dtype and device, got ndarray"),
        (lambda X: [X[:9], with_zero(X)], ValueError, "row 16 of X has the norm 0"),
        (
            lambda X: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=70),
            TypeError,
            r"sparse array of shape \(rows, d\), as a DataLoader of a tensor .*, got list",
        ),
        (lambda X: [X[:9], None], TypeError, r"shape \(rows, d\), .*, got NoneType"),
        (lambda X: Batches(X[:2], 1), ValueError, "n_components = 3, n_samples = 2"),
        (lambda X: Batches(X[:0], 1), ValueError, "X has no batches"),
        (lambda X: Batches(X[0], 1), ValueError, "shape"),
    ],
)
def test_bad_batches(make: Callable[[Tensor], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        VonMisesFisherMixture(3).fit(make(shares.rows()))


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_batches_that_grow(estimator: Any) -> None:
    X = shares.rows()
    with pytest.raises(ValueError, match="same in every pass, got more than 300 rows after 300"):
        estimator.fit(Growing(X, 70))


def test_rows_are_checked_in_every_pass() -> None:
    X = shares.rows()

    class Changing(Batches):
        def __iter__(self) -> Iterator[Any]:
            yield from Batches(X, 70)
            self.passes += 1
            if self.passes == 4:
                yield with_zero(X)

    with pytest.raises(ValueError, match="row 307 of X has the norm 0"):
        VonMisesFisherMixture(3).fit(Changing(X, 70))


# Memory


class Made:
    """Batches that are made when somebody asks for them."""

    def __init__(self, n: int, dim: int) -> None:
        self.n, self.dim = n, dim

    def __iter__(self) -> Iterator[np.ndarray]:
        random = np.random.default_rng(0)
        for _ in range(self.n // 10_000):
            yield random.standard_normal((10_000, self.dim), dtype=np.float32)


def peak(function: Callable[[], Any]) -> int:
    """How many bytes NumPy has at most while this runs."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_of_a_mapped_file(dtype: type, tmp_path: Path) -> None:
    n, dim = 100_000, 64
    values = np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32)
    np.save(tmp_path / "rows.npy", values.astype(dtype))
    X = np.load(tmp_path / "rows.npy", mmap_mode="r")
    model = VonMisesFisherMixture(20, max_iter=1, tol=np.inf, random_state=0)
    assert peak(lambda: model.fit(X)) < 0.3 * n * dim * 8
    assert peak(lambda: model.score(X)) < 0.3 * n * dim * 8
    assert peak(lambda: X.astype(np.float64)) > 0.9 * n * dim * 8  # that is, this would be noticed


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
@pytest.mark.parametrize("n", [200_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
def test_memory_of_batches(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def status(name: str) -> int:
        kilobytes = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]
        return int(kilobytes) * 1024

    monkeypatch.setattr(_k_means, "_START_ROWS", 10_000)
    model = VonMisesFisherMixture(20, max_iter=1, tol=np.inf, random_state=0)
    model.fit(Made(20_000, 64))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here, proc(5)
    before = status("VmRSS")
    model.fit(Made(n, 64))
    model.score(Made(n, 64))
    # A batch, what a start looks at, in parts and put together, and what is computed of them.
    extra = status("VmHWM") - before
    assert extra < 3 * 10_000 * 64 * 4 + 30e6 < n * 64 * 4
