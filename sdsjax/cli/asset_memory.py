"""How many assets a device takes at once: the memory of a run, asset by asset.

The prior is there once; each asset adds its views' encoder residuals and its parameters
with gradient and moments (`budget`). What `budget` does not count (the renderer's
residuals, scratch space) is allowed for by a share of the device that is left alone and
by rows of pixels that each view is reckoned with.
"""

from __future__ import annotations

import jax

from sdsjax.backend import target
from sdsjax.cli.budget import bytes_available, count, encoder_residuals
from sdsjax.training.build import RunComponents

SHARE = 0.5  # of what is free
# Bytes a pixel of a view: what XLA reports for the step of `--config=ssd` (23 MB for an
# asset's four views of 64 px) without what is counted, and as much again.
PIXEL = 2000
MOST = 64  # a step with more gains nothing, and loses more by one that is stopped


def free_bytes() -> int | None:
    """Returns the bytes that a device has left, None where that is not known.

    Of the CPU's devices each has its part of the host's.
    """
    device = jax.local_devices()[0]
    whole = bytes_available(device)
    if whole is None:
        return None
    if target().platform != "cpu":
        return whole - (device.memory_stats() or {}).get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        free = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return whole  # not on Linux: what others hold is not known
    return free // jax.local_device_count()


def bytes_of_asset(config, components: RunComponents) -> int:
    """Estimates what one more asset needs on its device while it is trained."""
    representation = components.representation
    params, _ = jax.eval_shape(representation.init, jax.random.key(0))
    residuals = encoder_residuals(components.source, config.resolution)
    views = max(
        phase.batch_size * (residuals + PIXEL * phase.resolution**2)
        for phase in components.phases
    )
    # parameters, gradients and two moments of Adam, of every particle
    return int(views + 4 * 4 * count(params) * config.particles)


def assets_that_fit(config, components: RunComponents) -> int:
    """Returns how many assets of a config a device takes at once, at least 1."""
    free = free_bytes()
    if free is None:
        return 1
    fit = int(SHARE * free / max(bytes_of_asset(config, components), 1))
    return min(max(fit, 1), MOST)
