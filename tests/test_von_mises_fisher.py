# Closed forms of the von Mises-Fisher law against mpmath, their derivatives, and bad input. Those
# of the concentration alone are in test_von_mises_fisher_closed_forms.py; a direction comes here.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath as mp
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import VonMises
from torch.nn.functional import normalize

from cases import directions, not_dense, not_dense_kinds
from reference import radial
from strategies import (
    ENDS,
    LARGEST,
    batch_shapes,
    concentrations,
    dims,
    dtypes,
    in_dtype,
    nearby,
    unit_vectors,
)
from vmfdist import HypersphericalUniform, VonMisesFisher


def exact(x: Tensor) -> list[mp.mpf]:
    """The unit vector along ``x``: what a rounded direction stands for."""
    entries = [mp.mpf(v) for v in x.tolist()]
    norm = mp.sqrt(mp.fsum(v * v for v in entries))
    return [v / norm for v in entries]


def half_squared_chord(x: Tensor, y: Tensor) -> mp.mpf:
    return mp.fsum((a - b) ** 2 for a, b in zip(exact(x), exact(y), strict=True)) / 2


def log_prob_and_tolerance(
    loc: Tensor, k: float, value: Tensor, eps: float
) -> tuple[mp.mpf, mp.mpf]:
    """The log density, and the error that rounding the directions to unit length excuses.

    Two rounded vectors have lengths off by a few eps, which k |x - loc|^2 / 2 sees relatively, and
    in its square where they nearly coincide. Nothing of the size k eps is excused.
    """
    dim = len(loc)
    with mp.workdps(40):
        law = radial(dim, k)
        at_mode = law.log_density_at_mode(k)
        chord = half_squared_chord(value, loc)
        scale = max(abs(at_mode), abs(law.log_area), 1)
        tolerance = eps * (16 * scale + 8 * k * chord) + k * (2 * eps) ** 2
        return at_mode - k * chord, tolerance


def assert_log_prob(loc: Tensor, k: float, value: Tensor) -> None:
    expected, tolerance = log_prob_and_tolerance(loc, k, value, torch.finfo(loc.dtype).eps)
    found = VonMisesFisher(loc, k).log_prob(value)
    assert found.dtype == loc.dtype
    assert abs(found.item() - expected) <= tolerance


# The density


@given(data=st.data(), dim=dims, k=concentrations(), dtype=dtypes)
def test_log_prob(data: st.DataObject, dim: int, k: float, dtype: torch.dtype) -> None:
    loc = data.draw(unit_vectors(dim, dtype))
    value = data.draw(unit_vectors(dim, dtype) | nearby(loc))
    assert_log_prob(loc, in_dtype(k, dtype), value)


@pytest.mark.parametrize("k", [*ENDS, 1.0, 1e5])
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_log_prob_at_the_mode_and_its_antipode(dim: int, k: float, dtype: torch.dtype) -> None:
    loc = directions(dim, dtype=dtype)
    k = in_dtype(k, dtype)
    for value in (loc, -loc):
        assert_log_prob(loc, k, value)


@pytest.mark.parametrize("dim", [2, 3, 20, 512])
def test_log_prob_near_the_mode_loses_nothing(dim: int) -> None:
    # In float32 at 1e8 k <x, loc> is a multiple of 8, and k (<x, loc> - 1) is all noise.
    k = 1e8
    loc = directions(dim, dtype=torch.float32)
    for seed in range(20):
        step = directions(dim, seed=100 + seed) * 1e-4
        value = normalize(loc.double() + step, dim=-1).float()
        assert_log_prob(loc, k, value)
    # Power: what forms <x, loc> first is caught.
    expected, tolerance = log_prob_and_tolerance(loc, k, value, torch.finfo(torch.float32).eps)
    naive = radial(dim, k).log_density_at_mode(k) + k * ((value @ loc).item() - 1)
    assert abs(naive - expected) > tolerance


