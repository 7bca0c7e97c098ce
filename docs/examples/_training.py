"""Training for the variational autoencoders: a loop that runs on one machine or many, and resumes.

**Several processes.** Under ``torchrun`` every process holds the model and takes its share of each
minibatch; ``DistributedDataParallel`` adds the gradients up, so that a step is that of one process
with the whole minibatch. Each draws noise of its own::

    torchrun --nproc-per-node 2 image_vae.py ...

**Resuming.** A checkpoint is written after each epoch. The seed of an epoch's minibatches and noise
follows from the run's seed, the epoch and the process, so that a run which was killed goes on to
the result that it would have had.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pyro.infer.elbo import ELBO
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from tqdm import tqdm

from _options import DataError, writing
from _vae import VAE, Loss, score

__all__ = [
    "Epoch",
    "Place",
    "Recipe",
    "digest",
    "full_weight",
    "place",
    "set_seed",
    "shuffled",
    "sigmoid_annealing",
    "train",
    "warm_up",
]

# %%
# Where a run takes place


class Place(NamedTuple):
    """A process among those that train one model."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def speaks(self) -> bool:
        """Whether this is the process that prints, scores and saves."""
        return self.rank == 0


@contextmanager
def place(device: torch.device) -> Iterator[Place]:
    """Join the other processes where ``torchrun`` started several; alone otherwise."""
    if not distributed.is_torchelastic_launched():
        yield Place(device)
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Place(device, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def set_seed(seed: int, epoch: int, rank: int = 0) -> None:
    """Seed torch on all devices, with another stream for each epoch of each process."""
    torch.manual_seed(random.Random(f"{seed} {epoch} {rank}").getrandbits(63))


# %%
# Weights of the KL term


def full_weight(step: int) -> float:
    """The whole KL from the first step on."""
    return 1.0


def warm_up(steps: int) -> Callable[[int], float]:
    """A weight that rises evenly to 1 over so many steps."""
    return lambda step: min(1.0, (step + 1) / max(1, steps))


def sigmoid_annealing(middle: int, width: float) -> Callable[[int], float]:
    """A weight that rises as a logistic curve, 1/2 at step `middle` (Bowman et al. 2016)."""
    return lambda step: 1 / (1 + math.exp(min(700.0, (middle - step) / width)))


# %%
# The loop


class Data(Protocol):
    """Examples that a tensor of indices selects from: a tensor of images, for one."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: Tensor) -> Any:
        """The examples at these indices, as a batch."""


def shuffled(count: int, batch_size: int) -> Sequence[Tensor]:
    """The indices of the minibatches of an epoch."""
    return torch.randperm(count).split(batch_size)


class Epoch(NamedTuple):
    """A line of the history of a run, in nats per example."""

    epoch: int
    seconds: float  # since the start of the training
    kl_weight: float
    loss: float  # in training: minus the bound, with the KL so weighted
    dev_reconstruction: float
    dev_kl: float

    @property
    def dev_elbo(self) -> float:
        """The ELBO of the dev set, with all of its KL."""
        return self.dev_reconstruction - self.dev_kl


@dataclass
class Recipe:
    """How to train; what differs between recipes."""

    elbo: ELBO
    optimizer: Callable[[Iterator[nn.Parameter]], Optimizer]
    epochs: int
    batch_size: int
    seed: int = 0
    kl_weight: Callable[[int], float] = full_weight  # of the number of the step
    clip: float | None = None  # of the gradient's norm
    batches: Callable[[int, int], Sequence[Tensor]] = shuffled  # of the number and the batch size


def train(
    vae: VAE,
    recipe: Recipe,
    data: Data,
    dev: Sequence[Any],
    *,
    name: str,
    where: Place,
    checkpoint: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> list[Epoch]:
    """Train with a progress bar; leave the model as it was after its best epoch on the dev set.

    Args:
        vae: the model, on the device of `where`.
        recipe: how to train it.
        data: the training examples, on that device.
        dev: batches that are watched and never trained on.
        name: what the bar calls the run.
        where: this process.
        checkpoint: a file to save the run in after each epoch, and to go on from if it is there.
        settings: what a run that goes on has to have in common with the one that stopped.

    Returns:
        The history; that of the process that speaks.

    Raises:
        DataError: there are too few examples; the checkpoint is damaged, belongs to a run with
            other settings or a longer one, or cannot be written.
    """
    fewest = vae.code.fewest * where.count
    if len(data) < fewest:
        raise DataError(f"expected at least {fewest} examples to train on, found {len(data)}")
    loss = Loss(vae, recipe.elbo)
    step = DistributedDataParallel(loss) if where.count > 1 else loss
    optimizer = recipe.optimizer(loss.parameters())
    run = Run(vae, optimizer, settings or {})
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint, where.device)
        if run.epochs > recipe.epochs:
            raise DataError(
                f"{checkpoint}: it holds {run.epochs} epochs, this run is to have {recipe.epochs}"
            )
    start = time.perf_counter() - (run.history[-1].seconds if run.history else 0.0)
    bar = tqdm(
        total=recipe.epochs,
        initial=run.epochs,
        desc=f"{name:<22}",
        unit="epoch",
        disable=not where.speaks,
    )
    with bar:
        for epoch in range(run.epochs, recipe.epochs):
            set_seed(recipe.seed, epoch)  # the same minibatches in every process
            batches = recipe.batches(len(data), recipe.batch_size)
            batches = [b for b in batches if len(b) >= fewest]  # the last may be too small
            set_seed(recipe.seed, epoch, 1 + where.rank)  # noise of its own
            total = 0.0
            for i, batch in enumerate(batches):
                kl_weight = recipe.kl_weight(epoch * len(batches) + i)
                total += gradient_step(step, optimizer, data, batch, kl_weight, recipe.clip, where)
            run.epochs += 1
            if not where.speaks:
                continue
            terms = score(vae, dev, draws=1)
            line = Epoch(
                epoch + 1,
                time.perf_counter() - start,
                kl_weight,
                total * where.count / len(data),
                terms.reconstruction.mean().item(),
                terms.kl.mean().item(),
            )
            run.add(line)
            if checkpoint is not None:
                run.save(checkpoint)
            bar.set_postfix_str(f"dev ELBO {line.dev_elbo:.2f}, KL {line.dev_kl:.2f}", False)
            bar.update()
    if run.best is not None:
        vae.load_state_dict(run.best)
    if where.count > 1:  # the best epoch is known to the process that speaks
        for weights in vae.state_dict().values():
            distributed.broadcast(weights, 0)
    return run.history


def gradient_step(
    loss: nn.Module,
    optimizer: Optimizer,
    data: Data,
    batch: Tensor,
    kl_weight: float,
    clip: float | None,
    where: Place,
) -> float:
    """Step along the gradient of the mean loss over the whole minibatch; return this share's loss.

    ``DistributedDataParallel`` takes the mean of the processes' gradients; their number makes it
    the sum.
    """
    share = batch[where.rank :: where.count]
    optimizer.zero_grad()
    total = loss(data[share], kl_weight)
    (total * (where.count / len(batch))).backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(loss.parameters(), clip)
    optimizer.step()
    return total.item()


class Run:
    """What a checkpoint holds: model, optimiser, history, and the weights of the best epoch."""

    def __init__(self, vae: VAE, optimizer: Optimizer, settings: dict[str, Any]) -> None:
        """Begin at the first epoch."""
        self.vae, self.optimizer, self.settings = vae, optimizer, settings
        self.epochs = 0
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] | None = None

    def add(self, line: Epoch) -> None:
        """Note an epoch; keep the weights if none before was better on the dev set."""
        if all(line.dev_elbo > other.dev_elbo for other in self.history):
            self.best = {name: x.clone() for name, x in self.vae.state_dict().items()}
        self.history.append(line)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all: a run may be killed at any moment."""
        unfinished = path.with_name(f"{path.name}.unfinished")
        content = {
            "settings": self.settings,
            "history": [tuple(line) for line in self.history],
            "model": self.vae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
        }
        kept = f"epoch {self.epochs - 1} is kept" if self.epochs > 1 else "nothing is kept"
        with writing(path, f"epoch {self.epochs} is lost, {kept}"):
            try:
                with unfinished.open("wb") as file:  # torch alone does not say what is wrong
                    torch.save(content, file)
                unfinished.replace(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise

    def load(self, path: Path, device: torch.device) -> None:
        """Go on from a file."""
        with reading(path):
            content = torch.load(path, map_location=device, weights_only=True)
            if not isinstance(content, dict):
                raise TypeError(f"a {type(content).__name__}")
            lacking = [key for key in KEYS if key not in content]
            if lacking:
                raise KeyError(f"one without {', '.join(lacking)}")
            settings = dict(content["settings"])
        for key in settings.keys() | self.settings.keys():
            saved, asked = settings.get(key), self.settings.get(key)
            if saved != asked:
                raise DataError(f"{path}: it was saved with {key} {saved}, this run has {asked}")
        with reading(path):
            if content["best"] is not None:
                self.vae.load_state_dict(content["best"])
            self.vae.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.history = [Epoch(*line) for line in content["history"]]
        self.epochs, self.best = len(self.history), content["best"]


KEYS = ("settings", "history", "model", "optimizer", "best")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of a file that is no checkpoint of this model what it is, in one line."""
    try:
        yield
    except Exception as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        reason = (text or type(error).__name__).splitlines()[0]  # some say nothing
        raise DataError(f"{path}: expected a checkpoint, found: {reason}") from error


def digest(*parts: Tensor | Sequence[str]) -> str:
    """A short name of data by their content: other data have another one, if as many."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            array = part.cpu().numpy()
            sha.update(f"{array.dtype} {array.shape} ".encode())
            sha.update(array.tobytes())
        else:
            sha.update(json.dumps(list(part)).encode())
    return sha.hexdigest()[:16]
