"""A group of views is one sample: norms, products and noise run over all of it."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_estimators import CASES, HURRY, SCHEDULE, make
from test_estimators import prior as of_views
from test_guidance_rescale import GUIDED

GROUP, VIEW = 4, (2, 3, 2)
WHOLE, FLAT = (GROUP, *VIEW), (GROUP * VIEW[0], *VIEW[1:])
T = jnp.int32(300)


@cache
def prior(shape):
    """The prior of single views, over a group's numbers in one layout or the other."""
    return of_views(SCHEDULE, shape)._replace(group=GROUP if shape == WHOLE else 1)


def estimate_of(case, shape):
    estimator, p = make(case), prior(shape)

    def estimate(key, z):
        state = estimator.init(p, jax.random.key(9), z)
        return estimator.estimate(p, key, state, z, T, None)

    return estimate


# Several cases are one program: what they have in common is compiled once. Those with
# guidance are asked the same with its rescaling, by test_guidance_rescale.
QUICK = tuple(case for case in CASES if case not in GUIDED)
PROGRAMS = [QUICK, *(tuple(GUIDED[i : i + 5]) for i in range(0, len(GUIDED), 5))]
MAPPED = ("ssd", "vsd", "stein:element", "sds_plus")


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@cache
def estimates_of(cases):
    """By case: the estimates of one group, and of the same numbers as a tall view."""
    made = {c: [estimate_of(c, shape) for shape in (WHOLE, FLAT)] for c in cases}

    @partial(jax.jit, compiler_options=HURRY)
    def both(key, z):
        return {
            case: (grouped(key, z), flat(key, z.reshape(FLAT)))
            for case, (grouped, flat) in made.items()
        }

    return jax.device_get(both(jax.random.key(2), drawn(0, *WHOLE)))


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow if c in GUIDED else ()) for c in CASES],
)
def test_a_group_is_one_sample_of_all_its_numbers(case):
    """The same numbers laid out as one taller view give the same estimate, bit for
    bit in the noise and to rounding in the rest: nothing is done view by view."""
    together = next(cases for cases in PROGRAMS if case in cases)
    grouped, flat = estimates_of(together)[case]
    assert grouped.grad.shape == WHOLE
    scale = 1e-5 * (1.0 + float(np.abs(flat.grad).max()))
    np.testing.assert_allclose(
        grouped.grad.reshape(FLAT), flat.grad, rtol=1e-4, atol=scale
    )
    if flat.image_grad is not None:
        assert grouped.image_grad.shape == WHOLE
        np.testing.assert_allclose(
            grouped.image_grad.reshape(FLAT), flat.image_grad, rtol=1e-4, atol=scale
        )


@cache
def mapped_and_looped():
    """By case: the gradients of three groups, mapped over them and one by one."""
    made = {case: estimate_of(case, WHOLE) for case in MAPPED}

    def one(key, z):
        return {case: of(key, z).grad for case, of in made.items()}

    zs, keys = drawn(1, 3, *WHOLE), jax.random.split(jax.random.key(3), 3)
    hurried = partial(jax.jit, compiler_options=HURRY)
    mapped, alone = hurried(jax.vmap(one))(keys, zs), hurried(one)
    looped = [jax.device_get(alone(key, z)) for key, z in zip(keys, zs)]
    return {c: (mapped[c], np.stack([each[c] for each in looped])) for c in MAPPED}


@pytest.mark.parametrize("case", MAPPED)
def test_mapped_over_groups_it_is_the_loop(case):
    together, alone = mapped_and_looped()[case]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
