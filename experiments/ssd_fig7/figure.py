"""The figure of run.py: the paper's two halves, and the sweeps of M."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mixture import MEANS, SCHEDULE, STARTS, log_density, merging_time

from sdsjax.diffusion import alpha_sigma
from sdsjax.studies.report import saved_figure

SETTLED = 0.25  # distance to a conditional mean; they are 1 apart, sd .22


def draw_plane(axis, paths: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Draws the left half of fig. 7: p(x), and the paths of the first seed.

    paths: name -> (colour, path [steps + 1, 2]).
    """
    x, y = np.meshgrid(np.linspace(-0.8, 4.2, 200), np.linspace(-0.8, 3.2, 200))
    density = np.exp(log_density(np.stack([x, y], -1)))
    axis.contourf(x, y, density, 12, cmap="Greys", alpha=0.7)
    for name, (color, path) in paths.items():
        axis.plot(*path.T, lw=1.1, color=color, label=name)
    axis.plot(*MEANS[1:].T, "r*", ms=13, mec="k")
    axis.plot(*STARTS[0], "*", color="gold", ms=13, mec="k")
    axis.plot(*STARTS[1], "X", color="purple", ms=8, mec="w")
    axis.set(xlim=(-0.8, 4.2), ylim=(-0.8, 3.2), xlabel="x", ylabel="y")
    axis.set_title("p(x); starts: star (0, 0), cross (1.5, 1)")
    axis.legend(fontsize=7, loc="lower right")


def draw_transient(axis, path: np.ndarray, t: int = 350) -> None:
    """Draws the right half: p(x_t; y) at t = 350 and alpha_t x of mode-seeking."""
    alpha, sigma = (float(v) for v in alpha_sigma(SCHEDULE, t))
    x, y = np.meshgrid(np.linspace(-0.8, 2.6, 200), np.linspace(-0.8, 2.2, 200))
    density = np.exp(log_density(np.stack([x, y], -1), alpha, sigma, True))
    shown = axis.contourf(x, y, density, 14, cmap="viridis")
    axis.figure.colorbar(shown, ax=axis, shrink=0.8)
    axis.plot(*(alpha * path).T, color="w", lw=0.9)
    axis.plot(*(alpha * MEANS[1:]).T, "r*", ms=13, mec="k", label="induced modes")
    axis.plot(*(alpha * STARTS[1]), "wo", mec="k", label="transient mode")
    axis.set_title(f"p(x_t; y) at t = {t}, and alpha_t x of mode-seeking")
    axis.legend(fontsize=7)


def draw_sweep(
    axis, thresholds: Sequence[int], distances: Mapping[str, np.ndarray], title: str
) -> None:
    """Draws the median distance to a mode against M, quartiles shaded.

    distances: name -> [thresholds seeds], of the runs that start at (0, 0).
    """
    for name, near in distances.items():
        low, middle, high = np.percentile(near, (25, 50, 75), axis=1)
        (line,) = axis.plot(thresholds, middle, ".-", label=name)
        axis.fill_between(thresholds, low, high, alpha=0.2, color=line.get_color())
    axis.axhline(SETTLED, color="k", ls=":", lw=1)
    axis.axvline(merging_time(), color="k", ls="--", lw=0.8)
    axis.set(yscale="log", xlabel="M", ylabel="distance to the nearest mode")
    axis.set_title(title)
    axis.legend(fontsize=7)


def picture(
    thresholds: Sequence[int], paths: Mapping, plane: Mapping, rest: Mapping, path: Path
) -> None:
    """Writes all four parts. plane, rest: the sweeps in 2-D and by dimension."""
    with saved_figure(path, figsize=(13, 10)) as figure:
        axes = figure.subplots(2, 2)
        draw_plane(axes[0, 0], paths)
        draw_transient(axes[0, 1], paths["mode-seeking"][1])
        draw_sweep(axes[1, 0], thresholds, plane, "SSD in 2-D, from (0, 0)")
        draw_sweep(axes[1, 1], thresholds, rest, "SSD by dimension, from (0, 0)")
