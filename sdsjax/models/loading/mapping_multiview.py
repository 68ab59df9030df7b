"""LDM's keys of a multi-view UNet <-> Flax paths: `input_blocks.N.M...` and the like.

The original latent diffusion code counts a UNet's blocks in one list down and one up,
where diffusers counts levels; MVDream's files (arXiv 2308.16512) and single-file
checkpoints are keyed so. The table is diffusers' (mapping.py) with each key translated;
an `Entry`'s path is ours. The keys of what MVDream has not are our own: `joint_code`.
"""

from collections.abc import Iterator

from sdsjax.models.loading.mapping import Entry, layer, layers, unet_table
from sdsjax.models.unets.multiview import RAY_CHANNELS, MultiViewConfig
from sdsjax.models.unets.stable_diffusion import UNetConfig

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def ldm_blocks(config: UNetConfig) -> dict[str, str]:
    """Returns LDM's name of every block of a UNet by diffusers' name."""
    names, last = dict(ENDS), len(config.channels) - 1
    block = 1
    for i in range(last + 1):
        for j in range(config.layers):
            names[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{block}.0"
            names[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{block}.1"
            block += 1
        if i < last:
            names[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
            block += 1
    block = 0
    for i, attend in enumerate(config.up_attention):
        for j in range(config.layers + 1):
            names[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{block}.0"
            names[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{block}.1"
            block += 1
        # the doubling stands in the level's last block, after its other layers
        place = f"output_blocks.{block - 1}.{1 + attend}.conv"
        names[f"up_blocks.{i}.upsamplers.0.conv"] = place
    return names


def ldm_key(key: str, blocks: dict[str, str]) -> str:
    """A UNet's key in diffusers' spelling -> LDM's."""
    for known, name in blocks.items():
        if key.startswith(f"{known}."):
            rest = key[len(known) + 1 :]
            if ".resnets." in f".{known}":
                layer, _, parameter = rest.rpartition(".")
                rest = f"{RESNET[layer]}.{parameter}"
            return f"{name}.{rest}"
    raise KeyError(key)


def multiview_table(config: MultiViewConfig) -> list[Entry]:
    """Maps a multi-view UNet's keys: 690 entries for MVDream.

    They are Stable Diffusion's 686 and the camera's embedding.
    """
    return list(_entries(config))


def _entries(config: MultiViewConfig) -> Iterator[Entry]:
    inputs = config.unet.in_channels + RAY_CHANNELS * config.rays
    unet = config.unet._replace(in_channels=inputs)
    blocks = ldm_blocks(unet)
    for key, kind, path in unet_table(unet):
        yield Entry(ldm_key(key, blocks), kind, ("unet", *path))
    for key, name in (("camera_embed.0", "linear_1"), ("camera_embed.2", "linear_2")):
        yield from layer("linear", key, ("camera_embed", name))
    if config.code_tokens:
        names = ("linear_1", "linear_2", "to_time", "to_tokens")
        yield from layers("linear", "joint_code", ("joint_code",), names)
