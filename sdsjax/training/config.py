"""The config of a run: its type, its keys by dotted name, its JSON form.

A config is an `ml_collections.ConfigDict`; keys are written with dots: optimizer.lr.sh.
Every mistake raises ConfigError with one line: what is wrong, what is allowed, what to
do. Where config files are found and executed: cli/config_files.py.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

# A ConfigDict, whose attributes have no static types.
Config = Any


class ConfigError(ValueError):
    """Something a user wrote cannot be used; the message is one line."""


def nearest(word: str, choices: Iterable[str], count: int = 1) -> list[str]:
    """The most similar choices, best first; none if nothing is similar."""
    return difflib.get_close_matches(word, list(choices), n=count, cutoff=0.6)


def one_of(what: str, word: Any, choices: Iterable[str]) -> ConfigError:
    """The error for an unknown name: a suggestion, then everything allowed."""
    choices = list(choices)
    close = nearest(str(word), choices)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ConfigError(
        f"unknown {what} {word!r}: {hint}choose one of {', '.join(choices)}"
    )


def in_short(error: BaseException) -> str:
    """An exception on one line: its class and its message."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Returns {"optimizer.lr.sh": 0.01, ...}, in the order of the config."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def sections(config: Config, prefix: str = "") -> list[str]:
    """Keys that hold further keys."""
    found = []
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            found += [prefix + key, *sections(value, f"{prefix}{key}.")]
    return found


def slug(prompt: str, length: int = 40) -> str:
    """Makes a prompt part of a folder's name on any system: "a-blue-house".

    A digest of it where no ASCII letter is left.
    """
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:length].strip("-")
    return words or hashlib.sha256(prompt.encode()).hexdigest()[:8]


def to_json(config: Config) -> dict[str, Any]:
    """A plain dict that json can write; tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def from_json(plain: Mapping[str, Any]) -> Config:
    """The inverse of `to_json`: lists become tuples again."""

    def thaw(value):
        if isinstance(value, Mapping):
            return {key: thaw(v) for key, v in value.items()}
        return tuple(thaw(v) for v in value) if isinstance(value, list) else value

    return ConfigDict(thaw(plain))


def load_json(path: Path) -> Config:
    """The config that a run directory keeps; read, never executed.

    Raises ConfigError for a file that is not a JSON object.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {in_short(error)}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{path} is damaged: it holds no config")
    return from_json(plain)
