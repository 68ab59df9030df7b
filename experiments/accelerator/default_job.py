"""Measurement 2: the default job here and on this machine's CPU, and its speed.

Both are the command line's own runs. A step's scatter-adds and float32 products are
rounded differently on a GPU, and a training run amplifies that; so the parameters are
compared after few steps, and the scores against the truth after all.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from timing import run_default

STEPS = {"small": (4, 12), "full": (20, 600)}


def job(folder: Path, steps: int, environment: dict[str, str]) -> Path:
    """The default config's run directory after so many steps."""
    run_default([f"--config.steps={steps}", f"--workdir={folder}"], environment)
    return folder


def splats_of(folder: Path) -> np.ndarray:
    """Every number of the exported Gaussians, in one row."""
    from sdsjax.exports.ply import read_splats

    splats = read_splats(folder / "splats.ply")
    return np.concatenate([np.ravel(np.asarray(field)) for field in splats])


def measure(size: str, say) -> None:
    """Says how far the two are apart, then milliseconds a step and the scores."""
    few, all_steps = STEPS[size]
    cpu = {"JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as root:
        here, there, exact = (
            splats_of(job(Path(root) / name, few, environment))
            for name, environment in (
                ("here", {}),
                ("cpu", cpu),
                ("exact", {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
            )
        )
        size_of = np.linalg.norm(there)
        say(
            steps_compared=few,
            relative_difference=float(np.linalg.norm(here - there) / size_of),
            relative_difference_full_precision=float(
                np.linalg.norm(exact - there) / size_of
            ),
        )
        folder = job(Path(root) / "whole", all_steps, {})
        lines = (folder / "history.jsonl").read_text().splitlines()
        history = [json.loads(line) for line in lines]
        # the first lines have the compilation in them
        speeds = [row["seconds_per_step"] for row in history][len(history) // 2 :]
        metrics = json.loads((folder / "metrics.json").read_text())
        say(
            steps=all_steps,
            ms_per_step=1000 * float(np.median(speeds)),
            seconds=metrics.get("seconds"),
            **{name: metrics["truth"][name] for name in ("iou", "psnr", "chamfer")},
        )
