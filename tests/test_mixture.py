# The EM estimator against mpmath's EM, against what a maximum is, and on data that have none.

from __future__ import annotations

import importlib
import math
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import sparse, stats
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor
from torch.nn.functional import normalize

from cases import BOUND, FAILURE_RATE, assert_mean, directions, not_dense, not_dense_kinds
from reference import log_sphere_area, radial
from vmfdist import VonMisesFisher, mixture
from vmfdist.mixture import (
    SphericalKMeans,
    VonMisesFisherMixture,
    _k_means,
    _rows,
    _sparse,
    _starts,
    estimator,
)
from vmfdist.mixture._concentrations import Concentrations
from vmfdist.mixture._expectation_maximisation import Mixture
from vmfdist.mixture._group import ALONE

FULL = Concentrations("full", 0.0, 0.0, 2.0**52)


def fitted(X: Any, n_components: int = 1, **options: Any) -> VonMisesFisherMixture:
    """Fitted from a fixed seed, converged or not."""
    options = {"random_state": 0, **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Best performing", ConvergenceWarning)
        return VonMisesFisherMixture(n_components, **options).fit(X)


def clusters(
    dim: int,
    concentrations: list[float],
    sizes: list[int],
    apart: float = math.inf,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Draws around random directions, or around such at a distance from one."""
    locs = directions(len(sizes), dim, seed=3)
    if apart < math.inf:
        locs = normalize(directions(dim) + apart * locs, dim=-1)
    laws = map(VonMisesFisher, locs, concentrations)
    return torch.cat([law.sample((n,)) for law, n in zip(laws, sizes, strict=True)]).to(dtype)


# mpmath's EM


class Parameters(NamedTuple):
    weights: list[float]
    mean_directions: list[list[float]]
    concentrations: list[float]


def parameters(model: VonMisesFisherMixture) -> Parameters:
    fitted = model.weights_, model.mean_directions_, model.concentrations_
    return Parameters(*(x.tolist() for x in fitted))


def unit(row: list[float]) -> list[mp.mpf]:
    norm = mp.sqrt(mp.fsum(mp.mpf(v) ** 2 for v in row))
    return [v / norm for v in row]


def exact_log_joint(X: Tensor, given: Parameters) -> list[list[mp.mpf]]:
    """log(w f(x)) for every row and component."""
    dim = X.shape[1]
    peaks = [
        mp.log(w) + radial(dim, k).log_density_at_mode(k)
        for w, k in zip(given.weights, given.concentrations, strict=True)
    ]
    locs = [unit(loc) for loc in given.mean_directions]
    result = []
    for row in map(unit, X.tolist()):
        chords = [mp.fsum((a - b) ** 2 for a, b in zip(row, loc, strict=True)) / 2 for loc in locs]
        terms = zip(peaks, given.concentrations, chords, strict=True)
        result.append([peak - mp.mpf(k) * chord for peak, k, chord in terms])
    return result


def log_sum(terms: list[mp.mpf]) -> mp.mpf:
    top = max(terms)
    return top + mp.log(mp.fsum(mp.exp(term - top) for term in terms))


def exact_means(X: Tensor, given: Parameters) -> tuple[list[mp.mpf], list[list[mp.mpf]]]:
    """The sizes of the components and the means of their rows: what the M step fits."""
    rows = [unit(row) for row in X.tolist()]
    r = [[mp.exp(term - log_sum(terms)) for term in terms] for terms in exact_log_joint(X, given)]
    sizes = [mp.fsum(column) for column in zip(*r, strict=True)]
    means = [
        [mp.fsum(r[i][j] * row[c] for i, row in enumerate(rows)) / size for c in range(X.shape[1])]
        for j, size in enumerate(sizes)
    ]
    return sizes, means


# Clusters that overlap, so that EM takes its time.
OVERLAPPING = {
    "circle": (2, [3.0, 8.0], [8, 8]),
    "sphere": (3, [2.0, 10.0, 50.0], [8, 6, 6]),
    "many-dimensions": (64, [30.0, 60.0], [50, 50], 1.0),
    "concentrated": (3, [4e5, 4e6], [8, 8], 1e-3),  # either side of where differences begin
    "points": (3, [1e11, 4e11], [8, 8], 3e-6),
}


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("name", OVERLAPPING)
def test_an_iteration_is_one_of_em(name: str, iterations: int, dtype: torch.dtype) -> None:
    X = clusters(*OVERLAPPING[name], dtype=dtype)
    n_components = len(OVERLAPPING[name][1])
    before, after = (
        fitted(X, n_components, max_iter=n, tol=0) for n in (iterations, iterations + 1)
    )
    assert after.n_iter_ == before.n_iter_ + 1
    with mp.workdps(50):
        sizes, means = exact_means(X, parameters(before))
        found = parameters(after)
        for j, (size, mean) in enumerate(zip(sizes, means, strict=True)):
            length = mp.sqrt(mp.fsum(v * v for v in mean))
            assert abs(found.weights[j] * len(X) / size - 1) < 1e-9
            for a, b in zip(found.mean_directions[j], mean, strict=True):
                assert abs(a - b / length) < 1e-13
            # 1 - A(k) is the equation of the maximum
            one_minus_mean = radial(X.shape[1], found.concentrations[j]).one_minus_mean
            assert abs(one_minus_mean / (1 - length) - 1) < 1e-9


@pytest.mark.parametrize("name", OVERLAPPING)
def test_densities_and_probabilities(name: str, dtype: torch.dtype) -> None:
    X = clusters(*OVERLAPPING[name], dtype=dtype)
    model = fitted(X, len(OVERLAPPING[name][1]))
    scores, probabilities = model.score_samples(X), model.predict_proba(X)
    assert scores.dtype == probabilities.dtype == dtype
    # 1 - <x, mu> is rounded in float64 up to concentration 2^20, to 4e-16 of 1; results in dtype
    eps = torch.finfo(dtype).eps
    with mp.workdps(50):
        joint = exact_log_joint(X, parameters(model))
        expected = [log_sum(terms) for terms in joint]
        for i, terms in enumerate(joint):
            assert abs(scores[i].item() - expected[i]) < 2**20 * 4e-16 + eps * abs(expected[i])
            for found, term in zip(probabilities[i].tolist(), terms, strict=True):
                assert abs(found - mp.exp(term - expected[i])) < 2**20 * 4e-16 + eps
        mean = mp.fsum(expected) / len(X)
        assert abs(model.score(X) - mean) < 2**20 * 4e-16
        n_parameters = len(model.weights_) * (X.shape[1] + 1) - 1
        deviance = -2 * len(X) * mean
        assert abs(model.aic(X) - (deviance + 2 * n_parameters)) < 1e-6
        assert abs(model.bic(X) - (deviance + mp.log(len(X)) * n_parameters)) < 1e-6
    assert model.lower_bound_ == model.score(X)
    assert torch.equal(model.predict(X), probabilities.argmax(1))


def test_densities_integrate_to_one() -> None:
    # dimension 3: Gauss-Legendre in the height, equal steps around; the surface measure is dz dphi
    model = fitted(clusters(3, [2.0, 10.0, 50.0], [80, 60, 60]), 3)
    heights, weights = np.polynomial.legendre.leggauss(120)
    angles = np.arange(240) * 2 * np.pi / 240
    radius = np.sqrt(1 - heights**2)[:, None]
    parts = (radius * np.cos(angles), radius * np.sin(angles), heights[:, None] + 0 * angles)
    densities = np.exp(model.score_samples(np.stack(parts, -1).reshape(-1, 3)))
    integral = (densities.reshape(120, 240).sum(1) @ weights) * 2 * np.pi / 240
    assert abs(integral - 1) < 1e-12


# What a fit has to be


@pytest.mark.parametrize(
    ("dim", "concentrations"),
    [(2, [100.0, 300.0]), (3, [60.0, 200.0, 100.0]), (64, [100.0, 400.0, 200.0])],
)
def test_it_recovers_a_mixture(dim: int, concentrations: list[float], dtype: torch.dtype) -> None:
    # Clusters so far apart that each is estimated as if alone: the errors are the known ones.
    sizes = [4_000, 2_000, 3_000][: len(concentrations)]
    X = clusters(dim, concentrations, sizes, dtype=dtype)[torch.randperm(sum(sizes))]
    model = fitted(X, len(sizes))
    assert model.converged_
    assert all(x.dtype == torch.float64 for x in (model.weights_, model.concentrations_))
    cosines = directions(len(sizes), dim, seed=3) @ model.mean_directions_.T
    order = cosines.argmax(1)
    assert order.unique().numel() == len(sizes)
    # The weights of these very rows: a binomial error would only add to it.
    expected = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    torch.testing.assert_close(model.weights_[order], expected, rtol=0, atol=1e-3)
    for j, (k, n) in enumerate(zip(concentrations, sizes, strict=True)):
        exact = radial(dim, k)
        error = model.concentrations_[order[j]].item() - k
        # Fisher's information of k is A'(k), that of the direction k A(k) (Mardia and Jupp 10.3.1)
        assert abs(error) * math.sqrt(n * exact.variance) < BOUND
        assert 0.2 * k * math.sqrt(n * exact.variance) > BOUND  # a fifth would be noticed
        turned = 2 * n * k * float(exact.mean) * (1 - cosines[j, order[j]].item())
        assert stats.chi2.sf(turned, dim - 1) > FAILURE_RATE


@pytest.mark.parametrize("k", [1e6, 1e7])
@pytest.mark.parametrize("dim", [2, 3, 64])
def test_float32_rows_at_high_concentration(dim: int, k: float) -> None:
    X = clusters(dim, [k, k / 2], [2_000, 1_000], 60 / math.sqrt(k))
    exact, rounded = fitted(X, 2), fitted(X.float(), 2)
    pairs = zip(exact.concentrations_.sort()[0], rounded.concentrations_.sort()[0], strict=True)
    for a, b in pairs:
        assert abs(a / b - 1) < 1e-4  # 1 - R in float32 would be off by 1e-8 k
    torch.testing.assert_close(
        exact.concentrations_.sort()[0].tolist(), [k / 2, k], rtol=0.2, atol=0
    )
    # The very same rows, in the two dtypes.
    same = fitted(X.float().double(), 2)
    torch.testing.assert_close(same.concentrations_, rounded.concentrations_, rtol=1e-9, atol=0)


@pytest.fixture
def objectives(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What EM maximises, of all E steps that follow."""
    result: list[float] = []

    def merit(*arguments: Any) -> tuple[bool, float]:
        found = original(*arguments)
        result.append(found[1])
        return found

    original = estimator.merit
    monkeypatch.setattr(estimator, "merit", merit)
    return result


@pytest.mark.filterwarnings("ignore:.*collapsed:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_components", [1, 3, 6])
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_the_likelihood_never_falls(
    dim: int, n_components: int, dtype: torch.dtype, objectives: list[float]
) -> None:
    noise = torch.randn(30, dim, dtype=torch.float64)
    spread = torch.logspace(-6, 1, 30, dtype=torch.float64).unsqueeze(1)
    iterations = 0
    for X in (
        directions(30, dim, seed=5),
        normalize(directions(dim) + spread * noise, dim=-1),  # of all concentrations
        directions(10, dim, seed=5).repeat(3, 1),  # equal rows
    ):
        for seed in range(2):
            objectives.clear()
            fitted(X.to(dtype), n_components, max_iter=30, tol=0, random_state=seed)
            # 2^20 times the rounding of 1 - <x, mu>
            assert np.diff(objectives).min() > -1e-10
            iterations += len(objectives) - 1
    assert iterations > (5 if n_components == 1 else 12)  # one is at its maximum at once


@pytest.mark.filterwarnings("ignore:.*collapsed:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"concentration_type": "tied"},
        {"concentration_type": 5.0},
        {"concentration_prior": (2.0, 0.5)},
        {"concentration_type": "tied", "concentration_prior": (10, 0.9)},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_nor_do_likelihood_and_prior(
    options: dict[str, Any], weighted: bool, objectives: list[float]
) -> None:
    X = torch.cat((directions(30, 3, seed=5), directions(1, 3).repeat(3, 1)))
    weights = torch.linspace(0, 3, len(X)) if weighted else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Best performing", ConvergenceWarning)
        model = VonMisesFisherMixture(4, tol=0, random_state=0, **options)
        model.fit(X, sample_weight=weights)
    assert len(objectives) > 5
    assert np.diff(objectives).min() > -1e-10
    assert objectives[-1] == model.lower_bound_


def test_tol_and_max_iter() -> None:
    X = clusters(*OVERLAPPING["sphere"])
    with pytest.warns(ConvergenceWarning, match="did not converge.*max_iter") as record:
        model = VonMisesFisherMixture(3, max_iter=2, tol=0, random_state=0).fit(X)
    assert record[0].filename == __file__
    assert not model.converged_
    assert model.n_iter_ == 2
    previous = fitted(X, 3, max_iter=1, tol=0)
    gain = model.lower_bound_ - previous.lower_bound_
    assert fitted(X, 3, tol=1.01 * gain).n_iter_ == 2
    assert fitted(X, 3, tol=0.99 * gain).n_iter_ > 2


def test_one_component_is_the_maximum_likelihood_law() -> None:
    X = clusters(3, [5.0], [500])
    model = fitted(X)
    mean = X.mean(0)
    torch.testing.assert_close(model.mean_directions_[0], normalize(mean, dim=0))
    length = 1 / math.tanh(k := model.concentrations_.item()) - 1 / k
    assert abs(length - mean.norm()) < 1e-12
    assert model.weights_ == 1
    assert model.n_iter_ == 1


def test_more_components_fit_better_and_bic_knows_how_many() -> None:
    X = clusters(3, [60.0, 200.0, 100.0], [400, 200, 300])
    models = [fitted(X, n, n_init=3) for n in (1, 2, 3, 4, 5)]
    assert np.argmin([model.bic(X) for model in models]) == 2
    assert models[4].lower_bound_ > models[2].lower_bound_


# Concentrations


def test_estimates_of_concentrations() -> None:
    X = clusters(*OVERLAPPING["sphere"])
    for options in (
        {"concentration_type": "tied"},
        {"concentration_prior": (3.0, 0.8)},
        {"concentration_type": "tied", "concentration_prior": (3.0, 0.8)},
    ):
        before, after = (fitted(X, 3, max_iter=n, tol=0, **options) for n in (2, 3))
        assert after.n_iter_ == 3
        rows, cosine = options.get("concentration_prior", (0.0, 0.0))
        with mp.workdps(30):
            sizes, means = exact_means(X, parameters(before))
            lengths = [size * mp.norm(mean) for size, mean in zip(sizes, means, strict=True)]
            if "concentration_type" in options:
                sizes, lengths = [mp.fsum(sizes)] * 3, [mp.fsum(lengths)] * 3
            for k, size, length in zip(after.concentrations_.tolist(), sizes, lengths, strict=True):
                expected = (length + rows * cosine) / (size + rows)
                assert abs(radial(3, k).mean / expected - 1) < 1e-9


def test_a_fixed_concentration() -> None:
    X = clusters(*OVERLAPPING["sphere"])
    model = fitted(X, 3, concentration_type=7, n_init=3)
    assert model.concentrations_.tolist() == [7, 7, 7]
    assert model.lower_bound_ < fitted(X, 3, concentration_type="tied").lower_bound_
    # a mixture of what is known to have this concentration
    law = VonMisesFisher(model.mean_directions_, model.concentrations_)
    joint = model.weights_.log() + law.log_prob(X.unsqueeze(1))
    torch.testing.assert_close(model.score_samples(X), joint.logsumexp(1))


def test_criteria_count_what_is_estimated() -> None:
    X = clusters(*OVERLAPPING["sphere"])
    for kind, concentrations in (("full", 3), ("tied", 1), (5.0, 0)):
        model = fitted(X, 3, concentration_type=kind)
        assert model.aic(X) == pytest.approx(
            2 * (3 * 2 + concentrations + 2) - 2 * len(X) * model.score(X)
        )


def test_a_prior_keeps_components_from_collapsing() -> None:
    X = directions(1, 3).repeat(10, 1)
    model = fitted(X, concentration_prior=(2, 0.5))  # a warning would be an error
    with mp.workdps(30):
        assert float(radial(3, model.concentrations_.item()).mean) == pytest.approx(11 / 12)
    assert model.lower_bound_ != model.score(X)


# Weights and streams


def test_a_weight_is_a_number_of_rows(dtype: torch.dtype) -> None:
    X = clusters(*OVERLAPPING["sphere"], dtype=dtype)
    counts = torch.arange(len(X)) % 4
    start = {"means_init": torch.eye(3), "tol": 1e-8, "concentration_prior": (1, 0.5)}
    repeated = X.repeat_interleave(counts, 0)
    expected, model = fitted(repeated, 3, **start), VonMisesFisherMixture(3, **start)
    model.fit(X, sample_weight=counts)
    torch.testing.assert_close(model.weights_, expected.weights_)
    torch.testing.assert_close(model.mean_directions_, expected.mean_directions_)
    torch.testing.assert_close(model.concentrations_, expected.concentrations_)
    assert model.score(X, sample_weight=counts) == pytest.approx(expected.score(repeated))
    assert model.bic(X, sample_weight=counts) == pytest.approx(expected.bic(repeated))
    assert model.aic(X, sample_weight=counts) == pytest.approx(expected.aic(repeated))
    shares = (counts / 100).tolist()  # without a prior only their ratios count
    arrays = VonMisesFisherMixture(3, means_init=np.eye(3)).fit(X.numpy(), sample_weight=shares)
    other = VonMisesFisherMixture(3, means_init=np.eye(3)).fit(X, sample_weight=counts)
    np.testing.assert_allclose(arrays.mean_directions_, other.mean_directions_)


@pytest.mark.parametrize("kind", ["k-means++", "random", "random_from_data"])
def test_rows_of_weight_0_do_not_count(kind: str) -> None:
    X = clusters(3, [60.0, 200.0], [50, 50])
    weights = torch.ones(200)
    weights[100:] = 0
    model = VonMisesFisherMixture(2, init_params=kind, n_init=2, random_state=0)
    found = model.fit(torch.cat((X, -X)), sample_weight=weights).mean_directions_
    expected = fitted(X, 2).mean_directions_
    torch.testing.assert_close(
        (found @ expected.T).amax(1), torch.ones(2).double(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("weight", [1e-290, 1e-200, 1e150])
def test_the_unit_of_weights_does_not_matter(weight: float) -> None:
    X = clusters(3, [3.0, 8.0, 5.0], [40, 40, 40])
    weights = torch.ones(120, dtype=torch.float64)
    options = {"random_state": 0, "tol": 1.0}  # one step
    expected = VonMisesFisherMixture(3, **options).fit(X, sample_weight=weights)
    model = VonMisesFisherMixture(3, **options).fit(X, sample_weight=weight * weights)
    torch.testing.assert_close(model.mean_directions_, expected.mean_directions_)
    torch.testing.assert_close(model.concentrations_, expected.concentrations_)
    assert model.lower_bound_ == pytest.approx(expected.lower_bound_)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, 1.0], r"sample_weight must have the shape \(4,\), got \(2,\)"),
        ([1.0, -1.0, 1.0, 1.0], r"nonnegative and at most 1e\+150, .*between -1 and 1"),
        ([1.0, math.nan, 1.0, 1.0], r"nonnegative and at most 1e\+150, got NaN"),
        ([1.0, 1e151, 1.0, 1.0], r"nonnegative and at most 1e\+150, .*between 1 and 1e\+151"),
        ([0.0] * 4, "sample_weight is 0 throughout"),
        ([1.0, 0.0, 0.0, 0.0], "2 rows with a weight above 0 are needed for .*, got 1 of 4"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_weights(weights: list[float], words: str, method: str) -> None:
    with pytest.raises(ValueError, match=words):
        getattr(VonMisesFisherMixture(2), method)(torch.eye(4), sample_weight=weights)


NO_ARRAYS = {
    "sparse": (sparse.csr_array(np.eye(3)), r"be dense, got csr_array: convert .*\.toarray\(\)"),
    "ragged": ([[1.0, 0.0, 0.0], [1.0, 0.0]], "rows of one length, got list"),
    "words": (["a", "b", "c"], "real numbers, .*, got list"),
    "complex": (np.eye(3) * 1j, "real numbers, .*, got ndarray"),
    "dates": (np.array(["2026-01-01"], "datetime64[D]"), "real numbers, .*, got ndarray"),
    "mapping": ({0: 1.0}, "real numbers, .*, got dict"),
}


@pytest.mark.parametrize("kind", NO_ARRAYS)
def test_what_is_no_array(kind: str) -> None:
    value, words = NO_ARRAYS[kind]
    for name in ("weights_init", "means_init", "concentrations_init"):
        with pytest.raises(TypeError, match=f"^{name} must .*{words}"):
            VonMisesFisherMixture(3, **{name: value}).fit(torch.eye(3))
    with pytest.raises(TypeError, match=f"^sample_weight must .*{words}"):
        VonMisesFisherMixture(3).fit(torch.eye(3), sample_weight=value)
    with pytest.raises(TypeError, match=f"^init must .*{words}"):
        SphericalKMeans(3, init=value).fit(torch.eye(3))


def test_the_first_part_of_a_stream_takes_one_step() -> None:
    X = clusters(*OVERLAPPING["sphere"])
    expected = fitted(X, 3, max_iter=1, tol=0)
    model = VonMisesFisherMixture(3, random_state=0).partial_fit(X)
    assert torch.equal(model.mean_directions_, expected.mean_directions_)
    assert torch.equal(model.concentrations_, expected.concentrations_)
    assert model.n_iter_ == 1


@pytest.mark.parametrize("concentration", [50.0, 1e10])
def test_a_stream_with_equal_weights_is_all_rows(
    concentration: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One component has no parameter that could be out of date.
    monkeypatch.setattr(estimator, "_STEP_EXPONENT", 1.0)
    X = clusters(3, [concentration], [1_000])
    expected, model = fitted(X), VonMisesFisherMixture()
    for part in X.split([100, 300, 1, 599]):
        model.partial_fit(part)
    assert model.n_iter_ == 4
    torch.testing.assert_close(
        model.mean_directions_, expected.mean_directions_, rtol=0, atol=1e-14
    )
    torch.testing.assert_close(model.concentrations_, expected.concentrations_, rtol=1e-5, atol=0)


def test_a_stream_finds_the_mixture() -> None:
    X = clusters(3, [20.0, 80.0, 40.0], [8_000, 4_000, 6_000])[torch.randperm(18_000)]
    expected, model = fitted(X, 3, tol=1e-8), VonMisesFisherMixture(3, random_state=0)
    for part in X.numpy().reshape(36, 500, 3):
        model.partial_fit(part)
    order = (expected.mean_directions_.numpy() @ model.mean_directions_.T).argmax(1)
    assert sorted(order) == [0, 1, 2]
    # a twentieth or so of the rows count: four times the errors of a fit to all of them
    np.testing.assert_allclose(model.weights_[order], expected.weights_, atol=0.05)
    np.testing.assert_allclose(model.concentrations_[order], expected.concentrations_, rtol=0.2)
    assert model.score(X.numpy()) > expected.lower_bound_ - 0.01


def test_a_stream_goes_on_after_a_fit() -> None:
    X = clusters(3, [20.0, 80.0], [500, 500])
    model = fitted(X, 2)
    before = model.concentrations_
    with pytest.raises(ValueError, match=r"X has 4 features, but .* expecting 3"):
        model.partial_fit(torch.eye(4))
    assert model.partial_fit(X[:1]).concentrations_ is not before
    torch.testing.assert_close(model.concentrations_, before, rtol=0.1, atol=0)


# Starts


def test_the_same_seed_gives_the_same_result() -> None:
    X = directions(100, 3, seed=5)
    ours, theirs = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    first, again, other = (fitted(X, 5, random_state=seed) for seed in (0, 0, 1))
    assert torch.equal(first.mean_directions_, again.mean_directions_)
    assert not torch.equal(first.mean_directions_, other.mean_directions_)
    assert torch.equal(first.sample(5)[0], again.sample(5)[0])
    assert torch.equal(first.sample(5)[0], first.sample(5)[0])
    # nobody else's random numbers are used
    assert torch.equal(ours, torch.get_rng_state())
    assert np.array_equal(theirs, np.random.get_state()[1])  # noqa: NPY002


def test_the_best_start_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    X = directions(100, 3, seed=5)
    model = fitted(X, 5, n_init=6, random_state=1, verbose=2, verbose_interval=1000)
    bounds = [float(x) for x in re.findall(r"lower bound (\S+)\.$", capsys.readouterr().out, re.M)]
    assert len(bounds) == 6
    assert max(bounds) > max(bounds[0], bounds[-1])
    assert f"{model.lower_bound_:.5f}" == f"{max(bounds):.5f}"


def joined(X: Tensor) -> _rows.Rows:
    """All rows, of one process."""
    rows = _rows.Rows(X)
    rows.join(ALONE)
    return rows


def starts_from(monkeypatch: pytest.MonkeyPatch, *given: Mixture) -> None:
    """Lets a fit start from these mixtures, one after the other."""
    monkeypatch.setattr(estimator, "make_starts", lambda *_: iter(given))


def test_a_start_without_collapsed_components_is_preferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The second start puts a component on a single row, at any price in likelihood.
    X = directions(30, 3, seed=5)
    weights = torch.full((2,), 0.5, dtype=torch.float64)
    concentrations = torch.tensor([5.0, 5.0], dtype=torch.float64)
    usual = Mixture(weights, X[:2], concentrations)
    on_a_row = Mixture(weights, X[:2], torch.tensor([1e9, 5.0], dtype=torch.float64))
    starts_from(monkeypatch, on_a_row)
    with pytest.warns(ConvergenceWarning, match="1 of 2 components have collapsed"):
        collapsed = fitted(X, 2)
    starts_from(monkeypatch, usual, on_a_row, usual)
    best = fitted(X, 2, n_init=3)
    assert best.lower_bound_ < collapsed.lower_bound_
    assert best.concentrations_.max() < 1e3


def nested(dim: int, concentrations: list[float], sizes: list[int]) -> Tensor:
    """Draws around one direction."""
    loc = directions(dim, seed=3)
    laws = [VonMisesFisher(loc, k) for k in concentrations]
    return torch.cat([law.sample((n,)) for law, n in zip(laws, sizes, strict=True)])


@pytest.mark.parametrize("kind", ["k-means++", "random", "random_from_data"])
def test_kinds_of_start(kind: str, dtype: torch.dtype) -> None:
    X = clusters(3, [60.0, 200.0, 100.0], [400, 200, 300], dtype=dtype)
    model = fitted(X, 3, n_init=4, init_params=kind)
    assert model.lower_bound_ == pytest.approx(fitted(X, 3).lower_bound_, abs=1e-3)
    assert torch.equal(model.weights_, fitted(X, 3, n_init=4, init_params=kind).weights_)


def test_further_starts_are_the_best_of_short_runs_of_all_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X = clusters(*OVERLAPPING["sphere"])
    kinds, merits = [], []

    def of_kind(self: Any, kind: str, *, varied: bool) -> Mixture:
        kinds.append(kind)
        start = original(self, kind, varied=varied)
        assert (start.concentrations.unique().numel() > 1) == varied or kind == "random"
        return start

    def after_a_short_run(*arguments: Any) -> Any:
        merits.append(run(*arguments))
        return merits[-1]

    original, run = _starts._Starts.of_kind, _starts._Starts.after_a_short_run
    monkeypatch.setattr(_starts._Starts, "of_kind", of_kind)
    monkeypatch.setattr(_starts._Starts, "after_a_short_run", after_a_short_run)
    random = np.random.RandomState(0)
    _, *others = _starts.make_starts(joined(X), 3, 3, "k-means++", _starts.Given(), FULL, random)
    assert kinds == ["k-means++", *["random", "random_from_data", "k-means++"] * 2]
    merits.sort(key=lambda pair: pair[0], reverse=True)
    assert [id(start) for start in others] == [id(mixture) for _, mixture in merits[:2]]
    # a short run is EM, and "random" takes one however many starts there are
    model = fitted(X, 3, init_params="random", max_iter=1)
    assert model.lower_bound_ > fitted(X, 1).lower_bound_ + 0.1


def test_nested_components_are_found() -> None:
    # One direction and two concentrations, where every start by k-means misses the maximum.
    X = nested(100, [70.0, 300.0, 1200.0, 5000.0], [100, 100, 100, 100])
    truth = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(4, dtype=torch.float64)),
        VonMisesFisher(
            directions(100, seed=3).expand(4, 100), torch.tensor([70.0, 300, 1200, 5000])
        ),
    )
    model = fitted(X, 4, n_init=10, tol=1e-6)
    assert model.lower_bound_ > truth.log_prob(X).mean()
    with pytest.warns(ConvergenceWarning, match="collapsed"):
        fitted(X, 4)


def test_given_starts() -> None:
    X = clusters(3, [60.0, 200.0, 100.0], [400, 200, 300])
    expected = fitted(X, 3, tol=1e-9)
    names = ("weights_init", "means_init", "concentrations_init")
    values = (expected.weights_, 7 * expected.mean_directions_, expected.concentrations_)
    given = dict(zip(names, values, strict=True))
    model = VonMisesFisherMixture(3, n_init=5, **given).fit(X)  # one start, and no randomness
    assert model.n_iter_ == 1
    torch.testing.assert_close(model.concentrations_, expected.concentrations_, rtol=1e-4, atol=0)
    arrays = {name: value.numpy() for name, value in given.items()}
    assert np.array_equal(
        VonMisesFisherMixture(3, **arrays).fit(X.numpy()).weights_, model.weights_
    )
    for name in names:
        partly = fitted(X, 3, **{name: given[name]}, n_init=3)
        assert partly.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-3)
    # the order of components is that of the directions
    turned = fitted(X, 3, means_init=expected.mean_directions_[[2, 0, 1]])
    torch.testing.assert_close(turned.weights_, expected.weights_[[2, 0, 1]], rtol=1e-3, atol=0)


def test_warm_start() -> None:
    X = clusters(*OVERLAPPING["sphere"])
    expected = fitted(X, 3, max_iter=5, tol=0)
    model = fitted(X, 3, max_iter=2, tol=0, warm_start=True)
    assert model.n_iter_ == 2
    model.max_iter = 3
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        model.fit(X)
    torch.testing.assert_close(model.mean_directions_, expected.mean_directions_)
    torch.testing.assert_close(model.concentrations_, expected.concentrations_)
    for other in (model.set_params(n_components=2), model.set_params(n_components=3)):
        if other.n_components == 3:
            X = directions(10, 4)
        with pytest.raises(
            ValueError, match=r"components and features of the fit before, \(3, 3\)"
        ):
            other.fit(X)


def test_seeds_are_drawn_in_proportion_to_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    # From e1 the distances 1 - cos are 0, 1/2 and 3/2; one candidate each, since log(2) < 1
    monkeypatch.setattr(_k_means.math, "log", lambda _: -1.0)
    X = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [-0.5, 0.75**0.5]], dtype=torch.float64)
    rows, random = joined(X), np.random.RandomState(0)
    seeds = [_k_means.k_means_seeds(rows, 2, random) for _ in range(2_000)]
    second = torch.stack([pair[1] for pair in seeds if pair[0, 0] == 1])
    assert not (second[:, 0] == 1).any()
    assert_mean((second[:, 0] < 0).double().unsqueeze(1), 0.75)


