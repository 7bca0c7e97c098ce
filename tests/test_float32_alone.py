"""Draws, densities, entropies and divergences in float32 take no operation in float64.

Apple's MPS devices have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from cases import directions
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist._numerics import precision
from vmfdist.estimation import (
    SphericalKDE,
    VonMisesFisherRegression,
    confidence_cone,
    goodness_of_fit,
    mean_direction_test,
    uniformity_test,
)
from vmfdist.mixture import VonMisesFisherMixture
from vmfdist.nn import ClassStatistics
from vmfdist.rotational import RotationallySymmetric


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


class WithoutFloat64(TorchDispatchMode):
    """Stands for a device that has none. Tables and coefficients are made outside, on the host."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in (*tensors(args), *tensors(result)):
            assert x.dtype != torch.float64, f"{func} in float64"
        return result


LAWS = [VonMisesFisher, PowerSpherical, SphericalCauchy]


def made(
    law: type[RotationallySymmetric], dim: int
) -> tuple[RotationallySymmetric, tuple[Tensor, Tensor]]:
    loc = directions(40, dim, dtype=torch.float32).requires_grad_()
    largest = 0.9 if law is SphericalCauchy else 90
    concentration = torch.linspace(0, largest, 40, dtype=torch.float32)
    parameters = loc, concentration.requires_grad_()
    return law(*parameters, validate_args=False), parameters


def uniform_like(law: RotationallySymmetric) -> HypersphericalUniform:
    return HypersphericalUniform(law.dim, dtype=torch.float32)


QUANTITIES: dict[str, Callable[[RotationallySymmetric], Tensor]] = {
    "rsample": lambda law: law.rsample((3,)),
    "log_prob": lambda law: law.log_prob(-law.loc.detach().roll(1, 0)),
    "entropy": lambda law: law.entropy(),
    "divergence to the uniform law": lambda law: kl_divergence(law, uniform_like(law)),
    "divergence from the uniform law": lambda law: kl_divergence(uniform_like(law), law),
    "mean": lambda law: law.mean,
    "variance": lambda law: law.variance,
    "cosine.rsample": lambda law: law.cosine.rsample((3,)),
    "cosine.log_prob": lambda law: law.cosine.log_prob(torch.full((40,), 0.4, dtype=torch.float32)),
}


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("dim", [2, 3, 20])
@pytest.mark.parametrize("law", LAWS)
def test_no_float64(law: type[RotationallySymmetric], dim: int, quantity: str) -> None:
    function, (distribution, parameters) = QUANTITIES[quantity], made(law, dim)
    with WithoutFloat64():
        result = function(distribution)
        torch.autograd.grad(result.sum(), parameters, allow_unused=True)


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("dim", [2, 3, 20])
@pytest.mark.parametrize("law", LAWS)
def test_no_float64_whatever_the_default(
    law: type[RotationallySymmetric], dim: int, quantity: str
) -> None:
    function, (distribution, parameters) = QUANTITIES[quantity], made(law, dim)
    with WithoutFloat64():
        result = function(distribution)
        torch.autograd.grad(result.sum(), parameters, allow_unused=True)


@pytest.mark.parametrize("dim", [2, 3, 20])
@pytest.mark.parametrize("law", LAWS)
def test_divergences_to_von_mises_fisher_laws_without_float64(
    law: type[RotationallySymmetric], dim: int
) -> None:
    (p, parameters), (q, others) = made(law, dim), made(VonMisesFisher, dim)
    with WithoutFloat64():
        divergence = kl_divergence(p, q)
        torch.autograd.grad(divergence.sum(), (*parameters, *others))


@pytest.mark.parametrize("dim", [2, 3, 20])
def test_uniform_draws_without_float64(dim: int) -> None:
    law = HypersphericalUniform(dim, dtype=torch.float32)
    with WithoutFloat64():
        law.log_prob(law.rsample((7,)))
        law.entropy()


def test_the_mode_sees_float64() -> None:
    law, _ = made(VonMisesFisher, 5)
    with pytest.raises(AssertionError, match="float64"), WithoutFloat64():
        law.cosine.cdf(torch.full((40,), 0.4, dtype=torch.float32))


# What sums or integrates in float64 says so where there is none.


def needing_float64(law: type[RotationallySymmetric]) -> dict[str, Callable[[], Any]]:
    distribution, _ = made(law, 5)
    x, half = directions(40, 5, seed=1, dtype=torch.float32), torch.tensor(0.5)
    return {
        "cdf": lambda: distribution.cosine.cdf(half),
        "sf": lambda: distribution.cosine.sf(half),
        "icdf": lambda: distribution.cosine.icdf(half),
        "mass_cone": lambda: distribution.mass_cone(0.5),
        "fit": lambda: law.fit(x),  # type: ignore[attr-defined]
        "divergence": lambda: kl_divergence(distribution, made(PowerSpherical, 5)[0]),
        "uniformity_test": lambda: uniformity_test(x),
        "goodness_of_fit": lambda: goodness_of_fit(x),
        "mean_direction_test": lambda: mean_direction_test(x, -x),
        "confidence_cone": lambda: confidence_cone(x),
        "kernel density": lambda: SphericalKDE.fit(x),
        "modes": lambda: SphericalKDE(x, 4.0).modes(),
        "regression": lambda: VonMisesFisherRegression.fit(x[:, :2], x),
        "mixture": lambda: VonMisesFisherMixture(2).fit(x),
        "statistics": lambda: ClassStatistics(5, 2),
    }


@pytest.mark.parametrize("law", LAWS)
def test_what_needs_float64_says_so(
    law: type[RotationallySymmetric], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = needing_float64(law)
    monkeypatch.setattr(precision, "has_float64", lambda device: False)
    silent = []
    for name, call in calls.items():
        try:
            call()
        except TypeError as error:
            if "float64, which cpu devices do not have: move" in str(error):
                continue
        silent.append(name)
    assert not silent
