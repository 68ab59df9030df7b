"""HiFA's ablations (figs. 3, 5, 6, 7) on the toybox, the true object as judge.

See README.md. A small field is distilled from toybox-sd, one thing changed at a time.

    python experiments/hifa/run.py                       # small: minutes
    python experiments/hifa/run.py --full                # README.md's table: an hour
    python experiments/hifa/run.py --full --only-report  # table and plot of its rows
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from distil import SIZE, VARIANTS, Plan, VariantRuns

from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.report import markdown_table, save_sheet_of_files, saved_figure
from sdsjax.studies.runner import Experiment, Run, run
from sdsjax.studies.statistics import mean_error

HERE = Path(__file__).resolve().parent
Job = tuple[str, str, int]  # variant, prompt, seed
FIGURES = {
    "iou": "mask IoU",
    "depth_error": "depth error",
    "psnr": "PSNR, dB",
    "flicker": "flicker, 1e-3",
}
DIGITS = {"iou": 3, "depth_error": 3, "psnr": 2, "flicker": 3}
SMALL = Plan(("a blue house", "a yellow duck"), (0,), 50)
FULL = Plan(
    ("a blue house", "a yellow duck", "an orange cat", "a pink teapot"), (0, 1), 150
)


def key_of(job: Job, plan: Plan) -> str:
    variant, prompt, seed = job
    return f"{variant} | {prompt} | seed {seed} | {plan.steps} steps"


def strip_file(job: Job, run: Run) -> Path:
    words = key_of(job, run.plan).replace(" | ", "-").replace(" ", "-")
    return run.workdir / run.stem / f"{words}.png"


def jobs(run: Run) -> list[tuple[str, Job]]:
    """Every variant of a prompt and seed before the next prompt."""
    seeds, prompts = run.plan.seeds, run.plan.prompts
    found = [(v, p, s) for s in seeds for p in prompts for v in VARIANTS]
    return [(key_of(job, run.plan), job) for job in found]


def worker(run: Run):
    enable_compile_cache()
    compiled: dict[str, VariantRuns] = {}

    def perform(job: Job) -> dict[str, Any]:
        variant, prompt, seed = job
        if variant not in compiled:
            compiled[variant] = VariantRuns(run.plan, variant)
        row = compiled[variant].run(prompt, seed, strip_file(job, run))
        print(key_of(job, run.plan), row, flush=True)
        return row

    return perform


def collected(plan: Plan, rows: dict[str, dict]):
    """The values [prompts seeds] by variant and figure, NaN where there is no run."""
    pairs = [(p, s) for p in plan.prompts for s in plan.seeds]
    shape, found = (len(plan.prompts), len(plan.seeds)), {}
    for variant in VARIANTS:
        each = [rows.get(key_of((variant, p, s), plan)) for p, s in pairs]
        found[variant] = {
            name: np.array([figure_of(row, name) for row in each]).reshape(shape)
            for name in FIGURES
        }
    return found


def figure_of(row: dict[str, Any] | None, name: str) -> float:
    """A figure of a row, NaN where there is no run or no such figure of it."""
    return np.nan if row is None or row[name] is None else row[name]


def cell(values: np.ndarray, base: np.ndarray, digits: int) -> str:
    """The mean, and the mean difference to `base` over the same runs [prompts seeds].

    Its error is over the prompts: seeds of one prompt are no independent runs.
    """
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
    """Markdown: a row a variant."""
    rows = []
    for variant, figures in found.items():
        base = found[VARIANTS[variant].against]
        cells = [cell(figures[f], base[f], DIGITS[f]) for f in FIGURES]
        runs = int(np.isfinite(figures["iou"]).sum())
        rows.append([variant, f"{runs}", *cells])
    lines = [
        f"{len(plan.prompts)} prompts x {len(plan.seeds)} seed(s), {SIZE} x {SIZE}, "
        f"{plan.steps} steps; in brackets the mean difference over the same runs and "
        "its standard error over prompts: to HiFA, of single spaces to no z-variance.",
        "",
        *markdown_table(["changed", "runs", *FIGURES.values()], rows),
    ]
    return "\n".join(lines) + "\n"


def picture(found: dict, path: Path) -> None:
    """A panel a figure: every run a dot, the mean a bar."""
    with saved_figure(path, figsize=(13, 4)) as figure:
        axes = figure.subplots(1, len(FIGURES), sharey=True)
        for axis, (name, label) in zip(axes, FIGURES.items()):
            for y, figures in enumerate(found.values()):
                values = figures[name][np.isfinite(figures[name])]
                axis.plot(values, np.full(len(values), y), "o", ms=4, color="C0")
                if len(values):
                    axis.plot([values.mean()] * 2, [y - 0.3, y + 0.3], color="C1")
            axis.set(title=label, yticks=range(len(found)), yticklabels=list(found))
        axes[0].invert_yaxis()


def figure(run: Run) -> None:
    """The plot, and a sheet: a row a variant, a column a prompt, of the first seed."""
    plan = run.plan
    picture(collected(plan, run.rows), run.file(".png"))
    rows = [
        (v, [strip_file((v, p, plan.seeds[0]), run) for p in plan.prompts])
        for v in VARIANTS
    ]
    save_sheet_of_files(rows, plan.prompts, run.file("-sheet.png"))


def main(argv=None) -> None:
    experiment = Experiment(
        HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker, figure=figure,
        table=lambda run: table(run.plan, collected(run.plan, run.rows)),
    )  # fmt: skip
    run(argv, experiment)


if __name__ == "__main__":
    main()
