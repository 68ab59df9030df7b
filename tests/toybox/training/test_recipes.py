"""What each recipe asks of `fit`: its pictures, its loss at known answers, its stages.

`fit` itself has its tests in test_fit.py; networks are closed forms here.
"""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.toybox.training import (
    multiview_recipe,
    train_clip,
    train_multiview,
    train_prior,
)
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.fit import FitState
from sdsjax.toybox.training.multiview_recipe import MultiViewRecipe
from sdsjax.toybox.training.train_clip import ClipRecipe
from sdsjax.toybox.training.train_prior import PriorRecipe, stratified_times
from sdsjax.toybox.world.captions import parse_caption

SCHEDULE = NoiseSchedule.scaled_linear()


@pytest.fixture
def pool():
    """Noise in the place of renders: sided things, a ball and two pairs."""
    kinds = list(pools.KINDS)
    sided = [kinds.index(kind) for kind in ("house", "mug", "ball")]
    layers = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 6), np.uint8)
    geometry = np.repeat([*sorted(sided), 30, 31], 2).astype(np.int32)
    return pools.Pool(layers, geometry, np.arange(10) % 5)


class Module:
    """Stands for a linen module: what it computes is a function of its inputs."""

    def __init__(self, function):
        self.function = function

    def __call__(self, config=None):
        return self

    def init(self, *inputs):
        return {"params": {}}

    def apply(self, variables, *inputs, **how):
        return self.function(*inputs, **how)


@pytest.fixture
def fitted(monkeypatch):
    """What `fit` was asked for, a tuple each; it hands the parameters back."""
    asked = []

    def fit(folder, recipe, params, frozen=(), **how):
        asked.append((folder.name, recipe, params, frozen))
        return FitState(np.int32(0), params, params, ())

    for module in (train_prior, train_clip):
        monkeypatch.setattr(module, "fit", fit)
    return asked


def test_the_vae_s_loss_of_a_shift(fitted, pool, tmp_path, monkeypatch):
    """q(z | x) = N(x + 0.1, ~0), D(z) = z: |error| 0.1, its square, and the pull."""
    lines = []

    def vae(given, method):
        if method == "encode":
            return given + 0.1, jnp.full_like(given, -30.0)
        return given

    monkeypatch.setattr(train_prior, "AutoencoderKL", Module(vae))
    recipe = PriorRecipe(vae_batch=6, vae_steps=9, seed=2)
    train_prior.train_vae(tmp_path, pool, None, recipe, lines.append)
    ((name, plan, _, _),) = fitted
    assert (name, plan.steps, plan.seed) == ("vae", 9, 2)
    x = plan.batch_at(4)
    assert x.shape == (6, 4, 4, 3)
    np.testing.assert_array_equal(x, plan.batch_at(4))
    assert np.abs(x - plan.batch_at(5)).max() > 0.1
    loss, aux = jax.jit(plan.loss)({}, (), x, jax.random.key(0))
    pull = 0.5 * np.mean((x + 0.1) ** 2 + np.exp(-30.0) - 1 + 30)
    np.testing.assert_allclose(aux["mse"], 0.01, rtol=1e-3)
    np.testing.assert_allclose(aux["kl"], pull, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.1 + 0.01 + 1e-3 * pull, rtol=1e-3)


def test_latents_are_scaled_to_unit_deviation(pool, monkeypatch):
    def vae(x, method):
        return 3.0 * x, None

    monkeypatch.setattr(train_prior, "AutoencoderKL", Module(vae))
    scale = train_prior.latent_scale(pool, {}, PriorRecipe())
    chosen = pools.draw(pool, np.random.default_rng([0, 2, 0]), 512, pair_fraction=0.3)
    x = pools.pictures(pool, chosen)
    assert scale == pytest.approx(1 / (3 * x.std()), rel=1e-4)


