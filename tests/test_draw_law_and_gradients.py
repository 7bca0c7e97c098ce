# The draw and its gradients: law of the cosine, uniform tangent, exact derivative of every sample,
# unbiased derivatives of expectations, draws on the sphere, no waiting for the device.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pyro.distributions import constraints
from scipy import integrate, stats
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from cases import BOUND, FAILURE_RATE, assert_mean, directions, standard_errors_off
from reference import radial
from vmfdist import VonMisesFisher
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._sampling import draw as draw_module
from vmfdist._sampling.draw import draw


def lift(noise: Tensor, loc: Tensor, concentration: Tensor) -> Tensor:
    return draw(
        noise.clone(), loc, concentration, VON_MISES_FISHER.of_noise
    )  # which takes the noise's memory


def axis(dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.eye(1, dim, dtype=dtype)[0]


# --------------------------------------------------------------------------------------------------
# The law of the cosine
# --------------------------------------------------------------------------------------------------


def cosine_cdf(dim: int, k: float, one_minus_cosine: NDArray[Any]) -> NDArray[Any]:
    """P(t <= .) for t = 1 - w of density exp(-k t) (t (2 - t))^((d-3)/2), to about 1e-7.

    By Simpson's rule in u = artanh(-w), in which the density is a bell with exponential tails.
    """
    m = dim - 1
    root = math.hypot(m, 2 * k)
    mode = -math.atanh(2 * k / (m + root)) if k < 1e6 else 0.5 * math.log(m / (4 * k))
    width = 1 / math.sqrt(2 * m * root / (m + root))
    u = mode + width * np.sinh(np.linspace(-6, 6, 20_001))  # dense at the mode, far in the tails
    u = u[np.abs(u) < 300]
    t = 2 / (1 + np.exp(-2 * u))
    log_density = m / 2 * (np.log(t) + np.log(2 / (1 + np.exp(2 * u)))) - k * t
    density = np.exp(log_density - log_density.max())
    cdf = integrate.cumulative_simpson(density, x=u, initial=0)
    with np.errstate(divide="ignore"):  # t = 2 after rounding
        at = 0.5 * (np.log(one_minus_cosine) - np.log(2 - one_minus_cosine))
    return np.interp(at, u, cdf / cdf[-1])


def distance_from_cosine_law(draws: Tensor, loc: Tensor, dim: int, k: float) -> float:
    """p-value of a Kolmogorov-Smirnov test of <x, loc>."""
    t = (draws - loc).double().square().sum(-1).numpy() / 2
    return stats.kstest(cosine_cdf(dim, k, t), "uniform").pvalue


def power_shift(dim: int, k: float, n: int) -> float:
    """A change of the concentration that n draws must show: it moves the mean cosine by 9 se."""
    deviation = math.sqrt(radial(dim, k).variance)
    return 9 / math.sqrt(n) / deviation


LAWS = [
    pytest.param(dim, k, id=f"d{dim}-k{k:g}")
    for dim in (2, 3, 4, 5, 10, 50, 512)
    for k in (0.0, 0.05, 2.0, 10.0, 100.0, 1e4)
]


def check_cosine(dim: int, k: float, n: int) -> None:
    loc = directions(dim)
    draws = VonMisesFisher(loc, k).sample((n,))
    assert distance_from_cosine_law(draws, loc, dim, k) > FAILURE_RATE
    # Power: the same draws are not taken for those of a slightly other concentration.
    wrong = k + power_shift(dim, k, n)
    assert distance_from_cosine_law(draws, loc, dim, wrong) < FAILURE_RATE


@pytest.mark.parametrize(("dim", "k"), LAWS)
def test_law_of_the_cosine(dim: int, k: float) -> None:
    check_cosine(dim, k, 3000)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "k"), LAWS)
def test_law_of_the_cosine_at_full_size(dim: int, k: float) -> None:
    check_cosine(dim, k, 50_000)


