"""Writes guide/vae_dimensions.rst: what the autoencoder of that page reaches in more dimensions.

The data, the networks and the training are those of the page's PyTorch blocks, draw for draw; what
a row changes is said in it. It runs for four minutes on two cores:

    python docs/dimensions.py
"""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from _list_table import list_table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal, kl_divergence
from torch.nn.functional import normalize, softplus
from tqdm import tqdm

from vmfdist import HypersphericalUniform, VonMisesFisher
from vmfdist.nn import SphericalHead

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
EPOCHS = (40, 200)  # the second goes on from the first


class Setting(NamedTuple):
    """A row of the table; the defaults are the page's."""

    name: str
    dim: int
    gaussian: bool = False
    concentration: float | None = None  # fixed
    starts_at_dim: bool = True
    scaled: bool = True
    head: bool = False


SETTINGS = (
    Setting("3", 3),
    Setting("8", 8),
    Setting("32", 32),
    Setting("3, ``SphericalHead``", 3, head=True),
    Setting("8, ``SphericalHead``", 8, head=True),
    Setting("32, ``SphericalHead``", 32, head=True),
    Setting("32, ``softplus(raw) + 1``", 32, starts_at_dim=False),
    Setting("32, ``z`` not scaled", 32, scaled=False),
    Setting("32, neither", 32, starts_at_dim=False, scaled=False),
    Setting("32, concentration 40", 32, concentration=40.0),
    Setting("a Gaussian in 2 dimensions", 2, gaussian=True),
    Setting("a Gaussian in 7 dimensions", 7, gaussian=True),
    Setting("a Gaussian in 31 dimensions", 31, gaussian=True),
)


class Encoder(nn.Module):
    """From images to laws of their codes."""

    def __init__(self, setting: Setting) -> None:
        """Build the network."""
        super().__init__()
        self.setting = setting
        outputs = 2 * setting.dim if setting.gaussian else setting.dim + 1
        last = SphericalHead(256, setting.dim) if setting.head else nn.Linear(256, outputs)
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.SiLU(), last)

    def forward(self, images: Tensor) -> Distribution:
        """The law of each image's code."""
        _, dim, gaussian, concentration, starts_at_dim, _, head = self.setting
        if head:
            return self.layers(images)
        vector, raw = self.layers(images).tensor_split([dim], dim=-1)
        if gaussian:
            return Independent(Normal(vector, softplus(raw) + 1e-3), 1)
        if concentration is None:
            learned = softplus(raw.squeeze(-1) + (dim if starts_at_dim else 0)) + 1
            return VonMisesFisher(normalize(vector, dim=-1), learned)
        return VonMisesFisher(normalize(vector, dim=-1), concentration)


def train(setting: Setting, seed: int) -> list[tuple[float, float]]:
    """The ELBO and the mean KL of the held-out images, after each number of epochs."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    grey = torch.as_tensor(load_digits().data, dtype=torch.float32) / 16
    images, held_out = grey[:1500], torch.bernoulli(grey[1500:])
    dim, unscaled = setting.dim, setting.gaussian or not setting.scaled
    scale = 1.0 if unscaled else math.sqrt(dim)
    encoder = Encoder(setting)
    decoder = nn.Sequential(nn.Linear(dim, 256), nn.SiLU(), nn.Linear(256, 64))
    standard_normal = Independent(Normal(torch.zeros(dim), torch.ones(dim)), 1)
    prior = standard_normal if setting.gaussian else HypersphericalUniform(dim)

    def elbo(batch: Tensor) -> Tensor:
        q = encoder(batch)
        z = q.rsample()
        reconstruction = Bernoulli(logits=decoder(z * scale)).log_prob(batch).sum(-1)
        return reconstruction - kl_divergence(q, prior)

    @torch.no_grad()
    def score() -> tuple[float, float]:
        mean = torch.stack([elbo(held_out) for _ in range(20)]).mean().item()
        return mean, kl_divergence(encoder(held_out), prior).mean().item()

    score()  # as the page does, which takes noise from the generator
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=5e-3)
    scores = []
    for epoch in range(1, max(EPOCHS) + 1):
        for batch in images[torch.randperm(len(images))].split(100):
            loss = -elbo(torch.bernoulli(batch)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch in EPOCHS:
            state = torch.get_rng_state()
            scores.append(score())
            torch.set_rng_state(state)
    return scores


def main() -> None:
    """Train all and write the table: means over the seeds, with the range of the ELBO."""
    jobs = list(product(SETTINGS, SEEDS))
    with ProcessPoolExecutor() as pool:
        results = list(tqdm(pool.map(train, *zip(*jobs, strict=True)), total=len(jobs)))
    head = [cell for n in EPOCHS for cell in (f"ELBO, {n} epochs", "mean KL")]
    rows = [["``dim``, and what differs", *head]]
    for i, setting in enumerate(SETTINGS):
        runs = torch.tensor(results[len(SEEDS) * i : len(SEEDS) * (i + 1)])  # seeds, epochs, two
        row = [setting.name]
        for elbo, kl in runs.permute(1, 2, 0):
            row += [
                f"{elbo.mean():.1f} ({elbo.min():.1f} to {elbo.max():.1f})",
                f"{kl.mean():.1f}",
            ]
        rows.append(row)
    table = list_table("Nats per image: means over the seeds 0, 1 and 2, and ranges", rows)
    (HERE / "guide" / "vae_dimensions.rst").write_text(table)


if __name__ == "__main__":
    main()
