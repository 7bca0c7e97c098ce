# Under torch.func, torch.compile, autocast, and as what a training loop copies and sends.

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

import vmfdist
from cases import assert_mean, directions
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher

UNIFORM = HypersphericalUniform(4, dtype=torch.float64)
OTHER = VonMisesFisher(directions(4, seed=2), 3.0, validate_args=False)
VALUE = directions(4, seed=3)


def spherical_cauchy(loc: Tensor, k: Tensor, validate_args: bool | None = None) -> SphericalCauchy:
    return SphericalCauchy(loc, 0.9 * k / (1 + k), validate_args)


LAWS = [VonMisesFisher, PowerSpherical, spherical_cauchy]
_Law = Callable[..., Any]
of_each_law = pytest.mark.parametrize("kind", LAWS)


def law(raw: Tensor, k: Tensor, kind: _Law = VonMisesFisher) -> Any:
    return kind(normalize(raw, dim=-1), k, validate_args=False)


FUNCTIONS = [
    pytest.param(lambda raw, k: law(raw, k).log_prob(VALUE), id="log_prob"),
    pytest.param(lambda raw, k: law(raw, k).entropy() + 0 * raw.sum(), id="entropy"),
    pytest.param(
        lambda raw, k: kl_divergence(law(raw, k), UNIFORM) + 0 * raw.sum(), id="kl-uniform"
    ),
    pytest.param(
        lambda raw, k: kl_divergence(UNIFORM, law(raw, k)) + 0 * raw.sum(), id="uniform-kl"
    ),
    pytest.param(lambda raw, k: kl_divergence(law(raw, k), OTHER), id="kl-vmf"),
    pytest.param(lambda raw, k: kl_divergence(OTHER, law(raw, k)), id="vmf-kl"),
    pytest.param(lambda raw, k: law(raw, k, PowerSpherical).log_prob(VALUE), id="ps-log_prob"),
    pytest.param(
        lambda raw, k: law(raw, k, PowerSpherical).entropy() + 0 * raw.sum(), id="ps-entropy"
    ),
    pytest.param(
        lambda raw, k: kl_divergence(UNIFORM, law(raw, k, PowerSpherical)) + 0 * raw.sum(),
        id="uniform-kl-ps",
    ),
    pytest.param(lambda raw, k: kl_divergence(law(raw, k, PowerSpherical), OTHER), id="ps-kl-vmf"),
]
_Function = Callable[[Tensor, Tensor], Tensor]


def arguments() -> tuple[Tensor, Tensor]:
    return directions(5, 4) * 1.3, torch.tensor([0.0, 0.5, 3.0, 50.0, 1e4], dtype=torch.float64)


def by_autograd(function: _Function) -> tuple[Tensor, Tensor]:
    raw, k = (x.requires_grad_() for x in arguments())
    total = torch.stack([function(raw[j], k[j]) for j in range(5)]).sum()
    return torch.autograd.grad(total, (raw, k))


# torch.func


