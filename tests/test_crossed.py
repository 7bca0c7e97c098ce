# Many values under many laws: the same as one by one, with no array of all pairs of vectors.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, kl_divergence
from torch.nn.functional import normalize

from cases import directions
from reference import radial
from vmfdist import PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist._numerics import chords

VALUES, LAWS, DIM = 30, 20, 5


@pytest.fixture(autouse=True)
def crossed_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chords, "_FEWEST_NUMBERS", 1)


def natural(loc: Tensor, k: Tensor) -> VonMisesFisher:
    return VonMisesFisher.from_natural(k.unsqueeze(-1) * loc)


def cauchy(loc: Tensor, k: Tensor) -> SphericalCauchy:
    return SphericalCauchy(loc, k / (1 + k))


kinds = pytest.mark.parametrize("kind", [VonMisesFisher, PowerSpherical, natural, cauchy])
_Kind = Callable[[Tensor, Tensor], Any]


def parameters(dtype: torch.dtype, laws: int = LAWS, seed: int = 3) -> tuple[Tensor, Tensor]:
    loc = directions(laws, DIM, dtype=dtype, seed=seed).requires_grad_()
    k = torch.logspace(-2, 2, laws, dtype=dtype).requires_grad_()
    return loc, k


def all_pairs(x: Tensor, rows: int, columns: int, row: bool) -> Tensor:
    """As many copies in memory as there are pairs."""
    x = x.unsqueeze(1 if row else 0)
    return x.expand(rows, columns, *x.shape[2:]).clone()


@kinds
def test_log_densities_and_gradients(kind: _Kind, dtype: torch.dtype) -> None:
    x = directions(VALUES, DIM, dtype=dtype).requires_grad_()
    loc, k = parameters(dtype)
    found = kind(loc, k).log_prob(x.unsqueeze(-2))
    each = kind(all_pairs(loc, VALUES, LAWS, False), all_pairs(k, VALUES, LAWS, False))
    expected = each.log_prob(all_pairs(x, VALUES, LAWS, True))
    close = (
        {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    )
    torch.testing.assert_close(found, expected, **close)
    upstream = directions(VALUES, LAWS, dtype=dtype)
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, loc, k), upstream),
        torch.autograd.grad(expected, (x, loc, k), upstream),
        rtol=close["rtol"],
        atol=100 * close["atol"],
    )


