"""How alike the gradients of nearby views are, and what strata of cameras could save.

See README.md. One row a prior, prompt and step of a run of `sds`.

    python experiments/view_variance/run.py            # small: the exact prior
    python experiments/view_variance/run.py --full     # and toybox-sd, toybox-mv
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from nearby import MOVES, adam_scale, describe, gather

from sdsjax.cli.checks import resolve
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.report import markdown_table, plus_minus, saved_figure
from sdsjax.studies.run_states import SDS_ON, reach
from sdsjax.studies.runner import Experiment, Option, Run, run

HERE = Path(__file__).resolve().parent
UNITS = {"azimuth": "degrees", "elevation": "degrees", "distance": "world units"}
METRICS = {"theta": "theta", "adam": "Adam's metric"}


class Plan(NamedTuple):
    """Priors, prompts, steps (of total) of the runs; noises a gradient and samples."""

    priors: tuple[str, ...]
    prompts: tuple[str, ...]
    steps: tuple[int, ...]
    total: int
    noises: int
    samples: int


SMALL = Plan(("exact",), ("a red snowman",), (20,), 600, 4, 12)
FULL = Plan(
    ("exact", "toybox-sd", "toybox-mv"), ("a red snowman", "a blue house"), (60, 300),
    600, 4, 48,
)  # fmt: skip


def jobs(run: Run):
    """Every prior with every prompt at every step."""
    for prior in run.plan.priors:
        for prompt in run.plan.prompts:
            for step in run.plan.steps:
                yield f"{prior}, {prompt}, step {step}", (prior, prompt, step)


def worker(run: Run):
    enable_compile_cache()

    def perform(job: tuple[str, str, int]) -> dict:
        plan, (prior, prompt, step) = run.plan, job
        given = {"prompt": prompt, "steps": plan.total}
        point = reach(resolve(SDS_ON[prior], given), step)
        random = point.config.background == "random"
        found = gather(point, plan.noises, plan.samples, random)
        row = {"prior": prior, "samples": plan.samples, "group": point.built.group}
        return row | describe(found, adam_scale(point.state))

    return perform


def table(run: Run) -> str:
    """Markdown: the variances, then a row a relative and a column a job."""
    lines = []
    for metric, title in METRICS.items():
        heads = [title, *run.rows]
        rows = [
            ["views' variance / squared mean"]
            + [
                f"{r[metric]['views'] / r[metric]['signal']:.3g}"
                for r in run.rows.values()
            ],
            ["noise left in M / views' variance"]
            + [
                f"{r[metric]['noise'] / r[metric]['views']:.2g}"
                for r in run.rows.values()
            ],
        ]
        names = dict.fromkeys(
            name for row in run.rows.values() for name in row[metric]["correlation"]
        )
        for name in names:
            found = [row[metric]["correlation"].get(name) for row in run.rows.values()]
            rows.append([name, *("" if f is None else plus_minus(*f) for f in found)])
        lines += [*markdown_table(heads, rows), ""]
    return "\n".join(lines)


def figure(run: Run) -> None:
    """Correlation against what the camera was moved by, a curve a job."""
    with saved_figure(run.file(".png"), figsize=(13, 4)) as drawn:
        axes = drawn.subplots(1, len(MOVES), sharey=True)
        for axis, (name, steps) in zip(axes, MOVES.items()):
            for key, row in run.rows.items():
                found = row["theta"]["correlation"]
                value, error = zip(*(found[f"{name} + {by:g}"] for by in steps))
                axis.errorbar(steps, value, error, marker="o", ms=3, label=key)
            # a control variate at this correlation leaves half of the variance
            axis.axhline(0.5**0.5, color="k", lw=0.5, ls="--")
            axis.axhline(0.0, color="k", lw=0.5)
            axis.set(xscale="log", xlabel=f"{name} moved by, {UNITS[name]}")
        axes[0].set_ylabel("correlation of the gradients")
        axes[0].legend(fontsize=6)


def main(argv=None) -> None:
    run(
        argv,
        Experiment(
            HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker, table=table,
            figure=figure,
            options={
                "priors": Option("so named", tuple(FULL.priors)),
                "samples": Option("pairs of renderings"),
            },
        ),
    )  # fmt: skip


if __name__ == "__main__":
    main()
