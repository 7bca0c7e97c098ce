r"""
A variational autoencoder with a latent sphere
==============================================

A variational autoencoder squeezes an image into a short code and learns to draw the image
again. The usual code is Gaussian. Here it is a *direction*: a point on the unit sphere, with the
uniform law as prior and a von Mises-Fisher law as approximate posterior (Davidson et al. 2018).
Nothing pulls such codes towards an origin, so they spread over the whole sphere, and the
divergence from the prior depends on the concentration alone: hold the concentration fixed and the
KL term is a constant that cannot collapse.

The script trains that model and a Gaussian one side by side on handwritten digits, prints their
scores on digits that neither has seen, and draws one figure. It needs the ``examples`` extra::

    python hyperspherical_vae.py                        # scikit-learn's 8 x 8 digits, a minute
    python hyperspherical_vae.py --concentration 20     # a constant KL
    python hyperspherical_vae.py --data DIR --dim 6     # MNIST, from its four idx files

**The comparison.** Both models have the same networks, optimiser, batches and budget, and codes
with ``dim`` coordinates. They do not have the same freedom: a sphere in :math:`\mathbb{R}^d` has
only :math:`d - 1` dimensions, so at equal ``dim`` the Gaussian has one more to use. Its encoder
also learns a scale for each coordinate, where the von Mises-Fisher law learns one concentration.
With three coordinates the two end within 0.4 nats of each other on the small digits; with 40 the
Gaussian wins clearly: it can leave coordinates unused, whereas one concentration has to serve all
directions at once.

**The likelihood.** Pixels are probabilities: each minibatch is made black and white afresh, each
pixel white with the probability that its brightness gives, and the decoder is a Bernoulli law.
The held-out digits are made black and white once, with a fixed seed, so that scores compare
between runs. All scores are in nats per image.

**Two things to copy.** The code has unit length, hence coordinates of size
:math:`1 / \sqrt{d}`; the decoder receives it times :math:`\sqrt{d}`, as spread out as a standard
normal. Unscaled codes into a layer of the default initialisation learn slowly at best; the linear
layers here are initialised for that reason too (He et al. 2015). And the encoder's last layer is a
:class:`vmfdist.nn.SphericalHead`: it returns the law of each image, starts at a concentration that
tells something in any dimension, and does not let it run down before the decoder has found a use
for the code. There is no KL warm-up: with these two measures neither model needs one.

References:
    Davidson, Falorsi, De Cao, Kipf and Tomczak (2018), Hyperspherical Variational Auto-Encoders,
    UAI, arXiv:1804.00891. Burda, Grosse and Salakhutdinov (2016), Importance Weighted
    Autoencoders, ICLR, arXiv:1509.00519. He, Zhang, Ren and Sun (2015), Delving Deep into
    Rectifiers, ICCV, arXiv:1502.01852.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn.functional import softplus
from tqdm import tqdm

from _digits import HIDDEN, Digits, binarise, binarise_once, mlp, mnist, sklearn_digits
from _latent_figure import Column, draw_figure
from _options import (
    MOST_CONCENTRATION,
    ends_in_one_line,
    one_thread,
    read_figure_name,
    read_whole_number,
)
from vmfdist import HypersphericalUniform, VonMisesFisher
from vmfdist.nn import SphericalHead

PROGRAM = "hyperspherical_vae.py"
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
EPOCHS_DIGITS, EPOCHS_MNIST = 80, 20
DRAWS = 500  # of the code, for each held-out image: as many as Davidson et al. (2018) took
CHUNK = 2**21  # pixels decoded at a time in the evaluation: 8 MiB in float32

# %%
# The model
# ---------
# ``model`` and ``guide`` are the whole story for Pyro; the two kinds of code differ only in their
# prior and their posterior.


class VAE(nn.Module):
    """Encoder, decoder, and Pyro's model and guide; subclasses choose the law of the code."""

    def __init__(self, pixels: int, dim: int, head: nn.Module) -> None:
        """Build the networks.

        Args:
            pixels: the number of pixels of an image.
            dim: the number of coordinates of a code.
            head: the encoder's last layer, of what the posterior needs.
        """
        super().__init__()
        self.dim = dim
        self.encoder = nn.Sequential(mlp(pixels, *HIDDEN), nn.SiLU(), head)
        self.decoder = mlp(dim, *reversed(HIDDEN), pixels)

    def prior(self) -> dist.TorchDistribution:
        """The law of the code before an image is seen."""
        raise NotImplementedError

    def posterior(self, images: Tensor) -> dist.TorchDistribution:
        """The law of the code of each image, batch shape (n,)."""
        raise NotImplementedError

    def likelihood(self, z: Tensor) -> dist.TorchDistribution:
        """The law of the image of each code."""
        return dist.Bernoulli(logits=self.decoder(z)).to_event(1)

    def model(self, images: Tensor) -> None:
        """Draw a code from the prior, and from it the image."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("images", len(images)):
            z = pyro.sample("z", self.prior())
            pyro.sample("image", self.likelihood(z), obs=images)

    def guide(self, images: Tensor) -> None:
        """Draw the code from the posterior that the encoder predicts."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("images", len(images)):
            pyro.sample("z", self.posterior(images))


