r"""
The mean direction of measured directions, three ways
=====================================================

A rock remembers the direction of the magnetic field in which it cooled. Each specimen of a site
gives a direction, declination and inclination, and they scatter; wanted is the mean direction, and
how far off it may be. Let the measurements have a von Mises-Fisher law around the mean direction,
with a known concentration, and know nothing about the mean direction beforehand. Then its posterior
is a von Mises-Fisher law too, whose concentration times mean direction is the concentration times
the sum of the data. So this small problem has an exact answer, and the script finds it in two
further ways that also work where there is none:

* NUTS, on the vector that :class:`vmfdist.infer.SphereReparam` puts in place of the direction,
* stochastic variational inference (SVI) with :class:`vmfdist.infer.AutoVonMisesFisher`.

Then it lets the concentration be unknown as well. That has no simple answer, is no more work for
NUTS, and makes the cone a little wider, as it should. It prints a table, draws one figure, and ends
with exit code 1 if the three answers to the first question disagree. It needs the ``examples``
extra, takes about a minute, and wants ``_sphere.py`` and ``_options.py`` beside it::

    python bayesian_mean_direction.py                    # made data: 26 directions
    python bayesian_mean_direction.py --data site.csv    # declination and inclination in degrees

**The data** are two columns of a CSV file with one line of names; the first is the declination, the
angle from north to east in degrees, the second the inclination, the angle below the horizon. Then
:math:`x = (\cos I \cos D, \cos I \sin D, \sin I)` points north, east, down.

**The concentration**, where it is taken for known, is Fisher's estimate (n - 1) / (n - R), with R
the length of the sum of the data.

**The check of the model.** If it is right, the cosines between the data and the mean direction have
the law ``VonMisesFisher(loc, concentration).cosine``, and its distribution function makes them
uniform. For each posterior draw the script takes the Kolmogorov distance from uniform of the data
so transformed, and of as many uniform numbers; how often the second is larger is a posterior
predictive p-value. Small ones speak against the model.

References:
    Fisher (1953), Dispersion on a sphere, doi:10.1098/rspa.1953.0064. Mardia and Jupp (2000),
    Directional Statistics, section 10.4. Gelman, Meng and Stern (1996), Posterior predictive
    assessment of model fitness via realized discrepancies, Statistica Sinica 6, 733-760.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from _options import (
    DataError,
    add_seed_and_output,
    ends_in_one_line,
    one_thread,
    read_whole_number,
    save_figure,
)
from _sphere import BLUE, GREEN, GREY, INK, ORANGE, PALE, Globe, circle_around, run_nuts
from vmfdist import HypersphericalUniform, VonMisesFisher
from vmfdist.infer import AutoSphereReparam, AutoVonMisesFisher

PROGRAM = "bayesian_mean_direction.py"
MADE = {"count": 26, "declination": 120.0, "inclination": 40.0, "concentration": 80.0}
CHAINS, WARMUP = 4, 100
STEPS, PARTICLES = 600, 64
LEVEL = 0.95
TOLERANCE = 0.2  # in parts of the cone; NUTS's error is about 0.03, as it stops after 1000 draws

# %%
# The model
# ---------
# The dtype is that of the data, here float64.


def model(data: Tensor, concentration: float | None = None) -> None:
    """Directions around a mean direction, with a concentration that is known or not."""
    mean_direction = pyro.sample("mean_direction", HypersphericalUniform(3, dtype=data.dtype))
    if concentration is None:
        # 95 % between 1 and 2500
        prior = dist.LogNormal(torch.tensor(math.log(50.0), dtype=data.dtype), 2.0)
        concentration = pyro.sample("concentration", prior)
    with pyro.plate("specimens", len(data)):
        pyro.sample("x", VonMisesFisher(mean_direction, concentration), obs=data)


# %%
# Three answers, and a fourth
# ---------------------------


class Answer(NamedTuple):
    """A posterior of the mean direction."""

    direction: Tensor
    cone: float  # the half-angle in radians that holds LEVEL of the posterior
    remark: str


class Draws(NamedTuple):
    """Draws from a posterior, in rows."""

    directions: Tensor
    concentrations: Tensor


def exact(data: Tensor, concentration: float) -> Answer:
    """The posterior in closed form."""
    law = VonMisesFisher.from_natural(concentration * data.sum(0))
    return Answer(law.loc, law.mass_cone(LEVEL).item(), "closed form")


def by_nuts(data: Tensor, concentration: float | None, draws: int) -> tuple[Answer, Draws]:
    """Chains of NUTS, and how well they have mixed."""
    samples, divergences = run_nuts(
        AutoSphereReparam()(model),
        data,
        concentration,
        chains=CHAINS,
        warmup=WARMUP,
        draws=draws,
        name="NUTS" if concentration else "NUTS, both",
    )
    directions = normalize(samples.pop("mean_direction_vector"), dim=-1)
    concentrations = samples.get("concentration", torch.tensor(concentration or math.nan))
    centre = normalize(directions.mean((0, 1)), dim=-1)
    cosines = directions @ centre
    cone = torch.acos(cosines.quantile(1 - LEVEL)).item()
    watched = [directions, *(s.unsqueeze(-1) for s in samples.values())]
    r_hat = max(split_gelman_rubin(x, 0, 1).max().item() for x in watched)
    size = min(effective_sample_size(x, 0, 1).min().item() for x in watched)
    remark = f"R-hat {r_hat:.3f}, {size:.0f} effective draws, {divergences} divergent"
    flat = directions.flatten(0, 1)
    return Answer(centre, cone, remark), Draws(flat, concentrations.flatten().expand(len(flat)))


@one_thread()
def by_svi(data: Tensor, concentration: float) -> Answer:
    """Variational inference; its family of posteriors holds the exact one."""
    pyro.clear_param_store()
    guide = AutoVonMisesFisher(model)
    optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / STEPS)})
    elbo = TraceMeanField_ELBO(
        num_particles=PARTICLES, vectorize_particles=True, max_plate_nesting=1
    )
    svi = SVI(model, guide, optimizer, elbo)
    with tqdm(range(STEPS), desc=f"{'SVI':<12}", unit="step") as progress:
        for _ in progress:
            loss = svi.step(data, concentration)
            progress.set_postfix_str(f"ELBO {-loss:.2f}", refresh=False)
    law = guide.get_posterior()["mean_direction"]
    return Answer(law.loc, law.mass_cone(LEVEL).item(), f"ELBO {-loss:.2f}")


def disagreement(answer: Answer, reference: Answer) -> float:
    """The angle between the directions and the difference of the cones, in parts of the cone."""
    chord = (answer.direction - reference.direction).norm().item()
    angle = 2 * math.asin(chord / 2)
    return max(angle, abs(answer.cone - reference.cone)) / reference.cone


def predictive_p_value(data: Tensor, draws: Draws) -> float:
    """How often uniform numbers are further from uniform than the data look to a draw."""
    law = VonMisesFisher(draws.directions, draws.concentrations).cosine
    # 1 - cosine is |x - loc|^2 / 2, without rounding
    t = (data[:, None] - draws.directions).square().sum(-1) / 2
    seen = law.sf(one_minus_value=t)
    return (kolmogorov(torch.rand_like(seen)) >= kolmogorov(seen)).double().mean().item()


def kolmogorov(u: Tensor) -> Tensor:
    """The largest distance of the distribution of each column from the uniform one."""
    n = len(u)
    steps = torch.arange(n + 1, dtype=u.dtype).div(n)[:, None]
    ordered = u.sort(0).values
    return torch.maximum((steps[1:] - ordered).amax(0), (ordered - steps[:-1]).amax(0))


# %%
# Data
# ----


def from_angles(degrees: Tensor) -> Tensor:
    """Unit vectors north, east, down from declinations and inclinations, shape (..., 2)."""
    declination, inclination = degrees.deg2rad().unbind(-1)
    level = inclination.cos()
    return torch.stack(
        [level * declination.cos(), level * declination.sin(), inclination.sin()], -1
    )


def to_angles(x: Tensor) -> tuple[float, float]:
    """Declination and inclination in degrees of one unit vector."""
    north, east, down = x.tolist()
    level = math.hypot(north, east)
    return math.degrees(math.atan2(east, north)) % 360, math.degrees(math.atan2(down, level))


def made_data() -> Tensor:
    """Directions from a von Mises-Fisher law."""
    degrees = torch.tensor([MADE["declination"], MADE["inclination"]], dtype=torch.float64)
    law = VonMisesFisher(normalize(from_angles(degrees), dim=-1), MADE["concentration"])
    return law.sample((MADE["count"],))


def read_data(path: Path) -> Tensor:
    """Read declinations and inclinations.

    Raises:
        DataError: the file is missing, or a line is not two numbers in their ranges.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a readable CSV file, found: {error}") from error
    rows = []
    for number, row in lines[1:]:
        try:
            declination, inclination = map(float, row)
        except ValueError:
            text = ",".join(row)
            raise DataError(
                f"{path}, line {number}: expected declination and inclination, found {text!r}"
            ) from None
        if not (abs(declination) <= 360 and abs(inclination) <= 90):
            raise DataError(
                f"{path}, line {number}: expected degrees, -360 to 360 and -90 to 90, found "
                f"{declination:g} and {inclination:g}"
            )
        rows.append((declination, inclination))
    if len(rows) < 3:
        raise DataError(
            f"{path}: expected a line of names and at least 3 of data, found {len(rows)} of data"
        )
    data = normalize(from_angles(torch.tensor(rows, dtype=torch.float64)), dim=-1)
    if len(data) - data.sum(0).norm() < 1e-9:
        raise DataError(f"{path}: expected directions that differ, found {len(data)} equal ones")
    return data


