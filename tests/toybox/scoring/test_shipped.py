"""The priors that are shipped: complete, small, and better than chance by far."""

import jax
import pytest

from sdsjax.models.loading import hub
from sdsjax.toybox.scoring import flow, measure
from sdsjax.toybox.training import pool as pools

FOLDER = hub.BUILT_IN / "toybox-sd"


def test_the_folder_is_complete_and_small():
    names = {str(p.relative_to(FOLDER)) for p in FOLDER.rglob("*") if p.is_file()}
    assert {
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    } <= names
    weights = sum(p.stat().st_size for p in FOLDER.rglob("*.safetensors"))
    assert weights <= 12_000_000
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 13_000_000


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Fresh renders, drawn once for both priors."""
    folder = tmp_path_factory.mktemp("pool")
    return pools.build_pool(folder, singles=2, pairs=1, seed=78, log=lambda line: None)


@pytest.fixture
def two_times(monkeypatch):
    """Errors are measured at the two times that are looked at, of a card's ten."""
    monkeypatch.setattr(measure, "TIMES", (550, 750))


def deaf(network):
    """A text encoder that says the same of every text."""
    return network._replace(params=jax.tree.map(lambda p: 0 * p, network.params))


@pytest.mark.slow
@pytest.mark.usefixtures("two_times")
def test_it_denoises_fresh_renders_and_listens_to_the_caption(pool):
    networks = hub.load_stable_diffusion("toybox-sd")
    losses = measure.loss_by_timestep(networks, pool, count=50)
    assert losses[550] < 0.06  # predicting no noise gives 1
    without = networks._replace(text_encoder=deaf(networks.text_encoder))
    without = measure.loss_by_timestep(without, pool, count=50)
    assert losses[750] < 0.97 * without[750]


@pytest.mark.slow
@pytest.mark.usefixtures("two_times")
def test_the_flow_predicts_fresh_renders_and_listens_to_the_caption(pool):
    networks = flow.load_flow("toybox-flow")
    losses = flow.loss_by_level(networks, pool, count=50)
    assert losses[550] < 0.5  # predicting nothing gives about 2
    clips = tuple((deaf(one), ids) for one, ids in networks.encoders.clips)
    encoders = networks.encoders._replace(clips=clips)
    without = flow.loss_by_level(networks._replace(encoders=encoders), pool, count=50)
    assert losses[750] < 0.97 * without[750]
