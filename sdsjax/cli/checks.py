"""Checks of a whole config, before anything is built.

Types are right by now (`overrides`); here come ranges, names, pairs and the prompt's
words. `resolve` is the front door: name and overrides in, a checked and frozen config
out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from sdsjax.cli.config_files import Source, base_config, load
from sdsjax.cli.editing import check_edit, settle_edit, source_prompts
from sdsjax.cli.overrides import apply, hyperparameters
from sdsjax.cli.prior_choice import (
    BUILT_IN,
    EMBEDDED,
    KINDS,
    check_schedule,
    check_single_file,
    settle_group,
    settle_prior,
)
from sdsjax.cli.ranges import RANGES, check_ranges
from sdsjax.diffusion import WEIGHTINGS, NoiseSchedule
from sdsjax.diffusion.prompts import VIEW_WORDS
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.denoised_l2 import AWAY_FROM
from sdsjax.files.pictures import BadReference, background_colour
from sdsjax.representations.gaussians.density_control import CONTROLS
from sdsjax.training.build import (
    FACTORIES,
    LOSSES,
    OPTIMIZERS,
    PRIORS,
    arguments,
    build_noise,
    build_representation,
)
from sdsjax.training.config import Config, ConfigError, flatten, one_of

# key: the values it may have
CHOICES: dict[str, Callable[[], Any]] = {
    "prior.name": lambda: PRIORS,
    "prior.dtype": lambda: ("float32", "bfloat16"),
    "prior.remat": lambda: ("auto", "none", "blocks", "dots"),
    "prior.view_words": lambda: VIEW_WORDS,
    "estimator.weighting": lambda: WEIGHTINGS,
    "estimator.away_from": lambda: AWAY_FROM,
    "estimator.name": lambda: FACTORIES["estimator"],
    "timesteps.name": lambda: FACTORIES["timesteps"],
    "representation.name": lambda: FACTORIES["representation"],
    "representation.space": lambda: ("image", "latent"),
    "representation.control": lambda: CONTROLS,
    "optimizer.name": lambda: OPTIMIZERS,
}
PAIRS = ("azimuth", "elevation", "distance", "fov")
TOYBOX = EMBEDDED["stable_diffusion"]
TOYBOX_DEPTH = "toybox-dpt"
TOYBOX_NORMALS = "toybox-normals"
# the published weights of kinds that have no embedded ones
GATED = {"deepfloyd": "DeepFloyd/IF-I-XL-v1.0"}


def check_names(config: Config, flat: Mapping[str, Any]) -> None:
    """Names are known, required hyper-parameters are given."""
    for key, choices in CHOICES.items():
        if key in flat and flat[key] not in choices():
            raise one_of(key, flat[key], choices())
    for section in FACTORIES:
        for key, value in config[section].items():
            if value is None and not _takes_none(config, section, key):
                raise ConfigError(
                    f"{section} {config[section].name!r} needs {key!r}: pass "
                    f"--config.{section}.{key}=..."
                )


def _takes_none(config: Config, section: str, key: str) -> bool:
    factory = FACTORIES[section][config[section].name]
    return hyperparameters(factory)[key].default is None


def check_factories(config: Config) -> None:
    """What a factory itself refuses; calling one computes nothing."""
    try:
        ESTIMATORS[config.estimator.name](
            NoiseSchedule.scaled_linear(), **arguments(config.estimator)
        )
        TIMESTEPS[config.timesteps.name](**arguments(config.timesteps))
        build_representation(config, (config.resolution, config.resolution, 3))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_pairs(config: Config) -> None:
    """Ranges of the camera and of the timesteps run from low to high."""
    for name in PAIRS:
        pair = config.camera[name]
        if len(pair) != 2 or pair[0] > pair[1]:
            raise ConfigError(
                f"config key 'camera.{name}' must be (low, high), not {pair}"
            )
    times = config.timesteps
    for name in ("t_max", "t_end"):
        if times.get("t_min", 0) > times.get(name, 999):
            raise ConfigError(
                f"timesteps.t_min = {times.t_min} is above timesteps.{name} = "
                f"{times[name]}: lower t_min or raise {name}"
            )
    if config.camera.first_steps > config.steps:
        raise ConfigError(
            f"camera.first_steps = {config.camera.first_steps} is more than steps = "
            f"{config.steps}: lower it as well (0: no first phase)"
        )
    check_milestones(config)


def check_milestones(config: Config) -> None:
    """Triples of whole numbers, each phase ending after the one before it."""
    camera = config.camera
    end, sizes = camera.first_steps, RANGES["resolution"]
    batches = RANGES["batch_size"]
    for entry in camera.milestones:
        whole = isinstance(entry, tuple | list) and all(type(v) is int for v in entry)
        if not whole or len(entry) != 3:
            raise ConfigError(
                "config key 'camera.milestones' must hold triples (last step, "
                f"resolution, batch size) of whole numbers, not {entry!r}"
            )
        inside = all(
            low <= v <= high for v, (low, high) in zip(entry[1:], (sizes, batches))
        )
        if entry[0] <= end or not inside:
            raise ConfigError(
                f"camera.milestones: {entry} must end after step {end}, with a "
                f"resolution in {sizes[0]}..{sizes[1]} and a batch size in "
                f"{batches[0]}..{batches[1]}"
            )
        end = entry[0]
    if end > config.steps:
        raise ConfigError(
            f"camera.milestones: the last ends at step {end}, after steps = "
            f"{config.steps}: lower it or leave it out"
        )


def check_camera(config: Config) -> None:
    """An estimator whose second network reads the camera needs views with one."""
    drop = config.estimator.get("drop_camera")
    if config.representation.name == "image" and drop is not None and drop < 1:
        raise ConfigError(
            f"estimator {config.estimator.name!r} reads the camera, and representation "
            "'image' has none: pass --config.estimator.drop_camera=1 (no camera for "
            "its second network) or choose representation gaussians or nerf"
        )


def check_mixture(prior: Config) -> None:
    """One weight, mean, variance and flag per component; positive where they must."""
    count = len(prior.means)
    for name in ("weights", "variances", "conditional"):
        if len(prior[name]) != count or count == 0:
            raise ConfigError(
                f"prior.{name} has {len(prior[name])} entries for {count} prior.means: "
                "give one for each component"
            )
    for name in ("weights", "variances"):
        if min(prior[name]) <= 0:
            raise ConfigError(f"prior.{name} must be positive, not {prior[name]}")
    if not any(prior.conditional):
        raise ConfigError("prior.conditional keeps nothing: let one entry be True")
    if any(len(mean) != 3 for mean in prior.means):
        raise ConfigError(f"prior.means must be rgb colours, not {prior.means}")


def check_prompt(config: Config) -> None:
    """There is a prompt; on the toybox its words and its grammar are known."""
    if not config.prompt.strip():
        raise ConfigError('the prompt is empty: pass --config.prompt="a blue house"')
    prior = config.prior
    if not _toybox_reads(prior):
        return
    from sdsjax.toybox.world.captions import CaptionError, parse_caption, vocabulary

    if not all(isinstance(caption, str) for caption in prior.captions):
        raise ConfigError(f"prior.captions must be texts, not {prior.captions}")
    texts = [config.prompt, *prior.captions, *source_prompts(config)]
    if prior.name == "empirical" and config.negative_prompt:
        texts.append(config.negative_prompt)  # one of its scenes, not loose words
    try:
        for caption in texts:
            _, view = parse_caption(caption)
            if view is not None and prior.view_prompts:
                raise ConfigError(
                    f"{caption!r} names a view already, and prior.view_prompts appends "
                    "one for each camera: leave it out of the prompt, or pass "
                    "--config.prior.view_prompts=false"
                )
    except CaptionError as error:
        raise ConfigError(_with_vocabulary(str(error), vocabulary())) from error
    for word in re.findall(r"\w+", config.negative_prompt.lower()):
        if word not in vocabulary():
            raise one_of("word in negative_prompt", word, vocabulary())


def check_text(flat: Mapping[str, Any]) -> None:
    """Texts are Unicode; what a terminal handed over as other bytes is refused."""
    for key, value in flat.items():
        if isinstance(value, str):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ConfigError(
                    f"config key {key!r} is not UTF-8 text (at character "
                    f"{error.start + 1}): type it again, or set the terminal to UTF-8"
                ) from None


def plain_prompts(config: Config) -> None:
    """Takes the marks out of a toybox's prompts that its encoder never met.

    In place, so that what is checked is what is encoded.
    """
    if not _toybox_reads(config.prior):
        return
    from sdsjax.toybox.world.captions import plain_caption

    config.prompt = plain_caption(config.prompt)
    config.negative_prompt = plain_caption(config.negative_prompt)


def _toybox_reads(prior: Config) -> bool:
    """Whether prompts are captions of the toybox."""
    return prior.name == "empirical" or (
        prior.name in EMBEDDED and _speaks_toybox(prior.folder)
    )


def _speaks_toybox(folder: str) -> bool:
    """The built-in prior, or a folder with its tokenizer: one that was trained anew."""
    if folder in EMBEDDED.values():
        return True
    words = Path("tokenizer") / "vocab.json"
    own = BUILT_IN / TOYBOX / words
    other = (BUILT_IN / folder if _built_in(folder) else Path(folder)).expanduser()
    found = other / words
    return found.is_file() and found.read_bytes() == own.read_bytes()


def _built_in(name: str) -> bool:
    """Whether a folder is one of those that come with the package."""
    return Path(name).name == name and (BUILT_IN / name).is_dir()


def _with_vocabulary(message: str, words: tuple[str, ...]) -> str:
    return f"{message}. Words: {' '.join(words)}"


def check_folder(config: Config) -> None:
    """A local folder of weights exists; a repository's id looks like one."""
    prior = config.prior
    if prior.name not in KINDS:
        return
    if prior.name in GATED and prior.folder in EMBEDDED.values():
        raise ConfigError(
            f"prior {prior.name!r} needs weights of its own: pass "
            f"--config.prior.folder={GATED[prior.name]} (licence to be accepted there) "
            "or a folder that holds them"
        )
    first = EMBEDDED.get(prior.name, TOYBOX)
    for key, index, network, own in (
        ("folder", "model_index.json", "Stable Diffusion", first),
        ("adapter_folder", "model_index.json", "Stable Diffusion", TOYBOX),
        ("depth_folder", "config.json", "DPT", TOYBOX_DEPTH),
        ("normals_folder", "config.json", "DPT", TOYBOX_NORMALS),
    ):
        name = prior[key]
        if _built_in(name) or (key != "folder" and not name):
            continue
        folder = Path(name).expanduser()
        if (folder / index).is_file():
            continue
        if folder.is_dir():
            raise ConfigError(
                f"prior.{key} {name!r} holds no {index}: pass a folder in the Hugging "
                f"Face layout of {network}"
            )
        if folder.is_file():
            check_single_file(config, key, folder, network)
            continue
        if folder.is_symlink():
            raise ConfigError(
                f"prior.{key} {name!r} is a link to {str(folder.readlink())!r}, which "
                "does not exist: fetch it again"
            )
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise ConfigError(
                f"prior.{key} {name!r} does not exist: pass a folder, a "
                f"repository's id such as owner/name, or {own!r}"
            )