@kinds
def test_derivatives(kind: _Kind) -> None:
    x, loc = directions(4, 3).requires_grad_(), directions(5, 3, seed=3).requires_grad_()
    k = torch.tensor([0.1, 0.5, 1.0, 5.0, 20.0], dtype=torch.float64, requires_grad=True)

    def log_density(x: Tensor, loc: Tensor, k: Tensor) -> Tensor:
        return kind(normalize(loc, dim=-1), k).log_prob(normalize(x, dim=-1).unsqueeze(-2))

    assert torch.autograd.gradcheck(log_density, (x, loc, k), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(log_density, (x, loc, k))


@pytest.mark.parametrize("dim", [2, 3, 64])
@pytest.mark.parametrize("k", [1.0, 1e4, 1e8, 1e12])
def test_digits_next_to_the_mean_direction(dim: int, k: float, dtype: torch.dtype) -> None:
    loc = directions(LAWS, dim)
    step = directions(LAWS, dim, seed=2) / (k + dim) ** 0.5
    x = normalize(torch.cat([loc, loc + step]), dim=-1).to(dtype)
    loc, k = loc.to(dtype), torch.tensor(k, dtype=dtype).item()
    found = VonMisesFisher(loc, k).log_prob(x.unsqueeze(-2))
    eps = torch.finfo(dtype).eps
    with mp.workdps(50):
        top = radial(dim, k).log_density_at_mode(k)
        for i in range(0, len(x), 3):
            j = i % LAWS
            pairs = zip(x[i].tolist(), loc[j].tolist(), strict=True)
            loss = k * sum((mp.mpf(a) - mp.mpf(b)) ** 2 for a, b in pairs) / 2
            error = abs(mp.mpf(found[i, j].item()) - (top - loss))
            assert error <= 16 * eps * max(abs(top), loss, 1)


def test_point_masses_and_antipodes(dtype: torch.dtype) -> None:
    loc = directions(6, DIM, dtype=dtype)
    x = torch.cat([loc, -loc]).unsqueeze(-2)
    point = VonMisesFisher(loc, float("inf")).log_prob(x)
    expected = torch.full((12, 6), -float("inf"), dtype=dtype)
    expected[:6].fill_diagonal_(float("inf"))
    assert torch.equal(point, expected)
    opposite = PowerSpherical(loc, 2.0).log_prob(x)[6:].diagonal()
    assert torch.equal(opposite, torch.full((6,), -float("inf"), dtype=dtype))


@pytest.mark.parametrize("law", [VonMisesFisher, PowerSpherical])
def test_mixtures_of_torch_and_expanded_laws(law: Any) -> None:
    x, (loc, k) = directions(VALUES, DIM), parameters(torch.float64)
    weights = torch.randn(LAWS, dtype=torch.float64)
    mixture = MixtureSameFamily(Categorical(logits=weights), law(loc, k))
    log_density = law(loc, k).log_prob(x.unsqueeze(-2))
    expected = (log_density + weights.log_softmax(-1)).logsumexp(-1)
    torch.testing.assert_close(mixture.log_prob(x), expected)
    expanded = law(loc, k).expand((VALUES, LAWS)).log_prob(x.unsqueeze(-2).expand(-1, LAWS, -1))
    assert torch.equal(expanded, log_density)
    enumerated = law(loc.unsqueeze(-2), k.unsqueeze(-1)).log_prob(x)
    torch.testing.assert_close(enumerated, log_density.mT)


def largest_array(function: Callable[[], Any]) -> int:
    """Bytes of the largest tensor that is allocated."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    return int(max(event.self_cpu_memory_usage for event in profile.events()))


def test_no_array_of_all_pairs_of_vectors(dtype: torch.dtype) -> None:
    n, laws, dim = 200, 150, 100
    x = directions(n, dim, dtype=dtype).requires_grad_()
    other = VonMisesFisher(directions(n, 1, dim, dtype=dtype), 3.0)
    tensors = [directions(laws, dim, seed=3), torch.rand(laws, dtype=torch.float64) * 100]
    loc, k = (x.to(dtype).requires_grad_() for x in tensors)

    def backward(result: Tensor) -> None:
        result.sum().backward()

    jobs: list[Callable[[], None]] = [
        lambda kind=kind: backward(kind(loc, k).log_prob(x.unsqueeze(-2)))
        for kind in (VonMisesFisher, PowerSpherical, natural, cauchy)
    ]
    jobs += [
        lambda kind=kind: backward(kl_divergence(other, kind(loc, k)))
        for kind in (VonMisesFisher, natural)
    ]
    weights = torch.rand(laws, n, dtype=dtype)
    jobs.append(lambda: backward(VonMisesFisher.fit(x, weights, validate_args=False).concentration))
    for job in jobs:
        job()  # tables of the dimension
        assert largest_array(job) <= 8 * 4 * n * laws


# Tracing


def test_exported_with_a_dynamic_number_of_values() -> None:
    loc, k = (x.detach() for x in parameters(torch.float64))

    class Densities(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return VonMisesFisher(loc, k, validate_args=False).log_prob(x.unsqueeze(-2))

    # Were the number of values compared with that of laws, it would be no longer dynamic.
    sizes = ({0: torch.export.Dim("values")},)
    example = (directions(3, DIM),)
    exported = torch.export.export(Densities(), example, dynamic_shapes=sizes, strict=False)
    module = exported.module()
    for count in (2, LAWS, 50):
        x = directions(count, DIM)
        torch.testing.assert_close(module(x), Densities()(x))


def test_compiled_with_dynamic_sizes() -> None:
    def log_density(x: Tensor, loc: Tensor, k: Tensor) -> Tensor:
        law = MixtureSameFamily(
            Categorical(logits=torch.zeros_like(k), validate_args=False),
            VonMisesFisher(loc, k, validate_args=False),
            validate_args=False,
        )
        return law.log_prob(x)

    torch._dynamo.reset()
    compiled = torch.compile(log_density, backend="aot_eager", fullgraph=True, dynamic=True)
    for count, laws in ((5, 7), (9, 6)):
        x = directions(count, DIM).requires_grad_()
        given = x, *parameters(torch.float64, laws)
        found, expected = compiled(*given), log_density(*given)
        torch.testing.assert_close(found, expected)
        found, expected = (torch.autograd.grad(y.sum(), given) for y in (found, expected))
        torch.testing.assert_close(found, expected)


# Divergences


@pytest.mark.parametrize("first", [VonMisesFisher, PowerSpherical, natural])
@pytest.mark.parametrize("second", [VonMisesFisher, natural])
def test_divergences(first: _Kind, second: _Kind) -> None:
    given = (*parameters(torch.float64, VALUES, seed=1), *parameters(torch.float64))
    loc1, k1, loc2, k2 = given
    found = kl_divergence(first(loc1.unsqueeze(1), k1.unsqueeze(1)), second(loc2, k2))
    p = first(*(all_pairs(x, VALUES, LAWS, True) for x in (loc1, k1)))
    q = second(*(all_pairs(x, VALUES, LAWS, False) for x in (loc2, k2)))
    expected = kl_divergence(p, q)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    upstream = directions(VALUES, LAWS)
    torch.testing.assert_close(
        torch.autograd.grad(found, given, upstream),
        torch.autograd.grad(expected, given, upstream),
        rtol=1e-12,
        atol=1e-11,
    )


# Fits


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("weights_shape", [(7, 40), (3, 2, 40), (6, 1, 40)])
def test_fits_with_many_weightings(
    weights_shape: tuple[int, ...], spread: float, dtype: torch.dtype
) -> None:
    front = (5,) if weights_shape[-2] == 1 else ()
    noise = directions(*front, 40, DIM, seed=4)
    samples = normalize(torch.eye(DIM)[0] + spread * noise, dim=-1).to(dtype)
    weights = torch.rand(weights_shape, dtype=dtype) ** 8
    found = VonMisesFisher.fit(samples, weights)
    shape = torch.broadcast_shapes(samples.shape[:-1], weights.shape)
    assert found.batch_shape == shape[:-1]
    flat = weights.expand(shape).reshape(-1, 40)
    rows = samples.expand(*shape, DIM).reshape(-1, 40, DIM)
    each = [VonMisesFisher.fit(x, w) for x, w in zip(rows, flat, strict=True)]
    eps = torch.finfo(dtype).eps
    loc, k = (
        torch.stack([getattr(law, name) for law in each]) for name in ("loc", "concentration")
    )
    torch.testing.assert_close(found.loc.reshape(-1, DIM), loc, rtol=0, atol=4 * eps)
    torch.testing.assert_close(found.concentration.flatten(), k, rtol=64 * eps, atol=0)


def test_derivatives_of_fits() -> None:
    raw, weights = directions(6, 4).requires_grad_(), (torch.rand(5, 6, dtype=torch.float64) + 0.1)

    def fit(raw: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        law = VonMisesFisher.fit(normalize(raw + 0.5, dim=-1), weights, validate_args=False)
        return law.loc, law.concentration

    weights.requires_grad_()
    assert torch.autograd.gradcheck(fit, (raw, weights))
    assert torch.autograd.gradgradcheck(fit, (raw, weights))


@pytest.mark.parametrize("first", [VonMisesFisher, natural])
def test_normalizers_of_products(first: _Kind) -> None:
    (loc1, k1), (loc2, k2) = parameters(torch.float64), parameters(torch.float64, VALUES, seed=4)
    crossed = first(loc1.unsqueeze(-2), k1.unsqueeze(-1))
    _, found = crossed.conjugate_update(VonMisesFisher(loc2, k2))
    p = first(*(all_pairs(x, LAWS, VALUES, True) for x in (loc1, k1)))
    q = VonMisesFisher(*(all_pairs(x, LAWS, VALUES, False) for x in (loc2, k2)))
    _, expected = p.conjugate_update(q)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.linspace(1, 2, LAWS * VALUES, dtype=torch.float64).view(LAWS, VALUES)
    results = (
        torch.autograd.grad((weight * x).sum(), (loc1, k1, loc2, k2)) for x in (found, expected)
    )
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_equal_samples_are_a_point_mass_under_every_weighting(dtype: torch.dtype) -> None:
    x = directions(DIM, dtype=dtype)
    law = VonMisesFisher.fit(x.repeat(30, 1), torch.rand(8, 30, dtype=dtype))
    assert (law.concentration == float("inf")).all()
    torch.testing.assert_close(law.loc, x.expand(8, DIM))
