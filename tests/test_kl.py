# Kullback-Leibler divergences against mpmath and against what they mean.

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from cases import assert_mean, directions
from reference import radial
from strategies import ENDS, LARGEST, concentrations, dims, dtypes, in_dtype, nearby, unit_vectors
from vmfdist import HypersphericalUniform, PowerSpherical, VonMisesFisher


def exact_chord(x: Tensor, y: Tensor) -> mp.mpf:
    """|x - y|^2 / 2 of the unit vectors that these stand for."""
    rows = [[mp.mpf(v) for v in z.tolist()] for z in (x, y)]
    norms = [mp.sqrt(mp.fsum(v * v for v in row)) for row in rows]
    pairs = zip(*rows, strict=True)
    return mp.fsum((a / norms[0] - b / norms[1]) ** 2 for a, b in pairs) / 2


class Precise(NamedTuple):
    """Phi, A and A' at the current precision, which the differences below need."""

    log_partition: mp.mpf
    mean: mp.mpf
    variance: mp.mpf


def precise(dim: int, k: float) -> Precise:
    order, x = mp.mpf(dim) / 2 - 1, mp.mpf(k)
    if x == 0:
        return Precise(mp.mpf(0), mp.mpf(0), 1 / mp.mpf(dim))
    bessel = mp.besseli(order, x)
    mean = mp.besseli(order + 1, x) / bessel
    variance = 1 - mean * mean - (dim - 1) * mean / x  # DLMF 10.29.2
    return Precise(mp.log(mp.gamma(order + 1) * (2 / x) ** order * bessel), mean, variance)


# Values


@example(dim=2, k=0.0, dtype=torch.float32)
@example(dim=40, k=LARGEST, dtype=torch.float32)
@given(dim=dims, k=concentrations(), dtype=dtypes)
def test_to_and_from_the_uniform_law(dim: int, k: float, dtype: torch.dtype) -> None:
    k = in_dtype(k, dtype)
    eps = torch.finfo(dtype).eps
    p, q = VonMisesFisher(directions(dim, dtype=dtype), k), HypersphericalUniform(dim, dtype=dtype)
    with mp.workdps(40):
        reference = radial(dim, k)
        for found, expected in (
            (kl_divergence(p, q), reference.kl_to_uniform(k)),
            (kl_divergence(q, p), reference.log_partition),
        ):
            assert found.dtype == dtype
            # Phi(1e-12) in float32 is a subnormal number
            tiny = torch.finfo(dtype).tiny * eps
            assert abs(mp.mpf(found.item()) - expected) <= 8 * eps * expected + tiny


@given(data=st.data(), dim=st.sampled_from((2, 3, 4, 7, 20, 64)), dtype=dtypes)
def test_between_von_mises_fisher_laws(data: st.DataObject, dim: int, dtype: torch.dtype) -> None:
    loc1 = data.draw(unit_vectors(dim, dtype))
    loc2 = data.draw(unit_vectors(dim, dtype) | nearby(loc1) | st.just(loc1))
    k1 = in_dtype(data.draw(concentrations()), dtype)
    relative = data.draw(st.sampled_from((None, 1e-12, 1e-9, 1e-6, 1e-3, 0.1)))
    if relative is None:
        k2 = in_dtype(data.draw(concentrations()), dtype)
    else:  # nearly coincident
        k2 = in_dtype(k1 * (1 + data.draw(st.sampled_from((1, -1))) * relative), dtype)
    check_between(loc1, k1, loc2, k2)


@pytest.mark.parametrize("k2", [*ENDS, 3.0])
@pytest.mark.parametrize("k1", [*ENDS, 3.0])
def test_between_von_mises_fisher_laws_at_the_ends(
    k1: float, k2: float, dtype: torch.dtype
) -> None:
    loc1, loc2 = directions(3, dtype=dtype), directions(3, dtype=dtype, seed=2)
    check_between(loc1, in_dtype(k1, dtype), loc2, in_dtype(k2, dtype))


def check_between(loc1: Tensor, k1: float, loc2: Tensor, k2: float) -> None:
    dim, eps = len(loc1), torch.finfo(loc1.dtype).eps
    found = kl_divergence(VonMisesFisher(loc1, k1), VonMisesFisher(loc2, k2))
    assert found.dtype == loc1.dtype
    # Of 100 digits up to 24 cancel at a relative distance of 1e-12, and 24 at 1e-12 itself.
    with mp.workdps(100):
        first, second = precise(dim, k1), precise(dim, k2)
        weight = mp.mpf(k2) * first.mean
        turned = weight * exact_chord(loc1, loc2)
        bregman = (
            second.log_partition - first.log_partition - first.mean * (mp.mpf(k2) - mp.mpf(k1))
        )
        expected = bregman + turned
        # The lengths of rounded directions are off by eps: see test_von_mises_fisher.py.
        rounding = 4 * eps * turned + weight * (2 * eps) ** 2
        assert abs(mp.mpf(found.item()) - expected) <= 16 * eps * expected + rounding