@pytest.mark.parametrize("k", [0.0, 10.0, 1e8])
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_law_of_the_cosine_in_float32(dim: int, k: float) -> None:
    loc = axis(dim, torch.float32)
    n = 3000
    # At an axis |x - loc|^2 keeps its digits however large the concentration.
    draws = VonMisesFisher(loc, k).sample((n,))
    assert distance_from_cosine_law(draws, loc, dim, k) > FAILURE_RATE
    wrong = k + power_shift(dim, k, n)
    assert distance_from_cosine_law(draws, loc, dim, wrong) < FAILURE_RATE


def test_the_oracle_of_the_cosine() -> None:
    # Dimension 3 has a closed form: F(t) = (1 - exp(-k t)) / (1 - exp(-2k)).
    t = np.linspace(1e-9, 2, 101)
    for k in (0.05, 2.0, 100.0):
        expected = np.expm1(-k * t) / np.expm1(-2 * k)
        np.testing.assert_allclose(cosine_cdf(3, k, t), expected, atol=2e-7)
    # Dimension 2 at concentration 0 is uniform in the angle.
    np.testing.assert_allclose(cosine_cdf(2, 0.0, t), np.arccos(1 - t) / np.pi, atol=2e-7)


def test_every_row_has_its_own_concentration() -> None:
    ks = torch.tensor([0.0, 2.0, 100.0], dtype=torch.float64)
    loc = directions(3, 5)
    draws = VonMisesFisher(loc, ks).sample((3000,))
    for j, k in enumerate(ks.tolist()):
        assert distance_from_cosine_law(draws[:, j], loc[j], 5, k) > FAILURE_RATE
        wrong = k + power_shift(5, k, 3000)
        assert distance_from_cosine_law(draws[:, j], loc[j], 5, wrong) < FAILURE_RATE


