"""Writes audit_table.rst and images/audit_*.png: formulas written by hand, beside vmfdist.

``_by_hand.py`` has the formulas. Their errors are against mpmath. It runs for two minutes:

    python docs/audit.py
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import mpmath as mp
import numpy as np
import torch
from _by_hand import FORMULAS, SAMPLERS, Cosine, Formula, Sampler, power_spherical_divergence
from _list_table import list_table
from _machine import measured_on
from _maps import GREENS, REDS, YELLOWS, Panel, Scale, draw_maps
from tqdm import tqdm

HERE = Path(__file__).parent
IMAGES = HERE / "images"
sys.path.insert(0, str(HERE.parent / "tests"))

from reference import power_spherical, radial  # noqa: E402
from vmfdist import VonMisesFisher  # noqa: E402
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER  # noqa: E402

DIMS = [*range(2, 11), 13, 16, 23, 32, 45, 64, 91, 100, 128, 181, 256, 362, 512, 724, 1024]
DIMS += [1448, 2048, 2896, 4096]
CONCENTRATIONS = torch.tensor(np.geomspace(1e-2, 1e6, 33), dtype=torch.float32).double().numpy()


# %%
# vmfdist, in float32


def law(dim: int, k: np.ndarray) -> VonMisesFisher:
    """A law for each concentration."""
    loc = torch.eye(1, dim)[0]
    return VonMisesFisher(loc, torch.tensor(k, dtype=torch.float32), validate_args=False)


def log_density(dim: int, k: np.ndarray) -> np.ndarray:
    """At the mode."""
    ours = law(dim, k)
    return ours.log_prob(ours.loc).numpy()


def mean_cosine(dim: int, k: np.ndarray) -> np.ndarray:
    """The slope of the log normaliser."""
    return law(dim, k).mean_resultant_length.numpy()


def drawn(dim: int, k: float) -> Cosine:
    """The mean of what noise is mapped to, and of its derivative, by the trapezoidal rule."""
    noise = torch.linspace(-8, 8, 641)
    weight = torch.exp(-(noise.double() ** 2) / 2)
    weight /= weight.sum()
    t, rate = VON_MISES_FISHER.to_cosine(noise, torch.tensor(k, dtype=torch.float32), dim)
    t, rate = t.double(), rate.double()
    # the rate is that of artanh(w)
    return Cosine((weight * (1 - t)).sum().item(), (weight * rate * t * (2 - t)).sum().item())


# %%
# Maps


OURS = Formula("vmfdist, float32", log_density, mean_cosine)
OUR_DRAWS = Sampler("vmfdist, float32", drawn)


# %%
# Maps


def errors(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The errors of a dimension, of formulas and of samplers, at each concentration.

    Of log densities in nats, of slopes relative; of the mean cosine of draws in standard deviations
    of the cosine, of the derivative of that mean relative. They are infinite where there is no
    number, and NaN where there is no formula.
    """
    with mp.workdps(40):
        truths = [(radial(dim, k), k) for k in CONCENTRATIONS.tolist()]
        columns = [(float(r.log_density_at_mode(k)), r.mean, r.variance) for r, k in truths]
    density, mean, variance = np.array(columns, dtype=np.float64).T

    def distance(found: np.ndarray, truth: np.ndarray, scale: np.ndarray) -> np.ndarray:
        result = abs(np.asarray(found, dtype=np.float64) - truth) / scale
        return np.where(np.isnan(result), np.inf, result)

    of_formulas, of_samplers = [], []
    with np.errstate(all="ignore"):  # of the overflow that the maps show
        for formula in (*FORMULAS.values(), OURS):
            if not formula.known(dim):
                of_formulas.append(np.full((2, len(density)), np.nan))
                continue
            value = distance(formula.log_density(dim, CONCENTRATIONS), density, np.ones(1))
            of_formulas.append((value, distance(formula.slope(dim, CONCENTRATIONS), mean, mean)))
        for sampler in (*SAMPLERS.values(), OUR_DRAWS):
            found = np.array([sampler.cosine(dim, k) for k in CONCENTRATIONS.tolist()])
            at = distance(found[:, 0], mean, np.sqrt(variance))
            of_samplers.append((at, distance(found[:, 1], variance, variance)))
    return np.array(of_formulas), np.array(of_samplers)


LIMITS = [0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 1e300]
LABELS = ["0", *(f"$10^{{{n}}}$" for n in range(-6, -2)), "0.01", "0.1", "1", "10", "no number"]
COLOURS = (*GREENS, *YELLOWS, *REDS)


