"""Measures the memory that log densities of many values under many laws take, in fresh processes.

It prints the highest resident set beyond that of the inputs, in arrays of a float32 for each pair,
with the result among them:

    python tests/benchmarks/memory_of_pairs.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

SIZES = [(256, 1000, 512), (4096, 1000, 128), (3000, 3000, 3), (100_000, 20, 64)]


def peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(values: int, laws: int, dim: int, gradients: bool) -> float:
    import torch
    from torch.nn.functional import normalize

    from vmfdist import VonMisesFisher

    torch.set_num_threads(1)

    def run(count: int) -> None:
        x = normalize(torch.randn(count, dim), dim=-1).requires_grad_(gradients)
        loc = normalize(torch.randn(laws, dim), dim=-1).requires_grad_(gradients)
        k = torch.full((laws,), 10.0, requires_grad=gradients)
        before = peak()
        log_density = VonMisesFisher(loc, k, validate_args=False).log_prob(x.unsqueeze(-2))
        if gradients:
            log_density.backward(torch.ones_like(log_density))
        run.taken = peak() - before  # type: ignore[attr-defined]

    run(8)  # code and tables
    run(values)
    return run.taken / (4 * values * laws)  # type: ignore[attr-defined]


def main() -> None:
    if len(sys.argv) > 1:
        *sizes, gradients = map(int, sys.argv[1:])
        sys.stdout.write(f"{measure(*sizes, gradients=bool(gradients)):.2f}\n")
        return
    for size in SIZES:
        for gradients in (0, 1):
            arguments = [sys.executable, __file__, *map(str, size), str(gradients)]
            arrays = subprocess.check_output(arguments, text=True).strip()
            sys.stdout.write(f"{size}, {'with' if gradients else 'without'} gradients: {arrays}\n")


if __name__ == "__main__":
    main()
