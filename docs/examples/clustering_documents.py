r"""
Clustering documents and embeddings
===================================

Texts are compared by cosines, of counts of words or of embeddings, which is to say by directions.
The script clusters them with :class:`vmfdist.mixture.VonMisesFisherMixture`, with concentrations of
their own and with one for all components, and with :class:`vmfdist.mixture.SphericalKMeans`; beside
them stand scikit-learn's ``KMeans`` on the same unit vectors and its ``GaussianMixture``, diagonal,
on 50 dimensions that a singular value decomposition keeps. Then it compares the clusters with the
groups that the texts come from. No model sees these.

It needs the ``examples`` and ``mixture`` extras and the modules with a leading underscore beside
it, prints a table and draws one figure::

    python clustering_documents.py                          # documents that the script makes
    python clustering_documents.py --data 20ng              # 20 Newsgroups: two minutes
    python clustering_documents.py --embeddings rows.npy --labels groups.npy

**The data** are a folder with ``train.feat`` and ``vocab.new``, plain or with .gz behind their
names. A line of the first is a document, ``label id:count id:count ...``; the first id is 1, and
line 1 of ``vocab.new`` begins with its word. That is how the bags of words of 20 Newsgroups go
round (11,268 documents, 2,000 words). Counts are weighted by tf-idf and normalised, and stay
sparse. Or they are embeddings that any model has made, an array with a row for each text, and an
array with the group of each. Without either the script makes documents by latent Dirichlet
allocation with eight topics of everyday words; the group of a document is its largest topic.

**What to expect.** On 20 Newsgroups, one concentration for all and spherical k-means do best by
far. Concentrations of their own do worst: the likelihood rewards narrow components, and what fits
none of them falls to a wide one beneath, which takes in a third of the documents from all groups
alike. It is the column in the figure. k-means has the same fault in a milder form. Its centres are
means, and that of a wide cluster lies well inside of the sphere, nearer to a row that is like no
other than any centre on it. On made documents, whose topics are of one width, the models hardly
differ, and the Gaussian mixture alone is at times far off. :doc:`/results` has the numbers for real
documents and sentences.

**The scores.** Both are 1 for clusters that are the groups. The adjusted Rand index is 0 on average
for random clusters. The normalised mutual information is the harmonic mean of how much of a
document's group its cluster tells, and the other way round. Times are seconds of a processor, for a
fit on one thread.

References:
    Banerjee, Dhillon, Ghosh and Sra (2005), Clustering on the unit hypersphere using von
    Mises-Fisher distributions, Journal of Machine Learning Research 6, 1345-1382. Dhillon and Modha
    (2001), Concept decompositions for large sparse text data using clustering, Machine Learning 42,
    doi:10.1023/A:1007612920971. Hubert and Arabie (1985), Comparing partitions, Journal of
    Classification 2, doi:10.1007/BF01908075.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from _documents import Documents, made_documents, made_words, read_documents, read_vocabulary
from _options import (
    DataError,
    add_seed_and_output,
    ends_in_one_line,
    one_thread,
    prepare_to_write,
    read_whole_number,
    save_figure,
)
from _record import add_record
from _sphere import BLUE, GREY, INK, ORANGE, PALE
from vmfdist.mixture import SphericalKMeans, VonMisesFisherMixture

# sphinx_gallery_thumbnail_path = "recorded/clustering_documents.png"
PROGRAM = "clustering_documents.py"
MADE = 2_000  # documents
REDUCED = 50  # dimensions, for the Gaussian mixture
EM = {"max_iter": 500, "tol": 1e-4}
SHOWN = ("von Mises-Fisher mixture", "spherical k-means")  # cluster by cluster, in the figure
WORDS = 7  # in a list

# %%
# Texts as directions
# -------------------


class Texts(NamedTuple):
    """Texts as unit vectors, an array or a sparse one with a row each."""

    name: str
    directions: Any
    labels: np.ndarray  # the groups, never given to a model
    words: list[str]  # what the columns stand for, if that can be said


def of_words(name: str, documents: Documents, words: list[str]) -> Texts:
    """Counts of words, weighted by tf-idf and normalised: a word that all use says little."""
    # scikit-learn takes indices of 32 bits only
    starts = np.append(0, documents.sizes.cumsum(0)).astype(np.int32)
    parts = documents.counts.double().numpy(), documents.ids.int().numpy(), starts
    counts = sparse.csr_array(parts, shape=(len(documents), documents.vocabulary))
    return Texts(name, TfidfTransformer().fit_transform(counts), documents.labels.numpy(), words)


def read_words(folder: Path) -> Texts:
    """Documents of a folder.

    Raises:
        DataError: a file is missing, damaged or not what it should be, with the line.
    """
    words = read_vocabulary(folder / "vocab.new")
    _, documents = read_documents(folder / "train.feat", len(words))
    return of_words(folder.resolve().name, documents, words)


def made_texts(seed: int) -> Texts:
    """Documents by latent Dirichlet allocation; the group is the largest topic."""
    documents, _ = made_documents(MADE, np.random.default_rng(seed))
    return of_words("made", documents, made_words())


def read_embeddings(path: Path, label_path: Path) -> Texts:
    """Embeddings of texts, and the group of each.

    Raises:
        DataError: a file is missing or not what it should be.
    """
    rows, labels = (read_array(p, axes) for p, axes in ((path, 2), (label_path, 1)))
    if not np.issubdtype(rows.dtype, np.floating):
        raise DataError(f"{path}: expected floating point numbers, found {rows.dtype}")
    if rows.shape[1] < 2:
        raise DataError(f"{path}: expected at least 2 columns, found {rows.shape[1]}")
    if np.not_equal(labels, labels).any():  # NaN
        raise DataError(f"{label_path}: expected a group for each row, found nan")
    if len(labels) != len(rows):
        raise DataError(
            f"{label_path}: expected {len(rows):,} labels, one for each row of {path.name}, found "
            f"{len(labels):,}"
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)
    if bad.any():
        row = bad.argmax()
        raise DataError(f"{path}: expected a direction, found row {row} of norm {lengths[row, 0]}")
    return Texts(path.stem, rows / lengths, labels, [])


def read_array(path: Path, axes: int) -> np.ndarray:
    """Read a NumPy array with so many axes.

    Raises:
        DataError: the file is missing, or not such an array.
    """
    try:
        array = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: expected an array in a .npy file, found: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != axes or not array.size:
        found = f"the shape {array.shape}" if isinstance(array, np.ndarray) else "several"
        raise DataError(f"{path}: expected one array with {axes} axes, found {found}")
    return array


# %%
# Models and scores
# -----------------


def models(clusters: int, starts: int, seed: int, dim: int) -> dict[str, Any]:
    """All models, with the same number of clusters and of starts."""
    shared = {"n_init": starts, "random_state": seed}
    reduction = TruncatedSVD(min(REDUCED, dim), random_state=seed)
    gaussian = GaussianMixture(clusters, covariance_type="diag", **shared, **EM)
    return {
        "von Mises-Fisher mixture": VonMisesFisherMixture(clusters, **shared, **EM),
        "  of one concentration": VonMisesFisherMixture(
            clusters, concentration_type="tied", **shared, **EM
        ),
        "spherical k-means": SphericalKMeans(clusters, **shared),
        "k-means": KMeans(clusters, **shared),
        "Gaussian mixture, reduced": make_pipeline(reduction, gaussian),
    }


class Fit(NamedTuple):
    """Clusters, how they agree with the groups, and how long they took."""

    model: Any
    clusters: np.ndarray
    information: float
    rand: float
    seconds: float


def fit_all(texts: Texts, clusters: int, starts: int, seeds: Sequence[int]) -> dict[str, list[Fit]]:
    """Fit every model from every seed, with a progress bar."""
    fits: dict[str, list[Fit]] = {}
    dim = texts.directions.shape[1]
    jobs = [(seed, *item) for seed in seeds for item in models(clusters, starts, seed, dim).items()]
    with tqdm(jobs, desc="all models", unit="fit") as progress:
        for seed, name, model in progress:
            progress.set_postfix_str(f"{name.strip()}, seed {seed}", refresh=False)
            start = time.process_time()
            found = model.fit_predict(texts.directions)
            seconds = time.process_time() - start
            scores = (f(texts.labels, found) for f in SCORES.values())
            fits.setdefault(name, []).append(Fit(model, found, *scores, seconds))
    return fits


SCORES = {
    "normalised mutual information": normalized_mutual_info_score,
    "adjusted Rand index": adjusted_rand_score,
}


def over_seeds(values: Sequence[float]) -> str:
    """The mean, and the range where there are several."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def table(fits: dict[str, list[Fit]]) -> str:
    """All scores as text."""
    rule = "-" * 86
    head = f"{'':26}{'information':>25}{'Rand':>25}{'time':>9}"
    lines = [rule, head, rule]
    for name, runs in fits.items():
        information, rand = (
            over_seeds([getattr(run, key) for run in runs]) for key in ("information", "rand")
        )
        seconds = np.mean([run.seconds for run in runs])
        lines.append(f"{name:26}{information:>25}{rand:>25}{seconds:7.1f} s")
    return "\n".join([*lines, rule])


