"""Cases compared on the toybox over equal pairs of (prompt, seed): runs, table, sheet.

A case is one way of distilling; every case makes the same number of steps of the same
views on every pair, and differences are taken within pairs. Errors are standard errors
over pairs, which count two seeds of a prompt as independent. A case that has not all
its pairs is shown with those there are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdsjax.diffusion.timesteps import Sampler
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.report import markdown_table, save_picture, save_sheet_of_files
from sdsjax.studies.runner import Experiment, Run
from sdsjax.studies.statistics import (
    ceiling_scores,
    mean_error,
    paired_difference,
    share_of_ceiling,
)
from sdsjax.studies.toybox_run import ToyboxRuns, side_by_side, true_views
from sdsjax.types import Estimator, PyTree

Pair = tuple[str, int]
# name of the figure: (value of a row's scores and its ceiling's, digits)
FIGURES: dict[str, tuple[Callable[[Mapping, Mapping], float], int]] = {
    "share of the ceiling": (share_of_ceiling, 3),
    "IoU": (lambda truth, ceiling: truth["iou"], 3),
    "PSNR, dB": (lambda truth, ceiling: truth["psnr"], 2),
}


class Case(NamedTuple):
    """One way of distilling.

    label: in tables and keys; name, make, sampler: as `ToyboxRuns.run` takes them;
    settings: seed -> the traced settings.
    """

    label: str
    name: Hashable
    make: Callable[..., Estimator]
    settings: Callable[[int], PyTree]
    sampler: Callable[[PyTree], Sampler] | None = None


class Plan(NamedTuple):
    """How often and how long every case is run.

    prompts x seeds; steps and views of a step; factor of every learning rate; values
    of the setting that the cases sweep, where they sweep one.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    views: int = 2
    rate: float = 3.0
    swept: tuple[int, ...] = ()

    def pairs(self) -> list[Pair]:
        """Every prompt of a seed, then those of the next seed."""
        return [(prompt, seed) for seed in self.seeds for prompt in self.prompts]

    def key(self, case: Case, pair: Pair) -> str:
        """The name of a run among the rows."""
        prompt, seed = pair
        return (
            f"{case.label} | {prompt} | seed {seed} | {self.steps} steps of "
            f"{self.views}, x{self.rate:g}"
        )

    def picture(self, case: Case, pair: Pair, folder: Path) -> Path:
        """The file of a run's strip of views."""
        kept = "".join(c if c.isalnum() else " " for c in self.key(case, pair))
        return folder / f"{'-'.join(kept.split())}.png"


class Comparison(NamedTuple):
    """What is compared with what.

    cases: in the order of the table; against: heading -> (label of a case -> label of
    the case that is subtracted from it).
    """

    cases: Sequence[Case]
    against: Mapping[str, Mapping[str, str]]


def jobs_of(cases: Sequence[Case], plan: Plan) -> Iterator[tuple[str, Any]]:
    """Every run's key and (case, pair), all cases of a pair before the next pair."""
    for pair in plan.pairs():
        for case in cases:
            yield plan.key(case, pair), (case, pair)


def perform(runs: ToyboxRuns, plan: Plan, folder: Path, job: tuple[Case, Pair]) -> dict:
    """Makes one run and returns its row; its strip of views goes to `folder`."""
    case, pair = job
    prompt, seed = pair
    found = runs.run(
        case.name, case.make, case.settings(seed), prompt=prompt, seed=seed,
        steps=plan.steps, rate=plan.rate, sampler=case.sampler,
    )  # fmt: skip
    save_picture(found.strip, plan.picture(case, pair, folder))
    key, truth = plan.key(case, pair), found.truth
    print(f"{key}: IoU {truth['iou']:.3f}, {truth['psnr']:.1f} dB", flush=True)
    return {
        "case": case.label,
        "prompt": prompt,
        "seed": seed,
        "finite": found.finite,
        "truth": truth,
        "cpu_seconds": found.cpu_seconds,
    }


def figure_by_pair(
    case: Case, plan: Plan, rows: Mapping, ceilings: Mapping, figure: str
) -> dict[Pair, float]:
    """The values of one of FIGURES by pair, of the runs there are."""
    measure, _ = FIGURES[figure]
    found = {pair: rows.get(plan.key(case, pair)) for pair in plan.pairs()}
    return {
        pair: measure(row["truth"], ceilings[pair[0]])
        for pair, row in found.items()
        if row
    }


