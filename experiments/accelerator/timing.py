"""What all measurements share: timing of compiled calls, in rounds, and memory."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from sdsjax.studies.benchmark import Candidate, time_in_rounds

MEBI = 2**20
LEAN = (
    "--config.preview_every=0", "--config.exports.turntable_frames=4",
    "--config.exports.mesh_resolution=24", "--config.checkpoint_every=0",
)  # fmt: skip


def compared(calls: Mapping[str, tuple[Callable, tuple]], rounds: int = 7) -> dict:
    """Median seconds and bytes of temporaries of every call, visited in turn.

    calls: name -> (function, arguments). One that does not compile or run says why.
    """
    candidates, found = {}, {}
    for name, (function, arguments) in calls.items():
        try:
            candidates[name] = Candidate(function, *arguments)
        except Exception as error:
            found[name] = {"error": " ".join(str(error).split())[:200]}
    time_in_rounds(candidates.values(), rounds)
    for name, made in candidates.items():
        found[name] = {
            "seconds": statistics.median(made.seconds),
            "temporary_mib": made.bytes / MEBI,
        }
    return found


def peak_mib() -> float | None:
    """The most memory that was taken of the first device so far, None on a CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / MEBI if "peak_bytes_in_use" in stats else None


def installed(name: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(name) is not None


def neighbour(folder: str, file: str):
    """A module of another benchmark, whose scenes are measured here again."""
    where = Path(__file__).resolve().parents[1] / folder
    spec = importlib.util.spec_from_file_location(
        f"{folder}_{file}", where / f"{file}.py"
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"experiments/{folder}/{file}.py is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(where))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(where))
    return module


def run_default(words: Sequence[str], environment: Mapping[str, str] = {}) -> None:
    """Runs the default job as the command line does, with the least exports.

    Raises RuntimeError with its last line where it fails.
    """
    command = [sys.executable, "-m", "sdsjax.main", "--config=ssd", *LEAN, *words]
    done = subprocess.run(
        command, env=os.environ | dict(environment), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


def median_seconds(call: Callable[[], object], calls: int = 7) -> float:
    """The median time of a call that waits for its own result, after two untimed."""
    took = []
    for number in range(calls + 2):
        begun = time.perf_counter()
        call()
        if number > 1:
            took.append(time.perf_counter() - begun)
    return statistics.median(took)
