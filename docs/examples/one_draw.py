r"""
Why one draw is enough
======================

A variational autoencoder estimates its bound by a single draw of the code of each image. Why is
that enough, and what would more draws buy? This script trains one autoencoder of handwritten digits
with eight objectives, for a Gaussian code and for one on the sphere with a von Mises-Fisher
posterior, and prints what each is worth on digits that none has seen. It needs the ``examples``
extra and the modules with a leading underscore beside it::

    python one_draw.py              # a minute
    python one_draw.py --dim 3      # a code in fewer dimensions

**The objectives.** All are lower bounds of the log likelihood :math:`\log p(x)`, to be maximised.

``closed form``
    the ELBO, a draw for the reconstruction and the divergence from the prior in closed form;
``draws: 1``
    the ELBO with the divergence from the same draw;
``draws: 5``, ``draws: 50``
    the log of the mean of :math:`p(x, z) / q(z \mid x)` over so many draws from the posterior
    (Burda et al. 2016), which is the line above with one;
``from the prior: 1`` to ``1000``
    the log of the mean of :math:`p(x \mid z)` over so many draws from the prior: no encoder.

**The scores.** The log likelihood is that bound with 1,000 draws of the posterior. It exceeds the
ELBO by the divergence of the posterior *from the true one*, :math:`p(z \mid x)`: that is how well
the encoder does, as the log likelihood is how well the decoder does. Class accuracy is that of the
five nearest neighbours' classes, by codes. Signal and noise are of the gradient of one minibatch
at the model with the closed form, drawn again and again: the length of the mean gradient over the
root of the summed variance.

**What came of it,** with three seeds alike.

*Closed form or one draw* end at the same place, within 0.1 nats, and the sphere's within 0.01. The
closed form makes the encoder's gradient clearer, by a quarter to a third for the Gaussian; on the
sphere by a twentieth to a seventh. There is less noise to save: the prior's density is a
constant, and the posterior's depends on the cosine with its mean direction alone, so that the
divergence from a draw has no gradient in that direction.

*More draws from the posterior* are for the decoder. Its gradient becomes clearer, and 50 draws gain
0.3 to 0.6 nats of log likelihood. The encoder pays: its gradient becomes less clear (Rainforth et
al. 2018), its posterior ends 3.5 to 4.1 nats from the true one, not 0.5 to 0.6, and its ELBO is 2.4
to 3.1 nats lower. It no longer has to fit: the weights make up for it. Of the class, codes tell a
little less with 50 draws: of 100 held-out digits one or two more are misjudged, two to six on
the sphere.

*Draws from the prior* do not know the image. With one, the best that a decoder can do is to draw
the mean image always. How many are needed is a matter of the divergence from the prior: here it is
about 5 nats, and :math:`e^5` is 150. So 100 draws do what one draw of the posterior does, and 1,000
do as well as 50 importance-weighted ones, since these digits are small and the draws serve a whole
minibatch. Each nat more takes 2.7 times as many. MNIST's digits take 19 nats in ten dimensions, and
:math:`e^{19}` is 180 million; the posterior finds the place with one draw. That is what the encoder
is for.

References:
    Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, ICLR,
    arXiv:1509.00519. Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh (2018), Tighter
    Variational Bounds are Not Necessarily Better, ICML, arXiv:1802.04537.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence
from torch.nn.functional import silu, softplus
from torch.optim import Adam
from tqdm import tqdm

from _digits import Digits, binarise, binarise_once, mlp, sklearn_digits
from _latent_figure import draw_images
from _options import (
    add_record_option,
    add_seed_and_output,
    ends_in_one_line,
    one_thread,
    prepare_to_write,
    read_whole_number,
    save_figure,
)
from _record import add_record
from _sphere import BLUE, GREEN, GREY, INK, ORANGE, PALE
from _vae import Code, make_code
from vmfdist import HypersphericalUniform, VonMisesFisher
from vmfdist.nn import SphericalHead

PROGRAM = "one_draw.py"
HIDDEN = 128
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
DRAWS = (1, 5, 50)  # from the posterior
PRIOR_DRAWS = (1, 10, 100, 1000)
SCORED, AT_ONCE = 1000, 100  # draws from the posterior of each held-out image
SCORED_PRIOR, AT_ONCE_PRIOR = 100_000, 5000  # draws from the prior, the same for all of them
REPEATS = 50  # of a gradient, to see how far it scatters
NEIGHBOURS = 5

# %%
# The model
# ---------


class DirectionCode(Code):
    """Uniform prior on the sphere, von Mises-Fisher posterior."""

    def __init__(self, features: int, dim: int) -> None:
        """Build the layer, which returns laws."""
        super().__init__(features, dim, spread=1)
        self.head = SphericalHead(features, dim)

    def prior(self) -> HypersphericalUniform:
        """The uniform law; its argument is the ambient dimension."""
        return HypersphericalUniform(self.dim)

    def forward(self, features: Tensor) -> VonMisesFisher:
        """The law of each example."""
        return self.head(features)

    def spread_out(self, z: Tensor) -> Tensor:
        """A unit vector has coordinates of size 1 / sqrt(dim)."""
        return z * math.sqrt(self.dim)


class VAE(nn.Module):
    """An encoder, a law of the code, a decoder with Bernoulli pixels."""

    def __init__(self, pixels: int, code: Code) -> None:
        """Build the networks."""
        super().__init__()
        self.code = code
        self.encoder = mlp(pixels, HIDDEN)
        self.decoder = mlp(code.dim, HIDDEN, pixels)

    def posterior(self, images: Tensor) -> Distribution:
        """The law of the code of each image."""
        return self.code(silu(self.encoder(images)))

    def logits(self, z: Tensor) -> Tensor:
        """Of the pixels, for each code."""
        return self.decoder(self.code.spread_out(z))

    def log_likelihood(self, images: Tensor, z: Tensor) -> Tensor:
        """The log probability of each image given its own code, z (..., n, dim)."""
        logits = self.logits(z)
        return (logits * images).sum(-1) - softplus(logits).sum(-1)

    def log_likelihoods(self, images: Tensor, z: Tensor) -> Tensor:
        """Those of all images given each code, z (k, dim): (k, n), by a matrix product."""
        logits = self.logits(z)
        return logits @ images.mT - softplus(logits).sum(-1, keepdim=True)


# %%
# What may be maximised
# ---------------------
# Three lower bounds of the log likelihood of each image.


def closed_form(vae: VAE, images: Tensor) -> Tensor:
    """One draw for the reconstruction; the divergence in closed form."""
    posterior = vae.posterior(images)
    divergence = kl_divergence(posterior, vae.code.prior())
    return vae.log_likelihood(images, posterior.rsample()) - divergence


def log_weights(vae: VAE, images: Tensor, draws: int) -> Tensor:
    """The log of p(x, z) / q(z | x) for draws z of the posterior, (draws, n)."""
    posterior = vae.posterior(images)
    z = posterior.rsample((draws,))
    joint = vae.log_likelihood(images, z) + vae.code.prior().log_prob(z)
    return joint - posterior.log_prob(z)


def from_posterior(vae: VAE, images: Tensor, draws: int) -> Tensor:
    """The log of the mean weight (Burda et al. 2016); of one draw, all of the ELBO from a draw."""
    return log_mean_exp(log_weights(vae, images, draws))


def from_prior(vae: VAE, images: Tensor, draws: int) -> Tensor:
    """The log of the mean p(x | z) over draws of the prior, the same for all images."""
    return log_mean_exp(vae.log_likelihoods(images, vae.code.prior().sample((draws,))))


def log_mean_exp(x: Tensor) -> Tensor:
    """Over the first axis."""
    return x.logsumexp(0) - math.log(len(x))


Objective = Callable[[VAE, Tensor], Tensor]
FROM_POSTERIOR: dict[str, Objective] = {
    "closed form": closed_form,
    **{f"draws: {k}": partial(from_posterior, draws=k) for k in DRAWS},
}
FROM_PRIOR: dict[str, Objective] = {
    f"from the prior: {k}": partial(from_prior, draws=k) for k in PRIOR_DRAWS
}


def fit(objective: Objective, code: Code, digits: Digits, epochs: int, progress: tqdm) -> VAE:
    """Train a model."""
    vae = VAE(digits.train.shape[-1], code)
    optimizer = Adam(vae.parameters(), LEARNING_RATE)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.train)).split(BATCH_SIZE):
            loss = -objective(vae, binarise(digits.train[batch])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        progress.update()
    return vae


# %%
# What is measured
# ----------------


class Scores(NamedTuple):
    """Means over the held-out images, in nats per image, and the share of them well classified."""

    bounds: dict[int, float]  # importance-weighted, by their number of draws; of one the ELBO
    kl: float  # of the posterior from the prior
    accuracy: float  # of the nearest neighbours' classes

    @property
    def log_likelihood(self) -> float:
        """The tightest bound."""
        return self.bounds[SCORED]

    @property
    def gap(self) -> float:
        """The divergence of the posterior from the true one: what the ELBO falls short by."""
        return self.log_likelihood - self.bounds[1]


@torch.no_grad()
def evaluate(vae: VAE, digits: Digits) -> Scores:
    """Score a model with an encoder."""
    images = binarise_once(digits.test)
    parts = [log_weights(vae, images, AT_ONCE) for _ in range(SCORED // AT_ONCE)]
    log_weight = torch.cat(parts).double()
    bounds = {}
    for draws in (*DRAWS, SCORED):
        groups = log_weight.unflatten(0, (-1, draws)).transpose(0, 1)
        bounds[draws] = log_mean_exp(groups).mean().item()
    posterior = vae.posterior(images)
    neighbours = KNeighborsClassifier(NEIGHBOURS)
    neighbours.fit(vae.posterior(binarise_once(digits.train)).mode, digits.train_labels)
    return Scores(
        bounds,
        kl_divergence(posterior, vae.code.prior()).mean().item(),
        float(neighbours.score(posterior.mode, digits.test_labels)),
    )


@torch.no_grad()
def evaluate_decoder(vae: VAE, digits: Digits) -> float:
    """The log likelihood by draws from the prior."""
    images, count = binarise_once(digits.test), SCORED_PRIOR // AT_ONCE_PRIOR
    parts = [from_prior(vae, images, AT_ONCE_PRIOR) for _ in range(count)]
    return log_mean_exp(torch.stack(parts).double()).mean().item()


class Clarity(NamedTuple):
    """The length of a mean gradient by how far gradients scatter around it."""

    encoder: float
    decoder: float


def clarity(objective: Objective, vae: VAE, images: Tensor) -> Clarity:
    """Draw the gradient of one minibatch again and again."""
    encoder, decoder = (
        (*vae.encoder.parameters(), *vae.code.parameters()),
        [*vae.decoder.parameters()],
    )
    split = len(encoder)
    found: tuple[list[Tensor], list[Tensor]] = [], []
    for _ in range(REPEATS):
        bound = objective(vae, images).mean()
        gradients = torch.autograd.grad(bound, (*encoder, *decoder))
        for half, of_half in zip(found, (gradients[:split], gradients[split:]), strict=True):
            half.append(torch.cat([gradient.flatten() for gradient in of_half]))
    return Clarity(*(signal_to_noise(torch.stack(half)) for half in found))


def signal_to_noise(gradients: Tensor) -> float:
    """The length of the mean vector by the root of the summed variance of one."""
    variance = gradients.var(0).sum()
    signal = gradients.mean(0).square().sum() - variance / len(gradients)  # without bias
    return (signal.clamp(min=0) / variance).sqrt().item()


class Trials(NamedTuple):
    """All that is said of a law."""

    scores: dict[str, Scores]
    clarities: dict[str, Clarity]
    likelihoods: dict[str, float]  # by draws from the prior
    inventions: Tensor  # (models, k, pixels)


def tried(law: str, digits: Digits, options: argparse.Namespace, progress: tqdm) -> Trials:
    """Train and score all models of a law."""
    scores, likelihoods, inventions = {}, {}, []
    for name, objective in (FROM_POSTERIOR | FROM_PRIOR).items():
        progress.set_postfix_str(f"{law}, {name}", refresh=False)
        torch.manual_seed(options.seed)  # the same weights and minibatches in all
        dim, gaussian = options.dim, law == "Gaussian"
        code = make_code("gaussian", HIDDEN, dim - 1) if gaussian else DirectionCode(HIDDEN, dim)
        vae = fit(objective, code, digits, options.epochs, progress)
        if name in FROM_POSTERIOR:
            scores[name] = evaluate(vae, digits)
        if name == "closed form":
            batch = binarise(digits.train[:BATCH_SIZE])
            clarities = {n: clarity(f, vae, batch) for n, f in FROM_POSTERIOR.items()}
        if name == "closed form" or name in FROM_PRIOR:
            likelihoods[name] = evaluate_decoder(vae, digits)
            with torch.no_grad():
                inventions.append(vae.logits(code.prior().sample((10,))).sigmoid())
    return Trials(scores, clarities, likelihoods, torch.stack(inventions))


def table(law: str, trials: Trials, dim: int) -> str:
    """What came of the models of a law, as text."""
    rule = "-" * 92
    space = f"R^{dim - 1}" if law == "Gaussian" else f"the sphere in R^{dim}"
    lines = [
        f"{law}, {space}",
        rule,
        f"{'':14}{'':>9}{'log like-':>11}{'from the':>11}{'from the':>10}{'class':>10}"
        f"{'gradient: signal / noise':>27}",
        f"{'':14}{'ELBO':>9}{'lihood':>11}{'true one':>11}{'prior':>10}{'accuracy':>10}"
        f"{'encoder':>14}{'decoder':>13}",
        rule,
    ]
    for name, score in trials.scores.items():
        encoder, decoder = trials.clarities[name]
        lines.append(
            f"{name:14}{score.bounds[1]:9.2f}{score.log_likelihood:11.2f}{score.gap:11.2f}"
            f"{score.kl:10.2f}{score.accuracy:10.3f}{encoder:14.2f}{decoder:13.2f}"
        )
    lines += [rule, "log likelihood of decoders, by draws from the prior"]
    lines += [f"  {name:22}{value:10.2f}" for name, value in trials.likelihoods.items()]
    return "\n".join([*lines, rule])


# %%
# The figure
# ----------


ROWS = ("posterior", *(f"prior: {k}" for k in PRIOR_DRAWS))


def draw_figure(path: Path, all_trials: dict[str, Trials]) -> None:
    """A row for each law: bounds by draws, clearness of gradients, inventions."""
    figure = Figure(figsize=(15, 3.7 * len(all_trials)), facecolor="white", layout="constrained")
    rows = figure.subplots(len(all_trials), 3, width_ratios=(1, 1, 1.35), squeeze=False)
    for (law, trials), (first, second, third) in zip(all_trials.items(), rows, strict=True):
        draw_bounds(first, trials.scores)
        draw_clarities(second, trials.clarities)
        draw_images(third, trials.inventions, ROWS)
        third.set_title("inventions, by where training drew codes from", size=12, color=INK)
        first.set_ylabel(law, size=13, color=INK)
    save_figure(figure, path)


def draw_bounds(axes: Axes, scores: dict[str, Scores]) -> None:
    """The importance-weighted bounds of all models, by their number of draws."""
    for (name, score), colour in zip(scores.items(), (INK, BLUE, ORANGE, GREEN), strict=True):
        style = {"color": colour, "marker": "o", "ms": 4, "label": f"trained with {name}"}
        axes.plot(score.bounds.keys(), score.bounds.values(), **style)
    style_of(axes, "held-out bound in nats, by draws")


def draw_clarities(axes: Axes, clarities: dict[str, Clarity]) -> None:
    """Signal by noise of the gradients of both networks, by the number of draws."""
    known = [clarities[f"draws: {k}"] for k in DRAWS]
    for name, colour in (("encoder", BLUE), ("decoder", ORANGE)):
        axes.plot(DRAWS, [getattr(c, name) for c in known], "o-", color=colour, ms=4, label=name)
        closed = getattr(clarities["closed form"], name)
        axes.plot(1, closed, "s", color=colour, ms=8, mfc="none", label=f"{name}, closed form")
    axes.set_ylim(bottom=0)
    style_of(axes, "signal / noise of a gradient, by draws")


def style_of(axes: Axes, title: str) -> None:
    """What both curves share."""
    axes.set_xscale("log")
    axes.set_title(title, size=12, color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    axes.tick_params(which="both", labelsize=9, labelcolor=GREY, color=PALE)
    axes.spines[:].set_color(PALE)


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train autoencoders of handwritten digits that differ in how many draws of the "
        "code their objective takes, and of which law; print what each is worth and draw it.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    text = f"coordinates of a code on the sphere; a Gaussian code has one fewer {default}"
    add("--dim", type=read_whole_number(2), default=9, help=text)
    add("--epochs", type=read_whole_number(1), default=60, help=f"of each model {default}")
    add_record_option(parser, each="law")
    add_seed_and_output(parser)
    return parser.parse_args(argv)


@one_thread()
@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Train and score all models, print the tables, draw the figure; return the exit code."""
    options = parse(argv)
    prepare_to_write(None, options.record)
    digits = sklearn_digits()
    all_trials: dict[str, Trials] = {}
    total = 2 * len(FROM_POSTERIOR | FROM_PRIOR) * options.epochs
    with tqdm(total=total, desc="all models", unit="epoch") as progress:
        for law in ("Gaussian", "von Mises-Fisher"):
            all_trials[law] = trials = tried(law, digits, options, progress)
            if options.record is not None:
                add_record(
                    options.record,
                    torch.device("cpu"),
                    program=PROGRAM,
                    law=law,
                    dim=options.dim,
                    epochs=options.epochs,
                    seed=options.seed,
                    scores={name: score._asdict() for name, score in trials.scores.items()},
                    clarities={name: c._asdict() for name, c in trials.clarities.items()},
                    likelihoods=trials.likelihoods,
                )
    print(
        f"{len(digits.test):,} held-out digits, nats per image; {options.epochs} epochs a model.\n"
    )
    for law, trials in all_trials.items():
        print(table(law, trials, options.dim), end="\n\n")
    draw_figure(options.output, all_trials)
    print(f"figure: {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