def test_seeds_find_clusters_far_apart() -> None:
    # n - 1 rows in one place and one elsewhere: only a draw by distance finds it
    X = torch.cat((clusters(3, [1e4], [2_000]), -directions(1, 3, seed=3)))
    X = torch.cat((X, X[-1:]))
    with pytest.warns(ConvergenceWarning, match="collapsed"):
        model = fitted(X, 2)
    assert model.weights_.min().item() == pytest.approx(2 / 2002)


def test_a_start_from_some_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    X = clusters(3, [60.0, 200.0, 100.0], [400, 200, 300])
    expected = fitted(X, 3, tol=0)
    seen = []

    def seeds(*arguments: Any) -> Tensor:
        seen.append(arguments[0]._picks)
        return original(*arguments)

    original = _starts.k_means_seeds
    monkeypatch.setattr(_starts, "k_means_seeds", seeds)
    monkeypatch.setattr(_k_means, "_START_ROWS", 50)
    found = fitted(X, 3, tol=0)
    assert len(np.unique(seen)) == 50
    assert np.max(seen) > 600
    order = (expected.mean_directions_ @ found.mean_directions_.T).argmax(1)
    torch.testing.assert_close(found.concentrations_[order], expected.concentrations_)


# Degenerate data


@pytest.mark.parametrize("dim", [2, 3, 64])
@pytest.mark.parametrize("n_components", [1, 3])
def test_equal_rows(n_components: int, dim: int, dtype: torch.dtype) -> None:
    X = directions(1, dim, dtype=dtype).expand(10, dim)
    words = rf"{n_components} of {n_components} components have collapsed.*equal rows"
    with pytest.warns(ConvergenceWarning, match=words):
        model = fitted(X, n_components)
    bound = {torch.float32: 1 / 2**-46, torch.float64: 2.0**52}[dtype]
    assert (model.concentrations_ == bound).all()
    torch.testing.assert_close(model.mean_directions_, X[:n_components].double(), rtol=0, atol=1e-7)
    with mp.workdps(30):
        expected = float(radial(dim, bound).log_density_at_mode(bound))
    assert model.lower_bound_ == pytest.approx(expected, abs=1e-6)
    assert model.predict_proba(X).isfinite().all()


