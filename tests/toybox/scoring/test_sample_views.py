"""Sets of views sampled from a multi-view prior that is about to be trained."""

import jax
import numpy as np
import pytest
from PIL import Image

from sdsjax.models.loading import hub
from sdsjax.toybox.scoring.sample_views import sample_views, view_sheet
from sdsjax.toybox.training.multiview_recipe import (
    MultiViewRecipe,
    initial_params,
    load_start,
    network_config,
)
from sdsjax.toybox.training.train_multiview import write_multiview


@pytest.mark.slow
def test_a_sheet_has_a_row_a_caption_and_samples_follow_their_key(tmp_path):
    recipe = MultiViewRecipe()
    start = load_start(recipe.start)
    config = network_config(start, recipe)
    write_multiview(tmp_path / "mv", start, config, initial_params(start, recipe))
    networks = hub.load_multiview(tmp_path / "mv")
    texts = ["a red ball", "a blue house"]
    view_sheet(tmp_path / "sheet.png", networks, texts, steps=2)
    assert Image.open(tmp_path / "sheet.png").size == (8 * 64, 2 * 64)

    orbits = np.array([[[0, 10, 3], [90, 10, 3], [180, 10, 3], [-90, 10, 3.0]]] * 2)

    def drawn(seed):
        return sample_views(
            networks, texts, orbits, jax.random.key(seed), guidance_scale=3.0, steps=2
        )

    first = drawn(0)
    assert first.shape == (2, 4, 64, 64, 3)
    assert np.abs(first).max() <= 1.0
    np.testing.assert_array_equal(first, drawn(0))
    assert np.abs(first - drawn(1)).max() > 0.1
