r"""
A mixture of directions with an unknown number of parts
=======================================================

Directions often come in groups, and how many there are is not known: families of joints in a rock
face, streams of meteors, senses of a word among its embeddings. A Dirichlet process has as many
parts as the data ask for. Here it is cut off after a number of parts that is surely enough
(``--parts``), and built by breaking a stick,

.. math::

    v_k \sim \mathrm{Beta}(1, 1), \qquad w_k = v_k \prod_{j<k} (1 - v_j), \qquad
    \mu_k \sim \text{uniform}, \quad \kappa_k \sim \text{log-normal}, \qquad
    x_i \sim \sum_k w_k\, \mathrm{vMF}(\mu_k, \kappa_k).

The script fits it by stochastic variational inference, in which the part of each direction is
enumerated, that is summed over exactly. The guide is a list of two: von Mises-Fisher factors for
the mean directions (:class:`vmfdist.infer.AutoVonMisesFisher`), normal ones for the rest
(``pyro.infer.autoguide.AutoNormal``). Parts that the data do not ask for keep a weight near 0.

It prints the parts found beside those that the data were made from, compares the likelihood of
directions held out with that of :class:`vmfdist.mixture.VonMisesFisherMixture`, fitted with the
true number of parts, and draws one figure. The exit code is 1 if the number of parts is not found,
or the likelihood is worse by more than 0.05 nats. It needs the ``examples`` extra, takes half a
minute, and wants ``_sphere.py`` and ``_options.py`` beside it::

    python mixture_of_directions.py
    python mixture_of_directions.py --count 2000 --parts 20

**The start** decides which of many local optima is found. The mean directions start at data points
far from one another, each the furthest from all before it of a few drawn at random; of several
starts, each trained for a little while, the best by ELBO goes on.

References:
    Blei and Jordan (2006), Variational inference for Dirichlet process mixtures, Bayesian Analysis
    1, doi:10.1214/06-BA104. Taghia, Ma and Leijon (2014), Bayesian estimation of the von-Mises
    Fisher mixture model with variational inference, doi:10.1109/TPAMI.2014.2306426.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.infer.autoguide.initialization import init_to_median
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn.functional import normalize, pad
from tqdm import tqdm

from _options import (
    add_seed_and_output,
    ends_in_one_line,
    one_thread,
    read_whole_number,
    save_figure,
)
from _sphere import INK, PALE, Globe
from vmfdist import HypersphericalUniform, VonMisesFisher
from vmfdist.infer import AutoVonMisesFisher
from vmfdist.mixture import VonMisesFisherMixture

PROGRAM = "mixture_of_directions.py"
TRUE_WEIGHTS = (0.35, 0.25, 0.2, 0.12, 0.08)
TRUE_CONCENTRATIONS = (20.0, 60.0, 40.0, 100.0, 200.0)
TRUE_LOCS = ((1, 0.2, 0.1), (0.1, 1, 0.3), (0.5, -0.6, 0.6), (0.8, 0.7, 0.9), (0.5, 0.3, -0.9))
STARTS, FIRST_STEPS = 6, 60
EM_STARTS = 5
SMALLEST = 0.02  # weight of a part that counts
TOLERANCE = 0.05  # nats
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#c9a400", "#56b4c4", "#8c5a3c")

# %%
# The model
# ---------


class Parts(NamedTuple):
    """Weights, mean directions and concentrations of a mixture."""

    weights: Tensor
    locs: Tensor
    concentrations: Tensor

    def log_joint(self, data: Tensor) -> Tensor:
        """Log density of each direction together with each part, shape (n, parts)."""
        log_prob = VonMisesFisher(self.locs, self.concentrations).log_prob(data[:, None])
        return self.weights.log() + log_prob


def break_stick(fractions: Tensor) -> Tensor:
    """Weights of the parts, one more than there are breaks."""
    rest = (1 - fractions).cumprod(-1)
    return pad(fractions, (0, 1), value=1.0) * pad(rest, (1, 0), value=1.0)


@config_enumerate
def model(data: Tensor, parts: int) -> None:
    """A Dirichlet process mixture, cut off."""
    with pyro.plate("breaks", parts - 1):
        fractions = pyro.sample("fractions", dist.Beta(1.0, 1.0))
    with pyro.plate("parts", parts):
        locs = pyro.sample("locs", HypersphericalUniform(3))
        concentrations = pyro.sample("concentrations", dist.LogNormal(math.log(30.0), 1.0))
    with pyro.plate("data", len(data)):
        part = pyro.sample("part", dist.Categorical(break_stick(fractions)))
        pyro.sample("x", VonMisesFisher(locs[part], concentrations[part]), obs=data)


def make_guide(data: Tensor, parts: int) -> AutoGuideList:
    """Von Mises-Fisher factors for the mean directions, normal ones for the rest."""
    starts = spread_out(data, parts)
    guide = AutoGuideList(poutine.block(model, hide=["part"]))
    guide.append(
        AutoVonMisesFisher(poutine.block(model, expose=["locs"]), init_loc_fn=lambda _: starts)
    )
    rest = poutine.block(model, hide=["locs", "part"])
    guide.append(AutoNormal(rest, init_loc_fn=init_to_median))
    return guide


def spread_out(data: Tensor, count: int) -> Tensor:
    """Data points far from one another."""
    chosen = data[torch.randint(len(data), (1,))]
    while len(chosen) < count:
        candidates = data[torch.randint(len(data), (5,))]
        nearest = (candidates @ chosen.mT).amax(-1)
        chosen = torch.cat([chosen, candidates[nearest.argmin()][None]])
    return chosen


# %%
# Training
# --------


@one_thread()
def train(
    data: Tensor, parts: int, start: int, steps: int, progress: tqdm[Any]
) -> tuple[float, AutoGuideList]:
    """Train from a start, a seed; return the mean loss of the last steps and the guide."""
    pyro.clear_param_store()
    pyro.set_rng_seed(start)
    guide = make_guide(data, parts)
    # the learning rate falls to a hundredth
    optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / steps)})
    svi = SVI(model, guide, optimizer, TraceEnum_ELBO(max_plate_nesting=1))
    losses = []
    for _ in range(steps):
        losses.append(svi.step(data, parts))
        progress.set_postfix_str(f"ELBO {-losses[-1] / len(data):.3f} a direction", refresh=False)
        progress.update()
    return sum(losses[-10:]) / 10, guide


def fit(data: Tensor, parts: int, seed: int, steps: int) -> Parts:
    """The posterior's medians, from the best of several starts."""
    starts = range(seed, seed + STARTS)
    with tqdm(total=STARTS * FIRST_STEPS + steps, desc="SVI", unit="step") as progress:
        best = min(starts, key=lambda start: train(data, parts, start, FIRST_STEPS, progress)[0])
        _, guide = train(data, parts, best, steps, progress)
    median = guide.median(data, parts)
    return Parts(break_stick(median["fractions"]), median["locs"], median["concentrations"])