@pytest.mark.parametrize("function", FUNCTIONS)
def test_grad_and_vmap_of_grad(function: _Function) -> None:
    raw, k = arguments()
    expected = by_autograd(function)
    gradient = torch.func.grad(function, argnums=(0, 1))
    for found, want in zip(gradient(raw[2], k[2]), expected, strict=True):
        torch.testing.assert_close(found, want[2], rtol=1e-13, atol=1e-13)
    for found, want in zip(torch.func.vmap(gradient)(raw, k), expected, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-13, atol=1e-13)
    # one of the two mapped
    mapped = torch.func.vmap(gradient, in_dims=(None, 0))(raw[2], k)
    torch.testing.assert_close(mapped[1][2], expected[1][2], rtol=1e-13, atol=1e-13)
    mapped = torch.func.vmap(gradient, in_dims=(0, None))(raw, k[2])
    torch.testing.assert_close(mapped[0][2], expected[0][2], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_vmap_of_the_value(function: _Function) -> None:
    raw, k = arguments()
    expected = torch.stack([function(raw[j], k[j]) for j in range(5)])
    torch.testing.assert_close(torch.func.vmap(function)(raw, k), expected)
    nested = torch.func.vmap(torch.func.vmap(function, (None, 0)), (0, None))(raw, k)
    torch.testing.assert_close(nested.diagonal(), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_forward_mode(function: _Function) -> None:
    raw, k = arguments()
    expected = by_autograd(function)
    tangents = directions(5, 4, seed=5), torch.linspace(-1, 1, 5, dtype=torch.float64)
    for j in range(5):
        at, direction = (raw[j], k[j]), (tangents[0][j], tangents[1][j])
        value, found = torch.func.jvp(function, at, direction)
        want = expected[0][j] @ direction[0] + expected[1][j] * direction[1]
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(value, function(*at))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_jacobians_and_hessians(function: _Function) -> None:
    raw, k = (x[2] for x in arguments())
    expected = torch.autograd.functional.hessian(function, (raw, k))
    for hessian in (
        torch.func.jacrev(torch.func.jacrev(function, argnums=(0, 1)), argnums=(0, 1)),
        torch.func.jacfwd(torch.func.jacrev(function, argnums=(0, 1)), argnums=(0, 1)),
    ):
        found = hessian(raw, k)
        for i in range(2):
            for j in range(2):
                torch.testing.assert_close(found[i][j], expected[i][j], rtol=1e-11, atol=1e-11)


@of_each_law
def test_per_sample_gradients_through_draws(kind: _Law) -> None:
    raw, k = arguments()

    def loss(raw: Tensor, k: Tensor) -> Tensor:
        return law(raw, k, kind).rsample()[..., 0].square().sum()

    grads = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), randomness="different")(raw, k)
    assert grads[0].shape == raw.shape
    assert grads[1].shape == k.shape
    for grad in grads:
        assert grad.isfinite().all()
        assert (grad != 0).all(0).any()


@pytest.mark.parametrize("sample_shape", [(), (2,)])
@pytest.mark.parametrize(
    "in_dims",
    [
        pytest.param((0, 0), id="both"),
        pytest.param((None, 0), id="concentration"),
        pytest.param((0, None), id="loc"),
        pytest.param((1, 0), id="loc-by-its-last-axis"),
    ],
)
@pytest.mark.parametrize("dim", [2, 4, 30])
def test_vmap_of_draws(
    dim: int, in_dims: tuple[int | None, int | None], sample_shape: tuple[int, ...]
) -> None:
    loc = directions(6, dim)
    k = torch.linspace(0, 30, 6, dtype=torch.float64)

    def draw(loc: Tensor, k: Tensor) -> Tensor:
        return VonMisesFisher(loc, k, validate_args=False).rsample(sample_shape)

    mapped = (
        loc.T.contiguous() if in_dims[0] == 1 else loc[0] if in_dims[0] is None else loc,
        k[3] if in_dims[1] is None else k,
    )
    draws = torch.func.vmap(draw, in_dims=in_dims, randomness="different")(*mapped)
    assert draws.shape == (6, *sample_shape, dim)
    torch.testing.assert_close(draws.norm(dim=-1), torch.ones(6, *sample_shape).double())
    rows = draws.reshape(-1, dim)
    assert rows.unique(dim=0).shape == rows.shape
    same = torch.func.vmap(draw, in_dims=in_dims, randomness="same")(*mapped)
    assert same.shape == draws.shape
    with pytest.raises(RuntimeError, match="random"):
        torch.func.vmap(draw, in_dims=in_dims)(*mapped)


@of_each_law
def test_vmapped_draws_have_their_own_law(kind: _Law) -> None:
    k = torch.tensor([0.0, 3.0, 100.0], dtype=torch.float64)
    loc = directions(3, 4)

    def draw(loc: Tensor, k: Tensor) -> Tensor:
        return kind(loc, k, validate_args=False).rsample((2000,))

    draws = torch.func.vmap(draw, randomness="different")(loc, k)
    assert_mean(draws.transpose(0, 1), kind(loc, k).mean)


