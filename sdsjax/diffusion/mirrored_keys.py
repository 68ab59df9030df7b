"""Random keys in pairs: what one of a pair draws is the mirror image of the other's.

A mirrored key is a threefry key and one more word; where that word is 1, every bit that
is drawn is complemented, in whatever is split or folded from the key too. A uniform u
becomes 1 - u and a normal eps becomes -eps, each to the rounding of `jax.random` (about
1e-7 in u, since its floats leave out one end). The unmirrored key of a pair draws what
the plain key draws, bit for bit.
The sign travels in the key because that is all an estimator is given to draw from: its
signature stays as it is, and one that was written elsewhere, without `draw_noise`,
gets antithetic noise as well.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.extend import random as extended

_THREEFRY = extended.threefry_prng_impl
_WORDS = 2


def _with_flag(words, flag):
    flag = jnp.broadcast_to(flag, words.shape[:-1])
    return jnp.concatenate([words, flag[..., None].astype(words.dtype)], axis=-1)


def _seed(seed):
    return _with_flag(_THREEFRY.seed(seed), jnp.uint32(0))


def _split(data, shape):
    return _with_flag(_THREEFRY.split(data[:_WORDS], shape), data[_WORDS])


def _fold_in(data, number):
    return _with_flag(_THREEFRY.fold_in(data[:_WORDS], number), data[_WORDS])


def _random_bits(data, bit_width, shape):
    bits = _THREEFRY.random_bits(data[:_WORDS], bit_width, shape)
    # 0 - 1 wraps round to all ones: the complement
    return bits ^ (jnp.zeros((), bits.dtype) - data[_WORDS].astype(bits.dtype))


MIRRORED = extended.define_prng_impl(
    key_shape=(_WORDS + 1,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="mirrored_threefry",
    tag="mirrored",
)


def mirrored_pairs(keys: jax.Array) -> jax.Array:
    """Makes keys [2 n] of keys [n]: each, and right after it its mirror image.

    Raises ValueError for keys that are not threefry's, JAX's default.
    """
    words = jax.random.key_data(keys)
    if words.shape[1:] != (_WORDS,):
        raise ValueError(
            "antithetic noise mirrors the bits of threefry keys, and these are "
            f"{jax.random.key_impl(keys)}: leave JAX_DEFAULT_PRNG_IMPL unset"
        )
    flags = jnp.tile(jnp.arange(2, dtype=jnp.uint32), words.shape[0])
    return jax.random.wrap_key_data(
        _with_flag(jnp.repeat(words, 2, axis=0), flags), impl=MIRRORED
    )
