# Programs of torch.export: values and first derivatives are those of what they were made of.

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from cases import directions
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist.similarity import hellinger_distance, log_product_integral

# Dynamo of torch 2.6 does not tell an export from torch.compile.
STRICT = [False, True] if hasattr(torch.compiler, "is_exporting") else [False]
both_modes = pytest.mark.parametrize("strict", STRICT)


def natural(loc: Tensor, k: Tensor) -> VonMisesFisher:
    return VonMisesFisher.from_natural(loc * k.unsqueeze(-1), validate_args=False)


def of(kind: Any) -> Callable[[Tensor, Tensor], Any]:
    return lambda loc, k: kind(loc, k, validate_args=False)


MAKERS = {
    "von Mises-Fisher": of(VonMisesFisher),
    "natural": natural,
    "power spherical": of(PowerSpherical),
    "spherical Cauchy": of(SphericalCauchy),
    "by distance": lambda loc, k: SphericalCauchy.from_distance(loc, k, validate_args=False),
}

Q = Any  # a law
QUANTITIES: dict[str, Callable[[Q, Q, Tensor], Tensor]] = {
    "rsample": lambda q, p, x: q.rsample((3,)),
    "log_prob": lambda q, p, x: q.log_prob(x),
    "entropy": lambda q, p, x: q.entropy(),
    "to uniform": lambda q, p, x: kl_divergence(q, HypersphericalUniform(q.dim)),
    "from uniform": lambda q, p, x: kl_divergence(HypersphericalUniform(q.dim), q),
    "to another": lambda q, p, x: kl_divergence(q, p),
    "mean": lambda q, p, x: q.mean,
    "stddev": lambda q, p, x: q.stddev,
    "cosine.rsample": lambda q, p, x: q.cosine.rsample(),
    "cosine.log_prob": lambda q, p, x: q.cosine.log_prob(x[..., 0]),
    "cosine.variance": lambda q, p, x: q.cosine.variance,
    "product": lambda q, p, x: log_product_integral(q, p),
    "hellinger": lambda q, p, x: hellinger_distance(q, p),
}


class Module(torch.nn.Module):
    def __init__(self, maker: str, name: str) -> None:
        super().__init__()
        self._make, self._quantity = MAKERS[maker], QUANTITIES[name]

    def forward(self, loc: Tensor, k: Tensor, other: Tensor, k2: Tensor, x: Tensor) -> Tensor:
        return self._quantity(self._make(loc, k), self._make(other, k2), x)


