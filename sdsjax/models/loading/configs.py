"""The config.json of component folders, as the NamedTuples that the networks take.

Every key of a file is either read, or checked against the values implemented here, or
listed as without influence on the forward pass. Anything else is refused: a setting
that is ignored gives plausible nonsense. Defaults are those of the published classes.
"""

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.text_encoders.clip import ACTIVATIONS, CLIPTextConfig
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig

UNET_CLASS, VAE_CLASS, CLIP_CLASS = (
    "UNet2DConditionModel",
    "AutoencoderKL",
    "CLIPTextModel",
)
DOWN_ATTENTION = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_ATTENTION = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}

# key -> the values implemented; a missing key counts as the first
UNET_FIXED = {
    "_class_name": (UNET_CLASS,),
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "addition_time_embed_dim": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "projection_class_embeddings_input_dim": (None,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1,),
}
# upcast_attention: softmax is float32 here whatever it says
UNET_INERT = {"addition_embed_type_num_heads", "dropout", "upcast_attention"}

VAE_FIXED = {
    "_class_name": (VAE_CLASS,),
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
}
VAE_INERT = {"force_upcast"}

CLIP_FIXED = {"model_type": ("clip_text_model",)}
CLIP_INERT = {
    *("architectures", "attention_dropout", "bos_token_id", "dropout", "dtype"),
    *("eos_token_id", "gradient_checkpointing", "initializer_factor"),
    *("initializer_range", "output_attentions", "output_hidden_states"),
    *("pad_token_id", "projection_dim", "return_dict", "torch_dtype"),
    *("transformers_version", "use_cache"),
}


