"""Which processes a run is made of, as flags or a scheduler's environment say.

Read before JAX is imported. An environment counts only where it names more than one
process: a shell inside an allocation of SLURM's, or a TPU of one host, starts one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

AUTO = "auto"
FLAGS = ("coordinator_address", "num_processes", "process_id")
# what JAX's own detection reads (jax/_src/clusters)
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


class LaunchError(ValueError):
    """The processes of a run cannot be started as asked; the message is one line."""


class Launch(NamedTuple):
    """How this process joins the others; None is left to JAX's detection.

    coordinator: host:port of process 0; processes: how many; process: this one's
    number; said_by: "flags", "SLURM", ..., for messages.
    """

    coordinator: str | None
    processes: int | None
    process: int | None
    said_by: str


class Part(NamedTuple):
    """The share of independent work that process number `process` of `count` has."""

    process: int = 0
    count: int = 1

    def of(self, items: int) -> range:
        """The positions among so many items that are this process's, every count-th."""
        return range(self.process, items, self.count)


def from_flags(
    coordinator: str | None, processes: int | None, process: int | None
) -> Launch | None:
    """Reads the three flags, of which all are given, or none, or the address `auto`.

    Raises LaunchError for some of them only, counts that cannot be, and an address
    without a port.
    """
    given = (coordinator, processes, process)
    if coordinator == AUTO and processes is None and process is None:
        return Launch(None, None, None, "JAX's detection")
    if all(value is None for value in given):
        return None
    missing = [name for name, value in zip(FLAGS, given) if value is None]
    if missing:
        raise LaunchError(
            f"--{missing[0]} is missing: pass --coordinator_address=HOST:PORT of "
            "process 0, --num_processes and --process_id together, or "
            "--coordinator_address=auto where JAX finds them itself"
        )
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LaunchError(
            f"--coordinator_address {coordinator!r} is no HOST:PORT, such as "
            "10.0.0.1:12345, of the machine of process 0"
        )
    _check_number(processes, process)
    return Launch(coordinator, processes, process, "flags")


def _check_number(processes: int, process: int) -> None:
    if processes < 1 or not 0 <= process < processes:
        raise LaunchError(
            f"--process_id {process} of --num_processes {processes}: processes are "
            "numbered 0..num_processes - 1"
        )


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def from_environment(environ: Mapping[str, str]) -> Launch | None:
    """Finds the processes that SLURM, Open MPI or a TPU pod has started, or None."""
    many = _number(environ, "SLURM_NTASKS") > 1
    # srun counts the tasks of its step; a shell in an allocation is a step of one
    many = many and _number(environ, "SLURM_STEP_NUM_TASKS") != 1
    if many and all(name in environ for name in SLURM):
        count, this = (_number(environ, f"SLURM_{k}") for k in ("NTASKS", "PROCID"))
        return Launch(None, count, this, "SLURM")
    if (
        _number(environ, "OMPI_COMM_WORLD_SIZE") > 1
        and "OMPI_MCA_orte_hnp_uri" in environ
    ):
        count, this = (
            _number(environ, f"OMPI_COMM_WORLD_{k}") for k in ("SIZE", "RANK")
        )
        return Launch(None, count, this, "Open MPI")
    for name in TPU_HOSTS:
        count = len([host for host in environ.get(name, "").split(",") if host])
        if count > 1 and environ.get("TPU_WORKER_ID", "").isdecimal():
            return Launch(None, count, _number(environ, "TPU_WORKER_ID"), "a TPU pod")
    return None


def find_launch(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    environ: Mapping[str, str],
) -> Launch | None:
    """Returns how this process joins others, None for a run of one process.

    Flags go before the environment. Raises LaunchError.
    """
    found = from_flags(coordinator, processes, process) or from_environment(environ)
    return None if found is not None and found.processes == 1 else found


def find_part(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    environ: Mapping[str, str],
) -> Part:
    """Returns which share of independent runs is this process's.

    Nothing passes between the processes, so they need no coordinator and do not join:
    one that ends leaves the others alone. Raises LaunchError for half of the two
    numbers, and where only JAX's own detection would know them.
    """
    if processes is not None and process is not None:
        _check_number(processes, process)
        return Part(process, processes)
    if (processes, process) != (None, None) or coordinator is not None:
        raise LaunchError(
            "--prompts: the processes of a list work apart: pass --num_processes and "
            "--process_id, both, and no address"
        )
    found = from_environment(environ)
    if found is None:
        return Part()
    if found.said_by == "a TPU pod":
        raise LaunchError(
            "--prompts: a TPU pod's hosts are one machine to JAX and cannot work apart "
            "as they are (not tried): use single hosts, each with --num_processes and "
            "--process_id"
        )
    assert found.processes is not None
    assert found.process is not None
    return Part(found.process, found.processes)
