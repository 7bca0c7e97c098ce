# Kernel densities: against sums in mpmath, quadrature, and leave-one-out likelihoods formed one by
# one; modes against roots of the derivative of a density on the circle.

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable

import mpmath as mp
import numpy as np
import pyro
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily
from torch.nn.functional import normalize

from cases import assert_mean, directions
from reference import radial
from vmfdist import VonMisesFisher
from vmfdist._numerics import kernel_sums
from vmfdist.estimation import SphericalKDE, leave_one_out

WEIGHTS = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0], dtype=torch.float64)


def mixture(data: Tensor, k: Tensor | float, weights: Tensor | None = None) -> MixtureSameFamily:
    """The same law, with an array of all pairs."""
    weights = torch.ones(data.shape[:-1]) if weights is None else weights
    return MixtureSameFamily(Categorical(weights.to(data.dtype)), VonMisesFisher(data, k))


def on_circle(*degrees: float) -> Tensor:
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], -1)


# --------------------------------------------------------------------------------------------------
# The density
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3, 20])
@pytest.mark.parametrize("k", [0.0, 1e-3, 5.0, 1e3, 1e6])
def test_density(dim: int, k: float, dtype: torch.dtype) -> None:
    data, value = directions(5, dim, dtype=dtype), directions(4, dim, dtype=dtype, seed=1)
    value[0] = data[0]
    for weights in (None, WEIGHTS.to(dtype)):
        found = SphericalKDE(data, k, weights).log_prob(value)
        assert found.dtype == dtype
        shares = [1.0] * 5 if weights is None else weights.tolist()
        with mp.workdps(40):
            top = radial(dim, k).log_density_at_mode(k)
            for x, log_density in zip(value.tolist(), found.tolist(), strict=True):
                # of squared chords, as all densities here
                chords = [
                    mp.fsum((mp.mpf(a) - b) ** 2 for a, b in zip(x, y, strict=True))
                    for y in data.tolist()
                ]
                terms = [w * mp.exp(-k * c / 2) for w, c in zip(shares, chords, strict=True)]
                true = top + mp.log(mp.fsum(terms) / mp.fsum(shares))
                assert abs(log_density - true) <= 16 * torch.finfo(dtype).eps * max(abs(true), 1)


@pytest.mark.parametrize("k", [0.0, 2.0, 50.0])
def test_mass_is_one(k: float) -> None:
    angle = torch.arange(400, dtype=torch.float64) * (2 * math.pi / 400)
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    density = SphericalKDE(directions(7, 2), k, torch.arange(7.0))
    mass = density.log_prob(circle).exp().sum() * (2 * math.pi / 400)
    torch.testing.assert_close(mass.item(), 1.0, rtol=1e-12, atol=0)

    height, weight = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(100))
    radius = (1 - height**2).sqrt()
    x = torch.cat([radius[:, None, None] * circle, height[:, None, None].expand(-1, 400, 1)], -1)
    density = SphericalKDE(directions(7, 3), k)
    mass = (weight[:, None] * density.log_prob(x).exp()).sum() * (2 * math.pi / 400)
    torch.testing.assert_close(mass.item(), 1.0, rtol=1e-12, atol=0)


# Data, concentration and weights, and the shape of values.
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "one": ((6, 3), (), (6,), (40, 3)),
    "batch": ((4, 6, 3), (4,), (6,), (10, 4, 3)),
    "concentrations": ((6, 3), (5, 1), (2, 6), (10, 1, 2, 3)),
    "all": ((4, 1, 6, 3), (2,), (4, 2, 6), (1, 2, 3)),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("pairs", [1, 20, 1 << 20])
