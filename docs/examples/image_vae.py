r"""
Which law for the code of an image?
===================================

The code of a variational autoencoder can have many laws. This script trains one autoencoder for
each, with everything else the same, and prints what each is worth on digits that none has seen:

``vmf``
    von Mises-Fisher on the sphere, a concentration for each image (Davidson et al. 2018);
``vmf:40``
    the same with one concentration for all images, so that the KL is a constant (Xu and Durrett
    2018, Su 2021);
``power-spherical``
    its cheaper relative (De Cao and Aziz 2020), which may have a fixed concentration as well;
``vmf x 5``
    five spheres with equal shares of the dimensions, and a concentration for each of them
    (Davidson, Tomczak and Gavves 2019): one concentration has to serve all directions of a sphere;
``gaussian``
    diagonal normal, in as many dimensions as the sphere has; ``batch-norm`` holds its KL above
    zero (Zhu et al. 2020).

It needs the ``examples`` extra and the modules with a leading underscore beside it::

    python image_vae.py                                  # scikit-learn's 8 x 8 digits
    python image_vae.py --particles 5                    # importance-weighted autoencoders
    python image_vae.py --data DIR --dim 6 --checkpoint runs       # MNIST; goes on if killed
    python image_vae.py --data DIR --dim 3 --dim 6 --dim 11 --law vmf --law gaussian
    python image_vae.py --data DIR --dim 41 --law "vmf x 5" --law "vmf x 8"     # on S^8, on S^5
    torchrun --nproc-per-node 2 image_vae.py --data DIR  # two processes share each minibatch

**Equal dimensions.** ``--dim`` is the number of coordinates of a code on the sphere. That sphere
has one dimension fewer, and the Gaussian gets as many coordinates as the sphere has dimensions, as
in Davidson et al. (2018): their dimension 5 is ``--dim 6`` here, with five coordinates for the
Gaussian. Several spheres have as many dimensions together, 40 of ``--dim 41`` as five times eight,
which takes 45 coordinates. ``hyperspherical_vae.py`` compares at equal numbers of coordinates
instead.

**The recipe.** An encoder 784-256-128, a decoder that mirrors it, Bernoulli pixels. Each minibatch
is made black and white afresh; the digits for dev and test are made black and white once, with a
fixed seed. Adam trains on the ELBO with the KL in closed form, which is phased in over the first
steps; the weights with the best ELBO on the dev set are kept. With ``--particles K`` it trains on
the importance-weighted bound instead (Burda et al. 2016).

**The fixed concentration** decides how many nats of an image pass through its code: as it is fixed,
so is the KL. How many are worth while depends on the images, so the default does too: 40 on the
small digits, 400 on MNIST. Both are within a factor of two of where learned concentrations end, 23
in the mean on the small digits in space and 650 on MNIST in :math:`\mathbb{R}^6`. Give another
as ``--law vmf:20``.

**The log likelihood** is estimated by the importance-weighted bound, which is the ELBO at one draw
of the code and grows with their number; the table shows it grow. How fast depends on the law: a
power spherical density is zero opposite its mean, so that its importance weights mostly have no
variance, where those of a von Mises-Fisher law are bounded.

References:
    Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, ICLR,
    arXiv:1509.00519. Davidson, Falorsi, De Cao, Kipf and Tomczak (2018), Hyperspherical Variational
    Auto-Encoders, UAI, arXiv:1804.00891. Davidson, Tomczak and Gavves (2019), Increasing
    Expressivity of a Hyperspherical VAE, arXiv:1910.02912. De Cao and Aziz (2020), The Power
    Spherical Distribution, arXiv:2006.04437. Su (2021), https://spaces.ac.cn/archives/8404. Xu and
    Durrett (2018), Spherical Latent Spaces for Stable Variational Autoencoders, EMNLP,
    arXiv:1808.10805. Zhu et al. (2020), A Batch Normalized Inference Network Keeps the KL Vanishing
    Away, ACL, arXiv:2004.12585.
"""  # noqa: D205, D212

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.functional import normalize, silu
from torch.optim import Adam
from tqdm import tqdm

from _digits import HIDDEN, Digits, binarise, binarise_once, mlp, mnist, sklearn_digits
from _latent_figure import Column, draw_figure
from _options import (
    add_seed_and_output,
    add_training_options,
    ends_in_one_line,
    one_thread,
    prepare_to_write,
    read_whole_number,
)
from _record import add_record
from _training import Epoch, Place, Recipe, digest, place, train, warm_up
from _vae import VAE, ImportanceWeightedELBO, Terms, make_code, parts, read_product, score

