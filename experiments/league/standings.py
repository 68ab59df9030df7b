"""The standings of the league on toybox-sd: trials, the best of them, table, sheet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from entries import ALIASES, ENTRIES, REPORT, TUNE, Job, Plan, candidates, share
from ranking import paired, rank_line

from sdsjax.studies.report import markdown_table, save_sheet_of_files
from sdsjax.studies.statistics import mean_error
from sdsjax.studies.toybox_run import side_by_side, true_views


def trials(name: str, plan: Plan, done: dict) -> dict[tuple[float, float], float]:
    """The mean share of the ceiling over TUNE by (setting, rate) of complete trials."""
    found = {}
    for setting in candidates(ENTRIES[name], plan.prior):
        for rate in plan.rates:
            keys = [Job(name, setting, rate, p, 0, plan.calls).key() for p in TUNE]
            if all(key in done for key in keys):
                found[setting, rate] = float(np.mean([share(done[k]) for k in keys]))
    return found


def best(name: str, plan: Plan, done: dict) -> tuple[float, float]:
    """The (setting, rate) of the best trial."""
    found = trials(name, plan, done)
    return max(found, key=lambda trial: found[trial])


def tuned(name: str, plan: Plan, done: dict) -> bool:
    """Whether every trial of its tuning is done."""
    asked = len(ENTRIES[name].candidates) + len(plan.rates) - 1
    return len(trials(name, plan, done)) >= asked


def reported(name: str, plan: Plan, done: dict, seeds) -> list[Job]:
    """The jobs that are reported: every prompt at the best setting and rate."""
    setting, rate = best(name, plan, done)
    return [
        Job(name, setting, rate, prompt, seed, plan.calls)
        for seed in seeds
        for prompt in REPORT[: plan.prompts]
    ]


def runs_of(name: str, plan: Plan, done: dict) -> list[dict]:
    """The reported runs that are done, by prompt and seed; [] before tuning's end."""
    if not tuned(name, plan, done):
        return []
    jobs = reported(name, plan, done, range(plan.seeds))
    return [done[job.key()] for job in jobs if job.key() in done]


def order(plan: Plan, done: dict) -> list[str]:
    """The estimators with all prompts at seed 0, best mean share first."""

    def complete(name: str) -> bool:
        if not runs_of(name, plan, done):
            return False
        return all(job.key() in done for job in reported(name, plan, done, (0,)))

    def mean(name: str) -> float:
        return float(np.mean([share(row) for row in runs_of(name, plan, done)]))

    return sorted(filter(complete, ENTRIES), key=mean, reverse=True)


def noise_key(name: str, setting: float, plan: Plan) -> str:
    """The key of a row of noise.py."""
    return f"{name} {setting:g} | {plan.calls} calls"


def noise_cells(name: str, plan: Plan, done: dict, noise: Mapping) -> list[str]:
    """tr Cov / |E G|^2 and the cosine of noise.py at the chosen setting, or dashes."""
    row = noise.get(noise_key(name, best(name, plan, done)[0], plan))
    if row is None:
        return ["-", "-"]
    (ratio, *ratio_error), (cosine, *cosine_error) = row["noise"], row["cosine"]
    # one digit, and 10 instead of 1e+01
    errors = [f"{float(f'{e:.1g}'):g}" for e in (*ratio_error, *cosine_error)]
    return [f"{ratio:.3g} +- {errors[0]}", f"{cosine:.3f} +- {errors[1]}"]


def mean_of(rows: list[dict], figure: str) -> float:
    """The mean of a figure over the runs in which it is defined, NaN for none."""
    values = [row["truth"][figure] for row in rows]
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else float("nan")


