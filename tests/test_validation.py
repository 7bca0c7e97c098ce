# What every error about a number says: what is needed, and what was given.

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from vmfdist._validation import require, require_number


@pytest.mark.parametrize(
    ("x", "words"),
    [
        pytest.param(torch.tensor(-2.5), "the norm -2.5", id="scalar"),
        pytest.param(torch.tensor([-1, -1]), "the norm -1", id="equal"),
        pytest.param(torch.tensor([[3.0, -1.0], [0.5, 2.0]]), "norms between -1 and 3", id="range"),
        pytest.param(torch.tensor([-math.inf, 1.0]), "norms between -inf and 1", id="infinite"),
        pytest.param(torch.tensor([3.0, math.nan, -1.0]), "NaN", id="nan"),
        pytest.param(
            torch.tensor([1.23456789012, -1.0]), "norms between -1 and 1.23456788", id="9"
        ),
    ],
)
def test_what_was_found(x: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^a norm must be above 3, got {re.escape(words)}$"):
        require("a norm must be above 3", x, lambda number: number > 3, "norm")


def test_what_holds_passes() -> None:
    for x in (torch.ones(3), torch.tensor(0.0), torch.ones(0)):
        require("", x, lambda number: number >= 0)


@pytest.mark.parametrize("x", [True, "1", 1j, None, torch.tensor(1.0)], ids=repr)
def test_what_is_no_number(x: object) -> None:
    with pytest.raises(TypeError, match=rf"^n must be a Python number, got {type(x).__name__}$"):
        require_number("n", x)
    require_number("n", 2)
