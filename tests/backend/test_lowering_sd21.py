"""The step on Stable Diffusion 2.1 and on MVDream, whole, lowered from shapes alone.

No weights are read and none are made: parameters are `jax.ShapeDtypeStruct`s of the
published sizes, in bfloat16 as the configs ask. What is looked for is cuDNN's attention
where it matters, at 64x64 latents, and that nothing waits for the host.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from lowering import (
    A100,
    FUSED,
    H100,
    TPU,
    a_cudnn,  # noqa: F401 (a fixture)
    custom_calls,
    lowered,
    lowered_step,
)

from sdsjax.backend import compiling_for
from sdsjax.cli.checks import resolve
from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading.hub import param_shapes
from sdsjax.models.unets.multiview import MultiViewConfig, MultiViewUNet
from sdsjax.models.unets.stable_diffusion import UNet2DCondition, UNetConfig
from sdsjax.models.vae import AutoencoderKL, VAEConfig
from sdsjax.priors import multiview, stable_diffusion
from sdsjax.priors.prompt_states import PromptStates
from sdsjax.training.build import PRIORS, build
from sdsjax.types import PriorSource

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("a_cudnn")]

HALF = jnp.bfloat16
UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=(320, 640, 1280, 1280),
    heads=(5, 10, 20, 20),
    down_attention=(True, True, True, False),
    up_attention=(False, True, True, True),
    layers=2,
    groups=32,
    epsilon=1e-5,
    context=1024,
    linear_projection=True,
    sample_size=64,
)
VAE = VAEConfig(3, 3, 4, (128, 256, 512, 512), 2, 32, 0.18215, 512)
MVDREAM = MultiViewConfig(UNET._replace(sample_size=32))
SD21_PARAMETERS = 865_910_724
# (tokens, heads, channels of a head) at 64x64 latents, of every level and the middle;
# attention to the prompt's 77 tokens is no such call
SELF_ATTENTIONS = {(4096, 5, 64), (1024, 10, 64), (256, 20, 64), (64, 20, 64)}


def shapes(name, config):
    """The parameters of a component as shapes, in half precision."""
    half = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, HALF)  # noqa: E731
    return jax.tree.map(half, param_shapes(name, config))


def abstract_source(weights, bind, size):
    """A PriorSource whose parameters are shapes. `build` binds them outside of any
    trace, to read the schedule: there they are traced and the Prior is handed out."""

    def bound(params):
        kinds = {type(leaf) for leaf in jax.tree.leaves(params)}
        if jax.ShapeDtypeStruct not in kinds:
            return bind(params)
        priors = []
        jax.eval_shape(lambda params: priors.append(bind(params)), params)
        return priors[0]

    return PriorSource(weights, bound, (size, size, 3))


def text_states(*rows):
    return jax.ShapeDtypeStruct((*rows, 77, UNET.context), HALF)


def stable_diffusion_21(config, sharding=None):
    """`stable_diffusion.load` of 2.1-base, without its files."""
    del sharding
    schedule = NoiseSchedule.scaled_linear()
    unet, vae = UNet2DCondition(UNET, HALF), AutoencoderKL(VAE, HALF, remat="blocks")
    second = stable_diffusion.AdapterNetwork(unet, "epsilon", config.prior.lora_rank)
    networks = stable_diffusion.StaticNetworks(
        unet, vae, schedule, "epsilon", True, second
    )
    states = PromptStates(text_states(6), text_states(), text_states())
    weights = stable_diffusion.FrozenWeights(
        shapes("unet", UNET), shapes("vae", VAE), states
    )
    bind = partial(stable_diffusion.bind, networks=networks)
    return abstract_source(weights, bind, 512)


def mvdream(config, sharding=None):
    """`multiview.load` of a network of MVDream's sizes, without its files."""
    del sharding
    network = multiview.Network(
        MultiViewUNet(MVDREAM, HALF),
        "epsilon",
        NoiseSchedule.scaled_linear(),
        config.prior.group,
        config.prior.lora_rank,
    )
    states = multiview.PromptStates(*[text_states()] * 3)
    weights = multiview.FrozenWeights(
        shapes("unet", MVDREAM), shapes("vae", VAE), states
    )
    bind = partial(
        multiview.bind,
        network=network,
        vae=AutoencoderKL(VAE, HALF, remat="blocks"),
    )
    return abstract_source(weights, bind, 256)


def fused_tokens(text: str) -> set[tuple[int, ...]]:
    """(queries, heads, channels of a head) of every call of cuDNN's attention."""
    calls = re.findall(
        r"custom_call @__cudnn\$fmhaSoftmax\(.*?: \(tensor<([\dx]+)xbf16>", text
    )
    return {tuple(int(n) for n in shape.split("x")[-3:]) for shape in calls}


def test_the_sizes_are_the_published_ones():
    leaves = jax.tree.leaves(shapes("unet", UNET))
    assert sum(leaf.size for leaf in leaves) == SD21_PARAMETERS


@pytest.mark.parametrize(
    ("name", "target"),
    [("ssd:sd21", H100), ("ssd:sd21", TPU), ("vsd:sd21", H100)],
    ids=["ssd-cuda", "ssd-tpu", "vsd-cuda"],
)
def test_the_step_at_512_pixels_lowers(name, target, monkeypatch):
    monkeypatch.setitem(PRIORS, "stable_diffusion", stable_diffusion_21)
    text = lowered_step(lambda: (c := resolve(name), build(c)), target)
    assert "tensor<512x512x3xf32>" in text
    if target is TPU:
        assert not custom_calls(text) & set(FUSED)
    else:
        assert fused_tokens(text) == SELF_ATTENTIONS
        # the network itself is differentiated by VSD alone, whose copy of it learns
        assert (FUSED[1] in custom_calls(text)) == (name == "vsd:sd21")


def test_the_step_on_four_views_together_lowers(monkeypatch):
    """For a GPU; a TPU is shown four views by ssd:mv, and half precision above."""
    monkeypatch.setitem(PRIORS, "multiview", mvdream)
    overrides = {"prior.name": "multiview", "resolution": 256, "batch_size": 4}
    text = lowered_step(lambda: (c := resolve("ssd:sd21", overrides), build(c)), H100)
    # 32x32 latents of four views are one sequence
    assert (4096, 5, 64) in fused_tokens(text)


@pytest.mark.parametrize(
    ("target", "said", "fused"), [(A100, "", True), (A100, "xla", False)]
)
def test_a_fused_attention_keeps_the_weights_unwritten(
    target, said, fused, monkeypatch
):
    """One prediction at 64x64 latents; ruled out, the 4096 x 4096 weights are there."""
    monkeypatch.setenv("SDSJAX_ATTENTION", said)
    source = stable_diffusion_21(resolve("ssd:sd21"))
    z_t = jax.ShapeDtypeStruct((64, 64, 4), jnp.float32)

    def noise(params, z_t, t):
        return source.bind(params).noise(z_t, t, None).cond

    t = jax.ShapeDtypeStruct((), jnp.int32)
    with compiling_for(target):
        text = lowered(jax.jit(noise), target, source.params, z_t, t)
    assert fused_tokens(text) == (SELF_ATTENTIONS if fused else set())
    written = re.search(r"tensor<(\d+x)+4096x4096xf32>", text)
    assert (written is None) == fused
