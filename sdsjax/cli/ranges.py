"""The range of every number in a config.

Keys are dotted; `*` stands for one or more parts of a key. Both ends are allowed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from sdsjax.training.config import ConfigError

ANY = math.inf
# key: (lowest, highest)
RANGES = {
    "seed": (0, 2**32 - 1),
    "steps": (1, 10_000_000),
    "batch_size": (1, 4096),
    "microbatch": (0, 4096),
    "samples_per_view": (1, 1024),
    "particles": (1, 256),
    "resolution": (8, 2048),
    "checkpoint_every": (0, ANY),
    "preview_every": (0, ANY),
    "prior.views": (1, 1024),
    "prior.view_spread": (0, 180),
    "prior.elevations": (-90, 90),
    "prior.variance": (0, 100),
    "prior.image_size": (8, 2048),
    "prior.lora_rank": (1, 256),
    "prior.group": (1, 16),
    "estimator.guidance_scale": (-1000, 1000),
    "estimator.guidance_rescale": (0, 1),
    "estimator.threshold": (0, 1000),
    "estimator.switch_time": (0, 1000),
    "estimator.inversion_scale": (-1000, 1000),
    "estimator.mu": (-1000, 1000),
    "estimator.steps": (0, 100),
    "estimator.stride": (1, 999),
    "estimator.delta": (1, 999),
    "estimator.anneal_steps": (1, 10_000_000),
    "estimator.lambda_*": (0, 1000),
    "estimator.*_lr": (0, 1),
    "timesteps.t_*": (0, 999),
    "timesteps.switch": (0, 1),
    "timesteps.until": (1e-6, 1),
    "representation.count": (1, 10_000_000),
    "representation.sh_degree": (0, 3),
    "representation.max_alpha": (0.01, 0.9999),
    "representation.tile_size": (1, 256),
    "representation.capacity": (1, ANY),
    "representation.init_radius": (1e-6, 10),
    "representation.init_scale": (1e-6, 10),
    "representation.init_std": (0, 10),
    "representation.init_opacity": (1e-4, 0.9999),
    "representation.init_count": (1, 10_000_000),
    "representation.control_*": (0, ANY),
    "camera.azimuth": (-360, 360),
    "camera.elevation": (-90, 90),
    "camera.distance": (0.1, 100),
    "camera.fov": (1, 170),
    "camera.overhead_fraction": (0, 1),
    "camera.first_steps": (0, ANY),
    "camera.first_resolution": (8, 2048),
    "camera.first_batch_size": (1, 4096),
    "reference.azimuth": (-360, 360),
    "reference.elevation": (-90, 90),
    "reference.distance": (0.1, 100),
    "reference.fov": (1, 170),
    "reference.weight_*": (0, ANY),
    "reference.until_step": (0, ANY),
    "optimizer.b1": (0, 0.9999999),
    "optimizer.b2": (0, 0.9999999),
    "optimizer.eps": (1e-30, 1),
    "optimizer.clip_norm": (1e-12, ANY),
    "optimizer.lr_final_factor": (1e-6, 1),
    "optimizer.lr.*": (0, 10),
    "losses.*": (0, ANY),
    "diagnostics.every": (1, ANY),
    "diagnostics.nan_check_every": (1, ANY),
    "diagnostics.variance_every": (0, ANY),
    "diagnostics.variance_samples": (2, 1_000_000),
    "mesh.data": (-1, 65_536),
    "mesh.model": (1, 65_536),
    "exports.turntable_frames": (1, 3600),
    "exports.mesh_resolution": (8, 1024),
}


def _numbers(value: Any) -> tuple:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(
        v for v in values if isinstance(v, int | float) and not isinstance(v, bool)
    )


@functools.cache
def _pattern(key: str) -> re.Pattern[str]:
    # of the keys that a line of RANGES with a star stands for
    return re.compile(re.escape(key).replace(r"\*", r"[\w.]+"))


def check_ranges(flat: Mapping[str, Any]) -> None:
    """Every number within RANGES; raises ConfigError naming key, value and range."""
    for key, value in flat.items():
        for pattern, (low, high) in RANGES.items():
            meant = "*" in pattern and _pattern(pattern).fullmatch(key)
            if key != pattern and not meant:
                continue
            if any(not low <= v <= high for v in _numbers(value)):
                limits = f"in {low}..{high}" if high < ANY else f"at least {low}"
                raise ConfigError(f"config key {key!r} must be {limits}, not {value}")
