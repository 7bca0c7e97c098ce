r"""
Embeddings that know how sure they are
======================================

A network embeds handwritten digits of which only a part is to be seen. Its embedding is a law, a
von Mises-Fisher law by :class:`vmfdist.nn.SphericalHead`, whose concentration is to tell how much
the picture says. Nobody tells the network how much of a digit it sees: all that it learns from is
which pictures show the same digit. The script needs the ``examples`` extra and the modules that it
imports from beside it::

    python uncertain_embeddings.py                # scikit-learn's 8 x 8 digits, two minutes
    python uncertain_embeddings.py --data DIR     # MNIST, from its four idx files

**The pictures.** A square window is laid on each, of a size and at a place that are drawn at
random, afresh for every step of the training. All that is outside is black. The smallest window
has three eighths of the picture's width.

**The losses.** All contrast a picture with another one of the same digit, and with those of other
digits in the minibatch: which of them is its partner? With laws :math:`p_i` of the pictures and
:math:`q_j` of the partners, their mean directions :math:`\mu_i` and :math:`\nu_j`, the
probability of the right partner, :math:`j = i`, is the share of its term in the sum over j of

- *cosines*: :math:`e^{t \langle \mu_i, \nu_j \rangle}`, InfoNCE with a learned t. It sees
  directions only. The last layer is linear, and the length of its vector stands in for a
  concentration that nothing trains;
- *MCInfoNCE*: :math:`e^{t \langle x_i, y_j \rangle}` with draws :math:`x_i` of the law
  :math:`p_i` and :math:`y_j` of :math:`q_j`, the mean of the shares over 16 such draws (Kirchhof
  et al. 2023), and a learned t as well;
- *kernel*: :math:`\int p_i q_j`, the expected likelihood kernel (Jebara et al. 2004), in closed
  form: :func:`vmfdist.similarity.log_product_integral`.

**The scores** are those of held-out digits, each under one window. First, the rank correlation
(Spearman's) of the concentration with the share of the picture that is seen. Then retrieval. Each
picture asks for the most similar ones among the others, by cosines or by the kernel: recall@1 is
how often the first one shows the same digit, MAP the mean average precision of the whole list.
Last, what it is worth to know how sure one is: the area under the ROC curve, for the concentration
to tell pictures that find their digit from pictures that find another, and recall@1 if only the
surer half of the pictures ask, or the surest quarter (all can be found). Beside these stands the
half of which most is seen: those that one would choose if one knew. In the last four lines
*cosines* searches by cosines, the others by the kernel.

**What to expect.** Both losses of laws find out what is seen, by a rank correlation of 0.91. The
length of an ordinary vector has some of it too, 0.62. Laws that were trained by the kernel retrieve
a little better by the kernel than by cosines, and a little better than ordinary embeddings by
cosines. Leaving out the less sure half raises recall@1 from 0.78 to 0.96, no less than if one knew
what is seen. In this the length of an ordinary vector does as well, and of the surest quarter it
finds the better one: 199 in 200 are right, of the kernel's 196.

References:
    Jebara, Kondor and Howard (2004), Probability product kernels, Journal of Machine Learning
    Research 5, 819-844. Kirchhof, Kasneci and Oh (2023), Probabilistic contrastive learning
    recovers the correct aleatoric uncertainty of ambiguous inputs, ICML, arXiv:2302.02865. Van den
    Oord, Li and Vinyals (2018), Representation learning with contrastive predictive coding,
    arXiv:1807.03748 (InfoNCE).
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from scipy.stats import spearmanr
from torch import Tensor, nn
from tqdm import tqdm

from _digits import HIDDEN, mlp
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
from embeddings_and_classes import (
    Labelled,
    add_data_options,
    area,
    cell,
    mnist,
    sklearn_digits,
)
from vmfdist import VonMisesFisher
from vmfdist.nn import SphericalHead
from vmfdist.similarity import log_product_integral

PROGRAM = "uncertain_embeddings.py"
RUNS = 5
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
EPOCHS_DIGITS, EPOCHS_MNIST = 40, 3
TEMPERATURE = 10.0  # at first; the factor of cosines
DRAWS = 16  # of each law, in a step
NARROWEST = 3 / 8  # window, of the width of the picture
SCORED = 2000  # held-out digits at most, of which all pairs are compared
COLOURS = {"cosines": GREY, "MCInfoNCE": GREEN, "kernel": BLUE}

# %%
# Windows
# -------


class Seen(NamedTuple):
    """What windows leave of pictures, and their share of the area."""

    images: Tensor
    share: Tensor


def through_windows(images: Tensor) -> Seen:
    """Black out all but a square of each picture, of random size and place."""
    count, side = len(images), math.isqrt(images.shape[-1])
    width = torch.randint(math.ceil(NARROWEST * side), side + 1, (count, 1))
    kept = images.new_ones(count, side, side)
    for mask in (kept, kept.mT):  # rows, then columns
        first = (torch.rand(count, 1) * (side - width + 1)).long()
        place = torch.arange(side)
        mask *= ((place >= first) & (place < first + width)).unsqueeze(-1)
    return Seen(images * kept.flatten(1), (width.squeeze(-1) / side) ** 2)


# %%
# Embeddings and losses
# ---------------------


class DirectionAndLength(nn.Linear):
    """Vectors as laws: a direction, and the length as the concentration."""

    def forward(self, features: Tensor) -> VonMisesFisher:
        """The law whose natural parameter is the output of the layer."""
        return VonMisesFisher.from_natural(super().forward(features))


class Embedding(nn.Module):
    """A network from pictures to laws, and the factor of cosines."""

    def __init__(self, pixels: int, head: nn.Module) -> None:
        """Build the network."""
        super().__init__()
        self.layers = nn.Sequential(mlp(pixels, *HIDDEN), nn.SiLU(), head)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))

    def forward(self, images: Tensor) -> VonMisesFisher:
        """The law of each picture."""
        return self.layers(images)

    @property
    def temperature(self) -> Tensor:
        """The factor of cosines."""
        return self.log_temperature.exp()


def log_kernel(first: VonMisesFisher, second: VonMisesFisher) -> Tensor:
    """The logarithm of the product integral of all pairs."""
    rows = VonMisesFisher(first.loc.unsqueeze(-2), first.concentration.unsqueeze(-1))
    return log_product_integral(rows, second)


def by_cosines(first: VonMisesFisher, second: VonMisesFisher, temperature: Tensor) -> Tensor:
    """Logits of InfoNCE."""
    return temperature * first.loc @ second.loc.mT


def by_draws(first: VonMisesFisher, second: VonMisesFisher, temperature: Tensor) -> Tensor:
    """The same of draws, which are in front."""
    return temperature * first.rsample((DRAWS,)) @ second.rsample((DRAWS,)).mT


def by_kernel(first: VonMisesFisher, second: VonMisesFisher, temperature: Tensor) -> Tensor:
    """Those of the closed form, whose scale is in the concentrations."""
    return log_kernel(first, second)


LOGITS: dict[str, Callable[[VonMisesFisher, VonMisesFisher, Tensor], Tensor]] = {
    "cosines": by_cosines,
    "MCInfoNCE": by_draws,
    "kernel": by_kernel,
}


def contrastive_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the mean log probability of the partner; of several draws, that of its mean.

    Args:
        logits: of pictures in rows and partners in columns, (n, n) or (draws, n, n).
        labels: the digits, (n,), which both share.
    """
    same = labels.unsqueeze(-1) == labels
    others = same & ~torch.eye(len(labels), dtype=torch.bool)  # of the same digit: neither right
    chances = logits.masked_fill(others, -math.inf).log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    chances = chances.reshape(-1, len(labels))
    return (math.log(len(chances)) - chances.logsumexp(0)).mean()


