"""A group of views is one sample: norms, products and noise run over all of it."""

from functools import cache

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


@cache
def estimate_of(case, shape):
    estimator, p = make(case), prior(shape)

    def estimate(key, z):
        state = estimator.init(p, jax.random.key(9), z)
        return estimator.estimate(p, key, state, z, T, None)

    return jax.jit(estimate, compiler_options=HURRY)


# Those with guidance are asked the same with its rescaling, by test_guidance_rescale.
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow if c in GUIDED else ()) for c in CASES],
)
def test_a_group_is_one_sample_of_all_its_numbers(case):
    """The same numbers laid out as one taller view give the same estimate, bit for
    bit in the noise and to rounding in the rest: nothing is done view by view."""
    key, z = jax.random.key(2), jax.random.normal(jax.random.key(0), WHOLE)
    grouped = estimate_of(case, WHOLE)(key, z)
    flat = estimate_of(case, FLAT)(key, z.reshape(FLAT))
    assert grouped.grad.shape == WHOLE
    scale = 1e-5 * (1.0 + float(jnp.abs(flat.grad).max()))
    np.testing.assert_allclose(
        grouped.grad.reshape(FLAT), flat.grad, rtol=1e-4, atol=scale
    )
    if flat.image_grad is not None:
        assert grouped.image_grad.shape == WHOLE
        np.testing.assert_allclose(
            grouped.image_grad.reshape(FLAT), flat.image_grad, rtol=1e-4, atol=scale
        )


@pytest.mark.parametrize("case", ["ssd", "vsd", "stein:element", "sds_plus"])
def test_mapped_over_groups_it_is_the_loop(case):
    zs = jax.random.normal(jax.random.key(1), (3, *WHOLE))
    keys = jax.random.split(jax.random.key(3), 3)
    one = estimate_of(case, WHOLE)
    together = jax.jit(jax.vmap(one.__wrapped__), compiler_options=HURRY)(keys, zs)
    alone = jnp.stack([one(key, z).grad for key, z in zip(keys, zs)])
    np.testing.assert_allclose(together.grad, alone, rtol=1e-4, atol=1e-5)
