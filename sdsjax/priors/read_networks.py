"""The networks of a prior, from whatever a config names: folder, repository, one file.

The loaders know one kind of files each (models/loading); here it is decided which one
is asked, and what the config said of the files is handed on or refused.
"""

from __future__ import annotations

from sdsjax.models.loading import hub
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


def load_networks(
    folder: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    vae_folder: str = "",
    tokenizer_folder: str = "",
    prediction_type: str | None = None,
    **form,
) -> hub.StableDiffusion | SDXL:
    """Reads Stable Diffusion or SDXL, whichever it is.

    variant: "fp16" for files so named; vae_folder: another VAE (default: its own);
    tokenizer_folder, prediction_type: what a single file lacks
    (models/loading/single_file); form: dtype and sharding. Raises the loaders' one-line
    errors.
    """
    vae = load_vae(vae_folder, **form) if vae_folder else None
    lacking = {"tokenizer_folder": tokenizer_folder, "prediction_type": prediction_type}
    if is_single_file(folder):
        return load_single_file(folder, "stable_diffusion", vae=vae, **lacking, **form)
    single_files_alone(folder, lacking)
    root = hub.resolve(folder, revision=revision, variant=variant)
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
    **form,
) -> hub.StableDiffusion:
    """Reads a multi-view network; arguments and errors as of `load_networks`."""
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
