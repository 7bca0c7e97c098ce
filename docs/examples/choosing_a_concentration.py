r"""
Choosing a concentration
========================

What does a concentration of 10 mean? In space nine draws of ten lie within 40 degrees of the mean
direction. In 100 dimensions nine of ten lie within 92: hardly closer than uniform draws. This
script draws the picture that answers, and prints a table to be read the other way round: from the
information that a code is to carry to the concentration, and the cosine that it keeps.

For a von Mises-Fisher posterior and a uniform prior, all there is to know depends on the dimension
:math:`d` and the concentration :math:`\kappa`:

- the **KL divergence** from the prior, in nats: what a code tells about its example. It grows from
  :math:`\kappa^2 / 2d` at low concentration to about
  :math:`\tfrac{d - 1}{2} \log \kappa` plus a constant of the dimension at high.
- the **mean cosine** between a draw and its mean direction, the mean resultant length
  :math:`A_d(\kappa)`: how much of the direction outlives the noise. It is near
  :math:`\kappa / d` until the concentration reaches the dimension, which is why concentrations are
  to be compared with the dimension.

Published choices in these terms: concentration 80 in 50 dimensions (Xu and Durrett 2018, sentences)
carries 19.52 nats at a mean cosine of .74; 35 carries 7.74 nats at .52.

The figure has draws on the sphere in space for four concentrations, and both curves for several
dimensions; the cosines with the band that holds 90 % of the draws. It needs the ``examples``
extra::

    python choosing_a_concentration.py
    python choosing_a_concentration.py --dim 16 --dim 64

References:
    Xu and Durrett (2018), Spherical Latent Spaces for Stable Variational Autoencoders, EMNLP,
    arXiv:1808.10805. Mardia and Jupp (2000), Directional Statistics, section 9.3.2.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize
from tqdm import tqdm

from _options import add_seed_and_output, ends_in_one_line, read_whole_number, save_figure
from _sphere import BLUE, GREEN, GREY, INK, ORANGE, Globe
from vmfdist import HypersphericalUniform, VonMisesFisher

PROGRAM = "choosing_a_concentration.py"
DIMS = (3, 10, 50, 200)
INFORMATION = (0.1, 1.0, 5.0, 10.0, 20.0)  # nats
SHOWN = (1.0, 10.0, 100.0, 1000.0)  # concentrations of the draws
DRAWS = 400
COLOURS = (BLUE, ORANGE, GREEN, "#b07aa1", "#e15759", "#56b4c4")

# %%
# The two curves
# --------------


def law(concentration: Tensor, dim: int) -> VonMisesFisher:
    """Laws of these concentrations around the first axis."""
    return VonMisesFisher(torch.eye(dim, dtype=concentration.dtype)[0], concentration)


def information(concentration: Tensor, dim: int) -> Tensor:
    """The divergence from the uniform law, in nats."""
    prior = HypersphericalUniform(dim, dtype=concentration.dtype)
    return kl_divergence(law(concentration, dim), prior)


# %%
# ... and the first of them backwards
# -----------------------------------
# The divergence grows with the concentration, so that bisection finds the concentration that
# carries so many nats. Halving the interval of its logarithm 60 times leaves nothing to choose.


def concentration_for(nats: Tensor, dim: int) -> Tensor:
    """The concentration whose law is so many nats from the uniform one; between 1e-8 and 1e12."""
    low, high = (torch.full_like(nats, bound) for bound in (1e-8, 1e12))
    for _ in range(60):
        middle = (low * high).sqrt()
        enough = information(middle, dim) >= nats
        low, high = low.where(enough, middle), high.where(~enough, middle)
    return (low * high).sqrt()


def table(dims: Sequence[int]) -> str:
    """For each dimension and each information, the concentration and its mean cosine."""
    nats = torch.tensor(INFORMATION, dtype=torch.float64)
    rule = "-" * (11 + 18 * len(nats))
    heads = "".join(f"{f'{value:g} nats':>18}" for value in INFORMATION)
    lines = [
        "Concentration, and mean cosine with its mean direction, of a code that carries",
        rule,
        f"{'dimension':11}{heads}",
        rule,
    ]
    for dim in dims:
        found = concentration_for(nats, dim)
        cosines = law(found, dim).mean_resultant_length
        cells = [f"{k:10.4g}  ({w:.2f})" for k, w in zip(found, cosines, strict=True)]
        lines.append(f"{dim:<11}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join([*lines, rule])


# %%
# The figure
# ----------


def draw_figure(path: Path, dims: Sequence[int]) -> None:
    """Write the figure: draws above, curves below."""
    figure = Figure(figsize=(12, 8.4), facecolor="white")
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.07, wspace=0.1)
    above = figure.add_gridspec(1, len(SHOWN), bottom=0.57, top=0.93)
    loc = normalize(torch.tensor([0.5, 0.4, 0.6], dtype=torch.float64), dim=0)
    for place, concentration in enumerate(tqdm(SHOWN, desc="draws", unit="law")):
        axes = figure.add_subplot(above[0, place])
        globe = Globe(axes, torch.tensor([0.8, 0.2, 0.5], dtype=torch.float64))
        shown = VonMisesFisher(loc, concentration)
        globe.points(shown.sample((DRAWS,)), color=BLUE, ms=2.5)
        globe.points(loc[None], color=ORANGE, ms=6)
        degrees = shown.mass_cone(0.9).rad2deg().item()
        axes.set_title(f"concentration {concentration:g}", color=INK)
        axes.text(0, -1.2, f"90 % within {degrees:.0f}°", ha="center", color=GREY)
    below = figure.add_gridspec(1, 2, top=0.47, wspace=0.16)
    draw_curves(figure.add_subplot(below[0, 0]), figure.add_subplot(below[0, 1]), dims)
    save_figure(figure, path, dpi=110)


def draw_curves(left: Axes, right: Axes, dims: Sequence[int]) -> None:
    """The divergence and the cosine against the concentration."""
    concentration = torch.logspace(-1, 4, 201, dtype=torch.float64)
    for dim, colour in zip(dims, COLOURS, strict=False):
        left.loglog(concentration, information(concentration, dim), color=colour)
        laws = law(concentration, dim)
        right.semilogx(
            concentration, laws.mean_resultant_length, color=colour, label=f"dimension {dim}"
        )
        band = [laws.cosine.icdf(torch.full_like(concentration, p)) for p in (0.05, 0.95)]
        right.fill_between(concentration, *band, color=colour, alpha=0.15, lw=0)
    left.set_title("KL divergence from the uniform law, nats", color=INK)
    left.set_ylim(1e-3, 1e3)
    right.set_title("cosine with the mean direction: mean, 90 % band", color=INK)
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.set_xlabel("concentration")
        axes.set_xlim(0.1, 1e4)
        axes.grid(color="#e4e7ec", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Draw von Mises-Fisher laws of several concentrations, and what a "
        "concentration means in several dimensions: information and cosine.",
    )
    text = f"of the curves, 2 to 1000; may be repeated (default: {' '.join(map(str, DIMS))})"
    parser.add_argument("--dim", type=read_whole_number(2, 1000), action="append", help=text)
    add_seed_and_output(parser)
    options = parser.parse_args(argv)
    options.dim = tuple(dict.fromkeys(options.dim or DIMS))
    if len(options.dim) > len(COLOURS):
        parser.error(f"argument --dim: expected at most {len(COLOURS)}, got {len(options.dim)}")
    return options


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, draw the figure; return the exit code."""
    options = parse(argv)
    torch.manual_seed(options.seed)
    print(table(options.dim))
    draw_figure(options.output, options.dim)
    print(f"figure: {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