def check_reference(config: Config) -> None:
    """The background to key out of given pictures is a colour, or none."""
    try:
        background_colour(config.reference.background)
    except BadReference as error:
        raise ConfigError(f"reference.{error}") from None


class PromptError(ConfigError):
    """A prompt cannot be used, whatever else the config says."""


def check_settings(config: Config) -> None:
    """Checks everything but the prompt; raises ConfigError."""
    flat = flatten(config)
    check_names(config, flat)
    check_ranges(flat)
    check_pairs(config)
    check_factories(config)
    check_camera(config)
    build_noise(config)
    check_reference(config)
    check_edit(config)
    if config.prior.name == "gaussian_mixture":
        check_mixture(config.prior)
    check_schedule(config.prior)
    check_folder(config)


def validate(config: Config) -> None:
    """Raises ConfigError with one line for the first thing that cannot work."""
    check_settings(config)
    check_prompt(config)


def _said(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Applies overrides to a config, with what follows from them for the prior."""
    config = apply(
        config, overrides, base=base_config(), factories=FACTORIES, losses=LOSSES
    )
    settle_prior(config, flatten(overrides))
    settle_edit(config)
    return config


def resolver(source: Source, overrides: Mapping[str, Any]) -> Callable[[str], Config]:
    """Makes prompt -> the checked config of it, of which all else is checked once.

    Raises ConfigError as `resolve`; what is made raises PromptError for a prompt.
    """
    config = _said(load(source), overrides)
    check_text({k: v for k, v in flatten(config).items() if k != "prompt"})
    check_settings(config)
    settle_group(config)

    def with_prompt(prompt: str) -> Config:
        own = config.copy_and_resolve_references()
        own.prompt = prompt
        plain_prompts(own)
        check_prompt(own)
        return FrozenConfigDict(own)

    def of_prompt(prompt: str) -> Config:
        try:
            check_text({"prompt": prompt})
            return with_prompt(prompt)
        except ConfigError as error:
            raise PromptError(str(error)) from error

    with_prompt("a red mug")  # what else is read with it: captions, negative_prompt
    return of_prompt


def resolve(
    source: Source | str | ConfigDict, overrides: Mapping[str, Any] | None = None
) -> Config:
    """The checked config of a file or of a config already read, with overrides applied.

    The file by name (`"ssd:image"`) or path. overrides: {"estimator.threshold": 300} or
    nested; text is parsed by the key's type. Raises ConfigError.
    """
    config = source if isinstance(source, ConfigDict) else load(source)
    config = _said(config, overrides or {})
    check_text(flatten(config))
    plain_prompts(config)
    validate(config)
    settle_group(config)
    return FrozenConfigDict(config)