def test_fewer_distinct_rows_than_components(dtype: torch.dtype) -> None:
    X = torch.eye(3, dtype=dtype)[:2].repeat(5, 1)
    with pytest.warns(ConvergenceWarning, match="4 of 4 components have collapsed"):
        model = fitted(X, 4)
    assert math.isfinite(model.lower_bound_)
    east = model.mean_directions_[:, 0] > 0.5
    assert model.weights_[east].sum().item() == pytest.approx(0.5)


def test_opposite_rows_are_uniform() -> None:
    X = torch.eye(3, dtype=torch.float64)[[0, 1]]
    X = torch.cat((X, -X))
    model = fitted(X)
    assert model.concentrations_ == 0
    assert model.lower_bound_ == pytest.approx(-float(log_sphere_area(3)))
    assert model.mean_directions_.norm().item() == pytest.approx(1)


def test_an_empty_component(monkeypatch: pytest.MonkeyPatch) -> None:
    X = clusters(3, [50.0], [100])
    alone = fitted(X)
    pole = directions(1, 3, seed=3)[0]
    start = Mixture(
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        torch.stack((pole, -pole)),
        torch.tensor([1e3, 1e3], dtype=torch.float64),
    )
    starts_from(monkeypatch, start)
    with pytest.warns(ConvergenceWarning, match="1 of 2 components are empty, with weight 0"):
        model = fitted(X, 2)
    assert model.weights_.tolist() == [1, 0]
    assert torch.equal(model.mean_directions_[1], -pole)
    assert model.concentrations_[1] == 1e3
    assert model.score(X) == pytest.approx(alone.score(X))
    assert model.predict_proba(X)[:, 1].tolist() == [0] * 100


