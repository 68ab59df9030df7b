"""Hugging Face folders -> networks: the built-in toybox, a local folder, or the hub.

Notation: a folder holds one subfolder a component (unet, vae, text_encoder, tokenizer,
scheduler), each with its config.json and safetensors; weights are never unpickled and
nothing in a folder is executed. A local path never touches the network; a repository
id goes through huggingface_hub, which honours HF_HOME, HF_TOKEN and HF_HUB_OFFLINE.
"""

import os
from collections.abc import Callable, Collection
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import configs, configs_deepfloyd, mapping, mapping_deepfloyd
from sdsjax.models.loading.errors import LoaderError, unreadable_format
from sdsjax.models.loading.repositories.snapshots import (
    FOLDERS,
    NETWORKS,
    fetch,
    fetch_configs,
)
from sdsjax.models.loading.scheduler import read_schedule
from sdsjax.models.loading.sd3.configs import transformer_config
from sdsjax.models.loading.sd3.mapping import transformer_table
from sdsjax.models.loading.weights import (
    find_weights,
    kept_or_made,
    load_params,
    read_json,
)
from sdsjax.models.mmdit import MMDiT, MMDiTConfig
from sdsjax.models.parameters import parameter_shapes
from sdsjax.models.text_encoders.clip import CLIPTextConfig, CLIPTextEncoder
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer
from sdsjax.models.text_encoders.t5 import T5Config, T5Encoder
from sdsjax.models.unets.deepfloyd import IFUNet, IFUNetConfig
from sdsjax.models.unets.dummy_inputs import dummy_inputs
from sdsjax.models.unets.multiview import MultiViewConfig, MultiViewUNet
from sdsjax.models.unets.sdxl import SDXLConfig, SDXLUNet
from sdsjax.models.unets.stable_diffusion import UNet2DCondition, UNetConfig
from sdsjax.models.vae import AutoencoderKL

BUILT_IN = Path(__file__).resolve().parents[2] / "weights"
OF_DIFFUSION = ("unet", "vae", "text_encoder")
STEM = "diffusion_pytorch_model"


class Network(NamedTuple):
    """A network that was read: a linen module, its parameters and its config."""

    module: nn.Module
    params: Any
    config: Any


class StableDiffusion(NamedTuple):
    """The networks of one folder, its tokenizer, and how its UNet was trained.

    unet: of `load_multiview` a MultiViewUNet, else a UNet2DCondition.
    """

    unet: Network
    vae: Network
    text_encoder: Network
    tokenizer: Tokenizer
    schedule: NoiseSchedule
    prediction_type: str


class Component(NamedTuple):
    """How one component is read.

    stem: of its weights' files; read_config: config.json -> config; table: config, keys
    -> torch key -> Flax path; module: config -> linen module; inputs: config -> dummy
    inputs; ignored: keys that files may hold and no network has.
    """

    stem: str
    read_config: Callable
    table: Callable
    module: Callable
    inputs: Callable
    ignored: Collection[str] = ()


# networks that answer to one name, by the type of their config
MODULES = {
    UNetConfig: UNet2DCondition,
    IFUNetConfig: IFUNet,
    MultiViewConfig: MultiViewUNet,
    SDXLConfig: SDXLUNet,
    CLIPTextConfig: CLIPTextEncoder,
    T5Config: T5Encoder,
}


def _module(config, **options):
    return MODULES[type(config)](config, **options)


COMPONENTS = {
    "unet": Component(
        STEM,
        configs_deepfloyd.unet_config,
        mapping_deepfloyd.unet_table,
        _module,
        dummy_inputs,
    ),
    "vae": Component(
        STEM,
        configs.vae_config,
        mapping.vae_table,
        AutoencoderKL,
        lambda cfg: (np.zeros((1, cfg.factor, cfg.factor, cfg.in_channels), "f4"),),
    ),
    "text_encoder": Component(
        "model",
        configs_deepfloyd.text_config,
        mapping_deepfloyd.text_table,
        _module,
        lambda cfg: (np.zeros((1, 2), np.int32),),
        (mapping.CLIP_IGNORED, mapping.CLIP_PREFIX + mapping.CLIP_IGNORED),
    ),
    "transformer": Component(
        STEM, transformer_config, transformer_table, MMDiT, dummy_inputs
    ),
}


@lru_cache(maxsize=64)
def shapes_of(component: Component, config):
    """Returns the parameter tree of a component as shapes, nothing allocated."""
    return parameter_shapes(component.module(config), *component.inputs(config))


def param_shapes(name: str, config):
    """Returns `shapes_of` a component by its name."""
    return shapes_of(COMPONENTS[name], config)


