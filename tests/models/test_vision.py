"""DPT and CLIP against torch's answers in float64 (goldens/vision.npz), no torch."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import fixed_vision as vision
import fixed_weights as fixed
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sdsjax.models.loading import companions
from sdsjax.models.text_encoders.clip_tokenizer import (
    train_word_tokenizer,
    write_tokenizer,
)
from sdsjax.models.vision import clip_scorer, dpt

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "vision.npz"
TOLERANCE = 1e-6  # relative L2; torch's own float32 is at up to 5e-7 here
resize_aligned = jax.jit(dpt.resize_aligned, static_argnums=(1, 2))
prepare = jax.jit(clip_scorer.prepare, static_argnums=1)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS) as file:
        return dict(file)


# Normals are depth's network under another head, which the shipped one's accuracy sees
# (toybox/scoring/test_shipped_companions).
OF = [
    pytest.param(name, marks=pytest.mark.slow if name == "normals" else ())
    for name in companions.COMPANIONS
]


@pytest.fixture(scope="module", params=OF)
def network(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    vision.write_folder(folder, request.param)
    return request.param, companions.load_companion(folder, request.param)


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def relative(found, expected):
    found = np.asarray(found, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_networks(network, golden):
    name, (module, params, _) = network
    if name == "clip_scorer":

        @jax.jit
        def towers(params, x, ids):
            apply = partial(module.apply, {"params": params})
            each = apply(x, method="embed_images"), apply(ids, method="embed_texts")
            return *each, apply(x, ids)

        images, texts, cosines = towers(params, vision.image(24), fixed.inputs()["ids"])
        assert relative(images, golden["clip_images"]) < TOLERANCE
        assert relative(texts, golden["clip_texts"]) < TOLERANCE
        want = golden["clip_images"] @ golden["clip_texts"].T
        np.testing.assert_allclose(cosines, want, atol=2e-6)
        return

    @jax.jit
    def slope(params, x):
        """What is said of pictures, and the slope of its sum."""

        def summed(x):
            y = module.apply({"params": params}, x)
            return jnp.sum(y), y

        (_, y), gradient = jax.value_and_grad(summed, has_aux=True)(x)
        return y, gradient

    own, other = vision.SIZES
    drawn, gradient = slope(params, vision.image(own))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    away = jax.jit(module.apply)({"params": params}, vision.image(other))
    what = {"depth": "disparity", "normals": "normals"}[name]
    for size, y in ((own, drawn), (other, away)):
        want = golden[f"{what}_{size}"]
        assert relative(vision.thinned(y), want) < TOLERANCE
        if name == "normals":
            np.testing.assert_allclose(np.linalg.norm(y, axis=-1), 1.0, atol=1e-5)


@pytest.mark.slow
def test_a_hybrid(golden, tmp_path):
    """Kernels standardised, widths rounded to eights, a picture's edges padded."""
    folder = vision.write_folder(tmp_path, "depth", vision.HYBRID)
    module, params, _ = companions.load_companion(folder, "depth")
    y = vision.thinned(jax.jit(module.apply)({"params": params}, vision.image(32)))
    want = golden["hybrid_32"]
    assert np.mean(want > 0) > 0.5
    assert relative(y, want) < 2 * TOLERANCE  # of torch's own float32: 1e-6


def test_predict_takes_any_size(network):
    name, (module, params, _) = network
    if name == "clip_scorer":
        odd = np.zeros((1, 16, 24, 3), np.float32)
        with pytest.raises(ValueError, match="takes 24 x 24"):
            module.apply({"params": params}, odd, method="embed_images")
        return
    with pytest.raises(ValueError, match="multiples of 8"):
        module.apply({"params": params}, np.zeros((1, 32, 30, 3), np.float32))
    x = vision.image(40)[:, :, :30]
    found = jax.eval_shape(lambda x: dpt.predict(module, params, x), x)
    assert found.shape == (2, 40, 30) + ((3,) if name == "normals" else ())

    # the network's own slope is seen above; here that of the resizes, there and back
    def squared(variables, x):
        assert x.shape == (2, 32, 32, 3)
        y = jnp.repeat(jnp.repeat(x**2, 2, 1), 2, 2)
        return y if name == "normals" else y.sum(-1)

    plain = SimpleNamespace(config=module.config, apply=squared)

    @jax.jit
    @jax.value_and_grad
    def slope(x):
        return dpt.predict(plain, params, x).sum()

    value, gradient = slope(x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).min(axis=(0, 3)).max() > 0


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_aligned_doubling(size):
    """Corners stay, a ramp stays a ramp, rows and columns are not confused."""
    ramp = np.linspace(1.0, 4.0, size)
    x = np.float32(ramp[:, None] + np.arange(3.0) * 10)[None, ..., None]
    y = np.asarray(resize_aligned(x, 2 * size, 6))[0, ..., 0]
    rows = np.linspace(1.0, 4.0, 2 * size) if size > 1 else np.ones(2)
    want = rows[:, None] + np.linspace(0.0, 20.0, 6)
    np.testing.assert_allclose(y, want, rtol=1e-6)


