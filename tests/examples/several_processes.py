# What each process does in test_several_processes.py, which starts it by torchrun with the folder
# to write to; for itself it is no test.

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from _training import Place, Recipe, gradient_step, place, set_seed, train
from _vae import VAE, ImportanceWeightedELBO, Loss, make_code

ELBOS = {
    "mean field": TraceMeanField_ELBO,
    "importance weighted": lambda: ImportanceWeightedELBO(4),
}
SEED = 3
BATCH = torch.arange(7)  # shares of 4 and 3 rows


class Lines(VAE):
    """A linear autoencoder with codes on the sphere in space."""

    def __init__(self) -> None:
        super().__init__(make_code("vmf", features=6, dim=3))
        self.decoder = nn.Linear(3, 6)

    def features(self, batch: Tensor) -> Tensor:
        return batch

    def log_likelihood(self, batch: Tensor, z: Tensor) -> Tensor:
        return -(batch - self.decoder(self.code.spread_out(z))).square().sum(-1)


def model_and_data() -> tuple[Lines, Tensor]:
    torch.manual_seed(SEED)
    return Lines(), torch.randn(20, 6)


def recipe(epochs: int) -> Recipe:
    return Recipe(
        TraceMeanField_ELBO(), lambda p: SGD(p, lr=0.01), epochs, batch_size=6, seed=SEED, clip=1.0
    )


def gradients(elbo: ELBO, where: Place) -> dict[str, Tensor]:
    """Those of one step of all processes."""
    vae, data = model_and_data()
    loss = DistributedDataParallel(Loss(vae, elbo))
    set_seed(SEED, 0, 1 + where.rank)
    gradient_step(loss, SGD(loss.parameters(), lr=0.0), data, BATCH, 0.5, None, where)
    return {name: p.grad for name, p in vae.named_parameters()}


def trained(epochs: list[int], where: Place, checkpoint: Path | None = None) -> dict[str, Any]:
    """A run that stops after each of these epochs and goes on from its checkpoint."""
    for last in epochs:
        vae, data = model_and_data()
        history = train(
            vae, recipe(last), data, [data], name="", where=where, checkpoint=checkpoint
        )
    return {"epochs": len(history), "weights": vae.state_dict()}


def main(folder: Path) -> None:
    with place(torch.device("cpu")) as where:
        found = {
            "gradients": {name: gradients(elbo(), where) for name, elbo in ELBOS.items()},
            "straight": trained([3], where),
            "resumed": trained([1, 3], where, folder / "checkpoint"),
        }
        set_seed(SEED, 0, 1 + where.rank)
        found["noise"] = torch.randn(5)
        torch.save(found, folder / f"{where.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
