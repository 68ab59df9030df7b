"""The table and the figure of exact.py."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from exact_entries import ENTRIES, REPORT, SPREAD, TUNE
from ranking import rank_line

from sdsjax.studies.report import markdown_table, saved_figure
from sdsjax.studies.statistics import mean_error_over_captions


def pack_levels(z: np.ndarray) -> str:
    """x in [-1, 1], clipped, as one byte a number, in base64."""
    levels = np.round(255 * np.clip(0.5 * z + 0.5, 0, 1)).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


def unpack_levels(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """The rgb in [0, 1] of `pack_levels`'s text."""
    levels = np.frombuffer(base64.b64decode(text), np.uint8)
    return levels.reshape(shape) / 255


def ranked(rows: Mapping[str, dict]) -> list[str]:
    """The estimators, best mean PSNR first."""
    return sorted(rows, key=lambda name: -np.mean(rows[name]["psnr"]))


def cells(plan: Any, name: str, row: Mapping) -> tuple[str, ...]:
    """An estimator's line of the table."""
    entry, scores = ENTRIES[name], np.array(row["psnr"])
    mean, error = mean_error_over_captions(scores)
    spread = scores.std(1, ddof=1).mean()
    (noise, noise_error), (cosine, cosine_error) = row["noise"], row["cosine"]
    return (
        name,
        f"{entry.setting} {row['setting']:g}",
        f"{row['rate']:g}",
        f"{plan.branches // entry.branches}",
        f"{mean:.1f} +- {error:.1f} ({spread:.1f})",
        f"{row['named']:.2f}",
        f"{noise:.3g} +- {noise_error:.1g}",
        f"{cosine:.3f} +- {cosine_error:.1g}",
        f"{row['seconds']:.2f}",
    )


def table(plan: Any, rows: Mapping[str, dict]) -> str:
    """Markdown, best first. plan: exact.py's."""
    heads = (
        "estimator", "setting", "rate", "steps", "PSNR, dB", "named rightly",
        "tr Cov / signal", "cosine with E[e_y - eps]", "CPU s a run",
    )  # fmt: skip
    lines = [
        f"{len(TUNE) + len(REPORT)} captions x {plan.views} pictures, {plan.size} x "
        f"{plan.size}, each with variance {SPREAD}; {plan.branches} evaluations of the "
        f"prior a run; {len(REPORT)} reported captions x {plan.seeds} seeds (+-: "
        "standard error over captions; in brackets: mean spread over seeds).",
        "",
        *markdown_table(heads, [cells(plan, n, rows[n]) for n in ranked(rows)]),
    ]
    apart = [row for name, row in rows.items() if name != "denoised_l2"]  # it is sds
    if len(apart) > 3:
        noise = [row["noise"][0] for row in apart]
        quality = [float(np.mean(row["psnr"])) for row in apart]
        lines += ["", rank_line(noise, quality, "PSNR")]
    return "\n".join(lines) + "\n"


def picture(rows: Mapping[str, dict], truth: np.ndarray, path: Path) -> None:
    """A column an estimator, best first; a row a reported caption; the truth last.

    truth: a true picture of each reported caption [captions h w 3] in [-1, 1].
    """
    order = ranked(rows)
    size = 1.05 * (len(order) + 1), 1.2 * len(REPORT) + 0.6
    drawn = [unpack_levels(rows[name]["pictures"], truth.shape) for name in order]
    drawn.append(0.5 * truth + 0.5)
    titles = [n.replace("mode_", "mode\n").replace("_", " ") for n in order]
    with saved_figure(path, figsize=size) as figure:
        grid = figure.subplots(len(REPORT), len(drawn), squeeze=False)
        for row, caption in enumerate(REPORT):
            for axis, rgb, title in zip(grid[row], drawn, [*titles, "a true\nview"]):
                axis.imshow(rgb[row], interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(title, fontsize=7)
            grid[row, 0].set_ylabel(caption, fontsize=6)
