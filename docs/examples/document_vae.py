r"""
What is a document about?
=========================

A document as a bag of words is a point in thousands of dimensions, one for each word of the
vocabulary. The neural variational document model squeezes it into a short code, from which one
softmax over the vocabulary says how likely each word is (Miao et al. 2016). Here the code is a
direction with a von Mises-Fisher posterior of fixed concentration, as in Xu and Durrett (2018), and
a Gaussian one beside it: the same networks, budget and minibatches for both.

It needs the ``examples`` extra and the modules with a leading underscore beside it::

    python document_vae.py                              # documents that the script makes
    python document_vae.py --data 20ng --checkpoint runs        # 20 Newsgroups; goes on if killed
    python document_vae.py --data 20ng --optimizer adam --log-counts --law vmf:100 --law gaussian
    torchrun --nproc-per-node 2 document_vae.py --data 20ng     # two share each minibatch

**The data** are a folder with ``train.feat``, ``test.feat`` and ``vocab.new``, plain or with .gz
behind their names. A line of the first two is a document, ``label id:count id:count ...``; the
first id is 1, and line 1 of ``vocab.new`` begins with its word. That is how the bags of words of
20 Newsgroups go round (11,268 documents to train, 7,505 to test, 2,000 words) and those of the
Reuters corpus RCV1, which only its publisher may hand out. Only the words that a document has are
kept in memory. Labels serve the lists of words and the figure; no model sees them.

Without ``--data`` the script makes documents by latent Dirichlet allocation (Blei et al. 2003) with
eight topics of everyday words, so that a glance at the words that it prints tells right from wrong.

**The recipe** is that of Xu and Durrett: one hidden layer of 400 on both sides, minibatches of 50,
three draws of each code, gradients cut to length 1, steps along them of rate 1, or those of Adam
with ``--optimizer adam``. Dropout is heavier than theirs, one half of either hidden layer: with a
tenth, the model soon begins to know the training documents by heart.

**A caution.** The recipe was made for directions. Counts enter as they are, and a long document has
large ones: that leaves a direction alone but carries a Gaussian far out, where steps of rate 1 make
its training jump. What the Gaussian scores so tells of the recipe, not of the law. Compare the two
under ``--log-counts --optimizer adam``, which suits both.

**What is watched.** The weights are kept that do best on a tenth of the *training* documents, which
is not trained on. It is the last tenth of each label: newsgroups are filed by date and their test
documents come after all others, so that the next best thing to the test is the end of the training
set. A tenth drawn at random shares its threads with the rest, and flatters the model. The authors'
own program watches a thousand of the test documents.

**Perplexity** is what a word costs: the number of equally likely words among which a choice would
be as hard. There are two ways to take the mean,

.. math::

    \exp \frac{\sum_i L_i}{\sum_i n_i} \quad \text{(by word)} \qquad \text{and} \qquad
    \exp \Bigl( \frac1N \sum_i \frac{L_i}{n_i} \Bigr) \quad \text{(by document)},

for documents of :math:`n_i` words and losses :math:`L_i`. In the second a short document weighs as
much as a long one, and its words cost more: they say less about the topic, and fewer of them share
the KL of the code, which is the same for all documents where the concentration is fixed. On 20
Newsgroups the second is then more than a fifth larger, so that a figure is worth little unless it
says which of the two it is.

**The loss** is minus the ELBO, its reconstruction a mean over draws of one code at a time, or minus
the importance-weighted bound, which is tighter. The words are taken in their order: there is no
multinomial coefficient, as in the papers; with it the perplexity would be smaller.

References:
    Blei, Ng and Jordan (2003), Latent Dirichlet Allocation, JMLR 3. Miao, Yu and Blunsom (2016),
    Neural Variational Inference for Text Processing, ICML, arXiv:1511.06038. Xu and Durrett
    (2018), Spherical Latent Spaces for Stable Variational Autoencoders, EMNLP, arXiv:1808.10805.
"""  # noqa: D205, D212

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import SGD, Adam
from tqdm import tqdm

from _documents import Documents, made_documents, made_words, read_documents, read_vocabulary
from _options import (
    DataError,
    add_seed_and_output,
    add_training_options,
    ends_in_one_line,
    one_thread,
    prepare_to_write,
    read_whole_number,
    save_figure,
)
from _record import add_record
from _training import Epoch, Place, Recipe, digest, place, train
from _vae import VAE, make_code, read_law, score
from vmfdist import HypersphericalUniform

