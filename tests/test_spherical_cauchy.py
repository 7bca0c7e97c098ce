# What is special to the spherical Cauchy law; the rest is in test_contract.py, its closed forms in
# test_spherical_cauchy_closed_forms.py.

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import kl_divergence

from cases import FAILURE_RATE, assert_mean, directions, standard_errors_off
from reference import (
    cosine_reference,
    log_sphere_area,
    radial,
    signed_score,
    spherical_cauchy_cosine_reference,
)
from vmfdist import HypersphericalUniform, SphericalCauchy, VonMisesFisher
from vmfdist._families.spherical_cauchy import SPHERICAL_CAUCHY
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._numerics import moebius
from vmfdist.cosine import SphericalCauchyCosine


def double(x: float | list[float]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def moved(u: Tensor, centre: Tensor) -> Tensor:
    """The image of unit vectors under the Moebius map of Kato and McCullagh (2020), equation 2."""
    shifted = u + centre
    gap = 1 - centre.square().sum(-1, keepdim=True)
    return gap * shifted / shifted.square().sum(-1, keepdim=True) + centre


# The density


@pytest.mark.parametrize("rho", [0.0, 1e-9, 0.4, 0.9, 0.9999, 1 - 2.0**-22])
def test_density(rho: float, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    loc = torch.tensor([0.0, 0.0, 1.0], dtype=dtype)
    angle = torch.tensor([0.0, 1e-9, 1e-6, 1e-3, 1.0, 3.0, math.pi], dtype=torch.float64)
    x = torch.stack((angle.sin(), torch.zeros_like(angle), angle.cos()), -1).to(dtype)
    law = SphericalCauchy(loc, rho)
    for value, row in zip(law.log_prob(x).tolist(), x.double().tolist(), strict=True):
        with mp.workdps(40):
            a, b, c = map(mp.mpf, row)
            t = (a**2 + b**2 + (c - 1) ** 2) / 2  # of the rounded vector
            r = mp.mpf(law.concentration.item())
            truth = 2 * mp.log((1 - r**2) / ((1 - r) ** 2 + 2 * r * t)) - log_sphere_area(3)
            scale = max(abs(truth), 2 * 2 * mp.atanh(r), log_sphere_area(3))
            assert abs(value - truth) < 8 * eps * scale


def test_wrapped_cauchy_law_of_the_circle() -> None:
    loc, angle = double([1.0, 0.0]), torch.linspace(-3, 3, 7, dtype=torch.float64)
    law = SphericalCauchy(loc, 0.7)
    x = torch.stack((angle.cos(), angle.sin()), -1)
    expected = stats.wrapcauchy(0.7).logpdf(angle.numpy() % (2 * math.pi))
    torch.testing.assert_close(law.log_prob(x), torch.from_numpy(expected))
    assert law.mean_resultant_length.item() == pytest.approx(0.7)
    assert law.entropy().item() == pytest.approx(math.log(2 * math.pi * (1 - 0.49)))


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_log_normalizer(dim: int) -> None:
    loc, x = directions(dim), directions(5, dim, seed=2)
    law = SphericalCauchy(loc, 0.6)
    unnormalised = (1 - dim) * torch.log(1 + 0.36 - 1.2 * (x @ loc))
    torch.testing.assert_close(law.log_prob(x), unnormalised - law.log_normalizer)


# The cosine: that of a uniform direction, moved


@pytest.mark.parametrize("dim", [2, 3, 10, 300])
def test_probabilities_and_quantiles(dim: int) -> None:
    with mp.workdps(25):
        uniform = cosine_reference(dim, 0.0)
    for rho in (0.0, 0.3, 0.95, 1 - 1e-10):
        concentration = double(rho).requires_grad_()
        law = SphericalCauchyCosine(concentration, dim)
        for step in (-6.0, -1.0, 0.4, 5.0):
            with mp.workdps(25):
                k = 2 * mp.atanh(mp.mpf(rho))
                u = step * uniform.width - k
                t = float(uniform.t(u))
                u = mp.log(mp.mpf(t) / (2 - mp.mpf(t))) / 2
                above, below, _ = uniform.probabilities(u + k)
                density = uniform.density(u + k) / uniform.total
                slope = density * 2 / (1 - mp.mpf(rho) ** 2)
            at = double(t)
            for function, truth, sign in ((law.sf, above, 1), (law.cdf, below, -1)):
                found = function(one_minus_value=at)
                assert abs(found.item() / truth - 1) < 1e-10
                (gradient,) = torch.autograd.grad(found, concentration)
                assert abs(gradient.item() / (sign * slope) - 1) < 1e-10
            log_density = law.log_prob(one_minus_value=at).item()
            with mp.workdps(25):
                expected = mp.log(density) - mp.log(mp.mpf(t) * (2 - mp.mpf(t)))
            assert log_density == pytest.approx(float(expected), rel=1e-12, abs=1e-12)
            p = double(float(above))
            if 1e-12 < above < 0.99:
                quantile = law.one_minus_isf(p)
                assert quantile.item() == pytest.approx(t, rel=1e-9)
                (gradient,) = torch.autograd.grad(quantile, concentration)
                rate = -mp.mpf(t) * (2 - mp.mpf(t)) * 2 / (1 - mp.mpf(rho) ** 2)
                assert gradient.item() == pytest.approx(float(rate), rel=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_entropy_of_the_cosine(dim: int) -> None:
    law = SphericalCauchyCosine(double([0.0, 0.3, 0.99]), dim)
    assert_mean(-law.log_prob(draws := law.sample((4000,))), law.entropy())
    assert_mean(draws, law.mean)
    assert_mean((draws - law.mean).square(), law.variance)
    with mp.workdps(20):
        flat = float(cosine_reference(dim, 0.0).entropy())
    assert law.entropy()[0].item() == pytest.approx(flat, rel=1e-10, abs=1e-10)


# Draws


@pytest.mark.parametrize("dim", [2, 3, 5, 30])
def test_draws_are_moved_uniform_directions(dim: int, dtype: torch.dtype) -> None:
    noise = torch.randn(500, dim, dtype=dtype, generator=torch.Generator().manual_seed(0))
    loc = directions(dim, dtype=dtype)
    for rho in (0.0, 0.3, 0.95):
        x = SphericalCauchy(loc, rho)._draw(noise.clone())
        # The component along loc has the other sign there.
        u = noise - 2 * (noise @ loc).unsqueeze(-1) * loc
        expected = moved(torch.nn.functional.normalize(u, dim=-1), rho * loc)
        bound = 300 * torch.finfo(dtype).eps
        torch.testing.assert_close(x, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("dim", [2, 3, 12])
def test_law_of_draws(dim: int, rho: float, dtype: torch.dtype) -> None:
    loc = directions(dim, dtype=dtype)
    x = SphericalCauchy(loc, rho).sample((10_000,))
    t = (x - loc).double().square().sum(-1) / 2
    known = SphericalCauchyCosine(double(rho), dim)
    p = stats.kstest(known.sf(one_minus_value=t.clamp(max=2)).numpy(), "uniform").pvalue
    assert p > FAILURE_RATE
    wrong = SphericalCauchyCosine(double(rho + 0.1 * (1 - rho)), dim)
    assert stats.kstest(wrong.sf(one_minus_value=t.clamp(max=2)).numpy(), "uniform").pvalue < 1e-4


@pytest.mark.parametrize("dim", [3, 64, 4096])
def test_normal_scores_of_cosines(dim: int, dtype: torch.dtype) -> None:
    zeta = torch.tensor([-7.99, -0.5, 3.0], dtype=dtype)
    eps, limit = torch.finfo(dtype).eps, 1e-10 if dtype == torch.float64 else 1e-5
    for k in (0.7, 12.0):
        strength = torch.tensor(k, dtype=dtype)
        draw = SPHERICAL_CAUCHY.to_cosine(zeta, strength, dim)
        with mp.workdps(22):
            reference = spherical_cauchy_cosine_reference(dim, strength.item())
            rows = zip(zeta.tolist(), *(x.tolist() for x in draw), strict=True)
            for score, t, rate in rows:
                error, rate_error = reference.errors(score, t, rate, eps)
                assert error < limit
                assert rate_error < 1e-12


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_tails_of_float32_draws(dim: int) -> None:
    # At a high concentration what lies beyond a right angle comes of noise next to the antipode.
    law = SphericalCauchyCosine(torch.tensor(1 - 2.0**-12), dim)
    zeta = torch.linspace(-7.99 if dim > 2 else 0.01, 7.99, 60)
    for dtype, tolerance in ((torch.float32, 2e-4), (torch.float64, 1e-9)):
        k = law._strength.to(dtype)
        t, rate = SPHERICAL_CAUCHY.to_cosine(zeta.to(dtype), k, dim)
        with mp.workdps(25):
            uniform = cosine_reference(dim, 0.0)
            for z, one in zip(zeta.tolist(), t.tolist(), strict=True):
                if 2 - one > 1e-3:
                    u = mp.log(mp.mpf(one) / (2 - mp.mpf(one))) / 2 + mp.mpf(k.item())
                    score, _ = uniform.score_and_rate(u)
                    score = score if dim > 2 else signed_score(score)
                    assert abs(score - z) < tolerance
        assert (rate == 1).all()


@pytest.mark.parametrize("dim", [2, 3, 6, 40])
def test_gradient_of_expectations_through_draws(dim: int) -> None:
    loc = directions(dim).requires_grad_()
    rho = double(0.4).requires_grad_()
    a = directions(dim, seed=3) + 2 * loc.detach()
    expected = torch.autograd.grad(SphericalCauchy(loc, rho).mean @ a, (loc, rho))
    n = 4000
    rows, rhos = (x.detach().expand(n, *x.shape).clone().requires_grad_() for x in (loc, rho))
    draws = SphericalCauchy(rows, rhos).rsample()
    by_loc, by_rho = torch.autograd.grad((draws @ a).sum(), (rows, rhos))
    assert_mean(by_rho, expected[1])
    assert_mean(by_loc, (expected[0] - (expected[0] @ loc) * loc).detach())
    assert standard_errors_off(by_rho, expected[1] * 1.2) > 5  # a fifth more is seen


# The ends, and transforms


@pytest.mark.parametrize("dim", [2, 3, 16, 1000])
def test_nothing_is_nan_at_the_ends(dim: int, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    numbers = [0.0, info.tiny / 8, info.tiny, 0.5, 1 - info.eps, 1 - info.eps / 2, 1.0]
    rho = torch.tensor(numbers, dtype=dtype, requires_grad=True)
    axes = torch.eye(dim, dtype=dtype)
    loc = axes[0].clone().requires_grad_()
    law, uniform = SphericalCauchy(loc, rho), HypersphericalUniform(dim, dtype=dtype)
    results = [law.entropy(), law.log_normalizer, law.mean, law.variance, law.stddev]
    results += [kl_divergence(law, uniform), kl_divergence(uniform, law), law.rsample((3,))]
    results += [*law.covariance_eigenvalues, law.covariance_matrix, law.cosine.entropy()]
    results.append(law.mass_cone(torch.tensor([0.0, 0.5, 1.0]).unsqueeze(-1)))
    for value in (axes[0], -axes[0], axes[1], directions(dim, dtype=dtype)):
        point = value.expand(len(rho), dim).clone().requires_grad_()
        results.append(law.log_prob(point))
        (gradient,) = torch.autograd.grad(results[-1].sum(), point, retain_graph=True)
        assert gradient.isfinite().all()
    for result in results:
        assert not result.isnan().any()
        gradients = torch.autograd.grad(
            result.sum(), (loc, rho), retain_graph=True, allow_unused=True
        )
        assert not any(g.isnan().any() for g in gradients if g is not None)


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_the_point_mass(dim: int, dtype: torch.dtype) -> None:
    axes = torch.eye(dim, dtype=dtype)
    law = SphericalCauchy(axes[0], 1.0)
    assert torch.equal(law.mean, axes[0])
    assert (law.variance == 0).all()
    assert law.entropy() == -math.inf
    assert law.mass_cone(0.5) == 0
    assert law.log_prob(axes[0]) == math.inf
    assert law.log_prob(axes[1]) == -math.inf
    assert torch.equal(law.sample((3,)), axes[0].expand(3, dim))
    cosine = law.cosine
    for name in ("cdf", "sf", "log_prob"):
        assert not getattr(cosine, name)(torch.tensor([-1.0, 0.0, 1.0])).isnan().any()
    assert cosine.cdf(torch.tensor([0.0, 0.999])).tolist() == [0.0, 0.0]
    assert cosine.log_prob(torch.tensor([0.0, 1.0])).tolist() == [-math.inf, math.inf]
    assert cosine.icdf(torch.tensor([1e-3, 0.5])).tolist() == [1.0, 1.0]


def test_concentrations_outside_the_unit_interval() -> None:
    loc = directions(3)
    for wrong in (-0.1, 1.5, math.nan, math.inf):
        for build in (
            lambda k: SphericalCauchy(loc, k),
            lambda k: SphericalCauchyCosine(k, 3),
        ):
            with pytest.raises(ValueError, match="nonnegative and at most 1, got"):
                build(wrong)


def test_transforms_of_torch() -> None:
    loc, rho, x = directions(5, 4), double([0.0, 0.2, 0.5, 0.9, 0.99]), directions(4, seed=3)
    uniform = HypersphericalUniform(4, dtype=torch.float64)

    def of(loc: Tensor, rho: Tensor) -> Tensor:
        law = SphericalCauchy(loc, rho, validate_args=False)
        return law.log_prob(x) + kl_divergence(law, uniform) + law.variance.sum(-1)

    gradients = torch.func.vmap(torch.func.grad(of, argnums=(0, 1)))(loc, rho)
    leaves = loc.requires_grad_(), rho.requires_grad_()
    value = of(*leaves)
    expected = torch.autograd.grad(value.sum(), leaves)
    for found, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, want)
    _, tangent = torch.func.jvp(of, leaves, (torch.zeros_like(loc), torch.ones_like(rho)))
    torch.testing.assert_close(tangent, expected[1])
    inner = rho.detach() * 0.9 + 0.05
    assert torch.autograd.gradcheck(
        lambda rho: SphericalCauchy(loc.detach(), rho).log_prob(x), inner.requires_grad_()
    )


@pytest.mark.slow
def test_compile() -> None:
    loc, rho, x = directions(5, 4), double([0.0, 0.2, 0.5, 0.9, 0.999]), directions(4, seed=3)
    uniform = HypersphericalUniform(4, dtype=torch.float64)

    def of(loc: Tensor, rho: Tensor) -> Tensor:
        law = SphericalCauchy(loc, rho, validate_args=False)
        draws = law.rsample((3,)).sum((0, -1))
        return law.log_prob(x) + draws + kl_divergence(law, uniform) + law.variance.sum(-1)

    torch.manual_seed(0)
    expected = of(loc, rho.requires_grad_())
    gradient = torch.autograd.grad(expected[:4].sum(), rho)[0]
    torch.manual_seed(0)
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")(loc, rho)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(torch.autograd.grad(compiled[:4].sum(), rho)[0], gradient)


def test_uniform_draws_are_the_von_mises_fisher_familys() -> None:
    zeta = torch.linspace(-6, 6, 41, dtype=torch.float64)
    ours = SPHERICAL_CAUCHY.to_cosine(zeta, double(0.0), 7).one_minus_cosine
    theirs = VON_MISES_FISHER.to_cosine(zeta, double(0.0), 7).one_minus_cosine
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("dim", [2, 3, 12])
def test_divergences_are_means_of_log_ratios(dim: int, rho: float) -> None:
    law = SphericalCauchy(directions(dim), rho)
    uniform = HypersphericalUniform(dim, dtype=torch.float64)
    x, y = law.sample((4000,)), directions(4000, dim, seed=5)
    flat = uniform.entropy().item()
    assert_mean(law.log_prob(x) + flat, kl_divergence(law, uniform))
    assert_mean(-flat - law.log_prob(y), kl_divergence(uniform, law))


@pytest.mark.parametrize("k", [0.0, 1e-3, 2.0, 30.0, 1e5])
@pytest.mark.parametrize("rho", [0.0, 1e-4, 0.5, 0.98])
@pytest.mark.parametrize("dim", [2, 3, 40])
def test_divergence_to_von_mises_fisher(dim: int, rho: float, k: float) -> None:
    # By quadrature over the cosine with the first direction, across which x is even.
    law, other = SphericalCauchy(directions(dim), rho), VonMisesFisher(directions(dim, seed=2), k)
    with mp.workdps(40):
        at, d = 2 * mp.atanh(mp.mpf(rho)), mp.mpf(dim)
        end = mp.acosh(mp.exp(60 / (d - 1))) + at
        step = min(mp.mpf("0.1"), 1 / mp.sqrt(40 * d))
        nodes = [j * step for j in range(-int(end / step), int(end / step) + 1)]
        weights = [mp.sech(u) ** (d - 1) for u in nodes]
        total = mp.fsum(weights)
        cosines = [mp.tanh(at - u) for u in nodes]
        mean = mp.fsum(a * b for a, b in zip(weights, cosines, strict=True)) / total
        ratios = [mp.log(mp.cosh(at) + mp.tanh(u) * mp.sinh(at)) for u in nodes]
        divergence = (d - 1) * mp.fsum(a * b for a, b in zip(weights, ratios, strict=True)) / total
        partition, along = radial(dim, k).log_partition, float(law.loc @ other.loc)
        truth = divergence + partition - k * mean * along
        scale = max(1, abs(divergence), k * (1 - mean * along))
    assert abs(kl_divergence(law, other).item() - truth) < 1e-13 * scale
    assert kl_divergence(law, other).item() == pytest.approx(float(truth), rel=1e-8, abs=1e-10)


def test_divergences_to_von_mises_fisher_at_the_ends_and_their_gradients() -> None:
    loc = directions(4)
    point, law = SphericalCauchy(loc, 1.0), VonMisesFisher(loc, 3.0)
    assert kl_divergence(point, law) == math.inf
    assert kl_divergence(SphericalCauchy(loc, 0.3), VonMisesFisher(loc, math.inf)) == math.inf
    assert kl_divergence(point, VonMisesFisher(loc, math.inf)) == 0
    with pytest.raises(ValueError, match=r"dimension 4 \(SphericalCauchy\) and 3"):
        kl_divergence(point, VonMisesFisher(directions(3), 1.0))
    rho = double([0.2, 0.5, 0.9]).requires_grad_()
    k = double([0.5, 1.9, 30.0]).requires_grad_()
    other = directions(4, seed=2).requires_grad_()

    def between(rho: Tensor, k: Tensor, other: Tensor) -> Tensor:
        return kl_divergence(
            SphericalCauchy(loc, rho, validate_args=False),
            VonMisesFisher(other, k, validate_args=False),
        )

    assert torch.autograd.gradcheck(between, (rho, k, other))
    vector = (k.detach().unsqueeze(-1) * other.detach()).requires_grad_()
    natural = kl_divergence(SphericalCauchy(loc, rho), VonMisesFisher.from_natural(vector))
    plain = between(rho, k, other)
    torch.testing.assert_close(natural, plain)
    (by_vector,) = torch.autograd.grad(natural.sum(), vector)
    (by_k,) = torch.autograd.grad(plain.sum(), k)
    torch.testing.assert_close((by_vector * other).sum(-1), by_k)


# The Moebius group, and the fit


@pytest.mark.parametrize("dim", [2, 3, 9])
def test_images_are_laws_of_images(dim: int) -> None:
    law = SphericalCauchy(directions(dim), 0.6)
    centre = 0.7 * directions(dim, seed=4)
    image = law.moved(centre)
    x = directions(200, dim, seed=5)
    y = moved(x, centre)
    # The map is conformal: it stretches by (1 - |a|^2) / |x + a|^2 in all d - 1 directions.
    stretch = (1 - centre @ centre) / (x + centre).square().sum(-1)
    expected = law.log_prob(x) - (dim - 1) * torch.log(stretch)
    torch.testing.assert_close(image.log_prob(y), expected)
    torch.testing.assert_close(
        SphericalCauchy(directions(dim), 0.0).moved(centre).point, centre, rtol=1e-14, atol=1e-15
    )
    torch.testing.assert_close(image.moved(-centre).point, law.point)
    assert SphericalCauchy(directions(dim), 1.0).moved(centre).concentration.item() == (
        pytest.approx(1.0)
    )
    with pytest.raises(ValueError, match="point must lie within the unit ball"):
        law.moved(1.1 * directions(dim))


@pytest.mark.parametrize(("dim", "rho"), [(2, 0.3), (3, 0.9), (10, 0.6), (5, 0.999)])
def test_fit_is_where_the_gradient_is_zero(dim: int, rho: float) -> None:
    samples = SphericalCauchy(directions(dim), rho).sample((400,))
    weights = torch.rand(400, dtype=torch.float64)
    for w in (None, weights):
        law = SphericalCauchy.fit(samples, w)
        point = law.point.requires_grad_()
        gap = torch.log((1 - point @ point) / (samples - point).square().sum(-1))
        (gradient,) = torch.autograd.grad((gap * (1 if w is None else w)).sum(), point)
        assert gradient.norm() * (1 - law.concentration) < 1e-8
    # as far from the true one as statistics says: its information is d - 1 about the mean
    spread = 2 / (400 * (dim - 1) / dim * 2) ** 0.5
    assert abs(2 * math.atanh(law.concentration.item()) - 2 * math.atanh(rho)) < 6 * spread


def test_fit_in_batches_float32_and_its_limits() -> None:
    samples = SphericalCauchy(directions(3, 1, 4), double([[0.2], [0.9], [0.99]])).sample((50,))
    samples = samples.squeeze(-2).movedim(0, 1)
    laws = SphericalCauchy.fit(samples)
    assert laws.batch_shape == (3,)
    one = SphericalCauchy.fit(samples[1])
    torch.testing.assert_close(laws.point[1], one.point)
    single = SphericalCauchy.fit(samples.float())
    assert single.loc.dtype == torch.float32
    torch.testing.assert_close(single.point.double(), laws.point, rtol=1e-5, atol=1e-6)
    same = directions(4).expand(5, 4)
    assert SphericalCauchy.fit(same).concentration == 1
    assert SphericalCauchy.fit(torch.stack((directions(4), -directions(4)))).loc.isfinite().all()
    cross = torch.cat((torch.eye(4), -torch.eye(4)))
    assert SphericalCauchy.fit(cross).concentration < 1e-6
    moved_law = SphericalCauchy.fit(samples[0]).moved(0.5 * directions(4, seed=8))
    images = moved(samples[0], 0.5 * directions(4, seed=8))
    torch.testing.assert_close(SphericalCauchy.fit(images).point, moved_law.point)
    close = SphericalCauchy(directions(4), 1 - 1e-7).sample((100,))
    gap = 1 - SphericalCauchy.fit(close).concentration.item()
    assert 0.7e-7 < gap < 1.4e-7


@pytest.mark.parametrize("dim", [2, 5, 10, 16, 64, 300])
@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9, 0.999])
def test_fit_of_draws_is_at_least_as_likely_as_their_law(dim: int, rho: float) -> None:
    torch.manual_seed(0)
    law = SphericalCauchy(directions(dim), rho)
    x = law.sample((120,))
    fitted = SphericalCauchy.fit(x)
    assert fitted.log_prob(x).mean() > law.log_prob(x).mean()
    back = moebius.add(-fitted.point, x)
    assert back.mean(0).norm() < 1e-9 / (1 - rho) ** 2


def test_fit_of_another_law() -> None:
    torch.manual_seed(0)
    x = VonMisesFisher(directions(16), 30.0).sample((400,))
    fitted = SphericalCauchy.fit(x)
    rhos = torch.linspace(0.01, 0.99, 99, dtype=torch.float64).unsqueeze(-1)
    others = SphericalCauchy(fitted.loc, rhos).log_prob(x).mean(-1)
    assert fitted.log_prob(x).mean() >= others.max()


def test_fit_of_half_the_weight_on_one_vector() -> None:
    x = torch.eye(3, dtype=torch.float64)
    for weights in ([2.0, 1, 1], [3.0, 1, 1], [1.0, 0, 0]):
        law = SphericalCauchy.fit(x, torch.tensor(weights))
        assert law.concentration == 1
        assert torch.equal(law.loc, x[0])
    east, north = x[:2]
    law = SphericalCauchy.fit(x[:2])  # the point of their geodesic next to the centre
    torch.testing.assert_close(law.loc, (east + north) / 2**0.5)
    assert law.concentration.item() == pytest.approx(2**0.5 - 1)
    near = torch.nn.functional.normalize(torch.stack([east, east + 1e-3 * north]), dim=-1)
    law = SphericalCauchy.fit(near)
    assert law.concentration < 1
    torch.testing.assert_close(law.loc, torch.nn.functional.normalize(near.sum(0), dim=0))


def test_fit_keeps_the_digits_of_the_distance() -> None:
    torch.manual_seed(0)
    truth = SphericalCauchy.from_distance(directions(3, dtype=torch.float32), 12.0)
    cone = SphericalCauchy.fit(truth.sample((4000,))).mass_cone(0.5)
    assert abs(cone / truth.mass_cone(0.5) - 1) < 0.1


def test_fit_is_differentiable() -> None:
    samples = directions(12, 3).requires_grad_()
    weights = torch.rand(12, dtype=torch.float64).requires_grad_()

    def fitted(samples: Tensor, weights: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(samples, dim=-1)
        return SphericalCauchy.fit(unit, weights, validate_args=False).point

    assert torch.autograd.gradcheck(fitted, (samples, weights))


# The distance in place of the concentration


@pytest.mark.parametrize("dim", [2, 3, 9])
def test_laws_of_a_distance_are_those_of_the_concentration(dim: int) -> None:
    rho, loc, x = double([0.0, 1e-6, 0.3, 0.9]), directions(dim), directions(dim, seed=3)
    ours, theirs = SphericalCauchy.from_distance(loc, 2 * rho.atanh()), SphericalCauchy(loc, rho)
    for name in ("concentration", "mean", "variance", "log_normalizer", "point"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    for each in (ours, ours.expand((2, 4))):
        torch.testing.assert_close(
            each.log_prob(x)[..., 1], theirs.log_prob(x)[1].expand(each.batch_shape[:-1])
        )
        torch.testing.assert_close(
            each.cosine.expand(each.batch_shape).mean, theirs.cosine.mean.expand(each.batch_shape)
        )
    ours.concentration = 0.5
    torch.testing.assert_close(ours.entropy(), SphericalCauchy(loc, 0.5).entropy().expand(4))
    cosine = theirs.cosine
    cosine.concentration = 0.5
    torch.testing.assert_close(cosine.mean, SphericalCauchyCosine(double(0.5), dim).mean.expand(4))


def test_digits_where_the_concentration_has_none(dtype: torch.dtype) -> None:
    loc = directions(5, dtype=dtype)
    k = torch.tensor([30.0, 50.0, 80.0], dtype=dtype, requires_grad=True)
    law = SphericalCauchy.from_distance(loc, k)
    if dtype == torch.float32:
        assert (law.concentration == 1).all()
    # There the log density at loc is 4 k less the log area, tails are 4 k further down.
    flat = HypersphericalUniform(5, dtype=dtype).entropy()
    for value, sign in ((loc, 1), (-loc, -1)):
        log_density = law.log_prob(value)
        torch.testing.assert_close(log_density, 4 * sign * k - flat)
        (gradient,) = torch.autograd.grad(log_density.sum(), k)
        torch.testing.assert_close(gradient, torch.full_like(k, 4.0 * sign))
    # and tan(angle / 2) is exp(-k) times that of a uniform direction, which is 1 in the median
    torch.testing.assert_close(law.mass_cone(0.5), 2 * torch.exp(-k.detach()))
    (gradient,) = torch.autograd.grad(law.entropy().sum(), k)
    torch.testing.assert_close(gradient, torch.full_like(k, -4.0))
    far = SphericalCauchy.from_distance(loc, math.inf)
    assert far.concentration == 1
    assert far.entropy() == -math.inf
    with pytest.raises(ValueError, match="distance must be nonnegative, got the value -1"):
        SphericalCauchy.from_distance(loc, -1.0)
