"""The recipe of toybox-sd from pictures to card, at the smallest size there is."""

import json
import shutil
from functools import partial

import numpy as np
import pytest

from sdsjax.models import hub
from sdsjax.toybox import card, measure
from sdsjax.toybox import pool as pools
from sdsjax.toybox.fit import flat
from sdsjax.toybox.train_prior import PriorRecipe, snr_weight, train_prior

SMALL = PriorRecipe(
    singles=1, pairs=1, vae_steps=2, vae_batch=2, unet_steps=3, unet_batch=2
)


def test_the_loss_weight_is_a_clipped_ratio():
    schedule = hub.load_stable_diffusion("toybox-sd").schedule
    snr = (schedule.alphas / schedule.sigmas) ** 2
    weighted = np.asarray(snr_weight(schedule, np.arange(1000)) * snr)
    np.testing.assert_allclose(weighted[np.asarray(snr) > 5], 5.0, rtol=1e-5)
    np.testing.assert_allclose(weighted[np.asarray(snr) < 0.1], 0.1, rtol=1e-5)
    assert weighted.min() > 0.1 - 1e-6
    assert weighted.max() < 5.0 + 1e-4


@pytest.mark.slow
def test_from_pictures_to_a_card_and_on_from_there(tmp_path, monkeypatch):
    def quiet(line):
        pass

    few = partial(pools.build_pool, singles=2, pairs=1, seed=1_000, log=quiet)
    monkeypatch.setattr(measure, "heldout_pool", few)
    monkeypatch.setattr(card, "SWEEP", (1.0,))
    work, first = tmp_path / "work", tmp_path / "first"
    train_prior(work, first, SMALL, log=quiet)
    card.write_card(first, work, SMALL, count=50)
    text = (first / "README.md").read_text()
    assert "From random weights, 2 steps of the VAE" in text
    assert (first / "losses.svg").read_text().startswith("<svg")
    measured = json.loads((first / "measured.json").read_text())
    assert measured["steps"] == {"vae": 2, "unet": 3}
    assert measured["reconstruction_psnr"] < 15  # it has learnt nothing yet

    # no step at all from given weights: the same weights come out
    still = SMALL._replace(start=str(first), vae_rate=0.0, unet_rate=0.0)
    again = tmp_path / "again"
    shutil.copytree(work / "pool", tmp_path / "work2" / "pool")
    train_prior(tmp_path / "work2", again, still, log=quiet)
    before, after = (hub.load_stable_diffusion(str(p)) for p in (first, again))
    for name in ("unet", "vae", "text_encoder"):
        old, new = (flat(getattr(n, name).params) for n in (before, after))
        for key in old:
            np.testing.assert_array_equal(old[key], new[key], err_msg=key)
    with pytest.raises(ValueError, match="begun with"):
        train_prior(work, first, SMALL._replace(unet_rate=1.0), log=quiet)
