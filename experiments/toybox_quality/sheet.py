"""The picture of run.py: what the reported runs look like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jobs import Job, Plan
from PIL import Image


def save_contact_sheet(
    plan: Plan, chosen: Mapping[str, float], root: Path, path: Path
) -> None:
    """Writes a row a prompt: truth, then each estimator, from the five canonical views.

    root: the folder of the runs; without any of them nothing is written.
    """
    lines = []
    for prompt in plan.report:
        pictures = [
            Job(name, setting, prompt, 0).folder(root) / "views.png"
            for name, setting in chosen.items()
        ]
        if not all(picture.exists() for picture in pictures):
            continue
        views = [np.asarray(Image.open(p).convert("RGB").reduce(2)) for p in pictures]
        half = views[0].shape[0] // 2
        lines.append(
            np.concatenate([views[0][half:], *(v[:half] for v in views)], axis=1)
        )
    if lines:
        Image.fromarray(np.concatenate(lines)).save(path, optimize=True)
