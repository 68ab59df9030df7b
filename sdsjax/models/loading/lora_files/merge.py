"""Adds LoRA files to the kernels of networks: W + weight scale up down.

Notation: a layer's kernel in torch's layout is W `[o i]` or `[o i h w]`; its change has
the factors down `[r i]` (or `[r i h w]`) and up `[o r]` (or `[o r 1 1]`), r the rank;
scale: alpha / r (scaling.py). Source: Hu et al. 2021 (arXiv 2106.09685); for
convolutions as in kohya's LoCon. Sums are float32, the result has the kernel's type.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sdsjax.models.loading.errors import LoaderError, unreadable_format
from sdsjax.models.loading.lora_files.keys import (
    Layer,
    base_of,
    layers_by_name,
    parse_key,
    refuse_others,
)
from sdsjax.models.loading.lora_files.scaling import scaling_of
from sdsjax.models.loading.mapping import to_flax, torch_shape
from sdsjax.models.loading.weights import DTYPES, key_shapes, read_tensor

Networks = TypeVar("Networks")


def with_loras(networks: Networks, loras: Sequence[tuple[str, float]]) -> Networks:
    """Returns networks whose kernels have each (file, weight) of `loras` added.

    networks: a StableDiffusion or an SDXL. Raises LoaderError, one line, for a key that
    matches no layer, for factors that do not fit one, and for what is no plain LoRA.
    """
    names = layers_by_name(networks)
    changed: dict[str, dict[tuple, Any]] = {}
    for file, weight in pairs_of(loras):
        path = _readable(file)
        for layer, delta in _deltas(path, names, networks):
            if layer.network not in changed:
                changed[layer.network] = _flat(networks, layer.network)
            flat = changed[layer.network]
            kernel = flat[layer.entry.path]
            delta = weight * to_flax(layer.entry.kind, delta)
            exact = np.asarray(kernel, np.float32) + delta
            # to where the kernel is, as pieces where it is cut
            with np.errstate(over="ignore"):  # said below
                whole = np.asarray(exact, kernel.dtype)
            if not np.isfinite(whole).all():
                raise LoaderError(
                    f"{path}: merged at {weight} a kernel has values that are not "
                    f"finite in {kernel.dtype}: lower the weight, or raise prior.dtype"
                )
            flat[layer.entry.path] = jax.device_put(whole, kernel.sharding)
    merged: Any = networks
    for name, flat in changed.items():
        network = getattr(merged, name)._replace(params=unflatten_dict(flat))
        merged = merged._replace(**{name: network})
    return merged


def _flat(networks, name: str) -> dict[tuple, Any]:
    return dict(flatten_dict(getattr(networks, name).params))


def pairs_of(loras) -> tuple[tuple[str, float], ...]:
    """Returns (file, weight) of each entry of `prior.loras`. Raises LoaderError."""
    return tuple(map(_pair, loras))


def _pair(entry) -> tuple[str, float]:
    pair = entry if isinstance(entry, tuple | list) and len(entry) == 2 else (None, 0)
    file, weight = pair
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not isinstance(file, str) or not number or not abs(weight) < float("inf"):
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
    shapes = key_shapes(path, DTYPES)
    refuse_others(path, shapes)
    if not shapes:
        raise LoaderError(f"{path}: holds no tensors; expected a LoRA's factors")
    parts: dict[str, dict[str, str]] = {}
    for key in shapes:
        parsed = parse_key(key)
        if parsed is None or parsed[0] not in names:
            raise LoaderError(
                f"{path}: {key} matches no layer of the prior's networks; "
                f"{base_of(shapes)}"
            )
        parts.setdefault(parsed[0], {})[parsed[1]] = key
    scaling, params = scaling_of(path), {}
    for name, keys in parts.items():
        for role in ("down", "up"):
            if role not in keys:
                raise LoaderError(f"{path}: {name} has no factor {role!r}")
        layer = names[name]
        if layer.network not in params:
            params[layer.network] = _flat(networks, layer.network)
        kernel = params[layer.network][layer.entry.path].shape
        expected = torch_shape(layer.entry.kind, kernel)
        yield layer, _delta(path, name, keys, expected, shapes, scaling)


def _delta(path, name: str, keys, expected, shapes, scaling) -> np.ndarray:
    """One layer's change; expected: its kernel's shape in torch's layout."""
    down, up = (shapes[keys[role]] for role in ("down", "up"))
    rank = down[0] if down else 0
    pixel = expected[2:] == (1, 1)  # a 1x1 convolution's factors may be matrices
    fits = (*up[:1], *down[1:]) in ((expected, expected[:2]) if pixel else (expected,))
    if not (fits and rank and up[1:] in ((rank,), (rank, 1, 1))):
        raise LoaderError(
            f"{path}: {keys['down']} {list(down)} and {keys['up']} {list(up)} do not "
            f"fit a layer of {list(expected)}; {base_of(shapes)}"
        )
    alpha = None
    if "alpha" in keys:
        if np.prod(shapes[keys["alpha"]], dtype=int) != 1:
            raise LoaderError(
                f"{path}: {keys['alpha']} has shape {list(shapes[keys['alpha']])}; "
                "expected one number"
            )
        alpha = float(np.asarray(read_tensor(path, keys["alpha"]), np.float32).item())
    factors = (read_tensor(path, keys[role]) for role in ("up", "down"))
    wide, narrow = (f.astype(np.float32).reshape(len(f), -1) for f in factors)
    change = scaling(name, rank, alpha) * (wide @ narrow)
    if not np.isfinite(change).all():
        raise LoaderError(f"{path}: {name} holds values that are not finite")
    return change.reshape(expected)
