# Products of von Mises-Fisher densities, and laws from their natural parameter and from their mean.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate
from torch import Tensor
from torch.nn.functional import normalize

from cases import directions
from reference import radial
from strategies import LARGEST, concentrations, dims, dtypes, in_dtype, nearby, unit_vectors
from vmfdist import HypersphericalUniform, VonMisesFisher

small_dims = st.sampled_from((2, 3, 4, 7, 20, 64))


def exact(x: Tensor) -> list[mp.mpf]:
    """The unit vector along ``x``: what a rounded direction stands for."""
    entries = [mp.mpf(v) for v in x.tolist()]
    norm = mp.sqrt(mp.fsum(v * v for v in entries))
    return [v / norm for v in entries]


def axes(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.eye(3, dtype=dtype)


# --------------------------------------------------------------------------------------------------
# The natural parameter
# --------------------------------------------------------------------------------------------------


@example(dim=3, length=1e-30, dtype=torch.float32)
@example(dim=512, length=1e30, dtype=torch.float32)
@example(dim=3, length=1e-44, dtype=torch.float32)  # a subnormal number
@example(dim=3, length=1e300, dtype=torch.float64)
@given(dim=dims, length=st.floats(-30, 30).map(lambda x: 10.0**x), dtype=dtypes)
def test_from_natural(dim: int, length: float, dtype: torch.dtype) -> None:
    vector = (directions(dim) * length).to(dtype)
    law = VonMisesFisher.from_natural(vector, validate_args=True)
    assert law.loc.dtype == law.concentration.dtype == dtype
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal
    with mp.workdps(40):
        expected = mp.sqrt(mp.fsum(mp.mpf(v) ** 2 for v in vector.tolist()))
        assert abs(law.concentration.item() - expected) <= 8 * eps * expected + eps * tiny
        for found, right in zip(law.loc.tolist(), exact(vector), strict=True):
            assert abs(found - right) <= 8 * eps


def test_the_natural_parameter_zero_is_the_uniform_law(dtype: torch.dtype) -> None:
    vector = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    law = VonMisesFisher.from_natural(vector)
    assert law.batch_shape == (2,)
    torch.testing.assert_close(law.loc, axes(dtype)[[0, 0]])
    assert (law.concentration == 0).all()
    (grad,) = torch.autograd.grad((law.log_prob(axes(dtype)[1]) + law.entropy()).sum(), vector)
    assert torch.equal(grad, axes(dtype)[[1, 1]])


# --------------------------------------------------------------------------------------------------
# The mean
# --------------------------------------------------------------------------------------------------


@settings(max_examples=30)  # slow in mpmath
@example(dim=3, k=0.0, dtype=torch.float32)
@example(dim=2, k=1e12, dtype=torch.float64)
@given(dim=small_dims, k=concentrations(), dtype=dtypes)
def test_from_mean_inverts_the_mean(dim: int, k: float, dtype: torch.dtype) -> None:
    mean = (directions(dim) * VonMisesFisher(directions(dim), k).mean_resultant_length).to(dtype)
    law = VonMisesFisher.from_mean(mean, validate_args=True)
    assert law.loc.dtype == law.concentration.dtype == dtype
    found, eps = law.concentration.item(), torch.finfo(dtype).eps
    with mp.workdps(40):
        length = mp.sqrt(mp.fsum(mp.mpf(v) ** 2 for v in mean.tolist()))
        if found == math.inf:
            assert length >= 1 - 1e-15
            return
        # In float64 the length is rounded, which the inverse magnifies where 1 - length is small.
        at = radial(dim, found)
        rounding = 8 * eps * found * at.variance + 4e-16 * at.mean
        assert abs(at.mean - length) <= rounding


def test_a_mean_of_length_zero_or_one(dtype: torch.dtype) -> None:
    unit = directions(4, dtype=dtype)
    mean = torch.stack([0 * unit, unit, unit * (1 + torch.finfo(dtype).eps)]).requires_grad_()
    law = VonMisesFisher.from_mean(mean)
    assert law.concentration[0] == 0
    torch.testing.assert_close(law.loc[0], torch.eye(4, dtype=dtype)[0])
    axis = torch.eye(4, dtype=dtype)
    assert VonMisesFisher.from_mean(axis).concentration.tolist() == [math.inf] * 4
    assert (law.concentration[1:] > 1e6).all()  # as far as the dtype holds a length of 1
    above = VonMisesFisher.from_mean(axis * (1 + 4 * torch.finfo(dtype).eps))
    assert above.concentration.tolist() == [math.inf] * 4
    loc, concentration = law.loc.sum(), law.concentration[0]
    (grad,) = torch.autograd.grad(loc + concentration, mean)
    assert grad.isfinite().all()


def test_sums_over_shards_fit_the_whole() -> None:
    samples = VonMisesFisher(directions(5), 30.0).sample((1000,))
    shards = samples.split([100, 250, 650])
    # what each machine sends, and what an all-reduce makes of it
    messages = torch.stack([torch.cat([x.sum(0), torch.tensor([len(x)])]) for x in shards])
    *total, count = messages.sum(0)
    law = VonMisesFisher.from_mean(torch.stack(total) / count)
    whole = VonMisesFisher.fit(samples)
    torch.testing.assert_close(law.loc, whole.loc)
    torch.testing.assert_close(law.concentration, whole.concentration, rtol=1e-13, atol=0)


# --------------------------------------------------------------------------------------------------
# Bad vectors and means
# --------------------------------------------------------------------------------------------------

FROM = pytest.mark.parametrize(
    ("build", "name"),
    [
        pytest.param(VonMisesFisher.from_mean, "mean", id="mean"),
        pytest.param(VonMisesFisher.from_natural, "vector", id="natural"),
    ],
)


@FROM
def test_types_of_vectors(build: Callable[..., VonMisesFisher], name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be a tensor, got list"):
        build([0.1, 0.2])
    for dtype in (torch.int64, torch.float16):  # of no unit vector: nothing to normalise
        text = str(dtype).removeprefix("torch.")
        words = rf"{name} must be float32 or float64, got {text}: convert it.*{name}\.float\(\)$"
        with pytest.raises(TypeError, match=words):
            build(torch.tensor([0, 1], dtype=dtype))
    for shape in ((), (3, 1)):
        with pytest.raises(ValueError, match=rf"{name} must hold vectors with at least two entr"):
            build(torch.zeros(shape))


@FROM
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_vectors_that_are_not_finite(
    build: Callable[..., VonMisesFisher], name: str, bad: float
) -> None:
    with pytest.raises(ValueError, match=rf"{name} of shape \(2,\) must"):
        build(torch.tensor([0.5, bad]), validate_args=True)


def test_a_mean_that_is_too_long(dtype: torch.dtype) -> None:
    words = r"mean of shape \(2, 2\) must have a length of at most 1.*between 0\.8\d* and 1\.0001"
    mean = torch.tensor([[0.8, 0.0], [0.0, 1.0001]], dtype=dtype)
    with pytest.raises(ValueError, match=words):
        VonMisesFisher.from_mean(mean, validate_args=True)
    law = VonMisesFisher.from_mean(mean, validate_args=False)
    assert law.concentration[1] == math.inf


# --------------------------------------------------------------------------------------------------
# Products
# --------------------------------------------------------------------------------------------------


@example(data=None, dim=2, dtype=torch.float64)
@given(data=st.data(), dim=small_dims, dtype=dtypes)
def test_the_normaliser_of_a_product(
    data: st.DataObject | None, dim: int, dtype: torch.dtype
) -> None:
    if data is None:  # opposite
        loc1, k1, k2 = directions(dim, dtype=dtype), 1e6, 1e6 + 1
        loc2 = -loc1
    else:
        loc1 = data.draw(unit_vectors(dim, dtype))
        loc2 = data.draw(unit_vectors(dim, dtype) | nearby(loc1) | st.just(loc1))
        k1, k2 = (in_dtype(data.draw(concentrations()), dtype) for _ in range(2))
    eps = torch.finfo(dtype).eps
    updated, found = VonMisesFisher(loc1, k1).conjugate_update(VonMisesFisher(loc2, k2))
    assert updated.loc.dtype == updated.concentration.dtype == found.dtype == dtype
    with mp.workdps(60):
        pairs = list(zip(exact(loc1), exact(loc2), strict=True))
        vector = [k1 * a + k2 * b for a, b in pairs]
        k12 = mp.sqrt(mp.fsum(v * v for v in vector))
        chord = mp.fsum((a - b) ** 2 for a, b in pairs)
        tops = [radial(dim, k).log_density_at_mode(k) for k in (k1, k2, k12)]
        loss = k1 + mp.mpf(k2) - k12
        # Rounded directions have lengths off by eps, which is felt relative to the loss, in its
        # square where they coincide, and in the concentrations as they stand.
        scale = max(*(abs(top) for top in tops), 1) + radial(dim, 1).log_area
        rounding = eps * (16 * abs(scale) + 8 * loss + dim) + min(k1, k2) * (2 * eps) ** 2
        assert abs(found.item() - (tops[0] + tops[1] - tops[2] - loss)) <= rounding
        assert abs(updated.concentration.item() - k12) <= 4 * eps * (k1 + mp.mpf(k2))
        if chord > 0 and k12 > 0:
            for entry, v in zip(updated.loc.tolist(), vector, strict=True):
                assert abs(entry - v / k12) <= 4 * eps * (1 + (k1 + mp.mpf(k2)) / k12)


@pytest.mark.parametrize("k", [(0.0, 0.0), (0.0, 3.0), (2.0, 5.0), (1e7, 1e7), (1e12, 1.0)])
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_densities_multiply(dim: int, k: tuple[float, float]) -> None:
    p = VonMisesFisher(directions(dim), k[0])
    q = VonMisesFisher(normalize(directions(dim) + 1e-3 * directions(dim, seed=2), dim=-1), k[1])
    updated, log_normalizer = p.conjugate_update(q)
    x = updated.sample((20,))  # where the product is
    torch.testing.assert_close(
        p.log_prob(x) + q.log_prob(x), updated.log_prob(x) + log_normalizer, rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize(("k1", "k2"), [(3.0, 4.0), (0.0, 2.0), (50.0, 7.0)])
def test_the_posterior_of_a_direction_on_the_circle(k1: float, k2: float) -> None:
    prior, likelihood = (VonMisesFisher(directions(2, seed=s), k) for s, k in ((1, k1), (2, k2)))
    angle = torch.arange(4000, dtype=torch.float64) * (2 * math.pi / 4000)
    points, area = torch.stack([angle.cos(), angle.sin()], -1), 2 * math.pi / 4000
    # the trapezoidal rule, exact for periodic functions; densities from their definition
    product = torch.exp(
        sum(k * points @ law.loc for k, law in ((k1, prior), (k2, likelihood)))
        - math.log(float(mp.besseli(0, k1) * mp.besseli(0, k2)) * (2 * math.pi) ** 2)
    )
    assert_posterior(prior, likelihood, product * area, points)


@pytest.mark.parametrize(("k1", "k2"), [(3.0, 4.0), (0.0, 2.0), (50.0, 7.0)])
def test_the_posterior_of_a_direction_on_the_sphere(k1: float, k2: float) -> None:
    prior, likelihood = (VonMisesFisher(directions(3, seed=s), k) for s, k in ((1, k1), (2, k2)))
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(120))
    angle = torch.arange(240, dtype=torch.float64) * (2 * math.pi / 240)
    height = nodes[:, None].expand(-1, 240)
    radius = (1 - height.square()).sqrt()
    points = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1)
    area = weights[:, None] * (2 * math.pi / 240)

    def log_normalizer(k: float) -> float:
        return math.log(4 * math.pi * (math.sinh(k) / k if k else 1.0))

    product = torch.exp(
        sum(k * points @ law.loc for k, law in ((k1, prior), (k2, likelihood)))
        - log_normalizer(k1)
        - log_normalizer(k2)
    )
    assert_posterior(prior, likelihood, product * area, points)


def assert_posterior(
    prior: VonMisesFisher, likelihood: VonMisesFisher, masses: Tensor, points: Tensor
) -> None:
    """Evidence and mean of the posterior, against the masses of the product at points."""
    posterior, log_evidence = prior.conjugate_update(likelihood)
    evidence = masses.sum()
    torch.testing.assert_close(log_evidence, evidence.log(), rtol=1e-12, atol=1e-12)
    mean = (masses.unsqueeze(-1) * points).flatten(0, -2).sum(0) / evidence
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-11, atol=1e-12)


