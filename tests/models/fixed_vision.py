"""Small DPT and CLIP folders with the fixed weights of `fixed_weights`."""

import json

import fixed_weights as fixed
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from sdsjax.models.loading import companions, hub, mapping

DPT = {
    "model_type": "dpt",
    "hidden_size": 16,
    "intermediate_size": 21,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "backbone_out_indices": [0, 1, 2, 3],
    "reassemble_factors": [4, 2, 1, 0.5],
    "neck_hidden_sizes": [6, 8, 10, 12],
    "fusion_hidden_size": 8,
}
# the published hybrid's layout: a ResNet's stages before the transformer
HYBRID = DPT | {
    "is_hybrid": True,
    "patch_size": 16,
    "reassemble_factors": [1, 1, 1, 0.5],
    "neck_hidden_sizes": [16, 40, 10, 12],
    "neck_ignore_stages": [0, 1],
    "backbone_featmap_shape": [1, 72, 2, 2],
    "backbone_config": {
        "model_type": "bit",
        "layer_type": "bottleneck",
        "global_padding": "same",
        "embedding_dynamic_padding": True,
        "embedding_size": 8,
        "hidden_sizes": [16, 40, 72, 96],
        "depths": [1, 2, 1],
        "num_groups": 4,
        "out_features": ["stage1", "stage2", "stage3"],
    },
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 21,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
    "hidden_act": "gelu",
}
CLIP = {
    "model_type": "clip",
    "projection_dim": 10,
    "text_config": fixed.CLIPS["clip_quick"],
    "vision_config": VISION,
}
CONFIGS = {"depth": DPT, "normals": DPT, "clip_scorer": CLIP}
# 32: the grid it was trained on; 40: five patches a side, where maps do not double up
SIZES = (32, 40)


def image(size):
    return fixed.uniform(f"image{size}", (2, size, size, 3))


def tensor(key, shape):
    """As `fixed.tensor`; the last layer such that the output spreads around 0.5, where
    neither the final ReLU nor the clip of the normals hides most of it."""
    if key == "head.head.4.bias":
        return np.full(shape, 0.5, np.float32)
    gain = 20.0 if key == "head.head.4.weight" else 1.0
    return np.array(gain * fixed.tensor(key, shape), np.float32, order="C")


def thinned(y):
    """What of a map is stored: every fifth row and column."""
    return np.asarray(y)[:, 1::5, 2::5]


def tensors(name, config):
    """torch key -> tensor in torch's layout."""
    companion = companions.COMPANIONS[name]
    read = companion.read_config(config)
    shapes = flatten_dict(hub.shapes_of(companion, read))
    return {
        key: tensor(key, mapping.torch_shape(kind, shapes[path].shape))
        for key, kind, path in companion.table(read)
    }


def write_folder(root, name, config=None, stored=None):
    """A flat folder; `stored` replaces the tensors."""
    config = CONFIGS[name] if config is None else config
    root.mkdir(exist_ok=True)
    (root / "config.json").write_text(json.dumps(config))
    stored = tensors(name, config) if stored is None else stored
    save_file(stored, root / "model.safetensors")
    return root
