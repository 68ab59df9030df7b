"""Measurement 8: assets an hour, 1, 4 and 16 prompts in one job (`--prompts`)."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from timing import neighbour, run_default

throughput = neighbour("prompts_throughput", "run")
COUNTS = {"small": (1, 2), "full": (1, 4, 16)}
STEPS = {"small": 4, "full": 600}


def measure(size: str, say) -> None:
    """Says seconds of the whole job, compiling and exports too, and assets an hour."""
    rows = {}
    for count in COUNTS[size]:
        with tempfile.TemporaryDirectory() as root:
            listed = Path(root) / "prompts.txt"
            listed.write_text("\n".join(throughput.prompts(count)) + "\n")
            steps, out = f"--config.steps={STEPS[size]}", f"--workdir={root}/assets"
            begun = time.perf_counter()
            run_default([f"--prompts={listed}", steps, out])
            took = time.perf_counter() - begun
        rows[f"{count} prompt(s)"] = {
            "seconds": took,
            "assets_an_hour": 3600 * count / took,
        }
        say(rows=rows)
