"""Overrides: text or values for the keys of a config, checked against their types.

Three sections hold a `name` and that factory's keyword arguments: `estimator`,
`timesteps`, `representation`. `complete` fills them from the factory's signature, so
that every hyper-parameter can be seen and set, and changing a name changes the keys.
Types are those of base.py and of the signatures; an int passes for a float, nothing
else is converted.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sdsjax.training.config import Config, ConfigError, flatten, nearest, one_of

# Keys that take None besides their type.
OPTIONAL = {
    "prior.revision": str,
    "prior.variant": str,
    "prior.schedule": str,
    "prior.prediction_type": str,
    "prior.image_size": int,
    "prior.group": int,
    "prior.view_spread": float,
    "optimizer.clip_norm": float,
}
# Sections whose keys depend on the representation; every value is a float.
OPEN = ("optimizer.lr.", "losses.")
# Arguments that build.py passes itself, never keys of the section.
SUPPLIED = ("shape", "background", "losses", "control_end")
KINDS = {"bool": bool, "int": int, "float": float, "str": str, "tuple": tuple}
EXAMPLES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple such as (0, 1)",
}
Factories = Mapping[str, Mapping[str, Callable]]
Losses = Mapping[str, Sequence[str]]


class Kind(NamedTuple):
    """What a key takes: a type, whether None too, and for a tuple an example."""

    type: type
    optional: bool = False
    pattern: Any = None


def hyperparameters(factory: Callable) -> dict[str, inspect.Parameter]:
    """The keyword-only arguments of a factory that a config may set."""
    return {
        name: p
        for name, p in inspect.signature(factory).parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in SUPPLIED
    }


def _annotated(parameter: inspect.Parameter) -> Kind:
    # by the default where there is one, else by the first word that is one of KINDS
    words = re.findall(r"\w+", str(parameter.annotation))
    if type(parameter.default) in EXAMPLES:
        kind = type(parameter.default)
    else:
        kind = next((KINDS[word] for word in words if word in KINDS), str)
    return Kind(kind, "None" in words)


def kinds(config: Config, base: Config, factories: Factories) -> dict[str, Kind]:
    """The kind of every key that a completed config has.

    Of named sections by their factory's signature, of all others as in `base`.
    """
    table = {
        key: Kind(OPTIONAL.get(key, type(value)), key in OPTIONAL, value)
        for key, value in flatten(base).items()
        if key.split(".")[0] not in factories and not key.startswith(OPEN)
    }
    for section, choices in factories.items():
        table[f"{section}.name"] = Kind(str)
        accepted = hyperparameters(choices[config[section].name])
        table |= {f"{section}.{name}": _annotated(p) for name, p in accepted.items()}
    free = [key for key in flatten(config) if key.startswith(OPEN)]
    return table | dict.fromkeys(free, Kind(float))


def complete(config: Config, factories: Factories, losses: Losses) -> None:
    """Fills each named section of a config in place.

    Defaults for keys that are not there, None for required ones (`checks.validate` then
    asks for them); 0 for regularisers without a weight, of those that `losses` lists
    for the representation. Raises ConfigError for an unknown name or a key the factory
    does not take.
    """
    for section, choices in factories.items():
        values = config[section]
        if values.get("name") not in choices:
            raise one_of(f"{section}.name", values.get("name"), choices)
        accepted = hyperparameters(choices[values.name])
        for key in values:
            if key not in accepted and key != "name":
                raise ConfigError(
                    f"{section} {values.name!r} takes no key {key!r}: it takes "
                    f"{', '.join(accepted)}"
                )
        for key, parameter in accepted.items():
            if key not in values:
                empty = parameter.default is parameter.empty
                values[key] = None if empty else parameter.default
    known = losses[config.representation.name]
    for name in config.losses:
        if name not in known:
            raise one_of(f"regulariser of {config.representation.name}", name, known)
    for name in known:
        if name not in config.losses:
            config.losses[name] = 0.0


def rename(config: Config, section: str, name: str, factories: Factories) -> None:
    """Another factory for a section, in place: keys it does not take are dropped."""
    choices = factories[section]
    if name not in choices:
        raise one_of(f"{section}.name", name, choices)
    accepted = hyperparameters(choices[name])
    kept = {k: v for k, v in config[section].items() if k in accepted}
    config[section] = ConfigDict({"name": name, **kept})


def _parse(key: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind is tuple:
            value = ast.literal_eval(text)
            return tuple(value) if isinstance(value, tuple | list) else (value,)
        return kind(text)
    except (ValueError, KeyError, SyntaxError, TypeError):
        raise _mistyped(key, text, kind) from None


def _mistyped(key: str, value: Any, kind: type) -> ConfigError:
    return ConfigError(f"config key {key!r} takes {EXAMPLES[kind]}, not {value!r}")


def coerce(key: str, value: Any, kind: type, pattern: Any = None) -> Any:
    """Turns a value into a kind, a tuple's entries into its pattern's.

    An int passes for a float. Raises ConfigError naming the key, what it takes and what
    it got.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    # bool is an int to Python, not to a reader of configs
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise _mistyped(key, value, kind)
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"config key {key!r} takes a finite number, not {value!r}")
    if kind is tuple and pattern:
        entry: Any = pattern[0]
        inner = entry if isinstance(entry, tuple) else None
        entries: Any = value
        return tuple(coerce(f"{key}[]", v, type(entry), inner) for v in entries)
    return value


