"""The exact prior with its dial turned by a number: one compilation for all spreads.

As of `sds:exact`, with three differences. All prompts of the season are the captions it
tells apart, whichever is asked for, so that the unconditional branch is one and the
same. The dial is a switch over three priors, a traced number saying which. At spread 0
the prompt's picture from the step's camera is looked up among those of the run's own
cameras, rendered beforehand: every run of a seed sees the same cameras, so that it is
drawn once for all estimators.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from season import REPORT, SPREADS, TUNE

from sdsjax import priors
from sdsjax.cameras import Camera
from sdsjax.cli.checks import resolve
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.training.build import RunComponents, build
from sdsjax.training.build.true_renders import true_picture, true_renders
from sdsjax.training.train_step import step_keys
from sdsjax.types import Array, PriorSource

CAPTIONS = (*REPORT, *TUNE)


class Dial(NamedTuple):
    """What the prior is told, as an argument of the compiled step.

    renders: the true renders, the prompt's first, and the VAE; matrices [m 4 4],
    pictures [m h w c]: the run's cameras and the prompt's latents there; place: which
    of SPREADS.
    """

    renders: Any
    matrices: Array
    pictures: Array
    place: Array


def looked_up(matrices: Array, pictures: Array, camera: Camera) -> Array:
    """The picture whose camera is that one, or the nearest to it in its matrix."""
    apart = jnp.sum((matrices - camera.world_to_camera) ** 2, (1, 2))
    return pictures[jnp.argmin(apart)]


def dial_source(given: dict) -> tuple[RunComponents, PriorSource]:
    """Builds `sds:exact` of the first caption: (its components, the dial's source).

    given: other keys of the config. The source's parameters are those of `told`, before
    any cameras are known.
    """
    first, *others = CAPTIONS
    said = {"prompt": first, "prior.captions": tuple(others), **given}
    config = {
        name: resolve("sds:exact", {**said, "prior.view_spread": spread})
        for name, spread in SPREADS.items()
        if spread
    }
    built = build(config["exact-20"])
    wide = true_renders(config["exact-45"])
    variance = config["exact-20"].prior.variance
    count = built.source.params.images.shape[0]
    kept = np.arange(count) < count // len(CAPTIONS)

    def bind(told: Dial):
        middle, ambiguous = (s.bind(told.renders) for s in (built.source, wide))
        certain = priors.empirical(
            middle.schedule, told.renders.images, kept, variance=variance,
            picture_at=partial(looked_up, told.matrices, told.pictures),
        )  # fmt: skip
        ordered = [certain.noise, middle.noise, ambiguous.noise]

        def noise(z_t, t, view=None, branches=("cond", "uncond")):
            def of(one):
                return lambda z_t, t, view: one(z_t, t, view, branches)

            return jax.lax.switch(
                told.place, [of(one) for one in ordered], z_t, t, view
            )

        return middle._replace(noise=noise)

    shape = built.source.params.images.shape[1:]
    nothing = Dial(
        built.source.params, jnp.zeros((1, 4, 4)), jnp.zeros((1, *shape)), jnp.int32(0)
    )
    return built, PriorSource(nothing, bind, built.source.image_shape)


def of_prompt(renders: Any, prompt: str) -> Any:
    """The renders of all captions, this prompt's first."""
    count = len(renders.images) // len(CAPTIONS)
    first = CAPTIONS.index(prompt) * count
    turned = jnp.roll(renders.images, -first, axis=0)
    return renders._replace(images=turned)


class Seen:
    """The prompt's latents from a run's cameras, drawn once for a prompt and seed."""

    def __init__(self, built: RunComponents, background, steps: int):
        self.cameras, self.size = built.phases[-1].cameras, built.image_shape[0]
        self.params, self.background, self.steps = (
            built.source.params, background, steps,
        )  # fmt: skip
        self.encode = jax.jit(lambda params, x: built.source.bind(params).encode(x))
        self.kept: dict[tuple[str, int], tuple[Array, Array]] = {}

    def at(self, prompt: str, seed: int) -> tuple[Array, Array]:
        """(matrices [m 4 4], latents [m h w c]) of the cameras of all steps."""
        if (prompt, seed) not in self.kept:
            self.kept[prompt, seed] = self._drawn(prompt, seed)
        return self.kept[prompt, seed]

    def _drawn(self, prompt: str, seed: int) -> tuple[Array, Array]:
        key = jax.random.key(seed)

        def one(step) -> Camera:
            return self.cameras(step_keys(key, step)["camera"])

        drawn = jax.jit(jax.vmap(one))(jnp.arange(self.steps))
        flat = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), drawn)
        picture = true_picture(parse_caption(prompt)[0], self.background, self.size)
        x = jax.jit(lambda cameras: jax.lax.map(picture, cameras))(flat)
        z = [self.encode(self.params, part) for part in jnp.split(x, self.steps)]
        return flat.world_to_camera, jnp.concatenate(z)
