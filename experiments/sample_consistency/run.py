"""Do the four views of a sample show one object? Gaussians fitted to them tell.

See README.md. One row a source of pictures, caption and seed.

    python experiments/sample_consistency/run.py           # small: shows that it runs
    python experiments/sample_consistency/run.py --full    # 8 captions
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sdsjax.cameras import Camera
from sdsjax.cli.checks import resolve
from sdsjax.diagnostics.metrics import psnr
from sdsjax.files.pictures import keyed
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.sample import draw, views_at
from sdsjax.studies.report import markdown_table
from sdsjax.studies.runner import Experiment, Option, Run, run
from sdsjax.studies.statistics import mean_error
from sdsjax.toybox.scoring.score import score, true_views
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.views import DISTANCE
from sdsjax.training.build import PRIORS, build
from sdsjax.training.ceilings.fit import Shown, fit_views

HERE = Path(__file__).resolve().parent
AZIMUTHS, ELEVATION = (0.0, 90.0, 180.0, -90.0), 15.0  # degrees
# by name, the config of a prior and what is said besides
SOURCES = {
    "toybox-mv, groups of 4": ("ssd:mv", {}),
    "toybox-mv, single views": ("ssd:mv", {"prior.group": 1}),
    "toybox-sd, view words": ("ssd:toybox", {}),
}
TRUTH = "true renders"


class Plan(NamedTuple):
    """Captions; seeds of the samples; steps of DDIM and its guidance; of the fit."""

    prompts: tuple[str, ...]
    seeds: int
    ddim: int = 40
    guidance: float = 3.0
    fit: int = 400


FULL = Plan(
    (
        *("a blue house", "a pink teapot", "a green car", "a purple robot"),
        *("a white airplane", "an orange cat", "a red ball on a blue cube"),
        "a yellow mug on a purple table",
    ),
    seeds=1,
)
SMALL = Plan(("a blue house",), seeds=1, ddim=4, fit=20)


class Job(NamedTuple):
    """A set of four views, and which of a caption's it is."""

    source: str
    prompt: str
    seed: int

    def key(self) -> str:
        return f"{self.source} | {self.prompt} | seed {self.seed}"

    def picture(self, root: Path) -> Path:
        """Where the set and what was fitted to it lie."""
        words = self.key().replace(" | ", "-").replace(" ", "-").replace(",", "")
        return root / f"{words}.npy"


def jobs(run: Run):
    """The truth once a caption, every other source with every seed."""
    for source in (TRUTH, *SOURCES):
        for prompt in run.plan.prompts:
            for seed in range(1 if source == TRUTH else run.plan.seeds):
                job = Job(source, prompt, seed)
                yield job.key(), job


def true_set(prompt: str, size: int) -> np.ndarray:
    """The true renders [4 s s 3] of the sets' cameras, on grey."""
    orbits = [(azimuth, ELEVATION, DISTANCE) for azimuth in AZIMUTHS]
    views = true_views(parse_caption(prompt)[0], orbits, size=size)
    return views.rgb - 0.5 * (1.0 - views.opacity[..., None])


def pictures_of(job: Job, plan: Plan, cameras: Camera) -> np.ndarray:
    """The job's set of pictures [4 s s 3], seen by cameras [4]."""
    if job.source == TRUTH:
        return true_set(job.prompt, cameras.width)
    name, said = SOURCES[job.source]
    config = resolve(name, {"prompt": job.prompt, **said})
    source, key = PRIORS[config.prior.name](config), jax.random.key(job.seed)
    how = {"guidance": plan.guidance, "steps": plan.ddim}
    return draw(source, key, cameras, sets=1, **how)[0]


def cut_out(pictures: np.ndarray) -> np.ndarray:
    """Keys out each picture's background, the median of its border; premultiplied."""

    def one(rgb):
        border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
        return keyed(rgb, np.median(border, axis=0))

    return np.stack([one(np.asarray(rgb, np.float32)) for rgb in pictures])


