# Results have the dtype of the laws, whatever the default dtype is.

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from cases import Case, cases_of_dim, directions
from vmfdist import HypersphericalUniform, PowerSpherical, VonMisesFisher, estimation, special

DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float64, id="float64")]
SHAPE = (2,)


@pytest.fixture(params=DTYPES, autouse=True)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of real numbers in a result, which may be a law or a tuple."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, TorchDistribution):
        yield from (getattr(value, name) for name in value.arg_constraints)


def properties(law: TorchDistribution) -> Iterator[tuple[str, Any]]:
    for name, _ in inspect.getmembers(type(law), lambda member: isinstance(member, property)):
        if not name.startswith("_"):
            try:
                yield name, getattr(law, name)
            except NotImplementedError:  # torch's own, that these laws have not
                continue


def results(law: TorchDistribution, dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    """Of all methods and properties of a law on the sphere and of its cosine."""
    yield from properties(law)
    x = law.sample(SHAPE)
    yield from (("sample", x), ("rsample", law.rsample(SHAPE)), ("log_prob", law.log_prob(x)))
    yield from (("entropy", law.entropy()), ("mass_cone", law.mass_cone(0.5)))
    yield "expand", law.expand((3, *law.batch_shape))
    if law.arg_constraints:
        yield "log_prob at loc", law.log_prob(law.loc)
    cosine = law.cosine
    yield from ((f"cosine.{name}", value) for name, value in properties(cosine))
    w, p = torch.tensor(0.25, dtype=dtype), torch.tensor(0.75, dtype=dtype)
    yield "cosine.entropy", cosine.entropy()
    for name in ("sample", "rsample"):
        yield f"cosine.{name}", getattr(cosine, name)(SHAPE)
    for name in ("log_prob", "cdf", "sf"):
        yield f"cosine.{name}", getattr(cosine, name)(w)
        yield f"cosine.{name} of 1 - w", getattr(cosine, name)(one_minus_value=w)
    for name in ("icdf", "isf", "one_minus_icdf", "one_minus_isf"):
        yield f"cosine.{name}", getattr(cosine, name)(p)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases_of_dim(2, 5))
def test_laws(case: Case, dtype: torch.dtype) -> None:
    for name, value in results(case.build(dtype), dtype):
        for tensor in tensors(value):
            assert tensor.dtype == dtype, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0.0, 3.0, math.inf])
@pytest.mark.parametrize("dim", [2, 5])
def test_divergences_and_statistics(dim: int, k: float, dtype: torch.dtype) -> None:
    loc = directions(dim, dtype=dtype)
    concentration = torch.full((), k, dtype=dtype).requires_grad_()
    law, power = VonMisesFisher(loc, concentration), PowerSpherical(loc, concentration)
    uniform = HypersphericalUniform(dim, dtype=dtype)
    pairs = [(p, q) for p in (law, power, uniform) for q in (law, power, uniform)]
    found = {f"{type(p).__name__}, {type(q).__name__}": kl_divergence(p, q) for p, q in pairs}
    samples = VonMisesFisher(loc, 5.0).sample((6,))
    numbers = {
        "fisher_information": estimation.fisher_information(law),
        "standard_errors": estimation.standard_errors(law, 10),
        "confidence_cone": estimation.confidence_cone(samples),
        "rayleigh_test": estimation.rayleigh_test(samples),
        "mean_direction_test": estimation.mean_direction_test(samples[:3], samples[3:]),
        "unequal concentrations": estimation.mean_direction_test(
            samples[:3], samples[3:], equal_concentration=False
        ),
        "stated mean direction": estimation.mean_direction_test(samples, loc=loc),
        "concentration_test": estimation.concentration_test(samples[:3], samples[3:]),
        "fit": VonMisesFisher.fit(samples),
        "fit with a known direction": VonMisesFisher.fit(samples, loc=loc),
        "bias-corrected fit": VonMisesFisher.fit(samples, bias_corrected=True),
        "weighted fit": VonMisesFisher.fit(samples, torch.arange(1.0, 7.0)),
        "fit of equal samples": VonMisesFisher.fit(samples[:1]),
        "from_mean": VonMisesFisher.from_mean(loc / 2),
        "from_natural": VonMisesFisher.from_natural(3 * loc),
        "conjugate_update": law.conjugate_update(VonMisesFisher(loc, 5.0)),
    }
    for name, value in (*found.items(), *numbers.items()):
        for tensor in tensors(value):
            assert tensor.dtype == dtype, name
            if tensor.requires_grad and not math.isinf(k):
                (gradient,) = torch.autograd.grad(tensor.sum(), concentration, retain_graph=True)
                assert gradient.dtype == dtype, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", [0.5, 0.7, 1.5, 30.0])
def test_bessel_functions(v: float, dtype: torch.dtype) -> None:
    for x in (torch.tensor(0.5, dtype=dtype), torch.tensor([0.0, 0.5, 1.0], dtype=dtype)):
        for function in (special.log_iv, special.log_ive, special.iv_ratio):
            assert function(v, x).dtype == dtype
        assert special.inverse_iv_ratio(v, x).dtype == dtype
        assert special.inverse_iv_ratio(v, one_minus_r=x).dtype == dtype