PROGRAM = "image_vae.py"
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
WARM_UP = 400  # steps
EPOCHS_DIGITS, EPOCHS_MNIST = 60, 15
LAWS_DIGITS = ("vmf", "vmf:40", "power-spherical", "gaussian")
LAWS_MNIST = ("vmf", "vmf:400", "power-spherical", "gaussian")
BOUNDS = (1, 5, 50, 500)  # draws of the code for each image; Davidson et al. (2018) took 500
AT_ONCE = 200  # images in the evaluation, with ten codes each: 6 MiB of decoded pixels
STEPS = 10  # from one digit to another in the figure
NAMES = {
    "vmf": "von Mises-Fisher",
    "power-spherical": "power spherical",
    "spherical-cauchy": "spherical Cauchy",
    "gaussian": "Gaussian",
    "batch-norm": "Gaussian, batch norm",
}

# %%
# The model
# ---------
# The law of the code comes from ``_vae.py``, and with it Pyro's model and guide. What is left to
# say is how an image is encoded and how a code is decoded.


class ImageVAE(VAE):
    """Fully connected networks and Bernoulli pixels."""

    def __init__(self, pixels: int, law: str, dim: int) -> None:
        """Build the networks.

        Args:
            pixels: the number of pixels of an image.
            law: of the code, as :func:`read_product` accepts it.
            dim: the number of coordinates of a code.
        """
        super().__init__(make_code(law, HIDDEN[-1], dim))
        nn.init.kaiming_normal_(self.code.head.weight)
        nn.init.zeros_(self.code.head.bias)
        self.encoder = mlp(pixels, *HIDDEN)
        self.decoder = mlp(dim, *reversed(HIDDEN), pixels)

    def features(self, batch: Tensor) -> Tensor:
        """What the encoder's hidden layers make of each image."""
        return silu(self.encoder(batch))

    def likelihood(self, z: Tensor) -> dist.TorchDistribution:
        """The law of the image of each code."""
        return dist.Bernoulli(logits=self.decoder(self.code.spread_out(z))).to_event(1)

    def log_likelihood(self, batch: Tensor, z: Tensor) -> Tensor:
        """The log probability of each image given its code."""
        return self.likelihood(z).log_prob(batch)


def coordinates(law: str, dim: int) -> int:
    """How many coordinates give a law as many dimensions as the sphere in R^dim has."""
    return dim - 1 + parts(law).spheres


def title(law: str) -> str:
    """The name of a law, in words."""
    name, concentration, spheres = parts(law)
    several = f" x {spheres}" if spheres > 1 else ""
    fixed = "" if concentration is None else f", fixed {concentration:g}"
    return f"{NAMES[name]}{several}{fixed}"


# %%
# Training
# --------
# With one particle the ELBO takes its KL in closed form, so that only the reconstruction is
# estimated from a draw; with more, all of the importance-weighted bound is.


class Flickering:
    """Grey images that are made black and white afresh whenever they are looked at."""

    def __init__(self, images: Tensor) -> None:
        """Keep the grey images."""
        self.images = images

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Tensor:
        """These images, each pixel white with the probability of its brightness."""
        return binarise(self.images[index])


class Trained(NamedTuple):
    """A model and how it came about."""

    law: str
    vae: ImageVAE
    history: list[Epoch]

    @property
    def seconds(self) -> float:
        """The time that the training took."""
        return self.history[-1].seconds


@one_thread()
def fit(law: str, dim: int, digits: Digits, options: argparse.Namespace, where: Place) -> Trained:
    """Train a model, or go on from its checkpoint."""
    torch.manual_seed(options.seed)
    vae = ImageVAE(digits.train.shape[-1], law, dim).to(where.device)
    k = options.particles
    recipe = Recipe(
        elbo=TraceMeanField_ELBO() if k == 1 else ImportanceWeightedELBO(k),
        optimizer=partial(Adam, lr=LEARNING_RATE),
        epochs=options.epochs,
        batch_size=BATCH_SIZE,
        seed=options.seed,
        kl_weight=warm_up(WARM_UP),
    )
    name = f"{law}, dim {dim}"
    settings = {
        "data": f"{' x '.join(map(str, digits.train.shape))} {digest(digits.train, digits.dev)}",
        "law": law,
        "dim": dim,
        "seed": options.seed,
        "particles": k,
    }
    history = train(
        vae,
        recipe,
        Flickering(digits.train.to(where.device)),
        binarise_once(digits.dev).to(where.device).split(AT_ONCE),
        name=name,
        where=where,
        checkpoint=options.checkpoint
        and options.checkpoint / f"{law.replace(':', '-').replace(' ', '-')}-dim-{dim}.pt",
        settings=settings,
    )
    return Trained(law, vae.eval(), history)


