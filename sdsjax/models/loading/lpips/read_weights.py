"""Reads LPIPS's weights: the published package's keys, torchvision's, or both mixed.

A file, or the files of a folder together, hold the features and the five heads:

    features   net.sliceS.N.weight (the package `lpips`), or features.N.weight
               (torchvision's alexnet, vgg16), `[o i h w]`, and .bias `[o]`
    heads      linL.model.1.weight or lins.L.model.1.weight `[1 c 1 1]`; model.0 of a
               head without dropout

Which network it is the first convolution says. A classifier's layers are left out; any
other key, a missing one or another shape is refused. Pickles (.pth) are not read:
CONVERT makes a file of the installed package, once.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sdsjax.models.loading.errors import LoaderError, unreadable_format
from sdsjax.models.loading.hub import Network
from sdsjax.models.loading.weights import key_shapes, read_tensor
from sdsjax.models.vision.lpips import LPIPS, NETWORKS, SCALE, SHIFT

ENDINGS = (".safetensors", ".npz")
CONVERT = (
    'python -c "import lpips, safetensors.torch as s; '
    "s.save_file({k: v.clone() for k, v in lpips.LPIPS(net='alex').state_dict()"
    ".items()}, 'lpips-alex.safetensors')\""
)
IGNORED = re.compile(r"classifier\.\d+\.(weight|bias)")
FEATURES = re.compile(r"(?:net\.slice\d+|features)\.(\d+)\.(weight|bias)")
HEADS = re.compile(r"(?:lin|lins\.)(\d+)\.model\.[01]\.weight")
CONSTANTS = {"scaling_layer.shift": SHIFT, "scaling_layer.scale": SCALE}
MOST_BYTES = 2 << 30  # of one tensor; the largest of a classifier has 400 MB


class _Tensor(NamedTuple):
    # where a tensor is, under which key, and its shape
    file: Path
    key: str
    shape: tuple[int, ...]


def load_lpips(path: str | Path) -> Network:
    """Reads LPIPS from a .safetensors or .npz file, or a folder of such files.

    Its config is the network's name, "alex" or "vgg". Raises LoaderError, one line.
    """
    path = Path(path).expanduser()
    found = _by_name(path)
    name = _network_of(path, found)
    wanted = _shapes(name)
    for key in sorted(wanted.keys() | found.keys()):
        if key not in found:
            raise LoaderError(
                f"{path}: no tensor for LPIPS's {key} ({name}): the features and the "
                f"heads are both needed; of the package lpips: {CONVERT}"
            )
        tensor, shape = found[key], wanted.get(key)
        if tensor.shape != shape:
            expected = f"expected {list(shape)}" if shape else f"{name} has no such key"
            raise LoaderError(
                f"{tensor.file}: {tensor.key} has shape {list(tensor.shape)}; "
                f"{expected}"
            )
    params: dict[str, Any] = {}
    for key, tensor in found.items():
        layer, _, part = key.partition(".")
        array = jax.device_put(_flax_layout(_read(tensor)))
        if part:
            part = {"weight": "kernel"}.get(part, part)
            params.setdefault(layer, {})[part] = array
        else:
            params[layer] = array
    return Network(LPIPS(name), params, name)


def files_of(path: str | Path) -> list[Path]:
    """Lists the files that `load_lpips` reads. Raises LoaderError where there is none.

    Of a folder all that end in ENDINGS.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS)
        if files:
            return files
        raise LoaderError(
            f"{path}: holds no {' or '.join(ENDINGS)} file of LPIPS; the package lpips "
            f"makes one: {CONVERT}"
        )
    if not path.is_file():
        raise LoaderError(f"{path}: no such file or folder of LPIPS's weights")
    if path.suffix.lower() not in ENDINGS:
        why = unreadable_format(path) or f"not a {' or '.join(ENDINGS)} file"
        raise LoaderError(f"{path}: {why}")
    return [path]


