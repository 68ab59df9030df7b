"""What an experiment keeps of its jobs: a row each, resumed, and arrays inside of rows.

A row is the JSON object of one job, in a file of JSON lines. What is there is not
measured again, so that a command may be stopped and repeated at will.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np


def run_missing(
    jobs: Iterable[tuple[str, Any]],
    perform: Callable[[Any], dict],
    path: Path,
    rows: dict[str, dict],
    *,
    by: str = "key",
    ends: float = float("inf"),
) -> bool:
    """Performs the jobs (key, job) that `rows` lacks and keeps what they return.

    A row is {by: key} and what `perform` returns; it is appended to the JSON lines of
    `path`, and to `rows` before the next job is asked for, so that `jobs` may be a
    generator that looks at what is there. Returns False where a job was left because
    time.monotonic() had passed `ends`.
    """
    for key, job in jobs:
        if key in rows:
            continue
        if time.monotonic() > ends:
            return False
        row = {by: key} | perform(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            # The newline first: whatever a crash left of a line stays by itself.
            stream.write("\n" + json.dumps(row) + "\n")
        rows[key] = row
    return True


def pack_array(values: Any) -> dict[str, Any]:
    """An array as JSON that `unpack_array` reads bit for bit."""
    values = np.ascontiguousarray(values)
    return {
        "dtype": values.dtype.name,
        "shape": list(values.shape),
        "base64": base64.b64encode(values.tobytes()).decode(),
    }


def unpack_array(packed: dict[str, Any]) -> np.ndarray:
    """The array of `pack_array`'s JSON."""
    flat = np.frombuffer(base64.b64decode(packed["base64"]), packed["dtype"])
    return flat.reshape(packed["shape"])
