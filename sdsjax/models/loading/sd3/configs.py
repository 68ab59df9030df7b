"""The config.json of Stable Diffusion 3's transformer, strict as `loading.configs`."""

from collections.abc import Mapping
from typing import Any

from sdsjax.models.loading.configs import ConfigReader
from sdsjax.models.mmdit import MMDiTConfig

TRANSFORMER_CLASS = "SD3Transformer2DModel"
FIXED = {"_class_name": (TRANSFORMER_CLASS,)}
QK_NORMS = (None, "rms_norm")


def transformer_config(
    config: Mapping[str, Any], where="transformer/config.json"
) -> MMDiTConfig:
    """Raises LoaderError for any value that `MMDiT` does not implement."""
    r = ConfigReader(config, where, FIXED, ())
    channels, qk_norm = r.positive_int("in_channels", 16), r.value("qk_norm", None)
    if qk_norm not in QK_NORMS:
        r.refuse("qk_norm", qk_norm, " or ".join(map(repr, QK_NORMS)))
    out_channels = config.get("out_channels", 16)
    r.read.add("out_channels")
    if out_channels is None:  # as many as come in
        out_channels = channels
    if out_channels != channels:
        r.refuse("out_channels", out_channels, f"{channels}, as many as in_channels")
    layers = r.positive_int("num_layers", 18)
    out = MMDiTConfig(
        in_channels=channels,
        out_channels=out_channels,
        patch=r.positive_int("patch_size", 2),
        layers=layers,
        heads=r.positive_int("num_attention_heads", 18),
        head_width=r.positive_int("attention_head_dim", 64),
        context=r.positive_int("joint_attention_dim", 4096),
        pooled=r.positive_int("pooled_projection_dim", 2048),
        positions=r.positive_int("pos_embed_max_size", 96),
        sample_size=r.sample_size(128),
        dual=_dual(r, layers),
        qk_norm=qk_norm is not None,
    )
    caption = r.positive_int("caption_projection_dim", 1152)
    if caption != out.width:
        r.refuse(
            "caption_projection_dim", caption,
            f"{out.width}, the width of num_attention_heads x attention_head_dim",
        )  # fmt: skip
    if out.width % 4:
        r.refuse("attention_head_dim", out.head_width, "a width divisible by 4")
    r.finish()
    return out


def _dual(r: ConfigReader, layers: int) -> tuple[int, ...]:
    key = "dual_attention_layers"
    value = r.value(key, ())
    listed = isinstance(value, list | tuple)
    if not listed or not all(type(v) is int and 0 <= v < layers for v in value):
        r.refuse(key, value, f"a list of blocks in 0..{layers - 1}")
    return tuple(value)


def transformer_json(config: MMDiTConfig) -> dict[str, Any]:
    """The config.json that `transformer_config` reads back, and diffusers too."""
    return {
        "_class_name": TRANSFORMER_CLASS,
        "attention_head_dim": config.head_width,
        "caption_projection_dim": config.width,
        "dual_attention_layers": list(config.dual),
        "in_channels": config.in_channels,
        "joint_attention_dim": config.context,
        "num_attention_heads": config.heads,
        "num_layers": config.layers,
        "out_channels": config.out_channels,
        "patch_size": config.patch,
        "pooled_projection_dim": config.pooled,
        "pos_embed_max_size": config.positions,
        "qk_norm": "rms_norm" if config.qk_norm else None,
        "sample_size": config.sample_size,
    }