def partners(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that draws an example of the same class for each of some examples."""
    order, counts = labels.argsort(), labels.bincount()
    start = counts.cumsum(0) - counts

    def draw(rows: Tensor) -> Tensor:
        label = labels[rows]
        return order[start[label] + (torch.rand(len(rows)) * counts[label]).long()]

    return draw


def train(model: Embedding, loss: str, data: Labelled, epochs: int, progress: tqdm) -> None:
    """Minimise a loss over pairs of pictures of the same digit."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    partner = partners(data.labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.images)).split(BATCH_SIZE):
            pair = (through_windows(data.images[r]).images for r in (rows, partner(rows)))
            logits = LOGITS[loss](*(model(images) for images in pair), model.temperature)
            optimizer.zero_grad()
            contrastive_loss(logits, data.labels[rows]).backward()
            optimizer.step()
        progress.update()


# %%
# Scores
# ------


class Scores(NamedTuple):
    """What the table has of a model."""

    correlation: float
    recall_cosines: float
    recall_kernel: float
    map_cosines: float
    map_kernel: float
    roc: float | None  # where some find their digit, and some another
    surer_half: float
    surest_quarter: float
    half_most_seen: float


LABELS = {
    "correlation": "rank correlation with the share seen",
    "recall_cosines": "recall@1, by cosines",
    "recall_kernel": "recall@1, by the kernel",
    "map_cosines": "MAP, by cosines",
    "map_kernel": "MAP, by the kernel",
    "roc": "ROC, right from wrong",
    "surer_half": "recall@1 of the surer half",
    "surest_quarter": "recall@1 of the surest quarter",
    "half_most_seen": "recall@1 of the half most seen",
}


class Judged(NamedTuple):
    """What the figure shows of a model: of each held-out picture."""

    seen: Seen
    concentration: Tensor
    right: Tensor  # whether the most similar picture shows the same digit


def retrieval(similarity: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Whether the most similar other is of the same class, for each; mean average precision."""
    order = similarity.clone().fill_diagonal_(-math.inf).argsort(-1, descending=True)[:, :-1]
    same = (labels[order] == labels.unsqueeze(-1)).double()
    precision = same.cumsum(-1) / torch.arange(1, len(labels))
    average = (precision * same).sum(-1) / same.sum(-1)
    return same[:, 0].bool(), average.mean().item()


def recall_by_share_left_out(order_by: Tensor, right: Tensor) -> Tensor:
    """Recall of those that are left if 0, 1, ... are left out, the lowest in order first."""
    kept = right[order_by.argsort(descending=True)].double()
    return (kept.cumsum(0) / torch.arange(1, len(kept) + 1)).flip(0)


@torch.no_grad()
def evaluate(model: Embedding, loss: str, data: Labelled, seen: Seen) -> tuple[Scores, Judged]:
    """Score a model on held-out pictures."""
    laws = model(seen.images)
    k = laws.concentration
    cosines, map_cosines = retrieval(laws.loc @ laws.loc.mT, data.labels)
    kernel, map_kernel = retrieval(log_kernel(laws, laws), data.labels)
    right = cosines if loss == "cosines" else kernel
    by_k, by_share = (recall_by_share_left_out(x, right) for x in (k, seen.share))
    half, quarter = len(k) // 2, 3 * len(k) // 4
    return Scores(
        float(spearmanr(k, seen.share).statistic),
        cosines.double().mean().item(),
        kernel.double().mean().item(),
        map_cosines,
        map_kernel,
        area(k[right], k[~right]) if 0 < right.sum() < len(right) else None,
        by_k[half].item(),
        by_k[quarter].item(),
        by_share[half].item(),
    ), Judged(seen, k, right)


def run(
    train_data: Labelled, test_data: Labelled, dim: int, epochs: int, progress: tqdm
) -> dict[str, tuple[Scores, Judged]]:
    """Train a model by each loss, and score all on the same pictures."""
    pixels, seed = train_data.images.shape[-1], torch.initial_seed()
    found, seen = {}, through_windows(test_data.images)
    for loss in LOGITS:
        progress.set_postfix_str(loss, refresh=False)
        torch.manual_seed(seed)  # the same pictures in all, but for what draws take
        sure = loss != "cosines"
        head = SphericalHead(HIDDEN[-1], dim) if sure else DirectionAndLength(HIDDEN[-1], dim)
        model = Embedding(pixels, head)
        train(model, loss, train_data, epochs, progress)
        found[loss] = evaluate(model, loss, test_data, seen)
    return found


def table(runs: Sequence[dict[str, Scores]]) -> str:
    """Means and standard deviations of all runs as text."""
    rule = "-" * 92
    lines = [rule, f"{'':38}{''.join(f'{loss:>18}' for loss in runs[0])}", rule]
    for field, label in LABELS.items():
        cells = [cell([getattr(scores[loss], field) for scores in runs]) for loss in runs[0]]
        lines.append(f"{label:38}{''.join(cells)}")
    return "\n".join([*lines, rule])


# %%
# The figure
# ----------


def draw_figure(path: Path, runs: Sequence[dict[str, Judged]]) -> None:
    """Pictures from the least sure to the surest, their concentrations, and recall by rejection."""
    figure = Figure(figsize=(13, 4.8), facecolor="white", layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1, 1.1, 1.1), wspace=0.03)
    shown = runs[0]["kernel"]
    draw_pictures(left, shown)
    axes = middle.subplots(), right.subplots()
    draw_concentrations(axes[0], shown)
    draw_rejection(axes[1], runs)
    for each in axes:
        each.tick_params(which="both", labelsize=9, labelcolor=GREY, color=PALE)
        each.spines[:].set_color(PALE)
    save_figure(figure, path)


def draw_pictures(figure: SubFigure, judged: Judged, rows: int = 4, columns: int = 4) -> None:
    """Held-out pictures at even distances of rank, by their concentration."""
    order = judged.concentration.argsort()
    side = math.isqrt(judged.seen.images.shape[-1])
    chosen = order[torch.linspace(0, len(order) - 1, rows * columns).long()]
    for axes, i in zip(figure.subplots(rows, columns).flat, chosen.tolist(), strict=True):
        axes.imshow(judged.seen.images[i].view(side, side).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{judged.concentration[i]:.3g}", size=8, color=GREY, pad=2)
        axes.set_axis_off()
    figure.suptitle("concentrations, kernel", size=12, color=INK)


def draw_concentrations(axes: Axes, judged: Judged) -> None:
    """The concentration against the share of the picture that is seen."""
    jitter = (torch.rand(len(judged.right)) - 0.5) * 0.04
    for which, colour, label in (
        (judged.right, BLUE, "finds its digit"),
        (~judged.right, ORANGE, "finds another"),
    ):
        x, y = (judged.seen.share + jitter)[which], judged.concentration[which]
        axes.scatter(x, y, s=12, color=colour, alpha=0.7, linewidths=0, label=label)
    axes.set_xlabel("share of the picture that is seen", size=9, color=GREY)
    axes.set_title("concentration, kernel, first run", size=12, color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")


def draw_rejection(axes: Axes, runs: Sequence[dict[str, Judged]]) -> None:
    """Recall of the pictures that are asked, by the share of those that are not."""

    def curve(of: Callable[[Judged], Tensor], loss: str) -> Tensor:
        curves = [recall_by_share_left_out(of(judged[loss]), judged[loss].right) for judged in runs]
        return torch.stack(curves).mean(0)

    count = len(runs[0]["kernel"].right)
    share = torch.arange(count) / count
    kept = share <= 0.9
    for loss, colour in COLOURS.items():
        y = curve(lambda judged: judged.concentration, loss)
        axes.plot(share[kept], y[kept], color=colour, label=loss)
    y = curve(lambda judged: judged.seen.share, "kernel")
    axes.plot(share[kept], y[kept], ":", color=INK, label="kernel, by the share seen")
    axes.set_xlabel("share of the least sure pictures that are not asked", size=9, color=GREY)
    axes.set_title("recall@1 of the others, all runs", size=12, color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train embeddings of handwritten digits, of which a part is seen, by three "
        "contrastive losses; print how well their concentrations tell what they see, and what "
        "retrieval has of it, and draw one figure.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    add_data_options(parser, EPOCHS_DIGITS, EPOCHS_MNIST)
    text = f"how many runs, with seeds that follow one another {default}"
    add("--runs", type=read_whole_number(1), default=RUNS, help=text)
    add_record_option(parser)
    add_seed_and_output(parser)
    return parser.parse_args(argv)


@one_thread()
@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Train and score all models, print the table, draw the figure; return the exit code."""
    options = parse(argv)
    prepare_to_write(None, options.record)
    train_data, test_data = (
        sklearn_digits() if options.data is None else mnist(options.data, fewest_held_out=2)
    )
    test_data = Labelled(*(x[:SCORED] for x in test_data))
    epochs = options.epochs or (EPOCHS_DIGITS if options.data is None else EPOCHS_MNIST)
    runs: list[dict[str, Scores]] = []
    judged: list[dict[str, Judged]] = []
    total = len(LOGITS) * options.runs * epochs
    with tqdm(total=total, desc="all runs", unit="epoch") as progress:
        for number in range(options.runs):
            torch.manual_seed(options.seed + number)
            found = run(train_data, test_data, options.dim, epochs, progress)
            runs.append({loss: scores for loss, (scores, _) in found.items()})
            judged.append({loss: shown for loss, (_, shown) in found.items()})
            if options.record is not None:
                scores = {loss: scores._asdict() for loss, scores in runs[-1].items()}
                add_record(options.record, torch.device("cpu"), run=number, scores=scores)
    print(
        f"{len(train_data.images):,} digits to train, {len(test_data.images):,} held out; "
        f"embeddings in {options.dim} dimensions; {options.runs} runs.\n"
        "Means, and standard deviations in brackets."
    )
    print(table(runs))
    draw_figure(options.output, judged)
    print(f"figure: {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
