"""Torch keys <-> Flax paths, one table a component, generated from its config.

Notation: an `Entry` says that the tensor `key` of a safetensors file is the parameter
at `path` of the Flax tree, laid out as its `kind` says:

    conv       weight `[o i h w]` -> kernel `[h w i o]`
    linear     weight `[o i]`     -> kernel `[i o]`
    spread     weight `[i o h w]` -> kernel `[h w i o]`  (transposed convolution)
    norm       weight `[c]`       -> scale
    embedding  weight `[rows c]`  -> as it is
    raw        biases             -> as they are
    pixel      weight `[o i 1 1]` -> kernel `[i o]`      (a 1x1 convolution)
    fused_q    first, second, last third of a weight `[3 o i]` -> kernel `[i o]`
    fused_k    and of a bias `[3 o]` -> `[o]`; three entries with one key
    fused_v    (the last two are of single files: single_file/)

The table is complete: a file must hold exactly its keys. The Flax modules are named so
that a path is the key with "_" for a "." before a number, wherever torch's names allow.
"""

from collections.abc import Collection, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig

TO_FLAX = {"conv": (2, 3, 1, 0), "linear": (1, 0), "spread": (2, 3, 0, 1)}
FUSED = ("fused_q", "fused_k", "fused_v")
# what cannot be read piece by piece
WHOLE = (*FUSED, "pixel")
PARAMETER = {
    **dict.fromkeys(("conv", "linear", "spread"), "kernel"),
    "norm": "scale",
}
# the hub's VAE files say query, newer ones to_q; `to_out_0` is the Flax name
VAE_SPELLINGS = {
    "to_q": ("to_q", "query"),
    "to_k": ("to_k", "key"),
    "to_v": ("to_v", "value"),
    "to_out_0": ("to_out.0", "proj_attn"),
}
CLIP_PREFIX = "text_model."
CLIP_IGNORED = "embeddings.position_ids"


class Entry(NamedTuple):
    """One tensor: its torch key, its kind, its path in the Flax tree."""

    key: str
    kind: str
    path: tuple[str, ...]


def to_flax(kind: str, tensor: np.ndarray) -> np.ndarray:
    """A torch tensor in Flax's layout (a view)."""
    if kind == "pixel":
        return tensor.reshape(tensor.shape[:2]).T
    if kind in FUSED:
        rows = tensor.shape[0] // 3
        first = rows * FUSED.index(kind)
        return tensor[first : first + rows].T
    axes = TO_FLAX.get(kind)
    return tensor.transpose(axes) if axes else tensor


