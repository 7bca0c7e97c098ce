"""What the examples about directions share: chains of NUTS, and a globe to draw on.

It belongs beside the scripts that import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from matplotlib.axes import Axes
from pyro.infer import MCMC, NUTS
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from _options import one_thread

INK, GREY, PALE = "#222222", "#666666", "#c4c9d1"
BLUE, ORANGE, GREEN = "#4e79a7", "#f28e2b", "#59a14f"

# %%
# Inference


@one_thread()
def run_nuts(
    model: Callable[..., Any], *args: Any, chains: int, warmup: int, draws: int, name: str
) -> tuple[dict[str, Tensor], int]:
    """Run chains one after the other with a progress bar.

    Returns:
        The draws of each site, of shape (chains, draws, ...), and the number of divergences.
    """
    samples, divergences = [], 0
    with tqdm(total=chains * (warmup + draws), desc=f"{name:<12}", unit="draw") as progress:
        for _ in range(chains):
            mcmc = MCMC(
                NUTS(model),
                num_samples=draws,
                warmup_steps=warmup,
                hook_fn=lambda *_: progress.update(),
                disable_progbar=True,
            )
            with pyro.validation_enabled(False):  # for speed; the first run of a model has it
                mcmc.run(*args)
            samples.append(mcmc.get_samples())
            divergences += len(mcmc.diagnostics()["divergences"]["chain 0"])
    return {site: torch.stack([s[site] for s in samples]) for site in samples[0]}, divergences


# %%
# The globe


class Globe:
    """A unit sphere with meridians and parallels, seen from far away; what lies behind is paler."""

    def __init__(self, axes: Axes, eye: Tensor) -> None:
        """Draw the empty globe.

        Args:
            axes: where to draw.
            eye: the direction from which to look, shape (3,); not a pole.
        """
        self.axes, self.eye = axes, normalize(eye, dim=-1)
        north = torch.tensor([0.0, 0.0, 1.0], dtype=eye.dtype)
        east = normalize(torch.linalg.cross(north, self.eye), dim=-1)
        self.screen = torch.stack([east, torch.linalg.cross(self.eye, east)], dim=-1)
        axes.set_aspect("equal")
        axes.set_axis_off()
        around = torch.linspace(0, 2 * math.pi, 181, dtype=eye.dtype)
        axes.plot(around.cos(), around.sin(), color=PALE, lw=1)
        for angle in torch.arange(0, 180, 15, dtype=eye.dtype).deg2rad():
            meridian = (around.sin() * angle.cos(), around.sin() * angle.sin(), around.cos())
            self.path(torch.stack(meridian, dim=-1), color=PALE, lw=0.6)
            if angle > 0:
                ring = angle.sin() * around.cos(), angle.sin() * around.sin()
                parallel = torch.stack((*ring, angle.cos().expand_as(around)), dim=-1)
                self.path(parallel, color=PALE, lw=0.6)

    def path(self, points: Tensor, *, label: str | None = None, **style: Any) -> None:
        """A curve through points, shape (n, 3)."""
        behind = points @ self.eye < 0
        for hidden in (True, False):
            here = torch.where((behind == hidden)[:, None], points, torch.nan) @ self.screen
            alpha, name = (0.3, None) if hidden else (1.0, label)
            self.axes.plot(*here.mT, alpha=alpha, label=name, **style)

    def points(self, points: Tensor, *, label: str | None = None, **style: Any) -> None:
        """Dots, shape (n, 3)."""
        self.path(points, label=label, ls="", marker="o", markeredgewidth=0, **style)

    def circle(self, centre: Tensor, angle: float, **style: Any) -> None:
        """The edge of a cone around a direction, its half-angle in radians."""
        self.path(circle_around(centre, angle), **style)


def circle_around(centre: Tensor, angle: float) -> Tensor:
    """Points at an angle (in radians) from a direction, shape (n, 3)."""
    turn = torch.linspace(0, 2 * math.pi, 181, dtype=centre.dtype)
    across = torch.linalg.svd(centre[None]).Vh[1:]
    ring = torch.stack([turn.cos(), turn.sin()], dim=-1) @ across
    return math.cos(angle) * centre + math.sin(angle) * ring
