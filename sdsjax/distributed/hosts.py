"""Several processes as one run: process 0 writes, and all know what it found.

With one process every function here is what it would be without it. With several, each
call is made by all of them in the same order; what passes between them goes through
JAX's own collectives.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sdsjax.distributed.launch import Launch, LaunchError
from sdsjax.distributed.supervisor import (
    JOIN_SECONDS,
    JOINED,
    LOST_SECONDS,
    LOST_STATUS,
    PEER_GONE,
)

LEAVE_SECONDS = 15.0
STOP_EVERY = 10  # steps between two questions whether any process was told to stop


class Elsewhere(RuntimeError):
    """Process 0 failed where this one waits; the message is its line."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# what JAX's collectives say where another process is gone
GONE = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|"
    r"coordination (service|agent)|heartbeat|unavailable|preempt",
    re.IGNORECASE,
)


def as_lost(error: Exception) -> Exception:
    """Turns what a collective raises when a peer is gone into one line, status 6.

    Whether it is raised or JAX ends this process first is a race; both end alike. Any
    other error is returned as it is.
    """
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return error
    return Elsewhere(PEER_GONE, LOST_STATUS) if GONE.search(str(error)) else error


def count() -> int:
    """Counts the processes of this run."""
    return jax.process_count()


def is_first() -> bool:
    """Tells whether this is process 0, which writes."""
    return jax.process_index() == 0


def join(launch: Launch) -> str:
    """Joins the other processes, before any device is touched; returns a line.

    What goes wrong ends this process (see supervisor). Raises LaunchError where
    processes have unequal numbers of devices.
    """
    if hasattr(jax.config, "jax_enable_preemption_service"):
        jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is ours
    times: dict[str, Any] = {
        "initialization_timeout": JOIN_SECONDS,
        "heartbeat_timeout_seconds": LOST_SECONDS,
        "shutdown_timeout_seconds": 2 * LOST_SECONDS,
    }
    if launch.coordinator is None:
        jax.distributed.initialize(**times)
    else:
        jax.distributed.initialize(
            launch.coordinator,
            launch.processes,
            launch.process,
            cluster_detection_method="deactivate",
            **times,
        )
    owners = [device.process_index for device in jax.devices()]
    sizes = [owners.count(process) for process in range(count())]
    if len(set(sizes)) > 1:
        raise LaunchError(
            f"the processes have {', '.join(map(str, sizes))} devices: give each the "
            "same number"
        )
    return f"{JOINED} as process {jax.process_index()} of {count()}"


def leave(status: int) -> None:
    """Ends a process of several, in order where all end.

    One that fails alone ends at once, so that the others learn of it.
    """
    if status == 0:
        jax.distributed.shutdown()
        return
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    thread.start()
    thread.join(LEAVE_SECONDS)
    os._exit(status)


def _broadcast_bytes(data: bytes) -> bytes:
    size = multihost_utils.broadcast_one_to_all(np.asarray(len(data), np.int32))
    padded = np.zeros(int(size), np.uint8)
    if is_first():
        padded[:] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()


def share(function: Callable[[], Any]) -> Any:
    """Has process 0 call a function; returns its value everywhere, as JSON keeps it.

    What it raises is raised there, and as Elsewhere, with the same line and exit
    status, by the others. A barrier, too: nobody goes on before it is done.
    """
    if count() == 1:
        return function()
    value, error, told = None, None, {}
    if is_first():
        try:
            value = function()
            told = {"value": value}
        except Exception as raised:
            error = raised
            told = {"error": str(raised), "code": getattr(raised, "exit_code", 2)}
    told = json.loads(_broadcast_bytes(json.dumps(told, default=str).encode()))
    if error is not None:
        raise error
    if "error" in told:
        raise Elsewhere(f"process 0: {told['error']}", int(told["code"]))
    return value if is_first() else told["value"]


def agree(config: Any) -> None:
    """Checks that all processes were asked for the same as process 0.

    config: anything that JSON takes, None for a process that could not make sense of
    what it was asked. Raises LaunchError in all of them.
    """
    if count() == 1:
        return
    text = json.dumps(config, sort_keys=True, default=str).encode()
    own = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
    digests = multihost_utils.process_allgather(own)
    other = [i for i, row in enumerate(digests) if (row != digests[0]).any()]
    if other and config is not None:  # who could not has a line of its own
        raise LaunchError(
            f"process {', '.join(map(str, other))} has another config than process 0 "
            f"(sha256 {digests[other[0]].tobytes().hex()[:12]}, not "
            f"{digests[0].tobytes().hex()[:12]}): give all processes the same command "
            "but for --process_id"
        )


def agreed_signal(requested: int | None, step: int) -> int | None:
    """Returns the signal that any process was sent, asked every STOP_EVERY steps.

    Processes stop after the same step: one alone would leave the others waiting.
    """
    if count() == 1:
        return requested
    if step % STOP_EVERY:
        return None
    asked = multihost_utils.process_allgather(np.asarray(requested or 0, np.int32))
    return int(np.max(asked)) or None


def share_arrays(tree: Any, template: Any) -> Any:
    """Returns process 0's arrays everywhere, as numpy arrays of the template's shapes.

    Bytes are sent: a sum of floats would lose the sign of a zero.
    """
    if count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(template)
    given: list = jax.tree.leaves(tree) if is_first() else [None] * len(leaves)
    return jax.tree.unflatten(structure, [_sent(*pair) for pair in zip(given, leaves)])


def _sent(array, spec):
    if jax.dtypes.issubdtype(spec.dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, spec)
        array = None if array is None else jax.random.key_data(array)
        return jax.random.wrap_key_data(_sent(array, data))
    if array is None:
        array = np.zeros(spec.shape, spec.dtype)
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if raw.size:
        raw = np.asarray(multihost_utils.broadcast_one_to_all(raw))
    return raw.view(spec.dtype).reshape(spec.shape)


def local_mesh(mesh: Mesh) -> Mesh:
    """Returns the first row of a mesh that is all this process's own."""
    this = jax.process_index()
    rows = [row for row in mesh.devices if all(d.process_index == this for d in row)]
    return Mesh(rows[0][None], mesh.axis_names, axis_types=mesh.axis_types)


def local(tree: Any, mesh: Mesh | None) -> Any:
    """Returns a pytree on this process's devices alone, for what it computes alone.

    The same arrays where there is one process.
    """
    if count() == 1 or mesh is None:
        return tree
    own = local_mesh(mesh)
    devices = set(own.devices.flat)

    def here(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(here(jax.random.key_data(leaf)))
        spec = getattr(leaf.sharding, "spec", PartitionSpec())
        return jax.make_array_from_single_device_arrays(
            leaf.shape,
            NamedSharding(own, spec),
            [
                shard.data
                for shard in leaf.addressable_shards
                if shard.device in devices
            ],
        )

    return jax.tree.map(here, tree)


def spread(leaf, sharding: NamedSharding):
    """Places what each process has whole on devices of all of them, unchecked."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(spread(jax.random.key_data(leaf), sharding))
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda at: whole[at])
