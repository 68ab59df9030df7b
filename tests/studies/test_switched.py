"""A switch over estimators is each of them, sample by sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diffusion import NoiseSchedule
from sdsjax.priors import gaussian_mixture
from sdsjax.studies.contestants import ENTRIES
from sdsjax.studies.exact_run import IDENTITY
from sdsjax.studies.switched import switched
from sdsjax.types import Estimate, Estimator

SCHEDULE = NoiseSchedule.scaled_linear()
MEANS, ONE = jnp.array([[0.5, -0.5], [-1.0, 1.0]]), jnp.ones(2)
PRIOR = gaussian_mixture(SCHEDULE, ONE, MEANS, ONE, [True, False])
NAMES = ("stein", "sds_plus")  # one learns, one has a gradient on the image


def one(name):
    return ENTRIES[name].make(SCHEDULE, ENTRIES[name].candidates[0])


@pytest.fixture(scope="module")
def step():
    """(index) -> (estimate, new state, old state) of all of NAMES, compiled once."""

    @jax.jit
    def step(index):
        return stepped(switched([one(name) for name in NAMES], index))

    return step


def stepped(estimator):
    key, zs = jax.random.key(3), jnp.stack([MEANS[0], 0.3 * MEANS[1]])
    ts = jnp.array([100, 700])
    state = estimator.init(PRIOR, key, jax.eval_shape(lambda: zs[0]))
    found = jax.vmap(lambda k, z, t: estimator.estimate(PRIOR, k, state, z, t, None))(
        jax.random.split(key, 2), zs, ts
    )
    new = estimator.learn(PRIOR, key, state, zs, ts, None, found, IDENTITY)
    return found, new, state


@pytest.mark.parametrize("name", NAMES)
def test_each_place_is_its_estimator(step, name):
    place = NAMES.index(name)
    (found, new, old), (wanted, learnt, _) = (
        step(place),
        jax.jit(lambda: stepped(one(name)))(),
    )
    np.testing.assert_allclose(found.grad, wanted.grad, rtol=1e-5, atol=1e-6)
    image = jnp.zeros(()) if wanted.image_grad is None else wanted.image_grad
    np.testing.assert_allclose(
        found.image_grad, image + 0 * found.image_grad, rtol=1e-5
    )
    for key, value in wanted.aux.items():
        np.testing.assert_allclose(found.aux[key], value, rtol=1e-4, atol=1e-6)
    for other in range(len(NAMES)):
        expected = learnt if other == place else old[other]
        for a, b in zip(jax.tree.leaves(new[other]), jax.tree.leaves(expected)):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_names_of_two_shapes_are_refused():
    def made(shape):
        def estimate(prior, key, state, z, t, view):
            return Estimate(z, {"x": jnp.zeros(shape)})

        return Estimator(lambda *_: (), estimate)

    both = switched([made(()), made((2,))], jnp.int32(0))
    with pytest.raises(ValueError, match="name them apart"):
        both.estimate(PRIOR, jax.random.key(0), ((), ()), MEANS[0], 5, None)
