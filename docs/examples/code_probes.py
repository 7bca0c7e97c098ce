r"""
What the code of a sentence holds
=================================

A sentence model with a code that carries 13 nats has put *something* into it. These are the probes
of Xu and Durrett (2018) for what:

- **Code to bag of words, and back.** A linear map is fitted from codes to bags of words, another
  one from bags to codes. The cosine between prediction and truth on held-out sentences, beside
  that of the best constant, tells how much of the one is in the other. A decoder that is given the
  bag (``bow``) leaves nothing of it for the code to tell.
- **Swapped neighbours.** Exchange two neighbouring words and encode again. A bag does not notice;
  a code that knows of order does. The table has the cosine between the two codes, and what the
  swap costs: by how many nats the reconstruction of the sentence gets worse with the code of its
  swapped twin.
- **A sweep over the concentration**, with a learned concentration beside it: how divergence and
  reconstruction trade, and which sum is the least.

Everything is measured at the mode of the posterior, on sentences that no model and no map has
seen. The script trains each model by ``sentence_vae.py``'s recipe, and needs the ``examples``
extra::

    python code_probes.py                               # sentences from a small grammar, 4 minutes
    python code_probes.py --data DIR --longest 15 --sentences 10000 --concentration 80

References:
    Xu and Durrett (2018), Spherical Latent Spaces for Stable Variational Autoencoders, EMNLP,
    arXiv:1808.10805, sections 6 and 7.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from _options import (
    MOST_CONCENTRATION,
    add_seed_and_output,
    ends_in_one_line,
    one_thread,
    prepare_to_write,
    read_number,
    read_whole_number,
    save_figure,
)
from _record import add_record
from _sentences import END, Corpus, Sentences, made_corpus, read_corpus
from _training import Place, train
from sentence_vae import (
    BATCH_SIZE,
    DRAWS,
    Scores,
    SentenceVAE,
    Widths,
    held_out_score,
    recipe,
    summary,
)

PROGRAM = "code_probes.py"
WIDTHS_MADE, WIDTHS = Widths(32, 96, 16), Widths(64, 128, 32)
FIXED = 40.0  # the concentration that the probes look at
SWEEP = (0.25, 0.5, 2.0, 4.0)  # times that
SWAPS = (1, 2, 3)
RIDGE = 1e-3  # of the linear maps, times the mean square of their inputs
CPU = torch.device("cpu")

# %%
# Codes and bags
# --------------


@torch.no_grad()
def codes(vae: SentenceVAE, sentences: Sentences) -> Tensor:
    """The mode of the posterior of each sentence, shape (n, dim)."""
    vae.eval()
    parts = torch.arange(len(sentences)).split(500)
    return torch.cat([vae.posterior(sentences[part]).mode for part in parts])


def bags(sentences: Sentences, words: int) -> Tensor:
    """The counts of each sentence's words as unit vectors, shape (n, words); no end markers."""
    counts = torch.zeros(len(sentences), words)
    counts.scatter_add_(1, sentences.words, sentences.mask().float())
    counts[:, END] = 0
    return normalize(counts, dim=-1)


def cosine_of_map(x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor) -> tuple[float, float]:
    """Fit a linear map from x to y; the mean cosine with the truth on new pairs.

    Returns:
        That of the map, and that of the best constant.
    """
    mean_x, mean_y = x.mean(0), y.mean(0)
    x = (x - mean_x).double()
    gram = x.mT @ x
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    weights = torch.linalg.solve(gram, x.mT @ (y - mean_y).double())
    predicted = ((new_x - mean_x).double() @ weights).to(y) + mean_y
    constant = normalize(y, dim=-1).mean(0)
    return (
        cosine_similarity(predicted, new_y, dim=-1).mean().item(),
        cosine_similarity(constant[None], new_y, dim=-1).mean().item(),
    )


# %%
# Swapped neighbours
# ------------------


def swapped(sentences: Sentences, count: int, seed: int) -> Sentences:
    """Exchange `count` pairs of neighbouring words in each sentence; no word takes part twice.

    Sentences too short for so many pairs have as many exchanged as they can hold.
    """
    generator = torch.Generator().manual_seed(seed)
    words = sentences.words.clone()
    for row, length in zip(words, (sentences.lengths - 1).tolist(), strict=True):
        free = torch.ones(max(0, length - 1), dtype=torch.bool)  # pairs that begin here
        for _ in range(count):
            if not free.any():
                break
            start = int(free.float().multinomial(1, generator=generator))
            row[[start, start + 1]] = row[[start + 1, start]]
            free[max(0, start - 1) : start + 2] = False
    return Sentences(words, sentences.lengths, sentences.labels)


