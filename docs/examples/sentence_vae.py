r"""
Sentences with a latent sphere
==============================

A recurrent network that writes a sentence word by word needs no code to write well: the words so
far say most of what comes next. Give it one, as a variational autoencoder does, and a Gaussian
code often goes unused: its divergence from the prior falls to zero, and the posterior is the prior
whatever the sentence says. With a von Mises-Fisher posterior of *fixed* concentration the
divergence is a constant (Xu and Durrett 2018): it costs the same whether the code is used or not,
so that the model may as well use it.

The script trains the neural variational recurrent language model of Bowman et al. (2016) with
several laws of the code, the same networks, minibatches and budget each, prints their scores on
sentences that none has seen, some decoded sentences, and draws the course of the training. It
needs the ``examples`` extra, and wants the modules with an underscore beside it::

    python sentence_vae.py                              # sentences from a small grammar, 2 minutes
    python sentence_vae.py --data DIR --law vmf:80 --law gaussian --anneal 5000
    python sentence_vae.py --data poems.tsv --characters --longest 100

**The model.** One LSTM reads the sentence, and its last hidden state gives the posterior; a second
LSTM writes it. With ``--decoder standard`` each step of the second sees the previous word and the
code; with ``inputless`` the code alone, which then has to hold the whole sentence; with ``bow`` and
``inputless-bow`` also the mean word vector of the sentence, so that the code is left with the order
of the words. (That vector is given, not encoded: those scores are conditional on it, and do not
compare with the others.) A label in front of each sentence, such as the stars of a review, is
embedded and seen at every step too.

**The remedies** for a code that goes unused, as on the small grammar the Gaussian one does, and the
von Mises-Fisher one where its concentration is learned: ``--anneal`` raises the weight of the
divergence from 0 to 1 along a logistic curve (Bowman et al. 2016), for every law alike, to which a
fixed concentration is indifferent; the law ``batch-norm`` holds the divergence above zero by
normalising the means of the posteriors (Zhu et al. 2020); ``vmf:20`` fixes the concentration.
Their effect is looked at more closely in ``vanishing_kl.py``.

**The scores.** The negative log likelihood (NLL) of a sentence is bounded from above by the
expectation over *one* draw of the code: reconstruction plus divergence. A mean of several draws
put into the decoder would need another divergence than the posterior's to be a bound. The
importance-weighted bound averages the likelihoods of many draws, and is tighter. The perplexity is
:math:`\exp` of the summed bounds over the number of tokens, which are the words and one end marker
for each sentence. A sphere in :math:`\mathbb{R}^d` has :math:`d - 1` dimensions, so at equal
``--dim`` a Gaussian code has one more.

References:
    Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio (2016), Generating Sentences from a
    Continuous Space, CoNLL, arXiv:1511.06349. Xu and Durrett (2018), Spherical Latent Spaces for
    Stable Variational Autoencoders, EMNLP, arXiv:1808.10805. Zhu, Bi, Liu, Ma, Li and Wu (2020), A
    Batch Normalized Inference Network Keeps the KL Vanishing Away, ACL, arXiv:2004.12585.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad

from _options import (
    add_seed_and_output,
    add_training_options,
    ends_in_one_line,
    one_thread,
    prepare_to_write,
    read_number,
    read_whole_number,
    save_figure,
)
from _record import add_record
from _sentences import (
    END,
    UNKNOWN,
    Corpus,
    Sentences,
    Vocabulary,
    beam,
    decode,
    drawn,
    made_corpus,
    of_similar_length,
    read_corpus,
)
from _training import (
    Epoch,
    Place,
    Recipe,
    digest,
    full_weight,
    place,
    sigmoid_annealing,
    train,
)
from _vae import VAE, SphericalCode, Terms, make_code, read_law, score

PROGRAM = "sentence_vae.py"
DECODERS = ("standard", "inputless", "bow", "inputless-bow")
BATCH_SIZE = 50
LEARNING_RATE = 2e-3
CLIP = 5.0
DROPOUT = 0.2  # of word vectors and of what the decoder's LSTM puts out
DRAWS = 50  # of the code of each sentence, for the scores
AT_ONCE = 2**24  # log probabilities in memory at a time in the evaluation: 64 MiB in float32
EPOCHS_MADE, EPOCHS = 15, 20
WIDTHS_MADE, WIDTHS = (32, 96, 16), (100, 400, 50)
LAWS_MADE = ["vmf:20", "vmf", "batch-norm", "gaussian"]
LAWS = ["vmf:80", "vmf", "batch-norm", "gaussian"]

# %%
# The model
# ---------
# All that the two networks have to say of a sentence is in ``features``, for the posterior, and
# ``log_likelihood``, given a code; ``step`` says one word after another.


class Widths(NamedTuple):
    """The sizes of the networks."""

    embedding: int  # of a word vector
    hidden: int  # of the state of an LSTM
    dim: int  # of a code, its coordinates


class SentenceVAE(VAE):
    """An LSTM that reads, a code, and an LSTM that writes."""

    def __init__(
        self,
        law: str,
        vocabulary: int,
        widths: Widths,
        *,
        decoder: str = "standard",
        labels: int = 0,
        word_dropout: float = 0.0,
    ) -> None:
        """Build the networks.

        Args:
            law: of the code, as ``read_law`` accepts it.
            vocabulary: the number of words, marks included.
            widths: the sizes of the networks.
            decoder: what a step sees, one of the names in `DECODERS`.
            labels: the number of labels, 0 if sentences have none.
            word_dropout: the share of previous words that training hides from the decoder.
        """
        super().__init__(make_code(law, widths.hidden, widths.dim))
        self.sees_words = not decoder.startswith("inputless")
        self.sees_bag = decoder.endswith("bow")
        self.word_dropout = word_dropout
        self.embedding = nn.Embedding(vocabulary, widths.embedding)
        self.encoder = nn.LSTM(widths.embedding, widths.hidden, batch_first=True)
        self.label_embedding = nn.Embedding(labels, widths.embedding) if labels else None
        seen = sum((self.sees_words, self.sees_bag, bool(labels)))
        width = widths.dim + seen * widths.embedding
        self.decoder = nn.LSTM(width, widths.hidden, batch_first=True)
        self.output = nn.Linear(widths.hidden, vocabulary)
        self.dropout = nn.Dropout(DROPOUT)

    def features(self, batch: Sentences) -> Tensor:
        """The hidden state of the encoder at the end marker of each sentence."""
        hidden, _ = self.encoder(self.dropout(self.embedding(batch.words)))
        return hidden[torch.arange(len(batch)), batch.lengths - 1]

    def context(self, batch: Sentences, z: Tensor) -> Tensor:
        """What every step of the decoder sees beside the previous word, shape (..., n, width)."""
        parts = [self.code.spread_out(z)]
        if self.label_embedding is not None:
            parts.append(self.label_embedding(batch.labels))
        if self.sees_bag:
            vectors = self.embedding(batch.words) * (batch.words != END)[..., None]
            counts = (batch.lengths - 1).to(vectors)
            parts.append(vectors.sum(1) / counts[:, None])
        return torch.cat([part.expand(*z.shape[:-1], -1) for part in parts], dim=-1)

    def inputs(self, words: Tensor, context: Tensor) -> Tensor:
        """The input of the decoder: previous words (n, steps) beside a context (n, width)."""
        context = context[:, None].expand(-1, words.shape[1], -1)
        if not self.sees_words:
            return context
        return torch.cat([self.dropout(self.embedding(words)), context], dim=-1)

    def log_likelihood(self, batch: Sentences, z: Tensor) -> Tensor:
        """The log probability of each sentence given its code, end marker included."""
        repeats = math.prod(z.shape[:-2])
        words, mask = (x.repeat(repeats, 1) for x in (batch.words, batch.mask()))
        previous = pad(words[:, :-1], (1, 0), value=END)
        if self.training and self.word_dropout:
            hide = torch.rand(previous.shape, device=words.device) < self.word_dropout
            previous = previous.masked_fill(hide & (previous != END), UNKNOWN)
        hidden, _ = self.decoder(self.inputs(previous, self.context(batch, z).flatten(0, -2)))
        # the wide layer sees words and end markers only, no padding
        logits = self.output(self.dropout(hidden[mask]))
        loss = cross_entropy(logits, words[mask], reduction="none")
        log_prob = torch.zeros_like(mask, dtype=loss.dtype).masked_scatter(mask, -loss).sum(-1)
        return log_prob.reshape(z.shape[:-1])

    def step(self, words: Tensor, context: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Log probabilities of what follows, as decoding asks for them."""
        hidden, state = self.decoder(self.inputs(words[:, None], context), state)
        return self.output(self.dropout(hidden[:, 0])).log_softmax(-1), state

    @torch.no_grad()
    def encode(self, texts: Sequence[str], vocabulary: Vocabulary) -> dist.TorchDistribution:
        """The posterior of each text, dropout and batch statistics off."""
        self.eval()
        sentences = vocabulary.sentences([vocabulary.split(text) for text in texts])
        return self.posterior(sentences.to(self.output.weight.device))


