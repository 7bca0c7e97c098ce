r"""
The vanishing KL, and four ways with it
=======================================

The objective of a variational autoencoder charges for what a code tells: the divergence of its
posterior from the prior, in nats. A decoder that sees the words so far can write well without the
code, and early in the training the code tells nothing yet, so that the cheapest thing to do is to
make every posterior the prior. From there on the decoder learns to ignore the code, and no gradient
leads back. The divergence has vanished, and the model is a language model with noise for an input.

This script lets that happen, on purpose, and shows what is done about it. The same networks learn
the same sentences five times, and only the code differs:

- a Gaussian code, whose divergence vanishes;
- the same with the weight of the divergence raised slowly (Bowman et al. 2016);
- the same with its means normalised over each minibatch (Zhu et al. 2020);
- a von Mises-Fisher code of fixed concentration, whose divergence is a constant (Xu and Durrett
  2018);
- a von Mises-Fisher code whose concentration is learned, and falls as low as it is let: nothing
  in the sphere itself keeps a code in use, the fixed concentration does.

A divergence above zero is not yet a code that is used. So each held-out sentence is also written
with the code of *another* sentence: where codes are used, that costs log likelihood, and where they
are not, nothing. The script prints both, draws the course of the training, and ends with exit code
1 unless the plain Gaussian's divergence is below 0.1 nats, with a cost below that too, while
another's code costs 1 nat a sentence or more with each of the three remedies. It needs the
``examples`` extra, and wants ``sentence_vae.py`` and the modules with an underscore beside it::

    python vanishing_kl.py                     # sentences from a small grammar, 3 minutes
    python vanishing_kl.py --data train.txt    # the first 10 000 short sentences of a text

**Word dropout.** In training every decoder alike has a share of the previous words hidden from it,
as Bowman et al. did beside annealing. The plain Gaussian's divergence vanishes all the same.
Without it (``--word-dropout 0``) annealing only delays: once the weight is whole, the annealed
one's divergence falls from epoch to epoch, and after 20 of them is between 0.4 and 0.9 nats with
three seeds, on its way down; with it, it stays at 2 nats or more.

**What to take home.** A code that is used does not make a better likelihood. On the small grammar
the models whose divergence vanished have the smallest sum of the two terms: here the words so far
say nearly all that a code could. What the remedies buy is a code to work with, at a known price.

References:
    Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio (2016), Generating Sentences from a
    Continuous Space, CoNLL, arXiv:1511.06349. Xu and Durrett (2018), Spherical Latent Spaces for
    Stable Variational Autoencoders, EMNLP, arXiv:1808.10805. Zhu, Bi, Liu, Ma, Li and Wu (2020), A
    Batch Normalized Inference Network Keeps the KL Vanishing Away, ACL, arXiv:2004.12585.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from _options import (
    MOST_CONCENTRATION,
    add_seed_and_output,
    ends_in_one_line,
    one_thread,
    prepare_to_write,
    read_device,
    read_number,
    read_whole_number,
)
from _record import add_record
from _sentences import Corpus, Sentences, made_corpus, read_corpus
from _training import Epoch, Place, train
from sentence_vae import BATCH_SIZE, SentenceVAE, Widths, draw_figure, recipe

PROGRAM = "vanishing_kl.py"
WIDTHS_MADE, WIDTHS = Widths(32, 96, 16), Widths(100, 128, 32)
DRAWS = 5  # of the code of each held-out sentence
VANISHED = 0.1  # nats: a divergence below it, and a cost of another's code below it
USED = 1.0  # nats a sentence: a cost of another's code from which on codes are used

# %%
# The models
# ----------


class Trial(NamedTuple):
    """A model of the demonstration."""

    law: str
    anneal: int = 0  # the step at which the KL has half its weight
    expected: bool | None = None  # whether its codes should be used; None where nothing is claimed


def trials(concentration: float, anneal: int) -> dict[str, Trial]:
    """The five models."""
    return {
        "Gaussian": Trial("gaussian", expected=False),
        "Gaussian, annealed": Trial("gaussian", anneal, expected=True),
        "Gaussian, batch norm": Trial("batch-norm", expected=True),
        "vMF, fixed": Trial(f"vmf:{concentration:g}", expected=True),
        "vMF, learned": Trial("vmf"),
    }


def fit(
    name: str, trial: Trial, corpus: Corpus, options: argparse.Namespace
) -> tuple[SentenceVAE, list[Epoch]]:
    """Train a model."""
    pyro.set_rng_seed(options.seed)
    widths = WIDTHS_MADE if options.data is None else WIDTHS
    vae = SentenceVAE(
        trial.law, len(corpus.vocabulary), widths, word_dropout=options.word_dropout
    ).to(options.device)
    history = train(
        vae,
        recipe(corpus, options.epochs, options.seed, trial.anneal),
        corpus.train,
        corpus.dev.batches(BATCH_SIZE),
        name=name,
        where=Place(options.device),
    )
    return vae, history


# %%
# Is the code used?
# -----------------
# The test needs no threshold on the divergence: give each sentence the code of another one, and
# see what that costs.


class Use(NamedTuple):
    """Means over the held-out sentences, in nats per sentence."""

    kl: float
    reconstruction: float  # minus the log likelihood given a sentence's own code
    swapped: float  # the same given the code of another sentence

    @property
    def cost(self) -> float:
        """What another's code costs."""
        return self.swapped - self.reconstruction


def swap(z: Tensor) -> Tensor:
    """The codes (draws, n, dim) in another order of the sentences, which leaves none its own."""
    order = torch.randperm(z.shape[1], device=z.device)
    swapped = torch.empty_like(z)
    swapped[:, order] = z[:, order.roll(1)]
    return swapped


