"""Adds LoRA files to the kernels of networks: W + weight (alpha / r) up down.

Notation: a layer's kernel in torch's layout is W `[o i]` or `[o i h w]`; its change has
the factors down `[r i]` (or `[r i h w]`) and up `[o r]` (or `[o r 1 1]`), r the rank,
and alpha, r where the file does not say. Source: Hu et al. 2021 (arXiv 2106.09685); for
convolutions as in kohya's LoCon. Sums are float32, the result has the kernel's type.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open

from sdsjax.models.loading.errors import LoaderError, unreadable_format
from sdsjax.models.loading.lora_files.keys import (
    Layer,
    base_of,
    layers_by_name,
    parse_key,
    refuse_others,
)
from sdsjax.models.loading.mapping import to_flax, torch_shape
from sdsjax.models.loading.weights import key_shapes, read_tensor

Networks = TypeVar("Networks")
# diffusers' own record of how an adapter was made
METADATA = "lora_adapter_metadata"


def with_loras(networks: Networks, loras: Sequence[tuple[str, float]]) -> Networks:
    """Returns networks whose kernels have each (file, weight) of `loras` added.

    networks: a StableDiffusion or an SDXL. Raises LoaderError, one line, for a key that
    matches no layer, for factors that do not fit one, and for what is no plain LoRA.
    """
    names = layers_by_name(networks)
    changed: dict[str, dict[tuple, Any]] = {}
    for file, weight in map(_pair, loras):
        path = _readable(file)
        for layer, delta in _deltas(path, names, networks):
            if layer.network not in changed:
                changed[layer.network] = _flat(networks, layer.network)
            flat = changed[layer.network]
            kernel = flat[layer.entry.path]
            delta = weight * to_flax(layer.entry.kind, delta)
            exact = np.asarray(kernel, np.float32) + delta
            # to where the kernel is, as pieces where it is cut
            whole = np.asarray(exact, kernel.dtype)
            flat[layer.entry.path] = jax.device_put(whole, kernel.sharding)
    merged: Any = networks
    for name, flat in changed.items():
        network = getattr(merged, name)._replace(params=unflatten_dict(flat))
        merged = merged._replace(**{name: network})
    return merged


def _flat(networks, name: str) -> dict[tuple, Any]:
    return dict(flatten_dict(getattr(networks, name).params))


def _pair(entry) -> tuple[str, float]:
    pair = entry if isinstance(entry, tuple | list) and len(entry) == 2 else (None, 0)
    file, weight = pair
    number = isinstance(weight, int | float) and abs(weight) < float("inf")
    if not isinstance(file, str) or not number:
        raise LoaderError(
            f"prior.loras: {entry!r}; expected pairs of a file and the weight it is "
            'merged at, as in (("file.safetensors", 0.8),)'
        )
    return file, float(weight)


def _readable(file: str) -> Path:
    path = Path(file).expanduser()
    reason = unreadable_format(path)
    if reason:
        raise LoaderError(f"prior.loras: {path}: {reason}")
    if not path.is_file():
        raise LoaderError(
            f"prior.loras: {path}: no such file; expected a .safetensors file"
        )
    return path


def _deltas(path: Path, names: dict[str, Layer], networks):
    """The change `[o i]` or `[o i h w]` of each layer that a file changes."""
    shapes = key_shapes(path)
    refuse_others(path, shapes)
    parts: dict[str, dict[str, str]] = {}
    for key in shapes:
        parsed = parse_key(key)
        if parsed is None or parsed[0] not in names:
            raise LoaderError(
                f"{path}: {key} matches no layer of the prior's networks; "
                f"{base_of(shapes)}"
            )
        parts.setdefault(parsed[0], {})[parsed[1]] = key
    alphas, params = _alphas(path), {}
    for name, keys in parts.items():
        for role in ("down", "up"):
            if role not in keys:
                raise LoaderError(f"{path}: {name} has no factor {role!r}")
        layer = names[name]
        if layer.network not in params:
            params[layer.network] = _flat(networks, layer.network)
        kernel = params[layer.network][layer.entry.path].shape
        expected = torch_shape(layer.entry.kind, kernel)
        yield layer, _delta(path, name, keys, expected, shapes, alphas)


def _delta(path, name: str, keys, expected, shapes, alphas) -> np.ndarray:
    """One layer's change; expected: its kernel's shape in torch's layout."""
    down, up = (
        np.asarray(read_tensor(path, keys[role]), np.float32) for role in ("down", "up")
    )
    rank = down.shape[0]
    alpha = alphas(name, rank)
    if "alpha" in keys:
        alpha = float(np.asarray(read_tensor(path, keys["alpha"]), np.float32).item())
    flat = None
    if up.ndim in (2, 4) and up.shape[1:] in ((rank,), (rank, 1, 1)):
        flat = up.reshape(up.shape[0], -1) @ down.reshape(rank, -1)
    pixel = expected[2:] == (1, 1)  # a 1x1 convolution's factors may be matrices
    if flat is None or not (
        (up.shape[0], *down.shape[1:]) == expected
        or (pixel and (up.shape[0], *down.shape[1:]) == expected[:2])
    ):
        raise LoaderError(
            f"{path}: {keys['down']} {list(down.shape)} and {keys['up']} "
            f"{list(up.shape)} do not fit a layer of {list(expected)}; "
            f"{base_of(shapes)}"
        )
    if not np.isfinite(flat).all():
        raise LoaderError(f"{path}: {name} holds values that are not finite")
    return (alpha / rank) * flat.reshape(expected)


def _alphas(path: Path):
    """(name, rank) -> alpha by the record that diffusers keeps; the rank without it."""
    with safe_open(str(path), "np") as file:
        said = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    for key, value in said.items():
        if key.rpartition(".")[2] in ("use_rslora", "use_dora") and value:
            raise LoaderError(f"{path}: made with {key}, which is not implemented")

    def alpha(name: str, rank: int) -> float:
        network, _, layer = name.partition(".")
        patterns = said.get(f"{network}.alpha_pattern") or {}
        return float(patterns.get(layer, said.get(f"{network}.lora_alpha", rank)))

    return alpha
