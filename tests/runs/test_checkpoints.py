"""Checkpoints: exact round trip, and no damage that loads silently."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.runs.checkpoints import MANIFEST, CheckpointError, Checkpoints, digest, seal

ROOT = Path(__file__).resolve().parents[2]


class State(NamedTuple):
    step: jax.Array
    tree: dict
    key: jax.Array
    empty: tuple


def make_state(seed: int) -> State:
    key = jax.random.key(seed)
    tree = {
        "a/b": jax.random.normal(key, (5, 3)),
        "half": jax.random.normal(key, (4,), jnp.bfloat16),
        "flags": jnp.arange(6) % 2 == 0,
        "none": jnp.zeros((0, 3)),
        "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
    }
    return State(jnp.int32(seed), tree, key, ())


def template():
    return jax.eval_shape(lambda: make_state(0))


def same(a, b) -> bool:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return digest(a) == digest(b)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints 1 and 2."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
    checkpoints.close()
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def files(folder: Path) -> list[str]:
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
    )


def restored(folder, announce=None):
    lines = [] if announce is None else announce
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(template(), lines.append)
    finally:
        checkpoints.close()


def test_round_trip_is_exact_for_every_type(copy):
    step, state = restored(copy)
    assert step == 2
    assert same(state, make_state(2))
    assert state.tree["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        jax.random.normal(state.key), jax.random.normal(make_state(2).key)
    )
    assert not same(state, make_state(1))
    flat = np.zeros(6, np.float32)
    others = (flat.reshape(2, 3), flat.view(np.int32))  # of the same bytes
    assert len({digest({"a": a}) for a in (flat, *others)}) == 3


def test_nothing_saved_yet(tmp_path):
    assert restored(tmp_path / "checkpoints") is None


def flip(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(bytes(content))


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_any_damaged_file_is_announced_and_the_step_before_loads(
    saved, tmp_path, damage
):
    tried = 0
    for index, name in enumerate(files(saved / "2")):
        folder = Path(shutil.copytree(saved, tmp_path / str(index)))
        path = folder / "2" / name
        # An empty file has no byte to flip or cut.
        if damage is not Path.unlink and not path.stat().st_size:
            continue
        damage(path)
        lines = []
        step, state = restored(folder, lines)
        assert step == 1, name
        assert same(state, make_state(1))
        assert "checkpoint 2" in lines[0]
        assert Path(name).name in lines[0]
        assert "going back to checkpoint 1" in lines[1]
        # What is computed again can be saved again.
        assert Checkpoints(folder).steps() == [1]
        tried += 1
    assert tried >= 5


def rewrite(path: Path, **changes):
    """A manifest that is consistent in itself, and wrong."""
    manifest = json.loads(path.read_text())
    manifest.pop("seal")
    manifest.update(changes)
    path.write_text(json.dumps({**manifest, "seal": seal(manifest)}))


def test_arrays_are_checked_beyond_the_files(copy):
    rewrite(copy / "2" / MANIFEST, state_sha256="0" * 64)
    with pytest.raises(CheckpointError, match="arrays are not those saved"):
        restored(copy)


def test_a_manifest_of_another_step_is_not_this_one(copy):
    rewrite(copy / "2" / MANIFEST, step=1)
    lines = []
    assert restored(copy, lines)[0] == 1
    assert "another step" in lines[0]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', "\x00"])
def test_a_manifest_of_anything_else_is_damage(copy, content):
    (copy / "2" / MANIFEST).write_text(content)
    lines = []
    assert restored(copy, lines)[0] == 1
    assert "manifest.json is damaged" in lines[0]


def test_every_checkpoint_damaged_is_an_error_and_nothing_is_removed(copy):
    for step in (1, 2):
        flip(next((copy / str(step)).rglob("manifest.ocdbt")))
    before = files(copy)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact"):
        restored(copy)
    assert files(copy) == before


def test_extra_files_and_links_are_refused(copy):
    (copy / "2" / "default" / "extra").write_text("x")
    lines = []
    assert restored(copy, lines)[0] == 1
    assert "extra does not belong" in lines[0]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_refused(copy, tmp_path):
    target = next((copy / "2").rglob("_METADATA"))
    moved = tmp_path / "elsewhere"
    shutil.move(target, moved)
    target.symlink_to(moved)
    lines = []
    assert restored(copy, lines)[0] == 1
    assert "is a link" in lines[0]


def test_leftovers_of_a_killed_save_are_cleaned(copy):
    shutil.copytree(copy / "2", copy / "3.orbax-checkpoint-tmp-17")
    shutil.copytree(copy / "2", copy / "3")
    (copy / "3" / MANIFEST).unlink()
    lines = []
    assert restored(copy, lines)[0] == 2
    assert "checkpoint 3" in lines[0]
    assert sorted(p.name for p in copy.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_a_step_gone_back_from_is_saved_again(copy, damage):
    damage(copy / "2" / MANIFEST)
    checkpoints = Checkpoints(copy)
    assert checkpoints.restore(template(), [].append)[0] == 1
    checkpoints.save(2, make_state(2))
    checkpoints.verify(2)
    checkpoints.close()
    step, state = restored(copy)
    assert step == 2
    assert same(state, make_state(2))


def test_unfinished_steps_alone_are_saved_again(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, make_state(1))
    (checkpoints.folder / "1" / MANIFEST).unlink()
    assert checkpoints.restore(template(), [].append) is None
    checkpoints.save(1, make_state(1))
    checkpoints.verify(1)
    checkpoints.close()


def test_another_state_is_refused_with_names(copy):
    other = template()._replace(tree={**template().tree, "flags": template().step})
    with pytest.raises(CheckpointError, match=r"holds another state.*flags"):
        Checkpoints(copy).load(2, other)


def test_disk_cap_keeps_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (3, 6, 9, 12):
        checkpoints.save(step, make_state(step))
    assert checkpoints.steps() == [9, 12]


def test_failed_save_leaves_the_earlier_steps(copy, monkeypatch):
    checkpoints = Checkpoints(copy)
    store = checkpoints._store()

    def full(step, **_):
        (copy / str(step)).mkdir()
        (copy / str(step) / "part").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left.*last good one is 2"):
        checkpoints.save(3, make_state(3))
    assert restored(copy)[0] == 2


FULL_DISK = """
import resource, sys
import jax.numpy as jnp
from pathlib import Path
from sdsjax.runs.checkpoints import Checkpoints, CheckpointError
checkpoints = Checkpoints(Path(sys.argv[1]))
small, large = {"a": jnp.arange(8.0)}, {"a": jnp.sin(jnp.arange(200000.0))}
checkpoints.save(1, small)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    checkpoints.save(2, large)
except CheckpointError as error:
    print(error)
    step, state = checkpoints.restore(small, print)
    assert step == 1 and (state["a"] == small["a"]).all()
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX resource limits")
def test_a_disk_that_takes_no_more(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "checkpoints")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 4, done.stderr[-2000:]
    assert "cannot write checkpoint 2" in done.stdout
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1"]
