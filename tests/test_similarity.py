# Products of laws against mpmath, against what they mean, and at their limits.

from __future__ import annotations

import functools
import math
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from cases import assert_mean, directions
from reference import log_sphere_area
from vmfdist import HypersphericalUniform, PowerSpherical, VonMisesFisher
from vmfdist._numerics import chords
from vmfdist.similarity import (
    bhattacharyya_coefficient,
    hellinger_distance,
    log_product_integral,
    renyi_divergence,
)

# Values

DIGITS = 120  # up to 50 cancel


@functools.cache
def log_partition(dim: int, k: mp.mpf) -> mp.mpf:
    with mp.workdps(DIGITS):
        if not k:
            return mp.mpf(0)
        order = mp.mpf(dim) / 2 - 1
        return mp.log(mp.gamma(order + 1) * (2 / k) ** order * mp.besseli(order, k))


def log_mean_of_powers(p: VonMisesFisher, q: VonMisesFisher, alpha: float, beta: float) -> mp.mpf:
    """The log mean over the sphere of the product of powers of densities, relative to uniform."""
    k1, k2 = (mp.mpf(law.concentration.item()) for law in (p, q))
    pairs = zip(p.loc.tolist(), q.loc.tolist(), strict=True)
    cosine = 1 - mp.fsum((mp.mpf(a) - mp.mpf(b)) ** 2 for a, b in pairs) / 2
    a, b = mp.mpf(alpha), mp.mpf(beta)
    square = (a * k1) ** 2 + (b * k2) ** 2 + 2 * a * b * k1 * k2 * cosine
    k = mp.sqrt(max(square, mp.mpf(0)))
    return log_partition(p.dim, k) - a * log_partition(p.dim, k1) - b * log_partition(p.dim, k2)


def pair(dim: int, k1: float, k2: float, angle: float, dtype: torch.dtype) -> tuple[Any, Any]:
    """Two laws whose directions are at an angle, in a plane where little is rounded."""
    locs = torch.zeros(2, dim, dtype=torch.float64)
    locs[0, 0] = 1
    locs[1, 0], locs[1, 1] = math.cos(angle), math.sin(angle)
    if angle == math.pi:
        locs[1] = -locs[0]
    ks = torch.tensor([k1, k2], dtype=torch.float64)
    return tuple(
        VonMisesFisher(loc, k) for loc, k in zip(locs.to(dtype), ks.to(dtype), strict=True)
    )


pairs = pytest.mark.parametrize(
    ("k1", "k2", "angle"),
    [
        pytest.param(0.0, 3.0, 1.0, id="uniform"),
        pytest.param(0.0, 0.0, 1.0, id="both-uniform"),
        pytest.param(2.0, 5.0, 1.0, id="apart"),
        pytest.param(5.0, 5.0, 1e-3, id="near"),
        pytest.param(5.0, 5.0 + 1e-4, 0.0, id="nearly-equal"),
        pytest.param(1e4, 1e4, 1e-5, id="high-and-near"),
        pytest.param(1e3, 1e-3, 2.0, id="high-and-low"),
        pytest.param(300.0, 300.0, 3.0, id="nearly-opposite"),
        pytest.param(300.0, 300.0, math.pi, id="opposite"),
        pytest.param(1e-6, 1e-5, 1.0, id="low"),
    ],
)


@pairs
@pytest.mark.parametrize("dim", [2, 3, 10])
def test_values(dim: int, k1: float, k2: float, angle: float, dtype: torch.dtype) -> None:
    p, q = pair(dim, k1, k2, angle, dtype)
    eps = torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).tiny

    def off(found: Tensor, expected: mp.mpf, scale: mp.mpf) -> bool:
        assert found.dtype == dtype
        return abs(mp.mpf(found.item()) - expected) > 64 * eps * scale + tiny

    with mp.workdps(DIGITS):
        for order in (0.25, 0.5, 2.0):  # 1 - order is exact
            expected = log_mean_of_powers(p, q, order, 1 - order) / (mp.mpf(order) - 1)
            assert not off(renyi_divergence(p, q, order), expected, abs(expected))
        log_affinity = log_mean_of_powers(p, q, 0.5, 0.5)
        affinity = mp.exp(log_affinity)
        assert not off(bhattacharyya_coefficient(p, q), affinity, affinity * (1 - log_affinity))
        distance = mp.sqrt(-mp.expm1(log_affinity))
        assert not off(hellinger_distance(p, q), distance, distance)
        product = log_mean_of_powers(p, q, 1, 1) - log_sphere_area(dim)
        assert not off(log_product_integral(p, q), product, abs(product) + 1)


