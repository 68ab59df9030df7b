"""A whole model in one file: recognised, read strictly, or refused in one line."""

import jax
import ml_dtypes
import numpy as np
import pytest
import single_files as files
from safetensors.numpy import save_file

from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.sdxl.folder import SDXL
from sdsjax.models.loading.single_file.layout import recognise
from sdsjax.models.loading.single_file.load import load_single_file, prior_of

PRIOR = {"MVDream": "multiview"}
NUMBER = np.zeros(1, np.float32)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return str(files.write_vocabulary(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    root = tmp_path_factory.mktemp("single")
    return {
        kind: files.write_single_file(root / f"{kind}.safetensors", kind)
        for kind in files.LAYOUTS
    }


def load(path, kind, words, **more):
    if kind == "2.x":
        more = {"prediction_type": "epsilon", **more}
    prior = PRIOR.get(kind, "stable_diffusion")
    return load_single_file(path, prior, tokenizer_folder=words, **more)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(files.FULL_SIZE))
def test_published_sizes_are_recognised(kind):
    """From shapes alone, at full size."""
    assert recognise(files.full_size_shapes(kind), "a file") == files.FULL_SIZE[kind]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow if kind == "1.x" else ())
        for kind in files.LAYOUTS
    ],
)
def test_every_kind_is_read(kinds, words, kind):
    assert prior_of(kinds[kind]) == PRIOR.get(kind, "stable_diffusion")
    found = load(kinds[kind], kind, words)
    layout, given = files.LAYOUTS[kind], files.tensors(kind)
    assert isinstance(found, SDXL) == (kind == "XL")
    assert (found.unet.config, found.vae.config) == (layout.unet, layout.vae)
    assert found.prediction_type == "epsilon"
    assert found.tokenizer.pad_id == (
        0 if kind in ("2.x", "MVDream") else files.VOCAB - 1
    )

    def param(network, *path):
        node = network.params
        for name in path:
            node = node[name]
        return np.asarray(node)

    # by hand: a level up in the VAE counts from the other end, its attention is stored
    # as convolutions
    attention = given["first_stage_model.encoder.mid.attn_1.k.weight"]
    kept = param(
        found.vae, "encoder", "mid_block", "attentions_0", "heads", "to_k", "kernel"
    )
    np.testing.assert_array_equal(kept, attention[:, :, 0, 0].T)
    up = given["first_stage_model.decoder.up.1.block.0.conv1.weight"]
    kept = param(found.vae, "decoder", "up_blocks_0", "resnets_0", "conv1", "kernel")
    np.testing.assert_array_equal(kept, up.transpose(2, 3, 1, 0))
    unet = () if kind in ("1.x", "2.x") else ("unet",)
    convolution = given["model.diffusion_model.output_blocks.0.0.in_layers.2.weight"]
    kept = param(found.unet, *unet, "up_blocks_0", "resnets_0", "conv1", "kernel")
    np.testing.assert_array_equal(kept, convolution.transpose(2, 3, 1, 0))
    if kind == "XL":
        fused = given[
            "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"
        ]
        layer = ("text_model", "layers_1", "self_attn")
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            kept = param(found.text_encoder_2, *layer, name, "kernel")
            np.testing.assert_array_equal(kept, fused[16 * i : 16 * i + 16].T)
        assert found.tokenizer_2.pad_id == 0
        assert found.zeros_for_empty


def test_moving_averages_are_taken_where_a_file_has_them(tmp_path, words):
    averaged = {"model_ema.decay": NUMBER, "model_ema.num_updates": NUMBER}
    for key, value in files.tensors("1.x").items():
        if key.startswith("model.diffusion_model."):
            averaged["model_ema." + key.removeprefix("model.").replace(".", "")] = value
            averaged[key] = value + 1
    path = files.write_single_file(tmp_path / "both.safetensors", "1.x", **averaged)
    plain = files.write_single_file(tmp_path / "one.safetensors", "1.x")
    found, expected = (load(p, "1.x", words).unet.params for p in (path, plain))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_2_x_predicts_must_be_said(kinds, words):
    with pytest.raises(LoaderError, match="no file says what its UNet predicts: set"):
        load_single_file(kinds["2.x"], "stable_diffusion", tokenizer_folder=words)
    found = load(kinds["2.x"], "2.x", words, prediction_type="v_prediction")
    assert found.prediction_type == "v_prediction"
    assert found.unet.config.sample_size == 96
    with pytest.raises(LoaderError, match="prediction_type = 'x'; expected epsilon or"):
        load(kinds["2.x"], "2.x", words, prediction_type="x")


def test_a_mark_says_that_sdxl_predicts_v(tmp_path, words):
    path = files.write_single_file(tmp_path / "v.safetensors", "XL", v_pred=NUMBER)
    assert load(path, "XL", words).prediction_type == "v_prediction"


