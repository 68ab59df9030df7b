"""A whole folder as MVDream publishes it, in small and on random weights: read by the
prior, by VSD's second network, by the command that draws samples, and by no other."""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from test_multiview_prior import PIXELS, SIDE, TOLD, T, views_of, write

from sdsjax.cameras import camera_numbers
from sdsjax.estimators import ESTIMATORS
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.hub import kind_of
from sdsjax.models.unets import lora
from sdsjax.priors import multiview, stable_diffusion
from sdsjax.sample import main
from sdsjax.types import Linear, View

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import fixed_multiview as fixed

# one level, that attends: levels and their keys are tests/models/test_mvdream's
UNET = {
    **fixed.UNETS["the coarse level attends"],
    "attention_resolutions": [1],
    "channel_mult": [1],
    "context_dim": 8,
    "image_size": SIDE,
}
GROUP = 4
HURRY = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Its VAE, text encoder, tokenizer and scheduler are any Stable Diffusion's."""
    root = write(tmp_path_factory.mktemp("mvdream"), TOLD)
    (root / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    half = {k: v.astype(np.float16) for k, v in fixed.tensors(UNET).items()}
    fixed.write_unet(root, UNET, half, "diffusion_pytorch_model.fp16")
    path = root / "model_index.json"
    index = json.loads(path.read_text())
    index.update(
        _class_name="MVDreamPipeline",
        unet=["mv_unet", "MultiViewUNetModel"],
        image_encoder=[None, None],
        requires_safety_checker=False,
    )
    path.write_text(json.dumps(index))
    return root


@pytest.fixture(scope="module")
def source(folder):
    return multiview.load(str(folder), "a red mug", "a blue mug", group=GROUP)


@pytest.fixture(scope="module")
def view():
    return jax.device_get(views_of(jax.random.key(2)))


@pytest.fixture(scope="module")
def z():
    return np.random.default_rng(1).normal(size=(GROUP, SIDE, SIDE, 4)).astype("f4")


@pytest.mark.slow
def test_it_is_the_network_told_the_cameras_numbers(folder, source, view, z):
    assert source.image_shape == (PIXELS, PIXELS, 3)
    networks = hub.load_multiview(folder)
    ids = networks.tokenizer(["a red mug"])

    @jax.jit
    def both(params, unet, encoder, z, view):
        text = networks.text_encoder.module.apply({"params": encoder}, ids)
        numbers = jax.vmap(camera_numbers)(view.camera)[None]
        alone = networks.unet.module.apply(
            {"params": unet}, z[None], T[None], text, numbers
        )
        return source.bind(params).noise(z, T, view, ("cond",)).cond, alone[0]

    frozen = networks.unet.params, networks.text_encoder.params
    found, expected = both(source.params, *frozen, z, view)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_vsd_trains_a_lora_on_it(source, view, z):
    """e_psi begins as e_y, a step of `learn` moves factors and camera, and lowers the
    loss that it is taught by; the prior stays."""
    prior = source.bind(source.params)
    # all of the noise loss's draws are of the step's key: the same ones both times
    estimator = ESTIMATORS["vsd"](
        prior.schedule, guidance_scale=1.0, adapter_lr=1e-2, weighting="one"
    )
    zs, ts = z[None], T[None]
    views = View(jax.tree.map(lambda leaf: leaf[None], view.camera))
    linear = Linear(lambda g: g, lambda d: d)

    def run(params, key):
        bound = source.bind(params)
        state = estimator.init(bound, key, z)
        grad = estimator.estimate(bound, key, state, z, T, view).grad

        def step(state, _):
            after = estimator.learn(bound, key, state, zs, ts, views, None, linear)
            return after, after.loss

        state, losses = jax.lax.scan(step, state, None, length=12)
        return grad, losses, state.psi

    run = jax.jit(run, compiler_options=HURRY)
    grad, losses, psi = jax.device_get(run(source.params, jax.random.key(3)))
    # guidance 1: the direction is e_y - e_psi, and psi is still the base
    np.testing.assert_allclose(grad, 0.0, atol=1e-5)
    assert losses[-1] < 0.9 * losses[0]
    ups = {k: v for k, v in flatten_dict(psi.factors).items() if k[-1] == "up"}
    assert ups
    assert all(np.any(up) for up in ups.values())
    assert np.any(psi.camera["linear_2"]["kernel"])


@pytest.mark.slow
def test_loras_size_on_the_published_network_is_stable_diffusions():
    read = hub.COMPONENTS["unet"].read_config(fixed.MVDREAM)
    shapes = hub.param_shapes("unet", read)
    psi = jax.eval_shape(partial(lora.init, params=shapes, rank=4), jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(psi.factors))
    assert size == 829_952
    assert sum(leaf.size for leaf in jax.tree.leaves(psi.camera)) == 1_661_440


def test_the_other_prior_refuses_it_in_one_line(folder):
    with pytest.raises(LoaderError, match="load it as the prior multiview") as caught:
        stable_diffusion.load(str(folder), "a red mug")
    assert "\n" not in str(caught.value)


def test_imagedreams_folder_is_refused_by_its_name(folder, tmp_path):
    said = {**UNET, "ip_dim": 16, "ip_weight": 1.0}
    fixed.write_unet(tmp_path, said, fixed.tensors(UNET))
    with pytest.raises(LoaderError, match="ImageDream's image tokens are not"):
        hub.load_component(tmp_path, "unet")


def test_samples_are_drawn_from_it(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert kind_of(folder) == "multiview"
    said = ["a red mug", f"--prior={folder}", "--steps=2", "--sets=1", "--out=a.png"]
    assert main(said) == 0
    assert Image.open("a.png").size == (4 * 128, 128)
    assert "(multiview)" in capsys.readouterr().out


def test_steins_depth_looks_at_one_view(source, z):
    prior = source.bind(source.params)
    prior = prior._replace(monocular=lambda x: (x[..., 0], x))
    stein = partial(ESTIMATORS["stein"], prior.schedule)
    for baseline in ("depth", "normal"):
        with pytest.raises(ValueError, match=r"shows 4 together: choose baseline"):
            stein(baseline=baseline).init(prior, jax.random.key(0), z)
    stein(baseline="constant").init(prior, jax.random.key(0), z)
    stein(baseline="depth").init(prior._replace(group=1), jax.random.key(0), z[0])


@pytest.mark.slow
def test_a_monocular_estimate_is_the_companions(folder):
    given = {"depth_folder": "toybox-dpt", "group": 1}
    source = multiview.load(str(folder), "a red mug", **given)
    plain = stable_diffusion.load("toybox-sd", "a red mug", depth_folder="toybox-dpt")

    def disparity(bind, params, x):
        return bind(params).monocular(x)[0]

    x = np.random.default_rng(0).uniform(-1, 1, (32, 32, 3)).astype("f4")
    found, expected = (
        jax.jit(partial(disparity, s.bind), compiler_options=HURRY)(s.params, x)
        for s in (source, plain)
    )
    assert jnp.ptp(found) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_normals_alone_are_refused(folder):
    with pytest.raises(ValueError, match=r"needs prior\.depth_folder"):
        multiview.load(str(folder), "a red mug", normals_folder="toybox-normals")