def _by_name(path: Path) -> dict[str, _Tensor]:
    """Finds the tensors by our names: features_N.weight, features_N.bias, head_L."""
    found: dict[str, _Tensor] = {}
    for file in files_of(path):
        for key, shape in _headers(file).items():
            tensor, name = _Tensor(file, key, shape), _name_of(key)
            if key in CONSTANTS:
                _check_constant(tensor)
            elif IGNORED.fullmatch(key):
                continue
            elif name is None:
                raise LoaderError(
                    f"{file}: {key} is none of LPIPS's keys, torchvision's alexnet's "
                    "or vgg16's"
                )
            elif name not in found:
                found[name] = tensor
            elif not np.array_equal(_read(found[name]), _read(tensor)):
                # of one head the package writes the same tensor twice, which may be
                other = found[name]
                raise LoaderError(
                    f"{path}: two tensors for {name} ({other.file.name}: {other.key}, "
                    f"{file.name}: {key}): name the files of one network alone"
                )
    return found


def _name_of(key: str) -> str | None:
    if match := FEATURES.fullmatch(key):
        return f"features_{match[1]}.{match[2]}"
    if match := HEADS.fullmatch(key):
        return f"head_{match[1]}"
    return None


def _check_constant(tensor: _Tensor) -> None:
    stored, ours = _read(tensor).ravel(), CONSTANTS[tensor.key]
    if stored.shape != (3,) or not np.allclose(stored, ours, atol=1e-6):
        raise LoaderError(
            f"{tensor.file}: {tensor.key} is {stored[:3].tolist()}; expected "
            f"{list(ours)}, as in the published version 0.1"
        )


def _network_of(path: Path, found: Mapping[str, _Tensor]) -> str:
    """Names the network by its first convolution. Raises LoaderError for another."""
    first = found.get("features_0.weight")
    if first is None:
        raise LoaderError(
            f"{path}: holds no first convolution (net.slice1.0.weight or "
            "features.0.weight): LPIPS needs the features of alexnet or vgg16 besides "
            f"its heads; of the package lpips: {CONVERT}"
        )
    for name in NETWORKS:
        if first.shape == _shapes(name)["features_0.weight"]:
            return name
    raise LoaderError(
        f"{first.file}: {first.key} has shape {list(first.shape)}: neither alexnet's "
        "nor vgg16's; squeezenet is not implemented"
    )


def _shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Lists torch's shapes of a network's tensors by our names."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for number, stage in enumerate(NETWORKS[network]):
        for one in stage.convolutions:
            kernel = (one.features, channels, one.kernel, one.kernel)
            shapes[f"features_{one.index}.weight"] = kernel
            shapes[f"features_{one.index}.bias"] = (one.features,)
            channels = one.features
        shapes[f"head_{number}"] = (1, channels, 1, 1)
    return shapes


def _headers(file: Path) -> dict[str, tuple[int, ...]]:
    """Reads key -> shape of every tensor, and nothing else. Raises LoaderError."""
    if file.suffix.lower() == ".safetensors":
        return key_shapes(file, ("F32", "F16", "F64"))
    shapes = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = np.lib.format.read_array_header_1_0
                    if version != (1, 0):
                        read = np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(member)
                if dtype.kind != "f" or 8 * np.prod(shape, dtype=float) > MOST_BYTES:
                    raise LoaderError(f"{file}: {name} is no tensor of real numbers")
                shapes[name.removesuffix(".npy")] = shape
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, LoaderError):
            raise
        line = " ".join(str(error).split())
        raise LoaderError(f"{file}: not a readable .npz file ({line})") from None
    return shapes


def _read(tensor: _Tensor) -> np.ndarray:
    if tensor.file.suffix.lower() == ".safetensors":
        array = read_tensor(tensor.file, tensor.key)
    else:
        try:
            with np.load(tensor.file) as archive:  # allow_pickle is off by default
                array = archive[tensor.key]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            line = " ".join(str(error).split())
            raise LoaderError(f"{tensor.file}: {tensor.key}: {line}") from None
    array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        raise LoaderError(f"{tensor.file}: {tensor.key} holds values not finite")
    return array


def _flax_layout(tensor: np.ndarray) -> np.ndarray:
    """[o i h w] -> [h w i o]; a head [1 c 1 1] -> [c]; a bias stays."""
    if tensor.ndim != 4:
        return tensor
    if tensor.shape[0] == 1:
        return tensor.reshape(-1)
    return np.ascontiguousarray(tensor.transpose(2, 3, 1, 0))