def arguments(maker: str, dim: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    n = 5
    k, k2 = torch.rand(2, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if maker != "spherical Cauchy":
        k, k2 = 20 * k, 20 * k2
    loc, other, x = (directions(n, dim, seed=i) for i in (1, 2, 3))
    return [y.to(dtype) for y in (loc, k, other, k2, x)]


def exported(module: torch.nn.Module, given: list[Tensor], *, strict: bool) -> Any:
    return torch.export.export(module, tuple(given), strict=strict).module()


def value_and_gradients(module: Any, given: list[Tensor]) -> list[Tensor]:
    inputs = [x.clone().requires_grad_() for x in given]
    torch.manual_seed(0)
    value = module(*inputs)
    weights = torch.linspace(0.3, 1.7, value.numel(), dtype=value.dtype).view_as(value)
    gradients = torch.autograd.grad((weights * value).sum(), inputs, allow_unused=True)
    return [
        value.detach(),
        *(torch.zeros_like(x) if g is None else g for x, g in zip(given, gradients, strict=True)),
    ]


def check(maker: str, name: str, dim: int, *, strict: bool) -> None:
    module, given = Module(maker, name), arguments(maker, dim)
    # First, since PyTorch looks a divergence up where it is first asked for, which Dynamo cannot.
    expected = value_and_gradients(module, given)
    # of which the program has no memory
    program = exported(module, [torch.randn_like(x).abs() for x in given], strict=strict)
    found = value_and_gradients(program, given)
    assert any(g.any() for g in expected[1:])
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-14 * y.abs().max().item())


SOME = [
    (maker, name)
    for maker in MAKERS
    for name in ("rsample", "log_prob", "entropy", "to uniform", "from uniform")
]
MORE = [
    *((maker, name) for maker in MAKERS for name in ("mean", "stddev", "cosine.variance")),
    *((maker, name) for maker in MAKERS for name in ("cosine.rsample", "cosine.log_prob")),
    *((maker, "to another") for maker in ("von Mises-Fisher", "natural")),
    *((maker, "product") for maker in ("von Mises-Fisher", "natural")),
    *((maker, "hellinger") for maker in ("von Mises-Fisher", "natural")),
]


@pytest.mark.parametrize(("maker", "name"), SOME)
def test_derivatives(maker: str, name: str) -> None:
    check(maker, name, 6, strict=False)


@pytest.mark.skipif(True not in STRICT, reason="this release does not tell an export by Dynamo")
@pytest.mark.parametrize("name", ["rsample", "log_prob"])
@pytest.mark.parametrize("maker", ["von Mises-Fisher", "spherical Cauchy"])
def test_derivatives_by_dynamo(maker: str, name: str) -> None:
    check(maker, name, 6, strict=True)


@pytest.mark.slow  # graphs of up to 6000 nodes
@pytest.mark.parametrize("dim", [2, 3, 9])
@both_modes
@pytest.mark.parametrize(("maker", "name"), SOME + MORE)
def test_all_derivatives(maker: str, name: str, strict: bool, dim: int) -> None:
    check(maker, name, dim, strict=strict)


@pytest.mark.parametrize("maker", ["von Mises-Fisher", "power spherical", "by distance"])
@pytest.mark.parametrize("name", ["rsample", "log_prob", "entropy", "to uniform", "mean"])
def test_at_the_ends(maker: str, name: str, dtype: torch.dtype) -> None:
    loc, k, other, k2, x = arguments(maker, 4, dtype)
    module = Module(maker, name)
    program = exported(module, [loc, k, other, k2, x], strict=False)
    # What a draw at the largest concentrations has across loc, its gradient with it, is rounding.
    large = (2.0, 10.0) if name == "rsample" else (1e20, torch.finfo(dtype).max)
    k = torch.tensor([0.0, torch.finfo(dtype).tiny, *large, math.inf], dtype=dtype)
    found = value_and_gradients(program, [loc, k, other, k2, x])
    expected = value_and_gradients(module, [loc, k, other, k2, x])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0], expected[0], rtol=4 * eps, atol=4 * eps)
    assert not any(y.isnan().any() for y in found[1:])
    for y, z in zip(found[1:], expected[1:], strict=True):
        same = y[:-1], z[:-1]  # those of a point mass are infinite in eager mode
        atol = 8 * eps * z[:-1].abs().max().item() if name == "rsample" else 0
        torch.testing.assert_close(*same, rtol=64 * eps, atol=atol)


class Model(torch.nn.Module):
    """The loss of a layer that makes laws of features."""

    def __init__(self, maker: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self._make = MAKERS[maker]
        self.weight = torch.nn.Parameter(torch.randn(6, 7, generator=generator))

    def forward(self, features: Tensor) -> Tensor:
        output = features @ self.weight
        k = torch.sigmoid(output[:, 0])
        q = self._make(normalize(output[:, 1:], dim=-1), k)
        kl = kl_divergence(q, HypersphericalUniform(6))
        return ((q.rsample() - features).square().sum(-1) + kl).mean()


@pytest.mark.parametrize("maker", MAKERS)
def test_a_program_can_be_trained(maker: str, tmp_path: Path) -> None:
    features = directions(20, 6, seed=4).float()
    batch = ({0: torch.export.Dim("batch", max=1000)},)
    program = torch.export.export(Model(maker), (features[:9],), dynamic_shapes=batch, strict=False)
    torch.export.save(program, tmp_path / "model.pt2")
    model, loaded = Model(maker), torch.export.load(tmp_path / "model.pt2").module()
    losses = []
    for step in (model, loaded):
        optimizer = torch.optim.SGD(step.parameters(), 0.5)
        torch.manual_seed(0)
        for _ in range(20):
            optimizer.zero_grad()
            loss = step(features)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[20:] == pytest.approx(losses[:20], rel=1e-4)
    (weight,) = loaded.parameters()
    torch.testing.assert_close(weight, model.weight, rtol=1e-3, atol=1e-4)


def operations(program: Any) -> int:
    graphs = (
        m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)
    )
    return sum(len(graph.nodes) for graph in graphs)


@pytest.mark.parametrize("maker", ["von Mises-Fisher", "power spherical"])
@pytest.mark.parametrize("name", ["rsample", "log_prob"])
def test_without_gradients_a_program_is_of_values_alone(maker: str, name: str) -> None:
    module, given = Module(maker, name), arguments(maker, 6)
    whole = torch.export.export(module, tuple(given), strict=False)
    with torch.no_grad():
        lean = torch.export.export(module, tuple(given), strict=False)
        torch.manual_seed(0)
        expected = module(*given)
    assert operations(lean) < operations(whole)
    torch.manual_seed(0)
    torch.testing.assert_close(lean.module()(*given), expected)
