"""`--view`: what the page asks of a run, and what it costs one that nobody watches."""

import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera
from panel import Page, splats
from tiny_run import config as flat
from tiny_run import gaussians

from sdsjax.cli.arguments import parse
from sdsjax.cli.live.watch import check_view
from sdsjax.cli.prompts import check_arguments
from sdsjax.exports.density_grid import Splats
from sdsjax.live.monitor import Monitor
from sdsjax.live.scene import Frusta, quaternion
from sdsjax.live.shapes import Points, shape_of
from sdsjax.runs.signals import SIGNALS
from sdsjax.training import train
from sdsjax.training.build import build_representation
from sdsjax.training.config import ConfigError
from sdsjax.training.snapshots import Snapshot, take_snapshot
from sdsjax.training.train_step import step_keys


def snapshot(step):
    camera = jax.device_get(orbit_camera(30.0, 10.0))
    cameras = jax.tree.map(lambda leaf: leaf[None], camera)
    return Snapshot(step, splats(), lambda: cameras)


def page(clients=1):
    server = MagicMock()
    server.get_clients.return_value = dict.fromkeys(range(clients))
    return server


def pressed(server, label):
    """Presses a button of the panel."""
    calls = zip(
        server.gui.add_button.call_args_list,
        server.gui.add_button.return_value.on_click.call_args_list,
    )
    by_label = {call.args[0]: click.args[0] for call, click in calls}
    by_label[label](None)


def advance(monitor, step, make=snapshot):
    return monitor.on_event("advance", {"step": step, "snapshot": lambda: make(step)})


def test_nothing_is_copied_while_nobody_looks():
    def never(step):
        raise AssertionError

    monitor = Monitor(page(clients=0), every=1, steps=3)
    assert [advance(monitor, step, never) for step in (1, 2, 3)] == [None] * 3


def test_the_last_step_is_shown_and_those_between_as_often_as_asked():
    server = page()
    taken = []

    def make(step):
        taken.append(step)
        return snapshot(step)

    with Monitor(server, every=4, steps=9) as monitor:
        for step in range(1, 10):
            advance(monitor, step, make)
            until = time.monotonic() + 20
            while monitor._rests_until == float("inf") and time.monotonic() < until:
                time.sleep(0.01)
            monitor._rests_until = 0.0  # the rest that the sending asked for
    assert taken == [1, 5, 9]
    shown = server.scene.add_gaussian_splats.call_args.kwargs
    assert shown["centers"].shape == (4, 3)  # the dead one is left out
    np.testing.assert_allclose(shown["rgbs"], 0.5)
    np.testing.assert_allclose(
        shown["covariances"], np.exp(-4.0) * np.tile(np.eye(3), (4, 1, 1)), rtol=1e-5
    )
    # the page's handle is given new arrays, it is not made again
    assert server.scene.add_gaussian_splats.call_count == 1


def test_a_page_rests_most_of_the_time(monkeypatch):
    monitor = Monitor(page(), every=1, steps=99)
    sent = []
    monkeypatch.setattr(monitor, "_send", lambda one: sent.append(one.step) or 0.5)
    with monitor:
        for step in (1, 2):  # the first compiles, and does not count
            advance(monitor, step)
            until = time.monotonic() + 20
            while sent[-1:] != [step] and time.monotonic() < until:
                time.sleep(0.01)
        time.sleep(0.3)
        assert advance(monitor, 3, lambda step: pytest.fail("sent again")) is None
        assert 10 < monitor._rests_until - time.monotonic() < 20


def test_buttons_are_answers():
    server = page()
    monitor = Monitor(server, every=1, steps=9)
    pressed(server, "Pause")
    assert advance(monitor, 1) == "pause"
    pressed(server, "Save")
    assert [advance(monitor, 1), advance(monitor, 1)] == ["save", "pause"]
    pressed(server, "Pause")
    assert advance(monitor, 1) is None
    pressed(server, "Stop")
    assert advance(monitor, 2) == "stop"


def asked(answers, monkeypatch):
    """(What the loop did, the signal it was left with) for a listener's answers."""
    done, rest = [], iter(answers)
    session = SimpleNamespace(
        report_step=lambda: next(rest), save=lambda log: done.append("save")
    )
    log = SimpleNamespace(timer=SimpleNamespace(pause=lambda: None))
    monkeypatch.setattr(train.time, "sleep", lambda seconds: done.append("wait"))
    stop = SimpleNamespace(requested=None)
    train.do_what_is_asked(session, log, stop)
    assert next(rest, "all were asked for") == "all were asked for"
    return done, stop.requested


def test_the_loop_does_what_a_listener_asks(monkeypatch):
    assert asked([None], monkeypatch) == ([], None)
    # once a step: it may answer the same however often it is asked
    assert asked(["save"], monkeypatch) == (["save"], None)
    done = ["wait", "save", "wait"]
    assert asked(["pause", "save", "pause", None], monkeypatch) == (done, None)
    done, requested = asked(["pause", "stop"], monkeypatch)
    assert done == ["wait"]
    assert requested in SIGNALS


