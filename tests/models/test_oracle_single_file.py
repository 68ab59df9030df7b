"""Single files against diffusers' own converters: the same parameters, to the bit."""

import jax
import numpy as np
import pytest
import single_files as files

from sdsjax.models.loading import configs, hub
from sdsjax.models.loading.mapping import clip_text_table, unet_table, vae_table
from sdsjax.models.loading.sdxl.folder import SECOND_ENCODER
from sdsjax.models.loading.sdxl.mapping import clip_projection_table, sdxl_table
from sdsjax.models.loading.single_file.layout import recognise
from sdsjax.models.loading.single_file.load import load_single_file
from sdsjax.models.loading.weights import Source, load_params

torch = pytest.importorskip("torch")
convert = pytest.importorskip("diffusers.loaders.single_file_utils")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle


def from_folder(tmp_path, state, table, component, config):
    """What the folder's loader makes of a state that diffusers converted."""
    from safetensors.torch import save_file

    path = tmp_path / "converted.safetensors"
    state = {k: v.contiguous() for k, v in state.items() if "position_ids" not in k}
    save_file(state, path)
    source = Source(path, dict.fromkeys(state, path))
    return load_params(source, table, hub.shapes_of(component, config))


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("kind", ["1.x", "2.x", "XL"])
def test_diffusers_converts_to_the_same_parameters(tmp_path, kind):
    layout = files.LAYOUTS[kind]
    prior = "stable_diffusion"
    said = "epsilon" if kind == "2.x" else None
    path = files.write_single_file(tmp_path / "model.safetensors", kind)
    words = str(files.write_vocabulary(tmp_path / "clip"))
    ours = load_single_file(path, prior, prediction_type=said, tokenizer_folder=words)
    state = {k: torch.from_numpy(np.array(v)) for k, v in files.tensors(kind).items()}

    unet = layout.unet.unet if kind == "XL" else layout.unet
    said = configs.unet_json(unet)
    said["transformer_layers_per_block"] = list(unet.depths) or 1
    if kind == "XL":
        said |= {"addition_embed_type": "text_time", "class_embed_type": None}
        said["num_class_embeds"] = None
    theirs = convert.convert_ldm_unet_checkpoint(dict(state), said)
    table = sdxl_table(layout.unet) if kind == "XL" else unet_table(unet)
    component = hub.COMPONENTS["unet"]
    same(ours.unet.params, from_folder(tmp_path, theirs, table, component, layout.unet))

    theirs = convert.convert_ldm_vae_checkpoint(
        dict(state), configs.vae_json(layout.vae)
    )
    table, component = vae_table(layout.vae), hub.COMPONENTS["vae"]
    same(ours.vae.params, from_folder(tmp_path, theirs, table, component, layout.vae))

    prefix = files.PREFIXES[kind][0]
    component = hub.COMPONENTS["text_encoder"]
    if kind == "2.x":
        theirs = open_clip(state, layout.text, prefix)
        unused = f"text_model.encoder.layers.{layout.text.layers}."
        theirs = {k: v for k, v in theirs.items() if not k.startswith(unused)}
        theirs.pop("text_projection.weight", None)  # of no use in 2.x
    else:
        theirs = convert.convert_ldm_clip_checkpoint(dict(state), remove_prefix=prefix)
    table = clip_text_table(layout.text, list(theirs))
    found = from_folder(tmp_path, theirs, table, component, layout.text)
    same(ours.text_encoder.params, found)

    if kind == "XL":
        second = layout.second
        theirs = open_clip(state, second.text, files.PREFIXES[kind][1], second)
        table = clip_projection_table(second, list(theirs))
        found = from_folder(tmp_path, theirs, table, SECOND_ENCODER, second)
        same(ours.text_encoder_2.params, found)


def open_clip(state, config, prefix, second=None):
    said = transformers.CLIPTextConfig(
        **configs.clip_text_json(config)
        | {"projection_dim": second.projection if second else config.hidden}
    )
    with torch.device("meta"):
        model = transformers.CLIPTextModelWithProjection(said)
    return convert.convert_open_clip_checkpoint(model, dict(state), prefix)


@pytest.mark.parametrize("kind", list(files.FULL_SIZE))
def test_full_size_files_are_what_diffusers_takes_them_for(kind):
    """Shapes alone: its guess of the kind, and the UNet's and VAE's keys it makes."""
    shapes = files.full_size_shapes(kind)
    state = {k: torch.empty(shape, device="meta") for k, shape in shapes.items()}
    known = {"1.x": "v1", "2.x": "v2", "XL": "xl_base"}
    if kind in known:
        assert convert.infer_diffusers_model_type(state) == known[kind]
    layout = recognise(shapes, "a file")
    assert layout == files.FULL_SIZE[kind]
    unet = layout.unet if kind in ("1.x", "2.x") else layout.unet.unet
    said = {**configs.unet_json(unet), "class_embed_type": None}
    said |= {"num_class_embeds": None, "addition_embed_type": None}
    if kind == "XL":
        said["addition_embed_type"] = "text_time"
    said["transformer_layers_per_block"] = list(unet.depths) or 1
    theirs = convert.convert_ldm_unet_checkpoint(dict(state), said)
    table = sdxl_table(layout.unet) if kind == "XL" else unet_table(unet)
    assert set(theirs) == {entry.key for entry in table}
    theirs = convert.convert_ldm_vae_checkpoint(
        dict(state), configs.vae_json(layout.vae)
    )
    assert set(theirs) == {entry.key for entry in vae_table(layout.vae)}
