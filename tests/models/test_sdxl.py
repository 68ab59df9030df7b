"""SDXL's folder, torch-free: its config, its keys, its networks' answers (goldens)."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sdxl_folders as folders
from safetensors.numpy import load_file, save_file

from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.sdxl.folder import SECOND_ENCODER, load_sdxl
from sdsjax.models.loading.weights import check_table
from sdsjax.models.unets import lora
from sdsjax.models.unets.sdxl import SDXLConfig, TextAndSize
from sdsjax.models.unets.stable_diffusion import UNetConfig

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "sdxl.npz"
TOLERANCE = 2e-6
HURRY = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS) as file:
        return dict(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.write_sdxl_folder(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def relative(found, expected):
    found = np.asarray(found, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_published_config():
    assert hub.COMPONENTS["unet"].read_config(folders.SDXL) == SDXLConfig(
        UNetConfig(
            in_channels=4,
            out_channels=4,
            channels=(320, 640, 1280),
            heads=(5, 10, 20),
            down_attention=(False, True, True),
            up_attention=(True, True, False),
            layers=2,
            groups=32,
            epsilon=1e-5,
            context=2048,
            linear_projection=True,
            sample_size=128,
            depths=(1, 2, 10),
        ),
        pooled=1280,
        size_width=256,
    )
    read = SECOND_ENCODER.read_config(folders.BIGG)
    assert (read.projection, read.end, read.text.layers) == (1280, 2, 32)


@pytest.mark.slow
def test_full_size_counts():
    for component, config, keys, parameters in (
        (hub.COMPONENTS["unet"], folders.SDXL, 1680, 2_567_463_684),
        (SECOND_ENCODER, folders.BIGG, 517, 694_659_840),
    ):
        read = component.read_config(config)
        table, shapes = component.table(read, ()), hub.shapes_of(component, read)
        check_table(table, shapes, "full size")
        assert len(table) == keys
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
    # VSD's second network on it: 70 transformer blocks, 2 x 4 projections each
    shapes = hub.param_shapes("unet", hub.COMPONENTS["unet"].read_config(folders.SDXL))
    psi = jax.eval_shape(partial(lora.init, params=shapes, rank=4), jax.random.key(0))
    assert len(jax.tree.leaves(psi.factors)) == 2 * 70 * 8


def test_unet(tmp_path, golden):
    folders.write_component(tmp_path, "unet")
    network, a = hub.load_component(tmp_path, "unet"), folders.inputs()
    told = TextAndSize(a["text"], a["pooled"], a["sizes"])
    run = jax.jit(network.module.apply)
    found = run({"params": network.params}, a["z"], a["t"], told)
    assert relative(found, golden["unet"]) < TOLERANCE


def test_text_encoders(tmp_path, golden):
    ids = folders.inputs()["ids"]
    folders.write_component(tmp_path, "text_encoder")
    folders.write_component(tmp_path, "text_encoder_2")
    first = hub.load_component(tmp_path, "text_encoder")
    second = hub.load(SECOND_ENCODER, tmp_path / "text_encoder_2")
    encode = jax.jit(first.module.apply, static_argnames="penultimate")
    states, _ = encode({"params": first.params}, ids, penultimate=True)
    assert relative(states, golden["first"]) < TOLERANCE
    encode = jax.jit(second.module.apply)
    states, pooled = encode({"params": second.params}, ids)
    assert relative(states, golden["second"]) < TOLERANCE
    assert relative(pooled, golden["pooled"]) < TOLERANCE
    # the first end token counts, whichever way the file names it
    said = second.module.clone(config=second.config._replace(end=59))
    again = jax.jit(said.apply)({"params": second.params}, ids)[1]
    np.testing.assert_allclose(again, pooled, rtol=1e-5, atol=1e-6)
    ended = np.where(np.arange(7) > 4, 59, ids)
    more = encode({"params": second.params}, ended)[1]
    np.testing.assert_allclose(more, pooled, rtol=1e-5, atol=1e-6)


def test_keys_without_a_prefix_are_read_too(tmp_path):
    folders.write_component(tmp_path, "text_encoder_2")
    file = tmp_path / "text_encoder_2" / "model.safetensors"
    tensors = {k.removeprefix("text_model."): v for k, v in load_file(file).items()}
    plain = hub.load(SECOND_ENCODER, tmp_path / "text_encoder_2")
    save_file(tensors, file)
    bare = hub.load(SECOND_ENCODER, tmp_path / "text_encoder_2")
    jax.tree.map(np.testing.assert_array_equal, plain.params, bare.params)


def test_files_named_fp16_are_read(tmp_path):
    folders.write_sdxl_folder(tmp_path, infix=".fp16")
    found = load_sdxl(tmp_path, variant="fp16", dtype=jnp.bfloat16)
    leaves = jax.tree.leaves([found.unet.params, found.text_encoder_2.params])
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    assert found.vae.config.scaling_factor == 0.13025
    assert found.tokenizer.pad_id != found.tokenizer_2.pad_id == 0
    assert found.zeros_for_empty


REFINER = {
    **folders.SDXL,
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
    "projection_class_embeddings_input_dim": 2560,
    "transformer_layers_per_block": 4,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (REFINER, "this is SDXL's refiner"),
        ({**folders.SDXL, "in_channels": 9}, "this is an inpainting network"),
        ({**folders.SDXL, "addition_time_embed_dim": None}, "a positive integer"),
        ({**folders.SDXL, "addition_time_embed_dim": 7}, "an even number"),
        (
            {**folders.SDXL, "projection_class_embeddings_input_dim": 1536},
            "more than the 1536 of six sizes",
        ),
        ({**folders.SDXL, "transformer_layers_per_block": [1, 2]}, "3 entries"),
        (
            {**folders.SDXL, "transformer_layers_per_block": [1, [2, 1], 10]},
            "a list of positive integers",
        ),
        ({**folders.SDXL, "class_embed_type": "timestep"}, "expected None"),
    ],
)
def test_unets_that_are_not_implemented(config, said):
    with pytest.raises(LoaderError, match=said) as caught:
        hub.COMPONENTS["unet"].read_config(config, "a/config.json")
    assert str(caught.value).startswith("a/config.json: ")
    assert "\n" not in str(caught.value)


def without(part):
    def spoil(root):
        for path in (root / part).iterdir():
            path.unlink()
        (root / part).rmdir()

    return spoil


def rewritten(part, **changes):
    return lambda root: folders.write_component(root, part, **changes)


def of_another_class(root):
    said = {**folders.SECOND, "architectures": ["CLIPTextModel"]}
    folders.write_json(root / "text_encoder_2" / "config.json", said)


def index(value):
    path, key = "model_index.json", "force_zeros_for_empty_prompt"
    return lambda root: folders.write_json(root / path, {key: value})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("text_encoder_2"), "an SDXL folder without text_encoder_2"),
        (without("text_encoder"), "without text_encoder: the refiner's is such"),
        (without("tokenizer_2"), "tokenizer_2"),
        (
            rewritten("text_encoder_2", projection_dim=10),
            r"unet pooled width = 12; expected 10, the width of text_encoder_2's",
        ),
        (
            rewritten("text_encoder_2", hidden_size=12, vocab_size=60),
            r"cross_attention_dim = 24; expected 20, 8 \+ 12",
        ),
        (of_another_class, r"architectures = \['CLIPTextModel'\]; expected"),
        (rewritten("vae", latent_channels=16), "in_channels = 4 does not fit its VAE"),
        (index("yes"), "force_zeros_for_empty_prompt = 'yes'; expected true or false"),
    ],
)
def test_folders_that_do_not_fit(tmp_path, spoil, said):
    spoil(folders.write_sdxl_folder(tmp_path))
    with pytest.raises(LoaderError, match=said) as caught:
        load_sdxl(tmp_path)
    assert "\n" not in str(caught.value)
