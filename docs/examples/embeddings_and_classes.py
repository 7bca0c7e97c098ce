r"""
Embeddings and classes
======================

A small network embeds handwritten digits on the sphere, and each class is a von Mises-Fisher law
there: :class:`vmfdist.nn.SphericalClassifier`. The script trains such classifiers beside an
ordinary softmax layer, and scores them on held-out digits, also on digits of two classes that had
no part in the training. It needs the ``examples`` extra and the modules with a leading underscore
beside it::

    python embeddings_and_classes.py                  # scikit-learn's 8 x 8 digits, a minute
    python embeddings_and_classes.py --data DIR       # MNIST, from its four idx files

**The rows of the table.** All have the same network and training. *Softmax layer* is a linear layer
on the embedding, of any length. *Shared* and *per-class* are classifiers by the direction of the
embedding, with one concentration or one for each class, trained by the cross-entropy; *bfloat16* is
the shared one, trained under autocast. *Plug-in* takes the trained network of the shared one, and
class laws that are fitted to its embeddings by maximum likelihood, in one pass over the training
images (:class:`vmfdist.nn.ClassStatistics`).

**The scores.** Accuracy, mean negative log likelihood of the label, and calibration error (the mean
distance of confidence and accuracy, in 15 bins of the confidence), on held-out digits of the eight
classes that the model knows. Then, how well a score tells these digits from those of the two
classes that it does not know: the area under the ROC curve, 0.5 for a coin, 1 for a score that is
always lower for an unknown digit. The scores are the largest probability and, of laws, the log
density of the embedding. Each of five runs leaves out two other classes, so that every digit is
unknown once; the table has means and standard deviations.

**What to expect.** On scikit-learn's digits all trained models are right alike often. Direction
alone gives a little better likelihood than the softmax layer in most runs, and its largest
probability tells unknown digits a little better. Concentrations of their own change nothing here.
The cross-entropy asks for classes that are told apart and for nothing else; the density of a model
so trained is a by-product, and no better score than the largest probability. Class laws that are
fitted to the embeddings have the best density for this, and make the worst classifier, one that is
too sure of itself. Training in bfloat16 costs nothing.

References:
    Govindarajan, Sidén, Roll and Lindsten (2023), DINO as a von Mises-Fisher mixture model, ICLR,
    arXiv:2405.10939 (log normalisers in the logits). Ming, Sun, Dia and Li (2023), How to exploit
    hyperspherical embeddings for out-of-distribution detection?, ICLR, arXiv:2203.04450. Guo,
    Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks, ICML,
    arXiv:1706.04599 (the calibration error).
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from _digits import DATA_SEED, HIDDEN, labelled_images, mlp
from _options import (
    DataError,
    add_record_option,
    add_seed_and_output,
    ends_in_one_line,
    one_thread,
    prepare_to_write,
    read_whole_number,
    save_figure,
)
from _record import add_record
from _sphere import BLUE, GREY, INK, ORANGE, PALE
from vmfdist.nn import ClassStatistics, SphericalClassifier

PROGRAM = "embeddings_and_classes.py"
CLASSES, LEFT_OUT = 10, 2
RUNS = CLASSES // LEFT_OUT
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
EPOCHS_DIGITS, EPOCHS_MNIST = 60, 10
BINS = 15  # of the confidence, in the calibration error
KNOWN, UNKNOWN = BLUE, ORANGE

# %%
# Data
# ----


class Labelled(NamedTuple):
    """Images with a row each, and their classes."""

    images: Tensor
    labels: Tensor

    def of_classes(self, classes: Sequence[int]) -> Labelled:
        """The images of some classes, which are numbered from 0 on as they come."""
        rows = torch.isin(self.labels, torch.tensor(classes))
        number = torch.full((CLASSES,), -1)
        number[torch.tensor(classes)] = torch.arange(len(classes))
        return Labelled(self.images[rows], number[self.labels[rows]])


def sklearn_digits() -> tuple[Labelled, Labelled]:
    """scikit-learn's 1,797 digits: 1,197 to train, 600 held out."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.data), generator=torch.Generator().manual_seed(DATA_SEED))
    images = torch.as_tensor(bunch.data, dtype=torch.float32)[order] / 16
    labels = torch.as_tensor(bunch.target)[order]
    return Labelled(images[:-600], labels[:-600]), Labelled(images[-600:], labels[-600:])


def mnist(folder: Path, fewest_held_out: int = 1) -> tuple[Labelled, Labelled]:
    """MNIST, or a set with its format: images to train, and so many or more of a class held out."""
    parts = []
    for part, fewest in (("train", 2), ("t10k", fewest_held_out)):  # one image has no spread
        data = Labelled(*labelled_images(folder, part))
        counts = data.labels.bincount(minlength=CLASSES)
        if rare := (counts < fewest).nonzero().flatten().tolist():
            path = folder / f"{part}-labels-idx1-ubyte"
            raise DataError(f"{path}: expected {fewest} of each label or more, not so of {rare}")
        parts.append(data)
    return parts[0], parts[1]