def test_cut_into_pieces_it_is_the_same(kinds, words):
    """As a prior split over devices is read: 1x1 convolutions and fused tensors too."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",))

    def sharding(shape):
        spec = jax.sharding.PartitionSpec(*[None] * len(shape))
        return jax.sharding.NamedSharding(mesh, spec)

    cut = load(kinds["XL"], "XL", words, sharding=sharding)
    whole = load(kinds["XL"], "XL", words)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        found, expected = getattr(cut, name).params, getattr(whole, name).params
        jax.tree.map(np.testing.assert_array_equal, found, expected)


UNET = "model.diffusion_model."
LAST = "first_stage_model.decoder.conv_out.bias"
REFINED = {
    f"{UNET}label_emb.0.0.weight": np.zeros((128, 40 + 5 * 256), np.float32),
}


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("1.x", {"made.up": NUMBER}, "unexpected key made.up"),
        ("1.x", {LAST: None}, f"missing key {LAST}"),
        ("1.x", {f"{UNET}out.2.bias": NUMBER}, r"has shape \[1\]; expected \[4\]"),
        (
            "1.x",
            {LAST: np.zeros(3, ml_dtypes.float8_e4m3fn)},
            "type F8_E4M3; expected F32, F16, BF16",
        ),
        ("1.x", {LAST: np.full(3, np.inf, np.float32)}, "not finite"),
        (
            "1.x",
            {f"{UNET}input_blocks.0.0.weight": np.zeros((32, 9, 3, 3), np.float32)},
            "takes 9 channels: it is an inpainting model",
        ),
        ("1.x", {"control_model.x": NUMBER}, "it is a ControlNet"),
        ("1.x", {"alphas_cumprod": np.linspace(1, 0, 1000)}, "another schedule"),
        ("XL", REFINED, "it is SDXL's refiner"),
        ("XL", {"ztsnr": NUMBER}, "zero terminal signal"),
        (
            "XL",
            {"conditioner.embedders.1.model.text_projection": np.zeros((16, 8), "f4")},
            "a pooled text of 12 numbers, its second text encoder gives 8",
        ),
    ],
)
def test_files_that_are_not_whole(tmp_path, words, kind, changes, said):
    path = files.write_single_file(tmp_path / "m.safetensors", kind, **changes)
    with pytest.raises(LoaderError, match=said) as caught:
        load(path, kind, words)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "it is Flux"),
        ("model.diffusion_model.joint_blocks.0.x", "it is Stable Diffusion 3"),
        ("lora_unet_down_blocks_0.lora_down.weight", "a LoRA, which changes another"),
        ("down_blocks.0.resnets.0.conv1.weight", "one network of a folder"),
        ("something", "no key model.diffusion_model.input_blocks.0.0.weight"),
    ],
)
def test_other_files_are_named(tmp_path, words, key, said):
    path = tmp_path / "other.safetensors"
    save_file({key: NUMBER}, path)
    with pytest.raises(LoaderError, match=said):
        load(path, "1.x", words)


def test_an_unet_alone_has_no_text_encoder(tmp_path, words):
    alone = {k: None for k in files.tensors("XL") if k.startswith("conditioner.")}
    path = files.write_single_file(tmp_path / "u.safetensors", "XL", **alone)
    with pytest.raises(LoaderError, match="a UNet without the rest"):
        load(path, "XL", words)


def test_tokenizers_and_priors_that_do_not_fit(kinds, words, tmp_path):
    with pytest.raises(LoaderError, match=r"set prior\.tokenizer_folder to a folder"):
        load_single_file(kinds["1.x"], "stable_diffusion")
    with pytest.raises(LoaderError, match=r"vocab\.json"):
        load(kinds["1.x"], "1.x", str(tmp_path))
    with pytest.raises(LoaderError, match="holds MVDream; load it as the prior multi"):
        load_single_file(kinds["MVDream"], "stable_diffusion", tokenizer_folder=words)
    with pytest.raises(LoaderError, match=r"holds Stable Diffusion 1\.x; load it as"):
        load_single_file(kinds["1.x"], "multiview", tokenizer_folder=words)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m.ckpt", "a pickle, which can run any code .* weights_only=True"),
        ("m.bin", "a pickle"),
        ("m.pt", "a pickle"),
        ("m.gguf", "GGUF, numbers quantised"),
        ("m.onnx", "an ONNX graph"),
    ],
)
def test_other_formats_are_refused_with_the_reason(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(LoaderError, match=said) as caught:
        hub.resolve(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_half_a_download_is_one_line(kinds, words, tmp_path):
    path = tmp_path / "half.safetensors"
    path.write_bytes(kinds["1.x"].read_bytes()[:-1000])
    with pytest.raises(LoaderError, match="it may be truncated: fetch it again"):
        load(path, "1.x", words)
