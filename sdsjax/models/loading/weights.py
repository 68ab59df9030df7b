"""Reads safetensors files into a Flax parameter tree, tensor by tensor and strictly.

Notation: a table is a list of `mapping.Entry`; `target` is the tree of shapes that the
network's own init gives. Source keys, table and target must agree exactly; anything
else raises LoaderError with the file, the key, what was found and what was expected.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  safetensors reads bfloat16 into numpy through it
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from sdsjax.models.loading.errors import LoaderError, absence
from sdsjax.models.loading.mapping import (
    FUSED,
    TO_FLAX,
    WHOLE,
    Entry,
    to_flax,
    torch_shape,
)

DTYPES = ("F32", "F16", "BF16")
# a file is reopened after so many bytes: pages of the closed mapping leave memory
REOPEN_BYTES = 128 << 20
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5", ".onnx")


Kept = TypeVar("Kept")
_kept: dict[Hashable, object] | None = None  # of `networks_kept`, None outside


@contextlib.contextmanager
def networks_kept() -> Iterator[None]:
    """Has a network that is asked for several times inside read once.

    Whoever asks gets the same arrays. Where they are placed is the first one's choice.
    """
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


def kept_or_made(name: Hashable, make: Callable[[], Kept]) -> Kept:
    """Returns what was made before under a name, inside of `networks_kept`."""
    if _kept is None:
        return make()
    if name not in _kept:
        _kept[name] = make()
    found: Kept = _kept[name]  # pyright: ignore[reportAssignmentType]
    return found


class Source(NamedTuple):
    """Where the tensors of a component are: key -> file; `name` for messages."""

    name: Path
    files: dict[str, Path]


def read_json(path: Path) -> dict:
    """A JSON object; LoaderError if the file is missing or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LoaderError(f"{path}: {absence(path, 'no such file')}") from None
    except (OSError, ValueError) as error:
        raise LoaderError(f"{path}: not readable as JSON ({_line(error)})") from None
    if not isinstance(found, dict):
        raise LoaderError(f"{path}: a JSON object was expected")
    return found


def find_weights(folder: Path, stem: str, variant: str | None = None) -> Source:
    """The safetensors of a component folder: one file or an index of shards.

    stem: "diffusion_pytorch_model" or "model". Without `variant`, files of the variant
    fp16 are taken if there are no others. Raises LoaderError, and says so if the folder
    holds nothing but pickles.
    """
    for infix in [f".{variant}"] if variant else ["", ".fp16"]:
        single = folder / f"{stem}{infix}.safetensors"
        if single.is_file():
            return Source(single, dict.fromkeys(_keys(single), single))
        index = folder / f"{stem}.safetensors.index{infix}.json"
        if index.is_file():
            return Source(index, _read_index(index))
    _refuse_dangling(folder)
    wanted = f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"
    present = sorted(p.name for p in folder.iterdir())
    pickles = [name for name in present if name.endswith(PICKLES)]
    if pickles:
        raise LoaderError(
            f"{folder}: holds {pickles[0]} but no {wanted}; only safetensors are read "
            "(a pickle can run any code): convert it, or name a folder that has them"
        )
    raise LoaderError(f"{folder}: no {wanted}; found {', '.join(present) or 'nothing'}")


def _refuse_dangling(folder: Path) -> None:
    # A hub cache holds links; a download that was cut off or cleaned leaves them.
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():
            raise LoaderError(f"{path}: {absence(path)}")


