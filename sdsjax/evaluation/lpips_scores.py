"""LPIPS between pictures of an asset and those it is compared with.

Means over the views of models/vision/lpips's distance, rgb in [0, 1] on white: to the
pictures that image-to-3D was given (at 256 px, from their cameras), to the source that
an edit began from, and to the toybox's truth (the fixed held-out views at 64 px, the
size of the patches that LPIPS was calibrated on). Only equal sizes compare.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.hub import Network

FIXED_VIEWS, GIVEN = 64, 256  # px a side
BATCH = 16  # pairs at once: one program for each size, the last batch padded


class LpipsScorer:
    """LPIPS's network, compiled: pairs of pictures in, distances out."""

    def __init__(self, network: Network):
        self._params = network.params
        self._distance = jax.jit(
            lambda params, a, b: network.module.apply({"params": params}, a, b)
        )

    def distances(self, a: np.ndarray, b: np.ndarray) -> list[float]:
        """Measures pairs of pictures `[V h w 3]` in [0, 1]; V numbers."""
        a, b = (np.clip(np.asarray(x, np.float32), 0.0, 1.0) for x in (a, b))
        found: list[float] = []
        for first in range(0, len(a), BATCH):
            some = slice(first, first + BATCH)
            count = min(BATCH, len(a) - first)
            pad = ((0, min(BATCH, len(a)) - count), (0, 0), (0, 0), (0, 0))
            pair = (jnp.asarray(np.pad(x[some], pad)) for x in (a, b))
            values = np.asarray(self._distance(self._params, *pair))[:count]
            found += [float(value) for value in values]
        return found