# --------------------------------------------------------------------------------------------------
# The tangent direction
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0.0, 10.0, 1e4])
@pytest.mark.parametrize("dim", [2, 3, 4, 10, 17, 50])
def test_tangent_is_uniform_and_independent_of_the_cosine(dim: int, k: float) -> None:
    loc = directions(dim)
    draws = VonMisesFisher(loc, k).sample((3000,))
    t = (draws - loc).square().sum(-1) / 2
    tangent = draws - loc + t.unsqueeze(-1) * loc
    tangent = torch.nn.functional.normalize(tangent, dim=-1)
    # Any orthonormal basis of the tangent space at loc: the columns of a Householder matrix.
    reflector = torch.nn.functional.normalize(loc - axis(dim), dim=-1)
    basis = torch.eye(dim, dtype=torch.float64) - 2 * torch.outer(reflector, reflector)
    coordinates = tangent @ basis[:, 1:]
    assert_mean(coordinates, 0.0)
    assert_mean(coordinates.square(), 1 / (dim - 1))
    standardised = (t - t.mean()) / t.std()
    assert_mean(standardised.unsqueeze(-1) * coordinates, 0.0)
    if dim > 2:
        assert_mean(standardised.unsqueeze(-1) * (coordinates.square() - 1 / (dim - 1)), 0.0)
        # A coordinate of a uniform direction in R^m: (1 + y)/2 is Beta((m-1)/2, (m-1)/2).
        shape = (dim - 2) / 2
        law = stats.beta(shape, shape).cdf
        # Power: that of a direction in half as many dimensions more.
        wider = (max(dim + 1, 3 * dim // 2) - 2) / 2
        wrong = stats.beta(wider, wider).cdf
        for y in (coordinates[:, 0], coordinates.sum(-1) / math.sqrt(dim - 1)):
            assert stats.kstest((1 + y.numpy()) / 2, law).pvalue > FAILURE_RATE
            assert stats.kstest((1 + y.numpy()) / 2, wrong).pvalue < FAILURE_RATE


# --------------------------------------------------------------------------------------------------
# The derivative in the concentration, sample by sample
# --------------------------------------------------------------------------------------------------


def angle_rate(dim: int, k: float, u: mp.mpf) -> mp.mpf:
    """(dw/dk) / sqrt(1 - w^2) at w = tanh(u), held at its quantile: dw/dk = -(dF/dk) / f(w).

    -dF/dk is the integral of (w' - A) f from w to 1, or minus that from -1 to w; with w = tanh(u)
    the integrand is exp(-k t) (1 - w^2)^((d-1)/2) du, here relative to its value at u.
    """
    m, k = dim - 1, mp.mpf(k)
    complement = radial(dim, k).one_minus_mean
    root = mp.sqrt(m * m + 4 * k * k)
    # 1 - w0 and 1 + w0 at the mode, without cancellation
    mode = mp.log((1 + 2 * k / (m + root)) ** 2 * (m + root) / (2 * m)) / 2
    width = min(1 / mp.sqrt(2 * m * root / (m + root)), mp.mpf(1))

    def one_minus_cosine_and_log_density(v: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        e = mp.exp(2 * v)
        t = 2 / (1 + e)
        return t, m * (v - mp.log1p(e)) - k * t  # 1 - w^2 = 4e / (1 + e)^2

    _, top = one_minus_cosine_and_log_density(u)

    def integrand(v: mp.mpf) -> mp.mpf:
        t, log_density = one_minus_cosine_and_log_density(v)
        return (complement - t) * mp.exp(log_density - top)

    side = 1 if u > mode else -1
    nodes = [u]
    step = side * width
    while one_minus_cosine_and_log_density(nodes[-1])[1] - top > -50:
        nodes.append(nodes[-1] + step)
        step *= mp.mpf(5) / 4
    # dw/dk = (1 - w^2) * integral, since f(w) = (density in u) / (1 - w^2)
    integral = mp.quad(integrand, nodes[::side], method="gauss-legendre")
    return side * integral / mp.cosh(u)


def check_angle_rate(dim: int, k: float, dtype: torch.dtype, tolerance: float) -> None:
    loc = axis(dim, dtype)
    # Further out float32 rounds draws to the antipode, where the reference says nothing.
    zeta = [-4.0, -2.5, -0.3, 0.9, 2.0] + [3.0, 4.5] * (dtype == torch.float64)
    zeta = torch.tensor(zeta, dtype=dtype)
    noise = directions(dim, dtype=dtype, seed=dim).repeat(len(zeta), 1) * math.sqrt(dim)
    noise[:, 0] = zeta
    concentration = torch.full_like(zeta, k, requires_grad=True)
    x = lift(noise, loc, concentration)
    # The unit tangent of the meridian at x, on which nothing cancels: <g, x> = 0, <g, loc> = sine.
    with torch.no_grad():
        cosine = x[:, :1]
        sine = torch.linalg.vector_norm(x[:, 1:], dim=-1, keepdim=True)
        meridian = torch.cat((sine, -cosine * x[:, 1:] / sine), -1)
    (grad,) = torch.autograd.grad((x * meridian).sum(), concentration)
    for j in range(len(zeta)):
        w, s = mp.mpf(cosine[j].item()), mp.mpf(sine[j].item())
        with mp.workdps(18):
            # artanh(w) from the sine, which has all digits also where w = +-1 after rounding
            norm = mp.sqrt(w * w + s * s)
            u = mp.log((norm + abs(w)) / s) * (1 if w > 0 else -1)
            expected = angle_rate(dim, concentration[j].item(), u)
        assert grad[j].item() == pytest.approx(float(expected), rel=tolerance, abs=0), j


@pytest.mark.parametrize("k", [0.0, 1e-3, 0.7, 10.0, 100.0, 1e4, 1e8])
@pytest.mark.parametrize("dim", [2, 3, 4, 5, 8, 20, 64, 512])
def test_gradient_of_every_sample_in_the_concentration(dim: int, k: float) -> None:
    check_angle_rate(dim, k, torch.float64, 1e-8)


@pytest.mark.parametrize("k", [0.0, 10.0, 1e8])
@pytest.mark.parametrize("dim", [2, 3, 5, 20, 512])
def test_gradient_of_every_sample_in_float32(dim: int, k: float) -> None:
    check_angle_rate(dim, k, torch.float32, 1e-4)


def test_gradient_at_concentration_zero_in_closed_form() -> None:
    # d artanh(w)/dk = 1/(d - 1) for every w at k = 0; with w = <x, loc>, dw/dk = (1 - w^2)/(d - 1).
    for dim in (2, 3, 7, 100):
        k = torch.zeros(50, dtype=torch.float64, requires_grad=True)
        x = lift(torch.randn(50, dim, dtype=torch.float64), axis(dim), k)
        (grad,) = torch.autograd.grad(x[:, 0].sum(), k)
        torch.testing.assert_close(grad, (1 - x[:, 0].square()) / (dim - 1), rtol=1e-8, atol=1e-14)


def test_gradient_is_that_of_the_draw_itself() -> None:
    # At fixed noise the draw is a function of the concentration; its difference quotient is the
    # gradient in every coordinate, not only that of the cosine.
    step = 1e-4
    for dim in (2, 3, 10, 40):
        loc, noise = directions(dim), torch.randn(20, dim, dtype=torch.float64)
        for k in (0.5, 10.0, 100.0):
            at = torch.full((20,), k, dtype=torch.float64, requires_grad=True)
            upstream = directions(20, dim, seed=1)
            (grad,) = torch.autograd.grad((lift(noise, loc, at) * upstream).sum(), at)
            above, below = (lift(noise, loc, at.detach() + sign * step) for sign in (1, -1))
            quotient = ((above - below) * upstream).sum(-1) / (2 * step)
            torch.testing.assert_close(grad, quotient, rtol=1e-5, atol=1e-7)


# --------------------------------------------------------------------------------------------------
# The derivative in the mean direction
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3, 10, 40])
def test_gradient_in_loc_is_the_derivative_of_the_minimal_rotation(dim: int) -> None:
    loc = directions(dim).requires_grad_()
    noise = torch.randn(6, dim, dtype=torch.float64)
    upstream = directions(6, dim, seed=1)
    k = torch.tensor([0.0, 0.5, 5.0, 20.0, 100.0, 1e4], dtype=torch.float64)
    x = lift(noise, loc, k)
    per_draw = torch.stack(
        [
            torch.autograd.grad((x[j] * upstream[j]).sum(), loc, retain_graph=True)[0]
            for j in range(6)
        ]
    )
    mu = loc.detach()
    # ... and their sum is what a loc that all share receives
    (total,) = torch.autograd.grad((x * upstream).sum(), loc)
    torch.testing.assert_close(total, per_draw.sum(0))
    # Tangent to the sphere: where loc is normalised upstream nothing is lost.
    assert ((per_draw @ mu).abs() < 1e-14).all()
    # The rotation by an angle in the plane of mu and a tangent h, as a matrix.
    step = 1e-4
    for seed in range(3):
        h = directions(dim, seed=50 + seed)
        h = torch.nn.functional.normalize(h - (h @ mu) * mu, dim=-1)

        def rotation(angle: float, h: Tensor = h) -> Tensor:
            turn = torch.outer(h, mu) - torch.outer(mu, h)
            plane = torch.outer(h, h) + torch.outer(mu, mu)
            eye = torch.eye(dim, dtype=torch.float64)
            return eye + math.sin(angle) * turn + (math.cos(angle) - 1) * plane

        torch.testing.assert_close(rotation(step) @ mu, math.cos(step) * mu + math.sin(step) * h)
        moved = x.detach() @ (rotation(step) - rotation(-step)).T / (2 * step)
        torch.testing.assert_close(per_draw @ h, (moved * upstream).sum(-1), rtol=1e-6, atol=1e-8)


def test_gradient_in_loc_is_equivariant() -> None:
    # Turning loc, noise and upstream together turns the draw and its gradient.
    dim = 5
    turn, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))
    loc, noise, upstream = (
        directions(dim),
        torch.randn(7, dim, dtype=torch.float64),
        directions(7, 5),
    )
    k = torch.full((7,), 3.0, dtype=torch.float64)

    def draw_and_gradient(turn: Tensor) -> tuple[Tensor, Tensor]:
        mu = (turn @ loc).requires_grad_()
        x = lift(noise @ turn.T, mu, k)
        (grad,) = torch.autograd.grad((x * (upstream @ turn.T)).sum(), mu)
        return x.detach(), grad

    x, grad = draw_and_gradient(torch.eye(dim, dtype=torch.float64))
    turned_x, turned_grad = draw_and_gradient(turn)
    torch.testing.assert_close(turned_x, x @ turn.T, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(turned_grad, turn @ grad, rtol=1e-9, atol=1e-11)


# --------------------------------------------------------------------------------------------------
# Derivatives of expectations
# --------------------------------------------------------------------------------------------------

EXPECTATIONS = [
    pytest.param(dim, k, id=f"d{dim}-k{k:g}")
    for dim, k in (
        (2, 0.7),
        (3, 10.0),
        (4, 0.05),
        (5, 2.0),
        (10, 10.0),
        (50, 100.0),
        (64, 20.0),
        (128, 500.0),
        (512, 500.0),
    )
]

_TestFunction = Callable[[Tensor], Tensor]


def gradients_of_draws(
    dim: int, k: float, n: int, function: _TestFunction, onto: Tensor
) -> tuple[Tensor, Tensor]:
    """Of every draw: the derivative in the concentration, and that in loc along ``onto``."""
    loc = directions(dim)
    in_k, in_loc = [], []
    while n:
        size = min(n, max(1, 2_000_000 // dim))
        n -= size
        locs = loc.expand(size, dim).clone().requires_grad_()
        ks = torch.full((size,), k, dtype=torch.float64, requires_grad=True)
        value = function(VonMisesFisher(locs, ks, validate_args=False).rsample())
        grad_loc, grad_k = torch.autograd.grad(value.sum(), (locs, ks))
        in_k.append(grad_k)
        in_loc.append(grad_loc @ onto.T)
    return torch.cat(in_k), torch.cat(in_loc)


def check_expectations(dim: int, k: float, n: int) -> None:
    mu = directions(dim)
    side = directions(dim, seed=8)
    side = torch.nn.functional.normalize(side - (side @ mu) * mu, dim=-1)
    other = directions(dim, seed=9)
    other = other - (other @ mu) * mu - (other @ side) * side
    other = torch.nn.functional.normalize(other, dim=-1) if dim > 2 else torch.zeros_like(mu)
    onto = torch.stack((mu, side, other))  # the normal of the sphere, and two of its tangents
    a, b = 0.8, 0.6
    c = a * mu + b * side
    laws = radial(dim, k)
    length, slope = float(laws.mean), float(laws.variance)

    # E <c, x> = A <c, mu>: derivative A' <c, mu> in k and A (c - <c, mu> mu) in mu.
    in_k, in_loc = gradients_of_draws(dim, k, n, lambda x: x @ c, onto)
    assert_mean(in_k, slope * a)
    assert_mean(in_loc, torch.tensor([0.0, length * b, 0.0], dtype=torch.float64))
    # Power: s-vae-pytorch's third less than there should be is caught.
    assert standard_errors_off(in_k, 0.68 * slope * a) > BOUND
    if k > 0.5:  # below, the derivative in loc all but vanishes
        assert standard_errors_off(in_loc[:, 1], 0.68 * length * b) > BOUND

    # E exp<c, x> = Z(r)/Z(k) with r = |k mu + c|; r dr/dk = <k mu + c, mu>, r dr/dmu = k c_tangent.
    with mp.workdps(30):
        shifted = [mp.mpf(k) + a, mp.mpf(b)]
        r = mp.sqrt(shifted[0] ** 2 + shifted[1] ** 2)
        tilted = radial(dim, r)
        value = mp.exp(tilted.log_partition - laws.log_partition)
        slope_k = float(value * (tilted.mean * shifted[0] / r - laws.mean))
        slope_loc = float(value * tilted.mean * mp.mpf(k) * b / r)
    in_k, in_loc = gradients_of_draws(dim, k, n, lambda x: (x @ c).exp(), onto)
    assert_mean(in_k, slope_k)
    assert_mean(in_loc, torch.tensor([0.0, slope_loc, 0.0], dtype=torch.float64))
    assert standard_errors_off(in_k, 0.68 * slope_k) > BOUND
    if k > 0.5:
        assert standard_errors_off(in_loc[:, 1], 0.68 * slope_loc) > BOUND


@pytest.mark.parametrize(("dim", "k"), EXPECTATIONS)
def test_gradients_of_expectations(dim: int, k: float) -> None:
    check_expectations(dim, k, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "k"), EXPECTATIONS)
def test_gradients_of_expectations_at_full_size(dim: int, k: float) -> None:
    check_expectations(dim, k, 200_000)


# --------------------------------------------------------------------------------------------------
# On the sphere
# --------------------------------------------------------------------------------------------------


def check_on_sphere(loc: Tensor, k: float, n: int) -> None:
    law = VonMisesFisher(loc, k)
    while n > 0:
        draws = law.sample((min(n, 100_000),))
        assert constraints.sphere.check(draws).all()
        n -= len(draws)


@pytest.mark.parametrize("k", [0.0, 30.0])
@pytest.mark.parametrize("dim", [2, 3, 4])
def test_float32_draws_are_on_the_sphere(dim: int, k: float) -> None:
    check_on_sphere(directions(dim, dtype=torch.float32), k, 50_000)


@pytest.mark.slow
@pytest.mark.parametrize("k", [0.0, 1.0, 30.0, 1e8])
@pytest.mark.parametrize("dim", [2, 3, 4])
def test_a_million_float32_draws_are_on_the_sphere(dim: int, k: float) -> None:
    check_on_sphere(directions(dim, dtype=torch.float32), k, 1_000_000)


@pytest.mark.parametrize("k", [0.0, 5.0, 1e4, 1e8])
@pytest.mark.parametrize("dim", [2, 3, 4, 5, 16, 17, 100])
def test_draws_are_on_the_sphere_where_loc_is_at_the_edge_of_it(
    dim: int, k: float, dtype: torch.dtype
) -> None:
    edge = 0.9 * constraints.sphere.reltol * torch.finfo(dtype).eps * math.sqrt(dim)
    for scale in (1 + edge, 1 - edge):
        loc = (directions(dim) * scale).to(dtype)
        assert constraints.sphere.check(loc)
        check_on_sphere(loc, k, 1500)


@pytest.mark.parametrize("dim", [2, 3, 5, 16])
def test_draws_along_an_axis(dim: int, dtype: torch.dtype) -> None:
    # Noise all but parallel to loc leaves the tangent part to rounding.
    for sign in (1, -1):
        noise = sign * axis(dim, dtype).repeat(3, 1)
        noise[1:, 1] = torch.tensor([1e-6, 1e-3], dtype=dtype)
        for k in (0.0, 10.0, 1e6):
            ks = torch.full((3,), k, dtype=dtype, requires_grad=True)
            x = lift(noise[1:], axis(dim, dtype), ks[1:])
            assert constraints.sphere.check(x).all()
            (grad,) = torch.autograd.grad(x.sum(), ks)
            assert grad.isfinite().all()


# --------------------------------------------------------------------------------------------------
# The ends of the range
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0.0, 1e-30, 1e12, 1e30, math.inf])
@pytest.mark.parametrize("dim", [2, 3, 4, 20])
def test_draws_and_gradients_at_the_ends(dim: int, k: float, dtype: torch.dtype) -> None:
    loc = directions(dim, dtype=dtype).requires_grad_()
    concentration = torch.tensor(k, dtype=dtype, requires_grad=True)
    draws = VonMisesFisher(loc, concentration).rsample((200,))
    assert constraints.sphere.check(draws).all()
    grads = torch.autograd.grad(
        (draws * directions(200, dim, dtype=dtype)).sum(), (loc, concentration)
    )
    for grad in grads:
        assert grad.isfinite().all()
    if k >= 1e30:
        eps = torch.finfo(dtype).eps
        spread = 1 / math.sqrt(k)  # of the law itself, which in float64 is of the size of rounding
        assert (draws - loc).abs().max() < 10 * eps * math.sqrt(dim) + 6 * spread
        assert grads[1].abs() < 1e-15
    if k == 0:
        assert standard_errors_off(draws.detach(), 0.0) < BOUND


