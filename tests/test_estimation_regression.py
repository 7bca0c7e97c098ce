# Regression of directions: against SciPy's optimiser on a likelihood in SciPy's Bessel functions,
# against fits of single laws, and by simulation.

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from scipy.special import ive
from torch import Tensor
from torch.nn.functional import normalize

from cases import FAILURE_RATE, directions
from vmfdist import HypersphericalUniform, VonMisesFisher, estimation
from vmfdist.estimation import VonMisesFisherRegression, regression

fit = VonMisesFisherRegression.fit


def made(n: int, p: int, dim: int, scale: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs, and directions that depend on them and on an intercept."""
    torch.manual_seed(seed)
    inputs = torch.randn(n, p, dtype=torch.float64)
    true = scale * torch.randn(p + 1, dim, dtype=torch.float64)
    return inputs, VonMisesFisher.from_natural(true[0] + inputs @ true[1:]).sample()


def with_ones(inputs: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(inputs[..., :1]), inputs], -1)


class Reference:
    """The log likelihood and its gradient, from SciPy's Bessel functions."""

    def __init__(self, design: Tensor, y: Tensor) -> None:
        self.x, self.y = design.numpy(), y.numpy()
        self.dim = y.shape[-1]

    def _natural(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        eta = self.x @ flat.reshape(-1, self.dim)
        return eta, np.linalg.norm(eta, axis=-1)

    def log_likelihood(self, flat: np.ndarray) -> float:
        eta, k = self._natural(flat)
        order = self.dim / 2 - 1
        log_iv = np.log(ive(order, k)) + k
        log_normalizer = self.dim / 2 * math.log(2 * math.pi) + log_iv - order * np.log(k)
        return float(((eta * self.y).sum(-1) - log_normalizer).sum())

    def gradient(self, flat: np.ndarray) -> np.ndarray:
        eta, k = self._natural(flat)
        ratio = ive(self.dim / 2, k) / ive(self.dim / 2 - 1, k)
        return (self.x.T @ (self.y - (ratio / k)[:, None] * eta)).ravel()

    def maximum(self) -> np.ndarray:
        start = 0.1 * np.random.default_rng(0).standard_normal(self.x.shape[1] * self.dim)
        options = {"gtol": 1e-9, "maxiter": 10_000}
        return minimize(
            lambda b: -self.log_likelihood(b),
            start,
            jac=lambda b: -self.gradient(b),
            method="BFGS",
            options=options,
        ).x

    def covariance(self, flat: np.ndarray) -> np.ndarray:
        """From differences of the gradient."""
        step = 1e-5
        shifts = step * np.eye(len(flat))
        rows = [(self.gradient(flat + s) - self.gradient(flat - s)) / (2 * step) for s in shifts]
        return np.linalg.inv(-np.stack(rows))


@pytest.mark.parametrize("dim", [2, 3, 6])
@pytest.mark.parametrize("intercept", [True, False])
def test_against_another_optimiser(dim: int, intercept: bool) -> None:
    inputs, y = made(60, 2, dim)
    found = fit(inputs, y, intercept=intercept)
    reference = Reference(with_ones(inputs) if intercept else inputs, y)
    best = reference.maximum()
    coefficients = torch.from_numpy(best).view(-1, dim)
    assert found.coefficients.shape == (2 + intercept, dim)
    torch.testing.assert_close(found.coefficients, coefficients, rtol=1e-6, atol=1e-6)
    # the oracle's own is no larger
    value = found.log_likelihood.item()
    assert value >= reference.log_likelihood(best) - 1e-9
    assert abs(value - reference.log_likelihood(found.coefficients.numpy().ravel())) < 1e-9
    covariance = torch.from_numpy(reference.covariance(best))
    torch.testing.assert_close(found.covariance, covariance, rtol=1e-5, atol=1e-8)
    errors = covariance.diagonal().sqrt().view(-1, dim)
    torch.testing.assert_close(found.standard_errors, errors, rtol=1e-5, atol=1e-8)
    law = found.predict(inputs)
    torch.testing.assert_close(law.log_prob(y).sum().item(), value)


def test_means_are_those_of_the_data() -> None:
    inputs, y = made(200, 3, 4)
    means = fit(inputs, y).predict(inputs).mean
    design = with_ones(inputs)
    torch.testing.assert_close(design.T @ means, design.T @ y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [0.5, 20.0, 1e6])
def test_an_intercept_alone_is_a_fit_of_one_law(k: float) -> None:
    torch.manual_seed(0)
    y = VonMisesFisher(directions(3), k).sample((100,))
    found = fit(y.new_empty(100, 0), y)
    law = VonMisesFisher.fit(y)
    assert found.coefficients.shape == (1, 3)
    (natural,) = found.coefficients
    torch.testing.assert_close(natural, law.concentration * law.loc, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.log_likelihood, law.log_prob(y).sum())
    # Across loc the natural parameter moves by k times the angle.
    errors = estimation.standard_errors(law, 100)
    expected = [errors.concentration.square()] + [
        (law.concentration * errors.direction).square()
    ] * 2
    variances = torch.linalg.eigvalsh(found.covariance)
    torch.testing.assert_close(variances, torch.stack(expected).sort().values, rtol=1e-6, atol=0)


def test_starts_at_its_answer_where_this_is_0() -> None:
    # Opposite directions for the same inputs: all laws are uniform, with covariance I/d.
    torch.manual_seed(0)
    inputs, y = torch.randn(20, 2, dtype=torch.float64), directions(20, 3)
    inputs, y = torch.cat([inputs, inputs]), torch.cat([y, -y])
    found = fit(inputs, y)
    torch.testing.assert_close(found.coefficients, torch.zeros(3, 3).double(), rtol=0, atol=1e-14)
    design = with_ones(inputs)
    of_inputs = torch.linalg.inv(design.T @ design).contiguous()
    expected = 3 * torch.kron(of_inputs, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(found.covariance, expected)
    uniform = HypersphericalUniform(3).log_prob(y).sum()
    torch.testing.assert_close(found.log_likelihood, uniform)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3, 1e6, 1e9])
def test_concentrations_of_all_sizes(scale: float) -> None:
    # The score, in units of standard errors, is 0, and what was put in is found within its errors.
    inputs, y = made(300, 2, 3, scale)
    found = fit(inputs, y)
    torch.manual_seed(0)
    torch.randn(300, 2, dtype=torch.float64)
    true = scale * torch.randn(3, 3, dtype=torch.float64)
    off = (found.coefficients - true).flatten()
    distance = off @ torch.linalg.solve(found.covariance, off)  # chi squared, 9 degrees of freedom
    assert stats.chi2.sf(distance.item(), 9) > FAILURE_RATE
    assert stats.chi2.cdf(distance.item(), 9) > FAILURE_RATE
    slightly = found.coefficients * (1 + 1e-3 * torch.randn(20, 3, 3, dtype=torch.float64))
    laws = VonMisesFisher.from_natural(with_ones(inputs) @ slightly)
    assert (laws.log_prob(y).sum(-1) <= found.log_likelihood).all()


def test_other_inputs_of_the_same_space_predict_the_same() -> None:
    inputs, y = made(100, 3, 3)
    found = fit(inputs, y)
    torch.manual_seed(1)
    map_ = torch.randn(3, 3, dtype=torch.float64)
    scales = torch.tensor([1e-8, 1.0, 1e8], dtype=torch.float64)
    others = fit((inputs @ map_) * scales + 100 * scales, y)
    torch.testing.assert_close(others.log_likelihood, found.log_likelihood)
    means = others.predict((inputs @ map_) * scales + 100 * scales).mean
    torch.testing.assert_close(means, found.predict(inputs).mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        others.coefficients[1:] * scales[:, None], torch.linalg.solve(map_, found.coefficients[1:])
    )
    errors = fit(inputs * scales, y).standard_errors[1:] * scales[:, None]
    torch.testing.assert_close(errors, found.standard_errors[1:])
    # A turn of the directions turns the coefficients.
    turn, _ = torch.linalg.qr(map_)
    turned = fit(inputs, normalize(y @ turn, dim=-1)).coefficients
    torch.testing.assert_close(turned, found.coefficients @ turn)


def test_standard_errors_cover() -> None:
    torch.manual_seed(0)
    simulations, n = 1000, 150
    inputs = torch.randn(n, 1, dtype=torch.float64)
    true = torch.tensor([[3.0, 0.0, 1.0], [0.0, -2.0, 1.0]], dtype=torch.float64)
    law = VonMisesFisher.from_natural(with_ones(inputs) @ true)
    found = fit(inputs, law.sample((simulations,)))
    scores = (found.coefficients - true) / found.standard_errors
    within = (scores.abs() < stats.norm.ppf(0.975)).double().mean(0)
    # 0.0069 is the simulation's standard error; at n = 150 the intervals are off by 0.01 at most
    assert ((within - 0.95).abs() < 0.01 + 4.5 * 0.0069).all()
    # all six together are chi squared
    off = (found.coefficients - true).flatten(-2)
    distance = (off * torch.linalg.solve(found.covariance, off)).sum(-1)
    inside = (distance < stats.chi2.ppf(0.95, 6)).double().mean()
    assert abs(inside - 0.95) < 0.015 + 4.5 * 0.0069
    # errors of half the size would not
    assert ((scores.abs() < 1).double().mean(0) < 0.75).all()


def test_batches_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.stack([made(40, 2, 3, seed=seed)[0] for seed in range(2)])
    y = torch.stack([made(40, 2, 3, scale, seed=7)[1] for scale in (0.1, 1.0, 1e4)]).unsqueeze(1)
    together = fit(inputs, y)
    assert together.coefficients.shape == together.standard_errors.shape == (3, 2, 3, 3)
    assert together.covariance.shape == (3, 2, 9, 9)
    assert together.log_likelihood.shape == (3, 2)
    assert together.predict(inputs[:, :5]).batch_shape == (3, 2, 5)
    monkeypatch.setattr(regression, "_BLOCK_NUMBERS", 70)
    for i, j in np.ndindex(3, 2):
        alone = fit(inputs[j], y[i, 0])
        for name in ("coefficients", "covariance", "log_likelihood"):
            close = {"rtol": 1e-6, "atol": 1e-9}
            torch.testing.assert_close(getattr(together, name)[i, j], getattr(alone, name), **close)


def test_no_regressions() -> None:
    found = fit(torch.randn(0, 6, 2), directions(0, 6, 3, dtype=torch.float32))
    assert found.coefficients.shape == found.standard_errors.shape == (0, 3, 3)
    assert found.covariance.shape == (0, 9, 9)
    assert found.log_likelihood.shape == (0,)
    assert found.predict(torch.randn(0, 4, 2)).batch_shape == (0, 4)


def test_dtypes_and_predictions() -> None:
    inputs, y = made(80, 2, 3)
    found = fit(inputs.float(), normalize(y.float(), dim=-1))
    for name in ("coefficients", "covariance", "log_likelihood", "standard_errors"):
        assert getattr(found, name).dtype == torch.float32
    exact = fit(inputs, y)
    torch.testing.assert_close(
        found.coefficients.double(), exact.coefficients, rtol=1e-4, atol=1e-4
    )
    assert fit(inputs, normalize(y.float(), dim=-1)).coefficients.dtype == torch.float64
    assert repr(found) == (
        "VonMisesFisherRegression(coefficients: torch.Size([3, 3]), intercept: True)"
    )

    x = inputs[:4].clone().requires_grad_()
    law = exact.predict(x)
    assert isinstance(law, VonMisesFisher)
    assert torch.autograd.gradcheck(lambda x: exact.predict(x).mean, x)
    assert exact.predict(x[0]).batch_shape == ()
    natural = law.concentration.unsqueeze(-1) * law.loc
    torch.testing.assert_close(natural, with_ones(x) @ exact.coefficients)
    without = fit(inputs, y, intercept=False)
    assert without.predict(torch.zeros(2).double()).concentration == 0
    for same in (copy.deepcopy(exact), pickle.loads(pickle.dumps(exact))):
        assert torch.equal(same.predict(x).loc, law.loc)
    with pytest.raises(AttributeError):
        exact.intercept = False  # type: ignore[misc]


def _fails(
    inputs: Any, y: Any, words: str, error: type[Exception] = ValueError, **options: Any
) -> None:
    with pytest.raises(error, match=words):
        fit(inputs, y, **options)


def test_no_maximum() -> None:
    inputs, y = made(30, 2, 3)
    words = r"no maximum: the law of one row at least, directions\[..., \d+, :\]"
    perfect = normalize(with_ones(inputs) @ directions(3, 3), dim=-1)
    _fails(inputs, perfect, words)
    _fails(inputs.float(), normalize(perfect.float(), dim=-1), words)
    _fails(inputs, y[:1].expand(30, 3), words)
    _fails(inputs.new_empty(30, 0), y[:1].expand(30, 3), words)
    alone = (torch.arange(30) == 7).double().unsqueeze(-1)
    _fails(torch.cat([inputs, alone], -1), y, r"directions\[..., 7, :\], closes in")
    _fails(inputs, torch.stack([y, perfect]), words)  # one of a batch
    # The same but for one direction has one.
    turned = perfect.clone()
    turned[0] = -turned[0]
    assert fit(inputs, turned).coefficients.isfinite().all()


def test_collinear_inputs() -> None:
    inputs, y = made(30, 2, 3)
    sums = torch.cat([inputs, inputs.sum(-1, keepdim=True), inputs], -1)
    _fails(sums, y, "column 2 of inputs is a linear combination .* or of the intercept")
    _fails(sums.float(), y, "column 2 of inputs")
    _fails(sums, y, "others before it; leave", intercept=False)
    _fails(torch.full((30, 1), 3.0), y, "column 0 of inputs")
    assert fit(torch.full((30, 1), 3.0), y, intercept=False).coefficients.shape == (1, 3)
    _fails(torch.cat([inputs, torch.zeros(30, 1)], -1), y, "column 2 of inputs")
    # nearly so is not collinear
    near = torch.cat([inputs, inputs[:, :1] + 1e-4 * torch.randn(30, 1)], -1)
    assert fit(near, y).standard_errors[3].min() > 100


@pytest.mark.parametrize("origin", [2000.0, -(2.0**30), 2.0**38])
def test_inputs_far_from_0(origin: float) -> None:
    inputs, y = made(40, 2, 3)
    inputs = torch.round(inputs * 2.0**10) * 2.0**-10  # the sum of both is exact
    near, far = fit(inputs, y), fit(inputs + origin, y)
    slopes = near.coefficients[1:]
    torch.testing.assert_close(far.coefficients[1:], slopes, rtol=1e-9, atol=1e-9)
    constant = near.coefficients[0] - origin * slopes.sum(0)
    torch.testing.assert_close(far.coefficients[0], constant, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(far.log_likelihood, near.log_likelihood)
    to_far = torch.eye(9, dtype=torch.float64)
    to_far[:3, 3:6] = to_far[:3, 6:] = -origin * torch.eye(3)
    covariance = to_far @ near.covariance @ to_far.mT
    torch.testing.assert_close(far.covariance, covariance, rtol=1e-9, atol=1e-9)
    laws = far.predict(inputs + origin)
    torch.testing.assert_close(laws.loc, near.predict(inputs).loc, rtol=0, atol=1e-15 * abs(origin))


def test_a_column_of_two_numbers_next_to_each_other() -> None:
    inputs, y = made(30, 1, 3)
    column = torch.full((30, 1), 3.0)
    column[::2] += 2.0**-21  # 1e-7 of it
    both = fit(torch.cat([inputs.float(), column], -1), y.float())
    indicator = fit(torch.cat([inputs.float(), (column > 3).float()], -1), y.float())
    torch.testing.assert_close(both.coefficients[1], indicator.coefficients[1])
    torch.testing.assert_close(both.coefficients[2] * 2.0**-21, indicator.coefficients[2])


@pytest.mark.parametrize(
    ("change", "words", "error"),
    [
        (
            lambda x, y: (x[:3], y[:3]),
            "3 rows are too few for 3 coefficients.* at least 4",
            ValueError,
        ),
        (lambda x, y: (x[:, 0], y), r"do not fit: give inputs of shape \(..., n, p\)", ValueError),
        (lambda x, y: (x[:9], y), "do not fit", ValueError),
        (lambda x, y: (x.expand(2, 30, 2), y.expand(3, 30, 3)), "do not fit", ValueError),
        (lambda x, y: (x, 2 * y), "directions .* unit vectors", ValueError),
        (lambda x, y: (x / 0, y), "inputs must be finite", ValueError),
        (lambda x, y: (x.long(), y), "inputs must be float32 or float64", TypeError),
        (lambda x, y: (x.tolist(), y), "inputs must be a tensor", TypeError),
        (lambda x, y: (x, y[..., :1]), "directions must hold vectors", ValueError),
    ],
)
def test_errors(
    change: Callable[[Tensor, Tensor], tuple[Any, Any]], words: str, error: type[Exception]
) -> None:
    _fails(*change(*made(30, 2, 3)), words, error)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(scale, torch.float64) for scale in (1e-300, 1e-200, 1e-160, 1e160, 1e200, 1e300)]
    + [(scale, torch.float32) for scale in (1e-38, 1e-25, 1e25, 1e36)],
)
def test_squares_of_inputs_that_no_number_holds(scale: float, dtype: torch.dtype) -> None:
    inputs, y = made(30, 2, 3)
    words = f"squares .* {str(dtype).removeprefix('torch.')} .*: give column 1 of inputs in other"
    scales = torch.tensor([1.0, scale], dtype=torch.float64)
    _fails((inputs * scales).to(dtype), normalize(y.to(dtype), dim=-1), words)


