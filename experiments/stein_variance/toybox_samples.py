"""Samples of every estimator at one place of a run on toybox-sd; see toybox.py.

Notation: a = w e_s, c = w (eps phi - sigma grad phi), a phi for each baseline; G = a +
mu c in z, d elements; J^T G the same in theta. J does not change between samples, so
J J^T is found once: |J^T G| = |R G| with R its symmetric root [d d].
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.cameras import orbit_camera
from sdsjax.diagnostics.gradient_stats import linearise
from sdsjax.diffusion import weight_function
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.common import draw_noise
from sdsjax.estimators.stein import SteinState
from sdsjax.training.build import RunComponents
from sdsjax.training.encoding import bind, to_latent
from sdsjax.training.pullback import floating, merge
from sdsjax.types import Estimator

SAMPLER = TIMESTEPS["uniform"]()
PLAIN = {"guidance_scale": 7.5, "weighting": "sigma2"}
BASELINES = ("constant", "depth", "normal")
ORBIT = (30.0, 15.0, 3.1)  # azimuth, elevation, distance of the view that is measured


def steins(schedule, **settings) -> dict[str, Estimator]:
    """Stein under each of BASELINES, by name."""
    make = partial(ESTIMATORS["stein"], schedule, **PLAIN, **settings)
    return {name: make(baseline=name) for name in BASELINES}


def repeating(prior, e):
    """The prior that repeats the answer `e`, whatever z_t it is asked about.

    So estimators with equal keys and one z_t share one evaluation.
    """

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        del z_t, t, view
        return e._replace(**{b: None for b in e._fields if b not in branches})

    return prior._replace(noise=noise)


class Terms(NamedTuple):
    """What makes up the gradients of one (t, eps), or of n.

    t; a; c, by BASELINES; VSD's and SSD's gradients; SDS at the same t with another
    eps.
    """

    t: jax.Array
    a: jax.Array
    c: dict[str, jax.Array]
    vsd: jax.Array
    ssd: jax.Array
    again: jax.Array


def terms(schedule, vsd, prior, z, view, vsd_state, key) -> Terms:
    """One sample of everything, from a single evaluation of the prior and SDS's own."""
    key_t, key_noise, key_again = jax.random.split(key, 3)
    t = SAMPLER(key_t, 0, 1, ())
    _, z_t = draw_noise(schedule, key_noise, z, t)
    known = repeating(prior, prior.noise(z_t, t, view))
    w, one = weight_function(schedule, "sigma2")(t), SteinState(jnp.ones(()), ())
    found = {
        name: estimator.estimate(known, key_noise, one, z, t, view).aux
        for name, estimator in steins(schedule).items()
    }
    sds = ESTIMATORS["sds"](schedule, **PLAIN)
    ssd = ESTIMATORS["ssd"](schedule, threshold=500)
    return Terms(
        t,
        w * found["constant"]["guided"],
        {name: w * aux["control"] for name, aux in found.items()},
        vsd.estimate(known, key_noise, vsd_state, z, t, view).grad,
        ssd.estimate(known, key_noise, (), z, t, view).grad,
        sds.estimate(prior, key_again, (), z, t, view).grad,
    )


class Sampling:
    """What is drawn at a TrainState of the VSD run: its view on white, samples, R."""

    def __init__(self, built: RunComponents, count: int, chunk: int):
        self.built, self.count, self.chunk = built, count, chunk
        # A chunk a call: inside a loop of XLA's the gradients of convolutions take six
        # times as long on a CPU.
        self.samples_of = jax.jit(self._samples)
        self.rows_of = jax.jit(self._rows)

    def here(self, state, prior):
        """The measured view and its linearisation at this state."""
        camera = orbit_camera(*ORBIT, fov=40.0, width=64, height=64)
        shown = self.built.representation

        def forward(theta, camera):
            params = merge(theta, state.params)
            drawn = shown.render(params, state.rep_state, camera, None)
            return to_latent(self.built.source, prior, shown.space, drawn.rgb), drawn

        return linearise(forward, floating(state.params), camera)

    def _samples(self, state, prior_params, keys) -> Terms:
        prior, built = bind(self.built.source, prior_params), self.built
        at = self.here(state, prior)
        return jax.vmap(
            lambda key: terms(
                built.schedule, built.estimator, prior, at.z, at.view,
                state.estimator_state, key,
            )
        )(keys)  # fmt: skip

    def _rows(self, state, prior_params, directions):
        # J^T of each direction in z, as one line of numbers
        at = self.here(state, bind(self.built.source, prior_params))

        def pull(g):
            leaves = jax.tree.leaves(at.pull((g, jnp.zeros_like(at.x)))[0])
            return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])

        return jax.vmap(pull)(directions)

    def samples(self, state) -> Terms:
        """The samples, as numpy arrays [count ...]."""
        params, chunk = self.built.source.params, self.chunk
        keys = jax.random.split(jax.random.key(3), self.count)
        found = [
            jax.device_get(self.samples_of(state, params, keys[i : i + chunk]))
            for i in range(0, self.count, chunk)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def root(self, state, shape) -> np.ndarray:
        """The root R [d d] of J J^T, d elements of z's shape."""
        d, params = int(np.prod(shape)), self.built.source.params
        one, chunk = np.eye(d, dtype=np.float32).reshape(d, *shape), self.chunk
        rows = np.concatenate(
            [
                np.asarray(self.rows_of(state, params, one[i : i + chunk]))
                for i in range(0, d, chunk)
            ]
        )
        values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
        return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
