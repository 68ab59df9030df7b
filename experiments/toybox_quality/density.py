"""Configs that add and remove Gaussians, against SDS with 2 000 that stay; README.md.

The settings of DreamGaussian, GSGen, StableDreamer and 3DGS-MCMC on toybox-mv, all with
SDS at the guidance that they take by default.

    python experiments/toybox_quality/run.py --density          # small: minutes
    python experiments/toybox_quality/run.py --density --full   # 10 runs
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from multiview import FIGURES, embedded
from PIL import Image, ImageDraw

from sdsjax.studies.report import markdown_table
from sdsjax.studies.runner import Run

MARGIN = 120  # px, for the names on the sheet
# a config's name, and what is said besides
MULTIVIEW = {"prior.name": "multiview", "prior.folder": "toybox-mv", "prior.group": 4}
CONFIGS = {
    "sds:mv": {},
    "dreamgaussian:mv": {},
    "gsgen:mv": {},
    "stabledreamer:mv": {},
    "stabledreamer:mcmc": MULTIVIEW,
}


class Plan(NamedTuple):
    """Prompts, configs, and steps of a run (None: the config's)."""

    prompts: tuple[str, ...]
    configs: tuple[str, ...] = tuple(CONFIGS)
    steps: int | None = None


FULL = Plan(("a red mug", "a blue house"))
SMALL = Plan(("a red mug",), ("sds:mv", "gsgen:mv"), steps=60)


class Job(NamedTuple):
    """One run; weights: the first digits of their sha256."""

    config: str
    prompt: str
    weights: str

    def key(self) -> str:
        return f"{self.config} | {self.prompt} | toybox-mv {self.weights}"

    def folder(self, root: Path) -> Path:
        words = f"{self.config}-{self.prompt}-{self.weights}"
        return root / words.replace(" ", "-").replace(":", "-")


def jobs(run: Run):
    """Every prompt with every config."""
    for prompt in run.plan.prompts:
        for config in run.plan.configs:
            job = Job(config, prompt, embedded())
            yield job.key(), job


def rows_of(ply: Path) -> int:
    """The number of Gaussians in a PLY, by its header."""
    with ply.open("rb") as file:
        for line in file:
            if line.startswith(b"element vertex"):
                return int(line.split()[2])
    raise ValueError(f"{ply} has no vertices")


def worker(run: Run):
    """Runs a job by the main program, with the least exports."""
    import sdsjax

    def perform(job: Job) -> dict:
        print(job.key(), file=sys.stderr, flush=True)
        said = {"preview_every": 0, "checkpoint_every": 0, **CONFIGS[job.config]}
        said |= {"exports.turntable_frames": 8, "exports.mesh_resolution": 24}
        if run.plan.steps is not None:
            said["steps"] = run.plan.steps
        folder = job.folder(run.workdir / run.stem)
        asset = sdsjax.generate(job.prompt, job.config, workdir=folder, **said)
        truth = dict(asset.metrics["truth"])
        truth.pop("views")
        count = rows_of(folder / "splats.ply")
        return {**job._asdict(), "gaussians": count, "truth": truth}

    return perform


def table(run: Run) -> str:
    """Markdown: a row a config, in each cell the prompts in turn."""
    newest = list(run.rows.values())[-1]["weights"]
    lines = []
    for config in run.plan.configs:
        keys = [Job(config, prompt, newest).key() for prompt in run.plan.prompts]
        if any(key not in run.rows for key in keys):
            continue
        found = [run.rows[key] for key in keys]
        cells = [", ".join(str(row["gaussians"]) for row in found)]
        for figure, digits in FIGURES.items():
            values = [row["truth"][figure] for row in found]
            shown = ("-" if v is None else f"{v:.{digits}f}" for v in values)
            cells.append(", ".join(shown))
        lines.append([config, *cells])
    heads = ("config", "Gaussians in the end", *FIGURES)
    return "\n".join(markdown_table(heads, lines)) + "\n" if lines else ""


def sheet(run: Run) -> None:
    """Draws a row a config, five views of each prompt side by side, the truth last."""
    newest, root = list(run.rows.values())[-1]["weights"], run.workdir / run.stem
    found = {
        config: [
            Job(config, p, newest).folder(root) / "views.png" for p in run.plan.prompts
        ]
        for config in run.plan.configs
    }
    if not all(path.exists() for files in found.values() for path in files):
        return  # the sheet is kept in git, what it is made of is not

    def strip(files, lower: bool):
        # the upper half of a file is the asset and the lower half the truth
        views = [np.asarray(Image.open(f).convert("RGB").reduce(2)) for f in files]
        return np.hstack([np.split(v, 2)[int(lower)] for v in views])

    rows = {config: strip(files, False) for config, files in found.items()}
    rows["truth"] = strip(found[run.plan.configs[0]], True)
    height, width = next(iter(rows.values())).shape[:2]
    whole = Image.new("RGB", (MARGIN + width, height * len(rows)), "white")
    pen = ImageDraw.Draw(whole)
    for i, (name, row) in enumerate(rows.items()):
        whole.paste(Image.fromarray(row), (MARGIN, i * height))
        pen.text((4, i * height + height // 2 - 5), name, fill="black")
    whole.save(run.file(".png"), optimize=True)