def test_log_prob_at_infinite_concentration() -> None:
    law = VonMisesFisher(directions(3), math.inf)
    assert law.log_prob(directions(3)) > 300
    assert law.log_prob(-directions(3)) < -1e300
    for value in (law.entropy(), law.log_normalizer, law.mean, law.variance, law.stddev):
        assert not value.isnan().any()
    torch.testing.assert_close(law.mean, law.loc)
    assert (law.variance == 0).all()
    assert law.entropy() == -math.inf


def test_log_prob_on_the_circle_is_that_of_torch() -> None:
    angles = torch.linspace(-3, 3, 50, dtype=torch.float64)
    value = torch.stack((angles.cos(), angles.sin()), -1)
    for k in (0.5, 3.0, 40.0):
        law = VonMisesFisher(torch.tensor([math.cos(1), math.sin(1)], dtype=torch.float64), k)
        theirs = VonMises(torch.tensor(1.0, dtype=torch.float64), torch.tensor(k)).log_prob(angles)
        # torch's Bessel function is a polynomial with seven decimals.
        torch.testing.assert_close(law.log_prob(value), theirs, rtol=0, atol=1e-5)


def test_density_in_three_dimensions_in_closed_form() -> None:
    # Fisher's law: k / (4 pi sinh k) exp(k w).
    loc, value = directions(3), directions(20, 3, seed=4)
    for k in (1e-3, 1.0, 30.0):
        expected = math.log(k / (4 * math.pi * math.sinh(k))) + k * value @ loc
        torch.testing.assert_close(VonMisesFisher(loc, k).log_prob(value), expected)


