# The nearest of some directions where float32 products cannot tell, against sums of exact products,
# and sums that change by the rows that change their cluster, against sums by math.fsum.

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import directions
from vmfdist.mixture import SphericalKMeans, _k_means, _rows
from vmfdist.mixture._group import ALONE
from vmfdist.mixture._nearest import Nearest


def nearest(X: Any, centers: Tensor) -> Tensor:
    return _rows.Rows(X).gather(Nearest(centers), len(centers))


def exactly(X: Tensor, centers: Tensor) -> list[tuple[int, float]]:
    """The number of the nearest centre of each row, and how much the next is farther, over |x|."""

    def halves(x: np.ndarray) -> list[np.ndarray]:
        """Numbers of 26 bits that add up to x, so that their products are exact."""
        high = x * (2.0**27 + 1)
        high -= high - x
        return [high, x - high]

    rows = X.double().numpy()
    rows = np.ldexp(rows, -np.frexp(np.abs(rows).max(1, keepdims=True))[1])
    result = []
    for row in rows:
        products = np.array(
            [
                math.fsum(np.ravel([u * v for u in halves(row) for v in halves(center)]))
                for center in centers.numpy()
            ]
        )
        best = products.argmax()
        second = np.delete(products, best).max()
        result.append((int(best), (products[best] - second) / np.linalg.norm(row)))
    return result


def between(n: int, centers: Tensor, spread: float) -> Tensor:
    """Rows next to where the first two centres are equally near, and nearer than the others."""
    generator = torch.Generator().manual_seed(1)
    middle, axis = centers[0] + centers[1], centers[0] - centers[1]
    noise = torch.randn(n, centers.shape[1], generator=generator, dtype=torch.float64)
    noise -= (noise @ axis).unsqueeze(1) * axis / (axis @ axis)
    sides = spread * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return middle + 0.1 * noise / noise.norm(dim=1, keepdim=True) + sides * axis


@pytest.mark.parametrize("unit", [1.0, 1e-37, 1e-20, 1e37])
@pytest.mark.parametrize("dim", [2, 3, 40, 400])
def test_rows_half_way_between_two_centres(dim: int, unit: float, dtype: torch.dtype) -> None:
    n = 40 if dim == 400 else 200
    centers = directions(5 if dim > 3 else 2, dim, seed=3)
    X = (unit * between(n, centers, 1e-7 if dtype == torch.float32 else 1e-13)).to(dtype)
    wanted = exactly(X, centers)
    clear = [i for i, (_, distance) in enumerate(wanted) if distance > 1e-15]
    assert len(clear) > n / 2
    found = nearest(X, centers)
    assert [found[i].item() for i in clear] == [wanted[i][0] for i in clear]
    assert {0, 1} == {wanted[i][0] for i in clear}
    if dtype == torch.float32 and unit == 1:  # whose products alone tell them wrongly
        rough = (X @ centers.float().T).argmax(1)
        assert sum(rough[i].item() != wanted[i][0] for i in clear) > 1


def test_the_first_of_equal_centres(dtype: torch.dtype) -> None:
    X = directions(500, 10, seed=3).to(dtype)
    for centers, wanted in (
        (X[:1].double().expand(30, 10), torch.zeros(500)),
        (torch.eye(10, dtype=torch.float64).repeat(3, 1), X.argmax(1)),
    ):
        assert torch.equal(nearest(X, centers), wanted.long())
    ties = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 2.0], [-1.0, -1.0, -1.0]], dtype=dtype)
    assert nearest(ties, torch.eye(3, dtype=torch.float64)).tolist() == [1, 0, 0]


def test_rows_of_all_lengths_in_one_batch(dtype: torch.dtype) -> None:
    largest = 37 if dtype == torch.float32 else 140
    X = directions(600, 5, seed=3).to(dtype)
    X *= torch.logspace(-largest, largest, 600, dtype=dtype).unsqueeze(1)
    centers = directions(7, 5, seed=4)
    unit = X.double() / torch.linalg.vector_norm(X.double(), dim=1, keepdim=True)
    assert torch.equal(nearest(X, centers), (unit @ centers.T).argmax(1))
    opposite = torch.full((2, 4), 3e38 if dtype == torch.float32 else 1e149, dtype=dtype)
    opposite[:, ::2] *= -1  # products of float32 overflow both ways
    centers = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [-1, 1, -1, 1]]).double() / 2
    assert nearest(opposite, centers).tolist() == [2, 2]