def draw_figures(of_formulas: np.ndarray, of_samplers: np.ndarray) -> None:
    """Write three figures, of three maps in a row; the arrays begin with the dimension."""
    formulas, samplers = (*FORMULAS.values(), OURS), (*SAMPLERS.values(), OUR_DRAWS)
    for i, (name, label) in enumerate(
        (("values", "error of the log density, in nats"), ("slopes", "relative error of the slope"))
    ):
        maps = [Panel(f.name, of_formulas[:, j, i], f.used) for j, f in enumerate(formulas)]
        rows = [("", maps[start : start + 3]) for start in range(0, len(maps), 3)]
        scale = Scale(label, LIMITS, COLOURS, LABELS)
        figure = draw_maps(rows, DIMS, CONCENTRATIONS, scale, size=(9, 9))
        figure.savefig(IMAGES / f"audit_{name}.png", dpi=120)
    rows = [
        (name, [Panel(s.name, of_samplers[:, j, i]) for j, s in enumerate(samplers)])
        for i, name in enumerate(("mean", "derivative of the mean"))
    ]
    label = "error: in standard deviations; relative"
    figure = draw_maps(
        rows, DIMS, CONCENTRATIONS, Scale(label, LIMITS, COLOURS, LABELS), size=(9, 5.5)
    )
    figure.savefig(IMAGES / "audit_draws.png", dpi=120)


# %%
# The table


class Project(NamedTuple):
    """A row: what was seen where, what that gives at chosen points, and what does it here."""

    name: str
    seen: str  # version or commit, and its date
    computes: str
    measured: Callable[[], str]
    here: str


def in_nats(formula: str, *points: tuple[int, float]) -> str:
    """The log density at the mode by a formula, and the true one."""
    return "; ".join(
        f"{at(dim, k)}: {number(FORMULAS[formula].log_density(dim, np.array([k]))[0], 2)} for "
        f"{float(radial(dim, k).log_density_at_mode(k)):.2f}"
        for dim, k in points
    )


def in_slope(formula: str, *points: tuple[int, float]) -> str:
    """The slope by a formula, and the true one."""
    return "; ".join(
        f"{at(dim, k)}: {number(FORMULAS[formula].slope(dim, np.array([k]))[0], 4)} for "
        f"{float(radial(dim, k).mean):.4f}"
        for dim, k in points
    )


def at(dim: int, k: float) -> str:
    """A dimension and a concentration."""
    return f"d = {dim}, {k:g}"


def number(x: float, digits: int) -> str:
    """A number in a cell, if it is one."""
    return f"{x:.{digits}f}" if np.isfinite(x) else "no number"


def in_draws(sampler: str, *points: tuple[int, float]) -> str:
    """The mean cosine of draws, and the share of its derivative that their gradient has."""
    cells = []
    for dim, k in points:
        mean, derivative = SAMPLERS[sampler].cosine(dim, k)
        truth = radial(dim, k)
        share = derivative / float(truth.variance)
        cells.append(f"{at(dim, k)}: {mean:.3f} for {float(truth.mean):.3f}, {share:.2f}")
    return "; ".join(cells)


def in_divergence(dim: int, *concentrations: float) -> str:
    """The divergence of a power spherical law by its formula, and the true one."""
    return "; ".join(
        f"{at(dim, k)}: {power_spherical_divergence(dim, k):.3f} for "
        f"{float(power_spherical(dim, k).kl_to_uniform(k)):.3f}"
        for k in concentrations
    )


def of_mpmath(dim: int, k: float) -> str:
    """How long one value takes there, and how long here, of a thousand at once."""

    def ours() -> torch.Tensor:
        return law(dim, np.linspace(1, k, 1000)).log_normalizer

    with mp.workdps(15):
        one = min(timeit.repeat(lambda: mp.log(mp.besseli(dim / 2 - 1, k)), number=5, repeat=9)) / 5
    all_at_once = min(timeit.repeat(ours, number=5, repeat=9)) / 5
    return f"right; {at(dim, k)}: {1e3 * one:.2g} ms a value, here {1e3 * all_at_once:.2g} ms 1000"


