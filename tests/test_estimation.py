# Maximum likelihood, its errors, and tests of hypotheses: against mpmath and SciPy, against data
# whose estimates are published (by their sufficient statistics), and by simulation.

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import mpmath as mp
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize

from cases import (
    BOUND,
    assert_mean,
    directions,
    not_dense,
    not_dense_kinds,
    standard_errors_off,
)
from reference import radial, radial_by_bessel
from strategies import dtypes
from vmfdist import (
    HypersphericalUniform,
    PowerSpherical,
    SphericalCauchy,
    VonMisesFisher,
    _resultant,
    estimation,
)

# --------------------------------------------------------------------------------------------------
# Samples and what they determine
# --------------------------------------------------------------------------------------------------


def sample_with_resultant(loc: Tensor, n: int, length: float) -> Tensor:
    """n unit vectors whose resultant is exactly so many times ``loc``: pairs opposite about it."""
    pairs, alone = divmod(n, 2)
    cosine = (length - alone) / (2 * pairs)
    tangents = normalize(directions(pairs, len(loc), seed=5), dim=-1)
    tangents = normalize(tangents - (tangents @ loc).unsqueeze(-1) * loc, dim=-1)
    sine = math.sqrt(1 - cosine**2)
    return torch.cat(
        [cosine * loc + side * sine * tangents for side in (1, -1)] + [loc[None]] * alone
    )


def exact_resultant(samples: Tensor, weights: list[float]) -> tuple[mp.mpf, mp.mpf, list[mp.mpf]]:
    """R, 1 - R and the direction, of the unit vectors that these stand for."""
    rows = [[mp.mpf(v) for v in row] for row in samples.tolist()]
    norms = [mp.sqrt(mp.fsum(v * v for v in row)) for row in rows]
    terms = zip(rows, norms, weights, strict=True)
    scaled = [[w * v / norm for v in row] for row, norm, w in terms]
    total = [mp.fsum(column) for column in zip(*scaled, strict=True)]
    length = mp.sqrt(mp.fsum(v * v for v in total))
    mean = length / mp.fsum(weights)
    return mean, 1 - mean, [v / length for v in total]


def relative_error(found: float, target: mp.mpf, dim: int) -> mp.mpf:
    """Of a concentration whose mean resultant length should be ``target``, to first order."""
    at = radial(dim, found)
    return abs((at.mean - target) / (mp.mpf(found) * at.variance))


# --------------------------------------------------------------------------------------------------
# Maximum likelihood
# --------------------------------------------------------------------------------------------------


