r"""
Measured directions: a fit, its cones, and what it is tested for
================================================================

Two questions about directions, as a statistician meets them.

**Remanence.** Specimens of rock keep the direction of the magnetic field in which they cooled. What
is the mean direction, how far off may it be, how much do specimens scatter, and is a von
Mises-Fisher law a fair account of them? The script fits one by maximum likelihood and prints what a
palaeomagnetist reports, with two cones that are easily confused: the *confidence cone* holds the
true mean direction with a probability of 95 % and closes as data come in; the *mass cone* holds
95 % of the specimens and does not. Another direction, that of a field which is known, is tested for
being the mean direction of these: it is so where it lies within the confidence cone.

**Craters.** Do the impact craters of a planet lie all over it alike? Rayleigh's test of uniformity
answers against laws with a mean direction. Craters that gather at both poles have none, and pass;
Bingham's test sees these, and one of components along random directions sees whatever there is.

It needs the ``examples`` extra, with ``_sphere.py`` and ``_options.py`` beside it, takes seconds,
prints two tables and draws one figure::

    python directional_data.py                              # made data
    python directional_data.py --remanence site.csv --craters planet.csv

**The data** are CSV files that open with a line of names. The columns are found by how their names
begin: ``declination`` (from north to east) and ``inclination`` (below the horizon); ``latitude``,
``longitude`` and ``diameter``, which sets the size of the dots; angles in degrees. A direction of
remanence is :math:`(\cos I \cos D, \cos I \sin D, \sin I)`, that is north, east, down.

**The check of the fit.** ``goodness_of_fit`` asks two things of a law: whether cosines to its mean
direction follow the law they should have, and whether specimens lie alike on all sides of it. Since
the law was fitted to these same data, tables of such statistics do not hold; their p-values come
from data that are drawn from the fitted law and fitted again (a parametric bootstrap). A quantile
plot shows what to look for: the angles to the mean direction, in order, beside those that the law
has for as many specimens. Points above the line at its end are outliers, a bend is another law.

References:
    Fisher (1953), Dispersion on a sphere, doi:10.1098/rspa.1953.0064. Mardia and Jupp (2000),
    Directional statistics, sections 10.2 to 10.4.
"""  # noqa: D205, D212, D415

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from _options import DataError, add_seed_and_output, ends_in_one_line, read_number, save_figure
from _sphere import BLUE, GREY, INK, ORANGE, PALE
from vmfdist import VonMisesFisher
from vmfdist.estimation import (
    GoodnessOfFit,
    TestResult,
    confidence_cone,
    goodness_of_fit,
    mean_direction_test,
    rayleigh_test,
    standard_errors,
    uniformity_test,
)

PROGRAM = "directional_data.py"
LEVEL = 0.95
SIMULATIONS = 999  # for the p-values that have no closed form
FIELD = (150.0, 55.0)  # the true mean direction of made data

# %%
# Remanence: a fit and its tests
# ------------------------------
# Everything is in float64.


class Fit(NamedTuple):
    """What there is to say about directions with a mean."""

    x: Tensor  # (n, 3)
    law: VonMisesFisher
    bias_corrected: VonMisesFisher
    confidence_cone: float  # half-angles in radians
    mass_cone: float
    field: TestResult  # of the mean direction that is stated
    goodness: GoodnessOfFit


def fit(x: Tensor, field: Tensor) -> Fit:
    """Fit a von Mises-Fisher law and test it, and a mean direction that is stated."""
    law = VonMisesFisher.fit(x)
    return Fit(
        x,
        law,
        VonMisesFisher.fit(x, bias_corrected=True),
        confidence_cone(x, LEVEL).item(),
        law.mass_cone(LEVEL).item(),
        mean_direction_test(x, loc=field),
        goodness_of_fit(x, simulations=SIMULATIONS),
    )


def angles_to_mean(x: Tensor, law: VonMisesFisher) -> Tensor:
    """Of the half chord, which keeps the digits of small ones."""
    return 2 * torch.asin((x - law.loc).norm(dim=-1) / 2)


