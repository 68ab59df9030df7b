"""transforms.json against matrices worked out by hand, and folders as others write."""

import json
import math

import jax
import numpy as np
import pytest
from jitted import orbit_camera
from PIL import Image

from sdsjax.files import given_cameras
from sdsjax.files.given_cameras import fitted_shots, read_shots
from sdsjax.files.reference_images import (
    BadReference,
    files_of_reference,
    read_reference,
)

# Blender's camera 4 units before the object's front (its -y), level: x right is the
# world's x, y up its z, and it looks along its own -z = the world's +y.
FRONT = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0], [0, 0, 0, 1]]
# The same from the right of the picture (the world's +x): x right is +y.
SIDE = [[0, 0, 1, 4], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
# From straight above: x right is x, y up is y, it looks down -z.
TOP = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]
# What they are in our world (y up, front +z) and OpenCV axes, by hand: rows are right,
# down, forward, and the shift puts the origin 4 before the camera.
EXPECTED = {
    "front": (FRONT, [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 4], [0, 0, 0, 1]]),
    "side": (SIDE, [[0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 4], [0, 0, 0, 1]]),
    "top": (TOP, [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 4], [0, 0, 0, 1]]),
}


@pytest.fixture(autouse=True)
def compiled_orbits(monkeypatch):
    monkeypatch.setattr(given_cameras, "orbit_camera", orbit_camera)


