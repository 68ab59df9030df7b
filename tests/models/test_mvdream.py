"""MVDream's published folder: its config, its keys, its answers (goldens), no torch."""

import json
from pathlib import Path

import fixed_multiview as fixed
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from sdsjax.models import layers
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.unets.multiview import MultiViewConfig
from sdsjax.models.unets.stable_diffusion import UNetConfig

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "multiview.npz"
TOLERANCE = 2e-6  # relative L2; torch's own float32 is at 1e-6 here
SMALL = fixed.UNETS["all levels attend"]
read_config = hub.COMPONENTS["unet"].read_config


def relative(found, expected):
    found = np.asarray(found, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def run(network, arrays):
    with jax.default_matmul_precision("highest"):
        return jax.jit(network.module.apply)({"params": network.params}, *arrays)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if "all" in name else pytest.mark.slow)
        for name in fixed.UNETS
    ],
)
def test_it_answers_as_the_torch_module(tmp_path, name):
    network = hub.load_component(fixed.write_unet(tmp_path, fixed.UNETS[name]), "unet")
    with np.load(GOLDENS) as golden:
        assert relative(run(network, fixed.inputs()), golden[name]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["views apart", "cameras swapped", "epsilon"])
def test_the_goldens_see_small_faults(tmp_path, monkeypatch, fault):
    network = hub.load_component(fixed.write_unet(tmp_path, SMALL), "unet")
    z, t, text, camera = fixed.inputs()
    if fault == "views apart":
        z, camera = (a.reshape(-1, 1, *a.shape[2:]) for a in (z, camera))
        t, text = (np.repeat(a, fixed.VIEWS, axis=0) for a in (t, text))
    elif fault == "cameras swapped":
        camera = camera[:, ::-1]
    else:  # the transformer's norm has another than the residual blocks'
        call = layers.GroupNorm.__call__

        def coarse(self, x):
            object.__setattr__(self, "epsilon", max(self.epsilon, 1e-5))
            return call(self, x)

        monkeypatch.setattr(layers.GroupNorm, "__call__", coarse)
    found = np.asarray(run(network, (z, t, text, camera)))
    with np.load(GOLDENS) as golden:
        expected = golden["all levels attend"]
    assert relative(found.reshape(expected.shape), expected) > 2 * TOLERANCE


def test_the_published_config_is_stable_diffusions_and_a_camera():
    assert read_config(fixed.MVDREAM) == MultiViewConfig(
        UNetConfig(
            in_channels=4,
            out_channels=4,
            channels=(320, 640, 1280, 1280),
            heads=(5, 10, 20, 20),
            down_attention=(True, True, True, False),
            up_attention=(False, True, True, True),
            layers=2,
            groups=32,
            epsilon=1e-5,
            context=1024,
            linear_projection=True,
            sample_size=32,
        )
    )


@pytest.mark.slow
def test_the_published_network_has_its_number_of_keys_and_parameters():
    read = read_config(fixed.MVDREAM)
    keys = {entry.key for entry in hub.COMPONENTS["unet"].table(read)}
    shapes = flatten_dict(hub.param_shapes("unet", read))
    # counted in the torch module, on its meta device
    assert len(keys) == len(shapes) == 690
    assert sum(int(np.prod(s.shape)) for s in shapes.values()) == 867_572_164
    for key in ("time_embed.0.weight", "camera_embed.2.bias", "out.2.weight"):
        assert key in keys
    assert "output_blocks.5.2.conv.weight" in keys
    assert "input_blocks.11.1.norm.weight" not in keys


def test_half_precision_files_are_read_by_either_name(tmp_path):
    half = {k: v.astype(np.float16) for k, v in fixed.tensors(SMALL).items()}
    plain = fixed.write_unet(tmp_path / "plain", SMALL, half)
    name = "diffusion_pytorch_model.fp16"
    named = fixed.write_unet(tmp_path / "named", SMALL, half, name)
    first = hub.load_component(plain, "unet").params
    assert {leaf.dtype for leaf in jax.tree.leaves(first)} == {jnp.dtype("float32")}
    for variant in (None, "fp16"):
        found = hub.load_component(named, "unet", variant=variant).params
        jax.tree.map(np.testing.assert_array_equal, found, first)


@pytest.fixture(scope="module")
def small():
    """The small network's tensors by key; not made where tests are collected."""
    return fixed.tensors(SMALL)


@pytest.mark.parametrize(
    ("lost", "more", "said"),
    [
        ("out.2.bias", {}, r"missing key out\.2\.bias"),
        ("camera_embed.0.weight", {}, r"missing key camera_embed\.0\.weight"),
        (
            None,
            {"label_emb.weight": np.zeros((3, 128), "f4")},
            r"unexpected key label_emb\.weight",
        ),
        (
            "time_embed.0.bias",
            {"time_embed.0.bias": np.zeros(7, "f4")},
            r"time_embed\.0\.bias has shape \[7\]; expected \[128\]",
        ),
        ("camera_embed", {}, r"missing key camera_embed\.0\.bias and 3 more"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(tmp_path, small, lost, more, said):
    kept = {k: v for k, v in small.items() if not (lost and k.startswith(lost))}
    folder = fixed.write_unet(tmp_path, SMALL, {**kept, **more})
    with pytest.raises(LoaderError, match=said) as caught:
        hub.load_component(folder, "unet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ip_dim": 16}, "ip_dim = 16; expected 0: ImageDream's image tokens"),
        ({"camera_dim": None}, "camera_dim = None; expected 16"),
        ({"camera_dim": 12}, "camera_dim = 12; expected 16"),
        ({"attention_resolutions": [8]}, r"attention_resolutions = 8; .*\[1, 2\]"),
        ({"attention_resolutions": 2}, "a list of positive integers"),
        ({"num_heads": 4}, "one of num_heads and num_head_channels"),
        ({"num_head_channels": 24}, "num_head_channels = 24; expected a divisor"),
        ({"num_res_blocks": [1, 2]}, "one number for all levels"),
        ({"model_channels": 24}, "expected a divisor of the 24 channels"),
        ({"transformer_depth": 2}, "transformer_depth = 2; expected 1"),
        ({"use_scale_shift_norm": True}, "use_scale_shift_norm = True"),
        ({"num_classes": 10}, "num_classes = 10"),
        ({"context_dim": None}, "context_dim = None; expected a positive integer"),
        ({"views": 4}, "views = 4; expected no such key"),
    ],
)
def test_a_config_that_is_not_implemented_is_one_line(change, said):
    with pytest.raises(LoaderError, match=said) as caught:
        read_config({**SMALL, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["camera_dim", "model_channels", "image_size"])
def test_a_key_that_must_be_there_is_named(key):
    left = {k: v for k, v in SMALL.items() if k != key}
    named = "camera layer" if key == "camera_dim" else key
    if key == "model_channels":  # what is left is neither spelling
        named = "no such key"
    with pytest.raises(LoaderError, match=named):
        read_config(left)


def test_our_own_spelling_needs_the_camera_too(tmp_path):
    network = hub.load_component(fixed.write_unet(tmp_path, SMALL), "unet")
    from sdsjax.models.loading.save import save_component

    save_component(tmp_path / "own", "unet", network.config, network.params)
    path = tmp_path / "own" / "unet" / "config.json"
    config = json.loads(path.read_text())
    assert read_config(config) == network.config
    del config["camera_dim"]
    with pytest.raises(LoaderError, match="it has no camera layer"):
        read_config(config)
