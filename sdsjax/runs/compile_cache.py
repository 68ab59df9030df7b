"""JAX's persistent compile cache, and how much work on machine code pays.

Opt out with SDSJAX_COMPILE_CACHE=0; another place: SDSJAX_COMPILE_CACHE=<directory> or
JAX's own JAX_COMPILATION_CACHE_DIR, which is left alone. The directory is private (mode
0700): compiled code is executed. One folder per machine type, as code for one CPU does
not run on every other.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

import jax

from sdsjax.backend import target

VARIABLE = "SDSJAX_COMPILE_CACHE"
LEVEL = "xla_backend_optimization_level"


def user_cache_directory() -> Path:
    """Returns the folder where this system keeps a user's caches."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def machine_tag() -> str:
    """Names this kind of machine.

    By JAX's version, the architecture and a digest of the CPU's features.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = sorted({s for s in lines if s.startswith(("flags", "model name"))})
    except OSError:
        cpu = [platform.processor()]
    digest = hashlib.sha256("\n".join(cpu).encode()).hexdigest()[:12]
    return f"{jax.__version__}-{platform.machine()}-{digest}"


def enable_compile_cache() -> Path | None:
    """Turns the cache on; returns its directory, or None where it stays off.

    A directory that cannot be made, or that others may write to, is not used: a cache
    is never a reason to fail.
    """
    setting = os.environ.get(VARIABLE, "")
    if setting in ("0", "off") or jax.config.jax_compilation_cache_dir:
        return None
    root = Path(setting) if setting else user_cache_directory() / "sdsjax" / "compiled"
    folder = root / machine_tag()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name != "nt":
            folder.chmod(0o700)
            if folder.stat().st_uid != os.getuid():
                return None
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Every program is kept: a hundred small ones take longer to compile than to read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def light_compilation(level: int) -> dict[str, int] | None:
    """Returns XLA's options for less work on machine code on a CPU; None elsewhere.

    level: LLVM's, 0 to 3, for `jax.jit(..., compiler_options=...)`. Networks spend
    their time in library calls, which no level touches: at 1 the default job's step is
    as fast as at XLA's own 3, ends in the same bits, and compiles in a seventh less; at
    0 a pass of its network takes a third less to compile and twice as long to run. A
    level that XLA_FLAGS names is left alone.
    """
    if target().platform != "cpu" or LEVEL in os.environ.get("XLA_FLAGS", ""):
        return None
    return {LEVEL: level}
