"""HiFA's ablations (figs. 3, 5, 6, 7) on the toybox, the true object as judge; see
README.md. A small field is distilled from toybox-sd, one thing changed at a time.

One JSON line a run in `results/<size>.jsonl`: what is there is not run again, so the
command may be stopped and repeated at will.

    python experiments/hifa/run.py                # small: minutes
    python experiments/hifa/run.py --full         # README.md's table: over an hour
    python experiments/hifa/run.py --only-report  # table and plot of what is there
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sdsjax.files.atomic import read_rows
from sdsjax.studies.run_rows import complete, mean_error, save_picture, sheet_of

HERE = Path(__file__).resolve().parent
SIZE = 32


class Variant(NamedTuple):
    """What is changed against HiFA (z-variance, smoothing, both spaces, square root),
    and which variant the figures are compared with."""

    changed: dict[str, Any]
    against: str = "HiFA"


NO_SPREAD = {"losses.z_variance": 0.0}
VARIANTS = {
    "HiFA": Variant({}),
    "distortion": Variant(NO_SPREAD | {"losses.distortion": 100.0}),
    "distortion x 10": Variant(NO_SPREAD | {"losses.distortion": 1000.0}),
    "z-variance x 10": Variant({"losses.z_variance": 3000.0}),
    "no z-variance": Variant(NO_SPREAD),
    "4 DDIM steps": Variant({"estimator.steps": 4}),
    "no smoothing": Variant({"representation.kernel": 1}),
    "linear t": Variant({"timesteps.name": "linear"}),
    "cosine t": Variant({"timesteps.name": "cosine"}),
    "uniform t": Variant({"timesteps.name": "uniform"}),
    # Without z-variance: its weight would count for more beside half of the estimate,
    # while Adam does not see the size of what is left.
    "latent only": Variant(
        NO_SPREAD | {"estimator.lambda_rgb": 0.0}, against="no z-variance"
    ),
    "image only": Variant(
        NO_SPREAD | {"estimator.lambda_latent": 0.0}, against="no z-variance"
    ),
}
FIGURES = {
    "iou": "mask IoU",
    "depth_error": "depth error",
    "psnr": "PSNR, dB",
    "flicker": "flicker, 1e-3",
}


class Plan(NamedTuple):
    """prompts and seeds of every variant, steps of a run."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int


SMALL = Plan(("a blue house", "a yellow duck"), (0,), 50)
FULL = Plan(
    ("a blue house", "a yellow duck", "an orange cat", "a pink teapot"), (0, 1), 150
)


def settings(plan: Plan, variant: str, prompt: str) -> dict[str, Any]:
    """Overrides of hifa:toybox. Without the depth loss, whose estimate is weak;
    guidance scale and the weights of z-variance and distortion were tried on "a red
    mug" and "a green chair" (README.md)."""
    base = {
        "prompt": prompt,
        "steps": plan.steps,
        "estimator.steps": 1,
        "representation.levels": 6,
        "representation.ramp_steps": plan.steps // 2,
        "estimator.guidance_scale": 7.5,
        "losses.z_variance": 300.0,
        "losses.depth": 0.0,
        "prior.depth_folder": "",
    }
    return base | VARIANTS[variant].changed