@torch.no_grad()
def reconstruction(vae: SentenceVAE, sentences: Sentences, z: Tensor) -> float:
    """The mean log likelihood of sentences given codes, in nats."""
    vae.eval()
    parts = torch.arange(len(sentences)).split(500)
    return torch.cat([vae.log_likelihood(sentences[p], z[p]) for p in parts]).mean().item()


class Probes(NamedTuple):
    """What the probes find in one model."""

    to_bag: tuple[float, float]  # cosines: of the map, of a constant
    from_bag: tuple[float, float]
    swaps: tuple[float, ...]  # cosine with the code after 1, 2, ... swaps
    others: float  # cosine with the code of another sentence
    cost: float  # of the code after one swap, in nats of reconstruction


def probe(vae: SentenceVAE, corpus: Corpus, seed: int) -> Probes:
    """Fit the maps on the training sentences, and look at those held out."""
    words = len(corpus.vocabulary)
    z, new_z = codes(vae, corpus.train), codes(vae, corpus.test)
    bag, new_bag = bags(corpus.train, words), bags(corpus.test, words)
    twins = [codes(vae, swapped(corpus.test, count, seed)) for count in SWAPS]
    own, twin = (reconstruction(vae, corpus.test, code) for code in (new_z, twins[0]))
    return Probes(
        cosine_of_map(z, bag, new_z, new_bag),
        cosine_of_map(bag, z, new_bag, new_z),
        tuple(cosine_similarity(new_z, twin, dim=-1).mean().item() for twin in twins),
        cosine_similarity(new_z, new_z.roll(1, 0), dim=-1).mean().item(),
        own - twin,
    )


# %%
# Models
# ------


class Model(NamedTuple):
    """A model to train and what it came to."""

    law: str
    decoder: str
    vae: SentenceVAE
    scores: Scores


def fit(
    law: str, decoder: str, corpus: Corpus, widths: Widths, epochs: int, seed: int, name: str
) -> Model:
    """Train a model by the recipe of ``sentence_vae.py``, and score it."""
    torch.manual_seed(seed)
    labels = len(corpus.labels)
    vae = SentenceVAE(law, len(corpus.vocabulary), widths, decoder=decoder, labels=labels)
    dev = corpus.dev.batches(BATCH_SIZE)
    train(vae, recipe(corpus, epochs, seed), corpus.train, dev, name=name, where=Place(CPU))
    scores = summary(held_out_score(vae, corpus.test, DRAWS), corpus.test.tokens)
    return Model(law, decoder, vae, scores)


def probe_table(found: dict[str, Probes]) -> str:
    """The probes of all models as text; in brackets the best constant."""
    rule = "-" * 93
    swaps = (f"{count} swap{'s' * (count > 1)}" for count in SWAPS)
    maps = "".join(f"{head:>14}" for head in ("code to bag", "bag to code"))
    heads = maps + "".join(f"{head:>9}" for head in (*swaps, "other", "cost"))
    lines = [
        "Cosines: of the predictions of linear maps (in brackets: of the best constant); between",
        "the code of a sentence and that after swaps of neighbours, or of another sentence.",
        "Cost: nats that the reconstruction loses with the code after one swap.",
        rule,
        f"{'':20}{heads}",
        rule,
    ]
    for name, x in found.items():
        maps = "".join(f"{f'{a:.2f} ({b:.2f})':>14}" for a, b in (x.to_bag, x.from_bag))
        rest = "".join(f"{value:9.2f}" for value in (*x.swaps, x.others, x.cost))
        lines.append(f"{name:20}{maps}{rest}")
    return "\n".join([*lines, rule])


def sweep_table(models: Sequence[Model]) -> str:
    """The scores over the concentration as text."""
    rule = "-" * 60
    lines = [
        "Held-out sentences, nats each: NLL = reconstruction + KL.",
        rule,
        f"{'law':20}{'KL':>8}{'reconstruction':>16}{'NLL':>8}{'tight':>8}",
        rule,
    ]
    for law, _, _, scores in models:
        lines.append(
            f"{law:20}{scores.kl:8.2f}{scores.reconstruction:16.2f}{scores.nll:8.2f}"
            f"{scores.tight_nll:8.2f}"
        )
    return "\n".join([*lines, rule])


# %%
# The figure
# ----------

INK, GREY, PALE = "#222222", "#666666", "#c4c9d1"
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759")