# Input and output


def test_arrays_in_arrays_out_tensors_in_tensors_out(dtype: torch.dtype) -> None:
    X = clusters(*OVERLAPPING["sphere"], dtype=dtype)
    tensors, arrays = fitted(X, 3), fitted(X.numpy(), 3)
    names = ("weights_", "mean_directions_", "concentrations_")
    pairs = [(getattr(tensors, name), getattr(arrays, name)) for name in names]
    methods = ("predict", "predict_proba", "score_samples")
    pairs += [(getattr(tensors, name)(X), getattr(arrays, name)(X.numpy())) for name in methods]
    pairs += [*zip(tensors.sample(7), arrays.sample(7), strict=True)]
    # what is computed for rows follows these, whatever the model was fitted to
    pairs += [(getattr(arrays, name)(X), getattr(tensors, name)(X.numpy())) for name in methods]
    for tensor, array in pairs:
        assert type(tensor) is Tensor
        assert type(array) is np.ndarray
        assert torch.equal(tensor, torch.from_numpy(array))
    assert type(tensors.score(X)) is float
    assert np.array_equal(arrays.predict(X.numpy()), arrays.fit_predict(X.numpy()))


def test_layouts_of_memory() -> None:
    X = clusters(*OVERLAPPING["sphere"]).numpy()
    expected = fitted(X, 3).mean_directions_
    frozen = X.copy()
    frozen.flags.writeable = False
    for same in (frozen, np.asfortranarray(X), X[::-1][::-1], X.tolist()):
        np.testing.assert_allclose(fitted(same, 3).mean_directions_, expected, rtol=1e-12)
    tensor = torch.from_numpy(X).clone().requires_grad_()
    kept = tensor.detach().clone()
    model = fitted(tensor, 3)
    assert not model.mean_directions_.requires_grad
    assert torch.equal(tensor, kept)
    assert np.array_equal(model.mean_directions_.numpy(), expected)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    X = clusters(*OVERLAPPING["sphere"], dtype=dtype)
    expected = fitted(X, 3)
    monkeypatch.setattr(_rows, "_BATCH_NUMBERS", 50)
    found = fitted(X, 3)
    torch.testing.assert_close(found.mean_directions_, expected.mean_directions_)
    torch.testing.assert_close(found.concentrations_, expected.concentrations_)
    torch.testing.assert_close(found.score_samples(X), expected.score_samples(X))
    assert torch.equal(found.predict(X), expected.predict(X))