def test_the_law_of_largest_concentrations(dtype: torch.dtype) -> None:
    # Normal laws of the tangent space in the limit, of variance 1/k.
    largest, eps = torch.finfo(dtype).max, torch.finfo(dtype).eps
    loc = directions(4, dtype=dtype)
    p, q = VonMisesFisher(loc, largest / 8), VonMisesFisher(loc, largest)
    expected = (2 * math.sqrt(8) / 9) ** 1.5
    assert bhattacharyya_coefficient(p, q).item() == pytest.approx(expected, rel=1e3 * eps)
    for law in (p, q):
        assert renyi_divergence(law, law, 2.0) == 0
        assert hellinger_distance(law, law) == 0


@pytest.mark.parametrize("towards", [(1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.6, 0.8, 0.0)])
def test_gradients_at_the_largest_concentrations(
    towards: tuple[float, ...], dtype: torch.dtype
) -> None:
    # Of laws with opposite directions the slope in the directions is of order k^2.
    largest = torch.finfo(dtype).max
    for k in (largest**0.6, largest / 8, largest):
        parameters = [torch.tensor(x, dtype=dtype) for x in ((1.0, 0.0, 0.0), k, towards, k)]
        loc1, k1, loc2, k2 = (x.requires_grad_() for x in parameters)
        p, q = VonMisesFisher(loc1, k1), VonMisesFisher(loc2, k2)
        for value in (
            log_product_integral(p, q),
            bhattacharyya_coefficient(p, q),
            hellinger_distance(p, q),
            *(renyi_divergence(p, q, order) for order in (0.5, 1, 2)),
            p.conjugate_update(q)[1],
        ):
            assert not value.isnan()
            for grad in torch.autograd.grad(value, (loc1, k1, loc2, k2)):
                assert not grad.isnan().any()


def test_they_are_means_of_densities() -> None:
    p, q = VonMisesFisher(directions(4), 3.0), VonMisesFisher(directions(4, seed=2), 8.0)
    for first, second in ((p, q), (p, HypersphericalUniform(4, dtype=torch.float64))):
        draws = first.sample((20_000,))
        ratio = second.log_prob(draws) - first.log_prob(draws)
        integral = log_product_integral(first, second)
        assert_mean(torch.exp(second.log_prob(draws) - integral), 1.0)
        assert_mean(torch.exp(ratio / 2), bhattacharyya_coefficient(first, second))
        divergence = renyi_divergence(first, second, 0.7)
        assert_mean(torch.exp(0.3 * (ratio + divergence)), 1.0)


def test_the_product_integral_is_the_evidence_of_an_update(dtype: torch.dtype) -> None:
    p = VonMisesFisher(directions(5, 1, 3, dtype=dtype), 3.0)
    q = VonMisesFisher(directions(4, 3, dtype=dtype, seed=2), 8.0)
    torch.testing.assert_close(log_product_integral(p, q), p.conjugate_update(q)[1])


def test_the_order_passes_through_the_kullback_leibler_divergence() -> None:
    p, q = pair(3, 2.0, 5.0, 1.0, torch.float64)
    expected = kl_divergence(p, q)
    assert renyi_divergence(p, q, 1) == expected
    for order in (1 - 1e-9, 1 + 1e-9):
        torch.testing.assert_close(renyi_divergence(p, q, order), expected, rtol=1e-8, atol=0)


# Limits


