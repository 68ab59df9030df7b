"""Every kernel, and its gradient, lowers for a GPU and a TPU with their choices."""

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
)

from sdsjax.backend import Target, compiling_for, target
from sdsjax.cameras import Camera
from sdsjax.models.layers import attention
from sdsjax.render.splatting.project import Gaussians
from sdsjax.render.splatting.rasterize import rasterize
from sdsjax.representations.radiance_field import hash_grid

N, SIZE = 50, 40
T4 = Target("cuda", (7, 5))
PLATFORMS = pytest.mark.parametrize("target", [H100, TPU], ids=["cuda", "tpu"])


def shape(*lengths, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(lengths, dtype)


CLOUD = Gaussians(
    shape(N, 3),
    shape(N, 3),
    shape(N, 4),
    shape(N),
    shape(N, 4, 3),
    shape(N, dtype=bool),
)
VIEWS = (shape(2, 4, 4), shape(2, 2), shape(2, 2))  # poses, focal, principal


def views_of(learnt, alive, poses, focal, principal, **settings):
    """Sums of two views' pictures, drawn in one pass."""

    def one(*numbers):
        camera = Camera(*numbers, SIZE, SIZE)
        gaussians = Gaussians(*learnt, alive)
        drawn = rasterize(gaussians, camera, background=jnp.ones(3), **settings)
        return drawn.rgb.sum() + drawn.depth.sum() + drawn.normal.sum()

    return jax.vmap(one)(poses, focal, principal).sum()


@pytest.mark.slow
@PLATFORMS
def test_the_rasteriser_and_its_gradient(target):
    """Of plain XLA; the kernels of Warp are in render/splatting/test_oracle_warp.py."""

    def slopes(*arguments):
        return jax.value_and_grad(views_of)(*arguments)

    def step(learnt, *rest):
        draw = lambda learnt: views_of(learnt, *rest, differentiation="forward")  # noqa: E731
        return jax.jvp(draw, (learnt,), (learnt,))

    arguments = (tuple(CLOUD[:5]), CLOUD.alive, *VIEWS)
    with compiling_for(target):
        backward = lowered(jax.jit(slopes), target, *arguments)
        forward = lowered(jax.jit(step), target, *arguments)
    # 2 views of 5 x 5 tiles of 64 px, all of them in lockstep, 32 splats a step; to be
    # differentiated forwards, view by view
    assert "tensor<50x32x64xf32>" in backward
    assert "tensor<2x25x32x64xf32>" in forward


@pytest.mark.slow
@PLATFORMS
def test_the_hash_grid_and_its_gradients(target):
    grid = hash_grid.make_grid(levels=4, log2_size=8)
    tables = jax.eval_shape(lambda: hash_grid.init_tables(jax.random.key(0), grid))

    def slopes(tables, x):
        total = lambda tables, x: jnp.sum(hash_grid.encode(tables, x, grid) ** 2)  # noqa: E731
        return jax.value_and_grad(total, argnums=(0, 1))(tables, x)

    def normals(tables, x):
        def total(tables):
            value, slope = hash_grid.encode_with_jacobian(tables, x, grid)
            return jnp.sum(value) + jnp.sum(slope**2)

        return jax.grad(total)(tables)

    with compiling_for(target):
        for function in (slopes, normals):
            text = lowered(jax.jit(function), target, tables, shape(100, 3))
            assert "stablehlo.gather" in text


def attend_and_pull(q, k, v):
    def total(q, k, v):
        # a prompt's text is shared by the views
        y = jax.vmap(attention, (0, None, None))(q, k, v)
        return jnp.sum(y.astype(jnp.float32) ** 2)

    return jax.value_and_grad(total, argnums=(0, 1, 2))(q, k, v)


@pytest.mark.parametrize(
    ("target", "dtype", "width", "keys", "calls"),
    [
        (A100, jnp.bfloat16, 64, 1024, FUSED),
        (H100, jnp.bfloat16, 64, 1024, FUSED),
        (H100, jnp.float16, 40, 78, FUSED),
        # JAX refuses the gradient of the fused one for an odd number of keys
        (H100, jnp.bfloat16, 64, 77, ()),
        (H100, jnp.bfloat16, 512, 1024, ()),
        (H100, jnp.float32, 64, 1024, ()),
        (T4, jnp.float16, 64, 1024, ()),
        (TPU, jnp.bfloat16, 64, 1024, ()),
    ],
)
@pytest.mark.usefixtures("a_cudnn")
def test_attention_and_its_gradient(target, dtype, width, keys, calls):
    q = shape(2, 1, 1024, 2, width, dtype=dtype)
    k = shape(1, keys, 2, width, dtype=dtype)
    with compiling_for(target):
        # a new function: JAX's caches do not see the target
        text = lowered(jax.jit(lambda *a: attend_and_pull(*a)), target, q, k, k)
    assert custom_calls(text) == set(calls)


def test_what_is_not_there_is_not_lowered_to():
    """JAX refuses where it finds no cuDNN: its answer is pinned above, not skipped."""
    if target().platform == "cuda":
        pytest.skip("there is a cuDNN here")
    q = shape(1, 1, 64, 2, 64, dtype=jnp.bfloat16)
    k = shape(1, 64, 2, 64, dtype=jnp.bfloat16)
    with compiling_for(H100), pytest.raises(RuntimeError, match="cuDNN"):
        lowered(jax.jit(lambda *a: attend_and_pull(*a)), H100, q, k, k)
