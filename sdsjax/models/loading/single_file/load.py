"""A single file -> the networks, tokenizers and schedule that a folder would give.

Strict: every key is a parameter's, or one of those that training leaves behind, or
refused by its name. Where a file holds moving averages of its UNet (`model_ema.`) they
are taken, as the published folders did. It has no tokenizer and no config: CLIP's
vocabulary comes from a folder, and what Stable Diffusion 2.x predicts must be said.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.hub import Component, Network, StableDiffusion
from sdsjax.models.loading.mapping import CLIP_IGNORED, CLIP_PREFIX, Entry
from sdsjax.models.loading.scheduler import PREDICTION_TYPES
from sdsjax.models.loading.sdxl.folder import SDXL, SECOND_ENCODER
from sdsjax.models.loading.single_file import layout, tables
from sdsjax.models.loading.single_file.layout import HF_TEXT, OPEN_TEXT, Layout
from sdsjax.models.loading.weights import (
    Source,
    kept_or_made,
    key_shapes,
    load_params,
    read_tensor,
)
from sdsjax.models.text_encoders.clip_tokenizer import END, Tokenizer

SUFFIX = ".safetensors"
AVERAGES = "model_ema.diffusion_model"
# the prior that reads a kind, and what its tokenizers pad with
PRIORS = {
    **dict.fromkeys(("1.x", "2.x", "XL"), "stable_diffusion"),
    "MVDream": "multiview",
}
PADS = {"1.x": (END,), "2.x": ("!",), "MVDream": ("!",), "XL": (END, "!")}
# what training leaves in a file and no network reads
LEFT_BEHIND = re.compile(
    r"(alphas_cumprod|alphas_cumprod_prev|betas|log_one_minus_alphas_cumprod"
    r"|posterior_\w+|sqrt_\w+|logvar|lvlb_weights|scale_factor|v_pred"
    r"|denoiser\.(log_)?sigmas|model_ema\..*|first_stage_model\.loss\..*"
    r"|.*\.logit_scale|.*\.attn_mask)"
)
CUMULATIVE = "alphas_cumprod"


def is_single_file(folder) -> bool:
    """Whether what a config calls a folder is a .safetensors file."""
    path = Path(folder).expanduser()
    return path.suffix == SUFFIX and path.is_file()


def single_files_alone(folder, given: dict[str, str | None]) -> None:
    """Raises LoaderError for what only a single file lacks, said for a folder."""
    for name, value in given.items():
        if value:
            raise LoaderError(
                f"prior.{name} = {value!r}, but {folder} is no single file: a folder "
                "has its own; leave it out"
            )


def prior_of(path: Path) -> str:
    """Names the kind of prior that reads a file. Raises LoaderError for others."""
    return PRIORS[layout.recognise(key_shapes(path), path).kind]


def load_single_file(
    file,
    prior: str,
    *,
    prediction_type: str | None = None,
    tokenizer_folder: str = "",
    dtype=jnp.float32,
    sharding=None,
    vae: Network | None = None,
) -> StableDiffusion | SDXL:
    """Load all of a single file; dtype and sharding as in `hub.load_component`.

    prior: "stable_diffusion" or "multiview", which must be the kind that reads it.
    prediction_type: "epsilon" or "v_prediction", which must be said for 2.x.
    tokenizer_folder: a folder or repository with CLIP's vocab.json and merges.txt, at
    its top or beneath `tokenizer/`. vae: one to use instead of the file's. Raises
    LoaderError, one line, for anything that does not fit exactly.
    """
    path = Path(file).expanduser()
    shapes = key_shapes(path)
    found = layout.recognise(shapes, path)
    if PRIORS[found.kind] != prior:
        raise LoaderError(
            f"{path}: holds {_named(found.kind)}; load it as the prior "
            f"{PRIORS[found.kind]}"
        )
    prediction_type = _prediction(path, found.kind, prediction_type, shapes)
    if found.kind == "2.x" and prediction_type == "v_prediction":
        unet = found.unet._replace(sample_size=96)  # pyright: ignore[reportCallIssue]
        found = found._replace(unet=unet)
    tokenizers = _tokenizers(path, found, tokenizer_folder)
    schedule = _schedule(path, shapes)
    parts = _parts(found, shapes)
    _check_left(path, shapes, parts)
    if vae is not None:
        del parts["vae"]
    networks = {
        name: kept_or_made(
            ("single file", path, name, jnp.dtype(dtype)),
            partial(_read, path, *part, dtype, sharding),
        )
        for name, part in parts.items()
    }
    first = (
        networks["unet"], vae or networks["vae"], networks["text_encoder"],
        tokenizers[0], schedule, prediction_type,
    )  # fmt: skip
    if found.second is None:
        return StableDiffusion(*first)
    return SDXL(*first, networks["text_encoder_2"], tokenizers[1], True)


def _named(kind: str) -> str:
    return kind if kind == "MVDream" else f"Stable Diffusion {kind}"


def _prediction(path, kind: str, said: str | None, shapes) -> str:
    if said is not None and said not in PREDICTION_TYPES:
        known = " or ".join(PREDICTION_TYPES)
        raise LoaderError(f"prior.prediction_type = {said!r}; expected {known}")
    if "ztsnr" in shapes:
        raise LoaderError(
            f"{path}: trained with zero terminal signal (its key ztsnr), which is not "
            "implemented"
        )
    if said is None and kind == "2.x":
        raise LoaderError(
            f"{path}: Stable Diffusion 2.x, and no file says what its UNet predicts: "
            "set prior.prediction_type to epsilon (2.1-base, 512 pixels) or to "
            "v_prediction (2.1, 768 pixels)"
        )
    return said or ("v_prediction" if "v_pred" in shapes else "epsilon")


def _tokenizers(path, found: Layout, folder: str) -> list[Tokenizer]:
    if not folder:
        raise LoaderError(
            f"{path}: a single file has no tokenizer: set prior.tokenizer_folder to a "
            "folder with CLIP's vocab.json and merges.txt, or to a repository with "
            "them beneath tokenizer/"
        )
    root = hub.resolve(folder, folders=("tokenizer",))
    root = root / "tokenizer" if (root / "tokenizer").is_dir() else root
    made = []
    for pad in PADS[found.kind]:
        tokenizer = Tokenizer.from_folder(root, found.text.positions, pad=pad)
        if tokenizer.vocab_size > found.text.vocab_size:
            raise LoaderError(
                f"{root}: has {tokenizer.vocab_size} tokens, the text encoder of "
                f"{path} {found.text.vocab_size}"
            )
        made.append(tokenizer)
    return made


def _schedule(path, shapes) -> NoiseSchedule:
    """Stable Diffusion's schedule, after a look at the file's own where it has one."""
    schedule = NoiseSchedule.scaled_linear()
    if CUMULATIVE in shapes:
        own = np.asarray(read_tensor(path, CUMULATIVE), np.float64)
        squares = np.asarray(schedule.alphas, np.float64) ** 2
        # float16's step is a thousandth, and small values have less
        if own.shape != squares.shape or np.abs(own - squares).max() > 2e-3:
            raise LoaderError(
                f"{path}: {CUMULATIVE} is not Stable Diffusion's (scaled linear betas "
                "from 0.00085 to 0.012): another schedule is not implemented"
            )
    return schedule


# (component, its config, its table with whole keys, the keys of it that a file may
# hold beside the table's)
Part = tuple[Component, object, list[Entry], Callable[[str], bool]]


def _parts(found: Layout, shapes) -> dict[str, Part]:
    """Each network of a file: how it is read, and which keys are its own."""
    components = hub.COMPONENTS
    unet = tables.unet_file_table(found.unet)
    averaged = any(key.startswith(AVERAGES) for key in shapes)
    parts = {
        "unet": _part(
            components["unet"], found.unet, layout.UNET, unet,
            _averaged if averaged else None,
        ),
        "vae": _part(
            components["vae"], found.vae, layout.VAE, tables.vae_file_table(found.vae)
        ),
    }  # fmt: skip
    prefix = next((p for p in HF_TEXT if any(k.startswith(p) for k in shapes)), None)
    if prefix:
        own = [k[len(prefix) :] for k in shapes if k.startswith(prefix)]
        own = [k for k in own if k.removeprefix(CLIP_PREFIX) != CLIP_IGNORED]
        table = tables.clip_file_table(found.text, own)
    else:
        prefix, table = OPEN_TEXT[0], tables.open_clip_table(found.text)
    parts["text_encoder"] = _part(components["text_encoder"], found.text, prefix, table)
    if found.second:
        table = tables.open_clip_projection_table(found.second)
        second = _part(SECOND_ENCODER, found.second, OPEN_TEXT[1], table)
        parts["text_encoder_2"] = second
    return parts


def _averaged(key: str) -> str:
    return AVERAGES + key.replace(".", "")


def _part(component, config, prefix: str, table: list[Entry], spelled=None) -> Part:
    spelled = spelled or (lambda key: prefix + key)
    table = [Entry(spelled(key), kind, path) for key, kind, path in table]
    return (
        component,
        config,
        table,
        partial(_unread, prefix, getattr(config, "layers", 0)),
    )


def _unread(prefix: str, layers: int, key: str) -> bool:
    """Whether a key is of a network, and of a part of it that is not used here."""
    if not key.startswith(prefix):
        return False
    rest = key[len(prefix) :]
    unused = [f"transformer.resblocks.{layers}.", "text_projection"]
    last = prefix == OPEN_TEXT[0] and rest.startswith(tuple(unused))
    return last or rest.removeprefix(CLIP_PREFIX) == CLIP_IGNORED


def _check_left(path, shapes, parts: dict[str, Part]) -> None:
    """Raises LoaderError for a key that is nobody's, and for one that is missing."""
    expected = {entry.key for part in parts.values() for entry in part[2]}
    averaged = any(key.startswith(AVERAGES) for key in shapes)
    for key in sorted(set(shapes) - expected):
        plain = averaged and key.startswith(layout.UNET)
        unread = any(part[3](key) for part in parts.values())
        if not (plain or unread or LEFT_BEHIND.fullmatch(key)):
            raise LoaderError(f"{path}: unexpected key {key}: no network here has it")
    missing = sorted(expected - set(shapes))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise LoaderError(f"{path}: missing key {missing[0]}{more}")


def _read(
    path: Path, component: Component, config, table: list[Entry], _, dtype, sharding
) -> Network:
    source = Source(path, dict.fromkeys((entry.key for entry in table), path))
    shapes = hub.shapes_of(component, config)
    params = load_params(source, table, shapes, dtype, sharding)
    return Network(component.module(config, dtype=dtype), params, config)
