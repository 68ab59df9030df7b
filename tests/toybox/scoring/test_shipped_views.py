"""The shipped toybox-mv and azimuth network: small, and they tell cameras apart."""

import pytest

from sdsjax.models.loading import hub
from sdsjax.toybox.scoring import azimuth
from sdsjax.toybox.scoring.measure_views import heldout_sets, loss_of_views


def test_the_weights_are_small():
    folder = hub.BUILT_IN / "toybox-mv"
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 24e6


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    """Where the held-out sets are kept: drawn once for both networks."""
    return tmp_path_factory.mktemp("held out")


@pytest.mark.slow
def test_the_azimuth_network_reads_the_side_of_held_out_renders(renders):
    """Its card says 4.2 degrees; a guess is wrong by 90."""
    pool = heldout_sets(renders / "0")
    error = azimuth.error_on_renders(azimuth.load_azimuth(), pool, count=400)
    assert error < 6.0


@pytest.mark.slow
def test_it_denoises_held_out_sets_and_listens_to_the_cameras(renders):
    """Measured: .013 at t = 500 for four views, .067 with cameras wrong by 90."""
    losses = loss_of_views(hub.load_multiview("toybox-mv"), renders, count=12)
    four, wrong = losses["four views"], losses["cameras wrong by 90"]
    assert four[550] < 0.025
    assert four[550] < 0.6 * wrong[550]
    assert four[550] < losses["single views"][550]
