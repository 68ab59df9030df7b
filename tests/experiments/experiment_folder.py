"""Loads an experiment's run.py as a module. Not a test; the tests here share it."""

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "experiments"


def load(name: str):
    """experiments/<name>/run.py as a module of its own."""
    label = f"experiment_{name}"
    spec = importlib.util.spec_from_file_location(label, FOLDER / name / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module  # NamedTuples of the file look themselves up here
    spec.loader.exec_module(module)
    return module


def run_small(module, tmp_path):
    """The table that `main` writes beside a picture, at the module's SMALL size."""
    module.main(["--out", str(tmp_path)])
    assert (tmp_path / "small.png").stat().st_size > 5000
    return (tmp_path / "small.md").read_text()
