"""Warnings about the machine, and which failure ends with which exit status."""

import errno

import pytest

from sdsjax.backend import Target, compiling_for
from sdsjax.cli import devices
from sdsjax.cli.checks import resolve
from sdsjax.training.config import ConfigError


def test_an_accelerator_that_sits_unused_is_named(tmp_path):
    signs = {"an NVIDIA GPU": (str(tmp_path / "gpus"), "cuda12")}
    assert devices.warnings(signs) == []
    (tmp_path / "gpus").mkdir()
    assert devices.warnings(signs) == []
    (tmp_path / "gpus" / "0000:01:00.0").mkdir()
    (line,) = devices.warnings(signs)
    assert "NVIDIA" in line
    assert "cuda12" in line
    with compiling_for(Target("cuda", (8, 0))):
        assert devices.warnings(signs) == []


class JaxRuntimeError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), True),
        (JaxRuntimeError("INTERNAL: something else"), False),
        (ValueError("RESOURCE_EXHAUSTED"), False),
    ],
)
def test_out_of_memory_is_recognised(error, expected):
    assert devices.is_out_of_memory(error) is expected


def test_out_of_memory_names_what_to_lower():
    config = resolve("ssd")
    with pytest.raises(MemoryError) as caught, devices.memory_explained(config):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    line = str(caught.value)
    for key in ("batch_size", "resolution", "representation.count", "prior.dtype"):
        assert f"--config.{key}" in line
    assert "\n" not in line
    with pytest.raises(KeyError), devices.memory_explained(config):
        raise KeyError("x")


class Stated(RuntimeError):
    exit_code = 143


def raised_outside() -> ValueError:
    try:
        int("x")
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("x"), 2),
        (Stated(), 143),
        (MemoryError("x"), 1),
        (OSError(errno.ENOSPC, "x"), 1),
        (FileNotFoundError(errno.ENOENT, "x"), 2),
        (raised_outside(), None),
        (RuntimeError("x"), None),
    ],
)
def test_exit_status(error, status):
    assert devices.exit_status(error) == status
