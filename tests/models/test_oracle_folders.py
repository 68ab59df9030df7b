"""Keys and shapes of the full-size networks, and our folders read by torch's stack."""

import json

import fixed_weights as fixed
import jax
import numpy as np
import pytest
from test_model_config import SD15, SD21
from test_save import fixed_params

from sdsjax.models.loading import configs, hub, mapping
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.loading.weights import check_table
from sdsjax.models.text_encoders.clip_tokenizer import (
    Tokenizer,
    train_word_tokenizer,
    write_tokenizer,
)

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
CLIP1 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
CLIP2 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}


def torch_unet(config):
    return diffusers.UNet2DConditionModel.from_config(config)


def torch_vae(config):
    return diffusers.AutoencoderKL(**config)


def torch_clip(config):
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))


@pytest.mark.parametrize(
    ("name", "config", "build", "keys", "parameters"),
    [
        ("unet", SD15, torch_unet, 686, 859_520_964),
        ("unet", SD21, torch_unet, 686, 865_910_724),
        ("vae", VAE, torch_vae, 248, 83_653_863),
        ("text_encoder", CLIP1, torch_clip, 196, 123_060_480),
        ("text_encoder", CLIP2, torch_clip, 372, 340_387_840),
    ],
    ids=["sd15", "sd21", "vae", "clip1", "clip2"],
)
def test_full_size_tables(name, config, build, keys, parameters):
    with torch.device("meta"):
        state = build(config).state_dict()
    state = {k: tuple(v.shape) for k, v in state.items() if "position_ids" not in k}
    component = hub.COMPONENTS[name]
    read = component.read_config(config)
    table = component.table(read, list(state))
    shapes = check_table(table, hub.param_shapes(name, read), name)
    found = {e.key: mapping.torch_shape(e.kind, shapes[e.path].shape) for e in table}
    assert found == state
    assert len(found) == keys
    assert sum(int(np.prod(shape)) for shape in found.values()) == parameters


def test_diffusers_reads_our_folder(tmp_path):
    vocab, merges = train_word_tokenizer(fixed.WORDS)
    read = {
        "unet": configs.unet_config(
            {**fixed.UNETS["unet_sd2"], "cross_attention_dim": 16}
        ),
        "vae": configs.vae_config(fixed.VAE),
        "text_encoder": configs.clip_text_config(
            {**fixed.CLIPS["clip_exact"], "vocab_size": len(vocab)}
        ),
    }
    networks = {
        name: (config, jax.tree.map(lambda p: p * 0.5, fixed_params(name, config)))
        for name, config in read.items()
    }
    save_stable_diffusion(tmp_path, **networks, tokenizer=(vocab, merges))
    ours = hub.load_stable_diffusion(tmp_path)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        tmp_path, torch_dtype=torch.float32, safety_checker=None
    )
    prompts = ["a red cube on a ball", ""]
    ids = ours.tokenizer(prompts)
    rows = theirs.tokenizer(prompts, padding="max_length", truncation=True)["input_ids"]
    np.testing.assert_array_equal(ids, rows)

    def apply(name, *inputs, **options):
        network = getattr(ours, name)
        return np.asarray(
            network.module.apply({"params": network.params}, *inputs, **options)
        )

    z, t = fixed.inputs()["latent"], np.array([5, 600])
    with jax.default_matmul_precision("highest"), torch.no_grad():
        states = theirs.text_encoder(torch.tensor(rows)).last_hidden_state
        nchw = torch.from_numpy(z.transpose(0, 3, 1, 2).copy())
        eps = theirs.unet(nchw, torch.from_numpy(t), states).sample
        x = theirs.vae.decode(nchw).sample
        text = apply("text_encoder", ids)
        found = (text, apply("unet", z, t, text), apply("vae", z, method="decode"))
    for ours_, theirs_ in zip(found, (states, eps, x), strict=True):
        theirs_ = theirs_.numpy()
        theirs_ = theirs_.transpose(0, 2, 3, 1) if theirs_.ndim == 4 else theirs_
        error = np.linalg.norm(ours_ - theirs_) / np.linalg.norm(theirs_)
        assert error <= 5e-6
    alphas = theirs.scheduler.alphas_cumprod.numpy() ** 0.5
    np.testing.assert_allclose(ours.schedule.alphas, alphas, rtol=2e-5)


FLAGS = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
START = {"content": "<|startoftext|>", **FLAGS}
END = {"content": "<|endoftext|>", **FLAGS}
SPECIAL = {"bos_token": START, "eos_token": END, "unk_token": END}


@pytest.mark.filterwarnings("ignore:the prompt beginning")
@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_tokenizer_files_as_the_hub_has_them(tmp_path, pad):
    """SD 1.5's and SD 2's special_tokens_map.json: tokens with flags, a plain pad."""
    vocab, merges = train_word_tokenizer(fixed.WORDS)
    write_tokenizer(tmp_path, vocab, merges, 24)
    special = {**SPECIAL, "pad_token": pad}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    oracle = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    prompts = [*fixed.PROMPTS, "<|endoftext|>x", "a<|StartOfText|>b"]
    rows = oracle(prompts, padding="max_length", truncation=True, max_length=24)
    found = Tokenizer.from_folder(tmp_path)(prompts)
    np.testing.assert_array_equal(found, rows["input_ids"])
