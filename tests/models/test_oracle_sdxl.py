"""SDXL against torch's diffusers and transformers on random weights.

Bounds as in test_oracle_networks.py: relative L2 of 5e-6, and twice torch's own error
against its float64; in bfloat16 1.5 times torch's own.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sdxl_folders as folders
from test_oracle_networks import (
    VAE,
    as_close_as_torch,
    nchw,
    nhwc,
    normals,
    perturbed,
    relative,
)

from sdsjax.models.layers import SpatialTransformer
from sdsjax.models.loading import hub, mapping
from sdsjax.models.loading.sdxl.folder import SECOND_ENCODER
from sdsjax.models.loading.weights import check_table
from sdsjax.models.text_encoders.clip_tokenizer import (
    train_word_tokenizer,
    write_tokenizer,
)
from sdsjax.models.unets.sdxl import TextAndSize
from sdsjax.priors import stable_diffusion

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

UNET = {
    **folders.UNET,
    "addition_time_embed_dim": 8,
    "attention_head_dim": [2, 2, 4],
    "block_out_channels": [32, 64, 64],
    "cross_attention_dim": 56,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
    "transformer_layers_per_block": [1, 2, 3],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
CLIP = {
    "intermediate_size": 37,
    "max_position_embeddings": 24,
    "num_attention_heads": 4,
}
FIRST = {**CLIP, "hidden_size": 24, "num_hidden_layers": 3}
SECOND = {**CLIP, "hidden_size": 32, "num_hidden_layers": 4, "projection_dim": 20}
WORDS = ["a", "red", "mug", "blurry", "view"]
SIZES = np.float32([[512, 512, 0, 0, 512, 512], [1024, 768, 3, 40, 640, 960]])


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        torch.manual_seed(0)
        yield


def test_unet(tmp_path):
    oracle = perturbed(diffusers.UNet2DConditionModel.from_config(UNET), 1.5)
    oracle.save_pretrained(tmp_path / "unet")
    network = hub.load_component(tmp_path, "unet")
    half = hub.load_component(tmp_path, "unet", dtype=jnp.bfloat16)
    t, text, pooled = np.array([3, 700]), normals(2, 7, 56), normals(2, 20)
    told = TextAndSize(text, pooled, SIZES)
    for size in ((16, 16), (9, 14)):
        z = normals(2, *size, 4)

        def torch_in(dtype, z=z):
            model = oracle.to(dtype)
            words, more = (torch.from_numpy(a).to(dtype) for a in (text, pooled))
            added = {"text_embeds": more, "time_ids": torch.from_numpy(SIZES)}
            out = model(
                nchw(z, dtype), torch.from_numpy(t), words, added_cond_kwargs=added
            )
            return nhwc(out.sample)

        double = torch_in(torch.float64)
        single = torch_in(torch.float32)
        found = jax.jit(network.module.apply)({"params": network.params}, z, t, told)
        as_close_as_torch(found, single, double)
    found = jax.jit(half.module.apply)({"params": half.params}, z, t, told)
    own = relative(torch_in(torch.bfloat16), double)  # last: it rounds the weights
    assert relative(found, double) <= 1.5 * own


def torch_unet(config):
    return diffusers.UNet2DConditionModel.from_config(config)


def torch_second(config):
    config = transformers.CLIPTextConfig(**config)
    return transformers.CLIPTextModelWithProjection(config)


@pytest.mark.parametrize(
    ("component", "config", "build", "keys", "parameters"),
    [
        (hub.COMPONENTS["unet"], folders.SDXL, torch_unet, 1680, 2_567_463_684),
        (SECOND_ENCODER, folders.BIGG, torch_second, 517, 694_659_840),
    ],
    ids=["unet", "text_encoder_2"],
)
def test_full_size_tables(component, config, build, keys, parameters):
    with torch.device("meta"):
        state = build(config).state_dict()
    state = {k: tuple(v.shape) for k, v in state.items() if "position_ids" not in k}
    read = component.read_config(config)
    table = component.table(read, list(state))
    shapes = check_table(table, hub.shapes_of(component, read), "full size")
    found = {e.key: mapping.torch_shape(e.kind, shapes[e.path].shape) for e in table}
    assert found == state
    assert len(found) == keys
    assert sum(int(np.prod(shape)) for shape in found.values()) == parameters


def test_a_full_width_place_of_transformers():
    """The coarsest level's: 1280 channels, 20 heads, text of 2048; two of its ten."""
    width, context = 1280, 2048
    oracle = diffusers.models.Transformer2DModel(
        num_attention_heads=20, attention_head_dim=64, in_channels=width, num_layers=2,
        cross_attention_dim=context, use_linear_projection=True, norm_num_groups=32,
    )  # fmt: skip
    oracle = perturbed(oracle, 1.2)
    config = hub.COMPONENTS["unet"].read_config(
        {**folders.SDXL, "transformer_layers_per_block": [1, 2, 2]}
    )
    place = ("unet", "mid_block", "attentions_0")
    state, params = oracle.state_dict(), {}
    for key, kind, path in hub.COMPONENTS["unet"].table(config, ()):
        if path[:3] == place:
            bare = key.removeprefix("mid_block.attentions.0.")
            node = params
            for name in path[3:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = mapping.to_flax(kind, state.pop(bare).numpy())
    assert not state
    x, text = normals(1, 6, 5, width), normals(1, 77, context)
    single = nhwc(oracle(nchw(x), torch.from_numpy(text)).sample)
    words = torch.from_numpy(text).double()
    double = nhwc(oracle.double()(nchw(x).double(), words).sample)
    module = SpatialTransformer(20, 32, True, depth=2)
    found = jax.jit(module.apply)({"params": params}, x, text)
    as_close_as_torch(found, single, double)


@pytest.fixture
def pipeline(tmp_path):
    """A whole small pipeline of diffusers, saved by itself."""
    vocab, merges = train_word_tokenizer(WORDS)
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        write_tokenizer(tmp_path / name, vocab, merges, 24, pad)
    ends = {"vocab_size": len(vocab), "bos_token_id": len(vocab) - 2}
    ends |= {"eos_token_id": len(vocab) - 1, "pad_token_id": len(vocab) - 1}
    first = transformers.CLIPTextConfig(**FIRST, **ends, hidden_act="quick_gelu")
    second = transformers.CLIPTextConfig(**SECOND, **ends, hidden_act="gelu")
    parts = diffusers.StableDiffusionXLPipeline(
        vae=perturbed(diffusers.AutoencoderKL(**VAE, scaling_factor=0.13025), 1.2),
        text_encoder=perturbed(transformers.CLIPTextModel(first), 3.0),
        text_encoder_2=perturbed(transformers.CLIPTextModelWithProjection(second), 3.0),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer"),
        tokenizer_2=transformers.CLIPTokenizer.from_pretrained(
            tmp_path / "tokenizer_2"
        ),
        unet=perturbed(diffusers.UNet2DConditionModel.from_config(UNET), 1.5),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
        add_watermarker=False,
    )
    folder = tmp_path / "pipeline"
    parts.save_pretrained(folder)
    return parts, folder


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_the_prior_is_diffusers_pipeline(pipeline, negative):
    """Prompts, padding, pooled text and sizes: eps as the pipeline asks for it."""
    oracle, folder = pipeline
    index = json.loads((folder / "model_index.json").read_text())
    assert index["force_zeros_for_empty_prompt"] is True
    source = stable_diffusion.load(
        str(folder), "a red mug", negative, view_prompts=False, image_size=32
    )
    z, t = normals(16, 16, 4), 321
    assert source.image_shape == (32, 32, 3)
    branches = ("cond", "uncond", "negative")
    found = jax.jit(lambda p: source.bind(p).noise(z, jnp.int32(t), None, branches))(
        source.params
    )
    cond, uncond, pooled, no_pooled = oracle.encode_prompt(
        "a red mug", device="cpu", do_classifier_free_guidance=True
    )
    said = oracle.encode_prompt(
        "a red mug", device="cpu", do_classifier_free_guidance=True,
        negative_prompt=negative or None,
    )  # fmt: skip
    sizes = oracle._get_add_time_ids(
        (32, 32),
        (0, 0),
        (32, 32),
        torch.float32,
        oracle.text_encoder_2.config.projection_dim,
    )
    for eps, states, more in (
        (found.cond, cond, pooled),
        (found.uncond, uncond, no_pooled),
        (found.negative, said[1], said[3]),
    ):
        added = {"text_embeds": more, "time_ids": sizes}
        out = oracle.unet(
            nchw(z[None]), torch.tensor([t]), states, added_cond_kwargs=added
        )
        assert relative(eps, nhwc(out.sample)[0]) <= 5e-6
    alphas = oracle.scheduler.alphas_cumprod.numpy() ** 0.5
    np.testing.assert_allclose(
        source.bind(source.params).schedule.alphas, alphas, rtol=2e-5
    )
