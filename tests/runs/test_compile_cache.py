"""Where compiled programs are kept, and when they are not."""

import os
import platform
from pathlib import Path

import jax
import pytest

from sdsjax.runs import compile_cache
from sdsjax.runs.compile_cache import enable_compile_cache, user_cache_directory


@pytest.fixture
def off(monkeypatch, tmp_path):
    """JAX without a cache, as a user's process begins; what it is told."""
    told = {}
    config = type("Config", (), {"jax_compilation_cache_dir": None})
    config.update = told.__setitem__
    monkeypatch.setattr(compile_cache.jax, "config", config)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("SDSJAX_COMPILE_CACHE", raising=False)
    return told


def test_it_lies_in_the_user_s_caches_and_is_private(off, tmp_path):
    folder = enable_compile_cache()
    assert folder.parent == tmp_path / "caches" / "sdsjax" / "compiled"
    assert folder.name.startswith(f"{jax.__version__}-{platform.machine()}-")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert off["jax_compilation_cache_dir"] == str(folder)
    assert off["jax_persistent_cache_min_compile_time_secs"] == 0.0


@pytest.mark.parametrize("setting", ["0", "off"])
def test_it_can_be_left_out(setting, off, monkeypatch):
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", setting)
    assert enable_compile_cache() is None
    assert off == {}


def test_it_can_lie_elsewhere_and_jax_s_own_is_left_alone(off, monkeypatch, tmp_path):
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", str(tmp_path / "here"))
    assert enable_compile_cache().parent == tmp_path / "here"
    off.clear()
    monkeypatch.setattr(compile_cache.jax.config, "jax_compilation_cache_dir", "theirs")
    assert enable_compile_cache() is None
    assert off == {}


def test_a_folder_that_cannot_be_made_or_is_another_s_is_not_used(
    off, monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", str(tmp_path / "file"))
    assert enable_compile_cache() is None
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", str(tmp_path / "theirs"))
    monkeypatch.setattr(os, "getuid", lambda: -1)
    assert enable_compile_cache() is None
    assert off == {}


def test_each_system_has_its_place_for_caches(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache_directory() == tmp_path / ".cache"
    monkeypatch.setattr(compile_cache.sys, "platform", "darwin")
    assert user_cache_directory() == tmp_path / "Library" / "Caches"
    monkeypatch.setattr(compile_cache.sys, "platform", "win32")
    windows = type("Windows", (), {"name": "nt", "environ": {}})
    monkeypatch.setattr(compile_cache, "os", windows)
    assert user_cache_directory() == tmp_path / "AppData" / "Local"
    windows.environ["LOCALAPPDATA"] = str(tmp_path / "local")
    assert user_cache_directory() == tmp_path / "local"


def test_without_proc_the_processor_s_name_tells_machines_apart(monkeypatch):
    def unreadable(path):
        raise OSError

    tags = []
    monkeypatch.setattr(Path, "read_text", unreadable)
    for name in ("one", "other", "one"):
        monkeypatch.setattr(platform, "processor", lambda name=name: name)
        tags.append(compile_cache.machine_tag())
    assert tags[0] == tags[2] != tags[1]
