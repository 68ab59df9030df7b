"""MVDream's network against one put together of diffusers' parts.

diffusers has no multi-view UNet, but its parts: Stable Diffusion's UNet, whose class
slot takes numbers through Linear, SiLU, Linear as the camera's layer does; a processor
of its own for self-attention; and a conversion of LDM's keys. The answers of the
published module itself are goldens: test_mvdream.py.
"""

import fixed_multiview as fixed
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_oracle_networks import as_close_as_torch

from sdsjax.models.loading import hub, mapping

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.oracle

PREFIX = "model.diffusion_model."  # of LDM's whole-model files


def views_together(plain):
    """A processor of diffusers' that attends over the views of a group at once."""

    class ViewsTogether(plain):
        def __call__(self, attn, hidden_states, *args, **named):
            tokens, width = hidden_states.shape[1:]
            together = hidden_states.reshape(-1, fixed.VIEWS * tokens, width)
            out = super().__call__(attn, together, *args, **named)
            return out.reshape(hidden_states.shape)

    return ViewsTogether()


def unet_of(config):
    """A UNet of diffusers with the widths and levels of a multi-view config.json."""
    read = hub.COMPONENTS["unet"].read_config(config).unet
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in read.down_attention]
    return diffusers.UNet2DConditionModel(
        block_out_channels=read.channels,
        layers_per_block=read.layers,
        down_block_types=down,
        up_block_types=[kind.replace("Down", "Up") for kind in down[::-1]],
        cross_attention_dim=read.context,
        attention_head_dim=read.heads,
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
    )


def converted(tensors, model):
    """LDM's keys as diffusers itself converts them: the camera's are the class's."""
    from diffusers.loaders import single_file_utils

    whole = {
        PREFIX + key.replace("camera_embed.", "label_emb.0."): tensor
        for key, tensor in tensors.items()
    }
    convert = single_file_utils.convert_ldm_unet_checkpoint
    return convert(whole, dict(model.config))


def oracle(config):
    """A UNet of diffusers with the fixed weights, whose views see each other."""
    from diffusers.models.attention_processor import AttnProcessor

    model = unet_of(config)
    tensors = {k: torch.from_numpy(v) for k, v in fixed.tensors(config).items()}
    model.load_state_dict(converted(tensors, model))
    together = views_together(AttnProcessor)
    model.set_attn_processor(
        {
            name: together if ".attn1." in name else AttnProcessor()
            for name in model.attn_processors
        }
    )
    return model.eval()


def answer(model, dtype):
    z, t, text, camera = (torch.from_numpy(array) for array in fixed.inputs())
    b, g = z.shape[:2]
    with torch.no_grad():
        out = model.to(dtype)(
            z.flatten(0, 1).permute(0, 3, 1, 2).to(dtype),
            t.repeat_interleave(g),
            text.repeat_interleave(g, dim=0).to(dtype),
            class_labels=camera.flatten(0, 1).to(dtype),
        ).sample
    return out.double().permute(0, 2, 3, 1).unflatten(0, (b, g)).numpy()


@pytest.mark.parametrize("name", fixed.UNETS)
def test_the_network_of_diffusers_parts(tmp_path, name):
    config = fixed.UNETS[name]
    network = hub.load_component(fixed.write_unet(tmp_path, config), "unet")
    with jax.default_matmul_precision("highest"):
        found = jax.jit(network.module.apply)(
            {"params": network.params}, *fixed.inputs()
        )
    model = oracle(config)
    single, double = (answer(model, kind) for kind in (torch.float32, torch.float64))
    as_close_as_torch(found, single, double)
    moved = np.roll(single, 1, axis=1)  # a view elsewhere in its group would show
    assert np.abs(moved - single).max() > 0.1


@pytest.mark.parametrize("config", [fixed.MVDREAM, *fixed.UNETS.values()])
def test_every_key_and_shape_is_one_of_diffusers(config):
    """The table's LDM keys, converted by diffusers, are all that its UNet has."""
    component = hub.COMPONENTS["unet"]
    read = component.read_config(config)
    flat = flatten_dict(hub.param_shapes("unet", read))
    with torch.device("meta"):
        model = unet_of(config)
        tensors = {
            key: torch.empty(mapping.torch_shape(kind, flat[path].shape))
            for key, kind, path in component.table(read)
        }
    found = {key: v.shape for key, v in converted(tensors, model).items()}
    assert found == {key: v.shape for key, v in model.state_dict().items()}