# %%
# Models
# ------


class Model(nn.Module):
    """A network that embeds images, and a layer of class scores on top."""

    def __init__(self, pixels: int, dim: int, scores: nn.Module) -> None:
        """Build the network; `scores` gives logits of embeddings with `dim` coordinates."""
        super().__init__()
        self.embed = mlp(pixels, *HIDDEN, dim)
        self.scores = scores

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.scores(self.embed(images))


def train(model: Model, data: Labelled, epochs: int, kind: torch.dtype | None = None) -> None:
    """Minimise the cross-entropy; under autocast to `kind`, if there is one."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.images)).split(BATCH_SIZE):
            with nullcontext() if kind is None else torch.autocast("cpu", dtype=kind):
                loss = cross_entropy(model(data.images[rows]), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def plugged_in(model: Model, data: Labelled, classes: int) -> Model:
    """The same network, with class laws fitted to what it makes of the data."""
    statistics = ClassStatistics(model.scores.dim, classes)
    for images, labels in zip(data.images.split(1000), data.labels.split(1000), strict=True):
        statistics.update(model.embed(images), labels)
    fitted = Model(data.images.shape[-1], model.scores.dim, nn.Identity())
    fitted.embed = model.embed
    fitted.scores = SphericalClassifier(model.scores.dim, classes, "per-class").fit(statistics)
    return fitted


# %%
# Scores
# ------


class Scores(NamedTuple):
    """What the table has of a model."""

    accuracy: float
    nll: float
    calibration: float
    by_probability: float
    by_density: float | None  # of laws


class Judged(NamedTuple):
    """The two scores of held-out images, known ones and unknown ones."""

    probability: tuple[Tensor, Tensor]
    density: tuple[Tensor, Tensor]


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """The mean distance of confidence and accuracy, in bins of the confidence."""
    number = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, number, confidence.double() - right.double())
    return (gaps.abs().sum() / len(confidence)).item()


def area(known: Tensor, unknown: Tensor) -> float:
    """That under the ROC curve: the chance that a known image scores higher than an unknown one."""
    truth = torch.cat([torch.ones(len(known)), torch.zeros(len(unknown))])
    return float(roc_auc_score(truth, torch.cat([known, unknown])))


@torch.no_grad()
def evaluate(model: Model, known: Labelled, unknown: Labelled) -> tuple[Scores, Judged]:
    """Score a model on held-out images."""
    logits, strange = model(known.images), model(unknown.images)
    confidence, guess = logits.softmax(-1).max(-1)
    right = guess == known.labels
    probability = confidence, strange.softmax(-1).amax(-1)
    density = logits.logsumexp(-1), strange.logsumexp(-1)
    return Scores(
        right.double().mean().item(),
        cross_entropy(logits, known.labels).item(),
        calibration_error(confidence, right),
        area(*probability),
        area(*density) if isinstance(model.scores, SphericalClassifier) else None,
    ), Judged(probability, density)


def run(
    train_data: Labelled, test_data: Labelled, number: int, dim: int, epochs: int, progress: tqdm
) -> dict[str, tuple[Scores, Judged]]:
    """Leave two classes out, train all models on the others, and score them."""
    unknown = list(range(LEFT_OUT * number, LEFT_OUT * (number + 1)))
    classes = [c for c in range(CLASSES) if c not in unknown]
    data, known = (x.of_classes(classes) for x in (train_data, test_data))
    strange = test_data.of_classes(unknown)
    layers = {
        "softmax layer": lambda: nn.Linear(dim, len(classes)),
        "shared": lambda: SphericalClassifier(dim, len(classes)),
        "shared, bfloat16": lambda: SphericalClassifier(dim, len(classes)),
        "per-class": lambda: SphericalClassifier(dim, len(classes), "per-class"),
    }
    seed, found = torch.initial_seed(), {}
    for name, layer in layers.items():
        torch.manual_seed(seed)  # the same weights and minibatches in all
        model = Model(data.images.shape[-1], dim, layer())
        train(model, data, epochs, torch.bfloat16 if "bfloat16" in name else None)
        found[name] = evaluate(model, known, strange)
        if name == "shared":
            fitted = evaluate(plugged_in(model, data, len(classes)), known, strange)
        progress.update()
    return found | {"plug-in": fitted}


def cell(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of all runs, or a dash where one has no such score."""
    if None in values:
        return "-".rjust(18)
    x = torch.tensor(values, dtype=torch.float64)
    spread = x.std().item() if len(x) > 1 else 0.0
    return f"{x.mean().item():10.3f} ({spread:.3f})"


def table(runs: Sequence[dict[str, Scores]]) -> str:
    """Means and standard deviations of all runs as text."""
    rule = "-" * 105
    names = ("accuracy", "NLL", "calibration", "ROC, probability", "ROC, density")
    lines = [rule, f"{'':16}{''.join(f'{name:>18}' for name in names)}", rule]
    for name in runs[0]:
        columns = zip(*(scores[name] for scores in runs), strict=True)
        lines.append(f"{name:16}{''.join(map(cell, columns))}")
    return "\n".join([*lines, rule])


