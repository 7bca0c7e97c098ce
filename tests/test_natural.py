# Laws made of their natural parameter: derivatives in it, at 0, next to it and far out.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from cases import assert_mean, directions
from reference import radial
from vmfdist import HypersphericalUniform, PowerSpherical, VonMisesFisher

DIM = 3
VALUE = directions(DIM, seed=3)
OTHER = directions(DIM, seed=4)


def natural(v: Tensor) -> VonMisesFisher:
    return VonMisesFisher.from_natural(v, validate_args=False)


def ordinary(loc: Tensor, k: float) -> VonMisesFisher:
    return VonMisesFisher(loc, k, validate_args=False)


def product(v: Tensor) -> VonMisesFisher:
    """The law with natural parameter v, as the posterior of another one."""
    return natural(v - 2 * OTHER).conjugate_update(ordinary(OTHER, 2.0))[0]


def cases(*picks: tuple[str, Callable[[VonMisesFisher], Tensor]]) -> list[Any]:
    return [pytest.param(pick, id=name) for name, pick in picks]


SCALARS = cases(
    ("log_prob", lambda law: law.log_prob(VALUE)),
    ("log_normalizer", lambda law: law.log_normalizer),
    ("entropy", lambda law: law.entropy()),
    ("kl-uniform", lambda law: kl_divergence(law, HypersphericalUniform(DIM))),
    ("uniform-kl", lambda law: kl_divergence(HypersphericalUniform(DIM), law)),
    ("kl-vmf", lambda law: kl_divergence(law, ordinary(OTHER, 2.0))),
    ("vmf-kl", lambda law: kl_divergence(ordinary(OTHER, 2.0), law)),
    ("kl-natural", lambda law: kl_divergence(law, natural(2.0 * OTHER))),
    ("natural-kl", lambda law: kl_divergence(natural(2.0 * OTHER), law)),
    ("ps-kl", lambda law: kl_divergence(PowerSpherical(OTHER, 2.0), law)),
    ("evidence", lambda law: law.conjugate_update(ordinary(OTHER, 2.0))[1]),
    ("evidence-of-it", lambda law: ordinary(OTHER, 2.0).conjugate_update(law)[1]),
)
TENSORS = cases(
    ("mean", lambda law: law.mean),
    ("variance", lambda law: law.variance),
    ("covariance", lambda law: law.covariance_matrix),
    ("eigenvalues", lambda law: torch.stack(tuple(law.covariance_eigenvalues))),
    ("mean-of-posterior", lambda law: law.conjugate_update(ordinary(OTHER, 2.0))[0].mean),
)
_Pick = Callable[[VonMisesFisher], Tensor]


# By differences, in every mode of differentiation


V = torch.stack([0 * VALUE, 1.7 * VALUE])