PROGRAM = "document_vae.py"
HIDDEN = 400
DROPOUT = 0.5  # of both hidden layers, in training
BATCH_SIZE = 50
PARTICLES = 3  # draws of a code in training
CLIP = 1.0  # the gradient's largest length
OPTIMIZERS = {"sgd": partial(SGD, lr=1.0), "adam": partial(Adam, lr=1e-3)}
DRAWS = 100  # of the code of each test document, in the scores
AT_ONCE = 250  # documents in the evaluation, with ten codes each: 20 MB of logits for 2,000 words
LAWS_MADE, LAWS_DATA = ("vmf:40", "gaussian"), ("vmf:100", "gaussian")
DIM_MADE, DIM_DATA = 8, 25
EPOCHS_MADE, EPOCHS_DATA = 40, 60
WATCHED = 10  # one in so many of the documents to train on

# %%
# The model
# ---------
# The law of the code comes from ``_vae.py``, and with it Pyro's model and guide. What is left to
# say is how a document is encoded and how a code is decoded.


class DocumentVAE(VAE):
    """A hidden layer on either side of the code, and a softmax over the vocabulary."""

    def __init__(self, vocabulary: int, law: str, dim: int, *, log_counts: bool = False) -> None:
        """Build the networks.

        Args:
            vocabulary: the number of different words.
            law: of the code, as :func:`read_law` accepts it.
            dim: the number of coordinates of a code.
            log_counts: whether the encoder takes log(1 + count) in place of the count.
        """
        super().__init__(make_code(law, HIDDEN, dim))
        self.log_counts = log_counts
        self.encoder = nn.Sequential(nn.Linear(vocabulary, HIDDEN), nn.SiLU(), nn.Dropout(DROPOUT))
        self.decoder = nn.Sequential(
            nn.Linear(dim, HIDDEN),
            nn.SiLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, vocabulary),
        )

    def features(self, batch: Tensor) -> Tensor:
        """What the hidden layer makes of the counts of each document."""
        return self.encoder(batch.log1p() if self.log_counts else batch)

    def logits(self, z: Tensor) -> Tensor:
        """The words' log probabilities given a code, up to a constant for each code."""
        return self.decoder(self.code.spread_out(z))

    def log_likelihood(self, batch: Tensor, z: Tensor) -> Tensor:
        """The log probability of the words of each document, in their order, given its code."""
        logits = self.logits(z)
        return (batch * logits).sum(-1) - batch.sum(-1) * logits.logsumexp(-1)


# %%
# Documents
# ---------


class Corpus(NamedTuple):
    """Documents and the vocabulary that they share."""

    train: Documents
    dev: Documents  # watched during training, never trained on
    test: Documents
    words: list[str]


def read_corpus(folder: Path) -> Corpus:
    """Read a folder of documents; some of those to train on are set aside to be watched.

    Raises:
        DataError: a file is missing, damaged or not what it should be, with the line.
    """
    words = read_vocabulary(folder / "vocab.new")
    path, documents = read_documents(folder / "train.feat", len(words))
    _, test = read_documents(folder / "test.feat", len(words))
    late = last_of_each(documents.labels)
    if not late.any():
        raise DataError(
            f"{path}: expected a label with at least {WATCHED} documents, the last of every "
            f"{WATCHED} to watch the training, found none"
        )
    parts = (documents.select(chosen.nonzero().squeeze(-1)) for chosen in (~late, late))
    return Corpus(*parts, test, words)


