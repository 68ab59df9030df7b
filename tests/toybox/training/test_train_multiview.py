"""The recipe of toybox-mv in small: its sets, its batches, its start, its stages."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.unets.multiview import MultiViewUNet
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig
from sdsjax.toybox.training import fit as fits
from sdsjax.toybox.training import multiview_recipe, train_multiview, view_sets
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.multiview_recipe import MultiViewRecipe
from sdsjax.toybox.training.train_prior import POSITIONS, word_tokenizer
from sdsjax.toybox.training.view_sets import view_conditions

SIDE = 4
UNET = UNetConfig(*(4, 4, (8,), (1,), (False,), (False,), 1, 4, 1e-5, 8, True, SIDE))
VAE = VAEConfig(3, 3, 4, (4, 4), 1, 2, 0.5, 2 * SIDE)
RECIPE = MultiViewRecipe(
    singles=1, pairs=1, pools=2, pool_steps=4, batch=8, bank=6, bank_steps=2,
    code_tokens=1, code_width=8, steps=8, cooldown=0.5, map_width=0,
)  # fmt: skip


conditions = jax.jit(view_conditions, static_argnums=2)


def random_params(name, config):
    shapes = hub.param_shapes(name, config)
    draw = np.random.default_rng(len(jax.tree.leaves(shapes))).normal
    return jax.tree.map(lambda s: np.float32(0.3 * draw(size=s.shape)), shapes)


@pytest.fixture(scope="module")
def start():
    tokenizer = word_tokenizer()
    text = CLIPTextConfig(tokenizer.vocab_size, 8, 8, 1, 2, POSITIONS, "gelu", 1e-5)

    def network(name, config):
        module = hub.COMPONENTS[name].module(config)
        return hub.Network(module, random_params(name, config), config)

    return hub.StableDiffusion(
        network("unet", UNET), network("vae", VAE), network("text_encoder", text),
        tokenizer, NoiseSchedule.scaled_linear(), "epsilon",
    )  # fmt: skip


@pytest.fixture
def rendered(monkeypatch):
    """Pools of noise in the place of renders; the folders that were asked for."""
    asked = []

    def build_pool(folder, *, singles, pairs, seed, views, log):
        asked.append(folder.name)
        rng = np.random.default_rng(seed)
        geometry = np.repeat(np.arange(len(pools.geometries()), dtype=np.int32), views)
        layers = rng.integers(0, 256, (len(geometry), 2 * SIDE, 2 * SIDE, 6), np.uint8)
        orbit = rng.uniform(-40.0, 40.0, (len(geometry), 3)).astype(np.float32)
        orbit[:, 2] = 3.0 + np.arange(len(geometry)) / 1000
        view = np.zeros(len(geometry), np.int32)
        return pools.Pool(layers, geometry, view, orbit=orbit)

    monkeypatch.setattr(pools, "build_pool", build_pool)
    return asked


def test_a_set_has_one_colour_and_one_background(rendered, tmp_path):
    pool = pools.build_pool(tmp_path, singles=1, pairs=1, seed=0, views=4, log=print)
    rng = np.random.default_rng(0)
    drawn = view_sets.draw_sets(pool, rng, 5, pair_fraction=0.5)
    for array in (drawn.row // 4, drawn.color_a, drawn.color_b, drawn.background):
        of_sets = array.reshape(5, 4, -1)
        np.testing.assert_array_equal(of_sets, np.repeat(of_sets[:, :1], 4, 1))
    np.testing.assert_array_equal(drawn.row.reshape(5, 4) % 4, [[0, 1, 2, 3]] * 5)


def test_batches_are_a_pure_function_of_the_step(rendered, start, tmp_path):
    one = view_sets.batches(tmp_path, start, RECIPE)
    other = view_sets.batches(tmp_path, start, RECIPE)
    steps = (0, 5, 3, 9)
    for step in steps:
        jax.tree.map(np.testing.assert_array_equal, one(step), other(step))
        other(step + 1)
    # pools take turns of pool_steps, banks of bank_steps; a pool comes back
    assert set(rendered) == {"0", "1"}
    shapes = {one(step)["z"].shape for step in range(12)}
    assert shapes == {(2, 4, SIDE, SIDE, 4), (8, 1, SIDE, SIDE, 4)}


def test_a_latent_is_that_of_its_own_camera(rendered, start, tmp_path):
    batch_at = view_sets.batches(tmp_path, start, RECIPE)
    grouped = next(b for b in map(batch_at, range(9)) if b["z"].shape[1] == 4)
    # the pool's distances count its rows
    rows = np.round(1000 * (grouped["orbit"][..., 2] - 3.0)).astype(int)
    np.testing.assert_array_equal(rows - rows[:, :1], [[0, 1, 2, 3]] * len(rows))


def test_an_untold_camera_is_the_null_camera():
    orbit = np.broadcast_to(np.float32([30.0, 10.0, 3.0]), (2, 3, 3))
    camera, rays = jax.device_get(conditions(orbit, np.array([True, False]), SIDE))
    assert np.abs(camera[0]).sum() > 1
    assert np.abs(rays[0]).sum() > 1
    assert not camera[1].any()
    assert not rays[1].any()


@pytest.mark.slow
def test_what_the_start_knew_of_a_picture_is_where_training_begins(start):
    """The larger network's prediction does not see rays or camera at first; without the
    joint code it is the start's."""
    recipe = RECIPE._replace(code_tokens=0)
    params = multiview_recipe.initial_params(start, recipe)["unet"]
    config = multiview_recipe.network_config(start, recipe)
    z = jax.random.normal(jax.random.key(0), (2, 1, SIDE, SIDE, 4))
    t, text = jnp.array([100, 800]), jnp.ones((2, 5, 8))
    orbit = jnp.broadcast_to(jnp.array([30.0, 10.0, 3.0]), (2, 1, 3))
    camera, rays = conditions(orbit, jnp.ones(2, bool), SIDE)
    apply = jax.jit(MultiViewUNet(config).apply)
    out = apply({"params": params}, z, t, text, camera, rays)
    unet = start.unet
    apply = jax.jit(unet.module.apply)
    before = apply({"params": unet.params}, z[:, 0], t, text)
    np.testing.assert_allclose(out[:, 0], before, atol=1e-5)


