"""The figure of run.py: what the runs end at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from samplers import SAMPLERS

from sdsjax.studies.report import saved_figure
from sdsjax.studies.results import unpack_array


def picture(rows: Mapping[str, dict], truth: np.ndarray, path: Path) -> None:
    """Draws a row an estimator: first caption and rate, by schedule, then the truth."""
    with saved_figure(path, figsize=(11, 2.2 * len(rows) + 0.4)) as figure:
        grid = figure.subplots(len(rows), len(SAMPLERS) + 1, squeeze=False)
        for line_of_axes, (name, row) in zip(grid, rows.items()):
            psnr = unpack_array(row["psnr"])[:, 0, 0, 0]
            titles = [f"{s}\n{value:.1f} dB" for s, value in zip(SAMPLERS, psnr)]
            shown = [*unpack_array(row["pictures"]), truth]
            for axis, x, title in zip(line_of_axes, shown, [*titles, "a true view"]):
                axis.imshow(np.clip(0.5 * x + 0.5, 0, 1))
                axis.set_title(title, fontsize=8)
                axis.set(xticks=[], yticks=[])
            line_of_axes[0].set_ylabel(name, fontsize=8)
