"""Weights and inputs that are the same on every machine and in every version.

PCG64's raw stream is guaranteed by numpy; its normal deviates are not. `tensor` gives
the weight of a torch key: matrices scaled so that softmax is not flat, norms away from
1 and biases away from 0, so that a swapped pair shows.
"""

import zlib

import numpy as np

UNET = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 6,
    "norm_num_groups": 4,
}
UNETS = {
    "unet_sd2": {**UNET, "attention_head_dim": [2, 4], "use_linear_projection": True},
    "unet_sd1": {**UNET, "attention_head_dim": 2},
}
VAE = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
CLIP = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 21,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 59,
}
CLIPS = {
    "clip_quick": {**CLIP, "hidden_act": "quick_gelu"},
    "clip_exact": {**CLIP, "hidden_act": "gelu"},
}
PROMPTS = [
    "",
    "a red cube on a blue ball, left side view",
    "A RED\tcube\n\n  on   a Blue\u00a0ball",
    "it's the cat's cube; we've they're I'm he'd she'll don't",
    "cafe\u0301 caf\u00e9 na\u00efve \u0130stanbul stra\u00dfe \ufb01ne",
    "3 cubes, 12.5% off!!! ...really?! (no) [x] {y} <z>",
    "<|startoftext|> a cube <|endoftext|> a ball",
    "<|ENDOFTEXT|> !cube! ! a!b",
    "\u732b\u304c\u597d\u304d \U0001f600\U0001f468\u200d\U0001f469 ball",
    "\u0643\u0631\u0629 \u043c\u044f\u0447 \u03b2\u03ac\u03c3\u03b7 \u00bd \u2168",
    "zero\u200bwidth \ufeff bom \u3000 ideographic",
    "a</w> b</w> ##cube _under_score_ snake_case",
    "a red cube on a blue ball " * 9,
]
WORDS = [
    *("a", "an", "and", "ball", "banana", "blue", "cat", "cube", "it", "left"),
    *("on", "re", "red", "right", "side", "the", "view"),
]


def uniform(name: str, shape) -> np.ndarray:
    """float32 in [-1, 1), decided by the name."""
    n = int(np.prod(shape))
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(n)
    unit = (raw >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0
    return unit.astype(np.float32).reshape(shape)


def tensor(key: str, shape) -> np.ndarray:
    """The weight of a torch key, in torch's layout."""
    noise = uniform(key, shape)
    if len(shape) == 1:
        return 0.4 * noise + (1.0 if key.endswith("weight") else 0.0)
    if "embedding." in key and "linear" not in key:
        return noise
    fan_in = int(np.prod(shape[1:]))
    # the residual stream stays small, so that an epsilon's last digit shows; larger
    # gains make softmax so sharp that torch itself loses two more digits in float32
    gain = 0.6 if len(shape) == 4 else 1.0
    return noise * np.float32(gain * np.sqrt(3.0 / fan_in))


def inputs() -> dict[str, np.ndarray]:
    """What the networks are called on; odd sizes exercise the crop on the way up."""
    return {
        "z": uniform("z", (2, 9, 6, 4)) * 1.7,
        "t": np.array([3, 741]),
        "text": uniform("text", (2, 5, 6)) * 1.7,
        "x": uniform("x", (2, 12, 10, 3)),
        "latent": uniform("latent", (2, 6, 5, 4)) * 1.7,
        "cotangent": uniform("cotangent", (2, 6, 5, 4)),
        "ids": np.array([[58, 3, 17, 40, 59, 59, 59], [58, 0, 0, 25, 7, 11, 59]]),
    }
