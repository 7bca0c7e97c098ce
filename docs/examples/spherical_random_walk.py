r"""
A random walk on the sphere, seen with noise and gaps
=====================================================

Something wanders over the sphere, and is seen with noise at some times and not at all at others:
an animal on the globe, the pole of a plate, an axis in a satellite's frame. The walk and the noise
are von Mises-Fisher laws,

.. math::

    z_1 \sim \text{uniform}, \qquad z_{t+1} \sim \mathrm{vMF}(z_t, \kappa_{\text{walk}}), \qquad
    x_t \sim \mathrm{vMF}(z_t, \kappa_{\text{noise}}),

and wanted is the path z given what is seen of x. The script finds its posterior

* by NUTS, on all times at once (:class:`vmfdist.infer.AutoSphereReparam`),
* by stochastic variational inference with a von Mises-Fisher factor for each time
  (:class:`vmfdist.infer.AutoVonMisesFisher`),
* on a grid of points that covers the sphere, where the model is a hidden Markov chain whose forward
  and backward sums give the posterior of each time, exact up to the spacing of the grid.

It compares the three, draws one figure, and ends with exit code 1 if NUTS and the grid disagree. It
needs the ``examples`` extra, takes three minutes, and wants ``_sphere.py`` and ``_options.py``
beside it::

    python spherical_random_walk.py
    python spherical_random_walk.py --steps 100 --noise 10

**What to look at.** The mean resultant length of a posterior says how sure it is of a direction.
In a gap it falls and recovers, and NUTS follows the grid. The factors of the variational posterior
are independent, while neighbouring times are not: its directions are right, but it is too sure of
them, most of all in the gap. That is what a product of factors does, on any space.

**How the walk is written.** All times are drawn at once from the uniform law, in a plate, and the
transitions are a second statement, an "observation" of each time by its neighbour before it. The
uniform density is a constant, so that the product is the density of the walk. A loop over the times
would give the same, but a gradient would take thirty times as long.

References:
    Rabiner (1989), A tutorial on hidden Markov models, doi:10.1109/5.18626 (forward and backward
    sums). Swinbank and Purser (2006), Fibonacci grids, doi:10.1256/qj.05.227.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from matplotlib.figure import Figure
from pyro.infer import SVI, Trace_ELBO
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from _options import (
    add_seed_and_output,
    ends_in_one_line,
    one_thread,
    read_whole_number,
    save_figure,
)
from _sphere import BLUE, GREEN, GREY, INK, ORANGE, PALE, Globe, run_nuts
from vmfdist import HypersphericalUniform, VonMisesFisher
from vmfdist.infer import AutoSphereReparam, AutoVonMisesFisher

PROGRAM = "spherical_random_walk.py"
CHAINS, WARMUP = 4, 300
SVI_STEPS, PARTICLES = 800, 16
GRID = 6000  # points, 2.6 degrees apart
TOLERANCE = 5.0  # standard errors, over all times and coordinates

# %%
# The model
# ---------


class Walk(NamedTuple):
    """A path, what is seen of it, and the concentrations of its laws."""

    path: Tensor  # (steps, 3)
    seen: Tensor  # (steps, 3); any direction where nothing is seen
    mask: Tensor  # (steps,), whether something is seen
    step: float
    noise: float


def model(walk: Walk) -> None:
    """The walk and what is seen of it."""
    steps = len(walk.seen)
    with pyro.plate("times", steps):
        z = pyro.sample("z", HypersphericalUniform(3, dtype=walk.seen.dtype))
        likelihood = VonMisesFisher(z, walk.noise).mask(walk.mask)
        pyro.sample("x", likelihood, obs=walk.seen)
    with pyro.plate("transitions", steps - 1):
        pyro.sample("walk", VonMisesFisher(z[..., :-1, :], walk.step), obs=z[..., 1:, :])


def made_walk(steps: int, step: float, noise: float) -> Walk:
    """A walk from the model, unseen for a sixth of the time in the middle, and now and then."""
    path = [HypersphericalUniform(3, dtype=torch.float64).sample()]
    for _ in range(steps - 1):
        path.append(VonMisesFisher(path[-1], step).sample())
    z = torch.stack(path)
    mask = torch.rand(steps) < 0.8
    mask[5 * steps // 12 : 7 * steps // 12] = False
    mask[[0, -1]] = True
    return Walk(z, VonMisesFisher(z, noise).sample(), mask, step, noise)


# %%
# Three posteriors
# ----------------
# Each is given by its mean vector at each time: the direction is where the path is expected, the
# length how sure that is.


def on_grid(walk: Walk) -> Tensor:
    """Posterior means by forward and backward sums over the points of a Fibonacci grid."""
    grid = fibonacci_grid(GRID)
    cosines = grid @ grid.mT
    transition = torch.exp(walk.step * (cosines - 1))
    transition /= transition.sum(1, keepdim=True)
    likelihood = torch.exp(walk.noise * (walk.seen.float() @ grid.mT - 1))
    likelihood = torch.where(walk.mask[:, None], likelihood, 1.0)
    forward, backward = [likelihood[0]], [torch.ones(GRID)]
    steps = tqdm(range(1, len(walk.seen)), desc=f"{'grid':<12}", unit="step")
    for t in steps:
        now = (forward[-1] @ transition) * likelihood[t]
        forward.append(now / now.sum())
        before = transition @ (likelihood[-t] * backward[-1])
        backward.append(before / before.sum())
    weight = torch.stack(forward) * torch.stack(backward[::-1])
    return ((weight / weight.sum(1, keepdim=True)) @ grid).double()


def fibonacci_grid(n: int) -> Tensor:
    """Points that cover the sphere evenly, shape (n, 3)."""
    i = torch.arange(n, dtype=torch.float64) + 0.5
    height, turn = 1 - 2 * i / n, math.pi * (1 + math.sqrt(5)) * i
    radius = torch.sqrt(1 - height**2)
    return torch.stack([radius * turn.cos(), radius * turn.sin(), height], dim=-1).float()


@one_thread()
def by_svi(walk: Walk) -> Tensor:
    """Posterior means of the independent factors."""
    pyro.clear_param_store()
    guide = AutoVonMisesFisher(model)
    optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / SVI_STEPS)})
    elbo = Trace_ELBO(num_particles=PARTICLES, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, optimizer, elbo)
    with tqdm(range(SVI_STEPS), desc=f"{'SVI':<12}", unit="step") as progress:
        for _ in progress:
            loss = svi.step(walk)
            progress.set_postfix_str(f"ELBO {-loss:.2f}", refresh=False)
    return guide.get_posterior()["z"].mean


class Chains(NamedTuple):
    """What NUTS found."""

    mean: Tensor
    standard_error: Tensor  # of each coordinate of the mean
    r_hat: float
    effective: float  # draws, of the coordinate that has fewest
    divergences: int


def by_nuts(walk: Walk, draws: int) -> Chains:
    """Posterior means, with their Monte Carlo errors."""
    samples, divergences = run_nuts(
        AutoSphereReparam()(model), walk, chains=CHAINS, warmup=WARMUP, draws=draws, name="NUTS"
    )
    z = normalize(samples["z_vector"], dim=-1)
    size = effective_sample_size(z, 0, 1)
    r_hat = split_gelman_rubin(z, 0, 1).max().item()
    error = z.std((0, 1)) / size.sqrt()
    return Chains(z.mean((0, 1)), error, r_hat, size.min().item(), divergences)


def error_of(mean: Tensor, walk: Walk, where: Tensor) -> float:
    """The root mean square angle in degrees between the path and the directions of a posterior."""
    chord = (normalize(mean, dim=-1) - walk.path)[where].norm(dim=-1)
    return torch.rad2deg(2 * torch.asin(chord / 2)).square().mean().sqrt().item()


# %%
# The figure
# ----------


def draw_figure(path: Path, walk: Walk, means: dict[str, Tensor]) -> None:
    """The path on the globe, and how sure each posterior is at each time."""
    figure = Figure(figsize=(13, 5.6), facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    globe = Globe(left, walk.path.mean(0) + 0.05)
    globe.path(walk.path, color=PALE, lw=4, label="path")
    globe.points(walk.seen[walk.mask], color=INK, ms=3.5, label="seen")
    styles = {"grid": (ORANGE, "-"), "NUTS": (BLUE, "--"), "SVI": (GREEN, ":")}
    for name, mean in means.items():
        colour, line = styles[name]
        globe.path(normalize(mean, dim=-1), color=colour, ls=line, lw=1.6, label=name)
        spread = torch.rad2deg(torch.acos(mean.norm(dim=-1)))
        right.plot(torch.arange(1, len(mean) + 1), spread, color=colour, ls=line, lw=2, label=name)
    for t in (~walk.mask).nonzero()[:, 0].tolist():
        right.axvspan(t + 0.5, t + 1.5, color=PALE, alpha=0.35, lw=0)
    left.legend(frameon=False, fontsize=9, loc="lower left")
    right.set_title("spread of the posterior, arccos of its mean resultant length", color=INK)
    right.set_xlabel("time (shaded: nothing seen)", color=GREY)
    right.set_ylabel("degrees", color=GREY)
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=9)
    right.tick_params(labelsize=8, labelcolor=GREY)
    figure.tight_layout()
    save_figure(figure, path)


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Find the path of a random walk on the sphere from noisy directions with gaps, "
        "by NUTS, by SVI and on a grid; print how they compare and draw the path.",
        epilog="The exit code is 1 if NUTS and the grid disagree.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--steps", type=read_whole_number(8, 500), default=36, help=f"of the walk {default}")
    text = f"concentration of a step {default}"
    add("--walk", metavar="C", type=read_whole_number(1, 300), default=60, help=text)
    text = f"concentration of what is seen {default}"
    add("--noise", metavar="C", type=read_whole_number(1, 300), default=60, help=text)
    text = f"draws in each of the {CHAINS} chains of NUTS {default}"
    add("--draws", type=read_whole_number(20), default=700, help=text)
    add_seed_and_output(parser)
    return parser.parse_args(argv)


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Find the posteriors, print the table, draw the figure; return the exit code."""
    options = parse(argv)
    pyro.set_rng_seed(options.seed)
    walk = made_walk(options.steps, float(options.walk), float(options.noise))
    exact = on_grid(walk)
    svi = by_svi(walk)
    nuts = by_nuts(walk, options.draws)
    means = {"grid": exact, "NUTS": nuts.mean, "SVI": svi}
    print(f"{len(walk.seen)} steps, {int(walk.mask.sum())} of them seen")
    rule = "-" * 79
    print(rule)
    print(f"{'':6}{'error in degrees, seen':>26}{'unseen':>9}{'spread, seen':>20}{'unseen':>9}")
    print(rule)
    for name, mean in means.items():
        errors = [error_of(mean, walk, where) for where in (walk.mask, ~walk.mask)]
        spread = torch.rad2deg(torch.acos(mean.norm(dim=-1)))
        spreads = [spread[where].mean().item() for where in (walk.mask, ~walk.mask)]
        print(f"{name:6}{errors[0]:26.1f}{errors[1]:9.1f}{spreads[0]:20.1f}{spreads[1]:9.1f}")
    print(rule)
    print(
        f"NUTS: R-hat {nuts.r_hat:.3f}, {nuts.effective:.0f} effective draws, "
        f"{nuts.divergences} divergent"
    )
    draw_figure(options.output, walk, means)
    print(f"figure: {options.output}")
    worst = ((nuts.mean - exact).abs() / nuts.standard_error).max().item()
    verdict = "agree" if worst < TOLERANCE else "DISAGREE"
    print(
        f"the means of NUTS and grid differ by at most {worst:.1f} standard errors: they {verdict}"
    )
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
