"""Component folders of DeepFloyd IF in the hub's layout, holding the fixed weights."""

import json
from pathlib import Path

import fixed_deepfloyd as fixed
import numpy as np
from flax.traverse_util import flatten_dict
from folders import weights_path
from safetensors.numpy import save_file

from sdsjax.models.loading import hub, mapping

CONFIGS = {"unet": fixed.UNET, "text_encoder": fixed.T5}
GOLDEN = Path(__file__).resolve().parent.parent / "goldens" / "deepfloyd.npz"
# as the published folder has it
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "thresholding": True,
    "trained_betas": None,
    "variance_type": "learned_range",
}


def fixed_tensors(name, config=None):
    """torch key -> tensor in torch's layout, for a component's config.json."""
    component = hub.COMPONENTS[name]
    read = component.read_config(CONFIGS[name] if config is None else config)
    shapes = flatten_dict(hub.param_shapes(name, read))
    return {
        key: fixed.tensor(key, mapping.torch_shape(kind, shapes[path].shape))
        for key, kind, path in component.table(read)
    }


def write_component(root, name, config=None, tensors=None):
    """Write `root/name`; returns root. Defaults: the small configs, fixed weights."""
    tensors = fixed_tensors(name, config) if tensors is None else tensors
    (root / name).mkdir(parents=True, exist_ok=True)
    text = json.dumps(CONFIGS[name] if config is None else config)
    (root / name / "config.json").write_text(text)
    save_file(tensors, weights_path(root, name))
    return root


def write_scheduler(root, **changes):
    path = root / "scheduler" / "scheduler_config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**SCHEDULER, **changes}))


def write_if_folder(root):
    """Write a whole folder of IF's first stage; returns root."""
    for name in ("unet", "text_encoder"):
        write_component(root, name)
    (root / "tokenizer").mkdir()
    with np.load(GOLDEN) as golden:
        model = golden["spiece"].tobytes()
    (root / "tokenizer" / "spiece.model").write_bytes(model)
    write_scheduler(root)
    (root / "model_index.json").write_text('{"_class_name": "IFPipeline"}')
    return root