@pytest.mark.parametrize("unit", [1e-42, 1e-43, 3e-44])
def test_products_that_underflow(unit: float) -> None:
    X, centers = (directions(2000, 5, seed=1) * unit).float(), directions(6, 5, seed=3)
    X = X[X.double().norm(dim=1) > 0]
    expected, distances = zip(*exactly(X, centers), strict=True)
    told = torch.tensor(distances) > 1e-14
    assert told.sum() > 500
    assert torch.equal(nearest(X, centers)[told], torch.tensor(expected)[told])


# Products that are rounded more than their numbers


def rough(factor: Tensor) -> Tensor:
    return factor.to(torch.bfloat16).to(factor.dtype)


@pytest.mark.parametrize("column", [0, 3])
def test_products_in_less_precision_are_noticed(
    column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    centers = directions(5, 8, seed=3)
    centers[:, :column] = 0
    X = between(200, centers, 1e-7).float()
    X[:, :column] = 0
    expected = nearest(X, centers)
    product = torch.mm
    monkeypatch.setattr(torch, "mm", lambda x, y, out: product(rough(x), rough(y), out=out))
    assert torch.equal(nearest(X, centers), expected)
    # of which the last are many enough for another way of multiplication
    monkeypatch.setattr(
        torch,
        "mm",
        lambda x, y, out: (
            product(rough(x), rough(y), out=out) if y.shape[1] > 50 else product(x, y, out=out)
        ),
    )
    batches = [_rows.Rows(part) for part in X.split([0, 40, 160])]
    finder = Nearest(centers)
    assert torch.equal(torch.cat([rows.gather(finder, 5) for rows in batches]), expected)


def test_under_autocast() -> None:
    centers = directions(300, 8, seed=3)  # whose numbers bfloat16 does not hold
    X = directions(200, 8, seed=4).float()
    expected = nearest(X, centers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest(X, centers), expected)


# Sums that change from pass to pass


def summed(X: Tensor, weights: Tensor, labels: Tensor, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and sums of clusters, to the last bit."""
    unit = (X.double() / torch.linalg.vector_norm(X.double(), dim=1, keepdim=True)).numpy()
    parts = [(labels == j).numpy() for j in range(m)]
    weighted = weights.numpy()[:, None] * unit
    sizes = [math.fsum(weights.numpy()[part]) for part in parts]
    return np.array(sizes), np.array([list(map(math.fsum, weighted[part].T)) for part in parts])


@pytest.mark.parametrize("kind", ["ones", "spread", "some"])
def test_rows_that_come_and_go_leave_nothing(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, m, dim, passes = 600, 6, 4, 100
    X = directions(n, dim, seed=5).to(dtype)
    X *= torch.logspace(-10, 10, n, dtype=dtype).unsqueeze(1)
    rows = _rows.Rows(X)
    weights = torch.ones(n, dtype=torch.float64)
    if kind != "ones":
        weights = torch.logspace(-30, 30, n, dtype=torch.float64)[torch.randperm(n)]
        weights = weights if kind == "spread" else weights * (torch.arange(n) % 2)
        rows.weights = weights
    rows.join(ALONE)
    monkeypatch.setattr(_rows, "_BATCH_NUMBERS", 1000)
    generator = torch.Generator().manual_seed(0)
    centers = directions(m, dim, seed=6)
    clusters, afresh = _k_means.assign(rows, centers), 0
    for number in range(passes):
        # First they wander, then one of them leaves all rows to the others.
        step = torch.randn(m, dim, generator=generator, dtype=torch.float64)
        centers = torch.nn.functional.normalize(centers + 0.02 * step, dim=1)
        if number > passes - 10:
            centers[1] = centers[0]
        clusters = _k_means._moved(rows, centers, clusters)
        if not clusters.are_precise():
            clusters = _k_means.assign(rows, centers)
            afresh += 1
        if number % 10 and number < passes - 10:
            continue
        assert torch.equal(clusters.labels.long(), nearest(X, centers))
        sizes, sums = summed(X, weights, clusters.labels, m)
        np.testing.assert_allclose(clusters.sizes, sizes, rtol=1e-13, atol=0)
        assert (np.abs(clusters.sums.numpy() - sums) <= 1e-13 * sizes[:, None]).all()
        inertia = sizes.sum() - (centers.numpy() * sums).sum()
        assert clusters.inertia.item() == pytest.approx(inertia, rel=1e-12)
    assert clusters.sizes[1] == 0
    assert 0 < afresh < passes / (20 if kind == "ones" else 1)


def test_rows_that_change_their_cluster_only_are_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X = directions(3_000, 8, seed=5).float()
    numbers: list[int] = []

    def counting(batch: Any) -> Tensor:
        numbers.append(len(batch))
        return original(batch)

    original = _rows.DenseBatch.x.func
    counted = cached_property(counting)
    counted.__set_name__(_rows.DenseBatch, "x")
    monkeypatch.setattr(_rows.DenseBatch, "x", counted)
    clusters = _k_means.assign(_rows.Rows(X), directions(5, 8, seed=6))
    former = clusters.labels.clone()
    numbers.clear()
    clusters = _k_means.assign(_rows.Rows(X), clusters.directions(), clusters)
    moved = (clusters.labels != former).sum().item()
    assert 0 < moved < 1_500
    assert moved <= sum(numbers) < moved + 30
    # and where the centres stay, all stays as it is
    again = _k_means.assign(_rows.Rows(X), clusters.centers, clusters)
    assert torch.equal(again.sums, clusters.sums)
    assert torch.equal(again.inertia, clusters.inertia)


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_in_doubt_that_stay_change_nothing(weighted: bool, dtype: torch.dtype) -> None:
    n = 300
    half_way = torch.tensor([[1.0, 1, 0]]).expand(n, 3)
    X = torch.cat((half_way, directions(n, 3, seed=5))).to(dtype)
    rows = _rows.Rows(X)
    if weighted:
        rows.weights = torch.logspace(-20, 20, 2 * n, dtype=torch.float64)[torch.randperm(2 * n)]
    axes = torch.eye(3, dtype=torch.float64)
    clusters = _k_means.assign(rows, axes)
    assert not clusters.labels[:n].any()
    again = _k_means._moved(rows, axes, clusters)
    for name in ("sizes", "sums", "inertia", "turnover"):
        assert torch.equal(getattr(again, name), getattr(clusters, name)), name
    # Beside rows that change their cluster they are in none of the sums.
    before = clusters.labels.clone()
    turned = torch.cat((axes[:2], -axes[2:]))
    moved = _k_means._moved(rows, turned, clusters)
    changed = before != moved.labels
    assert not changed[:n].any()
    assert changed[n:].any()
    w = torch.ones(2 * n, dtype=torch.float64) if rows.weights is None else rows.weights
    came, gone = (
        torch.stack([w[changed & (labels == j)].sum() for j in range(3)])
        for labels in (moved.labels, before)
    )
    turnover = moved.turnover[:3] - clusters.turnover[:3]
    torch.testing.assert_close(turnover, came + gone, rtol=1e-12, atol=1e-12 * w.max().item())


# Arrays that PyTorch cannot take as they are


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X[::-1].copy()[::-1],
        np.asfortranarray,
        lambda X: X.astype(X.dtype.newbyteorder()),
        lambda X: np.frombuffer(X.tobytes(), X.dtype).reshape(X.shape),  # not to be written to
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    ],
    ids=["backwards", "columns", "byte-order", "read-only", "strides"],
)
def test_arrays_of_any_layout(change: Any, dtype: torch.dtype) -> None:
    X = directions(200, 5, seed=3).to(dtype).numpy()
    model = SphericalKMeans(3, random_state=0)
    centers, labels = (getattr(model.fit(X), name) for name in ("cluster_centers_", "labels_"))
    changed = change(X)
    before = changed.copy()
    model.fit(changed)
    np.testing.assert_allclose(model.cluster_centers_, centers, rtol=0, atol=1e-12)
    assert np.array_equal(model.labels_, labels)
    assert np.array_equal(model.predict(changed), labels)
    assert np.array_equal(model.predict(changed[:1]), labels[:1])
    assert np.array_equal(changed, before)
