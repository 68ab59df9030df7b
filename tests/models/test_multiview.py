"""MultiViewUNet: what one view of a group tells the others, and what its files hold."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.cameras import camera_numbers, orbit_camera, plucker_rays
from sdsjax.models.loading import hub
from sdsjax.models.loading.configs_multiview import multiview_config, multiview_json
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.mapping import unet_table
from sdsjax.models.loading.mapping_multiview import multiview_table
from sdsjax.models.loading.save import save_component, save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.text_encoders.clip_tokenizer import train_word_tokenizer
from sdsjax.models.unets.multiview import MultiViewConfig, MultiViewUNet
from sdsjax.models.unets.stable_diffusion import UNet2DCondition, UNetConfig
from sdsjax.models.vae import VAEConfig

SIDE, VIEWS = 4, 3
UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=(8,),
    heads=(2,),
    down_attention=(True,),
    up_attention=(True,),
    layers=1,
    groups=4,
    epsilon=1e-5,
    context=6,
    linear_projection=True,
    sample_size=SIDE,
)
PLAIN = MultiViewConfig(UNET)
TOLD = MultiViewConfig(UNET, rays=True, code_tokens=2, code_width=10, harmonics=2)
MAPPED = TOLD._replace(code_map=(16, 8))


def random_params(config):
    """Parameters none of which is zero, so that every layer has its say."""
    draw = np.random.default_rng(1).normal
    shapes = hub.param_shapes("unet", config)
    return jax.tree.map(lambda s: np.float32(0.3 * draw(size=s.shape)), shapes)


@partial(jax.jit, static_argnames="side")
@partial(jax.vmap, in_axes=(0, None))
@partial(jax.vmap, in_axes=(0, None))
def told_of(azimuth, side):
    camera = orbit_camera(azimuth, 20.0, width=side, height=side)
    return camera_numbers(camera), plucker_rays(camera)


def inputs(config, groups=2, views=VIEWS, seed=0):
    """(z_t, t, text, camera, rays) of groups whose views stand round the object."""
    draw = np.random.default_rng(seed).normal
    azimuth = 10.0 + 360.0 / views * np.arange(views) + 5.0 * np.arange(groups)[:, None]
    camera, rays = jax.device_get(told_of(np.float32(azimuth), SIDE))
    return (
        np.float32(draw(size=(groups, views, SIDE, SIDE, 4))),
        np.array([100, 700], np.int32)[:groups],
        np.float32(draw(size=(groups, 5, UNET.context))),
        camera,
        rays if config.rays else None,
    )


@partial(jax.jit, static_argnums=(0, 1))
def _apply(config, dtype, params, *arrays):
    return MultiViewUNet(config, dtype).apply({"params": params}, *arrays)


def apply(config, params, *arrays, dtype=jnp.float32):
    """The network, compiled once for each config and shapes; numpy comes out."""
    return jax.device_get(_apply(config, dtype, params, *arrays))


def other(z):
    """z with one view, the second of the first group, moved."""
    moved = z.copy()
    moved[0, 1] += 1.0
    return moved


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(PLAIN, marks=pytest.mark.slow, id="mvdream"),
        pytest.param(TOLD, marks=pytest.mark.slow, id="rays and code"),
        pytest.param(MAPPED, id="code map"),
    ],
)
def network(request):
    return request.param, random_params(request.param)


# For tests that compile a program of their own: the network between holds no layer
# that the last does not hold. MVDream's, without any of them, meets the torch module in
# test_mvdream.
FIRST_AND_LAST = pytest.mark.parametrize(
    "network",
    [
        pytest.param(PLAIN, marks=pytest.mark.slow, id="mvdream"),
        pytest.param(MAPPED, id="code map"),
    ],
    indirect=True,
)


@pytest.mark.slow
def test_the_output_has_the_shape_of_the_latents(network):
    config, params = network
    arrays = inputs(config)
    assert apply(config, params, *arrays).shape == arrays[0].shape


@pytest.mark.slow
@FIRST_AND_LAST
def test_the_output_has_the_type_of_the_latents(network):
    config, params = network
    arrays = inputs(config)
    out = apply(config, params, *arrays)
    found = apply(config, params, *arrays, dtype=jnp.bfloat16)
    assert found.dtype == arrays[0].dtype
    np.testing.assert_allclose(found, out, atol=0.1 * np.abs(out).max())


def test_a_view_is_told_of_the_others_in_its_group_and_of_no_others(network):
    config, params = network
    z, *rest = inputs(config)
    before = apply(config, params, z, *rest)
    after = apply(config, params, other(z), *rest)
    moved = np.abs(after - before).max(axis=(2, 3, 4))
    assert np.all(moved[0] > 1e-4)
    np.testing.assert_allclose(moved[1], 0.0, atol=1e-6)


@pytest.mark.slow
@FIRST_AND_LAST
def test_views_of_groups_of_one_do_not_see_each_other(network):
    """As groups of three do not, above, by another program."""
    config, params = network
    z, t, text, camera, rays = inputs(config, groups=1)

    def alone(z):
        views = (None if a is None else a[0][:, None] for a in (z, camera, rays))
        z, c, r = views
        return apply(
            config, params, z, np.repeat(t, VIEWS), np.repeat(text, VIEWS, 0), c, r
        )

    moved = np.abs(alone(other(z)) - alone(z)).max(axis=(1, 2, 3, 4))
    assert moved[1] > 1e-4
    np.testing.assert_allclose(moved[[0, 2]], 0.0, atol=1e-6)


def test_views_permuted_with_their_cameras_come_out_permuted(network):
    config, params = network
    z, t, text, camera, rays = inputs(config)
    order = [2, 0, 1]
    turned = [None if a is None else a[:, order] for a in (z, camera, rays)]
    expected = apply(config, params, z, t, text, camera, rays)[:, order]
    found = apply(config, params, turned[0], t, text, *turned[1:])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_camera_matters(network):
    config, params = network
    z, t, text, camera, rays = inputs(config)
    told = apply(config, params, z, t, text, camera, rays)
    blind = apply(config, params, z, t, text, 0 * camera, rays)
    assert np.abs(told - blind).max() > 1e-3


@pytest.mark.slow
@FIRST_AND_LAST
def test_mapped_over_groups_is_a_batch_of_them(network):
    config, params = network
    arrays = inputs(config)

    def one(params, *arrays):
        arrays = (None if a is None else a[None] for a in arrays)
        return MultiViewUNet(config).apply({"params": params}, *arrays)[0]

    axes = (None, 0, 0, 0, 0, None if arrays[-1] is None else 0)
    mapped = jax.jit(jax.vmap(one, axes))(params, *arrays)
    np.testing.assert_allclose(mapped, apply(config, params, *arrays), atol=1e-5)


@pytest.mark.slow
def test_a_group_of_one_without_options_begins_as_the_plain_unet():
    z, t, text, camera, _ = inputs(PLAIN, views=1)

    @jax.jit
    def begin(key):
        params = MultiViewUNet(PLAIN).init(key, z, t, text, camera)["params"]
        return {name: leaf for name, leaf in params.items() if name != "unet"}

    own = begin(jax.random.key(0))
    assert own
    params = {**own, "unet": random_params(PLAIN)["unet"]}
    apply_plain = jax.jit(UNet2DCondition(UNET).apply)
    plain = apply_plain({"params": params["unet"]}, z[:, 0], t, text)
    np.testing.assert_allclose(
        apply(PLAIN, params, z, t, text, camera)[:, 0], plain, atol=1e-6
    )


def test_arrays_that_do_not_fit_are_refused_in_one_line():
    z, t, text, camera, _ = inputs(PLAIN)
    with pytest.raises(ValueError, match="16 numbers a view"):
        apply(PLAIN, random_params(PLAIN), z, t, text, camera[:, :2], None)
    with pytest.raises(ValueError, match="asks for rays"):
        apply(TOLD, random_params(TOLD), z, t, text, camera, None)
    z, t, text, camera, rays = inputs(MAPPED)
    z, rays = (jnp.concatenate([a, a], axis=2) for a in (z, rays))
    with pytest.raises(ValueError, match="no other size"):
        apply(MAPPED, random_params(MAPPED), z, t, text, camera, rays)


@pytest.mark.slow
def test_the_code_map_is_taught_by_its_own_loss_alone():
    arrays = inputs(MAPPED)
    module, params = MultiViewUNet(MAPPED), random_params(MAPPED)

    @jax.jit
    @jax.grad
    def slopes(params, weights):
        out, sown = module.apply({"params": params}, *arrays, mutable="intermediates")
        (shown,) = sown["intermediates"]["expected"]
        assert shown.shape == (*arrays[0].shape[:-1], 5)
        prediction, regression = jnp.sum(out**2), jnp.sum(shown**2)
        return weights @ jnp.stack([prediction, regression])

    def reached(*weights):
        grads = jax.device_get(slopes(params, np.float32(weights)))
        return {k for k, v in grads.items() if any(map(np.any, jax.tree.leaves(v)))}

    assert reached(1, 0) == {"unet", "camera_embed", "joint_code"}
    assert reached(0, 1) == {"joint_code", "code_map"}


def test_the_joint_code_sees_how_far_the_camera_stands():
    z, t, text, camera, rays = inputs(MAPPED, groups=1)
    farther = rays.copy()
    farther[..., 3:] *= 1.1
    params = random_params(MAPPED)

    @jax.jit
    def shown(params, rays):
        out = MultiViewUNet(MAPPED).apply(
            {"params": params}, z, t, text, camera, rays, mutable="intermediates"
        )
        return out[1]["intermediates"]["expected"][0]

    seen = [np.asarray(shown(params, r)) for r in (farther, rays)]
    assert np.abs(np.subtract(*seen)).max() > 1e-3


def test_saved_and_loaded_is_equal(network, tmp_path):
    config, params = network
    save_component(tmp_path, "unet", config, params, jnp.float32)
    loaded = hub.load_component(tmp_path, "unet")
    assert loaded.config == config
    assert isinstance(loaded.module, MultiViewUNet)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_a_whole_folder_is_read_back_by_its_own_loader(tmp_path):
    vocab, merges = train_word_tokenizer(["red", "ball"])
    text = CLIPTextConfig(len(vocab), UNET.context, 8, 1, 2, 8, "gelu", 1e-5)
    vae = VAEConfig(3, 3, 4, (8,), 1, 4, 0.5, 8)
    parts = {"unet": TOLD, "vae": vae, "text_encoder": text}
    trees = {
        name: jax.tree.map(
            lambda leaf: np.full(leaf.shape, 0.25, np.float32),
            hub.param_shapes(name, config),
        )
        for name, config in parts.items()
    }
    save_stable_diffusion(
        tmp_path,
        **{name: (parts[name], trees[name]) for name in parts},
        tokenizer=(vocab, merges),
    )
    loaded = hub.load_multiview(tmp_path)
    assert (loaded.unet.config, loaded.vae.config) == (TOLD, vae)
    jax.tree.map(np.testing.assert_array_equal, loaded.unet.params, trees["unet"])
    with pytest.raises(LoaderError, match="multi-view network's, not Stable Diffusion"):
        hub.load_stable_diffusion(tmp_path)
    with pytest.raises(LoaderError, match="not a multi-view network's"):
        hub.load_multiview("toybox-sd")


def test_the_keys_are_those_of_the_original_latent_diffusion_code():
    # Stable Diffusion's own levels, named by hand from MVDream's module
    levels = MultiViewConfig(
        UNET._replace(
            channels=(32, 64, 128, 128),
            heads=(1, 2, 4, 4),
            down_attention=(True, True, True, False),
            up_attention=(False, True, True, True),
            layers=2,
        )
    )
    table = {"/".join(e.path[1:]): e.key for e in multiview_table(levels)}
    assert len(table) == len(unet_table(levels.unet)) + 4 == 690
    assert len(set(table.values())) == 690
    for path, key in {
        "conv_in/kernel": "input_blocks.0.0.weight",
        "down_blocks_0/downsamplers_0/conv/kernel": "input_blocks.3.0.op.weight",
        "down_blocks_1/resnets_0/conv_shortcut/kernel": (
            "input_blocks.4.0.skip_connection.weight"
        ),
        "down_blocks_3/resnets_1/conv1/kernel": "input_blocks.11.0.in_layers.2.weight",
        "mid_block/attentions_0/proj_in/bias": "middle_block.1.proj_in.bias",
        "mid_block/resnets_1/norm2/scale": "middle_block.2.out_layers.0.weight",
        # without attention the doubling comes second, with it third
        "up_blocks_0/upsamplers_0/conv/bias": "output_blocks.2.1.conv.bias",
        "up_blocks_1/upsamplers_0/conv/bias": "output_blocks.5.2.conv.bias",
        "up_blocks_3/resnets_2/time_emb_proj/bias": (
            "output_blocks.11.0.emb_layers.1.bias"
        ),
        "up_blocks_3/attentions_2/transformer_blocks_0/attn1/to_out_0/kernel": (
            "output_blocks.11.1.transformer_blocks.0.attn1.to_out.0.weight"
        ),
        "conv_norm_out/scale": "out.0.weight",
        "conv_out/bias": "out.2.bias",
        "linear_2/kernel": "camera_embed.2.weight",
    }.items():
        assert table[path] == key


def test_a_config_is_read_back_and_a_strange_one_refused():
    for config in (PLAIN, TOLD, MAPPED):
        assert multiview_config(multiview_json(config)) == config
    alone = multiview_json(PLAIN._replace(code_map=(8,)))
    with pytest.raises(LoaderError, match=r"code_map = .* without rays"):
        multiview_config(alone)
    changes = [{"camera_dim": 12}, {"code_tokens": -1}, {"views": 4}]
    changes += [{"code_map": [12, 8]}, {"code_map": "wide"}]
    for change in changes:
        with pytest.raises(LoaderError, match=next(iter(change))):
            multiview_config({**multiview_json(TOLD), **change})