def _read_index(index: Path) -> dict[str, Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LoaderError(f"{index}: no weight_map; expected key -> file name")
    for key, name in weight_map.items():
        plain = isinstance(name, str) and Path(name).name == name and "\\" not in name
        if not plain or not name.endswith(".safetensors"):
            raise LoaderError(
                f"{index}: {key} -> {name!r}; expected the plain name of a "
                ".safetensors file beside the index"
            )
    shards = {name: index.parent / name for name in sorted(set(weight_map.values()))}
    for name, path in shards.items():
        if not path.is_file():
            raise LoaderError(f"{path}: {absence(path)}; {index.name} names it")
        listed = {key for key, where in weight_map.items() if where == name}
        _same_keys(path, _keys(path), listed, f"listed in {index.name}")
    return {key: shards[name] for key, name in weight_map.items()}


def key_shapes(
    path: Path, types: Collection[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a file, from its header alone.

    types: those that tensors may have; None: any. Raises LoaderError for a file that is
    not readable, and for a tensor of another type.
    """
    with _open(path) as file:
        views = {key: file.get_slice(key) for key in list(file.keys())}
        for key, view in views.items():
            if types is not None:
                _check_type(path, key, view, types)
        return {key: tuple(view.get_shape()) for key, view in views.items()}


def _check_type(path, key: str, view, types: Collection[str]) -> None:
    if view.get_dtype() not in types:
        raise LoaderError(
            f"{path}: {key} has type {view.get_dtype()}; expected {', '.join(types)}"
        )


def read_tensor(path: Path, key: str) -> np.ndarray:
    """One tensor as it is stored. Raises LoaderError for an unreadable file."""
    with _open(path) as file:
        return file.get_tensor(key)


def _keys(path: Path) -> list[str]:
    with _open(path) as file:
        return list(file.keys())


def _open(path: Path):
    try:
        return safe_open(str(path), "np")
    except (SafetensorError, OSError, ValueError) as error:
        raise LoaderError(
            f"{path}: not a readable safetensors file ({_line(error)}); "
            "it may be truncated: fetch it again"
        ) from None


def _line(error) -> str:
    return " ".join(str(error).split())


def _same_keys(path, found: Iterable[str], expected: Iterable[str], by: str):
    found, expected = set(found), set(expected)
    for keys, wrong in (
        (expected - found, "missing"),
        (found - expected, "unexpected"),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise LoaderError(
                f"{path}: {wrong} key {min(keys)}{more}; {len(expected)} keys are "
                f"{by}, {len(found)} found"
            )


def check_table(table: list[Entry], target, name: str) -> dict:
    """The target flattened, after checking that the table covers it, once each."""
    flat = flatten_dict(target)
    paths = [e.path for e in table]
    keys = [(e.key, e.path if e.kind in FUSED else ()) for e in table]
    if len(set(paths)) != len(paths) or len(set(keys)) != len(keys):
        raise AssertionError(f"{name}: the table writes a parameter twice")
    if set(paths) != set(flat):
        odd = sorted(set(paths) ^ set(flat))[:3]
        raise AssertionError(f"{name}: table and network disagree about {odd}")
    return flat


def load_params(
    source: Source, table: list[Entry], target, dtype=jnp.float32, sharding=None
):
    """Read every tensor of `table` -> the parameter tree, in `dtype`, on the device.

    sharding: where the parameters go, or shape -> that; of a tensor that it cuts only
    the pieces of this process's devices are read. Peak memory is one copy of the
    parameters, one tensor and REOPEN_BYTES of file.
    Raises LoaderError for missing, unexpected, misshapen, non-finite tensors and for
    types other than F32, F16, BF16; but for values that are not finite, of all files
    before anything is read.
    """
    shapes = check_table(table, target, str(source.name))
    _same_keys(source.name, source.files, (e.key for e in table), "expected")
    by_file: dict[Path, list[Entry]] = {}
    for entry in table:
        by_file.setdefault(source.files[entry.key], []).append(entry)
    for path, entries in by_file.items():
        with _open(path) as file:
            for entry in entries:
                _check_header(file, path, entry, shapes[entry.path].shape)
    params = {}
    for path, entries in by_file.items():
        for chunk in _chunks(entries, shapes):
            with _open(path) as file:
                for entry in chunk:
                    shape = shapes[entry.path].shape
                    if callable(sharding):
                        array = _read_pieces(
                            file, path, entry, shape, dtype, sharding(shape)
                        )
                    else:
                        tensor = file.get_tensor(entry.key)
                        array = jax.device_put(
                            _converted(path, entry, tensor, dtype), sharding
                        )
                        del tensor
                    params[entry.path] = array
                    del array
    return unflatten_dict(params)


def _chunks(entries, shapes):
    chunk, size = [], 0
    for entry in entries:
        chunk.append(entry)
        size += 4 * int(np.prod(shapes[entry.path].shape))
        if size >= REOPEN_BYTES:
            yield chunk
            chunk, size = [], 0
    yield chunk


def _check_header(file, path, entry: Entry, shape) -> None:
    # shape and type are as expected; the tensor itself stays unread
    view = file.get_slice(entry.key)
    found, expected = tuple(view.get_shape()), torch_shape(entry.kind, shape)
    if found != expected:
        raise LoaderError(
            f"{path}: {entry.key} has shape {list(found)}; expected {list(expected)}"
        )
    _check_type(path, entry.key, view, DTYPES)


def _read_pieces(file, path, entry: Entry, shape, dtype, sharding) -> jax.Array:
    view, read = file.get_slice(entry.key), {}

    def piece(index):
        # devices that hold the same piece share one reading of it
        ends = tuple(s.indices(n)[:2] for s, n in zip(index, shape))
        if ends not in read:
            if entry.kind in WHOLE:
                whole = _converted(path, entry, file.get_tensor(entry.key), dtype)
                read[ends] = np.ascontiguousarray(whole[index])
                return read[ends]
            if all(end == (0, n) for end, n in zip(ends, shape)):
                tensor = file.get_tensor(entry.key)
            else:
                order = np.argsort(TO_FLAX.get(entry.kind, range(len(shape))))
                tensor = view[tuple(slice(*ends[axis]) for axis in order)]
            read[ends] = _converted(path, entry, tensor, dtype)
        return read[ends]

    return jax.make_array_from_callback(shape, sharding, piece)


def _converted(path, entry: Entry, tensor: np.ndarray, dtype) -> np.ndarray:
    array = np.asarray(to_flax(entry.kind, tensor), dtype=dtype, order="C")
    if not np.isfinite(array).all():
        raise LoaderError(
            f"{path}: {entry.key} holds values that are not finite in "
            f"{jnp.dtype(dtype).name}"
        )
    return array
