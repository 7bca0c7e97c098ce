# Divergences to the power spherical law, against mpmath and against what they mean.

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from cases import assert_mean, directions
from reference import power_spherical, radial
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher

Law = type[VonMisesFisher] | type[PowerSpherical]

of_each_law = pytest.mark.parametrize("law", [VonMisesFisher, PowerSpherical])


# The oracle: two integrals, that across in closed form or a power series


def across(ctx: Any, z: Any, one_minus_z2: Any, n: int) -> Any:
    """E log(1 + z^2 + 2 z v) for a coordinate v of a uniform direction in dimension n."""
    if n == 1:
        return ctx.log(one_minus_z2)
    if n == 3 and z > 0.3:
        more, less = 1 + z, one_minus_z2 / (1 + z)
        return (more**2 * ctx.log(more) - less**2 * ctx.log(less)) / (2 * z) - 1
    # log(1 + z^2 + 2 z v) = -2 sum (-z)^l T_l(v) / l, and the mean of T_2j is (-nu)_j / (nu + 1)_j.
    nu, total, term, j = ctx.mpf(n) / 2 - 1, ctx.mpf(0), ctx.mpf(1), 0
    while term and abs(term) > ctx.eps / 100 * max(abs(total), z * z) and j < 3000:
        term *= z * z * (j - nu) / (nu + 1 + j)
        j += 1
        total -= term / j
    return total


def mean_log(law: Law, dim: int, k: Any, half_angle: Any, ctx: Any) -> Any:
    """E log((1 + <x, nu>)/2) where nu is at twice the half angle from the mean direction.

    Over u = artanh(-w), that is log tan(theta/2), in pieces that end where the integrand is kinked.
    """
    m, k = ctx.mpf(dim - 1), ctx.mpf(k)
    with mp.workdps(mp.mp.dps + 10):
        s, c = (ctx.mpf(f(half_angle)) for f in (mp.sin, mp.cos))
        split = ctx.mpf(mp.log(mp.cot(half_angle))) if s else ctx.inf

    def of(u: Any) -> tuple[Any, Any]:
        e = ctx.exp(-2 * abs(u))
        small, large = e / (1 + e), 1 / (1 + e)
        below, above = (small, large) if u < 0 else (large, small)  # (1 -+ w)/2
        tilt = 2 * k * below if law is VonMisesFisher else -k * log_one_minus(below, above)
        return below, above, m / 2 * ctx.log(small * large) - tilt

    def log_one_minus(x: Any, rest: Any) -> Any:
        return ctx.log1p(-x) if x < 0.5 else ctx.log(rest)

    low, high = ctx.mpf(-400), ctx.mpf(400)
    for _ in range(200):  # the mode, by thirds
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (a, high) if of(a)[2] < of(b)[2] else (low, b)
    mode, top = low, of(low)[2]
    cut = ctx.mpf(ctx.dps * 2.3 + 5)

    def end(sign: int, fall: Any) -> Any:
        near, far = ctx.mpf(0), ctx.mpf(400)
        for _ in range(60):
            middle = (near + far) / 2
            fell = top - of(mode + sign * middle)[2] > fall
            near, far = (near, middle) if fell else (middle, far)
        return mode + sign * far

    edges = [end(sign, fall) for sign in (-1, 1) for fall in (cut, cut / 4, 1)]
    edges = sorted({*edges, mode, min(max(split, edges[0]), edges[3])})

    def h(below: Any, above: Any, u: Any) -> Any:
        cc, ss = ctx.sqrt(above) * c, ctx.sqrt(below) * s
        gap = abs(cc - ss)
        if gap == 0:
            return ctx.mpf(0)
        if u < split:
            z, level = ss / cc, log_one_minus(below, above) + log_one_minus(s * s, c * c)
        else:
            z, level = cc / ss, ctx.log(below) + 2 * ctx.log(s)
        rest = gap * (cc + ss) / max(cc, ss) ** 2
        return level + across(ctx, z, rest, dim - 1)

    def integral(weighted: bool) -> Any:
        def integrand(u: Any) -> Any:
            below, above, exponent = of(u)
            return ctx.exp(exponent - top) * (h(below, above, u) if weighted else 1)

        return sum(ctx.quad(integrand, list(pair)) for pair in itertools.pairwise(edges))

    return integral(True) / integral(False)


@functools.cache
def reference(law: Law, dim: int, k: float, half_angle: Any) -> float:
    return float(mean_log(law, dim, k, half_angle, mp.fp))


