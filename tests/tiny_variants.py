"""Every config's variant at sizes of seconds, on random weights in a folder.

Not a test; those that step and those that lower all variants share it."""

from pathlib import Path

import jax
import numpy as np
from finished_runs import finished
from flax.traverse_util import flatten_dict, unflatten_dict

from sdsjax.cli.checks import resolve
from sdsjax.cli.config_files import load
from sdsjax.exports.ply import write_splats
from sdsjax.models.loading.hub import param_shapes
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.text_encoders.clip_tokenizer import train_word_tokenizer
from sdsjax.models.unets.multiview import MultiViewConfig
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig
from sdsjax.representations.gaussians import Gaussians
from sdsjax.training.build import build_representation

TINY = {
    "prompt": "a red mug",
    "steps": 2,
    "resolution": 16,
    "batch_size": 1,
    "camera.first_batch_size": 1,
    "camera.first_resolution": 8,
    "diagnostics.every": 1,
    "exports.turntable_frames": 2,
    "exports.mesh_resolution": 8,
}

# Variants that are left out of both, and those that show their parts: every section of
# such a config - estimator, prior, representation, cameras, losses - is a section of
# one of these, which step and lower. A step is no more than its parts, which never
# import one another; backend/test_lowering builds each of these whole. Where vsd meets
# another network, priors/ has its second network begin as the first, and learn.
IN_PARTS = {
    **{
        f"{stem}:toybox": ("ssd:toybox", f"{stem}:image")
        for stem in ("csd", "denoised_l2", "ism", "nfsd", "sdi", "sds_plus", "stein")
    },
    "dreamgaussian:toybox": ("dreamgaussian:mv", "gsgen:toybox"),
    "edit:dds": ("edit:pds", "edit:image"),
    "gsgen:mv": ("gsgen:toybox", "ssd:mv"),
    "hifa:toybox": ("hifa:mv", "image_to_3d:nerf"),
    "ism:sd21": ("ism:image", "sds:sd21"),
    "sdi:sd21": ("sdi:image", "sds:sd21"),
    "image_to_3d:toybox": ("image_to_3d:hallucinate", "image_to_3d:nerf"),
    "sds:exact": ("ssd:exact", "sds:image"),
    "sds:flow": ("ssd:flow", "sds:image"),
    "sds:mv": ("ssd:mv", "sds:image"),
    "sds:toybox": ("ssd:toybox", "sds:image"),
    "ssd:image": ("csd:image", "ssd:toybox"),
    "ssd:sd21": ("sds:sd21", "ssd:toybox"),
    "stabledreamer:mv": ("stabledreamer:toybox", "ssd:mv"),
    "vsd:mv": ("ssd:mv", "vsd:toybox"),
    "vsd:sd21": ("sds:sd21", "vsd:toybox"),
    "vsd:sd3": ("sds:sd3", "vsd:toybox"),
    "vsd:sdxl": ("sds:sdxl", "vsd:toybox"),
}
# what the sizes of seconds replace, or what no step sees
OF_NO_STEP = {
    *("prompt", "steps", "resolution", "batch_size", "exports", "scoring"),
    *("checkpoint_every", "preview_every"),
}


def random_params(name, network_config, rng):
    """A component's config, and parameters for it of deviation 0.1."""
    flat = flatten_dict(param_shapes(name, network_config))
    random = {k: rng.normal(0, 0.1, s.shape).astype("f4") for k, s in flat.items()}
    return network_config, unflatten_dict(random)


def write_random_folder(folder, multiview=False):
    """Writes a folder in Stable Diffusion's layout, of 16x16 px; returns it.

    multiview: with MVDream's kind of network.
    """
    rng = np.random.default_rng(0)
    vocab, merges = train_word_tokenizer(["a", "red", "mug", "view"])
    text = CLIPTextConfig(len(vocab), 8, 16, 1, 2, 16, "gelu", 1e-5)
    vae = VAEConfig(3, 3, 4, (8, 8), 1, 4, 0.2, 16)
    unet = UNetConfig(4, 4, (8,), (2,), (True,), (True,), 1, 4, 1e-5, 8, True, 8)
    network = MultiViewConfig(unet) if multiview else unet
    return save_stable_diffusion(
        folder,
        unet=random_params("unet", network, rng),
        vae=random_params("vae", vae, rng),
        text_encoder=random_params("text_encoder", text, rng),
        tokenizer=(vocab, merges),
    )


def tiny(name, folder):
    """The overrides that make a variant one of seconds, its network from `folder`."""
    overrides = {**TINY, "prior.folder": str(folder)}
    config = load(name)
    if name.endswith(":sd3"):
        overrides["prior.image_size"] = 16
    if name.endswith(":sdxl"):
        overrides["prior.variant"] = None
    if config.prior.name == "multiview":
        overrides |= {"batch_size": 4, "camera.first_batch_size": 4}
    overrides["camera.first_steps"] = int(config.camera.first_steps > 0)
    if config.representation.name == "nerf":
        sizes = {"levels": 2, "log2_size": 8, "hidden": 8, "coarse": 4, "fine": 4}
        overrides |= {f"representation.{key}": size for key, size in sizes.items()}
        if config.representation.get("band_first"):
            overrides["representation.band_first"] = 2  # all: every level moves
    elif config.representation.name == "gaussians":
        overrides["representation.count"] = 30
    if name.startswith("edit"):
        overrides["edit.source_prompt"] = "a red ball"
        overrides |= _source(name, overrides, Path(folder))
    return overrides


def _source(name, overrides, folder):
    """What is edited: four splats, or a field or picture that was never trained."""
    kind = load(name).representation.name
    if kind == "gaussians":
        return {"edit.path": str(write_source(folder)), "representation.count": 4}
    path = folder / f"source-{kind}"
    if not path.exists():
        own = {k: v for k, v in overrides.items() if not k.startswith("edit.")}
        stem = {"nerf": "nerf", "image": "ssd:image"}[kind]
        config = resolve(stem, {**own, "prior.name": "stable_diffusion"})
        side = overrides["resolution"]
        representation = build_representation(config, (side, side, 3))
        finished(path, config, *jax.jit(representation.init)(jax.random.key(3)))
    return {"edit.path": str(path)}


def write_source(folder):
    """Writes four splats beside a folder of weights, for runs that edit."""
    path = Path(folder) / "source.ply"
    means = np.array([[0.3, 0, 0], [-0.3, 0, 0], [0, 0.3, 0], [0, 0, 0.3]], np.float32)
    rows = Gaussians(
        means,
        np.full((4, 3), -1.5, np.float32),
        np.tile(np.float32([1, 0, 0, 0]), (4, 1)),
        np.ones(4, np.float32),
        np.full((4, 1, 3), 0.3, np.float32),
        np.ones(4, bool),
    )
    return write_splats(path, rows)