def test_blocks_and_batches(name: str, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sums, "_CACHED_PAIRS", pairs)
    shape, k_shape, weights_shape, value_shape = SHAPES[name]
    torch.manual_seed(0)
    inputs = [
        directions(*shape),
        torch.rand(k_shape, dtype=torch.float64) + 2,
        torch.rand(weights_shape, dtype=torch.float64),
        directions(*value_shape, seed=2),
    ]
    inputs = [x.requires_grad_() for x in inputs]
    data, k, weights, value = inputs
    density = SphericalKDE(data, k, weights)
    found = density.log_prob(value)
    batch_shape = torch.broadcast_shapes(shape[:-2], k_shape, weights_shape[:-1])
    assert density.batch_shape == batch_shape
    assert density.data.shape == (*batch_shape, 6, 3)
    assert density.weights.shape == (*batch_shape, 6)
    assert density.concentration.shape == batch_shape
    assert density.mean.shape == (*batch_shape, 3)
    same = mixture(density.data, k.unsqueeze(-1), weights.expand(*batch_shape, 6))
    expected = same.log_prob(value)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(density.mean, same.mean)
    with torch.no_grad():
        torch.testing.assert_close(density.log_prob(value), expected)
    upstream = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_no_densities() -> None:
    none = directions(0, 5, 3).requires_grad_()
    log_density = SphericalKDE(none, 2.0).log_prob(directions(4, 1, 3))
    assert log_density.shape == (4, 0)
    assert torch.autograd.grad(log_density.sum(), none)[0].shape == none.shape
    assert SphericalKDE(none.detach(), math.inf).log_prob(directions(4, 1, 3)).shape == (4, 0)
    fitted = SphericalKDE.fit(none)
    assert fitted.concentration.shape == (0,)
    assert fitted.sample((2,)).shape == (2, 0, 3)


