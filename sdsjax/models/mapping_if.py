"""Torch keys <-> Flax paths of DeepFloyd IF's UNet and of T5's encoder.

Notation and strictness as in `mapping`. `unet_table` and `text_table` are what the
loader asks: they know all UNets and all text encoders by the type of their config.
"""

from collections.abc import Collection, Iterator

import numpy as np
from safetensors import safe_open

from sdsjax.models import mapping
from sdsjax.models.errors import LoaderError
from sdsjax.models.mapping import Entry, _layer
from sdsjax.models.t5 import T5Config
from sdsjax.models.unet_if import IFUNetConfig
from sdsjax.models.weights import Source

# one tensor under two names: files hold either or both
T5_TOKENS = ("shared.weight", "encoder.embed_tokens.weight")


def unet_table(config, keys: Collection[str] = ()) -> list[Entry]:
    """The table of any UNet."""
    if isinstance(config, IFUNetConfig):
        return if_unet_table(config)
    return mapping.unet_table(config)


def text_table(config, keys: Collection[str] = ()) -> list[Entry]:
    """The table of any text encoder."""
    if isinstance(config, T5Config):
        return t5_table(config, keys)
    return mapping.clip_text_table(config, keys)


def if_unet_table(config: IFUNetConfig) -> list[Entry]:
    """775 entries for IF-I-XL."""
    return list(_unet_entries(config))


def _linears(key, path, names) -> Iterator[Entry]:
    for name in names:
        yield from _layer("linear", f"{key}.{name}", (*path, name.replace(".0", "_0")))


def _resnet(key, path, shortcut) -> Iterator[Entry]:
    for name, kind in (
        ("norm1", "norm"), ("conv1", "conv"), ("time_emb_proj", "linear"),
        ("norm2", "norm"), ("conv2", "conv"),
    ):  # fmt: skip
        yield from _layer(kind, f"{key}.{name}", (*path, name))
    if shortcut:
        yield from _layer("conv", f"{key}.conv_shortcut", (*path, "conv_shortcut"))


def _attention(key, path) -> Iterator[Entry]:
    for name in ("group_norm", "norm_cross"):
        yield from _layer("norm", f"{key}.{name}", (*path, name))
    names = ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "to_out.0")
    yield from _linears(key, path, names)


def _add_embedding(key="add_embedding") -> Iterator[Entry]:
    for name in ("norm1", "norm2"):
        yield from _layer("norm", f"{key}.{name}", (key, name))
    pool = (key, "pool")
    yield Entry(
        f"{key}.pool.positional_embedding", "raw", (*pool, "positional_embedding")
    )
    yield from _linears(f"{key}.pool", pool, ("k_proj", "q_proj", "v_proj"))
    yield from _layer("linear", f"{key}.proj", (key, "proj"))


def _unet_entries(config: IFUNetConfig) -> Iterator[Entry]:
    channels, last = config.channels, len(config.channels) - 1
    yield from _layer("conv", "conv_in", ("conv_in",))
    yield from _linears("time_embedding", ("time_embedding",), ("linear_1", "linear_2"))
    yield from _add_embedding()
    yield from _layer("linear", "encoder_hid_proj", ("encoder_hid_proj",))

    def stage(block, index, inputs, width, attend, resize):
        key, path = f"{block}.{index}", f"{block}_{index}"
        for j, before in enumerate(inputs):
            name = f"resnets_{j}"
            yield from _resnet(f"{key}.resnets.{j}", (path, name), before != width)
            if attend:
                name = f"attentions_{j}"
                yield from _attention(f"{key}.attentions.{j}", (path, name))
        if resize:
            yield from _resnet(f"{key}.{resize}.0", (path, f"{resize}_0"), False)

    skips, width = [channels[0]], channels[0]
    for i, attend in enumerate(config.down_attention):
        inputs = [width, *(channels[i],) * (config.layers - 1)]
        width = channels[i]
        resize = "downsamplers" if i < last else None
        yield from stage("down_blocks", i, inputs, width, attend, resize)
        skips += [width] * (config.layers + (i < last))
    for j in range(2):
        yield from _resnet(
            f"mid_block.resnets.{j}", ("mid_block", f"resnets_{j}"), False
        )
    yield from _attention("mid_block.attentions.0", ("mid_block", "attentions_0"))
    for i, attend in enumerate(config.up_attention):
        before, width = width, channels[last - i]
        carried = [before, *(width,) * config.layers]
        inputs = [c + skips.pop() for c in carried]
        resize = "upsamplers" if i < last else None
        yield from stage("up_blocks", i, inputs, width, attend, resize)
    yield from _layer("norm", "conv_norm_out", ("conv_norm_out",))
    yield from _layer("conv", "conv_out", ("conv_out",))


def t5_table(config: T5Config, keys: Collection[str] = ()) -> list[Entry]:
    """219 entries for T5-XXL.

    keys: those of the file, which decide the name of the token embedding.
    """
    tokens = next((key for key in T5_TOKENS if key in keys), T5_TOKENS[0])
    return list(_t5_entries(config, tokens))


def _t5_entries(config: T5Config, tokens: str) -> Iterator[Entry]:
    yield Entry(tokens, "embedding", ("token_embedding",))
    yield Entry(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "embedding",
        ("relative_bias",),
    )

    def norm(key, *path):
        return Entry(f"{key}.weight", "norm", (*path, "scale"))

    for i in range(config.layers):
        key, path = f"encoder.block.{i}.layer", f"blocks_{i}"
        for name in "qkvo":
            yield from _layer(
                "linear", f"{key}.0.SelfAttention.{name}", (path, "attention", name),
                False,
            )  # fmt: skip
        for name in ("wi_0", "wi_1", "wo"):
            yield from _layer(
                "linear", f"{key}.1.DenseReluDense.{name}",
                (path, "feed_forward", name), False,
            )  # fmt: skip
        yield norm(f"{key}.0.layer_norm", path, "attention_norm")
        yield norm(f"{key}.1.layer_norm", path, "feed_forward_norm")
    yield norm("encoder.final_layer_norm", "final_norm")


def single_embedding(source: Source) -> Source:
    """The files without a second copy of T5's token embedding.

    Raises LoaderError if the two differ: torch would keep the first and say nothing.
    """
    kept, copy = T5_TOKENS
    if not {kept, copy} <= set(source.files):
        return source
    with (
        safe_open(str(source.files[kept]), "np") as one,
        safe_open(str(source.files[copy]), "np") as other,
    ):
        a, b = one.get_slice(kept), other.get_slice(copy)
        same = a.get_shape() == b.get_shape() and a.get_dtype() == b.get_dtype()
        count = a.get_shape()[0] if same else 0
        for first in range(0, count, 4096):
            rows = slice(first, min(first + 4096, count))
            same = same and np.array_equal(a[rows], b[rows])
    if not same:
        raise LoaderError(
            f"{source.name}: {kept} and {copy} differ; expected two copies of the "
            "token embedding"
        )
    files = {key: path for key, path in source.files.items() if key != copy}
    return source._replace(files=files)
