"""What a single file holds, by its keys and shapes: Stable Diffusion 1, 2, XL, MVDream.

A file has no config.json. Widths, levels and depths are in its shapes; what is not (the
number of heads, epsilons, activations) is the same in all models of a kind: 8 heads
where the projections around a transformer are convolutions (1.x), else heads of 64.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.text_encoders.clip import CLIPProjectionConfig, CLIPTextConfig
from sdsjax.models.unets.multiview import MultiViewConfig
from sdsjax.models.unets.sdxl import SIZES, SDXLConfig
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig

UNET = "model.diffusion_model."
VAE = "first_stage_model."
HF_TEXT = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_TEXT = ("cond_stage_model.model.", "conditioner.embedders.1.model.")
HEADS_1, HEAD_WIDTH, TEXT_HEAD_WIDTH, GROUPS = 8, 64, 64, 32
SIZE_WIDTH, CAMERA = 256, "camera_embed.0.weight"
END_IS_LARGEST = 2  # see CLIPProjectionConfig.end
SCALING = {"1.x": 0.18215, "2.x": 0.18215, "MVDream": 0.18215, "XL": 0.13025}
# what other files are, by a part of a key that only they have
OTHERS = (
    ("double_blocks.", "Flux"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding", "a ControlNet"),
    ("lora_unet_", "a LoRA, which changes another model"),
    ("lora_te", "a LoRA, which changes another model"),
    (".lora_A.", "a LoRA, which changes another model"),
    (".lora_down.", "a LoRA, which changes another model"),
    ("noise_augmentor.", "an unCLIP model, which is told a picture"),
    ("emb_params", "a textual inversion"),
    ("down_blocks.0.", "one network of a folder in the Hugging Face layout"),
    ("text_model.encoder.", "a text encoder alone"),
)

Shapes = Mapping[str, tuple[int, ...]]


class Layout(NamedTuple):
    """What a file holds: the kind of model, and the configs of its networks.

    kind: "1.x", "2.x", "XL" or "MVDream"; text: of the first or only text encoder;
    second: of SDXL's second one, else None.
    """

    kind: str
    unet: UNetConfig | SDXLConfig | MultiViewConfig
    vae: VAEConfig
    text: CLIPTextConfig
    second: CLIPProjectionConfig | None


def recognise(shapes: Shapes, where) -> Layout:
    """Derives the layout of a file; shapes: key -> shape.

    Raises LoaderError, one line, which names what the file is where that is known.
    """
    first = shapes.get(f"{UNET}input_blocks.0.0.weight")
    if first is None:
        what = next((what for part, what in OTHERS if _holds(shapes, part)), None)
        said = f"it is {what}" if what else f"no key {UNET}input_blocks.0.0.weight"
        raise LoaderError(
            f"{where}: no whole Stable Diffusion 1.x, 2.x, XL or MVDream in the layout "
            f"of latent diffusion ({said})"
        )
    for part, what in OTHERS[:-2]:
        if _holds(shapes, part):
            raise LoaderError(f"{where}: it is {what}, which is not implemented here")
    unet = _unet(shapes, where)
    label = shapes.get(f"{UNET}label_emb.0.0.weight")
    text, second = _text_encoders(shapes, where)
    if label is not None:
        kind, network = "XL", _sdxl(unet, label[1], second, where)
    elif second is not None:
        raise LoaderError(f"{where}: two text encoders, but no {UNET}label_emb")
    elif UNET + CAMERA in shapes:
        kind, network = "MVDream", MultiViewConfig(unet._replace(sample_size=32))
    else:
        kind, network = ("2.x" if unet.linear_projection else "1.x"), unet
    wide = text.hidden + (second.text.hidden if second else 0)
    if unet.context != wide:
        raise LoaderError(
            f"{where}: its UNet reads text states of {unet.context} numbers, its text "
            f"encoder's have {wide}"
        )
    side = 8 * (128 if kind == "XL" else 64)
    return Layout(kind, network, _vae(shapes, SCALING[kind], side, where), text, second)


def _holds(shapes: Shapes, part: str) -> bool:
    return any(part in key for key in shapes)


def _sdxl(unet: UNetConfig, row: int, second, where) -> SDXLConfig:
    if row - 5 * SIZE_WIDTH == unet.context:
        raise LoaderError(
            f"{where}: it is SDXL's refiner, which improves a picture and cannot be "
            "distilled alone; take the base's file"
        )
    if second is None:
        raise LoaderError(
            f"{where}: a UNet with {UNET}label_emb, but no second text encoder "
            f"({OPEN_TEXT[1]}...): an unCLIP model, or SDXL's UNet without the rest"
        )
    pooled = row - SIZES * SIZE_WIDTH
    if pooled != second.projection:
        raise LoaderError(
            f"{where}: its UNet is told a pooled text of {pooled} numbers, its second "
            f"text encoder gives {second.projection}"
        )
    return SDXLConfig(unet._replace(sample_size=128), pooled, SIZE_WIDTH)


def _shape(shapes: Shapes, key: str, where) -> tuple[int, ...]:
    if key not in shapes:
        raise LoaderError(f"{where}: missing key {key}")
    return shapes[key]


def _unet(shapes: Shapes, where) -> UNetConfig:
    """The UNet's config, its levels counted in `input_blocks`."""
    conv_in = _shape(shapes, f"{UNET}input_blocks.0.0.weight", where)
    out = _shape(shapes, f"{UNET}out.2.weight", where)
    if conv_in[1] == 2 * out[0] + 1:
        raise LoaderError(
            f"{where}: its UNet takes {conv_in[1]} channels: it is an inpainting "
            "model, which is not implemented"
        )
    levels: list[list[int]] = [[]]  # of each: the numbers of its blocks
    block = 1
    while any(key.startswith(f"{UNET}input_blocks.{block}.") for key in shapes):
        if f"{UNET}input_blocks.{block}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append(block)
        block += 1
    counts = {len(level) for level in levels}
    if len(counts) != 1 or counts == {0}:
        raise LoaderError(f"{where}: levels of {sorted(counts)} residual blocks")
    heads_of, attend, depths, channels = [], [], [], []
    linear, context = False, None
    for numbers in levels:
        first = f"{UNET}input_blocks.{numbers[0]}."
        width = _shape(shapes, f"{first}0.out_layers.3.weight", where)[0]
        projection = shapes.get(f"{first}1.proj_in.weight")
        channels.append(width)
        attend.append(projection is not None)
        depths.append(max(1, _count(shapes, f"{first}1.transformer_blocks.")))
        if projection is not None:
            linear = len(projection) == 2
            name = f"{first}1.transformer_blocks.0.attn2.to_k.weight"
            context = _shape(shapes, name, where)[1]
        heads_of.append(max(1, width // HEAD_WIDTH))
    if context is None:
        raise LoaderError(f"{where}: its UNet attends to no text")
    depths[-1] = max(
        depths[-1], _count(shapes, f"{UNET}middle_block.1.transformer_blocks.")
    )
    single = all(depth == 1 for depth in depths)
    return UNetConfig(
        in_channels=conv_in[1],
        out_channels=out[0],
        channels=tuple(channels),
        heads=tuple(heads_of) if linear else (HEADS_1,) * len(channels),
        down_attention=tuple(attend),
        up_attention=tuple(attend[::-1]),
        layers=counts.pop(),
        groups=GROUPS,
        epsilon=1e-5,
        context=context,
        linear_projection=linear,
        sample_size=64,
        depths=() if single else tuple(depths),
    )


def _count(shapes: Shapes, prefix: str) -> int:
    """The number of indices that follow a prefix among the keys."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({m.group(1) for m in map(pattern.match, shapes) if m})


def _vae(shapes: Shapes, scaling: float, side: int, where) -> VAEConfig:
    levels = _count(shapes, f"{VAE}encoder.down.")
    firsts = [f"{VAE}encoder.down.{i}.block.0.conv1.weight" for i in range(levels)]
    channels = tuple(_shape(shapes, key, where)[0] for key in firsts)
    inner = _shape(shapes, f"{VAE}post_quant_conv.weight", where)
    return VAEConfig(
        in_channels=_shape(shapes, f"{VAE}encoder.conv_in.weight", where)[1],
        out_channels=_shape(shapes, f"{VAE}decoder.conv_out.weight", where)[0],
        latent_channels=inner[1],
        channels=channels,
        layers=_count(shapes, f"{VAE}encoder.down.0.block."),
        groups=GROUPS,
        scaling_factor=scaling,
        sample_size=side,
    )


def _text_encoders(shapes: Shapes, where) -> tuple[Any, CLIPProjectionConfig | None]:
    """(The first text encoder's config, the second one's or None)."""
    plain = next((p for p in HF_TEXT if _holds(shapes, p)), None)
    open_clip = next((p for p in OPEN_TEXT if _holds(shapes, p)), None)
    if plain is not None:
        text = _hf_text(shapes, plain, where)
        both = open_clip == OPEN_TEXT[1]
        return text, _bigg(shapes, where) if both else None
    if open_clip == OPEN_TEXT[0]:
        return _open_text(shapes, open_clip, where, last=False), None
    raise LoaderError(
        f"{where}: no text encoder ({', '.join((*HF_TEXT, *OPEN_TEXT))}): it holds a "
        "UNet without the rest; name a whole model's file or folder"
    )


def _hf_text(shapes: Shapes, prefix: str, where) -> CLIPTextConfig:
    if f"{prefix}text_model.embeddings.token_embedding.weight" in shapes:
        prefix += "text_model."
    vocab, hidden = _shape(shapes, f"{prefix}embeddings.token_embedding.weight", where)
    rows = _shape(shapes, f"{prefix}embeddings.position_embedding.weight", where)[0]
    mlp = _shape(shapes, f"{prefix}encoder.layers.0.mlp.fc1.weight", where)[0]
    layers = _count(shapes, f"{prefix}encoder.layers.")
    heads = max(1, hidden // TEXT_HEAD_WIDTH)
    return CLIPTextConfig(vocab, hidden, mlp, layers, heads, rows, "quick_gelu", 1e-5)


def _open_text(shapes: Shapes, prefix: str, where, last: bool) -> CLIPTextConfig:
    # Stable Diffusion 2 was trained without OpenCLIP's last layer
    vocab, hidden = _shape(shapes, f"{prefix}token_embedding.weight", where)
    rows = _shape(shapes, f"{prefix}positional_embedding", where)[0]
    key = f"{prefix}transformer.resblocks."
    mlp = _shape(shapes, f"{key}0.mlp.c_fc.weight", where)[0]
    layers = _count(shapes, key) - (not last)
    heads = max(1, hidden // TEXT_HEAD_WIDTH)
    return CLIPTextConfig(vocab, hidden, mlp, layers, heads, rows, "gelu", 1e-5)


def _bigg(shapes: Shapes, where) -> CLIPProjectionConfig:
    text = _open_text(shapes, OPEN_TEXT[1], where, last=True)
    projection = _shape(shapes, f"{OPEN_TEXT[1]}text_projection", where)[1]
    return CLIPProjectionConfig(text, projection, END_IS_LARGEST)