def test_weights_of_another_network_are_refused(start):
    unet = start.unet.params
    with pytest.raises(ValueError, match="no such place"):
        multiview_recipe.grown({"strange": {"kernel": np.zeros((1, 1))}}, unet)
    narrow = {"conv_in": {"kernel": np.zeros((3, 3, 9, 8))}}
    with pytest.raises(ValueError, match="does not fit"):
        multiview_recipe.grown(narrow, unet)


def test_the_map_stage_is_fitted_without_decay_in_a_quarter_of_the_time(
    start, tmp_path, monkeypatch
):
    """What its loss does not reach stays; that it does, and learns, is slow, below."""
    given, asked = {"unet": {}}, []

    def fit(folder, plan, params, **options):
        asked.append((folder.name, plan, params, options))
        return SimpleNamespace(ema="averaged")

    monkeypatch.setattr(train_multiview, "initial_params", lambda *_: given)
    monkeypatch.setattr(train_multiview, "fit", fit)
    recipe = RECIPE._replace(map_width=128, map_steps=3, map_batch=4, minutes=20.0)
    made = train_multiview.train_code_map(tmp_path, start, recipe, print)
    assert made == "averaged"
    assert train_multiview.train_code_map(tmp_path, start, RECIPE, print) is given
    ((name, plan, params, options),) = asked
    assert (name, params) == ("map", given)
    assert (plan.steps, plan.weight_decay) == (3, 0.0)
    assert (options["minutes"], options["pictures"]) == (5.0, 4)


@pytest.mark.slow
def test_the_map_stage_teaches_the_code_and_leaves_the_rest(rendered, start, tmp_path):
    recipe = RECIPE._replace(map_width=128, map_steps=3, map_batch=4)
    begun = multiview_recipe.initial_params(start, recipe)
    lines = []
    params = train_multiview.train_code_map(tmp_path, start, recipe, lines.append)
    assert "pictures_per_second" in lines[-1]

    def same(name):
        pair = (jax.tree.leaves(tree["unet"][name]) for tree in (begun, params))
        return all(np.array_equal(a, b) for a, b in zip(*pair, strict=True))

    assert same("unet")
    assert same("camera_embed")
    assert not same("joint_code")
    assert not same("code_map")
    jax.tree.map(
        np.testing.assert_array_equal, begun["text_encoder"], params["text_encoder"]
    )


@pytest.mark.slow
def test_a_multi_view_prior_may_be_the_start(start, tmp_path):
    params = multiview_recipe.initial_params(start, RECIPE)
    config = multiview_recipe.network_config(start, RECIPE)
    train_multiview.write_multiview(tmp_path, start, config, params)
    wider = RECIPE._replace(map_width=128)
    again = multiview_recipe.load_start(str(tmp_path))
    assert multiview_recipe.network_config(again, RECIPE) == config
    grown = multiview_recipe.initial_params(again, wider)["unet"]
    kernel = grown["unet"]["conv_in"]["kernel"]
    # z_t's and the rays' rows are the start's, the code map's are new
    np.testing.assert_array_equal(
        kernel[:, :, :10], again.unet.params["unet"]["conv_in"]["kernel"]
    )
    assert kernel.shape[2] == 15
    assert not np.asarray(kernel[:, :, 10:]).any()


class Stop(Exception):
    """Stands in for a kill."""


@pytest.mark.slow
def test_a_stopped_run_ends_as_the_whole_one(rendered, start, tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "SAVE_EVERY", 0.0)

    def train(folder):
        return train_multiview.train_multiview_unet(
            folder, start, RECIPE, lambda line: None
        )

    whole = train(tmp_path / "whole")
    batches = train_multiview.batches

    def stopping(*arguments, **options):
        batch_at = batches(*arguments, **options)

        def until(step):
            if step == 3:
                raise Stop
            return batch_at(step)

        return until

    monkeypatch.setattr(train_multiview, "batches", stopping)
    with pytest.raises(Stop):
        train(tmp_path / "parts")
    monkeypatch.setattr(train_multiview, "batches", batches)
    parts = train(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert int(whole.step) == RECIPE.steps
    # the cool-down went on from a copy: the level stage may be continued
    level = fits.read_arrays(tmp_path / "whole" / "unet" / "checkpoint.safetensors")
    assert level[".step"] == 4


def test_the_folder_is_read_back(start, tmp_path):
    params = multiview_recipe.initial_params(start, RECIPE)
    config = multiview_recipe.network_config(start, RECIPE)
    train_multiview.write_multiview(tmp_path, start, config, params)
    loaded = hub.load_multiview(tmp_path)
    assert loaded.unet.config == config
    for got, expected in zip(
        jax.tree.leaves(loaded.unet.params), jax.tree.leaves(params["unet"])
    ):
        np.testing.assert_array_equal(got, np.asarray(expected, np.float16))
    assert (
        loaded.tokenizer(["a red ball"]).tolist()
        == start.tokenizer(["a red ball"]).tolist()
    )
