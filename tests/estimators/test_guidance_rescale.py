"""Guidance rescale, an option of every estimator with guidance (arXiv 2305.08891)."""

import inspect
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_prior import level
from test_estimators import CASES, HURRY, SCHEDULE, make

from sdsjax.diffusion import guide, guide_rescaled
from sdsjax.estimators import ESTIMATORS
from sdsjax.priors import gaussian_mixture
from sdsjax.types import Source

GROUP, VIEW = 4, (2, 3, 2)
WHOLE, FLAT = (GROUP, *VIEW), (GROUP * VIEW[0], *VIEW[1:])
KEY, T = jax.random.key(1), jnp.int32(700)
GUIDED = [
    case
    for case, (factory, _) in CASES.items()
    if "guidance_scale"
    in inspect.signature(ESTIMATORS.get(factory, factory)).parameters
]
# Several cases are one program: what they have in common is compiled once.
PROGRAMS = [tuple(GUIDED[i : i + 5]) for i in range(0, len(GUIDED), 5)]
in_one = jax.jit(guide_rescaled, static_argnames="guidance_rescale")


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_hand(z_t, t, cond, guided, phi):
    """zhat' = phi zhat_s std(zhat_y) / std(zhat_s) + (1 - phi) zhat_s, as noise."""
    alpha, sigma = level(t)
    z_t, cond, guided = (np.asarray(a, np.float64) for a in (z_t, cond, guided))
    zhat, plain = ((z_t - sigma * e) / alpha for e in (guided, cond))
    mixed = phi * zhat * plain.std() / zhat.std() + (1 - phi) * zhat
    return (z_t - alpha * mixed) / sigma


@cache
def prior(shape):
    """N(.1, .8) with the prompt, N(-.1, .5) with the negative one, else both: so near
    that a branch of the mixture never wins, and e_y - e_0 never vanishes."""
    means = 0.1 * np.stack([np.ones(shape), -np.ones(shape)])
    exact = gaussian_mixture(
        SCHEDULE, [1.0, 1.0], means, [0.8, 0.5], [True, False], negative=[False, True]
    )
    other = gaussian_mixture(
        SCHEDULE, [1.0, 1.0], means, [0.8, 0.5], [False, True]
    )  # of what is edited
    source = Source(other.noise, lambda view: jnp.full(shape, 0.2))
    return exact._replace(group=GROUP if shape == WHOLE else 1, source=source)


@cache
def estimate_of(case, shape, **extra):
    """A function of (key, z) that is traced once, wherever it is asked for."""
    estimator, p = make(case, guidance_scale=20.0, **extra), prior(shape)

    def estimate(key, z):
        state = estimator.init(p, jax.random.key(9), z)
        return estimator.estimate(p, key, state, z, T, None)

    return jax.jit(estimate)


HALF = {"guidance_rescale": 0.5}


@cache
def grads_of(cases):
    """By case: of a group as it was, of a group and of one tall view rescaled."""

    asked = (WHOLE, {}), (WHOLE, HALF), (FLAT, HALF)
    made = {
        case: [(shape, estimate_of(case, shape, **extra)) for shape, extra in asked]
        for case in cases
    }

    @partial(jax.jit, compiler_options=HURRY)
    def together(key, z):
        return {
            case: [one(key, z.reshape(shape)).grad for shape, one in of]
            for case, of in made.items()
        }

    return jax.device_get(together(KEY, drawn(0, *WHOLE)))


def test_which_estimators_have_guidance():
    names = {name for name in GUIDED if name in ESTIMATORS}
    assert names == {
        *("sds", "nfsd", "stein", "vsd", "denoised_l2", "sds_plus", "ism", "sdi"),
        *("dds", "pds"),
    }
    assert "image_space(vsd)" in GUIDED
    for case in set(CASES) - set(GUIDED):
        with pytest.raises(TypeError, match="guidance_rescale"):
            make(case, guidance_rescale=0.5)


def test_a_case_worked_out_by_hand():
    # alpha^2 = sigma^2 = 1/2 and z_t = sigma (4, 0): zhat_y = (4, 0) - e_y and so on
    root, times = np.float32([0.5**0.5]), np.int32(0)
    half, z_t = SCHEDULE._replace(alphas=root, sigmas=root), root * np.float32([4, 0])
    cond, uncond = np.float32([1, -1]), np.float32([2, 0])
    # s = 3: e_s = (-1, -3); zhat_s = (5, 3), std 1; zhat_y = (3, 1), std 1
    found = in_one(half, z_t, times, cond, uncond, 3.0, guidance_rescale=1.0)
    np.testing.assert_allclose(found, [-1, -3], atol=1e-5)
    # e_0 = (3, -1): e_s = (-3, -1); zhat_s = (7, 1), std 3: a third of it is (7/3, 1/3)
    e_0 = np.float32([3, -1])
    found = in_one(half, z_t, times, cond, e_0, 3.0, guidance_rescale=1.0)
    np.testing.assert_allclose(found, [5 / 3, -1 / 3], atol=1e-5)
    # by a half: zhat is the mean of both, (14/3, 2/3)
    found = in_one(half, z_t, times, cond, e_0, 3.0, guidance_rescale=0.5)
    np.testing.assert_allclose(found, [-2 / 3, -2 / 3], atol=1e-5)


@jax.jit
def not_rescaled(*at):
    """What a rescale of 0 makes, and guidance alone."""
    return guide_rescaled(SCHEDULE, *at, 0.0), guide(*at[2:])