def config_of(component: Component, folder: Path):
    """Returns the config NamedTuple that `folder/config.json` describes.

    Raises LoaderError for what is not implemented.
    """
    if not folder.is_dir():
        raise LoaderError(f"{folder.parent}: no subfolder {folder.name}")
    path = folder / "config.json"
    return component.read_config(read_json(path), path)


def load(
    component: Component,
    folder: Path,
    variant: str | None = None,
    dtype=jnp.float32,
    sharding=None,
    **options,
) -> Network:
    """Reads the network of one folder on disk, once inside of `networks_kept`.

    options: of its module, the rest as in `load_component`. Raises LoaderError, one
    line, for what does not fit exactly.
    """
    asked = component, folder, variant, jnp.dtype(dtype), *options.items()
    read = partial(_read, component, folder, variant, dtype, sharding, **options)
    return kept_or_made(asked, read)


def _read(component: Component, folder, variant, dtype, sharding, **options) -> Network:
    config = config_of(component, folder)
    source = find_weights(folder, component.stem, variant)
    ignored = component.ignored
    files = {key: file for key, file in source.files.items() if key not in ignored}
    source = source._replace(files=files)
    if isinstance(config, T5Config):
        source = mapping_deepfloyd.single_embedding(source)
    try:
        table = component.table(config, list(source.files))
    except LoaderError as error:
        raise LoaderError(f"{source.name}: {error}") from None
    shapes = shapes_of(component, config)
    params = load_params(source, table, shapes, dtype, sharding)
    return Network(component.module(config, dtype=dtype, **options), params, config)


def load_component(
    folder_or_repo,
    name: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype=jnp.float32,
    remat: str = "none",
    sharding=None,
) -> Network:
    """Load `unet`, `transformer`, `vae` or `text_encoder` from a folder or the hub.

    dtype: of parameters and computation (norm statistics, softmax and the VAE's moments
    stay float32); variant: "fp16" for files so named; remat: what the VAE's gradient
    keeps of its blocks (layers.REMAT); sharding: where the parameters go, or shape ->
    that.
    Raises LoaderError, one line, for anything that does not fit exactly.
    """
    if name not in COMPONENTS:
        raise LoaderError(f"no component {name!r}; known: {', '.join(COMPONENTS)}")
    root = resolve(folder_or_repo, revision=revision, variant=variant, folders=(name,))
    return _load(root, name, variant, dtype, remat, sharding)


def read_config(root: Path, name: str):
    """Returns the config NamedTuple of one component of a local folder.

    Raises LoaderError for what is not implemented.
    """
    return config_of(COMPONENTS[name], root / name)


def _load(root, name, variant, dtype, remat, sharding) -> Network:
    options = {"remat": remat} if name == "vae" else {}
    return load(COMPONENTS[name], root / name, variant, dtype, sharding, **options)


def load_stable_diffusion(
    folder_or_repo,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype=jnp.float32,
    remat: str = "none",
    sharding=None,
) -> StableDiffusion:
    """Load all of a Stable Diffusion folder; arguments as in `load_component`.

    Raises LoaderError, also where the components do not belong together.
    """
    asked = {"revision": revision, "variant": variant, "prior": "stable_diffusion"}
    root = resolve(folder_or_repo, **asked)
    return _load_diffusion(root, UNetConfig, variant, dtype, remat, sharding)


def load_multiview(
    folder_or_repo,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype=jnp.float32,
    remat: str = "none",
    sharding=None,
) -> StableDiffusion:
    """Load all of a folder whose UNet is multi-view, as `load_stable_diffusion`."""
    asked = {"revision": revision, "variant": variant, "prior": "multiview"}
    root = resolve(folder_or_repo, **asked)
    return _load_diffusion(root, MultiViewConfig, variant, dtype, remat, sharding)


# whose a component is, and the prior that loads it, by the type of its config
OWNERS = {
    UNetConfig: ("Stable Diffusion's", "stable_diffusion"),
    SDXLConfig: ("Stable Diffusion XL's", "stable_diffusion"),
    MMDiTConfig: ("Stable Diffusion 3's", "stable_diffusion3"),
    MultiViewConfig: ("a multi-view network's", "multiview"),
    **dict.fromkeys((IFUNetConfig, T5Config), ("DeepFloyd IF's", "deepfloyd")),
}


def kind_of(root: Path) -> str:
    """Names the kind of prior that reads a folder, by its network's class.

    Raises LoaderError where there is none.
    """
    name = "transformer" if (root / "transformer").is_dir() else "unet"
    return OWNERS[type(read_config(root, name))][1]


def kind_named(folder_or_repo) -> str:
    """Names the kind of prior that reads a folder or repository, as `kind_of`.

    Of a repository the configs alone are fetched.
    """
    local = _local(folder_or_repo, None)
    return kind_of(local or fetch_configs(os.fspath(folder_or_repo)))


