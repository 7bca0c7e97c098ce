"""Times a training step of docs/examples/hyperspherical_vae.py beside that of its Gaussian twin.

Steps take turns, so that a slow spell of the machine hits both; the times are the thread's own on
one thread, and the clock's on more. It runs for half a minute for each number of threads:

    python tests/benchmarks/step_of_an_autoencoder.py [threads]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam
from torch.distributions import kl_divergence

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "examples"))

import hyperspherical_vae as example

STEPS = 800
SIZES = [(64, 3), (784, 6), (784, 20)]  # pixels of an image, coordinates of a code


def in_turns(runs: dict[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(STEPS):
        for name, run in runs.items():
            start = clock()
            run()
            if step >= STEPS // 10:
                times[name].append(clock() - start)
    return {name: 1e3 * statistics.median(spent) for name, spent in times.items()}


def step(vae: Any, images: torch.Tensor) -> Callable[[], object]:
    """A step of its training, with parameters of its own in Pyro's store."""
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), loss=TraceMeanField_ELBO())
    store = pyro.get_param_store()
    state: Any = {"params": {}, "constraints": {}}

    def run() -> None:
        nonlocal state
        store.set_state(state)
        svi.step(images)
        state = store.get_state()

    return run


def parts(vae: Any, images: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What the law of the code does in a step, forward."""
    posterior, prior = vae.posterior(images), vae.prior()
    return {
        "encoder and law": lambda: vae.posterior(images),
        "draw": posterior.rsample,
        "draw, backward": lambda: torch.autograd.grad(
            posterior.rsample().sum(), list(vae.encoder.parameters()), retain_graph=True
        ),
        "divergence": lambda: kl_divergence(posterior, prior),
    }


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    torch.set_num_threads(threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    for pixels, dim in SIZES:
        torch.manual_seed(0)
        images = (torch.rand(example.BATCH_SIZE, pixels) < 0.3).float()
        vaes = {
            "sphere": example.HypersphericalVAE(pixels, dim),
            "Gaussian": example.GaussianVAE(pixels, dim),
        }
        found = in_turns({name: step(vae, images) for name, vae in vaes.items()}, clock)
        sys.stdout.write(
            f"{pixels} pixels, {dim} coordinates, {threads} threads: a step takes "
            f"{found['sphere']:.3f} ms, the Gaussian's {found['Gaussian']:.3f}, "
            f"ratio {found['sphere'] / found['Gaussian']:.3f}\n"
        )
        runs = {
            f"{name}: {part}": run
            for name, vae in vaes.items()
            for part, run in parts(vae, images).items()
        }
        for name, spent in in_turns(runs, clock).items():
            sys.stdout.write(f"    {name:26} {spent:.3f} ms\n")


if __name__ == "__main__":
    main()