@pytest.mark.parametrize("k", [0.0, 1e-12, 0.3, 50.0, 1e12])
@pytest.mark.parametrize("dim", [2, 3, 64])
def test_equal_laws_have_none(dim: int, k: float, dtype: torch.dtype) -> None:
    loc = directions(dim, dtype=dtype)
    assert kl_divergence(VonMisesFisher(loc, k), VonMisesFisher(loc, k)) == 0
    uniform = HypersphericalUniform(dim, dtype=dtype)
    assert kl_divergence(uniform, uniform) == 0


@pytest.mark.parametrize("dim", [2, 3, 64])
def test_concentration_zero_is_the_uniform_law(dim: int) -> None:
    flat = VonMisesFisher(directions(dim, seed=3), 0)
    uniform = HypersphericalUniform(dim, dtype=torch.float64)
    law = VonMisesFisher(directions(dim), 7.0)
    assert kl_divergence(flat, uniform) == 0
    assert kl_divergence(uniform, flat) == 0
    torch.testing.assert_close(kl_divergence(law, flat), kl_divergence(law, uniform))
    torch.testing.assert_close(kl_divergence(flat, law), kl_divergence(uniform, law))


def laws_of_dimension_four() -> dict[str, Any]:
    return {
        "uniform": HypersphericalUniform(4, dtype=torch.float64),
        "wide": VonMisesFisher(directions(4), 0.5),
        "narrow": VonMisesFisher(directions(4, seed=2), 10.0),
    }


@pytest.mark.parametrize("q", ["uniform", "wide", "narrow"])
@pytest.mark.parametrize("p", ["uniform", "wide", "narrow"])
def test_it_is_the_mean_log_ratio_of_the_densities(p: str, q: str) -> None:
    laws = laws_of_dimension_four()
    draws = laws[p].sample((20_000,))
    assert_mean(laws[p].log_prob(draws) - laws[q].log_prob(draws), kl_divergence(laws[p], laws[q]))


# Derivatives


@pytest.mark.parametrize("k", [(0.0, 0.0), (0.0, 2.0), (2.0, 0.0), (2.0, 2.0), (1.0, 30.0)])
def test_derivatives(k: tuple[float, float]) -> None:
    uniform = HypersphericalUniform(3, dtype=torch.float64)
    raws = [(directions(3, seed=s) * 1.3).requires_grad_() for s in (1, 2)]
    ks = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in k]

    def law(raw: Tensor, k: Tensor) -> VonMisesFisher:
        return VonMisesFisher(normalize(raw, dim=-1), k, validate_args=False)

    def between(raw1: Tensor, k1: Tensor, raw2: Tensor, k2: Tensor) -> Tensor:
        return kl_divergence(law(raw1, k1), law(raw2, k2))

    def to_uniform(k1: Tensor) -> Tensor:
        return kl_divergence(law(raws[0].detach(), k1), uniform)

    def from_uniform(k1: Tensor) -> Tensor:
        return kl_divergence(uniform, law(raws[0].detach(), k1))

    for function, arguments in (
        (between, (raws[0], ks[0], raws[1], ks[1])),
        (to_uniform, (ks[0],)),
        (from_uniform, (ks[0],)),
    ):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


@pytest.mark.parametrize(
    ("k1", "k2"),
    [
        pytest.param(0.0, 0.0, id="both-zero"),
        pytest.param(1e-12, 0.0, id="nearly-zero"),
        pytest.param(3.0, 3.0, id="equal"),
        pytest.param(3.0, 3.0 * (1 + 2**-20), id="nearly-equal"),
        pytest.param(0.0, 5.0, id="from-zero"),
        pytest.param(5.0, 0.0, id="to-zero"),
        pytest.param(1e12, 1e12 * (1 + 2**-20), id="largest"),
        pytest.param(20.0, 3.0, id="apart"),
    ],
)
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_gradients_are_exact(dim: int, k1: float, k2: float, dtype: torch.dtype) -> None:
    k1, k2 = in_dtype(k1, dtype), in_dtype(k2, dtype)
    a, b = (torch.tensor(k, dtype=dtype, requires_grad=True) for k in (k1, k2))
    # Directions at a right angle: chord 1, nothing rounded. And equal ones: chord 0.
    axes = torch.eye(dim, dtype=dtype)
    for chord, (loc1, loc2) in ((1, axes[:2]), (0, axes[[0, 0]])):
        loc1, loc2 = (x.clone().requires_grad_() for x in (loc1, loc2))
        kl = kl_divergence(VonMisesFisher(loc1, a), VonMisesFisher(loc2, b))
        grads = torch.autograd.grad(kl, (a, b, loc1, loc2))
        with mp.workdps(100):
            first, second = precise(dim, k1), precise(dim, k2)
            mp1, mp2 = mp.mpf(k1), mp.mpf(k2)
            in_k1 = first.variance * (mp1 - mp2) + mp2 * first.variance * chord
            in_k2 = second.mean - first.mean + first.mean * chord
            weight = mp2 * first.mean
            # the sum of two terms of either sign is as accurate as the larger
            scale1 = first.variance * max(abs(mp1 - mp2), mp2 * chord)
            scale2 = max(abs(second.mean - first.mean), first.mean * chord)
            eps = torch.finfo(dtype).eps
            # below the smallest number there is nothing to be right about
            tiny = torch.finfo(dtype).tiny
            assert abs(mp.mpf(grads[0].item()) - in_k1) <= 16 * eps * scale1 + tiny
            assert abs(mp.mpf(grads[1].item()) - in_k2) <= 16 * eps * scale2 + tiny
            # along the sphere: d/d loc1 of -k2 A(k1) <loc1, loc2>
            if chord == 1:
                for grad, j in ((grads[2], 1), (grads[3], 0)):
                    assert abs(mp.mpf(grad[j].item()) + weight) <= 16 * eps * weight + tiny
        for grad in grads:
            assert grad.isfinite().all()