def test_point_masses(dtype: torch.dtype) -> None:
    loc, other = torch.eye(3, dtype=dtype)[:2]
    point, same, elsewhere = (VonMisesFisher(x, math.inf) for x in (loc, loc, other))
    wide = VonMisesFisher(other, 2.0)
    torch.testing.assert_close(log_product_integral(point, wide), wide.log_prob(loc))
    torch.testing.assert_close(log_product_integral(wide, point), wide.log_prob(loc))
    assert log_product_integral(point, same) == math.inf
    assert log_product_integral(point, elsewhere) == -math.inf
    for law in (wide, elsewhere, HypersphericalUniform(3, dtype=dtype)):
        for p, q in ((point, law), (law, point)):
            assert bhattacharyya_coefficient(p, q) == 0
            assert hellinger_distance(p, q) == 1
            assert all(renyi_divergence(p, q, order) == math.inf for order in (0.5, 1, 2))
    assert bhattacharyya_coefficient(point, same) == 1
    assert hellinger_distance(point, same) == 0
    assert all(renyi_divergence(point, same, order) == 0 for order in (0.5, 1, 2))


def test_curvatures_at_the_natural_parameter_zero() -> None:
    # The log-partition begins with the square of the natural parameter over 2 d.
    dim, uniform = 3, HypersphericalUniform(3, dtype=torch.float64)
    curvatures = {
        0.0: log_product_integral,
        0.5 / dim: lambda p, q: renyi_divergence(p, q, 0.5),
        2.0 / dim: lambda p, q: renyi_divergence(p, q, 2.0),
    }
    for expected, function in curvatures.items():
        for other in (uniform, VonMisesFisher.from_natural(torch.zeros(dim, dtype=torch.float64))):

            def of(eta: Tensor, function: Any = function, other: Any = other) -> Tensor:
                return function(VonMisesFisher.from_natural(eta), other)

            found = torch.autograd.functional.hessian(of, torch.zeros(dim, dtype=torch.float64))
            torch.testing.assert_close(found, expected * torch.eye(dim, dtype=torch.float64))


def test_the_uniform_law_is_that_of_concentration_zero(dtype: torch.dtype) -> None:
    uniform = HypersphericalUniform(4, dtype=dtype)
    flat, law = VonMisesFisher(directions(4, dtype=dtype), 0.0), VonMisesFisher(directions(4), 3.0)
    for function in (
        log_product_integral,
        bhattacharyya_coefficient,
        hellinger_distance,
        lambda p, q: renyi_divergence(p, q, 2.0),
    ):
        torch.testing.assert_close(function(law, uniform), function(law, flat))
        torch.testing.assert_close(function(uniform, law), function(flat, law))
        torch.testing.assert_close(function(uniform, uniform), function(flat, flat))
    assert bhattacharyya_coefficient(uniform, uniform) == 1


# Derivatives

FUNCTIONS = [
    pytest.param(log_product_integral, id="product"),
    pytest.param(bhattacharyya_coefficient, id="bhattacharyya"),
    pytest.param(hellinger_distance, id="hellinger"),
    pytest.param(lambda p, q: renyi_divergence(p, q, 0.3), id="renyi"),
    pytest.param(lambda p, q: renyi_divergence(p, q, 2.0), id="renyi-of-order-2"),
]
functions = pytest.mark.parametrize("function", FUNCTIONS)


@functions
@pytest.mark.parametrize("ks", [(2.0, 5.0), (0.0, 3.0), (40.0, 40.0)])
def test_derivatives(function: Any, ks: tuple[float, float]) -> None:
    locs = [(directions(3, seed=s) * 1.3).requires_grad_() for s in (1, 2)]
    given = [torch.tensor(k, dtype=torch.float64, requires_grad=True) for k in ks]

    def similarity(loc1: Tensor, loc2: Tensor, k1: Tensor, k2: Tensor) -> Tensor:
        loc1, loc2 = normalize(loc1, dim=-1), normalize(loc2, dim=-1)
        p, q = (VonMisesFisher(loc, k, validate_args=False) for loc, k in ((loc1, k1), (loc2, k2)))
        return function(p, q)

    assert torch.autograd.gradcheck(similarity, (*locs, *given), check_forward_ad=ks[0] > 0)
    if ks[0]:
        assert torch.autograd.gradgradcheck(similarity, (*locs, *given))


