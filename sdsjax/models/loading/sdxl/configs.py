"""The config.json of SDXL's UNet and of a text encoder with projection.

Strict as `loading.configs` is; what SDXL shares with Stable Diffusion 2 is read there.
"""

from collections.abc import Mapping
from typing import Any

from sdsjax.models.loading.configs import ConfigReader, clip_text_config, unet_config
from sdsjax.models.text_encoders.clip import CLIPProjectionConfig
from sdsjax.models.unets.sdxl import SDXLConfig

ADDITION = "text_time"
KEYS = (
    *("addition_embed_type", "addition_time_embed_dim"),
    *("projection_class_embeddings_input_dim", "transformer_layers_per_block"),
)
FIXED = {"addition_embed_type": (ADDITION,)}
# the refiner is told five numbers (an aesthetic score for the target's size) and reads
# bigG's text alone: its states are as wide as its pooled text
REFINER_SIZES = 5
PROJECTED = "CLIPTextModelWithProjection"


def is_sdxl(config: Mapping[str, Any]) -> bool:
    """Whether a UNet's config.json says that it is told pooled text and sizes."""
    return config.get("addition_embed_type") == ADDITION


def sdxl_config(config: Mapping[str, Any], where="unet/config.json") -> SDXLConfig:
    """Raises LoaderError for any value that `SDXLUNet` does not implement.

    SDXL's refiner is named as such.
    """
    own = {key: config[key] for key in KEYS if key in config}
    rest = {key: value for key, value in config.items() if key not in own}
    unet = unet_config(rest, where)
    r = ConfigReader(own, where, FIXED, ())
    width = r.positive_int("addition_time_embed_dim", None)
    if width % 2:
        r.refuse("addition_time_embed_dim", width, "an even number")
    key = "projection_class_embeddings_input_dim"
    row = r.positive_int(key, None)
    if row - REFINER_SIZES * width == unet.context:
        r.refuse(
            key, row, "six sizes beside the pooled text: this is SDXL's refiner, which "
            "improves a picture and cannot be distilled alone; name the base's folder",
        )  # fmt: skip
    out = SDXLConfig(unet, row - 6 * width, width)
    if out.pooled < 1:
        r.refuse(key, row, f"more than the {6 * width} of six sizes' sinusoids")
    depths = r.positive_ints("transformer_layers_per_block", 1, len(unet.channels))
    r.finish()
    return out._replace(unet=unet._replace(depths=depths))


def clip_projection_config(
    config: Mapping[str, Any], where="text_encoder_2/config.json"
) -> CLIPProjectionConfig:
    """Raises LoaderError for any value `CLIPTextProjection` does not implement."""
    text = clip_text_config(config, where)
    own = {"projection_dim": config.get("projection_dim", 512)}
    own["eos_token_id"] = config.get("eos_token_id", text.vocab_size - 1)
    r = ConfigReader(own, where, {}, ())
    classes = config.get("architectures") or [PROJECTED]
    if classes != [PROJECTED]:
        r.refuse("architectures", classes, repr([PROJECTED]))
    width = r.positive_int("projection_dim", None)
    return CLIPProjectionConfig(text, width, r.positive_int("eos_token_id", None))