# %%
# Data and answer
# ---------------


def truth() -> Parts:
    """What the data are made from."""
    locs = normalize(torch.tensor(TRUE_LOCS), dim=-1)
    return Parts(torch.tensor(TRUE_WEIGHTS), locs, torch.tensor(TRUE_CONCENTRATIONS))


def made_data(count: int) -> tuple[Tensor, Tensor]:
    """Directions and their parts."""
    weights, locs, concentrations = truth()
    part = dist.Categorical(weights).sample((count,))
    return VonMisesFisher(locs[part], concentrations[part]).sample(), part


def large(parts: Parts) -> Parts:
    """The parts that count, the largest first."""
    order = parts.weights.argsort(descending=True)
    order = order[parts.weights[order] >= SMALLEST]
    return Parts(*(x[order] for x in parts))


def table(found: Parts) -> str:
    """The parts found, each beside the nearest of those that the data were made from."""
    true = truth()
    rule = "-" * 70
    lines = [
        rule,
        f"{'weight':>10}{'true':>8}{'concentration':>18}{'true':>8}{'angle off':>15}",
        rule,
    ]
    for weight, loc, concentration in zip(*found, strict=True):
        chords = (true.locs - loc).norm(dim=-1)
        nearest = int(chords.argmin())
        angle = math.degrees(2 * math.asin(chords[nearest].item() / 2))
        lines.append(
            f"{weight:10.3f}{true.weights[nearest]:8.2f}{concentration:18.1f}"
            f"{true.concentrations[nearest]:8.0f}{angle:11.1f} deg"
        )
    return "\n".join([*lines, rule])


