"""The config.json of a multi-view UNet, as its `MultiViewConfig`, and back.

`_class_name` is MVDream's, MultiViewUNetModel. Two spellings of the rest are read:

    MVDream's   the arguments of the original latent diffusion code, as its published
                folders have them: `model_channels` and `channel_mult` for the widths,
                `attention_resolutions` for the levels that attend;
    our own     the keys that diffusers gives a UNet, since a small network's widths are
                no whole multiples of the first, and `rays`, `code_tokens`,
                `code_width`, `harmonics`, `code_map`. It is the one that is written.

Both have `camera_dim`: without it MVDream's class has no camera layer.
"""

from collections.abc import Mapping
from typing import Any

from sdsjax.models.loading.configs import (
    ConfigReader,
    unet_config,
    unet_json,
)
from sdsjax.models.unets.multiview import CAMERA_NUMBERS, MAP_GROUPS, MultiViewConfig
from sdsjax.models.unets.stable_diffusion import UNetConfig

MULTIVIEW_CLASS = "MultiViewUNetModel"
FIXED = {"_class_name": (MULTIVIEW_CLASS,), "camera_dim": (CAMERA_NUMBERS,)}
OPTIONS = ("rays", "code_tokens", "code_width", "harmonics", "code_map")

# what MVDream's class fixes and its file does not say
LDM_GROUPS, LDM_EPSILON = 32, 1e-5
LDM_FIXED = {
    **FIXED,
    "adm_in_channels": (None,),
    "conv_resample": (True,),
    "dims": (2,),
    "legacy": (False,),
    "n_embed": (None,),
    "num_attention_blocks": (None,),
    "num_classes": (None,),
    "num_heads_upsample": (-1,),
    "resblock_updown": (False,),
    "transformer_depth": (1,),
    "use_linear_in_transformer": (True,),
    "use_scale_shift_norm": (False,),
    "use_spatial_transformer": (True,),
}
# ip_weight: of ImageDream's image tokens, of which there are none; the rest is about
# memory and training
LDM_INERT = {"dropout", "ip_weight", "use_checkpoint"}


def is_multiview(config: Mapping[str, Any]) -> bool:
    """Whether a UNet's config.json says that it is a multi-view one."""
    return config.get("_class_name") == MULTIVIEW_CLASS


def multiview_config(
    config: Mapping[str, Any], where="unet/config.json"
) -> MultiViewConfig:
    """Raises LoaderError for any value that `MultiViewUNet` does not implement."""
    if "model_channels" in config:
        return MultiViewConfig(ldm_unet_config(config, where))
    own = {key: config[key] for key in (*FIXED, *OPTIONS) if key in config}
    rest = {key: value for key, value in config.items() if key not in own}
    r = ConfigReader(own, where, FIXED, ())
    _check_camera(r)
    tokens = r.value("code_tokens", 0)
    if type(tokens) is not int or tokens < 0:
        r.refuse("code_tokens", tokens, "a number of tokens, 0 for no joint code")
    drawn = bool(own.get("code_map", ()))
    widths = r.positive_ints("code_map", ()) if drawn else ()
    r.value("code_map", ())
    defaults = MultiViewConfig._field_defaults
    out = MultiViewConfig(
        unet_config(rest, where),
        rays=r.boolean("rays", False),
        code_tokens=tokens,
        code_width=r.positive_int("code_width", defaults["code_width"]),
        harmonics=r.positive_int("harmonics", defaults["harmonics"]),
        code_map=widths,
    )
    r.check_divides("code_map", (MAP_GROUPS,) * len(widths), widths)
    if widths and not (out.code_tokens and out.rays):
        r.refuse("code_map", list(widths), "[] without rays and a joint code")
    r.finish()
    return out


def _check_camera(r: ConfigReader) -> None:
    # missing, it would count as 16; for MVDream's class it means no such layer
    if "camera_dim" not in r.config:
        r.refuse("camera_dim", None, f"{CAMERA_NUMBERS}: it has no camera layer")


def ldm_unet_config(config: Mapping[str, Any], where="unet/config.json") -> UNetConfig:
    """The UNet beneath a config.json in the original latent diffusion code's spelling.

    Raises LoaderError for any value that is not implemented: ImageDream's image tokens
    (arXiv 2312.02201; `ip_dim` above 0) among them.
    """
    r = ConfigReader(config, where, LDM_FIXED, LDM_INERT)
    tokens = r.value("ip_dim", 0)
    if tokens != 0:
        r.refuse("ip_dim", tokens, "0: ImageDream's image tokens are not implemented")
    _check_camera(r)
    first = r.positive_int("model_channels", None)
    channels = tuple(first * by for by in r.positive_ints("channel_mult", (1, 2, 4, 8)))
    n = len(channels)
    depths = r.positive_ints("num_res_blocks", None, n)
    if len(set(depths)) > 1:
        r.refuse("num_res_blocks", list(depths), "one number for all levels")
    attend = _attending(r, n)
    out = UNetConfig(
        in_channels=r.positive_int("in_channels", None),
        out_channels=r.positive_int("out_channels", None),
        channels=channels,
        heads=_heads(r, channels),
        down_attention=attend,
        up_attention=attend[::-1],
        layers=depths[0],
        groups=LDM_GROUPS,
        epsilon=LDM_EPSILON,
        context=r.positive_int("context_dim", None),
        linear_projection=True,
        sample_size=r.positive_int("image_size", None),
    )
    r.check_divides("model_channels", (LDM_GROUPS,) * n, channels)
    r.finish()
    return out


def _attending(r: ConfigReader, levels: int) -> tuple[bool, ...]:
    """Which levels attend, the finest first: they are named by how far they shrink."""
    rates = r.positive_ints("attention_resolutions", None)
    known = [2**i for i in range(levels)]
    for rate in rates:
        if rate not in known:
            r.refuse("attention_resolutions", rate, f"some of {known}, one a level")
    return tuple(rate in rates for rate in known)


def _heads(r: ConfigReader, channels: tuple[int, ...]) -> tuple[int, ...]:
    """The number of heads of each level, said as it is or by the width of one head."""
    width, count = r.value("num_head_channels", -1), r.value("num_heads", -1)
    if (width == -1) == (count == -1):
        r.refuse("num_head_channels", width, "one of num_heads and num_head_channels")
    key = "num_heads" if width == -1 else "num_head_channels"
    by = r.positive_int(key, None)
    r.check_divides(key, (by,) * len(channels), channels)
    return tuple(by if width == -1 else c // by for c in channels)


def multiview_json(config: MultiViewConfig) -> dict[str, Any]:
    """The config.json that `multiview_config` reads back."""
    options = {name: getattr(config, name) for name in OPTIONS}
    options["code_map"] = list(config.code_map)
    return {
        **unet_json(config.unet),
        "_class_name": MULTIVIEW_CLASS,
        "camera_dim": CAMERA_NUMBERS,
        **options,
    }