def test_the_quadratures_agree_with_scipy() -> None:
    # of the evidence on the circle, by a method that shares nothing with the rules above
    p, q = VonMisesFisher(directions(2, seed=1), 3.0), VonMisesFisher(directions(2, seed=2), 4.0)

    def product(angle: float) -> float:
        x = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        return float(torch.exp(p.log_prob(x) + q.log_prob(x)))

    evidence, _ = integrate.quad(product, 0, 2 * math.pi)
    assert abs(float(p.conjugate_update(q)[1]) - math.log(evidence)) < 1e-10


def test_many_observations_one_after_the_other_or_at_once() -> None:
    prior, k = VonMisesFisher(directions(3), 2.0), 5.0
    data = VonMisesFisher(directions(3, seed=3), k).sample((10,))
    posterior, evidence = prior, torch.zeros((), dtype=torch.float64)
    for x in data:
        posterior, log_normalizer = posterior.conjugate_update(VonMisesFisher(x, k))
        evidence = evidence + log_normalizer
    together = VonMisesFisher.from_natural(2.0 * prior.loc + k * data.sum(0))
    torch.testing.assert_close(posterior.loc, together.loc)
    torch.testing.assert_close(posterior.concentration, together.concentration)
    # the evidence from Bayes' rule at any one direction
    mu = directions(3, seed=9)
    joint = prior.log_prob(mu) + VonMisesFisher(mu, k).log_prob(data).sum()
    torch.testing.assert_close(evidence, joint - posterior.log_prob(mu))


