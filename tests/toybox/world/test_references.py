"""References written as files are read as the pictures and cameras they were."""

import jax
import numpy as np
from jitted import orbit_camera

from sdsjax.files import given_cameras
from sdsjax.files.reference_images import Orbit, read_reference
from sdsjax.toybox.__main__ import main
from sdsjax.toybox.world import references


def test_what_is_written_is_what_is_read(tmp_path, capsys, monkeypatch):
    drawn = []

    def true_rgba(*asked):
        drawn.append((asked, references_drawn(*asked)))
        return drawn[-1][1]

    references_drawn = references.true_rgba
    monkeypatch.setattr(references, "true_rgba", true_rgba)
    for module in (references, given_cameras):
        monkeypatch.setattr(module, "orbit_camera", orbit_camera)
    said = [
        "references",
        "a red mug",
        "--out",
        str(tmp_path),
        "--azimuths",
        "0",
        "90",
        "--size",
        "16",
    ]
    assert main(said) == 0
    assert "2 picture(s)" in capsys.readouterr().out
    orbits = [Orbit(0.0, 15.0), Orbit(90.0, 15.0)]
    ((asked, (rgba, cameras)),) = drawn
    assert asked == ("a red mug", orbits, 16)
    given = jax.device_get(read_reference(tmp_path, 16))
    # each of 8 bits; colour is stored straight and multiplied again
    np.testing.assert_allclose(given.mask, rgba[..., 3], atol=0.6 / 255)
    np.testing.assert_allclose(given.rgb, rgba[..., :3], atol=1.5 / 255)
    for index, camera in enumerate(cameras):
        for ours, theirs in zip(
            jax.tree.leaves(given.cameras), jax.tree.leaves(camera)
        ):
            np.testing.assert_allclose(ours[index], theirs, atol=1e-6)
    one = jax.device_get(read_reference(tmp_path / "001.png", 16, orbits[1]))
    np.testing.assert_allclose(one.rgb[0], given.rgb[1])
    # the mug's handle: from its own left it is hidden or in front, not beside
    assert np.abs(rgba[0, ..., 3] - rgba[1, ..., 3]).mean() > 0.01


def test_what_is_no_caption_is_one_line(tmp_path, capsys):
    assert main(["references", "a red thing", "--out", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "new").exists()
