"""`python -m sdsjax.export`: a finished run's files again, and its mistakes."""

import re
import shutil

import jax
import numpy as np
import pytest
import trimesh
from finished_runs import finished
from tiny_run import gaussians

from sdsjax.cli.export_command import cli
from sdsjax.exports.ply import read_splats
from sdsjax.representations.gaussians import GaussianParams, GaussianState
from sdsjax.training.build import build_representation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A ball of 64 splats, of which one in eight is dead."""
    config = gaussians()
    params, state = jax.jit(build_representation(config, (8, 8, 3)).init)(
        jax.random.key(0)
    )
    params = params._replace(
        opacity_logits=np.full(64, 2.0, np.float32),
        log_scales=np.full((64, 3), -1.8, np.float32),
    )
    state = state._replace(alive=np.arange(64) % 8 > 0)
    assert isinstance(params, GaussianParams)
    assert isinstance(state, GaussianState)
    return finished(
        tmp_path_factory.mktemp("runs") / "a", config, params, state
    ), params


@pytest.mark.slow
def test_every_format_is_written_from_the_checkpoint(run, tmp_path, capsys):
    folder, params = run
    before = sorted(p.name for p in folder.iterdir())
    formats = "ply,glb,spz,mesh,mesh_colours"
    out = tmp_path / "out"
    flags = [f"--formats={formats}", "--mesh_resolution=24", "--texture_size=128"]
    assert cli([str(folder), *flags, f"--out={out}"]) == 0
    names = ["splats.ply", "splats.glb", "splats.spz", "asset.glb", "mesh.glb"]
    assert sorted(p.name for p in out.iterdir()) == sorted(names)
    said = capsys.readouterr().out
    assert all(name in said for name in names)
    alive = np.arange(64) % 8 > 0
    np.testing.assert_array_equal(
        read_splats(out / "splats.ply").means, np.asarray(params.means)[alive]
    )
    (solid,) = trimesh.load(out / "asset.glb").geometry.values()
    assert solid.visual.material.baseColorTexture.size == (128, 128)
    assert solid.visual.material.metallicFactor == 0
    assert len(solid.visual.uv) == len(solid.vertices)
    (plain,) = trimesh.load(out / "mesh.glb").geometry.values()
    assert plain.is_watertight
    assert plain.visual.kind == "vertex"
    # nothing of the run itself is touched
    assert sorted(p.name for p in folder.iterdir()) == before


def test_the_default_goes_beside_the_run_at_its_own_size(run):
    folder, _ = run
    assert cli([str(folder), "--texture_size=64"]) == 0
    written = sorted(p.name for p in (folder / "exports").iterdir())
    assert written == ["asset.glb", "splats.glb", "splats.ply"]
    for path in (folder / "exports").iterdir():
        path.unlink()
    (folder / "exports").rmdir()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--formats=ply,stl"], r"'stl'.*ply, glb, spz"),
        (["--formats="], "--formats"),
        (["--mesh_resolution=4"], "must be in 8..1024"),
        (["--mesh_resolution=big"], "invalid int value"),
        (["--texture_size=9000"], "must be in 64..8192"),
        (["--format=ply", "--oops"], "oops"),
    ],
)
def test_a_wrong_flag_is_one_line(run, capsys, flags, message):
    folder, _ = run
    assert cli([str(folder), *flags]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(message, line)
    assert not (folder / "exports").exists()


def nothing(path):
    return path / "none"


def file(path):
    (path / "file").write_text("")
    return path / "file"


def foreign(path):
    return path


def unfinished(path):
    (path / "run.json").write_text('{"format": "sdsjax-run-1"}')
    return path


def damaged(path):
    unfinished(path)
    (path / "finished.json").write_text("{")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing, "does not exist"),
        (file, "is a file"),
        (foreign, "not made by sdsjax"),
        (unfinished, "is not finished"),
        (damaged, "cannot be read"),
    ],
)
def test_a_directory_that_is_no_finished_run_is_one_line(
    tmp_path, capsys, make, message
):
    folder = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli([str(folder)]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_run_it_says_so(capsys):
    assert cli([]) == 2
    assert "RUN" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(run, tmp_path, capsys):
    folder = tmp_path / "b"
    shutil.copytree(run[0], folder)
    victim = max(
        (p for p in (folder / "checkpoints").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    assert cli([str(folder)]) == 4
    assert "has changed since written" in capsys.readouterr().err