def test_opposite_factors_of_equal_concentration(dtype: torch.dtype) -> None:
    k1, k2 = (torch.tensor(3.0, dtype=dtype, requires_grad=True) for _ in range(2))
    east = axes(dtype)[0].clone().requires_grad_()
    updated, log_normalizer = VonMisesFisher(east, k1).conjugate_update(VonMisesFisher(-east, k2))
    assert updated.concentration == 0
    assert torch.equal(updated.loc, axes(dtype)[0])
    # 2 log C(3) - log C(0), whose derivative in each factor's concentration is -A(3)
    expected = 2 * math.log(3 / (4 * math.pi * math.sinh(3))) + math.log(4 * math.pi)
    torch.testing.assert_close(log_normalizer, torch.tensor(expected, dtype=dtype))
    grads = torch.autograd.grad(log_normalizer + updated.concentration, (k1, k2, east))
    slope = torch.tensor(1 / 3 - 1 / math.tanh(3), dtype=dtype)
    torch.testing.assert_close(grads[:2], (slope, slope))
    assert grads[2].isfinite().all()


def test_uniform_factors(dtype: torch.dtype) -> None:
    k1, k2 = (torch.tensor(0.0, dtype=dtype, requires_grad=True) for _ in range(2))
    p, q = VonMisesFisher(axes(dtype)[0], k1), VonMisesFisher(axes(dtype)[1], k2)
    updated, log_normalizer = p.conjugate_update(q)
    assert updated.concentration == 0
    torch.testing.assert_close(
        log_normalizer, HypersphericalUniform(3, dtype=dtype).log_prob(axes(dtype)[0])
    )
    assert torch.autograd.grad(log_normalizer, (k1, k2)) == (0, 0)