# --------------------------------------------------------------------------------------------------
# Second derivatives are refused
# --------------------------------------------------------------------------------------------------


def functions_of_a_draw() -> list[Any]:
    noise = directions(4, 3, seed=2) * 1.7

    def of_concentration(k: Tensor) -> Tensor:
        return lift(noise, axis(3), k)[:, 0].square().sum()

    def of_loc(loc: Tensor) -> Tensor:
        loc = torch.nn.functional.normalize(loc, dim=-1)
        return lift(noise, loc, torch.ones((), dtype=torch.float64))[:, 0].square().sum()

    at_concentration = torch.tensor(2.0, dtype=torch.float64)
    return [
        pytest.param(of_concentration, at_concentration, id="concentration"),
        pytest.param(of_loc, directions(3), id="loc"),
    ]


@pytest.mark.parametrize(("function", "at"), functions_of_a_draw())
def test_second_derivative_through_autograd(function: _TestFunction, at: Tensor) -> None:
    x = at.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(x), x, create_graph=True)
    assert grad.isfinite().all()  # the first derivative is there
    with pytest.raises(NotImplementedError, match=r"rsample .* once"):
        torch.autograd.grad(grad.sum(), x, retain_graph=True)
    with pytest.raises(NotImplementedError, match=r"rsample .* once"):
        grad.sum().backward()
    with pytest.raises(NotImplementedError, match=r"rsample .* once"):
        torch.autograd.functional.hessian(function, at)


