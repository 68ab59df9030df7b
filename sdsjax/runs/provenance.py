"""What made a run: versions, device, and the commands that repeat or continue it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jax

import sdsjax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
PROGRAM = ("python", "-m", "sdsjax.main")


def versions() -> dict[str, str]:
    """Versions of Python, this package and what it computes with."""
    found = {"sdsjax": sdsjax.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["system"] = f"{platform.system()} {platform.machine()}"
    return found


def device() -> str:
    """The default backend's devices in words, e.g. "cpu (1 x cpu)"."""
    devices = jax.devices()
    return f"{devices[0].platform} ({len(devices)} x {devices[0].device_kind})"


def flatten(config: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted keys and leaves of a nested config."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def recorded(workdir: Path) -> dict[str, Any]:
    """What the run directory noted of its last session (`run.json`); {} if nothing.

    With a single session `seconds`, from its start until now, is the whole job's.
    """
    try:
        noted = json.loads((workdir / "run.json").read_text("utf-8"))
        sessions = noted["sessions"]
        last = dict(sessions[-1])
        if len(sessions) == 1:
            started = datetime.strptime(last["started"], "%Y-%m-%dT%H:%M:%S%z")
            last["seconds"] = (datetime.now(started.tzinfo) - started).total_seconds()
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}
    return last


def commands(
    config: Mapping, workdir: Path, made: Mapping[str, Any]
) -> tuple[str, str]:
    """Returns (reproduce, resume): what to type to repeat the run, to continue it.

    `made` may hold `config` (the preset, "ssd" by default) and `overrides` (a dict of
    dotted keys); prompt and seed are always spelt out. A run is continued by its
    directory alone, which holds the config: whatever was typed is in it.
    """
    overrides = {"prompt": config.get("prompt"), "seed": config.get("seed")}
    overrides |= dict(made.get("overrides") or {})
    words = [*PROGRAM, f"--config={made.get('config') or 'ssd'}"]
    words += [f"--config.{k}={v}" for k, v in overrides.items() if v is not None]
    return shlex.join(words), shlex.join([*PROGRAM, f"--workdir={workdir}"])
