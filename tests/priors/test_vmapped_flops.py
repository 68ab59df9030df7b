"""A vmapped estimator costs what one UNet call costs, both branches of all views in it.

Counted by XLA on the traced programs. Every view has a camera of its own, and so its
own row of the prompt's states, as in a training step.
"""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jitted import random_orbits

from sdsjax.cameras import OrbitRange
from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.models.loading import hub
from sdsjax.models.unets.deepfloyd import IFUNet, IFUNetConfig
from sdsjax.models.unets.stable_diffusion import UNet2DCondition, UNetConfig
from sdsjax.priors import deepfloyd, stable_diffusion
from sdsjax.types import PriorSource, View

VIEWS = 3
IF = IFUNetConfig(
    in_channels=3, out_channels=6, channels=(32, 64), head_width=16,
    down_attention=(False, True), up_attention=(True, False), layers=1, groups=16,
    epsilon=1e-5, context=32, text_width=32, pool_heads=2, activation="gelu",
    sample_size=16,
)  # fmt: skip
SD = UNetConfig(
    in_channels=4, out_channels=4, channels=(16, 32), heads=(2, 4),
    down_attention=(False, True), up_attention=(True, False), layers=1, groups=8,
    epsilon=1e-5, context=32, linear_projection=True, sample_size=8,
)  # fmt: skip
TOKENS = 12


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def prompt_states(width):
    rows = shape(TOKENS, width)
    return stable_diffusion.PromptStates(shape(6, TOKENS, width), rows, rows)


def toybox():
    """(source, UNet, shape of z) of the built-in prior."""
    source = stable_diffusion.load("toybox-sd", "a red mug")
    config = hub.read_config(hub.resolve("toybox-sd"), "unet")
    side = config.sample_size
    return source, hub.COMPONENTS["unet"].module(config), (side, side, 4)


def latents():
    """The same of a small Stable Diffusion, its parameters shapes only."""
    unet, side = UNet2DCondition(SD), SD.sample_size
    networks = stable_diffusion.StaticNetworks(
        unet, None, NoiseSchedule.scaled_linear(), "epsilon", view_prompts=True,
        adapter=None,
    )  # fmt: skip
    params = stable_diffusion.FrozenWeights(
        hub.param_shapes("unet", SD), {}, prompt_states(SD.context)
    )
    bind = partial(stable_diffusion.bind, networks=networks)
    return PriorSource(params, bind), unet, (side, side, 4)


def pixels():
    """The same of a small DeepFloyd IF, its parameters shapes only."""
    states = prompt_states(IF.text_width)
    params = deepfloyd.FrozenWeights(hub.param_shapes("unet", IF), states)
    unet, side = IFUNet(IF), IF.sample_size

    def bind(params):
        return deepfloyd.bind(
            params,
            unet=unet,
            schedule=NoiseSchedule.squaredcos_cap_v2(),
            size=side,
            view_prompts=True,
        )

    return PriorSource(params, bind), unet, (side, side, 3)


def flops(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [latents, toybox, pixels])
def test_vmapped_sds_costs_one_batched_call(make):
    source, unet, shape = make()
    schedule = source.bind(source.params).schedule
    sds = ESTIMATORS["sds"](schedule, guidance_scale=100.0)
    cameras = random_orbits(
        jax.random.key(0), VIEWS, orbit=OrbitRange(), width=8, height=8
    )
    z, t = jnp.zeros((VIEWS, *shape)), jnp.zeros(VIEWS, jnp.int32)
    keys = jax.random.split(jax.random.key(1), VIEWS)

    def vmapped(params, keys, z, t, cameras):
        prior = source.bind(params)

        def one(key, z, t, camera):
            return sds.estimate(prior, key, (), z, t, View(camera)).grad

        return jax.vmap(one)(keys, z, t, cameras)

    def by_hand(params, z, t):
        states = params.states
        both = jnp.stack([states.cond[0], states.uncond])
        return unet.apply(
            {"params": params.unet},
            jnp.concatenate([z, z]),
            jnp.concatenate([t, t]),
            jnp.repeat(both, VIEWS, axis=0),
        )

    found = flops(vmapped, source.params, keys, z, t, cameras)
    assert found == pytest.approx(flops(by_hand, source.params, z, t), rel=0.01)
