"""From a config to the pieces of a run: the only place where a config meets the rooms.

Names are resolved in literal dicts; from here on everything is functions and arrays.
Nothing is written to disk. Colours rgb in [0, 1], images x in [-1, 1], angles degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdsjax import priors
from sdsjax.cameras import Camera, OrbitRange, random_orbits
from sdsjax.diffusion import NoiseSchedule
from sdsjax.diffusion.prompts import VIEW_WORDS
from sdsjax.diffusion.timesteps import TIMESTEPS, Sampler
from sdsjax.estimators import ESTIMATORS
from sdsjax.representations import REPRESENTATIONS, gaussians, image, radiance_field
from sdsjax.training.build_supervision import DEPTH, build_supervision
from sdsjax.training.config import Config, ConfigError
from sdsjax.training.optimizers import exponential_decay, grouped_adam
from sdsjax.training.supervision import Penalty
from sdsjax.types import Estimator, PriorSource, Representation

# Sections that hold a name and its factory's keyword arguments.
FACTORIES = {
    "estimator": ESTIMATORS,
    "timesteps": TIMESTEPS,
    "representation": REPRESENTATIONS,
}
# What `losses` may weigh, by representation.
LOSSES = {
    "gaussians": (*gaussians.REGULARIZERS, DEPTH),
    "image": tuple(image.REGULARIZERS),
    "nerf": (*radiance_field.REGULARIZERS, DEPTH),
}
BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


class Phase(NamedTuple):
    """Steps first <= i < last at one resolution and batch size.

    cameras: key -> a batch [batch_size] of random views of that resolution.
    """

    first: int
    last: int
    resolution: int
    batch_size: int
    cameras: Callable[[jax.Array], Camera]


class Pieces(NamedTuple):
    """All that a run is made of.

    image_shape: (h, w, c) of the last phase's views; fields: the parameter groups;
    orbit: where views are drawn; phases: one or more, in order, covering all steps;
    supervise: what else is asked of renderings, or None (supervision.py).
    """

    source: PriorSource
    schedule: NoiseSchedule
    representation: Representation
    estimator: Estimator
    optimizer: optax.GradientTransformation
    sampler: Sampler
    orbit: OrbitRange
    phases: tuple[Phase, ...]
    image_shape: tuple[int, int, int]
    fields: tuple[str, ...]
    supervise: Penalty | None = None


def arguments(section: Config) -> dict:
    """A named section without its name: the keyword arguments of its factory."""
    return {key: value for key, value in section.items() if key != "name"}


def background(text: str) -> str | tuple[float, ...]:
    """ "random" stays, "white", "black" and "r,g,b" in [0, 1] become a colour.

    Raises ConfigError for anything else.
    """
    if text == "random":
        return text
    if text in BACKGROUNDS:
        return BACKGROUNDS[text]
    try:
        color = tuple(float(part) for part in text.strip("() ").split(","))
    except ValueError:
        color = ()
    if len(color) != 3 or not all(0.0 <= c <= 1.0 for c in color):
        raise ConfigError(
            f"background {text!r}: choose random, white, black or r,g,b, each in [0, 1]"
        )
    return color


def _folder_and_prompt(config: Config) -> dict[str, Any]:
    # what the loaders of networks that read a prompt have in common
    prior = config.prior
    return {
        "folder": prior.folder,
        "prompt": config.prompt,
        "negative_prompt": config.negative_prompt,
        "revision": prior.revision,
        "variant": prior.variant,
        "dtype": jnp.dtype(prior.dtype),
        "view_prompts": prior.view_prompts,
        "view_words": VIEW_WORDS[prior.view_words],
        "image_size": prior.image_size,
    }


def _stable_diffusion(config: Config) -> PriorSource:
    # Imported here: networks and tokenizers take a second to import.
    from sdsjax.priors import stable_diffusion

    prior = config.prior
    return stable_diffusion.load(
        **_folder_and_prompt(config),
        adapter_folder=prior.adapter_folder,
        lora_rank=prior.lora_rank,
        depth_folder=prior.depth_folder,
        normals_folder=prior.normals_folder,
        perp_neg=prior.perp_neg,
    )


def _deepfloyd(config: Config) -> PriorSource:
    from sdsjax.priors import deepfloyd

    return deepfloyd.load(**_folder_and_prompt(config))


def _gaussian_mixture(config: Config) -> PriorSource:
    """k flat colours (rgb in [0, 1]) with isotropic variances, on images x."""
    prior, shape = config.prior, (config.resolution, config.resolution, 3)
    colors = 2.0 * np.asarray(prior.means, np.float32) - 1.0
    means = np.broadcast_to(colors[:, None, None, :], (len(colors), *shape))
    schedule = NoiseSchedule.scaled_linear()
    params = (
        jnp.asarray(prior.weights),
        jnp.asarray(means),
        jnp.asarray(prior.variances),
    )

    def bind(params):
        weights, means, variances = params
        return priors.gaussian_mixture(
            schedule, weights, means, variances, prior.conditional
        )

    return PriorSource(params, bind, shape)


def _empirical(config: Config) -> PriorSource:
    """True renders of the prompt's scene and of `prior.captions`: no network.

    Raises ConfigError for a negative prompt whose scene is not among them.
    """
    from sdsjax.toybox.world.captions import parse_caption
    from sdsjax.toybox.world.sheet import render_specs

    prior, size = config.prior, config.resolution
    captions = (config.prompt, *prior.captions)
    turns = 360.0 * np.arange(prior.views) / prior.views
    orbits = [(turn, 15.0, float(np.mean(config.camera.distance))) for turn in turns]
    specs = [parse_caption(text)[0] for text in captions]
    repeated = [spec for spec in specs for _ in orbits]
    rgb = render_specs(repeated, orbits * len(specs), size=size)
    images = jnp.asarray(2.0 * rgb - 1.0, jnp.float32)
    kept = np.repeat(np.arange(len(specs)) == 0, prior.views)
    negative = None
    if config.negative_prompt:
        avoided = parse_caption(config.negative_prompt)[0]
        negative = np.repeat([spec == avoided for spec in specs], prior.views)
        if not negative.any():
            raise ConfigError(
                f"negative_prompt {config.negative_prompt!r}: the empirical prior only "
                "knows the prompt and prior.captions; add it to these"
            )
    schedule = NoiseSchedule.scaled_linear()
    return PriorSource(
        images,
        lambda images: priors.empirical(schedule, images, kept, negative=negative),
        (size, size, 3),
    )


PRIORS: dict[str, Callable[[Config], PriorSource]] = {
    "stable_diffusion": _stable_diffusion,
    "deepfloyd": _deepfloyd,
    "gaussian_mixture": _gaussian_mixture,
    "empirical": _empirical,
}


def pixel_shape(config: Config, source: PriorSource) -> tuple[int, ...]:
    """The shape of an `image` representation: the resolution's, or in latent space
    that of what the prior encodes to."""
    shape = (config.resolution, config.resolution, 3)
    if config.representation.get("space") != "latent":
        return shape
    x = jnp.zeros(source.image_shape or shape, jnp.float32)
    return jax.eval_shape(lambda p, x: source.bind(p).encode(x), source.params, x).shape


def build_representation(config: Config, shape: tuple[int, ...]) -> Representation:
    """The representation of a config. shape: see `pixel_shape`."""
    name = config.representation.name
    own = {name: w for name, w in config.losses.items() if name != DEPTH}
    supplied: dict[str, Any] = {"losses": own}
    given = arguments(config.representation)
    if name == "image":
        supplied["shape"] = shape
    else:
        supplied["background"] = background(config.background)
    if name == "gaussians":
        given |= _begun_from_file(given)
        given |= _noise_of_rate(config, given)
    return REPRESENTATIONS[name](**given, **supplied)


def _begun_from_file(given: Mapping[str, Any]) -> dict[str, Any]:
    """init and init_count of Gaussians that begin from the points of a PLY file."""
    if not str(given["init"]).endswith(".ply"):
        return {}
    from sdsjax.exports.points import read_points

    points, count = read_points(given["init"]), given["count"]
    if len(points) > count:
        raise ConfigError(
            f"{given['init']} holds {len(points)} points, more than "
            f"representation.count = {count}: raise it"
        )
    return {"init": points, "init_count": len(points)}


def _noise_of_rate(config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """MCMC's noise follows the learning rate of the means (arXiv 2404.09591)."""
    if given["control"] != "mcmc":
        return {}
    factor = 5e5 if given["control_noise"] is None else given["control_noise"]
    rate = config.optimizer.lr.get("means", 0.0)
    decay = config.optimizer.lr_final_factor
    return {"control_noise": exponential_decay(factor * rate, decay, updates(config))}


