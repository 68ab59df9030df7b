"""Which kernel is chosen, and that what is handed to the fused one is right anywhere.

The kernel itself needs a GPU; XLA's implementation of the same function stands in."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.backend import Target, compiling_for
from sdsjax.models import attention as kernels
from sdsjax.models import layers

HOPPER = ("cuda", (9, 0), "bfloat16", 64, (4096, 4096), False)


@pytest.mark.parametrize(
    ("change", "kernel"),
    [
        ({}, "cudnn"),
        ({1: (8, 0)}, "cudnn"),
        ({2: "float16"}, "cudnn"),
        ({2: jnp.bfloat16}, "cudnn"),
        ({3: 40}, "cudnn"),  # SD 1.5: 8 heads on 320 channels
        ({3: 128}, "cudnn"),
        ({3: 160}, "xla"),  # SD 1.5: 8 heads on 1280 channels
        ({3: 512}, "xla"),  # the VAE's
        ({3: 60}, "xla"),
        ({1: (7, 5)}, "xla"),
        ({2: "float32"}, "xla"),
        ({4: (4096, 78)}, "cudnn"),
        ({4: (4096, 77)}, "xla"),  # a prompt's tokens
        ({4: (577, 577)}, "xla"),  # DPT's
        ({5: True}, "xla"),
        ({0: "rocm", 1: (0, 0)}, "xla"),
        ({0: "cpu", 1: (0, 0)}, "xla"),
        ({0: "tpu", 1: (0, 0)}, "xla"),
    ],
)
def test_the_choice(change, kernel):
    facts = [change.get(i, fact) for i, fact in enumerate(HOPPER)]
    assert kernels.attention_kernel(*facts) == kernel


def test_the_environment_rules_the_fused_one_out(monkeypatch):
    monkeypatch.setenv("SDSJAX_ATTENTION", "xla")
    assert kernels.attention_kernel(*HOPPER) == "xla"


@pytest.mark.parametrize(
    ("facts", "size"),
    [
        (("cpu", 4096, 4096, False), 512),
        (("cpu", 1024, 1024, False), 512),
        (("cpu", 1056, 1056, False), 352),
        (("cpu", 1021, 2048, False), None),  # a prime: nothing to divide by
        (("cpu", 4096, 77, False), None),  # a text's keys are few
        (("cpu", 4096, 4096, True), None),
        (("gpu", 4096, 4096, False), None),
    ],
)
def test_large_layers_go_chunk_by_chunk_on_a_cpu(facts, size):
    assert kernels.query_chunk(*facts) == size


def test_chunks_give_what_the_whole_gives(monkeypatch):
    def arrays(seed):
        draw = np.random.default_rng(seed).normal
        return np.float32(draw(size=(3, 2, 12, 2, 4)))

    def total(q, k, v):
        return jnp.sum(jnp.sin(jax.vmap(layers.attention, (0, 0, None))(q, k, v)))

    given = (arrays(0), arrays(1), arrays(2)[0])
    compute = jax.value_and_grad(total, argnums=(0, 1, 2))
    whole = jax.jit(lambda *given: compute(*given))(*given)
    monkeypatch.setattr(layers, "query_chunk", lambda *_: 4)
    chunks = jax.jit(lambda *given: compute(*given))(*given)
    for a, b in zip(jax.tree.leaves(chunks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_attention_follows_the_choice(monkeypatch):
    asked = []

    def fused(q, k, v):
        asked.append(q.shape)
        return v[:, : q.shape[1]]

    monkeypatch.setattr(layers, "fused_attention", fused)

    def attend(dtype, *mask):
        given = [np.ones((1, 4, 2, 8), dtype)] * 3
        jax.eval_shape(lambda *given: layers.attention(*given), *given, *mask)

    with compiling_for(Target("cuda", (8, 0))):
        attend(jnp.bfloat16)
        attend(jnp.bfloat16, np.ones((4, 4), bool))
        attend(jnp.float32)
    attend(jnp.bfloat16)
    assert asked == [(1, 4, 2, 8)]


def normal(seed, *shape):
    drawn = np.random.default_rng(seed).normal(size=shape)
    return drawn.astype(jnp.bfloat16)


def test_the_fused_function_is_the_same_function():
    """Text shared by the views: mapped over q alone, forward and back."""
    q, k, v = normal(0, 3, 1, 6, 2, 8), normal(1, 1, 5, 2, 8), normal(2, 1, 5, 2, 8)

    def total(attend, q, k, v):
        y = jax.vmap(attend, (0, None, None))(q, k, v)
        return jnp.sum(y.astype(jnp.float32) ** 2), y

    fused = partial(kernels.fused_attention, implementation="xla")
    for argument in (0, 1, 2):
        step = [
            jax.jit(jax.grad(partial(total, f), argument, has_aux=True))
            for f in (fused, layers.attention)
        ]
        (ours, y), (plain, want) = (f(q, k, v) for f in step)
        np.testing.assert_allclose(y, want, atol=0.03)
        np.testing.assert_allclose(ours, plain, atol=0.15, rtol=0.05)


def test_what_the_kernel_gets_is_mapped_alike():
    seen = []

    @jax.custom_batching.custom_vmap
    def kernel(q, k, v):
        return q

    @kernel.def_vmap
    def rule(size, mapped, q, k, v):
        seen.extend(mapped)
        return q, True

    q, k = (np.ones(shape, "f4") for shape in ((3, 1, 4, 2, 8), (1, 5, 2, 8)))
    jax.vmap(lambda q: kernel(*kernels.joined(q, k, k)))(q)
    assert seen == [True, True, True]
    joined = jax.device_get(kernels.joined(q[0], 2.0 * k, 3.0 * k))
    assert (joined[1] == 2.0).all()
    assert (joined[2] == 3.0).all()
