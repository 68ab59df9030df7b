"""Torch keys <-> Flax paths of SDXL's UNet and of a text encoder with projection.

Notation and strictness as in `loading.mapping`.
"""

from collections.abc import Collection

from sdsjax.models.loading.mapping import (
    Entry,
    clip_text_table,
    layer,
    layers,
    unet_table,
)
from sdsjax.models.text_encoders.clip import CLIPProjectionConfig
from sdsjax.models.unets.sdxl import SDXLConfig

PROJECTION = "text_projection"


def beneath(name: str, table: list[Entry]) -> list[Entry]:
    """The entries of a network that is a part `name` of another one."""
    return [Entry(key, kind, (name, *path)) for key, kind, path in table]


def sdxl_table(config: SDXLConfig) -> list[Entry]:
    """Maps an SDXL UNet's keys: 1680 entries for the published one."""
    key = "add_embedding"
    added = layers("linear", key, (key,), ("linear_1", "linear_2"))
    return [*beneath("unet", unet_table(config.unet)), *added]


def clip_projection_table(
    config: CLIPProjectionConfig, keys: Collection[str] = ()
) -> list[Entry]:
    """Maps a text encoder's keys and its projection's: 517 entries for bigG's.

    keys: as of `clip_text_table`. Raises LoaderError likewise.
    """
    own = [key for key in keys if not key.startswith(PROJECTION)]
    text = clip_text_table(config.text, own)
    projection = layer("linear", PROJECTION, (PROJECTION,), bias=False)
    return [*beneath("text_model", text), *projection]
