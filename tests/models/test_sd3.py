"""Stable Diffusion 3's folder, torch-free: its configs, keys, answers (goldens)."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sd3_folders as folders
from safetensors.numpy import load_file, save_file

from sdsjax.models.loading import hub
from sdsjax.models.loading.configs import vae_json
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.scheduler import read_flow_schedule
from sdsjax.models.loading.sd3 import folder as sd3
from sdsjax.models.loading.sd3.configs import transformer_json
from sdsjax.models.loading.weights import check_table
from sdsjax.models.mmdit import MMDiTConfig, Text, position_table
from sdsjax.models.unets import lora

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "sd3.npz"
TOLERANCE = 2e-6
HURRY = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS) as file:
        return dict(file)


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def relative(found, expected):
    found = np.asarray(found, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def run(network, *inputs, **options):
    apply = partial(network.module.apply, **options)
    return jax.jit(apply, compiler_options=HURRY)({"params": network.params}, *inputs)


def called(network, **changes):
    a = {**folders.inputs(), **changes}
    return run(network, a["z"], a["t"], Text(a["text"], a["pooled"]))


def test_published_configs():
    read = hub.COMPONENTS["transformer"].read_config
    assert read(folders.SD35) == MMDiTConfig(
        in_channels=16, out_channels=16, patch=2, layers=24, heads=24, head_width=64,
        context=4096, pooled=2048, positions=384, sample_size=128,
        dual=tuple(range(13)), qk_norm=True,
    )  # fmt: skip
    assert read(folders.SD30) == read(folders.SD35)._replace(
        positions=192, dual=(), qk_norm=False
    )
    vae = hub.COMPONENTS["vae"].read_config(folders.SD35_VAE)
    assert (vae.scaling_factor, vae.shift_factor, vae.quant) == (1.5305, 0.0609, False)
    assert hub.COMPONENTS["vae"].read_config(vae_json(vae)) == vae
    for config in (folders.SD35, folders.SD30):
        assert read(transformer_json(read(config))) == read(config)


@pytest.mark.slow
def test_full_size_counts():
    """Counts of diffusers' modules on the meta device."""
    for name, config, keys, parameters in (
        ("transformer", folders.SD35, 909, 2_469_663_936),
        ("vae", folders.SD35_VAE, 244, 83_819_683),
    ):
        component = hub.COMPONENTS[name]
        read = component.read_config(config)
        table, shapes = component.table(read, ()), hub.shapes_of(component, read)
        check_table(table, shapes, name)
        assert len(table) == keys
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


@pytest.mark.parametrize(
    ("answer", "config"), [("sd35", folders.TRANSFORMER), ("sd30", folders.PLAIN)]
)
def test_transformer(tmp_path, golden, answer, config):
    folders.write_component(tmp_path, "transformer", config)
    network = hub.load_component(tmp_path, "transformer")
    out = called(network)
    assert out.shape == (2, 8, 12, 4)
    assert relative(out, golden[answer]) < TOLERANCE


@pytest.mark.slow
def test_half_precision_and_a_cut_table_of_positions(tmp_path, golden):
    folders.write_component(tmp_path, "transformer")
    half = hub.load_component(tmp_path, "transformer", dtype=jnp.bfloat16)
    out = called(half)
    assert out.dtype == jnp.float32  # the type of z_t
    assert relative(out, golden["sd35"]) < 0.03
    # of the table of positions what a picture needs is enough
    network = hub.load_component(tmp_path, "transformer")
    side = folders.SIDE // 2
    kept = sd3.with_positions(network, side)
    assert kept.params["pos_embed"].shape == (1, side**2, 16)
    z = folders.inputs()["z"][:, :, :8]
    np.testing.assert_array_equal(called(network, z=z), called(kept, z=z))
    for shape, words in (((2, 7, 8, 4), "multiples of 2"), ((2, 8, 10, 4), "up to 8")):
        with pytest.raises(ValueError, match=words):
            called(kept, z=jnp.zeros(shape))