def remanence_table(found: Fit, source: str) -> str:
    """The fit as text."""
    x, law = found.x, found.law
    declination, inclination = to_angles(law.loc).tolist()
    errors = standard_errors(law, len(x))
    error = f"{math.degrees(errors.direction.item()):.2f} degrees along each direction"
    if found.confidence_cone == math.pi:
        error = "none, the data do not tell a direction"
    confidence, mass = math.degrees(found.confidence_cone), math.degrees(found.mass_cone)
    k, k_error, corrected = law.concentration, errors.concentration, found.bias_corrected
    within = int((angles_to_mean(x, law) <= found.mass_cone).sum())
    cosine, tangent = found.goodness
    return table(
        f"Directions of remanence ({source})",
        {
            "N": f"{len(x)}",
            "resultant length R": f"{x.sum(0).norm():.6f}",
            "mean declination, inclination": f"{declination % 360:.1f}, {inclination:.1f} degrees",
            "  standard error": error,
            "  95 % confidence cone": f"{confidence:.2f} degrees",
            "concentration": f"{k:.4f}, standard error {k_error:.1f}",
            "  bias corrected": f"{corrected.concentration:.4f}",
            "cone of 95 % of the law": f"{mass:.2f} degrees, {within} of {len(x)} are within",
            "log likelihood": f"{law.log_prob(x).sum():.6f}",
            "mean direction as stated": f"p-value {found.field.p_value:.4f}",
            "goodness of fit": f"p-value {found.goodness.p_value:.3f}",
            "  cosines": f"{cosine.statistic:.4f}, p-value {cosine.p_value:.3f}",
            "  tangents": f"{tangent.statistic:.4f}, p-value {tangent.p_value:.3f}",
        },
    )


# %%
# Craters: is there a direction at all, or anything else?
# -------------------------------------------------------
# Components along random directions take time proportional to the number of craters, where Giné's
# statistic takes its square.


class Craters(NamedTuple):
    """Where craters are, and how large."""

    x: Tensor  # (n, 3)
    diameters: Tensor  # (n,), km


class Uniformity(NamedTuple):
    """Tests of craters."""

    rayleigh: TestResult
    bingham: TestResult
    projections: TestResult


def uniformity(x: Tensor) -> Uniformity:
    """Test whether directions are uniform, in three ways."""
    return Uniformity(
        rayleigh_test(x),
        uniformity_test(x, "bingham"),
        uniformity_test(x, "projections", simulations=SIMULATIONS),
    )


def crater_table(x: Tensor, tests: Uniformity, source: str) -> str:
    """The tests as text."""
    law = VonMisesFisher.fit(x)
    longitude, latitude = to_angles(law.loc).tolist()
    error = standard_errors(law, len(x)).concentration
    return table(
        f"Craters ({source})",
        {
            "N": f"{len(x)}",
            "mean resultant length": f"{x.mean(0).norm():.7f}",
            "mean latitude, longitude": f"{latitude:.1f}, {longitude:.1f} degrees",
            "concentration": f"{law.concentration:.7f}, standard error {error:.4f}",
            "Rayleigh's statistic": f"{tests.rayleigh.statistic:.6f}",
            "  p-value": f"{tests.rayleigh.p_value:.5f}",
            "Bingham's statistic": f"{tests.bingham.statistic:.6f}",
            "  its p-value": f"{tests.bingham.p_value:.5f}",
            "that of projections": f"{tests.projections.statistic:.6f}",
            "  simulated p-value": f"{tests.projections.p_value:.3f}",
        },
    )


def table(title: str, rows: dict[str, str]) -> str:
    """Names and values, between rules."""
    rule = "-" * 70
    lines = (f"{name:31}{value}" for name, value in rows.items())
    return "\n".join([title, rule, *lines, rule])


# %%
# Data
# ----

LIMITS = {
    "declination": (-360, 360),
    "inclination": (-90, 90),
    "latitude": (-90, 90),
    "longitude": (-360, 360),
    "diameter": (0, 10_000),
}