@of_each_law
def test_vmapped_gradients_of_draws_are_those_of_a_loop(kind: _Law) -> None:
    # randomness="same" gives every row the noise of the unmapped call
    raw, k = arguments()

    def loss(raw: Tensor, k: Tensor) -> Tensor:
        return law(raw, k, kind).rsample((3,))[..., 0].square().sum()

    gradient = torch.func.grad(loss, argnums=(0, 1))
    torch.manual_seed(4)
    found = torch.func.vmap(gradient, randomness="same")(raw, k)
    for j in range(5):
        torch.manual_seed(4)
        for one, all_ in zip(gradient(raw[j], k[j]), found, strict=True):
            torch.testing.assert_close(all_[j], one, rtol=1e-9, atol=1e-12)


# torch.compile


def step(raw: Tensor, k: Tensor, prior: Tensor, kind: _Law = VonMisesFisher) -> tuple[Tensor, ...]:
    """What a variational autoencoder does with a batch; the draw and its density last."""
    q = law(raw, k, kind)
    uniform = HypersphericalUniform(raw.shape[-1], dtype=raw.dtype, validate_args=False)
    z = q.rsample()
    return (
        q.entropy(),
        kl_divergence(q, uniform),
        uniform.log_prob(z),
        q.log_prob(prior),
        z,
        q.log_prob(z),
    )


def longer_step(
    raw: Tensor, k: Tensor, prior: Tensor, kind: _Law = VonMisesFisher
) -> tuple[Tensor, ...]:
    """And everything else that is differentiable."""
    q = law(raw, k, kind)
    p = VonMisesFisher(prior, 2.0, validate_args=False)
    uniform = HypersphericalUniform(raw.shape[-1], dtype=raw.dtype, validate_args=False)
    return (
        kl_divergence(q, p),
        *([kl_divergence(p, q)] if kind is VonMisesFisher else []),
        kl_divergence(uniform, q),
        q.mean,
        q.variance,
        *step(raw, k, prior, kind),
    )


_Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def check_compiled(function: _Step, dim: int, dtype: torch.dtype, backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    prior = directions(dim, dtype=dtype, seed=4)

    def run(function: _Step) -> tuple[list[Tensor], Tensor, list[Tensor], list[Tensor]]:
        """Closed forms, draws, and the gradients of either."""
        raw = (directions(5, dim, dtype=dtype) * 1.3).requires_grad_()
        k = torch.tensor([0.0, 0.5, 3.0, 50.0, 1e4], dtype=dtype, requires_grad=True)
        *closed, z, log_prob = function(raw, k, prior)
        total = sum(x.sum() for x in closed)
        closed_grads = torch.autograd.grad(total, (raw, k), retain_graph=True)
        drawn_grads = torch.autograd.grad(z[..., 0].sum() + log_prob.sum(), (raw, k))
        return closed, z.detach(), list(closed_grads), list(drawn_grads)

    torch.manual_seed(6)
    eager = run(function)
    torch.manual_seed(6)
    found = run(compiled)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for one, other in zip(found[0] + found[2], eager[0] + eager[2], strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[1].norm(dim=-1), torch.ones(5, dtype=dtype))
    for grad in found[3]:
        assert grad.isfinite().all()
    if backend != "inductor":  # its random numbers are its own
        torch.testing.assert_close(found[1], eager[1], rtol=10 * tolerance, atol=tolerance)
        for one, other in zip(found[3], eager[3], strict=True):
            torch.testing.assert_close(one, other, rtol=100 * tolerance, atol=tolerance)
    # the draw is part of the compiled step, not a constant of it
    assert not torch.equal(run(compiled)[1], found[1])


@of_each_law
def test_compile(kind: _Law) -> None:
    check_compiled(partial(step, kind=kind), 20, torch.float32, "aot_eager")


@of_each_law
def test_compile_moments(kind: _Law) -> None:
    def moments(raw: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        q = law(raw, k, kind)
        lengths = q.mean_resultant_length, q.one_minus_mean_resultant_length
        return (*lengths, *q.covariance_eigenvalues, q.covariance_matrix, q.stddev, q.mode)

    torch._dynamo.reset()
    compiled = torch.compile(moments, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*arguments()), moments(*arguments()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="its partitioner takes more than ten minutes"
)
@pytest.mark.parametrize("dim", [2, 7])
def test_compile_a_draw_in_float64(dim: int) -> None:
    # Dynamo trips over constants that are float64 tensors of one number: there must be none.
    def draw(raw: Tensor, k: Tensor, prior: Tensor) -> tuple[Tensor, ...]:
        z = law(raw, k).rsample()
        return (z - prior).norm(dim=-1), z, z[..., 1]

    check_compiled(draw, dim, torch.float64, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 3, 20])
@of_each_law
def test_compile_everything(kind: _Law, dim: int, dtype: torch.dtype) -> None:
    check_compiled(partial(longer_step, kind=kind), dim, dtype, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("dim", [3, 20])
@of_each_law
def test_compile_by_inductor(kind: _Law, dim: int) -> None:
    check_compiled(partial(step, kind=kind), dim, torch.float32, "inductor")


# Autocast

of_each_half = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])


