"""Measurement 8: assets an hour, 1, 4 and 16 prompts in one job (`--prompts`)."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sdsjax.toybox.world.objects import COLORS, KINDS

COUNTS = {"small": (1, 2), "full": (1, 4, 16)}
STEPS = {"small": 4, "full": 600}
LEAN = (
    "--config.preview_every=0", "--config.exports.turntable_frames=4",
    "--config.exports.mesh_resolution=24", "--config.checkpoint_every=0",
)  # fmt: skip


def measure(size: str, say) -> None:
    """Says seconds of the whole job, compiling and exports too, and assets an hour."""
    pairs = itertools.product(KINDS, COLORS)
    prompts = [f"a {color} {kind}" for kind, color in pairs if kind[0] not in "aeiou"]
    rows = {}
    for count in COUNTS[size]:
        with tempfile.TemporaryDirectory() as root:
            listed = Path(root) / "prompts.txt"
            listed.write_text("\n".join(prompts[:count]) + "\n")
            command = [
                sys.executable, "-m", "sdsjax.main", "--config=ssd", *LEAN,
                f"--prompts={listed}", f"--config.steps={STEPS[size]}",
                f"--workdir={root}/assets",
            ]  # fmt: skip
            begun = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            took = time.perf_counter() - begun
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        rows[f"{count} prompt(s)"] = {
            "seconds": took,
            "assets_an_hour": 3600 * count / took,
        }
        say(rows=rows)
