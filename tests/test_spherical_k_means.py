# Spherical k-means against Lloyd's algorithm in plain NumPy, against all partitions of a few rows,
# against scikit-learn's k-means where the two must agree, and on data that have no good clusters.

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor

from cases import directions
from vmfdist import VonMisesFisher
from vmfdist.mixture import SphericalKMeans, _k_means, _rows, _sparse


def clusters(
    dim: int, concentrations: list[float], size: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    """So many draws around each of some random directions."""
    laws = map(VonMisesFisher, directions(len(concentrations), dim, seed=3), concentrations)
    return torch.cat([law.sample((size,)) for law in laws]).to(dtype)


def words(n: int, dim: int) -> np.ndarray:
    """Counts of words in texts on three topics."""
    random = np.random.RandomState(0)
    topics = np.repeat(random.dirichlet(np.full(dim, 0.2), 3), n // 3, axis=0)
    return np.array([random.multinomial(20, topic) for topic in topics], dtype=float)


# Lloyd's algorithm, row by row


class Found(NamedTuple):
    centers: np.ndarray
    labels: np.ndarray
    inertias: list[float]


def by_hand(X: np.ndarray, centers: np.ndarray, weights: np.ndarray | None = None) -> Found:
    """Until nothing changes; no cluster may become empty."""
    X = np.array([row / math.sqrt(math.fsum(v * v for v in row)) for row in X.astype(float)])
    centers = np.array([c / math.sqrt(math.fsum(v * v for v in c)) for c in centers])
    weights = np.ones(len(X)) if weights is None else weights
    labels, inertias = None, []
    while True:
        distances = np.array([[((x - c) ** 2).sum() / 2 for c in centers] for x in X])
        nearest = distances.argmin(1)
        inertias.append(math.fsum(weights * distances.min(1)))
        if labels is not None and (nearest == labels).all():
            return Found(centers, labels, inertias)
        labels = nearest
        for j in range(len(centers)):
            total = (weights[:, None] * X)[labels == j].sum(0)
            assert weights[labels == j].sum() > 0
            centers[j] = total / np.linalg.norm(total)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dim", [2, 3, 40])
def test_it_is_lloyds_algorithm(dim: int, weighted: bool, dtype: torch.dtype) -> None:
    X = clusters(dim, [3.0, 8.0, 5.0], 40, dtype).numpy()
    weights = np.arange(120) % 4 if weighted else None
    start = X[[0, 5, 10]].astype(float)
    expected = by_hand(X, start, weights)
    assert len(expected.inertias) > 4
    model = SphericalKMeans(3, init=3 * start, tol=0).fit(X, sample_weight=weights)
    assert np.array_equal(model.labels_, expected.labels)
    np.testing.assert_allclose(model.cluster_centers_, expected.centers, rtol=0, atol=1e-14)
    assert model.inertia_ == pytest.approx(expected.inertias[-1], rel=1e-12)
    # one more, of which it sees that nothing has changed
    assert model.n_iter_ in (len(expected.inertias) - 1, len(expected.inertias))


def test_sparse_rows_are_the_same_rows() -> None:
    X = words(90, 30)
    start = X[[0, 40, 80]]
    expected = by_hand(X, start)
    tensor = torch.from_numpy(X).to_sparse_csr()
    for same in (X, sparse.csr_array(X), sparse.csc_matrix(X), sparse.coo_array(X), tensor):
        model = SphericalKMeans(3, init=start, tol=0).fit(same)
        kind = Tensor if same is tensor else np.ndarray
        assert type(model.labels_) is type(model.cluster_centers_) is kind
        assert np.array_equal(model.labels_, expected.labels)
        assert np.array_equal(model.predict(same), expected.labels)
        np.testing.assert_allclose(model.cluster_centers_, expected.centers, rtol=0, atol=1e-14)
        np.testing.assert_allclose(
            model.transform(same).min(1) if kind is np.ndarray else model.transform(same).amin(1),
            1 - (X @ expected.centers.T).max(1) / np.linalg.norm(X, axis=1),
            atol=1e-14,
        )
        assert model.score(same) == pytest.approx(-expected.inertias[-1])
        for init in ("k-means++", "random"):
            found = SphericalKMeans(3, init=init, random_state=0).fit(same)
            assert adjusted_rand_score(found.labels_, np.arange(90) // 30) == 1


@pytest.fixture
def inertias(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those of all passes that follow."""
    result: list[float] = []

    def assign(*arguments: Any) -> Any:
        found = original(*arguments)
        result.append(found.inertia.item())
        return found

    original = _k_means.assign
    monkeypatch.setattr(_k_means, "assign", assign)
    return result


@pytest.mark.filterwarnings("ignore:.*are empty:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("init", ["k-means++", "random", "equal"])
def test_the_inertia_never_rises(init: str, weighted: bool, inertias: list[float]) -> None:
    X = directions(60, 4, seed=5)
    iterations = 0
    for rows in (
        X,
        X[:20].repeat(3, 1),
        X[0] + torch.logspace(-6, 1, 60, dtype=torch.float64).unsqueeze(1) * X,
        torch.cat((X[:10], -X[:10])),
    ):
        weights = torch.linspace(0, 3, len(rows)) if weighted else None
        for seed in range(3):
            inertias.clear()
            given = X[:1].expand(8, 4) if init == "equal" else init  # all but one are empty
            model = SphericalKMeans(8, init=given, tol=0, random_state=seed)
            model.fit(rows, sample_weight=weights)
            assert np.diff(inertias).max() < 1e-13
            assert model.inertia_ == inertias[-1]
            assert len(inertias) == model.n_iter_ + 1
            iterations += model.n_iter_
    assert iterations > 30


def test_the_best_of_all_partitions() -> None:
    X = directions(9, 3, seed=5).numpy()
    # the inertia of clusters around their mean directions is that of all rows minus |sum of x|
    partitions = itertools.product((0, 1, 2), repeat=9)
    best = min(
        9 - sum(np.linalg.norm(X[np.equal(labels, j)].sum(0)) for j in range(3))
        for labels in partitions
    )
    model = SphericalKMeans(3, n_init=30, random_state=0, tol=0).fit(X)
    assert model.inertia_ == pytest.approx(best)
    single = [SphericalKMeans(3, random_state=seed).fit(X).inertia_ for seed in range(10)]
    assert max(single) > 1.05 * best  # n_init matters here


@pytest.mark.parametrize("dim", [3, 10, 64])
def test_scikit_learns_k_means_agrees_on_clusters_far_apart(dim: int, dtype: torch.dtype) -> None:
    X = clusters(dim, [500.0, 2000.0, 1000.0], 100, dtype).numpy()
    model = SphericalKMeans(3, random_state=0).fit(X)
    theirs = KMeans(3, n_init=3, random_state=0).fit(X)
    assert adjusted_rand_score(model.labels_, theirs.labels_) == 1
    order = (model.cluster_centers_ @ theirs.cluster_centers_.T).argmax(1)
    means = theirs.cluster_centers_[order].astype(float)
    lengths = np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(model.cluster_centers_, means / lengths[:, None], atol=1e-6)
    # around means of length R the squares add up to n (1 - R^2), here 1 - cos to n (1 - R)
    assert theirs.inertia_ == pytest.approx(100 * (1 - lengths**2).sum(), rel=1e-3)
    assert model.inertia_ == pytest.approx(100 * (1 - lengths).sum(), rel=1e-3)


# Weights


def test_a_weight_is_a_number_of_rows(dtype: torch.dtype) -> None:
    X = clusters(3, [3.0, 8.0, 5.0], 40, dtype)
    counts = torch.arange(120) % 4
    repeated = X.repeat_interleave(counts, 0)
    expected = SphericalKMeans(3, init=torch.eye(3)).fit(repeated)
    model = SphericalKMeans(3, init=torch.eye(3)).fit(X, sample_weight=counts)
    torch.testing.assert_close(model.cluster_centers_, expected.cluster_centers_)
    assert model.inertia_ == pytest.approx(expected.inertia_)
    assert len(model.labels_) == 120  # rows of weight 0 have one too
    assert torch.equal(model.labels_.repeat_interleave(counts), expected.labels_)
    assert model.score(X, sample_weight=counts) == pytest.approx(expected.score(repeated))
    assert np.array_equal(model.fit_predict(X, sample_weight=counts.tolist()), model.labels_)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_rows_of_weight_0_do_not_count(init: str) -> None:
    X = clusters(3, [60.0, 200.0], 50)
    weights = torch.ones(200)
    weights[100:] = 0
    model = SphericalKMeans(2, init=init, random_state=0)
    model.fit(torch.cat((X, -X)), sample_weight=weights)
    expected = SphericalKMeans(2, random_state=0).fit(X).cluster_centers_
    assert (model.cluster_centers_ @ expected.T).amax(1).min() > 1 - 1e-12


@pytest.mark.parametrize("weight", [1e-290, 1e-200, 1e150])
def test_the_unit_of_weights_does_not_matter(weight: float) -> None:
    X = clusters(3, [3.0, 8.0, 5.0], 40)
    expected = SphericalKMeans(3, random_state=0).fit(X)
    model = SphericalKMeans(3, random_state=0).fit(
        X, sample_weight=torch.full((120,), weight, dtype=torch.float64)
    )
    torch.testing.assert_close(model.cluster_centers_, expected.cluster_centers_)
    assert model.inertia_ == pytest.approx(weight * expected.inertia_, rel=1e-10, abs=0)
    assert torch.equal(model.labels_, expected.labels_)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_weights_far_apart(init: str) -> None:
    X = directions(50, 3, seed=2)
    weights = np.full(50, 1e-320)
    weights[:2] = 1e10
    model = SphericalKMeans(3, init=init, random_state=0).fit(X, sample_weight=weights)
    assert model.inertia_ < 1e-300  # both heavy rows are centres


# Starts


def test_the_same_seed_gives_the_same_result() -> None:
    X = directions(100, 3, seed=5)
    ours, theirs = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    first, again, other = (SphericalKMeans(random_state=seed).fit(X) for seed in (0, 0, 1))
    assert torch.equal(first.cluster_centers_, again.cluster_centers_)
    assert not torch.equal(first.cluster_centers_, other.cluster_centers_)
    # nobody else's random numbers are used
    assert torch.equal(ours, torch.get_rng_state())
    assert np.array_equal(theirs, np.random.get_state()[1])  # noqa: NPY002


def test_the_best_start_is_kept(inertias: list[float]) -> None:
    X = directions(100, 3, seed=5)
    model = SphericalKMeans(6, init="random", n_init=8, random_state=0).fit(X)
    assert model.inertia_ == min(inertias)
    at_best = inertias.index(min(inertias))
    assert 0 < at_best < len(inertias) - 1
    assert model.inertia_ == pytest.approx(-model.score(X))


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_starts_look_at_some_of_the_rows(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X = clusters(3, [60.0, 200.0, 100.0], 300)
    monkeypatch.setattr(_k_means, "_START_ROWS", 20)
    sizes = []

    def sample(self: Any, numbers: np.ndarray) -> Any:
        sizes.append(len(numbers))
        return original(self, numbers)

    original = _rows.Rows.sample
    monkeypatch.setattr(_rows.Rows, "sample", sample)
    model = SphericalKMeans(3, init=init, n_init=3, random_state=0).fit(X)
    assert sizes == [20]
    assert adjusted_rand_score(model.labels_, np.arange(900) // 300) > 0.98


def test_tol_and_max_iter(inertias: list[float]) -> None:
    X = directions(200, 3, seed=5)
    start = {"init": X[:8]}
    SphericalKMeans(8, tol=0, **start).fit(X)
    falls = -np.diff(inertias) / inertias[:-1]
    assert len(falls) > 8
    assert SphericalKMeans(8, max_iter=3, **start).fit(X).inertia_ == inertias[3]
    assert SphericalKMeans(8, tol=1.01 * falls[0], **start).fit(X).n_iter_ == 1
    assert SphericalKMeans(8, tol=0.99 * falls.min(initial=1, where=falls > 0), **start).fit(
        X
    ).n_iter_ == len(falls)


# Degenerate data


def test_empty_clusters_get_the_farthest_rows() -> None:
    X = torch.eye(4, dtype=torch.float64).repeat(3, 1)
    model = SphericalKMeans(4, init=X[:1].expand(4, 4)).fit(X)
    assert model.inertia_ == 0
    assert sorted(model.labels_[:4].tolist()) == [0, 1, 2, 3]
    assert torch.equal(model.labels_, model.labels_[:4].repeat(3))
    # by weight and distance: half-way, a hundred times, before opposite, once
    X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    model = SphericalKMeans(2, init=[[1.0, 0.0], [1.0, 0.0]], max_iter=1)
    model.fit(X, sample_weight=[1e4, 100, 1])
    assert model.cluster_centers_[1].tolist() == [0, 1]


def test_no_start_ends_with_empty_clusters_that_a_row_could_fill() -> None:
    for seed in range(40):
        X = directions(12, 3, seed=seed)
        model = SphericalKMeans(10, init=X[:1].expand(10, 3), tol=1).fit(X)
        assert len(model.labels_.unique()) == 10


def test_fewer_directions_than_clusters(dtype: torch.dtype) -> None:
    X = torch.eye(3, dtype=dtype)[:2].repeat(5, 1)
    for init in ("k-means++", "random"):
        with pytest.warns(ConvergenceWarning, match="2 of 4 clusters are empty") as record:
            model = SphericalKMeans(4, init=init, random_state=0).fit(X)
        assert record[0].filename == __file__
        assert model.inertia_ == 0
        assert model.cluster_centers_.isfinite().all()
        assert len(model.labels_.unique()) == 2
        assert torch.equal(model.labels_, model.predict(X))


def test_opposite_rows() -> None:
    # Their mean has no direction: any centre is as good as any other.
    X = torch.eye(3, dtype=torch.float64)
    model = SphericalKMeans(1, init=[[1.0, 2.0, 2.0]]).fit(torch.cat((X, -X)))
    torch.testing.assert_close(model.cluster_centers_[0], torch.tensor([1, 2, 2]).double() / 3)
    assert model.inertia_ == pytest.approx(6)


def test_the_first_of_two_equally_near_centres() -> None:
    X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    model = SphericalKMeans(2, init=X[:2]).fit(X)
    for centers in ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]):
        model.cluster_centers_ = torch.tensor(centers, dtype=torch.float64)
        assert model.predict(X)[2] == 0


def test_one_row() -> None:
    model = SphericalKMeans(1).fit([[3.0, 4.0]])
    np.testing.assert_allclose(model.cluster_centers_, [[0.6, 0.8]])
    assert model.labels_.tolist() == [0]


# Input and output


def test_arrays_in_arrays_out_tensors_in_tensors_out(dtype: torch.dtype) -> None:
    X = clusters(3, [3.0, 8.0, 5.0], 40, dtype)
    tensors = SphericalKMeans(3, random_state=0).fit(X)
    arrays = SphericalKMeans(3, random_state=0).fit(X.numpy())
    pairs = [
        (tensors.cluster_centers_, arrays.cluster_centers_),
        (tensors.labels_, arrays.labels_),
        (tensors.predict(X), arrays.predict(X.numpy())),
        (arrays.transform(X), tensors.transform(X.numpy())),
        (tensors.fit_transform(X), arrays.fit_transform(X.numpy())),
    ]
    for tensor, array in pairs:
        assert type(tensor) is Tensor
        assert type(array) is np.ndarray
        assert torch.equal(tensor, torch.from_numpy(array))
    assert tensors.cluster_centers_.dtype == torch.float64
    distances = tensors.transform(X)
    assert distances.dtype == dtype
    expected = 1 - X.double() @ tensors.cluster_centers_.T / X.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(distances, expected.to(dtype))
    assert torch.equal(distances.argmin(1), tensors.labels_)
    assert type(tensors.inertia_) is type(tensors.score(X)) is float
    assert tensors.score(X) == pytest.approx(-expected.amin(1).sum().item())
    names = ["sphericalkmeans0", "sphericalkmeans1", "sphericalkmeans2"]
    assert tensors.get_feature_names_out().tolist() == names


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    X = clusters(3, [3.0, 8.0, 5.0], 40, dtype).numpy()
    model = SphericalKMeans(3, random_state=0)
    expected = [model.fit(rows).cluster_centers_ for rows in (X, sparse.csr_array(X))]
    monkeypatch.setattr(_rows, "_BATCH_NUMBERS", 50)
    monkeypatch.setattr(_sparse, "_BATCH_NUMBERS", 50)
    for rows, centers in zip((X, sparse.csr_array(X)), expected, strict=True):
        np.testing.assert_allclose(model.fit(rows).cluster_centers_, centers)
        assert np.array_equal(model.labels_, model.predict(X))


def test_only_directions_count(dtype: torch.dtype) -> None:
    X = clusters(3, [3.0, 8.0, 5.0], 40, dtype)
    largest = 100 if dtype == torch.float64 else 37
    lengths = torch.logspace(-largest, largest, len(X), dtype=dtype)
    model = SphericalKMeans(3, random_state=0)
    expected = model.fit(X).cluster_centers_
    torch.testing.assert_close(model.fit(lengths.unsqueeze(1) * X).cluster_centers_, expected)


# Bad input


@pytest.mark.parametrize(
    ("X", "text"),
    [
        pytest.param([[1.0, 0.0], [0.0, 0.0]], "row 1 of X has the norm 0 and so no d", id="zero"),
        pytest.param([[1.0, 0.0], [math.nan, 1.0]], "NaN, infinity.*row 1", id="nan"),
        pytest.param([[1.0], [1.0]], r"1 feature\(s\) .* minimum of 2", id="one-column"),
        pytest.param([[1.0, 0.0]], "n_clusters = 2, n_samples = 1", id="one-row"),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [np.array, sparse.csr_array, torch.tensor, lambda X: torch.tensor(X).to_sparse_csr()],
    ids=["array", "sparse", "tensor", "sparse-tensor"],
)
def test_bad_rows(X: Any, text: str, kind: Any) -> None:
    with pytest.raises(ValueError, match=text):
        SphericalKMeans(2).fit(kind(X))


def test_rows_of_no_weight_are_too_few() -> None:
    with pytest.raises(ValueError, match="2 rows with a weight above 0 are needed for n_clusters"):
        SphericalKMeans(2).fit(torch.eye(3), sample_weight=[1.0, 0.0, 0.0])


def test_lengths_are_refused_if_told_to() -> None:
    with pytest.raises(ValueError, match="row 2 of X has the norm 2, but with normalize=False"):
        SphericalKMeans(2, normalize=False).fit(torch.diag(torch.tensor([1.0, 1.0, 2.0])))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"n_clusters": 0}, ValueError),
        ({"n_clusters": 2.0}, TypeError),
        ({"n_init": 0}, ValueError),
        ({"n_init": "auto"}, TypeError),
        ({"max_iter": 0}, ValueError),
        ({"max_iter": True}, TypeError),
        ({"tol": -1.0}, ValueError),
        ({"tol": math.nan}, ValueError),
        ({"init": "kmeans"}, ValueError),
        ({"init": None}, ValueError),
        ({"init": [[1.0, 0.0, 0.0]]}, ValueError),
        ({"init": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]}, ValueError),
        ({"init": [[1.0, 0.0, 0.0], [math.nan, 0.0, 0.0]]}, ValueError),
        ({"init": torch.eye(3)[:2].to_sparse()}, TypeError),
        ({"normalize": "l2"}, TypeError),
        ({"random_state": "seed"}, ValueError),
    ],
)
def test_bad_options_leave_what_was_found(options: dict[str, Any], error: type[Exception]) -> None:
    (name,) = options
    model = SphericalKMeans(2, random_state=0).fit(torch.eye(3))
    before = model.labels_
    model.set_params(**options)
    with pytest.raises(error, match=name if name != "random_state" else "seed"):
        model.fit(torch.eye(3))
    assert model.labels_ is before


def test_before_fitting() -> None:
    for method in ("predict", "transform", "score"):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            getattr(SphericalKMeans(), method)(torch.eye(3))


def test_features_must_agree() -> None:
    model = SphericalKMeans(2).fit(torch.eye(3))
    with pytest.raises(ValueError, match=r"X has 4 features, but .* expecting 3"):
        model.predict(torch.eye(4))


@parametrize_with_checks(
    [SphericalKMeans(2)],
    expected_failed_checks=lambda _: {
        "check_estimators_dtypes": "its random integers contain a row of zeros, no direction",
        # as of scikit-learn's KMeans
        "check_sample_weight_equivalence_on_dense_data": "starts draw rows, and draw others then",
        "check_sample_weight_equivalence_on_sparse_data": "starts draw rows, and draw others then",
        "check_estimator_sparse_tag": "its sparse rows contain one of zeros, no direction",
        "check_estimator_sparse_array": "its sparse rows contain one of zeros, no direction",
        "check_estimator_sparse_matrix": "its sparse rows contain one of zeros, no direction",
    },
)
def test_it_is_an_estimator(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*clusters are empty", ConvergenceWarning)
        check(estimator)
