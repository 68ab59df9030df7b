"""Torch keys <-> Flax paths of DPT and of CLIP's two towers (see mapping.py)."""

from collections.abc import Collection, Iterator

from sdsjax.models.loading.mapping import (
    CLIP_PREFIX,
    Entry,
    clip_layer,
    clip_text_table,
    layer,
    layers,
)
from sdsjax.models.vision.clip_scorer import CLIPConfig
from sdsjax.models.vision.dpt import STAGES, DPTConfig


def dpt_table(config: DPTConfig, keys: Collection[str] = ()) -> list[Entry]:
    """Maps a DPT's keys: 462 entries for DPT-large."""
    del keys
    return list(_dpt_entries(config))


def _dpt_entries(config: DPTConfig) -> Iterator[Entry]:
    key, path = "dpt.embeddings", ("backbone",)
    for name in ("cls_token", "position_embeddings"):
        yield Entry(f"{key}.{name}", "raw", (*path, name))
    if config.stem is None:
        yield from layers("conv", f"{key}.patch_embeddings", path, ("projection",))
    else:
        yield from layers("conv", key, path, ("projection",))
        yield from _stem(f"{key}.backbone.bit", (*path, "stem"), config.stem)
    for i in range(config.layers):
        where = (*path, f"layer_{i}")
        yield from _dpt_layer(f"dpt.encoder.layer.{i}", where, config.qkv_bias)
    yield from layers("norm", "dpt", path, ("layernorm",))
    stage = "neck.reassemble_stage"
    for i, factor in enumerate(config.factors):
        path = (f"reassemble_{i}",)
        if config.stem is None or i >= STAGES:
            readout = f"{stage}.readout_projects.{i}.0"
            yield from layer("linear", readout, (*path, "readout"))
            key = f"{stage}.layers.{i}"
            yield from layers("conv", key, path, ("projection",))
            if factor != 1:
                kind = "spread" if factor > 1 else "conv"
                yield from layers(kind, key, path, ("resize",))
        yield from layer("conv", f"neck.convs.{i}", (*path, "conv"), False)
        key, path = f"neck.fusion_stage.layers.{i}", (f"fusion_{i}",)
        yield from layers("conv", key, path, ("projection",))
        for unit in ("residual_layer1", "residual_layer2"):
            names = ("convolution1", "convolution2")
            yield from layers("conv", f"{key}.{unit}", (*path, unit), names)
    for i in (0, 2, 4):
        yield from layer("conv", f"head.head.{i}", (f"head_{i}",))


def _stem(key, path, stem) -> Iterator[Entry]:
    yield from layer(
        "conv", f"{key}.embedder.convolution", (*path, "convolution"), False
    )
    yield from layer("norm", f"{key}.embedder.norm", (*path, "norm"))
    for i, depth in enumerate(stem.depths):
        for j in range(depth):
            where = (*path, f"stage_{i}_{j}")
            block = f"{key}.encoder.stages.{i}.layers.{j}"
            for n in (1, 2, 3):
                yield from layer(
                    "conv", f"{block}.conv{n}", (*where, f"conv{n}"), False
                )
                yield from layer("norm", f"{block}.norm{n}", (*where, f"norm{n}"))
            if j == 0:
                name = f"{block}.downsample"
                path_of = (*where, "downsample_conv")
                yield from layer("conv", f"{name}.conv", path_of, False)
                yield from layer("norm", f"{name}.norm", (*where, "downsample_norm"))


def _dpt_layer(key, path, bias) -> Iterator[Entry]:
    yield from layers("norm", key, path, ("layernorm_before", "layernorm_after"))
    part, where = f"{key}.attention", (*path, "attention")
    names = ("query", "key", "value")
    yield from layers("linear", f"{part}.attention", where, names, bias)
    yield from layer("linear", f"{part}.output.dense", (*where, "output"))
    for name in ("intermediate", "output"):
        yield from layer("linear", f"{key}.{name}.dense", (*path, name))


def clip_table(config: CLIPConfig, keys: Collection[str] = ()) -> list[Entry]:
    """Maps CLIP's keys: 398 entries for CLIP-ViT-B and 590 for CLIP-ViT-L."""
    del keys
    text = clip_text_table(config.text, (CLIP_PREFIX,))
    return [entry._replace(path=("text", *entry.path)) for entry in text] + list(
        _clip_entries(config)
    )


def _clip_entries(config: CLIPConfig) -> Iterator[Entry]:
    key, path = "vision_model.embeddings", ("vision",)
    yield Entry(f"{key}.class_embedding", "raw", (*path, "class_embedding"))
    yield from layers("conv", key, path, ("patch_embedding",), False)
    places = f"{key}.position_embedding.weight"
    yield Entry(places, "embedding", (*path, "position_embedding"))
    # "pre_layrnorm" is how the published files spell it
    yield from layer("norm", "vision_model.pre_layrnorm", (*path, "pre_layernorm"))
    yield from layers("norm", "vision_model", path, ("post_layernorm",))
    for i in range(config.vision.layers):
        where = (*path, f"layers_{i}")
        yield from clip_layer(f"vision_model.encoder.layers.{i}", where)
    for name in ("visual_projection", "text_projection"):
        yield from layer("linear", name, (name,), False)
    yield Entry("logit_scale", "raw", ("logit_scale",))
