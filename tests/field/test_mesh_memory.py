"""Situations of public bug reports: the memory of a mesh's extraction.

At 256 it took 1.6 GB and 153 s for 2 000 splats, about 110 GB at the allowed 1 024, and
`--dry_run` said nothing of it.
"""

import re
import subprocess
import sys

import pytest

from sdsjax.exports import mesh
from sdsjax.main import cli

pytestmark = pytest.mark.field
MIB = 2**20
# Prints the MiB that the peak of an extraction lies above what was taken before it.
MEASURE = """
import sys
import numpy as np
from sdsjax.exports.mesh import extract_mesh
from sdsjax.representations.gaussians import Gaussians

resolution = int(sys.argv[1])
rng, n = np.random.default_rng(0), 2000

def splats_at(means):
    return Gaussians(
        means.astype("f4"), np.full((n, 3), np.log(0.04), "f4"),
        rng.normal(size=(n, 4)).astype("f4"), np.ones(n, "f4"),
        rng.normal(size=(n, 1, 3)).astype("f4"), np.ones(n, bool),
    )

ray = rng.normal(size=(n, 3))
ray /= np.linalg.norm(ray, axis=1, keepdims=True)
object = splats_at(ray * rng.uniform(0.3, 0.6, (n, 1)))
cloud = splats_at(rng.uniform(-0.9, 0.9, (n, 3)))
for splats in (cloud, object):
    extract_mesh(splats, resolution=16)

def taken(name):
    (line,) = (x for x in open("/proc/self/status") if x.startswith(name + ":"))
    return int(line.split()[1])

for splats in (cloud, object):
    open("/proc/self/clear_refs", "w").write("5")  # VmHWM begins anew
    before = taken("VmRSS")
    extract_mesh(splats, resolution=resolution)
    print((taken("VmHWM") - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_the_estimate_holds_for_a_loose_cloud_and_an_object(resolution):
    command = [sys.executable, "-c", MEASURE, str(resolution)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "clear_refs" in done.stderr:
        pytest.skip("this kernel does not let the peak begin anew")
    measured = dict(zip(("cloud", "object"), map(float, done.stdout.split())))
    bound = mesh.extraction_bytes(resolution) / MIB
    # A tenth and 4 MiB for what the allocator keeps.
    assert measured["object"] < 1.1 * bound + 4
    assert measured["cloud"] < 1.1 * bound + 4
    # And it is no mere ceiling: the cloud takes most of it.
    assert measured["cloud"] > 0.6 * bound


def test_the_estimate_follows_the_slabs_and_the_grid(monkeypatch):
    at_1024 = mesh.extraction_bytes(1024)
    # 9 bytes a node while cavities are sought; about 110 GB before.
    assert 9 * 1024**3 < at_1024 < 10.5 * 1024**3
    assert mesh.slab_planes(1024) == 2
    assert mesh.slab_planes(256) == 32
    before = mesh.extraction_bytes(256)
    monkeypatch.setattr(mesh, "SLAB_NODES", 8 * 256**2)
    # 24 planes of 256 x 256 nodes fewer, 40 bytes each
    assert before - mesh.extraction_bytes(256) == 24 * 256**2 * 40


@pytest.mark.parametrize("resolution", [64, 1024])
def test_a_dry_run_says_it(capsys, resolution):
    flags = ["--config.prior.name=gaussian_mixture", "--config.prompt=a red mug"]
    flags += [f"--config.exports.mesh_resolution={resolution}", "--dry_run"]
    assert cli(["--config=ssd", *flags]) == 0
    said = capsys.readouterr().out
    (gib,) = map(float, re.findall(r"mesh: at most about ([\d.]+) GiB", said))
    assert gib == pytest.approx(mesh.extraction_bytes(resolution) / 2**30, abs=0.006)
    assert f"exports.mesh_resolution = {resolution}" in said
    assert cli(["--config=ssd:image", *flags[:2], "--dry_run"]) == 0
    assert "memory of the mesh" not in capsys.readouterr().out