# %%
# Scores
# ------


class Scores(NamedTuple):
    """Means over the held-out images, in nats per image."""

    elbo: float
    reconstruction: float
    kl: float
    bounds: dict[int, float]  # the importance-weighted bound by its number of draws

    @property
    def log_likelihood(self) -> float:
        """The tightest bound."""
        return self.bounds[max(self.bounds)]


@one_thread()
def evaluate(vae: VAE, images: Tensor, seed: int) -> Scores:
    """Score a model on binary images; each bound has draws of its own."""
    torch.manual_seed(seed)
    batches = images.split(AT_ONCE)
    bounds: dict[int, float] = {}
    for draws in BOUNDS:
        bar = tqdm(batches, desc=f"  bound of {draws} draws", leave=False, delay=2)
        terms: Terms = score(vae, bar, draws)
        bounds[draws] = terms.log_likelihood.mean().item()
    # the last has the most draws
    means = (x.mean().item() for x in (terms.elbo, terms.reconstruction, terms.kl))
    return Scores(*means, bounds)


def table(scores: dict[tuple[int, str], Scores], runs: dict[tuple[int, str], Trained]) -> str:
    """The scores of all models, by dimension."""
    rule = "-" * 100
    lines = [
        f"{'':61}{'bound of the log likelihood by draws':<39}",
        f"{'':28}{'ELBO':>9}{'reconstruction':>16}{'KL':>7}"
        + "".join(f"{draws:>8}" for draws in BOUNDS)
        + f"{'training':>10}",
    ]
    for (dim, law), (elbo, reconstruction, kl, by_draws) in scores.items():
        heading = f"{dim - 1} dimensions: a sphere in R^{dim}, a Gaussian in R^{dim - 1}"
        if heading not in lines:
            lines += [rule, heading]
        lines.append(
            f"  {title(law):26}{elbo:9.2f}{reconstruction:16.2f}{kl:7.2f}"
            + "".join(f"{bound:8.2f}" for bound in by_draws.values())
            + f"{runs[dim, law].seconds:8.0f} s"
        )
    return "\n".join([*lines, rule])


# %%
# The figure
# ----------
# One column for each law: where the held-out digits lie, how some look after a round trip through
# their codes, what draws from the prior decode to, and what lies between two digits.


@torch.no_grad()
def column(law: str, vae: ImageVAE, digits: Digits, score: Scores) -> Column:
    """What the figure shows of a model."""
    binary, labels = binarise_once(digits.test), digits.test_labels
    one_of_each = [int((labels == label).nonzero()[0]) for label in labels.unique()]
    spherical, codes = parts(law).spheres > 0, vae.posterior(binary).mode
    shown = codes[one_of_each]
    between = path(shown[:-1:2], shown[1::2], STEPS, spherical)
    return Column(
        title=title(law),
        subtitle=f"ELBO {score.elbo:.2f}, log likelihood {score.log_likelihood:.2f} nats",
        codes=codes.flatten(1),
        labels=labels,
        spherical=spherical,
        round_trips=torch.stack(
            [digits.test[one_of_each], binary[one_of_each], vae.likelihood(shown).mean]
        ),
        inventions=vae.likelihood(vae.code.prior().sample((4, STEPS))).mean,
        between=vae.likelihood(between).mean,
    )


