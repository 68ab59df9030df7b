"""The benchmark's arithmetic, and that its peers are given one and the same network."""

import importlib.util
import sys
from pathlib import Path

import jax
import pytest

from sdsjax.models.loading import hub

FOLDER = Path(__file__).parents[2] / "experiments" / "bench_networks"


def load(name):
    spec = importlib.util.spec_from_file_location(
        f"bench_{name}", FOLDER / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run, worker = load("run"), load("worker")


def test_ratios_are_of_neighbours():
    # a machine that gets twice as slow half way changes no ratio
    rows = run.compare({"ours": [1.0, 1.0, 2.0, 2.0], "peer": [2.0, 2.0, 4.0, 4.0]})
    assert rows["peer"]["ours_over_it"] == 0.5
    assert rows["peer"]["ratio_range"] == [0.5, 0.5]
    assert rows["ours"]["ours_over_it"] == 1.0


def test_the_table_has_a_row_a_peer():
    row = {
        "seconds": 1.5, "ours_over_it": 0.5, "ratio_range": [0.4, 0.6],
        "gflops": 100.0, "share_of_machine": 0.5, "peak_gib": 2.0,
    }  # fmt: skip
    text = run.table({"unet": {"flops": 1.0, "peers": {"torch": row}}})
    assert "| unet | torch | 1.500 | 0.50 (0.40-0.60) | 100 | 0.50 | 2.0 |" in text


def test_the_full_unet_is_stable_diffusion_21s_by_its_config():
    """As its file is published; that its parameters are as many is slow."""
    read = hub.COMPONENTS["unet"].read_config(worker.CONFIGS["unet", "full"])
    assert read.channels == (320, 640, 1280, 1280)
    assert read.heads == (5, 10, 20, 20)
    assert read.down_attention == (True, True, True, False)
    assert read.up_attention == (False, True, True, True)
    assert (read.layers, read.context, read.sample_size) == (2, 1024, 64)
    assert (read.in_channels, read.out_channels, read.linear_projection) == (4, 4, True)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "parameters"), [("full", 865_910_724)])
def test_the_full_unet_is_stable_diffusion_21s(size, parameters):
    read = hub.COMPONENTS["unet"].read_config(worker.CONFIGS["unet", size])
    shapes = hub.param_shapes("unet", read)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


@pytest.mark.slow
def test_a_worker_answers_and_a_dead_one_is_named(monkeypatch):
    peer = run.Peer("machine", sys.executable, "unet", "small")
    answer = peer.time()
    assert answer["seconds"] > 0
    assert peer.flops > 2 * 9 * 64 * 64 * 64 * 64 * 2  # the convolution alone
    peer.close()
    with pytest.raises(SystemExit, match="nobody"):
        run.Peer("nobody", sys.executable, "unet", "small")
