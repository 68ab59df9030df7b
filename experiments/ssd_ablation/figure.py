"""The figure of run.py: PSNR over M, and what the runs end at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from variants import VARIANTS

from sdsjax.studies.report import saved_figure
from sdsjax.studies.results import unpack_array
from sdsjax.studies.statistics import mean_error_over_captions

COLORS = ("C0", "C1", "C2", "C3")
PARTS = ((2, "o-", ""), (0, "x:", ", first quarter"))  # index, style, label


def curves(axis, thresholds: Sequence[int], psnr: np.ndarray, title: str) -> None:
    """PSNR over M. psnr [variants thresholds captions seeds parts]."""
    for color, variant, found in zip(COLORS, VARIANTS, psnr):
        # SSD is drawn wide: "- eps" lies on it
        wide = {"lw": 5, "alpha": 0.35} if variant == "SSD" else {}
        for index, style, part in PARTS:
            points = [mean_error_over_captions(f[..., index]) for f in found]
            value, error = np.array(points).T
            axis.errorbar(
                thresholds, value, error, fmt=style, color=color,
                label=variant + part, ms=4, **wide,
            )  # fmt: skip
    axis.set(title=f"timesteps: {title}", xlabel="M", ylabel="PSNR, dB")


def picture(
    thresholds: Sequence[int], rows: Mapping[str, dict], truth: np.ndarray, path: Path
) -> None:
    """Curves by sampler, then a row of pictures a threshold; truth: a true view."""
    with saved_figure(path, figsize=(13, 9)) as figure:
        upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.1))
        axes = upper.subplots(1, len(rows), sharey=True, squeeze=False)[0]
        for axis, (sampler, row) in zip(axes, rows.items()):
            curves(axis, thresholds, unpack_array(row["psnr"]), sampler)
        # where nothing is drawn: with uniform t nobody passes 35 dB
        axes[0].legend(fontsize=7, loc="upper center", ncols=2)
        shown = [unpack_array(row["pictures"]) for row in rows.values()]
        titles = [f"{s}\n{v}" for s in rows for v in VARIANTS] + ["a true view"]
        grid = lower.subplots(len(thresholds), len(titles))
        for j, (line_of_axes, m) in enumerate(zip(grid, thresholds)):
            ends = [of_variant[j] for last in shown for of_variant in last] + [truth]
            for axis, x, title in zip(line_of_axes, ends, titles):
                axis.imshow(np.clip(0.5 * x + 0.5, 0, 1))
                axis.set(xticks=[], yticks=[])
                if j == 0:
                    axis.set_title(title, fontsize=7)
            line_of_axes[0].set_ylabel(f"M = {m}", fontsize=7)
