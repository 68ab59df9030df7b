"""Several processes as threads of one: what each learns of what process 0 found.

Their collectives are a table that all read; real processes are in test_hosts.py (slow).
"""

import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sdsjax.distributed import hosts
from sdsjax.distributed.hosts import Elsewhere
from sdsjax.distributed.launch import Launch, LaunchError

PATIENCE = 20


class Threads:
    """So many processes, a thread each; their collectives."""

    def __init__(self, count):
        self.count, self.own = count, threading.local()
        self.meeting = threading.Barrier(count)
        self.said = [None] * count

    def process_allgather(self, value):
        self.said[self.own.index] = np.asarray(value)
        self.meeting.wait(PATIENCE)
        found = np.stack(self.said)
        self.meeting.wait(PATIENCE)
        return found

    def broadcast_one_to_all(self, value):
        found = list(self.process_allgather_of_any(value))
        shapes = {(one.shape, one.dtype) for one in found}
        assert len(shapes) == 1, shapes  # as the real one asks
        return found[0]

    def process_allgather_of_any(self, value):
        self.said[self.own.index] = np.asarray(value)
        self.meeting.wait(PATIENCE)
        found = list(self.said)
        self.meeting.wait(PATIENCE)
        return found

    def run(self, function):
        """What function(index) returned or raised in each."""
        found = [None] * self.count

        def one(index):
            self.own.index = index
            try:
                found[index] = function(index)
            except Exception as error:
                found[index] = error

        threads = [
            threading.Thread(target=one, args=(i,), daemon=True)
            for i in range(self.count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "one waits for another that does not come"
        return found


@pytest.fixture
def three(monkeypatch):
    threads = Threads(3)
    monkeypatch.setattr(hosts, "multihost_utils", threads)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: threads.own.index)
    return threads


def test_what_process_0_finds_all_know_and_it_alone_looks(three):
    looked = []

    def look():
        looked.append(three.own.index)
        return {"step": 40, "path": "a/ü", "rows": [1, 2]}

    found = three.run(lambda index: hosts.share(look))
    assert looked == [0]
    assert found == [{"step": 40, "path": "a/ü", "rows": [1, 2]}] * 3


class Full(OSError):
    exit_code = 1


@pytest.mark.parametrize(("raised", "code"), [(Full("full"), 1), (ValueError("x"), 2)])
def test_what_process_0_raises_is_raised_by_all(raised, code, three):
    def fail():
        raise raised

    first, *others = three.run(lambda index: hosts.share(fail))
    assert first is raised
    for other in others:
        assert isinstance(other, Elsewhere)
        assert str(other) == f"process 0: {raised}"
        assert other.exit_code == code


def test_one_config_is_agreed_on_whatever_the_order_of_its_keys(three):
    configs = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 2}]
    assert three.run(lambda index: hosts.agree(configs[index])) == [None] * 3


def test_another_config_is_named_by_its_process_in_all(three):
    configs = [{"seed": 0}, {"seed": 0}, {"seed": 3}]
    found = three.run(lambda index: hosts.agree(configs[index]))
    assert {type(error) for error in found} == {LaunchError}
    assert {str(error) for error in found} == {str(found[0])}
    assert "process 2 has another config than process 0 (sha256 " in str(found[0])
    assert "all processes the same command but for --process_id" in str(found[0])


def test_who_could_not_read_its_own_config_has_a_line_of_its_own(three):
    configs = [{"seed": 0}, None, None]
    first, *others = three.run(lambda index: hosts.agree(configs[index]))
    assert "process 1, 2 has another config" in str(first)
    assert others == [None, None]


def test_a_signal_to_one_is_known_to_all_at_every_tenth_step(three):
    asked = [None, 15, None]
    assert three.run(lambda i: hosts.agreed_signal(asked[i], 20)) == [15] * 3
    assert three.run(lambda i: hosts.agreed_signal(asked[i], 21)) == [None] * 3
    assert three.run(lambda i: hosts.agreed_signal(None, 30)) == [None] * 3


def test_arrays_of_process_0_arrive_to_the_last_bit(three):
    tree = {
        "zero": np.array([-0.0, np.nan, 1e-40], np.float32),
        "key": jax.random.key(7),
        "none": np.zeros((0, 3), np.float32),
        "flags": np.array([[True], [False]]),
    }
    template = jax.eval_shape(lambda: tree)
    found = three.run(lambda i: hosts.share_arrays(tree if i == 0 else None, template))
    for one in found:
        assert jax.tree.structure(one) == jax.tree.structure(tree)
        assert one["zero"].tobytes() == tree["zero"].tobytes()
        assert one["none"].shape == (0, 3)
        np.testing.assert_array_equal(one["flags"], tree["flags"])
        np.testing.assert_array_equal(
            jax.random.key_data(one["key"]), jax.random.key_data(tree["key"])
        )


def test_one_process_asks_nobody(monkeypatch):
    monkeypatch.setattr(hosts, "multihost_utils", None)
    assert hosts.share(lambda: 3) == 3
    hosts.agree({"seed": 0})
    assert hosts.agreed_signal(15, 7) == 15
    tree = [np.ones(2)]
    assert hosts.share_arrays(tree, None) is tree
    assert hosts.local(tree, None) is tree


