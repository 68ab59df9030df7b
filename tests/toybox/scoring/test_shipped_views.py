"""The shipped toybox-mv: small, and it obeys the cameras that it is told."""

import pytest

from sdsjax.models.loading import hub
from sdsjax.toybox.scoring.measure_views import loss_of_views


def test_the_weights_are_small():
    folder = hub.BUILT_IN / "toybox-mv"
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 24e6


@pytest.mark.slow
def test_it_denoises_held_out_sets_and_listens_to_the_cameras(tmp_path):
    """Measured: .013 at t = 500 for four views, .067 with cameras wrong by 90."""
    losses = loss_of_views(hub.load_multiview("toybox-mv"), tmp_path, count=12)
    four, wrong = losses["four views"], losses["cameras wrong by 90"]
    assert four[550] < 0.025
    assert four[550] < 0.6 * wrong[550]
    assert four[550] < losses["single views"][550]