def from_angles(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Unit vectors from declination and inclination, or longitude and latitude, in degrees."""
    a, e = azimuth.deg2rad(), elevation.deg2rad()
    return normalize(torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], -1), dim=-1)


def to_angles(x: Tensor) -> Tensor:
    """The inverse, shape (..., 2); the azimuth from -180 to 180 degrees."""
    elevation = torch.atan2(x[..., 2], x[..., :2].norm(dim=-1))
    return torch.stack([torch.atan2(x[..., 1], x[..., 0]), elevation], -1).rad2deg()


def made_remanence() -> Tensor:
    """26 directions from a von Mises-Fisher law."""
    loc = from_angles(*torch.tensor(FIELD, dtype=torch.float64))
    return VonMisesFisher(loc, 110.0).sample((26,))


def made_craters() -> Craters:
    """967 nearly uniform directions, with a few large craters and many small ones."""
    x = VonMisesFisher(torch.eye(3, dtype=torch.float64)[0], 0.1).sample((967,))
    return Craters(x, 15 * torch.randn(len(x), dtype=x.dtype).exp())


def read_remanence(path: Path) -> Tensor:
    """Read declinations and inclinations as unit vectors, shape (n, 3)."""
    return distinct(path, from_angles(*read_columns(path, ("declination", "inclination"))))


def read_craters(path: Path) -> Craters:
    """Read latitudes, longitudes and diameters."""
    longitude, latitude, diameters = read_columns(path, ("longitude", "latitude", "diameter"))
    return Craters(distinct(path, from_angles(longitude, latitude)), diameters)


def distinct(path: Path, x: Tensor) -> Tensor:
    """The directions themselves, unless there are too few or all are equal."""
    if len(x) < 3:
        raise DataError(f"{path}: expected at least 3 directions, found {len(x)}")
    if (x == x[0]).all():
        raise DataError(f"{path}: expected directions that differ, found {len(x)} equal ones")
    return x


def read_columns(path: Path, names: Sequence[str]) -> Tensor:
    """Read the columns of a CSV file whose names begin so, shape (len(names), n).

    Raises:
        DataError: the file is missing or empty, has no such column, or a line lacks a number.
    """
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            columns = [find_column(path, header, name) for name in names]
            for row in reader:
                if row:
                    where = f"{path}, line {reader.line_num}"
                    if len(row) != len(header):
                        raise DataError(f"{where}: expected {len(header)} values, found {len(row)}")
                    pairs = zip(names, columns, strict=True)
                    rows.append([read_entry(where, name, row[i]) for name, i in pairs])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a readable CSV file, found: {error}") from error
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(names)).mT


def find_column(path: Path, header: list[str], name: str) -> int:
    """The first column whose name begins so."""
    for i, text in enumerate(header):
        if text.strip().lower().startswith(name):
            return i
    found = repr(",".join(header)) if header else "an empty line or file"
    raise DataError(f"{path}, line 1: expected a column named {name}, found {found}")


def read_entry(where: str, name: str, text: str) -> float:
    """Read a number between the limits of its column."""
    low, high = LIMITS[name]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        wanted = f"{name} as a number from {low} to {high}"
        raise DataError(f"{where}: expected {wanted}, found {text!r}")
    return value


# %%
# The figure
# ----------


def draw_figure(path: Path, found: Fit, craters: Craters, tests: Uniformity) -> None:
    """The directions about their mean, their quantiles, and the map of the craters."""
    figure = Figure(figsize=(16, 5.2), facecolor="white")
    grid = figure.add_gridspec(1, 3, width_ratios=(1, 0.95, 2))
    grid.update(left=0.02, right=0.985, bottom=0.22, top=0.87, wspace=0.14)
    left, middle = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    right = figure.add_subplot(grid[2], projection="hammer")
    titles = {
        left: draw_directions(left, found),
        middle: draw_quantiles(middle, found),
        right: draw_craters(right, craters, tests.rayleigh),
    }
    for axes, title in titles.items():
        box = axes.get_position(original=True)
        x = (box.x0 + box.x1) / 2
        figure.text(x, 0.925, title, ha="center", size=12, color=INK)
        handles, names = axes.get_legend_handles_labels()
        style = {"frameon": False, "fontsize": 9, "labelcolor": INK, "ncols": 2}
        figure.legend(handles, names, loc="upper center", bbox_to_anchor=(x, 0.14), **style)
    save_figure(figure, path)


def draw_directions(axes: Axes, found: Fit) -> str:
    """Lambert's equal-area projection about the mean direction, where cones are circles."""
    loc = found.law.loc
    azimuth, elevation = to_angles(loc).deg2rad()
    east = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)])
    down = torch.linalg.cross(loc, east)
    chord = (found.x - loc).norm(dim=-1)  # the distance from the centre that keeps areas
    turn = torch.atan2(found.x @ down, found.x @ east)

    outer = min(1.08 * max(chord.max().item(), radius(found.mass_cone)), 2.0)
    largest = math.degrees(2 * math.asin(outer / 2))
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if 4.5 * s > largest), 45)
    for ring in range(1, int(largest / step) + 1):
        top = radius(math.radians(ring * step))
        axes.plot(*circle(top), color=PALE, lw=0.7)
        style = {"size": 8, "color": GREY, "ha": "center", "va": "center"}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.text(0, top, f"{ring * step:g}°", **style)

    points = chord * turn.cos(), chord * turn.sin()
    axes.scatter(*points, s=22, color=BLUE, linewidths=0, label="directions", zorder=3)
    style = {"color": INK, "ls": "", "marker": "+", "ms": 11, "mew": 2}
    axes.plot(0, 0, label="mean direction", zorder=4, **style)
    confidence, mass = circle(radius(found.confidence_cone)), circle(radius(found.mass_cone))
    style = {"color": ORANGE, "lw": 2, "zorder": 4}
    axes.plot(*confidence, label=f"{LEVEL:.0%} confidence cone", **style)
    axes.plot(*mass, ls="--", label=f"cone of {LEVEL:.0%} of the law", **style)
    axes.set(xlim=(-outer, outer), ylim=(-outer, outer), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("declination increases →", size=9, color=GREY)
    axes.set_ylabel("inclination increases →", size=9, color=GREY)
    mean = f"{math.degrees(azimuth) % 360:.1f}°, {math.degrees(elevation):.1f}°"
    return f"{len(found.x)} directions of remanence about {mean}"


def radius(angle: float) -> float:
    """Where Lambert's projection puts an angle from its centre."""
    return 2 * math.sin(angle / 2)


def circle(radius: float) -> tuple[Tensor, Tensor]:
    """Points of a circle about the origin."""
    turn = torch.linspace(0, 2 * math.pi, 181)
    return radius * turn.cos(), radius * turn.sin()


def draw_quantiles(axes: Axes, found: Fit) -> str:
    """The angles to the mean direction beside the quantiles that the law has for them."""
    n = len(found.x)
    expected = found.law.mass_cone((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    angles = angles_to_mean(found.x, found.law).sort().values
    outer = 1.08 * math.degrees(max(expected.max(), angles.max()))
    axes.plot([0, outer], [0, outer], color=GREY, lw=1, label="the fitted law")
    points = expected.rad2deg(), angles.rad2deg()
    axes.scatter(*points, s=22, color=BLUE, linewidths=0, label="directions", zorder=3)
    axes.set(xlim=(0, outer), ylim=(0, outer), aspect="equal")
    axes.tick_params(labelsize=8, labelcolor=GREY, color=PALE)
    axes.spines[:].set_color(PALE)
    axes.set_xlabel("quantile of the angle, degrees", size=9, color=GREY)
    axes.set_ylabel("angle to the mean direction, degrees", size=9, color=GREY)
    return f"quantiles: p-value of the fit {found.goodness.p_value:.2g}"


def draw_craters(axes: Axes, craters: Craters, test: TestResult) -> str:
    """Hammer's equal-area map: uniform craters are equally dense all over it."""
    size = (1 + craters.diameters / 8).clamp(max=12).square()
    places = to_angles(craters.x).deg2rad()
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    style = {"color": BLUE, "alpha": 0.55, "linewidths": 0}
    axes.scatter(*places.mT, s=size, label="craters, larger dots for wider ones", **style)
    mean = to_angles(craters.x.sum(0)).deg2rad()
    style = {"color": ORANGE, "edgecolors": INK, "linewidths": 1, "zorder": 3}
    axes.scatter(*mean, s=260, marker="*", label="mean direction", **style)
    axes.set_longitude_grid(60)
    axes.set_latitude_grid(30)
    axes.tick_params(labelsize=8, labelcolor=GREY)
    for label in axes.get_xticklabels():
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
    axes.spines[:].set_color(GREY)
    length = f"mean resultant length {craters.x.mean(0).norm():.3f}"
    return f"{len(craters.x)} craters: {length}, Rayleigh's p-value {test.p_value:.2g}"


# %%
# The command
# -----------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse itself ends the run, with exit code 2, where one is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Fit a von Mises-Fisher law to directions of remanence and test it; test the "
        "craters of a planet for uniformity; print both and draw one figure.",
    )
    text = "CSV file with the columns declination and inclination in degrees; else made data"
    parser.add_argument("--remanence", metavar="FILE", type=Path, help=text)
    text = "CSV file with the columns latitude, longitude (degrees), diameter (km); else made data"
    parser.add_argument("--craters", metavar="FILE", type=Path, help=text)
    text = "the mean direction to test for (default: %(default)s, the true one of made data)"
    angle = read_number(-360, 360)
    parser.add_argument(
        "--field", metavar=("D", "I"), nargs=2, type=angle, default=FIELD, help=text
    )
    add_seed_and_output(parser)
    return parser.parse_args(argv)


@ends_in_one_line(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Read or make the data, print the tables, draw the figure; return the exit code."""
    options = parse(argv)
    torch.manual_seed(options.seed)
    files = options.remanence, options.craters
    sources = [f"made data, seed {options.seed}" if file is None else str(file) for file in files]
    x = made_remanence() if options.remanence is None else read_remanence(options.remanence)
    craters = made_craters() if options.craters is None else read_craters(options.craters)
    field = from_angles(*torch.tensor(options.field, dtype=torch.float64))
    found, tests = fit(x, field), uniformity(craters.x)
    print(remanence_table(found, sources[0]))
    print()
    print(crater_table(craters.x, tests, sources[1]))
    draw_figure(options.output, found, craters, tests)
    print(f"figure: {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
