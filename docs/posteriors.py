"""Writes guide/posteriors_table.rst: laws on the sphere as posteriors of an autoencoder.

What a training step takes, with the networks and the pixels of MNIST; and how noisy the gradient in
the concentration is, in models that were trained on scikit-learn's digits. It runs for half a
minute, on one thread; times are medians of turns:

    python docs/posteriors.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from _list_table import list_table
from _machine import measured_on
from performance import medians
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence
from torch.nn.functional import normalize, softplus
from tqdm import tqdm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "examples"))

from _digits import binarise_once, sklearn_digits  # noqa: E402
from _training import Place  # noqa: E402
from _vae import Loss  # noqa: E402
from image_vae import BATCH_SIZE, EPOCHS_DIGITS, NAMES, ImageVAE, coordinates, fit  # noqa: E402

LAWS = ("vmf", "power-spherical", "spherical-cauchy")
DIMS = (6,)
PIXELS = 784
SECONDS = 8.0  # of timing, for each dimension
DRAWS = 200  # of the code of each image
SEEDS = (0,)


def step(law: str, dim: int) -> Callable[[], None]:
    """A training step on images of the size of MNIST's."""
    torch.manual_seed(0)
    vae = ImageVAE(PIXELS, law, coordinates(law, dim))
    loss = Loss(vae, TraceMeanField_ELBO())
    optimizer = torch.optim.Adam(vae.parameters())
    batch = torch.rand(BATCH_SIZE, PIXELS).round()

    def run() -> None:
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()

    return run


def noise(law: str, dim: int, seed: int) -> torch.Tensor:
    """Gradients of the reconstruction in the strength, over those of the divergence.

    That is what a nat more of divergence gives, in nats: 1 in the mean where training has ended.
    The ratio is that of any function of the strength, so that laws can be compared by it. Shape
    (draws, images).
    """
    digits = sklearn_digits()
    options = argparse.Namespace(seed=seed, particles=1, epochs=EPOCHS_DIGITS, checkpoint=None)
    vae = fit(law, dim, digits, options, Place(torch.device("cpu"))).vae
    images = binarise_once(digits.test)
    torch.manual_seed(seed)
    with torch.no_grad():
        location, raw = vae.code.split(vae.features(images))
        strength = (softplus(raw.squeeze(-1)) + 1).expand(DRAWS, -1).clone()
    posterior = vae.code.law(normalize(location, dim=-1), strength.requires_grad_())
    gains = vae.log_likelihood(images, posterior.rsample())
    prices = kl_divergence(posterior, vae.code.prior())
    gain, price = (torch.autograd.grad(x.sum(), strength)[0] for x in (gains, prices))
    return gain / price


def main() -> None:
    """Measure and write the tables."""
    torch.set_num_threads(1)
    times = [["Dimension of the sphere", *(NAMES[law] for law in LAWS), NAMES["gaussian"]]]
    gradients = [["Dimension of the sphere", *(NAMES[law] for law in LAWS)]]
    for dim in DIMS:
        spent = medians({law: step(law, dim) for law in (*LAWS, "gaussian")}, SECONDS)
        times.append([str(dim - 1), *(f"{1e3 * seconds:.2f}" for seconds in spent.values())])
        row = [str(dim - 1)]
        for law in LAWS:
            runs = [noise(law, dim, seed) for seed in tqdm(SEEDS, desc=f"{law}, dim {dim}")]
            spread = torch.stack([run.var(0).mean().sqrt() for run in runs])
            failures = sum(int((~run.isfinite()).sum()) for run in runs)
            cell = f"{spread.mean():.2f}"
            if len(SEEDS) > 1:
                cell += f" ({spread.min():.2f} to {spread.max():.2f})"
            row.append(cell if failures == 0 else f"{failures} not finite")
        gradients.append(row)
    tables = [
        list_table(
            f"Milliseconds of a training step on {BATCH_SIZE} images of MNIST's size", times
        ),
        list_table("Standard deviation of the gradient by one draw, in its price", gradients),
    ]
    text = "\n".join([*tables, measured_on("one thread, float32")])
    (HERE / "guide" / "posteriors_table.rst").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