# %%
# The figure
# ----------
# Left the data on the globe, right the posterior under the magnifying glass: the plane that touches
# the globe at the exact posterior's mean direction.


def draw_figure(path: Path, data: Tensor, answers: dict[str, Answer], draws: Draws) -> None:
    """The data on the globe, and the posterior in the tangent plane."""
    figure = Figure(figsize=(11, 5.8), facecolor="white")
    left, right = figure.subplots(1, 2)
    centre = answers["exact"].direction
    # down is up in the figure: the vector's third coordinate is the inclination
    globe = Globe(left, normalize(centre + 0.4 * torch.tensor([0.0, 0.0, 1.0]).to(centre), dim=-1))
    globe.points(data, color=INK, ms=4)
    globe.circle(centre, answers["exact"].cone, color=ORANGE, lw=2)
    left.set_title(f"{len(data)} directions, and the 95 % cone", size=12, color=INK)

    across = torch.linalg.svd(centre[None]).Vh[1:]
    right.scatter(*torch.rad2deg(draws.directions @ across.mT).mT, s=3, c=PALE, label="NUTS, draws")
    for (name, answer), (colour, line) in zip(
        answers.items(), [(ORANGE, "-"), (BLUE, "--"), (GREEN, ":"), (GREY, "-.")], strict=True
    ):
        edge = torch.rad2deg(circle_around(answer.direction, answer.cone) @ across.mT)
        right.plot(*edge.mT, color=colour, ls=line, lw=2, label=name)
        right.plot(*torch.rad2deg(answer.direction @ across.mT), color=colour, marker="+", ms=10)
    right.set_aspect("equal")
    right.set_title("posterior of the mean direction, 95 % cones", size=12, color=INK)
    right.set_xlabel("degrees", color=GREY)
    right.tick_params(labelsize=8, labelcolor=GREY)
    right.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.18, top=0.93, wspace=0.05)
    save_figure(figure, path)


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Find the posterior of the mean direction of directions in closed form, by "
        "NUTS and by SVI; print the three side by side and draw the posterior cone.",
        epilog="The exit code is 1 if they disagree by more than a fifth of the cone's angle.",
    )
    text = "CSV file of declinations and inclinations in degrees, after a line of names; else made"
    parser.add_argument("--data", metavar="FILE", type=Path, help=text)
    text = f"draws in each of the {CHAINS} chains of NUTS (default: %(default)s)"
    parser.add_argument("--draws", type=read_whole_number(20), default=250, help=text)
    add_seed_and_output(parser)
    return parser.parse_args(argv)


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Find the answers, print the table, draw the figure; return the exit code."""
    options = parse(argv)
    pyro.set_rng_seed(options.seed)
    data = made_data() if options.data is None else read_data(options.data)
    length = data.sum(0).norm().item()
    concentration = (len(data) - 1) / (len(data) - length)
    reference = exact(data, concentration)
    nuts, draws = by_nuts(data, concentration, options.draws)
    svi = by_svi(data, concentration)
    both, both_draws = by_nuts(data, None, options.draws)
    answers = {"exact": reference, "NUTS": nuts, "SVI": svi, "NUTS, concentration unknown": both}
    print(f"{len(data)} directions, R = {length:.4f}, concentration {concentration:.1f}")
    rule = "-" * 99
    print(rule)
    print(f"{'':28}{'declination':>12}{'inclination':>12}{'95 % cone':>11}")
    print(rule)
    for name, answer in answers.items():
        declination, inclination = to_angles(answer.direction)
        cone = math.degrees(answer.cone)
        print(f"{name:28}{declination:12.2f}{inclination:12.2f}{cone:11.2f}   {answer.remark}")
    print(rule)
    low, high = both_draws.concentrations.quantile(torch.tensor([0.05, 0.95]).to(data)).tolist()
    print(f"unknown concentration: with probability 90 % between {low:.0f} and {high:.0f}")
    p = predictive_p_value(data, both_draws)
    print(f"posterior predictive p-value of the cosines: {p:.2f}")
    draw_figure(options.output, data, answers, draws)
    print(f"figure: {options.output}")
    worst = max(disagreement(nuts, reference), disagreement(svi, reference))
    verdict = "agrees" if worst < TOLERANCE else "DISAGREES"
    print(f"the largest difference from the exact answer is {worst:.0%} of the cone: it {verdict}")
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
