"""What goes wrong when a folder of weights is read, said in one line."""

from pathlib import Path


class LoaderError(ValueError):
    """A folder, file, key or config value that cannot be used.

    The message is one line: the file, the key, what was found, what was expected.
    """


PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
OTHER_FORMATS = {
    ".gguf": "GGUF, numbers quantised for other programs",
    ".onnx": "an ONNX graph, not its parameters by name",
    ".msgpack": "Flax's own format, of networks that are not ours",
    ".h5": "a Keras file",
}


def unreadable_format(path: Path) -> str | None:
    """Returns why a weights' file is not read, and what to do; None for others."""
    ending, made = path.suffix.lower(), path.with_suffix(".safetensors")
    if ending in PICKLES:
        return (
            "a pickle, which can run any code when it is read; only .safetensors is: "
            'convert it once by python -c "import torch, safetensors.torch as s; '
            f"w = torch.load('{path}', weights_only=True); w = w.get('state_dict', w); "
            "s.save_file({k: v.clone().contiguous() for k, v in w.items() "
            f"if torch.is_tensor(v)}}, '{made}')\""
        )
    if ending in OTHER_FORMATS:
        return (
            f"{OTHER_FORMATS[ending]}; only .safetensors is read: name the model's "
            "folder or single file of that kind"
        )
    return None


def absence(path: Path, otherwise: str = "missing") -> str:
    """Returns what to say of a file that is not there.

    The cache of the hub holds links, and a download that was cut off leaves links to
    nothing.
    """
    if path.is_symlink():
        return f"a link to {path.readlink()}, which does not exist: fetch it again"
    return otherwise
