"""Distillation runs scored against the true object: few compilations, many runs.

For experiments that compare settings on a prior of the toybox. What can be traced is
an argument of the compiled step: `settings` (a pytree of numbers and arrays: a guidance
scale, M, a table of timesteps), `rate` (a factor of every learning rate), the prior's
parameters, prompt among them, and the key. A run is training/train_step's, in the last
phase of its components; it draws what `sdsjax.training.train` draws from an equal seed.
Scores: toybox/scoring/score, on its held-out views on white; SHOWN is only looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdsjax.diffusion.timesteps import Sampler
from sdsjax.toybox.scoring import score as scoring
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.views import CANONICAL_ORBITS, DISTANCE, heldout_orbits
from sdsjax.training.train_step import INIT, init_state, make_train_step, step_keys
from sdsjax.types import Array, Estimator, PyTree

SHOWN = tuple((*orbit, DISTANCE) for orbit in CANONICAL_ORBITS[:4])  # front, left, ...
FIGURES = ("iou", "psnr", "ssim", "chamfer", "janus_rate")


class Outcome(NamedTuple):
    """The scores of a run, and what it looks like.

    truth: FIGURES by name (None: undefined); finite: whether every gradient and
    parameter was; strip: rgb [h 4 h 3] in [0, 1] of SHOWN, side by side; cpu_seconds:
    of the process, without compiling.
    """

    truth: dict[str, float | None]
    finite: bool
    strip: np.ndarray
    cpu_seconds: float


@cache
def true_views(prompt: str) -> tuple[scoring.Views, scoring.Views, scoring.Views]:
    """The truth at the held-out views, its front at each one's elevation, and SHOWN."""
    spec, held = parse_caption(prompt)[0], heldout_orbits()
    fronts = tuple((0.0, elevation, distance) for _, elevation, distance in held)
    every = scoring.true_views(spec, held + fronts + SHOWN, size=scoring.SIZE)
    n = len(held)
    return part(every, 0, n), part(every, n, 2 * n), part(every, 2 * n)


def part(views: scoring.Views, first: int, last: int | None = None) -> scoring.Views:
    """The views first <= i < last."""
    return scoring.Views(*(a[first:last] for a in views))


def side_by_side(views: scoring.Views) -> np.ndarray:
    """The pictures of n views beside each other, rgb [h n*w 3]."""
    return np.concatenate([*views.rgb], 1)


@partial(jax.jit, static_argnums=(0, 2, 3))
def drawn_times(sampler: Sampler, seed: int, steps: int, views: int) -> Array:
    """The timesteps [steps views], int32, that a run of that seed draws."""
    key = jax.random.key(seed)

    def one(index):
        return sampler(step_keys(key, index)["t"], index, steps, (views,))

    return jax.vmap(one)(jnp.arange(steps))


def from_table(times: Array) -> Sampler:
    """The sampler that reads t [steps views], which may be traced."""

    def quantile(u, step, total):
        raise ValueError("a table of t has no distribution: no strata, no importance")

    return Sampler(
        lambda key, step, total, shape: jnp.broadcast_to(times[step], shape), quantile
    )


def fall(share: float, total: Array | int) -> optax.Schedule:
    """The factor share ** (i / total) of a rate at update i, constant from total on."""
    return lambda count: share ** jnp.minimum(count / total, 1.0)