def assert_derivatives(function: Callable[..., Tensor], *arguments: Tensor) -> None:
    arguments = tuple(x.clone().requires_grad_() for x in arguments)
    check = {"fast_mode": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(function, arguments, check_forward_ad=True, **check)
    assert torch.autograd.gradgradcheck(function, arguments, check_fwd_over_rev=True, **check)


@pytest.mark.parametrize("pick", SCALARS + TENSORS)
def test_derivatives(pick: _Pick) -> None:
    assert_derivatives(lambda v: pick(natural(v)), V)


@pytest.mark.parametrize("pick", [SCALARS[0], SCALARS[3], TENSORS[0]])
def test_derivatives_in_the_parameter_of_a_posterior(pick: _Pick) -> None:
    assert_derivatives(lambda v: pick(product(v)), V)


@pytest.mark.parametrize("pick", SCALARS[:3])
def test_third_derivatives(pick: _Pick) -> None:
    def curvature(v: Tensor) -> Tensor:
        return torch.func.hessian(lambda v: pick(natural(v)))(v)

    for v in V:
        assert torch.autograd.gradcheck(curvature, v.clone().requires_grad_())


def test_both_laws_of_a_divergence() -> None:
    v2 = torch.stack([0 * OTHER, 1.3 * OTHER])
    raw, k = 1.2 * directions(2, DIM, seed=6), torch.tensor([0.5, 4.0], dtype=torch.float64)

    def both(v1: Tensor, v2: Tensor) -> Tensor:
        p, q = natural(v1), natural(v2)
        return torch.stack([kl_divergence(p, q), p.conjugate_update(q)[1]])

    def mixed(v: Tensor, raw: Tensor, k: Tensor) -> Tensor:
        p, loc = natural(v), normalize(raw, dim=-1)
        q, ps = (law(loc, k, validate_args=False) for law in (VonMisesFisher, PowerSpherical))
        divergences = kl_divergence(p, q), kl_divergence(q, p), kl_divergence(ps, p)
        return torch.stack([*divergences, p.conjugate_update(q)[1]])

    assert_derivatives(both, V, v2)
    arguments = tuple(x.requires_grad_() for x in (V.clone(), raw, k))
    assert torch.autograd.gradcheck(mixed, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(mixed, arguments, fast_mode=True)


def test_values_and_laws_together() -> None:
    def function(v: Tensor, raw: Tensor) -> Tensor:
        return natural(v).log_prob(normalize(raw, dim=-1))

    assert_derivatives(function, V, 1.2 * directions(4, 1, DIM, seed=6))


@pytest.mark.parametrize(("pick", "order"), [(SCALARS[1].values[0], 5), (SCALARS[2].values[0], 4)])
def test_higher_derivatives_are_refused(pick: _Pick, order: int) -> None:
    v = (1.7 * VALUE).requires_grad_()
    result = pick(natural(v))
    with pytest.raises(NotImplementedError, match="differentiate fewer times"):  # noqa: PT012
        for n in range(order):
            (grad,) = torch.autograd.grad(result, v, create_graph=True)
            result = grad.square().sum()
            assert n < order - 1


# Against mpmath, and by what they are at 0


def radial_matrix(mu: Tensor, along: Any, across: Any) -> Tensor:
    """along mu mu^T + across (1 - mu mu^T), in float64."""
    outer = torch.outer(mu.double(), mu.double())
    rest = torch.eye(len(mu), dtype=torch.float64) - outer
    return float(along) * outer + float(across) * rest


def assert_matrix(found: Tensor, expected: Tensor, ulps: float, axis: bool) -> None:
    """To the norm; of a law along an axis the two eigenvalues each for itself."""
    eps = torch.finfo(found.dtype).eps
    found = found.double()
    assert (found - expected).abs().max() <= ulps * eps * expected.abs().max()
    if axis:
        torch.testing.assert_close(found.diag(), expected.diag(), rtol=ulps * eps, atol=0)


LENGTHS = {
    torch.float64: (0.0, 5e-324, 1e-300, 1e-3, 2.0, 40.0, 1e12),
    torch.float32: (0.0, 1e-45, 1e-38, 1e-3, 2.0, 1e12),
}


@pytest.mark.parametrize("axis", [True, False])
@pytest.mark.parametrize("dim", [2, 20])
def test_gradients_and_hessians(dim: int, axis: bool, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    mu = torch.eye(dim, dtype=dtype)[0] if axis else directions(dim, dtype=dtype)
    x = directions(dim, dtype=dtype, seed=5)
    for length in LENGTHS[dtype]:
        v = mu * length
        k = math.hypot(*v.tolist())  # as the entries are rounded
        tiny = k < 1e-30
        at = radial(dim, 0.0 if tiny else k)
        across = 1 / dim if tiny else at.mean / k
        direction = normalize(v.double() / length if length else mu.double(), dim=-1)
        mean = k / dim * direction if tiny else float(at.mean) * direction
        hessian = radial_matrix(direction, at.variance, across)

        gradient = torch.func.grad(lambda v: natural(v).log_normalizer)(v)
        atol = 0 if k > 1e-30 else 2 * torch.finfo(dtype).smallest_normal * eps
        assert (gradient.double() - mean).abs().max() <= 16 * eps * mean.abs().max() + atol
        torch.testing.assert_close(natural(v).mean, gradient)
        assert_matrix(torch.func.hessian(lambda v: natural(v).log_normalizer)(v), hessian, 16, axis)
        assert_matrix(torch.func.jacrev(lambda v: natural(v).mean)(v), hessian, 16, axis)

        # log f(x): x - mean and minus the same; (x - mu) + (1 - A) mu keeps its digits
        gradient = torch.func.grad(lambda v: natural(v).log_prob(x))(v)
        assert (gradient.double() - (x.double() - mean)).abs().max() <= 8 * eps
        assert_matrix(torch.func.hessian(lambda v: natural(v).log_prob(x))(v), -hessian, 16, axis)

        # entropy: -A' v and -(A' + k A'') along, -A' across
        gradient = torch.func.grad(lambda v: natural(v).entropy())(v)
        expected = -float(at.variance) * v.double()
        assert (gradient.double() - expected).abs().max() <= 16 * eps * expected.abs().max() + atol
        curved = at.variance + k * at.third_cumulant
        found = torch.func.hessian(lambda v: natural(v).entropy())(v)
        assert_matrix(found, -radial_matrix(direction, curved, at.variance), 256, axis)


def test_the_density_near_the_mode_keeps_the_digits_of_its_gradient(dtype: torch.dtype) -> None:
    k = 1e8
    mu = torch.eye(3, dtype=dtype)[0]
    x = normalize(torch.tensor([1.0, 1e-5, 0.0], dtype=torch.float64), dim=-1)
    gradient = torch.func.grad(lambda v: natural(v).log_prob(x.to(dtype)))(k * mu)
    expected = torch.tensor([1e-8 - 5e-11, 1e-5, 0.0], dtype=torch.float64)
    atol = 1e-7 * 1e-8 if dtype == torch.float64 else 1e-11
    # float32 knows x[0] = 1 only
    expected[0] = expected[0] if dtype == torch.float64 else 1e-8
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("length", [0.0, 1e-300, 1e12, 1e300])
def test_divergences_of_neighbours(length: float) -> None:
    # Bregman divergences: the Hessian in either argument where both are equal is that of Phi
    v = length * torch.eye(3, dtype=torch.float64)[0]
    expected = torch.func.hessian(lambda v: natural(v).log_normalizer)(v)
    for function in (
        lambda x: kl_divergence(natural(x), natural(v)),
        lambda x: kl_divergence(natural(v), natural(x)),
    ):
        assert function(v) == 0
        assert (torch.func.grad(function)(v) == 0).all()
        torch.testing.assert_close(torch.func.hessian(function)(v), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("pick", SCALARS + TENSORS)
def test_nothing_overflows(pick: _Pick) -> None:
    lengths = torch.tensor([[5e-324], [1e-300], [1e150], [1e307]], dtype=torch.float64)
    v = (lengths * VALUE).requires_grad_()
    (grad,) = torch.autograd.grad(pick(natural(v)).sum(), v, create_graph=True)
    assert grad.isfinite().all()
    (second,) = torch.autograd.grad(grad.sum(), v)
    assert second.isfinite().all()


# In other surroundings


@pytest.mark.parametrize("pick", [SCALARS[0], SCALARS[2], SCALARS[10], TENSORS[2]])
def test_vmap(pick: _Pick) -> None:
    def derivative(v: Tensor) -> Tensor:
        return torch.func.jacfwd(lambda v: pick(natural(v)))(v)

    each = torch.stack([derivative(row) for row in V])
    torch.testing.assert_close(torch.func.vmap(derivative)(V), each)
    reverse = torch.func.vmap(torch.func.jacrev(lambda v: pick(natural(v))))(V)
    torch.testing.assert_close(reverse, each)


def negative_elbo(v: Tensor) -> Tensor:
    law = natural(v)
    divergence = kl_divergence(law, HypersphericalUniform(DIM, dtype=v.dtype, validate_args=False))
    return (divergence - law.mean @ VALUE).sum()


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda v: natural(v).mean.square().sum(), id="mean"),
        pytest.param(
            lambda v: natural(v).log_prob(VALUE).sum(), id="log_prob", marks=pytest.mark.slow
        ),
        pytest.param(negative_elbo, id="elbo", marks=pytest.mark.slow),
        pytest.param(lambda v: natural(v).variance.sum(), id="variance", marks=pytest.mark.slow),
    ],
)
def test_compile(loss: Callable[[Tensor], Tensor]) -> None:
    v = V.clone().requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = [(value, *torch.autograd.grad(value, v)) for value in (compiled(v), loss(v))]
    torch.testing.assert_close(*results)


def test_expanded_copied_and_assigned() -> None:
    v = torch.zeros(2, DIM, dtype=torch.float64, requires_grad=True)
    law = natural(v).expand((5, 2))
    (grad,) = torch.autograd.grad(law.log_prob(VALUE).sum(), v)
    torch.testing.assert_close(grad, 5 * VALUE.expand(2, -1))
    law.concentration = 2.0  # a law of loc and concentration from here on
    assert torch.equal(law.mean, ordinary(law.loc, 2.0).mean)
    with torch.no_grad():
        assert torch.equal(
            natural(v).log_prob(VALUE), ordinary(VALUE, 0.0).log_prob(VALUE).expand(2)
        )


def test_a_law_that_nobody_differentiates_costs_what_it_cost() -> None:
    v = 2 * VALUE
    assert natural(v).log_prob(VALUE).grad_fn is None
    value = VALUE.clone().requires_grad_()
    (grad,) = torch.autograd.grad(natural(v).log_prob(value), value)
    (expected,) = torch.autograd.grad(ordinary(VALUE, 2.0).log_prob(value), value)
    torch.testing.assert_close(grad, expected)


# Draws


def draws_and_gradients(v: Tensor, upstream: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Draws, and the gradient of <upstream, x> in the natural parameter for each of them."""
    rows = v.expand(n, -1).clone().requires_grad_()
    x = natural(rows).rsample()
    (grad,) = torch.autograd.grad(x, rows, upstream.expand_as(x))
    return x.detach(), grad


@pytest.mark.parametrize("length", [0.0, 1e-45, 1e-38, 1e-6])
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_draws_next_to_the_uniform_law(dim: int, length: float, dtype: torch.dtype) -> None:
    g = directions(dim, dtype=dtype, seed=2)
    x, grad = draws_and_gradients(length * directions(dim, dtype=dtype), g, 100)
    along = (x @ g).unsqueeze(-1)
    expected = (g - along * x) / (dim - 1)
    torch.testing.assert_close(grad, expected, rtol=0, atol=8 * torch.finfo(dtype).eps + 5 * length)


@pytest.mark.parametrize("dim", [2, 3, 10])
@pytest.mark.parametrize("share", [0.0, 0.6, 0.95, 20.0])
def test_gradients_of_draws_are_unbiased(dim: int, share: float) -> None:
    v = share * dim / 2 * directions(dim)
    a = directions(dim, seed=2)
    rows = v.expand(20_000, -1).clone().requires_grad_()
    x = natural(rows).rsample()
    assert_mean(x, natural(v).mean)
    linear, square = x @ a, (x @ a).square()
    (expected,) = torch.autograd.functional.vjp(lambda v: natural(v).mean, v, a)[1:]
    (found,) = torch.autograd.grad(linear.sum(), rows, retain_graph=True)
    assert_mean(found, expected)

    def second_moment(v: Tensor) -> Tensor:
        law = natural(v)
        return a @ law.covariance_matrix @ a + (law.mean @ a).square()

    (found,) = torch.autograd.grad(square.sum(), rows)
    assert_mean(found, torch.func.grad(second_moment)(v))
    assert (found.norm(dim=-1) < 10).all()


@pytest.mark.parametrize("share", [1.02, 7.0, 1e12, 1e30])
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_above_half_the_dimension_draws_are_rotated(dim: int, share: float) -> None:
    mu, g, k = directions(dim), directions(dim, seed=2), share * dim / 2
    torch.manual_seed(3)
    _, found = draws_and_gradients(k * mu, g, 50)
    torch.manual_seed(3)
    raw = (k * mu).expand(50, -1).clone().requires_grad_()
    x = VonMisesFisher(normalize(raw, dim=-1), raw.norm(dim=-1)).rsample()
    (expected,) = torch.autograd.grad(x, raw, g.expand_as(x))
    torch.testing.assert_close(k * found, k * expected, rtol=0, atol=1e-12)


def test_second_derivatives_of_draws_are_refused() -> None:
    v = (0.5 * VALUE).requires_grad_()
    (grad,) = torch.autograd.grad(natural(v).rsample()[0], v, create_graph=True)
    with pytest.raises(NotImplementedError, match="can be differentiated once"):
        torch.autograd.grad(grad.sum(), v)


def test_per_sample_gradients_of_draws() -> None:
    v = torch.stack([0 * VALUE, 0.5 * VALUE, 30 * VALUE])

    def first(v: Tensor) -> Tensor:
        return natural(v).rsample()[0]

    torch.manual_seed(2)
    mapped = torch.func.vmap(torch.func.grad(first), randomness="same")(v)
    for row, found in zip(v, mapped, strict=True):
        torch.manual_seed(2)
        torch.testing.assert_close(found, torch.func.grad(first)(row), rtol=1e-9, atol=1e-12)


# What it is for


def test_a_regression_that_starts_at_zero() -> None:
    # targets from the law of inputs @ weights; in three dimensions the density is elementary
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(400, 4, dtype=torch.float64, generator=generator)
    true = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    targets = natural(inputs @ true).sample()

    def loss(flat: np.ndarray) -> float:
        v = inputs.numpy() @ flat.reshape(4, 3)
        k = np.maximum(np.linalg.norm(v, axis=-1), 1e-8)
        log_sinh = k + np.log1p(-np.exp(-2 * k)) - math.log(2)
        return -np.sum((v * targets.numpy()).sum(-1) + np.log(k / (4 * math.pi)) - log_sinh)

    best = optimize.minimize(loss, 0.1 * true.numpy().ravel(), method="BFGS", tol=1e-9)

    weights = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        nll = -natural(inputs @ weights).log_prob(targets).sum()
        nll.backward()
        return nll

    start = solver.step(closure)
    assert abs(start.item() - 400 * math.log(4 * math.pi)) < 1e-9  # nats of the uniform law
    assert abs(closure().item() - best.fun) < 1e-6
    assert best.fun < start.item() - 100
    torch.testing.assert_close(
        weights.detach(), torch.from_numpy(best.x.reshape(4, 3)), rtol=1e-3, atol=1e-3
    )