def table(plan: Plan, compared: Comparison, rows: Mapping, ceilings: Mapping) -> str:
    """The Markdown of a comparison: each figure, then differences of the share."""
    cases, against = compared
    share = next(iter(FIGURES))
    of = {c.label: figure_by_pair(c, plan, rows, ceilings, share) for c in cases}

    def cells(case: Case) -> Iterator[str]:
        yield case.label
        for figure, (_, digits) in FIGURES.items():
            found = figure_by_pair(case, plan, rows, ceilings, figure)
            mean, error = mean_error(list(found.values()))
            yield f"{mean:.{digits}f} +- {error:.{digits}f}"
        for bases in against.values():
            base = bases.get(case.label)
            yield "-" if base is None else difference(of[case.label], of[base])
        made = [rows[plan.key(case, pair)] for pair in of[case.label]]
        yield f"{np.mean([row['cpu_seconds'] for row in made]):.1f}"
        wrong = sum(not row["finite"] for row in made)
        yield f"{len(made)}" + (f" ({wrong} not finite)" if wrong else "")

    lines = [
        f"toybox-sd, Gaussians, {plan.steps} steps of {plan.views} views, learning "
        f"rates x{plan.rate:g}; {len(plan.prompts)} prompts x {len(plan.seeds)} seeds. "
        "+-: standard error over these pairs; differences of the share are taken "
        "within pairs.",
        "",
        *markdown_table(
            ["case", *FIGURES, *against, "CPU s a run", "runs"],
            [cells(case) for case in cases if of[case.label]],
        ),
    ]
    return "\n".join(lines) + "\n"


def difference(rows: Mapping[Pair, float], base: Mapping[Pair, float]) -> str:
    """The mean difference within pairs and its error; "-" for none or a base itself."""
    if rows is base:
        return "-"
    mean, error, count = paired_difference(rows, base)
    return f"{mean:+.3f} +- {error:.3f}" if count else "-"


def draw_sheet(
    cases: Sequence[Case], plan: Plan, folder: Path, path: Path, shown: int = 0
) -> None:
    """Draws the truth, then a row a case, a column a prompt, of seed number `shown`.

    Strips are read from `folder`; see `report.save_sheet_of_files`.
    """

    def truth() -> list[tuple[str, list[np.ndarray]]]:
        shown = [side_by_side(true_views(prompt)[2]) for prompt in plan.prompts]
        return [("truth", shown)]

    pairs = [(prompt, plan.seeds[shown]) for prompt in plan.prompts]
    rows = [
        (case.label, [plan.picture(case, pair, folder) for pair in pairs])
        for case in cases
    ]
    save_sheet_of_files(rows, plan.prompts, path, first=truth)


def comparison_experiment(
    *,
    folder: Path,
    description: str,
    ceilings: Path,
    small: Plan,
    full: Plan,
    compared: Callable[[Plan], Comparison],
    build: Callable[[str, int, int], Any],
) -> Experiment:
    """The `--toybox` half of an experiment: runs, table and sheet of a comparison.

    ceilings: rows of experiments/toybox_quality; build: (prompt, steps, views) -> the
    components of a run, as of `ToyboxRuns`.
    """

    def worker(run: Run) -> Callable[[Any], dict]:
        enable_compile_cache()
        views = run.plan.views
        runs = ToyboxRuns(lambda prompt, steps: build(prompt, steps, views))
        return lambda job: perform(runs, run.plan, run.workdir, job)

    def report(run: Run) -> str:
        scores = ceiling_scores(ceilings)
        return table(run.plan, compared(run.plan), run.rows, scores)

    def figure(run: Run) -> None:
        cases = compared(run.plan).cases
        draw_sheet(cases, run.plan, run.workdir, run.file(".png"))

    return Experiment(
        folder,
        description,
        small,
        full,
        jobs=lambda run: jobs_of(compared(run.plan).cases, run.plan),
        worker=worker,
        table=report,
        figure=figure,
        flag="--toybox",
        stem="{size}-toybox",
    )
