"""The keys of LoRA files: which layer of which network, and which of its factors.

Three spellings are read: peft's and diffusers' (`unet.down_blocks...lora_A.weight`,
`text_encoder.`, `text_encoder_2.`); diffusers' older ones (`to_q_lora.down.weight`
beneath `processor`, `.lora.down.weight`); and kohya's, whose layers are joined by
underscores (`lora_unet_...`, `lora_te_`, `lora_te1_`, `lora_te2_`) in diffusers' or in
latent diffusion's names. Since every name is derived from the networks' own tables, a
name that is not among them is an error.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.mapping import Entry, clip_text_table, unet_table
from sdsjax.models.loading.mapping_multiview import ldm_blocks, ldm_key
from sdsjax.models.loading.sdxl.mapping import beneath, clip_projection_table
from sdsjax.models.unets.stable_diffusion import UNetConfig

KERNELS = ("conv", "linear")
# endings of a key -> which part of a layer's change it is
ROLES = (
    (r"\.lora_down\.weight|\.lora_A(\.default)?\.weight", "down"),
    (r"[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight", "down"),
    (r"\.lora_up\.weight|\.lora_B(\.default)?\.weight", "up"),
    (r"[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight", "up"),
    (r"\.alpha", "alpha"),
)
# what is no plain LoRA, by a part of a key
OTHERS = (
    ("dora_scale", "a DoRA"),
    ("lora_magnitude_vector", "a DoRA"),
    ("hada_w", "a LoHa"),
    ("lokr_", "a LoKr"),
    ("lora_mid", "a LoCon with a core of its own"),
    (".lora_B.bias", "a LoRA with biases"),
    (".diff", "a full difference of weights"),
    ("bundle_emb", "a LoRA with textual inversions"),
    ("double_blocks", "a LoRA for Flux"),
    ("single_transformer_blocks", "a LoRA for Flux"),
    ("transformer.transformer_blocks", "a LoRA for Stable Diffusion 3 or Flux"),
    ("joint_blocks", "a LoRA for Stable Diffusion 3"),
)
# by the width of the text that cross-attention reads
BASES = {768: "1.x", 1024: "2.x", 2048: "XL"}


class Layer(NamedTuple):
    """A layer that may be changed: of which network, and its kernel's entry."""

    network: str
    entry: Entry


def layers_by_name(networks) -> dict[str, Layer]:
    """Returns every layer of loaded networks by each of its names in LoRA files."""
    found: dict[str, Layer] = {}
    for network, dotted, joined, entries in _spelled(networks):
        for key, kind, path in entries:
            if kind in KERNELS:
                name = key.removesuffix(".weight")
                layer = Layer(network, Entry(key, kind, path))
                for prefix in dotted:
                    found[prefix + name] = layer
                for prefix in joined:
                    found[prefix + name.replace(".", "_")] = layer
    return found


def _spelled(networks) -> Iterator[tuple[str, tuple, tuple, list[Entry]]]:
    """(network, prefixes of dotted names, of joined ones, entries) of each spelling."""
    config = networks.unet.config
    plain = isinstance(config, UNetConfig)
    within = config if plain else config.unet
    table = unet_table(within)
    own = table if plain else beneath("unet", table)
    yield "unet", ("unet.", "base_model.model."), ("lora_unet_",), own
    blocks = ldm_blocks(within)
    inner = [Entry(ldm_key(key, blocks), kind, path) for key, kind, path in own]
    yield "unet", (), ("lora_unet_",), inner
    text = clip_text_table(networks.text_encoder.config, ("text_model.",))
    yield "text_encoder", ("text_encoder.",), ("lora_te_", "lora_te1_"), text
    second = getattr(networks, "text_encoder_2", None)
    if second is not None:
        text = clip_projection_table(second.config, ("text_model.",))
        yield "text_encoder_2", ("text_encoder_2.",), ("lora_te2_",), text


def parse_key(key: str) -> tuple[str, str] | None:
    """A file's key -> (name of the layer, "down", "up" or "alpha"); None for others."""
    for ending, role in ROLES:
        found = re.fullmatch(f"(.*?)(?:{ending})", key)
        if found:
            name = found[1].replace(".processor.", ".")
            return re.sub(r"\.to_out$", ".to_out.0", name), role
    return None


def refuse_others(path, keys: Iterable[str]) -> None:
    """Raises LoaderError for a file that is no plain LoRA for these networks."""
    for key in keys:
        for part, what in OTHERS:
            if part in key:
                raise LoaderError(
                    f"{path}: {key}: it is {what}, which is not implemented here; only "
                    "plain LoRAs for Stable Diffusion's networks are"
                )


def base_of(shapes: dict[str, tuple[int, ...]]) -> str:
    """Words what base a LoRA seems to be for, by the text that its attention reads."""
    for key, shape in shapes.items():
        parsed = parse_key(key)
        cross = "attn2" in key and re.search(r"to_[kv]", key)
        width = shape[1] if len(shape) > 1 else None
        if parsed and parsed[1] == "down" and cross and width in BASES:
            return f"it seems to be for Stable Diffusion {BASES[width]}"
    if any(key.startswith(("lora_te2_", "text_encoder_2.")) for key in shapes):
        return "it seems to be for Stable Diffusion XL"
    return "it is for another base"
