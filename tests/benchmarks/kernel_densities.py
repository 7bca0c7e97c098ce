"""Measures time and memory of kernel densities on the sphere, each in a fresh process.

Times are those of the processor, on one thread, the least of three, in seconds; memory is the
highest resident set beyond that of the inputs, in MB. Beside them are the product by hand, which
holds an array of all pairs, and scikit-learn's KernelDensity, whose Gaussian kernel of chords is
the same but for a constant. They run for some minutes:

    python tests/benchmarks/kernel_densities.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

N, DIM, CONCENTRATION = 10_000, 3, 300.0
JOBS = ("values", "gradients", "by hand", "by hand, gradients", "scikit-learn", "fit", "modes")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def job(name: str, n: int) -> Callable[[], object]:
    import torch

    from vmfdist import VonMisesFisher
    from vmfdist.estimation import SphericalKDE

    torch.set_num_threads(1)
    torch.manual_seed(0)
    law = VonMisesFisher(torch.eye(DIM, dtype=torch.float64)[0], 20.0)
    data, value = law.sample((n,)), law.sample((n,))
    density = SphericalKDE(data, CONCENTRATION)
    moving = value.clone().requires_grad_()

    def by_hand(value: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(CONCENTRATION * (value @ data.T - 1), -1)

    def gradient(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(moving).sum(), moving)

    if name == "scikit-learn":
        from sklearn.neighbors import KernelDensity

        found = KernelDensity(bandwidth=CONCENTRATION**-0.5, rtol=1e-8).fit(data.numpy())
        return lambda: found.score_samples(value.numpy())
    return {
        "values": lambda: density.log_prob(value),
        "gradients": gradient(density.log_prob),
        "by hand": lambda: by_hand(value),
        "by hand, gradients": gradient(by_hand),
        "fit": lambda: SphericalKDE.fit(data),
        "modes": lambda: density.modes(data[:500]),
    }[name]


def measure(name: str) -> str:
    job(name, 50)()  # code and tables
    run = job(name, N)
    before, times = peak(), []
    for _ in range(3):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return f"{min(times):.2f} s, {peak() - before:.0f} MB"


def main() -> None:
    if len(sys.argv) > 1:
        sys.stdout.write(measure(sys.argv[1]))
        return
    for name in JOBS:
        found = subprocess.check_output([sys.executable, __file__, name], text=True)
        sys.stdout.write(f"{name}: {found}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
