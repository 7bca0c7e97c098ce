# What the variational autoencoders of the examples share, docs/examples/_vae.py and _training.py:
# the laws of the code, the bounds and their gradients, the scores, and runs that stop and go on.
# Several processes are in test_several_processes.py.

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.optim import SGD, Adam

import _training
from _options import DataError
from _training import (
    Epoch,
    Place,
    Recipe,
    digest,
    full_weight,
    gradient_step,
    shuffled,
    sigmoid_annealing,
    train,
    warm_up,
)
from _vae import (
    VAE,
    BatchNormGaussianCode,
    Code,
    ImportanceWeightedELBO,
    Loss,
    Terms,
    make_code,
    read_law,
    read_product,
    score,
)
from cases import BOUND, assert_mean
from commands import no_more_than

LAWS = ["gaussian", "batch-norm", "vmf", "vmf:7.5", "power-spherical", "power-spherical:20"]
LAWS += ["spherical-cauchy", "spherical-cauchy:2"]
SPHERICAL = [law for law in LAWS if law.startswith(("vmf", "power", "spherical"))]
PIXELS = 6
HERE = Place(torch.device("cpu"))


class Squares(VAE):
    """A small autoencoder of six pixels, black or white."""

    def __init__(self, law: str, dim: int) -> None:
        super().__init__(make_code(law, PIXELS, dim))
        self.decoder = nn.Sequential(nn.Linear(dim, 8), nn.Tanh(), nn.Linear(8, PIXELS))

    def features(self, batch: Tensor) -> Tensor:
        return batch

    def log_likelihood(self, batch: Tensor, z: Tensor) -> Tensor:
        logits = self.decoder(self.code.spread_out(z))
        return (batch * logits - nn.functional.softplus(logits)).sum(-1)


def squares(law: str = "vmf", dim: int = 3, seed: int = 0) -> Squares:
    torch.manual_seed(seed)
    return Squares(law, dim).double()


def pictures(count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (count, PIXELS), generator=generator).double()


# The law of the code


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("law", LAWS)
def test_codes(law: str, dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    code = make_code(law, 4, dim).to(dtype)
    posterior, prior = code(torch.randn(9, 4, dtype=dtype)), code.prior()
    assert (posterior.batch_shape, posterior.event_shape) == ((9,), (dim,))
    assert (prior.batch_shape, prior.event_shape) == ((), (dim,))
    z = posterior.rsample((3,))
    assert (z.shape, z.dtype) == ((3, 9, dim), dtype)
    assert prior.sample().dtype == dtype
    (posterior.log_prob(z) - prior.log_prob(z)).sum().backward()
    assert code.head.weight.grad.abs().amax(1).min() > 0  # every output of the layer has a use
    if law in SPHERICAL:
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(3, 9, dtype=dtype))


@pytest.mark.parametrize("law", LAWS)
def test_decoders_see_coordinates_of_size_one(law: str) -> None:
    code = make_code(law, 4, 6).double()
    torch.manual_seed(0)
    assert_mean(code.spread_out(code.prior().sample((4000,))).square(), 1.0)


@pytest.mark.parametrize("law", ["vmf", "power-spherical"])
def test_learned_concentrations_are_at_least_one(law: str) -> None:
    torch.manual_seed(0)
    code = make_code(law, 4, 3)
    posterior = code(1e3 * torch.randn(50, 4))
    assert posterior.concentration.shape == (50,)
    assert posterior.concentration.min() == 1
    assert posterior.concentration.max() > 100


def kl_on_the_sphere(law: str, c: float) -> float:
    """The divergence from the uniform law in space, where both laws are elementary.

    With respect to the uniform law a cosine t has the density c / sinh(c) exp(c t) under the von
    Mises-Fisher law, E t = coth(c) - 1 / c, and (c + 1) ((1 + t) / 2)^c under the power spherical
    one, whose (1 + t) / 2 is Beta(c + 1, 1) with E log = -1 / (c + 1).
    """
    if law == "vmf":
        return math.log(c / math.sinh(c)) + c * (1 / math.tanh(c) - 1 / c)
    return math.log(c + 1) - c / (c + 1)


