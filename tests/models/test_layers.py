"""Layers against plain formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sdsjax.models import layers

attention = jax.jit(layers.attention)


def normals(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_group_norm_far_from_zero(offset):
    x = normals(0, 2, 5, 3, 12) + np.float32(offset)
    params = {"scale": normals(1, 12), "bias": normals(2, 12)}
    y = jax.jit(layers.GroupNorm(4, 1e-6).apply)({"params": params}, x)
    wide = x.astype(np.float64).reshape(2, 15, 4, 3)
    mean = wide.mean((1, 3), keepdims=True)
    std = np.sqrt(wide.var((1, 3), keepdims=True) + 1e-6)
    expected = ((wide - mean) / std).reshape(x.shape) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, atol=2e-6 * max(1.0, offset))


def test_norms_keep_float32_statistics_in_bfloat16():
    x = (1000.0 + normals(0, 1, 8, 8, 4)).astype(np.float32)
    for module in (layers.GroupNorm(2, 1e-6, jnp.bfloat16), layers.LayerNorm()):
        y, variables = jax.jit(module.init_with_output)(jax.random.key(0), x)
        assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        assert abs(np.asarray(y).astype(np.float32).std() - 1.0) < 0.02


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_softmax(causal):
    q, k, v = (5.0 * normals(i, 2, 7, 3, 4) for i in range(3))
    mask = np.tril(np.ones((7, 7), bool)) if causal else None
    logits = np.einsum("bqhd,bkhd->bhqk", q.astype(np.float64), k) / 2.0
    if causal:
        logits = np.where(mask, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, v)
    found = attention(q, k, v, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_attention_stays_finite_at_any_scale():
    q = np.full((1, 3, 1, 8), 300.0, jnp.bfloat16)
    k = np.concatenate([q[:, :1], -q[:, 1:]], axis=1)
    gradient = jax.jit(jax.grad(lambda q, k: layers.attention(q, k, k).sum()))(q, k)
    assert np.isfinite(np.asarray(gradient).astype(np.float32)).all()


def test_attention_gradient_matches_finite_differences():
    q, k, v = (normals(i, 1, 4, 2, 3) for i in range(3))
    check_grads(attention, (q, k, v), order=1, rtol=2e-2)


def test_upsample_repeats_each_pixel():
    x = normals(0, 2, 3, 4, 5)
    expected = x.repeat(2, axis=1).repeat(2, axis=2)
    found = jax.jit(layers.upsample_nearest)(x)
    np.testing.assert_array_equal(found, expected)


def test_timestep_embedding_order_and_frequencies():
    t = np.array([0, 1, 999])
    rates = 10000.0 ** (-np.arange(4) / 4)
    phase = t[:, None] * rates
    expected = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    found = jax.jit(layers.timestep_embedding, static_argnums=1)(t, 8)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_asymmetric_downsampling_pads_right_and_bottom():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 3, 3] = 1.0
    kernel = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1)
    variables = {"params": {"conv": {"kernel": kernel, "bias": np.zeros(1)}}}
    y = jax.jit(layers.Downsample(1, asymmetric=True).apply)(variables, x)
    # the last window covers rows 2, 3 and the padding: (3, 3) lies under kernel (1, 1)
    np.testing.assert_array_equal(np.asarray(y)[0, :, :, 0], [[0.0, 0.0], [0.0, 4.0]])