def test_only_directions_count() -> None:
    X = clusters(*OVERLAPPING["sphere"])
    lengths = torch.logspace(-100, 100, len(X), dtype=torch.float64).unsqueeze(1)
    expected, found = fitted(X, 3), fitted(lengths * X, 3)
    torch.testing.assert_close(found.mean_directions_, expected.mean_directions_)
    torch.testing.assert_close(found.score_samples(lengths * X), expected.score_samples(X))
    torch.testing.assert_close(fitted(X, 3, normalize=False).weights_, expected.weights_)


def test_the_parameters_make_distributions() -> None:
    X = clusters(*OVERLAPPING["sphere"], dtype=torch.float32)
    model = fitted(X, 3)
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(model.weights_),
        VonMisesFisher(model.mean_directions_, model.concentrations_),
    )
    torch.testing.assert_close(
        law.log_prob(normalize(X.double(), dim=-1)).float(), model.score_samples(X)
    )


def test_draws() -> None:
    X = clusters(3, [5.0, 50.0], [300, 100])
    model = fitted(X, 2)
    x, labels = model.sample(20_000)
    assert x.shape == (20_000, 3)
    assert x.dtype == torch.float64
    assert (labels.diff() >= 0).all()
    for j in range(2):
        law = VonMisesFisher(model.mean_directions_[j], model.concentrations_[j])
        assert_mean(x[labels == j], law.mean)
        assert_mean((labels == j).double().unsqueeze(1), model.weights_[j])
    assert [len(part) for part in model.sample()] == [1, 1]