def lists_of_words(texts: Texts, fit: Fit) -> str:
    """Of each cluster its size, its largest group's share, and the words of its centre."""
    lines = []
    counts = contingency_matrix(texts.labels, fit.clusters)
    sizes = counts.sum(0)
    present = np.unique(fit.clusters)
    for column in np.argsort(-sizes):
        center = fit.model.cluster_centers_[present[column]]
        words = " ".join(texts.words[i] for i in np.argsort(-center)[:WORDS])
        share = counts[:, column].max() / sizes[column]
        lines.append(f"{sizes[column]:7,}{share:6.0%}  {words}")
    return "\n".join(lines)


# %%
# The figure
# ----------


def draw_figure(path: Path, texts: Texts, fits: dict[str, list[Fit]]) -> None:
    """The scores of all fits, and where the groups are in the clusters of two models."""
    figure = Figure(figsize=(12, 5.2), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(rect=(0.01, 0.01, 0.98, 0.98), wspace=0.04)
    grid = figure.add_gridspec(1, 3, width_ratios=(1.15, 1, 1))
    draw_scores(figure.add_subplot(grid[0]), fits)
    for column, name in enumerate(SHOWN, 1):
        axes = figure.add_subplot(grid[column])
        draw_clusters(axes, texts.labels, fits[name][0].clusters, name)
    save_figure(figure, path)


def draw_scores(axes: Axes, fits: dict[str, list[Fit]]) -> None:
    """A dot for each seed."""
    places = -np.arange(len(fits))
    for name, key, colour, shift in zip(
        SCORES, ("information", "rand"), (ORANGE, BLUE), (0.12, -0.12), strict=True
    ):
        for place, runs in zip(places, fits.values(), strict=True):
            values = [getattr(run, key) for run in runs]
            label = name if place == 0 else None
            y = [place + shift] * len(values)
            axes.scatter(values, y, s=30, color=colour, alpha=0.7, linewidths=0, label=label)
    axes.set_yticks(places, [name.strip() for name in fits], color=INK, size=10)
    axes.set_xlim(left=0)
    axes.set_ylim(places[-1] - 0.5, 0.5)
    axes.grid(axis="x", color=PALE)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=8, labelcolor=GREY, color=PALE)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_color(PALE)
    axes.legend(
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        loc="upper center",
        ncols=2,
        bbox_to_anchor=(0.3, -0.06),
        handletextpad=0.1,
    )
    axes.set_title("agreement with the groups, a dot for each seed", size=12, color=INK)


