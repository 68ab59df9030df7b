"""Which kernel computes attention: chosen from static facts, before anything is traced.

Notation: q `[b n k d]`, keys and values `[b m k d]`, d channels of one head. cuDNN's
fused attention never writes the `[b k n m]` weights (at 64x64 latents 4096 x 4096 of
them a head); it takes half precision, d a multiple of 8 and at most 128, no mask here,
and a GPU of compute capability 8.0 on. JAX's rule for its gradient takes even n and m
only, so that a prompt's 77 tokens go without. It raises on anything else, so that the
choice must be made first. The environment variable SDSJAX_ATTENTION=xla rules it out.
"""

import os
from typing import Literal

import jax
import jax.numpy as jnp

HALVES = ("float16", "bfloat16")
WIDEST, OLDEST = 128, (8, 0)
LARGE, CHUNK = 2**20, 512


def attention_kernel(
    platform: str,
    capability: tuple[int, int],
    dtype,
    width: int,
    lengths: tuple[int, int],
    masked: bool,
) -> str:
    """Chooses "cudnn" or "xla" for an attention.

    platform, capability: of the `backend.Target`; width: d; lengths: (n, m).
    """
    if os.environ.get("SDSJAX_ATTENTION") == "xla":
        return "xla"
    fits = width % 8 == 0 and width <= WIDEST and not masked
    fits = fits and all(length % 2 == 0 for length in lengths)
    fits = fits and jnp.dtype(dtype).name in HALVES
    return "cudnn" if platform == "cuda" and capability >= OLDEST and fits else "xla"


def query_chunk(platform: str, queries: int, keys: int, masked: bool) -> int | None:
    """How many queries of a head go together, None for all heads at once.

    On a CPU the weights of a whole layer leave the caches and the memory's speed is
    what counts: at 64x64 latents a layer of 5 heads took 1140 ms at once and about
    300 in chunks of 256 to 1024 (2 cores).
    """
    if platform != "cpu" or masked or queries * keys < LARGE:
        return None
    size = next(s for s in range(min(CHUNK, queries), 0, -1) if queries % s == 0)
    return size if size * 8 >= CHUNK else None


def joined(q, k, v):
    """Returns (q, k, v), every one of them mapped wherever q is.

    The text of a prompt is the same for all views, and the kernel's rule for `vmap`
    wants equal leading axes.
    """
    blank = 0 * q[:, :1, :1, :1]
    return q, k + blank, v + blank


def fused_attention(q, k, v, implementation: Literal["xla", "cudnn"] = "cudnn"):
    """Computes softmax(q k^T / sqrt d) v by one kernel, softmax in float32."""
    return jax.nn.dot_product_attention(*joined(q, k, v), implementation=implementation)
