"""LoRA on a small UNet: begins as the base, learns everywhere, can be merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_model_config import SD15, SD21

from sdsjax.models.layers import TransformerBlock
from sdsjax.models.loading import hub
from sdsjax.models.loading.configs import unet_config
from sdsjax.models.unets import lora
from sdsjax.models.unets.stable_diffusion import UNet2DCondition, UNetConfig

UNET = UNetConfig(
    in_channels=4, out_channels=4, channels=(16,), heads=(2,),
    down_attention=(False,), up_attention=(True,), layers=1, groups=8,
    epsilon=1e-5, context=16, linear_projection=True, sample_size=8,
)  # fmt: skip
KERNELS = 3 * 8  # three transformers of two attentions with four projections each


def drawn_like(shapes, seed, scale=0.2):
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda s: np.float32(scale * draw(size=s.shape)), shapes)


@pytest.fixture(scope="module")
def params():
    return drawn_like(hub.param_shapes("unet", UNET), 0)


@pytest.fixture(scope="module")
def inputs():
    draw = np.random.default_rng(1).normal
    z, text, poses = (
        np.float32(draw(size=shape)) for shape in ((2, 6, 5, 4), (2, 3, 16), (2, 4, 4))
    )
    return z, np.array([3, 700]), text, poses


def adapted(params, psi, z, t, text, poses, scale=1.0):
    """The network with psi beside it, compiled once for every scale."""
    return _adapted(params, psi, z, t, text, poses, jnp.float32(scale))


@jax.jit
def _adapted(params, psi, z, t, text, poses, scale):
    embedding = lora.camera_embedding(psi, poses)
    with jax.default_matmul_precision("highest"):
        return lora.adapted_apply(
            UNet2DCondition(UNET), params, psi, z, t, text,
            scale=scale, class_embedding=embedding,
        )  # fmt: skip


merged_params = jax.jit(lora.merged_params)
camera_embedding = jax.jit(lora.camera_embedding)


@jax.jit
def begun(params):
    return lora.init(jax.random.key(2), params, 3)


def trained(params):
    """psi away from its beginning, every factor; nothing of the beginning is drawn."""
    return drawn_like(jax.eval_shape(begun, params), 3)


@jax.jit
def plain(params, z, t, text, embedding=None):
    with jax.default_matmul_precision("highest"):
        return UNet2DCondition(UNET).apply(
            {"params": params}, z, t, text, class_embedding=embedding
        )


@pytest.mark.slow
def test_begins_as_the_base_network(params, inputs):
    psi = begun(params)
    found, base = adapted(params, psi, *inputs), plain(params, *inputs[:3])
    np.testing.assert_array_equal(found, base)
    assert len(flatten_dict(psi.factors)) == 2 * KERNELS


@pytest.mark.slow
def test_the_gradient_reaches_every_factor(params, inputs):
    psi = trained(params)

    @jax.jit
    @jax.grad
    def slope(psi, params, inputs):
        return jnp.sum(adapted(params, psi, *inputs) ** 2)

    grads = jax.device_get(slope(psi, params, inputs))
    for path, leaf in flatten_dict(grads._asdict()).items():
        assert np.abs(leaf).max() > 0, path
        assert np.isfinite(leaf).all(), path


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_merged_equals_applied_beside(params, inputs, scale):
    psi = trained(params)
    *batch, poses = inputs
    merged = merged_params(params, psi, scale)
    assert jax.tree.structure(merged) == jax.tree.structure(params)

    want = np.asarray(plain(merged, *batch, camera_embedding(psi, poses)))
    found = adapted(params, psi, *inputs, scale=scale)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=2e-5)
    away = adapted(params, psi, *inputs, scale=scale + 0.3)
    assert np.abs(away - want).max() > 1e-2


def test_the_camera_changes_the_output_once_trained(params, inputs):
    z, t, text, poses = inputs
    psi = trained(params)
    found = np.asarray(adapted(params, psi, *inputs))
    turned = adapted(params, psi, z, t, text, poses + np.float32(0.5))
    null = adapted(params, psi, z, t, text, np.zeros_like(poses))
    assert np.abs(found - turned).max() > 1e-3
    assert np.abs(found - null).max() > 1e-3


@pytest.mark.slow
def test_vmap_equals_one_batch(params, inputs):
    psi = trained(params)

    def one(params, psi, *row):
        return adapted(params, psi, *(a[None] for a in row))[0]

    mapped = jax.jit(jax.vmap(one, (None, None, 0, 0, 0, 0)))(params, psi, *inputs)
    batch = adapted(params, psi, *inputs)
    np.testing.assert_allclose(mapped, batch, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_factors_stay_float32_beside_a_bfloat16_base():
    block = TransformerBlock(2, jnp.bfloat16)
    x, context = jnp.ones((1, 3, 8), jnp.bfloat16), jnp.ones((1, 2, 6))
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, context)["params"]
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), drawn_like(shapes, 0))
    shaped = {**shapes, "time_embedding": {"linear_2": {"bias": jnp.zeros(4)}}}
    begin = jax.jit(lambda shaped: lora.init(jax.random.key(1), shaped, 2))
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape), shaped)
    psi = drawn_like(begin(blank), 2)
    call = jax.jit(lambda psi: lora.adapted_apply(block, params, psi, x, context))
    assert {p.dtype for p in jax.tree.leaves(psi)} == {jnp.dtype("float32")}
    assert call(psi).dtype == jnp.bfloat16
    total = jax.grad(lambda psi: call(psi).astype(jnp.float32).sum())
    slope = jax.device_get(jax.jit(total)(psi))
    assert {p.dtype for p in jax.tree.leaves(slope)} == {jnp.dtype("float32")}
    assert all(np.abs(p).max() > 0 for p in jax.tree.leaves(slope.factors))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "numbers"), [(SD15, 797_184), (SD21, 829_952)], ids=["sd15", "sd21"]
)
def test_full_size(config, numbers):
    shapes = hub.param_shapes("unet", unet_config(config))
    psi = jax.eval_shape(lambda key: lora.init(key, shapes, 4), jax.random.key(0))
    assert len(lora.adapted_kernels(shapes)) == 16 * 8
    assert sum(p.size for p in jax.tree.leaves(psi.factors)) == numbers
    assert sum(p.size for p in jax.tree.leaves(psi.camera)) == 1_661_440


def test_what_does_not_fit_is_refused(params, inputs):
    with pytest.raises(ValueError, match="rank 0"):
        lora.init(jax.random.key(0), params, 0)
    psi = trained(params)
    odd = {**psi.factors, "elsewhere": psi.factors["mid_block"]}
    with pytest.raises(ValueError, match=r"elsewhere/.*no such projection"):
        adapted(params, psi._replace(factors=odd), *inputs)
