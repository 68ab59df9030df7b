"""Config files: where they are found, and how a Python file becomes a config.

A config file defines `get_config(variant)`, which returns an ml_collections.ConfigDict.
Every mistake raises ConfigError with one line: what is wrong, what is allowed, what to
do.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from sdsjax.training.config import Config, ConfigError, in_short, nearest, one_of, slug

PACKAGE = Path(__file__).resolve().parents[1]


class Source(NamedTuple):
    """Where a config comes from: its file, its short name, its variant or None."""

    path: Path
    name: str
    variant: str | None

    @property
    def label(self) -> str:
        """How a run directory is called after it: `ssd` or `ssd-image`."""
        return self.name if self.variant is None else f"{self.name}-{self.variant}"


def config_folder() -> Path:
    """The folder of the configs that come with sdsjax.

    `configs/` of a checkout, or `sdsjax/_configs` of an installed wheel. Raises
    ConfigError where there is neither.
    """
    for folder in (PACKAGE.parent / "configs", PACKAGE / "_configs"):
        if (folder / "base.py").is_file() and (folder / "ssd.py").is_file():
            return folder
    raise ConfigError(
        "the configs that come with sdsjax are missing: reinstall the package, or "
        "pass --config=<path of a config file>"
    )


def config_names() -> list[str]:
    """Names that `--config=<name>` understands."""
    hidden = ("__init__", "base", "networks")
    return sorted(p.stem for p in config_folder().glob("*.py") if p.stem not in hidden)


def locate(text: str) -> Source:
    """Finds the source that a name, a name with a variant or a path means.

    `ssd`, `ssd:image`, `configs/ssd.py:sd21` or any path. Raises ConfigError when there
    is no such file.
    """
    name, colon, variant = text.rpartition(":")
    if not colon or not re.fullmatch(r"\w+", variant):
        name, variant = text, None
    path = Path(name).expanduser()
    bare = re.fullmatch(r"(?:configs[/\\])?(\w+)(?:\.py)?", name)
    if path.suffix == ".py" and path.is_file():
        return Source(path.resolve(), path.stem, variant)
    if bare and bare.group(1) in config_names():
        return Source(config_folder() / f"{bare.group(1)}.py", bare.group(1), variant)
    if name and path.exists():
        raise ConfigError(f"config {name!r} is not a Python file (.py)")
    known = config_names()
    close = nearest(path.stem, known)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(
        f"no config file {name!r}: {hint}pass a path ending in .py or one of "
        f"{', '.join(known)} (--list describes them)"
    )


@contextlib.contextmanager
def _configs_package(path: Path) -> Iterator[None]:
    # `from configs.base import ...` must work for a file anywhere and for a wheel
    # without a checkout, and must not find somebody else's package named configs.
    folders = [config_folder(), path.parent]
    if path.parent.name == "configs":
        folders.reverse()
    kept = {k: m for k, m in sys.modules.items() if k.split(".")[0] == "configs"}
    for name in kept:
        del sys.modules[name]
    package = types.ModuleType("configs")
    package.__path__ = [str(folder) for folder in folders]
    sys.modules["configs"] = package
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        for name in [k for k in sys.modules if k.split(".")[0] == "configs"]:
            del sys.modules[name]
        sys.modules.update(kept)


@functools.cache
def _compiled(text: str, path: str) -> types.CodeType:
    return compile(text, path, "exec")


def read_module(path: Path) -> types.ModuleType:
    """Execute a config file; whatever goes wrong in it becomes a ConfigError."""
    if any((folder / "run.json").is_file() for folder in path.parents[:2]):
        raise ConfigError(
            f"{path} lies in a run directory, where nothing is executed: copy it "
            "elsewhere"
        )
    module = types.ModuleType(f"configs.{path.stem}")
    module.__file__ = str(path)
    with _configs_package(path):
        try:
            exec(
                _compiled(path.read_text(encoding="utf-8"), str(path)), module.__dict__
            )
        except (Exception, SystemExit) as error:
            raise ConfigError(f"config file {path}: {in_short(error)}") from error
    return module


def load(source: Source | str) -> Config:
    """The config of a file and variant, as the file gives it.

    Raises ConfigError for a missing file, a file that fails, an unknown variant.
    """
    source = locate(source) if isinstance(source, str) else source
    module = read_module(source.path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"config file {source.path} defines no get_config()")
    variants = getattr(module, "VARIANTS", None)
    if source.variant and variants is not None and source.variant not in variants:
        raise one_of(f"variant of {source.name}", source.variant, variants)
    arguments = () if source.variant is None else (source.variant,)
    with _configs_package(source.path):
        try:
            config = get_config(*arguments)
        except Exception as error:
            raise ConfigError(
                f"config file {source.path}: {in_short(error)}"
            ) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"config file {source.path}: get_config() must return an "
            f"ml_collections.ConfigDict, not {type(config).__name__}"
        )
    config = config.copy_and_resolve_references()
    config.unlock()
    return config


def base_config() -> Config:
    """Reads base.py: every key with its default, the types of all others."""
    path = config_folder() / "base.py"
    return read_module(path).base_config().copy_and_resolve_references()


def default_workdir(label: str, config: Config) -> str:
    """Names the run directory runs/<config>-<prompt slug>-<seed>.

    label: `Source.label`.
    """
    return f"runs/{label}-{slug(config.prompt)}-{config.seed}"
