# What every distribution must do; the table of distributions is in cases.py.

from __future__ import annotations

import copy
import io
import math
import pickle
from contextlib import nullcontext

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from cases import CASES, Case, assert_mean, cases_of_dim, directions
from vmfdist import HypersphericalUniform, PowerSpherical, VonMisesFisher

SAMPLE_SHAPES = [
    pytest.param((), id="one"),
    pytest.param((5,), id="five"),
    pytest.param((3, 2), id="three-by-two"),
    pytest.param((3, 0), id="none"),
]
every_case = pytest.mark.parametrize("case", CASES)
cases_with_parameters = pytest.mark.parametrize(
    "case", [param for param in CASES if param.values[0].law.arg_constraints]
)
cases_with_batch = pytest.mark.parametrize(
    "case", [param for param in CASES if param.values[0].batch_shape]
)


def parameters(law: Distribution) -> dict[str, Tensor]:
    return {name: getattr(law, name) for name in law.arg_constraints}


# Shapes, dtype, device


@every_case
def test_shapes_of_the_law(case: Case, dtype: torch.dtype) -> None:
    law = case.build(dtype)
    assert law.batch_shape == case.batch_shape
    assert isinstance(law.batch_shape, torch.Size)
    assert law.event_shape == (case.dim,)
    assert law.dim == case.dim
    assert law.event_dim == 1
    for name in ("mean", "variance", "stddev"):
        value = getattr(law, name)
        assert value.shape == (*case.batch_shape, case.dim), name
        assert value.dtype == dtype, name
    numbers = (law.entropy(), law.mean_resultant_length, *law.covariance_eigenvalues)
    for value in (*numbers, law.mass_cone(0.5)):
        assert value.shape == case.batch_shape
        assert value.dtype == dtype
    torch.testing.assert_close(law.stddev.square(), law.variance)
    matrix = law.covariance_matrix
    assert matrix.shape == (*case.batch_shape, case.dim, case.dim)
    assert matrix.dtype == dtype
    assert torch.equal(matrix.diagonal(dim1=-2, dim2=-1), law.variance)
    cosine = law.cosine
    assert (cosine.batch_shape, cosine.event_shape) == (case.batch_shape, ())
    assert cosine.mean.dtype == dtype


@every_case
@pytest.mark.parametrize("sample_shape", SAMPLE_SHAPES)
def test_shapes_of_draws(case: Case, dtype: torch.dtype, sample_shape: tuple[int, ...]) -> None:
    law = case.build(dtype)
    for draws in (
        law.sample(sample_shape),
        law.rsample(torch.Size(sample_shape)),
        law(sample_shape),  # as pyro.sample calls it
    ):
        assert draws.shape == (*sample_shape, *case.batch_shape, case.dim)
        assert draws.dtype == dtype
        log_prob = law.log_prob(draws)
        assert log_prob.shape == sample_shape + case.batch_shape
        assert log_prob.dtype == dtype
        assert log_prob.isfinite().all()
        assert law.support.check(draws).all()
    assert law.shape(sample_shape) == draws.shape


@every_case
def test_log_prob_broadcasts_its_value(case: Case) -> None:
    law = case.build()
    value = case.build().expand((2, 1, *case.batch_shape)).sample()
    together = law.log_prob(value)
    assert together.shape == (2, 1, *case.batch_shape)
    single = value[(0,) * (value.dim() - 1)]
    assert law.log_prob(single).shape == case.batch_shape
    # each entry is what it would be on its own
    spread = value.expand(2, 3, *case.batch_shape, case.dim)
    torch.testing.assert_close(
        law.log_prob(spread), together.expand(2, 3, *case.batch_shape), rtol=0, atol=0
    )


@cases_with_parameters
def test_batch_entries_are_laws_of_their_own(case: Case) -> None:
    law = case.build()
    value = law.sample()
    whole = law.log_prob(value)
    for index in np.ndindex(case.batch_shape):
        own = {name: p[index] for name, p in parameters(law).items()}
        alone = case.law(**own)
        assert alone.batch_shape == ()
        torch.testing.assert_close(alone.log_prob(value[index]), whole[index])
        torch.testing.assert_close(alone.mean, law.mean[index])
        torch.testing.assert_close(alone.entropy(), law.entropy()[index])


