"""The picture as a representation: contract, both spaces, the gradient at the rim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.representations.image import Image, image


def begun_and_drawn(representation):
    """(params, Rendering, (total, terms)) of it as it begins, by one program."""

    @jax.jit
    def whole(key):
        params, state = representation.init(key)
        drawn = representation.render(params, state, None, key)
        return params, drawn, representation.regularize(params, state, drawn, 0)

    return jax.device_get(whole(jax.random.key(0)))


@pytest.mark.parametrize(
    ("space", "shape"), [("image", (6, 5, 3)), ("latent", (4, 4, 4))]
)
def test_contract(space, shape):
    weights = {"total_variation": 1.0, "magnitude": 0.1}
    representation = image(shape=shape, space=space, losses=weights)
    params, drawn, (total, terms) = begun_and_drawn(representation)
    assert representation.space == space
    assert params.pixels.shape == shape
    assert drawn.rgb.shape == shape
    assert drawn.rgb.dtype == params.pixels.dtype
    assert drawn.opacity.shape == drawn.depth.shape == shape[:2]
    assert drawn.normal.shape == (*shape[:2], 3)
    np.testing.assert_allclose(total, sum(terms.values()), rtol=1e-6)
    assert set(terms) == set(weights)


def test_latents_pass_as_they_are():
    params, drawn, _ = begun_and_drawn(image(shape=(2, 2, 4), space="latent"))
    np.testing.assert_array_equal(drawn.rgb, params.pixels)
    assert np.abs(params.pixels).max() > 1


def test_rgb_stays_in_range_and_keeps_its_gradient():
    representation = image(shape=(1, 3, 3))
    pixels = np.float32([[[-2.0, 0.3, 5.0]] * 3])

    def total(pixels):
        rgb = representation.render(Image(pixels), (), None, None).rgb
        return jnp.sum(rgb), rgb

    slope, rgb = jax.jit(jax.grad(total, has_aux=True))(pixels)
    np.testing.assert_allclose(np.asarray(rgb)[0, 0], [0, 0.3, 1], atol=1e-6)
    np.testing.assert_array_equal(slope, np.ones_like(pixels))


def test_gray_is_gray():
    begin = jax.jit(image(shape=(3, 3, 3), init="gray").init)
    params, _ = begin(jax.random.key(0))
    np.testing.assert_array_equal(params.pixels, np.full((3, 3, 3), 0.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "pixel"}, "'pixel'.*image, latent"),
        ({"init": "zero"}, "'zero'.*noise, gray"),
        ({"shape": (4, 4)}, "height, width, channels"),
        ({"shape": (4, 4, 4)}, "3 channels"),
        ({"losses": {"tv": 1.0}}, "unknown tv.*total_variation"),
    ],
)
def test_bad_input_is_one_clear_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        image(**{"shape": (4, 4, 3), **settings})
    assert "\n" not in str(caught.value)
