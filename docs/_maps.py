"""Maps of errors over dimensions and concentrations, for the scripts that draw such."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap

__all__ = ["GREENS", "REDS", "YELLOWS", "Panel", "Scale", "draw_maps"]

GREENS, REDS = ("#2b6a4d", "#4c9a6f", "#84c191", "#c9e3b4"), ("#e07b52", "#b3403a", "#5b1a2e")
YELLOWS = ("#fbe7a1", "#f6b26b")
INK = "#222222"


class Scale(NamedTuple):
    """The classes that errors fall into, each with a colour."""

    name: str
    limits: Sequence[float]  # one more than colours; the last is of what is infinite
    colours: Sequence[str]
    labels: Sequence[str]  # of the limits


class Panel(NamedTuple):
    """A map."""

    title: str
    values: np.ndarray  # (dimensions, concentrations); NaN stays white, infinity is the worst
    used: Sequence[int] = ()  # dimensions to mark at the lower edge


def draw_maps(
    rows: Sequence[tuple[str, Sequence[Panel]]],
    dims: Sequence[int],
    concentrations: np.ndarray,
    scale: Scale,
    size: tuple[float, float],
) -> plt.Figure:
    """A row of maps for each name; titles stand where they differ from those above."""
    colours = ListedColormap(scale.colours)
    norm = BoundaryNorm(scale.limits, len(scale.colours))
    figure, axes = plt.subplots(
        len(rows),
        len(rows[0][1]),
        figsize=size,
        sharex=True,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    titles: list[str | None] = [None] * len(rows[0][1])
    for row, (name, panels) in enumerate(rows):
        for column, panel in enumerate(panels):
            place = axes[row, column]
            values = np.minimum(panel.values.T, np.nextafter(scale.limits[-1], 0))
            mesh = place.pcolormesh(
                dims, concentrations, values, cmap=colours, norm=norm, shading="nearest"
            )
            place.set_xscale("log")
            place.set_yscale("log")
            if panel.title != titles[column]:
                place.set_title(panel.title, size=10)
            titles[column] = panel.title
            for dim in panel.used:
                place.plot(
                    dim, 0, "^", ms=7, c=INK, clip_on=False, transform=place.get_xaxis_transform()
                )
        axes[row, 0].set_ylabel(f"{name}\n\nconcentration" if name else "concentration")
    figure.supxlabel("dimension", size=10)
    bar = figure.colorbar(mesh, ax=axes, ticks=scale.limits, label=scale.name, aspect=40)
    bar.ax.set_yticklabels(scale.labels)
    return figure