@example(dim=3, n=10, k=1e7, seed=0, weighted=True, dtype=torch.float32)
@example(dim=2, n=2, k=1e12, seed=0, weighted=False, dtype=torch.float64)
@given(
    dim=st.sampled_from((2, 3, 5, 20)),
    n=st.integers(2, 20),
    k=st.floats(-2, 10).map(lambda x: 10.0**x),
    seed=st.integers(0, 1000),
    weighted=st.booleans(),
    dtype=dtypes,
)
def test_fit(dim: int, n: int, k: float, seed: int, weighted: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    samples = VonMisesFisher(directions(dim), k).sample((n,)).to(dtype)
    weights = torch.rand(n, dtype=dtype) + 0.01 if weighted else None
    law = VonMisesFisher.fit(samples, weights, validate_args=True)
    assert law.loc.dtype == law.concentration.dtype == dtype
    eps = torch.finfo(dtype).eps
    with mp.workdps(40):
        ws = [1.0] * n if weights is None else weights.tolist()
        length, complement, direction = exact_resultant(samples, ws)
        # The lengths of the samples are off by eps: relative to R, and to 1 - R. But at very high
        # concentration their spread adds up to eps^2 to that.
        excused = 8 * eps + 4 * eps**2 / complement
        assert relative_error(law.concentration.item(), length, dim) <= excused
        for found, right in zip(law.loc.tolist(), direction, strict=True):
            assert abs(found - right) <= 4 * eps / length


@pytest.mark.parametrize("dim", [2, 3, 50])
def test_float32_is_enough_at_high_concentration(dim: int) -> None:
    samples = VonMisesFisher(directions(dim, dtype=torch.float32), 1e7).sample((4000,))
    precise = normalize(samples.double(), dim=-1)
    found = VonMisesFisher.fit(samples).concentration.double()
    right = VonMisesFisher.fit(precise).concentration
    torch.testing.assert_close(found, right, rtol=1e-6, atol=0)
    # what a rounded length would give
    naive = VonMisesFisher.from_mean(samples.mean(0)).concentration
    assert not torch.isclose(naive.double(), right, rtol=1e-3)
    with mp.workdps(40):
        length, _, _ = exact_resultant(samples[:200], [1.0] * 200)
        small = VonMisesFisher.fit(samples[:200]).concentration.item()
        assert relative_error(small, length, dim) <= 1e-6


def test_no_other_law_is_more_likely() -> None:
    samples = VonMisesFisher(directions(4), 3.0).sample((50,))
    weights = torch.rand(50, dtype=torch.float64)
    law = VonMisesFisher.fit(samples, weights)
    best = (weights * law.log_prob(samples)).sum()
    for step in (0.1, 1e-3):
        locs = normalize(law.loc + step * directions(20, 4), dim=-1)
        others = VonMisesFisher(
            locs, law.concentration * torch.tensor([1 - step, 1, 1 + step])[:, None]
        )
        likelihoods = weights @ others.log_prob(samples[:, None, None]).flatten(1)
        assert likelihoods.shape == (60,)
        assert (best - likelihoods > 1e-3 * step**2).all()


def test_fisher_b2() -> None:
    # Fisher, Lewis and Embleton (1987), table B2: 26 directions of magnetic remanence, of which
    # these are the sufficient statistics. Published: 109, and a cone of 2.7 degrees.
    n, length = 26, 25.770504
    samples = sample_with_resultant(directions(3), n, length)
    law = VonMisesFisher.fit(samples)
    assert abs(law.concentration.item() - 113.2916) < 1e-3
    assert abs(law.log_prob(samples).sum().item() - 49.194283) < 1e-4
    corrected = VonMisesFisher.fit(samples, bias_corrected=True).concentration.item()
    assert abs(corrected - 25 / (n - length)) < 1e-6
    assert abs(corrected - 108.934) < 1e-3
    assert round(estimation.confidence_cone(samples).rad2deg().item(), 2) == 2.73


def test_craters_of_venus() -> None:
    # 967 impact craters (USGS), nearly uniform on the planet
    samples = sample_with_resultant(directions(3), 967, 967 * 0.0418467298)
    assert abs(VonMisesFisher.fit(samples).concentration.item() - 0.1256723) < 1e-7
    result = estimation.rayleigh_test(samples)
    assert abs(result.statistic.item() - 5.080083) < 1e-6
    assert abs(result.p_value.item() - 0.16603) < 1e-5


def test_whole_weights_repeat_samples(dtype: torch.dtype) -> None:
    samples = directions(6, 4, dtype=dtype)
    counts = torch.tensor([3, 0, 1, 2, 2, 5])
    weighted = VonMisesFisher.fit(samples, counts)
    repeated = VonMisesFisher.fit(samples.repeat_interleave(counts, 0))
    torch.testing.assert_close(weighted.loc, repeated.loc)
    torch.testing.assert_close(weighted.concentration, repeated.concentration)
    for scale in (1e-30, 1e30):
        scaled = VonMisesFisher.fit(samples, counts.double() * scale)
        torch.testing.assert_close(scaled.concentration, weighted.concentration)


@pytest.mark.parametrize("bias_corrected", [False, True])
def test_batch_shapes_of_a_fit(bias_corrected: bool) -> None:
    samples = directions(2, 3, 7, 4)
    responsibilities = torch.rand(5, 1, 3, 7, dtype=torch.float64) * 10
    laws = VonMisesFisher.fit(samples, responsibilities, bias_corrected=bias_corrected)
    assert laws.batch_shape == (5, 2, 3)
    assert laws.event_shape == (4,)
    single = VonMisesFisher.fit(
        samples[1, 2], responsibilities[4, 0, 2], bias_corrected=bias_corrected
    )
    torch.testing.assert_close(laws.loc[4, 1, 2], single.loc)
    torch.testing.assert_close(laws.concentration[4, 1, 2], single.concentration)
    assert VonMisesFisher.fit(samples, torch.ones(1)).batch_shape == (2, 3)
    assert VonMisesFisher.fit(samples[:0], bias_corrected=bias_corrected).batch_shape == (0, 3)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_change_nothing(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = directions(2, 50, 3, dtype=torch.float32)
    weights = torch.rand(4, 1, 50) if weighted else None
    whole = VonMisesFisher.fit(samples, weights)
    for numbers in (1, 100, 299):
        monkeypatch.setattr(_resultant, "_BLOCK_NUMBERS", numbers)
        parts = VonMisesFisher.fit(samples, weights)
        torch.testing.assert_close(parts.loc, whole.loc)
        torch.testing.assert_close(parts.concentration, whole.concentration)


# A known mean direction


@pytest.mark.parametrize("k", [0.3, 3.0, 1e3, 1e10])
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_fit_with_a_known_direction(dim: int, k: float, dtype: torch.dtype) -> None:
    loc = directions(dim, dtype=dtype)
    samples = VonMisesFisher(loc, k).sample((30,))
    weights = torch.rand(30, dtype=torch.float64)
    law = VonMisesFisher.fit(samples, weights, loc=loc)
    assert torch.equal(law.loc, loc)
    with mp.workdps(40):

        def unit(row: list[float]) -> list[mp.mpf]:
            length = mp.sqrt(mp.fsum(mp.mpf(v) ** 2 for v in row))
            return [mp.mpf(v) / length for v in row]

        axis = unit(loc.tolist())
        cosines = [mp.fdot(unit(row), axis) for row in samples.tolist()]
        mean = mp.fdot(cosines, weights.tolist()) / mp.fsum(weights.tolist())
        eps, double = torch.finfo(dtype).eps, mp.mpf(2) ** -52
        if mean > 0:
            # As above; and the direction of the mean is rounded, which turns it by 2^-52.
            excused = 8 * eps + 16 * eps**2 / (1 - mean)
            excused += 4 * double / mp.sqrt(1 - mean) + 4 * double / mean
            assert relative_error(law.concentration.item(), mean, dim) <= excused
        else:
            assert law.concentration == 0


def test_a_known_direction_needs_no_correction() -> None:
    law = VonMisesFisher(directions(3), 20.0)
    samples = law.sample((20_000, 5))
    known = VonMisesFisher.fit(samples, loc=law.loc).concentration
    assert_mean(1 / known, 1 / 20)
    assert standard_errors_off(1 / VonMisesFisher.fit(samples).concentration, 1 / 20) > BOUND
    # and its standard error is that of the concentration
    many = VonMisesFisher.fit(law.sample((3000, 300)), loc=law.loc).concentration
    error = estimation.standard_errors(law, 300).concentration
    assert_mean((many - many.mean()).square(), error.square())
    with pytest.raises(ValueError, match="bias_corrected=True is for an estimated"):
        VonMisesFisher.fit(samples, loc=law.loc, bias_corrected=True)


def test_a_known_direction_of_a_batch() -> None:
    samples, locs = directions(2, 3, 7, 4), directions(5, 1, 1, 4)
    laws = VonMisesFisher.fit(samples, loc=locs)
    assert laws.batch_shape == (5, 2, 3)
    single = VonMisesFisher.fit(samples[1, 2], loc=locs[4, 0, 0])
    torch.testing.assert_close(laws.concentration[4, 1, 2], single.concentration)
    mixed = VonMisesFisher.fit(samples, loc=locs.float())
    assert mixed.loc.dtype == mixed.concentration.dtype == torch.float64


def test_a_known_direction_at_the_ends(dtype: torch.dtype) -> None:
    x = directions(3, dtype=dtype)
    for samples, k in ((x.expand(2, 3), math.inf), (-x.expand(2, 3), 0), (torch.stack([x, -x]), 0)):
        assert VonMisesFisher.fit(samples, loc=x).concentration == k


def test_derivatives_of_a_fit_with_a_known_direction() -> None:
    def function(raw: Tensor, axis: Tensor, weights: Tensor) -> Tensor:
        samples, loc = normalize(raw, dim=-1), normalize(axis, dim=-1)
        return VonMisesFisher.fit(samples, weights, loc=loc, validate_args=False).concentration

    for shift in (0.5, 5.0):
        raw = directions(6, 3) + shift * torch.eye(3, dtype=torch.float64)[0]
        axis = torch.tensor([1.0, 0.3, -0.2], dtype=torch.float64)
        given = tuple(x.requires_grad_() for x in (raw, axis, 2 + directions(6)))
        assert function(*given) > 0
        assert torch.autograd.gradcheck(function, given)
        assert torch.autograd.gradgradcheck(function, given)


@pytest.mark.parametrize(
    ("loc", "error", "words"),
    [
        pytest.param([1.0, 0.0, 0.0], TypeError, "loc must be a tensor, got list", id="list"),
        pytest.param(torch.eye(2)[0], ValueError, r"dimension 3, got shape \(2,\)", id="d2"),
        pytest.param(torch.ones(3), ValueError, "loc .* unit vectors", id="norm"),
    ],
)
def test_bad_known_directions(loc: Any, error: type[Exception], words: str) -> None:
    for function in (VonMisesFisher.fit, estimation.mean_direction_test, estimation.rayleigh_test):
        with pytest.raises(error, match=words):
            function(torch.eye(3), loc=loc)


# Degenerate data


@pytest.mark.parametrize("n", [1, 2, 3, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_equal_samples_make_a_point_mass(n: int, weighted: bool, dtype: torch.dtype) -> None:
    samples = directions(7, dtype=dtype).expand(n, 7).clone()
    weights = None
    if weighted:  # and one that counts nothing
        weights = torch.rand(n + 1, dtype=dtype) + 0.1
        weights[0] = 0
        samples = torch.cat([-samples[:1], samples])
    samples.requires_grad_()
    law = VonMisesFisher.fit(samples, weights)
    assert law.concentration == math.inf
    torch.testing.assert_close(law.loc, directions(7, dtype=dtype))
    (grad,) = torch.autograd.grad(law.concentration, samples)
    assert (grad == 0).all()
    if weights is None:
        corrected = VonMisesFisher.fit(samples, bias_corrected=True).concentration
        assert corrected == (0 if n == 1 else math.inf)
        assert (torch.autograd.grad(corrected, samples)[0] == 0).all()


@pytest.mark.parametrize("bias_corrected", [False, True])
def test_opposite_samples_make_the_uniform_law(bias_corrected: bool, dtype: torch.dtype) -> None:
    x = directions(3, dtype=dtype)
    samples = torch.stack([x, -x]).requires_grad_()
    law = VonMisesFisher.fit(samples, bias_corrected=bias_corrected)
    assert law.concentration == 0
    assert torch.equal(law.loc, torch.eye(3, dtype=dtype)[0])
    (grad,) = torch.autograd.grad(law.concentration + law.loc.sum(), samples)
    assert (grad == 0).all()


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical, SphericalCauchy])
def test_weights_of_zero_unchecked_make_the_uniform_law(family: Any) -> None:
    samples = directions(4, 3)
    weights = torch.tensor([[0.0] * 4, [1.0] * 4], requires_grad=True)
    law = family.fit(samples, weights, validate_args=False)
    assert law.concentration[0] == 0
    assert torch.equal(law.loc[0], torch.eye(3, dtype=law.loc.dtype)[0])
    torch.testing.assert_close(law.concentration[1], family.fit(samples).concentration)
    torch.testing.assert_close(law.loc[1], family.fit(samples).loc)
    (grad,) = torch.autograd.grad(law.concentration.sum() + law.loc.sum(), weights)
    assert grad.isfinite().all()
    assert (grad[0] == 0).all()


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])
def test_weights_of_zero_unchecked_about_a_known_direction(family: Any) -> None:
    loc, weights = torch.eye(3, dtype=torch.float64)[1], torch.zeros(4)
    law = family.fit(directions(4, 3), weights, loc=loc, validate_args=False)
    assert law.concentration == 0
    assert torch.equal(law.loc, loc)


