"""The recipe of toybox-sd: how its loss is weighted, what its networks begin from."""

import jax
import numpy as np

from sdsjax.models.loading import hub
from sdsjax.toybox.training import train_prior
from sdsjax.toybox.training.fit import FitState
from sdsjax.toybox.training.train_prior import PriorRecipe, snr_weight


def test_the_loss_weight_is_a_clipped_ratio():
    schedule = hub.load_stable_diffusion("toybox-sd").schedule
    snr = (np.asarray(schedule.alphas) / np.asarray(schedule.sigmas)) ** 2
    weight = jax.jit(lambda t: snr_weight(schedule, t))
    weighted = np.asarray(weight(np.arange(1000))) * snr
    np.testing.assert_allclose(weighted[snr > 5], 5.0, rtol=1e-5)
    np.testing.assert_allclose(weighted[snr < 0.1], 0.1, rtol=1e-5)
    assert weighted.min() > 0.1 - 1e-6
    assert weighted.max() < 5.0 + 1e-4


def test_a_start_is_read_once_and_both_networks_begin_from_it(tmp_path, monkeypatch):
    reads, begun, read = [], {}, hub.load_stable_diffusion

    def counted(folder):
        reads.append(folder)
        return read(folder)

    def fit(folder, recipe, params, frozen=(), *, log):
        begun[folder.name] = params
        return FitState(np.int32(0), params, params, ())

    monkeypatch.setattr(train_prior, "load_stable_diffusion", counted)
    monkeypatch.setattr(train_prior, "fit", fit)
    monkeypatch.setattr(train_prior, "latent_scale", lambda *_: 1.0)
    monkeypatch.setattr(train_prior, "write_prior", lambda *_: None)
    monkeypatch.setattr(train_prior.pools, "build_pool", lambda *_, **__: None)
    recipe = PriorRecipe(start="toybox-sd")
    train_prior.train_prior(tmp_path, tmp_path / "out", recipe, log=lambda line: None)
    assert reads == ["toybox-sd"]
    start = read("toybox-sd")
    expected = {
        "vae": start.vae.params,
        "unet": {"unet": start.unet.params, "text_encoder": start.text_encoder.params},
    }
    assert jax.tree.structure(begun) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(begun), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(a, b)