# %%
# Training and scores
# -------------------
# ``TraceMeanField_ELBO`` takes the divergence in closed form. A minibatch holds sentences of
# similar length, so that little of it is padding.


def recipe(corpus: Corpus, epochs: int, seed: int, anneal: int = 0) -> Recipe:
    """How to train, for every law alike."""
    return Recipe(
        TraceMeanField_ELBO(),
        lambda parameters: torch.optim.Adam(parameters, lr=LEARNING_RATE),
        epochs,
        BATCH_SIZE,
        seed,
        sigmoid_annealing(anneal, anneal / 10) if anneal else full_weight,
        CLIP,
        of_similar_length(corpus.train.lengths),
    )


def held_out_score(vae: SentenceVAE, sentences: Sentences, draws: int) -> Terms:
    """Score a model on sentences, with memory for so many draws at once as `AT_ONCE` allows."""
    terms = []
    for batch in sentences.batches(BATCH_SIZE):
        at_once = max(1, AT_ONCE // (batch.tokens * vae.output.out_features))
        terms.append(score(vae, [batch], draws, at_once))
    return Terms(*(torch.cat(column) for column in zip(*terms, strict=True)))


class Scores(NamedTuple):
    """Means over the sentences that were held out, in nats per sentence; perplexities per token."""

    nll: float  # its bound from one draw
    reconstruction: float  # minus the log likelihood given a code
    kl: float
    perplexity: float
    tight_nll: float  # its importance-weighted bound
    tight_perplexity: float


def summary(terms: Terms, tokens: int) -> Scores:
    """The scores of a model."""
    nll, tight_nll = -terms.elbo, -terms.log_likelihood
    return Scores(
        nll.mean().item(),
        -terms.reconstruction.mean().item(),
        terms.kl.mean().item(),
        math.exp(nll.sum().item() / tokens),
        tight_nll.mean().item(),
        math.exp(tight_nll.sum().item() / tokens),
    )


def table(results: dict[str, Result], corpus: Corpus, dim: int) -> str:
    """The scores of all models as text."""
    rule = "-" * 90
    lines = [
        f"{len(corpus.test):,} held-out sentences, {corpus.test.tokens:,} tokens (words and end "
        f"markers); nats per sentence.",
        f"NLL: one-draw bound = reconstruction + KL. Tight: importance-weighted, {DRAWS} draws.",
        rule,
        f"{'law':20}{'dims':>5}{'NLL':>9}{'reconstr.':>11}{'KL':>8}{'perplexity':>12}"
        f"{'tight NLL':>11}{'perpl.':>8}{'s':>6}",
        rule,
    ]
    for law, (vae, scores, seconds, _) in results.items():
        dims = dim - isinstance(vae.code, SphericalCode)
        nll, reconstruction, kl, perplexity, tight_nll, tight_perplexity = scores
        lines.append(
            f"{law:20}{dims:5}{nll:9.2f}{reconstruction:11.2f}{kl:8.2f}{perplexity:12.2f}"
            f"{tight_nll:11.2f}{tight_perplexity:8.2f}{seconds:6.0f}"
        )
    return "\n".join([*lines, rule])


# %%
# Decoded sentences
# -----------------
# The code of a sentence is taken at the mode of its posterior. Between two codes on a sphere the
# way is the great circle; between Gaussian ones it is the straight line.


def way(start: Tensor, end: Tensor, count: int, spherical: bool) -> Tensor:
    """Codes evenly spaced from one to another, ends included, shape (count, dim)."""
    share = torch.linspace(0, 1, count, device=start.device)[:, None]
    if not spherical:
        return start + share * (end - start)
    angle = 2 * torch.atan2((start - end).norm(), (start + end).norm())
    across = normalize(end - (start @ end) * start, dim=-1)
    return (share * angle).cos() * start + (share * angle).sin() * across


@torch.no_grad()
def examples(vae: SentenceVAE, corpus: Corpus, count: int = 3) -> str:
    """Held-out sentences and what comes of them, a way between two, and draws from the prior."""
    vae.eval()
    longest = int(corpus.train.lengths.max())
    sentences = corpus.test[torch.arange(min(2 * count, len(corpus.test)))]
    z = vae.posterior(sentences).mode

    def texts(words: Tensor) -> list[str]:
        return [corpus.vocabulary.text(row) for row in words]

    lines = ["  held out, and decoded from its code by greedy and by beam search:"]
    context = vae.context(sentences, z)[:count]
    columns = sentences.words, decode(vae.step, context, longest), beam(vae.step, context, longest)
    for three in zip(*(texts(column[:count]) for column in columns), strict=True):
        lines += [f"    {mark} {text}" for mark, text in zip("=>>", three, strict=True)]
    steps = 5
    codes = way(z[0], z[1], steps, isinstance(vae.code, SphericalCode))
    nearer = torch.tensor([0] * (steps // 2 + 1) + [1] * (steps // 2))  # whose label, whose bag
    said = decode(vae.step, vae.context(sentences[nearer], codes), longest)
    lines += ["  from the first code to the second:", *(f"    - {text}" for text in texts(said))]
    prior = vae.code.prior().sample((len(sentences),))
    said = decode(vae.step, vae.context(sentences, prior), longest, drawn)
    lines += ["  drawn from the prior, and word by word:", *(f"    * {x}" for x in texts(said))]
    return "\n".join(lines)


# %%
# The figure
# ----------

INK, PALE = "#222222", "#c4c9d1"
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#c9a400", "#56b4c4", "#8c5a3c")


def nll_bound(line: Epoch) -> float:
    """The one-draw bound on the dev set."""
    return -line.dev_elbo


def draw_figure(
    path: Path,
    histories: dict[str, list[Epoch]],
    value: Callable[[Epoch], float] = nll_bound,
    title: str = "negative log likelihood: its one-draw bound",
) -> None:
    """The divergence, and another value with its title, on the dev set over the training."""
    figure = Figure(figsize=(11, 4.6), facecolor="white")
    left, right = figure.subplots(1, 2)
    for (name, history), colour in zip(histories.items(), COLOURS * 9, strict=False):
        epochs = [line.epoch for line in history]
        style = {"color": colour, "lw": 2, "marker": "o", "ms": 3, "label": name}
        left.plot(epochs, [line.dev_kl for line in history], **style)
        right.plot(epochs, [value(line) for line in history], **style)
    left.set_title("KL divergence from the prior", size=12, color=INK)
    right.set_title(title, size=12, color=INK)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.set_ylabel("nats per dev sentence")
        axes.grid(color=PALE, lw=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_yscale("symlog", linthresh=0.1)  # logarithmic from a tenth of a nat on
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.set_ylim(bottom=0)
    right.legend(frameon=False)
    figure.tight_layout()
    save_figure(figure, path)


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train variational autoencoders of sentences that differ in the law of the "
        "code; print their scores on held-out sentences and decoded sentences, and draw the "
        "course of the training.",
        epilog="No sentence that the scores are computed on is used in training.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    text = (
        "folder with *train.txt, *valid.txt and *test.txt, or one file that is split; a sentence "
        "to a line, with a label and a tab before it or not, plain or .gz; else made sentences"
    )
    add("--data", metavar="PATH", type=Path, help=text)
    add("--characters", action="store_true", help="split into characters, not into words")
    text = "leave out sentences with more words"
    add("--longest", metavar="N", type=read_whole_number(1), help=text)
    text = "train on the first so many sentences only"
    add("--sentences", metavar="N", type=read_whole_number(2), help=text)
    text = f"words at most, of those seen twice or more {default}"
    add("--vocabulary", metavar="N", type=read_whole_number(1), default=10_000, help=text)
    text = (
        "of the code: gaussian, batch-norm, vmf, power-spherical, spherical-cauchy, or one of the "
        "last three with a fixed concentration such as vmf:80; may be repeated (default: "
        f"{', '.join(LAWS)}; of made sentences {LAWS_MADE[0]} for {LAWS[0]})"
    )
    add("--law", action="append", type=read_law, help=text)
    add("--decoder", choices=DECODERS, default="standard", help=f"what a step sees {default}")
    for name, least, made, full in (
        ("embedding", 1, WIDTHS_MADE[0], WIDTHS[0]),
        ("hidden", 1, WIDTHS_MADE[1], WIDTHS[1]),
        ("dim", 2, WIDTHS_MADE[2], WIDTHS[2]),
    ):
        text = {
            "embedding": "coordinates of a word vector",
            "hidden": "width of the state of an LSTM",
            "dim": "coordinates of a code; its sphere has one dimension less",
        }[name]
        text += f" (default: {full}; of made sentences {made})"
        add(f"--{name}", type=read_whole_number(least), help=text)
    text = "step of the training at which the KL has half its weight; 0: whole from the first on"
    add("--anneal", metavar="STEP", type=read_whole_number(0), default=0, help=f"{text} {default}")
    text = f"share of previous words that training hides from the decoder {default}"
    add("--word-dropout", metavar="SHARE", type=read_number(0, 1), default=0.0, help=text)
    text = f"rounds over the training sentences (default: {EPOCHS}; of made ones {EPOCHS_MADE})"
    add("--epochs", type=read_whole_number(1), help=text)
    add_training_options(parser)
    add_seed_and_output(parser)
    options = parser.parse_args(argv)
    made = options.data is None
    for name, value in zip(Widths._fields, WIDTHS_MADE if made else WIDTHS, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.law = list(dict.fromkeys(options.law or (LAWS_MADE if made else LAWS)))
    options.epochs = options.epochs or (EPOCHS_MADE if made else EPOCHS)
    for name in ("characters", "longest", "sentences"):
        if made and getattr(options, name):
            parser.error(f"argument --{name}: expected --data with it, found none")
    return options


def corpus_of(options: argparse.Namespace) -> Corpus:
    """The sentences that the options ask for."""
    if options.data is None:
        return made_corpus()
    return read_corpus(
        options.data,
        characters=options.characters,
        longest=options.longest,
        most=options.sentences,
        vocabulary=options.vocabulary,
    )


def digest_of(corpus: Corpus) -> str:
    """A name for what a model is trained on and watched with, by its content."""
    parts = (x for part in corpus[:2] for x in (part.words, part.lengths, part.labels))
    return digest(*(x for x in parts if x is not None), corpus.vocabulary.words, corpus.labels)


class Result(NamedTuple):
    """What a law came to."""

    vae: SentenceVAE
    scores: Scores
    seconds: float
    history: list[Epoch]


def fit(law: str, corpus: Corpus, options: argparse.Namespace, where: Place) -> Result | None:
    """Train and score a model with a law; None in a process that does not speak."""
    pyro.set_rng_seed(options.seed)
    vae = SentenceVAE(
        law,
        len(corpus.vocabulary),
        Widths(options.embedding, options.hidden, options.dim),
        decoder=options.decoder,
        labels=len(corpus.labels),
        word_dropout=options.word_dropout,
    ).to(where.device)
    names = (
        *("seed", "decoder", "embedding", "hidden", "dim", "anneal", "word_dropout"),
        *("characters", "longest"),
    )
    settings = {name: getattr(options, name) for name in names}
    settings |= {"law": law, "vocabulary": len(corpus.vocabulary), "sentences": len(corpus.train)}
    settings["data"] = digest_of(corpus)
    file = options.checkpoint and options.checkpoint / f"{law.replace(':', '-')}.pt"
    history = train(
        vae,
        recipe(corpus, options.epochs, options.seed, options.anneal),
        corpus.train,
        corpus.dev.batches(BATCH_SIZE),
        name=law,
        where=where,
        checkpoint=file,
        settings=settings,
    )
    if not where.speaks:
        return None
    pyro.set_rng_seed(options.seed)  # whether it was trained just now or before
    scores = summary(held_out_score(vae, corpus.test, DRAWS), corpus.test.tokens)
    seconds = history[-1].seconds
    if options.record is not None:
        outcome = {
            "data": "made" if options.data is None else options.data.resolve().name,
            "epochs": len(history),
            "scores": scores._asdict(),
            "seconds": seconds,
            "history": [line._asdict() for line in history],
        }
        add_record(options.record, where.device, **settings | outcome)
    return Result(vae, scores, seconds, history)


def run(options: argparse.Namespace, where: Place) -> None:
    """Train all models, print the table and the examples, draw the figure."""
    corpus = corpus_of(options).to(where.device)
    prepare_to_write(options.checkpoint, options.record)
    found = {law: fit(law, corpus, options, where) for law in options.law}
    results = {law: result for law, result in found.items() if result is not None}
    if not where.speaks:
        return
    unknown = sum(int((part.words == UNKNOWN).sum()) for part in corpus[:3])
    unknown /= sum(part.tokens for part in corpus[:3])
    print(
        f"{len(corpus.train):,} training sentences, {len(corpus.vocabulary):,} words with the end "
        f"marker and the unknown word, which is {unknown:.1%} of all tokens"
    )
    print(table(results, corpus, options.dim))
    for law, result in results.items():
        pyro.set_rng_seed(options.seed)
        print(f"{law}:\n{examples(result.vae, corpus)}")
    draw_figure(options.output, {law: result.history for law, result in results.items()})
    print(f"figure: {options.output}")


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the options ask for; return the exit code."""
    options = parse(argv)
    small = options.data is None and options.device.type == "cpu"
    with place(options.device) as where, one_thread() if small else nullcontext():
        run(options, where)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