# Bad input


@pytest.mark.parametrize(
    ("samples", "error", "words"),
    [
        pytest.param([[1.0, 0.0]], TypeError, "samples must be a tensor, got list", id="list"),
        pytest.param(torch.eye(2).long(), TypeError, "float32 or float64, got int64", id="int"),
        pytest.param(torch.eye(2)[0], ValueError, r"\(\.\.\., n, d\).*got shape \(2,\)", id="1d"),
        pytest.param(torch.eye(3)[:0], ValueError, r"n at least 1, got shape \(0, 3\)", id="empty"),
        pytest.param(torch.ones(4, 1), ValueError, r"at least two entries.*\(4, 1\)", id="d1"),
        pytest.param(2 * torch.eye(2), ValueError, "samples .* unit vectors.*normalize", id="norm"),
        pytest.param(math.nan * torch.eye(2), ValueError, "samples .* got NaN", id="nan"),
    ],
)  # fmt: skip
def test_bad_samples(samples: Any, error: type[Exception], words: str) -> None:
    for function in (
        VonMisesFisher.fit,
        estimation.confidence_cone,
        estimation.rayleigh_test,
    ):
        with pytest.raises(error, match=words):
            function(samples)
    words = words.replace("samples", r"samples\[1\]")
    with pytest.raises(error, match=words):
        estimation.mean_direction_test(torch.eye(2), samples)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        pytest.param([1.0, 1.0, 1.0], TypeError, "weights must be a tensor, got list", id="list"),
        pytest.param(torch.ones(3) * 1j, TypeError, "weights must be real, got complex64", id="j"),
        pytest.param(torch.ones(2), ValueError, r"shape \(2,\) and samples .*\(3, 3\)", id="2"),
        pytest.param(torch.ones(3, 1).expand(3, 2), ValueError, r"broadcast with \(3,\)", id="3x2"),
        pytest.param(torch.ones(3, 1), ValueError, r"shape \(3, 1\).*hold 3 weights", id="3x1"),
        pytest.param(torch.tensor([1.0, -2, 3]), ValueError, "between -2 and 3", id="negative"),
        pytest.param(torch.tensor([1.0, math.nan, 3]), ValueError, "nonnegative and fin", id="nan"),
        pytest.param(torch.tensor([1.0, math.inf, 3]), ValueError, "between 1 and inf", id="inf"),
        pytest.param(torch.zeros(3), ValueError, "finite sum .* got the sum 0", id="zero"),
        pytest.param(torch.eye(3) - torch.eye(3)[0], ValueError, "nonnegative", id="row"),
        pytest.param(torch.ones(3, 3).tril(-1), ValueError, "sums between 0 and 2", id="zero-row"),
        pytest.param(torch.ones(3).double() * 1e308, ValueError, "finite", id="overflow"),
    ],
)  # fmt: skip
def test_bad_weights(weights: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        VonMisesFisher.fit(torch.eye(3), weights, validate_args=True)


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical, SphericalCauchy])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_weight_for_all(family: Any, shape: tuple[int, ...]) -> None:
    samples, one = directions(5, 3), torch.full(shape, 2.0)
    law, same = family.fit(samples), family.fit(samples, one)
    torch.testing.assert_close(same.loc, law.loc)
    torch.testing.assert_close(same.concentration, law.concentration)
    assert family.fit(samples[:1], torch.ones(4, 1)).batch_shape == (4,)


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical, SphericalCauchy])
def test_weights_with_more_axes_than_samples(family: Any) -> None:
    samples, weights = directions(3, 5, 4), torch.rand(2, 3, 5, dtype=torch.float64)
    laws = family.fit(samples, weights)
    assert laws.batch_shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        alone = family.fit(samples[j], weights[i, j])
        torch.testing.assert_close(laws.loc[i, j], alone.loc)
        torch.testing.assert_close(laws.concentration[i, j], alone.concentration)