class HypersphericalVAE(VAE):
    """Codes on the unit sphere: uniform prior, von Mises-Fisher posterior."""

    def __init__(self, pixels: int, dim: int, concentration: float | None = None) -> None:
        """Build the networks.

        Args:
            pixels: the number of pixels of an image.
            dim: the number of coordinates of a code, one more than the dimension of its sphere.
            concentration: of every posterior; None to learn one for each image.
        """
        super().__init__(pixels, dim, SphericalHead(HIDDEN[-1], dim, concentration=concentration))

    def prior(self) -> HypersphericalUniform:
        """The uniform law; its argument is the ambient dimension."""
        return HypersphericalUniform(self.dim)

    def posterior(self, images: Tensor) -> VonMisesFisher:
        """What the head returns."""
        return self.encoder(images)

    def likelihood(self, z: Tensor) -> dist.TorchDistribution:
        """The decoder sees coordinates of size one, in any dimension."""
        return super().likelihood(z * math.sqrt(self.dim))


class GaussianVAE(VAE):
    """Codes in the plane, in space and so on: standard normal prior, diagonal normal posterior."""

    def __init__(self, pixels: int, dim: int) -> None:
        """Build the networks."""
        super().__init__(pixels, dim, mlp(HIDDEN[-1], 2 * dim))

    def prior(self) -> dist.TorchDistribution:
        """The standard normal law."""
        return dist.Normal(torch.zeros(self.dim), torch.ones(self.dim)).to_event(1)

    def posterior(self, images: Tensor) -> dist.TorchDistribution:
        """A location and a scale for each coordinate."""
        loc, raw = self.encoder(images).chunk(2, dim=-1)
        return dist.Normal(loc, softplus(raw) + 1e-3).to_event(1)


# %%
# Training
# --------
# ``TraceMeanField_ELBO`` takes the divergence in closed form wherever one is registered, as it is
# for these two pairs; only the reconstruction is estimated from a draw.


@one_thread()
def train(vae: VAE, digits: Digits, epochs: int, name: str) -> float:
    """Train by stochastic variational inference with a progress bar; return the seconds taken."""
    pyro.clear_param_store()
    svi = SVI(vae.model, vae.guide, Adam({"lr": LEARNING_RATE}), loss=TraceMeanField_ELBO())
    dev, start = binarise_once(digits.dev), time.perf_counter()
    with tqdm(total=epochs, desc=f"{name:<16}", unit="epoch") as progress:
        for _ in range(epochs):
            loss = 0.0
            for batch in torch.randperm(len(digits.train)).split(BATCH_SIZE):
                loss += svi.step(binarise(digits.train[batch]))
            elbo, dev_elbo = -loss / len(digits.train), -svi.evaluate_loss(dev) / len(dev)
            progress.set_postfix_str(f"ELBO {elbo:.2f}, dev {dev_elbo:.2f}", refresh=False)
            progress.update()
    return time.perf_counter() - start


# %%
# Scores
# ------
# The ELBO is a lower bound of the log likelihood, and so is the importance-weighted one, which
# approaches it as the number of draws grows (Burda et al. 2016).


class Scores(NamedTuple):
    """Means over the held-out images, in nats per image."""

    elbo: float
    reconstruction: float
    kl: float
    log_likelihood: float