def test_position_table_is_that_of_files_in_small():
    """Sines and cosines of the column, then of the row, 4 tokens of training over 7."""
    config = hub.COMPONENTS["transformer"].read_config(folders.TRANSFORMER)
    table = jax.jit(position_table, static_argnums=0)(config)
    table = np.asarray(table).reshape(7, 7, 16)
    rate = 10000.0 ** (-np.arange(4) / 4)
    row, column = 5 * 4 / 7, 2 * 4 / 7
    wanted = [f(place * rate) for place in (column, row) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(table[5, 2], np.concatenate(wanted), atol=1e-6)


def test_vae(tmp_path, golden):
    network = hub.load_component(folders.write_component(tmp_path, "vae"), "vae")
    assert "quant_conv" not in network.params
    mean, _ = jax.device_get(run(network, folders.inputs()["x"], method="encode"))
    assert relative(mean, golden["mean"]) < TOLERANCE
    decoded = run(network, golden["mean"], method="decode")
    assert relative(decoded, golden["decoded"]) < TOLERANCE
    z = network.config.to_latents(mean)
    np.testing.assert_allclose(z, 0.7 * (mean - 0.3), rtol=1e-6)
    np.testing.assert_allclose(network.config.from_latents(z), mean, atol=1e-6)


@pytest.mark.slow
def test_vsd_s_second_network_begins_as_the_first(tmp_path):
    folders.write_component(tmp_path, "transformer")
    network, a = hub.load_component(tmp_path, "transformer"), folders.inputs()
    psi = lora.init(jax.random.key(0), network.params, 2)
    # attn: 7 projections and the text's way out but for the last block; attn2: 4 twice
    assert len(jax.tree.leaves(psi.factors)) == 2 * (3 * 7 + 2 + 2 * 4)
    told = Text(a["text"], a["pooled"])
    eye = jnp.broadcast_to(jnp.eye(4), (2, 4, 4))

    @jax.jit
    def adapted(psi):
        camera = lora.camera_embedding(psi, eye)
        inputs = network.params, psi, a["z"], a["t"], told
        return lora.adapted_apply(network.module, *inputs, class_embedding=camera)

    np.testing.assert_allclose(adapted(psi), called(network), rtol=1e-4, atol=1e-5)
    moved = psi._replace(camera=jax.tree.map(lambda leaf: leaf + 0.1, psi.camera))
    assert float(jnp.abs(adapted(moved) - adapted(psi)).max()) > 1e-3


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("qk_norm", "layer_norm", "None or 'rms_norm'"),
        ("_class_name", "FluxTransformer2DModel", "SD3Transformer2DModel"),
        ("caption_projection_dim", 20, "16, the width of"),
        ("dual_attention_layers", [0, 3], r"blocks in 0\.\.2"),
        ("out_channels", 8, "4, as many as in_channels"),
        ("patch_size", 0, "positive integer"),
        ("guidance_embeds", True, "no such key"),
    ],
)
def test_transformer_configs_that_are_refused(key, value, words):
    config = {**folders.TRANSFORMER, key: value}
    with pytest.raises(LoaderError, match=f"{key} = .*{words}") as caught:
        hub.COMPONENTS["transformer"].read_config(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_quant_conv": True}, "use_post_quant_conv = False; expected True"),
        ({"shift_factor": "much"}, "shift_factor = 'much'; expected a number"),
    ],
)
def test_vae_configs_that_are_refused(changes, words):
    with pytest.raises(LoaderError, match=words):
        hub.COMPONENTS["vae"].read_config({**folders.VAE, **changes})


def test_the_scheduler_says_the_shift(tmp_path):
    folders.write_scheduler(tmp_path, shift=2.0)
    schedule, kind = read_flow_schedule(tmp_path / "scheduler")
    u = 0.5
    np.testing.assert_allclose(schedule.sigmas[499], 2 * u / (1 + u), rtol=1e-6)
    assert kind == "v_prediction"
    for changes, words in (
        ({"_class_name": "DDIMScheduler"}, "expected FlowMatchEulerDiscreteScheduler"),
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting = True"),
        ({"shift": -1}, "shift = -1; expected a positive number"),
        ({"num_train_timesteps": 0}, "num_train_timesteps = 0"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas = True"),
    ):
        folders.write_scheduler(tmp_path, **changes)
        with pytest.raises(LoaderError, match=words):
            read_flow_schedule(tmp_path / "scheduler")


def test_keys_are_exact(tmp_path):
    folders.write_component(tmp_path, "transformer")
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    lost = "transformer_blocks.1.attn2.norm_k.weight"
    for broken, words in (
        ({k: v for k, v in tensors.items() if k != lost}, lost),
        ({**tensors, "transformer_blocks.2.attn.to_add_out.bias": np.zeros(16, "f4")},
         "to_add_out"),
        ({**tensors, "proj_out.bias": np.zeros(3, "f4")}, "proj_out.bias"),
    ):  # fmt: skip
        save_file(broken, file)
        with pytest.raises(LoaderError, match=words) as caught:
            hub.load_component(tmp_path, "transformer")
        assert "\n" not in str(caught.value)