@torch.no_grad()
def measure(vae: SentenceVAE, sentences: Sentences, draws: int = DRAWS) -> Use:
    """How a model uses its codes."""
    vae.eval()
    places = torch.arange(len(sentences)).split(BATCH_SIZE)
    posteriors = [vae.posterior(sentences[place]) for place in places]
    kl = torch.cat([kl_divergence(posterior, vae.code.prior()) for posterior in posteriors])
    own = torch.cat([posterior.sample((draws,)) for posterior in posteriors], dim=1)

    def loss(z: Tensor) -> float:
        total = sum(
            vae.log_likelihood(sentences[place], z_draw[place]).double().sum().item()
            for place in places
            for z_draw in z
        )
        return -total / (draws * len(sentences))

    return Use(kl.double().mean().item(), loss(own), loss(swap(own)))


def as_claimed(trial: Trial, use: Use) -> bool:
    """Whether a model does what is said of it."""
    if trial.expected is None:
        return True
    return use.cost >= USED if trial.expected else max(use.kl, use.cost) < VANISHED


def table(models: dict[str, Trial], uses: dict[str, Use], corpus: Corpus) -> str:
    """What all models make of their codes, as text."""
    rule = "-" * 86
    lines = [
        f"{len(corpus.train):,} training sentences; {len(corpus.test):,} held out, nats per "
        "sentence.",
        "Reconstruction: minus the log likelihood given the sentence's own code, or another's.",
        rule,
        f"{'':22}{'KL':>8}{'own code':>12}{'another':>11}{'its cost':>12}   the code",
        rule,
    ]
    for name, use in uses.items():
        word = "is used" if use.cost >= USED else "is not used" if use.cost < VANISHED else "hardly"
        mark = "" if as_claimed(models[name], use) else "  NOT AS CLAIMED"
        lines.append(
            f"{name:22}{use.kl:8.2f}{use.reconstruction:12.2f}{use.swapped:11.2f}"
            f"{use.cost:12.2f}   {word}{mark}"
        )
    return "\n".join([*lines, rule])


# %%
# The command
# -----------


def reconstruction(line: Epoch) -> float:
    """Minus the log likelihood of the dev set given its codes."""
    return -line.dev_reconstruction


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Let the KL of a Gaussian sentence autoencoder vanish, train the remedies "
        "beside it, print whether their codes are used, and draw the course of the training.",
        epilog="The exit code is 1 if the plain Gaussian's KL does not vanish or a remedy's codes "
        "are not used.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    text = "text with a sentence to a line, as sentence_vae.py reads it; else made sentences"
    add("--data", metavar="PATH", type=Path, help=text)
    text = f"of --data, leave out sentences with more words {default}"
    add("--longest", metavar="N", type=read_whole_number(1), default=15, help=text)
    text = f"of --data, train on the first so many {default}"
    add("--sentences", metavar="N", type=read_whole_number(2), default=10_000, help=text)
    text = f"of the von Mises-Fisher codes that are fixed {default}"
    kind = read_number(0, MOST_CONCENTRATION)
    add("--concentration", metavar="C", type=kind, default=20.0, help=text)
    text = f"step of the training at which the annealed KL has half its weight {default}"
    add("--anneal", metavar="STEP", type=read_whole_number(1), default=800, help=text)
    text = f"share of previous words that training hides from every decoder {default}"
    add("--word-dropout", metavar="SHARE", type=read_number(0, 1), default=0.4, help=text)
    text = f"rounds over the training sentences {default}"
    add("--epochs", type=read_whole_number(1), default=20, help=text)
    add("--device", type=read_device, default="cpu", help=f"where to train {default}")
    text = "file to add a line of JSON with the result of each model to"
    add("--record", metavar="FILE", type=Path, help=text)
    add_seed_and_output(parser)
    return parser.parse_args(argv)


def corpus_of(options: argparse.Namespace) -> Corpus:
    """The sentences that the options ask for."""
    if options.data is None:
        return made_corpus()
    return read_corpus(options.data, longest=options.longest, most=options.sentences)


def demonstrate(options: argparse.Namespace) -> bool:
    """Train all models, print the table, draw the figure; return whether all is as claimed."""
    corpus = corpus_of(options).to(options.device)
    models = trials(options.concentration, options.anneal)
    uses: dict[str, Use] = {}
    histories: dict[str, list[Epoch]] = {}
    for name, trial in models.items():
        vae, histories[name] = fit(name, trial, corpus, options)
        uses[name] = measure(vae, corpus.test)
        if options.record is not None:
            add_record(
                options.record,
                options.device,
                name=name,
                law=trial.law,
                anneal=trial.anneal,
                word_dropout=options.word_dropout,
                dim=vae.code.dim,
                epochs=options.epochs,
                seed=options.seed,
                scores=uses[name]._asdict() | {"cost": uses[name].cost},
                seconds=histories[name][-1].seconds,
                history=[line._asdict() for line in histories[name]],
            )
    print(table(models, uses, corpus))
    draw_figure(
        options.output, histories, reconstruction, "reconstruction: log loss given the code"
    )
    print(f"figure: {options.output}")
    return all(as_claimed(models[name], use) for name, use in uses.items())


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the options ask for; return the exit code."""
    options = parse(argv)
    small = options.data is None and options.device.type == "cpu"
    prepare_to_write(None, options.record)
    with one_thread() if small else nullcontext():
        shown = demonstrate(options)
    print("as claimed" if shown else "NOT AS CLAIMED")
    return 0 if shown else 1


if __name__ == "__main__":
    raise SystemExit(main())
