"""What is saved is what is loaded, bit for bit in float16."""

import json
import resource
import subprocess
import sys

import fixed_weights as fixed
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from sdsjax.models.loading import configs, hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.save import save_component, save_stable_diffusion
from sdsjax.models.text_encoders.clip_tokenizer import train_word_tokenizer


def fixed_params(name, config, dtype=np.float16):
    """A parameter tree whose values float16 holds exactly."""
    shapes = flatten_dict(hub.param_shapes(name, config))
    return unflatten_dict(
        {
            path: fixed.uniform("/".join(path), leaf.shape).astype(dtype)
            for path, leaf in shapes.items()
        }
    )


@pytest.fixture(scope="module")
def networks():
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
    parts = {
        name: (config, fixed_params(name, config)) for name, config in read.items()
    }
    return {**parts, "tokenizer": (vocab, merges)}


@pytest.fixture
def folder(tmp_path, networks):
    return save_stable_diffusion(tmp_path / "sd", **networks)


def test_round_trip_is_bit_exact(folder, networks):
    loaded = hub.load_stable_diffusion(folder)
    for name in ("unet", "vae", "text_encoder"):
        network, (config, params) = getattr(loaded, name), networks[name]
        assert network.config == config
        jax.tree.map(np.testing.assert_array_equal, network.params, params)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(network.params)} == {
            "float32"
        }
    assert loaded.prediction_type == "epsilon"
    assert loaded.schedule.alphas.shape == (1000,)
    assert loaded.tokenizer(["a red cube"]).shape == (1, 12)
    assert not list(folder.rglob("*.partial"))


def test_saving_twice_gives_the_same_bytes(folder, networks, tmp_path):
    again = save_stable_diffusion(tmp_path / "again", **networks)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()


def test_files_name_the_published_classes(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("conv_in"), "conv_in/bias does not fit"),
        (lambda p: p.update(odd={"bias": np.zeros(1)}), "odd/bias does not fit"),
        (
            lambda p: p["conv_in"].update(bias=np.zeros(3)),
            r"conv_in/bias has shape \(3,\); expected \(8,\)",
        ),
        (
            lambda p: p["conv_in"].update(bias=np.full(8, 1e6, np.float32)),
            "conv_in/bias is not finite in float16",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_params_that_do_not_fit(tmp_path, networks, change, message):
    config, params = networks["unet"]
    params = jax.tree.map(np.copy, params)
    change(params)
    with pytest.raises(ValueError, match=message):
        save_component(tmp_path, "unet", config, params)
    assert not (tmp_path / "unet").exists()


def test_components_that_do_not_belong_together(folder, networks):
    config = configs.unet_config(fixed.UNETS["unet_sd2"])
    save_component(folder, "unet", config, fixed_params("unet", config))
    with pytest.raises(LoaderError, match=r"cross_attention_dim = 6 .* expected 16"):
        hub.load_stable_diffusion(folder)


MEASURE = """
import resource, sys
from sdsjax.models import hub
from folders import write_folder
import jax, jax.numpy as jnp, numpy as np
big, small = sys.argv[1:]
hub.load_component(small, "unet")  # whatever tracing and the runtime need
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
params = hub.load_component(big, "unet").params
jax.block_until_ready(params)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print((after - before) * 1024 / size, size / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_peak_memory_is_about_one_copy(tmp_path):
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
    small = configs.unet_config(fixed.UNETS["unet_sd2"])
    big = small._replace(channels=(256, 512), groups=32, layers=4)
    for name, config in (("small", small), ("big", big)):
        params = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, np.float32),
            hub.param_shapes("unet", config),
        )
        save_component(tmp_path / name, "unet", config, params, np.float32)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "big"), str(tmp_path / "small")],
        env={"PYTHONPATH": ":".join(p for p in sys.path if p), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    ratio, megabytes = map(float, done.stdout.split())
    assert megabytes > 300
    assert ratio < 1.4