def pair_at(dim: int, angle: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    loc, other = torch.zeros(2, dim, dtype=dtype)
    loc[0] = 1.0
    other[0], other[1] = math.cos(angle), math.sin(angle)
    return loc, other


def half_angle_of(loc: Tensor, other: Tensor) -> mp.mpf:
    with mp.workdps(40):
        rows = [[mp.mpf(v) for v in x.tolist()] for x in (loc, other)]
        norms = [mp.sqrt(mp.fsum(v * v for v in row)) for row in rows]
        near, far = (
            mp.sqrt(
                mp.fsum(
                    (a / norms[0] - sign * b / norms[1]) ** 2 for a, b in zip(*rows, strict=True)
                )
            )
            for sign in (1, -1)
        )
        return mp.atan2(near, far)


DIMS = (2, 3, 4, 10, 100)
ANGLES = (0.0, 1e-3, 1.0, math.pi / 2, math.pi - 1e-3, math.pi)
CONCENTRATIONS = (0.0, 0.5, 10.0, 1e3, 1e6)


# Values


def expected_divergence(law: Law, loc: Tensor, k1: float, other: Tensor, k2: float) -> float:
    dim = len(loc)
    level = reference(law, dim, k1, half_angle_of(loc, other))
    if law is PowerSpherical:
        own = power_spherical(dim, k1).kl_to_uniform(k1)
    else:
        own = radial(dim, k1).kl_to_uniform(k1)
    return float(own + power_spherical(dim, k2).log_partition - mp.mpf(k2) * level)


def check_value(law: Law, dim: int, k1: float, k2: float, angle: float) -> None:
    loc, other = pair_at(dim, angle)
    expected = expected_divergence(law, loc, k1, other, k2)
    found = kl_divergence(law(loc, k1), PowerSpherical(other, k2)).item()
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-8)
    found = kl_divergence(law(loc, k1), PowerSpherical(other.float(), k2).expand(()))
    assert found.dtype == torch.float64
    loc, other = pair_at(dim, angle, torch.float32)
    expected = expected_divergence(law, loc, k1, other, k2)
    single = kl_divergence(law(loc, k1), PowerSpherical(other, k2))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=4e-6, abs=4e-6)


GRID = list(itertools.product(DIMS, CONCENTRATIONS, ANGLES))


@of_each_law
@pytest.mark.parametrize(("dim", "k1", "angle"), GRID[::23])
def test_value(law: Law, dim: int, k1: float, angle: float) -> None:
    check_value(law, dim, k1, 20.0, angle)


@pytest.mark.slow
@of_each_law
@pytest.mark.parametrize(("dim", "k1", "angle"), GRID)
def test_value_everywhere(law: Law, dim: int, k1: float, angle: float) -> None:
    for k2 in CONCENTRATIONS:
        check_value(law, dim, k1, k2, angle)