@pytest.mark.parametrize(("function", "at"), functions_of_a_draw())
def test_second_derivative_through_torch_func(function: _TestFunction, at: Tensor) -> None:
    first = torch.func.grad(function)(at)
    assert first.isfinite().all()
    with pytest.raises(NotImplementedError, match=r"rsample .* once"):
        torch.func.grad(lambda x: torch.func.grad(function)(x).sum())(at)
    with pytest.raises(NotImplementedError, match=r"rsample .* once"):
        torch.func.jacrev(torch.func.grad(function))(at)
    with pytest.raises(NotImplementedError, match=r"rsample .* once"):
        torch.func.hessian(function)(at)  # forward over reverse


@pytest.mark.parametrize(("function", "at"), functions_of_a_draw())
def test_forward_mode_is_refused(function: _TestFunction, at: Tensor) -> None:
    def tangent(at: Tensor) -> Tensor:
        return torch.func.jvp(function, (at,), (torch.ones_like(at),))[1]

    for derivative in (tangent, torch.func.jacfwd(function), torch.func.grad(tangent)):
        with pytest.raises(NotImplementedError, match=r"rsample .* once, by backward mode"):
            derivative(at)
    with pytest.raises(NotImplementedError, match=r"rsample .* once, by backward mode"):
        torch.func.vmap(tangent)(at.expand(2, *at.shape))
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=r"rsample .* once, by backward mode"),
    ):
        function(forward_ad.make_dual(at, torch.ones_like(at)))


