# Draws are on the sphere whatever the noise, in either way to split it.

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pyro.distributions import constraints
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cases import directions
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist._families.power_spherical import POWER_SPHERICAL
from vmfdist._families.spherical_cauchy import SPHERICAL_CAUCHY
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._sampling import draw as draw_module
from vmfdist._sampling.draw import draw, draw_uniform
from vmfdist._sampling.noise_to_cosine import Transport

TRANSPORTS = [VON_MISES_FISHER.of_noise, POWER_SPHERICAL.of_noise, SPHERICAL_CAUCHY.of_noise]
DIMS = [2, 3, 7, 8, 17, 100]


class _Unseen(TorchDispatchMode):
    """A mode in which nothing may be looked at, as on a device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        assert "local_scalar" not in func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))


@contextmanager
def _seen() -> Iterator[None]:
    yield


@pytest.fixture(params=[_seen, _Unseen], ids=["seen", "unseen"])
def sight(request: pytest.FixtureRequest) -> Any:
    return request.param


def check(noise: Tensor, loc: Tensor, k: float, transport: Transport, sight: Any = _seen) -> Tensor:
    """The draws, after a look at whether they and their gradients are what they must be."""
    loc = loc.clone().requires_grad_()
    concentration = torch.full((len(noise),), k, dtype=loc.dtype, requires_grad=True)
    with sight():
        x = draw(noise.clone(), loc, concentration, transport)
        grads = torch.autograd.grad(x.sin().sum(), (loc, concentration))
    assert constraints.sphere.check(x).all()
    for grad in grads:
        assert grad.isfinite().all()
    return x.detach()


@pytest.mark.parametrize("law", [VonMisesFisher, PowerSpherical, SphericalCauchy])
@pytest.mark.parametrize("dim", DIMS)
def test_the_same_seed_twice(dim: int, law: Any, dtype: torch.dtype, sight: Any) -> None:
    torch.manual_seed(0)
    loc = HypersphericalUniform(dim, dtype=dtype).sample((50,)).requires_grad_()
    k = torch.linspace(0, 1 if law is SphericalCauchy else 200, 50, dtype=dtype).requires_grad_()
    with sight():
        torch.manual_seed(0)
        x = law(loc, k, validate_args=False).rsample()
        grads = torch.autograd.grad(x.sin().sum(), (loc, k))
    assert constraints.sphere.check(x).all()
    for grad in grads:
        assert grad.isfinite().all()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dim", DIMS)
def test_any_noise(dim: int, transport: Transport, dtype: torch.dtype, sight: Any) -> None:
    loc, other = directions(dim), directions(dim, seed=3)
    axis = torch.eye(1, dim, dtype=torch.float64)[0]
    tiny = torch.finfo(dtype).tiny
    for mean in (loc, axis, axis.flip(0)):
        noise = torch.stack(
            [
                *(scale * mean for scale in (-7.0, -1.0, 1e-3, 1.0, 30.0, tiny, 1e4 * tiny)),
                *(3.0 * mean + offset * other for offset in 10.0 ** torch.arange(-20, 2)),
                *(other * scale for scale in (0.0, tiny**0.5, tiny**0.5 * 1e-3, tiny, 1.0, 1e4)),
                *mean.expand(2, dim),  # equal in all rows
            ]
        ).to(dtype)
        for k in (0.0, 1e6):
            check(noise, mean.to(dtype), k, transport, sight)
            check(noise, mean.to(dtype).repeat(len(noise), 1), k, transport, sight)


@pytest.mark.parametrize("dim", [3, 8, 17, 64])
def test_the_cosine_is_that_of_the_length_of_parallel_noise(dim: int, sight: Any) -> None:
    zeta = torch.tensor([-3.0, -0.2, 0.0, 0.7, 5.0], dtype=torch.float64)
    loc, k = directions(dim), torch.tensor(6.0, dtype=torch.float64)
    x = check(zeta.unsqueeze(-1) * loc, loc, 6.0, VON_MISES_FISHER.of_noise, sight)
    expected = 1 - VON_MISES_FISHER.to_cosine(zeta, k, dim).one_minus_cosine
    torch.testing.assert_close(x @ loc, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dim", [3, 7, 8, 17, 64])
def test_what_is_left_of_all_but_parallel_noise_gives_the_direction(dim: int, sight: Any) -> None:
    # The tangent part keeps the digits that the noise has of it, down to where it has none.
    loc, other = directions(dim), directions(dim, seed=3)
    tangent = torch.nn.functional.normalize(other - (other @ loc) * loc, dim=-1)
    offsets = 10.0 ** torch.arange(-14.0, 1, dtype=torch.float64)
    noise = 2 * loc + offsets.unsqueeze(-1) * tangent
    x = check(noise, loc, 5.0, VON_MISES_FISHER.of_noise, sight)
    found = torch.nn.functional.normalize(x - (x @ loc).unsqueeze(-1) * loc, dim=-1)
    error = (found - tangent).norm(dim=-1)
    assert (error <= 40 * torch.finfo(torch.float64).eps / offsets).all()


@pytest.mark.parametrize("dim", DIMS)
def test_both_ways_to_split_the_noise_agree(dim: int, dtype: torch.dtype) -> None:
    noise = torch.randn(200, dim, dtype=dtype, generator=torch.Generator().manual_seed(1))
    loc = directions(dim, dtype=dtype)
    seen = check(noise, loc, 5.0, VON_MISES_FISHER.of_noise)
    unseen = check(noise, loc, 5.0, VON_MISES_FISHER.of_noise, _Unseen)
    bound = 200 * torch.finfo(dtype).eps
    torch.testing.assert_close(unseen, seen, rtol=bound, atol=bound)


def test_one_row_of_parallel_noise_leaves_the_others_alone() -> None:
    for dim in (3, 8, 40):
        noise = torch.randn(30, dim, dtype=torch.float64)
        loc = directions(30, dim)
        expected = check(noise, loc, 5.0, VON_MISES_FISHER.of_noise)
        noise[7] = 2 * loc[7]
        found = check(noise, loc, 5.0, VON_MISES_FISHER.of_noise)
        others = torch.arange(30) != 7
        assert torch.equal(found[others], expected[others])


def test_most_normal_noise_is_split_in_the_cheap_way() -> None:
    # The part beside loc over that along it, squared, is 7 times an F(7, 1) variable in d = 8.
    assert draw_module._EXPLICIT_DIM == 7
    assert 1e-4 < stats.f.cdf(draw_module._LEAST_IMPLICIT / 7, 7, 1) < 2e-4


@pytest.mark.parametrize("dim", [8, 17])
def test_the_cheap_way_has_digits_to_spare(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    n, least = 50_000, draw_module._LEAST_IMPLICIT
    generator = torch.Generator().manual_seed(0)
    loc, other, zeta = (
        torch.randn(n, columns, dtype=torch.float64, generator=generator)
        for columns in (dim, dim, 1)
    )
    loc = torch.nn.functional.normalize(loc, dim=-1)
    tangent = torch.nn.functional.normalize(other - (other * loc).sum(-1, True) * loc, dim=-1)
    for share, enough in ((least, True), (least / 6, False)):
        monkeypatch.setattr(draw_module, "_LEAST_IMPLICIT", share)
        noise = (zeta * (loc + math.sqrt(1.01 * share) * tangent)).float()
        x = draw(noise, loc.float(), torch.zeros(n), VON_MISES_FISHER.of_noise)
        assert constraints.sphere.check(x).all() == enough


@pytest.mark.parametrize("dim", [2, 3, 50])
def test_any_noise_has_a_direction(dim: int, dtype: torch.dtype, sight: Any) -> None:
    tiny = torch.finfo(dtype).tiny
    scales = torch.tensor([0.0, tiny, tiny**0.5, tiny**0.5 * 1e-3, 1e-3, 1.0, 1e4], dtype=dtype)
    noise = scales.unsqueeze(-1) * directions(dim, dtype=dtype)
    with sight():
        x = draw_uniform(noise.clone())
    assert constraints.sphere.check(x).all()
    assert torch.equal(x[0], torch.eye(1, dim, dtype=dtype)[0])
    torch.testing.assert_close(x[5], directions(dim, dtype=dtype))


def test_a_gradient_in_the_concentration_alone_is_not_that_of_both() -> None:
    # and costs no array of the size of the draws
    loc, k = directions(20_000, 64, dtype=torch.float32), torch.full((20_000,), 9.0)
    sizes, given = [], set()

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in given:
                sizes.append(result.numel())
            return result

    grads = []
    for of_loc in (True, False):
        torch.manual_seed(3)
        mean, concentration = loc.clone().requires_grad_(of_loc), k.clone().requires_grad_()
        x = VonMisesFisher(mean, concentration, validate_args=False).rsample()
        upstream = x.detach().sin()
        inputs = (mean, concentration) if of_loc else (concentration,)
        sizes.clear()
        given.update(y.untyped_storage().data_ptr() for y in (x, upstream, mean, concentration))
        with Sizes():
            grads.append(torch.autograd.grad(x, inputs, upstream)[-1])
        assert (max(sizes) == x.numel()) == of_loc
    assert torch.equal(*grads)


# --------------------------------------------------------------------------------------------------
# Batches of gradients
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3, 20, 200])
@pytest.mark.parametrize(
    ("transport", "k"),
    [
        *((transport, k) for transport in TRANSPORTS[:2] for k in (1.0, 1e4, 1e8)),
        *((TRANSPORTS[2], k) for k in (1.0, 4.0, 9.0)),
    ],
)
def test_a_gradient_along_loc_keeps_its_digits(
    transport: Transport, k: float, dim: int, dtype: torch.dtype
) -> None:
    # It is that of the cosine, (1 - w^2) q, of which 1 - w^2 is far below eps here.
    torch.manual_seed(0)
    noise, loc = torch.randn(500, dim, dtype=dtype), directions(dim, dtype=dtype)
    zeta = noise @ loc
    across = (noise - zeta.unsqueeze(-1) * loc).norm(dim=-1)
    concentration = torch.full((500,), k, dtype=dtype, requires_grad=True)
    t, rate = transport(zeta, across, concentration.detach(), dim)
    x = draw(noise, loc, concentration, transport)
    (grad,) = torch.autograd.grad(x, concentration, 2 * loc.expand_as(x))
    expected = 2 * rate * t * (2 - t)
    tolerance = 100 * torch.finfo(dtype).eps
    assert (grad - expected).abs().max() < tolerance * expected.max()
    assert (grad.mean() / expected.mean() - 1).abs() < tolerance


@pytest.mark.parametrize("law", [VonMisesFisher, PowerSpherical])
@pytest.mark.parametrize("dim", [2, 3, 8, 20])
def test_a_jacobian_in_one_pass(dim: int, law: Any) -> None:
    raw, k = directions(4, dim) * 1.3, torch.linspace(0, 30, 4, dtype=torch.float64)

    def function(raw: Tensor, k: Tensor) -> Tensor:
        torch.manual_seed(0)
        return law(torch.nn.functional.normalize(raw, dim=-1), k).rsample()

    looped = torch.autograd.functional.jacobian(function, (raw, k))
    vectorised = torch.autograd.functional.jacobian(function, (raw, k), vectorize=True)
    for found, expected in zip(vectorised, looped, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("n", "shared"), [(4, False), (4, True), (40_000, False), (40_000, True)])
def test_batched_gradients(n: int, shared: bool) -> None:
    loc = (directions(3) if shared else directions(n, 3)).requires_grad_()
    k = torch.full((n,), 4.0, dtype=torch.float64, requires_grad=True)
    x = VonMisesFisher(loc, k, validate_args=False).rsample()
    upstream = directions(3, n, 3, seed=2)
    batched = torch.autograd.grad(x, (loc, k), upstream, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        single = torch.autograd.grad(x, (loc, k), upstream[i], retain_graph=True)
        for found, expected in zip(batched, single, strict=True):
            torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-12)


# --------------------------------------------------------------------------------------------------
# Forward mode
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["law", "cosine"])
def test_a_sample_has_no_tangent(of: str) -> None:
    def sample(k: Tensor) -> Tensor:
        law = VonMisesFisher(directions(5), k, validate_args=False)
        return (law if of == "law" else law.cosine).sample()

    k = torch.tensor(3.0, dtype=torch.float64)
    x, tangent = torch.func.jvp(sample, (k,), (torch.ones_like(k),))
    assert (tangent == 0).all()
    assert x.isfinite().all()


@pytest.mark.parametrize("dim", [2, 3, 8])
@pytest.mark.parametrize("law", [VonMisesFisher, PowerSpherical])
def test_a_cosine_has_the_tangent_of_its_gradient(dim: int, law: Any) -> None:
    def cosine(k: Tensor) -> Tensor:
        torch.manual_seed(0)
        return law(directions(dim), k, validate_args=False).cosine.rsample()

    k = torch.tensor(3.0, dtype=torch.float64)
    _, tangent = torch.func.jvp(cosine, (k,), (torch.ones_like(k),))
    torch.testing.assert_close(tangent, torch.func.grad(cosine)(k))
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.func.jvp(torch.func.grad(cosine), (k,), (torch.ones_like(k),))
