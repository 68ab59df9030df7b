"""MVDream's UNet in small, spelled as its published folder is, with fixed weights."""

import json

import fixed_weights as fixed
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from sdsjax.models.loading import hub, mapping

GROUPS, VIEWS = 2, 3
# as the file of ashawkey/mvdream-sd2.1-diffusers has it
MVDREAM = {
    "_class_name": "MultiViewUNetModel",
    "_diffusers_version": "0.23.1",
    "attention_resolutions": [4, 2, 1],
    "camera_dim": 16,
    "channel_mult": [1, 2, 4, 4],
    "context_dim": 1024,
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 320,
    "num_head_channels": 64,
    "num_res_blocks": 2,
    "out_channels": 4,
    "transformer_depth": 1,
    "use_checkpoint": False,
}
SMALL = {
    **MVDREAM,
    "channel_mult": [1, 2],
    "context_dim": 6,
    "image_size": 8,
    "model_channels": 32,
    "num_res_blocks": 1,
}
# the groups of its norms are 32, so that 32 channels are the fewest
UNETS = {
    "all levels attend": {
        **SMALL,
        "attention_resolutions": [2, 1],
        "num_head_channels": 16,
    },
    "the coarse level attends": {
        **{k: v for k, v in SMALL.items() if k != "num_head_channels"},
        "attention_resolutions": [2],
        "num_heads": 4,
    },
}


def inputs():
    """(z [b g h w 4], t [b], text [b n 6], camera [b g 16]) for `SMALL` networks."""
    return (
        1.7 * fixed.uniform("mv z", (GROUPS, VIEWS, 8, 6, 4)),
        np.array([3, 741]),
        1.7 * fixed.uniform("mv text", (GROUPS, 5, 6)),
        fixed.uniform("mv camera", (GROUPS, VIEWS, 16)),
    )


def tensors(config):
    """LDM key -> tensor in torch's layout, of a UNet's config.json."""
    component = hub.COMPONENTS["unet"]
    read = component.read_config(config)
    shapes = flatten_dict(hub.param_shapes("unet", read))
    return {
        key: fixed.tensor(key, mapping.torch_shape(kind, shapes[path].shape))
        for key, kind, path in component.table(read)
    }


def write_unet(root, config, stored=None, name="diffusion_pytorch_model"):
    """Write `root/unet`; returns root. stored: other tensors; name: of the file."""
    (root / "unet").mkdir(parents=True, exist_ok=True)
    (root / "unet" / "config.json").write_text(json.dumps(config))
    stored = tensors(config) if stored is None else stored
    save_file(stored, root / "unet" / f"{name}.safetensors")
    return root