@every_case
def test_device_is_kept(case: Case) -> None:
    # The meta device holds no values: whatever waits for one raises.
    arguments = case.arguments(torch.float32)
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            arguments[name] = value.to("meta")
    if not case.law.arg_constraints:
        arguments["device"] = "meta"
    law = case.law(**arguments, validate_args=False)
    draws = law.rsample((2,))
    for value in (law.mean, law.variance, law.entropy(), draws, law.log_prob(draws)):
        assert value.device.type == "meta"


@cases_with_parameters
def test_infer_shapes(case: Case) -> None:
    shapes = {
        name: value.shape if isinstance(value, Tensor) else ()
        for name, value in case.arguments(torch.float64).items()
    }
    batch_shape, event_shape = case.law.infer_shapes(**shapes)
    law = case.build()
    assert (batch_shape, event_shape) == (law.batch_shape, law.event_shape)
    assert isinstance(batch_shape, torch.Size)
    assert isinstance(event_shape, torch.Size)


# Expansion and Pyro's wrappers


@every_case
def test_expand(case: Case, dtype: torch.dtype) -> None:
    law = case.build(dtype)
    larger = law.expand((5, *case.batch_shape))
    assert type(larger) is case.law
    assert larger.batch_shape == (5, *case.batch_shape)
    assert larger.event_shape == law.event_shape
    assert larger.sample((2,)).shape == (2, 5, *case.batch_shape, case.dim)
    assert larger.sample().dtype == dtype
    for name, value in parameters(law).items():
        expanded = getattr(larger, name)
        assert expanded.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
        assert torch.equal(expanded, value.expand_as(expanded))
    value = law.sample()
    torch.testing.assert_close(
        larger.log_prob(value),
        law.log_prob(value).expand(larger.batch_shape),
        rtol=0,
        atol=0,
    )
    torch.testing.assert_close(larger.entropy(), law.entropy().expand(larger.batch_shape))
    torch.testing.assert_close(larger.mean, law.mean.expand_as(larger.mean))
    torch.testing.assert_close(larger.variance, law.variance.expand_as(larger.variance))


@cases_with_batch
def test_expand_refuses_what_does_not_broadcast(case: Case) -> None:
    law, shape = case.build(), case.batch_shape
    for wrong in (
        (*shape[:-1], shape[-1] + 1),
        (*shape[:-1], 1),  # it broadcasts, but would lose laws
        (5, 1, *(1 for _ in shape)),
        shape[1:],
        (),
        (*shape[:-1], -1),
        (-1, *shape),
    ):
        for each in (law, law.cosine):
            with pytest.raises(RuntimeError, match=r"batch shape .* cannot be expanded to"):
                each.expand(wrong)


@pytest.mark.parametrize(
    "case", [param for param in cases_of_dim(2, 4) if param.values[0].law.arg_constraints]
)
def test_what_is_computed_of_an_expanded_law_is_computed_once(case: Case) -> None:
    law = case.build().expand((1000, *case.batch_shape))
    cosine = law.cosine
    results = [law.mean, law.variance, law.covariance_matrix, law.entropy(), law.mass_cone(0.5)]
    results += [law.mean_resultant_length, *law.covariance_eigenvalues]
    results.append(law.log_prob(directions(case.dim)))
    half = torch.tensor(0.5, dtype=torch.float64)
    results += [cosine.mean, cosine.variance, cosine.entropy(), cosine.log_prob(half)]
    results += [cosine.cdf(half), cosine.sf(half), cosine.icdf(half), cosine.one_minus_isf(half)]
    for result in results:
        assert result.shape[:1] == (1000,)
        assert result.stride(0) == 0


@every_case
@pytest.mark.parametrize("validate", [True, False])
def test_expand_keeps_whether_it_validates(case: Case, validate: bool) -> None:
    law = case.build(validate_args=validate).expand((2, *case.batch_shape))
    off_sphere = torch.full((case.dim,), 2.0, dtype=torch.float64)
    if validate:
        with pytest.raises(ValueError, match="unit"):
            law.log_prob(off_sphere)
    else:
        assert law.log_prob(off_sphere).shape == law.batch_shape