class ToyboxRuns:
    """Compiled steps and prompts' parameters, kept from run to run.

    build: (prompt, steps) -> what `training.build.build` makes of a config of that
    prompt and number of steps. Configs may differ in the prompt and in nothing else:
    source, representation, cameras and sampler are those of the first one built. So
    `sds:exact`, whose source holds the true pictures, needs one of these a prompt.
    falls_to: where it is given, the config's learning rates must be constant; a run's
    fall geometrically to this share of them over its steps, whose number is traced, so
    that one compilation serves runs of any length (`run` then needs a `sampler` that
    does not ask for the length, as `from_table`).
    """

    def __init__(self, build: Callable[[str, int], Any], falls_to: float | None = None):
        self.build, self.falls_to = build, falls_to
        self.first: Any = None
        self.prior_params: dict[str, PyTree] = {}
        self.optimizers: dict[int, optax.GradientTransformation] = {}
        self.steps_of: dict[tuple, tuple[Callable, Callable]] = {}
        self.draw: Callable | None = None

    def built(self, prompt: str) -> tuple[Any, PyTree]:
        """The components that were built first, and this prompt's prior parameters."""
        if prompt not in self.prior_params:
            found = self.build(prompt, 1)
            self.first = self.first or found
            self.prior_params[prompt] = found.source.params
        return self.first, self.prior_params[prompt]

    def compiled(
        self, name: Hashable, make: Callable, sampler: Callable | None, steps: int
    ) -> tuple[Callable, Callable]:
        """The jitted (start, step) of `run`, made once for each (name, steps).

        Or for each name, where the number of steps is traced.
        """
        length = steps if self.falls_to is None else 1
        if (name, length) in self.steps_of:
            return self.steps_of[name, length]
        first, prompt = self.first, next(iter(self.prior_params))
        if length not in self.optimizers:  # whose rates fall over so many steps
            self.optimizers[length] = self.build(prompt, length).optimizer
        adam, cameras = self.optimizers[length], first.phases[-1].cameras

        def made(settings, rate, total):
            parts = [adam, optax.scale(rate)]
            if self.falls_to is not None:
                parts.append(optax.scale_by_schedule(fall(self.falls_to, total)))
            return make(first.schedule, settings), optax.chain(*parts)

        def start(settings, rate, prior_params, key, total):
            return init_state(
                first.source, first.representation, *made(settings, rate, total),
                cameras, prior_params, jax.random.fold_in(key, INIT),
                recursive=first.recursive,
            )  # fmt: skip

        def step(settings, rate, state, prior_params, key, total):
            times = first.sampler if sampler is None else sampler(settings)
            train_step = make_train_step(
                first.source, first.representation, *made(settings, rate, total), times,
                cameras, total=total, recursive=first.recursive,
            )  # fmt: skip
            state, metrics = train_step(state, prior_params, key)
            return state, metrics["finite"]

        static = () if self.falls_to is not None else "total"
        found = (
            jax.jit(start, static_argnames=static),
            jax.jit(step, donate_argnums=2, static_argnames=static),
        )
        self.steps_of[name, length] = found
        return found

    def views(self, params: PyTree, rep_state: PyTree) -> scoring.Views:
        """Draws the held-out views, then SHOWN, on white; what is not finite is 0."""
        render = self.first.representation.render
        cameras = scoring.orbit_cameras(heldout_orbits() + SHOWN, scoring.SIZE)
        if self.draw is None:
            self.draw = jax.jit(
                lambda params, state: jax.lax.map(
                    lambda camera: render(params, state, camera, None)[:4], cameras
                )
            )
        drawn = jax.device_get(self.draw(params, rep_state))
        return scoring.Views(*(np.nan_to_num(a, posinf=0, neginf=0) for a in drawn))

    def run(
        self,
        name: Hashable,
        make: Callable[..., Estimator],
        settings: PyTree,
        *,
        prompt: str,
        seed: int,
        steps: int,
        rate: float = 1.0,
        sampler: Callable[[PyTree], Sampler] | None = None,
    ) -> Outcome:
        """Makes one run from the seed's start and scores it.

        make: (schedule, settings) -> estimator; sampler: settings -> sampler, the
        components' own without it. Both see traced settings, and are called once for
        each (name, steps): what cannot be traced belongs into the closure and the name.
        Raises captions.CaptionError for a prompt outside the toybox.
        """
        spec, _ = parse_caption(prompt)
        _, prior_params = self.built(prompt)
        begin, step = self.compiled(name, make, sampler, steps)
        key, rate = jax.random.key(seed), jnp.float32(rate)
        began, compiled = time.process_time(), 0.0
        state, finite = begin(settings, rate, prior_params, key, total=steps), True
        for index in range(steps):
            state, good = step(settings, rate, state, prior_params, key, total=steps)
            finite = finite & good
            if index == 0:
                jax.block_until_ready(state)
                compiled = time.process_time() - began
        finite = bool(finite)
        seconds = time.process_time() - began - compiled
        views, n = self.views(state.params, state.rep_state), len(heldout_orbits())
        truth, fronts, _ = true_views(prompt)
        found = scoring.compare(part(views, 0, n), truth, fronts, spec, scoring.SIZE)
        return Outcome(
            {figure: found[figure] for figure in FIGURES},
            finite,
            side_by_side(part(views, n)),
            round(seconds * steps / max(steps - 1, 1), 2),
        )