def updates(config: Config) -> int:
    """How often a run updates each of its particles."""
    return -(-config.steps // config.particles)


def build_optimizer(
    config: Config, params
) -> tuple[optax.GradientTransformation, tuple[str, ...]]:
    """Adam with a geometrically falling learning rate per group, and the groups.

    params: the representation's, or their shapes. Raises ConfigError where a group has
    no rate or a rate no group.
    """
    optimizer, fields = config.optimizer, params._fields
    rates = dict(optimizer.lr)
    trained = [
        field
        for field in fields
        if any(
            jnp.issubdtype(leaf.dtype, jnp.floating)
            for leaf in jax.tree.leaves(getattr(params, field))
        )
    ]
    if set(trained) - set(rates) or set(rates) - set(fields):
        raise ConfigError(
            f"optimizer.lr must hold one learning rate for each parameter group of "
            f"{config.representation.name}: {', '.join(trained)} (0 freezes one), not "
            f"{', '.join(rates) or 'nothing'}"
        )
    schedules = {
        name: exponential_decay(rate, optimizer.lr_final_factor, updates(config))
        for name, rate in rates.items()
        if rate > 0
    }
    adam = OPTIMIZERS[optimizer.name](
        schedules,
        fields=fields,
        b1=optimizer.b1,
        b2=optimizer.b2,
        eps=optimizer.eps,
        clip_norm=optimizer.clip_norm,
    )
    return adam, fields


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": grouped_adam
}