# --------------------------------------------------------------------------------------------------
# Memory, and the device
# --------------------------------------------------------------------------------------------------


class _Watch(TorchDispatchMode):
    """Notes the largest tensor made, and refuses what makes the host wait for the device."""

    _WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")
    _INDEXING = ("index", "index_put", "index_put_", "_unsafe_index")

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(self._WAITING):
            raise AssertionError(f"{name} waits for the device")
        if name in self._INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1]):
            raise AssertionError("indexing with a mask waits for the device")
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor):
                self.largest = max(self.largest, x.untyped_storage().nbytes() // x.itemsize)
        return result


@contextmanager
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Watch]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the host waits for the device")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__"):
            patch.setattr(Tensor, name, refuse)
        with _Watch() as watch:
            yield watch


def test_the_watch_sees_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(3)
    for wait in (
        lambda: x.sum().item(),
        lambda: bool(x.sum() > 0),
        lambda: float(x.sum()),
        lambda: x.tolist(),
        lambda: x[x > 0],
        lambda: torch.nonzero(x),
        lambda: torch.equal(x, x + 0),
    ):
        with no_waiting(monkeypatch), pytest.raises(AssertionError, match="waits"):
            wait()


@pytest.mark.parametrize("dim", [2, 3, 5, 30])
def test_rsample_does_not_wait_for_the_device(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loc = directions(4, dim).requires_grad_()
    k = torch.tensor([0.0, 1.0, 50.0, 1e6], dtype=torch.float64, requires_grad=True)

    def step() -> None:
        law = VonMisesFisher(loc, k, validate_args=False)
        value = law.rsample((3,))
        loss = value[..., 0].sum() + law.log_prob(value).sum() + law.entropy().sum()
        torch.autograd.grad(loss, (loc, k))

    step()  # the tables of the dimension are made once
    with no_waiting(monkeypatch):
        step()


def peak_memory(function: Callable[[], None]) -> int:
    """Bytes that a call holds at most, beyond those held before it."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events))


@pytest.mark.parametrize(("shared", "most"), [(False, 3.2), (True, 2.5)])
@pytest.mark.parametrize(("n", "dim"), [(40_000, 64), (4000, 1000)])
def test_peak_memory_in_units_of_the_draws(n: int, dim: int, shared: bool, most: float) -> None:
    # The draws, the gradient from above and, for a loc per row, the gradient in loc.
    shape = (dim,) if shared else (n, dim)
    loc = torch.nn.functional.normalize(torch.randn(shape), dim=-1).requires_grad_()
    k = torch.rand(n).requires_grad_()
    law = VonMisesFisher(loc, k, validate_args=False)

    def step() -> None:
        draws = law.rsample()
        torch.autograd.grad(draws, (loc, k), torch.ones_like(draws))

    step()  # the table of the dimension
    assert peak_memory(step) <= most * n * dim * 4


@pytest.mark.parametrize(
    ("sample_shape", "loc_shape", "k_shape"),
    [
        ((), (40,), (40,)),
        ((), (), (40,)),
        ((9,), (5,), ()),
        ((3,), (4, 1), (5,)),
        ((2, 3), (1, 5), (4, 1)),
        ((30,), (1,), (1,)),
    ],
)
@pytest.mark.parametrize("dim", [2, 3, 9, 30])
def test_blocks_change_nothing(
    dim: int,
    sample_shape: tuple[int, ...],
    loc_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loc = directions(*loc_shape, dim).requires_grad_()
    k = (20 * torch.rand(k_shape, dtype=torch.float64)).requires_grad_()
    law = VonMisesFisher(loc, k)

    def step() -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        draws = law.rsample(sample_shape)
        return draws, *torch.autograd.grad(draws.sin().sum(), (loc, k))

    whole = step()
    for rows, numbers in ((7, 3 * dim), (1, 1), (16, 1 << 20)):
        monkeypatch.setattr(draw_module, "_BLOCK_ROWS", rows)
        monkeypatch.setattr(draw_module, "_BLOCK_NUMBERS", numbers)
        for found, expected in zip(step(), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_draw_changed_in_place_has_no_gradient() -> None:
    # The backward pass needs the draw: torch has to notice, though the draw is in its noise.
    loc = directions(4).requires_grad_()
    draws = VonMisesFisher(loc, 3.0).rsample((5,))
    draws.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        draws.sum().backward()


@pytest.mark.parametrize(
    ("n", "dim"),
    [
        pytest.param(50_000, 3, id="many-draws"),
        pytest.param(2000, 1000, id="d1000"),
        pytest.param(6, 100_000, id="d100000"),
    ],
)
def test_memory_is_that_of_the_draws(n: int, dim: int) -> None:
    loc = directions(dim, dtype=torch.float32).requires_grad_()
    k = torch.full((n,), 3.0 * dim, requires_grad=True)
    law = VonMisesFisher(loc, k, validate_args=False)
    law.expand((n,)).entropy()
    with _Watch() as watch:
        draws = law.rsample()
        draws[:, 0].sum().backward()
    assert watch.largest <= 4 * n * dim
    assert constraints.sphere.check(draws).all()
    assert loc.grad.isfinite().all()
    assert k.grad.isfinite().all()
    # and it is the right law: the mean cosine within the bound of that of a tenth more
    cosine = draws.detach().double() @ loc.detach().double()
    assert_mean(cosine, float(radial(dim, 3.0 * dim).mean))
    if n > 1000:
        assert standard_errors_off(cosine, float(radial(dim, 3.3 * dim).mean)) > BOUND
