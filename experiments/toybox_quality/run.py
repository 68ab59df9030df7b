"""SDS against SSD on the toybox, scored against ground truth; see README.md.

Two settings are tuned (SDS's guidance scale, SSD's M) on the tuning prompts, then both
estimators are reported on other prompts with the chosen setting.

    python experiments/toybox_quality/run.py            # small: a look, minutes
    python experiments/toybox_quality/run.py --full     # the claim: hours on a CPU
    python experiments/toybox_quality/run.py --full --only-report
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import density
import multiview
from jobs import (
    ESTIMATORS,
    FULL,
    SMALL,
    Job,
    Plan,
    distil,
    fit_ceiling,
    named,
    report_jobs,
    tuning_jobs,
)
from sheet import save_contact_sheet

from sdsjax.studies.report import markdown_table
from sdsjax.studies.runner import Experiment, Run, run
from sdsjax.studies.statistics import share_of_ceiling

HERE = Path(__file__).resolve().parent
FIGURES = (("iou", 3), ("psnr", 1), ("chamfer", 3), ("janus_rate", 2))


def share(row: dict, rows: dict) -> float:
    """The share of its ceiling that a run reached."""
    ceiling = rows[Job("ceiling", 0, row["prompt"], 0).key()]
    return share_of_ceiling(row["truth"], ceiling["truth"])


def median_share(plan: Plan, rows: dict, estimator: str, setting: float) -> float:
    """The median share of the ceiling over the tuning prompts."""
    found = [rows[Job(estimator, setting, p, 0).key()] for p in plan.tune]
    return statistics.median(share(row, rows) for row in found)


def choose(plan: Plan, rows: dict) -> dict[str, float]:
    """Each estimator's setting with the best median share over the tuning prompts."""
    return {
        name: max(settings, key=lambda s, name=name: median_share(plan, rows, name, s))
        for name, settings in plan.settings.items()
    }


def jobs(run: Run) -> Iterator[tuple[str, Job]]:
    """The tuning, then what is reported at the settings that it chose."""
    yield from named(tuning_jobs(run.plan))
    yield from named(report_jobs(run.plan, choose(run.plan, run.rows)))


def worker(run: Run):
    def perform(job: Job) -> dict:
        print(job.key(), file=sys.stderr, flush=True)
        if job.estimator == "ceiling":
            return {**job._asdict(), **fit_ceiling(job, run.plan)}
        return {**job._asdict(), **distil(job, run.plan, run.workdir / run.stem)}

    return perform


def require(jobs: Sequence[Job], rows: dict) -> None:
    """Ends the program with one line where rows are missing."""
    missing = [job.key() for job in jobs if job.key() not in rows]
    if missing:
        sys.exit(f"{len(missing)} runs are missing, first: {missing[0]}")


def _cell(values: Sequence[float], digits: int) -> str:
    """One value, or the mean with the range of several."""
    if any(v is None for v in values):
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def table(plan: Plan, chosen: dict[str, float], rows: dict) -> str:
    """Markdown: the tuning, then one row a prompt, then the medians."""
    tuned = [
        [
            name,
            f"{ESTIMATORS[name]} {s:g}" + (" **chosen**" if s == chosen[name] else ""),
            f"{median_share(plan, rows, name, s):.3f}",
        ]
        for name, settings in plan.settings.items()
        for s in settings
    ]
    names, jobs = (*chosen, "ceiling"), report_jobs(plan, chosen)
    columns: dict[str, list[float]] = {
        f"{f} {n}": [] for f, _ in FIGURES for n in names
    }
    reported = []
    for prompt in plan.report:
        cells = [prompt]
        for figure, digits in FIGURES:
            for name in names:
                keys = [
                    j.key() for j in jobs if (j.estimator, j.prompt) == (name, prompt)
                ]
                keys = keys or [Job("ceiling", 0, prompt, 0).key()]
                values = [rows[key]["truth"][figure] for key in keys]
                columns[f"{figure} {name}"] += [v for v in values[:1] if v is not None]
                cells.append(_cell(values, digits))
        reported.append(cells)
    medians = [statistics.median(v) if v else None for v in columns.values()]
    reported.append(["**median**", *(_cell([v], 3) for v in medians)])
    heads = "estimator", "setting", "median share of the ceiling (tuning prompts)"
    lines = markdown_table(heads, tuned)
    lines += ["", *markdown_table(["prompt", *columns], reported)]
    return "\n".join(lines) + "\n"


def report(run: Run) -> str:
    require(tuning_jobs(run.plan), run.rows)
    chosen = choose(run.plan, run.rows)
    require(report_jobs(run.plan, chosen), run.rows)
    return table(run.plan, chosen, run.rows)


def figure(run: Run) -> None:
    chosen, root = choose(run.plan, run.rows), run.workdir / run.stem
    save_contact_sheet(run.plan, chosen, root, run.file(".png"))


def main(argv=None) -> None:
    experiment = Experiment(
        HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker, table=report,
        figure=figure,
    )  # fmt: skip
    cameras = Experiment(
        HERE, multiview.__doc__, multiview.SMALL, multiview.FULL,
        jobs=multiview.all_jobs, worker=multiview.worker, table=multiview.table,
        figure=multiview.sheet, flag="--multiview", stem="{size}-multiview",
    )  # fmt: skip
    controls = Experiment(
        HERE, density.__doc__, density.SMALL, density.FULL,
        jobs=density.jobs, worker=density.worker, table=density.table,
        figure=density.sheet, flag="--density", stem="{size}-density",
    )  # fmt: skip
    run(argv, experiment, cameras, controls)


if __name__ == "__main__":
    main()
