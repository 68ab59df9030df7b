"""Assets over devices: each is what it is on one device, to rounding."""

import os
import subprocess
import sys

import pytest
import tiny_run

SCRIPT = """
import sys
from pathlib import Path
import jax, numpy as np
from sdsjax.cli.checks import resolve
from sdsjax.cli.prompts import workdirs
from sdsjax.training import session, train
from sdsjax.training.prompts.job import Request, run_prompts

assert len(jax.devices()) == 4
states = {}
session.exports.export_all = lambda *_, **__: {}
finish = session.Session.finish
def keep(self, paths):
    states[self.directory.folder] = jax.device_get(self.state)
    finish(self, paths)
session.Session.finish = keep

settings = {
    "prior.name": "gaussian_mixture", "estimator.name": "sds", "steps": 3,
    "estimator.guidance_scale": 5.0, "resolution": 16, "batch_size": 1,
    "representation.count": 40, "losses.opacity": 0.1, "preview_every": 2,
    "checkpoint_every": 2, "diagnostics.every": 1,
    # plain steps: Adam makes full ones of gradients that are zero but for rounding
    "optimizer.eps": 1.0,
}
prompts = [f"a red {kind}" for kind in ("mug", "cube", "ball", "cone", "duck", "fish")]
configs = [resolve("ssd", {**settings, "prompt": p}) for p in prompts]
root = Path(sys.argv[1])
folders = workdirs(root, "ssd", configs)
asked = [
    Request(c, w, [], p) for c, w, p in zip(configs, folders, prompts)
]
outcomes = run_prompts(asked, root, assets_per_device=1)
assert [o.status for o in outcomes] == ["finished"] * 6, outcomes
train.run(configs[0], root / "alone")
for request in asked:
    assert (request.workdir / "previews" / "step-000002.png").exists()
    pairs = zip(states[root / "alone"].params, states[request.workdir].params)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
"""


@pytest.mark.slow
def test_four_virtual_devices_give_the_one_asset_result(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(tiny_run.ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 "
        "--xla_backend_optimization_level=0",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "many")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "6 asset(s) in 2 chunk(s)" in done.stderr
    assert "4 of 4 device(s)" in done.stderr
