"""Torch keys <-> Flax paths of Stable Diffusion 3's transformer.

Notation and strictness as in `loading.mapping`.
"""

from collections.abc import Collection, Iterator

from sdsjax.models.loading.mapping import Entry, layer, layers
from sdsjax.models.mmdit import MMDiTConfig


def _norms(key, path, names) -> Iterator[Entry]:
    for name in names:
        yield from layer("norm", f"{key}.{name}", (*path, name), bias=False)


def _attention(key, path, config: MMDiTConfig, text: bool, last: bool):
    yield from layers("linear", key, path, ("to_q", "to_k", "to_v", "to_out.0"))
    if config.qk_norm:
        yield from _norms(key, path, ("norm_q", "norm_k"))
    if not text:
        return
    names = ("add_q_proj", "add_k_proj", "add_v_proj")
    yield from layers("linear", key, path, names)
    if not last:
        yield from layers("linear", key, path, ("to_add_out",))
    if config.qk_norm:
        yield from _norms(key, path, ("norm_added_q", "norm_added_k"))


def _block(config: MMDiTConfig, i: int) -> Iterator[Entry]:
    key, path = f"transformer_blocks.{i}", (f"transformer_blocks_{i}",)
    last = i == config.layers - 1
    for name in ("norm1", "norm1_context"):
        yield from layers("linear", f"{key}.{name}", (*path, name), ("linear",))
    yield from _attention(f"{key}.attn", (*path, "attn"), config, True, last)
    if i in config.dual:
        yield from _attention(f"{key}.attn2", (*path, "attn2"), config, False, last)
    for name in ("ff",) if last else ("ff", "ff_context"):
        part, where = f"{key}.{name}", (*path, name)
        yield from layers("linear", part, where, ("net.0.proj", "net.2"))


def transformer_table(config: MMDiTConfig, keys: Collection[str] = ()) -> list[Entry]:
    """Maps a transformer's keys: 909 entries for 3.5-medium's."""
    del keys  # one spelling only
    table = [Entry("pos_embed.pos_embed", "raw", ("pos_embed",))]
    table += layer("conv", "pos_embed.proj", ("pos_embed_proj",))
    for name in ("timestep_embedder", "text_embedder"):
        both = ("linear_1", "linear_2")
        table += layers("linear", f"time_text_embed.{name}", (name,), both)
    table += layer("linear", "context_embedder", ("context_embedder",))
    for i in range(config.layers):
        table += _block(config, i)
    table += layers("linear", "norm_out", ("norm_out",), ("linear",))
    table += layer("linear", "proj_out", ("proj_out",))
    return table