def test_progress_is_printed_as_scikit_learn_does(capsys: pytest.CaptureFixture[str]) -> None:
    X = clusters(*OVERLAPPING["sphere"])
    fitted(X, 3, max_iter=3, tol=0)
    assert capsys.readouterr().out == ""
    fitted(X, 3, max_iter=3, tol=0, verbose=1, verbose_interval=2, n_init=2)
    lines = ["Initialization {}", "  Iteration 2", "Initialization did not converge."]
    assert capsys.readouterr().out.splitlines() == [x.format(i) for i in (0, 1) for x in lines]
    fitted(X, 3, tol=math.inf, verbose=2, verbose_interval=1)
    _, iteration, end = capsys.readouterr().out.splitlines()
    assert "ll change" in iteration
    assert "Initialization converged. time lapse" in end


# Bad input

LOC = [0.6, 0.0, 0.8]


@pytest.mark.parametrize(
    ("X", "words"),
    [
        pytest.param([LOC, [0.0, 0.0, 0.0]], "row 1 of X has the norm 0 and so no dir", id="zero"),
        pytest.param([LOC, [1.0, math.nan, 0.0]], "NaN, infinity.*row 1", id="nan"),
        pytest.param([LOC, [1.0, math.inf, 0.0]], "NaN, infinity.*row 1", id="infinite"),
        pytest.param([LOC, [1e200, 0.0, 0.0]], "too large: row 1", id="large"),
        pytest.param([[1.0], [1.0]], r"1 feature\(s\) .* minimum of 2", id="one-column"),
        pytest.param([LOC], r"1 sample\(s\) .* minimum of 2", id="one-row"),
        pytest.param(LOC, r"(2D array|\(n_samples, d\)), got (1D|\(3,\))", id="one-axis"),
    ],
)
@pytest.mark.parametrize("kind", [np.array, lambda x: torch.tensor(x, dtype=torch.float64)])
def test_bad_rows(X: Any, words: str, kind: Any) -> None:
    with pytest.raises(ValueError, match=words):
        VonMisesFisherMixture().fit(kind(X))
    if "minimum" not in words:
        model = fitted(torch.eye(3))
        with pytest.raises(ValueError, match=words):
            model.predict(kind(X))


