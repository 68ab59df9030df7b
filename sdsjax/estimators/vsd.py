"""Variational Score Distillation, the direction e_s - e_psi(z_t; t, y, c).

e_psi, the prior's `adapter` (LoRA on a network, or the exact priors' affine one), is
trained in `learn` on what is rendered: |e_psi(sg(z)_t') - eps'|^2 with fresh t', eps',
so that it predicts the score of the renderings' distribution. With probability p the
camera is dropped there (its matrix becomes zeros, the null camera); at p = 1, for what
has no camera (a picture), e_psi never sees one.
With one z, a known camera and a converged psi, e_psi = eps and VSD is SDS, sample by
sample: a lower variance can only come from a psi that has not converged, that is, bias.
Particles: psi is shared; whichever particle is rendered in a step trains it.
Source: ProlificDreamer (arXiv 2305.16213), eq. 9 and alg. 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sdsjax.diffusion import NoiseSchedule, Weighting, add_noise
from sdsjax.estimators.common import (
    draw_noise,
    from_direction,
    guidance,
    term_norms,
)
from sdsjax.math import norm
from sdsjax.types import Estimator


class VSDState(NamedTuple):
    """The state of VSD.

    psi: the adapter's parameters; opt_state: its Adam's; loss: the last step's mean of
    |e_psi - eps'|^2 per element, float32 scalar.
    """

    psi: Any
    opt_state: Any
    loss: jax.Array


def vsd_direction(guided, adapted) -> jax.Array:
    """Returns e_s - e_psi, z's shape (eq. 9)."""
    return guided - adapted


def without_camera(view, drop):
    """Returns the view with a null camera (zeros) where `drop`.

    A view without a camera comes back unchanged.
    """
    if view is None or view.camera is None:
        return view
    matrix = view.camera.world_to_camera
    blank = jnp.where(drop, jnp.zeros_like(matrix), matrix)
    camera = dataclasses.replace(view.camera, world_to_camera=blank)
    return view._replace(camera=camera)


def noise_loss(schedule, adapter, psi, key, z, view, drop_camera: float) -> jax.Array:
    """Returns the mean of |e_psi(z_t') - eps'|^2 of one z over its elements, float32.

    t' is uniform over the schedule (alg. 1, line 7).
    """
    key_t, key_noise, key_drop = jax.random.split(key, 3)
    t = jax.random.randint(key_t, (), 0, schedule.num_steps)
    eps = jax.random.normal(key_noise, z.shape, z.dtype)
    seen = without_camera(view, jax.random.uniform(key_drop) < drop_camera)
    e = adapter.noise(psi, add_noise(schedule, z, eps, t), t, seen)
    return jnp.mean(((e - eps).astype(jnp.float32)) ** 2)


def check_adapter(prior) -> None:
    """Raises ValueError for a prior without an adapter."""
    if prior.adapter is None:
        raise ValueError(
            "vsd: this prior has no adapter, VSD's second network: choose a prior "
            "with one (stable_diffusion, multiview, gaussian_mixture, empirical)"
        )


def vsd(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    weighting: Weighting = "sigma2",
    adapter_lr: float = 1e-4,
    drop_camera: float = 0.1,
) -> Estimator:
    """Makes Variational Score Distillation (VSD).

    adapter_lr: Adam's rate for psi; drop_camera: p in 0..1 (1: no camera);
    guidance_rescale: see `common.guidance`. aux: norms of e_y, h and e_s - e_psi, and
    psi's last loss. Raises ValueError outside these ranges, in `init` for a prior
    without an adapter.
    """
    guided = guidance(schedule, guidance_scale, guidance_rescale)
    if adapter_lr < 0 or not 0 <= drop_camera <= 1:
        raise ValueError(
            f"vsd: adapter_lr = {adapter_lr} must be >= 0 and drop_camera = "
            f"{drop_camera} in 0..1"
        )
    adam = optax.adam(adapter_lr)

    def init(prior, key, z_spec) -> VSDState:
        del z_spec
        check_adapter(prior)
        psi = prior.adapter.init(key)
        return VSDState(psi, adam.init(psi), jnp.zeros(()))

    def direction(prior, key, state, z, t, view):
        _, z_t = draw_noise(schedule, key, z, t)
        e = prior.noise(z_t, t, view, branches=("cond", "uncond"))
        seen = without_camera(view, True) if drop_camera == 1 else view
        adapted = prior.adapter.noise(state.psi, z_t, t, seen)
        d = vsd_direction(guided(z_t, t, e.cond, e.uncond), adapted)
        aux = {"adapter_norm": norm(adapted), "adapter_loss": state.loss}
        return d, {
            **term_norms(e.cond, e.uncond),
            **{k: v.astype(z.dtype) for k, v in aux.items()},
        }

    def learn(prior, key, state, zs, ts, views, estimates, linear) -> VSDState:
        del ts, estimates, linear
        keys, zs = jax.random.split(key, zs.shape[0]), jax.lax.stop_gradient(zs)

        def loss(psi):
            def one(key, z, view):
                return noise_loss(
                    schedule, prior.adapter, psi, key, z, view, drop_camera
                )

            return jnp.mean(jax.vmap(one)(keys, zs, views))

        value, grads = jax.value_and_grad(loss)(state.psi)
        updates, opt_state = adam.update(grads, state.opt_state, state.psi)
        return VSDState(optax.apply_updates(state.psi, updates), opt_state, value)

    return from_direction(schedule, direction, weighting, init=init, learn=learn)
