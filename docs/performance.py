"""Writes performance_table.rst, performance_parts.rst and two figures: what a draw costs.

It runs for about five minutes, on one thread; leave the machine alone meanwhile:

    python docs/performance.py
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from _list_table import list_table
from _machine import measured_on
from tqdm import tqdm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "benchmarks"))

import rivals  # noqa: E402
from parts_of_a_draw import parts_of_a_draw  # noqa: E402

SECONDS = 3.0  # for each table row
COUNTS = [100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]  # in dimension 20
DIMS = [2, 3, 4, 6, 10, 20, 50, 100, 300, 1000, 10_000, 100_000]
NUMBERS = 1_000_000  # rows times dimension, along the second curve


def medians(callables: rivals.Rivals, seconds: float = SECONDS) -> dict[str, float]:
    """Median seconds of each, timed in turns so that a slow spell of the machine hits them all.

    They are the thread's own, which leaves out what other processes take.
    """
    times: dict[str, list[float]] = {name: [] for name in callables}
    for function in callables.values():
        function()  # tables and memory
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 7:
        for name, function in callables.items():
            start = time.thread_time()
            function()
            times[name].append(time.thread_time() - start)
    return {name: statistics.median(spent) for name, spent in times.items()}


Measured = list[tuple[tuple[int, int], dict[str, float]]]  # medians by name, for each size


def measure(title: str, job: rivals.Job, sizes: list[tuple[int, int]]) -> Measured:
    """Median seconds of everything that does a job, for each number of rows and dimension."""
    return [(size, medians(job(*size))) for size in tqdm(sizes, desc=title)]


def ratios(measured: Measured) -> dict[str, list[float | None]]:
    """Times over those of the first, for each size; None where one was not timed."""
    base = next(iter(measured[0][1]))
    names = dict.fromkeys(name for _, spent in measured for name in spent if name != base)
    return {
        name: [spent[name] / spent[base] if name in spent else None for _, spent in measured]
        for name in names
    }


def table(title: str, measured: Measured) -> str:
    """The ratios in reStructuredText, behind the time that they are measured against."""
    base, columns = next(iter(measured[0][1])), ratios(measured)
    rows = [["rows, dimension", f"{base}, ms", *columns]]
    for i, ((n, dim), spent) in enumerate(measured):
        cells = ["" if column[i] is None else f"{column[i]:.3g}" for column in columns.values()]
        rows.append([f"{n:,}, {dim}", f"{1e3 * spent[base]:.3g}", *cells])
    return list_table(title, rows)


def profile() -> str:
    """Where the time of a draw goes, in reStructuredText."""
    found = [parts_of_a_draw(*size) for size in tqdm(rivals.SAMPLES, desc="Parts of a draw")]
    rows = [["rows, dimension", *found[0]]]
    for (n, dim), parts in zip(rivals.SAMPLES, found, strict=True):
        rows.append([f"{n:,}, {dim}", *(f"{max(0.0, spent):.2g}" for spent in parts.values())])
    return list_table("Parts of a draw, ms", rows)


STYLES = {  # of what the charts show
    rivals.OURS: ("#4477aa", "o"),
    rivals.OURS_POWER: ("#66ccee", "o"),
    rivals.OURS_CAUCHY: ("#228833", "o"),
    rivals.NORMAL: ("0.35", "|"),
    "power_spherical": ("#cc3311", "^"),
    "scipy, one law": ("#ee9933", "s"),
    "torch's VonMises": ("#aa3377", "D"),
}


def chart(panels: dict[str, Measured]) -> None:
    """Draw the ratios: a panel for each job, a line for each size."""
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 4.4), sharey=True, layout="constrained")
    for ax, (title, measured) in zip(axes, panels.items(), strict=True):
        places = range(len(measured))
        for name, values in ratios(measured).items():
            if name in STYLES:
                color, marker = STYLES[name]
                known = [(x, y) for x, y in zip(values, places, strict=True) if x is not None]
                ax.plot(*zip(*known, strict=True), marker, color=color, label=name, ms=7, mew=1.5)
        ax.axvline(1, color="0.5", lw=1)
        ax.set_xscale("log")
        ax.set_yticks(places, [f"{n:,}, {dim}" for (n, dim), _ in measured])
        ax.grid(alpha=0.3)
        ax.set_title(title, size=11)
        ax.set_xlabel(f"time, that of {next(iter(measured[0][1]))} being 1")
    axes[0].invert_yaxis()
    axes[0].set_ylabel("rows, dimension")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(HERE / "images" / "ratios.svg", metadata={"Date": None})


def curves() -> None:
    """Cost of a draw against the number of rows and against the dimension."""
    styles = {
        rivals.NORMALISED: ("0.5", "-"),
        rivals.OURS: ("#4477aa", "-"),
        f"{rivals.NORMAL}, with gradients": ("0.5", "--"),
        f"{rivals.OURS}, with gradients": ("#4477aa", "--"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    panels = [
        ("rows, in dimension 20", [(n, 20) for n in COUNTS], COUNTS),
        ("dimension, a million numbers in all", [(max(1, NUMBERS // d), d) for d in DIMS], DIMS),
    ]
    for ax, (label, sizes, places) in zip(axes, panels, strict=True):
        spent: dict[str, list[float]] = {name: [] for name in styles}
        for n, dim in tqdm(sizes, desc=label):
            draws, with_gradients = rivals.draws(n, dim), rivals.draws_with_gradients(n, dim)
            found = medians(
                {
                    rivals.NORMALISED: draws[rivals.NORMALISED],
                    rivals.OURS: draws[rivals.OURS],
                    f"{rivals.NORMAL}, with gradients": with_gradients[rivals.NORMAL],
                    f"{rivals.OURS}, with gradients": with_gradients[rivals.OURS],
                },
                seconds=1.5,
            )
            for name, seconds in found.items():
                spent[name].append(1e9 * seconds / (n * dim))
        for name, values in spent.items():
            color, line = styles[name]
            ax.loglog(places, values, color=color, linestyle=line, marker=".", label=name)
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("nanoseconds for each number drawn")
    axes[0].legend(frameon=False)
    figure.savefig(HERE / "images" / "scaling.svg", metadata={"Date": None})


def main() -> None:
    """Measure everything and write the files."""
    torch.set_num_threads(1)
    (HERE / "images").mkdir(exist_ok=True)
    jobs = {
        "Draws": (rivals.draws, rivals.SAMPLES),
        "Draws and their gradients": (rivals.draws_with_gradients, rivals.SAMPLES),
        "Log density, with gradients": (rivals.log_densities, rivals.DENSITIES),
        f"Values under {rivals.LAWS:,} laws": (rivals.all_pairs, rivals.PAIRS),
        f"Values under {rivals.LAWS:,} laws, with gradients": (
            rivals.all_pairs_with_gradients,
            rivals.PAIRS,
        ),
        "Mixtures of 20 laws, with gradients": (rivals.mixtures, rivals.MIXTURES),
        "Divergence from uniform, with gradients": (rivals.divergences, rivals.DIVERGENCES),
    }
    measured = {title: measure(title, *job) for title, job in jobs.items()}
    tables = [table(title, rows) for title, rows in measured.items()]
    text = "\n".join([measured_on("one thread, float32"), *tables])
    (HERE / "performance_table.rst").write_text(text)
    (HERE / "performance_parts.rst").write_text(profile())
    chart({title: measured[title] for title in list(jobs)[:2]})
    curves()


if __name__ == "__main__":
    main()