def test_the_unet_s_loss_of_a_constant_error(fitted, pool, tmp_path, monkeypatch):
    """Off by 1/2 at every t: 1/4 of the mean weight, on latents scaled by 1.5."""

    def unet(z_t, t, states):
        alpha, sigma = (a[t][:, None, None, None] for a in SCHEDULE[:2])
        return (z_t - alpha * 1.5 * x) / sigma + states[:, :1, :1, None]

    monkeypatch.setattr(train_prior, "AutoencoderKL", Module(lambda x, method: (x, 0)))
    monkeypatch.setattr(train_prior, "UNet2DCondition", Module(unet))
    encoder = Module(lambda ids: 0.5 * (ids[..., None] >= 0))
    monkeypatch.setattr(train_prior, "CLIPTextEncoder", encoder)
    monkeypatch.setattr(train_prior, "_initial_params", lambda *_: {
        "unet": {}, "text_encoder": {},
    })  # fmt: skip
    recipe = PriorRecipe(unet_batch=8, unet_steps=5)
    train_prior.train_unet(tmp_path, pool, "frozen", 1.5, None, recipe, print)
    ((name, plan, params, frozen),) = fitted
    assert (name, plan.steps, frozen) == ("unet", 5, "frozen")
    x, ids = plan.batch_at(3)
    assert (x.shape, len(ids)) == ((8, 4, 4, 3), 8)
    key = jax.random.key(1)
    loss, aux = jax.jit(plan.loss)(params, {}, (x, ids), key)
    times = jax.jit(lambda key: stratified_times(jax.random.split(key)[0], 8, 1000))
    t = np.asarray(times(key))
    snr = (np.asarray(SCHEDULE.alphas)[t] / np.asarray(SCHEDULE.sigmas)[t]) ** 2
    weight = np.clip(snr, 0.1, 5) / snr
    for name in ("mse", "mse_low_t", "mse_high_t"):
        np.testing.assert_allclose(aux[name], 0.25, rtol=1e-3)
    np.testing.assert_allclose(loss, 0.25 * weight.mean(), rtol=1e-3)


def test_a_prior_of_other_sizes_is_no_start(monkeypatch):
    odd = SimpleNamespace(config=train_prior.UNET._replace(sample_size=99))
    vae = SimpleNamespace(config=train_prior.VAE)
    networks = SimpleNamespace(unet=odd, vae=vae)
    monkeypatch.setattr(train_prior, "load_stable_diffusion", lambda name: networks)
    assert train_prior.starting_weights(PriorRecipe()) is None
    with pytest.raises(ValueError, match="networks of other sizes") as error:
        train_prior.starting_weights(PriorRecipe(start="elsewhere"))
    assert str(error.value).startswith("elsewhere has")


def test_every_caption_stands_beside_three_that_are_wrong_by_one_thing(pool):
    recipe = ClipRecipe(batch=40, view_fraction=0.8)
    rng = np.random.default_rng(3)
    x, background, texts, true = train_clip.captioned(pool, rng, recipe)
    assert x.shape == (40, 4, 4, 3)
    assert background.shape == (40, 3)
    assert (len(texts), true.shape) == (160, (40, 160))
    own, rest = texts[:40], np.reshape(texts[40:], (3, 40))
    said = [parse_caption(text) for text in own]
    assert 25 <= sum(view is not None for _, view in said) <= 39
    assert true[np.arange(40), np.arange(40)].all()
    for (spec, view), kind, color, turned in zip(said, *rest):
        other, same = parse_caption(kind)
        assert (other.color, other.base_color) == (spec.color, spec.base_color)
        assert (other.kind, other.base_kind) != (spec.kind, spec.base_kind)
        assert same == view
        other, same = parse_caption(color)
        assert (other.kind, other.base_kind) == (spec.kind, spec.base_kind)
        assert (other.color, other.base_color) != (spec.color, spec.base_color)
        assert same == view
        if turned:
            other, elsewhere = parse_caption(turned)
            assert other == spec
            assert elsewhere != view
    # no wrong view to say, no text, and nobody is blamed for that
    missing = np.asarray([text == "" for text in texts])
    assert missing[120:].any()
    assert not missing[:120].any()
    assert true[:, missing].all()


