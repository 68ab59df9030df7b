"""Runs side by side without a browser: what is said of each, and when it is read."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from panel import Page, first_centre, moved, splats
from tiny_run import gaussians

from sdsjax.exports.mesh import Mesh
from sdsjax.live import shapes, show_runs
from sdsjax.live.scene import Frusta, Stand, places
from sdsjax.live.shapes import Points, shape_of
from sdsjax.live.show_runs import read_scores
from sdsjax.runs.checkpoints import CheckpointError
from sdsjax.training.build.finished_run import FinishedRun


def read(step):
    return FinishedRun(gaussians(), step, moved(step), None)


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A page of two runs at step 3, and what is read of each when it is read again."""
    newest = {}

    def read_newest(folder):
        if isinstance(newest[folder.name], Exception):
            raise newest[folder.name]
        return newest[folder.name]

    monkeypatch.setattr(show_runs, "read_newest", read_newest)
    page, folders = Page(), [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        (folder / "checkpoints" / "3").mkdir(parents=True)
    runs = [(folder, read(3)) for folder in folders]
    return page, show_runs.show_runs(page, runs), newest


def centre(page, index):
    return first_centre(page.scene.nodes[f"/run{index}/asset"])


def test_runs_stand_side_by_side_under_their_names(two):
    page, shown, _ = two
    assert [run.step for run in shown] == [3, 3]
    for index, (x, name) in enumerate(((-1.2, "a"), (1.2, "b"))):
        assert page.scene.nodes[f"/run{index}"].position == (x, 0.0, 0.0)
        assert page.scene.nodes[f"/run{index}/label"].arrays == (name,)
        assert page.gui.texts[index].content == (
            "**a red ball**  \nstep 3, not finished"
        )
        assert centre(page, index) == 3.0
    box = page["show"]  # of the second
    box.value = False
    box.click()
    assert not page.scene.nodes["/run1"].visible
    assert page.scene.nodes["/run0"].visible


def test_places_are_around_the_origin():
    assert places(1) == [(0.0, 0.0, 0.0)]
    np.testing.assert_allclose([x for x, _, _ in places(3)], [-2.4, 0.0, 2.4])


def test_a_run_is_read_again_once_it_has_saved_or_finished(two):
    page, (first, second), newest = two
    first.refresh()  # nothing new: nothing is read, or it would be a KeyError
    newest["a"] = read(6)
    (first.folder / "checkpoints" / "6").mkdir()
    first.refresh()
    assert first.step == 6
    assert centre(page, 0) == 6.0
    assert page.gui.texts[0].content.endswith("step 6, not finished")
    (first.folder / "finished.json").write_text("{}")
    scores = {"truth": {"iou": 0.5, "psnr": 12.345, "chamfer": None, "x": 1}}
    (first.folder / "metrics.json").write_text(json.dumps(scores))
    first.refresh()
    assert first.finished
    said = "step 6, finished  \niou 0.5, psnr 12.3"
    assert page.gui.texts[0].content.endswith(said)
    # what is being written just now is read the next time
    newest["b"] = CheckpointError("half")
    (second.folder / "checkpoints" / "4").mkdir()
    second.refresh()
    assert second.step == 3
    newest["b"] = read(4)
    second.refresh()
    assert second.step == 4


@pytest.mark.parametrize("text", ["", "[1]", '{"truth": 3}', '{"truth": {"iou": "x"}}'])
def test_scores_that_are_damaged_are_none(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    assert read_scores(tmp_path) == {}


def test_following_looks_at_all_until_it_is_told_to_stop():
    stop, looks = threading.Event(), []

    def look(name):
        looks.append(name)
        if len(looks) == 4:
            stop.set()

    runs = [SimpleNamespace(refresh=lambda name=name: look(name)) for name in "ab"]
    show_runs.follow(runs, 0.001, stop)
    assert looks == ["a", "b", "a", "b"]


def test_another_kind_of_shape_takes_the_place_of_the_one_before():
    page = Page()
    stand = Stand(page, "/x")
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    colours = np.array([[0.0, 0.5, 1.0]] * 3)
    stand.show(Points(corners, colours))
    cloud = page.scene.nodes["/x/asset"]
    np.testing.assert_array_equal(cloud.arrays[1], [[0, 128, 255]] * 3)
    stand.show(Mesh(corners, np.array([[0, 1, 2]]), colours))
    assert cloud.removed
    (solid,) = page.scene.nodes["/x/asset"].arrays
    np.testing.assert_array_equal(solid.vertices, corners)
    np.testing.assert_array_equal(solid.faces, [[0, 1, 2]])
    np.testing.assert_array_equal(
        solid.visual.vertex_colors[:, :3], [[0, 128, 255]] * 3
    )


def test_cameras_are_moved_hidden_and_taken_away():
    import jax
    import jax.numpy as jnp
    from jitted import orbit_camera

    page = Page()
    added = page.scene.add_camera_frustum = page.scene._add
    frusta = Frusta(page)
    look = jax.vmap(lambda azimuth: orbit_camera(azimuth, 0.0, 3.0))
    cameras = jax.device_get(look(jnp.array([0.0, 90.0])))
    frusta.show(cameras)
    first, second = (page.scene.nodes[f"/cameras/{i}"] for i in range(2))
    np.testing.assert_allclose(second.position, [3, 0, 0], atol=1e-5)
    frusta.set_visible(False)
    assert not first.visible
    assert not second.visible
    frusta.show(jax.tree.map(lambda leaf: leaf[1:], cameras))
    assert second.removed
    assert page.scene.nodes["/cameras/0"] is first
    np.testing.assert_allclose(first.position, [3, 0, 0], atol=1e-5)
    frusta.show(cameras)
    assert not page.scene.nodes["/cameras/1"].visible  # those to come are hidden too
    assert added


def test_the_least_visible_of_too_many_splats_are_left_out(monkeypatch):
    monkeypatch.setattr(shapes, "MAX_SPLATS", 2)
    import jax.numpy as jnp

    cloud = splats()._replace(
        opacity_logits=jnp.array([9.0, 1.0, 3.0, 0.0, 2.0]), alive=jnp.ones(5, bool)
    )
    shape = shape_of(cloud)
    assert sorted(shape.means[:, 0].tolist()) == [0.0, 6.0]
    gone = shape_of(splats()._replace(alive=jnp.zeros(5, bool)))
    assert isinstance(gone, Points)
    assert gone.means.shape == (0, 3)