def last_of_each(labels: Tensor) -> Tensor:
    """Which documents belong to the last tenth of those with their label."""
    late = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        places = (labels == label).nonzero().squeeze(-1)
        late[places[len(places) - len(places) // WATCHED :]] = True
    return late


MADE = (2_000, 250, 500)  # documents to train, watch and test


def made_corpus(seed: int) -> Corpus:
    """Documents by latent Dirichlet allocation; the label is the largest topic, from 1."""
    rng = np.random.default_rng(seed)
    return Corpus(*(made_documents(count, rng)[0] for count in MADE), made_words())


# %%
# Training
# --------


def digest_of(corpus: Corpus) -> str:
    """A name for what a model is trained on and watched with, by its content."""
    parts = (x for part in corpus[:2] for x in (part.sizes, part.ids, part.counts))
    return digest(*parts, corpus.words)


class Trained(NamedTuple):
    """A model and how it came about."""

    vae: DocumentVAE
    history: list[Epoch]

    @property
    def seconds(self) -> float:
        """The time that the training took."""
        return self.history[-1].seconds


@one_thread()
def fit(law: str, corpus: Corpus, options: argparse.Namespace, where: Place) -> Trained:
    """Train a model, or go on from its checkpoint."""
    torch.manual_seed(options.seed)
    vae = DocumentVAE(len(corpus.words), law, options.dim, log_counts=options.log_counts)
    vae = vae.to(where.device)
    recipe = Recipe(
        elbo=TraceMeanField_ELBO(
            num_particles=PARTICLES, vectorize_particles=True, max_plate_nesting=1
        ),
        optimizer=OPTIMIZERS[options.optimizer],
        epochs=options.epochs,
        batch_size=BATCH_SIZE,
        seed=options.seed,
        clip=CLIP,
    )
    settings = {
        "data": f"{len(corpus.train)} documents of {len(corpus.words)} words {digest_of(corpus)}",
        "law": law,
        "dim": options.dim,
        "seed": options.seed,
        "optimizer": options.optimizer,
        "log_counts": options.log_counts,
    }
    history = train(
        vae,
        recipe,
        corpus.train,
        list(corpus.dev.dense(AT_ONCE)),
        name=law,
        where=where,
        checkpoint=options.checkpoint and options.checkpoint / f"{law.replace(':', '-')}.pt",
        settings=settings,
    )
    return Trained(vae.eval(), history)


# %%
# Scores
# ------


class Scores(NamedTuple):
    """What the table shows: means in nats per document, and perplexities of both kinds."""

    nll: float  # minus the ELBO
    kl: float
    weighted_nll: float  # minus the importance-weighted bound
    by_word: float
    by_document: float
    weighted_by_word: float
    weighted_by_document: float


@one_thread()
def evaluate(vae: DocumentVAE, documents: Documents, seed: int) -> Scores:
    """Score a model on documents that it has not seen."""
    torch.manual_seed(seed)
    count = math.ceil(len(documents) / AT_ONCE)
    bar = tqdm(documents.dense(AT_ONCE), "  test score", count, leave=False, delay=2)
    terms = score(vae, bar, DRAWS)
    lengths = documents.lengths().cpu()
    return Scores(
        -terms.elbo.mean().item(),
        terms.kl.mean().item(),
        -terms.log_likelihood.mean().item(),
        *perplexities(-terms.elbo, lengths),
        *perplexities(-terms.log_likelihood, lengths),
    )


def perplexities(losses: Tensor, lengths: Tensor) -> tuple[float, float]:
    """By word and by document, from the loss of each document and its number of words."""
    by_word, by_document = losses.sum() / lengths.sum(), (losses / lengths).mean()
    return by_word.exp().item(), by_document.exp().item()


def without_code(corpus: Corpus) -> tuple[float, float, float]:
    """The loss and both perplexities of a model in which every document has the same words."""
    log_frequencies = corpus.train.frequencies().log()
    losses = torch.cat(
        [-(batch.double() @ log_frequencies) for batch in corpus.test.dense(AT_ONCE)]
    ).cpu()
    return losses.mean().item(), *perplexities(losses, corpus.test.lengths().cpu())


def table(scores: dict[str, Scores], runs: dict[str, Trained], corpus: Corpus, dim: int) -> str:
    """The scores of all models as text."""
    rule = "-" * 96
    lengths = corpus.test.lengths()
    nll, by_word, by_document = without_code(corpus)
    lines = [
        f"{len(lengths):,} test documents, {lengths.mean():.1f} words long on average, of a "
        f"vocabulary of {len(corpus.words):,}.",
        f"Codes have {dim} coordinates: {dim - 1} dimensions on the sphere, {dim} for a Gaussian.",
        f"IW: the importance-weighted bound of {DRAWS} draws.",
        rule,
        f"{'':22}{'nats per document':^24}{'perplexity by word':>21}{'by document':>17}",
        f"{'':20}{'ELBO':>9}{'KL':>9}{'IW':>9}"
        f"{'ELBO':>12}{'IW':>7}{'ELBO':>12}{'IW':>7}{'training':>11}",
        rule,
        f"{'word frequencies':20}{-nll:9.2f}{'':18}{by_word:12.1f}{by_document:19.1f}",
    ]
    for law, s in scores.items():
        lines.append(
            f"{law:20}{-s.nll:9.2f}{s.kl:9.3f}{-s.weighted_nll:9.2f}"
            f"{s.by_word:12.1f}{s.weighted_by_word:7.1f}"
            f"{s.by_document:12.1f}{s.weighted_by_document:7.1f}{runs[law].seconds:9.0f} s"
        )
    return "\n".join([*lines, rule])


# %%
# Words
# -----
# What the mean code of the test documents of a label decodes to shows what the code is about, and
# the rows of the decoder's last layer are vectors for words.

WORDS = 8  # in a list
MOST_LABELS = 20  # with a list of their own


@torch.no_grad()
def codes_of(vae: DocumentVAE, documents: Documents) -> Tensor:
    """The mode of the posterior of each document, shape (n, dim)."""
    return torch.cat([vae.posterior(batch).mode for batch in documents.dense(AT_ONCE)])


@torch.no_grad()
def words_of(vae: DocumentVAE, codes: Tensor, corpus: Corpus) -> list[str]:
    """The words that the mean of some codes makes likelier, the greatest gain first.

    The gain of a word is its share of the divergence of what the mean decodes to from the
    frequencies of all words.
    """
    mean = codes.mean(0)
    if isinstance(vae.code.prior(), HypersphericalUniform):
        mean = normalize(mean, dim=-1)
    log_law = vae.logits(mean).log_softmax(-1)
    gain = log_law.exp() * (log_law - corpus.train.frequencies().log())
    return [corpus.words[i] for i in gain.topk(min(WORDS, len(gain))).indices]


@torch.no_grad()
def neighbours(vae: DocumentVAE, word: str, words: list[str]) -> list[str]:
    """The words whose rows of the decoder's last layer have the largest cosine with a word's."""
    vectors = normalize(vae.decoder[-1].weight, dim=-1)
    cosines = vectors @ vectors[words.index(word)]
    nearest = cosines.topk(min(1 + WORDS, len(words))).indices
    return [words[i] for i in nearest if words[i] != word]


def print_words(law: str, vae: DocumentVAE, corpus: Corpus) -> None:
    """What the codes of each label are about, and the neighbours of the first word of each list."""
    codes, labels = codes_of(vae, corpus.test), corpus.test.labels
    print(f"{law}: what the mean code of a label's test documents decodes to")
    first = []
    for label in labels.unique()[:MOST_LABELS].tolist():
        words = words_of(vae, codes[labels == label], corpus)
        first.append(words[0])
        print(f"{label:>5}  {' '.join(words)}")
    print(f"{law}: words that the decoder treats alike")
    for word in dict.fromkeys(first):
        print(f"{word:>16}: {' '.join(neighbours(vae, word, corpus.words))}")


# %%
# The figure
# ----------
# At the left the perplexity of the documents that are watched; then, for each law, the cosines
# between the codes of two test documents, which should be larger where the two share a label.

INK, GREY, PALE = "#222222", "#666666", "#c4c9d1"
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#56b4c4", "#c9a400", "#8c5a3c")
MOST_CODES = 2_000  # at most, whose pairs are drawn: two million


def cosines(codes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine between the codes of each pair with the same label, and with different ones."""
    step = math.ceil(len(codes) / MOST_CODES)  # files tend to be sorted by label
    codes, labels = normalize(codes[::step], dim=-1), labels[::step]
    one, other = torch.triu_indices(len(codes), len(codes), offset=1)
    cosine = (codes @ codes.mT)[one, other]
    same = labels[one] == labels[other]
    return cosine[same], cosine[~same]


def separation(same: Tensor, different: Tensor) -> float:
    """How often a cosine of the first kind is larger than one of the second: half if by chance."""
    if len(same) == 0 or len(different) == 0:
        return math.nan
    below = torch.searchsorted(different.sort().values, same)
    return below.double().mean().item() / len(different)


def draw_figure(
    path: Path, runs: dict[str, Trained], pairs: dict[str, tuple[Tensor, Tensor]], corpus: Corpus
) -> None:
    """Write the figure, in the format that the end of its name asks for."""
    figure = Figure(figsize=(5.2 + 4.2 * len(runs), 4.6), facecolor="white", layout="constrained")
    left, *panels = figure.subplots(1, 1 + len(runs), width_ratios=(1.2, *[1] * len(runs)))
    words_each = corpus.dev.lengths().mean().item()
    for k, (law, run) in enumerate(runs.items()):
        epochs = [line.epoch for line in run.history]
        perplexity = [math.exp(-line.dev_elbo / words_each) for line in run.history]
        left.plot(epochs, perplexity, color=COLOURS[k % len(COLOURS)], label=law, marker=".")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:.0f}")
    left.yaxis.set_minor_formatter("{x:.0f}")
    left.set_title("perplexity by word while training", size=12, color=INK)
    left.set_xlabel(f"epoch; {len(corpus.dev):,} documents that are not trained on", color=GREY)
    left.legend(frameon=False)
    for k, (panel, (law, kinds)) in enumerate(zip(panels, pairs.items(), strict=True)):
        colours, names = (COLOURS[k % len(COLOURS)], GREY), ("the same label", "different labels")
        for cosine, colour, name in zip(kinds, colours, names, strict=True):
            if len(cosine):
                style = {"color": colour, "density": True, "range": (-1, 1), "bins": 80}
                panel.hist(cosine, **style, alpha=0.25)
                panel.hist(cosine, **style, histtype="step", lw=1.5, label=name)
        panel.set_title(f"{law}: cosines between codes", size=12, color=INK)
        panel.set_xlabel(
            f"two test documents; those with the same label\nare the closer two in "
            f"{100 * separation(*kinds):.0f} % of cases",
            color=GREY,
        )
        panel.set_yticks([])
        panel.margins(y=0.25)  # room for the legend
        panel.legend(frameon=False, loc="upper left")
    for axes in (left, *panels):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8, labelcolor=GREY, color=PALE)
    save_figure(figure, path)


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train neural variational document models that differ in the law of the code; "
        "print their perplexities on test documents and the words that their codes stand for, and "
        "draw how the training went and how close the codes of related documents are.",
        epilog="No document that the scores are computed on is used in training.",
    )
    add = parser.add_argument
    text = "folder with train.feat, test.feat and vocab.new, plain or .gz; else made documents"
    add("--data", metavar="DIR", type=Path, help=text)
    text = (
        "of the code: gaussian, batch-norm, vmf, power-spherical or spherical-cauchy (by its "
        "distance), the last three also with "
        f":CONCENTRATION; may be given several times (default: {' and '.join(LAWS_MADE)}; "
        f"with --data {LAWS_DATA[0]})"
    )
    add("--law", action="append", type=read_law, help=text)
    text = (
        "coordinates of a code; a sphere has one dimension fewer "
        f"(default: {DIM_MADE}; with --data {DIM_DATA})"
    )
    add("--dim", type=read_whole_number(2), help=text)
    text = f"rounds over the documents (default: {EPOCHS_MADE}; with --data {EPOCHS_DATA})"
    add("--epochs", type=read_whole_number(1), help=text)
    add("--optimizer", choices=tuple(OPTIMIZERS), default="sgd", help="default: %(default)s")
    text = "give the encoder log(1 + count) of each word in place of its count"
    add("--log-counts", action="store_true", help=text)
    add_training_options(parser)
    add_seed_and_output(parser)
    options = parser.parse_args(argv)
    made = options.data is None
    # argparse would append to a default that is a list
    options.law = list(dict.fromkeys(options.law or (LAWS_MADE if made else LAWS_DATA)))
    options.dim = options.dim or (DIM_MADE if made else DIM_DATA)
    options.epochs = options.epochs or (EPOCHS_MADE if made else EPOCHS_DATA)
    return options


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Train all models, print table and words, draw the figure; return the exit code."""
    options = parse(argv)
    corpus = made_corpus(options.seed) if options.data is None else read_corpus(options.data)
    prepare_to_write(options.checkpoint, options.record)
    with place(options.device) as where:
        parts = (part.to(where.device) for part in corpus[:3])
        run(Corpus(*parts, corpus.words), options, where)
    return 0


def run(corpus: Corpus, options: argparse.Namespace, where: Place) -> None:
    """Train every law; the process that speaks scores, prints and draws."""
    runs: dict[str, Trained] = {}
    scores: dict[str, Scores] = {}
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    labels = corpus.test.labels.cpu()
    for law in options.law:
        trained = fit(law, corpus, options, where)
        if not where.speaks:
            continue
        runs[law], scores[law] = trained, evaluate(trained.vae, corpus.test, options.seed)
        pairs[law] = cosines(codes_of(trained.vae, corpus.test).cpu(), labels)
        if options.record is not None:
            add_record(
                options.record,
                where.device,
                program=PROGRAM,
                data="made" if options.data is None else options.data.resolve().name,
                law=law,
                dim=options.dim,
                epochs=len(trained.history),
                seed=options.seed,
                optimizer=options.optimizer,
                log_counts=options.log_counts,
                scores=scores[law]._asdict(),
                separation=separation(*pairs[law]),
                seconds=trained.seconds,
                history=[line._asdict() for line in trained.history],
            )
    if where.speaks:
        print(table(scores, runs, corpus, options.dim))
        print_words(options.law[0], runs[options.law[0]].vae, corpus)
        draw_figure(options.output, runs, pairs, corpus)
        print(f"figure: {options.output}")


if __name__ == "__main__":
    raise SystemExit(main())
