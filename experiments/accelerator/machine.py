"""Measurement 1: the machine, the rate of its copies and of its matrix products."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

import jax
import jax.numpy as jnp
from timing import compared

SIDES = {"small": (1 << 20, 512), "full": (1 << 28, 8192)}


def measure(size: str, say) -> None:
    """Says the facts, then bytes a second of a copy, then FLOP/s by precision."""
    device = jax.devices()[0]
    say(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        device=device.device_kind,
        platform=device.platform,
        devices=jax.device_count(),
        cores=os.cpu_count(),
        python=platform.python_version(),
        versions={name: version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    )
    numbers, side = SIDES[size]
    x = jnp.ones(numbers, jnp.float32)
    took = compared({"copy": (lambda x: x + 1.0, (x,))})["copy"]["seconds"]
    say(copy_gb_s=2 * 4 * numbers / took / 1e9)
    calls = {
        dtype: (jnp.matmul, (jnp.ones((side, side), dtype),) * 2)
        for dtype in ("bfloat16", "float32")
    }
    for name, row in compared(calls).items():
        say(**{f"matmul_{name}_tflop_s": 2 * side**3 / row["seconds"] / 1e12})
