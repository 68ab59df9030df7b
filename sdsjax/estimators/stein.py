"""Stein Score Distillation: e_s + mu cv, with the control variate corrected.

cv = eps phi - sigma_t grad_{z_t} phi, phi(z_t) a scalar baseline. With z_t = alpha z +
sigma eps the density of z_t has the score -eps/sigma, and Stein's lemma gives E[cv] =
0. Printed (eqs. 8-9) is eps phi + grad phi, whose mean is not 0: at z = .7, alpha = .8,
sigma = .6 and phi = -z_t^2 it is -1.792. phi = -1 and mu = 1 is SDS exactly.
mu: fixed, or fitted to the second moment of the gradient on one step's noise and used
on the next step's (see stein_mu.py). phi and its gradient come from one value_and_grad.
Source: SteinDreamer (arXiv 2401.00604), eqs. 7-11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.diffusion import (
    NoiseSchedule,
    Weighting,
    alpha_sigma,
    weight_function,
)
from sdsjax.estimators.common import (
    draw_noise,
    from_direction,
    guidance,
    term_norms,
)
from sdsjax.estimators.stein_baseline import BASELINES
from sdsjax.estimators.stein_mu import (
    SHAPES,
    MuFit,
    fit_channels_in_theta,
    fit_elements_in_theta,
    fit_in_z,
)
from sdsjax.types import Estimator, keep_state

FITS = ("fixed", *SHAPES)
SPACES = ("z", "theta")
Baseline = str | Callable[..., jax.Array]


class SteinState(NamedTuple):
    """The state of Stein score distillation.

    mu: float32, (), [1 .. c] or z's shape; memory: what its fit carries on.
    """

    mu: jax.Array
    memory: Any


def control_variate(phi: Callable[[jax.Array], jax.Array], z_t, eps, sigma):
    """Returns (eps phi - sigma grad phi, phi) at z_t, of mean zero by Stein's lemma."""
    value, slope = jax.value_and_grad(phi)(z_t)
    return eps * value - sigma * slope, value


def _check_choice(what: str, value: str, allowed) -> None:
    if value not in allowed:
        raise ValueError(
            f"stein: unknown {what} {value!r}: choose one of {', '.join(allowed)}"
        )


def _check_prior(prior, baseline: Baseline) -> None:
    if baseline not in ("depth", "normal"):
        return
    if prior.group > 1:
        raise ValueError(
            f"stein: baseline {baseline!r} looks at one view, and this prior shows "
            f"{prior.group} together: choose baseline 'constant' or prior.group=1"
        )
    if prior.monocular is None or prior.decode is None:
        lacks = "decoder" if prior.decode is None else "monocular estimate"
        raise ValueError(
            f"stein: baseline {baseline!r} needs a prior with a {lacks}, and this one "
            "has none: choose baseline 'constant' or another prior"
        )


def _make_fit(fit: str, fit_space: str, decay: float, mu_lr: float) -> MuFit | None:
    _check_choice("fit", fit, FITS)
    _check_choice("fit_space", fit_space, SPACES)
    if not 0 <= decay < 1 or mu_lr <= 0:
        raise ValueError(
            f"stein: decay = {decay} must be in 0..1 and mu_lr = {mu_lr} positive"
        )
    if fit == "fixed":
        return None
    if fit_space == "z":
        return fit_in_z(SHAPES[fit], decay)
    if fit == "element":
        return fit_elements_in_theta(SHAPES[fit], mu_lr)
    return fit_channels_in_theta(SHAPES[fit], decay)


def _make_learn(
    fitted: MuFit, weighting: Weighting, schedule: NoiseSchedule
) -> Callable:
    weight = weight_function(schedule, weighting)

    def learn(prior, key, state, zs, ts, views, estimates, linear) -> SteinState:
        del prior, key, zs, views
        guided, control = estimates.aux["guided"], estimates.aux["control"]
        w = weight(ts).astype(guided.dtype).reshape(-1, *(1,) * (guided.ndim - 1))
        memory, mu = fitted.step(
            state.memory, state.mu, w * guided, w * control, linear
        )
        return SteinState(mu, memory)

    return learn


def stein(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 100.0,
    guidance_rescale: float = 0.0,
    weighting: Weighting = "sigma2",
    baseline: Baseline = "constant",
    mu: float = 1.0,
    fit: str = "fixed",
    fit_space: str = "z",
    decay: float = 0.99,
    mu_lr: float = 0.01,
) -> Estimator:
    """Makes Stein Score Distillation.

    baseline: "constant", "depth", "normal" (these need `prior.monocular`) or a function
    (prior, z_t, t, view) -> scalar; mu: its fixed or first value, 0: none. fit:
    "fixed", "scalar", "channel" or "element"; fit_space: "z" (closed form) or "theta"
    (through the renderer); decay: what a step keeps of the sums before; mu_lr: Adam's
    rate for elements in theta; guidance_rescale: see `common.guidance`. aux: norms of
    e_y and h, phi, and e_s (`guided`) and cv (`control`), z's shape. Raises ValueError
    for unknown values, in `init` for a prior that lacks what the baseline needs.
    """
    if isinstance(baseline, str):
        _check_choice("baseline", baseline, tuple(BASELINES))
    function = BASELINES[baseline] if isinstance(baseline, str) else baseline
    fitted = _make_fit(fit, fit_space, decay, mu_lr)
    guide = guidance(schedule, guidance_scale, guidance_rescale)

    def init(prior, key, z_spec) -> SteinState:
        del key
        _check_prior(prior, baseline)
        if fitted is None:
            return SteinState(jnp.full((), mu, jnp.float32), ())
        shape = tuple(z_spec.shape)
        first = jnp.full(fitted.shape(shape), mu, jnp.float32)
        return SteinState(first, fitted.init(shape))

    def direction(prior, key, state, z, t, view):
        eps, z_t = draw_noise(schedule, key, z, t)
        e = prior.noise(z_t, t, view, branches=("cond", "uncond"))
        guided = guide(z_t, t, e.cond, e.uncond)
        if fitted is None and mu == 0:
            return guided, {**term_norms(e.cond, e.uncond), "guided": guided}
        _, sigma = alpha_sigma(schedule, t, z.dtype)
        cv, phi = control_variate(
            lambda noisy: function(prior, noisy, t, view), z_t, eps, sigma
        )
        d = guided + state.mu.astype(z.dtype) * cv
        return d, {
            **term_norms(e.cond, e.uncond),
            "phi": phi,
            "guided": guided,
            "control": cv,
        }

    learn = keep_state if fitted is None else _make_learn(fitted, weighting, schedule)
    return from_direction(schedule, direction, weighting, init=init, learn=learn)
