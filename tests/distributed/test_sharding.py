"""Views over devices: the result equals one device's to rounding."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_run
from jax.sharding import PartitionSpec
from tiny_variants import random_params

from sdsjax.distributed.parameters import parameter_spec
from sdsjax.distributed.sharding import MeshError, data_mesh, describe, make_meshes
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.text_encoders.clip_tokenizer import train_word_tokenizer
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig

SCRIPT = """
import sys
from functools import partial
import jax, numpy as np, optax
from sdsjax.training.build import build
from sdsjax.cli.checks import resolve
from sdsjax.distributed.sharding import data_mesh, describe, place_prior, replicate
from sdsjax.training.train_step import init_state, make_train_step

assert len(jax.devices()) == 8
key = jax.random.key(0)
# Plain steps: Adam makes full ones of gradients that are zero but for rounding.
# Random networks give small gradients: the steps are long.
optimizer = optax.sgd(1.0)

def config(folder, data, model):
    return resolve("ssd", {
        "estimator.name": "sds", "resolution": 16, "batch_size": 8,
        "representation.count": 40, "steps": 10, "estimator.guidance_scale": 5.0,
        "prompt": "a red mug", "losses.opacity": 0.1,
        "prior.folder": folder, "mesh.data": data, "mesh.model": model,
    })