def path(start: Tensor, end: Tensor, steps: int, spherical: bool) -> Tensor:
    """Points from start to end, shape (n, steps, ..., dim), at a constant pace.

    On a sphere they follow the great circle; opposite ends, which many join, are not for it.
    """
    start, end = start.unsqueeze(1), end.unsqueeze(1)
    t = torch.linspace(0, 1, steps, dtype=start.dtype).reshape(-1, *[1] * (start.dim() - 2))
    if not spherical:
        return start + t * (end - start)
    # the angle from two chords: exact where start and end are near, as the arc cosine is not
    chord, other = ((end - sign * start).norm(dim=-1, keepdim=True) for sign in (1, -1))
    angle = t * 2 * torch.atan2(chord, other)
    onward = normalize(end - (start * end).sum(-1, keepdim=True) * start, dim=-1)
    return angle.cos() * start + angle.sin() * onward


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train variational autoencoders of handwritten digits that differ in the law "
        "of the code; print their scores on held-out digits, and draw where the codes lie and "
        "what they decode to.",
        epilog="No image that the scores are computed on is used in training.",
    )
    add = parser.add_argument
    text = "folder with the four idx files of MNIST, plain or .gz; else scikit-learn's digits"
    add("--data", metavar="DIR", type=Path, help=text)
    text = (
        "of the code: gaussian, batch-norm, vmf, power-spherical or spherical-cauchy (by its "
        "distance), the last three also with "
        "':CONCENTRATION' and with ' x SPHERES', as 'vmf x 5', that share the dimensions; may be "
        f"given several times (default: {', '.join(LAWS_DIGITS)}; with MNIST {LAWS_MNIST[1]})"
    )
    add("--law", action="append", type=read_product, help=text)
    text = (
        "coordinates of a code on the sphere, which has one dimension fewer; a Gaussian code has "
        "as many as the sphere has dimensions; may be given several times (default: 3)"
    )
    add("--dim", action="append", type=read_whole_number(2), help=text)
    text = f"rounds over the training images (default: {EPOCHS_DIGITS}; of MNIST: {EPOCHS_MNIST})"
    add("--epochs", type=read_whole_number(1), help=text)
    text = "draws of the bound that is trained on; 1 is the ELBO (default: %(default)s)"
    add("--particles", metavar="K", type=read_whole_number(1), default=1, help=text)
    add_training_options(parser)
    add_seed_and_output(parser)
    options = parser.parse_args(argv)
    mnist = options.data is not None
    # argparse would append to a default that is a list
    options.law = list(dict.fromkeys(options.law or (LAWS_MNIST if mnist else LAWS_DIGITS)))
    options.dim = list(dict.fromkeys(options.dim or [3]))
    for dim, law in product(options.dim, options.law):
        if (dim - 1) % max(parts(law).spheres, 1):
            parser.error(
                f"argument --law: the spheres of {law!r} share the dimensions equally, and "
                f"--dim {dim} has {dim - 1} of them"
            )
    options.epochs = options.epochs or (EPOCHS_MNIST if mnist else EPOCHS_DIGITS)
    return options


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Train all models, print the table, draw the figure; return the exit code."""
    options = parse(argv)
    digits = sklearn_digits() if options.data is None else mnist(options.data)
    prepare_to_write(options.checkpoint, options.record)
    with place(options.device) as where:
        run(digits, options, where)
    return 0


def run(digits: Digits, options: argparse.Namespace, where: Place) -> None:
    """Train every law in every dimension; the process that speaks scores, prints and draws."""
    runs: dict[tuple[int, str], Trained] = {}
    scores: dict[tuple[int, str], Scores] = {}
    test = binarise_once(digits.test).to(where.device)
    for dim in options.dim:
        for law in options.law:
            trained = fit(law, coordinates(law, dim), digits, options, where)
            if not where.speaks:
                continue
            runs[dim, law] = trained
            scores[dim, law] = evaluate(trained.vae, test, options.seed)
            if options.record is not None:
                add_record(
                    options.record,
                    where.device,
                    program=PROGRAM,
                    data="digits" if options.data is None else "MNIST",
                    law=law,
                    dim=coordinates(law, dim),
                    dimensions=dim - 1,
                    epochs=len(trained.history),
                    seed=options.seed,
                    particles=options.particles,
                    scores=scores[dim, law]._asdict(),
                    seconds=trained.seconds,
                    history=[line._asdict() for line in trained.history],
                )
    if where.speaks:
        print(f"{len(test):,} held-out digits, nats per image. ELBO = reconstruction - KL.")
        print(table(scores, runs))
        first = options.dim[0]
        columns = [
            column(law, runs[first, law].vae.cpu(), digits, scores[first, law])
            for law in options.law
        ]
        draw_figure(options.output, columns)
        print(f"figure: {options.output}")


if __name__ == "__main__":
    raise SystemExit(main())