def build_phases(config: Config, orbit: OrbitRange) -> tuple[Phase, ...]:
    """The last phase, before it the first where `camera.first_steps` says so, and
    between the two those of `camera.milestones`."""
    camera, phases, first = config.camera, [], 0
    for end, size, batch in (
        (camera.first_steps, camera.first_resolution, camera.first_batch_size),
        *camera.milestones,
        (config.steps, config.resolution, config.batch_size),
    ):
        last = min(end, config.steps)
        if last > first:
            draw = partial(
                random_orbits, count=batch, orbit=orbit, width=size, height=size
            )
            phases.append(Phase(first, last, size, batch, draw))
            first = last
    return tuple(phases)


def build_estimator(
    config: Config, source: PriorSource, schedule: NoiseSchedule
) -> Estimator:
    """The estimator of a config. Nothing is compiled.

    Raises ConfigError where the prior lacks what it needs or the timesteps leave the
    prior's schedule.
    """
    estimator = ESTIMATORS[config.estimator.name](
        schedule, **arguments(config.estimator)
    )
    shape = source.image_shape or (config.resolution, config.resolution, 3)

    def start(params, key):
        prior = source.bind(params)
        return estimator.init(prior, key, prior.encode(jnp.zeros(shape)))

    try:
        jax.eval_shape(start, source.params, jax.random.key(0))
    except ValueError as error:
        raise ConfigError(f"prior {config.prior.name!r}: {error}") from error
    for name in ("t_min", "t_max", "t_end"):
        if config.timesteps.get(name, 0) >= schedule.num_steps:
            raise ConfigError(
                f"timesteps.{name} = {config.timesteps[name]} is outside the prior's "
                f"schedule: choose 0..{schedule.num_steps - 1}"
            )
    return estimator


def build(config: Config) -> Pieces:
    """The pieces of a validated config (`checks.resolve`).

    Raises ConfigError or the rooms' own one-line errors for weights that cannot be
    read.
    """
    source = PRIORS[config.prior.name](config)
    schedule = source.bind(source.params).schedule
    representation = build_representation(config, pixel_shape(config, source))
    params, _ = jax.eval_shape(representation.init, jax.random.key(0))
    optimizer, fields = build_optimizer(config, params)
    orbit = OrbitRange(*(getattr(config.camera, name) for name in OrbitRange._fields))
    source, supervise = build_supervision(config, source, representation)
    return Pieces(
        source=source,
        schedule=schedule,
        representation=representation,
        estimator=build_estimator(config, source, schedule),
        optimizer=optimizer,
        sampler=TIMESTEPS[config.timesteps.name](**arguments(config.timesteps)),
        orbit=orbit,
        phases=build_phases(config, orbit),
        image_shape=(config.resolution, config.resolution, 3),
        fields=fields,
        supervise=supervise,
    )