def draw_clusters(axes: Axes, labels: np.ndarray, clusters: np.ndarray, name: str) -> None:
    """The share of each group in each cluster, the best pairs of both on the diagonal."""
    counts = contingency_matrix(labels, clusters)
    groups, columns = linear_sum_assignment(-counts)
    rest = np.setdiff1d(np.arange(counts.shape[1]), columns)
    ordered = counts[:, np.concatenate((columns[np.argsort(groups)], rest))]
    shares = ordered / ordered.sum(1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(PALE)
    axes.set_xlabel("clusters", size=9, color=GREY)
    axes.set_ylabel("groups", size=9, color=GREY)
    axes.set_title(name, size=12, color=INK)


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Cluster texts by their directions with von Mises-Fisher mixtures, spherical "
        "k-means and scikit-learn's models; print how the clusters agree with the groups that the "
        "texts come from, and draw one figure.",
    )
    add = parser.add_argument
    text = "folder with train.feat and vocab.new (default: documents that the script makes)"
    add("--data", metavar="DIR", type=Path, help=text)
    text = "in place of documents, a .npy file with an embedding in each row; needs --labels"
    add("--embeddings", metavar="FILE", type=Path, help=text)
    add("--labels", metavar="FILE", type=Path, help="a .npy file with the group of each embedding")
    text = "how many clusters (default: as many as there are groups)"
    add("--clusters", type=read_whole_number(2), help=text)
    text = "how often each fit starts afresh; the best is kept (default: %(default)s)"
    add("--starts", type=read_whole_number(1), default=1, help=text)
    text = "how many seeds each model is fitted from (default: %(default)s)"
    add("--runs", type=read_whole_number(1), default=5, help=text)
    text = "file to append the scores to, a line of JSON"
    add("--record", metavar="FILE", type=Path, help=text)
    add_seed_and_output(parser)
    options = parser.parse_args(argv)
    if (options.embeddings is None) != (options.labels is None):
        parser.error("expected --embeddings and --labels together")
    if options.embeddings is not None and options.data is not None:
        parser.error("expected --data or --embeddings, not both")
    return options


