"""The laws of the cosine: probabilities, quantiles, moments, draws; tails: test_quadrature.py."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any, NamedTuple

import mpmath as mp
import pyro
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cases import FAILURE_RATE, assert_mean, directions, not_dense, not_dense_kinds
from reference import cosine_reference, radial
from strategies import in_dtype
from vmfdist import HypersphericalUniform, PowerSpherical, VonMisesFisher
from vmfdist.cosine import CosineLaw, PowerSphericalCosine, VonMisesFisherCosine

LAWS = [VonMisesFisherCosine, PowerSphericalCosine]
of_each_law = pytest.mark.parametrize("law", LAWS)


def double(x: float | list[float]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def reference(law: CosineLaw) -> Any:
    return cosine_reference(
        law.dim, law.concentration.item(), isinstance(law, PowerSphericalCosine)
    )


# Probabilities


def check_probabilities(law: CosineLaw, step: float) -> None:
    """At a cosine so many widths from the mode, against integrals, relative in both tails."""
    with mp.workdps(22):
        r = reference(law)
        u = r.mode + step * r.width
        t = double(float(r.t(u)))
        if not 1e-280 < t.item() < 2:
            return
        k = law.concentration.clone().requires_grad_()
        law = type(law)(k, law.dim)
        u = mp.log(mp.mpf(t.item()) / (2 - mp.mpf(t.item()))) / 2
        below, above, slope = r.probabilities(u)  # of u, which falls with w
        found = law.sf(one_minus_value=t), law.cdf(one_minus_value=t)
        for value, truth in zip(found, (below, above), strict=True):
            if truth > 1e-280:
                assert abs(value.item() / truth - 1) < 1e-10
        if min(below, above) > 1e-280:
            for value, sign in zip(found, (1, -1), strict=True):
                (gradient,) = torch.autograd.grad(value, k)
                assert abs(gradient.item() / (sign * slope) - 1) < 1e-10


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 10, 4096])
def test_probabilities_on_a_grid(law: type[CosineLaw], dim: int) -> None:
    for k in (0.0, 5.0, 1e8):
        for step in (-5.0, 0.3, 5.0):
            check_probabilities(law(double(k), dim), step)


def test_the_check_of_probabilities_can_fail() -> None:
    with mp.workdps(22):
        r = cosine_reference(10, 5.0)
        below, _, _ = r.probabilities(mp.mpf(-0.5))
        t = double(float(r.t(mp.mpf(-0.5))))
    wrong = VonMisesFisherCosine(double(5 * (1 + 1e-8)), 10)
    assert abs(wrong.sf(one_minus_value=t).item() / below - 1) > 1e-9


def test_arcsine_law_of_the_circle() -> None:
    w = double([-0.99, -0.3, 0.0, 0.5, 1 - 1e-12])
    law = HypersphericalUniform(2, dtype=torch.float64).cosine
    torch.testing.assert_close(law.sf(w), torch.acos(w) / math.pi, rtol=1e-12, atol=0)


@of_each_law
def test_ends_of_the_support(law: type[CosineLaw], dtype: torch.dtype) -> None:
    w = torch.tensor([-1.0, 1.0], dtype=dtype)
    for dim in (2, 3, 20):
        for k in (0.0, 1.0, 1e5, math.inf):
            ours = law(torch.tensor(k, dtype=dtype), dim)
            assert ours.cdf(w).tolist() == [0.0, 1.0]
            assert ours.sf(w).tolist() == [1.0, 0.0]
            assert ours.icdf(torch.tensor([0.0, 1.0])).tolist() == [-1.0, 1.0]
            assert ours.isf(torch.tensor([0.0, 1.0])).tolist() == [1.0, -1.0]


@of_each_law
def test_point_mass(law: type[CosineLaw]) -> None:
    ours = law(math.inf, 5)
    assert ours.cdf(torch.tensor([0.0, 0.999])).tolist() == [0.0, 0.0]
    assert ours.icdf(torch.tensor([1e-3, 0.5])).tolist() == [1.0, 1.0]
    assert ours.mean == 1
    assert ours.variance == 0
    assert ours.rsample((3,)).tolist() == [1.0, 1.0, 1.0]
    tiny = torch.finfo(torch.float32).tiny
    near = torch.tensor([0.0, tiny / 2, tiny, 2 * tiny])
    assert ours.log_prob(one_minus_value=near).tolist() == [math.inf] + [-math.inf] * 3


# The ends of the support, in values and gradients


class End(NamedTuple):
    """What the log density is at w = 1 or -1, and its derivatives in w and k."""

    value: float
    in_w: float
    in_k: float


def end(law: type[CosineLaw], dim: int, k: float, w: float) -> End:
    """From the power of the distance to the end that the density goes with."""
    power, a = (dim - 3) / 2, (dim - 1) / 2
    is_power_spherical = law is PowerSphericalCosine
    if k == math.inf:
        in_k = 0.0 if w == 1 else -math.inf if is_power_spherical else -2.0
        return End(w * math.inf, math.nan, in_k)
    if is_power_spherical:
        mean_log = float(mp.psi(0, a + k) - mp.psi(0, 2 * a + k))
        in_k = -mean_log if w == 1 else -math.inf
        power += k if w == -1 else 0.0
    else:
        in_k = w - float(radial(dim, k).mean)
    if power:
        return End(-power * math.inf, -w * power * math.inf, in_k)
    if dim == 2:  # sqrt((1 + w)/2) / sqrt(1 - w^2), normalised
        return End(math.log(1 / 4), 1 / 4, in_k)
    if is_power_spherical:  # (1 + k)/2 ((1 + w)/2)^k
        return End(math.log((1 + k) / 2), k / 2, in_k)
    flat = math.log(k / -math.expm1(-2 * k)) if k else -math.log(2)
    return End(flat + (0.0 if w == 1 else -2 * k), k, in_k)


def assert_end(found: Tensor, expected: float, name: str) -> None:
    tolerance = 50 * torch.finfo(found.dtype).eps
    assert found.item() == pytest.approx(expected, rel=tolerance, abs=tolerance), name


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 4])
def test_densities_and_quantiles_at_the_ends(
    law: type[CosineLaw], dim: int, dtype: torch.dtype
) -> None:
    for k in (0.0, 0.5, 40.0, math.inf):
        for w in (1.0, -1.0):
            expected = end(law, dim, k, w)
            density = math.exp(expected.value) if expected.value < math.inf else math.inf
            value, at = torch.tensor([w, k], dtype=dtype).requires_grad_().unbind()
            complement = 1 - value
            ours = law(at, dim)
            for log_density in (ours.log_prob(value), ours.log_prob(one_minus_value=complement)):
                assert_end(log_density, expected.value, "log density")
                in_w, in_k = torch.autograd.grad(log_density, (value, at), retain_graph=True)
                assert not in_w.isnan()
                if k < math.inf:
                    assert_end(in_w, expected.in_w, "log density, in w")
                assert_end(in_k, expected.in_k, "log density, in k")
            for sign, function in ((1, ours.cdf), (-1, ours.sf)):
                in_w, in_k = torch.autograd.grad(function(value), (value, at), retain_graph=True)
                assert_end(in_w, sign * density, "probability, in w")
                assert in_k == 0
            for sign, function in ((1, ours.icdf), (-1, ours.isf)):
                p = torch.tensor((1 + sign * w) / 2, dtype=dtype, requires_grad=True)
                found = function(p)
                assert found == w
                in_p, in_k = torch.autograd.grad(found, (p, at), retain_graph=True)
                if k < math.inf:
                    assert_end(in_p, sign / density if density else sign * math.inf, "quantile")
                else:
                    assert not in_p.isnan()
                assert in_k == 0


@of_each_law
def test_forward_mode_at_the_ends(law: type[CosineLaw]) -> None:
    # There derivatives in w are infinite, and its tangent 0 is not to make NaN of them.
    for w in (1.0, -1.0):
        for name in ("log_prob", "cdf"):

            def of(k: Tensor, w: float = w, name: str = name) -> Tensor:
                return getattr(law(k, 4, validate_args=False), name)(double(w))

            _, found = torch.func.jvp(of, (double(1.0),), (double(1.0),))
            expected = end(law, 4, 1.0, w).in_k if name == "log_prob" else 0.0
            assert found.item() == pytest.approx(expected, rel=1e-14)


def test_cones_at_the_ends(dtype: torch.dtype) -> None:
    p = torch.tensor([0.0, 0.25, 1.0], dtype=dtype, requires_grad=True)
    flat = HypersphericalUniform(2, dtype=dtype).mass_cone(p)
    assert torch.allclose(flat, math.pi * p)
    (gradient,) = torch.autograd.grad(flat.sum(), p)
    assert torch.allclose(gradient, torch.full_like(p, math.pi))
    for law in (VonMisesFisher, PowerSpherical):
        for dim in (2, 3, 16):
            k = torch.tensor([1.0, math.inf], dtype=dtype, requires_grad=True)
            axis = torch.eye(dim, dtype=dtype)[0]
            cones = law(axis, k).mass_cone(p.unsqueeze(-1))
            assert cones[0].tolist() == [0.0, 0.0]
            assert cones[1, 1] == 0
            in_p, in_k = torch.autograd.grad(cones.sum(), (p, k))
            assert not in_p.isnan().any()
            assert in_k[0] < 0
            assert in_k[1] == 0
            (in_p,) = torch.autograd.grad(law(axis, 1.0).mass_cone(p)[0], p)
            assert in_p[0].isfinite() if dim == 2 else in_p[0] == math.inf


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_next_to_an_infinite_concentration(law: type[CosineLaw], dim: int) -> None:
    # k (1 - w), half of it for the power spherical law, has a gamma law in the limit.
    limit, half = stats.gamma((dim - 1) / 2), 1 if law is VonMisesFisherCosine else 2
    for k in (1e151, torch.finfo(torch.float64).max):
        at = double(k).requires_grad_()
        ours = law(at, dim)
        entropy = ours.entropy()
        assert entropy.item() == pytest.approx(limit.entropy() - math.log(k / half), rel=1e-10)
        (gradient,) = torch.autograd.grad(entropy, at)
        assert gradient.item() == pytest.approx(-1 / k, rel=1e-6, abs=1e-308)
        t = ours.one_minus_isf(double(0.3))
        assert t.item() == pytest.approx(half * limit.ppf(0.3) / k, rel=1e-6 if k > 1e300 else 1e-9)
        # The derivative in k is that of (k t), with the density of its law.
        t = double(half * 0.7 / k) if k < 1e300 else double(half * 0.7e-300 / (k * 1e-300))
        probability = ours.sf(one_minus_value=t)
        assert probability.item() == pytest.approx(limit.cdf(0.7), rel=1e-6 if k > 1e300 else 1e-9)
        (gradient,) = torch.autograd.grad(probability, at)
        expected = 0.7 * limit.pdf(0.7) / k
        assert gradient.item() == pytest.approx(expected, rel=1e-6, abs=1e-307)
    at = double(math.inf).requires_grad_()
    assert law(at, dim).entropy() == -math.inf
    assert torch.autograd.grad(law(at, dim).entropy(), at)[0].abs() < 1e-307
    assert torch.autograd.grad(law(at, dim).stddev, at)[0] == 0


# Quantiles


@of_each_law
def test_quantiles_and_their_complements_agree(law: type[CosineLaw]) -> None:
    p = double([2.0**-40, 2.0**-10, 0.25, 0.5, 0.875])  # 1 - p is exact
    ours = law(double([[0.0], [3.0], [50.0]]), 6)
    torch.testing.assert_close(ours.icdf(p), 1 - ours.one_minus_icdf(p))
    torch.testing.assert_close(ours.isf(p), 1 - ours.one_minus_isf(p))
    torch.testing.assert_close(ours.icdf(p), ours.isf(1 - p), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.cdf(ours.icdf(p)), p.expand(3, 5), rtol=1e-9, atol=0)


# Gradients


@of_each_law
@pytest.mark.parametrize("dim", [2, 7])
def test_gradcheck(law: type[CosineLaw], dim: int) -> None:
    k = double([0.4, 3.0, 20.0]).requires_grad_()
    w = double([-0.3, 0.5, 0.9]).requires_grad_()
    p = double([0.05, 0.4, 0.8]).requires_grad_()

    def of(name: str) -> Any:
        return lambda x, k: getattr(law(k, dim), name)(x)

    for name in ("cdf", "sf", "log_prob"):
        assert gradcheck(of(name), (w, k), check_forward_ad=True, atol=1e-6)
    for name in ("icdf", "one_minus_isf"):  # the others are these by the other tail
        assert gradcheck(of(name), (p, k), check_forward_ad=True, atol=1e-6)
    assert gradcheck(lambda k: law(k, dim).entropy(), k, atol=1e-6)
    assert gradcheck(lambda k: law(k, dim).mean, k)
    assert gradcheck(lambda k: law(k, dim).variance, k)
    assert gradgradcheck(lambda k: law(k, dim).mean, k)
    assert gradgradcheck(lambda k: law(k, dim).variance, k)
    if law is PowerSphericalCosine:
        assert gradgradcheck(lambda k: law(k, dim).entropy(), k)
    assert gradgradcheck(lambda x: law(k.detach(), dim).cdf(x), w)
    assert gradgradcheck(of("log_prob"), (w, k))


@of_each_law
def test_second_derivatives_in_the_concentration_are_refused(law: type[CosineLaw]) -> None:
    k = double(3.0).requires_grad_()
    ours = law(k, 5)
    values = [ours.cdf(double(0.2)), ours.icdf(double(0.2)), ours.rsample()]
    if law is VonMisesFisherCosine:  # the other has a closed form
        values.append(ours.entropy())
    for value in values:
        (first,) = torch.autograd.grad(value, k, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivatives"):
            torch.autograd.grad(first, k)


@of_each_law
def test_vmap_and_jacobians(law: type[CosineLaw]) -> None:
    w, k = double([-0.3, 0.5, 0.9]), double([0.4, 3.0, 20.0])

    def cdf(w: Tensor, k: Tensor) -> Tensor:
        return law(k, 5, validate_args=False).cdf(w)

    rows = torch.vmap(cdf, (None, 0))(w, k)
    torch.testing.assert_close(rows, law(k.unsqueeze(-1), 5).cdf(w))
    gradients = torch.vmap(torch.func.grad(cdf))(w, k)
    torch.testing.assert_close(gradients, law(k, 5).log_prob(w).exp())


def test_gradients_at_concentration_zero_and_the_ends_are_finite() -> None:
    for law in LAWS:
        for dim in (2, 3, 8):
            k = double(0.0).requires_grad_()
            ours = law(k, dim)
            w = double(0.0)  # where t = 1 exactly
            for value in (ours.cdf(w), ours.log_prob(w), ours.icdf(double(0.3)), ours.entropy()):
                (gradient,) = torch.autograd.grad(value, k)
                assert gradient.isfinite()
            w = double([-1.0, 1.0]).requires_grad_()
            (gradient,) = torch.autograd.grad(ours.cdf(w).sum(), w)
            assert not gradient.isnan().any()


# Density and moments


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 8, 1000])
def test_log_density(law: type[CosineLaw], dim: int, dtype: torch.dtype) -> None:
    for k in (0.0, 0.7, 30.0, 1e6):
        k = in_dtype(k, dtype)
        ours = law(torch.tensor(k, dtype=dtype), dim)
        r = reference(ours)
        for step in (-3.0, 0.1, 2.0):
            with mp.workdps(25):
                t = in_dtype(float(r.t(r.mode + step * r.width)), dtype)
                t, x = mp.mpf(t), mp.mpf(k)
                u = mp.log(t / (2 - t)) / 2
                truth = mp.log(r.density(u) / r.total) - mp.log(t * (2 - t))
                terms = [
                    truth,
                    x * r.statistic(u),
                    (dim - 3) / 2 * mp.log(t),
                    dim * mp.log(dim + x),
                ]
            value = ours.log_prob(one_minus_value=torch.tensor(float(t), dtype=dtype)).item()
            assert abs(value - truth) < 8 * torch.finfo(dtype).eps * max(map(abs, terms))


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 8, 100])
def test_entropy(law: type[CosineLaw], dim: int, dtype: torch.dtype) -> None:
    for k in (0.0, 0.7, 30.0, 1e6):
        ours = law(torch.tensor(k, dtype=dtype), dim)
        with mp.workdps(20):
            truth = float(reference(ours).entropy())
        tolerance = max(1e-10, 4 * torch.finfo(dtype).eps) * max(1, abs(truth))
        assert ours.entropy().item() == pytest.approx(truth, abs=tolerance)


def test_moments_of_the_power_spherical_cosine(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    for dim in (2, 3, 10, 1000):
        for k in (0.0, 1e-6, 0.7, 30.0, 1e12):
            k = in_dtype(k, dtype)
            law = PowerSphericalCosine(torch.tensor(k, dtype=dtype), dim)
            with mp.workdps(30):
                b = mp.mpf(dim - 1) / 2
                a = b + mp.mpf(k)
                mean, variance = (a - b) / (a + b), 4 * a * b / ((a + b) ** 2 * (a + b + 1))
                assert abs(law.mean.item() - mean) <= 4 * eps * mean
                assert abs(law.variance.item() - variance) <= 8 * eps * variance


def test_moments_of_the_von_mises_fisher_cosine() -> None:
    law = VonMisesFisherCosine(double(7.0), 9)
    r = radial(9, 7.0)
    assert law.mean.item() == pytest.approx(float(r.mean), rel=1e-15)
    assert law.variance.item() == pytest.approx(float(r.variance), rel=1e-15)


# Draws


def uniform_p_value(x: Tensor) -> float:
    return float(stats.kstest(x.numpy(), "uniform").pvalue)


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 12])
def test_draws(law: type[CosineLaw], dim: int) -> None:
    for k in (0.0, 4.0, 300.0):
        ours = law(double(k), dim)
        draws = ours.sample((20_000,))
        assert uniform_p_value(ours.cdf(draws)) > FAILURE_RATE
        assert_mean(draws, ours.mean)
        assert_mean((draws - ours.mean).square(), ours.variance)
        assert_mean(-ours.log_prob(draws), ours.entropy())
    wrong = law(double(330.0), dim)  # a tenth more is seen
    assert uniform_p_value(wrong.cdf(draws)) < FAILURE_RATE


@of_each_law
def test_gradient_of_draws_is_that_of_the_quantile(law: type[CosineLaw]) -> None:
    k = double([0.3, 5.0, 80.0]).requires_grad_()
    ours = law(k, 6)
    draws = ours.rsample()
    (gradient,) = torch.autograd.grad(draws.sum(), k)
    p = ours.cdf(draws.detach())
    (expected,) = torch.autograd.grad(ours.icdf(p.detach()).sum(), k)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=0)


# The laws on the sphere


@pytest.mark.parametrize("law", [VonMisesFisher, PowerSpherical])
def test_noise_to_cosine_of_draws_on_the_sphere(law: type[VonMisesFisher]) -> None:
    loc = directions(7)
    ours = law(loc, 9.0)
    w = ours.sample((20_000,)) @ loc
    assert uniform_p_value(ours.cosine.cdf(w)) > FAILURE_RATE
    assert uniform_p_value(law(loc, 10.0).cosine.cdf(w)) < FAILURE_RATE


def test_noise_to_cosine_of_uniform_draws() -> None:
    law = HypersphericalUniform(7, dtype=torch.float64)
    w = law.sample((20_000,))[:, 3]
    assert uniform_p_value(law.cosine.cdf(w)) > FAILURE_RATE
    wrong = HypersphericalUniform(9, dtype=torch.float64)
    assert uniform_p_value(wrong.cosine.cdf(w)) < FAILURE_RATE


def test_mass_cone_in_closed_form() -> None:
    # d = 3: the angle a holds (1 - exp(-k (1 - cos a))) / (1 - exp(-2k))
    loc = directions(3)
    for k in (0.1, 5.0, 1e8):
        for p in (0.01, 0.5, 0.95):
            angle = VonMisesFisher(loc, k).mass_cone(p).item()
            t = -math.log1p(p * math.expm1(-2 * k)) / k
            assert angle == pytest.approx(2 * math.asin(math.sqrt(t / 2)), rel=1e-10)
    assert HypersphericalUniform(3, dtype=torch.float64).mass_cone(0.5).item() == pytest.approx(
        math.pi / 2, rel=1e-12
    )
    power = PowerSpherical(loc, 4.0).mass_cone(0.3).item()
    assert power == pytest.approx(math.acos(2 * 0.7**0.2 - 1), rel=1e-10)


def test_mass_cone_in_float32_at_high_concentration() -> None:
    # There the squared angle times k is chi squared with d - 1 degrees of freedom.
    law = VonMisesFisher(directions(6, dtype=torch.float32), 1e8)
    angle = law.mass_cone(torch.tensor([0.1, 0.5, 0.99]))
    expected = torch.tensor(stats.chi2(5).ppf([0.1, 0.5, 0.99]) / 1e8).sqrt().float()
    torch.testing.assert_close(angle, expected, rtol=1e-5, atol=0)


def test_mass_cone_holds_its_mass() -> None:
    law = VonMisesFisher(directions(2, 5), torch.tensor([1.0, 50.0]))
    angle = law.mass_cone(0.8)
    inside = (law.sample((5000,)) * law.loc).sum(-1) > angle.cos()
    assert_mean(inside.double(), 0.8)


# Contract


@of_each_law
def test_shapes_copies_and_pyro(law: type[CosineLaw], dtype: torch.dtype) -> None:
    ours = law(torch.tensor([1.0, 2.0], dtype=dtype), 4)
    assert (ours.batch_shape, ours.event_shape, ours.dim) == ((2,), (), 4)
    larger = ours.expand((3, 2))
    assert type(larger) is law
    assert larger.rsample((5,)).shape == (5, 3, 2)
    assert larger.cdf(torch.zeros(4, 1, 1)).shape == (4, 3, 2)
    assert larger.entropy().shape == (3, 2)
    for twin in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        torch.testing.assert_close(twin.log_prob(torch.zeros(2)), ours.log_prob(torch.zeros(2)))
    with pyro.plate("plate", 2):
        assert pyro.sample("w", ours).dtype == dtype
    assert ours.cdf(torch.zeros(2, dtype=torch.float64)).dtype == dtype
    assert repr(ours) == f"{law.__name__}(concentration: (2,), dim: 4)"


@of_each_law
def test_errors(law: type[CosineLaw]) -> None:
    ours = law(2.0, 4)
    with pytest.raises(ValueError, match=r"value must lie in \[-1, 1\].*1\.5"):
        ours.cdf(torch.tensor(1.5))
    with pytest.raises(ValueError, match=r"value must lie in \[-1, 1\]"):
        ours.log_prob(torch.tensor(math.nan))
    with pytest.raises(ValueError, match=r"one_minus_value must lie in \[0, 2\]"):
        ours.sf(one_minus_value=torch.tensor(-0.5))
    with pytest.raises(ValueError, match="exactly one"):
        ours.cdf()
    with pytest.raises(ValueError, match="exactly one"):
        ours.cdf(torch.tensor(0.0), one_minus_value=torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"probabilities must lie in \[0, 1\]"):
        ours.icdf(torch.tensor(1.2))
    with pytest.raises(TypeError, match="probabilities must be a tensor, got float"):
        ours.icdf(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^value must be a tensor, got float"):
        ours.cdf(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="concentration"):
        law(-1.0, 4)
    with pytest.raises(ValueError, match=r"at least 2.*1"):
        law(1.0, 1)
    with pytest.raises(TypeError, match="integer"):
        law(1.0, torch.tensor(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int64"):
        law(torch.tensor(1), 3)
    for concentration in ([1.0], "1", None, True):
        with pytest.raises(
            TypeError, match="concentration must be .*, got " + type(concentration).__name__
        ):
            law(concentration, 3)
        ours = law(1.0, 3)
        with pytest.raises(
            TypeError, match="concentration must be .*, got " + type(concentration).__name__
        ):
            ours.concentration = concentration
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\]"):
        VonMisesFisher(directions(3), 2.0).mass_cone(1.1)
    for p in ([0.5], "0.5", None):
        with pytest.raises(TypeError, match=f"p must be .*, got {type(p).__name__}"):
            VonMisesFisher(directions(3), 2.0).mass_cone(p)  # type: ignore[arg-type]


@of_each_law
def test_a_cosine_that_is_rounded_beyond_the_end_is_the_end(law: type[CosineLaw]) -> None:
    ours, beyond = law(0.5, 3), torch.tensor([-1.0, 1.0]) * (1 + torch.finfo(torch.float32).eps)
    for function in (ours.cdf, ours.sf, ours.log_prob):
        for found in (function(beyond), function(one_minus_value=1 - beyond)):
            torch.testing.assert_close(found, function(beyond.sign()), rtol=1e-6, atol=1e-12)
    with pytest.raises(ValueError, match=r"value must lie in \[-1, 1\], got the value 1\.125$"):
        ours.cdf(torch.tensor(1.125))


def test_shapes_that_do_not_fit() -> None:
    x, law = torch.full((2,), 0.5), VonMisesFisher(torch.eye(3), 2.0)
    cosine = law.cosine
    for function in (cosine.log_prob, cosine.cdf, cosine.sf, cosine.icdf, cosine.one_minus_isf):
        with pytest.raises(ValueError, match=r"of shape \(2,\) must broadcast .* shape \(3,\)$"):
            function(x)
    with pytest.raises(ValueError, match=r"^one_minus_value of shape \(2,\) must broadcast"):
        cosine.cdf(one_minus_value=x)
    others = VonMisesFisher(torch.eye(3), torch.ones(3)), HypersphericalUniform(3, (3,))
    for each in (law, *others):
        with pytest.raises(ValueError, match=r"^p of shape \(2,\) must broadcast .* \(3,\)$"):
            each.mass_cone(x)


@not_dense_kinds
def test_sparse_and_nested_concentrations(kind: str) -> None:
    concentration, words = not_dense(kind, "concentration")
    for law in LAWS:
        with pytest.raises(TypeError, match=words):
            law(concentration, 3)
        value, of_value = not_dense(kind, "value")
        with pytest.raises(TypeError, match=of_value):
            law(2.0, 3).cdf(value)
    p, of_p = not_dense(kind, "p")
    with pytest.raises(TypeError, match=of_p):
        VonMisesFisher(directions(3), 2.0).mass_cone(p)


@of_each_law
def test_nan_without_validation_stays(law: type[CosineLaw]) -> None:
    ours = law(2.0, 4, validate_args=False)
    nan = torch.tensor(math.nan)
    assert ours.cdf(nan).isnan()
    assert ours.icdf(nan).isnan()
