"""The standings of the league on toybox-sd: trials, the best of them, table, sheet."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from entries import ALIASES, ENTRIES, REPORT, TUNE, Job, Plan, share

from sdsjax.toybox import score as scoring
from sdsjax.toybox.captions import parse_caption
from sdsjax.toybox.views import CANONICAL_ORBITS, DISTANCE, heldout_orbits

SHOWN = tuple((*orbit, DISTANCE) for orbit in CANONICAL_ORBITS[:4])  # front, left, ...


@cache
def true_views(prompt: str) -> tuple[scoring.Views, scoring.Views, scoring.Views]:
    """The truth at the held-out views, its front at each one's elevation, and SHOWN."""
    spec, held = parse_caption(prompt)[0], heldout_orbits()
    fronts = tuple((0.0, elevation, distance) for _, elevation, distance in held)
    every = scoring.true_views(spec, held + fronts + SHOWN)
    n = len(held)
    return tuple(
        scoring.Views(*(a[part] for a in every))
        for part in (slice(n), slice(n, 2 * n), slice(2 * n, None))
    )


def trials(name: str, plan: Plan, done: dict) -> dict[tuple[float, float], float]:
    """(setting, rate) -> mean share of the ceiling over TUNE, of complete trials."""
    found = {}
    for setting in ENTRIES[name].candidates:
        for rate in plan.rates:
            keys = [Job(name, setting, rate, p, 0, plan.calls).key() for p in TUNE]
            if all(key in done for key in keys):
                found[setting, rate] = float(np.mean([share(done[k]) for k in keys]))
    return found


def best(name: str, plan: Plan, done: dict) -> tuple[float, float]:
    found = trials(name, plan, done)
    return max(found, key=lambda trial: found[trial])


def reported(name: str, plan: Plan, done: dict, seeds) -> list[Job]:
    setting, rate = best(name, plan, done)
    return [
        Job(name, setting, rate, prompt, seed, plan.calls)
        for seed in seeds
        for prompt in REPORT[: plan.prompts]
    ]


def runs_of(name: str, plan: Plan, done: dict) -> list[dict]:
    """The reported runs that are done, by prompt and seed; [] before tuning's end."""
    asked = len(ENTRIES[name].candidates) + len(plan.rates) - 1
    if len(trials(name, plan, done)) < asked:
        return []
    jobs = reported(name, plan, done, range(plan.seeds))
    return [done[job.key()] for job in jobs if job.key() in done]


def order(plan: Plan, done: dict) -> list[str]:
    """Estimators with all prompts at seed 0, best mean share first."""

    def complete(name: str) -> bool:
        if not runs_of(name, plan, done):
            return False
        return all(job.key() in done for job in reported(name, plan, done, (0,)))

    def mean(name: str) -> float:
        return float(np.mean([share(row) for row in runs_of(name, plan, done)]))

    return sorted(filter(complete, ENTRIES), key=mean, reverse=True)


def table(plan: Plan, done: dict) -> str:
    """Markdown, best first; then every trial of the tuning."""
    lines = [
        f"toybox-sd, Gaussians, {plan.calls} evaluations of the UNet a run, "
        f"{plan.batch} views a step; {plan.prompts} prompts, up to {plan.seeds} seeds. "
        "+-: standard error over prompts; in brackets: mean standard deviation over "
        "seeds.",
        "",
        "| estimator | setting | rates | steps | share of the ceiling | IoU | PSNR, dB "
        "| SSIM | Chamfer | Janus | CPU s a run | runs |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in order(plan, done):
        rows = runs_of(name, plan, done)
        setting, rate = best(name, plan, done)
        prompts = REPORT[: plan.prompts]
        groups = [[r for r in rows if r["prompt"] == p] for p in prompts]

        def mean(figure, rows=rows):
            values = [r["truth"][figure] for r in rows]
            values = [v for v in values if v is not None]
            return float(np.mean(values)) if values else float("nan")

        each = [np.mean([share(r) for r in g]) for g in groups]
        error = np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
        spread = [np.std([share(r) for r in g], ddof=1) for g in groups if len(g) > 1]
        seeds = f" ({np.mean(spread):.3f})" if spread else ""
        lines.append(
            f"| {name} | {ENTRIES[name].setting} {setting:g} | x{rate:g} | "
            f"{rows[0]['steps']} | {np.mean(each):.3f} +- {error:.3f}{seeds} | "
            f"{mean('iou'):.3f} | {mean('psnr'):.1f} | {mean('ssim'):.3f} | "
            f"{mean('chamfer'):.3f} | {mean('janus_rate'):.2f} | "
            f"{np.mean([r['cpu_seconds'] for r in rows]):.0f} | {len(rows)} |"
        )
    lines += [f"| {a} | is {b}, sample by sample |" for a, b in ALIASES.items()]
    lines += ["", "| tuned on " + ", ".join(TUNE) + " | mean share of the ceiling |"]
    lines.append("|---|---|")
    for name in order(plan, done):
        for (setting, rate), value in trials(name, plan, done).items():
            mark = " **chosen**" if (setting, rate) == best(name, plan, done) else ""
            lines.append(f"| {name} {setting:g}, rates x{rate:g}{mark} | {value:.3f} |")
    return "\n".join(lines) + "\n"


def sheet(plan: Plan, done: dict, root: Path, path: Path) -> None:
    """The truth, then a row an estimator, best first; four views a prompt, seed 0."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    prompts, names = REPORT[: plan.prompts], order(plan, done)
    rows = [["truth", [np.concatenate([*true_views(p)[2].rgb], 1) for p in prompts]]]
    for name in names:
        jobs = reported(name, plan, done, (0,))
        pictures = [job.picture(root) for job in jobs]
        if all(picture.exists() for picture in pictures):
            rows.append([name, [plt.imread(picture) for picture in pictures]])
    figure, grid = plt.subplots(
        len(rows), len(prompts), squeeze=False, layout="constrained",
        figsize=(3.3 * len(prompts) + 1, 0.88 * len(rows) + 0.3),
    )  # fmt: skip
    for axes, (label, strips) in zip(grid, rows):
        for axis, strip, prompt in zip(axes, strips, prompts):
            axis.imshow(np.clip(strip, 0, 1))
            axis.set(xticks=[], yticks=[])
            if label == "truth":
                axis.set_title(prompt, fontsize=8)
        label = label.replace("mode_", "mode\n").replace("_", " ")
        axes[0].set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=100)
    plt.close(figure)
