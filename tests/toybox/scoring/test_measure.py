"""What is measured of a prior, where the right figure is known beforehand."""

import jax
import numpy as np
import pytest
from known_networks import (
    SCHEDULE,
    SIDE,
    networks,
    noise_of_point,
    read,
    readable_pool,
)

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.models.mmdit import Text
from sdsjax.toybox.scoring import flow, judge, measure, measure_views
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.objects import BASES, DIRECTED_KINDS, KINDS

KIND_NAMES = list(KINDS)
TIMES = [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]


def right_answers(x):
    """The judge that reads what a picture says of itself."""
    geometry, color, other, view = read(x)
    kinds, bases = zip(*(pools.geometries()[g] for g in geometry))
    paired = np.array([base is not None for base in bases])
    return judge.Labels(
        np.array([KIND_NAMES.index(kind) for kind in kinds]),
        color,
        np.array([BASES.index(base) if base else len(BASES) for base in bases]),
        np.where(paired, other, 9),
        view,
    )


def test_a_judge_that_reads_the_renders_names_all_of_them(monkeypatch):
    """And one that takes every mug for something else is wrong by the mugs' share."""
    mug, ball = KIND_NAMES.index("mug"), KIND_NAMES.index("ball")
    geometry = [mug, ball, ball, ball, 30, 31, 32]
    pool = readable_pool(geometry, [0, 1, 2, 3, 4, 0, 1])
    calls = []

    def judged(change):
        def load():
            return lambda x: calls.append(len(x)) or change(right_answers(x))

        monkeypatch.setattr(measure, "load_judge", load)
        return measure.judge_renders(pool, count=450)

    shares = judged(lambda said: said)
    assert [shares[k] for k in ("kind", "color", "view", "pair")] == [1.0] * 4
    assert shares["singles"] + shares["pairs"] == 450
    assert 90 < shares["pairs"] < 180  # 0.3 of them
    assert calls == [225, 225]
    wrong = judged(lambda s: s._replace(kind=np.where(s.kind == mug, ball, s.kind)))
    assert wrong["kind"] == 1 - shares["directed"] / shares["singles"]
    assert wrong["color"] == 1.0


def test_samples_are_judged_by_what_was_asked_of_them(monkeypatch):
    texts, wanted = judge.prompts_to_judge(40, 0.3, seed=4)
    drawn, asked = np.zeros((40, SIDE, SIDE, 3)), []

    def draw(networks, given, key, **how):
        asked.append((networks, given, int(jax.random.key_data(key)[-1]), how))
        return drawn

    said = wanted._replace(color=(wanted.color + (np.arange(40) < 10)) % 9)
    monkeypatch.setattr(measure, "load_judge", lambda: lambda x: said)
    how = {"guidance_scale": 6.0, "steps": 11}
    shares, pictures, given = measure.judge_samples(
        "networks", draw=draw, count=40, seed=4, **how
    )
    assert asked == [("networks", texts, 4, how)]
    assert given == texts
    assert pictures is drawn
    single = wanted.base == len(BASES)
    assert shares["color"] == 1 - single[:10].sum() / single.sum()
    assert shares["kind"] == shares["view"] == 1.0


def test_reconstruction_is_the_error_pooled_over_pictures():
    """Black pictures, x = -1, decoded as -0.9: 10 log10(4 / 0.01) dB."""
    black = readable_pool([0, 30], [0, 0])
    black = black._replace(layers=black.layers * np.array([0, 0, 0, 0, 0, 1], np.uint8))

    def vae(x, method):
        return (0.5 * x, None) if method == "encode" else 1.8 * x

    prior = networks(None, vae=vae)
    found = measure.reconstruction_psnr(prior, black, count=100)
    assert found == pytest.approx(10 * np.log10(400), abs=1e-3)


def test_the_held_out_renders_are_of_no_training_s_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "build_pool", lambda folder, **how: (folder, how))
    folder, how = measure.heldout_pool(tmp_path)
    assert (folder, how) == (tmp_path, {"singles": 40, "pairs": 8, "seed": 1000})
    folder, how = measure_views.heldout_sets(tmp_path)
    assert how == {"singles": 4, "pairs": 1, "seed": 901_000, "views": 4}


