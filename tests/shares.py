# Fits by several processes, each with its share of the rows: what they do, for the tests that
# compare them with one process. It stands alone, so that processes that are spawned start fast.

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, distributed
from torch.nn.functional import normalize

from vmfdist.mixture import SphericalKMeans, VonMisesFisherMixture, _k_means, _rows


class Case(NamedTuple):
    """Rows, and where the second process's share of them begins."""

    X: Any
    second: int
    weights: Any = None
    options: dict[str, Any] = {}  # noqa: RUF012 -- nobody writes to it
    kind: type = VonMisesFisherMixture


def rows(dim: int = 3) -> Tensor:
    """Three clusters one after the other, so that shares lack one."""
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.eye(dim)[:3].repeat_interleave(torch.tensor([150, 100, 50]), 0)
    noise = torch.randn(300, dim, generator=generator, dtype=torch.float64)
    return normalize(centres + noise, dim=1)


def counts() -> np.ndarray:
    """Counts of words in texts on three topics."""
    random = np.random.RandomState(0)
    topics = np.repeat(random.dirichlet(np.full(30, 0.2), 3), 40, axis=0)
    return np.array([random.multinomial(20, topic) for topic in topics])


def cases() -> dict[str, Case]:
    X, some = rows(), np.arange(300) % 3
    of_first = np.where(np.arange(300) < 160, 1.0, 0.0)
    return {
        "tensor": Case(X, 251),
        "array": Case(X.numpy(), 40),
        "float32": Case(X.float(), 140),
        "weights": Case(X, 251, some),
        "share-without-weight": Case(X, 200, of_first),
        "share-without-rows": Case(X, 300),
        "random": Case(X, 40, None, {"init_params": "random"}),
        "random-with-weights": Case(X, 40, some, {"init_params": "random"}),
        "of-data": Case(X, 251, None, {"init_params": "random_from_data"}),
        "of-data-with-weights": Case(X, 251, some, {"init_params": "random_from_data"}),
        "several-starts": Case(rows(10), 140, None, {"n_init": 4}),
        "tied": Case(X, 40, None, {"concentration_type": "tied"}),
        "prior": Case(X, 251, some, {"concentration_prior": (2.0, 0.5)}),
        "given": Case(X, 140, None, {"means_init": np.eye(3)}),
        "sparse": Case(sparse.csr_array(counts()), 70),
        "sparse-with-weights": Case(sparse.csr_array(counts()), 100, some[:120]),
        "k-means": Case(X, 251, None, {}, SphericalKMeans),
        "k-means-sparse": Case(sparse.csr_array(counts()), 70, None, {}, SphericalKMeans),
        "k-means-random": Case(X, 40, some, {"init": "random", "n_init": 3}, SphericalKMeans),
        "k-means-empty": Case(X, 40, None, {"init": -np.eye(3), "max_iter": 3}, SphericalKMeans),
    }


def found(case: Case, part: slice, group: Any = None) -> dict[str, Any]:
    """All numbers that a fit finds, of a part of the rows."""
    X = case.X[part]
    weights = None if case.weights is None else case.weights[part]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Best performing", ConvergenceWarning)
        model = case.kind(3, random_state=0, tol=1e-10, **case.options)
        model.fit(X, sample_weight=weights, group=group)
    result = {name: value for name, value in vars(model).items() if name.endswith("_")}
    if X.shape[0]:
        result["predict"] = model.predict(X)
    result["score"] = model.score(X, sample_weight=weights, group=group)
    if case.kind is SphericalKMeans:
        return result
    for name in ("aic", "bic"):
        result[name] = getattr(model, name)(X, sample_weight=weights, group=group)
    model.partial_fit(X, sample_weight=weights, group=group)
    result |= {f"{name}after": value for name, value in vars(model).items() if name.endswith("_")}
    stream = VonMisesFisherMixture(3, random_state=0).partial_fit(X, None, weights, group=group)
    result["stream"] = stream.concentrations_
    return result


def few_rows_at_once() -> None:
    """Lets starts look at some of the rows only, and passes go in several batches."""
    _k_means._START_ROWS, _rows._BATCH_NUMBERS = 110, 400


def failure(function: Callable[[], Any]) -> str:
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def failures(rank: int, group: Any) -> dict[str, str]:
    """What both processes are told where the share of one is bad."""
    X, bad = rows(), rows()
    bad[7] = 0
    mixture = VonMisesFisherMixture(3, random_state=0)
    fits = {
        "zero": lambda: mixture.fit(bad if rank else X, group=group),
        "features": lambda: mixture.fit(rows(3 + rank), group=group),
        "dtype": lambda: mixture.fit(X.float() if rank else X, group=group),
        "few": lambda: mixture.fit(X[:1], group=group),
        "weights": lambda: mixture.fit(X, sample_weight=torch.zeros(300), group=group),
        "score": lambda: mixture.fit(X, group=group).score(X, None, torch.zeros(300), group=group),
    }
    return {name: failure(fit) for name, fit in fits.items()}


def process(rank: int, folder: Path) -> None:
    """What each of two processes does."""
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    group = distributed.group.WORLD
    result: dict[str, Any] = {"failures": failures(rank, group)}
    few_rows_at_once()
    for name, case in cases().items():
        part = slice(case.second, None) if rank else slice(case.second)
        result[name] = found(case, part, group)
    unseeded = VonMisesFisherMixture(3, init_params="random", max_iter=1, tol=1.0)
    result["unseeded"] = unseeded.fit(rows()[150 * rank :][:150], group=group).mean_directions_
    torch.save(result, folder / f"{rank}.pt")
    distributed.destroy_process_group()
