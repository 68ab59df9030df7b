"""The exact prior of a run is made of the toybox's true renders.

Notation: n renders of c captions from `prior.views` azimuths and `prior.elevations`
each; x [h w 3] in [-1, 1]; z = x, or the latents [h w c] of `prior.vae_folder`. Angles
are degrees. The prior itself is `sdsjax.priors.empirical`; this module draws what it is
given.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax import priors
from sdsjax.cameras import Camera, orbit_position, resize_camera
from sdsjax.diffusion import SCHEDULES
from sdsjax.models.loading import hub
from sdsjax.toybox.world import renderer
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.objects import COLORS
from sdsjax.toybox.world.scene import SceneSpec, build_scene
from sdsjax.toybox.world.sheet import BACKDROP, render_specs
from sdsjax.toybox.world.views import FOV_DEG
from sdsjax.training.build.representation import background_of
from sdsjax.training.config import Config, ConfigError
from sdsjax.types import Array, PriorSource, PyTree

ELEVATION = 15.0  # of the renders that know no camera
CHUNK = 32  # pictures that the VAE encodes in one call


class _Renders(NamedTuple):
    # enters the jitted step: z of all renders, the VAE's parameters (or none)
    images: Array
    vae: PyTree


def _colors(spec: SceneSpec):
    return COLORS[spec.color], COLORS[spec.base_color or "white"]


def _orbits(config: Config) -> np.ndarray:
    """[k 3]: (azimuth, elevation, distance) of each caption's renders."""
    prior = config.prior
    distance = float(np.mean(config.camera.distance))
    turns = 360.0 * np.arange(prior.views) / prior.views
    elevations = (ELEVATION,) if prior.view_spread is None else prior.elevations
    return np.array([(turn, e, distance) for e in elevations for turn in turns])


def true_picture(spec: SceneSpec, background, size: int):
    """Makes camera -> x [size size 3], the spec's true picture; jit-able.

    Mapped cameras are rendered one by one: rays of one picture stop together, and a
    mapped scene would have every primitive computed for every ray.
    """
    scene, colors = build_scene(spec), _colors(spec)

    @jax.custom_batching.sequential_vmap
    def picture(camera: Camera):
        camera = resize_camera(camera, size, size)
        rgb = renderer.render(scene, camera, *colors, background).rgb
        return 2.0 * rgb - 1.0

    return picture


def _fixed_background(config: Config):
    """The run's background as rgb; ConfigError where it is another each step, which no
    set of renders can follow."""
    background = background_of(config.background)
    if background == "random":
        if config.prior.view_spread is None:
            return BACKDROP
        raise ConfigError(
            "prior.view_spread: the exact renders stand before one background, not "
            "before background = random: pass --config.background=white"
        )
    return background


def _negative(config: Config, specs, count: int):
    """The mask [n] of the negative prompt's renders, or None without one.

    Raises ConfigError for a negative prompt whose scene is not among them.
    """
    if not config.negative_prompt:
        return None
    avoided = parse_caption(config.negative_prompt)[0]
    negative = np.repeat([spec == avoided for spec in specs], count)
    if not negative.any():
        raise ConfigError(
            f"negative_prompt {config.negative_prompt!r}: the empirical prior only "
            "knows the prompt and prior.captions; add it to these"
        )
    return negative


def _latents(folder: str, images):
    """(z of images [n h w 3], the VAE's parameters, its `encode`, its `decode`)."""
    vae = hub.load_component(folder, "vae")
    module, config = vae.module, vae.config

    def encode(params, x):
        many = x if x.ndim == 4 else x[None]
        mean, _ = module.apply({"params": params}, many, method="encode")
        return config.to_latents(mean if x.ndim == 4 else mean[0])

    def decode(params, z) -> Array:
        many = z if z.ndim == 4 else z[None]
        given = config.from_latents(many)
        x: Any = module.apply({"params": params}, given, method="decode")
        return x if z.ndim == 4 else x[0]

    run = jax.jit(encode)
    parts = [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]
    z = np.concatenate([np.asarray(run(vae.params, part)) for part in parts])
    return z, vae.params, encode, decode


def true_renders(config: Config) -> PriorSource:
    """Makes the exact prior of true renders of the prompt and of `prior.captions`.

    `prior.view_spread` None: no camera; 0: the true picture from the step's camera;
    else the renders weighted by their angle to it. Raises ConfigError for a background
    that is not fixed where a camera is asked, and for a negative prompt whose scene is
    not among the renders.
    """
    prior, size = config.prior, config.resolution
    specs = [parse_caption(text)[0] for text in (config.prompt, *prior.captions)]
    background, orbits = _fixed_background(config), _orbits(config)
    spread, fov = prior.view_spread, FOV_DEG
    if spread is not None:
        fov = float(np.mean(config.camera.fov))
    shown = [spec for spec in specs for _ in orbits]
    rgb = render_specs(
        shown, [*orbits] * len(specs), size=size, background=background, fov=fov
    )
    images = 2.0 * rgb - 1.0
    azimuth, elevation, _ = np.tile(orbits, (len(specs), 1)).T
    directions = orbit_position(azimuth, elevation, 1.0).T
    kept = np.repeat(np.arange(len(specs)) == 0, len(orbits))
    negative = _negative(config, specs, len(orbits))
    z, vae, encode, decode = images, {}, lambda _, x: x, lambda _, z: z
    if prior.vae_folder:
        z, vae, encode, decode = _latents(prior.vae_folder, images)
    schedule = SCHEDULES[prior.schedule or "scaled_linear"]()
    picture = true_picture(specs[0], background, size)

    def bind(renders: _Renders):
        vae = renders.vae

        def seen(camera: Camera) -> Array:
            return encode(vae, picture(camera))

        return priors.empirical(
            schedule,
            renders.images,
            kept,
            negative=negative,
            variance=prior.variance,
            directions=None if spread is None else directions,
            view_spread=spread or 0.0,
            picture_at=seen if spread == 0 else None,
            encode=partial(encode, vae),
            decode=partial(decode, vae),
        )

    return PriorSource(_Renders(jnp.asarray(z), vae), bind, (size, size, 3))