BLACK = readable_pool([0, 0, 30], [0, 0, 0])
BLACK = BLACK._replace(layers=BLACK.layers * np.array([0, 0, 0, 0, 0, 1], np.uint8))


def test_the_loss_of_a_network_that_is_off_by_half_is_a_quarter():
    """It knows that every z is -1, and that each caption names a thing and a view."""
    told = []

    def unet(z_t, t, states):
        told.append(states.shape)
        named = (states[:, :1, :1, None] > len("a red")) * 1.0
        return noise_of_point(z_t, t, -1.0) + 0.5 * named

    losses = measure.loss_by_timestep(networks(unet), BLACK, count=100)
    assert list(losses) == TIMES
    np.testing.assert_allclose(list(losses.values()), 0.25, rtol=1e-3)
    assert told == [(50, 1, 1)]


class Numbers(flow.FlowNetworks):
    """Told the lengths of captions alone."""

    def told(self, texts):
        numbers = np.float32([[len(text)] for text in texts])
        return Text(numbers[..., None], numbers)


def test_the_loss_of_a_flow_that_is_off_by_half_is_a_quarter():
    schedule = NoiseSchedule.flow_matching(shift=3.0)

    def transformer(z_s, time, told):
        s = time.reshape(-1, 1, 1, 1) / 1000.0
        z = -1.0
        named = (told.pooled[:, :, None, None] > len("a red")) * 1.0
        return (z_s - (1 - s) * z) / s - z + 0.5 * named

    prior = networks(transformer)
    prior.vae.config.to_latents = lambda z: z
    both = Numbers(prior.unet, prior.vae, None, schedule)
    losses = flow.loss_by_level(both, BLACK, count=50)
    assert list(losses) == TIMES
    np.testing.assert_allclose(list(losses.values()), 0.25, rtol=1e-3)


def test_a_transformer_is_told_of_both_encoders_and_nothing_of_t5():
    """States side by side, then zeros to the width and for the tokens that T5 has."""

    def encoder(factor):
        class Encoder:
            def apply(self, variables, ids):
                ids = np.asarray(ids, np.float32)
                states = factor * np.repeat(ids[..., None], 2, axis=-1)
                return states, states[:, 0]

        return hub.Network(Encoder(), {}, None), lambda t: [[len(one), 9] for one in t]

    config = type("Config", (), {"context": 5})
    encoders = type("Encoders", (), {"clips": (encoder(1), encoder(10))})
    encoders.t5_tokens = 3
    prior = flow.FlowNetworks(hub.Network(None, {}, config), None, encoders, None)
    told = jax.device_get(prior.told(["a", "abc"]))
    np.testing.assert_array_equal(told.pooled, [[1, 1, 10, 10], [3, 3, 30, 30]])
    assert told.states.shape == (2, 2 + 3, 5)
    np.testing.assert_array_equal(told.states[1, 0], [3, 3, 30, 30, 0])
    np.testing.assert_array_equal(told.states[1, 1], [9, 9, 90, 90, 0])
    assert not told.states[:, 2:].any()


def test_captions_of_sets_say_no_view_and_two_colours():
    texts = measure_views.captions_to_draw(200, seed=3)
    assert texts == measure_views.captions_to_draw(200, seed=3)
    assert texts != measure_views.captions_to_draw(200, seed=4)
    specs = [parse_caption(text) for text in texts]
    assert {view for _, view in specs} == {None}
    pairs = [spec for spec, _ in specs if spec.base_kind]
    assert 40 <= len(pairs) <= 80
    assert all(spec.color != spec.base_color for spec in pairs)


ASKED = ["a red mug", "a blue house", "a red ball", "a red mug on a blue table"]


