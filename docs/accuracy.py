"""Writes accuracy_table.rst: the worst errors over dimensions and concentrations, in eps.

It runs for about ten minutes:

    python docs/accuracy.py
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import mpmath as mp
import torch
from _list_table import list_table
from _machine import measured_on
from tqdm import tqdm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import accuracy  # noqa: E402
from reference import (  # noqa: E402
    CosineReference,
    cosine_reference,
    spherical_cauchy_cosine_reference,
)
from vmfdist import PowerSpherical, SphericalCauchy, VonMisesFisher  # noqa: E402
from vmfdist._families.family import Family  # noqa: E402
from vmfdist._families.power_spherical import POWER_SPHERICAL  # noqa: E402
from vmfdist._families.spherical_cauchy import SPHERICAL_CAUCHY  # noqa: E402
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER  # noqa: E402
from vmfdist.rotational import RotationallySymmetric  # noqa: E402

DTYPES = (torch.float64, torch.float32)
DIMS = [*accuracy.ALL_SMALL_DIMS, *accuracy.LARGE_DIMS]
HEAD = ["Quantity", "float64", "at", "float32", "at", "limit"]
COSINE_DIMS = [2, 3, 4, 5, 8, 12, 32, 64, 512, 4096]
SCORES = [-7.9, -5.0, -2.0, -0.5, 0.1, 1.0, 3.0, 5.0, 6.5, 7.9]
ROUNDINGS = {torch.float64: 2, torch.float32: 4}  # of 1 - w, in half an eps each


class Law(NamedTuple):
    """A law by its strength: what is measured, at which strengths, and against what."""

    name: str
    family: Family
    make: Callable[[torch.Tensor, torch.Tensor], RotationallySymmetric]
    reference: Callable[[int, float], CosineReference]
    of_draws: Sequence[float]
    of_probabilities: Sequence[float]
    limit: str = "1e-10, 1e-6"  # of draws, in standard deviations


FOR_DRAWS = (0.0, 1e-6, 0.05, 0.7, 3.0, 10.0, 16.0, 40.0, 300.0, 1e4, 1e6, 1e9, 1e12)
FOR_PROBABILITIES = (0.0, 1e-3, 0.3, 3.0, 30.0, 110.0, 333.0, 1e3, 1e6, 1e8)
LAWS = (
    Law(
        "von Mises-Fisher",
        VON_MISES_FISHER,
        VonMisesFisher,
        cosine_reference,
        FOR_DRAWS,
        FOR_PROBABILITIES,
    ),
    Law(
        "power spherical",
        POWER_SPHERICAL,
        PowerSpherical,
        partial(cosine_reference, power_spherical=True),
        FOR_DRAWS,
        FOR_PROBABILITIES,
    ),
    Law(
        "spherical Cauchy",
        SPHERICAL_CAUCHY,
        SphericalCauchy.from_distance,
        spherical_cauchy_cosine_reference,
        accuracy.STRENGTHS,
        accuracy.STRENGTHS,
        "1e-10, 1e-5",
    ),
)


def cosine_errors(
    law: Law, dim: int, dtype: torch.dtype
) -> Iterator[tuple[accuracy.Error, accuracy.Error]]:
    """Errors of the normal score of a cosine and of its derivative, beyond its rounding."""
    scores = [x for x in SCORES if dim > 2 or dtype == torch.float64 or abs(x) < 5.5]
    z, rounding = torch.tensor(scores, dtype=dtype), ROUNDINGS[dtype] * torch.finfo(dtype).eps / 2
    for k in law.of_draws:
        draw = law.family.to_cosine(z, torch.tensor(k, dtype=dtype), dim)
        k_rounded = torch.tensor(k, dtype=dtype).item()
        rows = zip(z.tolist(), draw.one_minus_cosine.tolist(), draw.rate.tolist(), strict=True)
        for score, t, rate in rows:
            if 2 - t < 8 * torch.finfo(dtype).eps or t < torch.finfo(dtype).tiny:
                continue  # rounding of t itself leaves no digits
            with mp.workdps(22):
                reference = law.reference(dim, k_rounded)
                errors = reference.errors(score, t, rate, rounding)
            yield accuracy.Error(float(errors[0]), dim, k), accuracy.Error(float(errors[1]), dim, k)


LOG10_P = (-290.0, -188.0, -100.0, -40.0, -16.0, -5.0, -1.0)


def probability_errors(law: Law, dim: int) -> Iterator[dict[str, accuracy.Error]]:
    """Relative errors in float64 at quantiles in both tails, where these are numbers."""
    loc = torch.eye(1, dim, dtype=torch.float64)[0]
    for k in law.of_probabilities:
        strength = torch.tensor(k, dtype=torch.float64, requires_grad=True)
        cosine = law.make(loc, strength).cosine
        for quantile, log10_p in itertools.product(
            (cosine.one_minus_isf, cosine.one_minus_icdf), LOG10_P
        ):
            p = 10**log10_p
            t = quantile(torch.tensor(p, dtype=torch.float64))
            if not 1e-290 < t.item() < 2:
                continue
            (rate,) = torch.autograd.grad(t, strength)
            t = t.detach()
            sf, cdf = cosine.sf(one_minus_value=t), cosine.cdf(one_minus_value=t)
            (slope,) = torch.autograd.grad(sf, strength)
            with mp.workdps(22):
                reference = law.reference(dim, k)
                exact = mp.mpf(t.item())
                u = mp.log(exact / (2 - exact)) / 2
                above, below, true_slope = reference.probabilities(u)
                density = reference.density(u) / reference.total
                tail = min(above, below)
                change = 2 + abs(reference.slope(u)) + density / tail
                rounding = mp.mpf(2.2e-16) / (2 - exact) * change
                true_rate = -true_slope * exact * (2 - exact) / density
                ours = above if quantile == cosine.one_minus_isf else below
                found = {
                    "cdf and sf": max(abs(sf.item() / above - 1), abs(cdf.item() / below - 1)),
                    "derivative of cdf and sf": abs(slope.item() / true_slope - 1),
                    "quantiles": abs(p / ours - 1) - rounding,
                    "derivative of quantiles": abs(rate.item() / true_rate - 1) - rounding,
                }
            yield {
                name: accuracy.Error(max(0.0, float(error)), dim, k)
                for name, error in found.items()
            }


def place(error: accuracy.Error) -> str:
    """Where an error was found."""
    k = error.concentration
    at = f"{k:.3g}" if isinstance(k, float) else f"{k[0]:.3g}, {k[1]:.3g}"
    return f"d = {error.dim}, {at}"


def cosine_table() -> str:
    """The table of the maps from noise to cosine."""
    rows = []
    for law in LAWS:
        pair = [
            [f"{law.name}: normal score of a cosine, in standard deviations"],
            [f"{law.name}: derivative of it, relative"],
        ]
        for dtype in DTYPES:
            both = [
                errors
                for dim in tqdm(COSINE_DIMS, desc=f"draws, {law.name}, {dtype}")
                for errors in cosine_errors(law, dim, dtype)
            ]
            for row, part in zip(pair, zip(*both, strict=True), strict=True):
                worst = max(part)
                row += [f"{worst.eps:.1e}", place(worst)]
        limits = [law.limit, "1e-8, 1e-5"]
        rows += [[*row, limit] for row, limit in zip(pair, limits, strict=True)]
    return list_table("Worst error of the maps from noise to cosine", [HEAD, *rows])


def probability_table() -> str:
    """The table of the probabilities and quantiles of cosines."""
    rows = [["Quantity", "float64", "at", "limit"]]
    for law in LAWS:
        dims = tqdm(COSINE_DIMS, desc=f"probabilities, {law.name}")
        errors = [error for dim in dims for error in probability_errors(law, dim)]
        for quantity in errors[0]:
            worst = max(error[quantity] for error in errors)
            rows.append([f"{law.name}: {quantity}", f"{worst.eps:.1e}", place(worst), "1e-10"])
    return list_table("Worst relative error of probabilities and quantiles of the cosine", rows)


def closed_form_table() -> str:
    """The table of everything that has a closed form."""
    rows = []
    quantities = [*accuracy.QUANTITIES, *accuracy.CAUCHY_QUANTITIES]
    for quantity in tqdm(quantities, desc="closed forms"):
        row = [quantity.name]
        for dtype in DTYPES:
            worst = max(max(accuracy.errors(quantity, dim, dtype)) for dim in DIMS)
            row += [f"{worst.eps:.1f}", place(worst)]
        rows.append([*row, f"{quantity.limit:g}"])
    for name, measure, limit in (
        ("KL of two laws", accuracy.pair_errors, 16),
        ("inverse of the Bessel ratio", accuracy.inverse_errors, 8),
        ("spherical Cauchy: artanh of a draw's cosine", accuracy.draw_errors, 8),
        ("KL, power spherical to vMF", accuracy.power_to_von_mises_fisher_errors, 8),
    ):
        row = [name]
        for dtype in DTYPES:
            worst = max(max(measure(dim, dtype)) for dim in tqdm(DIMS, desc=f"{name}, {dtype}"))
            row += [f"{worst.eps:.1f}", place(worst)]
        rows.append([*row, str(limit)])
    return list_table("Worst error, in eps", [HEAD, *rows])


def main() -> None:
    """Measures, each table in a process of its own, and writes the file."""
    with ProcessPoolExecutor() as pool:
        running = [pool.submit(t) for t in (closed_form_table, cosine_table, probability_table)]
        text = "\n".join(table.result() for table in running)
    text += f"\n{measured_on()}"
    (HERE / "accuracy_table.rst").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