def device(process):
    return SimpleNamespace(process_index=process)


@pytest.fixture
def joined(monkeypatch):
    """What JAX was told on joining, for given owners of the devices."""
    told = []

    def join(launch, owners):
        initialize = lambda *args, **how: told.append((args, how))  # noqa: E731
        monkeypatch.setattr(jax.distributed, "initialize", initialize)
        monkeypatch.setattr(jax.config, "update", lambda *setting: told.append(setting))
        monkeypatch.setattr(jax, "devices", lambda: [device(o) for o in owners])
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        return hosts.join(launch), told

    return join


def test_joining_names_the_coordinator_and_leaves_signals_to_us(joined):
    line, told = joined(Launch("10.0.0.1:1234", 2, 1, "flags"), [0, 0, 1, 1])
    assert line == "sdsjax: joined as process 1 of 2"
    assert ("jax_enable_preemption_service", False) in told
    args, how = told[-1]
    assert args == ("10.0.0.1:1234", 2, 1)
    assert how["cluster_detection_method"] == "deactivate"
    assert how["initialization_timeout"] == 60
    assert how["heartbeat_timeout_seconds"] == 30


def test_a_cluster_that_jax_knows_is_left_to_it(joined):
    _, told = joined(Launch(None, 2, 1, "Slurm"), [0, 1])
    args, how = told[-1]
    assert args == ()
    assert "cluster_detection_method" not in how


def test_processes_of_unequal_devices_are_refused(joined):
    with pytest.raises(LaunchError, match="have 3, 1 devices"):
        joined(Launch(None, 2, 1, "Slurm"), [0, 0, 0, 1])


def test_who_fails_alone_ends_at_once_and_who_is_done_waits(monkeypatch):
    calls, ended, hold = [], [], threading.Event()
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: calls.append(1))
    monkeypatch.setattr(hosts.os, "_exit", ended.append)
    hosts.leave(0)
    assert (calls, ended) == ([1], [])
    # others that do not come are not waited for longer than said
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: hold.wait(PATIENCE))
    monkeypatch.setattr(hosts, "LEAVE_SECONDS", 0.01)
    hosts.leave(6)
    hold.set()
    assert ended == [6]


def mesh_of_two(monkeypatch, this):
    """Rows of this process's only device and of another's, that are stand-ins."""
    rows = np.array([[device(0)], [device(1)]])
    monkeypatch.setattr(jax, "process_index", lambda: this)
    monkeypatch.setattr(
        hosts, "Mesh", lambda devices, names, axis_types: (devices, names)
    )
    mesh = SimpleNamespace(devices=rows, axis_names=("data", "model"), axis_types=None)
    return rows, hosts.local_mesh(mesh)


@pytest.mark.parametrize("this", [0, 1])
def test_the_local_mesh_is_the_own_row(this, monkeypatch):
    rows, (devices, names) = mesh_of_two(monkeypatch, this)
    assert devices.shape == (1, 1)
    assert devices[0, 0] is rows[this, 0]
    assert names == ("data", "model")


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))


def test_what_is_whole_here_is_spread_and_brought_back(mesh, monkeypatch):
    """On a mesh of one device; that it is one of several processes is only said."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    where = NamedSharding(mesh, PartitionSpec("data"))
    tree = {"x": np.arange(4.0, dtype=np.float32), "key": jax.random.key(3)}
    whole = NamedSharding(mesh, PartitionSpec())
    placed = {
        "x": hosts.spread(tree["x"], where), "key": hosts.spread(tree["key"], whole)
    }  # fmt: skip
    assert placed["x"].sharding == where
    np.testing.assert_array_equal(placed["x"], tree["x"])
    np.testing.assert_array_equal(
        jax.random.key_data(placed["key"]), jax.random.key_data(tree["key"])
    )
    # what is addressable here, and what is no array of JAX's, stays as it is
    back = hosts.local(placed | {"n": 3}, mesh)
    assert back["x"] is placed["x"]
    assert back["n"] == 3


def test_of_an_array_over_processes_the_own_shards_are_taken(mesh, monkeypatch):
    """A stand-in that says that not all of it is here, with a shard elsewhere."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    own = jnp.arange(3.0)

    class Far:
        shape, dtype, is_fully_addressable = (3,), own.dtype, False
        sharding = NamedSharding(mesh, PartitionSpec())
        addressable_shards = (
            SimpleNamespace(device="another", data=None),
            SimpleNamespace(device=jax.devices()[0], data=own),
        )

    fake = SimpleNamespace(
        **{name: getattr(jax, name) for name in (
            "tree", "dtypes", "random", "process_count", "process_index",
            "make_array_from_single_device_arrays",
        )},
        Array=(jax.Array, Far),
    )  # fmt: skip
    monkeypatch.setattr(hosts, "jax", fake)
    near = hosts.local(Far(), mesh)
    assert near.is_fully_addressable
    np.testing.assert_array_equal(near, own)
