"""Component folders of DeepFloyd IF in the hub's layout, holding the fixed weights."""

import json

import fixed_deepfloyd as fixed
from flax.traverse_util import flatten_dict
from folders import weights_path
from safetensors.numpy import save_file

from sdsjax.models.loading import hub, mapping

CONFIGS = {"unet": fixed.UNET, "text_encoder": fixed.T5}


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