def fits(model):
    # Measured on every array that is alive: the text encoder's would count too.
    source = build(config("toybox-sd", 8 // model, model)).source
    whole = sum(x.nbytes for x in jax.tree.leaves(source.params))
    held = dict.fromkeys(range(8), 0)
    for leaf in jax.live_arrays():
        for shard in leaf.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
    assert whole > 20e6, whole
    assert max(held.values()) <= (1 / model + 0.05) * whole, (held, whole)
    for a, b in zip(unsplit, jax.tree.leaves(source.params)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # states: encoded

def final(folder, data, model):
    pieces = build(config(folder, data, model))
    phase = pieces.phases[-1]
    mesh = phase.mesh
    parts = (pieces.source, pieces.representation, pieces.estimator, optimizer)
    prior_params = place_prior(pieces.source.params, mesh)
    step = make_train_step(*parts, pieces.sampler, phase.cameras, total=10, mesh=mesh)
    start = jax.jit(partial(init_state, *parts, phase.cameras, z_spec=pieces.z_spec))
    state = replicate(start(prior_params, key), mesh)
    for _ in range(2):
        state, metrics = step(state, prior_params, key)
    if mesh is not None:
        assert dict(mesh.shape) == {"data": data, "model": model}
        for leaf in jax.tree.leaves(state.params):
            assert len(leaf.sharding.device_set) == 8 and leaf.is_fully_replicated
    print(describe(mesh), flush=True)
    return jax.device_get((state.params, metrics))

def compare(one, many):
    named = jax.tree_util.tree_leaves_with_path(one)
    for (path, a), b in zip(named, jax.tree.leaves(many)):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6, err_msg=str(path))

unsplit = build(config("toybox-sd", 1, 1)).source.params
unsplit = jax.device_get(jax.tree.leaves(unsplit))
for model in (4, 8):
    fits(model)
folder = sys.argv[1]
one = final(folder, 1, 1)
# The steps were not so small that anything would agree.
assert float(one[1]["grad/means"]) > 1e-3, one[1]
for data, model in ((8, 1), (2, 4), (1, 8)):
    compare(one, final(folder, data, model))
mesh = data_mesh(6)
assert mesh.devices.size == 6
assert "idle" in describe(mesh) and "6 of 8" in describe(mesh)
"""


def write_folder(folder):
    """Writes random networks of kernels that eight devices divide, for 16x16 px."""
    rng = np.random.default_rng(0)
    vocab, merges = train_word_tokenizer(["a", "red", "mug", "view"])
    text = CLIPTextConfig(len(vocab), 32, 64, 1, 2, 16, "gelu", 1e-5)
    vae = VAEConfig(3, 3, 4, (32, 32), 1, 4, 0.2, 16)
    unet = UNetConfig(4, 4, (32,), (2,), (True,), (True,), 1, 4, 1e-5, 32, True, 8)
    return save_stable_diffusion(
        folder,
        unet=random_params("unet", unet, rng),
        vae=random_params("vae", vae, rng),
        text_encoder=random_params("text_encoder", text, rng),
        tokenizer=(vocab, merges),
    )


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_eight_virtual_devices_give_the_one_device_result(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(tiny_run.ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8"
        " --xla_backend_optimization_level=0",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(write_folder(tmp_path))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 of 8 device(s)" in done.stdout
    assert "data 2 x model 4" in done.stdout


@pytest.mark.parametrize(("batch", "expected"), [(8, 4), (6, 3), (5, None), (1, None)])
def test_the_largest_count_that_divides_the_batch(batch, expected, monkeypatch):
    made = []
    monkeypatch.setattr(
        jax, "make_mesh", lambda shape, *_, **__: made.append(shape[0]) or shape
    )
    # Four stand-ins: what is used depends on their number alone.
    mesh = data_mesh(batch, devices=["a", "b", "c", "d"])
    assert (made[0] if mesh else None) == expected


def test_one_device_is_no_mesh():
    assert data_mesh(4, devices=jax.devices()[:1]) is None
    assert describe(None, devices=jax.devices()[:1]).startswith("1 of 1 device(s)")


@pytest.fixture
def laid_out(monkeypatch):
    """Meshes become their shape: what is made depends on the devices' number alone."""
    monkeypatch.setattr(jax, "make_mesh", lambda shape, *_, **__: shape)
    return lambda samples, count=8, **sizes: make_meshes(
        samples, devices=list(range(count)), **sizes
    )


def test_the_rest_of_the_devices_is_for_data(laid_out):
    assert laid_out([8, 1]) == ((8, 1), None)
    assert laid_out([8], model=4) == ((2, 4),)
    assert laid_out([8, 1], model=4) == ((1, 4),) * 2  # one mesh for all phases
    assert laid_out([6, 3], model=2) == ((3, 2),) * 2
    assert laid_out([8], data=2, model=2) == ((2, 2),)
    assert laid_out([4], count=1, data=1) == (None,)


@pytest.mark.parametrize(
    ("samples", "sizes", "said"),
    [
        ([8], {"model": 3}, "mesh.model = 3 does not divide the 8 device.s. here"),
        ([8], {"model": 16}, "choose 1, 2, 4, 8"),
        ([8], {"data": 3}, "mesh.data x mesh.model = 3 x 1 does not divide the 8"),
        ([8], {"data": 8, "model": 2}, "choose mesh.data = 1, 2, 4 or -1"),
        ([8], {"data": 0}, "0 x 1 does not divide"),
        (
            [8, 6],
            {"data": 4},
            "mesh.data = 4 does not divide the 6 sample.s. of",
        ),
    ],
)
def test_a_mesh_that_does_not_divide_is_one_line(laid_out, samples, sizes, said):
    with pytest.raises(MeshError, match=said) as error:
        laid_out(samples, **sizes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "parts", "axis"),
    [
        ((3, 3, 320, 640), 4, 3),
        ((3, 3, 640, 320), 4, 2),
        ((640, 640), 8, 1),  # of equal axes a kernel's outputs
        ((77, 1024), 8, 1),
        ((3, 3, 1024, 4), 8, 2),
        ((1280,), 4, None),  # biases and norms are whole
        ((16, 16), 4, None),  # and what is small
        ((77, 33), 8, None),  # and what divides nowhere
        ((640, 640), 1, None),
    ],
)
def test_the_largest_divisible_axis_is_cut(shape, parts, axis):
    cut = ("model" if i == axis else None for i in range(len(shape)))
    expected = PartitionSpec() if axis is None else PartitionSpec(*cut)
    assert parameter_spec(shape, parts) == expected