# %%
# The figure
# ----------


def draw_figure(path: Path, data: Tensor, found: Parts, weights: Tensor) -> None:
    """The data, coloured by their likeliest part, with the cones that hold 90 % of each part."""
    figure = Figure(figsize=(12, 5.8), facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    globe = Globe(left, data.mean(0))
    part = found.log_joint(data).argmax(-1)
    cones = VonMisesFisher(found.locs, found.concentrations).mass_cone(0.9)
    for k, (loc, cone) in enumerate(zip(found.locs, cones.tolist(), strict=True)):
        colour = COLOURS[k % len(COLOURS)]
        globe.points(data[part == k], color=colour, ms=3)
        globe.circle(loc, cone, color=colour, lw=2)
    left.set_title("directions by likeliest part, cones of 90 %", size=12, color=INK)
    ordered = weights.sort(descending=True).values.tolist()
    places = range(1, len(ordered) + 1)
    colours = [
        COLOURS[k % len(COLOURS)] if k < len(found.weights) else PALE for k in range(len(ordered))
    ]
    right.bar(places, ordered, color=colours)
    right.plot(places[: len(TRUE_WEIGHTS)], sorted(TRUE_WEIGHTS)[::-1], "k_", ms=24, label="true")
    right.axhline(SMALLEST, color=INK, lw=0.6, ls=":")
    right.set_title("weights of all parts", size=12, color=INK)
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
        description="Fit a mixture of directions with an unknown number of parts by SVI; print "
        "what is found beside the truth and the likelihood beside that of EM, and draw both.",
        epilog="The exit code is 1 if the number of parts is not found, or EM is clearly better.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--count", type=read_whole_number(100), default=600, help=f"of directions {default}")
    text = f"at which the process is cut off {default}"
    add("--parts", type=read_whole_number(2, 100), default=12, help=text)
    add("--steps", type=read_whole_number(10), default=1000, help=f"of SVI {default}")
    add_seed_and_output(parser)
    return parser.parse_args(argv)


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Fit both, print the table, draw the figure; return the exit code."""
    options = parse(argv)
    pyro.set_rng_seed(options.seed)
    data, part = made_data(options.count)
    held_out, _ = made_data(2000)
    parts = fit(data, options.parts, options.seed, options.steps)
    found = large(parts)
    em = VonMisesFisherMixture(len(TRUE_WEIGHTS), n_init=EM_STARTS, random_state=options.seed).fit(
        data
    )
    scores = {
        "truth": truth().log_joint(held_out).logsumexp(-1).mean().item(),
        "Dirichlet process": parts.log_joint(held_out).logsumexp(-1).mean().item(),
        "EM, true number": em.score(held_out),
    }
    print(f"{len(data)} directions, cut off at {options.parts} parts: {len(found.weights)} found")
    print(table(found))
    print("mean log likelihood of 2,000 directions held out:")
    for name, score in scores.items():
        print(f"    {name:20}{score:8.3f}")
    agreement = adjusted_rand_score(part, found.log_joint(data).argmax(-1))
    print(f"adjusted Rand index of the assignments: {agreement:.2f}")
    draw_figure(options.output, data, found, parts.weights)
    print(f"figure: {options.output}")
    right = len(found.weights) == len(TRUE_WEIGHTS)
    good = scores["Dirichlet process"] > scores["EM, true number"] - TOLERANCE
    print("the number of parts " + ("is right" if right else "IS NOT RIGHT"))
    return 0 if right and good else 1


if __name__ == "__main__":
    raise SystemExit(main())
