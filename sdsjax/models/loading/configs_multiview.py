"""The config.json of a multi-view UNet, as its `MultiViewConfig`, and back.

`_class_name` is MVDream's, MultiViewUNetModel; beside it stand the keys that diffusers
gives a UNet, since a small network's widths are no whole multiples of the first, and
`camera_dim`, `rays`, `code_tokens`, `code_width`, `harmonics`.
"""

from collections.abc import Mapping
from typing import Any

from sdsjax.models.loading.configs import (
    ConfigReader,
    unet_config,
    unet_json,
)
from sdsjax.models.unets.multiview import CAMERA_NUMBERS, MultiViewConfig

MULTIVIEW_CLASS = "MultiViewUNetModel"
FIXED = {"_class_name": (MULTIVIEW_CLASS,), "camera_dim": (CAMERA_NUMBERS,)}
OPTIONS = ("rays", "code_tokens", "code_width", "harmonics")


def is_multiview(config: Mapping[str, Any]) -> bool:
    """Whether a UNet's config.json says that it is a multi-view one."""
    return config.get("_class_name") == MULTIVIEW_CLASS


def multiview_config(
    config: Mapping[str, Any], where="unet/config.json"
) -> MultiViewConfig:
    """Raises LoaderError for any value that `MultiViewUNet` does not implement."""
    own = {key: config[key] for key in (*FIXED, *OPTIONS) if key in config}
    rest = {key: value for key, value in config.items() if key not in own}
    r = ConfigReader(own, where, FIXED, ())
    tokens = r.value("code_tokens", 0)
    if type(tokens) is not int or tokens < 0:
        r.refuse("code_tokens", tokens, "a number of tokens, 0 for no joint code")
    defaults = MultiViewConfig._field_defaults
    out = MultiViewConfig(
        unet_config(rest, where),
        rays=r.boolean("rays", False),
        code_tokens=tokens,
        code_width=r.positive_int("code_width", defaults["code_width"]),
        harmonics=r.positive_int("harmonics", defaults["harmonics"]),
    )
    r.finish()
    return out


def multiview_json(config: MultiViewConfig) -> dict[str, Any]:
    """The config.json that `multiview_config` reads back."""
    options = {name: getattr(config, name) for name in OPTIONS}
    return {
        **unet_json(config.unet),
        "_class_name": MULTIVIEW_CLASS,
        "camera_dim": CAMERA_NUMBERS,
        **options,
    }
