"""What the machine has and what it ran out of, said in one line each."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sdsjax
from sdsjax.runs.disk_errors import FULL, refusal
from sdsjax.runs.exit_status import ExitStatus

PACKAGE = Path(sdsjax.__file__).resolve().parent
# Where an accelerator leaves its mark on Linux, whether JAX can use it or not.
SIGNS = {
    "an NVIDIA GPU": ("/proc/driver/nvidia/gpus", "cuda12 (or cuda13)"),
    "a TPU": ("/sys/class/accel", "tpu"),
}


class NoSuchDevice(RuntimeError):
    """JAX was told to use a device that is not there; the message is one line."""

    exit_code = ExitStatus.MISTAKE


def backend() -> str:
    """The platform JAX computes on: "cpu", "cuda", "rocm" or "tpu".

    Raises NoSuchDevice where the environment asks for one that cannot be used.
    """
    from sdsjax.backend import target  # imports JAX, which --list does without

    try:
        return target().platform
    except (RuntimeError, AssertionError) as error:  # JAX asserts for "cuda"
        wanted = os.environ.get("JAX_PLATFORMS", "")
        why = " ".join(str(error).split(" (set JAX_PLATFORMS")[0].split()).rstrip(".")
        raise NoSuchDevice(
            f"JAX_PLATFORMS={wanted} cannot be used here ({why or 'no such device'}): "
            "unset it, or set JAX_PLATFORMS=cpu; for an NVIDIA GPU install the extra "
            "cuda12 or cuda13, for a TPU the extra tpu"
        ) from None


def warnings(signs: dict[str, tuple[str, str]] = SIGNS) -> list[str]:
    """One line for each accelerator that sits unused."""
    import jax

    if backend() != "cpu":
        return []
    found = []
    for name, (path, extra) in signs.items():
        folder = Path(path)
        if folder.is_dir() and any(folder.iterdir()):
            found.append(
                f"{name} is present but JAX {jax.__version__} runs on the CPU: install "
                f"the extra {extra}, or unset JAX_PLATFORMS"
            )
    if (
        platform.system() == "Windows"
        and Path(r"C:\Windows\System32\nvcuda.dll").exists()
    ):
        found.append("an NVIDIA GPU is present; JAX uses it under WSL2 only")
    return found


def warn(config, overrides: Mapping[str, Any]) -> None:
    """Says on stderr what the user may not have meant, before a run begins."""
    from sdsjax.cli.prior_choice import single_views  # imports JAX

    single = single_views(config, overrides)
    for warning in (*warnings(), *([single] if single else [])):
        print(f"sdsjax: warning: {warning}", file=sys.stderr)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the host or a device ran out of memory.

    A store calls a full disk RESOURCE_EXHAUSTED too, so an error that states its exit
    status, or that a disk is behind, is no such error.
    """
    if hasattr(error, "exit_code") or refusal(error) is not None:
        return False
    text = str(error)
    named = "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
    return isinstance(error, MemoryError) or (named and isinstance(error, RuntimeError))


def memory_advice(config) -> str:
    """What to lower, with the values now."""
    from sdsjax.cli.prior_choice import KINDS  # imports JAX: a mistake needs none

    hints = [
        f"--config.batch_size (now {config.batch_size})",
        f"--config.resolution (now {config.resolution})",
    ]
    count = config.representation.get("count")
    if count:
        hints.append(f"--config.representation.count (now {count})")
    if config.prior.dtype == "float32" and config.prior.name in KINDS:
        hints.append("or set --config.prior.dtype=bfloat16")
    return f"out of memory: lower {', '.join(hints)}"


@contextlib.contextmanager
def memory_explained(config, *flags: str) -> Iterator[None]:
    """Running out of memory inside becomes a MemoryError that says what to lower.

    flags: what may be lowered before keys of the config.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = memory_advice(config)
        first = "".join(f"lower {flag}, or " for flag in flags)
        advice = advice.replace(": ", f": {first}", 1)
        raise MemoryError(advice) from error


def report(error: BaseException, *, show_traceback: bool = False) -> int:
    """Says on stderr what went wrong and returns the exit status.

    In one line unless it is a bug.
    """
    if isinstance(error, BrokenPipeError):
        # `sdsjax --list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.OUT_OF_SPACE
    status = exit_status(error)
    if status is None or show_traceback:
        traceback.print_exception(error)
    else:
        print(f"sdsjax: error: {' '.join(str(error).split())}", file=sys.stderr)
    return status or ExitStatus.OUT_OF_SPACE


def exit_status(error: BaseException) -> int | None:
    """The exit status of an error, None for what must be a bug.

    2 for a mistake of the user's or a file that cannot be used, what an error says of
    itself (`exit_code`), 1 for memory or disk.
    """
    stated = getattr(error, "exit_code", None)
    if stated is not None:
        return int(stated)
    if isinstance(error, MemoryError):
        return ExitStatus.OUT_OF_SPACE
    if isinstance(error, OSError):
        full = error.errno in FULL
        return ExitStatus.OUT_OF_SPACE if full else ExitStatus.MISTAKE
    if type(error).__module__.startswith("sdsjax"):
        return ExitStatus.MISTAKE
    frames = traceback.extract_tb(error.__traceback__)
    raised = Path(frames[-1].filename).resolve() if frames else Path()
    ours = raised.is_relative_to(PACKAGE)
    return ExitStatus.MISTAKE if ours and isinstance(error, ValueError) else None
