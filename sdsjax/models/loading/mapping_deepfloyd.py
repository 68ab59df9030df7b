"""Torch keys <-> Flax paths of DeepFloyd IF's UNet and of T5's encoder.

Notation and strictness as in `mapping`. `unet_table` and `text_table` are what the
loader asks: they know all UNets and all text encoders by the type of their config.
"""

from collections.abc import Collection, Iterator
from functools import partial

import numpy as np
from safetensors import safe_open

from sdsjax.models.loading import mapping
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.mapping import Entry, layer, layers, resnet, unet_levels
from sdsjax.models.loading.mapping_multiview import multiview_table
from sdsjax.models.loading.sdxl.mapping import sdxl_table
from sdsjax.models.loading.weights import Source
from sdsjax.models.text_encoders.t5 import T5Config
from sdsjax.models.unets.deepfloyd import IFUNetConfig
from sdsjax.models.unets.multiview import MultiViewConfig
from sdsjax.models.unets.sdxl import SDXLConfig

# one tensor under two names: files hold either or both
T5_TOKENS = ("shared.weight", "encoder.embed_tokens.weight")


def unet_table(config, keys: Collection[str] = ()) -> list[Entry]:
    """The table of any UNet."""
    if isinstance(config, IFUNetConfig):
        return if_unet_table(config)
    if isinstance(config, MultiViewConfig):
        return multiview_table(config)
    if isinstance(config, SDXLConfig):
        return sdxl_table(config)
    return mapping.unet_table(config)


def text_table(config, keys: Collection[str] = ()) -> list[Entry]:
    """The table of any text encoder."""
    if isinstance(config, T5Config):
        return t5_table(config, keys)
    return mapping.clip_text_table(config, keys)


def if_unet_table(config: IFUNetConfig) -> list[Entry]:
    """Maps an IF UNet's keys: 775 entries for IF-I-XL."""
    time, told = "time_embedding", partial(resnet, time=True)
    return [
        *layers("linear", time, (time,), ("linear_1", "linear_2")),
        *_add_embedding(),
        *layer("linear", "encoder_hid_proj", ("encoder_hid_proj",)),
        *unet_levels(config, told, _attention, partial(told, shortcut=False)),
    ]


def _attention(key, path, level) -> Iterator[Entry]:
    del level  # one layer everywhere
    yield from layers("norm", key, path, ("group_norm", "norm_cross"))
    names = ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "to_out.0")
    yield from layers("linear", key, path, names)


def _add_embedding(key="add_embedding") -> Iterator[Entry]:
    yield from layers("norm", key, (key,), ("norm1", "norm2"))
    pool, name = (key, "pool"), "positional_embedding"
    yield Entry(f"{key}.pool.{name}", "raw", (*pool, name))
    yield from layers("linear", f"{key}.pool", pool, ("k_proj", "q_proj", "v_proj"))
    yield from layers("linear", key, (key,), ("proj",))


def t5_table(config: T5Config, keys: Collection[str] = ()) -> list[Entry]:
    """Maps a T5 encoder's keys: 219 entries for T5-XXL.

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
        part, where = f"{key}.0.SelfAttention", (path, "attention")
        yield from layers("linear", part, where, "qkvo", False)
        part, where = f"{key}.1.DenseReluDense", (path, "feed_forward")
        yield from layers("linear", part, where, ("wi_0", "wi_1", "wo"), False)
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
