"""What `train_multiview` trains: the recipe's sizes, the network, its beginning."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sdsjax.models.loading import hub
from sdsjax.models.loading.hub import StableDiffusion
from sdsjax.models.unets.multiview import MultiViewConfig, MultiViewUNet


class MultiViewRecipe(NamedTuple):
    """Sizes of the training; start: the toybox-sd to go on from.

    singles, pairs: view sets of each single object and pair in each of `pools` pools,
    which take turns of `pool_steps`. Each of a pool's 960 sets is seen about 4 times in
    1000 steps of 16; with five pools in turns of 4000 the loss in training fell on and
    the bias on other views did not (experiments/prior_error).
    batch: pictures a step; steps, minutes: how long in all, whichever comes first
    (minutes 0: no limit); cooldown: the last share of it;
    bank, bank_steps: so many sets are coloured and encoded at a time, for so many
    steps; group_fraction: share of the batches made of groups, the others are of single
    views; dropout, camera_dropout: share of the groups without caption, and without
    camera; map_width: of the code map's coarsest level, 0: no code map; map_steps,
    map_batch, map_rate: its own stage, at most a quarter of the `minutes`; map_weight:
    of its regression beside the noise prediction after that; dtype: of the computation.
    """

    singles: int = 20
    pairs: int = 4
    pools: int = 1000
    pool_steps: int = 1000
    batch: int = 16
    rate: float = 6e-4
    steps: int = 100_000
    minutes: float = 0.0
    cooldown: float = 0.25
    bank: int = 1024
    bank_steps: int = 1000
    pair_fraction: float = 0.3
    group_fraction: float = 0.7
    dropout: float = 0.1
    camera_dropout: float = 0.05
    code_tokens: int = 4
    code_width: int = 512
    map_width: int = 128
    map_steps: int = 4000
    map_batch: int = 64
    map_rate: float = 1e-3
    map_weight: float = 0.2
    dtype: str = "float32"
    seed: int = 0
    start: str = "toybox-sd"


def network_config(start: StableDiffusion, recipe: MultiViewRecipe) -> MultiViewConfig:
    """The network that the recipe trains: the start's UNet and the options."""
    unet, width = start.unet.config, recipe.map_width
    return MultiViewConfig(
        unet.unet if isinstance(unet, MultiViewConfig) else unet,
        rays=True,
        code_tokens=recipe.code_tokens,
        code_width=recipe.code_width,
        code_map=(width, 5 * width // 8, 5 * width // 16) if width else (),
    )


def grown(params, within):
    """Puts every array of `params` into `within`, in the place of the same path.

    A kernel that has more inputs there (the first convolution, which sees rays too)
    keeps zeros in the new ones, so that the network begins as it was. ValueError for
    any other difference.
    """
    out: dict[tuple[str, ...], Any] = dict(flatten_dict(within))
    array: Any
    for path, array in flatten_dict(params).items():
        place, name = out.get(path), "/".join(path)
        if place is None:
            raise ValueError(f"{name}: no such place in the larger network")
        more = place.shape[-2] - array.shape[-2] if path[-1] == "kernel" else 0
        if more > 0:
            before = [(0, 0)] * (array.ndim - 2)
            array = np.pad(array, (*before, (0, more), (0, 0)))
        if array.shape != place.shape:
            raise ValueError(f"{name}: {array.shape} does not fit {place.shape}")
        out[path] = jax.device_put(array)  # jnp.asarray compiles a program a shape
    return unflatten_dict(out)


def initial_params(start: StableDiffusion, recipe: MultiViewRecipe):
    """Makes {"unet", "text_encoder"} of the start's weights, all else new."""
    config = network_config(start, recipe)
    side, channels = config.unet.sample_size, config.unet.in_channels
    shape = (1, 1, side, side)
    multiview = isinstance(start.unet.config, MultiViewConfig)
    params = start.unet.params if multiview else {"unet": start.unet.params}
    known = flatten_dict(params)

    @jax.jit
    def draw_new(key):
        # what the start knows is left out, and so neither drawn nor compiled
        drawn = MultiViewUNet(config).init(
            key,
            jnp.zeros((*shape, channels)),
            jnp.zeros(1, jnp.int32),
            jnp.zeros((1, 2, config.unet.context)),
            jnp.zeros((1, 1, 16)),
            jnp.zeros((*shape, 6)),
        )["params"]
        return {k: leaf for k, leaf in flatten_dict(drawn).items() if k not in known}

    within: dict = flatten_dict(hub.param_shapes("unet", config))
    within |= draw_new(jax.random.key(recipe.seed))
    network = grown(params, unflatten_dict(within))
    return {"unet": network, "text_encoder": start.text_encoder.params}


def load_start(folder: str) -> StableDiffusion:
    """The networks to go on from: a toybox-sd, or a toybox-mv of an earlier session."""
    root = hub.resolve(folder)
    config = hub.read_config(root, "unet")
    multiview = isinstance(config, MultiViewConfig)
    return (hub.load_multiview if multiview else hub.load_stable_diffusion)(root)
