"""The runs of a folder: what each is of, how far it is, what it looks like."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from sdsjax.exports.formats import FORMATS, MESHES, write_formats
from sdsjax.exports.written_files import find_previews
from sdsjax.live.show_runs import is_finished, read_scores
from sdsjax.representations.gaussians import Gaussians
from sdsjax.runs.checkpoints import Checkpoints
from sdsjax.runs.run_directory import RunError, read_json
from sdsjax.training.build.finished_run import read_newest

# Nodes a side of a downloaded mesh, where the run's own config has none.
RESOLUTION = 96


class Entry(NamedTuple):
    """A run of a folder; step: of its newest checkpoint, None before the first."""

    folder: Path
    prompt: str
    step: int | None
    finished: bool
    scores: dict[str, float]


def list_runs(folder: Path) -> list[Entry]:
    """Lists the runs that lie directly in a folder, the newest first."""
    if not folder.is_dir():
        return []
    found = [run for run in folder.iterdir() if (run / "run.json").is_file()]
    found.sort(key=_began, reverse=True)
    return [_entry(run) for run in found]


def _began(run: Path) -> float:
    try:
        return (run / "config.json").stat().st_mtime
    except OSError:
        return 0.0


def _entry(run: Path) -> Entry:
    try:
        prompt = str((read_json(run / "config.json") or {}).get("prompt", ""))
    except RunError:
        prompt = ""
    steps = Checkpoints(run / "checkpoints").steps()
    newest = steps[-1] if steps else None
    return Entry(run, prompt, newest, is_finished(run), read_scores(run))


def table(entries: list[Entry]) -> str:
    """Makes a Markdown table of runs."""
    if not entries:
        return "no runs yet"
    rows = ["| run | prompt | step | IoU |", "|---|---|---|---|"]
    for one in entries:
        step = "" if one.step is None else f"{one.step}{'' if one.finished else ' ...'}"
        iou = one.scores.get("iou")
        cells = [one.folder.name, one.prompt, step, "" if iou is None else f"{iou:.3f}"]
        clean = (escape(" ".join(cell.split())).replace("|", "\\|") for cell in cells)
        rows.append("| " + " | ".join(clean) + " |")
    return "\n".join(rows)


def picture_of(run: Path, width: int = 480) -> np.ndarray | None:
    """Reads the newest picture of a run, [h w 3] uint8; None where there is none.

    That of its exports when it is finished, else its last preview.
    """
    from PIL import Image

    found = [run / "views.png"] if is_finished(run) else []
    found += [path for _, path in reversed(find_previews(run))]
    for path in found:
        try:
            image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        except (OSError, ValueError):
            continue
        height = max(round(image.height * width / image.width), 1)
        return np.asarray(image.resize((width, height)))
    return None


def formats_of(run: Path) -> list[str]:
    """Lists the names of the formats that a run's asset can be written in."""
    config: Any = read_json(run / "config.json") or {}
    kind = (config.get("representation") or {}).get("name")
    if kind == "image":
        return []
    return list(FORMATS if kind == "gaussians" else MESHES)


def download(run: Path, name: str) -> tuple[str, bytes]:
    """Writes a run's newest asset in a format; returns the file's name and content.

    Raises what is one line for a user: RunError, CheckpointError, MeshError, PlyError,
    MissingExtra.
    """
    read = read_newest(run)
    if name not in (FORMATS if isinstance(read.asset, Gaussians) else MESHES):
        raise RunError(f"{run.name} has no {name}: choose {', '.join(formats_of(run))}")
    wanted = read.config.get("exports") or {}
    with TemporaryDirectory() as folder:
        paths = write_formats(
            Path(folder),
            read.asset,
            [name],
            mesh_resolution=int(wanted.get("mesh_resolution", 0) or RESOLUTION),
            bound=float(read.config.representation.get("bound", 1.0)),
        )
        return f"{run.name}-{paths[name].name}", paths[name].read_bytes()
