r"""
Clustering embeddings by their directions
=========================================

Embeddings are often compared by the cosine between them, which is to say by their directions. A
mixture of von Mises-Fisher laws is the model that goes with it. The script clusters scikit-learn's
1,797 handwritten digits, each as a direction, with
:class:`vmfdist.mixture.VonMisesFisherMixture`, and compares the clusters with the labels, beside
those that scikit-learn's ``KMeans`` and ``GaussianMixture`` find in the same unit vectors. Then it
lets the Bayesian information criterion (BIC) choose the number of components.

It needs the ``examples`` and ``mixture`` extras, with ``_sphere.py`` and ``_options.py`` beside it,
takes less than a minute, prints a table and draws one figure::

    python clustering_digits.py
    python clustering_digits.py --components 20 --seed 1

**From images to directions.** The mean image is taken off first: all pixels are positive, and
without this all images would point much the same way. Then come the first 20 principal components,
which leave out what varies little, and only then the length. A direction says how an image differs
from the mean image; the length, how much. The way back, times the mean length, shows the mean
direction of a component as an image.

**What to expect.** The labels are no part of the fit. With ten components the mixture does less
well by them than k-means: each component has a concentration of its own, and the likelihood
rewards a few narrow components beside wide ones that take in several digits. A Gaussian mixture
with one variance for each component behaves likewise, and one with full covariances does best: the
clusters are long in some directions, of which a von Mises-Fisher law knows nothing. BIC asks for
many more components than there are digits, as people have more than one way to write each. Then a
component holds little else than one digit (a homogeneity close to 1), and the Rand index, which
wants each digit in one piece, falls. Densities on the sphere and in space have different units, so
the likelihood and the BIC of the Gaussian mixtures are not comparable with those here.

**The scores.** The adjusted Rand index is 1 for clusters that are the digits and 0 on average for
random ones. The normalised mutual information is the harmonic mean of homogeneity, 1 if a cluster
has one digit only, and completeness, 1 if a digit is in one cluster only. Times are seconds of a
processor, for a fit on one thread.

References:
    Banerjee, Dhillon, Ghosh and Sra (2005), Clustering on the unit hypersphere using von
    Mises-Fisher distributions, Journal of Machine Learning Research 6, 1345-1382. Hubert and Arabie
    (1985), Comparing partitions, Journal of Classification 2, doi:10.1007/BF01908075. Rosenberg and
    Hirschberg (2007), V-measure, EMNLP-CoNLL, 410-420. Schwarz (1978), Estimating the dimension of
    a model, Annals of Statistics 6(2), doi:10.1214/aos/1176344136.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import (
    adjusted_rand_score,
    homogeneity_score,
    normalized_mutual_info_score,
)
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from _options import (
    add_seed_and_output,
    ends_in_one_line,
    one_thread,
    read_whole_number,
    save_figure,
)
from _sphere import BLUE, GREY, INK, ORANGE, PALE
from vmfdist.mixture import VonMisesFisherMixture

PROGRAM = "clustering_digits.py"
DIM = 20  # principal components, hence the ambient dimension
COUNTS = (5, 10, 15, 20, *range(30, 101, 10))  # numbers of components among which BIC chooses
EM = {"max_iter": 500, "tol": 1e-4}

# %%
# From images to directions
# -------------------------


class Digits(NamedTuple):
    """Images as directions, and the way back."""

    directions: np.ndarray  # (n, DIM), unit vectors
    labels: np.ndarray  # (n,), never given to a model
    projection: PCA
    length: float  # of a projected image, on average

    def images(self, directions: np.ndarray) -> np.ndarray:
        """The images of average length in these directions, shape (m, 8, 8)."""
        return self.projection.inverse_transform(self.length * directions).reshape(-1, 8, 8)


def digits() -> Digits:
    """scikit-learn's digits, centred, projected and normalised."""
    bunch = load_digits()
    projection = PCA(DIM, svd_solver="full").fit(bunch.data)  # it centres
    projected = projection.transform(bunch.data)
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    return Digits(projected / lengths, bunch.target, projection, lengths.mean())


# %%
# Models and scores
# -----------------