def to_torch(kind: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_flax` (a view)."""
    axes = TO_FLAX.get(kind)
    return array.transpose(np.argsort(axes)) if axes else array


def torch_shape(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a parameter of Flax shape `shape` has in a torch file."""
    if kind == "pixel":
        return (*shape[::-1], 1, 1)
    if kind in FUSED:
        return (3 * shape[-1], *shape[:-1])
    axes = TO_FLAX.get(kind)
    return tuple(shape[i] for i in np.argsort(axes)) if axes else tuple(shape)


def layer(kind, key, path, bias=True) -> Iterator[Entry]:
    """A weight, and a bias where there is one."""
    yield Entry(f"{key}.weight", kind, (*path, PARAMETER[kind]))
    if bias:
        yield Entry(f"{key}.bias", "raw", (*path, "bias"))


def layers(kind, key, path, names, bias=True) -> Iterator[Entry]:
    """A layer for each of `names`, beneath `key` and `path`."""
    for name in names:
        yield from layer(kind, f"{key}.{name}", (*path, name.replace(".", "_")), bias)


def resnet(key, path, shortcut, time) -> Iterator[Entry]:
    """Maps the keys of a residual block.

    shortcut: whether the channels change; time: whether it is told t.
    """
    yield from layers("norm", key, path, ("norm1", "norm2"))
    yield from layers("conv", key, path, ("conv1", "conv2"))
    if time:
        yield from layers("linear", key, path, ("time_emb_proj",))
    if shortcut:
        yield from layers("conv", key, path, ("conv_shortcut",))


def unet_levels(config, resnet, attention, resample) -> Iterator[Entry]:
    """Maps what the UNets share: conv_in, the levels, conv_out.

    The levels down, the middle and the levels up. resnet: (key, path, shortcut);
    attention: (key, path, level); resample: (key, path).
    """
    channels, last = config.channels, len(config.channels) - 1

    def stage(block, index, level, inputs, attend, resize):
        width = channels[level]
        key, path = f"{block}.{index}", f"{block}_{index}"
        for j, before in enumerate(inputs):
            where = (path, f"resnets_{j}")
            yield from resnet(f"{key}.resnets.{j}", where, before != width)
            if attend:
                where = (path, f"attentions_{j}")
                yield from attention(f"{key}.attentions.{j}", where, level)
        if resize:
            yield from resample(f"{key}.{resize}.0", (path, f"{resize}_0"))

    yield from layer("conv", "conv_in", ("conv_in",))
    skips, width = [channels[0]], channels[0]
    for i, attend in enumerate(config.down_attention):
        inputs = [width, *(channels[i],) * (config.layers - 1)]
        width = channels[i]
        resize = "downsamplers" if i < last else None
        yield from stage("down_blocks", i, i, inputs, attend, resize)
        skips += [width] * (config.layers + (i < last))
    for j in range(2):
        where = ("mid_block", f"resnets_{j}")
        yield from resnet(f"mid_block.resnets.{j}", where, False)
    yield from attention("mid_block.attentions.0", ("mid_block", "attentions_0"), last)
    for i, attend in enumerate(config.up_attention):
        before, width = width, channels[last - i]
        carried = [before, *(width,) * config.layers]
        inputs = [c + skips.pop() for c in carried]
        resize = "upsamplers" if i < last else None
        yield from stage("up_blocks", i, last - i, inputs, attend, resize)
    yield from layer("norm", "conv_norm_out", ("conv_norm_out",))
    yield from layer("conv", "conv_out", ("conv_out",))


def _transformer(key, path, level, config: UNetConfig) -> Iterator[Entry]:
    yield from layers("norm", key, path, ("norm",))
    projection = "linear" if config.linear_projection else "conv"
    yield from layers(projection, key, path, ("proj_in", "proj_out"))
    for i in range(config.depth(level)):
        where = (*path, f"transformer_blocks_{i}")
        yield from _transformer_block(f"{key}.transformer_blocks.{i}", where)


def _transformer_block(key, path) -> Iterator[Entry]:
    yield from layers("norm", key, path, ("norm1", "norm2", "norm3"))
    for name in ("attn1", "attn2"):
        part, where = f"{key}.{name}", (*path, name)
        yield from layers("linear", part, where, ("to_q", "to_k", "to_v"), False)
        yield from layers("linear", part, where, ("to_out.0",))
    yield from layers("linear", f"{key}.ff", (*path, "ff"), ("net.0.proj", "net.2"))


def unet_table(config: UNetConfig) -> list[Entry]:
    """Maps a UNet's keys: 686 entries for Stable Diffusion 1.5 and 2.1."""
    time = "time_embedding"
    return [
        *layers("linear", time, (time,), ("linear_1", "linear_2")),
        *unet_levels(
            config,
            partial(resnet, time=True),
            partial(_transformer, config=config),
            lambda key, path: layers("conv", key, path, ("conv",)),
        ),
    ]


def vae_table(config: VAEConfig, keys: Collection[str] = ()) -> list[Entry]:
    """Maps a VAE's keys: 248 entries for Stable Diffusion's.

    keys: those of the file, which decide between the two spellings of the attention's
    projections. Raises LoaderError if both occur.
    """
    attention = {part for k in keys if ".attentions." in k for part in k.split(".")}
    legacy = {old for _, old in VAE_SPELLINGS.values()} & attention
    modern = {name.split(".")[0] for name, _ in VAE_SPELLINGS.values()} & attention
    if legacy and modern:
        both = ", ".join(sorted(legacy | modern))
        raise LoaderError(f"mixes two spellings of the VAE's attention ({both})")
    return list(_vae_entries(config, bool(legacy)))


def _vae_entries(config: VAEConfig, legacy: bool) -> Iterator[Entry]:
    channels, last = config.channels, len(config.channels) - 1

    def middle(side):
        key, path = f"{side}.mid_block", (side, "mid_block")
        for j in range(2):
            where = (*path, f"resnets_{j}")
            yield from resnet(f"{key}.resnets.{j}", where, False, False)
        key, path = f"{key}.attentions.0", (*path, "attentions_0")
        yield from layers("norm", key, path, ("group_norm",))
        for name, spelling in VAE_SPELLINGS.items():
            where = (*path, "heads", name)
            yield from layer("linear", f"{key}.{spelling[legacy]}", where)

    def side(name, block, widths, count, resize):
        yield from layers("conv", name, (name,), ("conv_in",))
        before = widths[0]
        for i, width in enumerate(widths):
            key, path = f"{name}.{block}.{i}", (name, f"{block}_{i}")
            for j in range(count):
                shortcut = j == 0 and before != width
                where = (*path, f"resnets_{j}")
                yield from resnet(f"{key}.resnets.{j}", where, shortcut, False)
            before = width
            if i < last:
                where = (*path, f"{resize}_0")
                yield from layers("conv", f"{key}.{resize}.0", where, ("conv",))
        yield from middle(name)
        yield from layers("norm", name, (name,), ("conv_norm_out",))
        yield from layers("conv", name, (name,), ("conv_out",))

    count, back = config.layers, channels[::-1]
    yield from side("encoder", "down_blocks", channels, count, "downsamplers")
    yield from side("decoder", "up_blocks", back, count + 1, "upsamplers")
    for name in ("quant_conv", "post_quant_conv") if config.quant else ():
        yield from layer("conv", name, (name,))


def clip_text_table(config: CLIPTextConfig, keys: Collection[str] = ()) -> list[Entry]:
    """Maps a text encoder's keys: 196 entries for SD 1's, 372 for SD 2's.

    keys: those of the file, which decide whether `text_model.` stands before every key.
    Raises LoaderError if it stands before some only.
    """
    prefixed = [key.startswith(CLIP_PREFIX) for key in keys]
    if any(prefixed) and not all(prefixed):
        odd = next(k for k, has in zip(keys, prefixed, strict=True) if not has)
        raise LoaderError(f"mixes keys with and without {CLIP_PREFIX!r} (as {odd!r})")
    prefix = CLIP_PREFIX if all(prefixed) else ""
    return list(_clip_entries(config, prefix))


def _clip_entries(config: CLIPTextConfig, prefix: str) -> Iterator[Entry]:
    for name in ("token_embedding", "position_embedding"):
        yield Entry(f"{prefix}embeddings.{name}.weight", "embedding", (name,))
    for i in range(config.layers):
        yield from clip_layer(f"{prefix}encoder.layers.{i}", (f"layers_{i}",))
    yield from layer("norm", f"{prefix}final_layer_norm", ("final_layer_norm",))


def clip_layer(key, path) -> Iterator[Entry]:
    """One layer of either of CLIP's towers."""
    yield from layers("norm", key, path, ("layer_norm1", "layer_norm2"))
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    yield from layers("linear", f"{key}.self_attn", (*path, "self_attn"), names)
    for name in ("fc1", "fc2"):
        yield from layer("linear", f"{key}.mlp.{name}", (*path, f"mlp_{name}"))