def _load_diffusion(root, kind, variant, dtype, remat, sharding) -> StableDiffusion:
    for name, expected in (("unet", kind), ("text_encoder", CLIPTextConfig)):
        found = type(read_config(root, name))
        if found is not expected:
            owner, prior = OWNERS[found]
            raise LoaderError(
                f"{root}: its {name} is {owner}, not {OWNERS[kind][0]}; load it as the "
                f"prior {prior}"
            )
    unet, vae, text = (
        _load(root, name, variant, dtype, remat, sharding) for name in OF_DIFFUSION
    )
    config = unet.config.unet if kind is MultiViewConfig else unet.config
    for what, found, expected in (
        ("unet cross_attention_dim", config.context, text.config.hidden),
        ("unet in_channels", config.in_channels, vae.config.latent_channels),
        ("unet out_channels", config.out_channels, vae.config.latent_channels),
    ):
        if found != expected:
            raise LoaderError(
                f"{root}: {what} = {found} does not fit its text encoder and VAE; "
                f"expected {expected}"
            )
    tokenizer = Tokenizer.from_folder(root / "tokenizer", text.config.positions)
    if tokenizer.vocab_size > text.config.vocab_size:
        raise LoaderError(
            f"{root}: the tokenizer has {tokenizer.vocab_size} tokens, the text "
            f"encoder {text.config.vocab_size}"
        )
    schedule, prediction_type = read_schedule(root / "scheduler")
    return StableDiffusion(unet, vae, text, tokenizer, schedule, prediction_type)


def resolve(
    folder_or_repo,
    *,
    revision: str | None = None,
    variant: str | None = None,
    folders: tuple[str, ...] = FOLDERS,
    prior: str | None = None,
) -> Path:
    """A folder on disk for a path, a built-in name or a repository id.

    Raises LoaderError; for a repository that is neither cached nor reachable it names
    the command that fetches it. folders: the subfolders wanted; ("",) for a network
    whose files stand at the top. prior: the one that asks, None: any; a repository for
    another is refused before its weights are fetched.
    """
    local = _local(folder_or_repo, revision)
    if local is not None:
        _check_network(local, local, folders)
        return local
    repo, held = os.fspath(folder_or_repo), [f for f in folders if f in COMPONENTS]
    check = partial(_check_repository, repo=repo, folders=folders, prior=prior)
    whole = not set(NETWORKS).isdisjoint(folders)
    return fetch(repo, revision, variant, folders, held, check if whole else None)


def _local(folder_or_repo, revision: str | None) -> Path | None:
    # None for a repository's id; LoaderError for what is neither
    text = os.fspath(folder_or_repo)
    path = Path(text).expanduser()
    if text and path.is_dir():
        if revision is not None:
            raise LoaderError(f"{path}: a local folder has no revision {revision!r}")
        return path
    if path.is_file():
        expected = f"a file; expected a folder with {', '.join(FOLDERS)}"
        raise LoaderError(f"{path}: {unreadable_format(path) or expected}")
    if path.is_symlink():
        raise LoaderError(f"{path}: a link to {path.readlink()}, which does not exist")
    if text and Path(text).name == text and (BUILT_IN / text).is_dir():
        return BUILT_IN / text
    owner, slash, repo = text.partition("/")
    looks_local = text.startswith((".", "~", os.sep)) or path.is_absolute()
    if looks_local or not slash or "/" in repo or "\\" in text or not (owner and repo):
        known = sorted(p.name for p in BUILT_IN.iterdir()) if BUILT_IN.is_dir() else []
        raise LoaderError(
            f"{text!r}: no such folder; expected a local folder, a repository id "
            f"'owner/name', or one of the built-in {', '.join(known) or '(none here)'}"
        )
    return None


def _check_network(root: Path, said, folders: Collection[str]) -> None:
    # LoaderError for a transformer where a UNet is asked for, or the reverse
    wanted = [name for name in NETWORKS if name in folders]
    there = [name for name in NETWORKS if (root / name / "config.json").is_file()]
    if wanted and there and not set(wanted) & set(there):
        raise LoaderError(
            f"{said}: has a {there[0]} and no {wanted[0]}; load it as the prior "
            f"{kind_of(root)} (prior.name={kind_of(root)})"
        )


def _check_repository(root: Path, repo: str, folders, prior: str | None) -> None:
    # LoaderError for one that is no whole model, or that another prior reads
    _check_network(root, repo, folders)
    if not any((root / name).is_dir() for name in NETWORKS):
        raise LoaderError(
            f"{repo}: has no subfolder unet or transformer, as models in the Hugging "
            "Face layout have; of a repository of single files, fetch one and name it"
        )
    kind = kind_of(root)
    if prior is not None and kind != prior:
        raise LoaderError(
            f"{repo}: load it as the prior {kind}, not {prior} (prior.name={kind})"
        )
