"""What goes wrong when a folder of weights is read, said in one line."""

from pathlib import Path


class LoaderError(ValueError):
    """A folder, file, key or config value that cannot be used.

    The message is one line: the file, the key, what was found, what was expected.
    """


def absence(path: Path, otherwise: str = "missing") -> str:
    """Returns what to say of a file that is not there.

    The cache of the hub holds links, and a download that was cut off leaves links to
    nothing.
    """
    if path.is_symlink():
        return f"a link to {path.readlink()}, which does not exist: fetch it again"
    return otherwise
