"""Torch keys <-> Flax paths of DPT and of CLIP's two towers (see mapping.py)."""

from collections.abc import Collection, Iterator

from sdsjax.models.clip_scorer import CLIPConfig
from sdsjax.models.dpt import DPTConfig
from sdsjax.models.mapping import CLIP_PREFIX, Entry, _layer, clip_text_table


def dpt_table(config: DPTConfig, keys: Collection[str] = ()) -> list[Entry]:
    """462 entries for DPT-large."""
    del keys
    return list(_dpt_entries(config))


def _dpt_entries(config: DPTConfig) -> Iterator[Entry]:
    key, path = "dpt.embeddings", ("backbone",)
    for name in ("cls_token", "position_embeddings"):
        yield Entry(f"{key}.{name}", "raw", (*path, name))
    projection = (*path, "projection")
    yield from _layer("conv", f"{key}.patch_embeddings.projection", projection)
    for i in range(config.layers):
        yield from _dpt_layer(
            f"dpt.encoder.layer.{i}", ("backbone", f"layer_{i}"), config.qkv_bias
        )
    yield from _layer("norm", "dpt.layernorm", ("backbone", "layernorm"))
    stage = "neck.reassemble_stage"
    for i, factor in enumerate(config.factors):
        path = (f"reassemble_{i}",)
        readout = f"{stage}.readout_projects.{i}.0"
        yield from _layer("linear", readout, (*path, "readout"))
        key = f"{stage}.layers.{i}"
        yield from _layer("conv", f"{key}.projection", (*path, "projection"))
        if factor != 1:
            kind = "spread" if factor > 1 else "conv"
            yield from _layer(kind, f"{key}.resize", (*path, "resize"))
        yield from _layer("conv", f"neck.convs.{i}", (*path, "conv"), False)
        key, path = f"neck.fusion_stage.layers.{i}", (f"fusion_{i}",)
        yield from _layer("conv", f"{key}.projection", (*path, "projection"))
        for unit in ("residual_layer1", "residual_layer2"):
            for name in ("convolution1", "convolution2"):
                where = (*path, unit, name)
                yield from _layer("conv", f"{key}.{unit}.{name}", where)
    for i in (0, 2, 4):
        yield from _layer("conv", f"head.head.{i}", (f"head_{i}",))


def _dpt_layer(key, path, bias) -> Iterator[Entry]:
    for name in ("layernorm_before", "layernorm_after"):
        yield from _layer("norm", f"{key}.{name}", (*path, name))
    for name in ("query", "key", "value"):
        where = (*path, "attention", name)
        yield from _layer("linear", f"{key}.attention.attention.{name}", where, bias)
    where = (*path, "attention", "output")
    yield from _layer("linear", f"{key}.attention.output.dense", where)
    for name in ("intermediate", "output"):
        yield from _layer("linear", f"{key}.{name}.dense", (*path, name))


def clip_table(config: CLIPConfig, keys: Collection[str] = ()) -> list[Entry]:
    """398 entries for CLIP-ViT-B and 590 for CLIP-ViT-L."""
    del keys
    text = clip_text_table(config.text, (CLIP_PREFIX,))
    return [entry._replace(path=("text", *entry.path)) for entry in text] + list(
        _clip_entries(config)
    )


def _clip_entries(config: CLIPConfig) -> Iterator[Entry]:
    key, path = "vision_model.embeddings", ("vision",)
    yield Entry(f"{key}.class_embedding", "raw", (*path, "class_embedding"))
    patches = (*path, "patch_embedding")
    yield from _layer("conv", f"{key}.patch_embedding", patches, False)
    places = f"{key}.position_embedding.weight"
    yield Entry(places, "embedding", (*path, "position_embedding"))
    # "pre_layrnorm" is how the published files spell it
    for name, spelling in (
        ("pre_layernorm", "pre_layrnorm"),
        ("post_layernorm", "post_layernorm"),
    ):
        yield from _layer("norm", f"vision_model.{spelling}", (*path, name))
    for i in range(config.vision.layers):
        key, path = f"vision_model.encoder.layers.{i}", ("vision", f"layers_{i}")
        for name in ("layer_norm1", "layer_norm2"):
            yield from _layer("norm", f"{key}.{name}", (*path, name))
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            where = (*path, "self_attn", name)
            yield from _layer("linear", f"{key}.self_attn.{name}", where)
        for name in ("fc1", "fc2"):
            yield from _layer("linear", f"{key}.mlp.{name}", (*path, f"mlp_{name}"))
    for name in ("visual_projection", "text_projection"):
        yield from _layer("linear", name, (name,), False)
    yield Entry("logit_scale", "raw", ("logit_scale",))
