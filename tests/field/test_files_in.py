"""Situations of public bug reports: folders of weights, pictures, cameras."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_variants import write_random_folder

from sdsjax.cameras import orbit_camera
from sdsjax.cli import checks
from sdsjax.files.reference_images import BadReference, read_picture
from sdsjax.models.hub import load_component, load_stable_diffusion
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.hub import read_schedule
from sdsjax.training.config import ConfigError

pytestmark = pytest.mark.field


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("DDIMScheduler", True),
        ("EulerDiscreteScheduler", True),
        ("FlowMatchEulerDiscreteScheduler", False),
        ("EDMEulerScheduler", False),
        ("SomethingNew", False),
        (None, True),
    ],
)
def test_schedulers_that_are_not_known_are_refused_by_name(tmp_path, name, kept):
    """A flow-matching folder loaded silently as linear betas."""
    config = {"_class_name": name, "num_train_timesteps": 1000, "shift": 3.0}
    if name is None or kept:
        config |= {"beta_schedule": "scaled_linear"}
    if name is None:
        del config["_class_name"]
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    if kept:
        assert read_schedule(tmp_path)[0].num_steps == 1000
    else:
        with pytest.raises(LoaderError, match=f"_class_name = '{name}'"):
            read_schedule(tmp_path)


def test_flow_sigmas_of_a_known_scheduler_are_refused(tmp_path):
    config = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(LoaderError, match="use_flow_sigmas"):
        read_schedule(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "unet/config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ],
)
def test_a_dangling_link_of_the_cache_is_named_as_one(tmp_path, name):
    """ "no X; found X" was said of a link to a blob that is gone."""
    folder = write_random_folder(tmp_path / "model")
    (folder / name).unlink()
    (folder / name).symlink_to("../../blobs/0123abcd")
    with pytest.raises(LoaderError, match=r"a link to .*0123abcd, which does"):
        load_stable_diffusion(folder)


def test_a_dangling_folder_and_a_single_file_are_named(tmp_path):
    link, file = tmp_path / "link", tmp_path / "model.txt"
    link.symlink_to(tmp_path / "gone")
    file.write_bytes(b"")
    for path, said in ((link, "is a link to"), (file, "is a single file")):
        with pytest.raises(ConfigError, match=said):
            checks.resolve("ssd", {"prompt": "a mug", "prior.folder": str(path)})
    with pytest.raises(LoaderError, match="a link to"):
        load_component(link, "unet")


def half_red(path, **options):
    """A 4 x 4 picture, red above and transparent below."""
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("orientation", "where"),
    [(1, np.s_[:2]), (3, np.s_[2:]), (6, np.s_[:, 2:]), (8, np.s_[:, :2])],
)
def test_a_picture_from_a_phone_is_turned_upright(tmp_path, orientation, where):
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgba = read_picture(half_red(tmp_path / "a.png", exif=exif), 4)
    expected = np.zeros((4, 4))
    expected[where] = 1
    np.testing.assert_array_equal(rgba[..., 3], expected)


def test_alpha_that_is_opaque_everywhere_is_no_alpha(tmp_path):
    Image.new("RGBA", (8, 8), (200, 10, 10, 255)).save(tmp_path / "plate.png")
    with pytest.raises(BadReference, match="opaque everywhere"):
        read_picture(tmp_path / "plate.png", 8)


@pytest.mark.parametrize("azimuth", [0.0, 45.0, 133.0, -90.0])
@pytest.mark.parametrize("pole", [1, -1])
def test_cameras_are_continuous_at_the_poles(azimuth, pole):
    """At -90 the picture turned by 180 degrees, and azimuth did nothing."""
    at = np.asarray(orbit_camera(azimuth, 90.0 * pole, 3.0).world_to_camera)
    near = np.asarray(orbit_camera(azimuth, 89.99 * pole, 3.0).world_to_camera)
    nearer = np.asarray(orbit_camera(azimuth, 88.995 * pole, 3.0).world_to_camera)
    turn = np.deg2rad(azimuth)
    np.testing.assert_allclose(at, near, atol=0.01)
    np.testing.assert_allclose(near, nearer, atol=0.03)
    # rows of the matrix: right, down, forward; up = -down
    up = -pole * np.array([np.sin(turn), 0.0, np.cos(turn)])
    np.testing.assert_allclose(-at[1, :3], up, atol=1e-6)
    np.testing.assert_allclose(at[2, :3], [0, -pole, 0], atol=1e-6)
