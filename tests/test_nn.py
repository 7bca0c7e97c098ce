# Heads and classifiers against the recipe by hand and against the laws' own log densities.

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributions import kl_divergence
from torch.nn.functional import cross_entropy, linear, normalize, softplus
from torch.nn.parallel import DistributedDataParallel

from cases import directions
from vmfdist import HypersphericalUniform, PowerSpherical, SphericalCauchy, VonMisesFisher
from vmfdist.nn import ClassStatistics, SphericalClassifier, SphericalHead

LAWS = (VonMisesFisher, PowerSpherical, SphericalCauchy)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ("cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU]))


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(module: nn.Module) -> nn.Module:
    """As training might leave it: no weight is where it started."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(normals(*parameter.shape, seed=10 + i).to(parameter.dtype) / 4)
    return module


# Heads


@pytest.mark.parametrize("dim", [2, 3, 20, 512])
@pytest.mark.parametrize("law", LAWS)
def test_a_head_starts_at_its_mean_cosine(law: type[VonMisesFisher], dim: int) -> None:
    head = SphericalHead(7, dim, law)
    start = head(1e3 * normals(5, 7))
    assert type(start) is law
    assert start.batch_shape == (5,)
    assert start.event_shape == (dim,)
    torch.testing.assert_close(start.mean_resultant_length, torch.full((5,), 0.6))
    # and falls to the floor, not through it
    with torch.no_grad():
        head.linear.bias[-1] = -1e4
    torch.testing.assert_close(
        head(normals(5, 7)).mean_resultant_length, torch.full((5,), 0.3 / dim**0.5)
    )


def test_start_and_floor_are_those_of_mpmath() -> None:
    head = SphericalHead(3, 20)
    with mp.workdps(30):
        for mean_cosine, k in ((0.6, head._start), (0.3 / mp.sqrt(20), head._floor)):
            found = mp.besseli(10, k) / mp.besseli(9, k)
            assert abs(found - mean_cosine) < 1e-11
    head = SphericalHead(3, 20, PowerSpherical)  # of mean cosine k / (d - 1 + k)
    assert head._start == pytest.approx(19 * 0.6 / 0.4, rel=1e-10)
    floor = 0.3 / math.sqrt(20)
    assert head._floor == pytest.approx(19 * floor / (1 - floor), rel=1e-10)
    head = SphericalHead(3, 2, SphericalCauchy)  # the wrapped Cauchy law, of mean cosine rho
    assert head._start == pytest.approx(2 * math.atanh(0.6), rel=1e-10)
    assert head._floor == pytest.approx(2 * math.atanh(0.3 / math.sqrt(2)), rel=1e-10)


@pytest.mark.parametrize("law", LAWS)
def test_a_head_is_the_recipe_by_hand(law: type[VonMisesFisher], dtype: torch.dtype) -> None:
    head = trained(SphericalHead(7, 5, law, dtype=dtype))
    features = normals(2, 3, 7, dtype=dtype)
    vector, raw = head.linear(features).split([5, 1], -1)
    slope = (head._start - head._floor) / math.log(2)
    strength = head._floor + slope * softplus(raw.squeeze(-1) / math.sqrt(7))
    make = SphericalCauchy.from_distance if law is SphericalCauchy else law
    by_hand = make(normalize(vector, dim=-1), strength)
    found = head(features)
    assert found.loc.dtype == dtype
    torch.testing.assert_close(found.loc, by_hand.loc)
    torch.testing.assert_close(found.concentration, by_hand.concentration)
    losses = (
        kl_divergence(q, HypersphericalUniform(5)).sum() + q.mean.sum() for q in (found, by_hand)
    )
    ours, theirs = (torch.autograd.grad(loss, [*head.parameters()]) for loss in losses)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_fixed_concentration_is_a_number() -> None:
    head = SphericalHead(7, 5, concentration=12)
    law = head(normals(3, 7))
    assert head.linear.out_features == 5
    assert torch.equal(law.concentration, torch.full((3,), 12.0))
    assert "concentration=12" in repr(head)
    law = SphericalHead(7, 5, SphericalCauchy, concentration=0.75)(normals(3, 7))
    assert torch.equal(law.concentration, torch.full((3,), 0.75))
    assert "concentration=learned" in repr(SphericalHead(7, 5))


def test_a_spherical_cauchy_head_does_not_end_at_the_point_mass() -> None:
    # Where the concentration itself is rounded to 1.
    head = SphericalHead(7, 5, SphericalCauchy)
    with torch.no_grad():
        head.linear.bias[-1] = 60.0
    law = head(normals(4, 7))
    assert law.concentration.eq(1).all()
    kl = kl_divergence(law, HypersphericalUniform(5))
    assert kl.isfinite().all()
    (gradient,) = torch.autograd.grad(kl.sum(), head.linear.bias)
    assert gradient[-1] > 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_under_autocast_a_head_computes_in_float32(
    kind: torch.dtype, law: type[VonMisesFisher], device: str
) -> None:
    head = trained(SphericalHead(64, 5, law)).to(device)
    features = normals(8, 64).to(device, kind)
    full = head(features.float())
    with torch.autocast(device, dtype=kind):
        assert linear(features.float(), head.linear.weight).dtype == kind  # it is on
        found = head(features)
        loss = found.entropy().sum() + found.rsample().sum()
    assert torch.equal(found.loc, full.loc)
    assert torch.equal(found.concentration, full.concentration)
    loss.backward()
    assert head.linear.weight.grad.isfinite().all()
    assert head.linear.weight.grad.dtype == torch.float32
    # and so does one whose weights are rounded themselves
    found = head.to(kind)(features)
    assert found.loc.dtype == torch.float32
    assert (found.loc.norm(dim=-1) - 1).abs().max() < 1e-6


SIZES = (0.0, 1e-45, 1e-30, 1e-21, 1e-18, 1e-10, 1.0, 1e15, 1e30, 3e38)


@pytest.mark.parametrize(
    ("size", "compiled"), [(size, False) for size in SIZES] + [(0.0, True), (1e30, True)]
)
def test_loc_is_never_of_length_zero(size: float, compiled: bool) -> None:
    head = SphericalHead(4, 4, concentration=1.0)
    nn.init.eye_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    features = torch.tensor([[3.0, 4, 0, 0], [1, 1, 1, 1]])
    features[0] *= size / 4  # one row of any length beside a usual one
    features.requires_grad_()

    def loc(x: Tensor) -> Tensor:
        return head(x).loc

    run = torch.compile(loc, fullgraph=True, backend="aot_eager") if compiled else loc
    found = run(features)
    direction = torch.tensor([0.6, 0.8, 0, 0]) if size > 1e-19 else torch.full((4,), 0.5)
    torch.testing.assert_close(found[0], direction)
    found[0, 0].backward()
    assert features.grad.isfinite().all()
    assert (features.grad[0].norm() > 0) == (1e-19 < size < 1e30)


def test_a_loc_that_was_nearly_zero_follows_its_gradient() -> None:
    vector = torch.tensor([3e-16, 4e-16, 0.0, 0.0])
    head = SphericalHead(4, 4, concentration=1.0)
    nn.init.eye_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    x = vector.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(head(x).loc[0], x)
    torch.testing.assert_close(gradient, torch.tensor([0.64, -0.48, 0, 0]) / 5e-16)


@pytest.mark.parametrize("spoil", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(spoil: float) -> None:
    features = normals(3, 7)
    features[1, 2] = spoil
    statistics = ClassStatistics(7, 2)
    for call in (
        SphericalHead(7, 5),
        SphericalHead(7, 5, concentration=3.0),
        SphericalClassifier(7, 4),
        lambda x: statistics.update(x, torch.zeros(3, dtype=torch.long)),
    ):
        with pytest.raises(ValueError, match="must be finite"):
            call(features)
    assert not statistics.counts.any()


def test_the_law_of_a_head_checks_values_as_laws_do() -> None:
    head = SphericalHead(7, 5)
    with pytest.raises(ValueError, match="unit vectors"):
        head(normals(3, 7)).log_prob(torch.ones(5))
    torch.distributions.Distribution.set_default_validate_args(False)
    head(normals(3, 7)).log_prob(torch.ones(5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 3), ValueError, "in_features must be an integer of at least 1, got 0"),
        ((4, 1), ValueError, "dim must be an integer of at least 2"),
        (
            (4, 3, HypersphericalUniform),
            TypeError,
            "law must be VonMisesFisher, PowerSpherical or SphericalCauchy, the class, got",
        ),
        ((4, 3, "vmf"), TypeError, "law must be VonMisesFisher, PowerSpherical or Spher.* 'vmf'"),
        ((4, 3, VonMisesFisher, -1.0), ValueError, "nonnegative and finite, got -1.0"),
        ((4, 3, VonMisesFisher, math.nan), ValueError, "nonnegative and finite, got nan"),
        ((4, 3, SphericalCauchy, 1.0), ValueError, "nonnegative and below 1, got 1.0"),
        ((4, 3, SphericalCauchy, -0.1), ValueError, "nonnegative and below 1, got -0.1"),
        ((4, 3, VonMisesFisher, torch.ones(3)), TypeError, "or None to learn it, got Tensor"),
    ],
)
def test_wrong_arguments_of_a_head(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SphericalHead(*arguments)


def test_features_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features must have 7 entries .* got shape \(3, 6\)"):
        SphericalHead(7, 5)(normals(3, 6))
    with pytest.raises(ValueError, match=r"embeddings must have 7 entries .* got shape \(3, 6\)"):
        SphericalClassifier(7, 5)(normals(3, 6))


# Both as modules of torch


class Model(nn.Module):
    """A head, a draw of its law, and a classifier of draws."""

    def __init__(self, law: type[VonMisesFisher] = VonMisesFisher) -> None:
        super().__init__()
        self.head, self.classifier = (
            SphericalHead(7, 5, law),
            SphericalClassifier(5, 3, "per-class"),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        law = self.head(features)
        return kl_divergence(law, HypersphericalUniform(5)), self.classifier(law.mean)

    def loss(self, features: Tensor) -> Tensor:
        kl, logits = self(features)
        return kl.sum() + logits.logsumexp(-1).sum()


@pytest.mark.parametrize(
    "law",
    [VonMisesFisher]
    + [pytest.param(law, marks=pytest.mark.slow) for law in (PowerSpherical, SphericalCauchy)],
)
def test_compiled_without_a_break(law: type[VonMisesFisher]) -> None:
    model = trained(Model(law))
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (4, 9):
        features = normals(count, 7)
        values = [step(features) for step in (model.loss, compiled)]
        expected, found = (torch.autograd.grad(x, [*model.parameters()]) for x in values)
        torch.testing.assert_close(values[1], values[0])
        torch.testing.assert_close(found, expected)


def test_compiled_under_autocast() -> None:
    model = trained(Model())
    features = normals(6, 7).bfloat16()
    expected = model.loss(features.float())
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(features), expected)


def test_exported_with_any_batch_size() -> None:
    model = trained(Model())
    sizes = ({0: torch.export.Dim("rows", min=2)},)
    exported = torch.export.export(model, (normals(4, 7),), dynamic_shapes=sizes, strict=False)
    features = normals(9, 7)
    torch.testing.assert_close(exported.module()(features), model(features))


def test_copied_saved_and_moved() -> None:
    model = trained(Model())
    features = normals(4, 7)
    expected = model(features)
    torch.testing.assert_close(copy.deepcopy(model)(features), expected, rtol=0, atol=0)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = Model()
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(features), expected, rtol=0, atol=0)
    wide = copy.deepcopy(model).double()(features.double())
    assert all(x.dtype == torch.float64 for x in wide)
    torch.testing.assert_close([x.float() for x in wide], [*expected])
    with torch.device("meta"):
        shapes = Model()
    assert shapes.head.linear.weight.shape == (6, 7)
    assert shapes.to_empty(device="cpu").load_state_dict(model.state_dict())
    torch.testing.assert_close(shapes(features), expected, rtol=0, atol=0)


def test_per_sample_gradients() -> None:
    torch.distributions.Distribution.set_default_validate_args(False)
    model, features = trained(Model()), normals(3, 7)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        kl, logits = torch.func.functional_call(model, parameters, (row,))
        return kl + logits.logsumexp(-1)

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, features)
    for i, row in enumerate(features):
        alone = torch.func.grad(loss)(parameters, row)
        torch.testing.assert_close({n: g[i] for n, g in together.items()}, alone)


# Classifiers


@pytest.mark.parametrize("concentration", ["shared", "per-class", 30.0])
def test_logits_are_log_joint_densities(concentration: str | float, dtype: torch.dtype) -> None:
    classifier = trained(SphericalClassifier(20, 6, concentration, dtype=dtype))
    classifier.log_prior.copy_(normals(6, seed=3).log_softmax(-1))
    embeddings = 7 * normals(4, 3, 20, dtype=dtype)
    x, law = normalize(embeddings, dim=-1), classifier.law
    assert law.batch_shape == (6,)
    expected = law.log_prob(x.unsqueeze(-2)) + classifier.log_prior
    found = classifier(embeddings)
    torch.testing.assert_close(found, expected)
    assert torch.equal(classifier.predict(embeddings), expected.argmax(-1))
    torch.testing.assert_close(classifier.log_density(embeddings), expected.logsumexp(-1))
    labels = torch.arange(12) % 6
    losses = (cross_entropy(logits.reshape(12, 6), labels) for logits in (found, expected))
    ours, theirs = (torch.autograd.grad(loss, [*classifier.parameters()]) for loss in losses)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    learned = {"shared": 1, "per-class": 6}.get(concentration, 0)
    assert sum(p.numel() for p in classifier.parameters()) == 120 + learned


def test_a_classifier_starts_at_its_concentration() -> None:
    classifier = SphericalClassifier(100, 7)
    torch.testing.assert_close(classifier.law.concentration, torch.full((7,), 20.0))
    torch.testing.assert_close(classifier.weight.norm(dim=-1), torch.ones(7))
    assert (classifier.law.loc @ classifier.law.loc.T - torch.eye(7)).abs().max() < 0.5
    torch.testing.assert_close(classifier.log_prior.exp(), torch.full((7,), 1 / 7))
    logits = classifier(normals(500, 100))
    assert 1.6 < (logits - logits.mean()).std() < 2.4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_under_autocast_a_classifier_computes_in_float32(kind: torch.dtype, device: str) -> None:
    classifier = trained(SphericalClassifier(64, 5)).to(device)
    embeddings = normals(8, 64).to(device, kind)
    expected = classifier(embeddings.float())
    with torch.autocast(device, dtype=kind):
        found = classifier(embeddings)
    assert torch.equal(found, expected)
    assert classifier.to(kind)(embeddings).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, 3), ValueError, "dim must be an integer of at least 2"),
        ((4, 0), ValueError, "classes must be an integer of at least 1, got 0"),
        ((4, 3, "each"), ValueError, "'shared', 'per-class' or a number, got 'each'"),
        ((4, 3, -2.0), ValueError, "nonnegative and finite, got -2.0"),
        ((4, 3, math.inf), ValueError, "nonnegative and finite, got inf"),
        ((4, 3, None), TypeError, "'shared', 'per-class' or a number, got NoneType"),
    ],
)
def test_wrong_arguments_of_a_classifier(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SphericalClassifier(*arguments)


# Statistics of classes


def labelled(count: int = 300, dim: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Draws of laws of increasing concentration, of any length, and their classes."""
    labels = torch.arange(count) * classes // count  # of one size each
    labels = labels[labels != 1].repeat(2).sort().values
    labels = torch.cat([labels, torch.ones(40, dtype=torch.long)])
    laws = VonMisesFisher(directions(classes, dim), torch.tensor([5.0, 1e3, 30, 1e6]))
    torch.manual_seed(5)  # the same in every process
    x = VonMisesFisher(laws.loc[labels], laws.concentration[labels]).sample()
    return x * (1 + normals(len(x), 1).square()).double(), labels


def accumulated(x: Tensor, labels: Tensor, classes: int = 4, batch: int = 64) -> ClassStatistics:
    statistics = ClassStatistics(x.shape[-1], classes)
    for rows, of in zip(x.split(batch), labels.split(batch), strict=True):
        statistics.update(rows, of)
    return statistics


def test_a_classifier_of_statistics_is_the_maximum_likelihood_fit() -> None:
    x, labels = labelled()
    statistics = accumulated(x, labels)
    units = normalize(x, dim=-1)
    classifier = SphericalClassifier(6, 4, "per-class", dtype=torch.float64)
    assert classifier.fit(statistics) is classifier
    for c, law in enumerate(VonMisesFisher.fit(units[labels == c]) for c in range(4)):
        torch.testing.assert_close(classifier.law.loc[c], law.loc)
        torch.testing.assert_close(
            classifier.law.concentration[c], law.concentration, rtol=1e-9, atol=0
        )
    shares = labels.bincount().double() / len(labels)
    torch.testing.assert_close(classifier.log_prior.exp(), shares)

    def log_likelihood(classifier: SphericalClassifier) -> Tensor:
        return -cross_entropy_of_joint(classifier(x), labels)

    # No change of a parameter makes the data likelier.
    for kind in ("per-class", "shared"):
        classifier = SphericalClassifier(6, 4, kind, dtype=torch.float64).fit(statistics)
        gradients = torch.autograd.grad(log_likelihood(classifier), [*classifier.parameters()])
        for gradient in gradients:
            assert gradient.abs().max() < 1e-4 * len(x)
    fixed = SphericalClassifier(6, 4, 8.0).fit(statistics)
    torch.testing.assert_close(fixed.law.loc.double(), classifier.law.loc, atol=1e-6, rtol=0)
    assert torch.equal(fixed.law.concentration, torch.full((4,), 8.0))


def cross_entropy_of_joint(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.gather(-1, labels.unsqueeze(-1)).sum()


def test_a_shared_concentration_is_of_maximum_likelihood() -> None:
    x, labels = labelled()
    classifier = SphericalClassifier(6, 4, dtype=torch.float64).fit(accumulated(x, labels))
    best = cross_entropy_of_joint(classifier(x), labels)
    for change in (-1e-2, 1e-2):
        with torch.no_grad():
            classifier.log_concentration.add_(change)
            assert cross_entropy_of_joint(classifier(x), labels) > best
            classifier.log_concentration.sub_(change)


def test_statistics_do_not_depend_on_the_batches() -> None:
    x, labels = labelled()
    whole, parts = accumulated(x, labels, batch=1000), accumulated(x.float(), labels, batch=7)
    assert whole.sums.dtype == parts.sums.dtype == torch.float64
    assert torch.equal(whole.counts, labels.bincount().double())
    assert torch.equal(whole.counts, parts.counts)
    torch.testing.assert_close(whole.sums, parts.sums, rtol=0, atol=1e-4)
    again = whole.all_reduced()  # of one process
    assert torch.equal(again.sums, whole.sums)
    again.update(x[:1], labels[:1])
    assert not torch.equal(again.sums, whole.sums)


def test_wrong_statistics() -> None:
    statistics, x = ClassStatistics(3, 2), torch.eye(3)
    with pytest.raises(TypeError, match=r"labels must be integers, got torch\.float32"):
        statistics.update(x, torch.zeros(3))
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\), .* got \(2,\)"):
        statistics.update(x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels must be from 0 to 1, got values between 0 and 2"):
        statistics.update(x, torch.tensor([0, 1, 2]))
    assert not statistics.counts.any()
    statistics.update(x, torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match=r"must have samples, got none of the classes \[0\]"):
        SphericalClassifier(3, 2).fit(statistics)
    with pytest.raises(ValueError, match="of 2 classes in dimension 4, got 2 in dimension 3"):
        SphericalClassifier(4, 2).fit(statistics)
    with pytest.raises(TypeError, match="statistics must be ClassStatistics, got Tensor"):
        SphericalClassifier(3, 2).fit(x)
    statistics.update(x[:1], torch.tensor([0]))
    with pytest.raises(ValueError, match=r"all be equal, got such of the classes \[0\]"):
        SphericalClassifier(3, 2, "per-class").fit(statistics)
    SphericalClassifier(3, 2).fit(statistics)
    alone = ClassStatistics(3, 2)
    alone.update(x[:2], torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"the concentration is infinite\. Fix it"):
        SphericalClassifier(3, 2).fit(alone)


def test_padding_is_no_embedding() -> None:
    x, labels = labelled()
    padded = torch.cat([x, torch.zeros(3, x.shape[-1], dtype=x.dtype)])
    found = accumulated(padded, torch.cat([labels, labels[:3]]))
    expected = accumulated(x, labels)
    assert torch.equal(found.counts, expected.counts)
    assert torch.equal(found.sums, expected.sums)


def test_a_uniform_class_has_a_finite_logarithm() -> None:
    statistics = ClassStatistics(2, 1)
    statistics.update(torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([0, 0]))
    classifier = SphericalClassifier(2, 1, "per-class").fit(statistics)
    torch.testing.assert_close(classifier(torch.eye(2)), torch.full((2, 1), -math.log(2 * math.pi)))


# Several processes


def backward(head: nn.Module, features: Tensor) -> None:
    kl_divergence(head(features), HypersphericalUniform(5)).sum().backward()


def in_a_process(folder: Path) -> None:
    """What each of them does, started by torchrun."""
    distributed.init_process_group("gloo")
    rank, count = distributed.get_rank(), distributed.get_world_size()
    x, labels = labelled()
    statistics = accumulated(x[rank::count], labels[rank::count])
    total = statistics.all_reduced()
    model = Model()
    model.load_state_dict(torch.load(folder / "weights.pt"))
    backward(DistributedDataParallel(model.head), normals(4, 7)[rank::count])
    found = {"own": statistics.counts, "sums": total.sums, "counts": total.counts}
    torch.save(found | {"gradient": model.head.linear.weight.grad}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_one_process_of_a_group_adds_nothing() -> None:
    x, labels = labelled()
    statistics = accumulated(x, labels)
    total = statistics.all_reduced()
    assert torch.equal(total.counts, statistics.counts)
    assert torch.equal(total.sums, statistics.sums)


@pytest.mark.slow
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    model = trained(Model())
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    x, labels = labelled()
    whole = accumulated(x, labels)
    backward(model.head, normals(4, 7))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(found["counts"], whole.counts)
        assert found["own"].sum() < 0.6 * whole.counts.sum()
        torch.testing.assert_close(found["sums"], whole.sums)
        torch.testing.assert_close(2 * found["gradient"], model.head.linear.weight.grad)


if __name__ == "__main__":
    in_a_process(Path(sys.argv[1]))