@pytest.mark.parametrize("law", ["vmf", "power-spherical"])
@pytest.mark.parametrize("concentration", [0.5, 7.5, 80.0])
def test_kl_of_a_fixed_concentration_is_constant(law: str, concentration: float) -> None:
    torch.manual_seed(0)
    code = make_code(f"{law}:{concentration}", 4, 3).double()
    found = kl_divergence(code(torch.randn(9, 4).double()), code.prior())
    expected = torch.full((9,), kl_on_the_sphere(law, concentration)).double()
    torch.testing.assert_close(found, expected)
    assert code.head.out_features == 3  # nothing is left to learn about it


def batch_norm_code(share: float, least: float) -> BatchNormGaussianCode:
    """One that passes its features on: first the locations, then the scales."""
    code = BatchNormGaussianCode(6, 3, least).double()
    with torch.no_grad():
        code.head.weight.copy_(torch.eye(6))
        code.head.bias.zero_()
        code.share.fill_(share)
    return code


@pytest.mark.parametrize("least", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("share", [-20.0, 0.3, 4.0])
def test_batch_norm_holds_the_kl_above_its_bound(share: float, least: float) -> None:
    torch.manual_seed(0)
    code = batch_norm_code(share, least)
    bound = -3 / 2 * math.log(1 - least)
    normal, skewed = torch.randn(200, 6).double(), torch.randn(200, 6).double().exp()
    for features in (normal, skewed, 50 * normal - 9):
        posterior = code(features)
        law = posterior.base_dist
        squares = law.loc.square() + (law.scale - 1e-3).square()
        torch.testing.assert_close(squares.mean(0), torch.ones(3).double(), atol=1e-4, rtol=0)
        assert law.loc.square().mean(0).min() > least - 1e-4
        assert kl_divergence(posterior, code.prior()).mean() > bound


def test_batch_norm_reaches_its_bound() -> None:
    # Jensen's inequality is tight where all scales are alike, in size: raw ones of -1 and 1
    code = batch_norm_code(-20.0, 0.5)
    features = torch.randn(200, 6).double()
    features[:, 3:] = torch.tensor([-1.0, 1.0]).repeat(100)[:, None]
    kl = kl_divergence(code(features), code.prior()).mean().item()
    assert kl == pytest.approx(-3 / 2 * math.log(0.5), abs=0.01)


def test_batch_norm_of_one_example_is_that_of_training() -> None:
    # in evaluation an example's posterior depends on it alone
    torch.manual_seed(0)
    code = batch_norm_code(0.0, 0.5)
    features = torch.randn(64, 6).double()
    for _ in range(200):
        code(features)
    code.eval()
    together = code(features).base_dist.loc
    torch.testing.assert_close(code(features[:1]).base_dist.loc, together[:1])
    torch.testing.assert_close(together.mean(0), torch.zeros(3).double(), atol=0.01, rtol=0)


@pytest.mark.parametrize("law", [*LAWS, "vmf:0", "vmf:0.1", "power-spherical:1000"])
def test_laws_are_read(law: str) -> None:
    assert read_law(law) == law
    assert isinstance(make_code(law, 4, 3), Code)
    name, _, number = law.partition(":")
    if number:
        assert make_code(law, 4, 3).concentration == float(number)
    elif name in SPHERICAL:
        assert make_code(law, 4, 3).concentration is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "normal", "vMF", "gaussian:", "gaussian:1", "batch-norm:.5"),
        *("vmf:", "vmf:-1", "vmf:inf", "vmf:nan", "vmf:big", "vmf:2:3"),
    ],
)
def test_other_laws_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        read_law(text)
    assert str(caught.value).endswith(f"a number >= 0; got {text!r}")


