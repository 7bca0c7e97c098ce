"""Writes images/tails.png: draws of laws with one median angle, and how far their tails reach.

python docs/tails.py
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from vmfdist import PowerSpherical, SphericalCauchy, VonMisesFisher

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "examples"))

from _sphere import BLUE, GREEN, GREY, INK, ORANGE, Globe  # noqa: E402

DRAWS = 500
LAWS = (  # concentrations at which the median angle to loc is the same, 12.7 degrees
    (VonMisesFisher, 28.4, "von Mises-Fisher", BLUE, "--"),
    (SphericalCauchy, 0.8, "spherical Cauchy", ORANGE, "-"),
    (PowerSpherical, 55.5, "power spherical", GREEN, ":"),
)


def main() -> None:
    """Two globes with draws, and the probabilities of angles beyond."""
    torch.manual_seed(0)
    loc = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    eye = torch.nn.functional.normalize(loc + torch.tensor([0.0, 0.5, 0.5]).double(), dim=0)
    figure = Figure(figsize=(11, 3.9), facecolor="white")
    *globes, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    angles = torch.linspace(0, math.pi, 200, dtype=torch.float64)[:-1]
    for make, concentration, name, colour, line in LAWS:
        law = make(loc, concentration)
        beyond = law.cosine.cdf(angles.cos())
        right.plot(angles.rad2deg(), beyond, color=colour, ls=line, lw=2, label=name)
    for axes, (make, concentration, name, colour, _) in zip(globes, LAWS, strict=False):
        law = make(loc, concentration)
        globe = Globe(axes, eye)
        globe.points(law.sample((DRAWS,)), color=colour, ms=2.5)
        globe.circle(loc, law.mass_cone(0.5).item(), color=INK, lw=1.5)
        axes.set_title(f"{name}, {concentration:g}", size=11, color=INK)
    right.set_yscale("log")
    right.set_ylim(1e-8, 1.5)
    right.set_xticks([0, 45, 90, 135, 180])
    right.set_xlabel("degrees from loc", color=GREY)
    right.set_title("probability of a larger angle", size=11, color=INK)
    right.tick_params(labelsize=8, labelcolor=GREY)
    right.grid(alpha=0.3)
    right.legend(frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.98, bottom=0.15, top=0.9, wspace=0.12)
    path = HERE / "images" / "tails.png"
    figure.savefig(path, dpi=120)
    picture = Image.open(path).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


if __name__ == "__main__":
    main()
