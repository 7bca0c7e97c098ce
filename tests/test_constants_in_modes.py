# What is computed once is the same wherever it is first asked for, and graphs serve any batch size.
# Run as a script, this file writes what a process computes in which no mode was ever active.

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.distributions import kl_divergence
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher


def spherical_cauchy(loc: Tensor, k: Tensor, validate_args: bool) -> SphericalCauchy:
    return SphericalCauchy(loc, k / (1 + k), validate_args)


LAWS = [VonMisesFisher, PowerSpherical, spherical_cauchy]
_Law = Callable[..., Any]  # with a name


def parameters(dim: int, n: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dim)
    k = torch.rand(n, generator=generator) * 20
    return torch.randn(n, dim, generator=generator), k


def law(kind: _Law, raw: Tensor, k: Tensor) -> Any:
    return kind(normalize(raw, dim=-1), k, validate_args=False)


def everything(kind: _Law, dim: int) -> list[Tensor]:
    """Draws, densities, divergences, probabilities and gradients, all in eager mode."""
    raw, k = (x.requires_grad_() for x in parameters(dim))
    q = law(kind, raw, k)
    torch.manual_seed(1)
    draws = q.rsample()
    values = [
        draws,
        q.log_prob(draws.detach()),
        q.entropy(),
        kl_divergence(q, HypersphericalUniform(dim)),
        q.cosine.cdf(torch.full((5,), 0.2)),
        q.mass_cone(0.5),
        q.cosine.entropy(),
    ]
    grads = torch.autograd.grad(sum(x.sin().sum() for x in values), (raw, k))
    return [x.detach() for x in (*values, *grads)]


class Draw(torch.nn.Module):
    def __init__(self, kind: _Law) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, raw: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q = law(self.kind, raw, k)
        z = q.rsample()
        return z, q.log_prob(z)


class Density(torch.nn.Module):
    def __init__(self, kind: _Law) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, raw: Tensor, k: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        q = law(self.kind, raw, k)
        return q.log_prob(value), q.entropy()


# --------------------------------------------------------------------------------------------------
# Modes
# --------------------------------------------------------------------------------------------------


def _export(strict: bool) -> Callable[[_Law, int], None]:
    def export(kind: _Law, dim: int) -> None:
        graph = torch.export.export(Draw(kind), parameters(dim), strict=strict).graph
        # No table is built in it, but derivatives are. On the circle a draw has a step of the
        # quadrature in it.
        assert len(graph.nodes) < (700 if dim == 2 else 350)

    return export


def _fake(kind: _Law, dim: int) -> None:
    with FakeTensorMode():
        raw, k = torch.randn(5, dim), torch.rand(5)
        q = law(kind, raw, k)
        for x in (q.rsample(), q.log_prob(raw), q.mass_cone(0.5), q.cosine.entropy(), q.entropy()):
            assert x.shape[:1] == (5,)


def _within(context: Callable[[], Any]) -> Callable[[_Law, int], None]:
    def run(kind: _Law, dim: int) -> None:
        raw, k = parameters(dim)
        with context():
            q = law(kind, raw, k)
            for x in (q.rsample(), q.log_prob(normalize(raw, dim=-1)), q.cosine.entropy()):
                assert not x.is_meta
                assert x.isfinite().all()

    return run


def _functorch(kind: _Law, dim: int) -> None:
    def loss(raw: Tensor, k: Tensor) -> Tensor:
        q = law(kind, raw, k)
        return q.rsample()[0] + q.entropy() + q.mass_cone(0.5) + q.cosine.entropy()

    gradient = torch.func.grad(loss, argnums=(0, 1))
    for grad in torch.func.vmap(gradient, randomness="different")(*parameters(dim)):
        assert grad.isfinite().all()


def _compile(kind: _Law, dim: int) -> None:
    torch._dynamo.reset()
    z, _ = torch.compile(Draw(kind), fullgraph=True, backend="aot_eager")(*parameters(dim))
    assert z.shape == (5, dim)