def draw_figure(path: Path, found: dict[str, Probes], models: Sequence[Model]) -> None:
    """Swaps on the left, the sweep on the right."""
    figure = Figure(figsize=(11.5, 4.6), facecolor="white")
    left, right = figure.subplots(1, 2)
    for (name, x), colour in zip(found.items(), COLOURS, strict=True):
        left.plot((0, *SWAPS), (1.0, *x.swaps), marker="o", color=colour, label=name)
        left.axhline(x.others, color=colour, lw=1, ls=":")
    left.set_xticks((0, *SWAPS))
    left.set_xlabel("neighbours swapped")
    left.set_title("cosine with the code of the sentence (dotted: of another)", size=11, color=INK)
    left.legend(frameon=False)
    draw_sweep(right, models)
    for axes in (left, right):
        axes.grid(color=PALE, lw=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save_figure(figure, path, dpi=130)


def draw_sweep(axes: Axes, models: Sequence[Model]) -> None:
    """Divergence, reconstruction and their sum over the divergence that each model pays."""
    ordered = sorted(models, key=lambda model: model.scores.kl)
    kl = [model.scores.kl for model in ordered]
    for label, colour in (("reconstruction", COLOURS[1]), ("nll", COLOURS[0])):
        values = [getattr(model.scores, label) for model in ordered]
        name = "NLL = reconstruction + KL" if label == "nll" else label
        axes.plot(kl, values, marker="o", color=colour, label=name)
    for model in ordered:
        axes.annotate(
            model.law.replace("vmf:", "").replace("vmf", "learned"),
            (model.scores.kl, model.scores.nll),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            size=9,
            color=GREY,
        )
    axes.set_xlabel("KL divergence, nats; the numbers are concentrations")
    axes.set_title("nats per sentence", size=11, color=INK)
    axes.legend(frameon=False)


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train sentence models and look at what their codes hold: bags of words, "
        "order, and how much of either at which concentration.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    text = "as for sentence_vae.py; else made sentences"
    add("--data", metavar="PATH", type=Path, help=text)
    text = "leave out sentences with more words"
    add("--longest", metavar="N", type=read_whole_number(1), help=text)
    text = "train on the first so many sentences only"
    add("--sentences", metavar="N", type=read_whole_number(1), help=text)
    text = f"that the probes look at; the sweep goes from a quarter to four times this {default}"
    kind = read_number(0.01, MOST_CONCENTRATION)
    add("--concentration", metavar="C", type=kind, default=FIXED, help=text)
    text = f"rounds over the training sentences {default}"
    add("--epochs", type=read_whole_number(1), default=12, help=text)
    text = "file to add a line of JSON with all that was measured to"
    add("--record", metavar="FILE", type=Path, help=text)
    add_seed_and_output(parser)
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Train, probe, print, draw."""
    made = options.data is None
    corpus = (
        made_corpus()
        if made
        else read_corpus(options.data, longest=options.longest, most=options.sentences)
    )
    widths = WIDTHS_MADE if made else WIDTHS
    fixed = f"vmf:{options.concentration:g}"
    models: dict[tuple[str, str], Model] = {}

    def model(law: str, decoder: str) -> Model:
        if (law, decoder) not in models:
            name = f"{law}, {decoder}"
            arguments = corpus, widths, options.epochs, options.seed, name
            models[law, decoder] = fit(law, decoder, *arguments)
        return models[law, decoder]

    looked_at = [
        (fixed, "standard"),
        ("batch-norm", "standard"),
        (fixed, "bow"),
        ("batch-norm", "bow"),
    ]
    found = {f"{a}, {b}": probe(model(a, b).vae, corpus, options.seed) for a, b in looked_at}
    laws = [f"vmf:{options.concentration * factor:g}" for factor in SWEEP]
    sweep = [model(law, "standard") for law in (*laws[:2], fixed, *laws[2:], "vmf")]
    print(probe_table(found))
    print(sweep_table(sweep))
    if options.record is not None:
        add_record(
            options.record,
            CPU,
            epochs=options.epochs,
            seed=options.seed,
            widths=widths._asdict(),
            sentences=len(corpus.train),
            probes={name: probes._asdict() for name, probes in found.items()},
            sweep={model.law: model.scores._asdict() for model in sweep},
        )
    draw_figure(options.output, found, sweep)
    print(f"figure: {options.output}")


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the options ask for; return the exit code."""
    options = parse(argv)
    prepare_to_write(None, options.record)
    with one_thread():
        run(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
