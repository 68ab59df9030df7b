"""A mesh of one device: what is mapped on it is what is mapped without it.

Several devices need processes of their own: test_sharding.py and test_assets.py (slow).
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from sdsjax.distributed import assets, parameters, sharding
from sdsjax.distributed.sharding import MeshError, map_views


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))


def test_views_are_mapped_alike_on_a_mesh_and_in_turns(mesh):
    """Values and the gradient of what all views share."""

    def view(shared, x):
        return {"y": shared * x, "square": (shared * x) ** 2}

    x, shared = jnp.arange(5.0), jnp.float32(3.0)

    def both(mapped):
        def total(shared):
            found = mapped(shared, x)
            return found["square"].sum(), found

        return jax.value_and_grad(total, has_aux=True)(shared)

    ways = [map_views(view, None), map_views(view, mesh)]
    ways += [map_views(view, mesh, at_once=2), map_views(view, None, at_once=5)]
    for (value, found), grad in jax.jit(lambda: [both(way) for way in ways])():
        np.testing.assert_allclose(found["y"], 3 * np.arange(5), rtol=1e-6)
        np.testing.assert_allclose(value, 9 * 30, rtol=1e-6)
        np.testing.assert_allclose(grad, 2 * 3 * 30, rtol=1e-6)


def test_assets_are_mapped_alike_on_a_mesh(mesh):
    """Arguments with an axis of assets and without one; and the state of both."""

    def step(state, key):
        return {"x": state["x"] + key, "n": state["n"]}

    axes = {"x": 0, "n": None}
    state = {"x": jnp.arange(6.0).reshape(3, 2), "n": jnp.int32(4)}
    for where in (None, mesh):
        mapped = assets.map_assets(step, where, (axes, None), axes)
        found = jax.jit(mapped)(state, jnp.float32(1.0))
        np.testing.assert_array_equal(found["x"], np.arange(6.0).reshape(3, 2) + 1)
        assert found["n"] == 4
    placed = assets.place_assets(state, mesh, axes)
    assert placed["x"].sharding == NamedSharding(mesh, PartitionSpec("data"))
    assert placed["n"].sharding == NamedSharding(mesh, PartitionSpec())
    alone = assets.place_assets(state, None, axes)
    assert alone["x"].sharding == SingleDeviceSharding(jax.devices()[0])
    np.testing.assert_array_equal(placed["x"], alone["x"])


def test_states_are_whole_on_each_device_and_pieces_stay_where_they_are(mesh):
    whole = NamedSharding(mesh, PartitionSpec())
    assert sharding.replicated(None) == SingleDeviceSharding(jax.devices()[0])
    assert sharding.replicated(mesh) == whole
    tree = sharding.place_prior({"a": np.ones(3)}, mesh)
    assert tree["a"].sharding == whole
    # of one device nothing is split, and results are by themselves where they belong
    assert not parameters.is_split(tree["a"])
    assert not parameters.is_split(np.ones(3))
    assert sharding.whole_results(None) == sharding.whole_results(mesh) == {}


def test_between_processes_results_are_told_to_be_whole(mesh, monkeypatch):
    monkeypatch.setattr(sharding, "processes", lambda: 2)
    whole = NamedSharding(mesh, PartitionSpec())
    assert sharding.whole_results(mesh) == {"out_shardings": whole}
    placed = sharding.replicate({"a": np.arange(3.0, dtype=np.float32)}, mesh)
    assert placed["a"].sharding == whole
    np.testing.assert_array_equal(placed["a"], np.arange(3.0))


def test_parameters_are_split_only_over_a_mesh_of_models():
    one = SimpleNamespace(shape={"data": 4, "model": 1})
    assert parameters.parameter_sharding(None) is None
    assert parameters.parameter_sharding(one) is None


@pytest.fixture
def processes(monkeypatch):
    """Meshes of so many processes with so many devices each, as their layout."""

    def make(hosts, own, samples, **sizes):
        devices = [
            SimpleNamespace(process_index=i // own, id=i, device_kind="cpu")
            for i in range(hosts * own)
        ]
        monkeypatch.setattr(sharding, "processes", lambda: hosts)
        monkeypatch.setattr(jax, "local_device_count", lambda: own)
        monkeypatch.setattr(jax, "devices", lambda: devices)
        monkeypatch.setattr(sharding, "Mesh", lambda laid, *_, **__: laid)
        return sharding.make_meshes(samples, **sizes)

    return make


def owners(mesh):
    return [[device.process_index for device in row] for row in mesh]


def test_a_mesh_of_processes_has_as_many_rows_of_each(processes):
    first, second = processes(2, 4, [8, 4])
    assert first is second  # one mesh for all phases
    assert owners(first) == [[0], [0], [1], [1]]  # the four that all can share
    (mesh,) = processes(2, 4, [8], model=2)
    assert owners(mesh) == [[0, 0], [0, 0], [1, 1], [1, 1]]
    (mesh,) = processes(2, 4, [8], data=2)
    assert owners(mesh) == [[0], [1]]


@pytest.mark.parametrize(
    ("samples", "sizes", "said"),
    [
        ([8], {"model": 3}, "mesh.model = 3 does not divide the 4 device.s. of a proc"),
        ([3], {}, "the 3 sample.s. .* do not divide over 2 processes"),
        ([8], {"data": 3}, "mesh.data = 3 does not fit 8 sample.s.*choose 2, 4, 8 or"),
    ],
)
def test_a_mesh_of_processes_that_cannot_be_is_one_line(
    processes, samples, sizes, said
):
    with pytest.raises(MeshError, match=said) as error:
        processes(2, 4, samples, **sizes)
    assert "\n" not in str(error.value)


class Device:
    device_kind = "H200"

    def __init__(self, number):
        self.number = number

    def __str__(self):
        return f"gpu:{self.number}"


def test_the_log_says_what_is_used_and_what_stays_idle(monkeypatch):
    devices = [Device(i) for i in range(4)]
    laid = SimpleNamespace(
        devices=np.array([devices[:2]]), shape={"data": 1, "model": 2}
    )
    line = sharding.describe(laid, devices)
    assert line.startswith("2 of 4 device(s) (H200), data 1 x model 2; idle, as mesh")
    assert line.endswith("gpu:2, gpu:3")
    monkeypatch.setattr(sharding, "processes", lambda: 2)
    laid.devices = np.array([devices])
    assert sharding.describe(laid, devices).endswith("data 1 x model 2 of 2 processes")