@of_each_half
@of_each_law
def test_autocast_leaves_the_law_in_float32(kind: _Law, half: torch.dtype) -> None:
    raw = directions(6, 40, dtype=torch.float32).requires_grad_()
    weight = torch.eye(40, requires_grad=True)
    with torch.autocast("cpu", dtype=half):
        hidden = raw @ weight
        assert hidden.dtype == half
        loc = normalize(hidden.float(), dim=-1)
        assert loc.dtype == torch.float32
        q = kind(loc, torch.full((6,), 30.0))
        z = q.rsample((100,))
        assert z.dtype == torch.float32
        assert q.support.check(z).all()
        log_prob = q.log_prob(z)
        divergence = kl_divergence(q, HypersphericalUniform(40))
        for value in (log_prob, divergence, q.entropy(), q.mean, q.variance):
            assert value.dtype == torch.float32
    (log_prob.sum() + z.sum() + divergence.sum()).backward()
    assert raw.grad.isfinite().all()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("dim", [2, 3, 40])
@of_each_half
@of_each_law
def test_autocast_changes_no_digit(kind: _Law, dim: int, half: torch.dtype) -> None:
    loc = directions(4, dim, dtype=torch.float32)

    def values() -> list[Tensor]:
        torch.manual_seed(8)
        mu, k = loc.clone().requires_grad_(), torch.full((4,), 9.0, requires_grad=True)
        q = kind(mu, k)
        z = q.rsample()
        p = VonMisesFisher(loc.flip(0), 2.0)
        total = [q.log_prob(loc[0]), q.entropy(), kl_divergence(q, p), q.mean, q.variance]
        loss = z[..., 0].sum() + sum(x.sum() for x in total)
        grads = torch.autograd.grad(loss, (mu, k))
        return [z.detach(), *(x.detach() for x in total), *grads]

    plain = values()
    with torch.autocast("cpu", dtype=half):
        cast = values()
    for found, expected in zip(cast, plain, strict=True):
        assert torch.equal(found, expected)


@of_each_half
@of_each_law
def test_backward_under_autocast(kind: _Law, half: torch.dtype) -> None:
    loc = directions(4, 20, dtype=torch.float32).requires_grad_()
    k = torch.full((4,), 9.0, requires_grad=True)
    z = kind(loc, k).rsample()
    plain = torch.autograd.grad(z[..., 0].sum(), (loc, k), retain_graph=True)
    with torch.autocast("cpu", dtype=half):
        cast = torch.autograd.grad(z[..., 0].sum(), (loc, k))
    for found, expected in zip(cast, plain, strict=True):
        assert torch.equal(found, expected)


# Where the constants of a dimension are made first