def test_the_row_is_named_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "_BATCH_NUMBERS", 12)
    X = torch.eye(3).repeat(10, 1)
    X[17] = 0
    with pytest.raises(ValueError, match="row 17 of X"):
        VonMisesFisherMixture().fit(X)


def test_lengths_are_refused_if_told_to(dtype: torch.dtype) -> None:
    X = directions(20, 3, dtype=dtype)
    X[4] *= 1.01
    words = r"row 4 of X has the norm 1\.01.*normalize=False.*unit vector.*normalize=True"
    with pytest.raises(ValueError, match=words):
        VonMisesFisherMixture(normalize=False).fit(X)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16, torch.int64])
def test_tensors_of_a_wrong_type(half: torch.dtype) -> None:
    name = str(half).removeprefix("torch.")
    with pytest.raises(TypeError, match=rf"X must be float32 or float64, got {name}.*X\.float\(\)"):
        VonMisesFisherMixture().fit(torch.eye(3).to(half))


@not_dense_kinds
def test_sparse_and_nested_tensors(kind: str) -> None:
    X, words = not_dense(kind, "X")
    if kind == "csr":
        fitted(X)
        return
    words = words.replace("dense, ", "dense( or in CSR layout)?, ")
    with pytest.raises(TypeError, match=words):
        VonMisesFisherMixture().fit(X)
    with pytest.raises(TypeError, match=words):
        fitted(torch.eye(4)).predict(X)


def test_rows_that_are_no_real_numbers() -> None:
    with pytest.raises(TypeError, match=r"X must be real, got complex64$"):
        VonMisesFisherMixture().fit(torch.eye(3) * 1j)
    with pytest.raises(ValueError, match="Complex data not supported"):
        VonMisesFisherMixture().fit(np.eye(3) * 1j)


# Sparse rows


def words(n: int, dim: int, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """Counts of words in texts on three topics, one of them without words in common."""
    random = np.random.RandomState(0)
    topics = np.repeat(random.dirichlet(np.full(dim - 1, 0.2), 3), n // 3, axis=0)
    counts = np.array([random.multinomial(20, topic) for topic in topics])
    return np.hstack((counts, np.zeros((len(counts), 1)))).astype(str(dtype)[6:])  # one column of 0


def test_sparse_rows_are_the_same_rows(dtype: torch.dtype) -> None:
    X = words(90, 30, dtype)
    weights = np.arange(90) % 3
    expected = VonMisesFisherMixture(3, random_state=0, n_init=2, tol=1e-8)
    expected.fit(X, sample_weight=weights)
    tensor = torch.from_numpy(X).to_sparse_csr()
    for same in (sparse.csr_array(X), sparse.csc_matrix(X), sparse.coo_array(X), tensor):
        model = VonMisesFisherMixture(3, random_state=0, n_init=2, tol=1e-8)
        model.fit(same, sample_weight=weights)
        pairs = [
            (getattr(model, name), getattr(expected, name))
            for name in ("weights_", "mean_directions_", "concentrations_")
        ]
        pairs += [
            (getattr(model, name)(same), getattr(expected, name)(X))
            for name in ("predict", "predict_proba", "score_samples", "score", "bic")
        ]
        rtol = 1e-9 if dtype == torch.float64 else 1e-5
        for found, wanted in pairs:
            assert isinstance(found, Tensor) == (same is tensor) or isinstance(found, float)
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-9)
        np.testing.assert_allclose(
            model.partial_fit(same[:40] if same is not tensor else same).weights_.sum(), 1
        )


@pytest.mark.filterwarnings("ignore:.*collapsed:sklearn.exceptions.ConvergenceWarning")
def test_sparse_rows_at_high_concentration() -> None:
    X = clusters(3, [1e9, 1e12], [200, 100], 1e-2).numpy()
    X = np.hstack((X, np.zeros((300, 2))))
    dense, model = fitted(X, 2), fitted(sparse.csr_array(X), 2)
    np.testing.assert_allclose(model.concentrations_, dense.concentrations_, rtol=1e-6)
    np.testing.assert_allclose(
        model.score_samples(sparse.csr_array(X)), dense.score_samples(X), atol=1e-6
    )


def test_chords_of_sparse_rows() -> None:
    x = normalize(torch.rand(4, 50, dtype=torch.float64) * (torch.rand(4, 50) < 0.3), dim=1)
    noise = torch.randn(4, 50, dtype=torch.float64)
    directions_near = normalize(x + torch.logspace(-12, 0, 4).double().unsqueeze(1) * noise, dim=1)
    batch = _sparse.SparseBatch(sparse.csr_array(x.numpy()), None)
    found = batch.half_squared_chords(directions_near)
    expected = (x.unsqueeze(1) - directions_near).square().sum(-1) / 2
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=2**-72)


def test_entries_given_twice_add_up() -> None:
    X = words(30, 10)
    indices = np.tile(np.repeat(np.arange(10), 2), 30)
    twice = sparse.csr_array((np.repeat(X.ravel(), 2) / 2, indices, np.arange(31) * 20))
    kept = twice.data.copy()
    np.testing.assert_allclose(fitted(twice).mean_directions_, fitted(X).mean_directions_)
    assert np.array_equal(twice.data, kept)


