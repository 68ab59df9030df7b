"""From a config to the components of a run, here and nowhere else.

Names are resolved in literal dicts (`priors`, `factories`, `optimizer`); from here on
everything is functions and arrays, and nothing is written to disk. `build` composes
what `priors`, `representation`, `optimizer`, `phases`, `supervision` and `editing`
make; `finished_run` reads an asset back without the rest.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sdsjax.cameras import OrbitRange
from sdsjax.diffusion import NoiseSchedule
from sdsjax.diffusion.timesteps import TIMESTEPS, Sampler
from sdsjax.distributed.parameters import parameter_sharding
from sdsjax.estimators import ESTIMATORS
from sdsjax.models.loading.weights import networks_kept
from sdsjax.training.build.editing import (
    begun_from,
    edits,
    of_source_prompt,
    read_asset,
    with_source,
)
from sdsjax.training.build.factories import FACTORIES, arguments
from sdsjax.training.build.noise import (
    build_noise,
    build_recursive,
    check_estimator,
)
from sdsjax.training.build.optimizer import OPTIMIZERS, build_optimizer
from sdsjax.training.build.phases import Phase, build_meshes, build_phases
from sdsjax.training.build.priors import PRIORS
from sdsjax.training.build.representation import (
    BACKGROUNDS,
    LOSSES,
    background_of,
    build_representation,
    pixel_shape,
)
from sdsjax.training.build.supervision import build_supervision
from sdsjax.training.config import Config, ConfigError
from sdsjax.training.groups import sample_shape
from sdsjax.training.noises.recursive import Recursive
from sdsjax.training.noises.samples import NoiseSamples
from sdsjax.training.supervision import Penalty
from sdsjax.types import Estimator, PriorSource, Representation

__all__ = [
    "BACKGROUNDS",
    "FACTORIES",
    "LOSSES",
    "OPTIMIZERS",
    "PRIORS",
    "Phase",
    "RunComponents",
    "arguments",
    "background_of",
    "build",
    "build_estimator",
    "build_meshes",
    "build_noise",
    "build_optimizer",
    "build_phases",
    "build_representation",
    "build_source",
    "pixel_shape",
]


class RunComponents(NamedTuple):
    """The components of a run: everything that its loop is made of.

    image_shape: (h, w, c) of the last phase's views; fields: the parameter groups;
    orbit: where views are drawn; phases: one or more, in order, covering all steps;
    supervise: what else is asked of renderings, or None (training/supervision);
    z_spec: the shape of one view's z, None for a representation that is in latent
    space itself; group: how many views the prior sees together; noise: how many noises
    a rendering is given, and how they are drawn; recursive: how gradients are carried
    on from step to step, None where they are not.
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
    z_spec: jax.ShapeDtypeStruct | None = None
    group: int = 1
    noise: NoiseSamples = NoiseSamples()
    recursive: Recursive | None = None


def latent_shape(config: Config, source: PriorSource) -> jax.ShapeDtypeStruct:
    """Returns the shape of what one view's image is encoded to; nothing is computed."""
    shape = source.image_shape or (config.resolution, config.resolution, 3)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda p, x: source.bind(p).encode(x), source.params, x)


def build_estimator(
    config: Config,
    source: PriorSource,
    schedule: NoiseSchedule,
    z_spec: jax.ShapeDtypeStruct,
) -> Estimator:
    """Builds the estimator of a config; nothing is compiled.

    Raises ConfigError where the prior lacks what it needs or the timesteps leave the
    prior's schedule.
    """
    estimator = ESTIMATORS[config.estimator.name](
        schedule, **arguments(config.estimator)
    )

    def start(params, key):
        prior = source.bind(params)
        shape = sample_shape(z_spec, prior.group)
        return estimator.init(prior, key, jnp.zeros(shape.shape, shape.dtype))

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


def build(config: Config) -> RunComponents:
    """Builds the components of a validated config (`checks.resolve`).

    Raises ConfigError or the rooms' own one-line errors for weights that cannot be
    read, MeshError for devices that cannot be laid out as the config asks.
    """
    meshes = build_meshes(config)
    # where parameters are split, all phases share one mesh
    sharding = parameter_sharding(meshes[-1])
    # once for both prompts of an editing run; of another's text encoders nothing is
    # kept while the rest is read, T5 least of all
    with networks_kept() if edits(config) else contextlib.nullcontext():
        source = PRIORS[config.prior.name](config, sharding)
        edited = _edited_prior(config, sharding)
    bound = source.bind(source.params)
    schedule, group = bound.schedule, bound.group
    if group > 1 and config.representation.name == "image":
        raise ConfigError(
            f"prior {config.prior.name!r} sees {group} views of an object together, "
            "and representation 'image' has one: choose gaussians or nerf, or set "
            "prior.group=1"
        )
    representation = build_representation(config, pixel_shape(config, source))
    if edited is not None:
        representation = begun_from(config, read_asset(config), representation)
    params, _ = jax.eval_shape(representation.init, jax.random.key(0))
    optimizer, fields = build_optimizer(config, params)
    orbit = OrbitRange(*(getattr(config.camera, name) for name in OrbitRange._fields))
    z_spec = latent_shape(config, source)
    if edited is not None:
        source = with_source(source, edited, representation)
    estimator = build_estimator(config, source, schedule, z_spec)
    noise = build_noise(config)
    check_estimator(noise, config.estimator.name, estimator)
    source, supervise = build_supervision(config, source, representation)
    return RunComponents(
        source=source,
        schedule=schedule,
        representation=representation,
        estimator=estimator,
        optimizer=optimizer,
        sampler=TIMESTEPS[config.timesteps.name](**arguments(config.timesteps)),
        orbit=orbit,
        phases=build_phases(config, orbit, group, meshes),
        image_shape=(config.resolution, config.resolution, 3),
        fields=fields,
        supervise=supervise,
        z_spec=z_spec if representation.space == "image" else None,
        group=group,
        noise=noise,
        recursive=build_recursive(config, estimator, representation),
    )


def _edited_prior(config: Config, sharding=None) -> PriorSource | None:
    """Builds the prior with the prompt of what is edited, None where nothing is."""
    if not edits(config):
        return None
    return PRIORS[config.prior.name](of_source_prompt(config), sharding)


def build_source(config: Config, representation: Representation) -> PriorSource:
    """Builds the prior alone, with what travels with its parameters, as `build` does.

    For another prompt of a config whose other components are there. Raises as `build`.
    """
    source, edited = PRIORS[config.prior.name](config), _edited_prior(config)
    if edited is not None:
        source = with_source(source, edited, representation)
    return build_supervision(config, source, representation)[0]
