"""Views over devices: the result equals one device's to rounding."""

import os
import subprocess
import sys

import jax
import pytest
import tiny_run

from sdsjax.distributed.sharding import data_mesh, describe

SCRIPT = """
import sys
from functools import partial
import jax, jax.numpy as jnp, numpy as np, optax
from sdsjax.training.build import build
from sdsjax.cli.checks import resolve
from sdsjax.distributed.sharding import data_mesh, describe, replicate
from sdsjax.training.train_step import init_state, make_train_step

assert len(jax.devices()) == 8
config = resolve("ssd", {
    "prior.name": "gaussian_mixture", "estimator.name": "sds", "resolution": 16,
    "batch_size": 8, "representation.count": 40, "steps": 10,
    "estimator.guidance_scale": 5.0, "prompt": "a red cube",
    "losses.opacity": 0.1,
})
pieces = build(config)
# Plain steps: Adam makes full ones of gradients that are zero but for rounding.
optimizer = optax.sgd(1e-3)
parts = (pieces.source, pieces.representation, pieces.estimator, optimizer)
cameras = pieces.phases[-1].cameras
key = jax.random.key(0)

def final(mesh):
    step = make_train_step(*parts, pieces.sampler, cameras, total=10, mesh=mesh)
    state = jax.jit(partial(init_state, *parts, cameras))(pieces.source.params, key)
    state, prior_params = replicate((state, pieces.source.params), mesh)
    for _ in range(3):
        state, metrics = step(state, prior_params, key)
    if mesh is not None:
        for leaf in jax.tree.leaves(state.params):
            assert len(leaf.sharding.device_set) == 8 and leaf.is_fully_replicated
    return jax.device_get((state.params, metrics))

mesh = data_mesh(8)
assert mesh.devices.size == 8
print(describe(mesh))
one, many = final(None), final(mesh)
named = jax.tree_util.tree_leaves_with_path(one)
for (path, a), b in zip(named, jax.tree.leaves(many)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=str(path))
# The steps were not so small that anything would agree.
assert float(one[1]["grad/means"]) > 0.1, one[1]
mesh = data_mesh(6)
assert mesh.devices.size == 6
assert "idle" in describe(mesh) and "6 of 8" in describe(mesh)
"""


@pytest.mark.slow
def test_eight_virtual_devices_give_the_one_device_result():
    environment = {
        **os.environ,
        "PYTHONPATH": str(tiny_run.ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 of 8 device(s)" in done.stdout


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
