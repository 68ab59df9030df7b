"""The recipe of toybox-sd: how its loss is weighted."""

import numpy as np

from sdsjax.models import hub
from sdsjax.toybox.train_prior import snr_weight


def test_the_loss_weight_is_a_clipped_ratio():
    schedule = hub.load_stable_diffusion("toybox-sd").schedule
    snr = (schedule.alphas / schedule.sigmas) ** 2
    weighted = np.asarray(snr_weight(schedule, np.arange(1000)) * snr)
    np.testing.assert_allclose(weighted[np.asarray(snr) > 5], 5.0, rtol=1e-5)
    np.testing.assert_allclose(weighted[np.asarray(snr) < 0.1], 0.1, rtol=1e-5)
    assert weighted.min() > 0.1 - 1e-6
    assert weighted.max() < 5.0 + 1e-4