@every_case
def test_expand_of_a_subclass_keeps_its_class(case: Case) -> None:
    class Special(case.law):  # type: ignore[name-defined, misc]
        pass

    law = Special(**case.arguments(torch.float32))
    assert type(law.expand((2, *case.batch_shape))) is Special


@every_case
def test_pyro_wrappers(case: Case) -> None:
    law = case.build()
    by = law.expand_by((6,))
    assert type(by) is case.law
    assert by.batch_shape == (6, *case.batch_shape)
    joint = by.to_event()
    assert joint.batch_shape == ()
    assert joint.event_shape == (6, *case.batch_shape, case.dim)
    value = joint.sample()
    torch.testing.assert_close(joint.log_prob(value), by.log_prob(value).sum())
    partial = by.to_event(1)
    assert partial.event_dim == 2
    keep = torch.arange(6) % 2 == 0
    keep = keep.reshape(6, *(1,) * len(case.batch_shape)).expand(by.batch_shape)
    masked = by.mask(keep)
    expected = torch.where(keep, by.log_prob(value), 0.0)
    torch.testing.assert_close(masked.log_prob(value), expected, rtol=0, atol=0)
    assert (by.mask(False).log_prob(value) == 0).all()
    assert isinstance(law, dist.TorchDistribution)


# Copies