def test_the_scorer_begins_at_clip_s_temperature(fitted, pool, tmp_path, monkeypatch):
    """A picture is as near to its own text as it is bright, and to others not at all:
    the loss of choosing the right one among what is not true by chance."""
    asked = []

    def early_render(key, x, background, strength):
        asked.append(strength)
        return 0.5 * x

    def clip(rgb, ids):
        return jnp.eye(len(rgb), len(ids)) * rgb.mean((1, 2, 3))[:, None]

    monkeypatch.setattr(train_clip, "CLIP", Module(clip))
    monkeypatch.setattr(train_clip, "prepare", lambda rgb, side: rgb)
    monkeypatch.setattr(train_clip, "early_render", early_render)
    recipe = ClipRecipe(batch=6, steps=4)
    train_clip.train_scorer(tmp_path, pool, recipe)
    ((name, plan, params, _),) = fitted
    assert (name, plan.steps) == ("clip", 4)
    np.testing.assert_allclose(params["logit_scale"], np.log(1 / 0.07), atol=1e-3)
    x, background, ids, true = plan.batch_at(2)
    assert len(ids) == true.shape[1] == 24
    loss, aux = jax.jit(plan.loss)(params, (), (x, background, ids, true), None)
    assert asked == [0.4]
    own = np.exp((0.25 * x.mean((1, 2, 3)) + 0.5) / 0.07)
    among_texts = own / (own + (~true).sum(1))
    among_pictures = own / (own + (~true)[:, :6].sum(0))
    want = -0.5 * np.log(among_texts * among_pictures).mean()
    np.testing.assert_allclose(loss, want, rtol=1e-3)
    np.testing.assert_allclose(aux["scale"], 1 / 0.07, rtol=1e-3)
    assert aux["right"] == 1.0


@pytest.fixture
def staged(monkeypatch):
    """The stages of a multi-view training: (folder, plan, minutes) each."""
    asked = []

    def fit(folder, plan, params, *, minutes, pictures, log):
        asked.append((folder, plan, minutes))
        assert (params, pictures) == ("begun", 8)
        folder.mkdir(parents=True, exist_ok=True)
        reached = {".step": np.array(60, np.int32)}
        if not (folder / "checkpoint.safetensors").exists():
            save_file(reached, str(folder / "checkpoint.safetensors"))
        row = json.dumps({"seconds_per_step": 0.5})
        (folder / "log.jsonl").write_text(row + "\n")
        return SimpleNamespace(ema=f"from {folder.name}")

    for name in ("batches", "network_config", "noise_loss"):
        monkeypatch.setattr(train_multiview, name, lambda *_: "of the networks")
    monkeypatch.setattr(train_multiview, "train_code_map", lambda *_: "begun")
    monkeypatch.setattr(train_multiview, "fit", fit)
    return asked


def test_the_cooldown_goes_on_from_a_copy_of_the_level_stage(staged, tmp_path):
    recipe, lines = MultiViewRecipe(batch=8, steps=80, cooldown=0.25), []
    state = train_multiview.train_multiview_unet(tmp_path, None, recipe, lines.append)
    assert state.ema == "from cooldown-60"
    (level, flat, limit), (copy, cooled, rest) = staged
    assert (level.name, copy.name) == ("unet", "cooldown-60")
    assert (flat.steps, flat.cooldown) == (60, 0.0)
    assert (cooled.steps, cooled.cooldown) == (80, 0.25)
    assert cooled.ema_decay < flat.ema_decay
    assert limit is rest is None
    files = [
        (folder / "checkpoint.safetensors").read_bytes() for folder in (level, copy)
    ]
    assert files[0] == files[1]
    assert lines == ["cool-down: 20 steps from 60"]


def test_minutes_are_shared_and_the_cooldown_is_planned_by_their_speed(
    staged, tmp_path
):
    """Of ten minutes a quarter: 150 s of half a second a step, and half as many more
    minutes for a slower hour."""
    recipe = MultiViewRecipe(batch=8, steps=1000, cooldown=0.25, minutes=10.0)
    train_multiview.train_multiview_unet(tmp_path, None, recipe, print)
    (_, _, limit), (_, cooled, rest) = staged
    assert (limit, rest) == (7.5, 3.75)
    assert cooled.steps == 60 + 300
    assert cooled.cooldown == pytest.approx(300 / 360)


@pytest.mark.parametrize(
    ("cooldown", "names"), [(0.0, ["unet"]), (1.0, ["cooldown-7"])]
)
def test_a_stage_may_be_left_out(cooldown, names, staged, tmp_path):
    (tmp_path / "unet").mkdir()
    reached = {".step": np.array(7, np.int32)}
    save_file(reached, str(tmp_path / "unet" / "checkpoint.safetensors"))
    recipe = MultiViewRecipe(batch=8, steps=80, cooldown=cooldown)
    state = train_multiview.train_multiview_unet(tmp_path, None, recipe, print)
    assert state.ema == f"from {names[0]}"
    assert [folder.name for folder, _, _ in staged] == names