@pytest.mark.parametrize(
    ("text", "law"),
    [("vmf:80.0", "vmf:80"), ("vmf:8e1", "vmf:80"), ("vmf:+80", "vmf:80"), ("vmf:-0", "vmf:0")],
)
def test_a_law_has_one_name(text: str, law: str) -> None:
    assert read_law(text) == law


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("gaussian", "gaussian"),
        ("vmf:8e1 x 5", "vmf:80 x 5"),
        ("vmf x 05", "vmf x 5"),
        ("power-spherical x 1", "power-spherical"),
    ],
)
def test_products_are_read(text: str, law: str) -> None:
    assert read_product(text) == law
    assert read_product(law) == law


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vmf x", "expected gaussian, batch-norm, vmf, .* got 'vmf x'"),
        ("normal x 3", "expected gaussian, batch-norm, vmf, .* got 'normal'"),
        ("vmf x 0", "expected at least 1, got 0"),
        ("vmf x many", "expected a whole number, got 'many'"),
        ("vmf x 2 x 2", "expected a whole number, got '2 x 2'"),
        (
            "gaussian x 2",
            "only vmf, power-spherical, spherical-cauchy have several spheres, got 'g",
        ),
    ],
)
def test_other_products_are_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        read_product(text)


@pytest.mark.parametrize("law", SPHERICAL)
def test_a_product_has_independent_codes(law: str) -> None:
    torch.manual_seed(0)
    code, one = make_code(f"{law} x 3", 4, 15).double(), make_code(law, 4, 5).double()
    features = torch.randn(9, 4).double()
    posterior, prior = code(features), code.prior()
    assert (posterior.batch_shape, posterior.event_shape) == ((9,), (3, 5))
    assert (prior.batch_shape, prior.event_shape) == ((), (3, 5))
    z = posterior.rsample((2,))
    kl, density = torch.zeros(9).double(), torch.zeros(2, 9).double()
    for k in range(3):  # the sphere's own rows of the layer
        rows = slice(k * one.head.out_features, (k + 1) * one.head.out_features)
        with torch.no_grad():
            one.head.weight.copy_(code.head.weight[rows])
            one.head.bias.copy_(code.head.bias[rows])
        kl += kl_divergence(one(features), one.prior())
        density += one(features).log_prob(z[..., k, :])
    torch.testing.assert_close(kl_divergence(posterior, prior), kl)
    torch.testing.assert_close(posterior.log_prob(z), density)
    # coordinates of size one, in a row
    draws = code.spread_out(prior.sample((4000,)))
    assert draws.shape == (4000, 15)
    assert_mean(draws.square(), 1.0)


def test_concentrations_beyond_float32_are_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"of at most 1e\+30, got 'vmf:1e39'"):
        read_law("vmf:1e39")


# The bounds