class _Passing(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


#: Each with the dimensions in which nothing is computed before.
MODES = {
    "export": (_export(strict=False), (41, 2)),
    "export-by-dynamo": (_export(strict=True), (42,)),
    "compile": (_compile, (43,)),
    "fake": (_fake, (44,)),
    "inference": (_within(torch.inference_mode), (45,)),
    "no-grad": (_within(torch.no_grad), (46,)),
    "meta": (_within(lambda: torch.device("meta")), (47,)),
    "autocast": (_within(lambda: torch.autocast("cpu")), (48,)),
    "functorch": (_functorch, (49,)),
    "dispatch": (_within(_Passing), (50,)),
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], list[Tensor]]:
    """What a process computes without any mode."""
    path = tmp_path_factory.mktemp("modes") / "values.pt"
    subprocess.run([sys.executable, __file__, str(path)], check=True, timeout=300)
    return torch.load(path)


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize(
    ("mode", "dim"), [(name, dim) for name, (_, dims) in MODES.items() for dim in dims]
)
def test_what_is_cached_in_a_mode(
    mode: str, dim: int, kind: _Law, fresh: dict[tuple[str, int], list[Tensor]]
) -> None:
    expected = fresh[kind.__name__, dim]
    for _ in ("a cold cache", "a warm one"):
        MODES[mode][0](kind, dim)
        for found, value in zip(everything(kind, dim), expected, strict=True):
            assert torch.equal(found, value)


def test_threads_that_start_together(fresh: dict[tuple[str, int], list[Tensor]]) -> None:
    dim, found, together = 51, {}, threading.Barrier(4)

    def run(i: int) -> None:
        raw, k = parameters(dim)
        together.wait(timeout=60)
        q = law(VonMisesFisher, raw, k)
        found[i] = [q.mass_cone(0.5), q.cosine.entropy(), q.entropy()]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    expected = fresh["VonMisesFisher", dim]
    for i in range(4):
        for x, value in zip(found[i], (expected[5], expected[6], expected[2]), strict=True):
            assert torch.equal(x, value)


# --------------------------------------------------------------------------------------------------
# Graphs of any size
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def _compiler_reset() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check_draws(z: Tensor, log_prob: Tensor, kind: _Law, raw: Tensor, k: Tensor) -> None:
    assert z.shape == raw.shape
    one = torch.ones(len(raw))
    torch.testing.assert_close(z.norm(dim=-1), one, rtol=1e-6, atol=1e-6)
    expected = law(kind, raw, k).log_prob(z)
    torch.testing.assert_close(log_prob, expected, rtol=1e-4, atol=1e-4)
    if len(raw) > 1000:  # the mean cosine is that of the law
        cosines = (z * normalize(raw, dim=-1)).sum(-1)
        q = law(kind, raw, k)
        off = (cosines - q.cosine.mean) / q.cosine.variance.sqrt()
        assert off.mean().abs() * len(raw) ** 0.5 < 4.5


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("kind", "dim"), [(VonMisesFisher, 17), (PowerSpherical, 8)])
def test_export_with_a_batch_of_any_size(
    kind: _Law, dim: int, strict: bool, tmp_path: Path
) -> None:
    batch = torch.export.Dim("batch")
    shapes = {"raw": {0: batch}, "k": {0: batch}}
    program = torch.export.export(Draw(kind), parameters(dim), dynamic_shapes=shapes, strict=strict)
    torch.export.save(program, tmp_path / "draw.pt2")
    loaded = torch.export.load(tmp_path / "draw.pt2").module()
    for n in (1, 2, 17, 40_000):
        raw, k = parameters(dim, n)
        for module in (program.module(), loaded):
            check_draws(*module(raw, k), kind, raw, k)
    assert not torch.equal(loaded(raw, k)[0], loaded(raw, k)[0])


def test_export_of_densities() -> None:
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} for name in ("raw", "k", "value")}
    raw, k = parameters(6)
    for kind in LAWS:
        arguments = raw, k, normalize(raw.flip(0), dim=-1)
        program = torch.export.export(Density(kind), arguments, dynamic_shapes=shapes)
        for n in (1, 3, 20_000):
            raw_n, k_n = parameters(6, n)
            value = normalize(raw_n.flip(0), dim=-1)
            for found, expected in zip(
                program.module()(raw_n, k_n, value), Density(kind)(raw_n, k_n, value), strict=True
            ):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_compiler_reset")
