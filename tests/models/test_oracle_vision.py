"""DPT and CLIP against torch's transformers: small networks with perturbed norms, and
keys and shapes at full size.

The bounds of `test_oracle_networks`: twice torch's own float32 error against float64.
"""

import fixed_vision as vision
import jax
import numpy as np
import pytest
from test_companions import CLIP_L, DPT_HYBRID, DPT_LARGE

from sdsjax.models.loading import companions, hub, mapping
from sdsjax.models.loading.weights import check_table
from sdsjax.models.vision.clip_scorer import prepare

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_oracle_networks import (  # noqa: E402
    _exact_products,  # noqa: F401  a fixture of every test here
    as_close_as_torch,
    nchw,
    normals,
    perturbed,
)

pytestmark = pytest.mark.oracle

DPT = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": 64,
    "backbone_out_indices": [0, 1, 3, 4],
    "neck_hidden_sizes": [8, 12, 16, 20],
    "fusion_hidden_size": 16,
}
HYBRID = {"image_size": 64, "backbone_featmap_shape": [1, 72, 4, 4]}
TEXT = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
VISION = {**TEXT, "image_size": 32, "patch_size": 8}
VISION.pop("vocab_size")


def save(model, folder):
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["depth", "normals"])
@pytest.mark.parametrize("size", [64, 80])
def test_dpt(tmp_path, name, size):
    """80: positions resized, five patches a side, so that maps are resized too."""
    against_torch(tmp_path, name, DPT, size)


@pytest.mark.parametrize("name", ["depth", "normals"])
def test_hybrid(tmp_path, name):
    """Its stem's embeddings refuse other sizes than the network's own."""
    against_torch(tmp_path, name, {**vision.HYBRID, **HYBRID}, 64)


def against_torch(tmp_path, name, config, size):
    oracle = transformers.DPTForDepthEstimation(transformers.DPTConfig(**config))
    if name == "normals":
        oracle.head.head[4] = torch.nn.Conv2d(32, 3, 1)
    perturbed(oracle, 1.5)
    x = np.tanh(normals(2, size, size, 3))
    # spread around 0.5, where neither ReLU nor clip hides what the layers before did
    last, relu = oracle.head.head[4], oracle.head.head[5]
    oracle.head.head[5] = torch.nn.Identity()
    y = oracle(nchw(x)).predicted_depth
    last.weight.mul_(0.2 / y.std())
    last.bias.fill_(0.5 - 0.2 * (y.mean() - last.bias.mean()) / y.std())
    if name == "depth":
        oracle.head.head[5] = relu
    network = companions.load_companion(save(oracle, tmp_path), name)

    def torch_in(dtype):
        y = oracle.to(dtype)(nchw(x, dtype)).predicted_depth.double().numpy()
        if name == "depth":
            return y
        y = 2 * np.clip(y.transpose(0, 2, 3, 1), 0, 1) - 1
        return y / np.linalg.norm(y, axis=-1, keepdims=True)

    double, single = torch_in(torch.float64), torch_in(torch.float32)
    assert double.std() > 0.1
    found = jax.jit(network.module.apply)({"params": network.params}, x)
    as_close_as_torch(found, single, double)


@pytest.mark.parametrize("end", [2, 999])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip(tmp_path, activation, end):
    text = {**TEXT, "hidden_act": activation, "eos_token_id": end}
    config = transformers.CLIPConfig(
        text_config={**text, "bos_token_id": 998, "pad_token_id": 1},
        vision_config={**VISION, "hidden_act": activation},
        projection_dim=24,
    )
    oracle = perturbed(transformers.CLIPModel(config), 3.0)
    network = companions.load_companion(save(oracle, tmp_path), "clip_scorer")
    x = np.array(prepare(0.5 + 0.5 * np.tanh(normals(2, 45, 32, 3)), 32))
    ids = np.random.default_rng(0).integers(3, 990, (3, 9))
    ids[0, 4:] = ids[1, 8] = ids[2, 6:] = 999

    def torch_in(dtype):
        out = oracle.to(dtype)(
            input_ids=torch.from_numpy(ids), pixel_values=nchw(x, dtype)
        )
        pair = (out.image_embeds.double().numpy(), out.text_embeds.double().numpy())
        return [e / np.linalg.norm(e, axis=-1, keepdims=True) for e in pair]

    double, single = torch_in(torch.float64), torch_in(torch.float32)
    variables = {"params": network.params}
    apply = jax.jit(network.module.apply, static_argnames="method")
    found = (
        apply(variables, x, method="embed_images"),
        apply(variables, ids, method="embed_texts"),
    )
    for ours, s, d in zip(found, single, double, strict=True):
        as_close_as_torch(ours, s, d)


def torch_clip(config):
    towers = {name: config[name] for name in ("text_config", "vision_config")}
    width = config["projection_dim"]
    return transformers.CLIPModel(
        transformers.CLIPConfig(**towers, projection_dim=width)
    )


def torch_dpt(config):
    return transformers.DPTForDepthEstimation(transformers.DPTConfig(**config))


@pytest.mark.parametrize(
    ("name", "config", "build"),
    [
        ("depth", DPT_LARGE, torch_dpt),
        ("depth", DPT_HYBRID, torch_dpt),
        ("clip_scorer", CLIP_L, torch_clip),
    ],
    ids=["dpt-large", "dpt-hybrid", "clip-l"],
)
def test_full_size_tables(name, config, build):
    with torch.device("meta"):
        state = build(config).state_dict()
    state = {k: tuple(v.shape) for k, v in state.items() if "position_ids" not in k}
    companion = companions.COMPANIONS[name]
    read = companion.read_config(config)
    flat = check_table(companion.table(read), hub.shapes_of(companion, read), name)
    table = companion.table(read)
    found = {e.key: mapping.torch_shape(e.kind, flat[e.path].shape) for e in table}
    assert found == state