def worker(run: Run):
    enable_compile_cache()
    cameras = views_at(AZIMUTHS, ELEVATION)
    given = {"prompt": run.plan.prompts[0]}  # of 2 000 Gaussians nothing depends on it
    representation = build(resolve("ssd:toybox", given)).representation
    render: Any = representation.render

    @jax.jit
    def each(theta, state):
        return jax.vmap(lambda camera: render(theta, state, camera, None).rgb)(cameras)

    def perform(job: Job) -> dict:
        pictures = pictures_of(job, run.plan, cameras)
        rgba = cut_out(pictures)
        white = rgba[..., :3] + (1.0 - rgba[..., 3:])
        shown = Shown(cameras, jnp.asarray(white), jnp.asarray(rgba[..., 3]))
        theta, state, _ = fit_views(shown, representation, steps=run.plan.fit)
        fitted = np.clip(each(theta, state), 0.0, 1.0)
        covered = rgba[..., 3] > 0.5
        own = [float(psnr(a, b, m)) for a, b, m in zip(fitted, white, covered)]
        run.workdir.mkdir(parents=True, exist_ok=True)
        both = np.stack([pictures, fitted])
        np.save(job.picture(run.workdir), both.astype(np.float16))
        found = score(lambda camera: render(theta, state, camera, None), job.prompt)
        found.pop("views")
        print(job.key(), f"{np.mean(own):.1f} dB, IoU {found['iou']:.3f}", flush=True)
        return {**job._asdict(), "own": float(np.mean(own)), "truth": found}

    return perform


def column(run: Run, source: str, figure: str) -> np.ndarray | None:
    """A figure [captions seeds] of a source, None where a row is missing."""
    plan = run.plan
    seeds = range(1 if source == TRUTH else plan.seeds)
    keys = [[Job(source, p, seed).key() for seed in seeds] for p in plan.prompts]
    if any(key not in run.rows for row in keys for key in row):
        return None
    rows = [[run.rows[key] for key in row] for row in keys]
    return np.array([[(r | r["truth"])[figure] for r in row] for row in rows], float)


FIGURES = {"own": 1, "iou": 3, "psnr": 1, "chamfer": 3}
HEADS = ("its own four views, dB", "IoU", "PSNR, dB", "Chamfer")


def table(run: Run) -> str:
    """Markdown: means over captions; groups less single views, caption by caption."""

    def shown(values, digits: int, sign: str = "") -> str:
        mean, error = mean_error(values)
        return f"{mean:{sign}.{digits}f} +- {error:.{digits}f}"

    rows, found = [], {}
    for source in (TRUTH, *SOURCES):
        columns = {name: column(run, source, name) for name in FIGURES}
        if any(values is None for values in columns.values()):
            continue
        means = {name: np.mean(values, axis=1) for name, values in columns.items()}
        found[source] = means
        rows.append([source, *(shown(means[f], d) for f, d in FIGURES.items())])
    mv, single = list(SOURCES)[:2]
    if mv in found and single in found:
        apart = [
            shown(found[mv][f] - found[single][f], d, "+") for f, d in FIGURES.items()
        ]
        rows.append([f"{mv} less {single.split(', ')[1]}", *apart])
    return "\n".join(markdown_table(["fitted to", *HEADS], rows)) + "\n" if rows else ""


def sheet(run: Run) -> None:
    """Draws every second caption: of each source the set, and below it the fit."""
    lines = []
    for prompt in run.plan.prompts[::2]:  # half of them: the sheet is kept in git
        blocks = []
        for source in (TRUTH, *SOURCES):
            path = Job(source, prompt, 0).picture(run.workdir)
            if not path.exists():
                return
            both = np.load(path).astype(np.float32)
            blocks.append(np.vstack([np.hstack(list(views)) for views in both]))
        lines.append(np.hstack(blocks))
    pixels = np.round(255 * np.clip(np.vstack(lines), 0, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(run.file(".png"), optimize=True)


def main(argv=None) -> None:
    options = {
        "prompts": Option("these captions instead"),
    }
    experiment = Experiment(
        HERE, __doc__ or "", SMALL, FULL, jobs=jobs, worker=worker, table=table,
        figure=sheet, options=options,
    )  # fmt: skip
    run(argv, experiment)


if __name__ == "__main__":
    main()