class Scores(NamedTuple):
    """How clusters agree with the labels."""

    components: int
    rand: float
    information: float
    homogeneity: float


def score(clusters: np.ndarray, labels: np.ndarray, components: int) -> Scores:
    """Compare clusters with labels."""
    return Scores(
        components,
        adjusted_rand_score(labels, clusters),
        normalized_mutual_info_score(labels, clusters),
        homogeneity_score(labels, clusters),
    )


def models(components: int, starts: int, seed: int) -> dict[str, Any]:
    """The mixture and its rivals, all with the same number of components and of starts."""
    shared = {"n_init": starts, "random_state": seed}
    return {
        "von Mises-Fisher mixture": VonMisesFisherMixture(components, **shared, **EM),
        "k-means": KMeans(components, **shared),
        "Gaussian mixture, spherical": GaussianMixture(
            components, covariance_type="spherical", **shared, **EM
        ),
        "Gaussian mixture, full": GaussianMixture(components, **shared, **EM),
    }


class Choice(NamedTuple):
    """Mixtures with several numbers of components."""

    bic: list[float]
    scores: list[Scores]

    def best(self) -> int:
        """The position of the lowest BIC."""
        return self.bic.index(min(self.bic))


def choose(data: Digits, starts: int, seed: int) -> Choice:
    """Fit mixtures with all numbers of components in question, with a progress bar."""
    found = Choice([], [])
    with tqdm(COUNTS, desc="BIC       ", unit="fit") as progress:
        for count in progress:
            mixture = VonMisesFisherMixture(count, n_init=starts, random_state=seed, **EM)
            clusters = mixture.fit_predict(data.directions)
            found.bic.append(mixture.bic(data.directions))
            found.scores.append(score(clusters, data.labels, count))
            progress.set_postfix_str(f"{count} components", refresh=False)
    return found


def table(scores: dict[str, Scores], seconds: dict[str, float]) -> str:
    """All scores as text."""
    rule = "-" * 79
    names = f"{'components':>12}{'Rand':>8}{'information':>13}{'homogeneity':>13}{'time':>7}"
    lines = [rule, f"{'':26}{names}", rule]
    for name, (components, *values) in scores.items():
        rand, information, homogeneity = values
        numbers = f"{components:9}{rand:9.3f}{information:13.3f}{homogeneity:13.3f}"
        took = f"{seconds[name]:6.1f} s" if name in seconds else ""
        lines.append(f"{name:28}{numbers}{took}")
    return "\n".join([*lines, rule])


# %%
# The figure
# ----------


