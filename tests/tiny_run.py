"""A run of seconds: a 2D picture on an exact mixture prior, in process or as a command.

Not a test; the tests of train, resume and offline share it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from sdsjax.cli.checks import resolve

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = {
    "prompt": "a red cube",
    "prior.name": "gaussian_mixture",
    "representation.space": "image",
    "estimator.threshold": 300.0,
    "resolution": 8,
    "batch_size": 2,
    "steps": 30,
    "checkpoint_every": 10,
    "preview_every": 0,
    "diagnostics.every": 5,
    "diagnostics.nan_check_every": 5,
}
OF_GAUSSIANS = {
    "prompt": "a red ball",
    "prior.name": "gaussian_mixture",
    "representation.count": 64,
    "steps": 3,
    "resolution": 16,
    "batch_size": 1,
    "preview_every": 0,
    "scoring.truth": False,
    "exports.turntable_frames": 2,
    "exports.mesh_resolution": 16,
}


def config(**overrides):
    """The resolved config; dots of a key are written as two underscores."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return resolve("ssd:image", {**OVERRIDES, **dotted})


def gaussians(**overrides):
    """The resolved config of a run of 64 Gaussians, 3 steps and small exports."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return resolve("ssd", {**OF_GAUSSIANS, **dotted})


def command(workdir, **overrides) -> list[str]:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    flags = [f"--config.{k}={v}" for k, v in {**OVERRIDES, **dotted}.items()]
    return [
        sys.executable, "-m", "sdsjax.main", "--config=ssd:image",
        f"--workdir={workdir}", *flags,
    ]  # fmt: skip


def start(workdir, *, environment=None, **overrides) -> subprocess.Popen:
    """The same run as a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    env.update(environment or {})
    return subprocess.Popen(
        command(workdir, **overrides),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def final_digest(workdir) -> str:
    return json.loads((Path(workdir) / "finished.json").read_text())["state_sha256"]