class Phase:
    """A phase whose cameras look from the azimuth that the key says."""

    @staticmethod
    @jax.jit
    def cameras(key):
        azimuth = jax.random.uniform(key, maxval=360.0)
        return jax.tree.map(lambda leaf: leaf[None], orbit_camera(azimuth, 0.0))


def test_a_snapshot_outlives_the_state_that_the_next_step_takes_over():
    representation = build_representation(gaussians(), (8, 8, 3))
    params, state = jax.jit(representation.init)(jax.random.key(0))
    means = np.asarray(params.means)
    phase, key = Phase(), jax.random.key(3)
    taken = take_snapshot(params, state, representation, phase=phase, key=key, step=2)
    for leaf in jax.tree.leaves((params, state)):
        leaf.delete()
    np.testing.assert_array_equal(taken.asset.means, means)
    wanted = phase.cameras(step_keys(key, 1)["camera"])
    np.testing.assert_array_equal(
        taken.cameras().world_to_camera, wanted.world_to_camera
    )


def test_frusta_stand_where_the_cameras_look_from():
    server = page()
    azimuths = np.array([0.0, 200.0], np.float32)
    cameras = jax.jit(jax.vmap(lambda azimuth: orbit_camera(azimuth, 20.0)))(azimuths)
    Frusta(server).show(cameras)
    first, second = server.scene.add_camera_frustum.call_args_list
    for call, index in ((first, 0), (second, 1)):
        turn = np.asarray(cameras.world_to_camera)[index]
        position = -turn[:3, :3].T @ turn[:3, 3]
        np.testing.assert_allclose(call.kwargs["position"], position, atol=1e-5)
    np.testing.assert_allclose(first.kwargs["fov"], np.deg2rad(40.0), rtol=1e-5)


def test_quaternions_turn_as_their_matrices():
    rng = np.random.default_rng(0)
    turns = np.linalg.qr(rng.normal(size=(50, 3, 3)))[0]
    turns *= np.linalg.det(turns)[:, None, None]
    half = [np.diag(signs) for signs in ([1, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    for turn in [*turns, np.eye(3), *half]:
        w, *v = quaternion(np.asarray(turn, float))
        for point in np.eye(3):
            turned = point + 2 * np.cross(v, np.cross(v, point) + w * point)
            np.testing.assert_allclose(turned, turn @ point, atol=1e-12)


def test_a_field_without_a_surface_is_shown_as_its_densest_points():
    def look(points):
        near = jnp.linalg.norm(points - jnp.array([0.5, 0, 0]), axis=-1) < 0.3
        return 0.0 * near, jnp.ones_like(points)

    assert isinstance(shape_of(splats()), Splats)
    empty = shape_of(look, resolution=8)
    assert isinstance(empty, Points)
    assert len(empty.means) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--view_every=5"], "is for --view"),
        (["--view_host=0.0.0.0"], "is for --view"),
        (["--view", "--view_every=0"], "--view_every"),
        (["--view", "--view_port=x"], "view_port"),
    ],
)
def test_flags_of_a_page_are_checked(words, message):
    with pytest.raises(ConfigError, match=message):
        parse(["--config=ssd", *words])


def test_what_has_no_page_is_refused():
    config = gaussians()
    check_view(parse(["--config=ssd", "--view"]), config)
    with pytest.raises(ConfigError, match="flat picture"):
        check_view(parse(["--config=ssd", "--view"]), flat())
    with pytest.raises(ConfigError, match="--view watches one run"):
        check_arguments(parse(["--config=ssd", "--view", "--prompts=a.txt"]))


def test_what_happens_is_told_in_the_panel():
    panel = Page()
    monitor = Monitor(panel, every=1, steps=200, prompt="a <b> mug")
    title, text = panel.gui.texts
    assert (title.content, text.content) == ("**a &lt;b&gt; mug**", "compiling")
    monitor.on_event("step", {"step": 50, "seconds_per_step": 0.1234})
    assert text.content == "step 50 of 200  \n123 ms a step"
    assert panel["bar"].value == 25.0
    monitor.on_event("step", {"step": 60})
    assert text.content == "step 60 of 200"
    monitor.on_event("checkpoint", {"step": 80})
    assert text.content == "step 80 of 200  \ncheckpoint 80 is saved"
    monitor.on_event("finished", {"step": 300})
    assert text.content == "step 300 of 200  \nfinished"
    assert panel["bar"].value == 100.0
    monitor.on_event("else", {"step": 1})
    assert text.content == "step 300 of 200  \nfinished"


def test_what_goes_wrong_in_the_page_does_not_reach_the_run(monkeypatch, capsys):
    def fail(one):
        raise ValueError("a bad\nframe")

    monitor = Monitor(page(), every=1, steps=99)
    monkeypatch.setattr(monitor, "_send", fail)
    with monitor:
        assert advance(monitor, 1) is None
        monitor._thread.join(timeout=20)
        assert not monitor._thread.is_alive()
        assert advance(monitor, 2) is None
    said = "sdsjax: warning: the page stops: ValueError: a bad frame\n"
    assert capsys.readouterr().err == said