def draw_figure(path: Path, data: Digits, mixture: VonMisesFisherMixture, choice: Choice) -> None:
    """Digits and components in the plane, what BIC says, and each mean direction as an image."""
    order = np.argsort(-mixture.weights_)
    per_row = 10
    rows = math.ceil(len(order) / per_row)
    figure = Figure(figsize=(12, 6.4 + 1.45 * rows), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(rect=(0.01, 0.01, 0.98, 0.98))
    grid = figure.add_gridspec(2, 1, height_ratios=(6, 1.45 * rows), hspace=0.03)
    images = data.images(mixture.mean_directions_)
    top = grid[0].subgridspec(1, 2, width_ratios=(1.15, 1))
    draw_plane(figure.add_subplot(top[0]), data, mixture.mean_directions_[order])
    draw_choice(figure, top[1], choice, len(order))
    bottom = grid[1].subgridspec(rows, per_row)
    for number, component in enumerate(order):
        axes = figure.add_subplot(bottom[divmod(number, per_row)])
        axes.imshow(images[component], cmap="gray_r", vmin=0, vmax=16, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(PALE)
        share, concentration = mixture.weights_[component], mixture.concentrations_[component]
        axes.set_title(f"{number + 1}", size=11, weight="bold", color=INK, pad=3)
        axes.set_xlabel(f"{share:.0%}, κ = {concentration:.0f}", size=9, color=GREY, labelpad=2)
    save_figure(figure, path)


def draw_plane(axes: Axes, data: Digits, means: np.ndarray) -> None:
    """The first two coordinates of all digits, drawn as such, and of the mean directions."""
    shades = [f"C{label}" for label in range(10)]
    for label, shade in enumerate(shades):
        points = data.directions[data.labels == label, :2]
        axes.scatter(*points.T, marker=f"${label}$", s=22, color=shade, alpha=0.7, linewidths=0)
    style = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": INK, "lw": 1.2}
    for number, mean in enumerate(means):
        place = {"ha": "center", "va": "center", "bbox": style}
        axes.text(*mean[:2], f"{number + 1}", size=9, weight="bold", color=INK, **place)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(PALE)
    axes.set_xlabel(
        "each digit is drawn as its label; in circles: the components below", size=9, color=GREY
    )
    axes.set_title("first two coordinates of the directions", size=12, color=INK)


def draw_choice(figure: Figure, cell: SubplotSpec, choice: Choice, components: int) -> None:
    """BIC, and how well the clusters agree with the labels, by the number of components."""
    above, below = cell.subgridspec(2, 1).subplots()
    counts = [scores.components for scores in choice.scores]
    best = choice.best()
    above.plot(counts, choice.bic, color=BLUE, lw=2, marker="o", ms=4)
    style = {"color": ORANGE, "edgecolors": INK, "zorder": 3}
    label = f"lowest, {counts[best]} components"
    above.scatter(counts[best], choice.bic[best], s=180, marker="*", label=label, **style)
    above.axvline(components, color=PALE, lw=2, zorder=0, label="in the table and below")
    above.set_title("BIC, the lower the better", size=12, color=INK)
    series = {
        "homogeneity": ("^", GREY, [scores.homogeneity for scores in choice.scores]),
        "normalised mutual information": ("s", ORANGE, [s.information for s in choice.scores]),
        "adjusted Rand index": ("o", BLUE, [scores.rand for scores in choice.scores]),
    }
    for name, (marker, colour, values) in series.items():
        below.plot(counts, values, color=colour, lw=2, marker=marker, ms=4, label=name)
    below.axvline(components, color=PALE, lw=2, zorder=0)
    below.set_ylim(0, 1)
    below.set_title("agreement with the labels", size=12, color=INK)
    below.set_xlabel("components", size=9, color=GREY)
    for axes in (above, below):
        axes.tick_params(labelsize=8, labelcolor=GREY, color=PALE)
        axes.spines[:].set_color(PALE)
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    above.tick_params(labelbottom=False)


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Cluster scikit-learn's digits by their directions with a mixture of von "
        "Mises-Fisher laws and with scikit-learn's models; print how the clusters agree with the "
        "labels, choose the number of components by BIC, and draw one figure.",
    )
    text = "of the models in the table and the figure (default: %(default)s)"
    parser.add_argument("--components", type=read_whole_number(2, 100), default=10, help=text)
    text = "how often each fit starts afresh; the best is kept (default: %(default)s)"
    parser.add_argument("--starts", type=read_whole_number(1), default=10, help=text)
    add_seed_and_output(parser)
    return parser.parse_args(argv)


@one_thread()
@threadpool_limits.wrap(limits=1)  # NumPy's, for the same reason as torch's
@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Fit all models, print the table, draw the figure; return the exit code."""
    options = parse(argv)
    data = digits()
    scores: dict[str, Scores] = {}
    seconds: dict[str, float] = {}
    fitted = models(options.components, options.starts, options.seed)
    for name, model in tqdm(fitted.items(), desc="all models", unit="fit"):
        start = time.process_time()
        clusters = model.fit_predict(data.directions)
        seconds[name] = time.process_time() - start
        scores[name] = score(clusters, data.labels, options.components)
    choice = choose(data, options.starts, options.seed)
    scores["  its components by BIC"] = choice.scores[choice.best()]
    print(
        f"{len(data.labels):,} digits as directions in {DIM} dimensions; each fit starts "
        f"{options.starts} x; BIC chooses\nbetween {', '.join(map(str, COUNTS))} components."
    )
    print(table(scores, seconds))
    draw_figure(options.output, data, fitted["von Mises-Fisher mixture"], choice)
    print(f"figure: {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