@functions
@pytest.mark.parametrize("scale", [0.0, 1e-3, 3.0])
def test_derivatives_in_natural_parameters(function: Any, scale: float) -> None:
    eta1 = (scale * directions(3)).requires_grad_()
    eta2 = (2 * directions(3, seed=2)).requires_grad_()

    def similarity(eta1: Tensor, eta2: Tensor) -> Tensor:
        return function(
            *(VonMisesFisher.from_natural(x, validate_args=False) for x in (eta1, eta2))
        )

    assert torch.autograd.gradcheck(similarity, (eta1, eta2))
    assert torch.autograd.gradgradcheck(similarity, (eta1, eta2))


@functions
def test_gradients_are_finite_where_the_laws_coincide_or_oppose(function: Any) -> None:
    loc = directions(3)
    for other in (loc, -loc):
        given = [loc.clone(), other.clone(), *torch.tensor([4.0, 4.0], dtype=loc.dtype)]
        given = [x.requires_grad_() for x in given]
        result = function(VonMisesFisher(given[0], given[2]), VonMisesFisher(given[1], given[3]))
        assert all(x.isfinite().all() for x in torch.autograd.grad(result, given))


# Shapes


@functions
def test_all_pairs(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chords, "_FEWEST_NUMBERS", 1)
    locs = directions(6, 5).requires_grad_(), directions(7, 5, seed=2).requires_grad_()
    ks = (torch.rand(n, dtype=torch.float64) * 20 for n in (6, 7))
    k1, k2 = (k.requires_grad_() for k in ks)
    p, q = VonMisesFisher(locs[0].unsqueeze(1), k1.unsqueeze(1)), VonMisesFisher(locs[1], k2)
    found = function(p, q)
    copies = [
        x.expand(6, 7, *x.shape[2:]).clone()
        for x in (locs[0].unsqueeze(1), k1.unsqueeze(1), locs[1].unsqueeze(0), k2.unsqueeze(0))
    ]
    expected = function(VonMisesFisher(*copies[:2]), VonMisesFisher(*copies[2:]))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    given, upstream = (*locs, k1, k2), directions(6, 7)
    torch.testing.assert_close(
        torch.autograd.grad(found, given, upstream),
        torch.autograd.grad(expected, given, upstream),
        rtol=1e-10,
        atol=1e-12,
    )
    etas = [
        (k.unsqueeze(-1) * loc).detach().requires_grad_()
        for k, loc in zip((k1, k2), locs, strict=True)
    ]
    natural = function(*(VonMisesFisher.from_natural(x) for x in (etas[0].unsqueeze(1), etas[1])))
    torch.testing.assert_close(natural, found)
    assert all(x.isfinite().all() for x in torch.autograd.grad(natural.sum(), etas))


def test_batch_shapes_broadcast() -> None:
    p = VonMisesFisher(directions(3), 2.0).expand((2, 1))
    uniform = HypersphericalUniform(3, (4,), dtype=torch.float64)
    for q in (VonMisesFisher(directions(4, 3), 3.0), uniform):
        assert log_product_integral(p, q).shape == (2, 4)
        assert renyi_divergence(q, p, 2.0).shape == (2, 4)
    assert hellinger_distance(uniform, uniform).shape == (4,)
    single = VonMisesFisher(directions(3, dtype=torch.float32), 2.0)
    assert log_product_integral(single, p).dtype == torch.float64


# Bad input


def test_errors() -> None:
    law = VonMisesFisher(directions(3), 2.0)
    for order in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="order must be positive and finite"):
            renyi_divergence(law, law, order)
    with pytest.raises(TypeError, match="order must be a real number, got Tensor"):
        renyi_divergence(law, law, torch.tensor(2.0))  # type: ignore[arg-type]
    power = PowerSpherical(directions(3), 2.0)
    for order in (0.5, 1):
        with pytest.raises(TypeError, match=r"q must be a VonMisesFisher .* got PowerSpherical"):
            renyi_divergence(law, power, order)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"dimension 3 \(VonMis.* and 4 \(Hypersph"):
            renyi_divergence(law, HypersphericalUniform(4), order)
    words = r"broadcast to have something in common, got \(2,\) .* and \(3,\)"
    with pytest.raises(ValueError, match=words):
        log_product_integral(law.expand((2,)), law.expand((3,)))
