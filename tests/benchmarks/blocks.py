"""Times closed forms against the size of the blocks that they work in, on one thread.

It shows how the size in vmfdist/_numerics/elementwise.py was found, and runs for half a minute:

    python tests/benchmarks/blocks.py
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics import elementwise

SIZES = [1 << power for power in (11, 13, 14, 15, 16, 17, 18, 20)]
NUMBERS, ROUNDS = 1_000_000, 15


def main() -> None:
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        k = torch.logspace(-3, 3, NUMBERS, dtype=dtype)
        spent: dict[int, list[float]] = {size: [] for size in SIZES}
        for _ in range(ROUNDS):  # in turns, so that a slow spell of the machine hits them all
            for size in SIZES:
                elementwise._BLOCK = size
                start = time.perf_counter()
                vmf.kl_to_uniform(k, 20)
                spent[size].append(time.perf_counter() - start)
        for size, times in spent.items():
            sys.stdout.write(f"{dtype}, {size}: {1e3 * statistics.median(times):.1f} ms\n")


if __name__ == "__main__":
    main()
