"""HiFA's ablations (figs. 3, 5, 6, 7) on the toybox, the true object as judge; see
README.md. A small field is distilled from toybox-sd, one thing changed at a time.

One JSON line a run in `results/<size>.jsonl`: what is there is not run again, so the
command may be stopped and repeated at will.

    python experiments/hifa/run.py                # small: 2 prompts, 1 seed
    python experiments/hifa/run.py --full         # 4 prompts, 2 seeds, 4 DDIM steps
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

from sdsjax.files import read_rows

HERE = Path(__file__).resolve().parent
SIZE = 32
# what is changed against "HiFA": z-variance, smoothing, both spaces, square root
VARIANTS: dict[str, dict[str, Any]] = {
    "HiFA": {},
    "distortion": {"losses.z_variance": 0.0, "losses.distortion": 1000.0},
    "no z-variance": {"losses.z_variance": 0.0},
    "no smoothing": {"representation.kernel": 1},
    "latent only": {"estimator.lambda_rgb": 0.0},
    "image only": {"estimator.lambda_latent": 0.0},
    "linear t": {"timesteps.name": "linear"},
    "cosine t": {"timesteps.name": "cosine"},
    "uniform t": {"timesteps.name": "uniform"},
}
FIGURES = {
    "iou": "mask IoU",
    "depth_error": "depth error",
    "psnr": "PSNR, dB",
    "flicker": "flicker, 1e-3",
}


class Plan(NamedTuple):
    """prompts and seeds of every variant, steps of a run, DDIM steps of an estimate."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    denoising: int


SMALL = Plan(("a red mug", "a blue house"), (0,), 100, 1)
FULL = Plan(
    ("a red mug", "a blue house", "a yellow duck", "a green chair"), (0, 1), 300, 4
)


def settings(plan: Plan, variant: str, prompt: str) -> dict[str, Any]:
    """Overrides of hifa:toybox. Without the depth loss, whose estimate is weak; the
    weight of the z-variance was chosen once, not tuned."""
    base = {
        "prompt": prompt,
        "steps": plan.steps,
        "estimator.steps": plan.denoising,
        "representation.levels": 6,
        "representation.ramp_steps": plan.steps // 2,
        "losses.z_variance": 3000.0,
        "losses.depth": 0.0,
        "prior.depth_folder": "",
    }
    return base | VARIANTS[variant]


class Runner:
    """One variant's compiled pieces, reused over prompts and seeds."""

    def __init__(self, plan: Plan, variant: str):
        from sdsjax.build import build
        from sdsjax.checks import resolve
        from sdsjax.train_step import init_state, make_train_step

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

    def run(self, prompt: str, seed: int) -> dict[str, Any]:
        """Distil, then score against the truth."""
        from sdsjax.toybox.score import score

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
        row = {name: truth[name] for name in ("iou", "depth_error", "psnr", "chamfer")}
        return row | {"flicker": flicker(draw), "seconds": round(seconds, 1)}


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


def key_of(variant: str, prompt: str, seed: int) -> str:
    return f"{variant} | {prompt} | seed {seed}"


def perform(plan: Plan, path: Path) -> None:
    """What is missing, every variant on the first prompt and seed before the next."""
    from sdsjax.compile_cache import enable_compile_cache

    enable_compile_cache()
    path.parent.mkdir(parents=True, exist_ok=True)
    runners: dict[str, Runner] = {}
    done = read_rows(path, "key")
    for seed in plan.seeds:
        for prompt in plan.prompts:
            for variant in VARIANTS:
                key = key_of(variant, prompt, seed)
                if key in done:
                    continue
                if variant not in runners:
                    runners[variant] = Runner(plan, variant)
                row = {"key": key, **runners[variant].run(prompt, seed)}
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def collected(plan: Plan, done: dict[str, dict]):
    """variant -> figure -> values of the runs there are, in the order of the plan."""
    pairs = [(p, s) for s in plan.seeds for p in plan.prompts]
    found = {}
    for variant in VARIANTS:
        rows = [done.get(key_of(variant, p, s)) for p, s in pairs]
        found[variant] = {
            name: np.array([np.nan if r is None else r[name] or np.nan for r in rows])
            for name in FIGURES
        }
    return found


def cell(values: np.ndarray, base: np.ndarray, digits: int) -> str:
    """Mean, and the mean difference to HiFA over the same runs with its error."""
    both = np.isfinite(values) & np.isfinite(base)
    if not both.any():
        return "-"
    gap = values[both] - base[both]
    text = f"{values[both].mean():.{digits}f}"
    if values is base:
        return text
    if len(gap) < 2:
        return f"{text} ({gap.mean():+.{digits}f})"
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    return f"{text} ({gap.mean():+.{digits}f} +- {error:.{digits}f})"


def table(plan: Plan, found: dict) -> str:
    """Markdown."""
    lines = [
        f"{len(plan.prompts)} prompts x {len(plan.seeds)} seed(s), {SIZE} x {SIZE}, "
        f"{plan.steps} steps, {plan.denoising} DDIM step(s); in brackets the mean "
        "difference to HiFA over the same runs and its standard error.",
        "",
        "| changed | runs | " + " | ".join(FIGURES.values()) + " |",
        "|---" * (len(FIGURES) + 2) + "|",
    ]
    digits = {"iou": 3, "depth_error": 3, "psnr": 2, "flicker": 3}
    for variant, figures in found.items():
        cells = [
            cell(figures[name], found["HiFA"][name], digits[name]) for name in FIGURES
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


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="hours on a CPU")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    plan, name = (FULL, "full") if options.full else (SMALL, "small")
    path = options.out / f"{name}.jsonl"
    if not options.only_report:
        perform(plan, path)
    found = collected(plan, read_rows(path, "key"))
    text = table(plan, found)
    (options.out / f"{name}.md").write_text(text)
    picture(found, options.out / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
