"""Sheets of pictures: each tile stands where it belongs and shows what it is of."""

import numpy as np
import pytest
from PIL import Image

from sdsjax.toybox.scoring import card_companions, sample_views
from sdsjax.toybox.training import pool as pools

SIZE, COUNT = 4, 3


def held_out(count=COUNT, size=SIZE):
    """Flat renders of rising grey; a disparity of 0.8 and one normal on the left."""
    x = np.linspace(-0.8, 0.6, count)[:, None, None, None]
    x = np.broadcast_to(x, (count, size, size, 3)).astype(np.float32)
    surface = np.full((count, size, size, 4), (0.8, 1.0, 0.5, 0.0), np.float32)
    mask = np.zeros((count, size, size), bool)
    mask[:, :, : size // 2] = True
    chosen = pools.Draw(*(np.arange(count),) * 3, np.ones((count, 3)))
    return chosen, x, surface, mask


LOOKS = {
    "clean": lambda key, x, background: x,
    "early": lambda key, x, background: 0 * x,
    "x_t, t = 100": lambda key, x, background: pytest.fail("not in the sheet"),
    "x_t, t = 500": lambda key, x, background: -x,
    "D(z_t), t = 300": lambda key, x, background: 0 * x + background[:, None, None],
}


def tiles(path, rows, columns, left=90, side=2 * SIZE, band=0):
    """The four quarters of each tile, [rows columns 2 2 3] in 0..255."""
    sheet = np.asarray(Image.open(path), int)
    assert sheet.shape == (rows * (side + band), left + columns * side, 3)
    sheet = sheet[:, left:].reshape(rows, side + band, columns, side, 3)
    return sheet[:, :side][:, [1, -2]][:, :, :, [1, -2]].transpose(0, 2, 1, 3, 4)


@pytest.mark.parametrize("name", ["depth", "normals"])
def test_a_sheet_of_shapes_has_a_row_a_look_and_one_of_what_is_said(
    name, tmp_path, monkeypatch
):
    measures, asked = card_companions.measures, []

    def predictor(network):
        assert network == "network"
        return lambda x: 0.5 + 0.5 * x[..., 0] if name == "depth" else -np.abs(x)

    def heldout_batch(pool, count, seed):
        asked.append((pool, count))
        return held_out()

    monkeypatch.setattr(measures, "heldout_batch", heldout_batch)
    monkeypatch.setattr(measures, "predictor", predictor)
    monkeypatch.setattr(measures, "looks", lambda: LOOKS)
    path = tmp_path / "samples.png"
    card_companions.shape_sheet(path, "network", name, "pool", columns=COUNT)
    assert asked == [("pool", COUNT)]
    found = tiles(path, 10, COUNT)
    grey = np.linspace(-0.8, 0.6, COUNT)
    seen = {0: grey, 2: grey, 4: 0 * grey, 6: -grey, 8: 0 * grey + 1}
    for row, values in seen.items():
        want = np.round(255 * (0.5 + 0.5 * values))[:, None, None, None]
        np.testing.assert_allclose(found[row], want + np.zeros((2, 2, 3)), atol=1)
        if name == "depth":  # what is said is the picture's own grey
            if row:
                np.testing.assert_array_equal(found[row + 1], found[row])
            continue
        # normals are said of the object alone, -|x| as 1/2 - |x| / 2
        if row:
            said = np.round(255 * (0.5 - 0.5 * np.abs(values)))
            want = said[:, None, None] + np.zeros((2, 3))
            np.testing.assert_allclose(found[row + 1][:, :, 0], want, atol=1)
            assert not found[row + 1][:, :, 1].any()
    truth = (204, 204, 204) if name == "depth" else (255, 128, 0)
    np.testing.assert_allclose(found[1][:, :, 0], np.broadcast_to(truth, (3, 2, 3)))
    assert not found[1][:, :, 1].any()


def test_a_sheet_of_captions_writes_the_nearest_three_under_each_render(
    tmp_path, monkeypatch
):
    measures, count = card_companions.measures, 9
    told = {"a red ball": (1.0, 0.0), "a blue ball": (0.8, 0.6), "a red mug": (0.0, 1)}

    def embedders(network, tokenizer):
        assert (network, tokenizer) == ("network", "tokenizer")

        def of_images(x):
            return np.array([[1.0, 0.0]] * 8 + [[0.0, 1.0]])

        return of_images, lambda texts: np.array([told.get(t, (-1, 0)) for t in texts])

    written = []

    class Pen:
        def __init__(self, sheet):
            pass

        def text(self, at, text, **how):
            written.append((at, text))

    monkeypatch.setattr(measures, "heldout_batch", lambda *_, **__: held_out(count))
    monkeypatch.setattr(measures, "embedders", embedders)
    monkeypatch.setattr(card_companions.ImageDraw, "Draw", Pen)
    path = tmp_path / "samples.png"
    card_companions.scorer_sheet(path, "network", "tokenizer", "pool", count=count)
    side, step = 2 * SIZE, 2 * SIZE + 40
    found = tiles(path, 2, 8, left=0, band=40).reshape(16, 2, 2, 3)
    want = np.round(255 * (0.5 + 0.5 * np.linspace(-0.8, 0.6, count)))
    np.testing.assert_allclose(found[:9, 0, 0, 0], want, atol=1)
    assert (found[9:] == 255).all()
    first, last = written[:3], written[-3:]
    assert len(written) == 3 * count
    assert [text for _, text in first[:2]] == ["0.00 a red ball", "0.20 a blue ball"]
    assert [text for _, text in last[:2]] == ["0.00 a red mug", "0.40 a blue ball"]
    assert [at for at, _ in first] == [(2, side + 12 * k) for k in range(3)]
    assert [at for at, _ in last] == [(2, step + side + 12 * k) for k in range(3)]


def test_a_sheet_of_views_has_a_set_and_the_truth_of_its_cameras(tmp_path, monkeypatch):
    orbits = np.arange(24.0).reshape(2, 4, 3)
    asked = []

    def draw(networks, texts, given, key, *, guidance_scale, steps):
        assert (networks, guidance_scale, steps) == ("networks", 7.0, 5)
        np.testing.assert_array_equal(given, orbits)
        grey = np.linspace(-1, 1.2, 8).reshape(2, 4, 1, 1, 1)  # one is over-exposed
        return np.broadcast_to(grey, (2, 4, SIZE, SIZE, 3))

    def render(specs, orbit):
        asked.append((specs, orbit))
        grey = np.linspace(0.2, 0.5, 4)[:, None, None, None]
        return np.broadcast_to(grey, (4, SIZE, SIZE, 3))

    monkeypatch.setattr(sample_views, "sample_views", draw)
    monkeypatch.setattr(sample_views, "render_specs", render)
    monkeypatch.setattr(sample_views, "draw_orbits", lambda key, count: orbits[:count])
    path, texts = tmp_path / "views.png", ["a red ball", "a blue mug on a red cube"]
    sample_views.view_sheet(path, "networks", texts, guidance_scale=7.0, steps=5)
    found = tiles(path, 2, 8, left=0, side=SIZE)[:, :, 0, 0, 0]
    samples = np.clip(0.5 + 0.5 * np.linspace(-1, 1.2, 8), 0, 1).reshape(2, 4)
    np.testing.assert_allclose(found[:, :4], np.round(255 * samples), atol=1)
    truth = np.round(255 * np.linspace(0.2, 0.5, 4))
    np.testing.assert_allclose(found[:, 4:], [truth, truth], atol=1)
    for (specs, orbit), own, kind in zip(asked, orbits, ("ball", "mug"), strict=True):
        assert [spec.kind for spec in specs] == [kind] * 4
        np.testing.assert_array_equal(orbit, own)