@every_case
@pytest.mark.parametrize("how", ["pickle", "deepcopy", "copy", "torch.save"])
def test_copies(case: Case, dtype: torch.dtype, how: str) -> None:
    law = case.build(dtype, validate_args=False)
    if how == "pickle":
        twin = pickle.loads(pickle.dumps(law))
    elif how == "deepcopy":
        twin = copy.deepcopy(law)
    elif how == "copy":
        twin = copy.copy(law)
    else:
        buffer = io.BytesIO()
        torch.save(law, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert type(twin) is case.law
    assert twin._validate_args is False
    assert (twin.batch_shape, twin.event_shape) == (law.batch_shape, law.event_shape)
    for name, value in parameters(law).items():
        assert torch.equal(getattr(twin, name), value)
        assert getattr(twin, name).dtype == dtype
    value = law.sample((2,))
    assert torch.equal(twin.log_prob(value), law.log_prob(value))
    torch.manual_seed(1)
    first = law.sample((2,))
    torch.manual_seed(1)
    assert torch.equal(twin.sample((2,)), first)
    assert first.dtype == dtype


@cases_with_parameters
def test_a_copy_holds_each_parameter_once(case: Case) -> None:
    law = case.build()
    numbers = sum(x.numel() for x in law._given)
    larger = law.expand((1000, *case.batch_shape))
    for each in (law, larger):
        assert len(pickle.dumps(each)) < 8 * numbers + 1500
    assert len(pickle.dumps(larger.cosine)) < 8 * numbers + 1500


# Parameters that are assigned


@cases_with_parameters
def test_all_follows_a_parameter_that_is_assigned(case: Case, dtype: torch.dtype) -> None:
    for name in case.law.arg_constraints:
        law = case.build(dtype)
        arguments = parameters(law)
        new = 0.3 + 0.7 * arguments[name] if name == "concentration" else -arguments[name]
        setattr(law, name, new)
        right = case.law(**{**arguments, name: new})
        assert torch.equal(getattr(law, name), new)
        value = right.sample()
        torch.manual_seed(1)
        draws = law.sample((3,))
        torch.manual_seed(1)
        torch.testing.assert_close(draws, right.sample((3,)), rtol=0, atol=0)
        for found, expected in (
            (law.log_prob(value), right.log_prob(value)),
            (law.entropy(), right.entropy()),
            (law.mean, right.mean),
            (law.covariance_matrix, right.covariance_matrix),
            (law.cosine.mean, right.cosine.mean),
            (law.expand((2, *case.batch_shape)).mean[0], right.mean),
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


@cases_with_parameters
def test_a_parameter_that_is_assigned_is_broadcast_and_checked(case: Case) -> None:
    law = case.build(validate_args=True)
    law.concentration = 1
    assert torch.equal(law.concentration, torch.full(case.batch_shape, 1.0).double())
    cosine = law.cosine
    cosine.concentration = 0.5
    assert torch.equal(cosine.concentration, torch.full(case.batch_shape, 0.5).double())
    law.loc = law.loc[(0,) * len(case.batch_shape)]
    assert law.loc.shape == (*case.batch_shape, case.dim)
    with pytest.raises(ValueError, match=r"loc .*unit"):
        law.loc = 2 * law.loc
    with pytest.raises(ValueError, match=rf"loc of shape \({case.dim + 1},\) does not fit"):
        law.loc = torch.eye(case.dim + 1)[0]
    with pytest.raises(TypeError, match="loc must be a tensor"):
        law.loc = [1.0, 0.0]
    wrong = torch.ones(2, *case.batch_shape)
    for each, validated in ((law, True), (cosine, False)):
        with pytest.raises(ValueError, match=r"concentration of shape .* does not fit"):
            each.concentration = wrong
        if validated:
            with pytest.raises(ValueError, match="concentration must be nonnegative"):
                each.concentration = -1.0
    assert (law.concentration == 1).all()
    law = case.build(validate_args=False)
    law.concentration = -1.0
    assert (law.concentration == -1).all()


@every_case
def test_repr(case: Case) -> None:
    text = repr(case.build())
    assert text.startswith(f"{case.law.__name__}(")
    assert str(case.dim) in text
    for name in case.law.arg_constraints:
        assert f"{name}: " in text


# Draws


@every_case
def test_seed_reproduces_draws(case: Case, dtype: torch.dtype) -> None:
    law = case.build(dtype)
    torch.manual_seed(3)
    first, second = law.rsample((4,)), law.rsample((4,))
    torch.manual_seed(3)
    assert torch.equal(law.sample((4,)), first)  # sample and rsample are the same law and stream
    assert torch.equal(law.sample((4,)), second)
    assert not torch.equal(first, second)
    # all draws and batch entries have noise of their own
    rows = law.sample((50,)).reshape(-1, case.dim)
    assert rows.unique(dim=0).shape == rows.shape


@every_case
def test_gradient_of_draws(case: Case, dtype: torch.dtype) -> None:
    arguments = {
        name: value.clone().requires_grad_() if isinstance(value, Tensor) else value
        for name, value in case.arguments(dtype).items()
    }
    law = case.law(**arguments)
    assert not law.sample((2,)).requires_grad
    draws = law.rsample((2,))
    assert law.has_rsample
    leaves = {name: a for name, a in arguments.items() if isinstance(a, Tensor)}
    assert draws.requires_grad is bool(leaves)
    for name, leaf in leaves.items():
        (grad,) = torch.autograd.grad(draws[..., 0].sum(), leaf, retain_graph=True)
        assert grad.shape == leaf.shape, name
        assert grad.dtype == dtype, name
        assert grad.isfinite().all(), name
        assert (grad != 0).any(), name


@every_case
def test_moments_of_draws(case: Case) -> None:
    law = case.build()
    draws = law.sample((2000,))
    assert_mean(draws, law.mean)
    assert_mean((draws - law.mean).square(), law.variance)
    # The variances of all coordinates sum to 1 - |mean|^2 since |x| = 1.
    torch.testing.assert_close(law.variance.sum(-1), 1 - law.mean.square().sum(-1))
    torch.testing.assert_close(
        torch.linalg.vector_norm(law.mean, dim=-1), law.mean_resultant_length.double()
    )
    complement = law.one_minus_mean_resultant_length
    assert complement.shape == law.batch_shape
    torch.testing.assert_close(complement, 1 - law.mean_resultant_length)


@pytest.mark.parametrize(
    "case", [param for param in cases_of_dim(2, 3, 4, 5) if param.values[0].law.arg_constraints]
)
def test_moments_can_be_differentiated_twice(case: Case) -> None:
    law = case.build()
    loc, concentration = law._given
    loc = loc.detach().requires_grad_()
    k = (0.05 + 0.9 * concentration).detach().requires_grad_()  # finite differences need room

    def moments(loc: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        law = case.law(loc, k, validate_args=False)
        return law.mean, law.variance, law.covariance_matrix, law.mean_resultant_length

    assert torch.autograd.gradcheck(moments, (loc, k), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(moments, (loc, k), fast_mode=True)


@pytest.mark.parametrize("law", [VonMisesFisher, PowerSpherical])
@pytest.mark.parametrize("k", [1e12, 1e18, 1e20, 1e30, 1e38])
def test_standard_deviations_whose_variance_underflows(
    law: type[VonMisesFisher | PowerSpherical], k: float
) -> None:
    concentration = torch.tensor(k, requires_grad=True)
    made = law(torch.eye(3)[0], concentration)
    for deviation in (made.stddev.sum(), made.cosine.stddev):
        (slope,) = torch.autograd.grad(deviation, concentration, create_graph=True)
        (bend,) = torch.autograd.grad(slope, concentration)
        assert slope.isfinite()
        assert bend.isfinite()


@every_case
def test_entropy_is_minus_the_mean_log_density(case: Case) -> None:
    law = case.build()
    assert_mean(-law.log_prob(law.sample((2000,))), law.entropy())


# The density


def nodes_on_sphere(loc: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes around loc and weights that integrate densities as narrow as at a concentration of 1e4.

    By Gauss and Legendre along the half circle from loc to its antipode, where the density of the
    power spherical law is not smooth.
    """
    n = 800
    x, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n // 2))
    angle, weight = math.pi * (x + 1) / 2, weight * math.pi / 2
    along = angle.cos()[:, None] * loc
    if loc.shape[-1] == 2:
        across = angle.sin()[:, None] * torch.stack((-loc[1], loc[0]))
        return torch.cat((along + across, along - across)), weight.repeat(2)
    _, _, frame = torch.linalg.svd(loc[None])  # its last rows are perpendicular to loc
    turn = 2 * math.pi * (torch.arange(n, dtype=torch.float64) + 0.3) / n
    tangent = torch.stack((turn.cos(), turn.sin()), -1) @ frame[1:]
    nodes = along[:, None] + angle.sin()[:, None, None] * tangent
    weight = (weight * angle.sin())[:, None].expand(n // 2, n) * (2 * math.pi / n)
    return nodes.reshape(-1, 3), weight.reshape(-1)


@pytest.mark.parametrize("case", cases_of_dim(2, 3))
def test_density_integrates_to_one(case: Case) -> None:
    whole = case.build(validate_args=False)
    for index in np.ndindex(case.batch_shape):
        own = {name: p[index] for name, p in parameters(whole).items()}
        own = own or {"dim": case.dim, "dtype": torch.float64}
        law = case.law(**own, validate_args=False)
        loc = own.get("loc", torch.eye(case.dim, dtype=torch.float64)[0])
        nodes, weights = nodes_on_sphere(loc)
        density = law.log_prob(nodes).exp()
        assert weights @ density == pytest.approx(1, abs=1e-10)
        # ... and has the mean and the covariance that the law states
        mean = (weights * density) @ nodes
        torch.testing.assert_close(mean, law.mean, rtol=0, atol=1e-10)
        covariance = (nodes - mean).T @ ((weights * density)[:, None] * (nodes - mean))
        torch.testing.assert_close(covariance, law.covariance_matrix, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", cases_of_dim(4, 5))
def test_density_integrates_to_one_by_importance_sampling(case: Case) -> None:
    law = case.build()
    noise = torch.randn(100_000, case.dim, dtype=torch.float64)
    uniform = torch.nn.functional.normalize(noise, dim=-1)
    area = 2 * math.pi ** (case.dim / 2) / math.gamma(case.dim / 2)
    values = uniform.reshape(-1, *(1,) * len(case.batch_shape), case.dim)
    assert_mean(law.log_prob(values).exp() * area, 1.0)


# Validation


@every_case
def test_values_are_checked(case: Case, dtype: torch.dtype) -> None:
    law = case.build(dtype, validate_args=True)
    value = torch.full((case.dim,), 1.0, dtype=dtype)
    with pytest.raises(ValueError, match=r"value .*unit.*normalize"):
        law.log_prob(value)
    with pytest.raises(ValueError, match="NaN"):
        law.log_prob(value * math.nan)
    with pytest.raises(ValueError, match=rf"dimension {case.dim}\b.*\({case.dim + 1},\)"):
        law.log_prob(torch.eye(case.dim + 1, dtype=dtype)[0])
    three = law.expand((3, *case.batch_shape))
    two_values = law.sample().expand(2, *case.batch_shape, case.dim)
    with pytest.raises(ValueError, match="broadcast"):
        three.log_prob(two_values)


@every_case
@pytest.mark.parametrize("validate", [True, False, None])
def test_the_law_of_the_cosine_validates_as_the_law_does(case: Case, validate: bool | None) -> None:
    law = case.build(validate_args=validate)
    cosine, checks = law.cosine, validate is not False
    for function in (cosine.cdf, cosine.log_prob, cosine.icdf):
        with pytest.raises(ValueError, match="must lie in") if checks else nullcontext():
            function(torch.tensor(1.5))


@every_case
def test_validation_can_be_switched_off(case: Case) -> None:
    off_sphere = torch.full((case.dim,), 2.0, dtype=torch.float64)
    assert case.build(validate_args=False).log_prob(off_sphere).shape == case.batch_shape
    Distribution.set_default_validate_args(False)
    assert case.build().log_prob(off_sphere).shape == case.batch_shape
    with pytest.raises(ValueError, match="unit"):
        case.build(validate_args=True).log_prob(off_sphere)
    Distribution.set_default_validate_args(True)
    with pytest.raises(ValueError, match="unit"):
        case.build().log_prob(off_sphere)


@every_case
def test_support(case: Case) -> None:
    law = case.build()
    assert law.support is constraints.sphere
    assert law.support.event_dim == 1
    for name, constraint in law.arg_constraints.items():
        assert constraint.check(getattr(law, name)).all()


# The ends: concentrations 0 and infinity and next to them, values at loc and opposite

ROTATIONAL = (VonMisesFisher, PowerSpherical)
of_each_law = pytest.mark.parametrize("law", ROTATIONAL)


def concentrations_at_the_ends(dtype: torch.dtype) -> list[float]:
    info = torch.finfo(dtype)
    return [0.0, info.tiny / 8, info.tiny, 1.0, info.max / 8, info.max / 2, info.max, math.inf]


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 16, 1000])
def test_nothing_is_nan_at_the_ends(
    law: type[TorchDistribution], dim: int, dtype: torch.dtype
) -> None:
    k = torch.tensor(concentrations_at_the_ends(dtype), dtype=dtype, requires_grad=True)
    axes = torch.eye(dim, dtype=dtype)
    loc = axes[0].clone().requires_grad_()
    ours, uniform = law(loc, k), HypersphericalUniform(dim, dtype=dtype)
    numbers = [
        ours.entropy(),
        ours.log_normalizer,
        ours.mean_resultant_length,
        ours.mean,
        ours.variance,
        ours.stddev,
        kl_divergence(ours, uniform),
        kl_divergence(uniform, ours),
        *ours.covariance_eigenvalues,
        ours.mass_cone(torch.tensor([0.0, 0.5, 1.0]).unsqueeze(-1)),
    ]
    for value in (axes[0], -axes[0], axes[1], directions(dim, dtype=dtype)):
        point = value.expand(len(k), dim).clone().requires_grad_()
        numbers.append(ours.log_prob(point))
        (gradient,) = torch.autograd.grad(numbers[-1].sum(), point, retain_graph=True)
        assert not gradient.isnan().any()
    for number in numbers:
        assert not number.isnan().any()
        gradients = torch.autograd.grad(
            number.sum(), (loc, k), retain_graph=True, allow_unused=True
        )
        assert not any(g.isnan().any() for g in gradients if g is not None)


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 16, 1000])
def test_the_point_mass(law: type[TorchDistribution], dim: int, dtype: torch.dtype) -> None:
    k = torch.tensor(math.inf, dtype=dtype, requires_grad=True)
    axes = torch.eye(dim, dtype=dtype)
    raw = (2 * axes[0]).requires_grad_()
    ours = law(torch.nn.functional.normalize(raw, dim=-1), k)
    assert torch.equal(ours.mean, axes[0])
    assert torch.equal(ours.variance, torch.zeros_like(raw))
    assert ours.entropy() == -math.inf
    assert ours.mass_cone(0.5) == 0
    for value, t, expected in (
        (axes[0], 0.0, math.inf),
        (axes[1], 1.0, -math.inf),
        ((axes[0] + axes[1]) / math.sqrt(2), 1 - math.sqrt(0.5), -math.inf),
        (-axes[0], 2.0, -math.inf),
    ):
        log_density = ours.log_prob(value)
        assert log_density == expected
        in_raw, in_k = torch.autograd.grad(log_density, (raw, k), retain_graph=True)
        # d/dk (log f(mu) - k s) tends to -s.
        limit = -t if law is VonMisesFisher else math.log1p(-t / 2) if t < 2 else -math.inf
        assert in_k.item() == pytest.approx(limit, rel=1e-6, abs=1e-30)
        # Towards the value and as large as can be, projected to the sphere by normalize.
        assert in_raw.isfinite().all()
        assert (in_raw[1] > 1e18) if 0 < t < 2 else (in_raw[1] == 0)
    # The nearest of other points is another point.
    for distance in (torch.finfo(dtype).tiny ** 0.5, torch.finfo(dtype).tiny ** 0.5 / 2):
        assert ours.log_prob(axes[0] + distance * axes[1]) == -math.inf
    # So are the sums of many.
    many = ours.log_prob(torch.nn.functional.normalize(axes[0] + axes[1], dim=-1).expand(100, -1))
    assert torch.autograd.grad(many.sum(), raw)[0].isfinite().all()
    # A part of a mixture that has no weight adds no gradient.
    ours = law(torch.nn.functional.normalize(raw, dim=-1), k)
    loss = torch.logsumexp(torch.stack([ours.log_prob(axes[1]), k.new_zeros(())]), 0)
    assert torch.autograd.grad(loss, raw)[0].tolist() == [0.0] * dim


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 16])
def test_log_density_at_the_largest_concentrations(
    law: type[TorchDistribution], dim: int, dtype: torch.dtype
) -> None:
    # The density at loc tends to (k / 2 pi)^a, a = (d - 1)/2, or (k / 4 pi)^a, by its normal limit.
    loc, a = torch.eye(dim, dtype=dtype)[0], (dim - 1) / 2
    for k in concentrations_at_the_ends(dtype)[4:-1]:
        ours = law(loc, k)
        expected = a * (math.log(k) - math.log((2 if law is VonMisesFisher else 4) * math.pi))
        assert ours.log_prob(loc).item() == pytest.approx(expected, rel=1e-6)
        assert ours.entropy().item() == pytest.approx(a - expected, rel=1e-6)
        uniform = HypersphericalUniform(dim, dtype=dtype)
        kl = kl_divergence(ours, uniform).item()
        assert kl == pytest.approx(expected - a + uniform.entropy().item(), rel=1e-6)


@of_each_law
@pytest.mark.parametrize("dim", [2, 3, 16])
def test_values_opposite_to_loc(law: type[TorchDistribution], dim: int, dtype: torch.dtype) -> None:
    loc = directions(dim, dtype=dtype).requires_grad_()
    value = -loc.detach()
    k = torch.tensor([0.0, 1.0], dtype=dtype, requires_grad=True)
    ours = law(loc, k)
    log_density = ours.log_prob(value)
    gradients = [torch.autograd.grad(x, (loc, k), retain_graph=True) for x in log_density]
    area = HypersphericalUniform(dim, dtype=dtype).entropy().item()
    assert log_density[0].item() == pytest.approx(-area, rel=1e-6)
    if law is VonMisesFisher:
        assert log_density[1].item() == pytest.approx(ours.log_prob(-value)[1].item() - 2, rel=1e-5)
    else:
        # k log((1 + w)/2) falls without bound in k, and rises towards all sides alike.
        assert log_density[1] == -math.inf
        assert all((g[0] == 0).all() for g in gradients)
        assert [g[1][i].item() for i, g in enumerate(gradients)] == [-math.inf] * 2


@of_each_law
def test_concentrations_that_the_dtype_does_not_hold(law: type[TorchDistribution]) -> None:
    loc = directions(3, dtype=torch.float32)
    for k in (1e39, torch.tensor([1.0, 1e39], dtype=torch.float64), np.float64(1e200)):
        with pytest.raises(ValueError, match=r"at most 3\.4.*float32.*got 1e\+.*float64"):
            law(loc, k)
    with pytest.raises(ValueError, match="float32"):
        law(loc, 1.0).cosine.concentration = 1e39
    with pytest.raises(ValueError, match="float32"):
        type(law(loc, 1.0).cosine)(1e39, 3)
    assert law(directions(3), 1e39).concentration == 1e39
    assert law(loc, torch.tensor(math.inf, dtype=torch.float64)).concentration == math.inf