@pytest.mark.parametrize("dynamic", [pytest.param(None, marks=pytest.mark.slow), True])
def test_compile_with_other_sizes_and_dimensions(dynamic: bool | None) -> None:
    draw = torch.compile(Draw(VonMisesFisher), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n, dim in ((5, 8), (7, 8), (20_000, 8), (5, 9)):
        raw, k = parameters(dim, n)
        raw.requires_grad_()
        z, log_prob = draw(raw, k)
        (grad,) = torch.autograd.grad(z[..., 0].sum() + log_prob.sum(), raw)
        assert grad.isfinite().all()
        check_draws(z.detach(), log_prob.detach(), VonMisesFisher, raw.detach(), k)


@pytest.mark.usefixtures("_compiler_reset")
def test_compile_a_graph_with_several_tables() -> None:
    def draws(a: Tensor, b: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return (
            law(VonMisesFisher, a, k).rsample(),
            law(PowerSpherical, a, k).rsample(),
            law(VonMisesFisher, b, k).rsample(),
        )

    (a, k), (b, _) = parameters(8), parameters(16)
    for z in torch.compile(draws, fullgraph=True, backend="aot_eager")(a, b, k):
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(5))


_QUANTITIES = {
    "mass_cone": lambda q: q.mass_cone(0.5),
    "cosine.entropy": lambda q: q.cosine.entropy(),
    "cosine.rsample": lambda q: q.cosine.rsample((3,)),
    "cosine.cdf": lambda q: q.cosine.cdf(torch.full((5,), 0.3)),
    "cosine.log_prob": lambda q: q.cosine.log_prob(torch.full((5,), 0.3)),
}


def check_compiled(name: str, kind: _Law, dim: int, dynamic: bool | None) -> None:
    def quantity(raw: Tensor, k: Tensor) -> Tensor:
        return _QUANTITIES[name](law(kind, raw, k))

    compiled = torch.compile(quantity, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    results = []
    for function in (quantity, compiled):
        raw, k = parameters(dim)
        k.requires_grad_()
        torch.manual_seed(2)
        value = function(raw, k)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), k)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_compiler_reset")
@pytest.mark.parametrize("name", ["cosine.rsample", "cosine.cdf", "cosine.log_prob"])
def test_compile_what_belongs_to_the_cosine(name: str) -> None:
    check_compiled(name, VonMisesFisher, 8, dynamic=True)


@pytest.mark.slow  # graphs of some 2500 nodes
@pytest.mark.usefixtures("_compiler_reset")
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("dim", [2, 3, 8])
@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("name", _QUANTITIES)
def test_compile_all_that_belongs_to_the_cosine(
    name: str, kind: _Law, dim: int, dynamic: bool | None
) -> None:
    check_compiled(name, kind, dim, dynamic)


@pytest.mark.usefixtures("_compiler_reset")
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compile_several_quantities_with_dynamic_sizes(every: bool) -> None:
    def several(raw: Tensor, k: Tensor) -> Tensor:
        q, p = law(VonMisesFisher, raw, k), law(PowerSpherical, raw, k)
        rows = [q.rsample(), p.rsample(), q.variance]
        if every:
            updated, evidence = q.conjugate_update(law(VonMisesFisher, raw.flip(0), k))
            rows += [q.rsample(), p.variance, updated.mean, evidence.unsqueeze(-1)]
        return sum(x.square().sum(-1) for x in rows)

    compiled = torch.compile(several, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 7):
        results = []
        for function in (several, compiled):
            raw, k = (x.requires_grad_() for x in parameters(8, n))
            torch.manual_seed(3)
            value = function(raw, k)
            results.append((value.detach(), *torch.autograd.grad(value.sum(), (raw, k))))
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_compiler_reset")
def test_compile_a_mapped_draw() -> None:
    def loss(raw: Tensor, k: Tensor) -> Tensor:
        return law(VonMisesFisher, raw, k).rsample()

    raw, k = parameters(8)
    mapped = torch.func.vmap(loss, randomness="different")
    z = torch.compile(mapped, fullgraph=True, backend="aot_eager")(raw, k)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(5))
    assert z.unique(dim=0).shape == z.shape


_AFTER_COMPILATION = """
import torch
from vmfdist import VonMisesFisher

def refused(**options):
    try:
        VonMisesFisher(torch.eye(3)[0], -1.0, **options)
    except ValueError:
        return True
    return False

before = refused()
torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
print(before, refused(), refused(validate_args=True), end=" ")
torch.distributions.Distribution.set_default_validate_args(True)
print(refused())
"""


def test_compilation_switches_the_validation_of_all_laws_off() -> None:
    # torch does, at the first compilation of a process; the page on devices warns of it.
    command = [sys.executable, "-W", "ignore", "-c", _AFTER_COMPILATION]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "False", "True", "True"]


if __name__ == "__main__":
    dims = [dim for _, dims in MODES.values() for dim in dims] + [51]
    values = {(kind.__name__, dim): everything(kind, dim) for kind in LAWS for dim in dims}
    torch.save(values, sys.argv[1])
