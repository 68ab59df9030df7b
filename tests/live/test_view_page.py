"""`python -m sdsjax.view` in headless Chromium: splats are seen, and follow the run."""

import json
import threading

import jax
import jax.numpy as jnp
import pytest
from chromium import CHROMIUM, opened, saturated, wait_for
from tiny_run import gaussians

from sdsjax.cli.live.view_command import view
from sdsjax.render.spherical_harmonics import coefficient_of_colour
from sdsjax.runs.checkpoints import Checkpoints
from sdsjax.training import train_step
from sdsjax.training.build import build_representation
from sdsjax.training.config import to_json

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


def save(folder, step, rgb):
    """What a run has saved at a step: a ball of one colour."""
    config = gaussians(representation__count=400)
    params, state = jax.jit(build_representation(config, (8, 8, 3)).init)(
        jax.random.key(0)
    )
    colour = coefficient_of_colour(jnp.asarray(rgb, jnp.float32))
    params = params._replace(
        opacity_logits=jnp.full(400, 3.0),
        log_scales=jnp.full((400, 3), -2.5),
        sh=jnp.zeros_like(params.sh).at[:, 0].set(colour),
    )
    whole = train_step.TrainState(jnp.int32(step), params, state, (), ())
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text('{"format": "sdsjax-run-1"}')
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    Checkpoints(folder / "checkpoints").save(step, whole)
    return folder


def test_splats_of_two_runs_are_seen_and_follow_what_they_save(tmp_path, capsys):
    red = save(tmp_path / "red", 3, (0.9, 0.05, 0.05))
    blue = save(tmp_path / "blue", 3, (0.05, 0.05, 0.9))
    stop, said = threading.Event(), []
    command = threading.Thread(target=view, args=([str(red), str(blue)], stop))
    command.start()
    try:
        wait_for(lambda: said.append(capsys.readouterr().out) or "http" in said[-1])
        address = said[-1].split()[1]
        assert address.startswith("http://127.0.0.1:")
        with opened(address, tmp_path) as page:

            def seen(channel, half):
                picture = page.picture()
                middle = picture.shape[1] // 2
                side = picture[:, :middle] if half == "left" else picture[:, middle:]
                rest = side.sum(axis=2) - side[..., channel]
                return (side[..., channel] > rest + 60).sum()

            wait_for(lambda: seen(0, "left") > 1000)
            wait_for(lambda: seen(2, "right") > 1000)
            assert page.says("a red ball")
            assert page.says("step 3, not finished")
            assert saturated(page.picture()) > 2000
            save(red, 6, (0.05, 0.9, 0.05))
            wait_for(lambda: seen(1, "left") > 1000)
            assert page.says("step 6, not finished")
            (red / "finished.json").write_text('{"step": 6}')
            wait_for(lambda: page.says("step 6, finished"))
    finally:
        stop.set()
        command.join()
