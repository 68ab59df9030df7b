"""Whole models in one .safetensors file, in small, holding the fixed weights."""

import fixed_weights as fixed
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub, mapping
from sdsjax.models.loading.sdxl.folder import SECOND_ENCODER
from sdsjax.models.loading.single_file import tables
from sdsjax.models.loading.single_file.layout import Layout
from sdsjax.models.text_encoders.clip import CLIPProjectionConfig, CLIPTextConfig
from sdsjax.models.text_encoders.clip_tokenizer import (
    train_word_tokenizer,
    write_tokenizer,
)
from sdsjax.models.unets.multiview import MultiViewConfig
from sdsjax.models.unets.sdxl import SDXLConfig
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig

WORDS = ["a", "red", "mug", "view", "cat"]
LENGTH = 16
VOCAB = len(train_word_tokenizer(WORDS)[0])
# two levels, the coarser one attends; 1.x: 8 heads everywhere, else heads of 64
UNET = UNetConfig(
    in_channels=4, out_channels=4, channels=(32, 64), heads=(1, 1),
    down_attention=(False, True), up_attention=(True, False), layers=1, groups=32,
    epsilon=1e-5, context=24, linear_projection=True, sample_size=64,
)  # fmt: skip
VAE = VAEConfig(3, 3, 4, (32, 64), 1, 32, 0.18215, 512)
PLAIN = CLIPTextConfig(VOCAB, 24, 40, 2, 1, LENGTH, "quick_gelu", 1e-5)
OPEN = CLIPTextConfig(VOCAB, 24, 40, 2, 1, LENGTH, "gelu", 1e-5)
BIG = CLIPProjectionConfig(OPEN._replace(hidden=16), 12, 2)
XL_UNET = UNET._replace(context=24 + 16, sample_size=128, depths=(1, 2))
LAYOUTS = {
    "1.x": Layout(
        "1.x", UNET._replace(heads=(8, 8), linear_projection=False), VAE, PLAIN, None
    ),
    "2.x": Layout("2.x", UNET, VAE, OPEN, None),
    "XL": Layout(
        "XL",
        SDXLConfig(XL_UNET, 12, 256),
        VAE._replace(scaling_factor=0.13025, sample_size=1024),
        PLAIN,
        BIG,
    ),
    "MVDream": Layout(
        "MVDream", MultiViewConfig(UNET._replace(sample_size=32)), VAE, OPEN, None
    ),
}
# of each text encoder: where its keys begin
PREFIXES = {
    "1.x": ("cond_stage_model.transformer.", None),
    "2.x": ("cond_stage_model.model.", None),
    "MVDream": ("cond_stage_model.model.", None),
    "XL": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}


# the published models' sizes, by their folders' config.json
SD1 = UNetConfig(
    in_channels=4, out_channels=4, channels=(320, 640, 1280, 1280), heads=(8,) * 4,
    down_attention=(True, True, True, False), up_attention=(False, True, True, True),
    layers=2, groups=32, epsilon=1e-5, context=768, linear_projection=False,
    sample_size=64,
)  # fmt: skip
SD2 = SD1._replace(context=1024, linear_projection=True, heads=(5, 10, 20, 20))
XL = UNetConfig(
    in_channels=4, out_channels=4, channels=(320, 640, 1280), heads=(5, 10, 20),
    down_attention=(False, True, True), up_attention=(True, True, False), layers=2,
    groups=32, epsilon=1e-5, context=2048, linear_projection=True, sample_size=128,
    depths=(1, 2, 10),
)  # fmt: skip
KL = VAEConfig(3, 3, 4, (128, 256, 512, 512), 2, 32, 0.18215, 512)
CLIP_L = CLIPTextConfig(49408, 768, 3072, 12, 12, 77, "quick_gelu", 1e-5)
OPEN_H = CLIPTextConfig(49408, 1024, 4096, 23, 16, 77, "gelu", 1e-5)
BIG_G = CLIPTextConfig(49408, 1280, 5120, 32, 20, 77, "gelu", 1e-5)
FULL_SIZE = {
    "1.x": Layout("1.x", SD1, KL, CLIP_L, None),
    "2.x": Layout("2.x", SD2, KL, OPEN_H, None),
    "XL": Layout(
        "XL",
        SDXLConfig(XL, 1280, 256),
        KL._replace(scaling_factor=0.13025, sample_size=1024),
        CLIP_L,
        CLIPProjectionConfig(BIG_G, 1280, 2),
    ),
    "MVDream": Layout(
        "MVDream", MultiViewConfig(SD2._replace(sample_size=32)), KL, OPEN_H, None
    ),
}


def _shapes(prefix, component, config, table):
    shapes = flatten_dict(hub.shapes_of(component, config))
    return {
        prefix + key: mapping.torch_shape(kind, shapes[path].shape)
        for key, kind, path in table
    }


def layout_shapes(kind, layout):
    """key -> shape of the networks that a layout has, all of them read."""
    unet, vae, text, second = layout[1:]
    plain, other = PREFIXES[kind]
    parts = hub.COMPONENTS
    table = tables.unet_file_table(unet)
    found = _shapes("model.diffusion_model.", parts["unet"], unet, table)
    table = tables.vae_file_table(vae)
    found |= _shapes("first_stage_model.", parts["vae"], vae, table)
    if plain.endswith("transformer."):
        table = tables.clip_file_table(text, ["text_model.x"])
    else:  # and the last layer, which Stable Diffusion 2 has no use for
        text = text._replace(layers=text.layers + 1)
        table = tables.open_clip_table(text)
    found |= _shapes(plain, parts["text_encoder"], text, table)
    if second:
        table = tables.open_clip_projection_table(second)
        found |= _shapes(other, SECOND_ENCODER, second, table)
    return found


def full_size_shapes(kind):
    """key -> shape of a published file's networks; nothing is allocated."""
    return layout_shapes(kind, FULL_SIZE[kind])


def tensors(kind):
    """key -> tensor of a whole model, with what training leaves beside the networks."""
    shapes = layout_shapes(kind, LAYOUTS[kind])
    found = {key: fixed.tensor(key, shape) for key, shape in shapes.items()}
    plain, other = PREFIXES[kind]
    if plain.endswith("transformer."):
        found[plain + "text_model.embeddings.position_ids"] = np.arange(LENGTH)[None]
    else:
        found[plain + "text_projection"] = fixed.uniform("unused", (24, 24))
        found[plain + "logit_scale"] = np.float32(4.6)
    if other:
        found[other + "logit_scale"] = np.float32(4.6)
    else:
        alphas = np.asarray(NoiseSchedule.scaled_linear().alphas)
        found["alphas_cumprod"] = (alphas**2).astype(np.float16)
        found["sqrt_alphas_cumprod"] = alphas
    return found


def write_single_file(path, kind, **changes):
    """Writes the file of a kind; changes: key -> tensor, None to leave it out."""
    kept = {**tensors(kind), **changes}
    kept = {k: np.ascontiguousarray(v) for k, v in kept.items() if v is not None}
    save_file(kept, path)
    return path


def write_vocabulary(folder):
    """Writes a tokenizer's files, padded as 1.x's, into a folder; returns it."""
    write_tokenizer(folder, *train_word_tokenizer(WORDS), LENGTH)
    return folder