@pytest.mark.parametrize("pairs", [12, 1 << 20])
def test_derivatives(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sums, "_CACHED_PAIRS", pairs)
    value, data = directions(7, 3).requires_grad_(), directions(5, 3, seed=1).requires_grad_()
    k = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, dtype=torch.float64).add(0.1).requires_grad_()

    def log_density(value: Tensor, data: Tensor, k: Tensor, weights: Tensor) -> Tensor:
        return SphericalKDE(data, k, weights, validate_args=False).log_prob(value)

    inputs = (value, data, k, weights)
    assert torch.autograd.gradcheck(log_density, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(log_density, inputs, fast_mode=True)
    reverse = torch.autograd.functional.jacobian(log_density, inputs)
    transformed = torch.func.jacrev(log_density, argnums=(0, 1, 2, 3))(*inputs)
    for ours, theirs in zip(transformed, reverse, strict=True):
        torch.testing.assert_close(ours, theirs)
    each = torch.func.vmap(lambda x: log_density(x, data, k, weights))(value)
    torch.testing.assert_close(each, log_density(*inputs))


def test_gradient_along_the_sphere() -> None:
    # of log f: k (m - <m, x> x) with the mean m of the data, weighted by their kernels at x
    data, x = directions(6, 4), directions(3, 4, seed=1).requires_grad_()
    density = SphericalKDE(data, 5.0)
    (found,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    shares = torch.softmax(5 * x @ data.T, -1)
    mean = shares @ data

    def across(vector: Tensor) -> Tensor:
        return vector - (vector * x).sum(-1, keepdim=True) * x

    torch.testing.assert_close(across(found), 5 * across(mean))


def test_a_weight_of_0_has_no_gradient() -> None:
    data, weights = directions(5, 3), WEIGHTS.clone().requires_grad_()
    present = WEIGHTS > 0
    without = WEIGHTS[present].requires_grad_()
    for find in (lambda law: law.log_prob(data), lambda law: law.mean):
        (found,) = torch.autograd.grad(find(SphericalKDE(data, 3.0, weights)).sum(), weights)
        other = SphericalKDE(data[present], 3.0, without)
        (expected,) = torch.autograd.grad(find(other).sum(), without)
        assert found[1] == 0
        torch.testing.assert_close(found[present], expected)


def test_compiled_without_a_break() -> None:
    data = directions(6, 3)

    def log_density(value: Tensor) -> Tensor:
        return SphericalKDE(data, 5.0, validate_args=False).log_prob(value)

    compiled = torch.compile(log_density, fullgraph=True, backend="aot_eager")
    value = directions(5, 3).requires_grad_()
    gradients = [
        torch.autograd.grad(function(value).sum(), value)[0] for function in (log_density, compiled)
    ]
    torch.testing.assert_close(*gradients)


def test_nothing_of_the_pairs_is_kept() -> None:
    n = 1000
    data, value = directions(n, 3), directions(n, 3, seed=1).requires_grad_()
    kept: list[int] = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        log_density = SphericalKDE(data, 50.0).log_prob(value)
    assert sum(kept) < 30 * n
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        mixture(data, 50.0).log_prob(value)
    assert sum(kept) > n * n  # as it would be
    assert log_density.requires_grad


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_weight_for_all(shape: tuple[int, ...]) -> None:
    data, value, one = directions(5, 3), directions(4, 3, seed=1), torch.full(shape, 2.0)
    expected, found = SphericalKDE(data, 3.0), SphericalKDE(data, 3.0, one)
    torch.testing.assert_close(found.log_prob(value), expected.log_prob(value))
    torch.testing.assert_close(found.weights, expected.weights)
    fitted, same = SphericalKDE.fit(data), SphericalKDE.fit(data, one)
    torch.testing.assert_close(same.concentration, fitted.concentration)


def test_ends(dtype: torch.dtype) -> None:
    data = torch.eye(3, dtype=dtype)
    value = torch.cat([data[:2], -data[:1]]).requires_grad_()
    uniform = SphericalKDE(data, 0).log_prob(value)
    torch.testing.assert_close(uniform, torch.full_like(uniform, -math.log(4 * math.pi)))
    point = SphericalKDE(data, math.inf, torch.tensor([1.0, 0.0, 2.0])).log_prob(value)
    assert point.tolist() == [math.inf, -math.inf, -math.inf]
    (gradient,) = torch.autograd.grad(point, value, torch.ones(3, dtype=dtype))
    assert gradient.isfinite().all()
    assert SphericalKDE(data, math.inf).sample((5,)).isfinite().all()
    # kernels that underflow everywhere but for the nearest
    far = SphericalKDE(data, 1e6).log_prob(-data)
    torch.testing.assert_close(far, torch.full_like(far, far[0].item()))
    assert (far < -9e5).all()


# --------------------------------------------------------------------------------------------------
# The distribution
# --------------------------------------------------------------------------------------------------


def test_draws() -> None:
    torch.manual_seed(0)
    for density in (
        SphericalKDE(directions(5, 3), 10.0),
        SphericalKDE(directions(2, 5, 3), torch.tensor([3.0, 20.0]).double(), WEIGHTS),
        SphericalKDE(directions(5, 3), torch.tensor([3.0, 20.0]).double()).expand((3, 2)),
    ):
        draws = density.sample((20_000,))
        assert draws.shape == (20_000, *density.batch_shape, 3)
        assert density.support.check(draws).all()
        assert_mean(draws, density.mean)
        second = (
            mixture(density.data, density.concentration.unsqueeze(-1), density.weights).variance
            + density.mean.square()
        )
        assert_mean(draws.square(), second)
    # a law of slightly other concentration is told apart
    wrong = SphericalKDE(directions(5, 3), 8.0).mean
    with pytest.raises(AssertionError):
        assert_mean(SphericalKDE(directions(5, 3), 10.0).sample((20_000,)), wrong)


def test_pathwise_gradients() -> None:
    torch.manual_seed(0)
    data, k = directions(3, 3).requires_grad_(), torch.tensor(4.0).double().requires_grad_()
    density = SphericalKDE(data, k, WEIGHTS[:3] + 1)
    assert density.has_rsample
    along = directions(3, seed=5)
    n = 20_000
    (in_k,) = torch.autograd.grad((density.rsample((n,)) @ along).mean(), k)
    (true,) = torch.autograd.grad(density.mean @ along, k)
    torch.testing.assert_close(in_k, true, rtol=0.05, atol=0)
    assert not density.sample().requires_grad

    weighted = SphericalKDE(data, k, (WEIGHTS[:3] + 1).requires_grad_())
    assert not weighted.has_rsample
    with pytest.raises(NotImplementedError, match="no gradients in weights"):
        weighted.rsample()
    weighted.sample((2,))


def test_as_a_distribution() -> None:
    density = SphericalKDE(directions(2, 5, 3), torch.tensor([2.0, 3.0]).double(), WEIGHTS)
    assert density.event_shape == (3,)
    assert repr(density) == (
        "SphericalKDE(data: torch.Size([2, 5, 3]), concentration: torch.Size([2]))"
    )
    assert repr(SphericalKDE(directions(5, 3), 2.0)).endswith("concentration: 2.0)")
    value = density.sample()
    for same in (
        density.expand((4, 2)),
        copy.deepcopy(density).expand((4, 2)),
        pickle.loads(pickle.dumps(density)).expand((4, 2)),
    ):
        assert isinstance(same, SphericalKDE)
        expected = density.log_prob(value).expand(4, 2)
        torch.testing.assert_close(same.log_prob(value), expected, rtol=0, atol=0)
        assert same.mean.shape == (4, 2, 3)
    with pytest.raises(RuntimeError, match="cannot be expanded"):
        density.expand((3,))

    def model() -> Tensor:
        with pyro.plate("rows", 2):
            return pyro.sample("x", density)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (2,)
    with pytest.raises(ValueError, match=r"value of shape .* unit vectors"):
        density.log_prob(2 * value)
    assert density.to_event(1).log_prob(value).shape == ()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2)])