@one_thread()
@torch.no_grad()
def evaluate(vae: VAE, images: Tensor, draws: int) -> Scores:
    """Score a model on binary images with `draws` codes for each, a bounded number at a time."""
    totals = torch.zeros(3, dtype=torch.float64)
    prior = vae.prior()
    chunks = images.split(max(1, CHUNK // (draws * images.shape[-1])))
    for chunk in tqdm(chunks, desc="  held-out score", leave=False, delay=2):
        posterior = vae.posterior(chunk)
        z = posterior.sample((draws,))
        reconstruction = vae.likelihood(z).log_prob(chunk)
        log_weight = reconstruction + prior.log_prob(z) - posterior.log_prob(z)
        bound = torch.logsumexp(log_weight, dim=0) - math.log(draws)
        terms = (reconstruction.mean(0), kl_divergence(posterior, prior), bound)
        totals += torch.stack([term.double().sum() for term in terms])
    reconstruction, kl, log_likelihood = (totals / len(images)).tolist()
    return Scores(reconstruction - kl, reconstruction, kl, log_likelihood)


def table(scores: dict[str, Scores], seconds: dict[str, float], count: int) -> str:
    """The scores of all models as text."""
    rule = "-" * 79
    lines = [
        f"{count:,} held-out digits, nats per image. ELBO = reconstruction - KL; log likelihood:",
        f"the importance-weighted bound with {DRAWS} draws for each digit.",
        rule,
        f"{'':18}{'ELBO':>9}{'reconstruction':>17}{'KL':>8}{'log likelihood':>17}{'training':>10}",
        rule,
    ]
    for name, (elbo, reconstruction, kl, log_likelihood) in scores.items():
        terms = f"{elbo:9.2f}{reconstruction:17.2f}{kl:8.2f}{log_likelihood:17.2f}"
        lines.append(f"{name:18}{terms}{seconds[name]:8.0f} s")
    return "\n".join([*lines, rule])


# %%
# The figure
# ----------
# One column for each model: where the held-out digits lie, how some look after a round trip
# through their codes, and what codes drawn from the prior decode to.


@torch.no_grad()
def column(name: str, vae: VAE, digits: Digits, score: Scores) -> Column:
    """What the figure shows of a model."""
    binary, labels = binarise_once(digits.test), digits.test_labels
    one_of_each = [int((labels == label).nonzero()[0]) for label in labels.unique()]
    decoded = vae.likelihood(vae.posterior(binary[one_of_each]).mode).mean
    return Column(
        title=name,
        subtitle=f"ELBO {score.elbo:.2f}, log likelihood {score.log_likelihood:.2f} nats",
        codes=vae.posterior(binary).mode,
        labels=labels,
        spherical=isinstance(vae, HypersphericalVAE),
        round_trips=torch.stack([digits.test[one_of_each], binary[one_of_each], decoded]),
        inventions=vae.likelihood(vae.prior().sample((4, 10))).mean,
    )


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train a variational autoencoder with codes on the sphere and a Gaussian one "
        "beside it on handwritten digits; print their scores on held-out digits and draw where "
        "the codes lie, what they decode to, and what draws from the prior decode to.",
        epilog="No image that the scores are computed on is used in training.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    text = "folder with the four idx files of MNIST, plain or .gz; else scikit-learn's digits"
    add("--data", metavar="DIR", type=Path, help=text)
    text = f"coordinates of a code; the sphere in space has 3 {default}"
    add("--dim", type=read_whole_number(2), default=3, help=text)
    text = f"rounds over the training images (default: {EPOCHS_DIGITS}; of MNIST: {EPOCHS_MNIST})"
    add("--epochs", type=read_whole_number(1), help=text)
    text = (
        f"'learned', one for each image, or a number >= 0 for all: then the KL is fixed {default}"
    )
    add("--concentration", metavar="C", type=read_concentration, default="learned", help=text)
    text = f"of weights, minibatches and draws {default}"
    add("--seed", type=read_whole_number(0, 2**32 - 1), default=0, help=text)
    text = f"the figure, a .png, .pdf or .svg file in a folder that exists {default}"
    add("--output", metavar="FILE", type=read_figure_name, default=f"{PROGRAM[:-3]}.png", help=text)
    return parser.parse_args(argv)


def read_concentration(text: str) -> float | None:
    """Read a concentration; None if it is to be learned."""
    if text == "learned":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected 'learned' or a number >= 0, got {text!r}")
    if value > MOST_CONCENTRATION:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_CONCENTRATION:g}, got {text!r}")
    return value


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Train both models, print the table, draw the figure; return the exit code."""
    options = parse(argv)
    digits = sklearn_digits() if options.data is None else mnist(options.data)
    epochs = options.epochs or (EPOCHS_DIGITS if options.data is None else EPOCHS_MNIST)
    pixels = digits.train.shape[-1]
    pyro.set_rng_seed(options.seed)
    gaussian = GaussianVAE(pixels, options.dim)  # first: the same whatever --concentration says
    spherical = HypersphericalVAE(pixels, options.dim, options.concentration)
    vaes: dict[str, VAE] = {"von Mises-Fisher": spherical, "Gaussian": gaussian}
    scores: dict[str, Scores] = {}
    seconds: dict[str, float] = {}
    for name, vae in vaes.items():
        pyro.set_rng_seed(options.seed)  # both models see the same minibatches
        seconds[name] = train(vae, digits, epochs, name)
        scores[name] = evaluate(vae, binarise_once(digits.test), DRAWS)
    print(table(scores, seconds, len(digits.test)))
    columns = [column(name, vae, digits, scores[name]) for name, vae in vaes.items()]
    draw_figure(options.output, columns)
    print(f"figure: {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
