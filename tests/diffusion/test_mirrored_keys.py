"""Mirrored keys: a plain key's draws and their negatives, however a key is used."""

import jax
import numpy as np
import pytest

from sdsjax.diffusion import NoiseSchedule
from sdsjax.diffusion.mirrored_keys import mirrored_pairs
from sdsjax.estimators.common import draw_noise

KEYS = jax.random.split(jax.random.key(3), 4)
PAIRS = mirrored_pairs(KEYS)


@jax.jit
@jax.vmap
def draws(key):
    """What an estimator may do with its key."""
    first, rest = jax.random.split(key)
    walk = jax.lax.scan(
        lambda at, key: (at + jax.random.normal(key), at), 0.0, jax.random.split(rest)
    )[0]
    return {
        "normal": jax.random.normal(first, (5000,)),
        "walk": walk,
        "folded": jax.random.normal(jax.random.fold_in(rest, 7), (3, 2)),
        "uniform": jax.random.uniform(rest, (500,)) - 0.5,
    }


def test_the_first_draws_as_the_plain_key_and_the_second_its_mirror_image():
    plain, pairs = jax.device_get((draws(KEYS), draws(PAIRS)))
    for name, value in plain.items():
        np.testing.assert_array_equal(value, pairs[name][::2], name)
        np.testing.assert_allclose(-value, pairs[name][1::2], atol=1e-3, err_msg=name)


def test_the_common_noise_of_estimators_is_mirrored():
    schedule, z = NoiseSchedule.scaled_linear(), np.ones((4, 4, 3), np.float32)
    draw = jax.jit(jax.vmap(lambda key: draw_noise(schedule, key, z, 300)))
    eps, z_t = jax.device_get(draw(PAIRS))
    np.testing.assert_allclose(eps[::2], -eps[1::2], atol=1e-5)
    alpha = float(np.asarray(schedule.alphas)[300])
    np.testing.assert_allclose((z_t[::2] + z_t[1::2]) / 2, alpha, atol=1e-5)


def test_mirrored_noise_is_standard_normal():
    eps = np.asarray(draws(PAIRS)["normal"])[1::2]
    assert abs(eps.mean()) < 4 / eps.size**0.5
    assert abs(eps.var() - 1) < 4 * (2 / eps.size) ** 0.5


def test_keys_in_turns_and_in_lax_map():
    mapped = jax.jit(lambda keys: jax.lax.map(jax.random.normal, keys, batch_size=2))
    np.testing.assert_allclose(
        mapped(PAIRS), jax.vmap(jax.random.normal)(PAIRS), rtol=1e-6
    )


def test_other_keys_than_threefry_are_refused():
    with pytest.raises(ValueError, match="threefry"):
        mirrored_pairs(jax.random.split(jax.random.key(0, impl="rbg"), 2))