def test_what_is_written_is_the_average_with_the_start_s_vae(monkeypatch, tmp_path):
    written, lines = [], []
    start = SimpleNamespace(
        vae=hub.Network(None, "vae", "its sizes"),
        text_encoder=hub.Network(None, "begun", "of text"),
    )
    averaged = {"unet": "averaged", "text_encoder": "taught"}
    state = SimpleNamespace(ema=averaged)
    monkeypatch.setattr(train_multiview, "load_start", lambda name: start)
    monkeypatch.setattr(train_multiview, "network_config", lambda *_: "sizes")
    monkeypatch.setattr(train_multiview, "train_multiview_unet", lambda *_: state)
    monkeypatch.setattr(
        train_multiview,
        "save_stable_diffusion",
        lambda folder, **parts: written.append((folder, parts)),
    )
    train_multiview.train_multiview(tmp_path, tmp_path / "out", log=lines.append)
    ((folder, parts),) = written
    assert folder == tmp_path / "out"
    assert parts["unet"] == ("sizes", "averaged")
    assert parts["vae"] == ("its sizes", "vae")
    assert parts["text_encoder"] == ("of text", "taught")
    assert parts["tokenizer"] == train_prior.vocab_and_merges()
    assert lines == [f"wrote {folder}"]


def test_sets_are_weighed_by_their_noise_and_the_map_beside_it(monkeypatch):
    """Off by 1/2: 1/4 of the mean weight, and 0.2 of a map that is off by 0.3 where
    caption and camera are told."""
    schedule, z = SCHEDULE, np.full((4, 1, 2, 2, 3), 0.7, np.float32)
    white = np.zeros((4, 1, 2, 2, 4), np.float32)

    def unet(z_t, t, states, camera, rays, mutable):
        alpha, sigma = (a[t].reshape(-1, 1, 1, 1, 1) for a in schedule[:2])
        off = jnp.array([0.3, 0.3, 9.0, 9.0]).reshape(-1, 1, 1, 1, 1)
        sown = {"intermediates": {"expected": [jnp.zeros(white.shape) + off]}}
        return (z_t - alpha * 0.7) / sigma + 0.5, sown

    start = SimpleNamespace(text_encoder=SimpleNamespace(config=None))
    start.schedule = schedule
    monkeypatch.setattr(train_multiview, "MultiViewUNet", lambda *_: Module(unet))
    encoder = Module(lambda ids: ids)
    monkeypatch.setattr(train_multiview, "CLIPTextEncoder", lambda *_: encoder)
    config = SimpleNamespace(code_map=(8,))
    batch = {
        "z": z, "white": white, "ids": np.zeros((4, 2)),
        "orbit": np.full((4, 1, 3), 3.0),
        "seen": np.array([True, True, False, True]),
        "named": np.array([True, True, True, False]),
    }  # fmt: skip
    key, params = jax.random.key(0), {"unet": {}, "text_encoder": {}}
    made = train_multiview.noise_loss(config, start, jnp.float32, 0.2)
    both = jax.jit(
        lambda batch: (
            made(params, (), batch, key),
            train_multiview.map_loss(config, start, jnp.float32)(
                params, (), batch, key
            ),
        )
    )
    (loss, aux), (alone, _) = both(batch)
    np.testing.assert_allclose(alone, 0.09, rtol=1e-4)
    np.testing.assert_allclose(aux["map"], 0.09, rtol=1e-4)
    np.testing.assert_allclose(aux["mse"], 0.25, rtol=1e-3)
    drawn = jax.jit(lambda key: jax.random.uniform(jax.random.split(key)[0], (4,)))
    t = np.floor((np.arange(4) + np.asarray(drawn(key))) / 4 * 1000).astype(int)
    snr = (np.asarray(schedule.alphas)[t] / np.asarray(schedule.sigmas)[t]) ** 2
    want = 0.25 * (np.clip(snr, 0.1, 5) / snr).mean() + 0.2 * 0.09
    np.testing.assert_allclose(loss, want, rtol=1e-3)


def test_a_multi_view_network_goes_on_as_the_larger_one_that_it_is():
    unet = train_prior.UNET
    start = SimpleNamespace(unet=SimpleNamespace(config=unet))
    recipe = MultiViewRecipe(map_width=128)
    config = multiview_recipe.network_config(start, recipe)
    assert config.code_map == (128, 80, 40)
    again = SimpleNamespace(unet=SimpleNamespace(config=config))
    assert multiview_recipe.network_config(again, recipe) == config
