# What keeps the tests apart: each starts alike, also after one that failed half-way.

from __future__ import annotations

import decimal
import random
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pyro
import pytest
import torch
from torch.distributions import (
    Distribution,
    Normal,
    biject_to,
    constraints,
    kl_divergence,
    register_kl,
    transform_to,
)

from isolation import SETTINGS, isolated
from vmfdist import VonMisesFisher


class Ours(Normal):
    """A law that a test might register things for."""


def register(registry: Any) -> None:
    registry.register(constraints.stack, lambda _: None)


def set_digits() -> None:
    mp.mp.dps = 50


SPOIL: dict[str, Callable[[], Any]] = {
    "validation": lambda: Distribution.set_default_validate_args(False),
    "Pyro's settings": lambda: pyro.enable_validation(False),
    "Pyro's handlers": lambda: pyro.poutine.block().__enter__(),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "gradients": lambda: torch.set_grad_enabled(False),
    "anomalies": lambda: (
        torch.autograd.set_detect_anomaly(False, check_nan=False)
        and torch.autograd.set_detect_anomaly(True)
    ),
    "threads": lambda: torch.set_num_threads(2),
    "determinism": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "precision of products": lambda: torch.set_float32_matmul_precision("medium"),
    "divergences": lambda: register_kl(Ours, Ours)(lambda p, q: p.loc),
    "divergences found": lambda: kl_divergence(Ours(0.0, 1.0), Normal(0.0, 1.0)),
    "bijections": lambda: register(biject_to),
    "transforms": lambda: register(transform_to),
    "digits of mpmath": set_digits,
    "decimals": lambda: decimal.setcontext(decimal.Context(prec=3, Emax=99)),
}


def value(name: str) -> Any:
    found = SETTINGS[name].get()
    return repr(found) if name == "decimals" else found


@pytest.mark.parametrize("name", SETTINGS)
def test_a_test_that_fails_leaves_nothing_changed(name: str) -> None:
    before = value(name)

    @isolated()
    def fail() -> None:
        SPOIL[name]()
        assert value(name) != before
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert value(name) == before


def test_a_compilation_leaves_nothing_changed() -> None:
    with isolated():
        compiled = torch.compile(lambda x: x + 1, backend="eager")
        compiled(torch.ones(2))
        Distribution.set_default_validate_args(False)  # as the first one of a process does
    with pytest.raises(ValueError, match="concentration must be nonnegative"):
        VonMisesFisher(torch.eye(3), -1.0)


def test_each_starts_alike() -> None:
    def draws() -> tuple[float, float, float]:
        return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002

    with isolated():
        first = draws()
        pyro.param("left over", torch.zeros(3))
    assert len(pyro.get_param_store()) == 0
    with isolated():
        assert draws() == first
        assert torch.get_num_threads() == 1


def test_every_test_is_isolated(request: pytest.FixtureRequest) -> None:
    assert "isolation" in request.fixturenames
