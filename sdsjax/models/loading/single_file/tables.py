"""The keys of a single file <-> Flax paths, generated from the configs.

Each table is that of a folder (`loading.mapping`) with its keys translated. Three
things are stored otherwise: the projections of the VAE's attention as 1x1 convolutions,
OpenCLIP's query, key and value in one tensor, its text projection the other way round.
"""

import re
from collections.abc import Collection, Iterator

from sdsjax.models.loading.mapping import (
    FUSED,
    Entry,
    clip_text_table,
    layer,
    unet_table,
    vae_table,
)
from sdsjax.models.loading.mapping_multiview import (
    ldm_blocks,
    ldm_key,
    multiview_table,
)
from sdsjax.models.loading.sdxl.mapping import PROJECTION, beneath, sdxl_table
from sdsjax.models.text_encoders.clip import CLIPProjectionConfig, CLIPTextConfig
from sdsjax.models.unets.multiview import MultiViewConfig
from sdsjax.models.unets.sdxl import SDXLConfig
from sdsjax.models.vae import VAEConfig

ADDED = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
VAE_PROJECTIONS = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
# in order: a diffusers key of the VAE, with its levels up counted from the other end
VAE_NAMES = (
    (r"\.mid_block\.attentions\.0\.group_norm", ".mid.attn_1.norm"),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
)


def unet_file_table(config) -> list[Entry]:
    """Maps the UNet of any kind, as keyed beneath `model.diffusion_model.`."""
    if isinstance(config, MultiViewConfig):
        return multiview_table(config)
    xl = isinstance(config, SDXLConfig)
    blocks = {**ldm_blocks(config.unet if xl else config), **ADDED}
    table = sdxl_table(config) if xl else unet_table(config)
    return [Entry(ldm_key(key, blocks), kind, path) for key, kind, path in table]


def vae_file_table(config: VAEConfig) -> list[Entry]:
    """Maps the VAE, as keyed beneath `first_stage_model.`."""
    last = len(config.channels) - 1
    return [_vae_entry(*entry, last) for entry in vae_table(config)]


def _vae_entry(key: str, kind: str, path, last: int) -> Entry:
    head = ".mid_block.attentions.0."
    side, found, rest = key.partition(head)
    name, _, parameter = rest.rpartition(".")
    if found and name in VAE_PROJECTIONS:
        kind = "pixel" if kind == "linear" else kind
        key = f"{side}.mid.attn_1.{VAE_PROJECTIONS[name]}.{parameter}"
        return Entry(key, kind, path)
    key = re.sub(
        r"\.up_blocks\.(\d+)\.", lambda m: f".up_blocks.{last - int(m[1])}.", key
    )
    for pattern, name in VAE_NAMES:
        key = re.sub(pattern, name, key)
    return Entry(key, kind, path)


def clip_file_table(config: CLIPTextConfig, keys: Collection[str]) -> list[Entry]:
    """Maps a text encoder kept in transformers' layout; keys: the file's own."""
    return clip_text_table(config, keys)


def open_clip_table(config: CLIPTextConfig) -> list[Entry]:
    """Maps a text encoder in OpenCLIP's layout; a last layer not used has no entry."""
    return list(_open_clip(config))


def _open_clip(config: CLIPTextConfig) -> Iterator[Entry]:
    token, position = "token_embedding", "position_embedding"
    yield Entry(f"{token}.weight", "embedding", (token,))
    yield Entry("positional_embedding", "raw", (position,))
    for i in range(config.layers):
        key, path = f"transformer.resblocks.{i}", (f"layers_{i}",)
        for own, name in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")):
            yield from layer("norm", f"{key}.{own}", (*path, name))
        for part, name in zip(FUSED, ("q_proj", "k_proj", "v_proj"), strict=True):
            where = (*path, "self_attn", name)
            yield Entry(f"{key}.attn.in_proj_weight", part, (*where, "kernel"))
            yield Entry(f"{key}.attn.in_proj_bias", part, (*where, "bias"))
        where = (*path, "self_attn", "out_proj")
        yield from layer("linear", f"{key}.attn.out_proj", where)
        for own, name in (("c_fc", "mlp_fc1"), ("c_proj", "mlp_fc2")):
            yield from layer("linear", f"{key}.mlp.{own}", (*path, name))
    yield from layer("norm", "ln_final", ("final_layer_norm",))


def open_clip_projection_table(config: CLIPProjectionConfig) -> list[Entry]:
    """Maps OpenCLIP's text encoder with its projection, which is stored `[i o]`."""
    projection = Entry(PROJECTION, "raw", (PROJECTION, "kernel"))
    return [*beneath("text_model", open_clip_table(config.text)), projection]