@pytest.fixture
def sets(monkeypatch):
    """Four sets, of which the second is seen from above; what is judged of them."""
    orbits = np.zeros((4, 4, 3), np.float32)
    orbits[..., 0] = [0.0, 90.0, 180.0, -90.0]
    orbits[1, :, 1] = 70.0
    drawn = np.zeros((4, 4, SIDE, SIDE, 3)) + np.arange(16).reshape(4, 4, 1, 1, 1)
    judged = {}

    def load_judge():
        def says(x):
            specs = [parse_caption(text)[0] for text in ASKED for _ in range(4)]
            view = np.array([0, 1, 3, 2] * 4)
            view[4:8] = 4
            judged["all"] = x
            return judge.labels_of(specs, view)

        return says

    def load_azimuth():
        def says(x):
            judged["sided"] = x[:, 0, 0, 0]
            turn = np.deg2rad([0.0 + 2, 90.0 + 4, 180.0 + 6, -90.0 + 80])
            return np.stack([np.cos(turn), np.sin(turn)], -1)

        return says

    monkeypatch.setattr(measure_views, "captions_to_draw", lambda *_: ASKED)
    monkeypatch.setattr(measure_views, "draw_orbits", lambda *_: orbits)
    monkeypatch.setattr(measure_views, "sample_views", lambda *_, **__: drawn)
    monkeypatch.setattr(measure_views, "load_judge", load_judge)
    monkeypatch.setattr(measure_views.azimuths, "load_azimuth", load_azimuth)
    return judged


def test_sets_are_asked_what_they_show_and_single_sided_ones_from_where(sets):
    assert {"mug", "house"} <= set(DIRECTED_KINDS)
    assert "ball" not in DIRECTED_KINDS
    shares, pictures, texts = measure_views.judge_views("networks", count=4)
    assert texts == ASKED
    assert pictures.shape == (4, 4, SIDE, SIDE, 3)
    assert sets["all"].shape == (16, SIDE, SIDE, 3)
    assert [shares[k] for k in ("kind", "color", "view", "pair")] == [1.0] * 4
    assert (shares["singles"], shares["pairs"]) == (12, 4)
    # neither the house from above, nor the ball, nor what stands on something
    np.testing.assert_array_equal(sets["sided"], [0, 1, 2, 3])
    assert shares["azimuth"] == pytest.approx(5.0, abs=1e-3)


def test_no_set_with_sides_has_no_azimuth(sets, monkeypatch):
    monkeypatch.setattr(measure_views, "directed", lambda kind: np.zeros(16, bool))
    shares, _, _ = measure_views.judge_views("networks", count=4)
    assert shares["azimuth"] is None
    assert "sided" not in sets


def test_the_loss_of_sets_by_what_the_network_is_shown(monkeypatch):
    """It knows that z is the sine of its camera's azimuth, and is off by 1 where it
    sees a view alone; cameras turned by 90 degrees make it say the cosine."""
    count, asked = 3, []
    turn = np.array([[0.0, 90.0, 180.0, -90.0]] * count)
    orbit = np.stack([turn, 0 * turn, 0 * turn + 3.0], -1)
    sine = np.sin(np.deg2rad(turn))[..., None, None, None]
    z = np.broadcast_to(sine, (count, 4, SIDE, SIDE, 2)).astype(np.float32)

    def batches(folder, networks, recipe):
        asked.append((folder, recipe))
        return lambda step: {"z": z, "ids": np.ones((count, 1)), "orbit": orbit}

    def unet(z_t, t, states, camera, rays):
        assert rays.shape == (*camera.shape[:2], SIDE, SIDE, 6)
        off = (1.0 if z_t.shape[1] == 1 else 0.0) * states[:, 0, 0]
        eps = noise_of_point(z_t, t, camera[..., 3, None, None, None])
        return eps + off.reshape(-1, 1, 1, 1, 1)

    monkeypatch.setattr(measure_views, "batches", batches)
    losses = measure_views.loss_of_views(networks(unet), "folder", count=count)
    ((folder, recipe),) = asked
    assert folder == "folder"
    assert (recipe.bank, recipe.batch, recipe.seed) == (3, 12, 900)
    assert (recipe.group_fraction, recipe.dropout, recipe.camera_dropout) == (1, 0, 0)
    assert [list(found) for found in losses.values()] == [TIMES] * 3
    four, single, wrong = (
        list(losses[name].values())
        for name in ("four views", "single views", "cameras wrong by 90")
    )
    np.testing.assert_allclose(four, 0.0, atol=1e-4)
    np.testing.assert_allclose(single, 1.0, rtol=1e-3)
    # sine and cosine of the four azimuths differ by 1 in mean square
    ratio = np.asarray(SCHEDULE.alphas) / np.asarray(SCHEDULE.sigmas)
    np.testing.assert_allclose(wrong, ratio[list(TIMES)] ** 2, rtol=1e-3)
