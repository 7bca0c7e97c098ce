from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vmfdist._numerics import elementwise
from vmfdist._numerics.blocks import blocks, go_in_blocks, in_blocks
from vmfdist._numerics.elementwise import with_derivative


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 100])
@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ((12,), (12,)),
        ((12,), (1,)),
        ((3, 4, 5), (1, 4, 1)),
        ((1, 1, 9), (1, 1, 1)),
        ((2, 9), (2, 1)),
    ],
)
def test_blocks_are_all_rows_in_their_order(
    rows: int, shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    x, y = torch.randn(*shape, 3), torch.randn(other)
    sizes = []

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(x.shape[:-1].numel())
        return x.sum(-1) * y, x[..., 0] + y

    found = in_blocks(function, rows, x, y, event_dim=1)
    for result, expected in zip(found, (x.sum(-1) * y, x[..., 0] + y), strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert max(sizes) <= rows
    assert sum(sizes) == math.prod(shape)
    assert len(sizes) > 1 or math.prod(shape) <= rows


def test_blocks_are_views() -> None:
    x = torch.zeros(2, 3)
    for i, (block,) in enumerate(blocks(2, x)):
        block.fill_(i)
    assert x.tolist() == [[0, 0, 1], [2, 2, 3]]


def test_only_on_the_cpu_unless_asked_for() -> None:
    x = torch.empty(10, 2, device="meta")
    assert not go_in_blocks(x, 5)
    assert go_in_blocks(x, 5, everywhere=True)
    assert not go_in_blocks(x, 10, event_dim=1, everywhere=True)


def test_a_formula_of_large_expanded_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    @with_derivative(None, None)
    def product(x: Tensor, y: Tensor, _: None) -> Tensor:
        sizes.append(x.numel())
        return x * y

    monkeypatch.setattr(elementwise, "_BLOCK", 50)
    x, y = torch.randn(70, 1), torch.randn(30, 70).T
    result = product(x, y, None)
    torch.testing.assert_close(result, x * y, rtol=0, atol=0)
    assert result.is_contiguous()
    assert len(sizes) > 1
    assert max(sizes) <= 50
