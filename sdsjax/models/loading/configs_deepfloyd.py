"""The config.json of DeepFloyd IF's components, as the NamedTuples of the networks.

Strict as `config` is. `unet_config` and `text_config` are what the loader asks: they
read the file of any UNet and of any text encoder, told apart by what the file says.
"""

from collections.abc import Mapping
from typing import Any

from sdsjax.models.loading import configs
from sdsjax.models.loading.configs import UNET_FIXED, UNET_INERT, ConfigReader
from sdsjax.models.loading.configs_multiview import is_multiview, multiview_config
from sdsjax.models.loading.sdxl.configs import is_sdxl, sdxl_config
from sdsjax.models.text_encoders.t5 import T5Config
from sdsjax.models.unets.deepfloyd import ACTIVATIONS, TEXT_GROUPS, IFUNetConfig

DOWN_ATTENTION = {"SimpleCrossAttnDownBlock2D": True, "ResnetDownsampleBlock2D": False}
UP_ATTENTION = {"SimpleCrossAttnUpBlock2D": True, "ResnetUpsampleBlock2D": False}
MIDDLE = "UNetMidBlock2DSimpleCrossAttn"

# read here, not compared
IF_READ = {"act_fn", "encoder_hid_dim"}
# key -> the values implemented. The published class's defaults are other networks' for
# IF_REQUIRED, so that those must be there
IF_FIXED = {
    **{key: value for key, value in UNET_FIXED.items() if key not in IF_READ},
    "addition_embed_type": ("text",),
    "cross_attention_norm": ("group_norm",),
    "encoder_hid_dim_type": ("text_proj", None),
    "mid_block_type": (MIDDLE,),
    "resnet_time_scale_shift": ("scale_shift",),
}
IF_REQUIRED = (
    *("addition_embed_type", "cross_attention_norm", "encoder_hid_dim"),
    *("mid_block_type", "resnet_time_scale_shift"),
)
# no layer of these networks asks for them
IF_INERT = {*(UNET_INERT - {"addition_embed_type_num_heads"}), "use_linear_projection"}

T5_FIXED = {
    "model_type": ("t5",),
    "feed_forward_proj": ("gated-gelu",),
    "dense_act_fn": ("gelu_new",),
    "is_gated_act": (True,),
    "is_decoder": (False,),
}
T5_INERT = {
    *("architectures", "classifier_dropout", "decoder_start_token_id"),
    *("dropout_rate", "dtype", "eos_token_id", "initializer_factor"),
    *("is_encoder_decoder", "n_positions", "num_decoder_layers"),
    *("output_attentions", "output_hidden_states", "output_past", "pad_token_id"),
    *("return_dict", "scale_decoder_outputs", "task_specific_params"),
    *("tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache"),
}


def is_if_unet(config: Mapping[str, Any]) -> bool:
    """Whether a UNet's config.json names a block that only IF's UNets have."""
    kinds = {MIDDLE, *DOWN_ATTENTION, *UP_ATTENTION}
    named = [config.get("mid_block_type")]
    for key in ("down_block_types", "up_block_types"):
        blocks = config.get(key)
        named += blocks if isinstance(blocks, list | tuple) else []
    return any(isinstance(kind, str) and kind in kinds for kind in named)


def is_t5(config: Mapping[str, Any]) -> bool:
    """Whether a text encoder's config.json says that it is a T5."""
    classes = config.get("architectures")
    named = classes if isinstance(classes, list | tuple) else []
    return config.get("model_type") == "t5" or any(
        isinstance(name, str) and name.startswith("T5") for name in named
    )


def unet_config(config: Mapping[str, Any], where="unet/config.json"):
    """The config of any UNet; raises LoaderError for what is not implemented."""
    if is_multiview(config):
        return multiview_config(config, where)
    if is_sdxl(config):
        return sdxl_config(config, where)
    read = if_unet_config if is_if_unet(config) else configs.unet_config
    return read(config, where)


