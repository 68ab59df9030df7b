"""A whole run without a renderer, against the same run step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.studies import exact_run
from sdsjax.types import Estimate, Estimator, NoisePrediction, Prior

STEPS, RATE, BATCH = 6, 0.1, 3
START = jnp.array([1.0, -2.0])


def prior():
    return Prior(None, lambda z, t, view: NoisePrediction(), lambda x: x)


def counting(image_share):
    """A descent direction that says its sample and key; learns how often it was."""

    def estimate(prior, key, state, z, t, view):
        del prior, view
        grad = (0.1 * t + jax.random.normal(key)) * z + state
        return Estimate(grad, {}, image_share * grad if image_share else None)

    def learn(prior, key, state, zs, t, view, estimates, linear):
        del prior, key, view
        moved = linear.pushforward(linear.pullback(estimates.grad))
        assert moved.shape == (1, *START.shape)
        return state + 0.01 * t.sum() + 0 * zs.sum()

    return Estimator(lambda prior, key, spec: jnp.zeros(spec.shape), estimate, learn)


def sampler(key, index, steps, shape):
    del key, steps
    return index + jnp.arange(shape[0])


def by_hand(key, image_share):
    """z after every second step: Adam with betas .9 and .99 at a rate that falls to a
    tenth, the mean of the batch, what the estimator learns after each step."""

    @jax.jit
    def drawn(key):
        def one(i):
            each = jax.random.split(jax.random.fold_in(key, i), 3)[1]
            return jax.vmap(jax.random.normal)(jax.random.split(each, BATCH))

        return jax.vmap(one)(jnp.arange(STEPS))

    draws = np.asarray(drawn(jax.random.split(key)[1]), float)
    z, mean, square, state = np.array(START, float), 0.0, 0.0, 0.0
    kept = [z]
    for i in range(STEPS):
        t = i + np.arange(BATCH)
        grad = ((0.1 * t + draws[i])[:, None] * z + state).mean(0) * (1 + image_share)
        state += 0.01 * t.sum()
        mean, square = 0.9 * mean + 0.1 * grad, 0.99 * square + 0.01 * grad**2
        sides = mean / (1 - 0.9 ** (i + 1)), square / (1 - 0.99 ** (i + 1))
        z = z - RATE * 0.1 ** (i / STEPS) * sides[0] / (np.sqrt(sides[1]) + 1e-8)
        kept += [z] if i % 2 else []
    return np.stack(kept)


def test_a_run_is_its_steps_one_by_one():
    """With gradients of the latent alone, and with one of the image beside it."""
    key, how = jax.random.key(5), {"steps": STEPS, "rate": RATE, "batch": BATCH}

    def run(image_share):
        given = prior(), counting(image_share), sampler
        return exact_run.distil(*given, START, key, parts=3, **how)

    shares = (0.0, 0.5)
    for share, trace in zip(shares, jax.jit(lambda: [run(s) for s in shares])()):
        assert trace.z.shape == (4, 2)
        np.testing.assert_allclose(trace.z, by_hand(key, share), rtol=1e-4)
        # 0.01 times the sums of i, i + 1, i + 2, over two steps a part
        sums = 0.01 * np.array([0, 9, 30, 63])
        np.testing.assert_allclose(trace.state[:, 0], sums, rtol=1e-5)


def test_parts_that_do_not_divide_the_steps_are_refused():
    with pytest.raises(ValueError, match="7 steps do not divide into 2 parts"):
        exact_run.distil(
            prior(), counting(0.0), sampler, START, None, steps=7, rate=1, parts=2
        )


def test_pictures_are_the_averages_of_renders_four_times_as_large(monkeypatch):
    from sdsjax.toybox.world import sheet

    asked = []

    def render_specs(specs, orbits, *, size):
        asked.append(([spec.kind for spec in specs], orbits, size))
        fine = np.tile(np.arange(4) / 4, size // 4)  # mean 3/8 of every 4 columns
        level = np.arange(len(specs))[:, None, None, None] / 10
        return level + np.broadcast_to(fine[:, None], (len(specs), size, size, 3)) / 10

    monkeypatch.setattr(sheet, "render_specs", render_specs)
    x = exact_run.toybox_pictures(["a red mug", "a blue ball"], views=3, size=2)
    assert x.shape == (2, 3, 2, 2, 3)
    ((kinds, orbits, size),) = asked
    assert (kinds, size) == (["mug"] * 3 + ["ball"] * 3, 8)
    assert orbits == [(0.0, 15.0), (120.0, 15.0), (240.0, 15.0)] * 2
    level = np.arange(6).reshape(2, 3, 1, 1, 1) / 10 + 0.0375
    np.testing.assert_allclose(x, 2 * level - 1 + np.zeros(x.shape), rtol=1e-6)


def test_a_caption_s_pictures_are_its_own_row():
    kept = exact_run.kept_by_caption(2, 3)
    np.testing.assert_array_equal(kept, [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])


def test_the_psnr_is_to_the_nearest_and_capped():
    pictures = jnp.stack([jnp.full((2, 2, 3), v) for v in (-0.5, 0.5, 1.0)])
    z = jnp.stack([jnp.full((2, 2, 3), v) for v in (0.3, 7.0, -0.5)])
    psnr = jax.jit(jax.vmap(exact_run.nearest_psnr, (0, None)))(z, pictures)
    # off by 0.2 of a span of 2; beyond 1 it is clipped, and right; the cap
    np.testing.assert_allclose(psnr, [20.0, 60.0, 60.0], rtol=1e-4)