class ConfigReader:
    """Takes values out of a config one by one; what stays unread is refused.

    fixed: key -> the values implemented, a missing key counting as the first; inert:
    keys without influence. Every method raises LoaderError, one line, for a value of
    another kind.
    """

    def __init__(self, config: Mapping[str, Any], where, fixed, inert):
        self.config, self.where, self.read = dict(config), where, set()
        for key, allowed in fixed.items():
            value = self.value(key, allowed[0])
            if not any(value is a or (value == a and a is not None) for a in allowed):
                self.refuse(key, value, " or ".join(map(repr, allowed)))
        self.read |= set(inert)

    def value(self, key, default) -> Any:
        """Returns the value of a key, or the default."""
        self.read.add(key)
        return self.config.get(key, default)

    def refuse(self, key, value, expected) -> NoReturn:
        """Raises LoaderError for the value of a key."""
        raise LoaderError(f"{self.where}: {key} = {value!r}; expected {expected}")

    def positive_int(self, key, default) -> int:
        """Returns a positive integer."""
        value = self.value(key, default)
        if type(value) is not int or value < 1:
            self.refuse(key, value, "a positive integer")
        return value

    def positive_float(self, key, default) -> float:
        """Returns a positive finite number."""
        value = self.value(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            self.refuse(key, value, "a positive number")
        return float(value)

    def boolean(self, key, default) -> bool:
        """Returns true or false."""
        value = self.value(key, default)
        if type(value) is not bool:
            self.refuse(key, value, "true or false")
        return value

    def positive_ints(self, key, default, length=None) -> tuple[int, ...]:
        """Returns a list of positive integers; a lone one stands for `length`."""
        value = self.value(key, default)
        items: Any = [value] * length if type(value) is int and length else value
        listed = isinstance(items, list | tuple) and len(items) > 0
        if not listed or not all(type(v) is int and v > 0 for v in items):
            self.refuse(key, value, "a list of positive integers")
        if length and len(items) != length:
            self.refuse(key, value, f"{length} entries, one a level")
        return tuple(items)

    def block_types(self, key, known: Mapping[str, Any], default, length) -> tuple:
        """Returns what the known names of block types mean, one a level."""
        value = self.value(key, default)
        if not isinstance(value, list | tuple) or len(value) != length:
            self.refuse(key, value, f"a list of {length} block types, one a level")
        for kind in value:
            if not isinstance(kind, str) or kind not in known:
                self.refuse(key, kind, " or ".join(known))
        return tuple(known[kind] for kind in value)

    def choice(self, key, known: Collection[str], default: str) -> str:
        """Returns one of the known words."""
        value = self.value(key, default)
        if not isinstance(value, str) or value not in known:
            self.refuse(key, value, " or ".join(known))
        return value

    def sample_size(self, default) -> int:
        """Returns the side of the samples that the network was trained at.

        Pairs occur too: the larger one counts.
        """
        value = self.value("sample_size", default)
        sides = value if isinstance(value, list | tuple) else (value,)
        whole = sides and all(type(side) is int for side in sides)
        return max(sides) if whole else default

    def check_divides(self, key, divisor, widths):
        """Raises LoaderError unless each divisor divides the width of its level."""
        for width, by in zip(widths, divisor, strict=True):
            if width % by:
                self.refuse(key, by, f"a divisor of the {width} channels of its level")

    def finish(self):
        # "_name_or_path", "_diffusers_version" and their like say where it came from
        """Raises LoaderError for a key that nobody read."""
        left = {k for k in self.config if not k.startswith("_")} - self.read
        for key in sorted(left):
            self.refuse(key, self.config[key], "no such key: it is not implemented")


def unet_config(config: Mapping[str, Any], where="unet/config.json") -> UNetConfig:
    """Raises LoaderError for any value that `UNet2DCondition` does not implement."""
    only_cross = config.get("only_cross_attention")
    if isinstance(only_cross, list) and not any(only_cross):
        config = {**config, "only_cross_attention": False}
    r = ConfigReader(config, where, UNET_FIXED, UNET_INERT)
    channels = r.positive_ints("block_out_channels", (320, 640, 1280, 1280))
    n = len(channels)
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    out = UNetConfig(
        in_channels=r.positive_int("in_channels", 4),
        out_channels=r.positive_int("out_channels", 4),
        channels=channels,
        heads=r.positive_ints("attention_head_dim", 8, n),
        down_attention=r.block_types("down_block_types", DOWN_ATTENTION, down, n),
        up_attention=r.block_types("up_block_types", UP_ATTENTION, up, n),
        layers=r.positive_int("layers_per_block", 2),
        groups=r.positive_int("norm_num_groups", 32),
        epsilon=r.positive_float("norm_eps", 1e-5),
        context=r.positive_int("cross_attention_dim", 1280),
        linear_projection=r.boolean("use_linear_projection", False),
        sample_size=r.sample_size(64),
    )
    if out.in_channels == 2 * out.out_channels + 1:
        r.refuse(
            "in_channels", out.in_channels, f"{out.out_channels}: this is an "
            "inpainting network, told a mask and the rest, which is not implemented",
        )  # fmt: skip
    r.check_divides("norm_num_groups", (out.groups,) * n, channels)
    r.check_divides("attention_head_dim", out.heads, channels)
    r.finish()
    return out


def vae_config(config: Mapping[str, Any], where="vae/config.json") -> VAEConfig:
    """Raises LoaderError for any value that `AutoencoderKL` does not implement."""
    r = ConfigReader(config, where, VAE_FIXED, VAE_INERT)
    channels = r.positive_ints("block_out_channels", (64,))
    n = len(channels)
    for key, kind in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        r.block_types(key, {kind: kind}, (kind,) * n, n)
    out = VAEConfig(
        in_channels=r.positive_int("in_channels", 3),
        out_channels=r.positive_int("out_channels", 3),
        latent_channels=r.positive_int("latent_channels", 4),
        channels=channels,
        layers=r.positive_int("layers_per_block", 1),
        groups=r.positive_int("norm_num_groups", 32),
        scaling_factor=r.positive_float("scaling_factor", 0.18215),
        sample_size=r.sample_size(32),
        shift_factor=_shift(r),
        quant=r.boolean("use_quant_conv", True),
    )
    if r.boolean("use_post_quant_conv", True) != out.quant:
        key = "use_post_quant_conv"
        r.refuse(key, not out.quant, f"{out.quant}, as use_quant_conv is")
    r.check_divides("norm_num_groups", (out.groups,) * n, channels)
    r.finish()
    return out


def _shift(r: ConfigReader) -> float:
    value = r.value("shift_factor", None)
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not abs(value) < float("inf"):
        r.refuse("shift_factor", value, "a number or null")
    return float(value)


def clip_text_config(
    config: Mapping[str, Any], where="text_encoder/config.json"
) -> CLIPTextConfig:
    """Raises LoaderError for any value `CLIPTextEncoder` does not implement."""
    r = ConfigReader(config, where, CLIP_FIXED, CLIP_INERT)
    out = CLIPTextConfig(
        vocab_size=r.positive_int("vocab_size", 49408),
        hidden=r.positive_int("hidden_size", 512),
        mlp=r.positive_int("intermediate_size", 2048),
        layers=r.positive_int("num_hidden_layers", 12),
        heads=r.positive_int("num_attention_heads", 8),
        positions=r.positive_int("max_position_embeddings", 77),
        activation=r.choice("hidden_act", ACTIVATIONS, "quick_gelu"),
        epsilon=r.positive_float("layer_norm_eps", 1e-5),
    )
    r.check_divides("num_attention_heads", (out.heads,), (out.hidden,))
    r.finish()
    return out


def unet_json(config: UNetConfig) -> dict[str, Any]:
    """The config.json that `unet_config` reads back, and diffusers too."""
    cross, plain = DOWN_ATTENTION
    cross_up, plain_up = UP_ATTENTION
    return {
        "_class_name": UNET_CLASS,
        "act_fn": "silu",
        "attention_head_dim": list(config.heads),
        "block_out_channels": list(config.channels),
        "cross_attention_dim": config.context,
        "down_block_types": [cross if a else plain for a in config.down_attention],
        "in_channels": config.in_channels,
        "layers_per_block": config.layers,
        "norm_eps": config.epsilon,
        "norm_num_groups": config.groups,
        "out_channels": config.out_channels,
        "sample_size": config.sample_size,
        "up_block_types": [cross_up if a else plain_up for a in config.up_attention],
        "use_linear_projection": config.linear_projection,
    }


def vae_json(config: VAEConfig) -> dict[str, Any]:
    """The config.json that `vae_config` reads back, and diffusers too."""
    levels = len(config.channels)
    # only where they are there: files of other VAEs do not name them
    more = {"shift_factor": config.shift_factor} if config.shift_factor else {}
    if not config.quant:
        more |= {"use_quant_conv": False, "use_post_quant_conv": False}
    return {
        **more,
        "_class_name": VAE_CLASS,
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers,
        "norm_num_groups": config.groups,
        "out_channels": config.out_channels,
        "sample_size": config.sample_size,
        "scaling_factor": config.scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def clip_text_json(config: CLIPTextConfig) -> dict[str, Any]:
    """The config.json that `clip_text_config` reads back, and transformers too."""
    return {
        "architectures": [CLIP_CLASS],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.positions,
        "hidden_act": config.activation,
        "layer_norm_eps": config.epsilon,
        "bos_token_id": config.vocab_size - 2,
        "eos_token_id": config.vocab_size - 1,
        "pad_token_id": config.vocab_size - 1,
        "projection_dim": config.hidden,
    }