def read(options: argparse.Namespace) -> Texts:
    """The texts that the options ask for."""
    if options.embeddings is not None:
        return read_embeddings(options.embeddings, options.labels)
    return made_texts(options.seed) if options.data is None else read_words(options.data)


@one_thread()
@threadpool_limits.wrap(limits=1)  # NumPy's, for the same reason as torch's
@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Fit all models, print table and words, draw the figure; return the exit code."""
    options = parse(argv)
    texts = read(options)
    prepare_to_write(None, options.record)
    n, dim = texts.directions.shape
    groups = len(np.unique(texts.labels))
    clusters = options.clusters or groups
    if clusters > n:
        raise DataError(f"expected at least as many texts as clusters, found {n} for {clusters}")
    seeds = range(options.seed, options.seed + options.runs)
    fits = fit_all(texts, clusters, options.starts, seeds)
    print(
        f"{n:,} texts ({texts.name}) as directions in {dim:,} dimensions, {groups} groups; "
        f"{clusters} clusters,\n{options.runs} seeds, each fit starts {options.starts} x."
    )
    print(table(fits))
    if texts.words:
        print("clusters of spherical k-means: size, share of the largest group, words")
        print(lists_of_words(texts, fits["spherical k-means"][0]))
    if options.record is not None:
        add_record(
            options.record,
            torch.device("cpu"),
            program=PROGRAM,
            data=texts.name,
            shape=[n, dim],
            clusters=clusters,
            starts=options.starts,
            seeds=list(seeds),
            scores={
                name.strip(): {
                    key: [getattr(run, key) for run in runs]
                    for key in ("information", "rand", "seconds")
                }
                for name, runs in fits.items()
            },
        )
    draw_figure(options.output, texts, fits)
    print(f"figure: {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
