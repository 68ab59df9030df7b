"""Loads an experiment's run.py as a module. Not a test; the tests here share it."""

import importlib
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "experiments"


def load(name: str, file: str = "run"):
    """experiments/<name>/<file>.py as a module of its own; nothing that it imports
    from its folder stays behind for another experiment to find, unless the caller has
    put the folder on the path and sees to that."""
    folder = FOLDER / name
    seen_to = str(folder) in sys.path
    label = f"experiment_{name}_{file}"
    spec = importlib.util.spec_from_file_location(label, folder / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module  # NamedTuples of the file look themselves up here
    if seen_to:
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)
    return module


@contextmanager
def modules(name: str, files: tuple[str, ...]):
    """experiments/<name>/<file>.py as modules by file; nothing of them stays behind."""
    folder = str(FOLDER / name)
    sys.path.insert(0, folder)
    try:
        yield {file: importlib.import_module(file) for file in files}
    finally:
        sys.path.remove(folder)
        for file in files:
            sys.modules.pop(file, None)


def run_small(module, tmp_path):
    """The table that `main` writes beside a picture, at the module's SMALL size; made
    of its rows alone it is the same, and so is the picture."""
    module.main(["--out", str(tmp_path)])
    files = [tmp_path / "small.md", tmp_path / "small.png"]
    assert files[1].stat().st_size > 5000
    first = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    module.main(["--out", str(tmp_path), "--only-report"])
    assert [file.read_bytes() for file in files] == first
    return files[0].read_text()
