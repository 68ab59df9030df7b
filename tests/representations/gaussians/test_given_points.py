"""Points to begin from: clouds and splats in PLY files, and a config that names one."""

import jax
import numpy as np
import pytest
from few_rows import no_counts, params_of

from sdsjax.cli.checks import resolve
from sdsjax.exports.ply import PlyError, write_splats
from sdsjax.render.spherical_harmonics import C0
from sdsjax.representations.gaussians import GaussianState, as_gaussians
from sdsjax.representations.gaussians.given_points import read_points
from sdsjax.training.build import build_representation
from sdsjax.training.config import ConfigError

POINTS = np.array([[0.1, 0.2, 0.3], [-0.4, 0.5, -0.6]])


def write_cloud(path, points, rgb=None):
    columns = [(name, "<f8") for name in "xyz"]
    lines = ["property double " + name for name in "xyz"]
    if rgb is not None:
        columns += [(name, "u1") for name in ("red", "green", "blue")]
        lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    table = np.zeros(len(points), np.dtype(columns))
    for i, name in enumerate("xyz"):
        table[name] = points[:, i]
    for i, name in enumerate(("red", "green", "blue")) if rgb is not None else ():
        table[name] = rgb[:, i]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    text = "\n".join([*head, *lines, "end_header", ""])
    path.write_bytes(text.encode() + table.tobytes())
    return path


def test_points_with_and_without_colours(tmp_path):
    plain = read_points(write_cloud(tmp_path / "a.ply", POINTS))
    np.testing.assert_array_equal(plain, POINTS.astype(np.float32))
    rgb = np.array([[255, 0, 51], [0, 255, 0]], np.uint8)
    coloured = read_points(write_cloud(tmp_path / "b.ply", POINTS, rgb))
    np.testing.assert_allclose(coloured[:, 3:], rgb / 255, rtol=1e-6)
    assert coloured.dtype == np.float32


def test_splats_give_their_means_and_colours(tmp_path):
    params = params_of([0.1] * 5)
    # colours in 0.2..0.8: beyond 0..1 they would be clipped
    params = params._replace(sh=np.clip(params.sh, -1, 1))
    state = GaussianState(np.ones(5, bool))
    path = write_splats(tmp_path / "s.ply", as_gaussians(params, state))
    points = read_points(path)
    np.testing.assert_array_equal(points[:, :3], params.means)
    np.testing.assert_allclose(points[:, 3:], C0 * params.sh[:, 0] + 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "need"),
        (
            lambda data: data.replace(b"double z", b"double w"),
            "no scalar columns x, y",
        ),
        (lambda data: b"obj" + data, "not a PLY file"),
        (lambda data: data[:-8] + b"\xff" * 8, "not finite"),
    ],
)
def test_what_is_no_cloud_is_refused_in_one_line(tmp_path, change, message):
    path = write_cloud(tmp_path / "bad.ply", POINTS)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(PlyError, match=message) as caught:
        read_points(path)
    assert "\n" not in str(caught.value)


def test_a_config_begins_from_a_file_and_leaves_room(tmp_path):
    rgb = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    path = write_cloud(tmp_path / "cloud.ply", POINTS, rgb)
    overrides = {"representation.init": str(path), "representation.count": 4}
    config = resolve("ssd", {**overrides, "representation.control": "3dgs"})
    begin = jax.jit(build_representation(config, (8, 8, 3)).init)
    params, state = jax.device_get(begin(jax.random.key(0)))
    assert state.alive.tolist() == [True, True, False, False]
    np.testing.assert_allclose(params.means[:2], POINTS, rtol=1e-6)
    shown = C0 * params.sh[:2, 0] + 0.5
    np.testing.assert_allclose(shown, rgb / 255, atol=1e-6)


def test_a_config_refuses_more_points_than_rows(tmp_path):
    path = write_cloud(tmp_path / "cloud.ply", POINTS)
    overrides = {"representation.init": str(path), "representation.count": 1}
    with pytest.raises(ConfigError, match=r"2 points, more than .*count = 1"):
        resolve("ssd", overrides)
    with pytest.raises(ConfigError, match="no such file"):
        resolve("ssd", {"representation.init": str(tmp_path / "none.ply")})


def test_noise_of_mcmc_follows_the_learning_rate_of_the_means():
    overrides = {"representation.control": "mcmc", "representation.count": 4}
    config = resolve("ssd", {**overrides, "optimizer.lr.means": 0.0})
    still = build_representation(config, (8, 8, 3))
    # faint enough to wander
    params, state = params_of([0.1] * 4), GaussianState(np.ones(4, bool), no_counts())

    def moved(representation):
        edit = jax.jit(representation.control)
        after, *_ = edit(jax.random.key(1), np.int32(0), params, state, {})
        return np.asarray(after.means)

    np.testing.assert_array_equal(moved(still), params.means)
    config = resolve("ssd", overrides)
    moving = build_representation(config, (8, 8, 3))
    assert np.abs(moved(moving) - params.means).max() > 0