@pytest.mark.parametrize("batch_shape", [(), (2,), (0,)])
def test_no_draws(shape: tuple[int, ...], batch_shape: tuple[int, ...]) -> None:
    data = directions(5, 3).expand(*batch_shape, 5, 3).clone().requires_grad_()
    density = SphericalKDE(data, 2.0)
    for draws in (density.sample(shape), density.rsample(shape)):
        assert draws.shape == (*shape, *batch_shape, 3)
        assert density.log_prob(draws).shape == (*shape, *batch_shape)
    assert torch.autograd.grad(draws.sum(), data)[0].shape == data.shape
    assert density.sample().shape == (*batch_shape, 3)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda x: SphericalKDE(2 * x, 1.0), ValueError, "data .* unit vectors"),
        (lambda x: SphericalKDE(x[0], 1.0), ValueError, r"data must have shape \(..., n, d\)"),
        (lambda x: SphericalKDE(x[:0], 1.0), ValueError, "n at least 1"),
        (lambda x: SphericalKDE(x.half(), 1.0), TypeError, "data must be float32 or float64"),
        (lambda x: SphericalKDE(x.tolist(), 1.0), TypeError, "data must be a tensor"),
        (lambda x: SphericalKDE(x, -1.0), ValueError, "concentration must be nonnegative"),
        (lambda x: SphericalKDE(x, math.nan), ValueError, "concentration .* got NaN"),
        (lambda x: SphericalKDE(x, "a"), TypeError, "concentration must be a real tensor"),
        (
            lambda x: SphericalKDE(x.expand(2, 4, 3), torch.ones(3)),
            ValueError,
            r"concentration of shape \(3,\) does not broadcast with \(2,\)",
        ),
        (lambda x: SphericalKDE(x, 1.0, torch.ones(3)), ValueError, "weights of shape"),
        (lambda x: SphericalKDE(x, 1.0, -torch.ones(4)), ValueError, "weights must be nonneg"),
        (lambda x: SphericalKDE(x, 1.0, torch.zeros(4)), ValueError, "positive, finite sum"),
        (lambda x: SphericalKDE.fit(x[:1]), ValueError, "at least two .* got the number 1"),
        (lambda x: SphericalKDE.fit(x, torch.eye(4)), ValueError, "at least two"),
        (lambda x: SphericalKDE.fit(2 * x), ValueError, "data .* unit vectors"),
        (lambda x: SphericalKDE(x, torch.ones(2)).modes(), ValueError, r"batch shape \(2,\)"),
        (lambda x: SphericalKDE(x, 1.0).modes(x[:, :2]), ValueError, "starts"),
        (lambda x: SphericalKDE(x, 1.0).modes(x[None]), ValueError, r"starts must have shape"),
        (lambda x: SphericalKDE(x, 1.0).modes(2 * x), ValueError, "starts .* unit vectors"),
    ],
)
def test_errors(build: Callable[[Tensor], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build(directions(4, 3))


# --------------------------------------------------------------------------------------------------
# The concentration
# --------------------------------------------------------------------------------------------------


def left_out(data: Tensor, k: float, weights: Tensor | None = None) -> float:
    """The leave-one-out likelihood."""
    w = torch.ones(len(data), dtype=torch.float64) if weights is None else weights.double()
    log_density = VonMisesFisher(data.double(), k).log_prob(data.double().unsqueeze(-2))
    others = w.expand(len(data), -1) * (1 - torch.eye(len(data)))
    mixed = torch.logsumexp(log_density + others.log(), -1) - others.sum(-1).log()
    return ((w * mixed)[w > 0].sum() / w.sum()).item()


def brute_force(data: Tensor, weights: Tensor | None = None) -> float:
    """The concentration by a fine search."""
    tried = np.geomspace(1e-2, 1e6, 100)
    values = [left_out(data, k, weights) for k in tried]
    best = int(np.argmax(values))
    result = minimize_scalar(
        lambda log_k: -left_out(data, math.exp(log_k), weights),
        bounds=np.log(tried[[max(best - 1, 0), min(best + 1, 99)]]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return math.exp(result.x)


def samples_of(name: str) -> tuple[Tensor, Tensor | None]:
    torch.manual_seed(1)
    pole = torch.eye(3, dtype=torch.float64)[0]
    if name == "circle":
        return VonMisesFisher(pole[:2], 2.0).sample((25,)), None
    if name == "weights":
        return VonMisesFisher(directions(5), 10.0).sample((25,)), torch.rand(25).round(decimals=1)
    if name == "concentrated":
        return VonMisesFisher(pole, 2000.0).sample((25,)), None
    if name == "spread":
        return VonMisesFisher(pole, 0.5).sample((60,)), None
    # Pairs of near neighbours, and others.
    centres = VonMisesFisher(pole, 20.0).sample((12,))
    close = VonMisesFisher(centres, 1e5).sample((2,))
    return torch.cat([close.flatten(0, 1), VonMisesFisher(pole, 20.0).sample((6,))]), None


@pytest.mark.parametrize("name", ["circle", "weights", "concentrated", "spread", "pairs"])
def test_concentration(name: str) -> None:
    data, weights = samples_of(name)
    found = SphericalKDE.fit(data, weights).concentration.item()
    # the square root of rounding is what a search by values can tell
    assert abs(found / brute_force(data, weights) - 1) < 1e-6
    step = 1e-4 * found
    slope = left_out(data, found + step, weights) - left_out(data, found - step, weights)
    assert abs(slope / 2e-4) < 1e-6


def test_concentration_is_the_best_of_several_maxima() -> None:
    # Six pairs all around the circle: one maximum at 0, as their resultant is, one for each pair.
    chosen = []
    for half in (3.0, 5.0):
        middles = 60 * torch.arange(6)
        data = on_circle(*(middles + half).tolist(), *(middles - half).tolist())
        tried = np.geomspace(1e-2, 1e6, 200)
        values = [left_out(data, k) for k in tried]
        assert values[0] > values[1]
        assert sum(a < b > c for a, b, c in zip(values, values[1:], values[2:], strict=False)) == 1
        found = SphericalKDE.fit(data).concentration.item()
        assert left_out(data, found) >= max(*values, left_out(data, 0.0))
        chosen.append(found)
    assert chosen[0] > 50
    assert chosen[1] == 0


def test_concentrations_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    pole = torch.eye(4, dtype=torch.float64)[0]
    k = torch.tensor([[0.0, 3.0], [50.0, 1e6]], dtype=torch.float64)
    data = VonMisesFisher(pole, k).sample((30,)).movedim(0, -2)
    weights = torch.rand(2, 1, 30)
    together = SphericalKDE.fit(data, weights).concentration
    assert together.shape == (2, 2)
    monkeypatch.setattr(leave_one_out, "_BLOCK_PAIRS", 50)
    for i, j in np.ndindex(2, 2):
        alone = SphericalKDE.fit(data[i, j], weights[i, 0]).concentration
        torch.testing.assert_close(together[i, j], alone, rtol=1e-8, atol=0)


def test_concentration_of_float32_data() -> None:
    data, _ = samples_of("concentrated")
    rounded = SphericalKDE.fit(data.float())
    assert rounded.concentration.dtype == torch.float32
    exact = SphericalKDE.fit(data).concentration
    torch.testing.assert_close(rounded.concentration.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dim", [2, 3, 50])
@pytest.mark.parametrize("chord", [1e-6, 0.1, 1.0])
def test_two_data(dim: int, chord: float) -> None:
    # of which each is one draw of the other's kernel: A(k) is their cosine
    x, y = torch.zeros(2, dim, dtype=torch.float64)
    half = math.asin(chord / 2)
    x[0] = y[0] = math.cos(half)
    x[1], y[1] = math.sin(half), -math.sin(half)
    k = SphericalKDE.fit(torch.stack([x, y])).concentration.item()
    with mp.workdps(40):
        at = radial(dim, k)
        squared = mp.fsum((mp.mpf(a) - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True))
        assert abs(at.one_minus_mean / (squared / 2) - 1) < 1e-9


@pytest.mark.parametrize("weight", [1e-15, 1e-16, 1e-20, 1e-100, 1e-300])
def test_one_datum_of_nearly_all_weight(weight: float) -> None:
    # Each of two is predicted by the other, whatever their weights: A(k) is their cosine.
    x, weights = on_circle(0.0, 50.0), torch.tensor([1.0, weight], dtype=torch.float64)
    k = SphericalKDE.fit(x, weights).concentration.item()
    with mp.workdps(30):
        cosine = mp.fdot(*x.tolist())
        assert abs(radial(2, k).one_minus_mean / (1 - cosine) - 1) < 1e-9
    # Of more only the heavy one counts, which the others predict: log f_0(k) + log mean e^-kt.
    x = on_circle(0.0, 50.0, 20.0, -70.0)
    t = 1 - torch.cos(torch.deg2rad(torch.tensor([50.0, 20.0, 70.0], dtype=torch.float64)))
    k = SphericalKDE.fit(x, torch.tensor([1.0, *[weight] * 3], dtype=torch.float64)).concentration
    mean = ((-k * t).softmax(-1) * t).sum().item()
    with mp.workdps(30):
        assert abs(radial(2, k.item()).one_minus_mean / mean - 1) < 1e-6


def test_where_no_concentration_is_best() -> None:
    three = torch.eye(3)
    assert SphericalKDE.fit(three).concentration == 0  # at right angles
    assert SphericalKDE.fit(torch.cat([three, -three])).concentration == 0
    assert SphericalKDE.fit(three.repeat(2, 1)).concentration == math.inf
    assert SphericalKDE.fit(three[:1].repeat(5, 1)).concentration == math.inf
    some = torch.cat([directions(20, 3), directions(20, 3)[:5]])
    assert SphericalKDE.fit(some).concentration < math.inf
    # equal ones as weights are one datum
    data, _ = samples_of("circle")
    weights = torch.ones(25)
    weights[3] = 5
    assert (
        abs(SphericalKDE.fit(data, weights).concentration.item() / brute_force(data, weights) - 1)
        < 1e-6
    )
    # without weight they do not count
    doubled, zeros = torch.cat([data, data]), torch.arange(50) < 25
    found = SphericalKDE.fit(doubled, zeros.double()).concentration
    torch.testing.assert_close(found, SphericalKDE.fit(data).concentration)


def test_fit_is_consistent() -> None:
    # The divergence from the truth falls with n, and is less than that of other bandwidths.
    torch.manual_seed(0)
    truth = mixture(directions(3, 3), 10.0)
    test = truth.sample((3000,))
    lost = []
    for n in (50, 300, 1500):
        data = truth.sample((n,))
        density = SphericalKDE.fit(data)
        lost.append((truth.log_prob(test) - density.log_prob(test)).mean().item())
        for factor in (0.2, 5.0):
            other = SphericalKDE(data, factor * density.concentration)
            assert density.log_prob(test).mean() > other.log_prob(test).mean()
    assert lost[0] > lost[1] > lost[2] > 0
    assert lost[2] < 0.03


# --------------------------------------------------------------------------------------------------
# Modes
# --------------------------------------------------------------------------------------------------


def test_modes_on_the_circle() -> None:
    degrees, weights, k = (10.0, 60.0, 80.0, 200.0, 215.0), WEIGHTS + 0.5, 12.0
    density = SphericalKDE(on_circle(*degrees), k, weights)
    modes = density.modes()
    # The density is a trigonometric sum; its maxima by the roots of the derivative.
    with mp.workdps(30):
        rows = list(zip(map(mp.radians, degrees), weights.tolist(), strict=True))

        def slope(a: mp.mpf) -> mp.mpf:
            return mp.fsum(-w * mp.sin(a - b) * mp.exp(k * mp.cos(a - b)) for b, w in rows)

        grid = [mp.radians(x) for x in range(361)]
        brackets = [(a, b) for a, b in itertools.pairwise(grid) if slope(a) > 0 >= slope(b)]
        true = [mp.findroot(slope, pair, solver="anderson") for pair in brackets]
    assert len(true) == len(modes.directions) == 3
    found = torch.atan2(*modes.directions.flip(-1).T).remainder(2 * math.pi).sort().values
    torch.testing.assert_close(
        found, torch.tensor([float(a) for a in true], dtype=torch.float64), rtol=0, atol=1e-8
    )
    torch.testing.assert_close(modes.log_densities, density.log_prob(modes.directions))
    assert (modes.log_densities.diff() < 0).all()
    assert modes.labels.tolist() == [2, 1, 1, 0, 0]


@pytest.mark.parametrize("dim", [3, 10])
def test_modes_of_clusters(dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    centres = torch.eye(dim, dtype=dtype)[:3]
    k = torch.tensor([40.0, 60.0, 80.0], dtype=dtype)
    data = VonMisesFisher(centres, k).sample((150,))
    density = SphericalKDE(data.flatten(0, 1), 12.0)
    modes = density.modes()
    assert modes.directions.shape == (3, dim)
    assert modes.directions.dtype == modes.log_densities.dtype == dtype
    nearest = (centres @ modes.directions.T).argmax(-1)
    assert torch.equal(modes.labels, nearest.repeat(150))
    assert ((centres @ modes.directions.T).amax(-1) > 0.98).all()
    # nothing near is higher
    x = normalize(modes.directions.double(), dim=-1)
    around = normalize(x + 1e-3 * directions(50, 1, dim), dim=-1)
    law = SphericalKDE(normalize(density.data.double(), dim=-1), 12.0)
    assert (law.log_prob(around) < law.log_prob(x)).all()
    gradient = torch.func.grad(lambda x: law.log_prob(x).sum())(x)
    across = gradient - (gradient * x).sum(-1, keepdim=True) * x
    assert across.norm(dim=-1).max() < (1e-4 if dtype == torch.float32 else 1e-6)


def test_a_start_in_a_saddle_leaves_it() -> None:
    # By symmetry the mean shift from the middle stays there; the density is lowest there.
    data = on_circle(-60.0, 0.0, 60.0)
    density = SphericalKDE(data, 10.0, torch.tensor([1.0, 0.0, 1.0]))
    modes = density.modes(data)
    assert len(modes.directions) == 2
    middle = density.modes(data[1:2])
    assert density.log_prob(middle.directions) > density.log_prob(data[1]) + 0.1
    torch.testing.assert_close(density.modes().directions, modes.directions)


def test_flat_modes() -> None:
    # Two kernels become one mode where the angle between them is that of their inflection points:
    # with half angle a, k sin(a)^2 = cos(a). There the fourth derivative makes the maximum.
    k = 10.0
    cosine = (math.sqrt(1 + 4 * k * k) - 1) / (2 * k)
    half = math.degrees(math.acos(cosine))
    for factor, count in ((0.97, 1), (1.0, 1), (1.03, 2)):
        modes = SphericalKDE(on_circle(-factor * half, factor * half), k).modes()
        assert len(modes.directions) == count
        if count == 1:
            assert modes.directions[0, 1].abs() < 1e-2 / math.sqrt(k)


def test_modes_at_the_ends() -> None:
    data = directions(6, 3)
    resultant = normalize(data.sum(0), dim=-1)
    for k in (0.0, 1e-6):
        (mode,) = SphericalKDE(data, k).modes().directions
        torch.testing.assert_close(mode, resultant, rtol=0, atol=1e-6)
    for k in (1e12, math.inf):
        modes = SphericalKDE(data[[0, 1, 2, 2]], k).modes()
        torch.testing.assert_close(modes.directions[modes.labels], data[[0, 1, 2, 2]])
        assert modes.labels.tolist()[2:] == [0, 0]  # two on one are the highest
        assert modes.log_densities.isinf().all() == (k == math.inf)
    (alone,) = SphericalKDE(data[:1], 5.0).modes().directions
    torch.testing.assert_close(alone, data[0])


def test_the_same_whatever_the_seed() -> None:
    density = SphericalKDE(directions(20, 3), 20.0)
    torch.manual_seed(0)
    first, state = density.modes(), torch.get_rng_state()
    torch.manual_seed(1)
    for a, b in zip(first, density.modes(), strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())