@pytest.mark.parametrize("k", [0.0, 2.0, 1e30])
def test_a_point_mass_stays_one(k: float, dtype: torch.dtype) -> None:
    point = VonMisesFisher(directions(3, dtype=dtype), math.inf)
    law = VonMisesFisher(directions(3, seed=2, dtype=dtype), k)
    for updated, log_normalizer in (point.conjugate_update(law), law.conjugate_update(point)):
        assert updated.concentration == math.inf
        torch.testing.assert_close(updated.loc, point.loc)
        rounding = 1e-3 if dtype == torch.float32 else 1e-10  # of densities at the largest number
        torch.testing.assert_close(
            log_normalizer, law.log_prob(point.loc), rtol=1e-5, atol=rounding
        )


def test_products_of_point_masses(dtype: torch.dtype) -> None:
    east, north = (VonMisesFisher(x, math.inf) for x in axes(dtype)[:2])
    assert east.conjugate_update(north)[1] == -math.inf
    same, log_normalizer = east.conjugate_update(east)
    assert same.concentration == math.inf
    assert torch.equal(same.loc, east.loc)
    assert log_normalizer == math.inf
    opposite, log_normalizer = east.conjugate_update(VonMisesFisher(-east.loc, math.inf))
    assert opposite.loc.isfinite().all()
    assert log_normalizer == -math.inf


def test_concentrations_near_the_largest_number() -> None:
    for k in (1e38, 1e-38):
        p = VonMisesFisher(axes(torch.float32)[0], k)
        q = VonMisesFisher(axes(torch.float32)[1], k)
        updated, log_normalizer = p.conjugate_update(q)
        torch.testing.assert_close(
            updated.concentration.item(), k * math.sqrt(2), rtol=1e-6, atol=0
        )
        assert log_normalizer.isfinite()


