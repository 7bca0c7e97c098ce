# Squared chords and products of all pairs against the differences, exact ones where digits count.

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cases import directions
from vmfdist._numerics import chords
from vmfdist._numerics.chords import inner_product, squared_chord


def by_differences(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().sum(-1)


@pytest.fixture(autouse=True)
def crossed_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chords, "_FEWEST", 2)
    monkeypatch.setattr(chords, "_FEWEST_NUMBERS", 1)


# Digits


def near_and_far(dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Vectors at all distances from each other, equal and opposite ones among them."""
    y = directions(6, dim)
    y[0] = torch.eye(dim)[0]
    steps = [0.0, 1e-12, 1e-9, 1e-6, 1e-3, 1.0]
    x = [
        normalize(s * y + step * directions(6, dim, seed=2), dim=-1)
        for s in (1, -1)
        for step in steps
    ]
    return torch.cat(x).to(dtype), y.to(dtype)


def exact(x: Tensor, y: Tensor) -> Fraction:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return sum((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs)


@pytest.mark.parametrize("k", [1.0, 1e5, 1e12])
@pytest.mark.parametrize("dim", [2, 3, 20, 300])
def test_digits(dim: int, k: float, dtype: torch.dtype) -> None:
    x, y = near_and_far(dim, dtype)
    found = squared_chord(x.unsqueeze(-2), y, torch.tensor(k))
    eps = torch.finfo(dtype).eps
    for i, j in itertools.product(range(0, len(x), 2), range(len(y))):
        expected = exact(x[i], y[j])
        error = abs(Fraction(found[i, j].item()) - expected)
        assert error <= 4 * eps * expected + 16 * eps / k
    assert torch.equal(found[:6].diagonal(), torch.zeros_like(y[:, 0]))  # of equal vectors


def test_a_block_is_as_all(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    x, y = directions(5, 70, 1, 7, dtype=dtype), directions(5, 1, 80, 7, dtype=dtype, seed=2)
    whole = squared_chord(x, y)
    for block in (100, 10_000):
        monkeypatch.setattr(chords, "_BLOCK", block)
        torch.testing.assert_close(squared_chord(x, y), whole)


@pytest.mark.parametrize("slices", [1, 2])
def test_without_float64(monkeypatch: pytest.MonkeyPatch, slices: int) -> None:
    monkeypatch.setattr(chords, "_wide", lambda device: torch.float32)
    x, y = near_and_far(20, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = chords._pairs(x[None], y[None], True, slices)[0]
    expected = by_differences(x.double().unsqueeze(-2), y.double())
    assert found.dtype == torch.float32
    error = (found - expected).abs() - 4 * torch.finfo(torch.float32).eps * expected
    assert error.max() < (2.0**-19, 2.0**-30)[slices - 1]


@contextmanager
def coarse_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def test_nothing_rounds_the_products() -> None:
    def chord_and_gradients() -> tuple[Tensor, ...]:
        x = directions(40, 1, 64, dtype=torch.float32).requires_grad_()
        y = directions(50, 64, dtype=torch.float32, seed=2).requires_grad_()
        chord = squared_chord(x, y)
        return chord, *torch.autograd.grad(chord.square().sum(), (x, y))

    fine = chord_and_gradients()
    with coarse_products():
        coarse = chord_and_gradients()
    assert all(torch.equal(a, b) for a, b in zip(fine, coarse, strict=True))


# Shapes

crossed = pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [
        pytest.param((5, 1, 3), (4, 3), id="values-laws"),
        pytest.param((5, 3), (4, 1, 3), id="enumerated"),
        pytest.param((2, 5, 1, 3), (4, 3), id="values-of-two-axes"),
        pytest.param((5, 1, 1, 3), (2, 4, 3), id="laws-of-two-axes"),
        pytest.param((6, 5, 1, 3), (6, 1, 4, 3), id="shared-in-front"),
        pytest.param((5, 1, 6, 3), (4, 6, 3), id="shared-behind"),
        pytest.param((5, 1, 6, 2, 1, 3), (5, 4, 6, 1, 3, 3), id="mixed"),
        pytest.param((1, 5, 1, 3), (1, 1, 4, 3), id="ones"),
    ],
)


def pair(x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    x, y = directions(*x_shape), directions(*y_shape, seed=2)
    return x.requires_grad_(), y.requires_grad_()


@crossed
def test_pairs_are_those_of_broadcasting(
    x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> None:
    x, y = pair(x_shape, y_shape)
    assert chords._crossing(x, y) is not None
    for function, reference in (
        (squared_chord, by_differences),
        (inner_product, lambda x, y: (x * y).sum(-1)),
    ):
        found, expected = function(x, y), reference(x, y)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
        upstream = torch.randn(found.shape, dtype=found.dtype)
        found_grads = torch.autograd.grad(found, (x, y), upstream)
        grads = torch.autograd.grad(expected, (x, y), upstream)
        torch.testing.assert_close(found_grads, grads, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param(directions(5, 1, 3).expand(5, 4, 3), directions(4, 3), id="value"),
        pytest.param(directions(5, 1, 3), directions(4, 3).expand(5, 4, 3), id="loc"),
        pytest.param(
            directions(5, 1, 3).expand(2, 5, 4, 3), directions(4, 3).expand(5, 4, 3), id="both"
        ),
        pytest.param(directions(3).expand(5, 3), directions(4, 3), id="one-value"),
    ],
)
def test_copies_of_an_expanded_axis_count_once(x: Tensor, y: Tensor) -> None:
    x = x.unsqueeze(-2) if x.dim() == 2 else x
    crossing = chords._crossing(x, y)
    assert (crossing is None) == (x.stride(0) == 0 and x.dim() == 3)
    torch.testing.assert_close(squared_chord(x, y), by_differences(x, y), rtol=1e-14, atol=1e-14)


def test_each_copy_of_an_expanded_axis_has_its_gradient() -> None:
    x = directions(5, 1, 3).expand(5, 4, 3).requires_grad_()
    y = directions(4, 3, seed=2)
    (found,) = torch.autograd.grad(squared_chord(x, y).sum(), x)
    torch.testing.assert_close(found, 2 * (x - y).detach())
    found = torch.func.grad(lambda x: squared_chord(x, y).sum())(x.detach())
    torch.testing.assert_close(found, 2 * (x - y).detach())


def test_what_is_not_crossed_has_the_digits_of_the_differences(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    shapes = [((300, 3), (3,)), ((300, 3), (300, 3)), ((4, 300, 3), (300, 3)), ((3,), (300, 3))]
    for x_shape, y_shape in shapes:
        x, y = directions(*x_shape, dtype=dtype), directions(*y_shape, dtype=dtype, seed=2)
        assert torch.equal(squared_chord(x, y), by_differences(x, y))
    monkeypatch.undo()
    x, y = directions(5, 1, 3, dtype=dtype), directions(4, 3, dtype=dtype, seed=2)
    assert torch.equal(squared_chord(x, y), by_differences(x, y))  # too few to multiply
    assert squared_chord(x[:0], y).shape == (0, 4)


@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)], ids=str
)
def test_mixed_dtypes(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    x = directions(5, 1, 3, dtype=dtypes[0]).requires_grad_()
    y = directions(4, 3, dtype=dtypes[1]).requires_grad_()
    found = squared_chord(x, y)
    torch.testing.assert_close(found, by_differences(x, y), rtol=1e-14, atol=1e-14)
    assert [g.dtype for g in torch.autograd.grad(found.sum(), (x, y))] == list(dtypes)


# Memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1.0, 1e12])
def test_no_array_of_values_laws_and_dim(dtype: torch.dtype, k: float) -> None:
    rows, columns, dim = 300, 200, 100
    x = directions(rows, 1, dim, dtype=dtype).requires_grad_()
    y = directions(columns, dim, dtype=dtype).requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        chord = squared_chord(x, y, torch.tensor(k))
        torch.autograd.grad(chord.sum(), (x, y))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 4 * rows * columns <= largest <= 8 * rows * columns * 4


# Derivatives


@pytest.mark.parametrize("k", [1.0, 1e5, 1e12])
@pytest.mark.parametrize("function", [squared_chord, inner_product])
def test_derivatives(function: Any, k: float) -> None:
    x, y = pair((3, 1, 2, 3), (3, 2, 3))

    def of_unit_vectors(x: Tensor, y: Tensor) -> Tensor:
        x, y = normalize(x, dim=-1), normalize(y, dim=-1)
        return function(x, y, torch.tensor(k)) if function is squared_chord else function(x, y)

    assert torch.autograd.gradcheck(
        of_unit_vectors,
        (x, y),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    assert torch.autograd.gradgradcheck(of_unit_vectors, (x, y), check_batched_grad=True)


def test_second_derivatives_of_equal_vectors() -> None:
    x = directions(4, 3).requires_grad_()
    y = x.detach().clone()

    def total(x: Tensor) -> Tensor:
        return squared_chord(x.unsqueeze(-2), y).sum()

    expected = 2 * len(y) * torch.eye(12, dtype=x.dtype).reshape(4, 3, 4, 3)
    torch.testing.assert_close(torch.autograd.functional.hessian(total, x), expected)
    torch.testing.assert_close(torch.func.hessian(total)(x.detach()), expected)


def test_transforms_of_torch_func(dtype: torch.dtype) -> None:
    x, y = directions(6, 5, 1, 3, dtype=dtype), directions(4, 3, dtype=dtype, seed=2)
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {}
    expected = by_differences(x, y)
    torch.testing.assert_close(torch.func.vmap(squared_chord, (0, None))(x, y), expected, **close)
    by_law = torch.func.vmap(squared_chord, (None, 0), out_dims=-1)(x[..., 0, :], y)
    torch.testing.assert_close(by_law, expected, **close)

    def gradients(function: Any) -> tuple[Tensor, ...]:
        return torch.func.grad(lambda x, y: function(x, y).square().sum(), (0, 1))(x, y)

    torch.testing.assert_close(gradients(squared_chord), gradients(by_differences), **close)


def test_compiled_with_dynamic_sizes(dtype: torch.dtype) -> None:
    def chord(x: Tensor, y: Tensor) -> Tensor:
        return squared_chord(x.unsqueeze(-2), y)

    torch._dynamo.reset()
    compiled = torch.compile(chord, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows, columns in ((5, 4), (9, 7), (8, 3)):
            x = directions(rows, 3, dtype=dtype).requires_grad_()
            y = directions(columns, 3, dtype=dtype, seed=2).requires_grad_()
            found, expected = compiled(x, y), chord(x, y)
            torch.testing.assert_close(found, expected)
            upstream = directions(rows, columns, dtype=dtype)
            torch.testing.assert_close(
                torch.autograd.grad(found, (x, y), upstream),
                torch.autograd.grad(expected, (x, y), upstream),
            )