# Shapes


def test_batch_shapes_broadcast() -> None:
    p = VonMisesFisher(directions(2, 1, 3), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    q = VonMisesFisher(directions(4, 3, seed=2), 5.0)
    uniform = HypersphericalUniform(3, (5, 1, 1), dtype=torch.float64)
    assert kl_divergence(p, q).shape == (2, 4)
    assert kl_divergence(q, p).shape == (2, 4)
    assert kl_divergence(p, uniform).shape == (5, 2, 4)
    assert kl_divergence(uniform, p).shape == (5, 2, 4)
    assert kl_divergence(uniform, HypersphericalUniform(3, (7,))).shape == (5, 1, 7)
    single = kl_divergence(
        VonMisesFisher(p.loc[1, 2], p.concentration[1, 2]), VonMisesFisher(q.loc[2], 5.0)
    )
    torch.testing.assert_close(kl_divergence(p, q)[1, 2], single)
    words = r"batch shapes that broadcast to have a divergence, got \(2, 4\) \(VonM.* and \(3,\)"
    for other in (VonMisesFisher(directions(3, 3), 1.0), HypersphericalUniform(3, (3,))):
        with pytest.raises(ValueError, match=words):
            kl_divergence(p, other)


def test_independent_and_expanded_laws() -> None:
    p = VonMisesFisher(directions(2, 4, 3), 2.0)
    q = VonMisesFisher(directions(2, 4, 3, seed=2), 5.0)
    uniform = HypersphericalUniform(3, dtype=torch.float64).expand((2, 4))
    assert kl_divergence(p, uniform).shape == (2, 4)
    for other in (q, uniform):
        each = kl_divergence(p, other)
        joint = kl_divergence(p.to_event(1), other.to_event(1))
        torch.testing.assert_close(joint, each.sum(-1))
        joint = kl_divergence(p.to_event(2), other.to_event(2))
        torch.testing.assert_close(joint, each.sum())
        theirs = kl_divergence(
            torch.distributions.Independent(p, 1), torch.distributions.Independent(other, 1)
        )
        torch.testing.assert_close(theirs, each.sum(-1))


def test_masked_laws() -> None:
    mask = torch.tensor([True, False, True])
    p, q = VonMisesFisher(directions(3, 4), 2.0), HypersphericalUniform(4, dtype=torch.float64)
    masked = kl_divergence(p.mask(mask), q.expand((3,)).mask(mask))
    torch.testing.assert_close(masked, torch.where(mask, kl_divergence(p, q), 0.0))


def test_other_pairs_are_left_to_torch() -> None:
    with pytest.raises(NotImplementedError):
        kl_divergence(VonMisesFisher(directions(3), 1.0), dist.Normal(0.0, 1.0))


# Bad input


@pytest.mark.parametrize(
    ("p", "q", "words"),
    [
        pytest.param(
            3, 4, r"dimension 3 \(VonMisesFisher\) and 4 \(VonMisesFisher\)", id="vmf-vmf"
        ),
        pytest.param(
            3,
            -4,
            r"dimension 3 \(VonMisesFisher\) and 4 \(HypersphericalUniform\)",
            id="vmf-uniform",
        ),
        pytest.param(-3, 4, r"dimension 3 \(Hypersph.*and 4 \(VonMisesFisher", id="uniform-vmf"),
        pytest.param(-3, -4, r"dimension 3 \(Hypersph.*and 4 \(Hypersph", id="uniform-uniform"),
    ],
)
def test_dimensions_must_agree(p: int, q: int, words: str) -> None:
    # TraceMeanField_ELBO would take a NotImplementedError for a missing closed form, and sample.
    def law(dim: int) -> dist.TorchDistribution:
        return VonMisesFisher(directions(dim), 1.0) if dim > 0 else HypersphericalUniform(-dim)

    with pytest.raises(ValueError, match=words):
        kl_divergence(law(p), law(q))


def test_mixed_dtypes() -> None:
    p = VonMisesFisher(directions(3, dtype=torch.float32), 2.0)
    q = VonMisesFisher(directions(3), 2.0)
    assert kl_divergence(p, q).dtype == torch.float64
    assert kl_divergence(q, p).dtype == torch.float64
    assert kl_divergence(p, q) < 1e-12  # the directions differ by rounding to float32


of_each_law = pytest.mark.parametrize("law", [VonMisesFisher, PowerSpherical])


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 16, 17, 1000])
def test_at_and_next_to_an_infinite_concentration(
    law: type[VonMisesFisher], dim: int, dtype: torch.dtype
) -> None:
    info = torch.finfo(dtype)
    ks = [0.0, info.tiny / 8, 1.0, info.max / 8, info.max / 2, info.max, math.inf]
    k1, k2 = torch.tensor(ks, dtype=dtype), torch.tensor(ks, dtype=dtype)
    axes = torch.eye(dim, dtype=dtype)
    for separation, other in ((0, axes[0]), (1, axes[1]), (2, -axes[0])):
        a = k1.unsqueeze(1).expand(-1, len(ks)).clone().requires_grad_()
        b = k2.expand(len(ks), -1).clone().requires_grad_()
        loc1, loc2 = (x.expand(*a.shape, -1).clone().requires_grad_() for x in (axes[0], other))
        kl = kl_divergence(law(loc1, a), VonMisesFisher(loc2, b))
        in_k1, in_k2, *in_loc = torch.autograd.grad(kl.sum(), (a, b, loc1, loc2))
        assert not any(x.isnan().any() for x in (kl, in_k1, in_k2, *in_loc))
        assert (kl >= 0).all()
        # A point mass has no divergence from itself, and an infinite one from all else, and to it.
        expected = torch.full_like(kl[-1], math.inf)
        assert torch.equal(kl[:-1, -1], expected[:-1])
        expected[-1] = 0.0 if separation == 0 else math.inf
        assert torch.equal(kl[-1], expected)
        # k2 (separation - 1) is the part of it that moves with the mean of the first law.
        expected = torch.full_like(kl[:-1, -1], (separation - 1) * math.inf)
        assert separation == 1 or torch.equal(in_k1[:-1, -1], expected)
        assert (in_k1[-1].abs() < 1e-30).all()
        mean = law(axes[0], k1).mean_resultant_length
        torch.testing.assert_close(in_k2[:, -1].detach(), 1 - mean * (1 - separation))


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 16])
def test_between_the_largest_concentrations(
    law: type[VonMisesFisher], dim: int, dtype: torch.dtype
) -> None:
    # Both laws are normal in the limit, with precisions k1, or k1/2, and k2.
    largest, a = torch.finfo(dtype).max, (dim - 1) / 2
    axes = torch.eye(dim, dtype=dtype)
    for k1, k2 in ((largest, largest / 4.5), (largest / 8, largest), (largest / 3, largest / 3)):
        found = kl_divergence(law(axes[0], k1), VonMisesFisher(axes[0], k2)).item()
        ratio = k2 / k1 * (1 if law is VonMisesFisher else 2)
        expected = a * (ratio - 1 - math.log(ratio))
        rounding = 0 if law is VonMisesFisher else 8 * torch.finfo(dtype).eps * a * math.log(k1)
        assert found == pytest.approx(expected, rel=1e-5, abs=max(rounding, 1e-12))
    # From a law that is not concentrated only the term that is linear in k2 counts.
    for k1, mean in ((0.0, 0.0), (2.0, law(axes[0], 2.0).mean_resultant_length.item())):
        for separation, other in ((0, axes[0]), (1, axes[1])):
            found = kl_divergence(law(axes[0], k1), VonMisesFisher(other, largest / 2))
            expected = largest / 2 * (1 - mean * (1 - separation))
            assert found.item() == pytest.approx(expected, rel=1e-5)


def test_infinite_concentration() -> None:
    point = VonMisesFisher(directions(3), math.inf)
    wide = VonMisesFisher(directions(3, seed=2), 2.0)
    uniform = HypersphericalUniform(3, dtype=torch.float64)
    assert kl_divergence(point, wide) == math.inf
    assert kl_divergence(point, uniform) == math.inf
    assert kl_divergence(uniform, point) == math.inf
    assert kl_divergence(wide, point) == math.inf
    assert kl_divergence(point, point) == 0