@pytest.mark.parametrize(
    ("dim", "context"),
    [
        pytest.param(201, torch.device("meta"), id="default-device"),
        pytest.param(202, torch.inference_mode(), id="inference-mode"),
        pytest.param(203, torch.no_grad(), id="no-grad"),
        pytest.param(204, torch.autocast("cpu"), id="autocast"),
    ],
)
def test_constants_do_not_depend_on_where_they_are_made(dim: int, context: Any) -> None:
    loc, k = directions(6, dim, dtype=torch.float32), torch.linspace(0, 300, 6)

    def step() -> list[Tensor]:
        torch.manual_seed(0)
        q = VonMisesFisher(loc, k, validate_args=False)
        return [q.rsample(), q.entropy(), q.log_prob(loc)]

    with context:
        first = step()
    loc.requires_grad_()
    k.requires_grad_()
    second = step()
    for found, expected in zip(first, second, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for grad in torch.autograd.grad(sum(x.sum() for x in second), (loc, k)):
        assert grad.isfinite().all()


# Copies of what carries a gradient or holds a law


def test_a_module_that_holds_a_law_is_copied() -> None:
    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prior = HypersphericalUniform(3)
            self.anchor = VonMisesFisher(directions(3, dtype=torch.float32), 5.0)

    head = Head()
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head.anchor))):
        anchor = getattr(twin, "anchor", twin)
        assert torch.equal(anchor.loc, head.anchor.loc)
        assert anchor.loc.data_ptr() != head.anchor.loc.data_ptr()


def test_deepcopy_keeps_parameters_as_leaves() -> None:
    k = torch.tensor(2.0, requires_grad=True)
    loc = directions(3, dtype=torch.float32).requires_grad_()
    # What the law holds are views of the parameters, which torch copies only where they are leaves.
    q = VonMisesFisher(loc.detach(), k.detach())
    twin = copy.deepcopy(q)
    assert not twin.loc.requires_grad
    assert twin.entropy() == q.entropy()


WORKER = """
import pickle, sys, torch
laws = pickle.load(sys.stdin.buffer)
torch.manual_seed(2)
pickle.dump([law.sample((3,)) for law in laws], sys.stdout.buffer)
"""


def test_laws_sent_to_another_process_draw_there_as_here() -> None:
    laws = [
        VonMisesFisher(directions(8, dtype=torch.float32), 4.0),
        PowerSpherical(directions(2, 5), torch.tensor([0.5, 40.0])),
        HypersphericalUniform(3),
    ]
    torch.manual_seed(2)
    here = [law.sample((3,)) for law in laws]
    there = subprocess.run(
        [sys.executable, "-c", WORKER],
        input=pickle.dumps(laws),
        env=os.environ | {"PYTHONPATH": str(Path(vmfdist.__file__).parents[1])},
        capture_output=True,
        timeout=300,
        check=True,
    ).stdout
    for one, other in zip(pickle.loads(there), here, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dim", [3, 21])  # with tables of the draw and without
def test_laws_serve_several_threads_at_once(dim: int) -> None:
    # Each asks first of all for the constants of its dimension, at the same time as the others.
    start = Barrier(4)
    values = directions(50, dim, dtype=torch.float32, seed=5)

    def work(concentration: float) -> tuple[Tensor, Tensor, Tensor]:
        k = torch.tensor(concentration, requires_grad=True)
        q = VonMisesFisher(directions(dim, dtype=torch.float32), k)
        start.wait(60)
        draws = q.rsample((2000,))
        log_prob = q.log_prob(values)
        (grad,) = torch.autograd.grad((draws @ q.loc).mean() + log_prob.mean(), k)
        return draws.detach(), log_prob.detach(), grad

    concentrations = [0.5, 3.0, 20.0, 100.0]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, concentrations))
    for k, (draws, log_prob, grad) in zip(concentrations, found, strict=True):
        q = VonMisesFisher(directions(dim), k)
        assert_mean(draws.double(), q.mean)
        exact = q.log_prob(directions(50, dim, seed=5)).float()
        torch.testing.assert_close(log_prob, exact, atol=1e-4, rtol=1e-5)
        assert grad.isfinite()


def test_gradients_in_every_generator_free_mode() -> None:
    q = VonMisesFisher(directions(3).requires_grad_(), 4.0)
    with torch.no_grad():
        assert not q.rsample().requires_grad
    with torch.inference_mode():
        assert q.rsample((2,)).shape == (2, 3)
        assert q.log_prob(directions(3)).isfinite()
