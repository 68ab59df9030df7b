"""Component folders in torch's layout, holding the fixed weights."""

import json

import fixed_weights as fixed
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from sdsjax.models.loading import hub, mapping

CONFIGS = {
    "unet": fixed.UNETS["unet_sd2"],
    "vae": fixed.VAE,
    "text_encoder": fixed.CLIPS["clip_exact"],
}


def fixed_tensors(name, config):
    """torch key -> tensor in torch's layout, for a component's config.json."""
    component = hub.COMPONENTS[name]
    read = component.read_config(config)
    shapes = flatten_dict(hub.param_shapes(name, read))
    tensors = {}
    for key, kind, path in component.table(read):
        shape = mapping.torch_shape(kind, shapes[path].shape)
        tensors[key] = fixed.tensor(key.removeprefix("text_model."), shape)
    return tensors


def weights_path(root, name):
    return root / name / f"{hub.COMPONENTS[name].stem}.safetensors"


def write_folder(root, name, config=None, tensors=None):
    """Write `root/name`; returns root. Defaults: the small configs, fixed weights."""
    config = CONFIGS[name] if config is None else config
    tensors = fixed_tensors(name, config) if tensors is None else tensors
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "config.json").write_text(json.dumps(config))
    save_file(tensors, weights_path(root, name))
    return root