@pytest.mark.parametrize("t", [20, 500, 980])
def test_the_formula_its_zero_and_its_scale(t):
    (z_t, cond, uncond), time, scale = drawn(t, 3, *WHOLE), np.int32(t), 30.0
    zero, guided = not_rescaled(z_t, time, cond, uncond, scale)
    np.testing.assert_array_equal(zero, guided)
    np.testing.assert_allclose(guided, uncond + 30 * (cond - uncond), rtol=1e-5)
    for phi in (0.3, 1.0):
        found = in_one(SCHEDULE, z_t, time, cond, uncond, scale, guidance_rescale=phi)
        expected = by_hand(z_t, t, cond, guided, phi)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        larger = in_one(
            *(SCHEDULE, 8 * z_t, time, 8 * cond, 8 * uncond, scale),
            guidance_rescale=phi,
        )
        np.testing.assert_allclose(larger, 8 * found, rtol=1e-5, atol=1e-4)
    # in full: the spread of the conditional estimate, and nothing at scale 1
    found = in_one(SCHEDULE, z_t, time, cond, uncond, 1.0, guidance_rescale=1.0)
    np.testing.assert_allclose(found, cond, atol=1e-5)


def test_a_constant_estimate_is_left_alone():
    z_t = np.zeros(VIEW, np.float32)
    found = in_one(SCHEDULE, z_t, T, z_t, z_t, 7.5, guidance_rescale=1.0)
    np.testing.assert_array_equal(found, z_t)


@pytest.mark.parametrize("case", GUIDED)
def test_contract_of_every_guided_estimator(case):
    """0 is what it was, a group is one sample, the type is kept, the shift is e_s'."""
    # not the jitted ones, which may have been traced within another program
    programs = [
        jax.make_jaxpr(estimate_of(case, WHOLE, **given).__wrapped__)
        for given in ({}, {"guidance_rescale": 0.0})
    ]
    z = drawn(0, *WHOLE)
    programs = [re.sub("0x[0-9a-f]+", "", str(made(KEY, z))) for made in programs]
    assert programs[0] == programs[1]
    together = next(cases for cases in PROGRAMS if case in cases)
    plain, grouped, flat = grads_of(together)[case]
    size = float(np.abs(flat).max())
    np.testing.assert_allclose(grouped.reshape(FLAT), flat, rtol=1e-4, atol=1e-5 * size)
    # a large scale spreads zhat: brought back, the direction is another
    assert float(np.abs(grouped - plain).max()) > 0.01 * size
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        half = jax.eval_shape(
            estimate_of.__wrapped__(case, WHOLE, **HALF),
            KEY,
            jax.ShapeDtypeStruct(WHOLE, jnp.bfloat16),
        )
    assert half.grad.dtype == jnp.bfloat16
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"guidance_rescale = .* in 0\.\.1"):
            make(case, guidance_rescale=bad)


ONE_STEP = ("sds", "nfsd", "stein", "vsd", "denoised_l2")


@cache
def steps_of():
    """By case: what the prior was shown and said, and the gradients at phi 0 and .7."""
    p = prior(WHOLE)

    def steps(case, z):
        seen, grads = {}, []

        def spy(z_t, t, view, branches=("cond", "uncond")):
            e = p.noise(z_t, t, view, branches)
            seen.update(z_t=z_t, cond=e.cond, uncond=e.uncond)
            return e

        kind = "alpha_over_sigma" if case == "denoised_l2" else "one"
        for phi in (0.0, 0.7):
            estimator = make(
                case, guidance_scale=20.0, guidance_rescale=phi, weighting=kind
            )
            state, spied = estimator.init(p, KEY, z), p._replace(noise=spy)
            grads.append(estimator.estimate(spied, KEY, state, z, T, None).grad)
        return seen, grads

    together = jax.jit(lambda z: {case: steps(case, z) for case in ONE_STEP})
    return jax.device_get(together(drawn(4, *WHOLE)))


@pytest.mark.parametrize("case", ONE_STEP)
def test_it_moves_the_direction_by_what_it_moves_e_s(case):
    """One step's direction holds e_s once, with factor 1 before the weighting."""
    seen, grads = steps_of()[case]
    guided = guide(seen["cond"], seen["uncond"], 20.0)
    moved = by_hand(seen["z_t"], int(T), seen["cond"], guided, 0.7) - guided
    np.testing.assert_allclose(
        grads[1] - grads[0], moved, atol=1e-4 * np.abs(guided).max()
    )


def test_guidance_may_lead_away_from_the_negative_prompt():
    """With e_neg in the place of e_0 it is the same formula (MVDream's code)."""
    p, z = prior(VIEW), drawn(4, *VIEW)
    options = {"guidance_scale": 20.0, "guidance_rescale": 0.5}
    away = make("denoised_l2", away_from="negative", **options)

    def renamed(z_t, t, view, branches=("cond", "uncond")):
        e = p.noise(z_t, t, view, ("cond", "negative"))
        return e._replace(uncond=e.negative, negative=None)

    plain = make("denoised_l2", **options)
    asked = (away, p), (plain, p._replace(noise=renamed)), (plain, p)

    @jax.jit
    def all_of(key, z):
        return [one.estimate(prior, key, (), z, T, None).grad for one, prior in asked]

    found, same, other = all_of(KEY, z)
    np.testing.assert_array_equal(found, same)
    assert float(np.abs(found - other).max()) > 0.1
    with pytest.raises(ValueError, match="away_from"):
        make("denoised_l2", away_from="cond")
