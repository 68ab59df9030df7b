"""Rows of experiments on the toybox: resumed, set against the ceiling, compared.

A row is a run's JSON object: `key` its name, `prompt`, `truth` its scores. The ceiling
of a prompt: the scores of the same representation fitted to true renders. A pair is one
(prompt, seed), equal in all variants, so that differences are taken within pairs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdsjax.files.atomic import read_rows


def complete(
    jobs: Iterable[tuple[str, Any]],
    perform: Callable[[Any], dict],
    path: Path,
    done: dict[str, dict],
    *,
    ends: float = float("inf"),
) -> bool:
    """Performs the jobs (key, job) that `done` lacks and appends their rows to the
    JSON lines of `path`, and to `done` before the next job is asked for.

    False where one was left because time.monotonic() had passed `ends`.
    """
    for key, job in jobs:
        if key in done:
            continue
        if time.monotonic() > ends:
            return False
        row = perform(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            # The newline first: whatever a crash left of a line stays by itself.
            stream.write("\n" + json.dumps(row) + "\n")
        done[key] = row
    return True


def ceilings_of(path: Path) -> dict[str, dict]:
    """prompt -> scores of its ceiling, from the rows of experiments/toybox_quality."""
    rows = read_rows(path, "key").values()
    return {r["prompt"]: r["truth"] for r in rows if r["estimator"] == "ceiling"}


def share_of(truth: Mapping, ceiling: Mapping) -> float:
    """What a run reached of its ceiling: the mean of its IoU's and its PSNR's share."""
    return 0.5 * (truth["iou"] / ceiling["iou"] + truth["psnr"] / ceiling["psnr"])


def mean_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and its standard error, NaN for the error of fewer than two values."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def paired(
    rows: Mapping[tuple, float], base: Mapping[tuple, float]
) -> tuple[float, float, int]:
    """Mean of rows - base over the pairs that both have, its standard error, and how
    many pairs there are; NaN without any."""
    both = [pair for pair in rows if pair in base]
    if not both:
        return float("nan"), float("nan"), 0
    return *mean_error([rows[pair] - base[pair] for pair in both]), len(both)


def save_picture(rgb: np.ndarray, path: Path) -> None:
    """rgb [h w 3] in [0, 1], clipped, as PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rgb.clip(0, 1) * 255 + 0.5).astype(np.uint8)).save(path)


def sheet(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str], path: Path
) -> None:
    """A row (label, strips [h w 3]) a variant, a column a title, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        len(rows), len(titles), squeeze=False, layout="constrained",
        figsize=(3.3 * len(titles) + 1, 0.88 * len(rows) + 0.3),
    )  # fmt: skip
    for axes, (label, strips) in zip(grid, rows):
        for axis, strip in zip(axes, strips):
            axis.imshow(np.clip(strip, 0, 1))
            axis.set(xticks=[], yticks=[])
        axes[0].set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    for axis, title in zip(grid[0], titles):
        axis.set_title(title, fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def sheet_of(
    cases: Sequence[tuple[str, Sequence[Path]]],
    titles: Sequence[str],
    path: Path,
    first: Sequence[tuple[str, Sequence[np.ndarray]]] = (),
) -> None:
    """`sheet` of the rows `first` and of the cases (label, files of strips) whose files
    are all there. Sheets are kept in the repository and strips are not: one that
    exists stays as it is where any strip is missing."""
    from PIL import Image

    there = [case for case in cases if all(file.exists() for file in case[1])]
    if not there or (path.exists() and len(there) < len(cases)):
        return
    rows = [
        (label, [np.asarray(Image.open(file)) / 255 for file in files])
        for label, files in there
    ]
    sheet([*first, *rows], titles, path)