def picture(path, wide=8, high=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    rgba = np.zeros((high, wide, 4), np.uint8)
    rgba[2:-2, 2:-2] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(path)


def transforms(folder, frames, **said):
    content = {"camera_angle_x": math.radians(40), **said, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def frame(matrix=FRONT, name="a.png", **said):
    return {"file_path": name, "transform_matrix": matrix, **said}


@pytest.mark.parametrize("side", EXPECTED)
def test_a_matrix_of_opengl_becomes_ours(tmp_path, side):
    matrix, expected = EXPECTED[side]
    picture(tmp_path / "a.png")
    (shot,) = read_shots(transforms(tmp_path, [frame(matrix)]))
    np.testing.assert_allclose(shot.world_to_camera, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "azimuth", "elevation"), [(FRONT, 0, 0), (SIDE, 90, 0), (TOP, 0, 90)]
)
def test_it_is_the_orbit_that_sees_the_same(tmp_path, matrix, azimuth, elevation):
    picture(tmp_path / "a.png")
    given = jax.device_get(read_reference(transforms(tmp_path, [frame(matrix)]), 8))
    want = orbit_camera(azimuth, elevation, 4.0, fov=40.0, width=8, height=8)
    np.testing.assert_allclose(
        given.cameras.world_to_camera[0], want.world_to_camera, atol=1e-6
    )
    np.testing.assert_allclose(given.cameras.focal[0], want.focal, rtol=1e-6)
    np.testing.assert_allclose(given.cameras.principal[0], want.principal, rtol=1e-6)


def test_a_lens_in_pixels_and_a_picture_that_is_not_square(tmp_path):
    """16 x 8, padded by 4 above and below, at half its size; w and h twice."""
    picture(tmp_path / "images" / "a.png", 16, 8)
    lens = {"w": 32, "h": 16, "fl_x": 40.0, "fl_y": 44.0, "cx": 15.0, "cy": 9.0}
    folder = transforms(tmp_path, [frame(name="./images/a.png")], **lens)
    given = jax.device_get(read_reference(folder, 8))
    np.testing.assert_allclose(given.cameras.focal[0], [10.0, 11.0])
    np.testing.assert_allclose(given.cameras.principal[0], [3.75, 4.25])
    assert given.mask.shape == (1, 8, 8)
    np.testing.assert_allclose(given.mask[0, :2].max(), 0.0, atol=0.2)


def test_a_point_falls_on_its_pixel(tmp_path):
    """The whole way: nerfstudio's projection of a point, and ours of the same."""
    picture(tmp_path / "a.png", 16, 8)
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, rng.normal(size=3)
    lens = {"w": 16, "h": 8, "fl_x": 20.0, "fl_y": 21.0, "cx": 7.5, "cy": 4.5}
    folder = transforms(tmp_path, [frame(pose.tolist())], **lens)
    given = jax.device_get(read_reference(folder, 16))
    local = np.array([0.3, -0.2, -2.0])  # OpenGL: before the camera is -z
    theirs = (7.5 + 20.0 * 0.3 / 2.0, 4.5 + 21.0 * 0.2 / 2.0)
    x, y, z = turn @ local + pose[:3, 3]
    seen = given.cameras.world_to_camera[0] @ np.array([x, z, -y, 1.0], np.float32)
    ours = given.cameras.focal[0] * seen[:2] / seen[2] + given.cameras.principal[0]
    # padded by 4 rows above
    np.testing.assert_allclose(ours, [theirs[0], theirs[1] + 4.0], rtol=1e-5)


def test_names_without_an_ending_masks_and_own_lenses(tmp_path):
    picture(tmp_path / "train" / "r_0.png")
    Image.new("RGB", (8, 8), (0, 200, 0)).save(tmp_path / "b.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    frames = [
        frame(name="./train/r_0"),
        frame(SIDE, "b.png", mask_path="mask.png", camera_angle_x=math.radians(60)),
    ]
    given = jax.device_get(read_reference(transforms(tmp_path, frames), 8))
    np.testing.assert_array_equal(given.mask[1], mask / 255)
    np.testing.assert_allclose(
        given.cameras.focal[:, 0], [4 / math.tan(math.radians(a)) for a in (20, 30)]
    )
    names = [p.relative_to(tmp_path).as_posix() for p in files_of_reference(tmp_path)]
    assert names == ["transforms.json", "train/r_0.png", "b.png", "mask.png"]


def test_a_folder_may_hold_pictures_of_several_sizes(tmp_path):
    """Both show the same angle; each is brought to the size that is asked for."""
    picture(tmp_path / "a.png", 8, 8)
    picture(tmp_path / "b.png", 32, 32)
    views = [{"file": name, "fov": 30} for name in ("a.png", "b.png")]
    (tmp_path / "cameras.json").write_text(json.dumps({"views": views}))
    given = jax.device_get(read_reference(tmp_path, 16))
    assert given.mask.shape == (2, 16, 16)
    np.testing.assert_allclose(given.cameras.focal[0], given.cameras.focal[1])


def test_fitting_puts_what_cameras_look_at_in_the_middle(tmp_path):
    """Cameras on a sphere of radius 8 round (1, 2, 3): ours at its own distance."""
    picture(tmp_path / "a.png")
    frames = []
    for matrix in (FRONT, SIDE, TOP):
        moved = np.array(matrix, float)
        moved[:3, 3] = 2 * moved[:3, 3] + (1, 2, 3)
        frames.append(frame(moved.tolist()))
    shots = read_shots(transforms(tmp_path, frames))
    fitted = fitted_shots(shots, 3.1, 40.0)
    for shot, side in zip(fitted, EXPECTED):
        expected = np.array(EXPECTED[side][1], float)
        expected[:3, 3] *= 3.1 / 4
        np.testing.assert_allclose(shot.world_to_camera, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("frames", "said", "message"),
    [
        ([], {}, "1 to 512 frames"),
        (["a.png"], {}, "must be an object"),
        ([frame(name="../a.png")], {}, "leads out"),
        ([frame(name="/etc/passwd")], {}, "leads out"),
        ([frame(name=3)], {}, "must name a picture"),
        ([frame(name="none.png")], {}, "does not exist"),
        ([frame([[1, 2], [3, 4]])], {}, "4 rows of 4"),
        ([frame([[2, 0, 0, 0], *FRONT[1:]])], {}, "a rotation and a shift"),
        ([frame()], {"k1": 0.1}, "bends lines"),
        ([frame()], {"camera_model": "OPENCV_FISHEYE"}, "undistort"),
        ([frame()], {"camera_angle_x": None}, "no focal length"),
        ([frame()], {"fl_x": -3}, "positive number"),
        ([frame()], {"w": 32, "h": 8}, "camera is of a picture of 32 x 8"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, frames, said, message):
    picture(tmp_path / "a.png")
    with pytest.raises(BadReference, match=message) as caught:
        read_reference(transforms(tmp_path, frames, **said), 8)
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    picture(tmp_path / "secret.png")
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(BadReference, match="leads out"):
        read_shots(transforms(folder, [frame()]))
