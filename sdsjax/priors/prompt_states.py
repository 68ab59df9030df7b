"""The text states of a prompt, one row for each side that a camera may see.

A prior encodes its prompts once (diffusion/prompts.py) and drops the text encoder; of
the table that remains, the camera of a view chooses the row.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import cameras
from sdsjax.diffusion import prompts
from sdsjax.models.loading import hub


class PromptStates(NamedTuple):
    """The text states of a prompt.

    cond [6 n d]: a row for each of prompts.FRONT..ANY; uncond, negative [n d].
    """

    cond: jax.Array
    uncond: jax.Array
    negative: jax.Array


@partial(jax.jit, static_argnums=0)
def encode_tokens(module, params, *tokens) -> jax.Array:
    """Runs a text encoder; traced once for all prompts of one module."""
    return module.apply({"params": params}, *tokens)


def encode_prompts(
    text_encoder: hub.Network, tokenizer, prompt_table: list[str], negative: str
) -> PromptStates:
    """Encodes every view's prompt, no prompt and the negative one by CLIP."""
    ids = jnp.asarray(tokenizer([*prompt_table, "", negative]))
    states = encode_tokens(text_encoder.module, text_encoder.params, ids)
    return PromptStates(states[:-2], states[-2], states[-1])


def prompt_row(view) -> jax.Array:
    """Returns the row of `PromptStates.cond` for a View, or for None: prompts.ANY."""
    if view is None or view.camera is None:
        return jnp.asarray(prompts.ANY, jnp.int32)
    matrix = view.camera.world_to_camera
    seen = prompts.view_index(*cameras.camera_angles(view.camera))
    return jnp.where(jnp.any(matrix != 0), seen, prompts.ANY)
