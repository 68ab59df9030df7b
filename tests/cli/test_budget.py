"""What `--dry_run` counts of a prior's networks."""

import jax.numpy as jnp
import pytest

from sdsjax.backend import Target, compiling_for
from sdsjax.cli.budget import network_cost
from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.layers import attention
from sdsjax.types import NoisePrediction, Prior, PriorSource

SIDE, WIDTH = 32, 8  # 1024 queries: enough for a CPU to take them in chunks


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_attention_counts_whole_whatever_computes_it(platform):
    """Two branches of two products, 2 n n d operations each, on every device."""

    def noise(z_t, t, view, branches=("cond", "uncond")):
        q = z_t.reshape(1, -1, 1, WIDTH)
        cond, uncond = (
            attention(q + t, q, scale * q).reshape(z_t.shape) for scale in (1.0, 2.0)
        )
        return NoisePrediction(cond, uncond)

    def encode(x):
        return jnp.tile(x[..., :1], WIDTH).astype(jnp.bfloat16)

    prior = Prior(NoiseSchedule.linear(), noise, encode)
    source = PriorSource((), lambda params: prior)
    with compiling_for(Target(platform, (9, 0))):
        counted = network_cost(source, SIDE).operations
    products = 2 * 2 * 2 * (SIDE * SIDE) ** 2 * WIDTH
    assert products < counted < 2 * products