# %%
# The figure
# ----------


def draw_figure(path: Path, judged: dict[str, Judged], runs: Sequence[dict[str, Scores]]) -> None:
    """Both scores of held-out images in the first run, and the areas of all runs."""
    figure = Figure(figsize=(12, 5), facecolor="white", layout="constrained")
    first, second, third = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    shown = judged["shared"]
    draw_histogram(first, shown.probability, "largest probability")
    draw_histogram(second, shown.density, "log density")
    first.legend(frameon=False, fontsize=9, labelcolor=INK)
    places = {name: -i for i, name in enumerate(runs[0])}
    series = (
        ("by_probability", "by largest probability", GREY, "o", 0.12),
        ("by_density", "by log density", BLUE, "s", -0.12),
    )
    for field, label, colour, marker, shift in series:
        points = [
            (getattr(scores[name], field), y + shift)
            for scores in runs
            for name, y in places.items()
            if getattr(scores[name], field) is not None
        ]
        label = field.replace("by_probability", "by largest probability").replace(
            "by_d", "by log d"
        )
        style = {"color": colour, "marker": marker, "alpha": 0.8, "s": 28, "linewidths": 0}
        third.scatter(*zip(*points, strict=True), label=label, **style)
    third.set_yticks(list(places.values()), list(places), color=INK)
    third.set_title("area under the ROC curve, all runs", size=12, color=INK)
    third.legend(frameon=False, fontsize=9, labelcolor=INK, loc="center left")
    for axes in (first, second, third):
        axes.tick_params(labelsize=9, labelcolor=GREY, color=PALE)
        axes.spines[:].set_color(PALE)
    save_figure(figure, path)


def draw_histogram(axes: Axes, scores: tuple[Tensor, Tensor], title: str) -> None:
    """One score, of known digits and of unknown ones."""
    joint = torch.cat(scores)
    bins = torch.linspace(joint.min().item(), joint.max().item(), 31).tolist()
    for x, colour, label in zip(scores, (KNOWN, UNKNOWN), ("known", "unknown"), strict=True):
        style = {"color": colour, "alpha": 0.6, "label": f"{label} digits"}
        axes.hist(x.tolist(), bins, weights=[1 / len(x)] * len(x), **style)
    axes.set_yscale("log")
    axes.set_title(f"{title}: shared, first run", size=12, color=INK)
    axes.set_ylabel("share of the digits", size=9, color=GREY)


# %%
# The command
# -----------


def add_data_options(
    parser: argparse.ArgumentParser, epochs_digits: int, epochs_mnist: int
) -> None:
    """What is trained on, how wide the embedding is, and the epochs, which have two defaults."""
    add = parser.add_argument
    text = "folder with the four idx files of MNIST, plain or .gz; else scikit-learn's digits"
    add("--data", metavar="DIR", type=Path, help=text)
    text = "of the embedding (default: %(default)s)"
    add("--dim", type=read_whole_number(2), default=16, help=text)
    text = f"rounds over the training images (default: {epochs_digits}; of MNIST: {epochs_mnist})"
    add("--epochs", type=read_whole_number(1), help=text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train classifiers whose classes are von Mises-Fisher laws of an embedding, "
        "and a softmax layer beside them, on handwritten digits; print how they do on held-out "
        "digits of known and unknown classes, and draw one figure.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    add_data_options(parser, EPOCHS_DIGITS, EPOCHS_MNIST)
    text = f"how many runs, each of which leaves two classes out {default}"
    add("--runs", type=read_whole_number(1, RUNS), default=RUNS, help=text)
    add_record_option(parser)
    add_seed_and_output(parser)
    return parser.parse_args(argv)


@one_thread()
@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Train and score all models, print the table, draw the figure; return the exit code."""
    options = parse(argv)
    prepare_to_write(None, options.record)
    train_data, test_data = sklearn_digits() if options.data is None else mnist(options.data)
    epochs = options.epochs or (EPOCHS_DIGITS if options.data is None else EPOCHS_MNIST)
    runs: list[dict[str, Scores]] = []
    shown: dict[str, Judged] = {}
    with tqdm(total=4 * options.runs, desc="all runs", unit="model") as progress:
        for number in range(options.runs):
            torch.manual_seed(options.seed + number)
            found = run(train_data, test_data, number, options.dim, epochs, progress)
            runs.append({name: scores for name, (scores, _) in found.items()})
            shown = shown or {name: judged for name, (_, judged) in found.items()}
            if options.record is not None:
                scores = {name: scores._asdict() for name, scores in runs[-1].items()}
                add_record(options.record, torch.device("cpu"), run=number, scores=scores)
    print(
        f"{len(train_data.images):,} digits to train, {len(test_data.images):,} held out; "
        f"embeddings in {options.dim} dimensions; each of {options.runs} runs\nleaves two of ten "
        "classes out. Means, and standard deviations in brackets."
    )
    print(table(runs))
    draw_figure(options.output, shown, runs)
    print(f"figure: {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
