"""The text states of a prompt, one row for each side that a camera may see.

A prior encodes its prompts once (diffusion/prompts.py) and drops the text encoders; of
the table that remains, the camera of a view chooses the row. What a network is told of
one text is an array of states [n d], or a pytree of arrays (SDXL's `TextAndSize`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax import cameras
from sdsjax.diffusion import prompts
from sdsjax.models.loading import hub
from sdsjax.models.loading.sdxl.folder import SDXL
from sdsjax.models.unets.sdxl import TextAndSize, own_size
from sdsjax.types import PyTree


class PromptStates(NamedTuple):
    """What a network is told of a prompt, of no prompt and of the negative one.

    cond [6 ...]: a row for each of prompts.FRONT..ANY; uncond, negative [...]: one row.
    """

    cond: PyTree
    uncond: PyTree
    negative: PyTree

    def row(self, index) -> PyTree:
        """Returns the prompt's states of one side, or of several."""
        return row_of(self.cond, index)


@jax.jit
def of_texts(told: PyTree) -> PromptStates:
    """Splits what is told of the prompt's rows, no prompt and the negative one."""
    return PromptStates(*(row_of(told, rows) for rows in (slice(-2), -2, -1)))


def row_of(states: PyTree, index) -> PyTree:
    """Picks rows of a table of text states, in every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], states)


def stacked(rows: Sequence[PyTree]) -> PyTree:
    """Stacks text states to a batch, leaf by leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


@partial(jax.jit, static_argnums=0, static_argnames="penultimate")
def encode_tokens(module, params, *tokens, **options) -> Any:
    """Runs a text encoder; traced once for all prompts of one module."""
    return module.apply({"params": params}, *tokens, **options)


def encode_prompts(
    networks: hub.StableDiffusion | SDXL,
    prompt_table: list[str],
    negative: str,
    size: int,
) -> PromptStates:
    """Encodes every view's prompt, no prompt and the negative one by CLIP.

    size: the side in pixels of the pictures, which SDXL is told.
    """
    texts = [*prompt_table, "", negative]
    if isinstance(networks, SDXL):
        states = text_and_size(networks, texts, size)
    else:
        encoder, ids = networks.text_encoder, jnp.asarray(networks.tokenizer(texts))
        states = encode_tokens(encoder.module, encoder.params, ids)
    return of_texts(states)


def text_and_size(networks: SDXL, texts: list[str], size: int) -> TextAndSize:
    """What SDXL's UNet is told of texts, of pictures of `size` pixels a side.

    The states of both encoders' last layer but one side by side, and the second one's
    pooled text; of an empty text all are zeros where the folder says so.
    """
    first, second = networks.text_encoder, networks.text_encoder_2
    ids = jnp.asarray(networks.tokenizer(texts))
    states, _ = encode_tokens(first.module, first.params, ids, penultimate=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first one said what was cut off
        ids = jnp.asarray(networks.tokenizer_2(texts))
    more, pooled = encode_tokens(second.module, second.params, ids)
    empty = np.array([networks.zeros_for_empty and not text.strip() for text in texts])
    return _laid_out(states, more, pooled, empty, size)


@partial(jax.jit, static_argnames="size")
def _laid_out(states, more, pooled, empty, size: int) -> TextAndSize:
    states = jnp.concatenate([states, more], axis=-1)
    sizes = jnp.broadcast_to(own_size(size, size), (empty.shape[0], 6))
    return TextAndSize(
        jnp.where(empty[:, None, None], 0, states),
        jnp.where(empty[:, None], 0, pooled),
        sizes,
    )


def prompt_row(view) -> jax.Array:
    """Returns the row of `PromptStates.cond` for a View, or for None: prompts.ANY."""
    if view is None or view.camera is None:
        return jnp.asarray(prompts.ANY, jnp.int32)
    matrix = view.camera.world_to_camera
    seen = prompts.view_index(*cameras.camera_angles(view.camera))
    return jnp.where(jnp.any(matrix != 0), seen, prompts.ANY)
