"""Parameters are checked by their shape alone, and known before there are any."""

import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors
from flax import linen as nn

from sdsjax.models import parameters
from sdsjax.models.layers import SpatialTransformer
from sdsjax.models.text_encoders.clip import CLIPTextConfig, CLIPTextEncoder


def layers(kinds):
    """A network of a convolution and a dense layer, of flax's classes or of ours."""

    class Network(kinds.Module):
        @nn.compact
        def __call__(self, x):
            x = kinds.Conv(3, (2, 2), name="conv")(x)
            scale = self.param("scale", nn.initializers.ones, (3,), jnp.bfloat16)
            made = self.param("made", lambda key: jax.random.normal(key, (3,)))
            return kinds.Dense(5, name="dense")(x * scale + made)

    return Network()


X = np.float32(np.random.default_rng(1).normal(size=(2, 4, 4, 2)))


@cache
def drawn_of(kinds):
    """The variables that a network of flax's classes, or of ours, begins with."""
    return jax.device_get(jax.jit(layers(kinds).init)(jax.random.key(0), X))


def test_a_network_is_what_it_is_of_flax_s_own_classes():
    drawn, wanted = drawn_of(parameters), drawn_of(nn)
    jax.tree.map(np.testing.assert_array_equal, drawn, wanted)
    ours, flax_s = (jax.jit(layers(kinds).apply) for kinds in (parameters, nn))
    np.testing.assert_array_equal(ours(drawn, X), flax_s(wanted, X))


@pytest.mark.parametrize("name", ["conv", "dense", "scale", "made"])
def test_an_array_of_another_shape_is_refused(name):
    network = layers(parameters)
    params = dict(drawn_of(parameters)["params"])
    # all would be broadcast in silence, but for the kernels
    wrong = jax.tree.map(lambda a: a[..., :1], params[name])
    with pytest.raises(errors.ScopeParamShapeError, match="shape"):
        jax.eval_shape(network.apply, {"params": {**params, name: wrong}}, X)
    del params[name]
    with pytest.raises(
        (errors.ScopeParamNotFoundError, errors.ScopeCollectionNotFound)
    ):
        jax.eval_shape(network.apply, {"params": params}, X)


@pytest.mark.parametrize(("kinds", "times"), [(parameters, 0), (nn, 1)])
def test_no_initialiser_is_traced_where_the_array_is_there(kinds, times):
    asked = []

    def draw(key, shape, dtype):
        asked.append(shape)
        return nn.initializers.lecun_normal()(key, shape, dtype)

    layer = kinds.Dense(3, use_bias=False, kernel_init=draw)
    params = jax.eval_shape(layer.init, jax.random.key(0), X)
    assert asked
    asked.clear()
    jax.eval_shape(layer.apply, params, X)
    assert len(asked) == times


def test_modules_matrices_and_convolutions_are_these():
    package = Path(parameters.__file__).parents[1]
    slower = re.compile(r"\(nn\.Module\):|\bnn\.(Dense|Conv)\b")
    found = {
        path.name for path in package.rglob("*.py") if slower.search(path.read_text())
    }
    assert found == {"parameters.py"}


NETWORKS = {
    "every kind of parameter": (layers(parameters), (X,)),
    "transformer": (
        SpatialTransformer(2, 2, linear=False, depth=2, remat="blocks"),
        (np.ones((1, 2, 2, 4), np.float32), np.ones((1, 3, 6), np.float32)),
    ),
    "text encoder": (
        CLIPTextEncoder(CLIPTextConfig(9, 4, 8, 1, 2, 3, "gelu", 1e-5)),
        (np.zeros((1, 2), np.int32),),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_those_of_init(name):
    network, inputs = NETWORKS[name]
    wanted = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    assert parameters.parameter_shapes(network, *inputs) == wanted


def test_a_network_is_drawn_after_its_shapes_were_asked_for():
    layer = parameters.Dense(2)
    parameters.parameter_shapes(layer, X)
    drawn = jax.jit(layer.init)(jax.random.key(0), X)
    assert np.abs(drawn["params"]["kernel"]).min() > 0