def test_bad_sparse_rows() -> None:
    X = np.eye(4)
    X[2] = 0
    for bad, text in (
        (X, "row 2 of X has the norm 0"),
        (np.diag([1, 1, math.nan, 1]), "NaN.*row 2"),
    ):
        with pytest.raises(ValueError, match=text):
            VonMisesFisherMixture().fit(sparse.csr_array(bad))
    with pytest.raises(
        TypeError, match=r"CSR layout, got layout torch.sparse_coo: .*to_sparse_csr"
    ):
        VonMisesFisherMixture().fit(torch.eye(4).to_sparse())
    with pytest.raises(TypeError, match="X must be float32 or float64, got float16"):
        VonMisesFisherMixture().fit(torch.eye(4).to_sparse_csr().half())


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
@pytest.mark.parametrize("n", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_of_sparse_rows(n: int) -> None:
    X = sparse.random_array((n, 50_000), density=0.002, format="csr", rng=0)
    assert extra_memory(lambda: fitted(X, 20, max_iter=1).predict(X)) < n / 100_000 * 4e9


class Frame:
    """What a table of another library looks like: it can be made an array."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values.astype(dtype or self.values.dtype)


def test_what_can_be_made_an_array_is_taken() -> None:
    X = clusters(*OVERLAPPING["sphere"]).numpy()
    expected = fitted(X, 3)
    for like in (Frame(X), X.tolist(), list(X), X.astype(object)):
        assert np.array_equal(fitted(like, 3).mean_directions_, expected.mean_directions_)
        assert np.array_equal(expected.predict(like), expected.predict(X))
    counts = np.array([[3, 0, 4], [0, 2, 2], [1, 1, 0]])  # of words
    assert np.array_equal(fitted(counts).mean_directions_, fitted(counts * 1.0).mean_directions_)


def test_features_must_agree() -> None:
    model = fitted(torch.eye(3))
    assert model.n_features_in_ == 3
    for X in (torch.eye(4), np.eye(4)):
        with pytest.raises(ValueError, match=r"X has 4 features, but .* expecting 3"):
            model.predict(X)


def test_too_few_rows() -> None:
    with pytest.raises(ValueError, match="n_components = 4, n_samples = 3"):
        VonMisesFisherMixture(4).fit(torch.eye(3))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"n_components": 0}, ValueError),
        ({"n_components": 2.0}, TypeError),
        ({"n_components": True}, TypeError),
        ({"max_iter": True}, TypeError),
        ({"tol": -1.0}, ValueError),
        ({"tol": math.nan}, ValueError),
        ({"tol": True}, TypeError),
        ({"tol": "small"}, TypeError),
        ({"max_iter": 0}, ValueError),
        ({"n_init": 0}, ValueError),
        ({"concentration_type": "diag"}, ValueError),
        ({"concentration_type": -1.0}, ValueError),
        ({"concentration_type": math.inf}, ValueError),
        ({"concentration_type": None}, TypeError),
        ({"concentration_prior": 1.0}, TypeError),
        ({"concentration_prior": (1.0,)}, TypeError),
        ({"concentration_prior": (-1.0, 0.5)}, ValueError),
        ({"concentration_prior": (math.inf, 0.5)}, ValueError),
        ({"concentration_prior": (1.0, 1.0)}, ValueError),
        ({"init_params": "kmeans"}, ValueError),
        ({"init_params": None}, ValueError),
        ({"warm_start": 1}, TypeError),
        ({"weights_init": [1.0, 0.0]}, ValueError),
        ({"weights_init": [0.5]}, ValueError),
        ({"weights_init": [math.nan]}, ValueError),
        ({"means_init": [0.0, 0.0, 1.0]}, ValueError),
        ({"means_init": [[0.0, 0.0, 0.0]]}, ValueError),
        ({"means_init": [[math.nan, 0.0, 0.0]]}, ValueError),
        ({"concentrations_init": [-1.0]}, ValueError),
        ({"concentrations_init": [math.nan]}, ValueError),
        ({"concentrations_init": 1.0}, ValueError),
        ({"normalize": "l2"}, TypeError),
        ({"random_state": "seed"}, ValueError),
        ({"verbose": -1}, ValueError),
        ({"verbose_interval": 0}, ValueError),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception]) -> None:
    (name,) = options
    with pytest.raises(error, match=name if name != "random_state" else "seed"):
        VonMisesFisherMixture(**options).fit(torch.eye(3))


def test_options_that_exclude_each_other() -> None:
    X = clusters(3, [60.0, 200.0], [50, 50])
    for options in ({"concentration_prior": (1.0, 0.5)}, {"concentrations_init": [1.0, 1.0]}):
        with pytest.raises(ValueError, match=r"need concentrations to estimate, got .* = 3"):
            VonMisesFisherMixture(2, concentration_type=3, **options).fit(X)
    tied = VonMisesFisherMixture(2, concentration_type="tied", concentrations_init=[1.0, 2.0])
    with pytest.raises(
        ValueError, match=r"concentrations_init must be equal .*, got \[1\.0, 2\.0\]"
    ):
        tied.fit(X)
    with pytest.raises(ValueError, match=r"1 sample\(s\) .* minimum of 2"):
        VonMisesFisherMixture(concentration_type="tied").fit(X[:1])


class Interrupted(Exception):
    """Stands for the user's Ctrl-C."""


@pytest.mark.parametrize(
    ("X", "options", "error"),
    [
        pytest.param(torch.eye(4) * torch.tensor([1.0, 0, 1, 1]), {}, ValueError, id="zero"),
        pytest.param(torch.eye(4), {"n_components": 9}, ValueError, id="components"),
        pytest.param(torch.eye(4), {"random_state": "seed"}, ValueError, id="seed"),
        pytest.param(torch.eye(4), {"tol": math.nan}, ValueError, id="tol"),
        pytest.param(torch.eye(4), {}, Interrupted, id="interrupted"),
    ],
)
def test_a_refit_that_fails_changes_nothing(
    X: Tensor, options: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted(torch.eye(3))
    before = {name: value for name, value in vars(model).items() if name.endswith("_")}
    assert len(before) == 7
    if error is Interrupted:
        calls = iter(range(3))

        def expect(*arguments: Any) -> Any:
            if next(calls) == 2:
                raise Interrupted
            return original(*arguments)

        original = estimator.expect
        monkeypatch.setattr(estimator, "expect", expect)
        options = {"tol": 0, "n_components": 2}
    model.set_params(**options)
    with pytest.raises(error):
        model.fit(X)
    after = {name: value for name, value in vars(model).items() if name.endswith("_")}
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_a_refit_forgets_the_names_of_features() -> None:
    model = fitted(torch.eye(3))
    model.feature_names_in_ = np.array(["a", "b", "c"], dtype=object)  # as of a table
    model.fit(torch.eye(4))
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == model.mean_directions_.shape[1] == 4


def test_before_fitting() -> None:
    model = VonMisesFisherMixture()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.predict(torch.eye(3))
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.sample()
    with pytest.raises(ValueError, match="n_samples"):
        fitted(torch.eye(3)).sample(0)
    with pytest.raises(TypeError, match="n_samples must be a number, not bool"):
        fitted(torch.eye(3)).sample(True)


# scikit-learn


@pytest.mark.filterwarnings("ignore:.*collapsed:sklearn.exceptions.ConvergenceWarning")  # few rows
@parametrize_with_checks(
    [VonMisesFisherMixture(2)],
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
    check(estimator)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "vmfdist.mixture")
    with pytest.raises(ImportError, match=r'pip install "vmfdist\[mixture\]"'):
        importlib.import_module("vmfdist.mixture")


def test_nothing_else_imports_it() -> None:
    own = Path(mixture.__file__).parent
    modules = [path for path in own.parent.rglob("*.py") if path.parent != own]
    assert len(modules) > 5
    for path in modules:
        assert not re.search(r"^\s*(from|import)\b.*(sklearn|mixture)", path.read_text(), re.M), (
            path
        )


# Memory


def extra_memory(function: Callable[[], Any]) -> int:
    """How many bytes a call takes at its peak above those in use before."""

    def status(name: str) -> int:
        return (
            int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
        )

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here, proc(5)
    before = status("VmRSS")
    function()
    return status("VmHWM") - before


def fit_and_predict(X: Any) -> None:
    fitted(X, 20, max_iter=2).predict(X)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_memory() -> None:
    X = torch.randn(400_000, 64)
    # The responsibilities of 20 components alone would take 0.62 of the data in float64.
    assert extra_memory(lambda: fit_and_predict(X)) < 0.6 * X.nbytes
    assert extra_memory(lambda: X.double()) > 1.9 * X.nbytes  # that is, this would be noticed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.Tensor.detach])
def test_memory_of_a_million_rows(kind: Callable[[Tensor], Any]) -> None:
    X = torch.randn(1_000_000, 64)
    assert extra_memory(lambda: fit_and_predict(kind(X))) < 0.3 * X.nbytes
