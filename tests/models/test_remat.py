"""What gradients keep of a network's blocks: the same numbers from less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.models.layers import ResnetBlock, rematerialised
from sdsjax.models.loading.hub import param_shapes
from sdsjax.models.mmdit import MMDiT, MMDiTConfig, Text
from sdsjax.models.unets import lora
from sdsjax.models.unets.multiview import MultiViewConfig, MultiViewUNet
from sdsjax.models.unets.sdxl import SDXLConfig, SDXLUNet, TextAndSize, own_size
from sdsjax.models.unets.stable_diffusion import UNet2DCondition, UNetConfig
from sdsjax.models.vae import AutoencoderKL, VAEConfig

POLICIES = ("none", "dots", "blocks")
UNET = UNetConfig(4, 4, (8,), (2,), (True,), (True,), 1, 4, 1e-5, 8, True, 8)
SD3 = MMDiTConfig(4, 4, 2, 2, 2, 4, 8, 8, 4, 8, dual=(0,), qk_norm=True)
XL = SDXLConfig(UNET._replace(depths=(2,)), 8, 4)
VAE = VAEConfig(3, 3, 4, (8, 8), 1, 4, 0.2, 16)


def drawn(tree, seed=0):
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda s: jnp.float32(0.2 * draw(size=s.shape)), tree)


def varied(*shape):
    return jnp.sin(jnp.arange(float(np.prod(shape)))).reshape(shape)


def of_unet():
    z, text = varied(1, 4, 4, 4), jnp.linspace(-1, 1, 24).reshape(1, 3, 8)
    return UNet2DCondition(UNET), "unet", UNET, (z, jnp.array([300]), text)


def of_sdxl():
    z, text = varied(1, 4, 4, 4), jnp.linspace(-1, 1, 24).reshape(1, 3, 8)
    told = TextAndSize(text, text[:, 0], own_size(8, 8)[None])
    return SDXLUNet(XL), "unet", XL, (z, jnp.array([300]), told)


def of_mmdit():
    z, text = varied(1, 8, 8, 4), jnp.linspace(-1, 1, 24).reshape(1, 3, 8)
    told = Text(text, text[:, 0])
    return MMDiT(SD3), "transformer", SD3, (z, jnp.array([300.0]), told)


def of_views():
    z, text = varied(1, 2, 4, 4, 4), jnp.linspace(-1, 1, 24).reshape(1, 3, 8)
    config = MultiViewConfig(UNET)
    given = z, jnp.array([300]), text, jnp.ones((1, 2, 16))
    return MultiViewUNet(config), "unet", config, given


def of_loras(make):
    """(psi, policy -> loss of psi): a second network's loss, as vsd has it."""
    module, name, config, inputs = make()
    params = drawn(param_shapes(name, config))
    psi = drawn(jax.eval_shape(lambda p: lora.init(jax.random.key(0), p, 2), params), 1)

    def loss_of(remat):
        network = module.clone(remat=remat)

        def loss(psi):
            out = lora.adapted_apply(network, params, psi, *inputs)
            return jnp.sum(out**2)

        return loss

    return psi, loss_of


def kept(loss, x):
    """Numbers that the pullback of a loss at x holds, from shapes."""
    residuals = jax.eval_shape(lambda x: jax.vjp(loss, x)[1], x)
    return sum(leaf.size for leaf in jax.tree.leaves(residuals))


@pytest.mark.slow
@pytest.mark.parametrize("make", [of_unet, of_sdxl, of_mmdit, of_views])
def test_a_policy_keeps_less_of_each_network(make):
    psi, loss_of = of_loras(make)
    none, blocks = (kept(loss_of(policy), psi) for policy in ("none", "blocks"))
    assert blocks < none
    if make is of_unet:  # the others hand the policy on to the same blocks
        assert blocks < kept(loss_of("dots"), psi) < none


def of_block():
    """One block of the UNet: (parameters, policy -> loss of them)."""
    x, time = varied(1, 4, 4, 8), jnp.linspace(-1, 1, 16).reshape(1, 16)
    shapes = jax.eval_shape(ResnetBlock(8, 4, 1e-5).init, jax.random.key(0), x, time)

    def loss_of(remat):
        block = rematerialised(ResnetBlock, remat)(8, 4, 1e-5)
        return lambda params: jnp.sum(block.apply(params, x, time) ** 2)

    return drawn(shapes), loss_of


def of_whole(make):
    return pytest.param(
        lambda: of_loras(make), marks=pytest.mark.slow, id=make.__name__
    )


@pytest.mark.parametrize("make", [of_block, of_whole(of_unet), of_whole(of_mmdit)])
def test_the_gradient_is_the_same(make):
    """What is computed again is computed alike: rounding apart."""
    psi, loss_of = make()
    grads = jax.jit(lambda psi: [jax.grad(loss_of(name))(psi) for name in POLICIES])
    with jax.default_matmul_precision("highest"):
        plain, *others = grads(psi)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain))
    for found in others:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max()
            ),
            plain,
            found,
        )


@pytest.mark.slow
def test_the_encoder_keeps_less():
    """That it pulls back the same is asked of torch's answers, by test_networks."""
    params, x = drawn(param_shapes("vae", VAE)), jnp.linspace(-1, 1, 192)
    x = x.reshape(1, 8, 8, 3)

    def loss_of(remat):
        module = AutoencoderKL(VAE, remat=remat)

        def loss(x):
            mean, _ = module.apply({"params": params}, x, method="encode")
            return jnp.sum(mean**2)

        return loss

    none, dots, blocks = (kept(loss_of(policy), x) for policy in POLICIES)
    assert blocks < dots < none


def test_none_is_the_block_itself_and_another_name_is_refused():
    assert rematerialised(ResnetBlock, "none") is ResnetBlock
    with pytest.raises(ValueError, match="'all': allowed are none, blocks, dots"):
        rematerialised(ResnetBlock, "all")