@not_dense_kinds
def test_sparse_and_nested_samples_and_weights(kind: str) -> None:
    samples, words = not_dense(kind, "samples")
    with pytest.raises(TypeError, match=words):
        VonMisesFisher.fit(samples)
    weights, words = not_dense(kind, "weights")
    with pytest.raises(TypeError, match=words):
        VonMisesFisher.fit(torch.eye(4), weights)


# Derivatives


@pytest.mark.parametrize("bias_corrected", [False, True])
@pytest.mark.parametrize("k", [0.5, 5.0])  # on both sides of a mean resultant length of 1/2
def test_derivatives_of_a_fit(k: float, bias_corrected: bool) -> None:
    shift = torch.tensor([k, 0.0, 0.0], dtype=torch.float64)
    raw = (directions(6, 3, seed=3) + shift).requires_grad_()
    weights = (2 + directions(6)).requires_grad_()

    def function(raw: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        law = VonMisesFisher.fit(
            normalize(raw, dim=-1), weights, bias_corrected=bias_corrected, validate_args=False
        )
        return law.loc, law.concentration

    assert function(raw, weights)[1] > 0
    assert torch.autograd.gradcheck(function, (raw, weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (raw, weights), fast_mode=True)


def test_third_derivatives_are_the_last() -> None:
    # The correction is solved for by iteration, whose fourth derivatives would be wrong.
    def corrected(scale: Tensor) -> Tensor:
        samples = normalize(directions(6, 3) + scale * torch.eye(3).double()[0], dim=-1)
        fitted = VonMisesFisher.fit(samples, bias_corrected=True, validate_args=False)
        return fitted.concentration

    grad = torch.func.grad
    second, third = grad(grad(corrected)), grad(grad(grad(corrected)))
    at, step = torch.tensor(2.0, dtype=torch.float64), 1e-4
    difference = (second(at + step) - second(at - step)) / (2 * step)
    torch.testing.assert_close(third(at), difference, rtol=1e-6, atol=0)
    with pytest.raises(NotImplementedError, match="derivatives"):
        grad(third)(at)


# The correction for bias


@settings(max_examples=30)  # slow in mpmath
@example(dim=3, n=2, share=1e-12)
@given(
    dim=st.sampled_from((2, 3, 10, 50)),
    n=st.sampled_from((2, 3, 5, 20, 1000)),
    share=st.floats(-8, -0.01).map(lambda x: 10.0**x),
)
def test_bias_corrected(dim: int, n: int, share: float) -> None:
    # S from sqrt(n), below which the estimate is 0, to n
    for total in (
        math.sqrt(n) * (1 + share * (math.sqrt(n) - 1)),
        n - share * (n - math.sqrt(n)),
    ):
        data = given_lengths(dim, (n, total / n))
        found = _resultant.marginal_concentration(dim, data).item()
        check_marginal(dim, found, [data])


def given_lengths(dim: int, *samples: tuple[int, float]) -> Any:
    results = [
        _resultant.Resultant(
            torch.eye(dim, dtype=torch.float64)[0],
            *(torch.tensor(x, dtype=torch.float64) for x in (length, 1 - length, n)),
        )
        for n, length in samples
    ]
    return results[0] if len(results) == 1 else results


def check_marginal(dim: int, found: float, samples: list[_resultant.Resultant]) -> None:
    """n A(k) = sum S A(k S), up to the rounding of the lengths."""
    with mp.workdps(40):
        sizes = [mp.mpf(x.total.item()) for x in samples]
        sums = [n * mp.mpf(x.length.item()) for n, x in zip(sizes, samples, strict=True)]
        n = mp.fsum(sizes)
        if mp.fsum(s * s for s in sums) <= n * (1 + mp.mpf(1e-15)):
            assert found < 1e-6 * dim
            return
        at, inner = radial_by_bessel(dim, found), [radial_by_bessel(dim, s * found) for s in sums]
        # n (1 - A) against sum (n_j - S_j) + sum S_j (1 - A): no cancellation here either
        pairs = list(zip(sizes, sums, inner, strict=True))
        rest = mp.fsum(size - s + s * x.one_minus_mean for size, s, x in pairs)
        slope = n * at.variance - mp.fsum(s * s * x.variance for _, s, x in pairs)
        assert slope > 0  # a maximum of the likelihood
        error = abs(n * at.one_minus_mean - rest)
        rounding = n * min(at.mean, at.one_minus_mean) + found * slope
        assert error <= 16 * mp.mpf(2) ** -52 * rounding


@settings(max_examples=30)
@given(
    dim=st.sampled_from((2, 3, 10)),
    sizes=st.tuples(st.sampled_from((1, 2, 5, 100)), st.sampled_from((2, 3, 20, 1000))),
    lengths=st.tuples(st.floats(0.01, 0.999), st.floats(0.01, 0.999)),
)
def test_one_concentration_of_two_samples(
    dim: int, sizes: tuple[int, int], lengths: tuple[float, float]
) -> None:
    if sizes[0] == 1:
        lengths = 1.0, lengths[1]
    data = given_lengths(dim, *zip(sizes, lengths, strict=True))
    check_marginal(dim, _resultant.marginal_concentration(dim, *data).item(), data)


def test_the_correction_on_the_sphere_is_fishers(dtype: torch.dtype) -> None:
    # (n - 1)/(n - S) up to exp(-2k)
    samples = VonMisesFisher(directions(3), 500.0).sample((10,))
    fitted = VonMisesFisher.fit(samples.to(dtype), bias_corrected=True)
    with mp.workdps(40):
        _, complement, _ = exact_resultant(samples.to(dtype), [1.0] * 10)
        expected = 9 / (10 * complement)
        assert abs(fitted.concentration.item() / expected - 1) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("dim", "k"), [(3, 5.0), (10, 20.0)])
def test_the_correction_takes_bias_away(dim: int, k: float) -> None:
    samples = VonMisesFisher(directions(dim), k).sample((20_000, 5))
    fits = {
        corrected: VonMisesFisher.fit(samples, bias_corrected=corrected).concentration
        for corrected in (False, True)
    }
    bias = {corrected: (found - k).mean().abs() for corrected, found in fits.items()}
    assert bias[True] < 0.5 * bias[False]
    # power: the biases differ by many standard errors
    assert standard_errors_off(fits[False] - fits[True], 0.0) > 10 * BOUND
    assert standard_errors_off(fits[False], k) > 10 * BOUND


def test_too_short_resultants_correct_to_the_uniform_law() -> None:
    # S^2 <= n, the least likely lengths of any concentration but 0
    short = sample_with_resultant(directions(3), 16, 3.999)
    long = sample_with_resultant(directions(3), 16, 4.001)
    laws = VonMisesFisher.fit(torch.stack([short, long]), bias_corrected=True)
    assert laws.concentration[0] == 0
    assert 0 < laws.concentration[1] < 0.1
    # weights that sum to 1 stand for one observation
    weights = torch.full((16,), 1 / 16)
    assert VonMisesFisher.fit(long, weights, bias_corrected=True).concentration == 0


# --------------------------------------------------------------------------------------------------
# Information and standard errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0.0, 0.5, 8.0])
@pytest.mark.parametrize("dim", [2, 3, 10])
def test_information_is_the_variance_of_the_score(dim: int, k: float) -> None:
    axis, tangent = torch.eye(dim, dtype=torch.float64)[:2]
    angle, concentration = (
        torch.full((20_000,), x, dtype=torch.float64, requires_grad=True) for x in (0.0, k)
    )
    draws = VonMisesFisher(axis, k).sample((20_000,))
    turned = angle.cos()[:, None] * axis + angle.sin()[:, None] * tangent
    likelihood = VonMisesFisher(turned, concentration, validate_args=False).log_prob(draws)
    scores = torch.stack(torch.autograd.grad(likelihood.sum(), (angle, concentration)), -1)
    information = torch.stack(estimation.fisher_information(VonMisesFisher(axis, k)))
    assert_mean(scores.square(), information)
    assert_mean(scores.prod(-1), 0.0)  # orthogonal
    if k:  # power
        assert standard_errors_off(scores.square(), 1.2 * information) > BOUND


def test_standard_errors_are_those_of_fits() -> None:
    n, repetitions = 300, 3000
    law = VonMisesFisher(torch.eye(3, dtype=torch.float64)[0], 4.0)
    fits = VonMisesFisher.fit(law.sample((repetitions, n)))
    expected = estimation.standard_errors(law, n)
    angle = torch.atan2(fits.loc[:, 1], fits.loc[:, 0])
    errors = torch.stack([angle, fits.concentration - fits.concentration.mean()], -1)
    variances = torch.stack(expected).square()
    assert_mean(errors.square(), variances)  # up to O(1/n), well below the bound
    for wrong in (1.3, 1 / 1.3):
        for i in range(2):
            assert standard_errors_off(errors[:, i].square(), wrong * variances[i]) > BOUND


def test_information_at_the_ends(dtype: torch.dtype) -> None:
    k = torch.tensor([0.0, math.inf], dtype=dtype)
    law = VonMisesFisher(directions(4, dtype=dtype), k)
    information = estimation.fisher_information(law)
    assert information.direction.tolist() == [0, math.inf]
    assert information.concentration.tolist() == [0.25, 0]
    errors = estimation.standard_errors(law, 4)
    assert errors.direction.tolist() == [math.inf, 0]
    assert errors.concentration.tolist() == [1, math.inf]
    assert errors.direction.dtype == dtype


def test_standard_errors_of_batches() -> None:
    law = VonMisesFisher(directions(2, 3), 5.0)
    errors = estimation.standard_errors(law, torch.tensor([[10], [40], [90]]))
    assert errors.direction.shape == errors.concentration.shape == (3, 2)
    torch.testing.assert_close(errors.direction[0], 3 * errors.direction[2])


def test_bad_arguments_of_standard_errors() -> None:
    law = VonMisesFisher(directions(3), 5.0)
    with pytest.raises(TypeError, match="law must be a VonMisesFisher, got HypersphericalUniform"):
        estimation.standard_errors(HypersphericalUniform(3), 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="n must be a number or a tensor of counts, got str"):
        estimation.standard_errors(law, "3")  # type: ignore[arg-type]
    for n, got in ((0, "the value 0"), (-1, "the value -1"), (math.nan, "NaN")):
        with pytest.raises(ValueError, match=rf"n must be positive.*got {got}$"):
            estimation.standard_errors(law, n)
    with pytest.raises(TypeError, match="n must be real, got complex64"):
        estimation.standard_errors(law, torch.ones(2) * 1j)
    with pytest.raises(ValueError, match=r"^n of shape \(2,\) must broadcast .* shape \(3,\)$"):
        estimation.standard_errors(VonMisesFisher(torch.eye(3), 5.0), torch.ones(2))


# --------------------------------------------------------------------------------------------------
# The confidence cone
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 3, 40])
@pytest.mark.parametrize("k", [500.0, 1e7])
def test_the_cone_on_the_sphere_is_fishers(
    k: float, n: int, level: float, dtype: torch.dtype
) -> None:
    samples = VonMisesFisher(directions(3, dtype=dtype), k).sample((n,))
    with mp.workdps(40):
        length, complement, _ = exact_resultant(samples, [1.0] * n)
        quantile = (1 - mp.mpf(level)) ** (-1 / mp.mpf(n - 1)) - 1
        expected = mp.acos(max(1 - complement / length * quantile, -1))
        found = estimation.confidence_cone(samples, level)
        assert found.dtype == dtype
        # 1e-10: the quantile
        assert abs(found.item() / expected - 1) < 8 * torch.finfo(dtype).eps + 1e-10