def cells(name: str, plan: Plan, done: dict) -> list[str]:
    """An estimator's line of the standings."""
    rows = runs_of(name, plan, done)
    setting, rate = best(name, plan, done)
    prompts = REPORT[: plan.prompts]
    shares = [[share(r) for r in rows if r["prompt"] == p] for p in prompts]
    mean, error = mean_error([np.mean(each) for each in shares])
    spread = [np.std(each, ddof=1) for each in shares if len(each) > 1]
    seeds = f" ({np.mean(spread):.3f})" if spread else ""
    return [
        name,
        f"{ENTRIES[name].setting} {setting:g}",
        f"x{rate:g}",
        f"{rows[0]['steps']}",
        f"{mean:.3f} +- {error:.3f}{seeds}",
        f"{mean_of(rows, 'iou'):.3f}",
        f"{mean_of(rows, 'psnr'):.1f}",
        f"{mean_of(rows, 'ssim'):.3f}",
        f"{mean_of(rows, 'chamfer'):.3f}",
        f"{mean_of(rows, 'janus_rate'):.2f}",
        f"{np.mean([r['cpu_seconds'] for r in rows]):.0f}",
        f"{len(rows)}",
    ]


def apart(ranked: list[str], plan: Plan, done: dict) -> list[str]:
    """The lines of a table: each estimator less SDS and less VSD on equal runs."""
    shares = {
        name: {(r["prompt"], r["seed"]): share(r) for r in runs_of(name, plan, done)}
        for name in ranked
    }
    bases = [name for name in ("sds", "vsd") if name in shares]
    rows = [
        [name, *("-" if b == name else paired(shares[name], shares[b]) for b in bases)]
        for name in ranked
    ]
    return markdown_table(["share of the ceiling", *(f"- {b}" for b in bases)], rows)


def noise_and_share(
    ranked: list[str], plan: Plan, done: dict, noise: Mapping
) -> list[str]:
    """A line on whether less noise goes with a better share; [] below four."""
    found = []
    for name in ranked:
        row = noise.get(noise_key(name, best(name, plan, done)[0], plan))
        if row is not None:
            mean = np.mean([share(r) for r in runs_of(name, plan, done)])
            found.append((row["noise"][0], float(mean)))
    if len(found) < 4:
        return []
    return ["", rank_line(*zip(*found), "the share of the ceiling")]


HEADS = (
    "estimator", "setting", "rates", "steps", "share of the ceiling", "IoU", "PSNR, dB",
    "SSIM", "Chamfer", "Janus", "CPU s a run", "runs",
)  # fmt: skip
NOISE_HEADS = "tr Cov / squared mean", "cosine with E[e_y - eps]"


def table(plan: Plan, done: dict, noise: Mapping | None = None) -> str:
    """Markdown, best first; then every trial of the tuning.

    noise: rows of noise.py by key, two columns more where there are any.
    """
    ranked, heads = order(plan, done), [*HEADS, *(NOISE_HEADS if noise else ())]
    rows = [
        cells(name, plan, done)
        + (noise_cells(name, plan, done, noise) if noise else [])
        for name in ranked
    ]
    rows += [[alias, f"is {of}, sample by sample"] for alias, of in ALIASES.items()]
    trial_rows = []
    for name in ranked:
        chosen = best(name, plan, done)
        for (setting, rate), value in trials(name, plan, done).items():
            mark = " **chosen**" if (setting, rate) == chosen else ""
            label = f"{name} {setting:g}, rates x{rate:g}{mark}"
            trial_rows.append([label, f"{value:.3f}"])
    lines = [
        f"{plan.prior}, Gaussians, {plan.calls} evaluations of the network a run, "
        f"{plan.batch} views a step; {plan.prompts} prompts, up to {plan.seeds} seeds. "
        "+-: standard error over prompts; in brackets: mean standard deviation over "
        "seeds.",
        "",
        *markdown_table(heads, rows),
        *noise_and_share(ranked, plan, done, noise or {}),
        "",
        *apart(ranked, plan, done),
        "",
        *markdown_table(
            ["tuned on " + ", ".join(TUNE), "mean share of the ceiling"], trial_rows
        ),
    ]
    return "\n".join(lines) + "\n"


def sheet(plan: Plan, done: dict, root: Path, path: Path) -> None:
    """Draws the truth, then a row an estimator, best first; four views, seed 0."""
    prompts = REPORT[: plan.prompts]

    def truth() -> list[tuple[str, list[np.ndarray]]]:
        return [("truth", [side_by_side(true_views(p)[2]) for p in prompts])]

    rows = [
        (
            name.replace("mode_", "mode\n").replace("_", " "),
            [job.picture(root) for job in reported(name, plan, done, (0,))],
        )
        for name in order(plan, done)
    ]
    save_sheet_of_files(rows, prompts, path, first=truth)
