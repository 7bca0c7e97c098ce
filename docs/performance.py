"""Writes performance_table.rst and images/scaling.svg: what a draw costs, beside PyTorch's own.

It runs for about five minutes, on one thread; leave the machine alone meanwhile:

    python docs/performance.py
"""

from __future__ import annotations

import datetime
import platform
import statistics
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from _list_table import list_table
from tqdm import tqdm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "benchmarks"))

import rivals  # noqa: E402

SECONDS = 3.0  # for each table row
COUNTS = [100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]  # in dimension 20
DIMS = [2, 3, 4, 6, 10, 20, 50, 100, 300, 1000, 10_000, 100_000]
NUMBERS = 1_000_000  # rows times dimension, along the second curve


def medians(callables: rivals.Rivals, seconds: float = SECONDS) -> dict[str, float]:
    """Median seconds of each, timed in turns so that a slow spell of the machine hits them all."""
    times: dict[str, list[float]] = {name: [] for name in callables}
    for function in callables.values():
        function()  # tables and memory
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 7:
        for name, function in callables.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(spent) for name, spent in times.items()}


def table(title: str, job: rivals.Job, sizes: list[tuple[int, int]]) -> str:
    """Times over those of the first, as a table in reStructuredText."""
    measured = []
    for size in tqdm(sizes, desc=title):
        measured.append((size, medians(job(*size))))
    base = next(iter(measured[0][1]))
    names = list(dict.fromkeys(name for _, spent in measured for name in spent if name != base))
    rows = [["rows, dimension", f"{base}, ms", *names]]
    for (n, dim), spent in measured:
        ratios = [f"{spent[name] / spent[base]:.3g}" if name in spent else "" for name in names]
        rows.append([f"{n:,}, {dim}", f"{1e3 * spent[base]:.3g}", *ratios])
    return list_table(title, rows)


def machine() -> str:
    """The processor, the versions and the date."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return (
        f"Measured on {datetime.date.today():%-d %B %Y}: {name}, one thread, float32, "
        f"PyTorch {torch.__version__.split('+')[0]}, Python {platform.python_version()}, "
        f"{platform.system()}.\n"
    )


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
    (HERE / "images").mkdir(exist_ok=True)
    figure.savefig(HERE / "images" / "scaling.svg", metadata={"Date": None})


def main() -> None:
    """Measure everything and write the files."""
    torch.set_num_threads(1)
    parts = [
        machine(),
        table("Draws", rivals.draws, rivals.SAMPLES),
        table("Draws and their gradients", rivals.draws_with_gradients, rivals.SAMPLES),
        table("Log density, with gradients", rivals.log_densities, rivals.DENSITIES),
        table("Divergence from uniform, with gradients", rivals.divergences, rivals.DIVERGENCES),
    ]
    (HERE / "performance_table.rst").write_text("\n".join(parts))
    curves()


if __name__ == "__main__":
    main()