class Runner:
    """One variant's compiled pieces, reused over prompts and seeds."""

    def __init__(self, plan: Plan, variant: str):
        from sdsjax.cli.checks import resolve
        from sdsjax.training.build import build
        from sdsjax.training.train_step import init_state, make_train_step

        def pieces(prompt):
            return build(resolve("hifa", settings(plan, variant, prompt)))

        self.plan, self.build = plan, pieces
        self.pieces = made = pieces(plan.prompts[0])
        cameras = made.phases[-1].cameras
        parts = (made.source, made.representation, made.estimator, made.optimizer)
        self.start = jax.jit(partial(init_state, *parts, cameras))
        self.step = make_train_step(
            *parts, made.sampler, cameras, total=plan.steps, supervise=made.supervise
        )
        self.render = jax.jit(
            lambda params, state, camera: made.representation.render(
                params, state, camera, None
            )
        )

    def run(self, prompt: str, seed: int, strip: Path) -> dict[str, Any]:
        """Distil, score against the truth, and leave a strip of views."""
        from sdsjax.toybox.scoring.score import score

        # the prompt is among the prior's parameters: nothing is compiled anew
        prior_params = self.build(prompt).source.params
        key = jax.random.key(seed)
        state = self.start(prior_params, jax.random.fold_in(key, 2**31))
        began = time.perf_counter()
        metrics: dict = {}
        for _ in range(self.plan.steps):
            state, metrics = self.step(state, prior_params, key)
        assert bool(metrics["finite"])
        seconds = time.perf_counter() - began
        draw = partial(self.render, state.params, state.rep_state)
        truth = score(draw, prompt, size=SIZE)
        save_picture(strip_of(draw), strip)
        row = {name: truth[name] for name in ("iou", "depth_error", "psnr", "chamfer")}
        return row | {"flicker": flicker(draw), "seconds": round(seconds, 1)}


def strip_of(draw) -> np.ndarray:
    """rgb [h 3w 3] from the front, the left and behind."""
    from sdsjax.cameras import orbit_camera

    views = [orbit_camera(a, 15.0, width=SIZE, height=SIZE) for a in (0, 90, 180)]
    return np.concatenate([np.asarray(draw(view).rgb) for view in views], axis=1)


def flicker(draw, frames: int = 9, degrees: float = 0.25) -> float:
    """Root mean square of the second difference in time, over the pixels that are ever
    covered, of frames a quarter of a degree apart: what moves evenly cancels."""
    from sdsjax.cameras import orbit_camera

    drawn = [
        draw(orbit_camera(30.0 + k * degrees, 15.0, width=SIZE, height=SIZE))
        for k in range(frames)
    ]
    rgb = np.stack([np.asarray(d.rgb) for d in drawn])
    seen = np.any([np.asarray(d.opacity) > 0.1 for d in drawn], axis=0)
    if not seen.any():
        return float("nan")
    bent = (rgb[2:] - 2 * rgb[1:-1] + rgb[:-2])[:, seen]
    return 1e3 * float(np.sqrt(np.mean(bent**2)))


Run = tuple[str, str, int]  # variant, prompt, seed


def key_of(run: Run, plan: Plan) -> str:
    variant, prompt, seed = run
    return f"{variant} | {prompt} | seed {seed} | {plan.steps} steps"


def picture_of(run: Run, plan: Plan, strips: Path) -> Path:
    words = key_of(run, plan).replace(" | ", "-").replace(" ", "-")
    return strips / f"{words}.png"


def jobs_of(plan: Plan) -> list[tuple[str, Run]]:
    """(key, run), every variant of a prompt and seed before the next."""
    runs = [(v, p, s) for s in plan.seeds for p in plan.prompts for v in VARIANTS]
    return [(key_of(run, plan), run) for run in runs]


def perform(plan: Plan, path: Path, strips: Path) -> None:
    """Makes the runs that are missing."""
    from sdsjax.runs.compile_cache import enable_compile_cache

    enable_compile_cache()
    runners: dict[str, Runner] = {}

    def one(run: Run) -> dict[str, Any]:
        variant, prompt, seed = run
        if variant not in runners:
            runners[variant] = Runner(plan, variant)
        strip = picture_of(run, plan, strips)
        found = runners[variant].run(prompt, seed, strip)
        row = {"key": key_of(run, plan), **found}
        print(json.dumps(row), flush=True)
        return row

    complete(jobs_of(plan), one, path, read_rows(path, "key"))