@pytest.mark.parametrize("k", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("dim", [2, 3, 10])
def test_the_cone_is_an_f_quantile(dim: int, k: float) -> None:
    n, level = 30, 0.9
    samples = VonMisesFisher(directions(dim), k).sample((n,))
    found = estimation.confidence_cone(samples, level).item()
    concentration = VonMisesFisher.fit(samples, bias_corrected=True).concentration.item()
    length = samples.sum(0).norm().item()
    f = stats.f.ppf(level, dim - 1, (n - 1) * (dim - 1))
    cosine = 1 - (dim - 1) * f / (2 * concentration * length) if concentration else -1.0
    assert abs(found - math.acos(max(cosine, -1.0))) < 1e-8


@pytest.mark.parametrize(("dim", "k"), [(2, 0.5), (3, 100.0), (10, 3.0)])
def test_the_cone_covers(dim: int, k: float) -> None:
    n, repetitions, level = 20, 4000, 0.9
    law = VonMisesFisher(directions(dim), k)
    samples = law.sample((repetitions, n))
    means = normalize(samples.sum(-2), dim=-1)
    off = 2 * torch.asin((means - law.loc).norm(dim=-1) / 2)
    covered = (off <= estimation.confidence_cone(samples, level)).double()
    assert_mean(covered, level)
    for wrong in (0.85, 0.94):
        assert standard_errors_off(covered, wrong) > BOUND
    # the cone that assumes a high concentration
    lost = n - samples.sum(-2).norm(dim=-1)
    f = stats.f.ppf(level, dim - 1, (n - 1) * (dim - 1))
    classical = (1 - law.loc.mul(means).sum(-1) <= lost / (n - lost) * f / (n - 1)).double()
    assert (standard_errors_off(classical, level) > BOUND) == (k < 5)


def test_degenerate_cones(dtype: torch.dtype) -> None:
    x = directions(3, dtype=dtype)
    assert estimation.confidence_cone(x.expand(5, 3)) == 0
    for whole in (x[None], torch.stack([x, -x]), torch.eye(3, dtype=dtype)):
        found = estimation.confidence_cone(whole)
        torch.testing.assert_close(found, torch.tensor(math.pi, dtype=dtype))


def test_cones_of_batches() -> None:
    samples = VonMisesFisher(directions(2, 3), 20.0).sample((4, 10)).movedim(1, -2)
    cones = estimation.confidence_cone(samples)
    assert cones.shape == (4, 2)
    torch.testing.assert_close(cones[3, 1], estimation.confidence_cone(samples[3, 1]))
    assert estimation.confidence_cone(samples[:0]).shape == (0, 2)


def test_counts_in_cones_and_in_tests_of_uniformity(dtype: torch.dtype) -> None:
    samples = directions(6, 4, dtype=dtype) + torch.eye(4, dtype=dtype)[0]
    samples = normalize(samples, dim=-1)
    counts = torch.tensor([[3, 0, 1, 2, 2, 5], [1, 0, 0, 0, 0, 0]])
    loc = directions(4, dtype=dtype)
    repeated = samples.repeat_interleave(counts[0], 0)
    for function in (
        estimation.confidence_cone,
        estimation.rayleigh_test,
        lambda x, **options: estimation.rayleigh_test(x, loc=loc, **options),
    ):
        weighted, many, once = (
            x if isinstance(x, tuple) else (x,)
            for x in (function(samples, weights=counts), function(repeated), function(samples[:1]))
        )
        for found, *expected in zip(weighted, many, once, strict=True):
            torch.testing.assert_close(found, torch.stack(expected))
    # as one observation
    shares = counts[0] / counts.sum()
    assert estimation.confidence_cone(samples, weights=shares) == estimation.confidence_cone(
        samples[:1]
    )


@pytest.mark.parametrize("weights", [torch.ones(2), -torch.ones(3), torch.zeros(3)])
def test_counts_that_do_not_fit(weights: Tensor) -> None:
    for function in (estimation.confidence_cone, estimation.rayleigh_test):
        with pytest.raises(ValueError, match="weights"):
            function(torch.eye(3), weights=weights)


def test_bad_levels() -> None:
    for level in (0.0, 1.0, -0.5, 95, math.nan):
        with pytest.raises(ValueError, match=rf"level must be between 0 and 1, got {level}"):
            estimation.confidence_cone(torch.eye(3), level)
    with pytest.raises(TypeError, match="level must be a Python number, got Tensor"):
        estimation.confidence_cone(torch.eye(3), torch.tensor(0.9))  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------
# Tests of hypotheses
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_rayleigh(dim: int, dtype: torch.dtype) -> None:
    samples = directions(4, 20, dim, dtype=dtype)
    statistic, p_value = estimation.rayleigh_test(samples)
    assert statistic.shape == p_value.shape == (4,)
    assert statistic.dtype == p_value.dtype == dtype
    expected = dim / 20 * samples.double().sum(-2).square().sum(-1)
    torch.testing.assert_close(statistic, expected.to(dtype))
    survival = torch.from_numpy(stats.chi2.sf(expected.numpy(), dim))
    torch.testing.assert_close(p_value, survival.to(dtype))


@pytest.mark.parametrize("dim", [2, 10])
def test_rayleigh_of_a_stated_direction(dim: int, dtype: torch.dtype) -> None:
    samples, loc = directions(4, 20, dim, dtype=dtype), directions(4, dim, seed=3, dtype=dtype)
    statistic, p_value = estimation.rayleigh_test(samples, loc=loc)
    assert statistic.dtype == p_value.dtype == dtype
    cosines = (samples.double() * loc.double().unsqueeze(-2)).sum(-1)
    expected = cosines.sum(-1) * math.sqrt(dim / 20)
    torch.testing.assert_close(statistic, expected.to(dtype))
    survival = torch.from_numpy(stats.norm.sf(expected.numpy()))
    torch.testing.assert_close(p_value, survival.to(dtype))


def test_a_stated_direction_makes_rayleighs_test_more_powerful() -> None:
    uniform = HypersphericalUniform(3, dtype=torch.float64).sample((10_000, 20))
    loc = directions(3)
    rejected = (estimation.rayleigh_test(uniform, loc=loc).p_value < 0.05).double()
    assert_mean(rejected, 0.05)
    assert standard_errors_off(rejected, 0.065) > BOUND
    samples = VonMisesFisher(loc, 0.7).sample((2000, 20))
    powers = [
        (estimation.rayleigh_test(samples, loc=given).p_value < 0.05).double().mean().item()
        for given in (None, loc, -loc)
    ]
    assert powers[1] > powers[0] + 0.1
    assert powers[2] < 0.01


def test_rayleigh_rejects_as_often_as_it_should() -> None:
    uniform = HypersphericalUniform(3, dtype=torch.float64).sample((10_000, 100))
    rejected = (estimation.rayleigh_test(uniform).p_value < 0.05).double()
    assert_mean(rejected, 0.05)
    assert standard_errors_off(rejected, 0.065) > BOUND
    concentrated = VonMisesFisher(directions(3), 0.5).sample((1000, 100))
    assert (estimation.rayleigh_test(concentrated).p_value < 0.05).double().mean() > 0.5


def watson_williams(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The statistic for high concentration, and its p-value from SciPy."""
    n, dim = len(a) + len(b), a.shape[-1]
    with mp.workdps(40):
        resultants = []
        for sample in (a, b, torch.cat([a, b])):
            length, _, _ = exact_resultant(sample, [1.0] * len(sample))
            resultants.append(length * len(sample))
        first, second, both = resultants
        f = float((n - 2) * (first + second - both) / (n - first - second))
    return f, float(stats.f.sf(f, dim - 1, (n - 2) * (dim - 1)))


@pytest.mark.parametrize(("dim", "k"), [(3, 100.0), (2, 1e6), (10, 1e7)])
def test_mean_directions_at_high_concentration(dim: int, k: float, dtype: torch.dtype) -> None:
    a = VonMisesFisher(directions(dim, dtype=dtype), k).sample((7,))
    other = normalize(directions(dim) + directions(dim, seed=2) / math.sqrt(5 * k), dim=-1)
    b = VonMisesFisher(other.to(dtype), k).sample((12,))
    statistic, p_value = estimation.mean_direction_test(a, b)
    f, p = watson_williams(a, b)
    # They agree up to exp(-2k) in dimension 3 and O(1/k) elsewhere.
    precision = max(0 if dim == 3 else dim / k, 50 * torch.finfo(dtype).eps)
    assert abs(statistic.item() / f - 1) < precision
    assert abs(p_value.item() / p - 1) < 50 * precision
    swapped = estimation.mean_direction_test(b, a)
    torch.testing.assert_close(swapped, estimation.mean_direction_test(a, b))


@pytest.mark.parametrize(("dim", "k"), [(2, 2.0), (3, 1.0), (10, 10.0)])
def test_equal_mean_directions_are_rejected_as_often_as_they_should(dim: int, k: float) -> None:
    law, level = VonMisesFisher(directions(dim), k), 0.1
    a, b = law.sample((4000, 20)), law.sample((4000, 30))
    rejected = (estimation.mean_direction_test(a, b).p_value < level).double()
    assert_mean(rejected, level)
    for wrong in (0.07, 0.14):
        assert standard_errors_off(rejected, wrong) > BOUND
    # power against another direction, at a right angle
    turned = VonMisesFisher(torch.eye(dim, dtype=torch.float64)[0], k).sample((100, 20))
    away = VonMisesFisher(torch.eye(dim, dtype=torch.float64)[1], k).sample((100, 30))
    assert (estimation.mean_direction_test(turned, away).p_value < level).double().mean() > 0.6


def test_low_concentration_in_high_dimension_is_no_evidence() -> None:
    # The classical statistic takes the concentration for at least (d - 1)/2 or so.
    law = VonMisesFisher(directions(10), 1.0)
    a, b = law.sample((200, 100)), law.sample((200, 100))
    found = (estimation.mean_direction_test(a, b).p_value < 0.05).double().mean()
    classical = torch.tensor(
        [watson_williams(x, y)[1] < 0.05 for x, y in zip(a[:10], b[:10], strict=True)]
    )
    assert found < 0.1
    assert classical.double().mean() > 0.5


def test_degenerate_samples_of_two_directions(dtype: torch.dtype) -> None:
    east, north = torch.eye(3, dtype=dtype)[:2]
    test: Callable[..., estimation.TestResult] = estimation.mean_direction_test
    apart = test(east.expand(2, 3), north.expand(3, 3))
    assert (apart.statistic.item(), apart.p_value.item()) == (math.inf, 0)
    for a, b in (
        (east.expand(2, 3), east.expand(3, 3)),  # no spread, one direction
        (torch.stack([east, -east]), torch.stack([north, -north])),  # none at all
        (torch.stack([east, -east]), north[None]),
    ):
        same = test(a, b)
        assert (same.statistic.item(), same.p_value.item()) == (0, 1)


def test_batches_of_two_samples() -> None:
    a, b = directions(4, 1, 5, 3), directions(2, 6, 3, seed=2)
    result = estimation.mean_direction_test(a, b)
    assert result.statistic.shape == result.p_value.shape == (4, 2)
    single = estimation.mean_direction_test(a[3, 0], b[1])
    torch.testing.assert_close(result.p_value[3, 1], single.p_value)
    assert estimation.mean_direction_test(a.float(), b).p_value.dtype == torch.float64


def test_samples_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"same sphere to be compared, got dimension 3 .* and 4"):
        estimation.mean_direction_test(torch.eye(3), torch.eye(4))
    with pytest.raises(ValueError, match="more vectors in all than there are samples, got 2"):
        estimation.mean_direction_test(torch.eye(3)[:1], torch.eye(3)[1:2])


@pytest.fixture
def unchecked() -> None:
    """No validation; conftest.py switches it on again."""
    torch.distributions.Distribution.set_default_validate_args(False)


@pytest.mark.usefixtures("unchecked")
def test_checks_follow_those_of_torch() -> None:
    assert estimation.rayleigh_test(2 * torch.eye(3)).statistic > 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("n", [1, 2, 20])
@pytest.mark.parametrize("dim", [2, 3, 64])
def test_unchecked_data_that_are_no_numbers_make_nan(
    dim: int, n: int, bad: float, dtype: torch.dtype
) -> None:
    good = directions(n, dim, seed=2, dtype=dtype)
    spoilt = good.clone()
    spoilt[0, 1] = bad
    samples = torch.stack([good, spoilt])
    other = directions(4, dim, seed=3, dtype=dtype)
    weights = torch.ones(2, n, dtype=dtype)
    weights[1, 0] = math.nan
    for result in (
        VonMisesFisher.fit(samples).concentration,
        VonMisesFisher.fit(samples, bias_corrected=True).concentration,
        VonMisesFisher.fit(good, weights).concentration,
        VonMisesFisher.fit(good, weights, bias_corrected=True).concentration,
        estimation.confidence_cone(samples),
        *estimation.rayleigh_test(samples),
        *estimation.mean_direction_test(samples, other),
        *estimation.mean_direction_test(other, samples),
    ):
        # the good sample beside it as ever
        assert result.isnan().tolist() == [False, True]


# --------------------------------------------------------------------------------------------------
# Devices
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        VonMisesFisher.fit,
        PowerSpherical.fit,
        SphericalCauchy.fit,
        estimation.confidence_cone,
        estimation.rayleigh_test,
        lambda x: estimation.uniformity_test(x, "bingham"),
        lambda x: estimation.uniformity_test(x, "gine", simulations=9),
        lambda x: estimation.uniformity_test(x, "projections", simulations=9),
        lambda x: estimation.goodness_of_fit(x, simulations=9),
        lambda x: estimation.mean_direction_test(x, x, loc=x[0], equal_concentration=False),
        lambda x: estimation.concentration_test(x, x),
        lambda x: estimation.VonMisesFisherRegression.fit(x[:, :1], x),
        estimation.SphericalKDE.fit,
        lambda x: estimation.SphericalKDE(x, 5.0).modes(),
        lambda x: estimation.SphericalKDE(x, 5.0).sample((3,)),
    ],
)
def test_the_default_device_is_not_asked_for(call: Callable[[Tensor], object]) -> None:
    samples = directions(9, 3)
    with torch.device("meta"):
        call(samples)