@pytest.mark.parametrize("k", [(1e308, 1e308), (1e308, 1.0), (3e-309, 3e-309), (3e-309, 1.0)])
@pytest.mark.parametrize("dim", [3, 20])
def test_derivatives_next_to_the_largest_and_the_smallest_number(
    dim: int, k: tuple[float, float]
) -> None:
    east, north = torch.eye(dim, dtype=torch.float64)[:2]
    for other in (east, north, -east):
        k1, k2 = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in k)
        leaves = k1, k2, east.clone().requires_grad_(), other.clone().requires_grad_()
        p, q = VonMisesFisher(leaves[2], k1), VonMisesFisher(leaves[3], k2)
        updated, log_normalizer = p.conjugate_update(q)
        results = [log_normalizer, updated.loc[1], updated.concentration, updated.entropy()]
        for result in results:
            grads = torch.autograd.grad(result, leaves, retain_graph=True)
            assert all(grad.isfinite().all() for grad in grads)
        in_k1, in_k2, *_ = torch.autograd.grad(log_normalizer, leaves)
        # d/dk1 = <mean of the product, mu1> - A(k1), nearly 0 or 1 at all of these
        cosines = [(updated.mean @ mu).item() for mu in (east, other)]
        for found, cosine, x in zip((in_k1, in_k2), cosines, k, strict=True):
            expected = cosine - float(radial(dim, x).mean if 1e-300 < x < 1e300 else x > 1)
            assert abs(found.item() - expected) < 1e-14


def test_the_evidence_of_opposite_factors_is_a_smooth_function() -> None:
    # Phi(k1 mu1 + k2 mu2) - Phi(k1) - Phi(k2): its Hessian in the factors' natural parameters
    def evidence(v: Tensor) -> Tensor:
        east = VonMisesFisher(axes()[0], 3.0, validate_args=False)
        law = VonMisesFisher(normalize(v, dim=-1), v.norm(), validate_args=False)
        return east.conjugate_update(law)[1]

    def log_normalizer(v: Tensor) -> Tensor:
        return VonMisesFisher.from_natural(v, validate_args=False).log_normalizer

    for step in (0.0, 1e-300, 1e-9):
        v = -3.0 * axes()[0] + step * axes()[1]
        found = torch.autograd.functional.hessian(evidence, v)
        curvature = torch.autograd.functional.hessian(log_normalizer, v)
        expected = torch.eye(3, dtype=torch.float64) / 3 - curvature
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_updates_at_high_concentration_keep_the_digits_of_their_gradients() -> None:
    k1, k2 = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1e12, 3e12))
    east = axes()[0]
    _, log_normalizer = VonMisesFisher(east, k1).conjugate_update(VonMisesFisher(east, k2))
    grads = torch.autograd.grad(log_normalizer, (k1, k2))
    for grad, x in zip(grads, (1e12, 3e12), strict=True):
        expected = radial(3, x).one_minus_mean - radial(3, 4e12).one_minus_mean
        torch.testing.assert_close(grad.item(), float(expected), rtol=1e-12, atol=0)


# Derivatives


def update(raw1: Tensor, k1: Tensor, raw2: Tensor, k2: Tensor) -> tuple[Tensor, ...]:
    p, q = (
        VonMisesFisher(normalize(raw, dim=-1), k, validate_args=False)
        for raw, k in ((raw1, k1), (raw2, k2))
    )
    updated, log_normalizer = p.conjugate_update(q)
    return updated.loc, updated.concentration, log_normalizer


@pytest.mark.parametrize("k", [(0.0, 2.0), (2.0, 2.0), (1.0, 30.0)])
def test_derivatives_of_the_update(k: tuple[float, float]) -> None:
    raws = [(directions(3, seed=s) * 1.3).requires_grad_() for s in (1, 2)]
    ks = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in k]
    arguments = raws[0], ks[0], raws[1], ks[1]
    assert torch.autograd.gradcheck(update, arguments)
    assert torch.autograd.gradgradcheck(update, arguments)


def parameters(law: VonMisesFisher) -> tuple[Tensor, Tensor]:
    return law.loc, law.concentration