PROJECTS = (
    Project(
        "nicola-decao/s-vae-pytorch",
        "0.1.1, 671c46c, March 2020",
        "log of SciPy's scaled Bessel function, in float32",
        lambda: in_nats("scaled", (128, 5.0), (512, 300.0)),
        "``q.log_prob(x)``",
    ),
    Project(
        "nicola-decao/s-vae-pytorch",
        "as above",
        "rejection sampler: expansion of b above 10; gradient along accepted draws",
        lambda: in_draws("blended", (2, 5.0), (10, 10.0), (64, 20.0)),
        "``q.rsample()``",
    ),
    Project(
        "clementchadebec/benchmark_VAE (pythae)",
        "0.1.2 and 14 commits, 6419e21, July 2024",
        "the same sampler with b in float32, w = 0 after 100 rejections; the same Bessel function",
        lambda: in_draws("float32", (10, 10.0), (10, 1e4), (10, 1e6)),
        "``kl_divergence(q, u)``",
    ),
    Project(
        "MathsShen/SCF",
        "842fa96, October 2021",
        "log(1e-6 + scaled), d = 512",
        lambda: (
            in_nats("guarded", (512, 300.0))
            + "; slope, "
            + in_slope("guarded", (512, 300.0), (512, 1000.0))
        ),
        "``-q.log_prob(x)``",
    ),
    Project(
        "mryab/vmf_loss",
        "1571c9a, April 2019",
        "scaled Bessel function for the unscaled one; slope by their ratio",
        lambda: (
            in_nats("half scaled", (300, 100.0))
            + "; slope, "
            + in_slope("half scaled", (300, 100.0))
        ),
        "``-q.log_prob(x)``",
    ),
    Project(
        "LeapLabTHU/ProCo",
        "af9e78e, September 2024",
        "recurrence downwards from twice the order, that a whole number; slope cut at 1",
        lambda: (
            in_nats("recurrence", (128, 100.0), (128, 5000.0), (128, 1e5))
            + "; slope, "
            + in_slope("recurrence", (128, 5000.0))
        ),
        "``q.log_normalizer``",
    ),
    Project(
        "graphnet-team/graphnet",
        "1.8.0 and 101 commits, 368927d, May 2026",
        "exact up to 100, an approximation of the slope above; d = 2 and 3",
        lambda: (
            in_nats("switched", (3, 1000.0))
            + "; slope, "
            + in_slope("switched", (3, 99.0), (3, 101.0), (2, 101.0))
        ),
        "``-q.log_prob(x)``",
    ),
    Project(
        "mkirchhof/url",
        "9a92555, July 2023",
        "three-term fits at concentrations 10 to 50 (d up to 64) or 500; SciPy's function at other "
        "d below 1024",
        lambda: in_nats("fitted", (10, 30.0), (10, 1.0), (10, 1000.0), (2048, 300.0)),
        "``log_product_integral(q, r)``",
    ),
    Project(
        "gvbdxgvc/vMNVTM",
        "672bcd7, July 2025",
        "k for log I, d = 100",
        lambda: (
            in_nats("without", (100, 10.0))
            + "; slope, "
            + in_slope("without", (100, 10.0), (100, 100.0))
        ),
        "``q.log_prob(x.unsqueeze(-2))``",
    ),
    Project(
        "Mantis-Ryuji/ChemoMAE",
        "0.2.0, 6033f04, June 2026",
        "three terms of two series, blended between 2 and 12, in float32",
        lambda: in_nats("two series", (10, 10.0), (256, 300.0), (768, 300.0)),
        "``VonMisesFisherMixture(n)``",
    ),
    Project(
        "deeplearning-wisc/siren",
        "3bb2a6a, May 2023",
        "mpmath, value by value",
        lambda: of_mpmath(64, 100.0),
        "``q.log_normalizer``",
    ),
    Project(
        "guolinke/SphereAR",
        "0eace9d, December 2025",
        "divergence of a power spherical law by log gamma functions in float32, d = 16",
        lambda: in_divergence(16, 500.0, 1e4, 1e6),
        "``kl_divergence(p, u)``",
    ),
)


def table() -> str:
    """What each project computes and what comes of it."""
    rows = [["Project", "What it computes", "By that formula, for the true", "Here"]]
    with np.errstate(all="ignore"), mp.workdps(40):
        rows += [[f"{p.name}, {p.seen}", p.computes, p.measured(), p.here] for p in PROJECTS]
    title = "Log densities at the mode, or what is named; at dimension and concentration"
    return list_table(title, rows) + "\n" + measured_on("one process")


def main() -> None:
    """Measure and draw; write the table."""
    (HERE / "audit_table.rst").write_text(table())
    with ProcessPoolExecutor() as pool:
        measured = list(tqdm(pool.map(errors, DIMS), total=len(DIMS), unit="dim"))
    draw_figures(*(np.array(parts) for parts in zip(*measured, strict=True)))


if __name__ == "__main__":
    main()
