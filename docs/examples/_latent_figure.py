"""The figure of the image models: codes, round trips, inventions, and what lies between two digits.

Nothing here knows of distributions or networks; the script hands over tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from mpl_toolkits.mplot3d import Axes3D
from torch import Tensor
from torch.nn.functional import pad

from _options import save_figure

INK, GREY, PALE = "#222222", "#666666", "#c4c9d1"
CLASSES = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1"),  # 0 to 4
    *("#56b4c4", "#c9a400", "#ff85b3", "#8c5a3c", "#6b6b6b"),  # 5 to 9
)
ROUND_TRIP = ("held out", "black and\nwhite", "decoded")
MOST_POINTS = 2_000  # in a panel, where its title says so; more hide one another
ELEVATION, AZIMUTH = 22, 40  # degrees: the eye before the panels in space


class Column(NamedTuple):
    """What the figure shows of one model."""

    title: str
    subtitle: str
    codes: Tensor  # (n, d)
    labels: Tensor  # (n,), whole numbers from 0 to 9
    spherical: bool  # whether the codes are unit vectors
    round_trips: Tensor  # (3, k, pixels): images, what the encoder sees of them, reconstructions
    inventions: Tensor  # (rows, k, pixels), decoded draws from the prior
    between: Tensor | None = None  # (rows, k, pixels), decoded paths from one code to another


def draw_figure(path: Path, columns: Sequence[Column]) -> None:
    """Write the figure, in the format that the end of its name asks for."""
    rows, height = ((10, 3, 4), 10.6) if columns[0].between is None else ((10, 3, 4, 5), 13.2)
    figure = Figure(figsize=(5.5 * len(columns), height), facecolor="white")

    def level(inches: float) -> float:  # below the upper edge, as a share of the height
        return 1 - inches / height

    left, right = 0.15 / len(columns), 1 - 0.03 / len(columns)
    figure.subplots_adjust(left=left, right=right, bottom=level(height - 0.212), top=level(1.166))
    grid = figure.add_gridspec(
        len(rows), len(columns), height_ratios=rows, hspace=0.25, wspace=0.15
    )
    for place, column in enumerate(columns):
        box = draw_codes(figure, grid[0, place], column).get_position(original=True)
        x = (box.x0 + box.x1) / 2
        figure.text(x, level(0.424), column.title, ha="center", size=17, weight="bold", color=INK)
        figure.text(x, level(0.6572), column.subtitle, ha="center", size=11, color=GREY)
        draw_images(figure.add_subplot(grid[1, place]), column.round_trips, ROUND_TRIP)
        draw_images(figure.add_subplot(grid[2, place]), column.inventions, ("from the\nprior",))
        if column.between is not None:
            draw_images(figure.add_subplot(grid[3, place]), column.between, ("between\ntwo",))
    dots = [Line2D([], [], marker="o", ls="", color=c, label=str(i)) for i, c in enumerate(CLASSES)]
    legend = figure.legend(handles=dots, ncols=len(dots), loc="center", handletextpad=0)
    legend.set_bbox_to_anchor((0.5, level(6.201)))
    legend.set_frame_on(False)
    save_figure(figure, path)


def draw_codes(figure: Figure, cell: SubplotSpec, column: Column) -> Axes:
    """Scatter the codes, coloured by class: in space or in a plane."""
    codes, labels = column.codes[:MOST_POINTS], column.labels[:MOST_POINTS]
    total, shown = len(column.codes), len(codes)
    title = f"codes of {'the ' if shown == total else ''}{shown:,} held-out digits"
    style = {"s": 24 if shown <= 500 else 8, "linewidths": 0}
    colours = [CLASSES[label] for label in labels]
    if codes.shape[-1] == 3:
        with rc_context({"grid.color": PALE, "grid.linewidth": 0.5}):
            axes = figure.add_subplot(cell, projection="3d", computed_zorder=False)
        axes.view_init(ELEVATION, AZIMUTH)
        axes.set_proj_type("ortho")
        if column.spherical:
            draw_globe(axes, codes, colours, style)
            title += ", paler on the far side"
        else:
            draw_box(axes, codes, colours, style)
    elif codes.shape[-1] == 2 and column.spherical:
        axes = figure.add_subplot(cell)
        draw_rings(axes, codes, labels, colours, style)
        title += ", a ring for each class"
    else:
        axes = figure.add_subplot(cell)
        if codes.shape[-1] == 1:
            codes = torch.cat([codes, labels[:, None] / 2], dim=-1)
            title += ", a row for each class"
        elif codes.shape[-1] > 2:
            centred = codes - codes.mean(0)
            codes = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].mT
            title += ", first 2 principal directions"
        draw_plane(axes, codes, colours, style)
    axes.set_title(title, size=11, color=INK, pad=4)
    return axes


def draw_globe(axes: Axes3D, codes: Tensor, colours: list[str], style: dict[str, Any]) -> None:
    """Points on a transparent unit sphere with its meridians and parallels."""
    eye = on_globe(*torch.deg2rad(torch.tensor([AZIMUTH, ELEVATION])))
    turn, tilt = torch.linspace(0, 2 * math.pi, 181), torch.linspace(-math.pi / 2, math.pi / 2, 91)
    lines = [on_globe(angle, tilt) for angle in turn[:-1:15]]
    lines += [on_globe(turn, angle) for angle in tilt[15:-1:15]]
    across = torch.linalg.svd(eye[None]).Vh[1:]
    lines.append(torch.stack([turn.cos(), turn.sin()], dim=-1) @ across)  # the outline
    for near in (False, True):  # first the far side, then the near one over it
        for line in lines:
            here = torch.where(((line @ eye >= -1e-4) == near)[:, None], line, torch.nan)
            axes.plot(*here.T.numpy(), color=PALE, lw=0.7, alpha=1 if near else 0.4, zorder=near)
        side = (codes @ eye >= 0) == near
        axes.scatter(
            *codes[side].T.numpy(),
            c=[colour for colour, is_here in zip(colours, side, strict=True) if is_here],
            alpha=0.95 if near else 0.3,
            depthshade=False,
            zorder=near + 0.5,
            **style,
        )
    axes.set_axis_off()
    axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    axes.set_box_aspect((1, 1, 1), zoom=1.5)


def on_globe(longitude: Tensor, latitude: Tensor) -> Tensor:
    """Points of the unit sphere in space, shape (..., 3)."""
    longitude, latitude = torch.broadcast_tensors(longitude, latitude)
    level = latitude.cos()
    return torch.stack([level * longitude.cos(), level * longitude.sin(), latitude.sin()], dim=-1)


def draw_box(axes: Axes3D, codes: Tensor, colours: list[str], style: dict[str, Any]) -> None:
    """Points in a cube around the origin."""
    reach = float(codes.abs().max())
    axes.scatter(*codes.T.numpy(), c=colours, alpha=0.85, depthshade=False, **style)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
    axes.set_box_aspect((1, 1, 1), zoom=1)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis.line.set_color(PALE)
        axis.set_ticks([-2, -1, 0, 1, 2] if reach < 3 else [-2, 0, 2])
        axis.set_tick_params(labelsize=8, labelcolor=GREY, color=PALE, pad=0)


def draw_rings(
    axes: Axes, codes: Tensor, labels: Tensor, colours: list[str], style: dict[str, Any]
) -> None:
    """Points of the unit circle, on a ring of its own for each class: only the angle is theirs."""
    radii = 1 + 0.1 * torch.arange(len(CLASSES))
    for radius in radii:
        axes.add_patch(Circle((0, 0), float(radius), fill=False, color=PALE, lw=0.7))
    axes.scatter(*(codes * radii[labels, None]).T.numpy(), c=colours, alpha=0.85, **style)
    axes.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
    axes.set_axis_off()


def draw_plane(axes: Axes, codes: Tensor, colours: list[str], style: dict[str, Any]) -> None:
    """Points in the plane."""
    axes.scatter(*codes.T.numpy(), c=colours, alpha=0.85, **style)
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=GREY)
    axes.grid(color=PALE, linewidth=0.4)
    axes.set_axisbelow(True)


def draw_images(axes: Axes, images: Tensor, names: Sequence[str]) -> None:
    """Lay square images, shape (rows, k, pixels), out in rows, their names at the left."""
    side = math.isqrt(images.shape[-1])
    gap = max(1, side // 8)
    tiles = pad(images.unflatten(-1, (side, side)), (gap, 0, gap, 0))
    page = tiles.transpose(1, 2).flatten(2).flatten(0, 1)
    axes.imshow(page.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    heights = [(row + 0.5) * len(page) / len(names) for row in range(len(names))]
    axes.set_yticks(heights, names, size=9, color=GREY)
    axes.set_xticks([])
    axes.tick_params(length=0, pad=0)
    axes.spines[:].set_visible(False)
