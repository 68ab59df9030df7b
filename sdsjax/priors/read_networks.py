"""The networks of a prior, from whatever a config names: folder, repository, one file.

The loaders know one kind of files each (models/loading); here it is decided which one
is asked, and what the config said of the files is handed on or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sdsjax.models.loading import hub
from sdsjax.models.loading.lora_files.merge import pairs_of, with_loras
from sdsjax.models.loading.sdxl.folder import (
    SDXL,
    check_latents,
    is_sdxl,
    load_sdxl,
)
from sdsjax.models.loading.single_file.load import (
    is_single_file,
    load_single_file,
    single_files_alone,
)
from sdsjax.models.loading.weights import kept_or_made

# from so many pixels a side the encoder's blocks are computed again in the pullback: at
# 512 that keeps 0.6 GB an image instead of 4.9; the toybox's few are not worth a third
# more operations
REMAT_FROM = 256


def remat_of(asked: str, size: int = 0) -> str:
    """What a gradient keeps of a network's blocks, a name of `layers.REMAT`.

    asked: that, or "auto": "blocks" of the encoder of pictures of `size` pixels where
    those are many, else "none".
    """
    if asked != "auto":
        return asked
    return "blocks" if size >= REMAT_FROM else "none"


def load_networks(
    folder: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    vae_folder: str = "",
    tokenizer_folder: str = "",
    prediction_type: str | None = None,
    loras: Sequence[tuple[str, float]] = (),
    **form,
) -> hub.StableDiffusion | SDXL:
    """Reads Stable Diffusion or SDXL, whichever it is, and merges LoRA files.

    variant: "fp16" for files so named; vae_folder: another VAE (default: its own);
    tokenizer_folder, prediction_type: what a single file lacks
    (models/loading/single_file); loras: files, with the weight that each is merged at
    (models/loading/lora_files); form: dtype and sharding. Raises the loaders' one-line
    errors.
    """
    files = {
        "revision": revision, "variant": variant, "vae_folder": vae_folder,
        "tokenizer_folder": tokenizer_folder, "prediction_type": prediction_type,
    }  # fmt: skip
    return _merged(
        loras, partial(_load_networks, folder, **files, **form), folder, form
    )


def _merged(loras, load: Callable, folder: str, form: dict) -> Any:
    if not loras:
        return load()
    # several prompts share the kernels that were changed, as they do the others
    pairs = pairs_of(loras)
    asked = "loras", folder, pairs, str(form.get("dtype"))
    return kept_or_made(asked, lambda: with_loras(load(), pairs))


def _load_networks(
    folder: str, *, revision, variant, vae_folder, tokenizer_folder, prediction_type,
    **form,
) -> hub.StableDiffusion | SDXL:  # fmt: skip
    vae = load_vae(vae_folder, **form) if vae_folder else None
    lacking = {"tokenizer_folder": tokenizer_folder, "prediction_type": prediction_type}
    if is_single_file(folder):
        return load_single_file(folder, "stable_diffusion", vae=vae, **lacking, **form)
    single_files_alone(folder, lacking)
    asked = {"revision": revision, "variant": variant, "prior": "stable_diffusion"}
    root = hub.resolve(folder, **asked)
    if is_sdxl(root):
        if vae is not None:
            check_latents(vae_folder, hub.read_config(root, "unet").unet, vae.config)
        return load_sdxl(root, variant=variant, vae=vae, **form)
    found = hub.load_stable_diffusion(root, variant=variant, **form)
    if vae is None:
        return found
    check_latents(vae_folder, found.unet.config, vae.config)
    return found._replace(vae=vae)


def load_multiview_networks(
    folder: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer_folder: str = "",
    prediction_type: str | None = None,
    loras: Sequence[tuple[str, float]] = (),
    **form,
) -> hub.StableDiffusion:
    """Reads a multi-view network; arguments and errors as of `load_networks`."""
    files = {
        "revision": revision, "variant": variant, "tokenizer_folder": tokenizer_folder,
        "prediction_type": prediction_type,
    }  # fmt: skip
    return _merged(
        loras, partial(_load_multiview, folder, **files, **form), folder, form
    )


def _load_multiview(
    folder: str, *, revision, variant, tokenizer_folder, prediction_type, **form
) -> hub.StableDiffusion:
    lacking = {"tokenizer_folder": tokenizer_folder, "prediction_type": prediction_type}
    if is_single_file(folder):
        found = load_single_file(folder, "multiview", **lacking, **form)
        assert isinstance(found, hub.StableDiffusion)  # SDXL is the other prior's
        return found
    single_files_alone(folder, lacking)
    return hub.load_multiview(folder, revision=revision, variant=variant, **form)


def load_vae(folder: str, **form) -> hub.Network:
    """Reads a VAE alone, beneath `vae/` or at the top of a folder or repository."""
    root = hub.resolve(folder, folders=("vae",))
    if (root / "vae").is_dir():
        return hub.load_component(root, "vae", **form)
    root = hub.resolve(folder, folders=("",))
    return hub.load(hub.COMPONENTS["vae"], root, **form)