def collected(plan: Plan, done: dict[str, dict]):
    """variant -> figure -> values [prompts seeds], NaN where there is no run."""
    pairs = [(p, s) for p in plan.prompts for s in plan.seeds]
    shape, found = (len(plan.prompts), len(plan.seeds)), {}
    for variant in VARIANTS:
        rows = [done.get(key_of((variant, p, s), plan)) for p, s in pairs]
        found[variant] = {
            name: np.array([figure_of(row, name) for row in rows]).reshape(shape)
            for name in FIGURES
        }
    return found


def figure_of(row: dict[str, Any] | None, name: str) -> float:
    """NaN where there is no run, or no such figure of it."""
    return np.nan if row is None or row[name] is None else row[name]


def cell(values: np.ndarray, base: np.ndarray, digits: int) -> str:
    """Mean, and the mean difference to `base` over the same runs [prompts seeds] with
    its error over the prompts: seeds of one prompt are no independent runs."""
    both = np.isfinite(values) & np.isfinite(base)
    if not both.any():
        return "-"
    text = f"{values[both].mean():.{digits}f}"
    if values is base:
        return text
    gap, error = mean_error(
        [
            (own - other)[ok].mean()
            for own, other, ok in zip(values, base, both)
            if any(ok)
        ]
    )
    if np.isnan(error):
        return f"{text} ({gap:+.{digits}f})"
    return f"{text} ({gap:+.{digits}f} +- {error:.{digits}f})"


def table(plan: Plan, found: dict) -> str:
    """Markdown."""
    lines = [
        f"{len(plan.prompts)} prompts x {len(plan.seeds)} seed(s), {SIZE} x {SIZE}, "
        f"{plan.steps} steps; in brackets the mean difference over the same runs and "
        "its standard error over prompts: to HiFA, of single spaces to no z-variance.",
        "",
        "| changed | runs | " + " | ".join(FIGURES.values()) + " |",
        "|---" * (len(FIGURES) + 2) + "|",
    ]
    digits = {"iou": 3, "depth_error": 3, "psnr": 2, "flicker": 3}
    for variant, figures in found.items():
        cells = [
            cell(figures[name], found[VARIANTS[variant].against][name], digits[name])
            for name in FIGURES
        ]
        runs = int(np.isfinite(figures["iou"]).sum())
        lines.append(f"| {variant} | {runs} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture(found: dict, path: Path) -> None:
    """A panel a figure: every run a dot, the mean a bar."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(FIGURES), figsize=(13, 4), sharey=True, layout="constrained"
    )
    for axis, (name, label) in zip(axes, FIGURES.items()):
        for y, figures in enumerate(found.values()):
            values = figures[name][np.isfinite(figures[name])]
            axis.plot(values, np.full(len(values), y), "o", ms=4, color="C0")
            if len(values):
                axis.plot([values.mean()] * 2, [y - 0.3, y + 0.3], color="C1")
        axis.set(title=label, yticks=range(len(found)), yticklabels=list(found))
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_sheet(plan: Plan, strips: Path, path: Path) -> None:
    """A row a variant, a column a prompt, of the first seed."""
    rows = [
        (v, [picture_of((v, p, plan.seeds[0]), plan, strips) for p in plan.prompts])
        for v in VARIANTS
    ]
    sheet_of(rows, plan.prompts, path)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--full", action="store_true", help="README.md's table: over an hour"
    )
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--strips", type=Path, default=Path("runs/hifa"))
    options = parser.parse_args(argv)
    plan, name = (FULL, "full") if options.full else (SMALL, "small")
    path = options.out / f"{name}.jsonl"
    if not options.only_report:
        perform(plan, path, options.strips / name)
    found = collected(plan, read_rows(path, "key"))
    text = table(plan, found)
    (options.out / f"{name}.md").write_text(text)
    picture(found, options.out / f"{name}.png")
    draw_sheet(plan, options.strips / name, options.out / f"{name}-sheet.png")
    print(text)


if __name__ == "__main__":
    main()
