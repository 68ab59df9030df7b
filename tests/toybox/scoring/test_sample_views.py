"""Sets of views sampled from the shipped multi-view prior, and their sheet."""

import jax
import numpy as np
import pytest
from PIL import Image

from sdsjax.models.loading import hub
from sdsjax.toybox.scoring import sample_views as sampling


@pytest.mark.slow
def test_a_sheet_has_a_row_a_caption_and_samples_follow_their_key(
    tmp_path, monkeypatch
):
    networks = hub.load_multiview("toybox-mv")
    orbits = np.array([[[0, 10, 3], [90, 10, 3], [180, 10, 3], [-90, 10, 3.0]]] * 2)
    # equal rows but for their keys: one set a call
    monkeypatch.setattr(sampling, "CHUNK", 1)
    monkeypatch.setattr(sampling, "draw_orbits", lambda key, count: orbits[:count])
    texts, asked = ["a red ball"] * 2, {"guidance_scale": 3.0, "steps": 2}
    sampling.view_sheet(tmp_path / "sheet.png", networks, texts, **asked, seed=5)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 64, 8 * 64, 3)

    key, _ = jax.random.split(jax.random.key(5))
    drawn = sampling.sample_views(networks, texts, orbits, key, **asked)
    assert drawn.shape == (2, 4, 64, 64, 3)
    assert np.abs(drawn).max() <= 1.0
    left = np.concatenate([np.concatenate([*views], axis=1) for views in drawn])
    np.testing.assert_array_equal(sheet[:, :256], np.round(255 * (0.5 + 0.5 * left)))
    assert np.abs(drawn[0] - drawn[1]).max() > 0.1
