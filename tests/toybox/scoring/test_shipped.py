"""The prior that is shipped: complete, small, and better than chance by far."""

import jax
import pytest

from sdsjax.models.loading import hub
from sdsjax.toybox.scoring import measure
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


@pytest.mark.slow
def test_it_denoises_fresh_renders_and_listens_to_the_caption(tmp_path):
    networks = hub.load_stable_diffusion("toybox-sd")
    pool = pools.build_pool(
        tmp_path, singles=2, pairs=1, seed=78, log=lambda line: None
    )
    losses = measure.loss_by_timestep(networks, pool, count=50)
    assert losses[550] < 0.06  # predicting no noise gives 1
    deaf = networks._replace(
        text_encoder=networks.text_encoder._replace(
            params=jax.tree.map(lambda p: 0 * p, networks.text_encoder.params)
        )
    )
    without = measure.loss_by_timestep(deaf, pool, count=50)
    assert losses[750] < 0.97 * without[750]