@given(data=st.data(), shapes=batch_shapes)
def test_batch_shapes_broadcast(
    data: st.DataObject, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    loc_shape, k_shape = shapes
    dim = data.draw(st.sampled_from((2, 3, 5)))
    loc = directions(*loc_shape, dim)
    k = torch.rand(k_shape, dtype=torch.float64) * 10
    law = VonMisesFisher(loc, k)
    assert law.batch_shape == torch.broadcast_shapes(loc_shape, k_shape)
    assert law.loc.shape == (*law.batch_shape, dim)
    assert law.concentration.shape == law.batch_shape
    assert law.rsample((2,)).shape == (2, *law.batch_shape, dim)
    assert law.log_prob(law.sample()).shape == law.batch_shape
    assert law.variance.shape == (*law.batch_shape, dim)
    assert VonMisesFisher.infer_shapes(loc=loc.shape, concentration=k.shape) == (
        law.batch_shape,
        law.event_shape,
    )


# Closed forms


def eps_off(found: Tensor, expected: Any, scale: Any) -> float:
    """The error in units of eps times the scale."""
    error = abs(mp.mpf(found.item()) - expected)
    return float(error / (torch.finfo(found.dtype).eps * scale))


@given(data=st.data(), dim=dims, k=concentrations(), dtype=dtypes)
def test_closed_forms(data: st.DataObject, dim: int, k: float, dtype: torch.dtype) -> None:
    loc = data.draw(unit_vectors(dim, dtype))
    check_closed_forms(loc, k)


@pytest.mark.parametrize("k", ENDS)
@pytest.mark.parametrize("dim", [2, 3, 40])
def test_closed_forms_at_the_ends(dim: int, k: float, dtype: torch.dtype) -> None:
    check_closed_forms(directions(dim, dtype=dtype), k)


def check_closed_forms(loc: Tensor, k: float) -> None:
    dim, k = len(loc), in_dtype(k, loc.dtype)
    law, reference = VonMisesFisher(loc, k), radial(dim, k)
    mu = [mp.mpf(x) for x in loc.tolist()]
    with mp.workdps(40):
        area = max(abs(reference.log_area), 1)
        entropy = reference.entropy(k)
        normalizer = reference.log_normalizer
        across = reference.mean / mp.mpf(k) if k else 1 / mp.mpf(dim)
        assert eps_off(law.entropy(), entropy, max(abs(entropy), area)) <= 8
        assert eps_off(law.log_normalizer, normalizer, max(abs(normalizer), area)) <= 8
        if k == 0:
            assert law.mean_resultant_length == 0
        else:
            assert eps_off(law.mean_resultant_length, reference.mean, reference.mean) <= 8
        complement = reference.one_minus_mean
        assert eps_off(law.one_minus_mean_resultant_length, complement, complement) <= 8
        for j in range(min(dim, 4)):
            mean = mu[j] * reference.mean
            assert eps_off(law.mean[j], mean, abs(mean) or 1) <= 9
            variance = reference.variance * mu[j] ** 2 + across * (1 - mu[j] ** 2)
            # 1 - mu_j^2 is known to eps only
            rounding = across + abs(variance)
            assert eps_off(law.variance[j], variance, rounding) <= 16
            assert eps_off(law.stddev[j], mp.sqrt(variance), rounding / mp.sqrt(variance)) <= 16
    assert torch.equal(law.mode, loc)


def test_the_sign_of_log_normalizer() -> None:
    law = VonMisesFisher(directions(4), 3.0)
    value = directions(4, seed=3)
    torch.testing.assert_close(
        law.log_prob(value), 3.0 * (value @ law.loc) - law.log_normalizer, rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("dim", [2, 3, 50])
def test_concentration_zero_is_the_uniform_law(dim: int, dtype: torch.dtype) -> None:
    law = VonMisesFisher(directions(dim, dtype=dtype), 0)
    uniform = HypersphericalUniform(dim, dtype=dtype)
    value = uniform.sample((10,))
    torch.testing.assert_close(law.log_prob(value), uniform.log_prob(value), rtol=0, atol=0)
    torch.testing.assert_close(law.entropy(), uniform.entropy(), rtol=0, atol=0)
    torch.testing.assert_close(law.mean, uniform.mean)
    torch.testing.assert_close(law.variance, uniform.variance)


# Derivatives

ZERO_AND_ABOVE = (0.0, 0.3, 20.0)


def gradient_functions() -> list[Any]:
    """Functions of an unnormalised mean direction and a concentration, with their highest order."""
    value = directions(2, 3, seed=5)

    def of(pick: Callable[[VonMisesFisher], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda raw, k: pick(VonMisesFisher(normalize(raw, dim=-1), k, validate_args=False))

    return [
        pytest.param(of(lambda law: law.log_prob(value)), 2, id="log_prob"),
        pytest.param(of(lambda law: law.entropy()), 2, id="entropy"),
        pytest.param(of(lambda law: law.log_normalizer), 2, id="log_normalizer"),
        pytest.param(of(lambda law: law.mean_resultant_length), 2, id="mean_resultant_length"),
        pytest.param(of(lambda law: law.mean), 2, id="mean"),
        pytest.param(of(lambda law: law.variance), 1, id="variance"),
    ]


@pytest.mark.parametrize(("function", "order"), gradient_functions())
@pytest.mark.parametrize("at", ZERO_AND_ABOVE)
def test_derivatives(function: Callable[[Tensor, Tensor], Tensor], order: int, at: float) -> None:
    raw = (directions(2, 3) * 1.3).requires_grad_()
    k = torch.tensor([at, at + 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (raw, k))
    if order == 2:
        assert torch.autograd.gradgradcheck(function, (raw, k))


@pytest.mark.parametrize("at", ZERO_AND_ABOVE)
def test_derivative_of_log_prob_in_the_value(at: float) -> None:
    raw = (directions(2, 4) * 1.3).requires_grad_()
    law = VonMisesFisher(directions(4, seed=2), at, validate_args=False)

    def function(raw: Tensor) -> Tensor:
        return law.log_prob(normalize(raw, dim=-1))

    assert torch.autograd.gradcheck(function, raw)
    assert torch.autograd.gradgradcheck(function, raw)


@pytest.mark.parametrize("dim", [2, 3, 64])
def test_gradients_at_concentration_zero_are_exact(dim: int, dtype: torch.dtype) -> None:
    k = torch.zeros((), dtype=dtype, requires_grad=True)
    loc, value = directions(dim, dtype=dtype), directions(dim, dtype=dtype, seed=3)
    law = VonMisesFisher(loc, k)
    # d log f / dk = <x, mu> - A(k)
    (grad,) = torch.autograd.grad(law.log_prob(value), k)
    torch.testing.assert_close(grad, value @ loc)
    (grad,) = torch.autograd.grad(law.entropy(), k)
    assert grad == 0
    (grad,) = torch.autograd.grad(law.mean_resultant_length, k)
    torch.testing.assert_close(grad, torch.tensor(1 / dim, dtype=dtype))


@example(dim=3, k=0.0, dtype=torch.float32)
@example(dim=3, k=LARGEST, dtype=torch.float32)
@given(dim=dims, k=concentrations(), dtype=dtypes)
def test_gradients_are_finite(dim: int, k: float, dtype: torch.dtype) -> None:
    loc = directions(dim, dtype=dtype).requires_grad_()
    concentration = torch.tensor(k, dtype=dtype, requires_grad=True)
    law = VonMisesFisher(loc, concentration)
    value = directions(dim, dtype=dtype, seed=3)
    of_both = (law.log_prob(value), law.mean.sum(), law.variance.sum(), law.stddev.sum())
    of_concentration = (law.entropy(), law.log_normalizer)
    for terms, of in ((of_both, (loc, concentration)), (of_concentration, (concentration,))):
        for term in terms:
            for grad in torch.autograd.grad(term, of, retain_graph=True):
                assert grad.isfinite().all()


def test_gradients_at_an_infinite_concentration_are_no_nan(dtype: torch.dtype) -> None:
    # The slope k A'(k) of the divergence and that of A/k were infinity times 0.
    for dim in (2, 3, 20):
        k = torch.tensor(math.inf, dtype=dtype, requires_grad=True)
        law = VonMisesFisher(directions(dim, dtype=dtype), k)
        for value in (law.entropy(), law.variance.sum(), law.log_normalizer, law.mean.sum()):
            (gradient,) = torch.autograd.grad(value, k)
            assert not gradient.isnan()


# Bad input

LOC = torch.tensor([0.6, 0.0, 0.8])


@pytest.mark.parametrize(
    ("loc", "words"),
    [
        pytest.param(2 * LOC, r"loc .*\(3,\).*unit.*normalize\(loc, dim=-1\).*norm 2$", id="twice"),
        pytest.param(torch.zeros(3), r"unit.*normalize.* got the norm 0$", id="zero"),
        pytest.param(torch.tensor([1.0, math.nan]), r"unit.* got NaN$", id="nan"),
        pytest.param(torch.tensor([1.0, math.inf]), r"unit.* got the norm inf$", id="infinite"),
        pytest.param(torch.stack((LOC, LOC * 1.01)), r"between 1 and 1\.01", id="one-row-of-two"),
        pytest.param(torch.tensor([1.0]), r"at least two entries.*\(1,\)", id="one-entry"),
        pytest.param(torch.tensor(1.0), r"at least two entries.*\(\)", id="scalar"),
        pytest.param(torch.ones(3, 0), r"at least two entries.*\(3, 0\)", id="no-entries"),
    ],
)
def test_bad_loc(loc: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VonMisesFisher(loc, 1.0, validate_args=True)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_loc_is_refused(half: torch.dtype) -> None:
    name = str(half).removeprefix("torch.")
    words = rf"loc .*float32 or float64.*{name}.*normalize\(loc\.float"
    with pytest.raises(TypeError, match=words):
        VonMisesFisher(LOC.to(half), 1.0)
    # The advice works.
    VonMisesFisher(normalize(LOC.to(half).float(), dim=-1), 1.0)


@pytest.mark.parametrize(
    ("loc", "words"),
    [
        pytest.param(
            torch.tensor([1, 0]),
            r"^loc must be float32 or float64, got int64: convert it, .*loc\.float\(\)$",
            id="integer",
        ),
        pytest.param(torch.tensor([True, False]), r"loc .*float32.*bool: convert it", id="bool"),
        pytest.param(
            torch.tensor([1j, 0]),
            r"^loc must be real, got complex64$",
            id="complex",
        ),
        pytest.param([1.0, 0.0], r"loc must be a tensor.*list", id="list"),
        pytest.param(1.0, r"loc must be a tensor.*float", id="number"),
    ],
)
def test_loc_of_a_wrong_type(loc: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        VonMisesFisher(loc, 1.0)


@not_dense_kinds
def test_sparse_and_nested_tensors(kind: str) -> None:
    loc, words = not_dense(kind, "loc")
    with pytest.raises(TypeError, match=words):
        VonMisesFisher(loc, 1.0)
    concentration, words = not_dense(kind, "concentration")
    with pytest.raises(TypeError, match=words):
        VonMisesFisher(LOC, concentration)
    value, words = not_dense(kind, "value")
    with pytest.raises(TypeError, match=words):
        VonMisesFisher(LOC, 1.0).log_prob(value)


@pytest.mark.parametrize(
    "concentration",
    [
        pytest.param(-1.0, id="number"),
        pytest.param(torch.tensor([1.0, -1.0]), id="tensor"),
        pytest.param(math.nan, id="nan"),
        pytest.param(torch.tensor([1.0, math.nan]), id="nan-tensor"),
    ],
)
def test_bad_concentration(concentration: Tensor | float) -> None:
    with pytest.raises(ValueError, match=r"concentration must be nonnegative.*(-1|NaN)"):
        VonMisesFisher(LOC, concentration, validate_args=True)


@pytest.mark.parametrize(
    "concentration",
    [
        pytest.param("3", id="text"),
        pytest.param([1.0], id="list"),
        pytest.param(None, id="none"),
        pytest.param(torch.tensor(1j), id="complex"),
    ],
)
def test_concentration_of_a_wrong_type(concentration: Any) -> None:
    with pytest.raises(TypeError, match="concentration"):
        VonMisesFisher(LOC, concentration)


@pytest.mark.parametrize("concentration", [2, 2.0, True, torch.tensor(2), torch.tensor([2, 3])])
def test_concentrations_of_any_real_type(concentration: Any) -> None:
    law = VonMisesFisher(directions(3), concentration)
    assert law.concentration.dtype == torch.float64
    assert law.log_prob(directions(3)).isfinite().all()


@pytest.mark.parametrize("validate", [True, False])
def test_shapes_that_do_not_broadcast(validate: bool) -> None:
    words = r"loc of shape \(2, 3\) and concentration of shape \(3,\).*\(2,\)"
    with pytest.raises(ValueError, match=words):
        VonMisesFisher(LOC.expand(2, 3), torch.ones(3), validate_args=validate)


def test_a_trailing_one_in_the_concentration_makes_a_square_batch() -> None:
    # The habit of s-vae-pytorch; stated under Shapes in the docstring.
    law = VonMisesFisher(LOC.expand(5, 3), torch.ones(5, 1))
    assert law.batch_shape == (5, 5)
    assert "(B, B)" in VonMisesFisher.__doc__


def test_value_of_another_type() -> None:
    law = VonMisesFisher(LOC, 1.0, validate_args=True)
    with pytest.raises(TypeError, match=r"value must be a tensor.*list"):
        law.log_prob([1.0, 0.0, 0.0])
    with pytest.raises(TypeError, match=r"value .*float32 or float64.*int64"):
        law.log_prob(torch.tensor([1, 0, 0]))


def test_validation_of_an_empty_batch() -> None:
    law = VonMisesFisher(torch.zeros(0, 3), 1.0, validate_args=True)
    assert law.rsample((2,)).shape == (2, 0, 3)
    assert law.log_prob(law.sample()).shape == (0,)
    assert law.entropy().shape == (0,)