def in_particles(vae: VAE, batch: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draws of the guide and their log weights, shape (count, n), written out without an ELBO."""
    with pyro.plate("particles", count, dim=-2):
        z = poutine.trace(vae.guide).get_trace(batch).nodes["z"]["value"]
    posterior = vae.posterior(batch)
    weight = vae.log_likelihood(batch, z) + vae.code.prior().log_prob(z) - posterior.log_prob(z)
    return z, weight


def gradients(vae: VAE, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(vae.parameters())))


@pytest.mark.parametrize("law", ["gaussian", "vmf", "power-spherical"])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_importance_weighted_gradient_is_that_of_the_formula(law: str, count: int) -> None:
    vae, batch = squares(law), pictures(4)
    torch.manual_seed(5)
    loss = Loss(vae, ImportanceWeightedELBO(count))(batch)
    torch.manual_seed(5)
    _, log_weight = in_particles(vae, batch, count)
    expected = -log_weight.exp().mean(0).log().sum()
    torch.testing.assert_close(loss, expected)
    for found, right in zip(gradients(vae, loss), gradients(vae, expected), strict=True):
        torch.testing.assert_close(found, right)
        assert right.abs().max() > 0


@pytest.mark.parametrize("law", ["gaussian", "vmf", "power-spherical"])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_importance_weighted_value_is_that_of_pyro(law: str, count: int) -> None:
    vae, batch = squares(law), pictures(4)
    renyi = RenyiELBO(alpha=0, num_particles=count, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(5)
    expected = renyi.loss(vae.model, vae.guide, batch)
    torch.manual_seed(5)
    assert Loss(vae, ImportanceWeightedELBO(count))(batch).item() == pytest.approx(expected)


def test_pyro_has_no_module_for_that_bound() -> None:
    # why ImportanceWeightedELBO is there; should Pyro gain one, this fails, and it can go
    renyi = RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(AttributeError, match="differentiable_loss"):
        Loss(squares(), renyi)(pictures(4))


@pytest.mark.parametrize("law", ["gaussian", "vmf", "power-spherical"])
def test_one_particle_is_the_elbo_in_the_mean_and_more_raise_the_bound(law: str) -> None:
    vae, picture = squares(law), pictures(1)
    many = picture.expand(4000, PIXELS)
    elbo = score(vae, [picture], draws=4000).elbo.item()
    torch.manual_seed(6)
    with torch.no_grad():
        _, weights = in_particles(vae, many, 1)
        assert_mean(weights[0], elbo)
        bounds = [-Loss(vae, ImportanceWeightedELBO(k))(many).item() / 4000 for k in (1, 3, 20)]
    assert bounds[0] == pytest.approx(elbo, abs=0.05)
    assert bounds[0] + 0.01 < bounds[1] < bounds[2]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kl_weight", [1e-3, 0.3, 1.0])
def test_kl_weight(law: str, kl_weight: float) -> None:
    vae, batch = squares(law), pictures(4)
    torch.manual_seed(5)
    loss = Loss(vae, TraceMeanField_ELBO())(batch, kl_weight)
    torch.manual_seed(5)
    posterior = vae.posterior(batch)
    kl = kl_divergence(posterior, vae.code.prior())
    expected = kl_weight * kl - vae.log_likelihood(batch, posterior.rsample())
    torch.testing.assert_close(loss, expected.sum())


# Scores


def grid(law: str) -> tuple[Tensor, Tensor]:
    """Codes and the log weights that make the mean under the prior a sum over them.

    On the circle that sum over equidistant angles is exact beyond float64, and so is the one over
    equidistant points of the line, for what is smooth and falls off as a normal density does.
    """
    if law == "gaussian":
        z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
        return z[:, None, None], torch.distributions.Normal(0, 1).log_prob(z) + math.log(24 / 4000)
    angles = torch.arange(4096).double() * (2 * math.pi / 4096)
    codes = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None]
    return codes, torch.full((4096,), -math.log(4096)).double()


# Importance weights need a variance for a test. The power spherical density vanishes opposite its
# mean, and on the circle they have one only below the concentration 1/2; under a normal law only
# from a variance of 1/2 on.
@pytest.mark.parametrize("law", ["vmf", "vmf:2", "power-spherical:.4", "gaussian"])
def test_scores_against_an_exact_integral(law: str) -> None:
    vae, batch = squares(law, dim=1 if law == "gaussian" else 2), pictures(5)
    draws = 8000
    with torch.no_grad():
        if law == "gaussian":
            vae.code.head.bias[1] += 1  # of the scale
        codes, log_weight = grid(law)
        likelihood = vae.log_likelihood(batch, codes)
        exact = (likelihood + log_weight[:, None]).logsumexp(0)
        posterior = vae.posterior(batch)
        # the posterior's density with respect to the prior
        ratio = posterior.log_prob(codes) - vae.code.prior().log_prob(codes)
        q = (ratio + log_weight[:, None]).exp()
        reconstruction, kl = (q * likelihood).sum(0), (q * ratio).sum(0)
        spread = (q * (likelihood - reconstruction).square()).sum(0)
        squared = (2 * likelihood - ratio + log_weight[:, None]).logsumexp(0)  # weights, mean
        spread_of_weights = (squared - 2 * exact).exp() - 1  # relative to their mean
    torch.testing.assert_close(q.sum(0), torch.ones(5).double())
    torch.manual_seed(3)
    found = score(vae, batch.split(2), draws, at_once=3000)
    # the power .4 of the density has a cusp, which leaves the sum an error of 1e-6
    torch.testing.assert_close(found.kl, kl, atol=3e-6, rtol=0)
    for value, expected, variance in (
        (found.reconstruction, reconstruction, spread),
        (found.log_likelihood.exp(), exact.exp(), spread_of_weights * (2 * exact).exp()),
    ):
        assert ((value - expected).abs() < BOUND * (variance / draws).sqrt()).all()
    torch.testing.assert_close(found.elbo, found.reconstruction - found.kl)
    assert (found.elbo < exact).all()
    few = score(vae, [batch.repeat(2000, 1)], draws=2).log_likelihood.mean()
    assert found.elbo.mean() < few < exact.mean()


def test_scores_in_float64_of_a_model_in_float32() -> None:
    torch.manual_seed(0)
    vae = Squares("batch-norm", 3)
    batch = pictures(7).float()
    assert vae.training
    before = {name: x.clone() for name, x in vae.state_dict().items()}
    terms = score(vae, [batch[:4], batch[4:]], draws=3)
    assert all(x.shape == (7,) and x.dtype == torch.float64 for x in terms)
    assert not any(x.requires_grad for x in terms)
    assert vae.training
    for name, x in vae.state_dict().items():
        torch.testing.assert_close(x, before[name], atol=0, rtol=0)  # batch statistics too
    # batch norm is off, so that the KL of an example does not depend on the others
    torch.testing.assert_close(score(vae, batch.split(1), draws=1).kl, terms.kl)


# Weights of the KL term


def test_warm_up() -> None:
    weight = warm_up(4)
    assert [weight(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warm_up(0)(0) == warm_up(1)(0) == full_weight(0) == 1


def test_sigmoid_annealing() -> None:
    weight = sigmoid_annealing(middle=100, width=10)
    assert weight(100) == 0.5
    assert weight(110) == pytest.approx(1 / (1 + math.exp(-1)))
    assert weight(93) + weight(107) == pytest.approx(1)
    values = [weight(step) for step in range(0, 300, 10)]
    assert values == sorted(set(values))
    steep = sigmoid_annealing(middle=10**6, width=1e-3)
    assert 0 <= steep(0) < 1e-300
    assert steep(2 * 10**6) == 1


# Training, and runs that stop and go on


def recipe(epochs: int, **changes: Any) -> Recipe:
    settings = {
        "elbo": TraceMeanField_ELBO(),
        "optimizer": lambda parameters: Adam(parameters, lr=0.02),
        "batch_size": 8,
        "seed": 3,
        "kl_weight": warm_up(10),
    }
    return Recipe(epochs=epochs, **settings | changes)


def trained(epochs: int, data: Any, **options: Any) -> tuple[Squares, list[Epoch]]:
    vae = squares("batch-norm")  # its state is more than its parameters
    history = train(
        vae, recipe(epochs), data, [pictures(9, seed=2)], name="", where=HERE, **options
    )
    return vae, history


class KilledIn(list):
    """Data of a run that is killed while it takes a certain batch."""

    def __init__(self, data: Tensor, batch: int) -> None:
        self.data, self.left = data, batch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Tensor) -> Tensor:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return self.data[index]


def without_time(history: list[Epoch]) -> list[Epoch]:
    return [line._replace(seconds=0.0) for line in history]


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    data, checkpoint = pictures(30), tmp_path / "run.pt"  # 4 batches an epoch
    straight, history = trained(4, data)
    with pytest.raises(KeyboardInterrupt):
        trained(4, KilledIn(data, 7), checkpoint=checkpoint)
    assert len(torch.load(checkpoint)["history"]) == 1
    resumed, other = trained(4, data, checkpoint=checkpoint)
    assert without_time(other) == without_time(history)
    assert [line.epoch for line in other] == [1, 2, 3, 4]
    assert [line.kl_weight for line in other] == [0.4, 0.8, 1, 1]
    seconds = [line.seconds for line in other]
    assert seconds == sorted(seconds)
    for name, x in resumed.state_dict().items():
        torch.testing.assert_close(x, straight.state_dict()[name], atol=0, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_finished_run_is_read_only(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    first, history = trained(2, pictures(30), checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    again, other = trained(2, KilledIn(pictures(30), 1), checkpoint=checkpoint)
    assert other == history
    assert checkpoint.read_bytes() == content
    for name, x in again.state_dict().items():
        torch.testing.assert_close(x, first.state_dict()[name], atol=0, rtol=0)


def test_seeds_differ() -> None:
    vae, other = squares(), squares()
    for one, seed in ((vae, 3), (other, 4)):
        plan = recipe(1, seed=seed)
        train(one, plan, pictures(30), [pictures(9)], name="", where=HERE)
    assert not torch.equal(vae.decoder[0].weight, other.decoder[0].weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"law": "vmf", "seed": 1}, "it was saved with seed 0, this run has 1"),
        ({"law": "vmf"}, "it was saved with seed 0, this run has None"),
        ({"law": "vmf", "seed": 0, "words": 9}, "it was saved with words None, this run has 9"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    checkpoint = tmp_path / "run.pt"
    trained(1, pictures(30), checkpoint=checkpoint, settings={"law": "vmf", "seed": 0})
    with pytest.raises(DataError) as caught:
        trained(2, pictures(30), checkpoint=checkpoint, settings=settings)
    assert str(caught.value) == f"{checkpoint}: {message}"


DAMAGES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda _: b""),
    ("cut", lambda content: content[: len(content) // 2]),
    ("text", lambda _: b"a letter to my aunt\n"),
]


@pytest.mark.parametrize("damage", [pytest.param(change, id=name) for name, change in DAMAGES])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    checkpoint = tmp_path / "run.pt"
    trained(1, pictures(30), checkpoint=checkpoint)
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(DataError) as caught:
        trained(2, pictures(30), checkpoint=checkpoint)
    assert str(caught.value).startswith(f"{checkpoint}: expected a checkpoint, found: ")
    assert "\n" not in str(caught.value)


def test_something_else_than_a_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    torch.save(torch.ones(3), checkpoint)
    with pytest.raises(DataError, match=r"expected a checkpoint, found: a Tensor$"):
        trained(1, pictures(30), checkpoint=checkpoint)


@pytest.mark.parametrize("key", ["settings", "history", "model", "optimizer", "best"])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path: Path, key: str) -> None:
    checkpoint = tmp_path / "run.pt"
    trained(1, pictures(30), checkpoint=checkpoint)
    content = torch.load(checkpoint)
    torch.save({k: v for k, v in content.items() if k != key}, checkpoint)
    with pytest.raises(DataError) as caught:
        trained(2, pictures(30), checkpoint=checkpoint)
    assert str(caught.value) == f"{checkpoint}: expected a checkpoint, found: one without {key}"
    for value in (None, 3, [1], {"a": torch.ones(2)}):  # of another kind
        if key == "best" and value is None:
            continue  # as before the first epoch
        torch.save(content | {key: value}, checkpoint)
        with pytest.raises(DataError) as caught:
            trained(2, pictures(30), checkpoint=checkpoint)
        assert str(caught.value).startswith(f"{checkpoint}: ")
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_a_longer_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    trained(2, pictures(30), checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    with pytest.raises(DataError) as caught:
        trained(1, pictures(30), checkpoint=checkpoint)
    assert str(caught.value) == f"{checkpoint}: it holds 2 epochs, this run is to have 1"
    assert checkpoint.read_bytes() == content


def test_a_checkpoint_that_finds_the_disk_full_keeps_the_epoch_before(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"

    class Filling(KilledIn):
        """Data of a run in whose second epoch the disk fills up."""

        def __getitem__(self, index: Tensor) -> Tensor:
            self.left -= 1
            if not self.left:
                disk.enter_context(no_more_than(1000))
            return self.data[index]

    with ExitStack() as disk, pytest.raises(DataError) as caught:
        trained(3, Filling(pictures(30), 7), checkpoint=checkpoint)
    words = "cannot be written: File too large; epoch 2 is lost, epoch 1 is kept"
    assert str(caught.value) == f"{checkpoint}: {words}"
    assert len(torch.load(checkpoint)["history"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    with no_more_than(1000), pytest.raises(DataError, match="epoch 1 is lost, nothing is kept"):
        trained(3, pictures(30), checkpoint=tmp_path / "other.pt")


def test_data_have_a_name_by_their_content() -> None:
    x, words = torch.arange(6.0), ("a", "b c")
    names = [
        digest(*parts)
        for parts in (
            (x, words),
            (x.reshape(2, 3), words),
            (x.double(), words),
            (x.flip(0), words),
            (x, ("a b", "c")),
            (x, words, ()),
            (x[:3], x[3:], words),
        )
    ]
    assert len(set(names)) == len(names)
    assert digest(x.clone(), list(words)) == names[0]


def test_the_weights_of_the_best_epoch_on_the_dev_set_come_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[dict[str, Tensor]] = []
    elbos = [-5.0, -3.0, -4.0, -3.0]  # the second is best, the last only as good

    def scored(vae: VAE, *_: Any, **__: Any) -> Terms:
        seen.append({name: x.clone() for name, x in vae.state_dict().items()})
        elbo = torch.tensor([elbos[len(seen) - 1]])
        return Terms(elbo + 1, torch.ones(1), elbo)

    monkeypatch.setattr(_training, "score", scored)
    checkpoint = tmp_path / "run.pt"
    vae, history = trained(4, pictures(30), checkpoint=checkpoint)
    assert [line.dev_elbo for line in history] == elbos
    for name, x in vae.state_dict().items():
        torch.testing.assert_close(x, seen[1][name], atol=0, rtol=0)
    assert not torch.equal(seen[1]["decoder.0.weight"], seen[3]["decoder.0.weight"])
    latest = torch.load(checkpoint)["model"]  # from where a longer run goes on
    torch.testing.assert_close(latest["decoder.0.weight"], seen[3]["decoder.0.weight"])


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO(), ImportanceWeightedELBO(4)])
@pytest.mark.parametrize("law", LAWS)
def test_training_raises_the_elbo(law: str, elbo: Any) -> None:
    data = torch.cat([torch.ones(100, PIXELS), torch.zeros(100, PIXELS)]).double()
    vae = squares(law)
    before = score(vae, [data], draws=5).log_likelihood.mean()
    plan = recipe(10, elbo=elbo, batch_size=20, kl_weight=full_weight)
    history = train(vae, plan, data, [data], name="", where=HERE)
    after = score(vae, [data], draws=5).log_likelihood.mean()
    assert before < -3
    assert after > before + 1.5
    assert history[-1].loss < history[0].loss


def test_a_step_follows_the_mean_gradient_of_its_batch() -> None:
    vae, data = squares("vmf:7.5"), pictures(12)
    loss, batch = Loss(vae, TraceMeanField_ELBO()), torch.tensor([0, 5, 7, 11])
    torch.manual_seed(5)
    total = loss(data[batch])
    expected = gradients(vae, total / 4)
    size = math.sqrt(sum(float(g.square().sum()) for g in expected))
    for clip, factor in ((None, 1.0), (2 * size, 1.0), (size / 3, 1 / 3)):
        before = [p.detach().clone() for p in vae.parameters()]
        torch.manual_seed(5)
        found = gradient_step(loss, SGD(vae.parameters(), lr=1.0), data, batch, 1.0, clip, HERE)
        assert found == pytest.approx(total.item())
        with torch.no_grad():
            for p, start, gradient in zip(vae.parameters(), before, expected, strict=True):
                torch.testing.assert_close(start - p, factor * gradient, atol=1e-6, rtol=1e-5)
                p.copy_(start)


@pytest.mark.parametrize("law", LAWS)
def test_a_last_batch_of_one_example(law: str) -> None:
    # batch normalisation cannot train on it, and raised
    history = train(
        squares(law), recipe(2), pictures(17), [pictures(9, seed=2)], name="", where=HERE
    )
    assert all(math.isfinite(line.loss) for line in history)


def test_too_few_examples_are_refused() -> None:
    dev = [pictures(9, seed=2)]
    with pytest.raises(DataError, match="expected at least 2 examples to train on, found 1"):
        train(squares("batch-norm"), recipe(1), pictures(1), dev, name="", where=HERE)


def test_shuffled_batches_hold_every_example_once() -> None:
    torch.manual_seed(0)
    first, second = shuffled(23, 5), shuffled(23, 5)
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 3]
    assert torch.equal(torch.cat(list(first)).sort().values, torch.arange(23))
    assert not torch.equal(torch.cat(list(first)), torch.cat(list(second)))