def text_config(config: Mapping[str, Any], where="text_encoder/config.json"):
    """The config of any text encoder; raises LoaderError likewise."""
    read = t5_config if is_t5(config) else configs.clip_text_config
    return read(config, where)


def if_unet_config(config: Mapping[str, Any], where="unet/config.json") -> IFUNetConfig:
    """Raises LoaderError for any value that `IFUNet` does not implement."""
    r = ConfigReader(config, where, IF_FIXED, IF_INERT)
    for key in IF_REQUIRED:
        if key not in config:
            r.refuse(key, None, "a value: an IF UNet's file has it")
    channels = r.positive_ints("block_out_channels", (320, 640, 1280, 1280))
    n = len(channels)
    down, up = (tuple(kinds)[:1] * n for kinds in (DOWN_ATTENTION, UP_ATTENTION))
    widths = r.positive_ints("attention_head_dim", 8, n)
    out = IFUNetConfig(
        in_channels=r.positive_int("in_channels", 4),
        out_channels=r.positive_int("out_channels", 4),
        channels=channels,
        head_width=widths[0],
        down_attention=r.block_types("down_block_types", DOWN_ATTENTION, down, n),
        up_attention=r.block_types("up_block_types", UP_ATTENTION, up, n),
        layers=r.positive_int("layers_per_block", 2),
        groups=r.positive_int("norm_num_groups", 32),
        epsilon=r.positive_float("norm_eps", 1e-5),
        context=r.positive_int("cross_attention_dim", 1280),
        text_width=r.positive_int("encoder_hid_dim", None),
        pool_heads=r.positive_int("addition_embed_type_num_heads", 64),
        activation=r.choice("act_fn", ACTIVATIONS, "silu"),
        sample_size=r.sample_size(64),
    )
    if len(set(widths)) > 1:
        r.refuse("attention_head_dim", list(widths), "one width for all levels")
    if out.out_channels not in (out.in_channels, 2 * out.in_channels):
        r.refuse(
            "out_channels", out.out_channels,
            f"{out.in_channels}, or {2 * out.in_channels} with a learned variance",
        )  # fmt: skip
    r.check_divides("norm_num_groups", (out.groups,) * n, channels)
    r.check_divides("attention_head_dim", widths, channels)
    if out.context % TEXT_GROUPS:
        r.refuse("cross_attention_dim", out.context, f"a multiple of {TEXT_GROUPS}")
    r.check_divides(
        "addition_embed_type_num_heads", (out.pool_heads,), (out.text_width,)
    )
    r.finish()
    return out


def t5_config(config: Mapping[str, Any], where="text_encoder/config.json") -> T5Config:
    """Raises LoaderError for any value that `T5Encoder` does not implement."""
    r = ConfigReader(config, where, T5_FIXED, T5_INERT)
    if "feed_forward_proj" not in config:
        r.refuse("feed_forward_proj", None, "'gated-gelu': only T5 1.1 is implemented")
    out = T5Config(
        vocab_size=r.positive_int("vocab_size", 32128),
        hidden=r.positive_int("d_model", 512),
        head_width=r.positive_int("d_kv", 64),
        mlp=r.positive_int("d_ff", 2048),
        layers=r.positive_int("num_layers", 6),
        heads=r.positive_int("num_heads", 8),
        buckets=r.positive_int("relative_attention_num_buckets", 32),
        max_distance=r.positive_int("relative_attention_max_distance", 128),
        epsilon=r.positive_float("layer_norm_epsilon", 1e-6),
    )
    if out.buckets % 4:
        r.refuse("relative_attention_num_buckets", out.buckets, "a multiple of 4")
    if out.max_distance <= out.buckets // 4:
        r.refuse(
            "relative_attention_max_distance", out.max_distance,
            f"more than {out.buckets // 4}, a quarter of the buckets",
        )  # fmt: skip
    r.finish()
    return out