def test_normals_of_a_plane_and_a_sphere():
    """Exact where disparity is exact: a tilted plane; near enough on a sphere."""
    side, focal = 64, np.array([70.0, 90.0], np.float32)
    u = (np.arange(side, dtype=np.float32) + 0.5 - side / 2)[None, :] / focal[0]
    v = (np.arange(side, dtype=np.float32) + 0.5 - side / 2)[:, None] / focal[1]
    normal = np.array([0.4, -0.3, -1.0], np.float32) / np.sqrt(np.float32(1.25))
    from_disparity = jax.jit(dpt.normals_from_disparity)
    ray = normal[0] * u + normal[1] * v + normal[2]
    found = from_disparity(ray / -2.0, focal)
    np.testing.assert_allclose(found, np.broadcast_to(normal, found.shape), atol=1e-4)
    # the same from a disparity that is known up to scale and shift
    vague = from_disparity((ray / -2.0 - 0.1) / 3.0, focal, scale=3.0, shift=0.1)
    np.testing.assert_allclose(vague, found, atol=1e-4)
    # a ball of radius 1, 3 in front
    rays = np.stack([u + 0 * v, v + 0 * u, np.ones((side, side), np.float32)], -1)
    square = np.sum(rays**2, axis=-1)
    inside = 9.0 - 8.0 * square
    depth = (3.0 - np.sqrt(np.maximum(inside, 0.0))) / square
    truth = depth[..., None] * rays - np.array([0.0, 0.0, 3.0])
    found = np.asarray(from_disparity(1.0 / depth, focal))
    cosine = np.where(inside > 1.0, np.sum(found * truth, axis=-1), 1.0)
    assert cosine.min() > 0.99


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 61), (13, 16), (24, 24)])
def test_preparation_is_pillows(height, width):
    """Resize and crop against Pillow's bicubic in floating point."""
    rgb = 0.5 + 0.5 * fixed.uniform("rgb", (2, height, width, 3))
    short = min(height, width)
    size = (width * 24 // short, height * 24 // short)
    left, top = ((s - 24) // 2 for s in size)
    rows = []
    for picture in rgb:
        planes = [
            np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BICUBIC))
            for p in np.moveaxis(picture, -1, 0)
        ]
        rows.append(np.stack(planes, -1)[top : top + 24, left : left + 24])
    want = (np.clip(rows, 0, 1) - clip_scorer.MEAN) / clip_scorer.DEVIATION
    found = prepare(rgb, 24)
    np.testing.assert_allclose(found, want, atol=2e-5)


def test_clip_distance(tmp_path):
    vocab, merges = train_word_tokenizer(["red", "cube"])
    end = vocab["<|endoftext|>"]
    text = {**vision.CLIP["text_config"], "vocab_size": len(vocab)}
    text.update(bos_token_id=end - 1, eos_token_id=end)
    vision.write_folder(tmp_path, "clip_scorer", {**vision.CLIP, "text_config": text})
    write_tokenizer(tmp_path, vocab, merges, 12)
    network, tokenizer = companions.load_clip_scorer(tmp_path)
    distance = clip_scorer.clip_distance(network, tokenizer)
    rgb = 0.5 + 0.5 * fixed.uniform("rgb", (3, 30, 40, 3))
    found = distance(rgb, ["red cube", "cube"])
    assert found.shape == (3, 2)
    ids, x = np.array(tokenizer(["cube"])), prepare(rgb, 24)
    apply = jax.jit(network.module.apply)
    cosines = np.asarray(apply({"params": network.params}, x, ids))
    np.testing.assert_allclose(np.asarray(found)[:, 1], 1 - cosines[:, 0], atol=1e-5)
    # the end token decides, what pads after it does not
    ids[0, 4:] = 5
    same = apply({"params": network.params}, x, ids)
    np.testing.assert_allclose(same, cosines, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected \[b h w 3\]"):
        distance(rgb[0], ["cube"])
