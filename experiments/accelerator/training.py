"""Measurement 7: training toybox-mv, pictures a second by batch and precision."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from timing import peak_mib

from sdsjax.toybox.training.multiview_recipe import MultiViewRecipe
from sdsjax.toybox.training.train_multiview import train_multiview

# batch and precision; one pool of few sets: rendering is not what is measured
SIZES = {
    "small": ((8, "float32"),),
    "full": ((64, "bfloat16"), (256, "bfloat16"), (256, "float32")),
}
STEPS = {"small": 4, "full": 150}
SETS = {
    "small": {"singles": 1, "pairs": 1, "bank": 16},
    "full": {"singles": 4, "pairs": 1},
}


def measure(size: str, say) -> None:
    """Says pictures a second of the level stage, without what compiled in it."""
    rows = {}
    for batch, dtype in SIZES[size]:
        with tempfile.TemporaryDirectory() as root:
            recipe = MultiViewRecipe(
                pools=1, batch=batch, steps=STEPS[size], cooldown=0.0, dtype=dtype,
                map_steps=2, map_batch=8, **SETS[size],
            )  # fmt: skip
            work = Path(root)
            train_multiview(work / "work", work / "out", recipe, log=lambda line: None)
            lines = (work / "work" / "unet" / "log.jsonl").read_text().splitlines()
        speeds = [json.loads(line)["pictures_per_second"] for line in lines]
        rows[f"batch {batch}, {dtype}"] = {
            "pictures_per_second": float(np.median(speeds[len(speeds) // 2 :])),
            "peak_mib": peak_mib(),
        }
        say(rows=rows)