def _given(key: str, value: Any, kind: Kind) -> Any:
    # an override: text is parsed
    if kind.optional and (value is None or str(value).lower() == "none"):
        return None
    if isinstance(value, str) and kind.type is not str:
        value = _parse(key, value, kind.type)
    return coerce(key, value, kind.type, kind.pattern)


def unknown_key(known: Iterable[str], key: str) -> ConfigError:
    """The error for a key that is not there, with the likeliest ones."""
    leaves = list(known)
    parents = {k[: m.start()] for k in leaves for m in re.finditer(r"\.", k)}
    if key in parents:
        inside = [k for k in leaves if k.startswith(key + ".")]
        return ConfigError(f"config key {key!r} is a section: set {', '.join(inside)}")
    tails = {}
    for name in (*leaves, *sorted(parents)):
        tails.setdefault(name.rsplit(".", 1)[-1], name)
    close = nearest(key, (*leaves, *parents))
    close = close or [tails[t] for t in nearest(key.rsplit(".", 1)[-1], tails)]
    if not close:
        first = dict.fromkeys(k.split(".")[0] for k in leaves)
        hint = f"at the top there are {', '.join(first)}"
    elif close[0] in parents:
        inside = [k for k in leaves if k.startswith(close[0] + ".")]
        hint = f"did you mean one of --config.{', --config.'.join(inside)}?"
    else:
        hint = f"did you mean --config.{close[0]}?"
    return ConfigError(
        f"unknown config key {key!r}: {hint} (--dry_run prints all keys)"
    )


def _check_file(
    config: Config, table: Mapping[str, Kind], factories: Factories
) -> dict[str, Any]:
    # every key there, none besides, each of its type
    present = flatten(config)
    for key in table:
        if key not in present:
            raise ConfigError(
                f"the config lacks the key {key!r}: start it from "
                "configs.base.base_config()"
            )
    for key, value in present.items():
        if key not in table:
            raise unknown_key(table, key)
        # a hyper-parameter without a default may still come from an override
        waits = table[key].optional or key.split(".")[0] in factories
        if value is not None or not waits:
            present[key] = coerce(key, value, table[key].type, table[key].pattern)
    return present


def apply(
    config: Config,
    overrides: Mapping[str, Any],
    *,
    base: Config,
    factories: Factories,
    losses: Losses,
) -> Config:
    """A completed copy of a config with overrides applied.

    overrides: {"optimizer.lr.sh": "0.01"} or nested mappings; text is parsed by the
    key's type; names are applied first. Raises ConfigError for an unknown key, name or
    type, in the config or an override.
    """
    config = config.copy_and_resolve_references()
    config.unlock()
    overrides = flatten(overrides)
    for section in (*factories, "losses"):
        if not isinstance(config.get(section), ConfigDict):
            raise ConfigError(
                f"the config has no section {section!r}: start it from "
                "configs.base.base_config()"
            )
        if f"{section}.name" in overrides:
            rename(config, section, overrides[f"{section}.name"], factories)
    complete(config, factories, losses)
    table = kinds(config, base, factories)
    values = _check_file(config, table, factories)
    for key, value in overrides.items():
        if key not in table:
            raise unknown_key(table, key)
        values[key] = _given(key, value, table[key])
    with config.ignore_type():  # once for all sections, each of which it visits
        for key, value in values.items():
            *parents, last = key.split(".")
            target = config
            for part in parents:
                target = target[part]
            target[last] = value
    return config