def test_errors_of_options_and_predictions() -> None:
    inputs, y = made(30, 2, 3)
    _fails(inputs[:, :0], y, "leave nothing to fit", intercept=False)
    with pytest.raises(ValueError, match=r"inputs must have 2 numbers .* got shape \(30, 1\)"):
        fit(inputs, y).predict(inputs[:, :1])
    several = fit(inputs, torch.stack([y, -y, y.flip(-1)]))
    words = r"inputs of shape \(2, 4, 2\) do not fit .* of shape \(3,\)"
    with pytest.raises(ValueError, match=words):
        several.predict(torch.zeros(2, 4, 2))
    with pytest.raises(TypeError, match="inputs must be a tensor"):
        fit(inputs, y).predict([1.0, 2.0])  # type: ignore[arg-type]


def test_an_outlier_may_stand_in_any_row() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(50, 2, dtype=torch.float64)
    mean = torch.cat([inputs, torch.ones(50, 1, dtype=torch.float64)], -1)
    directions = torch.nn.functional.normalize(mean + torch.randn_like(mean), dim=-1)
    inputs[0] = 1e8
    first, last = (
        VonMisesFisherRegression.fit(inputs[rows], directions[rows]).log_likelihood.item()
        for rows in (torch.arange(50), torch.arange(50).flip(0))
    )
    assert first == pytest.approx(last, abs=1e-6)
