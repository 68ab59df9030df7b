"""Renders the rays of a picture in chunks, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sdsjax.backend import Target

Array = jax.Array


def default_chunk_size(target: Target) -> int:
    """Returns how many rays are rendered at once where the caller does not say.

    On a CPU chunks of 4096 take 1.2 to 1.6 times as long as those of 512 (toybox field,
    64x64, with gradient); elsewhere nothing is measured yet.
    """
    return 512 if target.platform == "cpu" else 4096


def map_in_chunks(render: Callable, rays: Any, chunk: int) -> Any:
    """Maps `render` over rays, leaves [h w ...], at most `chunk` rays at once.

    render: leaves [r ...] -> leaves [r ...]. Chunks follow one another. Each has rays
    of the whole picture, so that what fills one part of it is spread over all; where
    rays are wanting, some are rendered twice.

    A chunk is every n-th ray, in rows that are each rotated by .618 of their width
    against the one before: without that rotation as many chunks as columns would be the
    columns.
    """
    shape = jax.tree.leaves(rays)[0].shape[:2]
    count = shape[0] * shape[1]
    rays = jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), rays)
    if count <= chunk:
        outputs = render(rays)
    else:
        chunks = -(-count // chunk)
        size = -(-count // chunks)
        # the i-th ray in the new order is the (i // chunks)-th of chunk i % chunks
        index = _rotated_rows(shape, -1)[jnp.arange(chunks * size) % count]
        index = index.reshape(size, chunks).T
        outputs = jax.lax.map(render, jax.tree.map(lambda a: a[index], rays))
        inverse = _rotated_rows(shape, 1)
        outputs = jax.tree.map(
            lambda a: jnp.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:])[inverse], outputs
        )
    return jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), outputs)


def _rotated_rows(shape: tuple[int, int], sign: int) -> Array:
    # [h w]: which ray comes at which place, row y being rotated y times; signs -1 and 1
    # are each other's inverse
    height, width = shape
    rows = jnp.arange(height)[:, None]
    columns = (jnp.arange(width) + sign * round(0.618 * width) * rows) % width
    return (rows * width + columns).reshape(-1)