@pytest.mark.parametrize("length", [1e-3, 0.45, 0.95])
def test_derivatives_of_from_mean(length: float) -> None:
    mean = (length * directions(2, 4)).requires_grad_()

    def function(mean: Tensor) -> tuple[Tensor, Tensor]:
        return parameters(VonMisesFisher.from_mean(mean, validate_args=False))

    assert torch.autograd.gradcheck(function, mean, eps=1e-3 * 1e-3 * length)
    assert torch.autograd.gradgradcheck(function, mean, eps=1e-3 * 1e-3 * length)


def test_a_vector_of_infinite_length_is_refused(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    VonMisesFisher.from_natural(torch.tensor([largest, 0.0], dtype=dtype))
    for vector in ([largest, largest], [math.inf, 0.0], [math.nan, 0.0]):
        with pytest.raises(ValueError, match=r"a finite length, got (the length inf|NaN)$"):
            VonMisesFisher.from_natural(torch.tensor(vector, dtype=dtype), validate_args=True)


def test_derivatives_of_from_natural() -> None:
    vector = (3.0 * directions(2, 4)).requires_grad_()

    def function(vector: Tensor) -> tuple[Tensor, Tensor]:
        return parameters(VonMisesFisher.from_natural(vector, validate_args=False))

    assert torch.autograd.gradcheck(function, vector)
    assert torch.autograd.gradgradcheck(function, vector)


# Shapes and bad input


def test_batch_shapes_of_an_update() -> None:
    p = VonMisesFisher(directions(2, 1, 3), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    q = VonMisesFisher(directions(4, 3, seed=2), 5.0)
    for first, second in ((p, q), (q, p)):
        updated, log_normalizer = first.conjugate_update(second)
        assert updated.batch_shape == log_normalizer.shape == (2, 4)
    single, log_single = VonMisesFisher(p.loc[1, 2], p.concentration[1, 2]).conjugate_update(
        VonMisesFisher(q.loc[2], 5.0)
    )
    updated, log_normalizer = p.conjugate_update(q)
    torch.testing.assert_close(updated.concentration[1, 2], single.concentration)
    torch.testing.assert_close(updated.loc[1, 2], single.loc)
    torch.testing.assert_close(log_normalizer[1, 2], log_single)
    wide, log_wide = p.expand((5, 2, 4)).conjugate_update(q)
    assert wide.batch_shape == log_wide.shape == (5, 2, 4)
    with pytest.raises(ValueError, match="broadcast to have a product"):
        p.conjugate_update(VonMisesFisher(directions(3, 3), 1.0))


def test_an_update_of_mixed_dtypes() -> None:
    p, q = VonMisesFisher(directions(3, dtype=torch.float32), 2.0), VonMisesFisher(axes()[0], 2.0)
    for updated, log_normalizer in (p.conjugate_update(q), q.conjugate_update(p)):
        assert updated.loc.dtype == log_normalizer.dtype == torch.float64


def test_an_update_on_another_sphere() -> None:
    words = r"same sphere to have a product, got dimension 3 \(VonMisesFisher\) and 4 \(VonMis"
    with pytest.raises(ValueError, match=words):
        VonMisesFisher(directions(3), 1.0).conjugate_update(VonMisesFisher(directions(4), 1.0))


@pytest.mark.parametrize(
    "other", [HypersphericalUniform(3), dist.Normal(0.0, 1.0), 3.0], ids=["uniform", "normal", "3"]
)
def test_an_update_by_another_law(other: Any) -> None:
    with pytest.raises(TypeError, match=rf"by a VonMisesFisher only, got {type(other).__name__}"):
        VonMisesFisher(directions(3), 1.0).conjugate_update(other)


def test_the_largest_concentrations_lose_nothing() -> None:
    # k1 + k2 - k12 is 225, beside 2e12: formed as it stands it would be off by 1e-4
    p = VonMisesFisher(axes()[0], LARGEST)
    loc = torch.tensor([math.cos(3e-5), math.sin(3e-5), 0.0], dtype=torch.float64)
    q = VonMisesFisher(loc, LARGEST)
    found = p.conjugate_update(q)[1].item()
    with mp.workdps(60):
        second = exact(q.loc)
        k12 = LARGEST * mp.sqrt((1 + second[0]) ** 2 + second[1] ** 2)
        top, top12 = (radial(3, k).log_density_at_mode(k) for k in (LARGEST, k12))
        assert abs(found - (2 * top - top12 - (2 * mp.mpf(LARGEST) - k12))) < 1e-12