@pytest.mark.parametrize(
    ("k1", "k2"), [(0.3, 0.3), (0.3, 50.0), (50.0, 50.0), (1e6, 1e6), (1e6, 9.0)]
)
@pytest.mark.parametrize("dim", [2, 10])
def test_one_mean_direction_is_a_closed_form(dim: int, k1: float, k2: float) -> None:
    loc = directions(dim)
    found = kl_divergence(PowerSpherical(loc, k1), PowerSpherical(loc, k2)).item()
    first, second = power_spherical(dim, k1), power_spherical(dim, k2)
    expected = (
        second.log_partition - first.log_partition + (mp.mpf(k1) - mp.mpf(k2)) * first.mean_log
    )
    assert found == pytest.approx(float(expected), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_concentration_zero_is_the_uniform_law(dim: int) -> None:
    uniform = HypersphericalUniform(dim, dtype=torch.float64)
    k = torch.tensor([0.0, 0.2, 7.0, 1e5], dtype=torch.float64)
    laws = VonMisesFisher, PowerSpherical
    for law in laws:
        flat, wide = law(directions(dim, seed=3), 0.0), law(directions(dim), k)
        q = PowerSpherical(directions(dim, seed=2), k)
        from_flat, from_uniform = kl_divergence(flat, q), kl_divergence(uniform, q)
        torch.testing.assert_close(from_flat, from_uniform, rtol=1e-10, atol=1e-10)
        to_flat = kl_divergence(wide, PowerSpherical(q.loc, 0.0))
        torch.testing.assert_close(to_flat, kl_divergence(wide, uniform), rtol=1e-13, atol=0)


def laws_of_dimension_four() -> dict[str, Any]:
    return {
        "vmf": VonMisesFisher(directions(4), 3.0),
        "ps": PowerSpherical(directions(4, seed=2), 10.0),
        "cauchy": SphericalCauchy(directions(4, seed=3), 0.5),
    }


@pytest.mark.parametrize("p", ["vmf", "ps", "cauchy"])
def test_it_is_the_mean_log_ratio_of_the_densities(p: str) -> None:
    law, q = laws_of_dimension_four()[p], PowerSpherical(directions(4, seed=4), 2.0)
    draws = law.sample((20_000,))
    assert_mean(law.log_prob(draws) - q.log_prob(draws), kl_divergence(law, q))


def test_batch_shapes_broadcast() -> None:
    p = VonMisesFisher(directions(2, 1, 3), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    q = PowerSpherical(directions(4, 3, seed=2), 5.0)
    each = kl_divergence(p, q)
    assert each.shape == (2, 4)
    single = kl_divergence(
        VonMisesFisher(p.loc[1, 2], p.concentration[1, 2]), PowerSpherical(q.loc[2], 5.0)
    )
    torch.testing.assert_close(each[1, 2], single)
    with pytest.raises(ValueError, match=r"dimension 3 \(VonMisesFisher\) and 4 \(PowerSph"):
        kl_divergence(p, PowerSpherical(directions(4), 1.0))


# Derivatives


@pytest.mark.parametrize(
    ("law", "dim"), [(VonMisesFisher, 2), (PowerSpherical, 4), (SphericalCauchy, 3)]
)
def test_derivatives(law: Any, dim: int) -> None:
    limit = 1.0 if law is SphericalCauchy else 30.0
    raws = [(directions(2, dim, seed=s) * 1.3).requires_grad_() for s in (1, 2)]
    k1 = (torch.tensor([0.1, 0.9], dtype=torch.float64) * limit).requires_grad_()
    k2 = torch.tensor([2.0, 30.0], dtype=torch.float64, requires_grad=True)

    def between(raw1: Tensor, k1: Tensor, raw2: Tensor, k2: Tensor) -> Tensor:
        loc1, loc2 = normalize(raw1, dim=-1), normalize(raw2, dim=-1)
        p = law(loc1, k1, validate_args=False)
        return kl_divergence(p, PowerSpherical(loc2, k2, validate_args=False))

    arguments = raws[0], k1, raws[1], k2
    assert torch.autograd.gradcheck(between, arguments, check_forward_ad=True, atol=1e-6)
    for i, j in ((0, 2), (1, 1), (3, 0), (3, 3)):
        (grad,) = torch.autograd.grad(between(*arguments).sum(), arguments[i], create_graph=True)
        with pytest.raises(NotImplementedError, match="differentiate once only"):
            torch.autograd.grad(grad.sum(), arguments[j])


def check_gradients(law: Law, dim: int, k1: float, angle: float) -> None:
    loc, other = pair_at(dim, angle)
    loc.requires_grad_()
    a, b = (torch.tensor(k, dtype=torch.float64, requires_grad=True) for k in (k1, 7.0))
    in_loc, in_k1, in_k2 = torch.autograd.grad(
        kl_divergence(law(loc, a), PowerSpherical(other, b)), (loc, a, b)
    )
    with mp.workdps(22):
        half = half_angle_of(loc.detach(), other)

        def mean(k: Any, half: Any) -> Any:
            return mean_log(law, dim, k, half, mp.mp)

        step_k = mp.mpf("1e-6") * k1
        step = mp.mpf("1e-6") * min(half, mp.pi / 2 - half, 1 / mp.sqrt(1 + k1))
        by_k = (mean(k1 + step_k, half) - mean(k1 - step_k, half)) / (2 * step_k)
        by_half = (mean(k1, half + step) - mean(k1, half - step)) / (2 * step)
        reference = radial(dim, k1) if law is VonMisesFisher else power_spherical(dim, k1)
        slope = reference.variance if law is VonMisesFisher else reference.variance_log
        expected = [k1 * slope - 7 * by_k, power_spherical(dim, 7.0).mean_log - mean(k1, half)]
        turned = 7 * by_half / 2  # towards the other direction the angle shrinks
    for found, truth in zip((in_k1, in_k2, in_loc[1]), (*expected, turned), strict=True):
        assert found.item() == pytest.approx(float(truth), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("law", "dim", "k1", "angle"), [(VonMisesFisher, 2, 3.0, 2.5), (PowerSpherical, 3, 1e3, 3.1)]
)
def test_gradients_are_exact(law: Law, dim: int, k1: float, angle: float) -> None:
    check_gradients(law, dim, k1, angle)


@pytest.mark.slow
@of_each_law
@pytest.mark.parametrize("angle", [1e-3, 1.0, math.pi / 2, math.pi - 1e-3])
@pytest.mark.parametrize("k1", [0.5, 10.0, 1e3, 1e6])
@pytest.mark.parametrize("dim", DIMS)
def test_gradients_are_exact_everywhere(law: Law, dim: int, k1: float, angle: float) -> None:
    check_gradients(law, dim, k1, angle)


@pytest.mark.parametrize("law", [VonMisesFisher, PowerSpherical, SphericalCauchy])
@pytest.mark.parametrize("dim", [2, 3, 10])
def test_at_and_next_to_an_infinite_concentration(law: Any, dim: int, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    ks = [0.0, info.tiny / 8, 1.0, info.max / 8, info.max / 2, info.max, math.inf]
    firsts = [0.0, info.tiny / 8, 0.5, 1 - info.eps, 1.0] if law is SphericalCauchy else ks
    k1, k2 = torch.tensor(firsts, dtype=dtype), torch.tensor(ks, dtype=dtype)
    axes = torch.eye(dim, dtype=dtype)
    for separation, other in ((0, axes[0]), (1, axes[1]), (2, -axes[0])):
        a = k1.unsqueeze(1).expand(-1, len(ks)).clone().requires_grad_()
        b = k2.expand(len(firsts), -1).clone().requires_grad_()
        loc1, loc2 = (x.expand(*a.shape, -1).clone().requires_grad_() for x in (axes[0], other))
        kl = kl_divergence(law(loc1, a), PowerSpherical(loc2, b))
        grads = torch.autograd.grad(kl.sum(), (a, b, loc1, loc2))
        assert not any(x.isnan().any() for x in (kl, *grads))
        assert (kl >= 0).all()
        # A point mass has no divergence from itself, and an infinite one from all else, and to it.
        expected = torch.full_like(kl[-1], math.inf)
        assert (kl[:-1, -1] == math.inf).all()
        expected[-1] = 0.0 if separation == 0 else math.inf
        assert torch.equal(kl[-1], expected)


@pytest.mark.parametrize("vector", [(0.3, 0.4, 0.5), (0.0, 0.0, 0.0)])
def test_in_the_natural_parameter(vector: tuple[float, ...]) -> None:
    q = PowerSpherical(directions(3), 2.0)

    def divergence(vector: Tensor) -> Tensor:
        return kl_divergence(VonMisesFisher.from_natural(vector), q)

    at = torch.tensor(vector, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(divergence(at), at)
    steps = torch.eye(3, dtype=torch.float64) * 1e-5
    expected = (divergence(at.detach() + steps) - divergence(at.detach() - steps)) / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


# Transforms


OTHER = PowerSpherical(directions(10, seed=2), 3.0, validate_args=False)


def of_ten(raw: Tensor, k: Tensor) -> Tensor:
    return kl_divergence(VonMisesFisher(normalize(raw, dim=-1), k, validate_args=False), OTHER)


def test_under_torch_func() -> None:
    raw, k = directions(5, 10), torch.tensor([0.0, 0.5, 3.0, 50.0, 1e4], dtype=torch.float64)
    each = torch.func.vmap(torch.func.grad(of_ten, (0, 1)))(raw, k)
    total = torch.func.grad(lambda raw, k: of_ten(raw, k).sum(), (0, 1))(raw, k)
    torch.testing.assert_close(each, total)


@pytest.mark.slow
def test_compiled() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(of_ten, fullgraph=True, backend="aot_eager")
    raw = directions(5, 10).requires_grad_()
    k = torch.tensor([0.0, 0.5, 3.0, 50.0, 1e4], dtype=torch.float64, requires_grad=True)
    results = [of_ten(raw, k), compiled(raw, k)]
    torch.testing.assert_close(results[0], results[1])
    grads = [torch.autograd.grad(result.sum(), (raw, k)) for result in results]
    torch.testing.assert_close(grads[0], grads[1])
