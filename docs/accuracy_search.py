"""Writes accuracy_search.rst: the worst errors that a random search off the grid finds, in eps.

Dimensions are drawn at random (three of four from 2 to 40, the others log-uniformly up to 1000)
and concentrations log-uniformly from 1e-8 to 1e8, or for the spherical Cauchy law distances from
1e-8 to 28; then the search goes on around the worst point of each quantity. It runs for a quarter
of an hour, on one core:

    python docs/accuracy_search.py
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path

import torch
from _list_table import list_table
from _machine import measured_on

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import accuracy  # noqa: E402
import reference  # noqa: E402

QUANTITIES = [*accuracy.QUANTITIES, *accuracy.CAUCHY_QUANTITIES]
DTYPES = (torch.float64, torch.float32)
COUNT = 24  # concentrations in each dimension drawn
NEIGHBOURS, ROUNDS = 20, 3  # points around the worst, and how often

Place = tuple[int, int]  # a quantity, a dtype
Worst = dict[Place, accuracy.Error]


def rounded(concentrations: list[float]) -> list[float]:
    """To float32, so that both dtypes and one reference share the very same numbers."""
    return torch.tensor(concentrations, dtype=torch.float32).tolist()


def look(worst: Worst, place: Place, dim: int, concentrations: list[float]) -> None:
    """Keeps the largest error."""
    quantity, dtype = QUANTITIES[place[0]], DTYPES[place[1]]
    found = max(accuracy.errors(quantity, dim, dtype, concentrations))
    worst[place] = max(worst.get(place, found), found)


def search(seconds: float, seed: int) -> tuple[Worst, int]:
    """The worst errors, and the number of points tried for each quantity and dtype."""
    numbers = random.Random(seed)
    worst: Worst = {}
    places = [(i, j) for i in range(len(QUANTITIES)) for j in range(len(DTYPES))]
    end, points = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        small = numbers.random() < 0.75
        dim = numbers.randint(2, 40) if small else int(40 * 25 ** numbers.random())
        concentrations, distances = (
            rounded([10 ** numbers.uniform(-8, math.log10(end)) for _ in range(COUNT)])
            for end in (1e8, accuracy.STRENGTHS[-1])
        )
        for place in places:
            of_cauchy = QUANTITIES[place[0]] in accuracy.CAUCHY_QUANTITIES
            look(worst, place, dim, distances if of_cauchy else concentrations)
        points += COUNT
    for step in range(ROUNDS):
        for place in places:
            dim, k = worst[place].dim, worst[place].concentration
            width = 10.0 ** (-1 - step)
            around = [k * (1 + numbers.uniform(-width, width)) for _ in range(NEIGHBOURS)]
            look(worst, place, dim, rounded(around))
        reference.radial.cache_clear()
        reference.power_spherical.cache_clear()
        reference.spherical_cauchy.cache_clear()
    return worst, points


def main() -> None:
    """Search and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=900, help="of the random search")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    worst, points = search(options.seconds, options.seed)
    rows = [["Quantity", "float64", "at", "float32", "at", "limit"]]
    for i, quantity in enumerate(QUANTITIES):
        row = [quantity.name]
        for j in range(len(DTYPES)):
            error = worst[i, j]
            row += [f"{error.eps:.2f}", f"d = {error.dim}, {error.concentration:.9g}"]
        rows.append([*row, f"{quantity.limit:g}"])
    around = NEIGHBOURS * ROUNDS
    title = f"Worst error found in {points} random points and {around} around the worst, in eps"
    text = f"{list_table(title, rows)}\n{measured_on()}"
    (HERE / "accuracy_search.rst").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
